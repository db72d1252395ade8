#include "src/verify/tree_check.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "src/base/hash.h"
#include "src/btree/tree.h"
#include "src/model/key_space.h"

namespace pando {
namespace {

constexpr std::string_view kPageAdvice =
    "reads of these keys answer CORRUPT, all others are served; export what can be read, and restore the partition "
    "from "
    "a backup or a replica";
constexpr std::string_view kValueAdvice =
    "reads of this key answer CORRUPT; put the record again or delete it, or restore it from a backup";
constexpr std::string_view kBugAdvice =
    "the bytes are as they were written, so this is a bug in Pando or a write that went to the wrong place: keep a "
    "copy of the file, export what can be read, and restore from a backup or a replica";

}  // namespace

Task<Status> FilePages::Read(Extent extent, uint64_t, char* bytes) {
  return file_->Read(bytes, extent.size_bytes(), extent.offset_bytes());
}

TreeForm FormOf(const StoreInfo& store) {
  TreeForm form;
  form.page_bytes = store.page_bytes;
  form.seal_bytes = store.seal_bytes;
  form.namespaced = store.namespaced;
  return form;
}

TreeForm FormOf(const StoreInfo& store, const PartitionInfo& partition) {
  TreeForm form = FormOf(store);
  form.checks_keys = true;
  form.first_hash = partition.first_hash;
  form.last_hash = partition.last_hash;
  return form;
}

Task<void> TreeCheck::Run() {
  Expected whole{{}, {}, false, options_.root.root_level, options_.root.generation};
  co_await CheckPage(options_.root.root, std::move(whole));
}

Task<bool> TreeCheck::Allowed(uint64_t bytes) {
  if (stopped_) co_return false;
  const bool allowed = co_await host_->MayRead(bytes);
  if (!allowed) stopped_ = true;
  co_return allowed;
}

// Everything before `key` has been verified.
void TreeCheck::Advance(std::string key) {
  if (key <= resume_key_) return;
  resume_key_ = std::move(key);
  advanced_ = true;
}

Task<Status> TreeCheck::ReadExtent(Extent extent, uint64_t checksum, AlignedBuffer* bytes) {
  *bytes = AlignedBuffer(std::max<size_t>(extent.size_bytes(), PageBytesOf(usable_bytes_)));
  CO_RETURN_IF_ERROR(co_await options_.pages->Read(extent, checksum, bytes->data()));
  counts_.blocks += extent.blocks();
  if (Hash64({bytes->data(), extent.size_bytes()}, ChecksumSeed(options_.root.partition, extent.block())) != checksum) {
    co_return Error(Code::kCorruption, "checksum mismatch");
  }
  co_return Status();
}

Task<Status> TreeCheck::ReadPage(const ChildRef* ref, AlignedBuffer* bytes) {
  CO_RETURN_IF_ERROR(co_await ReadExtent(ref->location, ref->checksum, bytes));
  std::vector<char> scratch(usable_bytes_);
  CO_RETURN_IF_ERROR(DecodePageImage(bytes->data(), usable_bytes_, ref->location.blocks(), scratch.data()));
  co_return TreeNode::Validate(bytes->data(), usable_bytes_);
}

// Checks the page that `ref` refers to and everything below it. The reference's aggregates must
// match what is found.
Task<void> TreeCheck::CheckPage(ChildRef ref, Expected expected) {
  const uint64_t at = ref.location.offset_bytes();
  const char* kind = expected.level == 0 ? "leaf" : "inner page";
  const std::string lower = PrintableKey(expected.lower, options_.form.namespaced);
  std::string range = lower.empty() ? "" : "from '" + lower + "'";
  if (expected.has_upper) {
    range += (range.empty() ? "up to '" : " to '") + PrintableKey(expected.upper, options_.form.namespaced) + "'";
  } else {
    range += range.empty() ? "of the whole partition" : " on";
  }
  const bool allowed = co_await Allowed(ref.location.size_bytes());
  if (!allowed) co_return;
  if (host_->OnExtent(ref.location, "a page")) {
    AlignedBuffer bytes;
    Status status;
    if (ref.location.size_bytes() > PageBytesOf(usable_bytes_)) {
      status = Error(Code::kCorruption, "{} bytes long, but pages have {} bytes", ref.location.size_bytes(),
                     PageBytesOf(usable_bytes_));
    } else {
      status = co_await ReadPage(&ref, &bytes);
    }
    if (!status.ok()) {
      Problem(at, fmt::format("{}: {}; the keys {} are lost here", kind, status.message(), range), kPageAdvice);
    } else {
      TreeNode node(bytes.data(), usable_bytes_);
      CheckHeader(node, ref, expected);
      CheckAggregates(node, ref);
      if (node.leaf()) {
        co_await CheckRecords(node, at);
      } else if (node.header().level == expected.level) {
        co_await CheckChildren(node, ref.birth);
      }
    }
  }
  if (!stopped_ && expected.has_upper) Advance(std::move(expected.upper));
}

void TreeCheck::CheckHeader(const TreeNode& node, const ChildRef& ref, const Expected& expected) {
  const PageHeader& h = node.header();
  const uint64_t at = ref.location.offset_bytes();
  auto wrong = [&](std::string what) { Problem(at, "page: " + std::move(what), kBugAdvice); };
  if (h.level != expected.level) wrong(fmt::format("level {}, but level {} belongs here", h.level, expected.level));
  if (h.birth != ref.birth) wrong(fmt::format("generation {}, but its parent says {}", h.birth, ref.birth));
  if (h.page_id >= options_.root.next_page_id) {
    wrong(fmt::format("number {}, but the next new page gets number {}", h.page_id, options_.root.next_page_id));
  }
  if (at == options_.root.root.location.offset_bytes()) {
    root_id_ = h.page_id;
  } else if (h.page_id == root_id_) {
    wrong("the root has its number too");
  }
  if (ref.birth > expected.newest_birth) wrong(fmt::format("generation {} below an older page", ref.birth));
  if (node.lower() != expected.lower || node.has_upper() != expected.has_upper ||
      (expected.has_upper && node.upper() != expected.upper)) {
    wrong("its fences do not match its parent's separators");
  }
  if (node.count() == 0) return;
  std::string first = node.Key(0), last = node.Key(node.count() - 1);
  if (first < node.lower() || (node.has_upper() && last >= node.upper())) wrong("keys outside its fences");
}

// Compares the sums of the page's own records, or of its references to children, with the parent's
// aggregates.
void TreeCheck::CheckAggregates(const TreeNode& node, const ChildRef& ref) {
  Aggregates found;
  if (node.leaf()) {
    ++counts_.leaf_pages;
    counts_.leaf_used_bytes += node.UsedBytes();
    AddRecords(node, 0, node.count(), /*now_ms=*/0, &found);
    counts_.records += found.count;
    counts_.bytes += found.bytes;
    counts_.content_hash += found.content_hash;
  } else {
    ++counts_.inner_pages;
    for (uint32_t i = 0; i < node.count(); ++i) found.Add(node.LoadChild(i));
  }
  if (found.count != ref.count || found.bytes != ref.bytes || found.content_hash != ref.content_hash ||
      found.earliest_expiry_ms != ref.earliest_expiry_ms) {
    Problem(ref.location.offset_bytes(),
            fmt::format(
                "page: the parent's aggregates ({} records, {} bytes) do not match the page's ({} records, {} bytes)",
                ref.count, ref.bytes, found.count, found.bytes),
            kBugAdvice);
  }
}

// Whether this version stores such a key, in a partition of these hashes.
bool TreeCheck::MayHold(std::string_view stored) const {
  const TreeForm& form = options_.form;
  if (form.namespaced && stored.size() < kNamespaceBytes) return false;
  const SplitKey split = SplitStoredKey(stored, form.namespaced);
  // What a partition remembers of clients has no hash. Nor has the claim of a half that is being filled; its key is
  // empty.
  if (form.namespaced && split.namespace_id == kReservedNamespace) return split.key.size() <= kMaxClientIdBytes;
  if (split.namespace_id != kDefaultNamespace || split.key.empty() || split.key.size() > kMaxKeyBytes) return false;
  const uint64_t hash = HashId(split.key);
  return hash >= form.first_hash && hash <= form.last_hash;
}

// Null: nothing. `birth`: of the page.
const char* TreeCheck::WrongWith(const RecordView& r, std::string_view key, Generation birth) const {
  if (r.version > options_.root.last_version) return "it is newer than the newest record";
  if (r.overflow && r.value_bytes > kMaxValueBytes) return "its value is longer than values may be";
  if (r.overflow && r.overflow_ref.birth > birth) return "its value is younger than the page";
  if (options_.form.checks_keys && !MayHold(key)) return "it does not belong into this partition";
  return nullptr;
}

// Checks the records of a leaf, and reads their values.
Task<void> TreeCheck::CheckRecords(TreeNode node, uint64_t at) {
  bool found = false;  // one problem of a page says enough
  for (uint32_t i = 0; i < node.count() && !stopped_; ++i) {
    const RecordView r = node.Record(i);
    if (!r.overflow && !options_.form.checks_keys && r.version <= options_.root.last_version) continue;
    const std::string key = node.Key(i);
    if (key < options_.resume_key) continue;
    const char* wrong = WrongWith(r, key, node.header().birth);
    if (wrong != nullptr && !std::exchange(found, true)) {
      Problem(at, fmt::format("record '{}': {}", PrintableKey(key, options_.form.namespaced), wrong), kBugAdvice);
    }
    if (!r.overflow || wrong != nullptr) continue;
    co_await CheckOverflow(r.overflow_ref, r.value_bytes, key);
    if (!stopped_) Advance(key + '\0');
  }
}

Task<void> TreeCheck::CheckOverflow(OverflowRef ref, uint32_t value_bytes, std::string key) {
  const bool allowed = co_await Allowed(ref.location.size_bytes());
  if (!allowed || !host_->OnExtent(ref.location, "a value")) co_return;
  ++counts_.overflow_values;
  AlignedBuffer bytes;
  Status status = co_await ReadExtent(ref.location, ref.checksum, &bytes);
  if (status.ok() &&
      (value_bytes > ref.location.size_bytes() || Hash64({bytes.data(), value_bytes}) != ref.value_hash)) {
    status = Error(Code::kCorruption, "its {} bytes do not match their hash", value_bytes);
  }
  if (status.ok()) co_return;
  Problem(ref.location.offset_bytes(),
          fmt::format("overflow value: {}; the value of key '{}' is lost", status.message(),
                      PrintableKey(key, options_.form.namespaced)),
          kValueAdvice);
}

Task<void> TreeCheck::CheckChild(ChildRef ref, Expected expected, size_t* in_flight) {
  co_await CheckPage(ref, std::move(expected));
  --*in_flight;
  slots_.NotifyOne();
}

// Leaves are read several at a time, inner pages one at a time, so that memory stays bounded by the
// height.
Task<void> TreeCheck::CheckChildren(TreeNode node, Generation birth) {
  TaskGroup children;
  size_t in_flight = 0;
  const size_t limit = node.header().level == 1 ? options_.leaves_in_flight : 1;
  for (uint32_t i = 0; i < node.count() && !stopped_; ++i) {
    ChildRef child = node.LoadChild(i);
    const bool last = i + 1 == node.count();
    Expected expected{node.Key(i), last ? std::string(node.upper()) : node.Key(i + 1), !last || node.has_upper(),
                      static_cast<uint8_t>(node.header().level - 1), birth};
    if (expected.has_upper && expected.upper <= options_.resume_key) continue;
    if (limit == 1) {
      co_await CheckPage(child, std::move(expected));
      continue;
    }
    while (in_flight >= limit) co_await slots_.Wait();
    ++in_flight;
    children.Spawn(CheckChild(child, std::move(expected), &in_flight));
  }
  co_await children.Drain();
}

}  // namespace pando
