#include "src/verify/check.h"

#include <algorithm>
#include <functional>
#include <unordered_map>

#include "src/partition/partition_file.h"
#include "src/partition/store_reading.h"
#include "src/verify/tree_check.h"
#include "src/wal/log_reader.h"
#include "src/wal/stream_history.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 32;

constexpr std::string_view kRestoreAdvice =
    "do not start a node on this directory: copy it, and restore from a backup or a replica";

// Audits one partition. `owned_` marks the blocks that have an owner, one bit per block.
class PartitionAudit final : private TreeCheckHost {
 public:
  PartitionAudit(Reactor& reactor, const StoreInfo& store, uint32_t id, CheckReport* report,
                 const CheckOptions& options)
      : reactor_(reactor), store_(store), info_(*store.Find(id)), report_(report), options_(options) {
    result_.id = id;
    result_.file = store.PartitionDirectory(id) + "/data";
  }

  Task<PartitionCheck> Run() {
    PartitionFileOptions file_options{result_.file, store_.node, info_.uuid, store_.page_bytes, store_.seal_bytes};
    std::vector<MetaDamage> damage;
    auto opened = co_await PartitionFile::Open(reactor_, file_options, /*read_only=*/true, &damage);
    if (!opened.ok()) {
      OnProblem(0, opened.status().message(), kRestoreAdvice);
      co_return result_;
    }
    file_ = *std::move(opened);
    co_await CheckSuperblocks();
    for (MetaDamage& d : damage) OnProblem(d.offset_bytes, std::move(d.what), kRestoreAdvice);
    const Superblock& sb = file_->superblock();
    result_.generation = sb.generation;
    result_.checkpoint_lsn = sb.checkpoint_lsn;
    result_.log_end = sb.log_end;
    result_.file_blocks = file_->allocator().total_blocks();
    owned_.assign((result_.file_blocks + 63) / 64, 0);
    OwnMetadata();
    const uint64_t problems_before = report_->problems_total;
    co_await CheckTree(sb);
    // What a damaged page refers to is unknown, so unowned blocks are not reported as lost space
    // then.
    if (damage.empty()) CompareBitmap(/*whole=*/report_->problems_total == problems_before);
    Status closed = co_await file_->Close();
    if (!closed.ok()) OnProblem(0, closed.message(), "");
    co_return result_;
  }

 private:
  Task<void> CheckTree(const Superblock& sb) {
    TreeCheck::Options options;
    FilePages pages(&file_->file());
    options.reactor = &reactor_;
    options.pages = &pages;
    options.partition = info_.uuid;
    options.usable_bytes = UsablePageBytes(store_.page_bytes, store_.seal_bytes);
    options.namespaced = store_.namespaced;
    options.leaves_in_flight = kReadsInFlight;
    TreeCheck check(std::move(options), this);
    co_await check.Run(sb.root, static_cast<uint8_t>(sb.root_level), sb.generation);
    const TreeCheckCounts& counts = check.counts();
    result_.inner_pages = counts.inner_pages;
    result_.leaf_pages = counts.leaf_pages;
    result_.overflow_values = counts.overflow_values;
    result_.reachable_blocks = counts.blocks;
    result_.records = counts.records;
    result_.bytes = counts.bytes;
    result_.content_hash = counts.content_hash;
    if (counts.leaf_pages > 0) {
      result_.leaf_fill_percent = counts.leaf_used_bytes * 100 / (counts.leaf_pages * store_.page_bytes);
    }
  }

  Task<bool> MayRead(uint64_t bytes) override {
    progress_blocks_ += bytes / kBlockBytes;
    if (options_.on_progress) {
      options_.on_progress(progress_blocks_, file_->allocator().used_blocks() - result_.pending_free_blocks);
    }
    co_return true;
  }

  void OnProblem(uint64_t offset_bytes, std::string what, std::string_view advice) override {
    ++report_->problems_total;
    if (report_->problems.size() < CheckReport::kMaxProblems) {
      report_->problems.push_back({result_.file, offset_bytes, std::move(what), std::string(advice)});
    }
  }

  bool OnExtent(Extent extent, std::string_view owner) override {
    if (extent.empty() || extent.block() + extent.blocks() > result_.file_blocks) {
      OnProblem(extent.offset_bytes(),
                fmt::format("{}: its extent of {} blocks lies outside the file", owner, extent.blocks()),
                kRestoreAdvice);
      return false;
    }
    for (uint64_t b = extent.block(); b < extent.block() + extent.blocks(); ++b) {
      uint64_t bit = 1ull << (b % 64);
      if (owned_[b / 64] & bit) {
        OnProblem(b * kBlockBytes,
                  fmt::format("block belongs to {} and to something else: one overwrote the other", owner),
                  kRestoreAdvice);
      }
      owned_[b / 64] |= bit;
    }
    return true;
  }

