// Replica: the implementation of Partition. It ties together a tree, its file, and its stream in
// the log.
//
// Threads: one reactor.
//
// Invariants: those of partition.h, plus
//   P9  The space that a write or a merge was admitted against stays reserved for it until it is
//       allocated or counts as dirty. Dirty pages and the metadata of the next two checkpoints have
//       room. No checkpoint fails for lack of space.
//
// A write passes through these steps: admission (log budget, disk space); its leaves are fetched
// and pinned; its records are staged in the log; the records become durable; they are applied in
// LSN order without suspending; its caller is resumed. Conditions are evaluated when the write is
// applied, so every replica computes the same result.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "src/model/partition.h"
#include "src/partition/change_tail.h"
#include "src/partition/partition_file.h"
#include "src/partition/store.h"
#include "src/wal/log.h"

namespace pando {

class Replica final : public Partition, public LogConsumer {
 public:
  // A batch has at most one operation per this many frames of the pool.
  static constexpr size_t kFramesPerOp = 16;
  // Blocks freed in one generation are reusable once the next one is durable.
  static constexpr int kCheckpointsToFree = 2;
  struct Options {
    PartitionInfo info;
    uint64_t change_tail_bytes = ChangeTail::kMinBytes;
    std::function<void(const Status&)> on_failure;
    const Directory* store = nullptr;  // the store's directory; outlives the replica
  };

  static Task<Result<std::unique_ptr<Replica>>> Open(Reactor& reactor, BufferPool& pool, StoreInfo store,
                                                     Options options);
  ~Replica() override;

  // -- recovery, then service
  // Applies the part of `batch` that the checkpoint does not contain. Gaps and epochs that go
  // backwards are kCorruption.
  Task<Status> Replay(RecoveredBatch batch);
  void Serve(Log* log);
  // Called when the engine has failed. Refuses new requests and fails pending ones.
  void Stop(const Status& status) { FailPending(status); }
  // Waits for running writes and merges. No new ones are accepted.
  Task<void> Drain();
  Task<Status> Close();

