// Trees in a store with room for a seal (docs/FORMAT.md): whatever is written, the last bytes of
// every extent stay free, and the limits of records are the same as without it.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "src/base/hash.h"
#include "tests/support/seeds.h"
#include "tests/support/tree_harness.h"

namespace pando {
namespace {

using Values = std::map<std::string, std::string>;

// Reads a tree from its file, and checks the end of every extent.
class Reader {
 public:
  Reader(std::string file, uint32_t usable_bytes) : file_(std::move(file)), usable_bytes_(usable_bytes) {}

  void Read(ChildRef ref, uint8_t level, Values* out) {
    const std::string image = BytesOf(ref.location);
    std::string page(PageBytesOf(usable_bytes_), '\0'), scratch(usable_bytes_, '\0');
    ASSERT_LE(image.size(), page.size());
    std::memcpy(page.data(), image.data(), image.size());
    Status status = DecodePageImage(page.data(), usable_bytes_, ref.location.blocks(), scratch.data());
    if (status.ok()) status = TreeNode::Validate(page.data(), usable_bytes_);
    ASSERT_TRUE(status.ok()) << status.ToString();
    const TreeNode node(page.data(), usable_bytes_);
    ASSERT_EQ(node.header().level, level);
    for (uint32_t i = 0; i < node.count(); ++i) {
      if (!node.leaf()) {
        Read(node.LoadChild(i), static_cast<uint8_t>(level - 1), out);
        continue;
      }
      const RecordView r = node.Record(i);
      std::string value(r.value);
      if (r.overflow) value = BytesOf(r.overflow_ref.location).substr(0, r.value_bytes);
      (*out)[node.Key(i)] = std::move(value);
    }
  }

 private:
  std::string BytesOf(Extent e) {
    std::string bytes = file_.substr(e.offset_bytes(), e.size_bytes());
    EXPECT_EQ(bytes.substr(bytes.size() - kSealBytes), std::string(kSealBytes, '\0')) << "block " << e.block();
    return bytes;
  }

  const std::string file_;
  const uint32_t usable_bytes_;
};

TEST(TreeSeal, EveryExtentLeavesRoom) {
  for (uint64_t seed : Seeds(3)) {
    SCOPED_TRACE(Replay(seed));
    const uint32_t page_bytes = 4096u << seed % 3;
    TreeHarness h({.seed = seed,
                   .page_bytes = page_bytes,
                   .seal_bytes = kSealBytes,
                   .compression = static_cast<Compression>(page_bytes / 4096 % 3)});
    EXPECT_EQ(h.pool().usable_bytes(), page_bytes - kSealBytes);
    std::mt19937_64 random(seed);
    Values want;
    for (int i = 0; i < 600; ++i) {
      std::string key = fmt::format("{:x}", random() % 400);
      // Around what fits into whole blocks, into a leaf, and into a frame.
      const size_t edge = random() % 4 == 0 ? 4096 * (1 + random() % 9) : random() % (page_bytes / 3);
      const size_t bytes = edge - std::min<size_t>(edge, random() % 50);
      if (random() % 8 == 0) key.resize(MaxKeyBytes(page_bytes), 'k');
      // Never zero at the end, so that a value in the place of the seal would show.
      std::string value(bytes, static_cast<char>('a' + random() % (random() % 2 ? 2 : 26)));
      want[key] = value;
      h.Put(key, value);
      if (i % 150 != 149) continue;
      const FrozenRoot root = h.Checkpoint();
      Values found;
      Reader(h.FileOf(0), page_bytes - kSealBytes).Read(root.ref, root.level, &found);
      ASSERT_EQ(found, want) << page_bytes;
    }
    for (const auto& [key, value] : want) {
      if (random() % 3 == 0) h.Erase(key);
    }
  }
}

}  // namespace
}  // namespace pando
