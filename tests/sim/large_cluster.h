// LargeCluster: a cluster of many nodes and partitions in the simulated kernel, to measure what grows with their
// number: what the topology holds and carries, and what nodes say to each other.
//
// The cluster map, the topology and its watch, the placement, the links between nodes with their frames, and the
// protocol (ReplicaCore) are those of production. Logs are models (SimLog), and there are no engines, records and
// clients: 100 nodes with all of these would not fit into one process. LargeNode repeats what HostedReplica and
// ReplicaHost do for the protocol.
//
// Threads: that of the simulation.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/io/sync.h"
#include "src/replication/partition_record.h"
#include "src/replication/peer_links.h"
#include "src/replication/replica_core.h"
#include "src/topology/cluster_map.h"
#include "src/topology/move_plan.h"
#include "src/topology/topology.h"
#include "src/topology/topology_watch.h"
#include "tests/sim/replication_sim_log.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_topology.h"

namespace pando::replication {

// What all nodes together have asked of the topology, and what it has answered.
struct TopologyTraffic {
  uint64_t reads = 0, lists = 0, checks = 0, swaps = 0, waits = 0;
  uint64_t listed_bytes = 0, checked_bytes = 0, change_bytes = 0, written_bytes = 0;
  TopologyTraffic operator-(const TopologyTraffic& other) const;
};

class LargeNode final : private PeerHandler {
 public:
  // What outlives a process.
  struct Disk {
    SimLog log;
    Epoch promised = 0;
    uint64_t lineage = 0;
  };
  using Disks = std::map<uint32_t, std::shared_ptr<Disk>>;

  LargeNode(SimReactor* reactor, NodeId id, uint64_t incarnation, const Uuid& cluster_id, SimTopologyServer* server,
            TopologyTraffic* traffic, Disks disks);
  ~LargeNode();

  void Start();
  Task<void> Stop();

  NodeId id() const { return id_; }
  const Disks& disks() const { return disks_; }
  bool Serves(uint32_t partition) const;
  size_t masters() const;
  size_t replicas() const;
  size_t links_up() const { return static_cast<size_t>(links_->metrics().links_up.value()); }
  const PeerMetrics& peer_metrics() const { return links_->metrics(); }
  const ClusterMap& map() const { return map_; }
  SimReactor& reactor() const { return reactor_; }
  // Ends when the handover has ended, one way or the other.
  Task<bool> HandOver(uint32_t partition, NodeId to);
  // One step towards a replica on `to` in place of the one on `from`, as `kvadmin rebalance` has masters make it. This
  // node is the master.
  void StepMove(uint32_t partition, NodeId from, NodeId to);

 private:
  struct Replica {
    uint32_t partition = 0;
    ReplicaId id;
    std::shared_ptr<Disk> disk;
    Versioned<PartitionRecord> record;
    std::unique_ptr<ReplicaCore> core;
    std::deque<Effect> effects;
    Lsn committed = 0;
    bool carrying = false, syncing = false;
    bool removed = false;  // the partition does without it
    std::optional<bool> handed_over;
    std::map<ReplicaId, NodeId> newcomers;  // that a proposal may name, and the record does not yet
  };
  struct TickTimer : Timer {
    LargeNode* node = nullptr;
  };
  static constexpr Nanos kTickNs = 5 * kMillisecond, kDiskNs = kMillisecond, kCallNs = 2 * kSecond;
  static constexpr uint32_t kTickPhases = 4;

  void OnMessage(uint32_t partition, NodeId from, const Message& message) override;
  void OnDeathNotice(NodeId, uint64_t) override {}
  void OnConnected(NodeId node) override;
  void OnTick();
  Task<void> Follow();
  void Take(const TopologyEntry& entry);
  void TellMembers();
  Replica* Find(uint32_t partition) const;
  void Make(const Versioned<PartitionRecord>& record, const ReplicaId& id);
  void Know(Replica* replica, const Versioned<PartitionRecord>& record);

