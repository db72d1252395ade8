// CutSnapshot: one snapshot through several partitions, at one moment.
//
// Every partition first finishes its running checkpoint, then holds its writes back, then cuts. Because all hold before
// the first one cuts, and no write is acknowledged meanwhile, the snapshot has every write that was acknowledged before
// it was asked for, and with a write everything that its writer had seen acknowledged. Writes wait for one round of
// messages; the cuts themselves, and what was appended before them, are waited for behind that.
//
// Threads: one reactor; partitions of other reactors come in as proxies.
//
// Invariants
//   SC1  Partitions are prepared in the order given, which must be the same for all callers (ascending ids): two
//        callers cannot wait for each other.
//   SC2  After a failure no partition holds its writes back, and none has the snapshot.
#pragma once

#include <vector>

#include "src/io/reactor.h"
#include "src/partition/partition.h"

namespace pando {

// The snapshot's id and version; its version exceeds all before it in all partitions.
Task<Result<SnapshotInfo>> CutSnapshot(Reactor& reactor, std::vector<Partition*> partitions, int64_t expires_at_ms);

// Every partition is told. OK when all had it; kSnapshotGone when one had not.
Task<Status> RenewSnapshot(std::vector<Partition*> partitions, SnapshotId id, int64_t expires_at_ms);
Task<Status> ReleaseSnapshot(std::vector<Partition*> partitions, SnapshotId id);

}  // namespace pando
