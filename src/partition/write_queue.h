// The entries of the queue of writes: what was appended to the log and is not applied yet.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <string>

#include "src/model/point_write.h"
#include "src/partition/apply_unit.h"
#include "src/partition/block_admission.h"

namespace pando {

// A place in the queue.
struct QueueEntry {
  // co_await QueueEntry::Left{&entry} resumes once the entry has left the queue.
  struct Left {
    QueueEntry* entry;
    bool await_ready() const { return entry->done; }
    void await_suspend(std::coroutine_handle<> h) { entry->waiter = h; }
    void await_resume() {}
  };

  // Who is told that the entry has left the queue.
  enum class Waiter : uint8_t {
    kCoroutine,  // `waiter`, if there is one
    kNobody,     // a LoggedUnit that the queue owns
    kPoint,      // the client of a PointUnit, which the pipeline owns
  };

  ApplyUnit* unit = nullptr;  // null: a mark
  Lsn last_lsn = 0;           // of the unit, or of the last one before the mark
  uint64_t end_bytes = 0;     // of units that this process has appended, up to the end of this one
  Waiter waits = Waiter::kCoroutine;
  Status status;  // of an entry that has left the queue
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

// A unit of the log, and what it needs until it is applied.
struct LoggedUnit : QueueEntry {
  std::string encoded;  // AU1: the unit points into it, and the log reads it until it is durable
  ApplyUnit content;
  AdmittedBlocks blocks;
  uint64_t wanted_blocks = 0;  // of the disk, that could not be promised to it yet
};

// The unit of a PointWrite. Used again for the next one, with the memory that it has.
struct PointUnit : LoggedUnit {
  PointWrite* client = nullptr;
  UnitReply reply;
};

}  // namespace pando
