// The replacement of a small file (src/io/replace_file.h), on both reactors. Crashes are in tests/crash.
#include "src/io/replace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/io/reactor_harness.h"

namespace pando {
namespace {

using ::testing::ElementsAre;

template <typename Harness>
class ReplaceFile : public ::testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE(ReplaceFile, ReactorImplementations, ReactorNames);

// The two files exchange their names, so that none has to be made.
Task<void> Replacements(Reactor& r, std::string dir) {
  EXPECT_OK(co_await MakeDirectory(r, dir + "/replaced"));
  auto opened = co_await Directory::Open(r, dir + "/replaced");
  EXPECT_OK(opened.status());
  Directory directory = *std::move(opened);
  const ReplacedFile file{"meta", "meta.tmp"};
  EXPECT_OK(co_await PrepareReplacement(&directory, file, "one"));
  EXPECT_THAT(*directory.List(), ElementsAre("meta.tmp"));
  EXPECT_OK(co_await PublishReplacement(&directory, file));
  EXPECT_THAT(*directory.List(), ElementsAre("meta"));
  co_await KeepSpare(&directory, file, "one");
  EXPECT_THAT(*directory.List(), ElementsAre("meta", "meta.tmp"));
  const auto first = directory.Identify("meta"), second = directory.Identify("meta.tmp");
  for (const std::string contents : {"a longer one", "2", "three"}) {
    EXPECT_OK(co_await PrepareReplacement(&directory, file, contents));
    EXPECT_OK(co_await PublishReplacement(&directory, file));
    auto meta = co_await directory.OpenFile("meta", File::Mode::kRead, false);
    EXPECT_OK(meta.status());
    EXPECT_EQ(*meta->Size(), contents.size());
    std::string read(contents.size(), '?');
    EXPECT_OK(co_await meta->Read(read.data(), read.size(), 0));
    EXPECT_EQ(read, contents);
    EXPECT_OK(co_await meta->Close());
  }
  EXPECT_EQ(*directory.Identify("meta"), *second);
  EXPECT_EQ(*directory.Identify("meta.tmp"), *first);
  EXPECT_OK(co_await directory.Close());
}
TYPED_TEST(ReplaceFile, ExchangesTwoFiles) {
  this->harness_.Run(Replacements(this->harness_.reactor(), this->harness_.directory()));
}

}  // namespace
}  // namespace pando
