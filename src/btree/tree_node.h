// TreeNode: the slotted layout inside a page (docs/FORMAT.md, "Node").
//
//   | PageHeader | slot 0 | slot 1 | ... -> free <- ... heap: records and fences |
//
// The heap ends where the usable bytes of the page end (UsablePageBytes in page.h).
//
// Keys are stored without the prefix that both fences share. A slot holds the first four bytes of
// the rest of the key as a big-endian number ("head"), so that most comparisons need only the
// slots.
//
//   leaf record   {u64 version, u32 value bytes and flags} [i64 expiry] key value|OverflowRef
//   inner record  ChildRef key      the key is the lower bound of the child's range; slot 0 has no
//                                   key, because the lower fence is its bound
//
// Threads: a view of the memory of one page. The owner of the page serializes access.
//
// Invariants
//   N1  Slot keys are strictly ascending. All lie in [lower fence, upper fence).
//   N2  The prefix is exactly the common prefix of the fences. It is empty when there is no upper
//       fence.
//   N3  heap_dead counts every heap byte that no slot or fence refers to.
//   N4  A page of kMinPageBytes or more has room for two fences and one record with the largest key
//       (MaxKeyBytes).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/check.h"
#include "src/base/codec.h"
#include "src/base/limits.h"
#include "src/buffer_pool/page.h"

namespace pando {

// Limits of a store's records: quarters of the whole page, so that clients find the same limits
// whether or not the store has room for a seal, and stores their keys with a namespace.
inline constexpr uint32_t MaxKeyBytes(uint32_t usable_bytes) {
  const uint32_t quarter = PageBytesOf(usable_bytes) / 4;
  return static_cast<uint32_t>(kNamespaceBytes + std::min<size_t>(quarter, kMaxKeyBytes));
}
// A record whose key and value together exceed this stores its value in an overflow extent.
inline constexpr uint32_t MaxInlineBytes(uint32_t usable_bytes) {
  return static_cast<uint32_t>(kNamespaceBytes) + PageBytesOf(usable_bytes) / 4;
}

struct Slot {
  uint16_t offset;     // of the record
  uint16_t key_bytes;  // without the prefix
  uint32_t head;
};
static_assert(sizeof(Slot) == kSlotBytes);

// Refers to a value too large for its leaf. The hash of the value is stored too, so that the
// content hash of the leaf can be computed without reading the value.
struct OverflowRef {
  Extent location;
  Generation birth = 0;
  uint64_t checksum = 0;
  uint64_t value_hash = 0;
};
static_assert(sizeof(OverflowRef) == 32);

// One record of a leaf. Views point into the page.
struct RecordView {
  std::string_view key_suffix;
  Version version = 0;
  int64_t expires_at_ms = 0;  // 0 = never
  uint32_t value_bytes = 0;
  bool overflow = false;
  std::string_view value;    // inline
  OverflowRef overflow_ref;  // overflow
};

// The record's contribution to the content hash of its ancestors. It does not depend on the shape
// of the tree or on where the value is stored.
uint64_t RecordHash(std::string_view key_prefix, std::string_view key_suffix, uint64_t value_hash, Version version,
                    int64_t expires_at_ms);

inline uint32_t KeyHead(std::string_view suffix) {
  uint32_t head = 0;
  if (suffix.size() >= 4) {
    head = LoadLE<uint32_t>(suffix.data());
    return __builtin_bswap32(head);
  }
  for (size_t i = 0; i < suffix.size(); ++i)
    head |= static_cast<uint32_t>(static_cast<uint8_t>(suffix[i])) << (24 - 8 * i);
  return head;
}

class TreeNode {
 public:
  TreeNode(char* page, uint32_t usable_bytes) : page_(page), usable_bytes_(usable_bytes) {}

  // Formats an empty node for [lower, upper); `upper` null = no upper fence.
  static void Format(char* page, uint32_t usable_bytes, uint8_t level, std::string_view lower,
                     const std::string_view* upper, uint64_t page_id, Generation birth);

  PageHeader& header() const { return HeaderOf(page_); }
  bool leaf() const { return header().level == 0; }
  uint32_t count() const { return header().slot_count; }
  std::string_view lower() const { return {page_ + header().lower_offset, header().lower_bytes}; }
  std::string_view upper() const { return {page_ + header().upper_offset, header().upper_bytes}; }
  bool has_upper() const { return header().has_upper != 0; }
  std::string_view prefix() const { return lower().substr(0, header().prefix_bytes); }
  Slot* slots() const { return reinterpret_cast<Slot*>(page_ + kPageHeaderBytes); }

