// PartitionTopology: what the replicas of a reactor ask of the topology, which another reactor may own.
//
// Threads: that of the replicas.
#pragma once

#include <cstdint>

#include "src/base/result.h"
#include "src/io/task.h"
#include "src/topology/cluster_map.h"

namespace pando::replication {

// The outcome of a compare-and-swap of a partition's record.
struct RecordCas {
  pando::CasOutcome::Kind kind = pando::CasOutcome::Kind::kUnknown;
  // The record as it is now; nothing if the outcome is not known.
  Versioned<PartitionRecord> now;
};

class PartitionTopology {
 public:
  // Reads the record, currently.
  virtual Task<Result<Versioned<PartitionRecord>>> Read(uint32_t partition) = 0;
  // Writes the record if its revision is `expected`. An error of the topology is an unknown outcome,
  // unless it is certain that nothing was written: then it is a conflict.
  virtual Task<RecordCas> CompareAndSwap(PartitionRecord desired, Revision expected) = 0;

 protected:
  ~PartitionTopology() = default;
};

}  // namespace pando::replication