  // -- Partition
  uint32_t id() const override { return options_.info.id; }
  const Uuid& uuid() const override { return options_.info.uuid; }
  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override;
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override;
  Task<Result<ScanPage>> Scan(ScanSpec spec) override;
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, SnapshotId snapshot) override;
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override;
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override;
  Version newest_change() const override { return changes_.newest(); }
  Task<Status> PrepareCut() override;
  Task<Result<Version>> HoldWrites() override;
  Task<Status> Cut(SnapshotInfo snapshot) override;
  Task<Status> AbandonCut() override;
  Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) override;
  Task<Status> ReleaseSnapshot(SnapshotId id) override;
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) override;
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) override;
  Task<Status> Checkpoint() override;
  PartitionStats stats() const override;

  // Releases the snapshots that have expired.
  void ExpireSnapshots();
  // Null: none is open. Valid until the next suspension.
  const SnapshotInfo* OldestSnapshot() const;
  void DropSnapshotIfOpen(SnapshotId id) {
    if (snapshots_.contains(id)) DropSnapshot(id);
  }

  // Whether expired records may still be stored. Sweep removes them through the log, in bounded
  // batches. After a failed sweep, the next one becomes due only after a delay.
  bool ExpiryDue() const {
    return next_expiry_ms_ != 0 && next_expiry_ms_ <= NowMs() && reactor_.NowNs() >= next_sweep_ns_;
  }
  Task<Status> Sweep();

  // -- LogConsumer
  void OnDurable(Lsn up_to) override;
  void OnLogFailed(const Status& status) override;

  // The time that decides expiry and from which versions are derived, so that readers and writers
  // agree on what has expired. It never goes backwards. If the clock is set back, this time
  // continues from the newest version, slightly slower than real time, so that the clock catches
  // up.
  int64_t NowMs() const { return NowMs(reactor_.WallMs()); }
  int64_t NowMs(int64_t wall_ms) const { return std::max(wall_ms, RunningMs()); }

  Tree& tree() { return *tree_; }
  const PartitionFile& partition_file() const { return *file_; }
  // For the scrubber, which holds generations, and the space releaser.
  PartitionFile& mutable_partition_file() { return *file_; }
  // Whether a checkpoint would make data durable, allow the log to be released, or free space.
  bool NeedsCheckpoint() const {
    return applied_lsn_ > file_->older_checkpoint_lsn() || checkpoints_to_free_ > 0 || !KnowsLog();
  }
  // The superblock records the end of the log, so a lost log is detected.
  bool KnowsLog() const { return file_->superblock().log_end > 0; }
  Nanos last_checkpoint_ns() const { return last_checkpoint_ns_; }
  // Blocks that must stay free so that admitted writes and dirty pages can be written and removes
  // can still be admitted.
  uint64_t BlocksToKeepFree() const { return PromisedBlocks() + ReservedBlocks(); }

 private:
  // A large value that an operation needs for its evaluation. It is read ahead of time, because all
  // the large values that one write may need do not fit into memory together.
  struct FoundValue {
    Extent location;
    bool equal = false;                // to the condition's value
    std::optional<std::string> bytes;  // empty if the reply has no room for it
  };
  struct CurrentRecord {
    ReadResult read;
    bool value_equal = false;  // to the condition's value
    bool value_known = true;   // false: read.value was left out
  };
  struct PendingWrite {
    std::vector<WriteOp>* ops = nullptr;  // null: a cut, not a write
    WriteOptions options;
    SnapshotInfo cut;
    std::vector<OpResult> results;
    std::vector<Version> versions;
    std::vector<Extent> extents;   // per operation: where its overflow value goes, or empty
    uint64_t admitted_blocks = 0;  // this write's share of Replica::admitted_blocks_
    std::vector<PagePin> pins;
    std::vector<FoundValue> found;  // per operation, once MakeReady has run
    size_t reply_bytes = 0;         // of the values handed back
    Lsn last_lsn = 0;
    Status status;
    bool done = false;
    std::coroutine_handle<> waiter;
  };

  // The state that a write that is not applied yet would give a key. Later operations of the same
  // write are judged against it.
  struct Effect {
    bool found = false;
    Version version = 0;
    int64_t expires_at_ms = 0;
    bool value_in_tree = false;  // the record was only touched
    std::string_view value;      // the value of a put; points into its operation
    std::string number;          // the result of an increment
  };
  using Effects = std::map<std::string_view, Effect>;
  struct Verdict {
    OpOutcome outcome = OpOutcome::kApplied;
    int64_t number = 0;  // kIncrement
  };

  // co_await Applied{&pending} resumes once the write has been applied or has failed.
  struct Applied {
    PendingWrite* pending;
    bool await_ready() const { return pending->done; }
    void await_suspend(std::coroutine_handle<> h) { pending->waiter = h; }
    void await_resume() {}
  };

  Replica(Reactor& reactor, BufferPool& pool, Options options);

  Status Refusal() const;  // why requests are refused now, or OK
  Task<Status> Admit(PendingWrite* pending, LogSpace* log_space);
  Status BeginAppend(WriteControl* control) const;
  // replica_space.cc
  uint64_t CheckpointBlocks() const;
  uint64_t PromisedBlocks() const;
  uint64_t BlocksFor(RecordOp op, size_t key_bytes, size_t value_bytes) const;
  uint64_t ReservedBlocks() const;
  Task<Status> AdmitBlocks(uint64_t blocks, bool only_removes, uint64_t* admitted);
  Task<Status> AdmitMerge(uint64_t* admitted);
  void TakeAdmitted(uint64_t blocks, uint64_t* admitted);
  static std::vector<std::string> KeysOf(const std::vector<WriteOp>& ops);
  Task<Status> FetchForWrite(PendingWrite* pending);
  void Stage(PendingWrite* pending);
  void Finish(PendingWrite* pending, Status status);
  void FailPending(const Status& status);
  void FailOne(PendingWrite* pending);

  size_t FramesFor(const std::vector<WriteOp>& ops) const;
  void ApplyDurable();
  Task<void> ApplySlowly();
  bool ReadyToApply(PendingWrite* pending);
  Task<Status> MakeReady(PendingWrite* pending);
  void FetchForNext(const PendingWrite* pending);
  Task<void> FetchAhead(std::vector<std::string> keys);
  // replica_apply.cc
  void Apply(PendingWrite* pending);
  void NoteChanges(const PendingWrite& pending);
  std::vector<OpOutcome> Judge(const PendingWrite* pending);
  OpOutcome JudgeOp(const PendingWrite* pending, size_t index, Effects* effects);
  CurrentRecord Foresee(const PendingWrite* pending, size_t index, const Effects& effects);
  CurrentRecord ForeseeStored(const PendingWrite* pending, size_t index, Frame* leaf);
  void RefuseAll(PendingWrite* pending, const std::vector<OpOutcome>& outcomes);
  static Verdict Decide(const WriteOp& op, const CurrentRecord& current);
  Frame* LeafOf(const WriteOp& op);
  OpResult ApplyExpire(Frame* leaf, const WriteOp& op, OpResult result);
  OpResult ApplyOp(PendingWrite* pending, size_t index);
  OpResult Refuse(PendingWrite* pending, size_t index, OpOutcome outcome, CurrentRecord current);
  static void HandBack(PendingWrite* pending, CurrentRecord current, OpResult* result);
  CurrentRecord ReadCurrent(PendingWrite* pending, size_t index, Frame* leaf);
  Task<Status> ReadFound(PendingWrite* pending, size_t index, OverflowRef ref, uint32_t value_bytes);
  bool ReadResident(Frame* leaf, std::string_view key, int64_t now_ms, ReadResult* out, RecordView* unread);
  Status TakeRoom(Frame* leaf, std::string_view key, int64_t now_ms, ValueRoom* room, size_t* taken_bytes);
  Task<Status> ReadOverflow(SnapshotId snapshot, OverflowRef ref, uint32_t value_bytes, std::string* out);
  bool NeedsCurrentValue(const WriteOp& op) const {
    if (op.op == RecordOp::kIncrement || op.condition.value || op.return_previous) return true;
    return op.op != RecordOp::kExpire && !op.condition.empty() && !op.current_value_unwanted;
  }
  int64_t RunningMs() const {
    const int64_t passed_ms = (reactor_.NowNs() - clock_ns_) / kMillisecond;
    return clock_ms_ + passed_ms - passed_ms / kClockCatchUp;
  }
  void GiveVersion(Version version);
  // replica_upkeep.cc
  void NoteExpiry(int64_t expires_at_ms);
  void MergeSoon(const std::string& key);
  Task<void> MergeQueued();
  Task<Status> MergeOne(std::string key);
  void MergeOldSoon();
  Task<void> MergeOld();
  Task<Status> MergeBornAfter(Generation since);

  // replica_replay.cc
  struct ReplayedOp;
  Task<Status> ReplayBatch(std::span<const LogRecord> records, bool begins_write);
  Task<Result<bool>> IsRefused(std::span<const LogRecord> records);
  Task<Status> ReplayRecord(LogRecord record);
  Task<void> MakeRoomToReplay(std::span<const LogRecord> records, uint64_t* admitted);
  void SetReplayed(Lsn lsn);
  Task<void> Prefetch(std::string key);
  void BeginCheckpoint();
  struct WaitingCut;
  void TakeCut(SnapshotInfo snapshot);
  void DropSnapshot(SnapshotId id);
  Status SnapshotGone() const;
  // What a read sees: the snapshot's generation (0 = the newest tree) and the time that decides
  // expiry.
  struct View {
    Generation generation = 0;
    int64_t now_ms = 0;
  };
  Result<View> ViewOf(SnapshotId snapshot) const;
  // replica_pages.cc
  struct PageRead;
  Task<Status> WaitUntilOnDisk(SnapshotId id);
  Task<void> ReadImage(PageRead* read);
  Task<void> ReadImages(std::vector<PageRead>* reads, size_t* next);
  Result<std::vector<PageImage>> ValuesOf(const PageImage& leaf, Generation since) const;
  Task<Status> AddRun(const PageRun* run, Generation since, PageCursor from, size_t max_bytes, PageBatch* batch);
  Task<Status> FinishCheckpoint();
  Task<void> FinishSnapshotCheckpoint();
  Task<Status> ReserveCheckpoint();
  void EndCheckpoint();
  // A null pin means that the snapshot is gone.
  Task<Result<PagePin>> FetchLeafIn(View view, std::string key, bool before);
  // replica_scan.cc
  enum class ScanStep : uint8_t { kMore, kOver, kReadValue };
  class ChangeGatherer;
  struct UnreadRow {  // its value must be read first
    ScanRow row;
    OverflowRef ref;
    uint32_t value_bytes = 0;
  };
  ScanStep ScanLeaf(const Node& node, int64_t now_ms, ScanSpec* spec, ScanPage* page, UnreadRow* unread);
  ScanStep ScanLeafReverse(const Node& node, int64_t now_ms, ScanSpec* spec, ScanPage* page, UnreadRow* unread);
  Task<Result<ScanPage>> ScanChanges(ScanSpec spec);
  ScanStep AddRow(const Node& node, uint32_t slot, int64_t now_ms, ScanSpec* spec, ScanPage* page, UnreadRow* unread);

  Reactor& reactor_;
  BufferPool& pool_;
  Options options_;
  std::unique_ptr<PartitionFile> file_;
  std::unique_ptr<Tree> tree_;
  Log* log_ = nullptr;
  LogStream* stream_ = nullptr;

  Epoch epoch_ = 1;
  Lsn last_lsn_ = 0, durable_lsn_ = 0, applied_lsn_ = 0;
  Version last_version_ = 0, applied_version_ = 0;
  Version cut_version_ = 0;  // of the last snapshot
  std::deque<PendingWrite*> pending_;
  bool applying_slowly_ = false;
  bool fetching_ahead_ = false;
  // The write that ApplySlowly is fetching pages for; it must not be answered meanwhile.
  PendingWrite* preparing_ = nullptr;
  bool draining_ = false;
  Status failure_;
  // Promised to writes that have neither allocated them nor been applied.
  uint64_t admitted_blocks_ = 0;
  size_t active_writes_ = 0;  // running Write and PrepareCut calls, for Drain
  WaitQueue idle_;

  ChangeTail changes_;

  int64_t next_expiry_ms_ = 0;  // no stored record expires before this time; 0 = no record expires
  int64_t new_expiry_ms_ = 0;   // the same for the records stored since the running sweep began
  Nanos next_sweep_ns_ = 0;
  static constexpr int64_t kClockCatchUp = 64;
  int64_t clock_ms_ = 0;  // what NowMs was, or the clock showed, at clock_ns_
  Nanos clock_ns_ = 0;

  bool checkpoint_running_ = false;
  WaitQueue checkpoint_done_;
  std::map<SnapshotId, SnapshotInfo> snapshots_;
  bool writes_held_ = false;
  WaitQueue writes_resumed_;
  Superblock frozen_;  // of the generation being checkpointed
  Nanos last_checkpoint_ns_ = 0;
  Nanos disk_full_ns_ = 0;  // when a write was last refused for lack of disk space; 0: not since one was admitted

  std::set<std::string> merge_keys_;
  bool merging_ = false;
  bool merging_old_ = false;
  // No leaf last changed in this generation or earlier is worth merging.
  Generation merged_through_ = 0;
  int checkpoints_to_free_ = 0;  // checkpoints to go until the space that merges released is free
  TurnSlice apply_slice_{pool_.turn()};
  TaskGroup tasks_;
  PartitionStats stats_;
};

}  // namespace pando
