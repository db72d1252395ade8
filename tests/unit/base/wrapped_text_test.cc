// Lines of --help.
#include "src/base/wrapped_text.h"

#include <gtest/gtest.h>

namespace pando {
namespace {

TEST(WrappedText, BreaksAtSpaces) {
  EXPECT_EQ(WrappedText("", 4, 4, 10), "");
  EXPECT_EQ(WrappedText("one two three", 0, 2, 80), "one two three");
  EXPECT_EQ(WrappedText("one two three", 0, 2, 7), "one two\n  three");
  EXPECT_EQ(WrappedText("one two three", 4, 2, 7), "one\n  two\n  three");
}

TEST(WrappedText, AWordThatIsTooLongHasALineOfItsOwn) {
  EXPECT_EQ(WrappedText("a etcd://10.0.0.1:2379/name b", 0, 2, 10), "a\n  etcd://10.0.0.1:2379/name\n  b");
}

}  // namespace
}  // namespace pando