  // A power failure during a superblock write may leave one slot in any state. The other slot is
  // complete.
  Task<void> CheckSuperblocks() {
    AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
    Status status = co_await file_->file().Read(head.data(), head.size(), 0);
    if (!status.ok()) {
      OnProblem(0, status.message(), kRestoreAdvice);
      co_return;
    }
    ReportSuperblocks(JudgeSuperblocks({head.data(), head.size()}, store_.node, info_.uuid));
  }

  void ReportSuperblocks(const std::vector<SuperblockFault>& faults) {
    const bool one_slot =
        std::all_of(faults.begin(), faults.end(), [&](const auto& f) { return f.copy / 2 == faults.front().copy / 2; });
    for (const SuperblockFault& f : faults) {
      std::string what = fmt::format("superblock copy: {}", f.what);
      if (!one_slot) {
        OnProblem(f.copy * kBlockBytes, std::move(what), kRestoreAdvice);
      } else if (report_->notes.size() < CheckReport::kMaxProblems) {
        what += "; another copy is intact, and its tree is used";
        report_->notes.push_back({result_.file, f.copy * kBlockBytes, std::move(what),
                                  "if the power failed before, do nothing: the next checkpoints rewrite it; if not, "
                                  "the device changed bytes: check it"});
      }
    }
  }

  void OwnMetadata() {
    OnExtent(Extent::Of(0, kSuperblockBlocks), "the superblocks");
    result_.metadata_blocks = kSuperblockBlocks;
    for (Extent piece : file_->metadata_pieces()) {
      OnExtent(piece, "the group directory or the dead list");
      result_.metadata_blocks += piece.blocks();
    }
    for (const GroupEntry& group : file_->group_entries()) {
      if (group.block == 0) continue;
      OnExtent(Extent::Of(group.block, 1), "an allocation bitmap");
      ++result_.metadata_blocks;
    }
    for (const DeadExtent& dead : file_->dead_of_newest()) {
      OnExtent(dead.extent, "an entry of the dead list");
      result_.pending_free_blocks += dead.extent.blocks();
    }
  }

