// WritePipeline: takes a client's write from admission to its reply.
//
// A write passes through these steps: admission (log budget, disk space); its leaves are fetched
// and pinned; its records are encoded and appended to the log as one unit; the unit becomes durable,
// then committed; the Applier applies it in LSN order; its caller is resumed. A write that is
// refused before the append has changed nothing.
//
// Three watermarks divide the units: the last one appended, the last durable one, and the last
// committed one. The log moves the second (OnDurable). What is durable is committed when Commit
// says so. A partition with one replica commits what is durable, at once.
//
// Threads: one reactor.
//
// Invariants: P1, P3, P4 and P7 of partition.h, plus
//   WQ1  The queue holds the units that were appended and are not applied, in LSN order. An entry leaves it at
//        the front when it is applied, or on failure; only a mark can be withdrawn.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "src/partition/applier.h"
#include "src/partition/block_admission.h"

namespace pando {

// A place in the queue of writes.
struct QueueEntry {
  // co_await QueueEntry::Left{&entry} resumes once the entry has left the queue.
  struct Left {
    QueueEntry* entry;
    bool await_ready() const { return entry->done; }
    void await_suspend(std::coroutine_handle<> h) { entry->waiter = h; }
    void await_resume() {}
  };

  ApplyUnit* unit = nullptr;  // null: a mark
  Lsn last_lsn = 0;           // of the unit, or of the last one before the mark
  Status status;              // of an entry that has left the queue
  bool done = false;
  std::coroutine_handle<> waiter;
};

// Something to do between two writes.
class QueueMark : public QueueEntry {
 public:
  // Called when every write appended before the mark has been applied, and none after it.
  virtual void OnReached() = 0;

 protected:
  ~QueueMark() = default;
};

class WritePipeline {
 public:
  WritePipeline(PartitionState& state, BlockAdmission& admission, Applier& applier)
      : state_(state), admission_(admission), applier_(applier), writes_resumed_(state.reactor) {}

  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options);  // see Partition

  // No write is appended from HoldWrites to ResumeWrites.
  void HoldWrites();
  void ResumeWrites();
  bool holds_writes() const { return writes_held_; }
  // Adds a mark after every write appended so far. It may be reached within the call.
  void Enqueue(QueueMark* mark);
  void Withdraw(QueueMark* mark, Status status);
  size_t size() const { return queue_.size(); }

  // Records up to this LSN are durable.
  void OnDurable(Lsn up_to);
  // Units up to this LSN, which ends one, are committed and may be applied.
  void Commit(Lsn up_to);
  // Refuses new writes, and answers those in the queue: whether they took effect is unknown.
  void Fail(const Status& status);

 private:
  // Who applies what is committed.
  enum class Applying : uint8_t {
    kAtOnce,     // Commit does it itself
    kInTask,     // a task does, because a page must be waited for or the turn is used up
    kPreparing,  // as kInTask; it fetches pages for the write at the front, which must stay alive
  };
  struct ClientWrite : QueueEntry {
    std::vector<WriteOp> ops;  // until they are encoded
    WriteOptions options;
    size_t encoded_bytes = 0;  // the most that `encoded` will have
    std::string encoded;       // AU1: the unit points into it, and the log reads it until it is durable
    ApplyUnit content;
    UnitReply reply;
    AdmittedBlocks blocks;
  };

  // Waits for room in the log and on the disk, or refuses the write before anything has happened.
  Task<Status> Admit(ClientWrite* write, LogSpace* log_space);
  Status CheckFits(size_t ops, size_t frames) const;
  Task<Status> Fetch(ClientWrite* write);
  bool MayPin() const;
  Status BeginAppend(WriteControl* control) const;
  void Encode(ClientWrite* write);
  void Append(ClientWrite* write);
  void Leave(QueueEntry* entry, Status status);
  void LeaveFailed(QueueEntry* entry);

  bool FrontIsCommitted() const { return !queue_.empty() && queue_.front()->last_lsn <= state_.committed_lsn; }
  bool FrontIsReady();
  void ApplyCommitted();
  void ApplyFront();
  Task<void> ApplyInTask();
  Task<bool> PrepareFront();
  void FetchForNext();
  Task<void> FetchAhead(std::vector<std::string> keys);

  PartitionState& state_;
  BlockAdmission& admission_;
  Applier& applier_;
  std::deque<QueueEntry*> queue_;
  Applying applying_ = Applying::kAtOnce;
  TurnSlice apply_slice_{state_.pool.turn()};
  bool fetching_ahead_ = false;  // FetchAhead runs
  bool writes_held_ = false;
  WaitQueue writes_resumed_;
};

}  // namespace pando
