// HostedReplica joins the protocol of one replica (ReplicaCore) to the world: to its partition and log,
// to the replicas of other nodes, to the topology, and to the clock. It carries out what the core wants
// done, and adds no rule of its own.
//
//   partition -> CommitGate -> core -> effects -> partition, peers, topology, replica file
//
// The partition owns the gate; the ReplicaHost owns the HostedReplica, which outlives the partition's
// service. Between Begin and Close, or OnClosed of the gate, there is a core.
//
// Threads: the reactor of the partition.
//
// Invariants
//   RH1  Effects are carried out in the order in which the core gave them, and each is begun before the
//        next input reaches the core. What the core commits is committed before its other effects.
//   RH2  Nothing is appended for a master without room in the log. The messages that wait for room are
//        bounded in bytes, and counted; one that does not fit is dropped, and its sender repeats it.
//   RH5  Data is replaced only of a replica whose file says that it is not installed, durably. The file says so
//        only after the topology, read after the replica had ceased to acknowledge, has shown that it
//        is not in sync; or from the beginning.
//   RH6  No epoch is promised, led or followed that is not above all of the log, as it was when the process began. The
//        epoch of the log may be above the stored promise, where an operator has accepted the loss of a part of it.
//   RH3  Every task belongs to `tasks_`. Close ends what they wait for, and waits for them; only then
//        may the log close.
#pragma once

#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "src/io/sync.h"
#include "src/model/commit_gate.h"
#include "src/model/read_gate.h"
#include "src/replication/partition_topology.h"
#include "src/replication/peer_links.h"
#include "src/replication/replica_core.h"
#include "src/replication/replica_file.h"
#include "src/replication/replica_host.h"

namespace pando::replication {

class HostedReplica final : private ReplicaLog {
 public:
  // `file` says which replica this is, and what it has promised.
  HostedReplica(HostContext& host, uint32_t partition, Uuid partition_uuid, std::unique_ptr<ReplicaFile> file);
  ~HostedReplica();  // REQUIRES: Close has returned
  HostedReplica(const HostedReplica&) = delete;

  // For the partition, which then owns it. REQUIRES: no other gate of this replica is open.
  std::unique_ptr<CommitGate> MakeGate();
  // The node takes part in the cluster from now on. Before, the replica answers nobody.
  void Begin();
  // The replica takes part no more. The partition may go on until it closes: nothing more is committed.
  void Stop();
  // The log has failed: what the core wanted until now is not done (I8), and the replica takes part no more. May be
  // called within anything that the replica does, as GiveUp may.
  void Fail() { Retire(); }
  // The data of the replica are lost. It takes part no more, and once a master is heard, which goes on without it,
  // another one takes its place. Until then an operator may put back what is lost.
  void GiveUp();
  // The process is about to end: as a follower, it is not waited for any more as soon as its master can do without it.
  void LeaveIsr();
  // That node may be reached from now on, or may reach this one.
  void OnConnected(NodeId node);
  // Nobody waits for it, or nobody can do without it.
  bool HasLeftIsr() const;
  // Stops, and waits for the tasks. Those that wait for a link end when the links close.
  Task<void> Close();

  // -- inputs
  void OnMessage(NodeId from, const Message& message);
  void OnDeath(NodeId node, uint64_t incarnation);
  void OnRecord(const Versioned<PartitionRecord>& record);
  void Tick();
  // The partition has appended writes in this turn.
  void TellAppended();

  // -- reads and writes
  Result<Mastership> BeginRead() const;
  Status CheckRead(const Mastership& mastership) const;
  bool HoldsLease(Nanos fresh_now_ns) const;
  // See ReadGate.
  Task<Status> AwaitRead(ReplicaRead read);
  std::optional<SessionPoint> Shown() const;
  bool IsLost(const SessionPoint& point) const;

  // See ReplicaHost.
  Task<Result<HandoverResult>> HandOver(NodeId to, Epoch epoch, Nanos timeout_ns);
  using ForceOutcome = std::shared_ptr<std::optional<Result<ForcedMastership>>>;
  void BeginForce(ForceOrder order, ForceOutcome outcome);  // forced_failover.cc
  Result<bool> SetMinIsr(uint32_t min_isr);
  // hosted_split.cc
  Result<bool> SetSplit(const std::optional<SplitOrder>& split);
  Task<Status> HoldForSplit(Nanos timeout_ns);
  void LetGo();
  Task<Status> RetirePartition(Nanos timeout_ns);
  Result<bool> SetServing(Lsn opened_lsn);
  Result<KeptLog> KeepLogFor(const ReplicaId& learner, Nanos until_ns, bool anew);
  // hosted_changes.cc
  Result<bool> Replace(const ReplicaId& learner, NodeId node, const std::optional<ReplicaId>& leaves);
  Result<ReplicaChange> AddOn(NodeId node, bool replaces);
  Result<bool> RemoveOther(const ReplicaId& other, Removal why);
  // Its data is to be replaced by a copy of its master's pages (RH5).
  bool wants_pages() const { return begun_ && !closing_ && !file_->state().installed; }
  const ReplicaState& state() const { return file_->state(); }

