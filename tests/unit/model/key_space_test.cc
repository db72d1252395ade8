// How keys are stored: golden bytes, and that namespaces are ranges that do not touch.
#include "src/model/key_space.h"

#include <gtest/gtest.h>

#include "src/base/hash.h"

namespace pando {
namespace {

std::string Bytes(std::initializer_list<int> bytes) {
  std::string out;
  for (int byte : bytes) out.push_back(static_cast<char>(byte));
  return out;
}

TEST(KeySpace, Golden) {
  EXPECT_EQ(KeySpace(kDefaultNamespace).Stored("k"), Bytes({0, 0, 0, 0, 'k'}));
  EXPECT_EQ(KeySpace(0x01020304).Stored("k"), Bytes({1, 2, 3, 4, 'k'}));
  EXPECT_EQ(KeySpace(kReservedNamespace).Stored("k"), Bytes({0xff, 0xff, 0xff, 0xff, 'k'}));
  EXPECT_EQ(KeySpace().Stored("k"), "k");
  EXPECT_EQ(KeySpace::Of(true).Stored("k"), KeySpace(kDefaultNamespace).Stored("k"));
  EXPECT_EQ(KeySpace::Of(false).Stored("k"), "k");
}

TEST(KeySpace, AKeyComesBack) {
  for (const KeySpace& keys : {KeySpace(), KeySpace(0), KeySpace(7), KeySpace(kReservedNamespace)}) {
    for (const std::string& key : {std::string(), std::string("k"), std::string(2048, '\xff')}) {
      std::string stored = key;
      keys.Store(&stored);
      EXPECT_EQ(stored, keys.Stored(key));
      EXPECT_EQ(keys.KeyOf(stored), key);
      keys.Restore(&stored);
      EXPECT_EQ(stored, key);
    }
  }
}

TEST(KeySpace, TheRangeOfANamespaceHoldsItsKeysAndNoOthers) {
  for (NamespaceId id : {0u, 1u, 0xffu, 0xfffffffeu}) {
    const KeySpace keys(id);
    const std::string end = keys.StoredEnd("");
    EXPECT_LT(keys.Stored(std::string(2048, '\xff')), end) << id;
    EXPECT_EQ(end, KeySpace(id + 1).Stored("")) << id;
    EXPECT_EQ(keys.StoredEnd("e"), keys.Stored("e"));
  }
  EXPECT_EQ(KeySpace(kReservedNamespace).StoredEnd(""), "") << "nothing comes after the last namespace";
  EXPECT_EQ(KeySpace().StoredEnd(""), "");
  EXPECT_EQ(KeySpace().StoredEnd("e"), "e");
}

// docs/FORMAT.md, "Stored key".
TEST(KeySpace, TheNamespaceSeedsTheHashId) {
  EXPECT_EQ(HashId("user:1"), Hash64("user:1", 0));
  EXPECT_EQ(HashId("a{tag}b"), Hash64("tag", 0));
  EXPECT_EQ(HashId("a{tag}b", 7), Hash64("tag", 7));
  EXPECT_NE(HashId("user:1", 7), HashId("user:1"));
}

TEST(KeySpace, KeysAreShownAsRequestsHaveThem) {
  EXPECT_EQ(PrintableKey(KeySpace(0).Stored("a\n\\"), true), "a\\x0a\\x5c");
  EXPECT_EQ(PrintableKey(KeySpace(7).Stored("a"), true), "namespace 7: a");
  EXPECT_EQ(PrintableKey("\xff", true), "\\xff") << "a fence may be shorter than a namespace";
  EXPECT_EQ(PrintableKey("abcdef", false), "abcdef");
  EXPECT_EQ(PrintableKey(KeySpace(0).Stored(std::string(65, 'a')), true), std::string(64, 'a') + "...");
}

}  // namespace
}  // namespace pando
