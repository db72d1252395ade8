// WorkList: which of an engine's partitions need background work now: a checkpoint, the release of
// a snapshot, or the removal of expired records.
//
// A node may have thousands of partitions, most of them idle. An idle partition costs nothing here:
// it is looked at again when it has changed (PartitionState::NoteBusy), or when the first of its
// records expires.
//
// Threads: one reactor.
//
// Invariants
//   BG1  A partition that has changed since its last two checkpoints, that has units of its log to
//        apply, or that has an open snapshot, is busy. A quarantined one is not in the list (PH3).
//   BG2  The busy partitions are looked at so seldom that this takes a small share of the time,
//        however many they are. Idle ones are not looked at.
#pragma once

#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/io/reactor.h"
#include "src/model/types.h"

namespace pando {

class BufferPool;
class Replica;
struct LogStats;
struct EngineOptions;

class WorkList {
 public:
  // `max_listed`: the most extents that the lists of all partitions together may have. All arguments
  // outlive this object.
  WorkList(Reactor& reactor, const BufferPool& pool, const EngineOptions& options, uint64_t max_listed)
      : reactor_(reactor), pool_(pool), options_(options), max_listed_(max_listed) {}

  // A replica is served from now on, and at first counts as busy. It stays until Remove.
  void Add(Replica* replica);
  void Remove(Replica* replica);
  void NoteBusy(Replica* replica);

  // Whether so much log is retained that the partition that pins the oldest part should release it.
  bool LogIsLong(const LogStats& log) const;
  // Whether it is not only long, but short of room.
  bool LogIsShort(const LogStats& log) const;
  // Releases snapshots whose time is over, and the oldest one early if they retain too much. Then
  // returns the partition to checkpoint next, or null if there is none. `pins`: the partition that
  // pins the oldest log, if it should release it.
  Replica* NextToCheckpoint(Replica* pins, bool log_is_short);
  void NoteCheckpoint(Replica* replica, const Status& status);

  // The IDs of the partitions from which expired records are to be removed now. Call NoteSwept for each
  // that is still there.
  std::vector<uint32_t> SweepsDue();
  void NoteSwept(Replica* replica);

  size_t busy() const { return busy_.size(); }

 private:
  struct Entry {
    Replica* replica = nullptr;
    bool busy = false;
    int64_t sweep_ms = 0;  // its place in sweeps_; 0: none
    Nanos failed_ns = 0;   // when its last checkpoint failed; 0: it did not
  };
  bool MayCheckpoint(const Replica& replica) const;
  bool IsBusy(const Replica& replica) const;
  void Look();
  void ExpireSnapshots();
  void SumPending();
  uint64_t UsedBlocks();
  void SetSweep(Entry* entry, int64_t at_ms);

  Reactor& reactor_;
  const BufferPool& pool_;
  const EngineOptions& options_;
  const uint64_t max_listed_;
  std::unordered_map<uint32_t, Entry> entries_;  // by ID
  std::vector<Replica*> busy_;
  std::set<std::pair<int64_t, uint32_t>> sweeps_;  // (when, ID), of idle partitions
  Nanos next_look_ns_ = 0;
  // What the last look found: the one whose checkpoint frees the most space, if there is too much to
  // free, and those whose last checkpoint is too long ago, the oldest at the back.
  Replica* most_pending_ = nullptr;
  std::vector<Replica*> overdue_;
  uint64_t used_blocks_ = 0;
  Nanos used_until_ns_ = 0;  // until when used_blocks_ may be used
};

}  // namespace pando
