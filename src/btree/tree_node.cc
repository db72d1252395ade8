#include "src/btree/tree_node.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "src/base/hash.h"

namespace pando {
namespace {

// Leaf record: {u64 version, u32 value bytes | flags}, then expiry when flagged, then key, then
// value or OverflowRef.
constexpr uint32_t kLeafHeaderBytes = 12;
constexpr uint32_t kOverflowFlag = 1u << 31;
constexpr uint32_t kExpiryFlag = 1u << 30;
constexpr uint32_t kValueBytesMask = (1u << 30) - 1;
static_assert(kMaxValueBytes <= kValueBytesMask);

struct LeafLayout {
  uint32_t key_at = 0, value_at = 0, end = 0;
};

LeafLayout LayoutOf(uint32_t value_word, uint32_t key_bytes) {
  LeafLayout l;
  l.key_at = kLeafHeaderBytes + ((value_word & kExpiryFlag) ? 8 : 0);
  l.value_at = l.key_at + key_bytes;
  l.end = l.value_at +
          ((value_word & kOverflowFlag) ? static_cast<uint32_t>(sizeof(OverflowRef)) : (value_word & kValueBytesMask));
  return l;
}

// An empty view may have a null address, which must not be passed to memcpy.
void CopyBytes(char* to, std::string_view bytes) {
  if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
}

uint32_t ValueWord(const char* record) { return LoadLE<uint32_t>(record + 8); }

// Checks the fences of N1. The keys must be known to ascend.
bool WithinFences(const TreeNode& node) {
  const uint32_t prefix = node.header().prefix_bytes, first = node.leaf() ? 0 : 1;
  if (node.has_upper() && node.lower() >= node.upper()) return false;
  if (first < node.count()) {
    int order = node.KeySuffix(first).compare(node.lower().substr(prefix));
    if (node.leaf() ? order < 0 : order <= 0) return false;
  }
  return node.count() == 0 || !node.has_upper() || node.KeySuffix(node.count() - 1) < node.upper().substr(prefix);
}

// Returns the problem with the child or value reference of a record, or null.
const char* ReferenceProblem(const TreeNode& node, uint32_t slot, uint32_t seal_bytes) {
  if (!node.leaf()) {
    const uint32_t blocks = node.ChildLocation(slot).blocks();
    return blocks == 0 || blocks > kMaxExtentBlocks ? "a child reference does not name an extent on disk" : nullptr;
  }
  const RecordView r = node.Record(slot);
  if (!r.overflow || r.overflow_ref.location.blocks() == BlocksForValue(r.value_bytes, seal_bytes)) return nullptr;
  return "the extent of a value does not match the value's length";
}

}  // namespace

uint64_t RecordHash(std::string_view key_prefix, std::string_view key_suffix, uint64_t value_hash, Version version,
                    int64_t expires_at_ms) {
  char buffer[kMaxStoredKeyBytes + 24];
  char* at = buffer;
  StoreLE(at, value_hash), StoreLE(at + 8, version), StoreLE(at + 16, expires_at_ms);
  at += 24;
  at = std::copy(key_prefix.begin(), key_prefix.end(), at);
  at = std::copy(key_suffix.begin(), key_suffix.end(), at);
  return Hash64({buffer, static_cast<size_t>(at - buffer)});
}

size_t CommonPrefix(std::string_view a, std::string_view b) {
  size_t n = std::min(a.size(), b.size());
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(n), b.begin()).first -
                             a.begin());
}

std::string_view ShortestSeparator(std::string_view left, std::string_view right) {
  DCHECK(left < right);
  return right.substr(0, CommonPrefix(left, right) + 1);
}

void TreeNode::Format(char* page, uint32_t usable_bytes, uint8_t level, std::string_view lower,
                      const std::string_view* upper, uint64_t page_id, Generation birth) {
  PageHeader& h = HeaderOf(page);
  h = PageHeader{};
  h.magic = kPageMagic;
  h.format = kPageFormat;
  h.level = level;
  h.heap_begin = usable_bytes;
  h.page_id = page_id;
  h.birth = birth;
  TreeNode node(page, usable_bytes);
  // Empty fences keep offset 0 and length 0: a valid, empty view.
  if (!lower.empty()) {
    char* at = node.AllocateHeap(static_cast<uint32_t>(lower.size()));
    std::memcpy(at, lower.data(), lower.size());
    h.lower_offset = static_cast<uint16_t>(at - page);
    h.lower_bytes = static_cast<uint16_t>(lower.size());
  }
  if (upper) {
    h.has_upper = 1;
    char* at = node.AllocateHeap(static_cast<uint32_t>(upper->size()));
    std::memcpy(at, upper->data(), upper->size());
    h.upper_offset = static_cast<uint16_t>(at - page);
    h.upper_bytes = static_cast<uint16_t>(upper->size());
    h.prefix_bytes = static_cast<uint16_t>(CommonPrefix(lower, *upper));
  }
}