  uint32_t partition() const { return id_; }
  const ReplicaId& replica() const { return file_->state().replica; }
  const ReplicaCore* core() const { return core_.get(); }
  const Versioned<PartitionRecord>& record() const { return record_; }
  ReplicaReport Report() const;

 private:
  class Gate;
  // A call that waits; Close waits for all of them.
  class Waiting {
   public:
    explicit Waiting(size_t* count) : count_(*count) { ++count_; }
    Waiting(const Waiting&) = delete;
    ~Waiting() { --count_; }

   private:
    size_t& count_;
  };
  // What is read for one follower.
  struct Shipper {
    std::unique_ptr<LiveReader> reader;
    bool running = false;
  };

  static constexpr size_t kShipBytes = 256u << 10;
  static constexpr size_t kMaxInboxBytes = 8u << 20;
  // A message of a master waits so long for room in the log; then it is dropped.
  static constexpr Nanos kRoomTimeoutNs = 400 * kMillisecond;
  static constexpr Nanos kHandoverGraceNs = kSecond;
  static constexpr Nanos kApplyStallNs = kSecond;
  // A read that another replica could answer waits so long for this one.
  static constexpr Nanos kReadWaitNs = 200 * kMillisecond;
  static constexpr Nanos kOnAllWaitNs = 10 * kSecond;
  // Before a follower is shipped to again that cannot be reached, or for which nothing could be read.
  static constexpr Nanos kShipPauseNs = 20 * kMillisecond;

  // -- ReplicaLog
  HistoryPoint end() const override { return partition_->end(); }
  HistoryPoint durable() const override;
  Lsn applied() const override { return partition_->applied_lsn(); }
  Epoch applied_epoch() const override { return partition_->applied().epoch; }
  std::optional<HistoryPoint> PointAt(Lsn lsn) const override { return partition_->PointAt(lsn); }
  HistoryPoint EpochEnd(Epoch epoch) const override { return partition_->EpochEnd(epoch); }
  bool Append(const WriteUnit& unit) override;
  void Supersede(const HistoryPoint& after) override { partition_->Supersede(after); }
  void BeginEpoch(Epoch epoch) override;
  void Commit(Lsn up_to) override;

  // -- the gate
  CommitGate::Start OnRecovered(const RecoveredLog& log);
  void OnServing(GatedPartition* partition);
  void OnDurable();
  void OnClosed();
  Status MayWrite(WriteLevel level, Epoch seen) const;
  Status MayFeed(WriteLevel level, Epoch seen) const;
  bool MaySweep() const;
  Status CheckDisks(uint64_t bytes) const;
  // -- levels (replica_levels.cc)
  bool HoldsWrites() const;
  void NoteOpening();
  Task<Status> UntilMayWrite(WriteLevel level, Epoch seen, Nanos deadline_ns);
  // What the topology says, after a handover whose outcome the core has not seen.
  Task<bool> HasHandedOverTo(ReplicaId target, Epoch before);
  Result<bool> ToDone(ChangeResult result, std::string_view why_not) const;
  std::optional<Status> HowRetired() const;
  bool HasFollowers() const { return record_.record.replicas > 1 || record_.record.isr.size() > 1; }
  Task<Status> UntilOnAll(Lsn lsn, Nanos deadline_ns);
  Status NotOpen() const;
  Status JudgeRead(const ReplicaRead& read) const;
  std::string MasterAddress() const;
  // Those who wait in one of these look again.
  void Wake() {
    if (moved_.size() > 0) moved_.NotifyAll();
  }
  Status MayShowSnapshot() const;
  Status MayMark() const;
  bool Leads() const { return core_ != nullptr && core_->Serving().has_value(); }
  void OnAppended();

  // Calls `input(core, now_ns)`, if there is a core, and carries out what it wants (RH1).
  template <typename Input>
  void Feed(Input input);
  void Ask(const std::function<void(ReplicaCore&, Nanos)>& input);  // Feed, for other files
  ChangeResult Change(const std::function<ChangeResult(ReplicaCore&, Nanos)>& change);
  void Know(const Versioned<PartitionRecord>& record);
  Status NoteNewcomer(const ReplicaId& learner, NodeId node);
  Result<bool> Newcomer(const ReplicaId& learner, ChangeResult result);
  void CarryOut();
  void NoteApplying();
  bool Send(const Message& message);  // false: there is no link, or no room
  void Do(SendMessage& effect);
  void Do(ShipUnits& effect);
  void Do(StorePromise& effect);
  void Do(CasTopology& effect);
  void Do(ReadTopology& effect);
  void Do(OpenMastership& effect);
  void Do(CloseMastership& effect);
  void Do(HandoverEnded& effect);
  void Do(ReportLostReplica& effect);
  void Do(InstallReplica& effect);
  void Do(FetchPages& effect);
  void Do(QuarantineReplica& effect);
  void Do(DiscardReplica& effect);

