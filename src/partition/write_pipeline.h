// WritePipeline: takes a client's write from admission to its reply.
//
// A write passes through these steps: admission (log budget, disk space); its leaves are fetched
// and pinned; its records are encoded and appended to the log as one unit; the unit becomes durable,
// then committed; the Applier applies it in LSN order; its caller is resumed. A write that is
// refused before the append has changed nothing.
//
// A partition that follows another replica is given units instead (AppendUnit), and they take the same
// way from their append on.
//
// Three watermarks divide the units: the last one appended, the last durable one, and the last
// committed one. The log moves the second (OnDurable), the partition's CommitGate the third (Commit).
// Until it is committed, a unit is only log: it can be superseded by a higher epoch (BeginEpoch).
//
// Threads: one reactor.
//
// Invariants: P1, P3, P4 and P7 of partition.h, plus
//   WQ1  The queue holds the units that were appended and are not applied, in LSN order. An entry
//        leaves it at the front when it is applied. It leaves earlier only on failure, when it is
//        superseded, or when the partition closes before it is committed; a mark can be withdrawn.
//   WQ2  While the gate lags, a write is refused if it would exceed what may be durable and not
//        committed (UncommittedLimits), in bytes of the log or in records. A partition that cannot
//        commit then neither fills the log of the others nor the memory. Beyond the limits there is
//        only what was on its way to the disk when they were reached.
//        A unit of another replica, whose writes its master has bounded in this way, is refused if too
//        much that is committed waits to be applied, or if there is far more of it than a master allows.
//   LV3  A write at ALL is acknowledged once all replicas have it; one at ONE once it is durable here. What is
//        acknowledged at ONE is applied later like any other write, or is superseded.
//   LV4  A write that a change of master holds has taken nothing but its request's memory, and is then appended or
//        refused; until it is appended it can be withdrawn.
//   CM7  The mark of a snapshot of the cluster is appended when the time has come to its version, or right before a
//        write that is given a higher one. So until then the versions here are no higher than the time has brought.
//   WQ3  Once the partition has given up what is not committed, nothing more is committed. Whatever
//        waits for a commit, or comes to wait for it, leaves the queue with an error.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/partition/applier.h"
#include "src/partition/block_admission.h"
#include "src/partition/write_queue.h"

namespace pando {

class WritePipeline {
 public:
  WritePipeline(PartitionState& state, BlockAdmission& admission, Applier& applier)
      : state_(state),
        admission_(admission),
        applier_(applier),
        writes_resumed_(state.reactor),
        marks_due_(state.reactor) {}
  ~WritePipeline();

  // See Partition. In write_calls.cc.
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options);

  // Begins a write whose leaf is in memory, if nothing has to be waited for but the log. See
  // PointWrite. REQUIRES: `leaf` is what the tree found for the key, with no suspension since, and so is
  // `lane` for that of its kOnce; null: it has none.
  bool TryWrite(PointWrite* write, Frame* leaf, Frame* lane);

  // No write is appended from HoldWrites to ResumeWrites.
  void HoldWrites();
  void ResumeWrites();
  bool holds_writes() const { return writes_held_; }
  // Adds a mark after every write appended so far. It may be reached within the call, or leave the
  // queue because it never will be.
  void Enqueue(QueueMark* mark);
  void Withdraw(QueueMark* mark, Status status);
  size_t size() const { return queue_.size(); }
  void CheckInvariants() const;

