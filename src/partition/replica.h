// Replica: the implementation of Partition. It holds the parts of one replica, and wires them to
// each other and to the log.
//
//   WritePipeline    a write from admission to its reply
//   Applier          what a write does to the tree
//   Recovery         the log after a start
//   PartitionReader  reads of the newest state and of snapshots
//   SnapshotTable    the open snapshots
//   ClusterMarks     those of them that are of a whole cluster
//   Checkpointer     checkpoints
//   BlockAdmission   promises of disk space
//   Upkeep           expiry and merges
//
// All of them share a PartitionState.
//
// Threads: one reactor.
//
// Invariants, in addition to those of partition.h
//   PL1  A replica is destroyed only after Drain and Close. Drain waits for all calls, and for all
//        who hold the replica. A registered one has left the log, or the log is closed.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/btree/tree.h"
#include "src/model/partition.h"
#include "src/partition/applier.h"
#include "src/partition/block_admission.h"
#include "src/partition/checkpointer.h"
#include "src/partition/cluster_marks.h"
#include "src/partition/partition_reader.h"
#include "src/partition/partition_state.h"
#include "src/partition/quarantine.h"
#include "src/partition/recovery.h"
#include "src/partition/snapshot_table.h"
#include "src/partition/upkeep.h"
#include "src/partition/write_pipeline.h"

namespace pando {

class Replica final : public Partition, public LogConsumer, public GatedPartition {
 public:
  struct Options {
    PartitionInfo info;
    std::shared_ptr<StoreClock> clock = std::make_shared<StoreClock>();
    uint64_t change_tail_bytes = ChangeTail::kMinBytes;
    std::function<void(const Status&)> on_failure;
    // Called once when the partition is quarantined. Discard then.
    std::function<void(const QuarantinedPartition&)> on_quarantine = {};
    std::unique_ptr<CommitGate> gate;  // null: CommitAtOnce
    UncommittedLimits uncommitted_limits;
    uint64_t max_lanes = kMaxLanes;
    size_t history_points = 1;                      // UnitHistory
    uint64_t reader_retained_bytes = 0;             // of the log, for each reader (Log::OpenReader)
    Pace* gather_pace = nullptr;                    // Gatherer
    std::function<void()> on_busy = {};             // PartitionState::NoteBusy
    std::atomic<uint64_t>* change_count = nullptr;  // ChangeTail::CountIn
    std::atomic<Version>* newest_change = nullptr;  // ChangeTail::PublishIn
    // Clients may have seen versions up to this one of another partition with this ID. They learn that it is
    // gone, and all of this one's are higher.
    Version seen_before = 0;
    const Directory* store = nullptr;            // the store's directory; outlives the replica
    std::function<Task<bool>()> make_room = {};  // PartitionFile::set_make_room
  };

  static Task<Result<std::unique_ptr<Replica>>> Open(Reactor& reactor, BufferPool& pool, const StoreInfo& store,
                                                     Options options);

  // A partition that could not be opened, and that is quarantined.
  static std::unique_ptr<Replica> OpenQuarantined(Reactor& reactor, BufferPool& pool, Options options,
                                                  const Status& why);
  // Whether the error means that the partition cannot be used as it is, and the others can.
  static bool IsDamage(const Status& status) {
    return status.code() == Code::kCorruption || status.code() == Code::kIoError || status.code() == Code::kNotFound;
  }

  // -- recovery, then service. A quarantined partition ignores what the log holds of it. Damage that
  // is found quarantines it, and is no error.
  Task<Status> Replay(RecoveredUnits found);
  Status OnCut(const RecoveredCut& cut);
  Task<Status> OnMark(StreamMark mark);
  Task<Status> FinishReplay();
  void Serve(Log* log);

