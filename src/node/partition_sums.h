// PartitionSums adds up the statistics of a reactor's partitions for the metrics page, a bounded number of
// them at each call. Partitions come and go between two calls, and each is added once.
//
// Threads: the partitions' reactor.
#pragma once

#include <optional>
#include <span>

#include "src/model/partition.h"

namespace pando {

class PartitionSums {
 public:
  static constexpr size_t kPerCall = 256;

  // Adds the next partitions. `partitions`: those that there are now, ascending by ID. `dropped`: what those
  // have counted that there are no more, which is not forgotten. Returns the sums once all have been added.
  std::optional<PartitionStats> Add(std::span<Partition* const> partitions, const PartitionStats& dropped);

 private:
  PartitionStats sums_;
  uint64_t next_id_ = 0;  // those below it have been added
};

}  // namespace pando
