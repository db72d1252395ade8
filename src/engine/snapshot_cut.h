// CutSnapshot: cuts one snapshot through several partitions at a single moment.
//
// Every partition first finishes its running checkpoint, then holds its writes back, then cuts. All
// partitions hold their writes before the first one cuts, and no write is acknowledged meanwhile.
// The snapshot therefore contains every write that was acknowledged before the request. For each
// write in it, it also contains every write that the writer had seen acknowledged. Writes wait for
// one round of messages. They do not wait for the cuts to complete or for the writes that were
// appended before them.
//
// Threads: one reactor. Partitions of other reactors are passed as proxies.
//
// Invariants
//   SC1  Partitions are prepared in the given order, which must be the same for all callers
//        (ascending IDs). Two callers therefore cannot deadlock.
//   SC2  After a failure no partition holds its writes back, and none has the snapshot.
#pragma once

#include <vector>

#include "src/io/reactor.h"
#include "src/model/partition.h"

namespace pando {

// Returns the snapshot's ID and version. The version exceeds all earlier versions in all
// partitions.
Task<Result<SnapshotInfo>> CutSnapshot(Reactor& reactor, std::vector<Partition*> partitions, int64_t expires_at_ms);
// A snapshot of what one partition has applied (SnapshotInfo::is_copy). It waits for no write.
Task<Result<SnapshotInfo>> CutCopy(Reactor& reactor, Partition* partition, int64_t expires_at_ms);

// Both call every partition. OK: all had the snapshot. kSnapshotGone: at least one did not.
Task<Status> RenewSnapshot(std::vector<Partition*> partitions, SnapshotId id, int64_t expires_at_ms);
Task<Status> ReleaseSnapshot(std::vector<Partition*> partitions, SnapshotId id);

}  // namespace pando