  template <typename Input>
  void Feed(Replica* replica, Input input);
  void CarryOut(Replica* replica);
  void Do(Replica* replica, Effect& effect);
  void Send(Replica* replica, const Message& message);
  Task<void> Sync(Replica* replica);
  Task<void> Ship(Replica* replica, ShipUnits what);
  Task<void> Store(Replica* replica, StorePromise what);
  Task<void> TryCas(Replica* replica, PartitionEntry desired);
  Task<void> ReadRecord(Replica* replica);

  SimReactor& reactor_;
  const NodeId id_;
  const uint64_t incarnation_;
  const Uuid cluster_id_;
  Disks disks_;
  MemoryBudget budget_{int64_t{1} << 30};
  std::unique_ptr<Topology> topology_;
  std::unique_ptr<TopologyWatch> watch_;
  std::unique_ptr<PeerLinks> links_;
  Semaphore calls_;
  ClusterMap map_;
  std::map<uint32_t, std::unique_ptr<Replica>> replicas_;
  std::vector<Replica*> by_id_;
  TickTimer tick_;
  uint32_t phase_ = 0;
  bool stopping_ = false;
  TaskGroup tasks_;
};

class LargeCluster {
 public:
  LargeCluster(uint32_t nodes, uint32_t partitions, uint64_t seed);
  ~LargeCluster();

  // Creates the cluster in its topology. The virtual time that this took.
  Nanos Create();
  void StartAll();
  // The machine of the node loses its power. Its connections do not end.
  void Kill(NodeId id);
  void Restart(NodeId id);
  // A node that the cluster has not had yet.
  void Add(NodeId id);
  // Where the replicas are, each of that size, and what each node should hold.
  MoveInput Placed(uint64_t bytes) const;
  // Makes the moves, so many at once. Returns how long that took; nothing if they were not made in time.
  std::optional<Nanos> Make(const std::vector<ReplicaMove>& moves, size_t at_once, Nanos limit_ns);

  // Runs until `done`, which is asked every 10 ms of virtual time. Returns how long that took; nothing if it did not
  // happen in time.
  std::optional<Nanos> Until(const std::function<bool()>& done, Nanos limit_ns);
  void Run(Nanos time_ns) { kernel_.RunFor(time_ns); }
  // Whether each of the partitions is served by one node.
  bool Served(const std::vector<uint32_t>& partitions) const;
  bool AllServed() const;
  bool AllInSync() const;
  // The nodes of the partition's replicas, as the topology says; the master is the first.
  std::vector<NodeId> NodesOf(uint32_t partition) const;
  std::vector<uint32_t> LedBy(NodeId id) const;
  std::map<NodeId, size_t> Masters() const;

  LargeNode& node(NodeId id) { return *nodes_.at(id); }
  const std::map<NodeId, std::unique_ptr<LargeNode>>& nodes() const { return nodes_; }
  const SimTopologyServer& server() const { return server_; }
  SimKernel& kernel() { return kernel_; }
  TopologyTraffic traffic() const { return traffic_; }
  uint32_t partitions() const { return partitions_; }

 private:
  PartitionRecord RecordOf(uint32_t partition) const;
  void WriteNode(NodeId id, uint64_t starts);
  void Boot(NodeId id, LargeNode::Disks disks);
  bool StepMove(const ReplicaMove& move);
  static std::string ZoneOf(NodeId id) { return fmt::format("rack-{}", id % 5); }
  static std::string HostOf(NodeId id) { return fmt::format("10.{}.{}.1", id / 200, id % 200 + 1); }

  const uint32_t count_, partitions_;
  SimKernel kernel_;
  SimTopologyServer server_;
  TopologyTraffic traffic_;
  Uuid cluster_id_;
  SimReactor* operator_reactor_ = nullptr;
  std::map<NodeId, uint64_t> starts_;
  std::map<NodeId, std::unique_ptr<LargeNode>> nodes_;
  std::map<NodeId, LargeNode::Disks> dead_;
};

}  // namespace pando::replication
