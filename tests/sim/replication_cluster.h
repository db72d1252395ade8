// ReplicationCluster: replicas of one partition (src/replication) in a simulated world: disks that lose
// what was not synced, clocks that drift and miss time, a network that delays, repeats, drops and cuts
// one way, a topology whose answers come late or never, processes that stop in the middle of a turn,
// and clients whose history must be linearizable. Everything follows from one seed.
//
// After every step, all invariants are checked (replication_audit.cc). In the end all faults are healed,
// and the full ISR must come back.
//
// Threads: one.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/replication/replica_core.h"
#include "tests/sim/replication_sim_log.h"
#include "tests/support/history.h"
#include "tests/support/sim_random.h"

namespace pando::replication {

struct SimOutcome {
  std::string violation;  // "I3: ..."; empty if there is none
  std::vector<std::string> story;
  uint64_t events = 0, masterships = 0, acknowledged = 0, reads = 0, faults = 0, cas_in_doubt = 0, too_wide = 0;
  uint64_t forced = 0, handovers = 0, failed_handovers = 0, held = 0, late = 0, fresh = 0, sessions = 0, stalls = 0;
  uint64_t retired = 0, failed_retires = 0, opened = 0;
  // The first words of the violation: the invariant's name, or "history".
  std::string Name() const { return violation.substr(0, violation.find(':')); }
};

// Runs the simulation of one seed.
// With those that the partition below the core keeps in production (src/partition). Here it is a model.
struct SimRules : Rules {
  bool once_is_judged_at_apply = true;  // and not when the write comes, by what is applied then [LN1]
  bool checkpoint_is_applied = true;    // and not all that is durable
};

SimOutcome RunReplication(uint64_t seed, const SimRules& rules, bool tell_story);

struct SimCommand {
  int client = 0;
  uint64_t sequence = 0;
  bool add = false;
  std::string key, value;
  int64_t delta = 0;
  std::string Encode() const;
  static std::optional<SimCommand> Decode(const std::string& records);
};

// What a replica has applied.
struct SimState {
  struct Lane {
    uint64_t sequence = 0;
    int64_t number = 0;
  };
  std::map<std::string, std::string> values;
  std::map<int, Lane> lanes;
  std::set<std::pair<int, uint64_t>> effects;  // the writes that took effect here
  HistoryPoint applied;
  uint64_t content_hash = 0;
};

struct SimNode {
  int index = 0;
  // -- on disk
  ReplicaId id;
  uint64_t start_counter = 0;
  Epoch stored_promise = 0;
  uint64_t lineage = 0;
  SimLog log;
  Lsn checkpoint_lsn = 0;
  bool empty_disk = false;
  bool tainted = false;  // the disk was emptied or put back under the same UUID
  // -- the process
  bool running = false;
  uint64_t boot = 0;  // events of older boots are dropped
  std::unique_ptr<ReplicaCore> core;
  std::deque<Effect> todo;
  bool syncing = false;
  SimState state;
  struct Waiting {
    UnitPtr unit;
    std::function<void(bool known, int64_t number)> reply;
  };
  std::deque<Waiting> waiting;
  std::vector<std::function<void()>> held;  // writes during a handover
  std::map<Nanos, Lsn> fresh;               // by the own clock: what was committed anywhere then
  // -- the machine
  Nanos paused_until = 0;
  Nanos no_topology_until = 0;
  Nanos clock_true = 0, clock_local = 0, clock_last = 0;
  double clock_rate = 1;
  double disk_slow = 1;
  Nanos disk_hangs_until = 0;
  uint64_t replica_number = 0;  // for new UUIDs
  struct Image {
    std::vector<UnitPtr> disk;
    Lsn mark = 0, checkpoint = 0;
    Epoch promise = 0;
    uint64_t counter = 0;
    ReplicaId id;
  };
  std::optional<Image> image;
  std::string name() const { return std::string(1, static_cast<char>('a' + index)); }
};

class ReplicationCluster {
 public:
  ReplicationCluster(uint64_t seed, const SimRules& rules, bool tell_story);
  SimOutcome Run();

 private:
  friend class ReplicationAudit;
  struct Event {
    Nanos at;
    uint64_t order;
    std::function<void()> run;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const { return a.at != b.at ? a.at > b.at : a.order > b.order; }
  };
  struct Client {
    int index = 0;
    uint64_t sequence = 0;
    int target = 0;
    // -- the operation
    uint64_t attempt = 0;  // answers of older ones are ignored
    size_t op = 0;
    bool writes = false, may_have_happened = false, repeats = false;
    int tries = 0;
    SimCommand command;
  };

  // -- replication_cluster.cc: the world
  void At(Nanos delay, std::function<void()> run);
  void OnNode(SimNode& node, Nanos delay, std::function<void()> run);
  void RunOnNode(SimNode& node, const std::function<void()>& run);
  void Drain(SimNode& node);
  void Do(SimNode& node, Effect& effect);
  void Ship(SimNode& node, const ShipUnits& ship);
  void Send(SimNode& from, const Message& message);
  void Deliver(const Message& message, Nanos delay);
  void StartSync(SimNode& node);
  void StoreThePromise(SimNode& node, const StorePromise& store);
  void Start(SimNode& node, bool at_once);
  void Stop(SimNode& node, bool power_loss);
  void Tick(SimNode& node);
  void Apply(SimNode& node, Lsn up_to);
  void ApplyUnit(SimNode& node, const SimUnit& unit);
  Nanos Local(SimNode& node);
  void MoveClock(SimNode& node, Nanos by);
  SimNode* FindNode(const ReplicaId& id);
  std::string NameOf(const ReplicaId& id);
  Nanos Between(Nanos low, Nanos high) { return random_.Between(low, high); }
  template <typename... Args>
  void Say(fmt::format_string<Args...> format, Args&&... args) {
    if (tells_) Line(fmt::format(format, std::forward<Args>(args)...));
  }
  void Line(std::string text);
  void Violated(std::string what) {
    if (outcome_.violation.empty()) {
      outcome_.violation = std::move(what);
      Say("VIOLATED {}", outcome_.violation);
    }
  }

