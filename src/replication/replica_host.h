// ReplicaHost: the replicas of one reactor, as members of a cluster. It hands them the messages of other
// nodes, the news of the topology, and the time.
//
// Threads: one reactor.
//
// Invariants
//   RH4  A message reaches only the replica that it names, by UUID.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "src/base/memory_budget.h"
#include "src/io/sync.h"
#include "src/metrics/metrics.h"
#include "src/model/commit_gate.h"
#include "src/model/read_gate.h"
#include "src/replication/answers.h"
#include "src/replication/connected_nodes.h"
#include "src/replication/core_context.h"
#include "src/replication/members.h"
#include "src/replication/partition_topology.h"
#include "src/replication/peer_links.h"

namespace pando::replication {

class HostedReplica;
class ReplicaFile;
struct ReplicaState;

struct HostMetrics {
  Counter masterships_opened_total, masterships_closed_total;
  Counter messages_sent_total, messages_dropped_total;  // dropped: the link had no room, or there was none
  Counter messages_received_total, messages_misdirected_total;
  Counter shipped_bytes_total, ship_reads_total;
  Counter appends_dropped_total;  // RH2
  Counter held_writes_total;      // by a handover
  Counter topology_writes_total, topology_conflicts_total, topology_unknown_total;
  Gauge masters, followers, waiting_append_bytes;
};

// What the node is told. Called within a turn; must not call the host.
class HostObserver {
 public:
  // As master: what the replica needs is not in this log any more.
  virtual void OnInstallWanted(uint32_t partition, const ReplicaId& replica) = 0;
  // The replica cannot be used any more. kAborted: nothing is wrong with it, but the partition does without it.
  virtual void OnQuarantined(uint32_t partition, const Status& why) = 0;

 protected:
  ~HostObserver() = default;
};

// What the replicas of a host share.
struct HostContext {
  Reactor& reactor;
  NodeId node = 0;
  uint64_t incarnation = 0;  // of this process
  Timing timing;
  Rules rules;
  PeerLinks* links = nullptr;
  PartitionTopology* topology = nullptr;
  MemoryBudget* memory = nullptr;  // for messages that wait
  HostObserver* observer = nullptr;
  Members members;
  Nanos topology_heard_ns = 0;  // when a listing of it has last succeeded
  HostMetrics metrics;
  Semaphore ship_slots;  // so many units are read from the log at once
  std::function<void(HostedReplica*)> appended;
};

// How a replica is doing, for status.
struct ReplicaReport {
  struct Follower {
    ReplicaId replica;
    NodeId node = 0;
    bool in_sync = false, learner = false;
    Lsn durable_lsn = 0;  // as far as it has acknowledged; 0: it has acknowledged nothing to this master
    Nanos behind_ns = 0;  // since when it has lacked something
    Nanos silent_ns = 0;  // since its last heartbeat
  };
  uint32_t partition = 0;
  ReplicaId replica, master;
  NodeId master_node = 0;
  std::string role;  // ReplicaCore::role, or "joining"
  Epoch epoch = 0, promised = 0;
  Lsn last_lsn = 0, durable_lsn = 0, commit_lsn = 0, applied_lsn = 0;
  Epoch last_epoch = 0;  // of the unit at last_lsn
  size_t in_sync = 0;
  uint32_t replicas = 0, min_isr = 0;
  bool leased = false;
  std::vector<Follower> followers;  // as the master knows them
};

struct HandoverResult {
  NodeId node = 0;     // of the new master
  Nanos pause_ns = 0;  // for so long this replica accepted no writes
};

// A forced failover, as an operator orders it.
struct ForceOrder {
  // As the operator saw the partition. If it has changed since, nothing is done.
  Epoch epoch = 0;
  uint64_t lineage = 0;
  bool accept_loss = false;
  Nanos timeout_ns = 0;
};
struct ForcedMastership {
  Epoch epoch = 0;
  uint64_t lineage = 0;
  bool was_member = false;  // of the ISR: it had all that was committed
  bool open = false;        // it serves
};

// Whether the partition does not have this replica of the node any more, and will not take it again: the record, which
// is not older than what the replica knows, lists it no longer, in the same lineage; or it was to be installed in the
// place of another one, and its partition has enough; or the partition is retired.
bool WasRemoved(const PartitionRecord& record, NodeId node, const ReplicaState& state);

// A change of a partition's replicas that was asked for.
struct ReplicaChange {
  ReplicaId replica;
  bool done = false;  // the topology says so already
};

class ReplicaHost final : public ReadGate, private PeerHandler, private TurnHook {
 public:
  struct Options {
    Timing timing;
    Rules rules;            // production never changes them
    PeerOptions peers;      // they say which node, process and reactor this is
    uint32_t reactors = 1;  // of this node
  };
  // All pointers outlive the host.
  ReplicaHost(Reactor& reactor, Options options, PartitionTopology* topology, MemoryBudget* memory,
              HostObserver* observer);
  ~ReplicaHost();  // REQUIRES: Close has returned