  // First slot whose key is >= `key` (which must lie within the fences); *exact when equal.
  uint32_t LowerBound(std::string_view key, bool* exact) const;
  // The slot that LowerBound would most likely return, from the heads alone. Does not look at records.
  uint32_t GuessSlot(std::string_view key) const;
  // Inner nodes: the child whose range holds `key`.
  uint32_t ChildSlot(std::string_view key) const;
  // Inner nodes, for reverse scans: the child that holds the last key below `key`.
  uint32_t ChildSlotBefore(std::string_view key) const;

  std::string_view KeySuffix(uint32_t slot) const;
  std::string Key(uint32_t slot) const;  // prefix + suffix

  // -- leaves
  RecordView Record(uint32_t slot) const;
  const char* RecordAddress(uint32_t slot) const { return page_ + slots()[slot].offset; }
  static uint32_t LeafRecordBytes(size_t suffix_bytes, size_t inline_bytes, bool overflow, bool expires);
  // Bytes of the page that one more record takes, including its slot.
  uint32_t SpaceFor(const RecordView& record) const;
  bool Fits(uint32_t bytes) const { return bytes <= FreeBytes() + header().heap_dead; }
  // Inserts before `slot`. The record must fit; the page is compacted if necessary.
  // `record.key_suffix` does not include the prefix.
  void InsertRecord(uint32_t slot, const RecordView& record);
  // Overwrites the record in place if the new one has the same length. Returns false otherwise.
  bool ReplaceRecord(uint32_t slot, const RecordView& record);

  // -- inner nodes
  ChildRef* Child(uint32_t slot) const { return reinterpret_cast<ChildRef*>(page_ + slots()[slot].offset); }
  ChildRef LoadChild(uint32_t slot) const { return LoadLE<ChildRef>(page_ + slots()[slot].offset); }
  void StoreChild(uint32_t slot, const ChildRef& ref) const { StoreLE(page_ + slots()[slot].offset, ref); }
  Extent ChildLocation(uint32_t slot) const { return LoadLE<Extent>(page_ + slots()[slot].offset); }
  void SetChildLocation(uint32_t slot, Extent location) const { StoreLE(page_ + slots()[slot].offset, location); }
  static uint32_t ChildSpace(size_t suffix_bytes) {
    return static_cast<uint32_t>(kSlotBytes + sizeof(ChildRef) + suffix_bytes);
  }
  void InsertChild(uint32_t slot, std::string_view suffix, const ChildRef& ref);

  // -- both
  void Remove(uint32_t slot);
  uint32_t RecordBytes(uint32_t slot) const;  // in the heap
  uint32_t FreeBytes() const { return header().heap_begin - kPageHeaderBytes - count() * kSlotBytes; }
  uint32_t UsedBytes() const { return usable_bytes_ - FreeBytes() - header().heap_dead; }
  void Compact();
  // Appends slots [from, to) of `source` (same level), adjusting keys to the prefix of this node.
  // They must fit.
  void AppendFrom(const TreeNode& source, uint32_t from, uint32_t to);
  // Bytes that AppendFrom would add to a node whose prefix is `prefix_bytes` long.
  static uint32_t SpaceToAppend(const TreeNode& source, uint32_t from, uint32_t to, uint32_t prefix_bytes);

  // For a page just read. kCorruption when an offset or length leaves the page, N1 to N3 do not
  // hold, or a reference is not to an extent. A page that passes can be read and changed without
  // failing a CHECK.
  static Status Validate(const char* page, uint32_t usable_bytes);

 private:
  char* AllocateHeap(uint32_t bytes);
  void OpenSlot(uint32_t slot, std::string_view suffix, uint32_t record_bytes);
  void WriteRecord(char* at, const RecordView& record) const;
  uint32_t SearchHeads(std::string_view suffix, bool or_equal) const;

  char* page_;
  uint32_t usable_bytes_;
};

// Shortest key s with left < s <= right. A split stores it as the separator.
std::string_view ShortestSeparator(std::string_view left, std::string_view right);
size_t CommonPrefix(std::string_view a, std::string_view b);

}  // namespace pando
