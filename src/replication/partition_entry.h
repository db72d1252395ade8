// PartitionEntry: what the topology says about one partition. It is one key, changed only by a
// compare-and-swap (CAS) on its revision, so the topology is the consensus of this protocol.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>

#include "src/replication/replica_set.h"

namespace pando::replication {

// Names one proposal of one process. A proposal that is sent again keeps its name.
struct OpId {
  ReplicaId replica;
  uint64_t incarnation = 0;
  uint64_t number = 0;
  bool operator==(const OpId&) const = default;
};

struct PartitionEntry {
  uint64_t lineage = 0;  // grows when an operator accepts a loss of data
  Epoch epoch = 0;       // of the mastership that the topology knows
  ReplicaId master;
  ReplicaSet isr;         // the in-sync replicas, with the master
  ReplicaSet assigned;    // those that may promise: the ISR and those that were evicted from it
  ReplicaSet learners;    // those that are being installed; they neither count nor promise
  uint32_t replicas = 0;  // R: so many there should be
  uint32_t min_isr = 0;   // no value of the topology has a smaller ISR (I10)
  // Splits (docs/SPLIT.md). As in PartitionRecord.
  PartitionStage stage = PartitionStage::kServing;
  std::optional<SplitOrder> split;
  Lsn opened_lsn = 0;
  OpId op_id;             // of the CAS that wrote this value
  uint64_t revision = 0;  // of this value; 0: none is known

  bool known() const { return revision != 0; }
  // Nobody leads the partition any more, nor will.
  bool retired() const { return stage == PartitionStage::kRetired; }
  // Whether the other one says the same of the partition, whoever wrote it, in whatever mastership.
  bool SaysTheSame(const PartitionEntry& other) const {
    return isr == other.isr && assigned == other.assigned && learners == other.learners && replicas == other.replicas &&
           min_isr == other.min_isr && stage == other.stage && split == other.split && opened_lsn == other.opened_lsn;
  }
};

// What the topology answered to a CAS.
enum class CasOutcome : uint8_t {
  kApplied,   // the value is the proposed one now
  kConflict,  // the revision was another one: this CAS has not landed and never will
  kUnknown,   // no answer: it may have landed, may land later, or never will
};

}  // namespace pando::replication
