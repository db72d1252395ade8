// ClusterWorld: a whole cluster in one thread, from one seed. Simulated machines run the production code of a
// replicated node (cluster_member.h), on simulated disks, a simulated network and a simulated topology. Clients read
// and write at any node, while machines, disks, networks, clocks and the topology fail.
//
//   phases: the nodes start; clients begin; faults and a plot for some seconds; everything is healed; within
//           kHealsWithin all replicas are in sync and equal; clients stop; the histories of all keys are judged; all
//           nodes close
//
// A plot (cluster_plots.cc) is a schedule that random faults meet rarely, and that tempts a node which lacks a certain
// rule into a violation. Invariants are looked at all the time (cluster_audit.cc).
//
// Threads: one.
#pragma once

#include <coroutine>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/replication/replica_core.h"
#include "src/topology/cluster_map.h"
#include "tests/sim/cluster_member.h"
#include "tests/sim/level_audit.h"
#include "tests/support/history.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"
#include "tests/support/sim_topology.h"

namespace pando {

enum class Plot : uint32_t {
  kNone,
  kCutMaster,         // from its peers, but not from its clients
  kPausedMaster,      // past its lease, while requests queue up
  kLateNotice,        // of a death, when the next process leads
  kPowerLoss,         // of all machines, while disks are slow
  kForgottenPromise,  // power fails where a promise has just been given
  kLongTail,          // a master dies with a tail that nobody else has
  kOldImage,          // is put back under a member of the ISR, which is then asked to lead
};
inline constexpr uint32_t kPlots = 8;
const char* NameOf(Plot plot);

struct ClusterCounts {
  uint64_t seeds = 0, events = 0;
  uint64_t done = 0, refused = 0, unknown = 0;  // operations of clients
  uint64_t judged = 0;                          // of those that were done: by the histories and by LevelAudit
  uint64_t crashes = 0, faults = 0, installs = 0, handovers = 0, held = 0, too_wide = 0;
  uint64_t ones = 0, alls = 0, bounded = 0, sessions = 0;  // done
  uint64_t by_followers = 0, stale = 0, lost = 0;          // of the last two; refused
  // Plots that came to their end, by kind.
  uint64_t plots[kPlots] = {};
  // Requests that reached a node which took itself for the master, and was not any more.
  uint64_t reads_at_old_master = 0, writes_at_old_master = 0;
  uint64_t sent_while_paused = 0;  // requests
  uint64_t late_notices = 0;       // that were heard while the next process led
  uint64_t power_losses = 0, images_restored = 0, lost_disks = 0;
  uint64_t promises_before_power_loss = 0, tails_superseded = 0;
  uint64_t audits = 0;

  void Add(const ClusterCounts& other);
};

struct ClusterOptions {
  bool tells = false;  // the story goes to stderr while it happens
  bool calm = false;   // nothing fails; masters only hand over
  replication::Rules rules = {};
};

class ClusterWorld {
 public:
  using Counts = ClusterCounts;

  ClusterWorld(uint64_t seed, ClusterOptions options);
  ~ClusterWorld();
  ClusterWorld(const ClusterWorld&) = delete;

