#include "src/verify/check.h"

#include <algorithm>
#include <functional>
#include <unordered_map>

#include "src/partition/partition_file.h"
#include "src/partition/store_reading.h"
#include "src/verify/tree_check.h"
#include "src/wal/log_reader.h"
#include "src/wal/log_suffix.h"
#include "src/wal/stream_history.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 32;

constexpr std::string_view kRestoreAdvice =
    "do not start a node on this directory: copy it, and restore from a backup or a replica";
// Damage that concerns one partition, which a node would quarantine.
constexpr std::string_view kPartitionAdvice =
    "a node can serve the other partitions; put back a sound copy of what is damaged, or see kvadmin accept-loss "
    "--help";

// Audits one partition. `owned_` marks the blocks that have an owner, one bit per block.
class PartitionAudit final : private TreeCheckHost {
 public:
  PartitionAudit(Reactor& reactor, const StoreInfo& store, uint32_t id, CheckReport* report,
                 const CheckOptions& options)
      : reactor_(reactor), store_(store), info_(*store.Find(id)), report_(report), options_(options) {
    result_.id = id;
    result_.file = store.PartitionFilePath(id);
  }

  Task<PartitionCheck> Run() {
    PartitionFileOptions file_options{result_.file, store_.node, info_.uuid, store_.page_bytes, store_.seal_bytes};
    std::vector<MetaDamage> damage;
    auto opened = co_await PartitionFile::Open(reactor_, file_options, /*read_only=*/true, &damage);
    if (!opened.ok()) {
      OnProblem(0, opened.status().message(), kPartitionAdvice);
      co_return result_;
    }
    file_ = *std::move(opened);
    result_.opened = true;
    co_await CheckSuperblocks();
    result_.metadata_sound = damage.empty();
    for (MetaDamage& d : damage) OnProblem(d.offset_bytes, std::move(d.what), kPartitionAdvice);
    const Superblock& sb = file_->superblock();
    result_.generation = sb.generation;
    result_.checkpoint_lsn = sb.checkpoint_lsn;
    result_.checkpoint_epoch = sb.epoch;
    result_.checkpoint_chain = sb.chain;
    result_.last_version = sb.last_version;
    result_.log_end = sb.log_end;
    result_.file_blocks = file_->allocator().total_blocks();
    if (!options_.without_trees) co_await CheckBlocks(sb, damage.empty());
    Status closed = co_await file_->Close();
    if (!closed.ok()) OnProblem(0, closed.message(), "");
    co_return result_;
  }

 private:
  Task<void> CheckBlocks(const Superblock& sb, bool metadata_sound) {
    owned_.assign((result_.file_blocks + 63) / 64, 0);
    OwnMetadata();
    const uint64_t problems_before = report_->problems_total;
    co_await CheckTree(sb);
    result_.tree_problems = report_->problems_total - problems_before;
    // What a damaged page refers to is unknown, so unowned blocks are not reported as lost space
    // then.
    if (metadata_sound) CompareBitmap(/*whole=*/report_->problems_total == problems_before);
  }

