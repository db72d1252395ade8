#include "src/btree/tree_node.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "src/base/hash.h"
#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

constexpr uint32_t kPage = 4096;

// A page with its own memory and with fences lower and upper ("-" = none).
struct Page {
  explicit Page(uint8_t level, std::string_view lower = "", std::string_view upper = "-", uint32_t page_bytes = kPage)
      : bytes(page_bytes, '\0') {
    TreeNode::Format(bytes.data(), page_bytes, level, lower, upper == "-" ? nullptr : &upper, 0x1122, 0x3344);
  }
  TreeNode node() { return TreeNode(bytes.data(), static_cast<uint32_t>(bytes.size())); }
  Status Validate() const { return TreeNode::Validate(bytes.data(), static_cast<uint32_t>(bytes.size())); }
  std::string bytes;
};

RecordView Inline(std::string_view suffix, std::string_view value, Version version = 1, int64_t expires = 0) {
  RecordView r;
  r.key_suffix = suffix;
  r.version = version;
  r.expires_at_ms = expires;
  r.value = value;
  r.value_bytes = static_cast<uint32_t>(value.size());
  return r;
}

RecordView Overflow(std::string_view suffix, uint32_t value_bytes, OverflowRef ref) {
  RecordView r;
  r.key_suffix = suffix;
  r.version = 1;
  r.value_bytes = value_bytes;
  r.overflow = true;
  r.overflow_ref = ref;
  return r;
}

ChildRef Child(uint64_t block) {
  ChildRef ref;
  ref.location = Extent::Of(block, 1);
  ref.birth = 2;
  ref.count = 3;
  return ref;
}

// The page with bytes 33..39, which are reserved, set to zero.
std::string Parts(std::string page) {
  page.replace(33, 7, 7, '\0');
  return page;
}