  Task<void> Ship(ShipUnits what);
  Task<bool> ReadUnits(Shipper* shipper, const ShipUnits* what, std::string* units);
  bool Leads(Epoch epoch) const { return core_ != nullptr && core_->leader().epoch() == epoch && epoch != 0; }
  Task<void> Store();
  Task<void> TryCas(PartitionEntry desired);
  Task<void> ReadRecord();
  Task<void> AgreeToFetch(FetchPages offer);
  Task<bool> MayFetch(FetchPages offer);
  void MakeRoom();
  void BecomeAnotherSoon();
  Task<void> BecomeAnother();
  void DropOldReaders();
  void KeepLogForAbsent();
  Task<void> TakeAppends();
  void StopShipping();
  void Retire();
  Status WhyRefused(WriteVerdict verdict, Epoch seen) const;
  Status Frozen() const;
  Status NotServing(WriteLevel level = WriteLevel::kQuorum, Epoch seen = 0) const;
  // The reactor that holds the replica of that node; nothing if it is not known where it listens.
  std::optional<uint32_t> ReactorOf(NodeId node) const;
  std::optional<ReplicaRecord> ChooseSuccessor(NodeId to) const;
  void EndHandover(HandoverEnded how);
  // forced_failover.cc
  Task<void> RunForce(ForceOrder order, ForceOutcome outcome);
  Task<Result<ForcedMastership>> Force(ForceOrder order);
  Task<Result<bool>> ForceOnce(const ForceOrder* order, Nanos deadline_ns, bool* was_member);
  Status CheckOrder(const ForceOrder& order) const;
  Status WhyNotForced(ForceVerdict verdict) const;
  ReplicaSet NameLearners();
  ForceVerdict AskToForce(const ReplicaSet& learners, bool accept_loss);
  bool IsMember() const;
  void ReportFollowers(ReplicaReport* report) const;

  HostContext& host_;
  const uint32_t id_;
  const Uuid partition_uuid_;
  const std::unique_ptr<ReplicaFile> file_;
  ReplicaState wanted_;  // what the file says, or will
  bool file_closed_ = false;
  // Whatever messages ask for, at most one write and one read are under way and one more is to follow.
  uint64_t promises_wanted_ = 0, promises_stored_ = 0;
  bool storing_ = false, reading_ = false, read_again_ = false;
  GatedPartition* partition_ = nullptr;  // null: it does not serve
  bool begun_ = false, closing_ = false;
  bool retired_ = false;    // there is no core any more
  bool lost_ = false;       // GiveUp
  bool discarded_ = false;  // by the core, which is gone then
  bool gave_up_ = false;    // it becomes another one, or has
  Versioned<PartitionRecord> record_;
  std::unique_ptr<ReplicaCore> core_;
  // RH1
  std::deque<Effect> effects_;
  bool inside_ = false, carrying_out_ = false;
  Lsn commit_up_to_ = 0, committed_ = 0;
  mutable std::optional<Nanos> lease_end_ns_;  // as it is until the next input; 0: this replica does not serve
  bool appended_ = false;                      // OnAppended since the core was told
  // Appends that wait for room, in order.
  std::deque<Message> inbox_;
  size_t inbox_bytes_ = 0;
  bool taking_ = false;
  std::map<ReplicaId, Shipper> shippers_;
  // As master: log that is kept for those that fetch pages, and in its own name from the beginning of its epoch, until
  // all replicas are reached. A reader that is never read keeps what lies after it.
  struct Hold {
    std::unique_ptr<LiveReader> reader;
    Nanos until_ns = 0;
  };
  static constexpr size_t kMaxHolds = kMaxReplicas;
  std::map<ReplicaId, Hold> holds_;
  static constexpr size_t kMaxNewcomers = 64;
  std::map<ReplicaId, NodeId> newcomers_;  // that a proposal may name, and the record does not yet
  bool forcing_ = false;
  WaitQueue shipper_idle_;
  WaitQueue moved_;     // what is applied or committed, or who is master
  size_t waiting_ = 0;  // calls that wait for that
  // Where the outcome of the handover that goes on is put; null: none does.
  std::optional<HandoverEnded>* handover_ = nullptr;
  WaitQueue handover_over_;
  Lsn applied_ = 0;
  Nanos applied_since_ns_ = 0;    // when it last moved, or there was nothing to apply
  Revision retire_revision_ = 0;  // that the newest proposal to retire the partition compares; 0: there was none
  Nanos opening_since_ns_ = 0;    // about when a mastership began that is not open; 0: there is none
  bool leaving_ = false;          // LeaveIsr
  bool too_large_ = false;        // a unit of the master does not fit into this node's memory
  bool apply_stalled_ = false;
  uint64_t room_ = std::numeric_limits<uint64_t>::max();  // as the core knows it
  TaskGroup tasks_;

  friend class ReplicaHost;
};

}  // namespace pando::replication