char* TreeNode::AllocateHeap(uint32_t bytes) {
  DCHECK_LE(bytes, FreeBytes());
  header().heap_begin -= bytes;
  return page_ + header().heap_begin;
}

std::string_view TreeNode::KeySuffix(uint32_t slot) const {
  const Slot& s = slots()[slot];
  const char* record = page_ + s.offset;
  uint32_t key_at = leaf() ? LayoutOf(ValueWord(record), 0).key_at : static_cast<uint32_t>(sizeof(ChildRef));
  return {record + key_at, s.key_bytes};
}

std::string TreeNode::Key(uint32_t slot) const {
  if (!leaf() && slot == 0) return std::string(lower());
  std::string key(prefix());
  key.append(KeySuffix(slot));
  return key;
}

// Number of slots whose key suffix is < suffix (or <= suffix when or_equal).
uint32_t TreeNode::SearchHeads(std::string_view suffix, bool or_equal) const {
  const uint32_t head = KeyHead(suffix);
  const Slot* s = slots();
  uint32_t low = 0, length = count();
  while (length > 0) {
    uint32_t half = length / 2;
    const Slot& mid = s[low + half];
    bool before = mid.head < head;
    if (mid.head == head) [[unlikely]] {
      int order = KeySuffix(low + half).compare(suffix);
      before = or_equal ? order <= 0 : order < 0;
    }
    low = before ? low + half + 1 : low;
    length = before ? length - half - 1 : half;
  }
  return low;
}

uint32_t TreeNode::GuessSlot(std::string_view key) const {
  const uint32_t head = KeyHead(key.substr(header().prefix_bytes));
  const Slot* end = slots() + count();
  const Slot* at = std::lower_bound(static_cast<const Slot*>(slots()), end, head,
                                    [](const Slot& slot, uint32_t h) { return slot.head < h; });
  return static_cast<uint32_t>(at - slots());
}

uint32_t TreeNode::LowerBound(std::string_view key, bool* exact) const {
  std::string_view suffix = key.substr(header().prefix_bytes);
  uint32_t slot = SearchHeads(suffix, false);
  *exact = slot < count() && slots()[slot].key_bytes == suffix.size() && KeySuffix(slot) == suffix;
  return slot;
}

uint32_t TreeNode::ChildSlot(std::string_view key) const {
  uint32_t after = SearchHeads(key.substr(header().prefix_bytes), true);
  return after == 0 ? 0 : after - 1;
}

uint32_t TreeNode::ChildSlotBefore(std::string_view key) const {
  // `key` may be the upper fence itself, which need not start with the prefix.
  uint32_t slot = 0;
  for (uint32_t i = 1; i < count(); ++i) {
    std::string_view suffix = KeySuffix(i);
    std::string_view p = prefix();
    int order = p.compare(key.substr(0, p.size()));
    if (order == 0) order = suffix.compare(key.substr(std::min(key.size(), p.size())));
    if (order >= 0) break;
    slot = i;
  }
  return slot;
}

RecordView TreeNode::Record(uint32_t slot) const {
  const Slot& s = slots()[slot];
  const char* record = page_ + s.offset;
  uint32_t word = ValueWord(record);
  LeafLayout layout = LayoutOf(word, s.key_bytes);
  RecordView view;
  view.version = LoadLE<Version>(record);
  view.value_bytes = word & kValueBytesMask;
  if (word & kExpiryFlag) view.expires_at_ms = LoadLE<int64_t>(record + kLeafHeaderBytes);
  view.key_suffix = {record + layout.key_at, s.key_bytes};
  view.overflow = (word & kOverflowFlag) != 0;
  if (view.overflow) {
    view.overflow_ref = LoadLE<OverflowRef>(record + layout.value_at);
  } else {
    view.value = {record + layout.value_at, view.value_bytes};
  }
  return view;
}