// The worked example of docs/FORMAT.md, "TreeNode", and one record of each kind.
TEST(NodeFormat, GoldenLeaf) {
  Page page(0, "user/", "user/2");
  TreeNode node = page.node();
  node.InsertRecord(0, Inline("17", "ab", 0x0102030405060708));
  std::string header = HandBytes()
                           .Text("PDPG")
                           .U8(1)
                           .U8(0)
                           .U8(0)
                           .U8(0)
                           .U32(0)
                           .U32(4069)
                           .U32(0)
                           .U16(1)
                           .U16(5)
                           .U16(5)
                           .U16(6)
                           .U16(4091)
                           .U16(4085)
                           .U8(1)
                           .Zeros(7)
                           .U64(0x1122)
                           .U64(0x3344)
                           .str();
  std::string heap =
      HandBytes().U64(0x0102030405060708).U32(2).Text("17").Text("ab").Text("user/2").Text("user/").str();
  EXPECT_EQ(FirstDifference(header, Parts(page.bytes).substr(0, 56)), "");
  EXPECT_EQ(FirstDifference(HandBytes().U16(4069).U16(2).Zeros(2).Text("71").str(), page.bytes.substr(56, 8)), "");
  EXPECT_EQ(FirstDifference(heap, page.bytes.substr(4069)), "");

  // Insert a record that expires at the front, and one with an overflow value at the end.
  node.InsertRecord(0, Inline("", "xyz", 9, -1));
  node.InsertRecord(2, Overflow("1999999", 70'000, {Extent::Of(0x99, 18), 7, 0xaaaa, 0xbbbb}));
  heap = HandBytes()
             .U64(1)
             .U32(0x80000000 | 70'000)
             .Text("1999999")
             .U64(0x990012)
             .U64(7)
             .U64(0xaaaa)
             .U64(0xbbbb)
             .U64(9)
             .U32(0x40000003)
             .U64(~0ull)
             .Text("xyz")
             .str() +
         heap;
  EXPECT_EQ(FirstDifference(heap, page.bytes.substr(4096 - heap.size())), "");
  std::string slots = HandBytes()
                          .U16(4069 - 23)
                          .U16(0)
                          .U32(0)
                          .U16(4069)
                          .U16(2)
                          .U32(0x31370000)
                          .U16(4069 - 23 - 51)
                          .U16(7)
                          .U32(0x31393939)
                          .str();
  EXPECT_EQ(FirstDifference(slots, page.bytes.substr(56, 24)), "");
  EXPECT_TRUE(page.Validate().ok()) << page.Validate().ToString();
  // The reverse direction.
  EXPECT_EQ(node.Key(0), "user/");
  EXPECT_EQ(node.Record(0).expires_at_ms, -1);
  EXPECT_EQ(node.Record(1).value, "ab");
  EXPECT_EQ(node.Record(2).value_bytes, 70'000u);
  EXPECT_EQ(node.Record(2).overflow_ref.value_hash, 0xbbbbu);
}

TEST(NodeFormat, GoldenInnerPage) {
  Page page(2, "a/", "a/z");
  TreeNode node = page.node();
  node.InsertChild(0, "", Child(0x11));
  node.InsertChild(1, "mmmmm", Child(0x22));
  auto ref = [](uint64_t block) {
    return HandBytes().U64(block << 16 | 1).U64(2).U64(0).U64(3).U64(0).U64(0).U64(0).str();
  };
  const std::string heap = ref(0x22) + "mmmmm" + ref(0x11) + "a/z" + "a/";
  EXPECT_EQ(FirstDifference(heap, page.bytes.substr(4096 - heap.size())), "");
  const std::string slots =
      HandBytes().U16(4096 - 5 - 56).U16(0).U32(0).U16(4096 - 5 - 56 - 61).U16(5).U32(0x6d6d6d6d).str();
  EXPECT_EQ(FirstDifference(slots, page.bytes.substr(56, 16)), "");
  EXPECT_EQ(page.bytes[5], 2);
  EXPECT_EQ(node.Key(0), "a/");
  EXPECT_EQ(node.Key(1), "a/mmmmm");
  EXPECT_TRUE(page.Validate().ok());
}

TEST(NodeFormat, GoldenRecordHash) {
  const std::string bytes = HandBytes().U64(Hash64("value")).U64(0x0102).U64(~6ull).Text("user/17").str();
  EXPECT_EQ(RecordHash("user/", "17", Hash64("value"), 0x0102, -7), Hash64(bytes));
  EXPECT_EQ(RecordHash("", "user/17", Hash64("value"), 0x0102, -7), Hash64(bytes));
}

TEST(NodeFormat, HeadsOrderLikeKeys) {
  EXPECT_EQ(KeyHead(""), 0u);
  EXPECT_EQ(KeyHead("\x01"), 0x01000000u);
  EXPECT_EQ(KeyHead("\xff\xfe\xfd"), 0xfffefd00u);
  EXPECT_EQ(KeyHead("abcd"), 0x61626364u);
  EXPECT_EQ(KeyHead("abcdefgh"), 0x61626364u);
}

// -- Validate

class NodeDamage : public testing::Test {
 protected:
  static Page Leaf() {
    Page page(0, "k/a", "k/z");
    page.node().InsertRecord(0, Inline("b", "first", 1, 5));
    page.node().InsertRecord(1, Inline("cccccc", "second"));
    page.node().InsertRecord(2, Overflow("d", 9000, {Extent::Of(50, 3), 1, 2, 3}));
    page.node().InsertRecord(3, Inline("e", "gone"));
    page.node().Remove(3);
    return page;
  }
  static Page Inner() {
    Page page(1, "k/a", "k/z");
    page.node().InsertChild(0, "", Child(10));
    page.node().InsertChild(1, "m", Child(11));
    page.node().InsertChild(2, "p", Child(12));
    return page;
  }
  static void ExpectRefused(const Page& page, std::string_view why) {
    Status status = page.Validate();
    EXPECT_EQ(status.code(), Code::kCorruption) << why;
    EXPECT_NE(status.message().find(why), std::string::npos) << status.ToString();
  }
  static uint16_t RecordAt(Page& page, uint32_t slot) { return page.node().slots()[slot].offset; }
};

TEST_F(NodeDamage, TheUndamagedPagesPass) {
  EXPECT_TRUE(Leaf().Validate().ok()) << Leaf().Validate().ToString();
  EXPECT_TRUE(Inner().Validate().ok()) << Inner().Validate().ToString();
}

TEST_F(NodeDamage, FencesOutside) {
  const size_t lengths[] = {24, 26}, offsets[] = {28, 30};
  for (size_t at : offsets) {
    for (uint16_t value : {uint16_t{0}, uint16_t{4095}, uint16_t{0xffff}}) {
      Page page = Leaf();
      StoreLE(page.bytes.data() + at, value);
      ExpectRefused(page, "a fence lies outside the heap or is too long");
    }
  }
  for (size_t at : lengths) {
    Page page = Leaf();
    StoreLE<uint16_t>(page.bytes.data() + at, 2049);
    ExpectRefused(page, "a fence lies outside the heap or is too long");
  }
}

TEST_F(NodeDamage, PrefixThatIsNotTheFences) {
  for (uint16_t prefix : {1, 3, 0xffff}) {
    Page page = Leaf();
    page.node().header().prefix_bytes = prefix;
    ExpectRefused(page, "the prefix is not the common prefix of the fences");
  }
  Page page(0, "k/a", "-");
  page.node().header().prefix_bytes = 1;
  ExpectRefused(page, "the prefix is not the common prefix of the fences");
}

TEST_F(NodeDamage, RecordsOutside) {
  for (const Page& page : {Leaf(), Inner()}) {
    for (uint16_t offset : {uint16_t{56}, uint16_t{4090}, uint16_t{0xffff}}) {
      Page damaged = page;
      damaged.node().slots()[1].offset = offset;
      ExpectRefused(damaged, "a record starts outside the heap or its key is too long");
    }
    for (uint16_t key_bytes : {uint16_t{2049}, uint16_t{0xffff}}) {
      Page damaged = page;
      damaged.node().slots()[1].key_bytes = key_bytes;
      ExpectRefused(damaged, "a record starts outside the heap or its key is too long");
    }
    Page damaged = page;
    damaged.node().slots()[1].key_bytes = 1000;
    ExpectRefused(damaged, "a record extends past the end of the page");
  }
  Page page = Leaf();  // a value that is too long
  StoreLE<uint32_t>(page.bytes.data() + RecordAt(page, 0) + 8, 0x40000fff);
  ExpectRefused(page, "a record extends past the end of the page");
}

// N4 does not allow this: two such fences and a record do not fit into a page.
TEST_F(NodeDamage, KeysAndFencesLongerThanThePageAllows) {
  const std::string longest(MaxKeyBytes(kPage), 'k'), longer = longest + "k";
  for (bool too_long : {false, true}) {
    const std::string& key = too_long ? longer : longest;
    Page record(0);
    record.node().InsertRecord(0, Inline(key, "v"));
    Page lower(0, key), upper(0, "", key);
    if (!too_long) {
      for (const Page* page : {&record, &lower, &upper}) EXPECT_TRUE(page->Validate().ok());
      continue;
    }
    ExpectRefused(record, "a record starts outside the heap or its key is too long");
    ExpectRefused(lower, "a fence lies outside the heap or is too long");
    ExpectRefused(upper, "a fence lies outside the heap or is too long");
  }
}

TEST_F(NodeDamage, HeadsAndOrder) {
  Page page = Leaf();
  page.node().slots()[1].head ^= 1;
  ExpectRefused(page, "the head of a key does not match the key");
  page = Leaf();
  std::swap(page.node().slots()[0], page.node().slots()[1]);
  ExpectRefused(page, "keys are not in ascending order");
  page = Leaf();
  page.node().slots()[1] = page.node().slots()[0];
  ExpectRefused(page, "keys are not in ascending order");
  page = Inner();
  std::swap(page.node().slots()[1], page.node().slots()[2]);
  ExpectRefused(page, "keys are not in ascending order");
}

TEST_F(NodeDamage, InnerPages) {
  Page page(1);
  ExpectRefused(page, "an inner page has no children");
  page = Inner();
  page.node().slots()[0] = page.node().slots()[2];
  ExpectRefused(page, "the first child has a key");
}

// Miscounted bytes that would make a later insert or compaction write outside the page.
TEST_F(NodeDamage, MiscountedHeap) {
  for (int delta : {-1, 1, 4000}) {
    Page page = Leaf();
    page.node().header().heap_dead += static_cast<uint32_t>(delta);
    ExpectRefused(page, "the count of heap bytes is wrong");
  }
  Page page = Leaf();  // two slots share most of a record
  page.node().InsertRecord(3, Inline("x", std::string(1000, 'x')));
  page.node().InsertRecord(4, Inline("xx", ""));
  page.node().slots()[4] = Slot{RecordAt(page, 3), 2, KeyHead("xx")};
  ExpectRefused(page, "the count of heap bytes is wrong");
}

TEST_F(NodeDamage, KeysOutsideTheFences) {
  for (std::string_view suffix : {"A", "a", "y"}) {
    Page page(0, "k/b", "k/y");
    bool exact = false;
    page.node().InsertRecord(0, Inline("m", "v"));
    const uint32_t slot = page.node().LowerBound("k/" + std::string(suffix), &exact);
    page.node().InsertRecord(slot, Inline(suffix, "v"));
    ExpectRefused(page, "a key lies outside the fences");
  }
  for (std::string_view suffix : {"A", "b", "y"}) {  // "b": equal to the lower fence
    Page page(1, "k/b", "k/y");
    page.node().InsertChild(0, "", Child(10));
    page.node().InsertChild(1, suffix, Child(11));
    ExpectRefused(page, "a key lies outside the fences");
  }
  for (uint8_t level : {0, 1}) {
    Page page(level, "k/c", "k/b");
    if (level == 1) page.node().InsertChild(0, "", Child(10));
    ExpectRefused(page, "a key lies outside the fences");
  }
}

// Location words that have no length, or that mean a frame or a frozen page in memory.
TEST_F(NodeDamage, ChildrenThatAreNotOnDisk) {
  for (uint64_t word : {uint64_t{0}, uint64_t{0x50000}, uint64_t{0x58000}, uint64_t{0x5ffff}, uint64_t{0x5fffe}}) {
    Page page = Inner();
    page.node().SetChildLocation(1, Extent{word});
    ExpectRefused(page, "a child reference does not name an extent on disk");
  }
}

TEST_F(NodeDamage, ValuesWithAnotherExtent) {
  for (uint32_t value_bytes : {0u, 8192u, 12289u, static_cast<uint32_t>(kMaxValueBytes) + 1}) {
    Page page = Leaf();
    StoreLE<uint32_t>(page.bytes.data() + RecordAt(page, 2) + 8, 0x80000000 | value_bytes);
    ExpectRefused(page, "the extent of a value does not match the value's length");
  }
}

// -- contents

// 16-bit offsets reach the whole heap of the largest page, and the smallest page holds its largest
// record (N4).
TEST(TreeNode, TheLargestKeysFitEveryPage) {
  for (uint32_t page_bytes = kMinPageBytes; page_bytes <= 2 * kMaxPageBytes; page_bytes *= 2) {
    // The last round is the smallest page with room for a seal, where the keys are just as long.
    const bool last = page_bytes > kMaxPageBytes;
    const uint32_t usable_bytes = last ? UsablePageBytes(kMinPageBytes, kSealBytes) : page_bytes;
    const size_t n = MaxKeyBytes(usable_bytes);
    EXPECT_EQ(n, MaxKeyBytes(last ? kMinPageBytes : page_bytes));
    const std::string lower(n, 'a'), upper(n, 'c'), key(n, 'b');
    for (size_t value_bytes : {size_t{0}, std::max<size_t>(MaxInlineBytes(usable_bytes) - n, sizeof(OverflowRef))}) {
      Page page(0, lower, upper, usable_bytes);
      const std::string value(value_bytes, 'v');
      const RecordView record = Inline(key, value, ~0ull, 1);
      ASSERT_TRUE(page.node().Fits(page.node().SpaceFor(record))) << page_bytes;
      page.node().InsertRecord(0, record);
      EXPECT_TRUE(page.Validate().ok()) << page.Validate().ToString();
      EXPECT_EQ(page.node().Key(0), key);
      EXPECT_EQ(page.node().Record(0).value, value);
    }
    Page inner(1, lower, upper, usable_bytes);
    inner.node().InsertChild(0, "", Child(1));
    ASSERT_TRUE(inner.node().Fits(TreeNode::ChildSpace(n)));
    inner.node().InsertChild(1, key, Child(2));
    EXPECT_TRUE(inner.Validate().ok()) << inner.Validate().ToString();
  }
}

TEST(TreeNode, SeparatorsAreShortAndBetween) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"a", "b"}, {"abc", "abd"}, {"abc", "abcd"}, {"", "x"}, {std::string("a\0", 2), "a\x01"}, {"az", "b"}};
  for (const auto& [left, right] : pairs) {
    const std::string_view s = ShortestSeparator(left, right);
    EXPECT_LT(left, s);
    EXPECT_LE(s, right);
    // A shorter separator would not be greater than `left`.
    EXPECT_LE(std::string(s.substr(0, s.size() - 1)), left);
  }
}

TEST(TreeNode, ChildSlots) {
  Page page(1, "k/a", "k/z");
  page.node().InsertChild(0, "", Child(1));
  page.node().InsertChild(1, "f", Child(2));
  page.node().InsertChild(2, "ff", Child(3));
  const std::vector<std::tuple<std::string, uint32_t, uint32_t>> cases = {
      {"k/a", 0, 0},  {"k/ezzz", 0, 0}, {"k/f", 1, 0},   {std::string("k/f\0", 4), 1, 1},
      {"k/fe", 1, 1}, {"k/ff", 2, 1},   {"k/fff", 2, 2}, {"k/y", 2, 2}};
  for (const auto& [key, at, before] : cases) {
    EXPECT_EQ(page.node().ChildSlot(key), at) << key;
    EXPECT_EQ(page.node().ChildSlotBefore(key), before) << key;
  }
  EXPECT_EQ(page.node().ChildSlotBefore("k/z"), 2u);  // the upper fence itself
}

}  // namespace
}  // namespace pando