  // Records up to this LSN are durable.
  void OnDurable(Lsn up_to);
  // See GatedPartition.
  void Commit(Lsn up_to);
  void BeginEpoch(Epoch epoch, Lsn after);
  Lsn UnitEndBefore(Lsn lsn) const;
  Status AppendUnit(const WriteUnit& unit);
  void Supersede(const HistoryPoint& after);
  uint64_t Room() const;
  uint64_t uncommitted_bytes() const { return appended_bytes_ - committed_bytes_; }
  // Appends what is durable and not committed to the log once more, so that the segments in which it
  // lies can be released. Does nothing while an earlier call is under way.
  void AppendTailAgain();
  // Adds a unit that the log has, or gets now, and that the gate has not committed. Nobody waits for it.
  // kInvalidArgument: it does not fit. Nothing has changed then.
  Status Restore(std::unique_ptr<LoggedUnit> unit);
  // The most that operations need.
  struct OpCost {
    size_t encoded_bytes = 0;
    size_t frames = kFramesPerUpdate;
    uint64_t blocks = 0;
  };
  // Adds what `op` needs to that of other operations of the same write.
  void AddCost(const WriteOp& op, OpCost* cost) const;
  // kInvalidArgument: a unit with so many operations, or that needs so many new frames, can never be
  // applied whole in this pool.
  Status CheckFits(size_t ops, size_t frames) const;
  // The partition drains. Writes that are durable and not committed are answered: whether they take
  // effect is unknown. So are, once they are durable, those that are on their way to the disk.
  void GiveUpUncommitted();
  // The partition has drained: nothing more is committed, and the gate is not called again.
  void CloseGate();
  // Refuses new writes, and answers those in the queue: whether they took effect is unknown.
  void Fail(const Status& status);
  // The partition is out of service: the same, except that what is on its way to the disk is answered
  // once it is there, because the log goes on and still reads it. If the partition was dropped, the stream
  // has ended, and all are answered at once.
  void OnOutOfService();

 private:
  // Who applies what is committed.
  enum class Applying : uint8_t {
    kAtOnce,     // Commit does it itself
    kInTask,     // a task does, because a page must be waited for or the turn is used up
    kPreparing,  // as kInTask; it fetches pages for the write at the front, which must stay alive
  };
  struct ClientWrite : LoggedUnit {
    std::vector<WriteOp> ops;  // until they are encoded
    WriteOptions options;
    size_t encoded_bytes = 0;  // the most that `encoded` will have
    bool appended = false;     // a mark, by the write that it has to precede
    UnitReply reply;
  };

  // A write at level kOne that waits until the unit that ends there is durable.
  struct DurableWait {
    Lsn lsn = 0;
    Status status;
    bool done = false;
    std::coroutine_handle<> waiter;
    bool await_ready() const { return done; }
    void await_suspend(std::coroutine_handle<> h) { waiter = h; }
    void await_resume() {}
  };

  // write_calls.cc
  Task<Result<std::vector<OpResult>>> WriteHere(std::vector<WriteOp> ops, WriteOptions options, SessionPoint* end);
  static Task<Result<std::vector<OpResult>>> WriteToAll(WritePipeline* pipeline, std::vector<WriteOp> ops,
                                                        WriteOptions options);
  Status CheckOne(const std::vector<WriteOp>& ops) const;
  Status MayAppend(const WriteOptions& options) const;
  Task<Status> Prepare(ClientWrite* write, LogSpace* log_space);
  Task<Status> AppendAndApply(ClientWrite* write, LogSpace* log_space);
  Task<Status> AppendAndSync(ClientWrite* write, LogSpace* log_space);
  void EndDurableWaits();
  // Those after `lsn`.
  void FailDurableWaits(Lsn lsn);
  // Waits for room in the log and on the disk, or refuses the write before anything has happened.
  Task<Status> Admit(ClientWrite* write, LogSpace* log_space);
  Task<Status> Fetch(ClientWrite* write);
  Status CheckDisks(const OpCost& cost) const;
  bool MayPin() const;
  Status BeginAppend(const ClientWrite& write) const;
  Status CheckClose(const WriteOp& op) const;
  Status CheckFeed(const ClientWrite& write) const;
  Task<void> UntilDue(ClientWrite* mark);
  Version FirstMark() const { return waiting_marks_.front()->ops.front().version; }
  void AppendFirstMark();
  // Those at or below `version`.
  void AppendMarksUpTo(Version version);
  // CM7: before a write whose writer has seen `seen` gets versions for so many records.
  void AppendMarksBefore(Version seen, size_t records) {
    while (!waiting_marks_.empty() && FirstMark() <= state_.clock.Next(seen) + records - 1) AppendFirstMark();
  }
  void WakeWriters() {
    writes_resumed_.NotifyAll();
    marks_due_.NotifyAll();
  }
  // Whether WQ2 allows another write of so many encoded bytes and operations.
  bool UncommittedFits(size_t encoded_bytes, size_t ops) const;
  struct Uncommitted {
    uint64_t bytes = 0, records = 0;
  };
  Uncommitted DurableUncommitted() const;
  Status CheckUncommitted(const ClientWrite& write) const;
  bool MayBeSent(const WriteOp& once) const;
  Status AheadOfTime(const WriteOp& once) const;
  bool MayTakeLane() const;
  bool TakeLane();
  Task<Status> CheckLane(const WriteOp* once);
  void Encode(ClientWrite* write);
  void DecodeOwn(LoggedUnit* unit);
  // followed_units.cc
  Status DecodeUnit(const WriteUnit& unit, LoggedUnit* logged) const;
  Status CheckRoom() const;
  const LoggedUnit* LastUnit() const;
  void FetchSoon(const ApplyUnit& unit);
  Task<void> FetchFollowed(std::vector<std::string> keys);
  void GrowSoon();
  Task<void> GrowAhead();
  void Append(LoggedUnit* entry);
  void Push(LoggedUnit* entry);
  void Leave(QueueEntry* entry, Status status);
  void LeaveFailed(QueueEntry* entry);
  void See(Version seen);
  // point_writes.cc
  void EncodePoint(const PointWrite& write, PointUnit* unit);
  void FinishPoint(PointUnit* unit, Status status);
  // The unit will not be applied: frees what was allocated for it.
  void LeaveUnapplied(QueueEntry* entry, Status status);
  void FreeValues(ApplyUnit* unit);
  std::deque<QueueEntry*>::iterator EntryAfter(Lsn lsn);
  std::deque<QueueEntry*>::const_iterator EntryAfter(Lsn lsn) const;
  void DropAfter(Lsn lsn);

