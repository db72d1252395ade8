// SplitFeed: copies the records of a partition into its halves, while writes go on (docs/SPLIT.md).
//
//   Claim         once
//   CopyAll       what a snapshot of the whole has and the halves do not, and removes what they have too much
//   CopyChanges   the differences to a later snapshot; again and again, and once more while writes are held
//   CheckSums     that nothing is missing
//   Seal          so that the halves go on above the versions of the whole
//
// A feed that begins anew, here or on another node, claims the halves and copies all: it reads everything and
// writes what differs. It works on the partitions by the keys that they store, and calls nothing else of them.
//
// Of a lane (lane.h), a half gets what tells that a write was applied. It gets the result of a write of one
// operation. Of several operations, some may belong to the other half, so their results are left out.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies.
//
// Invariants
//   SF1  A half takes what a feed writes only as long as no later one has claimed it: each write has the claim as
//        its condition.
//   SF2  After CopyAll, and after each CopyChanges, each half has the records of the whole whose hashes are in its
//        range, as they are in the snapshot, and all lanes, and nothing else but the claim.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/limits.h"
#include "src/io/pace.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/model/partition.h"

namespace pando {

struct SplitFeedStats {
  uint64_t examined_records = 0;  // of the whole
  uint64_t copied_records = 0, copied_bytes = 0, removed_records = 0;
};

class SplitFeed {
 public:
  // What it takes at most: pages that were read, and writes, each of them also as its partition has it.
  static constexpr size_t kMemoryBytes = (4u << 20) + 6 * kMaxValueBytes;

  // The stored key of the claim. No lane has it, because clients have names.
  static std::string ClaimKey();
  // Its value: `told`, in 8 bytes (little-endian), and the claim. Once the half is sealed, `told` is the version of the
  // newest change of the whole; 0: it is not sealed. A half does not see every change of the whole, because what is
  // removed between two snapshots leaves no trace. So it has nothing to tell watchers that have not seen all up to it.
  static std::string ClaimValue(std::string_view claim, Version told);
  static Version ToldBefore(std::string_view value);

  struct Half {
    PartitionRecords* partition = nullptr;
    uint64_t first_hash = 0, last_hash = 0;
  };
  // All pointers outlive it. `bytes_per_s`: how fast records are read and written; 0: as fast as possible.
  // REQUIRES: the keys of the store begin with a namespace.
  SplitFeed(Reactor& reactor, RangeReads* whole, std::array<Half, 2> halves, uint64_t bytes_per_s);

  // `claim`: that nobody has used. Errors of all calls are those of the partitions, and then the feed may go on with
  // CopyAll; kAborted: a later feed has claimed a half (SF1), so this one is over.
  Task<Status> Claim(std::string claim);
  Task<Status> CopyAll(SnapshotId snapshot);
  // REQUIRES: the halves are as `since` was (SF2).
  Task<Status> CopyChanges(SnapshotId since, SnapshotId snapshot);
  // Whether count, bytes and content of the halves add up to those of the whole in the snapshot, whose version is
  // `version`. False: they do not. All are asked as of its time, so records that expire meanwhile make no difference,
  // as long as they are not swept: those of a half are not, nor those of a partition whose writes are held.
  Task<Result<bool>> CheckSums(SnapshotId snapshot, Version version);
  // Every version that a half gives from now on is above `newest` (SP6). `told`: as in ClaimValue. Once this has
  // returned, each half is led here, and has committed all that was written to it.
  Task<Status> Seal(Version newest, Version told);

  const SplitFeedStats& stats() const { return stats_; }

 private:
  struct HalfState {
    Half half;
    Version claim = 0;  // the version of the claim's record; 0: not claimed
    std::vector<WriteOp> ops;
    size_t bytes = 0;  // of `ops`
    Version newest = 0;
  };

  bool Wants(const HalfState& half, std::string_view key) const;
  WriteOp IfClaimed(const HalfState& half) const;
  Task<Status> Copy(HalfState* half, const ScanRow* row);
  Task<Status> RemoveFrom(HalfState* half, std::string key);
  Task<Status> Add(HalfState* half, WriteOp op);
  Task<Status> Flush(HalfState* half);
  Task<void> WriteOne(PartitionRecords* half, std::vector<WriteOp> ops, WriteOptions options, size_t bytes);
  Task<Status> EndPass(Status status);
  Task<Status> CompareAll(SnapshotId snapshot);
  Task<Status> CompareSince(SnapshotId since, SnapshotId snapshot);
  Task<Status> Compare(HalfState* half, const std::vector<ScanRow>* rows, std::string after, std::string last);

  Reactor& reactor_;
  RangeReads& whole_;
  std::array<HalfState, 2> halves_;
  std::string claim_;
  Pace pace_;
  size_t bytes_in_flight_ = 0;
  WaitQueue room_;
  Status failure_;  // of a write of this pass
  TaskGroup writes_;
  SplitFeedStats stats_;
};

}  // namespace pando
