// PartitionState: what the parts of a Replica share: the tree and its file, the partition's
// positions in the log, its clock, and the phase that it is in.
//
// Each field names the part that writes it; all parts read it.
//
// Threads: one reactor.
//
// Invariants
//   PH1  The phase changes only along the arrows below. Nothing is served before recovery is
//        complete, nothing is admitted once the partition drains, and a failure is final.
//
//          kRecovering --> kServing --> kDraining --> kClosed
//             |   |           |             |            ^
//             |   +-----------|--> kDraining|            |
//             +---------------+-------------+--> kFailed-+
//             +---------------+-------------+--> kQuarantined --> kClosed
//             |               |             |          |             ^
//             +---------------+-------------+----------+--> kDropped-+
//
//   PH3  A quarantined partition answers every request with the reason, its file is not written, and
//        the log keeps its units as long as there is room. The others are not concerned.
//   PH4  A dropped partition does the same, except that the log keeps nothing of it: store.meta does
//        not name it any more.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "src/btree/tree.h"
#include "src/io/sync.h"
#include "src/model/commit_gate.h"
#include "src/model/key_space.h"
#include "src/model/types.h"
#include "src/partition/apply_unit.h"
#include "src/partition/change_tail.h"
#include "src/partition/lane.h"
#include "src/partition/partition_clock.h"
#include "src/partition/partition_file.h"
#include "src/partition/store.h"
#include "src/partition/unit_history.h"
#include "src/wal/log.h"

namespace pando {

enum class Phase : uint8_t {
  kRecovering,  // opened; the log is being replayed
  kServing,
  kDraining,  // finishes what is running and begins nothing new; checkpoints are still possible
  kClosed,
  kFailed,       // the engine has failed: finishes what is running with errors
  kQuarantined,  // its file or its part of the log is damaged: the same, while the others go on
  kDropped,      // the store does not hold it any more: the same
};

// How much may be durable and wait to be committed (WQ2).
struct UncommittedLimits {
  uint64_t bytes = 8u << 20;  // of the log
  uint64_t records = 4096;
};

struct PartitionState {
  // `max_history`: see UnitHistory.
  PartitionState(Reactor& r, BufferPool& p, PartitionInfo i, std::shared_ptr<StoreClock> store_clock,
                 size_t max_history = 1)
      : reactor(r), pool(p), info(i), history(max_history), clock(r, std::move(store_clock)), idle(r) {}

  uint32_t id() const { return info.id; }
  // Whether a stored key is of the store itself, and nothing that a request knows.
  bool IsReserved(std::string_view stored) const { return namespaced && stored.starts_with(kLaneKeys.prefix()); }
  UnitEnd applied_end() const { return {applied_lsn, applied_epoch, applied_version}; }
  // No record of the tree is newer.
  Version newest_in_tree() const { return applied_version != 0 ? applied_version : floor_version; }

  // -- the phase
  Phase phase() const { return phase_; }
  void Enter(Phase to);
  // The first failure or quarantine is remembered; later ones change nothing.
  void Fail(const Status& status) { Fail(status, Phase::kFailed); }
  void Quarantine(const Status& why) { Fail(why, Phase::kQuarantined); }
  void Drop();
  bool failed() const { return !failure_.ok(); }  // or out of service
  bool quarantined() const { return phase_ == Phase::kQuarantined; }
  // Quarantined or dropped: nothing is written to its file, while the others go on.
  bool out_of_service() const { return quarantined() || phase_ == Phase::kDropped; }
  const Status& failure() const { return failure_; }
  // Whether background work may go on.
  bool works() const { return phase_ == Phase::kRecovering || phase_ == Phase::kServing; }
  Status Refusal() const;  // why requests are refused now, or OK

  Reactor& reactor;
  BufferPool& pool;
  const PartitionInfo info;
  std::unique_ptr<PartitionFile> file;
  std::unique_ptr<Tree> tree;
  Log* log = nullptr;  // null until the partition serves
  LogStream* stream = nullptr;
  std::function<void(const Status&)> on_failure;
  // The partition's file, or what the log holds of it, cannot be used.
  std::function<void(const Status&)> on_damage;

  // There may be background work to do: the partition has changed, or a snapshot was opened. Tells the
  // engine, once until it has looked (src/engine/work_list.h).
  void NoteBusy() {
    if (!std::exchange(busy, true) && on_busy) on_busy();
  }
  bool busy = false;
  std::function<void()> on_busy;

  std::unique_ptr<CommitGate> gate;
  UncommittedLimits uncommitted_limits;
  uint64_t max_lanes = kMaxLanes;
  bool namespaced = false;     // StoreInfo::namespaced
  Epoch epoch = 1;             // of the records appended; WritePipeline
  Epoch applied_epoch = 1;     // of the record at applied_lsn; Applier
  Lsn last_lsn = 0;            // of the records appended; WritePipeline
  Lsn durable_lsn = 0;         // WritePipeline
  Lsn committed_lsn = 0;       // WritePipeline
  Lsn applied_lsn = 0;         // Applier
  uint64_t last_chain = 0;     // after last_lsn; WritePipeline
  uint64_t applied_chain = 0;  // after applied_lsn; Applier
  // Of the record at applied_lsn; Applier. 0: not known, because nothing was applied since the start.
  Version applied_version = 0;
  // The highest one given by the opened checkpoint, or since to a snapshot; SnapshotTable. A partition that
  // follows is given lower ones if it had another master when they were given.
  Version floor_version = 0;
  UnitHistory history;  // up to last_lsn; WritePipeline, and Recovery
  PartitionClock clock;
  ChangeTail changes;  // Applier

  // When a write was last refused for lack of disk space, and what the largest refused one needed; 0: one
  // that needs as much was admitted since. WritePipeline
  Nanos disk_full_ns = 0;
  uint64_t disk_full_blocks = 0;
  void NoteDiskFull(uint64_t blocks) {
    disk_full_ns = reactor.NowNs();
    disk_full_blocks = std::max(disk_full_blocks, blocks);
  }
  void NoteAdmitted(uint64_t blocks) {
    if (blocks >= disk_full_blocks) disk_full_ns = disk_full_blocks = 0;
  }

  // Calls that Drain waits for.
  size_t active_calls = 0;
  WaitQueue idle;
  TaskGroup tasks;
  PartitionStats stats;  // the counters; Replica::stats() fills in the rest

 private:
  void Fail(const Status& status, Phase to);
  Phase phase_ = Phase::kRecovering;
  Status failure_;
};

// Counts a call for Drain.
class ActiveCall {
 public:
  explicit ActiveCall(PartitionState* state) : state_(*state) { ++state_.active_calls; }
  ActiveCall(const ActiveCall&) = delete;
  ~ActiveCall() {
    if (--state_.active_calls == 0) state_.idle.NotifyAll();
  }

 private:
  PartitionState& state_;
};

}  // namespace pando