  bool FrontIsCommitted() const { return !queue_.empty() && queue_.front()->last_lsn <= state_.committed_lsn; }
  bool FrontIsReady();
  const ApplyUnit* PinnedUnit(size_t index) const;
  void PrefetchLeaf(size_t index) const;
  void PrefetchRecord(size_t index) const;
  void ApplyCommitted();
  void ApplyFront();
  Task<void> ApplyInTask();
  Task<bool> PrepareFront();
  Task<Status> PlaceFront(LoggedUnit* logged);
  Task<Status> PlaceValues(LoggedUnit* logged);
  void FetchForNext();
  Task<void> FetchAhead(std::vector<std::string> keys);
  void AnswerFailed();
  Task<void> AnswerInTask();

  PartitionState& state_;
  BlockAdmission& admission_;
  Applier& applier_;
  std::deque<QueueEntry*> queue_;
  std::deque<DurableWait*> durable_waits_;  // in LSN order
  std::deque<QueueEntry*> unanswered_;      // they have left the queue, because the partition is out of service
  // Of units that this process has appended or restored: in all, up to the commit LSN, and up to what is
  // applied.
  uint64_t appended_bytes_ = 0, committed_bytes_ = 0, applied_bytes_ = 0;
  // At most so many lanes there are: as counted last, and those begun since.
  std::optional<uint64_t> lanes_at_most_;
  // Units whose second place in the log is not durable yet, of the last call to AppendTailAgain.
  size_t appended_again_ = 0;
  uint64_t again_round_ = 0;
  bool gave_up_ = false;      // WQ3: a unit that is not committed was dropped, or the gate is closed
  bool gate_closed_ = false;  // it has had its last call
  Applying applying_ = Applying::kAtOnce;
  TurnSlice apply_slice_{state_.pool.turn()}, append_slice_{state_.pool.turn()}, answer_slice_{state_.pool.turn()};
  size_t fetches_ = 0;           // FetchFollowed that run
  bool fetching_ahead_ = false;  // FetchAhead runs
  bool growing_ahead_ = false;   // GrowAhead runs
  bool cannot_grow_ = false;     // it has found the disk full
  bool answering_ = false;       // AnswerInTask runs
  bool writes_held_ = false;
  WaitQueue writes_resumed_;
  std::vector<ClientWrite*> waiting_marks_;  // UntilDue, the lowest version first
  WaitQueue marks_due_;
};

}  // namespace pando
