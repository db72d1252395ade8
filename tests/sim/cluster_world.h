// ClusterWorld: a whole cluster in one thread, from one seed. Simulated machines run the production code of a
// replicated node (cluster_member.h), on simulated disks, a simulated network and a simulated topology. Clients read
// and write at any node, while machines, disks, networks, clocks and the topology fail.
//
//   phases: the nodes start; clients begin; faults for some seconds; everything is healed; within kHealsWithin
//           all replicas are in sync and equal; clients stop; the histories of all keys are judged; all nodes close
//
// Threads: one.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/topology/cluster_map.h"
#include "tests/sim/cluster_member.h"
#include "tests/sim/level_audit.h"
#include "tests/support/history.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"
#include "tests/support/sim_topology.h"

namespace pando {

class ClusterWorld {
 public:
  struct Counts {
    uint64_t done = 0, refused = 0, unknown = 0;  // operations of clients
    uint64_t crashes = 0, faults = 0, installs = 0, handovers = 0, held = 0;
    uint64_t ones = 0, alls = 0, bounded = 0, sessions = 0;  // done
    uint64_t by_followers = 0, stale = 0, lost = 0;          // of the last two; refused
  };

  // `tells`: the story goes to stderr while it happens. `calm`: nothing fails; masters only hand over.
  ClusterWorld(uint64_t seed, bool tells, bool calm = false);
  ~ClusterWorld();
  ClusterWorld(const ClusterWorld&) = delete;

  // Returns what is wrong, or "".
  std::string Run();
  std::string Story() const;
  const Counts& counts() const { return counts_; }
  std::string Summary() const;
  uint64_t trace_hash() const { return kernel_.trace_hash(); }

 private:
  enum class State { kDown, kStarting, kUp, kStopping };
  struct Node {
    NodeId id = 0;
    SimMachine* machine = nullptr;
    State state = State::kDown;
    uint64_t life = 0;  // of its process
    ClusterMember* member = nullptr;
    std::unique_ptr<ClusterMember> owned;
    SimTopology* topology = nullptr;  // of this process
    SimTopologyFaults faults;
    Status stopped;
    bool is_stopped = false, held_down = false;
    size_t wanting = 0;             // copies of pages
    bool loses_disk = false;        // before its next start
    std::optional<SimDisk> image;   // what its disk is at its next start
    std::optional<SimDisk> backup;  // an old image
    std::string name() const { return fmt::format("node {}", id); }
  };
  struct Call {
    Operation op;
    uint32_t partition = 0;
    size_t history = 0;
    Node* node = nullptr;
    uint64_t life = 0;
    bool over = false;
    bool expires = false;               // not in the history
    std::optional<LevelRequest> level;  // the same: LevelAudit judges it
  };
  struct Client {
    int index = 0;
    std::vector<Node*> targets;  // by partition
    std::shared_ptr<Call> call;
    std::optional<std::string> last_seen;
    std::string last_key;
    LevelSession session;
  };

  template <typename... Args>
  void Say(fmt::format_string<Args...> format, Args&&... args) {
    Tell(fmt::format(format, std::forward<Args>(args)...));
  }
  void Tell(const std::string& what);
  void At(Nanos delay_ns, std::function<void()> what) {
    kernel_.At(kernel_.now_ns() + delay_ns, SimKernel::kNoBoot, std::move(what));
  }
  Nanos Between(Nanos lo, Nanos hi) { return random_.Between(lo, hi); }
  void Wrong(const std::string& what) {
    if (wrong_.empty()) wrong_ = what;
    Tell("WRONG: " + what);
  }

  void CreateCluster();
  // -- processes
  void Boot(Node& node);
  static detail::FireAndForget RunStart(ClusterWorld* world, Node* node, uint64_t life);
  static detail::FireAndForget RunStop(ClusterWorld* world, Node* node, uint64_t life);
  void Started(Node& node, uint64_t life, const Status& status);
  void BeginStop(Node& node);
  void Stopped(Node& node, uint64_t life, Status status);
  void Crash(Node& node, bool power);
  void NotifyOfDeath(Node& node, uint64_t incarnation);
  static detail::FireAndForget RunNotice(SimReactor* reactor, std::shared_ptr<GuardNews> news);
  void Watch();  // restarts what has failed or stopped

  // -- clients
  void ClientNext(Client& client);
  static Task<void> RunCall(ClusterWorld* world, Client* client, ClusterMember* member, std::shared_ptr<Call> call);
  void Answered(Client& client, const std::shared_ptr<Call>& call, Code code);
  Operation RandomOperation(Client& client);
  // cluster_levels.cc
  LevelRequest RandomLevelRequest(Client& client);
  static Task<Code> RunLevelRequest(ClusterMember* member, uint32_t partition, LevelRequest* request);
  void LookAtAllReplicas(const Call& call);
  void LevelAnswered(Client& client, const Call& call, Code code);
  void JudgeLevels();

  // -- faults
  void NextFault();
  void OneFault();
  void NetworkFault(Node& a, Node& b);
  void DiskFaultOf(Node& node);
  void LoseDisk(Node& node);
  bool HasLostReplica() const;
  void TopologyFault(Node& node);
  static Task<void> RunHandover(ClusterWorld* world, ClusterMember* member, uint32_t partition);
  void HealAll();

  // -- the end
  Versioned<PartitionRecord> Record(uint32_t partition) const;
  // Why the cluster is not whole, or "".
  std::string WhyNotWhole() const;
  std::string WhyNotInSync() const;  // as the topology says
  void CompareReplicas();
  void JudgeHistory();
  void CloseAll();
  bool RunUntil(const std::function<bool()>& done, Nanos within_ns);
  Node& AnyNode() { return *nodes_[random_.Below(nodes_.size())]; }

  const uint64_t seed_;
  const bool tells_, calm_;
  SimRandom random_;
  std::set<Uuid> lost_replicas_;  // whose disks were lost
  SimKernel kernel_;
  Nanos began_ns_ = 0;
  SimTopologyServer server_;
  uint32_t partitions_ = 1;
  uint64_t log_segment_bytes_ = 0;
  Nanos checkpoint_ns_ = 0;
  int value_bytes_ = 0;
  Nanos think_ns_ = 0;
  std::vector<std::unique_ptr<Node>> nodes_;
  SimMachine* guards_ = nullptr;  // the guards of all nodes
  std::vector<std::unique_ptr<Client>> clients_;
  History history_;
  LevelAudit levels_;
  uint64_t values_ = 0;
  bool clients_on_ = false, faults_on_ = false;
  size_t calls_open_ = 0;
  std::string wrong_;
  std::deque<std::string> story_;
  Counts counts_;
};

}  // namespace pando
