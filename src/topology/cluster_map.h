// The cluster map: what the topology holds about a cluster, its nodes and its partitions. Each has
// a key and a value of its own, so that a change of one compares only the revision of that one.
//
//   cluster             ClusterRecord
//   node/7              NodeRecord
//   partition/00012     PartitionRecord
//   controller          ControllerRecord; there may be none
//
// Values are JSON objects; docs/FORMAT.md describes them. Encode writes the fields in alphabetical
// order, without spaces, so that equal records are equal bytes. Values of format 1 are still read, and
// have a newer one after they were changed: format 2, or 3 if they say something that builds which do
// not know format 3 must not pass over.
//
// The op_id of a record is text that is new with every write of it, so that whoever has not learned
// the outcome of a write recognises it (JudgeUnknown in topology.h). NewOpId makes one.
//
// Threads: plain values.
//
// Invariants
//   TM1  Fields that this build does not know survive: what Decode found and does not understand,
//        Encode writes again, in the record itself and in each of its replicas.
//   TM2  Every record that Encode returns, and every one that Decode accepts, passes Check. So for
//        partitions |ISR| >= min_isr >= 1, the master is in the ISR, and no UUID appears twice.
//   TM3  Which partitions serve follows from the records alone. Of a partition and its halves, either it
//        serves or they do, and the record of the one that was split decides (docs/SPLIT.md).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/hash_ranges.h"
#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/topology/topology_store.h"