  // -- replication_world.cc: topology, clients, faults, phases
  void Cas(SimNode& node, const PartitionEntry& desired);
  void Land(const PartitionEntry& desired, CasOutcome* outcome);
  void Read(SimNode& node);
  bool ReachesTopology(const SimNode& node) const;
  void Publish();
  void Poll(SimNode& node);
  void Operate();
  void ClientNext(Client& client);
  void ClientSend(Client& client);
  void ClientEnd(Client& client, bool finished);
  void ServeWrite(SimNode& node, Client& client, uint64_t attempt, const SimCommand& command);
  void AnswerHeld(SimNode& node);
  void BeginHandover();
  void ServeRead(SimNode& node, Client& client, uint64_t attempt);
  void Answer(Client& client, uint64_t attempt, int outcome, std::optional<std::string> seen, int64_t number);
  void PlanFaults();
  void Fault();
  bool MayLoseDisk(const SimNode& node);
  void Heal();
  bool Healed();
  std::string EntryText(const PartitionEntry& entry);

  // -- replication_plots.cc
  void Plot();
  void Pause(SimNode& node, Nanos after, Nanos pause);
  void HandOver(SimNode& from, SimNode& to, Nanos after);
  void Isolate(SimNode& node, Nanos time);

  // -- replication_force.cc
  void PlanForce();
  void LoseAllBut(SimNode& one);
  void ForceOn(SimNode& node, Nanos until);
  void AuditLineage(const PartitionEntry& before, const PartitionEntry& after);

  // -- replication_split.cc
  void PlanSplit();
  void TryOpen();
  void TryRetire();
  void StepOfSplit(SimNode& master);
  void AuditRetiring(SimNode& node, const PartitionEntry& desired);
  void AuditSplit(const PartitionEntry& before, const PartitionEntry& after);
  void AuditServing(const SimNode& node, std::string_view what);
  bool HasEnded();

  // -- replication_audit.cc
  void Audit(SimNode* touched);
  void AuditAppend(SimNode& node, const SimUnit& unit);
  void AuditCommit(SimNode& node, Lsn up_to);
  void AuditSend(SimNode& node, const Message& message);
  void AuditStart(SimNode& node);
  void AuditLanding(const PartitionEntry& before, const PartitionEntry& after);
  void AuditNode(SimNode& node);
  void AuditIsr();
  void AuditLeases();
  void AuditReads(SimNode& node);
  void AuditHandover(SimNode& node, const PartitionEntry& desired);
  void NoteFreshness(SimNode& node, Nanos local);

  const uint64_t seed_;
  const SimRules rules_;
  const bool tells_;
  SimRandom random_;
  SimOutcome outcome_;
  Nanos now_ = 0;
  uint64_t next_order_ = 0;
  std::priority_queue<Event, std::vector<Event>, Later> events_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  Uuid partition_{7, 7};

  // -- the network
  std::array<std::array<Nanos, 8>, 8> cut_until_{};
  double drop_ = 0, repeat_ = 0, delay_ = 0, pause_in_turn_ = 0;
  Nanos latency_ = 300 * kMicrosecond;
  Nanos apply_late_ = 0;  // at most
  bool faults_on_ = false;

  // -- the topology
  PartitionEntry entry_;
  std::vector<uint64_t> start_counters_;
  Nanos topology_down_until_ = 0;
  double cas_lost_ = 0, cas_late_ = 0;
  double sync_fails_ = 0, request_late_ = 0;
  // -- plots
  std::function<std::optional<Nanos>(const Message&)> plot_delay_;  // nothing: it is lost
  std::function<void(const PartitionEntry& desired, Nanos* there, bool* answer_lost)> plot_cas_;
  bool stale_reads_ = false;
  PartitionEntry former_entry_;

  UnitPtr opens_;  // the record that opens the half, of the newest epoch

  // -- clients
  History history_;
  std::vector<Client> clients_;
  bool clients_on_ = false;
  Nanos think_ = 30 * kMillisecond;
  uint64_t next_value_ = 1;

  // -- what the audit remembers
  HistoryPoint committed_;  // the longest prefix that was ever committed
  std::map<Lsn, uint64_t> committed_chains_;
  std::map<std::pair<Epoch, Lsn>, uint64_t> chain_of_;
  std::map<Epoch, std::pair<ReplicaId, uint64_t>> master_of_;
  std::unordered_map<uint64_t, uint64_t> contents_;  // by chain
  std::map<ReplicaId, Epoch> told_promise_;
  std::set<ReplicaId> left_behind_;  // replicas of an older lineage that the newer one does not have
  Nanos forcing_until_ = 0;          // a forced failover may be on its way
  struct Token {                     // of a client's session
    HistoryPoint point;
    bool acknowledged = false;
  };
  std::array<Token, 16> tokens_;
  size_t next_token_ = 0;
};

}  // namespace pando::replication