  Result<uint16_t> Listen(const ListenOptions& listen) { return links_.Listen(listen); }

  // Adds a replica whose partition is opened next: the engine asks for its gate.
  void Add(uint32_t partition, Uuid partition_uuid, std::unique_ptr<ReplicaFile> file);
  // The partition was dropped, or could not be opened. Returns what its file says; nothing if it is not here.
  Task<std::optional<ReplicaState>> Remove(uint32_t partition);
  std::unique_ptr<CommitGate> MakeGate(uint32_t partition);
  // The process takes part from now on.
  void Join();
  // The log of this reactor has failed: from now on its replicas promise and acknowledge nothing.
  void Fail();
  // The data of a replica are lost: another one, with another UUID, takes its place (GiveUp of HostedReplica).
  void GiveUp(uint32_t partition);
  // Ends all that goes on, and closes the links. The partitions may still serve; nothing is committed any more.
  Task<void> Close();

  // -- news of the topology
  void SetMembers(const Members& members);
  void OnRecord(const Versioned<PartitionRecord>& record);
  void OnTopologyHeard(Nanos heard_ns) { context_.topology_heard_ns = heard_ns; }

  // -- ReadGate
  Result<Mastership> Begin(uint32_t partition) const override;
  Status Check(uint32_t partition, const Mastership& mastership) const override;
  bool Holds(uint32_t partition, Nanos fresh_now_ns) const override;
  Task<Status> Await(uint32_t partition, ReplicaRead read) override;
  std::optional<SessionPoint> Shown(uint32_t partition) const override;
  bool IsLost(uint32_t partition, const SessionPoint& point) const override;

  // Makes the replica of that node, or of any that is in sync (0), master, if the epoch is still that one
  // (0: whatever it is). Of several at a time, one goes on; kOverloaded: another one does. kNotMaster: this one is not.
  // On other errors it goes on as master, unless it has lost its mastership.
  Task<Result<HandoverResult>> HandOver(uint32_t partition, NodeId to, Epoch epoch, Nanos timeout_ns);
  // Before the end of the process: hands over all masterships, several at a time, and lets the new masters take
  // the replicas here out of the ISR, where enough others are in sync. So no write has to wait until the others have
  // noticed that this process has ended. As far as that is possible in time.
  Task<void> Leave(Nanos timeout_ns);

  // Lets the replica here take its partition over without a promotion, as the only one of a new lineage
  // (ReplicaCore::Force). kInvalidArgument: the partition is not as the order says, is served, or this
  // replica is out of service, or may lack what was committed while the order accepts no loss. kUnavailable: the
  // topology does not answer; with an unknown outcome, the error says so.
  Task<Result<ForcedMastership>> Force(uint32_t partition, ForceOrder order);
  // As master: changes how many must be in sync. True: the topology says so already. False: ask again.
  // kInvalidArgument: there are not so many in sync.
  Result<bool> SetMinIsr(uint32_t partition, uint32_t min_isr);

  // -- splits (docs/SPLIT.md), as master; kNotMaster: this one is not
  // Writes into the partition's record that a split runs, or (nullopt) that none does. True: the topology says so
  // already. False: ask again. kInvalidArgument: the partition does not serve.
  Result<bool> SetSplit(uint32_t partition, const std::optional<SplitOrder>& split);
  // Holds the partition's writes, and returns once all that was appended is committed and applied here. They are held
  // until LetGo, until a swap of Retire is settled, or for timeout_ns at most. Reads go on. kOverloaded: something else
  // (a handover) is under way. kUnavailable: not in time, or not any more; nothing is held then.
  Task<Status> HoldForSplit(uint32_t partition, Nanos timeout_ns);
  // Ends that, unless a swap of Retire is under way.
  void LetGo(uint32_t partition);
  // REQUIRES (checked, kAborted otherwise): HoldForSplit has succeeded, and the writes are held still. Gives up the
  // lease, and swaps the record to `retired`, without `split`, at the revision and in the epoch that it has. OK: it has
  // landed; the mastership has ended, and what was held is answered NOT_MASTER, applied = NO. kAborted: it has not and
  // never will; this replica goes on as master, unless it has lost its mastership. kUnavailable: unknown so far; until
  // that is settled it neither reads nor writes. Then call it again to hear how, also of a replica that leads no more.
  Task<Status> Retire(uint32_t partition, Nanos timeout_ns);
  // Of a half: swaps its record from `building` to `serving`. REQUIRES (checked, kInvalidArgument otherwise): it is
  // being built, and `opened_lsn` is applied here. As SetSplit.
  Result<bool> SetServing(uint32_t partition, Lsn opened_lsn);

