#include "src/partition/check.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "src/base/hash.h"
#include "src/btree/node.h"
#include "src/partition/partition_file.h"
#include "src/wal/log_reader.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 32;

// Audits one partition. Owners of blocks are counted in `owned_`, one bit a block.
class PartitionAudit {
 public:
  PartitionAudit(Reactor& reactor, const StoreInfo& store, uint32_t id, CheckReport* report,
                 const CheckOptions& options)
      : reactor_(reactor), store_(store), info_(store.partitions[id]), report_(report), options_(options) {
    result_.id = id;
    result_.file = store.PartitionDirectory(id) + "/data";
  }

  Task<PartitionCheck> Run() {
    PartitionFileOptions file_options{result_.file, store_.node, info_.uuid, store_.page_bytes};
    auto opened = co_await PartitionFile::Open(reactor_, file_options, /*read_only=*/true);
    if (!opened.ok()) {
      Problem(0, opened.status().message());
      co_return result_;
    }
    file_ = *std::move(opened);
    const Superblock& sb = file_->superblock();
    result_.generation = sb.generation;
    result_.checkpoint_lsn = sb.checkpoint_lsn;
    result_.file_blocks = file_->allocator().total_blocks();
    owned_.assign((result_.file_blocks + 63) / 64, 0);
    OwnMetadata(sb);
    Expected root{{}, {}, false, static_cast<uint8_t>(sb.root_level), sb.generation};
    co_await CheckPage(sb.root, root);
    CompareBitmap();
    if (result_.leaf_pages > 0) {
      result_.leaf_fill_percent = leaf_used_bytes_ * 100 / (result_.leaf_pages * store_.page_bytes);
    }
    Status closed = co_await file_->Close();
    if (!closed.ok()) Problem(0, closed.message());
    co_return result_;
  }

 private:
  struct Expected {
    std::string lower, upper;
    bool has_upper;
    uint8_t level;
    Generation newest_birth;  // no child is younger than its parent
  };

  void Problem(uint64_t offset_bytes, std::string what) {
    ++report_->problems_total;
    if (report_->problems.size() < CheckReport::kMaxProblems) {
      report_->problems.push_back({result_.file, offset_bytes, std::move(what)});
    }
  }

  bool Own(Extent extent, std::string_view owner) {
    if (extent.empty() || extent.block() + extent.blocks() > result_.file_blocks) {
      Problem(extent.offset_bytes(),
              fmt::format("{}: its extent of {} blocks lies outside the file", owner, extent.blocks()));
      return false;
    }
    for (uint64_t b = extent.block(); b < extent.block() + extent.blocks(); ++b) {
      uint64_t bit = 1ull << (b % 64);
      if (owned_[b / 64] & bit) {
        Problem(b * kBlockBytes,
                fmt::format("block belongs to {} and to something else: one overwrote the other", owner));
      }
      owned_[b / 64] |= bit;
    }
    return true;
  }

  void OwnMetadata(const Superblock& sb) {
    Own(Extent::Of(0, kSuperblockBlocks), "the superblocks");
    Own(sb.groups.location, "the group directory");
    result_.metadata_blocks = kSuperblockBlocks + sb.groups.location.blocks();
    if (!sb.dead.location.empty()) {
      Own(sb.dead.location, "the dead list");
      result_.metadata_blocks += sb.dead.location.blocks();
    }
    for (const GroupEntry& group : file_->group_entries()) {
      if (group.block == 0) continue;
      Own(Extent::Of(group.block, 1), "an allocation bitmap");
      ++result_.metadata_blocks;
    }
    for (const DeadExtent& dead : file_->dead_of_newest()) {
      Own(dead.extent, "the dead list's entry");
      result_.pending_free_blocks += dead.extent.blocks();
    }
  }

  Task<Status> ReadExtent(Extent extent, uint64_t checksum, AlignedBuffer* bytes) {
    *bytes = AlignedBuffer(std::max<size_t>(extent.size_bytes(), store_.page_bytes));
    CO_RETURN_IF_ERROR(co_await file_->file().Read(bytes->data(), extent.size_bytes(), extent.offset_bytes()));
    if (Hash64({bytes->data(), extent.size_bytes()}, ChecksumSeed(info_.uuid, extent.block())) != checksum) {
      co_return Error(Code::kCorruption, "checksum mismatch");
    }
    result_.reachable_blocks += extent.blocks();
    if (options_.on_progress) {
      options_.on_progress(result_.reachable_blocks, file_->allocator().used_blocks() - result_.pending_free_blocks);
    }
    co_return Status();
  }