  // -- quarantine (PH3)
  // The file of the partition, or what the log holds of it, is damaged. Refuses new requests, fails
  // pending ones, and stops writing to the file. The others go on.
  void Quarantine(const Status& why);
  bool quarantined() const { return state_.quarantined(); }
  QuarantinedPartition quarantine() const;                         // REQUIRES: quarantined()
  bool out_of_service() const { return state_.out_of_service(); }  // quarantined or dropped
  const Status& failure() const { return state_.failure(); }
  // Waits until nothing runs in the partition, which is out of service, and frees the memory of its
  // pages.
  Task<void> Discard();
  // The log needs the room, so it drops the units of the quarantined partition. It still says that
  // they existed: the next start finds that they are missing.
  void DropUnits();

  // -- dropping (PH4)
  // Refuses new requests, fails pending ones, and stops writing to the file.
  void Drop();
  // After Drop: waits until nothing runs in the partition, frees the memory of its pages, and removes
  // it from the log. Then Close. Fails only with the engine.
  Task<Status> Leave();

  // Called when the engine has failed. Refuses new requests and fails pending ones.
  void Stop(const Status& status) { pipeline_.Fail(status); }
  // No new writes are accepted. Those that run are finished as far as they do not wait for a commit;
  // those that do are answered.
  void BeginDrain();
  // Waits for running writes and merges. Before it is called for one of several replicas, call
  // BeginDrain for all of them: a cut through them waits for each.
  Task<void> Drain();
  Task<Status> Close();