uint32_t TreeNode::LeafRecordBytes(size_t suffix_bytes, size_t inline_bytes, bool overflow, bool expires) {
  return static_cast<uint32_t>(kLeafHeaderBytes + (expires ? 8 : 0) + suffix_bytes +
                               (overflow ? sizeof(OverflowRef) : inline_bytes));
}

uint32_t TreeNode::SpaceFor(const RecordView& record) const {
  return kSlotBytes +
         LeafRecordBytes(record.key_suffix.size(), record.value.size(), record.overflow, record.expires_at_ms != 0);
}

void TreeNode::OpenSlot(uint32_t slot, std::string_view suffix, uint32_t record_bytes) {
  DCHECK_LE(slot, count());
  if (FreeBytes() < kSlotBytes + record_bytes) Compact();
  CHECK_GE(FreeBytes(), kSlotBytes + record_bytes) << "a record was inserted where it does not fit";
  Slot* s = slots();
  std::memmove(s + slot + 1, s + slot, (count() - slot) * sizeof(Slot));
  ++header().slot_count;
  char* at = AllocateHeap(record_bytes);
  s[slot] = Slot{static_cast<uint16_t>(at - page_), static_cast<uint16_t>(suffix.size()), KeyHead(suffix)};
}

void TreeNode::WriteRecord(char* at, const RecordView& r) const {
  uint32_t word = r.value_bytes | (r.overflow ? kOverflowFlag : 0) | (r.expires_at_ms != 0 ? kExpiryFlag : 0);
  StoreLE(at, r.version);
  StoreLE(at + 8, word);
  at += kLeafHeaderBytes;
  if (r.expires_at_ms != 0) {
    StoreLE(at, r.expires_at_ms);
    at += 8;
  }
  CopyBytes(at, r.key_suffix);
  at += r.key_suffix.size();
  if (r.overflow) {
    StoreLE(at, r.overflow_ref);
  } else {
    CopyBytes(at, r.value);
  }
}

void TreeNode::InsertRecord(uint32_t slot, const RecordView& record) {
  OpenSlot(slot, record.key_suffix, SpaceFor(record) - kSlotBytes);
  WriteRecord(page_ + slots()[slot].offset, record);
}

bool TreeNode::ReplaceRecord(uint32_t slot, const RecordView& record) {
  if (RecordBytes(slot) != SpaceFor(record) - kSlotBytes) return false;
  WriteRecord(page_ + slots()[slot].offset, record);
  return true;
}

void TreeNode::InsertChild(uint32_t slot, std::string_view suffix, const ChildRef& ref) {
  OpenSlot(slot, suffix, ChildSpace(suffix.size()) - kSlotBytes);
  char* at = page_ + slots()[slot].offset;
  StoreLE(at, ref);
  CopyBytes(at + sizeof(ChildRef), suffix);
}

uint32_t TreeNode::RecordBytes(uint32_t slot) const {
  const Slot& s = slots()[slot];
  if (!leaf()) return static_cast<uint32_t>(sizeof(ChildRef)) + s.key_bytes;
  return LayoutOf(ValueWord(page_ + s.offset), s.key_bytes).end;
}

void TreeNode::Remove(uint32_t slot) {
  DCHECK_LT(slot, count());
  header().heap_dead += RecordBytes(slot);
  Slot* s = slots();
  std::memmove(s + slot, s + slot + 1, (count() - slot - 1) * sizeof(Slot));
  --header().slot_count;
}

void TreeNode::Compact() {
  // Copies the live parts of the heap, in slot order, into a scratch page and back.
  thread_local std::vector<char> scratch;
  scratch.resize(usable_bytes_);
  uint32_t begin = usable_bytes_;
  auto keep = [&](uint16_t* offset, uint32_t bytes) {
    if (bytes == 0) return;
    begin -= bytes;
    std::memcpy(scratch.data() + begin, page_ + *offset, bytes);
    *offset = static_cast<uint16_t>(begin);
  };
  for (uint32_t i = 0; i < count(); ++i) {
    uint32_t bytes = RecordBytes(i);
    keep(&slots()[i].offset, bytes);
  }
  PageHeader& h = header();
  keep(&h.lower_offset, h.lower_bytes);
  keep(&h.upper_offset, h.upper_bytes);
  std::memcpy(page_ + begin, scratch.data() + begin, usable_bytes_ - begin);
  h.heap_begin = begin;
  h.heap_dead = 0;
}