  // Returns what is wrong, or "".
  std::string Run();
  // Instead: no faults but one, a disk that comes to take ten times as long. How long writes take before it, and
  // from 2 s after its beginning on.
  struct SlowDisk {
    Nanos before_p99_ns = 0, slow_p99_ns = 0, after_p99_ns = 0;
  };
  std::string RunWithSlowDisk(SlowDisk* result);
  static Plot PlotOf(uint64_t seed);
  // The name of the invariant that is violated, "history", or "".
  static std::string ViolationOf(const std::string& wrong) { return wrong.substr(0, wrong.find(':')); }
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
    Nanos start_after_ns = 0;  // its next start, if that is set
    Nanos paused_until_ns = 0;
    bool disk_went_back = false;    // it was emptied or put back
    bool disk_failed = false;       // a write or a sync of it has failed
    uint64_t failed_in_life = 0;    // the last process to which that has happened
    size_t wanting = 0;             // copies of pages
    bool loses_disk = false;        // before its next start
    std::optional<SimDisk> image;   // what its disk is at its next start
    std::optional<SimDisk> backup;  // an old image
    uint64_t backup_life = 0;       // the process that ran when it was taken
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
  static constexpr int kClients = 4, kLoyalClients = 4;
  struct Client {
    int index = 0;  // from kClients on they are loyal: they write only to whom a plot names, whatever it answers
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
  bool BecomesWhole();  // its first start
  bool EndsWhole();
  Nanos WritesP99();  // of those since the last call
  // -- processes
  void Boot(Node& node);
  static detail::FireAndForget RunStart(ClusterWorld* world, Node* node, uint64_t life);
  static detail::FireAndForget RunStop(ClusterWorld* world, Node* node, uint64_t life);
  void Started(Node& node, uint64_t life, const Status& status);
  void BeginStop(Node& node);
  void Stopped(Node& node, uint64_t life, Status status);
  void Crash(Node& node, bool power, bool guard_tells = true);
  void NotifyOfDeath(Node& node, uint64_t incarnation);
  static detail::FireAndForget RunNotice(SimReactor* reactor, std::shared_ptr<GuardNews> news);
  void Watch();  // restarts what has failed or stopped

  // -- clients
  void ClientNext(Client& client);
  static Task<void> RunCall(ClusterWorld* world, Client* client, ClusterMember* member, std::shared_ptr<Call> call);
  void Answered(Client& client, const std::shared_ptr<Call>& call, Code code);
  bool IsLoyal(const Client& client) const;
  // The i-th key of its kind in the partition.
  std::string KeyOf(char kind, uint32_t partition, uint64_t i) const;
  Operation RandomOperation(Client& client);
  void CountRequest(const Node& node, const Call& call);
  void ReadAllKeys();
  // cluster_levels.cc
  LevelRequest RandomLevelRequest(Client& client, uint32_t partition);
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
  void NoteLostReplicas(const Node& node);
  void TopologyFault(Node& node);
  static Task<void> RunHandover(ClusterWorld* world, ClusterMember* member, uint32_t partition);
  void HealAll();
  static void SetTopology(Node* node, const SimTopologyFaults& faults);
  void Isolate(Node& node, bool cut);

  // -- plots
  struct Waiting {
    ClusterWorld* world;
    Nanos for_ns;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waits) {
      world->At(for_ns, [waits] { waits.resume(); });
    }
    void await_resume() const noexcept {}
  };
  Waiting For(Nanos for_ns) { return {this, for_ns}; }
  Task<bool> Until(std::function<bool()> what, Nanos within_ns, Nanos every_ns = 2 * kMillisecond);
  static detail::FireAndForget RunPlot(ClusterWorld* world, Plot plot);
  Task<bool> CutMaster();
  Task<bool> PausedMaster();
  Task<bool> LateNotice();
  Task<bool> PowerLossOfAll();
  Task<bool> ForgottenPromise();
  Task<bool> LongTail();
  Task<bool> OldImage();
  // The node whose replica leads the partition, with a lease; null: none.
  Node* MasterOf(uint32_t partition);
  Task<Node*> FindMaster(uint32_t partition);
  Node* NodeOf(const Uuid& replica, uint32_t partition);
  const replication::ReplicaCore* CoreOf(const Node& node, uint32_t partition) const;

  // -- invariants (cluster_audit.cc)
  void Audit();
  void AuditPartition(uint32_t partition);
  void AuditReplica(Node& node, uint32_t partition);

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
  const ClusterOptions options_;
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
  Nanos healed_ns_ = 0;  // since when there are no faults any more
  size_t calls_open_ = 0;
  // -- of the plot
  Node* loyal_to_ = nullptr;  // whom loyal clients ask
  uint32_t plot_partition_ = 0;
  bool plot_goes_on_ = false;
  uint64_t plot_writes_ = 0;  // to its partition, acknowledged by others than loyal_to_
  // -- of the audit
  std::map<Uuid, Epoch> promised_;                  // by replica: told to others
  std::vector<std::map<Lsn, uint64_t>> committed_;  // by partition: chains
  std::string wrong_;
  std::deque<std::string> story_;
  Counts counts_;
  std::vector<Nanos> write_ns_;  // how long those to partition 0 took
};

}  // namespace pando