  // -- Partition
  uint32_t id() const override { return state_.id(); }
  const Uuid& uuid() const override { return state_.info.uuid; }
  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    return reader_.Get(std::move(key), snapshot, room);
  }
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    return pipeline_.Write(std::move(ops), options);
  }
  // See WritePipeline.
  bool TryWrite(PointWrite* write, Frame* leaf, Frame* lane) { return pipeline_.TryWrite(write, leaf, lane); }
  Task<Result<ScanPage>> Scan(ScanSpec spec) override { return reader_.Scan(std::move(spec)); }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    return reader_.Aggregate(std::move(start), std::move(end), at);
  }
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override {
    return reader_.KeysAtRanks(std::move(start), std::move(end), std::move(ranks), snapshot);
  }
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    return reader_.Changes(after, std::move(prefix), max_changes, max_bytes);
  }
  Version newest_change() const override { return state_.changes.newest(); }
  Task<Status> PrepareCut() override { return snapshots_.PrepareCut(); }
  Task<Result<Version>> HoldWrites() override { return snapshots_.HoldWrites(); }
  Task<Status> Cut(SnapshotInfo snapshot) override { return snapshots_.Cut(snapshot); }
  Task<Status> AbandonCut() override { return snapshots_.AbandonCut(); }
  Task<Status> RenewSnapshot(SnapshotId id, int64_t expires_at_ms) override;
  Task<Status> ReleaseSnapshot(SnapshotId id) override;
  Task<Result<Version>> HighestVersion() override;
  Task<Result<SessionPoint>> CloseAt(CloseMark mark) override { return marks_.Close(mark); }
  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId id) override { return reader_.DescribeSnapshot(id); }
  Task<Result<PageBatch>> ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) override {
    return reader_.ReadPages(id, since, std::move(from), max_bytes);
  }
  Task<Status> Checkpoint() override;
  PartitionStats stats() const override;
  // Only what stats() counts; cheap for thousands of partitions.
  const PartitionStats& counters() const { return state_.stats; }

  // -- LogConsumer
  void OnDurable(Lsn up_to) override {
    state_.NoteBusy();
    pipeline_.OnDurable(up_to);
    if (waits_for_commit()) upkeep_.NoteStall();
  }
  void OnLogFailed(const Status& status) override;

  // -- GatedPartition
  void Commit(Lsn up_to) override {
    state_.NoteBusy();
    pipeline_.Commit(up_to);
  }
  void BeginEpoch(Epoch epoch, Lsn after) override { pipeline_.BeginEpoch(epoch, after); }
  Lsn UnitEndBefore(Lsn lsn) const override { return pipeline_.UnitEndBefore(lsn); }
  Epoch epoch() const override { return state_.epoch; }
  HistoryPoint end() const override { return state_.history.end(); }
  HistoryPoint durable() const override;
  Lsn committed_lsn() const override { return state_.committed_lsn; }
  Lsn applied_lsn() const override { return state_.applied_lsn; }
  SessionPoint applied() const override { return {state_.applied_epoch, state_.applied_lsn}; }
  bool log_half_used() const override { return state_.log->HalfUsed(); }
  std::optional<HistoryPoint> PointAt(Lsn lsn) const override;
  HistoryPoint EpochEnd(Epoch epoch) const override { return state_.history.EpochEnd(epoch); }
  Task<Result<LogSpace>> WaitForRoom(size_t unit_bytes, Nanos deadline_ns) override;
  bool HasRoom(size_t unit_bytes) const override { return state_.Refusal().ok() && state_.log->HasSpace(unit_bytes); }
  Status AppendUnit(const WriteUnit& unit) override { return pipeline_.AppendUnit(unit); }
  void Supersede(const HistoryPoint& after) override { pipeline_.Supersede(after); }
  uint64_t Room() const override { return pipeline_.Room(); }
  Result<std::unique_ptr<LiveReader>> OpenReader(const HistoryPoint& after) override;

  // For tests: CHECKs what must hold between two turns.
  void CheckInvariants() const;
  void AppendTailAgain() { pipeline_.AppendTailAgain(); }
  // Writes are durable, but the gate has not committed them.
  bool waits_for_commit() const { return state_.durable_lsn > state_.committed_lsn; }

  // -- for the engine's policies, the scrubber and the space releaser
  // Keeps the replica open until the result is destroyed: Drain waits for it. Whoever keeps a pointer
  // to a replica while it is suspended holds it (PL1), and soon ends once serving() is false.
  ActiveCall Hold() { return ActiveCall(&state_); }
  bool serving() const { return state_.phase() == Phase::kServing; }
  // The engine has looked, and there was nothing to do.
  void NoteIdle() { state_.busy = false; }
  bool has_units_to_apply() const { return state_.applied_lsn < state_.durable_lsn; }
  bool has_snapshots() const { return snapshots_.size() > 0; }
  const PartitionClock& clock() const { return state_.clock; }
  void CountRead() { ++state_.stats.reads_total; }  // that the engine answered from memory
  Tree& tree() { return *state_.tree; }
  const PartitionFile& partition_file() const { return *state_.file; }
  PartitionFile& mutable_partition_file() { return *state_.file; }
  const Checkpointer& checkpointer() const { return checkpointer_; }
  const BlockAdmission& block_admission() const { return admission_; }
  SnapshotTable& snapshots() { return snapshots_; }
  Upkeep& upkeep() { return upkeep_; }
  const Upkeep& upkeep() const { return upkeep_; }

 private:
  Replica(Reactor& reactor, BufferPool& pool, Options options);
  // Quarantines the partition if that is what the error means; else returns it.
  Status Judge(Status status);

  // Stops writing to the file, and wakes everybody who must learn that.
  void Condemn();

  const uint64_t change_tail_bytes_;
  const Version seen_before_;
  const uint64_t reader_retained_bytes_;
  bool draining_ = false, discarding_ = false;  // Drain, and Discard, runs
  WaitQueue drained_, discarded_;
  const std::function<void(const QuarantinedPartition&)> on_quarantine_;
  int64_t quarantined_ms_ = 0;
  bool units_dropped_ = false;
  PartitionState state_;
  // The parts refer to each other, so some to members that are declared after them.
  Checkpointer checkpointer_{state_, upkeep_};
  BlockAdmission admission_{state_, checkpointer_};
  Upkeep upkeep_{state_, checkpointer_, admission_, pipeline_};
  Applier applier_{state_, upkeep_, marks_};
  WritePipeline pipeline_{state_, admission_, applier_};
  SnapshotTable snapshots_{state_, checkpointer_, pipeline_};
  ClusterMarks marks_{state_, checkpointer_, snapshots_, pipeline_};
  Gatherer gatherer_;
  PartitionReader reader_{state_, checkpointer_, snapshots_, gatherer_};
  Recovery recovery_{state_, checkpointer_, admission_, applier_};
};

}  // namespace pando