uint32_t TreeNode::SpaceToAppend(const TreeNode& source, uint32_t from, uint32_t to, uint32_t prefix_bytes) {
  uint32_t bytes = 0;
  uint32_t old_prefix = source.header().prefix_bytes;
  for (uint32_t i = from; i < to; ++i) {
    // Slot 0 of an inner node stores no key. When other children precede it, its key is the lower
    // fence.
    if (!source.leaf() && i == 0) {
      bytes += ChildSpace(source.header().lower_bytes - prefix_bytes);
    } else {
      bytes += kSlotBytes + source.RecordBytes(i) + old_prefix - prefix_bytes;
    }
  }
  return bytes;
}

void TreeNode::AppendFrom(const TreeNode& source, uint32_t from, uint32_t to) {
  CHECK_EQ(leaf(), source.leaf());
  char key[kMaxStoredKeyBytes];
  std::string_view source_prefix = source.prefix();
  CopyBytes(key, source_prefix);
  uint32_t cut = header().prefix_bytes;
  for (uint32_t i = from; i < to; ++i) {
    std::string_view suffix = source.KeySuffix(i);
    CopyBytes(key + source_prefix.size(), suffix);
    std::string_view full(key, source_prefix.size() + suffix.size());
    if (leaf()) {
      RecordView record = source.Record(i);
      record.key_suffix = full.substr(cut);
      InsertRecord(count(), record);
    } else if (count() == 0) {
      InsertChild(0, {}, source.LoadChild(i));
    } else {
      InsertChild(count(), (i == 0 ? source.lower() : full).substr(cut), source.LoadChild(i));
    }
  }
}

Status TreeNode::Validate(const char* page, uint32_t usable_bytes) {
  const PageHeader& h = HeaderOf(page);
  auto bad = [&](std::string_view what, uint32_t slot) {
    return Error(Code::kCorruption, "page {}: {} (slot {} of {})", h.page_id, what, slot, h.slot_count);
  };
  auto inside = [&](uint32_t offset, uint64_t bytes) {
    return offset >= h.heap_begin && offset + bytes <= usable_bytes;
  };
  const uint32_t max_key_bytes = MaxKeyBytes(usable_bytes), seal_bytes = SealBytesOf(usable_bytes);
  if (h.level > 0 && h.slot_count == 0) return bad("an inner page has no children", 0);
  if ((h.lower_bytes && !inside(h.lower_offset, h.lower_bytes)) ||
      (h.upper_bytes && !inside(h.upper_offset, h.upper_bytes)) || h.lower_bytes > max_key_bytes ||
      h.upper_bytes > max_key_bytes) {
    return bad("a fence lies outside the heap or is too long", 0);
  }
  TreeNode node(const_cast<char*>(page), usable_bytes);
  if (h.prefix_bytes != (h.has_upper ? CommonPrefix(node.lower(), node.upper()) : 0)) {
    return bad("the prefix is not the common prefix of the fences", 0);
  }
  uint64_t heap_bytes = uint64_t{h.heap_dead} + h.lower_bytes + h.upper_bytes;
  for (uint32_t i = 0; i < h.slot_count; ++i) {
    const Slot& s = node.slots()[i];
    uint32_t fixed = h.level > 0 ? static_cast<uint32_t>(sizeof(ChildRef)) : kLeafHeaderBytes;
    if (!inside(s.offset, fixed) || s.key_bytes + h.prefix_bytes > max_key_bytes)
      return bad("a record starts outside the heap or its key is too long", i);
    if (!inside(s.offset, node.RecordBytes(i))) return bad("a record extends past the end of the page", i);
    std::string_view suffix = node.KeySuffix(i);
    if (s.head != KeyHead(suffix)) return bad("the head of a key does not match the key", i);
    if (i > 0 && node.KeySuffix(i - 1) >= suffix) return bad("keys are not in ascending order", i);
    if (i == 0 && h.level > 0 && !suffix.empty()) return bad("the first child has a key", i);
    if (const char* problem = ReferenceProblem(node, i, seal_bytes)) return bad(problem, i);
    heap_bytes += node.RecordBytes(i);
  }
  if (!WithinFences(node)) return bad("a key lies outside the fences", 0);
  // Miscounted bytes would let a later insert or compaction use space that does not exist.
  if (heap_bytes != usable_bytes - h.heap_begin) return bad("the count of heap bytes is wrong", 0);
  return Status();
}

}  // namespace pando
