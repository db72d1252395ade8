// The two forms of what the topology says about a partition: PartitionRecord (src/topology/cluster_map.h),
// as it is stored, and PartitionEntry, which the core of the protocol works with. This is the only place
// that converts them.
//
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "src/replication/partition_entry.h"
#include "src/topology/cluster_map.h"

namespace pando::replication {

// An OpId as the text that a record holds: UUID/INCARNATION/NUMBER. FromText returns the nil OpId, which
// no process gives to a change, for any other text: the record was written by something else than a
// replica.
std::string ToText(const OpId& op);
OpId OpIdFromText(std::string_view text);

// The node that holds the replica, if the record has it; and the replica that a node holds.
std::optional<NodeId> NodeOf(const PartitionRecord& record, const Uuid& replica);
const ReplicaRecord* ReplicaOn(const PartitionRecord& record, NodeId node);

PartitionEntry EntryOf(const Versioned<PartitionRecord>& known);

// The record to write for the proposal `desired`. What the core does not know (the nodes of replicas, the
// range of hashes, unknown fields) is that of `before`, the record at the revision that the CAS compares.
// REQUIRES: `before` has all replicas of `desired`; the core only moves them between the sets.
PartitionRecord RecordOf(const PartitionEntry& desired, const PartitionRecord& before);

}  // namespace pando::replication
