#include "src/node/partition_sums.h"

#include <algorithm>
#include <utility>

namespace pando {

std::optional<PartitionStats> PartitionSums::Add(std::span<Partition* const> partitions,
                                                 const PartitionStats& dropped) {
  // One that is dropped later is in the sums already, or will be from the next time on.
  if (next_id_ == 0) sums_.AddCounters(dropped);
  const auto before = [](const Partition* p, uint64_t id) { return p->id() < id; };
  auto next = std::lower_bound(partitions.begin(), partitions.end(), next_id_, before);
  for (size_t i = 0; i < kPerCall && next != partitions.end(); ++i, ++next) {
    const PartitionStats p = (*next)->stats();
    next_id_ = uint64_t{(*next)->id()} + 1;
    sums_.AddCounters(p);
    sums_.file_bytes += p.file_bytes;
    sums_.used_bytes += p.used_bytes;
    sums_.hole_bytes += p.hole_bytes;
    sums_.snapshots = std::max(sums_.snapshots, p.snapshots);
    sums_.cluster_snapshots = std::max(sums_.cluster_snapshots, p.cluster_snapshots);
    sums_.snapshot_pinned_bytes += p.snapshot_pinned_bytes;
    sums_.changes_kept += p.changes_kept;
    sums_.uncommitted_bytes += p.uncommitted_bytes;
  }
  if (next != partitions.end()) return std::nullopt;
  next_id_ = 0;
  return std::exchange(sums_, PartitionStats());
}

}  // namespace pando
