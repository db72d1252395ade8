// What a node has to do about splits (docs/SPLIT.md): decisions from what the topology says and what the node holds.
// SplitDriver carries them out, and asks again until there is nothing to do. So nothing needs to be remembered, and a
// node that takes over goes on where another one was.
//
// Threads: pure functions.
//
// Invariants
//   SD1  Who fills a half has changed its record before, in this mastership of the whole. So nothing that anybody
//        began before, such as giving the half up, can still change the record.
//   SD2  A half is given up only if the record of the whole, read after that of the half, says that it serves and is
//        not being split; or to be made anew, by the master of the whole that is being split.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/topology/cluster_map.h"

namespace pando {

// What there is to do for one partition that is, was, or was to be split.
struct SplitTask {
  enum class Kind : uint8_t {
    kSplit,     // the master of the whole is here, and it is to be split
    kGiveUp,    // the same, and it is not to be split; the halves are being built
    kOpen,      // it is split; halves whose masters are here are to be opened
    kComplete,  // a half whose master is here serves, and lacks a replica on a node that was away during the split
  };
  Kind kind = Kind::kSplit;
  uint32_t whole = 0;
  std::array<uint32_t, 2> halves{};
  uint32_t rate_mb_s = 0;  // kSplit
  Epoch epoch = 0;         // kSplit: of the mastership here
  bool operator==(const SplitTask&) const = default;
};

// By number. REQUIRES: the map has the record of the cluster.
std::vector<SplitTask> SplitTasksOf(const ClusterMap& map, NodeId self);

// The partitions whose splits may run now: those whose halves are being built, and further ones in the order of their
// numbers, if no other one that runs or comes first, or whose halves are being opened, has a replica on the same node.
// A node keeps memory for the halves of one split at a time, and splits that took it from each other would wait for
// each other for ever.
std::set<uint32_t> SplitsThatMayRun(const ClusterMap& map);

// The node that is to get one more replica of a half that serves, because what it is a part of had one there. Nothing:
// the half has as many as it should have, one of them is on its way, or that node has been removed or drained.
std::optional<NodeId> LackingNode(const ClusterMap& map, const PartitionRecord& half);

// Whether all nodes can speak that version of the peer protocol.
Status CheckProtocol(const ClusterMap& map, uint32_t protocol);
// Whether the partition can be split in this cluster, which needs that version. The error says why not.
Status CheckMaySplit(const ClusterMap& map, uint32_t partition, uint32_t protocol);

// The replica of a half that the node holds.
struct HeldHalf {
  Uuid replica;
  bool serves = false;  // as master, all of its log known to be committed
};

struct HalfInput {
  NodeId self = 0;
  const PartitionRecord* whole = nullptr;
  const PartitionRecord* half = nullptr;  // null: there is no record
  std::optional<HeldHalf> held;
  std::set<NodeId> reached;  // nodes that this one reaches, itself included
  // The replica that this process has written into the record and has not made yet.
  std::optional<Uuid> to_make;
  bool taken_over = false;  // SD1 holds
  // It has been waited for another node for so long that the half is rather made anew.
  bool patience_over = false;
};

struct HalfStep {
  enum class Kind : uint8_t {
    kWait,
    kMakeRecord,     // for a new replica here, in the next lineage
    kTakeOver,       // change the record (SD1), with as many replicas as the whole is to have
    kDrop,           // the data here, of another replica
    kMakeReplica,    // that of the record
    kBecomeMaster,   // ask the master to hand over to this node
    kAddReplica,     // on `node`
    kRemoveReplica,  // `replica`
    kSetMinIsr,      // to `min_isr`
    kReady,          // it can be filled
  };
  Kind kind = Kind::kWait;
  NodeId node = 0;  // also kBecomeMaster: whom to ask
  Uuid replica;
  uint32_t min_isr = 0;
  std::string why;              // kWait: a sentence
  bool for_other_node = false;  // kWait: patience is limited
};

// The next step to a half that can be filled here. REQUIRES: the record of the whole names `self` as master.
HalfStep NextStepForHalf(const HalfInput& input);

// The record of a half that has one replica, on this node. `before`: the one that there is; null: none.
PartitionRecord NewHalfRecord(uint32_t id, const PartitionRecord& whole, uint32_t base, const PartitionRecord* before,
                              NodeId self, const Uuid& replica);

}  // namespace pando