  // C4: a block is in use exactly if the tree, the metadata, or the dead list has it.
  void CompareBitmap(bool whole) {
    uint64_t leaked = 0, first_leaked = 0;
    for (uint64_t b = 0; b < result_.file_blocks; ++b) {
      bool owned = owned_[b / 64] >> (b % 64) & 1;
      bool used = file_->allocator().IsUsed(b);
      if (owned && !used) {
        OnProblem(b * kBlockBytes, "block is in use but free in the bitmap: it would be overwritten", kRestoreAdvice);
      }
      if (used && !owned && leaked++ == 0) first_leaked = b;
      if (!used) ++result_.free_blocks;
    }
    if (leaked > 0 && whole) {
      OnProblem(first_leaked * kBlockBytes,
                fmt::format("{} blocks from here on are marked used, but nothing refers to them: "
                            "space is lost",
                            leaked),
                "no data is missing; export it and load it into a new store to get the space back");
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
  uint64_t progress_blocks_ = 0;
};

using LsnByPartition = std::unordered_map<Uuid, Lsn, UuidHash>;

// Each log must hold what the trees of its partitions do not, and each tree what its log has released.
void CheckTreesAgainstLog(const StoreInfo& store, const std::vector<PartitionCheck>& partitions,
                          const LsnByPartition& first_lsn, const StreamHistory& history,
                          const std::function<void(const Status&)>& problem) {
  for (const PartitionCheck& p : partitions) {
    auto first = first_lsn.find(store.Find(p.id)->uuid);
    if (first == first_lsn.end() || first->second <= p.checkpoint_lsn + 1) continue;
    problem(Error(Code::kCorruption,
                  "partition {}: the tree ends at LSN {}, but the log starts at LSN {}: the records between are lost",
                  p.id, p.checkpoint_lsn, first->second));
  }
  for (const PartitionCheck& p : partitions) {
    const Lsn gap = history.LastGap(store.Find(p.id)->uuid);
    if (gap <= p.checkpoint_lsn) continue;
    problem(Error(Code::kCorruption,
                  "partition {}: the tree ends at LSN {}, and LSN {} is missing between others in the log: log "
                  "segments are missing",
                  p.id, p.checkpoint_lsn, gap));
  }
  for (const PartitionCheck& p : partitions) {
    auto mark = history.marks().find(store.Find(p.id)->uuid);
    if (mark == history.marks().end() || mark->second.released_lsn <= p.checkpoint_lsn) continue;
    problem(Error(Code::kCorruption,
                  "partition {}: the tree ends at LSN {}, but the log says that it had been checkpointed up to LSN {}: "
                  "its file is an older copy",
                  p.id, p.checkpoint_lsn, mark->second.released_lsn));
  }
}

Task<LogCheck> CheckLog(Reactor& reactor, const StoreInfo* store, uint32_t index, CheckReport* report) {
  LogCheck check;
  check.directory = store->LogDirectory(index);
  auto problem = [&](const Status& status) {
    ++report->problems_total;
    if (report->problems.size() < CheckReport::kMaxProblems)
      report->problems.push_back({check.directory, 0, status.message(), std::string(kRestoreAdvice)});
  };
  LogReader::Options options;
  options.directory = check.directory;
  options.node = store->node;
  // The partition in this log whose superblock knows most of it.
  const PartitionCheck* newest = nullptr;
  for (const PartitionCheck& p : report->partitions) {
    if (store->ReactorOf(p.id) == index && (newest == nullptr || p.log_end > newest->log_end)) newest = &p;
  }
  const LogPosition required_end = newest == nullptr ? 0 : newest->log_end;
  auto reader = co_await LogReader::Open(reactor, options);
  if (!reader.ok()) {
    // A store that was created but never served has no log yet.
    const bool missing = reader.code() == Code::kNotFound;
    if (!missing) problem(reader.status());
    if (missing && required_end > 0) problem(LostLog(check.directory, 0, required_end, newest->file));
    co_return check;
  }
  LsnByPartition first_lsn;  // the lowest, which need not come first (WU4)
  StreamHistory history;
  LogEntry entry;
  auto report_broken = [&] {
    problem(Error(Code::kCorruption, "{}: offset {}: {}", entry.segment->path, entry.offset, history.wrong()));
    return true;
  };
  for (;;) {
    Result<bool> more = co_await (*reader)->Next(&entry);
    if (!more.ok()) {
      problem(more.status());
      break;
    }
    if (!*more) {
      const LogPosition end = (*reader)->end();
      if (end < required_end) problem(LostLog(check.directory, end, required_end, newest->file));
      break;
    }
    ++check.batches;
    check.records += entry.header.record_count;
    ForEachItem(
        entry.header, entry.payload,
        [&](const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
          const auto lowest = first_lsn.try_emplace(partition, unit.first_lsn).first;
          lowest->second = std::min(lowest->second, unit.first_lsn);
          const auto verdict = history.Accept(partition, unit, flags, HasUnits(entry.header));
          return verdict != StreamHistory::Verdict::kBroken || report_broken();
        },
        [&](const StreamMark& mark) {
          history.Accept(mark);
          return true;
        });
  }
  for (const Uuid& partition : history.Partitions()) {
    if (history.AcceptEnd(partition)) continue;
    problem(
        Error(Code::kCorruption, "{}: at the end of the log: {}", (*reader)->segments().back().path, history.wrong()));
  }
  check.segments = (*reader)->segments().size();
  check.torn_tail = (*reader)->torn();
  CheckTreesAgainstLog(*store, report->partitions, first_lsn, history, problem);
  co_return check;
}

}  // namespace

Task<Result<CheckReport>> CheckStore(Reactor& reactor, std::string data_dir, CheckOptions options) {
  CheckReport report;
  CO_ASSIGN_OR_RETURN(report.store, co_await LoadStore(reactor, data_dir));
  CO_ASSIGN_OR_RETURN(File lock, co_await LockStoreForReading(reactor, data_dir));
  for (const PartitionInfo& info : report.store.partitions) {
    PartitionAudit audit(reactor, report.store, info.id, &report, options);
    report.partitions.push_back(co_await audit.Run());
  }
  for (uint32_t r = 0; r < report.store.reactors; ++r) {
    report.logs.push_back(co_await CheckLog(reactor, &report.store, r, &report));
  }
  if (lock.is_open()) CO_RETURN_IF_ERROR(co_await lock.Close());
  co_return report;
}

}  // namespace pando
