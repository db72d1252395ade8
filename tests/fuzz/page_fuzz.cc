// Fuzzes DecodePageImage and TreeNode::Validate with any bytes. A page that passes then undergoes all
// operations: records are read, looked up, removed, and inserted, and the page is compacted and
// halved. Nothing reads or writes out of bounds, and no CHECK fails.
//
// Input: one byte that selects the page size, the room for a seal, and the number of blocks, then the
// image.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "src/base/hash.h"
#include "src/btree/tree_node.h"

namespace pando {
namespace {

uint64_t sink = 0;  // uses the bytes that are read, so that the compiler keeps the reads

void ReadAll(const TreeNode& node) {
  for (uint32_t i = 0; i < node.count(); ++i) {
    const std::string key = node.Key(i);
    sink += Hash64(key) + node.RecordBytes(i);
    CHECK_LE(key.size(), kMaxKeyBytes);
    bool exact = false;
    if (node.leaf()) {
      const RecordView r = node.Record(i);
      sink += Hash64(r.value) + RecordHash(node.prefix(), r.key_suffix, r.overflow_ref.value_hash, r.version, 0);
      CHECK_EQ(node.LowerBound(key, &exact), i);
      CHECK(exact);
    } else {
      sink += node.LoadChild(i).count;
      CHECK_EQ(node.ChildSlot(key), i);
      CHECK_LE(node.ChildSlotBefore(key), i);
    }
  }
}

// Halves the page as a split does, if both halves fit with their new fences.
void Halve(const TreeNode& node, uint32_t usable_bytes) {
  if (node.count() < 2) return;
  const uint32_t at = node.count() / 2;
  const std::string separator = node.Key(at);
  const std::string_view middle = separator, upper = node.upper();
  std::unique_ptr<char[]> left(new char[usable_bytes]), right(new char[usable_bytes]);
  TreeNode::Format(left.get(), usable_bytes, node.header().level, node.lower(), &middle, 1, 1);
  TreeNode::Format(right.get(), usable_bytes, node.header().level, middle, node.has_upper() ? &upper : nullptr, 1, 1);
  TreeNode left_node(left.get(), usable_bytes), right_node(right.get(), usable_bytes);
  if (TreeNode::SpaceToAppend(node, 0, at, left_node.header().prefix_bytes) > left_node.FreeBytes() ||
      TreeNode::SpaceToAppend(node, at, node.count(), right_node.header().prefix_bytes) > right_node.FreeBytes()) {
    return;
  }
  left_node.AppendFrom(node, 0, at);
  right_node.AppendFrom(node, at, node.count());
  for (const char* half : {left.get(), right.get()}) {
    const Status status = TreeNode::Validate(half, usable_bytes);
    CHECK(status.ok()) << status.ToString();
  }
}

void Change(TreeNode node, uint32_t usable_bytes) {
  if (!node.leaf()) {
    while (node.count() > 1) node.Remove(node.count() - 1);
    node.Compact();
    return;
  }
  for (uint32_t i = 0; i < node.count(); i += 2) node.Remove(i);
  // Insert a record that is as large as the free space that the page reports.
  const std::string key = std::string(node.lower()) + "\1";
  if (key.size() <= MaxKeyBytes(usable_bytes) && (!node.has_upper() || key < node.upper())) {
    RecordView record;
    record.key_suffix = std::string_view(key).substr(node.header().prefix_bytes);
    const int64_t room = int64_t{node.FreeBytes()} + node.header().heap_dead - node.SpaceFor(record);
    const std::string value(static_cast<size_t>(std::max<int64_t>(room, 0)), 'v');
    record.value = value;
    record.value_bytes = static_cast<uint32_t>(value.size());
    bool exact = false;
    const uint32_t slot = node.LowerBound(key, &exact);
    if (!exact && node.Fits(node.SpaceFor(record))) node.InsertRecord(slot, record);
  }
  node.Compact();
  while (node.count() > 0) node.Remove(0);
}

}  // namespace
}  // namespace pando

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;  // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  if (size < 1) return 0;
  const uint32_t page_bytes = kMinPageBytes << data[0] % 5;
  const uint32_t usable_bytes = UsablePageBytes(page_bytes, (data[0] & 8) != 0 ? kSealBytes : 0);
  const uint32_t blocks = 1 + (data[0] >> 4) % (page_bytes / static_cast<uint32_t>(kBlockBytes));
  // Exactly as large as a frame, so that the sanitizer detects an access one byte past the end.
  std::unique_ptr<char[]> page(new char[page_bytes]), scratch(new char[page_bytes]);
  std::memset(page.get(), 0, page_bytes);
  std::memcpy(page.get(), data + 1, std::min<size_t>(size - 1, blocks * kBlockBytes));
  Status status = DecodePageImage(page.get(), usable_bytes, blocks, scratch.get());
  if (status.ok()) status = TreeNode::Validate(page.get(), usable_bytes);
  if (!status.ok()) {
    CHECK(status.code() == Code::kCorruption || status.code() == Code::kVersion) << status.ToString();
    return 0;
  }
  TreeNode node(page.get(), usable_bytes);
  ReadAll(node);
  Halve(node, usable_bytes);
  // A valid page is the same after encoding and decoding.
  std::unique_ptr<char[]> image(new char[page_bytes]);
  const auto compression = static_cast<Compression>(data[0] % 3);
  const uint32_t stored = EncodePageImage(page.get(), usable_bytes, compression, image.get(), scratch.get());
  CHECK_LE(stored * kBlockBytes, page_bytes);
  const size_t sealed_from = stored * kBlockBytes - SealBytesOf(usable_bytes);
  for (size_t i = sealed_from; i < stored * kBlockBytes; ++i) CHECK_EQ(image[i], 0) << "the place of the seal is used";
  status = DecodePageImage(image.get(), usable_bytes, stored, scratch.get());
  CHECK(status.ok()) << status.ToString();
  CHECK_EQ(std::memcmp(image.get() + node.header().heap_begin, page.get() + node.header().heap_begin,
                       usable_bytes - node.header().heap_begin),
           0);
  Change(node, usable_bytes);
  return 0;
}
