// NodeCluster makes a node a member of a cluster: it joins the topology, follows it, and hands its news to the
// replicas of all reactors (replication::ReplicaHost), which live in the ReactorParts.
//
// A start goes in these steps, so that nobody takes an old copy of a directory for what it was (NS2):
//
//   Open     the topology knows of the start, and the directory too (BeginStart)
//   ...      the store is opened and recovered, and the replicas that the topology assigns are there
//   Join     the topology knows where the node listens, and the replicas take part
//
// From then on the directory is told, from time to time, the newest that the node has seen of the topology. So a start
// with an older one is refused (node_identity.h), also if it is newer than the last start.
//
// Threads: reactor 0. TopologyAccess belongs to the reactor that uses it.
//
// Invariants
//   NC1  No replica answers anybody before Join.
//   NC2  An error of the topology is never taken for news: the node goes on with what it knows.
//   NC3  A process whose node was started again by a later one, which has taken its place in the topology, takes
//        part in nothing any more.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/directory.h"
#include "src/metrics/registry.h"
#include "src/node/guard.h"
#include "src/node/known_map.h"
#include "src/node/node_options.h"
#include "src/replication/partition_topology.h"
#include "src/topology/cluster_map.h"
#include "src/topology/node_identity.h"
#include "src/topology/topology.h"
#include "src/topology/topology_watch.h"

namespace pando {

class ReactorPart;

// The records of partitions, for the replicas of one reactor. The Topology belongs to reactor 0.
class TopologyAccess final : public replication::PartitionTopology {
 public:
  // `calls` limits those of all reactors, so that the rest of the node gets its turn; it belongs to reactor 0.
  TopologyAccess(Reactor& reactor, Topology* topology, Semaphore* calls)
      : reactor_(reactor), topology_(topology), calls_(calls) {}
  Task<Result<Versioned<PartitionRecord>>> Read(uint32_t partition) override;
  Task<replication::RecordCas> CompareAndSwap(PartitionRecord desired, Revision expected) override;

 private:
  static constexpr Nanos kTimeoutNs = 2 * kSecond;

  Reactor& reactor_;
  Topology* const topology_;
  Semaphore* const calls_;
};

// Whether the directory belongs to a cluster exactly if --topology is given. `has_store`: there is one in it.
Task<Status> CheckMembership(Reactor& reactor, const NodeOptions& options, bool has_store);
// With how many partitions the cluster was created.
Task<Result<uint32_t>> ReadRanges(Reactor& reactor, const NodeOptions& options);

class NodeCluster {
 public:
  // All pointers outlive this object.
  NodeCluster(Reactor& reactor, const NodeOptions* options, MemoryBudget* memory, Registry* registry);
  ~NodeCluster();  // REQUIRES: Close has returned

  // kInvalidArgument: --topology, or this node or directory does not belong to the cluster. kUnavailable: the
  // topology cannot be reached.
  Task<Status> Open();
  // The same with a store that is open already.
  Task<Status> OpenOn(std::unique_ptr<TopologyStore> store);
  // What the topology held then.
  const ClusterMap& map() const { return start_.map; }
  const Uuid& cluster_id() const { return start_.identity.cluster_id; }
  const NodeIdentity& identity() const { return start_.identity; }
  NodeId node() const { return start_.identity.node; }
  uint64_t incarnation() const { return start_.incarnation; }
  // With how many partitions the cluster was created.
  uint32_t ranges() const { return start_.map.cluster->record.partitions; }
  bool first_start() const { return first_start_; }
  // The directory is an old copy: its replicas need new UUIDs before any of them takes part. Renewed: they have
  // them, durably.
  bool renews() const { return start_.identity.renew && options_.rules.identity_is_judged; }
  Task<Status> Renewed();
  // The topology as far as it is known now.
  const ClusterMap& newest() const { return newest_; }
  // Another number with each change of that.
  uint64_t news_count() const { return news_count_; }
  // Tells the replica of a partition, which has come to be here, the newest record. REQUIRES: Join has returned.
  Task<void> TellRecord(uint32_t partition);
  Topology* topology() { return topology_.get(); }
  // As the node has followed it since Join. Nothing is known before, and after Close.
  struct TopologyHealth {
    Status status;           // why it cannot be followed at the moment
    Nanos read_ns = 0;       // when all of it was read last
    bool went_back = false;  // what it says is older than what this node has seen
    Revision seen = 0;       // the newest
  };
  TopologyHealth topology_health() const;
  Semaphore* topology_calls() { return &topology_calls_; }

  // The replicas that the topology assigned to this node then, of partitions that are not retired.
  struct Assigned {
    uint32_t partition = 0;
    Uuid replica;
    bool learner = false;
  };
  std::vector<Assigned> assigned() const;

  // Called once, within a turn, when a later process has taken this node's place (NC3). Before Join.
  void SetOnDisplaced(std::function<void(const Status&)> on_displaced) { on_displaced_ = std::move(on_displaced); }
  // Tells the topology where this node listens, lets the replicas of all parts take part, and follows the
  // topology from now on.
  Task<Status> Join(std::string client_address, std::vector<std::string> peer_addresses,
                    const std::vector<ReactorPart*>* parts);
  // The replicas do not take part any more: their hosts are closed. Then the topology is.
  Task<void> Close();

 private:
  void NoteWhetherTopologyAnswers();
  Task<void> Follow();
  bool WasDisplaced() const;
  Task<void> EndDisplaced();
  void TellGuard();
  Task<void> TellMembers();
  Task<void> TellHeard();
  void KeepSeen();
  Task<void> StoreSeen(NodeIdentity next);
  Task<void> TellRecords(std::vector<Versioned<PartitionRecord>> records);
  Task<void> TellMap(MapNews news);

  Reactor& reactor_;
  const NodeOptions& options_;
  MemoryBudget* const memory_;
  Registry* const registry_;
  std::unique_ptr<Topology> topology_;
  std::unique_ptr<TopologyWatch> watch_;
  JoinedStart start_;
  bool first_start_ = false;
  ClusterMap newest_;
  uint64_t news_count_ = 1;
  GuardLink guard_;
  Semaphore topology_calls_;
  std::function<void(const Status&)> on_displaced_;
  const std::vector<ReactorPart*>* parts_ = nullptr;  // once it has joined
  bool stopping_ = false;
  bool topology_answers_ = true;  // as was logged last
  Nanos told_heard_ns_ = 0;
  uint32_t places_ = 0;  // there are places for partitions with IDs below it
  Nanos joined_ns_ = 0;
  std::optional<Directory> directory_;  // of the node, wherever it has been moved since
  bool storing_seen_ = false;
  Nanos stored_seen_ns_ = 0;
  TaskGroup tasks_;
};

}  // namespace pando