  Task<void> CheckTree(const Superblock& sb) {
    FilePages pages(&file_->file());
    TreeCheck check({&reactor_, &pages, FormOf(store_), RootOf(sb), kReadsInFlight, /*resume_key=*/{}}, this);
    co_await check.Run();
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
    report_->Add({result_.file, offset_bytes, std::move(what), std::string(advice), info_.id});
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
        result_.metadata_sound = false;
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
        result_.metadata_sound = false;
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

// Reads one log, and compares it with the trees of its partitions. Of each partition it reports the
// first thing that is wrong, because the rest follows from it. Of a partition whose file cannot be
// read, nothing is known to compare the log with.
class LogAudit {
 public:
  LogAudit(Reactor& reactor, const StoreInfo& store, uint32_t index, CheckReport* report)
      : reactor_(reactor), store_(store), index_(index), dropped_(store.DroppedInLog(index)), report_(report) {
    check_.directory = store.LogDirectory(index);
    for (const PartitionCheck& p : report->partitions) {
      if (store.ReactorOf(p.id) == index) mine_.push_back(&p);
    }
  }

  Task<LogCheck> Run() {
    // The partition in this log whose superblock knows most of it.
    const PartitionCheck* newest = nullptr;
    for (const PartitionCheck* p : mine_) {
      if (newest == nullptr || p->log_end > newest->log_end) newest = p;
    }
    const LogPosition required_end = newest == nullptr ? 0 : newest->log_end;
    LogReader::Options options;
    options.directory = check_.directory;
    options.node = store_.node;
    Result<std::unique_ptr<LogReader>> reader = co_await ReadAll(options);
    if (reader.code() == Code::kCorruption) reader = co_await ReadWithoutRetained(options, reader.TakeStatus());
    if (!reader.ok()) {
      // A store that was created but never served has no log yet. Where a log is damaged, what follows is
      // not known, so nothing can be said to be missing.
      const bool missing = reader.code() == Code::kNotFound;
      if (!missing) Problem(reader.status());
      if (missing && required_end > 0) Problem(LostLog(check_.directory, 0, required_end, newest->file));
      co_return check_;
    }
    check_.segments = (*reader)->segments().size();
    check_.torn_tail = (*reader)->torn();
    const LogPosition end = (*reader)->end();
    if (end < required_end) {
      Problem(LostLog(check_.directory, end, required_end, newest->file));
      co_return check_;
    }
    for (const PartitionCheck* p : mine_) {
      JudgeEnd(*p, **reader);
      NoteEnd(store_.Find(p->id)->uuid);
    }
    co_return check_;
  }

 private:
  void Problem(const Status& status) {
    report_->Add(
        {check_.directory, 0, status.message(), fmt::format("{}. {}", kRestoreAdvice, LogLossAdvice(store_, index_))});
  }
  void Problem(uint32_t partition, std::string what) {
    report_->Add({check_.directory, 0, std::move(what), std::string(kPartitionAdvice), partition});
  }

  Task<Result<std::unique_ptr<LogReader>>> ReadAll(LogReader::Options options) {
    CO_ASSIGN_OR_RETURN(std::unique_ptr<LogReader> reader, co_await LogReader::Open(reactor_, std::move(options)));
    LogEntry entry;
    for (;;) {
      CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
      if (!more) co_return std::move(reader);
      ++check_.batches;
      ForEachItem(
          entry.header, entry.payload,
          [&](const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
            OnUnit(entry, partition, unit, flags);
            return true;
          },
          [&](const StreamMark& mark) {
            if (MeansNothing(mark.partition, entry)) return true;
            history_.Accept(mark);
            NoteLogged(mark.partition, std::max(mark.durable_lsn, mark.commit_lsn), mark.hlc);
            return true;
          },
          [&](const StreamCut& cut) {
            if (!MeansNothing(cut.partition, entry)) OnCut(entry, cut);
            return true;
          });
    }
  }

  // Segments that are kept for readers of the log only do not keep a node from starting.
  Task<Result<std::unique_ptr<LogReader>>> ReadWithoutRetained(LogReader::Options options, Status damage) {
    auto means_nothing = [this](const Uuid& partition, const LogEntry& entry) {
      return MeansNothing(partition, entry);
    };
    CO_ASSIGN_OR_RETURN(options.first_segment,
                        co_await FindSufficientSuffix(reactor_, options, damage, std::move(means_nothing)));
    report_->notes.push_back({check_.directory, 0, damage.message(),
                              "this part of the log was kept only for readers of it: nothing is lost, and the next "
                              "start of the node drops it; check the device"});
    history_ = StreamHistory();
    first_lsn_.clear();
    check_.batches = check_.records = 0;
    co_return co_await ReadAll(std::move(options));
  }

  void OnUnit(const LogEntry& entry, const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
    check_.records += unit.record_count;
    if (MeansNothing(partition, entry)) return;
    NoteLogged(partition, unit.last_lsn(), 0);
    const auto lowest = first_lsn_.try_emplace(partition, unit.first_lsn).first;
    lowest->second = std::min(lowest->second, unit.first_lsn);
    Judge(entry, partition, history_.Accept(partition, unit, flags, HasUnits(entry.header)));
  }

  void OnCut(const LogEntry& entry, const StreamCut& cut) {
    LogCheck::Logged& logged = check_.logged[cut.partition];
    logged.last_lsn = std::min(logged.last_lsn, cut.after.lsn);
    Judge(entry, cut.partition, history_.Accept(cut));
  }

  void Judge(const LogEntry& entry, const Uuid& partition, StreamHistory::Verdict verdict) {
    if (verdict != StreamHistory::Verdict::kBroken) return;
    std::string what = fmt::format("{}: offset {}: {}", entry.segment->path, entry.offset, history_.wrong());
    if (const PartitionCheck* p = Find(partition)) return Problem(p->id, std::move(what));
    const auto same = [&](const PartitionInfo& p) { return p.uuid == partition; };
    const bool known = std::any_of(store_.partitions.begin(), store_.partitions.end(), same);
    if (!known) Problem(Error(Code::kCorruption, "{}", what));  // else it is not asked for
  }

  // It was dropped, or an operator has accepted that it is lost.
  bool MeansNothing(const Uuid& partition, const LogEntry& entry) const {
    return std::any_of(dropped_.begin(), dropped_.end(),
                       [&](const auto& d) { return d.first == partition && entry.end <= d.second; });
  }

  void NoteLogged(const Uuid& partition, Lsn lsn, Version version) {
    LogCheck::Logged& logged = check_.logged[partition];
    logged.last_lsn = std::max(logged.last_lsn, lsn);
    logged.version = std::max(logged.version, version);
  }

  void NoteEnd(const Uuid& partition) {
    const StreamHistory::Stream* stream = history_.Find(partition);
    if (stream == nullptr || stream->ends.empty()) return;
    const StreamHistory::End& last = stream->last();
    check_.logged[partition].end = HistoryPoint{last.epoch, last.lsn, last.chain};
  }

  const PartitionCheck* Find(const Uuid& uuid) const {
    const auto at =
        std::find_if(mine_.begin(), mine_.end(), [&](const auto* p) { return store_.Find(p->id)->uuid == uuid; });
    return at == mine_.end() ? nullptr : *at;
  }

  // The log must hold what the tree of the partition does not, and the tree what the log has released.
  void JudgeEnd(const PartitionCheck& p, const LogReader& reader) {
    const Uuid& uuid = store_.Find(p.id)->uuid;
    if (history_.broken(uuid)) return;  // it was reported
    if (!history_.AcceptEnd(uuid, p.opened ? p.checkpoint_lsn : 0)) {
      return Problem(p.id,
                     fmt::format("{}: at the end of the log: {}", reader.segments().back().path, history_.wrong()));
    }
    if (!p.opened) return;
    const auto mark = history_.marks().find(uuid);
    if (mark != history_.marks().end() && mark->second.released_lsn > p.checkpoint_lsn) {
      return Problem(
          p.id,
          fmt::format("partition {}: the tree ends at LSN {}, but the log says that it had been checkpointed up to "
                      "LSN {}, or was quarantined until the log needed the room: its file is an older "
                      "copy, or its records are gone",
                      p.id, p.checkpoint_lsn, mark->second.released_lsn));
    }
    const auto first = first_lsn_.find(uuid);
    if (first != first_lsn_.end() && first->second > p.checkpoint_lsn + 1) {
      return Problem(
          p.id,
          fmt::format("partition {}: the tree ends at LSN {}, but the log starts at LSN {}: the records between are "
                      "lost",
                      p.id, p.checkpoint_lsn, first->second));
    }
    if (const Lsn gap = history_.LastGap(uuid); gap > p.checkpoint_lsn) {
      Problem(
          p.id,
          fmt::format(
              "partition {}: the tree ends at LSN {}, and LSN {} is missing between others in the log: log segments "
              "are missing",
              p.id, p.checkpoint_lsn, gap));
    }
  }

  Reactor& reactor_;
  const StoreInfo& store_;
  const uint32_t index_;
  const std::vector<std::pair<Uuid, LogPosition>> dropped_;
  CheckReport* const report_;
  LogCheck check_;
  std::vector<const PartitionCheck*> mine_;
  std::unordered_map<Uuid, Lsn, UuidHash> first_lsn_;  // the lowest, which need not come first (WU4)
  StreamHistory history_;
};

// `only`: checks this partition, and what its log says about it.
Task<CheckReport> CheckAll(Reactor* reactor, StoreInfo store, std::optional<uint32_t> only,
                           const CheckOptions* options) {
  CheckReport report;
  report.store = std::move(store);
  for (const PartitionInfo& info : report.store.partitions) {
    if (only && info.id != *only) continue;
    PartitionAudit audit(*reactor, report.store, info.id, &report, *options);
    report.partitions.push_back(co_await audit.Run());
  }
  for (uint32_t r = 0; r < report.store.reactors; ++r) {
    if (only && report.store.ReactorOf(*only) != r) continue;
    LogAudit audit(*reactor, report.store, r, &report);
    report.logs.push_back(co_await audit.Run());
  }
  co_return report;
}

}  // namespace

void CheckReport::Add(CheckProblem problem) {
  ++problems_total;
  if (!problem.partition) {
    whole_logs_damaged = true;
  } else if (std::find(damaged_partitions.begin(), damaged_partitions.end(), *problem.partition) ==
             damaged_partitions.end()) {
    damaged_partitions.push_back(*problem.partition);
  }
  if (problems.size() < kMaxProblems) problems.push_back(std::move(problem));
}

Task<Result<CheckReport>> CheckStore(Reactor& reactor, std::string data_dir, CheckOptions options) {
  CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(reactor, data_dir));
  CO_ASSIGN_OR_RETURN(File lock, co_await LockStoreForReading(reactor, data_dir));
  CheckReport report = co_await CheckAll(&reactor, std::move(store), std::nullopt, &options);
  if (lock.is_open()) CO_RETURN_IF_ERROR(co_await lock.Close());
  co_return report;
}

Task<CheckReport> CheckPartition(Reactor& reactor, StoreInfo store, uint32_t partition) {
  const CheckOptions options;
  co_return co_await CheckAll(&reactor, std::move(store), partition, &options);
}

}  // namespace pando