  // -- installation. A replica whose data is to be replaced by a copy of its master's pages, or that has none.
  struct Wanting {
    uint32_t partition = 0;
    ReplicaId replica;
    Epoch promised = 0;
    uint64_t lineage = 0;
  };
  std::vector<Wanting> WantingPages() const;
  // Those that their partitions do not have any more, as far as is known (WasRemoved).
  std::vector<uint32_t> RemovedReplicas() const;
  // As master: keeps the log for `learner` until then: the log from now on (`anew`), or what is kept for it already.
  // Returns how much that is. kNotMaster: this one is not. kInvalidArgument: there is no such replica. kSnapshotGone:
  // not anew, and nothing is kept for it.
  Result<KeptLog> KeepLogFor(uint32_t partition, const ReplicaId& learner, Nanos until_ns, bool anew);
  // As master: makes a replica of that node a learner, and lets one leave for it that is not in sync. True: the
  // topology says so already. False: it was proposed, or could not be: ask again.
  Result<bool> Replace(uint32_t partition, const ReplicaId& learner, NodeId node,
                       const std::optional<ReplicaId>& leaves);

  // -- what operators ask of a master; false, or not done: ask again
  // Makes a new replica of that node a learner, or returns the one that it has. `replaces`: another one is to
  // leave for it later, so there should be no more than before. kOverloaded: another one is a learner already.
  Result<ReplicaChange> AddOn(uint32_t partition, NodeId node, bool replaces);
  // Takes a replica out of the partition. kInvalidArgument: it is the master, or too few would be left.
  Result<bool> RemoveOther(uint32_t partition, const ReplicaId& other, Removal why);

  HostedReplica* Find(uint32_t partition) const;
  std::vector<ReplicaReport> Report() const;
  const HostMetrics& metrics() const { return context_.metrics; }
  PeerLinks& links() { return links_; }

 private:
  struct TickTimer : Timer {
    ReplicaHost* host = nullptr;
  };
  // Each replica is ticked every kTickPhases * kTickNs.
  static constexpr Nanos kTickNs = 5 * kMillisecond;
  static constexpr uint32_t kTickPhases = 4;
  static constexpr size_t kShipSlots = 32;
  // Writes of a partition wait while it is handed over. The fewer are at once, the shorter, since they share disks and
  // the topology; but all must have their turn.
  static constexpr size_t kMinHandovers = 2, kMaxHandovers = 16;
  static constexpr Nanos kHandoverNs = 50 * kMillisecond;  // so long one takes on a slow disk
  static constexpr Nanos kForceLookNs = 10 * kMillisecond;
  static constexpr Nanos kLeaveNs = 500 * kMillisecond;  // the same takes so long if it ends without notice
  static constexpr Nanos kLeaveLookNs = 2 * kMillisecond;

  void OnMessage(uint32_t partition, NodeId from, const Message& message) override;
  void OnDeathNotice(NodeId node, uint64_t incarnation) override;
  void OnConnected(NodeId node) override;
  void LookAt(NodeId node);
  void OnTurnEnd() override;
  void OnTick();
  Task<void> HandOverAll(Nanos timeout_ns);
  Task<void> HandOverNext(std::vector<uint32_t>* partitions, Nanos deadline_ns);

  const uint32_t reactor_, reactors_;
  PeerLinks links_;
  HostContext context_;
  std::map<uint32_t, std::unique_ptr<HostedReplica>> replicas_;
  std::vector<HostedReplica*> by_id_;                // by partition; grows as needed
  std::vector<HostedReplica*> appended_;             // in this turn
  ConnectedNodes connected_{kTickPhases * kTickNs};  // a look costs as much as the ticks of all replicas
  std::map<NodeId, uint64_t> ended_;                 // the newest process that a guard has seen exit
  TickTimer tick_;
  uint32_t phase_ = 0;
  bool begun_ = false, closed_ = false;
};

}  // namespace pando::replication