  // Checks the page behind `ref` and everything below; the reference's aggregates must be what is found.
  Task<void> CheckPage(ChildRef ref, Expected expected) {
    const uint64_t at = ref.location.offset_bytes();
    if (!Own(ref.location, "a page")) co_return;
    if (ref.location.size_bytes() > store_.page_bytes) {
      Problem(at, fmt::format("a page of {} bytes, pages have {}", ref.location.size_bytes(), store_.page_bytes));
      co_return;
    }
    AlignedBuffer bytes;
    std::vector<char> scratch(store_.page_bytes);
    Status status = co_await ReadExtent(ref.location, ref.checksum, &bytes);
    if (status.ok()) status = DecodePageImage(bytes.data(), store_.page_bytes, ref.location.blocks(), scratch.data());
    if (status.ok()) status = Node::Validate(bytes.data(), store_.page_bytes);
    if (!status.ok()) {
      Problem(at, fmt::format("page: {}; the keys from '{}' on are lost here", status.message(), expected.lower));
      co_return;
    }
    Node node(bytes.data(), store_.page_bytes);
    CheckHeader(node, ref, expected);
    ChildRef found;
    if (node.leaf()) {
      ++result_.leaf_pages;
      leaf_used_bytes_ += node.UsedBytes();
      co_await CheckLeaf(node, &found);
    } else {
      ++result_.inner_pages;
      co_await CheckChildren(node, ref.birth, &found);
    }
    if (found.count != ref.count || found.bytes != ref.bytes || found.content_hash != ref.content_hash ||
        found.earliest_expiry_ms != ref.earliest_expiry_ms) {
      Problem(at, fmt::format("the parent's aggregates ({} records, {} bytes) are not the page's ({}, {})", ref.count,
                              ref.bytes, found.count, found.bytes));
    }
  }

  void CheckHeader(const Node& node, const ChildRef& ref, const Expected& expected) {
    const PageHeader& h = node.header();
    const uint64_t at = ref.location.offset_bytes();
    if (h.level != expected.level) Problem(at, fmt::format("level {} where level {} belongs", h.level, expected.level));
    if (h.birth != ref.birth) Problem(at, fmt::format("generation {}, its parent says {}", h.birth, ref.birth));
    if (ref.birth > expected.newest_birth) Problem(at, fmt::format("generation {} below an older page", ref.birth));
    if (node.lower() != expected.lower || node.has_upper() != expected.has_upper ||
        (expected.has_upper && node.upper() != expected.upper)) {
      Problem(at, "its fences are not its parent's separators");
    }
    if (node.count() == 0) return;
    std::string first = node.Key(0), last = node.Key(node.count() - 1);
    if (first < node.lower() || (node.has_upper() && last >= node.upper())) Problem(at, "keys outside its fences");
  }

  Task<void> CheckLeaf(const Node& node, ChildRef* found) {
    for (uint32_t i = 0; i < node.count(); ++i) {
      RecordView r = node.Record(i);
      uint64_t value_hash = 0;
      if (r.overflow) {
        ++result_.overflow_values;
        value_hash = r.overflow_ref.value_hash;
        co_await CheckOverflow(r);
      } else {
        value_hash = Hash64(r.value);
      }
      uint64_t record_bytes = node.header().prefix_bytes + r.key_suffix.size() + r.value_bytes;
      uint64_t hash = RecordHash(node.prefix(), r.key_suffix, value_hash, r.version, r.expires_at_ms);
      ++result_.records;
      result_.bytes += record_bytes;
      result_.content_hash += hash;
      ++found->count;
      found->bytes += record_bytes;
      found->content_hash += hash;
      Earliest(r.expires_at_ms, found);
    }
  }

  static void Earliest(int64_t expiry_ms, ChildRef* found) {
    if (expiry_ms != 0 && (found->earliest_expiry_ms == 0 || expiry_ms < found->earliest_expiry_ms)) {
      found->earliest_expiry_ms = expiry_ms;
    }
  }

  Task<void> CheckOverflow(RecordView r) {
    const OverflowRef& ref = r.overflow_ref;
    if (!Own(ref.location, "a value")) co_return;
    AlignedBuffer bytes;
    Status status = co_await ReadExtent(ref.location, ref.checksum, &bytes);
    if (status.ok() &&
        (r.value_bytes > ref.location.size_bytes() || Hash64({bytes.data(), r.value_bytes}) != ref.value_hash)) {
      status = Error(Code::kCorruption, "value of {} bytes does not match its hash", r.value_bytes);
    }
    if (!status.ok()) Problem(ref.location.offset_bytes(), fmt::format("overflow value: {}", status.message()));
  }

  Task<void> CheckChild(ChildRef ref, Expected expected, size_t* in_flight, WaitQueue* slots) {
    co_await CheckPage(ref, std::move(expected));
    --*in_flight;
    slots->NotifyOne();
  }