namespace pando {

using NodeId = uint32_t;  // from 1; never reused within a cluster

inline constexpr int kTopologyFormat = 3;     // the newest
inline constexpr uint32_t kMaxReplicas = 16;  // of one partition, of any state
inline constexpr size_t kMaxPeerAddresses = 256;
inline constexpr size_t kMaxOpIdBytes = 128;
inline constexpr uint32_t kMaxNodeWeight = 64;
// The versions of the protocol between nodes that this build speaks (src/replication/wire.h).
inline constexpr uint32_t kSpokenProtocolMin = 1, kSpokenProtocolMax = 3;

// The fields of a JSON object that this build does not know, as the text of an object, or empty.
using UnknownFields = std::string;

struct ClusterRecord {
  Uuid cluster_id;                         // given once; a node refuses the topology of another cluster
  uint32_t protocol = kSpokenProtocolMax;  // the version that the nodes speak with each other now
  uint32_t partitions = 0;                 // how many there were when the cluster was created: 2^k
  uint32_t replicas = 0;                   // R of partitions that are created from now on
  uint32_t min_isr = 0;                    // and their min_isr
  // What the cluster is being created with, until all of its records are there (cluster_init.h). No
  // node serves a cluster for which this is not empty.
  std::string creating;
  std::string op_id;  // of the write that left this value
  UnknownFields unknown;
  bool operator==(const ClusterRecord&) const = default;
};

enum class NodeState : uint8_t { kActive, kDraining, kRemoved };

struct NodeRecord {
  NodeId id = 0;
  // Where it listens, host:port: for clients, and for other nodes, one address for each of its
  // reactors, in their order. A node writes its own when it starts; before its first start there are
  // none.
  std::string client_address;
  std::vector<std::string> peer_addresses;
  std::string zone;     // replicas of a partition go to different ones; may be empty
  uint32_t weight = 1;  // its capacity: a node with twice the weight is to hold twice as much
  NodeState state = NodeState::kActive;
  uint32_t protocol_min = kSpokenProtocolMin, protocol_max = kSpokenProtocolMax;  // that this node's build speaks
  // Start counters; see src/topology/start_counter.h. `starts` is also the incarnation of the
  // node's process.
  uint64_t starts = 0, opened = 0;
  std::string op_id;
  UnknownFields unknown;
  bool operator==(const NodeRecord&) const = default;
};

struct ReplicaRecord {
  NodeId node = 0;
  Uuid replica;  // changes when its disk was lost or restored
  UnknownFields unknown;
  bool operator==(const ReplicaRecord&) const = default;
};

// Whether a partition serves its range (docs/SPLIT.md).
enum class PartitionStage : uint8_t {
  kServing,
  kBuilding,  // a half, which serves once the partition that it is a half of is retired
  kRetired,   // nobody needs its data: it was split, or it is a half of a split that was given up
};

// A split that runs.
struct SplitOrder {
  uint32_t rate_mb_s = 0;  // how fast the halves are filled; 0: without a limit
  UnknownFields unknown;
  bool operator==(const SplitOrder&) const = default;
};

struct PartitionRecord {
  uint32_t id = 0;
  uint64_t first_hash = 0, last_hash = 0;  // its range of hash IDs, both included
  uint64_t lineage = 1;                    // grows when an operator accepts a loss of data
  Epoch epoch = 1;                         // grows by one with each master
  Uuid master;                             // of the ISR
  std::vector<ReplicaRecord> isr;          // must hold a record before it is committed
  std::vector<ReplicaRecord> evicted;      // assigned and counted, but not in the ISR
  std::vector<ReplicaRecord> learners;     // being installed; not counted
  uint32_t replicas = 0;                   // R: how many there should be
  uint32_t min_isr = 0;                    // the ISR never has fewer members
  PartitionStage state = PartitionStage::kServing;
  std::optional<SplitOrder> split;  // only of one that serves
  // Of a half that serves: its replicas answer clients once they have applied this (SP4). 0: at once. Only of one that
  // is not being built.
  Lsn opened_lsn = 0;
  std::string op_id;
  UnknownFields unknown;
  bool operator==(const PartitionRecord&) const = default;
};

enum class Replacing : uint8_t { kAsStarted, kOn, kOff };

// Who gives the replicas of nodes that stay away to other nodes (src/node/controller.h).
struct ControllerRecord {
  NodeId holder = 0;         // 0: nobody yet
  uint64_t incarnation = 0;  // of its process
  uint64_t renewed = 0;      // grows as long as the holder holds the key
  // Whether that is done at all: as the nodes' flags say, or as an operator has said since.
  Replacing replacing = Replacing::kAsStarted;
  std::string op_id;
  UnknownFields unknown;
  bool operator==(const ControllerRecord&) const = default;
};

// min_isr for R replicas, unless the operator says something else.
constexpr uint32_t DefaultMinIsr(uint32_t replicas) { return replicas / 2 + 1; }

// Whether a half that is in this state serves, or a partition of the first row. `whole`: the state of the one that it
// is a half of; nullopt: there is none (TM3).
constexpr bool ServesIn(PartitionStage state, std::optional<PartitionStage> whole) {
  return state == PartitionStage::kServing || (state == PartitionStage::kBuilding && whole == PartitionStage::kRetired);
}

// The UUID of the partition itself. All of its replicas use it, so it is not random but derived from
// what identifies the partition.
Uuid PartitionUuid(const Uuid& cluster_id, uint32_t id);

inline constexpr std::string_view kClusterKey = "cluster";
inline constexpr std::string_view kControllerKey = "controller";
std::string NodeKey(NodeId id);
std::string PartitionKey(uint32_t id);
std::optional<NodeId> NodeOfKey(std::string_view key);  // nullopt: it is not the key of a node
std::optional<uint32_t> PartitionOfKey(std::string_view key);

// Whether the record keeps the rules of its kind (TM2). kInvalidArgument says which it breaks.
Status Check(const ClusterRecord& record);
Status Check(const NodeRecord& record);
Status Check(const PartitionRecord& record);
Status Check(const ControllerRecord& record);

// Returns the value for the record. An error is that of Check, or that the value is too long.
Result<std::string> Encode(const ClusterRecord& record);
Result<std::string> Encode(const NodeRecord& record);
Result<std::string> Encode(const PartitionRecord& record);
Result<std::string> Encode(const ControllerRecord& record);

// Returns kCorruption, with the key, for a value that is not such a record; kVersion for one of a
// format that this build does not know.
Result<ClusterRecord> DecodeCluster(const TopologyEntry& entry);
Result<NodeRecord> DecodeNode(const TopologyEntry& entry);
Result<PartitionRecord> DecodePartition(const TopologyEntry& entry);
Result<ControllerRecord> DecodeController(const TopologyEntry& entry);
// The op_id of any record, or nullopt.
std::optional<std::string> OpIdOf(const std::string& value);

// A record and the revision that the next change of it must compare.
template <typename Record>
struct Versioned {
  Record record;
  Revision revision = 0;
};

// All records, as far as they are known.
struct ClusterMap {
  std::optional<Versioned<ClusterRecord>> cluster;
  std::map<NodeId, Versioned<NodeRecord>> nodes;
  std::map<uint32_t, Versioned<PartitionRecord>> partitions;
  std::optional<Versioned<ControllerRecord>> controller;

  // Takes the newer state of one key. Keys of other kinds are for other builds, and are passed over.
  Status Apply(const TopologyEntry& entry);
  // Whether the partition serves its range (TM3).
  bool Serves(uint32_t id) const;
  // Those that do, by ID.
  std::vector<uint32_t> Serving() const;
  // What does not fit together, one sentence each: hash ranges that are missing or overlap, and
  // replicas on nodes that are not there. Empty for a complete map.
  std::vector<std::string> Problems() const;
};

}  // namespace pando