  // Leaves are read several at a time; inner pages one after another, so that memory stays bounded by the height.
  Task<void> CheckChildren(const Node& node, Generation birth, ChildRef* found) {
    TaskGroup leaves;
    WaitQueue slots(reactor_);
    size_t in_flight = 0;
    const size_t limit = node.header().level == 1 ? kReadsInFlight : 1;
    for (uint32_t i = 0; i < node.count(); ++i) {
      ChildRef child = node.LoadChild(i);
      bool last = i + 1 == node.count();
      Expected expected{node.Key(i), last ? std::string(node.upper()) : node.Key(i + 1), !last || node.has_upper(),
                        static_cast<uint8_t>(node.header().level - 1), birth};
      found->count += child.count;
      found->bytes += child.bytes;
      found->content_hash += child.content_hash;
      Earliest(child.earliest_expiry_ms, found);
      while (in_flight >= limit) co_await slots.Wait();
      ++in_flight;
      leaves.Spawn(CheckChild(child, std::move(expected), &in_flight, &slots));
    }
    co_await leaves.Drain();
  }

  void CompareBitmap() {
    uint64_t leaked = 0, first_leaked = 0;
    for (uint64_t b = 0; b < result_.file_blocks; ++b) {
      bool owned = owned_[b / 64] >> (b % 64) & 1;
      bool used = file_->allocator().IsUsed(b);
      if (owned && !used) Problem(b * kBlockBytes, "block is in use but free in the bitmap: it would be overwritten");
      if (used && !owned && leaked++ == 0) first_leaked = b;
      if (!used) ++result_.free_blocks;
    }
    if (leaked > 0) {
      Problem(first_leaked * kBlockBytes,
              fmt::format("{} blocks from here on are marked used, but nothing refers to them: "
                          "space is lost",
                          leaked));
    }
  }

  Reactor& reactor_;
  const StoreInfo& store_;
  const PartitionInfo info_;
  CheckReport* report_;
  const CheckOptions& options_;
  PartitionCheck result_;
  std::unique_ptr<PartitionFile> file_;
  std::vector<uint64_t> owned_;
  uint64_t leaf_used_bytes_ = 0;
};

Task<LogCheck> CheckLog(Reactor& reactor, const StoreInfo* store, uint32_t index, CheckReport* report) {
  LogCheck check;
  check.directory = store->LogDirectory(index);
  auto problem = [&](const Status& status) {
    ++report->problems_total;
    if (report->problems.size() < CheckReport::kMaxProblems)
      report->problems.push_back({check.directory, 0, status.message()});
  };
  LogReader::Options options;
  options.directory = check.directory;
  options.node = store->node;
  auto reader = co_await LogReader::Open(reactor, options);
  if (!reader.ok()) {
    // A store that was made but never served has no log yet.
    if (reader.code() != Code::kNotFound) problem(reader.status());
    co_return check;
  }
  std::unordered_map<Uuid, Lsn, UuidHash> first_lsn;
  LogEntry entry;
  for (;;) {
    Result<bool> more = co_await (*reader)->Next(&entry);
    if (!more.ok()) {
      problem(more.status());
      break;
    }
    if (!*more) break;
    ++check.batches;
    check.records += entry.header.record_count;
    if (entry.header.record_count > 0) first_lsn.try_emplace(entry.header.partition, entry.header.first_lsn);
  }
  check.segments = (*reader)->segments().size();
  check.torn_tail = (*reader)->torn();
  // What the tree does not hold must be in the log.
  for (const PartitionCheck& p : report->partitions) {
    auto first = first_lsn.find(store->partitions[p.id].uuid);
    if (first == first_lsn.end() || first->second <= p.checkpoint_lsn + 1) continue;
    problem(Error(Code::kCorruption,
                  "partition {}: the tree ends at LSN {}, the log starts at {}: records between are lost", p.id,
                  p.checkpoint_lsn, first->second));
  }
  co_return check;
}

}  // namespace

Task<Result<CheckReport>> CheckStore(Reactor& reactor, std::string data_dir, CheckOptions options) {
  CheckReport report;
  CO_ASSIGN_OR_RETURN(report.store, co_await LoadStore(reactor, data_dir));
  CO_ASSIGN_OR_RETURN(File lock, co_await LockStore(reactor, data_dir));
  for (const PartitionInfo& info : report.store.partitions) {
    PartitionAudit audit(reactor, report.store, info.id, &report, options);
    report.partitions.push_back(co_await audit.Run());
  }
  for (uint32_t r = 0; r < report.store.reactors; ++r) {
    report.logs.push_back(co_await CheckLog(reactor, &report.store, r, &report));
  }
  CO_RETURN_IF_ERROR(co_await lock.Close());
  co_return report;
}

}  // namespace pando
