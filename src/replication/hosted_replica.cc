#include "src/replication/hosted_replica.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/io/timed_wait.h"
#include "src/replication/partition_record.h"

namespace pando::replication {

using AppendBody = Append;  // HostedReplica::Append is another thing

namespace {

// What the follower misses cannot be read from the log: it is not there any more, is damaged, or the follower's
// history is another one.
bool MustBeInstalled(Code code) {
  return code == Code::kNotFound || code == Code::kAborted || code == Code::kCorruption || code == Code::kIoError;
}

}  // namespace

// What the partition owns. It outlives nothing: the partition ends before the host does.
class HostedReplica::Gate final : public CommitGate {
 public:
  explicit Gate(HostedReplica* replica) : replica_(*replica) {}
  Start OnRecovered(const RecoveredLog& log) override { return replica_.OnRecovered(log); }
  void OnServing(GatedPartition* partition) override { replica_.OnServing(partition); }
  void OnDurable(Lsn) override { replica_.OnDurable(); }
  void OnClosed() override { replica_.OnClosed(); }
  Status MayWrite(WriteLevel level, Epoch seen) override { return replica_.MayWrite(level, seen); }
  bool HoldsWrites() const override { return replica_.HoldsWrites(); }
  Status MayFeed(WriteLevel level, Epoch seen) override { return replica_.MayFeed(level, seen); }
  Task<Status> UntilMayWrite(WriteLevel level, Epoch seen, Nanos deadline_ns) override {
    return replica_.UntilMayWrite(level, seen, deadline_ns);
  }
  bool frozen() const override { return replica_.core_ != nullptr && replica_.core_->frozen(); }
  bool HasFollowers() const override { return replica_.HasFollowers(); }
  Task<Status> UntilOnAll(Lsn lsn, Nanos deadline_ns) override { return replica_.UntilOnAll(lsn, deadline_ns); }
  Status CheckDisks(uint64_t bytes) override { return replica_.CheckDisks(bytes); }
  bool Leads() const override { return replica_.Leads(); }
  bool MaySweep() const override { return replica_.MaySweep(); }
  Status MayShowSnapshot() override { return replica_.MayShowSnapshot(); }
  Status MayMark() const override { return replica_.MayMark(); }
  void OnAppended() override { replica_.OnAppended(); }

 private:
  HostedReplica& replica_;
};

HostedReplica::HostedReplica(HostContext& host, uint32_t partition, Uuid partition_uuid,
                             std::unique_ptr<ReplicaFile> file)
    : host_(host),
      id_(partition),
      partition_uuid_(partition_uuid),
      file_(std::move(file)),
      wanted_(file_->state()),
      shipper_idle_(host.reactor),
      moved_(host.reactor),
      handover_over_(host.reactor) {}

HostedReplica::~HostedReplica() { CHECK(closing_) << "a HostedReplica was destroyed before it was closed"; }

std::unique_ptr<CommitGate> HostedReplica::MakeGate() { return std::make_unique<Gate>(this); }

// -- the gate

CommitGate::Start HostedReplica::OnRecovered(const RecoveredLog& log) { return {log.epoch, log.committed_lsn}; }

void HostedReplica::OnServing(GatedPartition* partition) {
  partition_ = partition;
  if (begun_) Begin();
}

void HostedReplica::Begin() {
  begun_ = true;
  if (partition_ == nullptr || core_ != nullptr || retired_) return;
  CoreConfig config;
  config.partition = partition_uuid_;
  config.self = replica();
  config.incarnation = host_.incarnation;
  config.seed = host_.reactor.Random();
  config.timing = host_.timing;
  config.rules = host_.rules;
  const ReplicaState& state = file_->state();
  RecoveredReplica found;
  // A log whose loss was accepted states an epoch above all that it may have had (RH6).
  found.promised = std::max(state.promised, partition_->epoch());
  found.committed_lsn = partition_->committed_lsn();
  found.installed = state.installed;
  found.lineage = state.lineage;
  commit_up_to_ = committed_ = partition_->committed_lsn();
  ReplicaLog& log = *this;
  core_ = std::make_unique<ReplicaCore>(config, found, log, host_.reactor.NowNs());
  if (record_.revision != 0) {
    Feed([this](ReplicaCore& core, Nanos now_ns) { core.OnTopology(EntryOf(record_), now_ns); });
  }
}

void HostedReplica::OnDurable() {
  Feed([](ReplicaCore& core, Nanos now_ns) { core.OnDurable(now_ns); });
}

void HostedReplica::OnClosed() {
  Wake();
  EndHandover({{}, false, "the partition is out of service"});
  partition_ = nullptr;
  lease_end_ns_.reset();
  StopShipping();
  holds_.clear();
  // Within a call of the core, it is destroyed when that has ended.
  if (!inside_) core_.reset();
}

void HostedReplica::OnAppended() {
  if (core_ == nullptr || std::exchange(appended_, true)) return;
  host_.appended(this);
}

void HostedReplica::TellAppended() {
  appended_ = false;
  Feed([](ReplicaCore& core, Nanos now_ns) { core.OnAppended(now_ns); });
}

// -- the core

template <typename Input>
void HostedReplica::Feed(Input input) {
  if (core_ == nullptr) return;
  CHECK(!inside_) << "partition " << id_ << ": an input came within another one";
  inside_ = true;
  lease_end_ns_.reset();
  input(*core_, host_.reactor.NowNs());
  inside_ = false;
  std::vector<Effect> effects = core_->TakeEffects();
  if (retired_) return Retire();
  for (Effect& effect : effects) effects_.push_back(std::move(effect));
  CarryOut();
}

void HostedReplica::Ask(const std::function<void(ReplicaCore&, Nanos)>& input) { Feed(input); }

// RH1. Applying what is committed resumes who waits for it, and that may feed the core again: then the effects
// of that wait for their turn here.
void HostedReplica::CarryOut() {
  if (std::exchange(carrying_out_, true)) return;
  while (true) {
    if (partition_ == nullptr) {
      effects_.clear();
      core_.reset();
      break;
    }
    if (!host_.rules.apply_waits_for_commit) commit_up_to_ = std::max(commit_up_to_, partition_->durable().lsn);
    if (commit_up_to_ > committed_) {
      committed_ = commit_up_to_;
      partition_->Commit(committed_);
      Wake();
      const bool opens = core_ != nullptr && core_->leader().active() && !core_->leader().is_open();
      if (opens) Feed([](ReplicaCore& core, Nanos now_ns) { core.OnApplied(now_ns); });
      continue;
    }
    if (effects_.empty()) break;
    Effect effect = std::move(effects_.front());
    effects_.pop_front();
    std::visit([this](auto& e) { Do(e); }, effect);
  }
  carrying_out_ = false;
}

// Of its followers most are at the end of the log already. A reader that is there too keeps in memory what follows, so
// that nobody reads a segment to find the first unit of the epoch.
void HostedReplica::BeginEpoch(Epoch epoch) {
  if (Result<std::unique_ptr<LiveReader>> reader = partition_->OpenReader(partition_->end()); reader.ok()) {
    holds_[replica()] = {*std::move(reader), host_.reactor.NowNs() + kSecond};
  }
  partition_->BeginEpoch(epoch, partition_->end().lsn);
}

HistoryPoint HostedReplica::durable() const {
  const bool leads = core_ != nullptr && core_->leader().active();
  return host_.rules.durable_is_synced || leads ? partition_->durable() : partition_->end();
}

void HostedReplica::Commit(Lsn up_to) {
  commit_up_to_ = host_.rules.durable_is_synced ? up_to : std::min(up_to, partition_->durable().lsn);
}

bool HostedReplica::Append(const WriteUnit& unit) {
  const Status status = partition_->AppendUnit(unit);
  LOG_IF_EVERY_N(WARNING, !status.ok(), 100) << "partition " << id_ << ": a unit of the master at LSN "
                                             << unit.first_lsn << " was not taken: " << status.ToString();
  // It never will be, as this node is, so nobody may wait for this replica (NoteApplying).
  const bool too_large = status.code() == Code::kInvalidArgument;
  LOG_IF(ERROR, too_large && !too_large_) << "partition " << id_
                                          << ": the replica here leaves those that are in sync, because this node "
                                             "cannot take what the master writes: "
                                          << status.ToString();
  too_large_ = too_large;
  return status.ok();
}

std::optional<uint32_t> HostedReplica::ReactorOf(NodeId node) const {
  const auto at = host_.members.find(node);
  if (at == host_.members.end() || at->second.peer_addresses.empty()) return std::nullopt;
  return static_cast<uint32_t>(id_ % at->second.peer_addresses.size());
}

bool HostedReplica::Send(const Message& message) {
  const std::optional<NodeId> node = NodeOf(record_.record, message.to);
  const std::optional<uint32_t> reactor = node ? ReactorOf(*node) : std::nullopt;
  const bool sent = reactor && host_.links->Send(*node, *reactor, id_, message);
  (sent ? host_.metrics.messages_sent_total : host_.metrics.messages_dropped_total).Add();
  return sent;
}

void HostedReplica::Do(SendMessage& effect) { Send(effect.message); }

void HostedReplica::Do(ShipUnits& effect) { tasks_.Spawn(Ship(effect)); }
void HostedReplica::Do(StorePromise& effect) {
  wanted_.promised = std::max(wanted_.promised, effect.epoch);
  wanted_.lineage = std::max(wanted_.lineage, effect.lineage);
  ++promises_wanted_;
  if (!std::exchange(storing_, true)) tasks_.Spawn(Store());
}
void HostedReplica::Do(CasTopology& effect) {
  if (effect.desired.retired()) retire_revision_ = effect.desired.revision;
  tasks_.Spawn(TryCas(effect.desired));
}
void HostedReplica::Do(ReadTopology&) {
  read_again_ = true;
  if (!std::exchange(reading_, true)) tasks_.Spawn(ReadRecord());
}

void HostedReplica::Do(OpenMastership& effect) {
  host_.metrics.masterships_opened_total.Add();
  LOG(INFO) << "partition " << id_ << ": this node is its master, in epoch " << effect.epoch;
  Wake();
}

void HostedReplica::Do(CloseMastership& effect) {
  host_.metrics.masterships_closed_total.Add();
  LOG(INFO) << "partition " << id_ << ": this node's mastership of epoch " << effect.epoch
            << " has ended: " << effect.why;
  StopShipping();
  holds_.clear();
  newcomers_.clear();
  Wake();
  EndHandover({effect.successor, effect.successor != ReplicaId(), effect.why});
}

void HostedReplica::Do(HandoverEnded& effect) {
  LOG_IF(WARNING, !effect.done && effect.target != ReplicaId())
      << "partition " << id_ << ": the handover to " << effect.target.ToString() << " was given up: " << effect.why;
  Wake();
  EndHandover(effect);
}

void HostedReplica::Do(ReportLostReplica& effect) {
  LOG(ERROR) << "partition " << id_ << ": the replica " << effect.replica.ToString()
             << " has lost what it had acknowledged, and is not counted any more: " << effect.why;
}

void HostedReplica::Do(DiscardReplica& effect) {
  discarded_ = true;
  host_.observer->OnQuarantined(id_, Error(Code::kAborted, "partition {}: {}", id_, effect.why));
  MakeRoom();
}

void HostedReplica::Do(InstallReplica& effect) { host_.observer->OnInstallWanted(id_, effect.replica); }

void HostedReplica::Do(FetchPages& effect) { tasks_.Spawn(AgreeToFetch(effect)); }

void HostedReplica::Do(QuarantineReplica& effect) {
  host_.observer->OnQuarantined(id_, Error(Code::kCorruption, "partition {}: {}", id_, effect.why));
  Retire();
  BecomeAnotherSoon();  // its master says so
}

// -- handing over

void HostedReplica::EndHandover(HandoverEnded how) {
  if (handover_ == nullptr) return;
  *std::exchange(handover_, nullptr) = std::move(how);
  handover_over_.NotifyAll();
}

std::optional<ReplicaRecord> HostedReplica::ChooseSuccessor(NodeId to) const {
  std::optional<ReplicaRecord> any;
  for (const ReplicaRecord& r : record_.record.isr) {
    if (r.replica == replica() || (to != 0 && r.node != to)) continue;
    const std::optional<uint32_t> reactor = ReactorOf(r.node);
    if (!reactor || (to == 0 && !host_.links->IsUp(r.node, *reactor))) continue;
    // Those that a node gives away go to all others.
    if (!any || (id_ + r.node) % 2 == 0) any = r;
  }
  return any;
}

Task<Result<HandoverResult>> HostedReplica::HandOver(NodeId to, Epoch epoch, Nanos timeout_ns) {
  if (core_ == nullptr || !core_->Serving()) co_return NotServing();
  const Epoch now_epoch = core_->leader().epoch();
  if (epoch != 0 && epoch != now_epoch) {
    co_return Error(Code::kInvalidArgument,
                    "partition {}: its epoch is {}, and not {} any more: its master has changed meanwhile", id_,
                    now_epoch, epoch);
  }
  if (handover_ != nullptr) {
    co_return Error(Code::kOverloaded, "partition {}: another handover is under way; try again", id_);
  }
  const std::optional<ReplicaRecord> successor = ChooseSuccessor(to);
  if (!successor) {
    co_return Error(Code::kInvalidArgument, "partition {}: {}; look at kvadmin cluster show for those that are in sync",
                    id_,
                    to == 0 ? "no other replica is in sync and reached"
                            : fmt::format("node {} has no other replica of it that is in sync", to));
  }
  const Status busy = Error(Code::kOverloaded,
                            "partition {}: another change of its master or its replicas is under way; try again", id_);
  bool begun = false;
  const Nanos began_ns = host_.reactor.NowNs();
  std::optional<HandoverEnded> ended;
  handover_ = &ended;
  Feed(
      [&](ReplicaCore& core, Nanos now_ns) { begun = core.Handover(successor->replica, now_ns, now_ns + timeout_ns); });
  if (!begun) {
    handover_ = nullptr;
    co_return busy;
  }
  // Once it is proposed, only the topology can end it, which may not answer for long.
  const Nanos deadline_ns = began_ns + timeout_ns + kHandoverGraceNs;
  if (!co_await WaitUntil(host_.reactor, handover_over_, deadline_ns, [&ended] { return ended.has_value(); })) {
    handover_ = nullptr;
    co_return Error(
        Code::kUnavailable,
        "partition {}: the topology has not said in time whether node {} is its master now; look at kvadmin "
        "cluster show",
        id_, successor->node);
  }
  // The new master may have been heard before the topology has answered.
  bool done = ended->done;
  if (!done) done = co_await HasHandedOverTo(successor->replica, now_epoch);
  if (done) co_return HandoverResult{successor->node, host_.reactor.NowNs() - began_ns};
  co_return Error(Code::kUnavailable, "partition {}: the handover to node {} did not succeed: {}", id_, successor->node,
                  ended->why);
}

// -- shipping

void HostedReplica::StopShipping() {
  for (auto& [replica, shipper] : shippers_) {
    if (shipper.reader) shipper.reader->Stop();
  }
}

// Reads the units after `what->after`, once there are any. Returns false if the log does not hold them any
// more, or if this mastership has ended.
Task<bool> HostedReplica::ReadUnits(Shipper* shipper, const ShipUnits* what, std::string* units) {
  size_t most = kShipBytes;
  while (Leads(what->epoch) && partition_ != nullptr) {
    const bool continues = shipper->reader && shipper->reader->position().lsn == what->after.lsn &&
                           shipper->reader->position().chain == what->after.chain;
    if (!continues) {
      Result<std::unique_ptr<LiveReader>> reader = partition_->OpenReader(what->after);
      if (!reader.ok()) {
        shipper->reader.reset();
        LOG_EVERY_N(WARNING, 100) << "partition " << id_
                                  << ": the log cannot be read for a replica: " << reader.status().ToString();
        if (MustBeInstalled(reader.code())) co_return false;
        co_await Sleep(host_.reactor, kShipPauseNs);
        co_return true;
      }
      // The one before it goes afterwards, so that the log keeps what was kept for this follower.
      shipper->reader = *std::move(reader);
    }
    co_await host_.ship_slots.Acquire();
    Result<LiveReader::Units> read = co_await shipper->reader->Read(most, units);
    host_.ship_slots.Release();
    host_.metrics.ship_reads_total.Add();
    if (!read.ok()) {
      const Code code = read.code();
      if (code != Code::kOverloaded) shipper->reader.reset();
      units->clear();
      if (MustBeInstalled(code)) co_return false;
      // The log is ending, or there is no memory now.
      co_await Sleep(host_.reactor, kShipPauseNs);
      co_return true;
    }
    if (read->needs_bytes > 0) {
      most = read->needs_bytes;
      continue;
    }
    if (read->count > 0 || !Leads(what->epoch) || partition_ == nullptr) co_return true;
    if (partition_->end().lsn <= what->after.lsn) co_return true;
    // They are on their way to the disk. StopShipping ends the wait.
    co_await shipper->reader->UntilMore();
  }
  co_return true;
}

Task<void> HostedReplica::Ship(ShipUnits what) {
  Shipper& shipper = shippers_[what.to];
  // One of an earlier mastership may still be ending.
  while (shipper.running) co_await shipper_idle_.Wait();
  shipper.running = true;
  const std::optional<NodeId> node = NodeOf(record_.record, what.to);
  const std::optional<uint32_t> reactor = node ? ReactorOf(*node) : std::nullopt;
  std::string units;
  bool there = true;
  if (reactor) {
    const bool room = co_await host_.links->UntilRoom(*node, *reactor);
    if (room) there = co_await ReadUnits(&shipper, &what, &units);
    // The core asks again at once.
    if (!room) co_await Sleep(host_.reactor, kShipPauseNs);
  } else {
    co_await Sleep(host_.reactor, kShipPauseNs);
  }
  HistoryPoint end = what.after;
  if (shipper.reader && !units.empty()) end = shipper.reader->position();
  shipper.running = false;
  shipper_idle_.NotifyAll();
  if (!Leads(what.epoch)) {
    shipper.reader.reset();
    co_return;
  }
  if (!there) {
    Feed([&](ReplicaCore& core, Nanos now_ns) { core.OnShipFailed(what.to, what.epoch, now_ns); });
    co_return;
  }
  const size_t bytes = units.size();
  // Several may have waited for the same room. Who gets none has not shipped: what would follow, the follower would
  // refuse.
  if (Send({replica(), what.to, AppendBody{what.epoch, what.after, std::move(units), core_->commit_lsn()}})) {
    host_.metrics.shipped_bytes_total.Add(bytes);
  } else {
    end = what.after;
  }
  Feed([&](ReplicaCore& core, Nanos now_ns) { core.OnShipped(what.to, what.epoch, end, now_ns); });
}

// -- the disk and the topology

Task<void> HostedReplica::Store() {
  while (promises_stored_ < promises_wanted_) {
    promises_stored_ = promises_wanted_;
    const ReplicaState state = wanted_;
    const auto stored = [&state](ReplicaCore& core, Nanos now_ns) {
      core.OnPromiseStored(std::min(state.promised, core.promised()), now_ns);
    };
    if (!host_.rules.stored_promise_is_stored) Feed(stored);
    const Status status = co_await file_->Store(state);
    if (!status.ok()) {
      // It cannot keep its promises, so it gives none: to the others it is silent.
      LOG(ERROR) << "partition " << id_ << ": the promise of epoch " << state.promised
                 << " cannot be stored: " << status.ToString();
      if (partition_ != nullptr) host_.observer->OnQuarantined(id_, status);
      break;
    }
    Feed(stored);
  }
  storing_ = false;
}

Task<void> HostedReplica::TryCas(PartitionEntry desired) {
  host_.metrics.topology_writes_total.Add();
  const Revision expected = desired.revision;
  RecordCas cas;
  if (record_.revision == expected) {
    PartitionRecord before = record_.record;
    for (const auto& [learner, node] : newcomers_) {
      if (!NodeOf(before, learner)) before.learners.push_back({node, learner, {}});
    }
    PartitionRecord record = RecordOf(desired, before);
    cas = co_await host_.topology->CompareAndSwap(std::move(record), expected);
  } else {
    cas = {pando::CasOutcome::Kind::kConflict, record_};  // a newer record is known: this cannot land
  }
  CasOutcome outcome = CasOutcome::kUnknown;
  switch (cas.kind) {
    case pando::CasOutcome::Kind::kStored: outcome = CasOutcome::kApplied; break;
    case pando::CasOutcome::Kind::kConflict:
      outcome = CasOutcome::kConflict;
      host_.metrics.topology_conflicts_total.Add();
      break;
    case pando::CasOutcome::Kind::kUnknown: host_.metrics.topology_unknown_total.Add(); break;
  }
  PartitionEntry now;
  if (outcome != CasOutcome::kUnknown) {
    Know(cas.now);
    now = EntryOf(cas.now);
  }
  Feed([&](ReplicaCore& core, Nanos now_ns) { core.OnCasDone(desired.op_id, outcome, now, now_ns); });
}

Task<void> HostedReplica::ReadRecord() {
  while (std::exchange(read_again_, false)) {
    Result<Versioned<PartitionRecord>> record = co_await host_.topology->Read(id_);
    // The core asks again, as long as it needs to know.
    if (record.ok()) OnRecord(*record);
  }
  reading_ = false;
}

// -- copies of the pages

Task<bool> HostedReplica::MayFetch(FetchPages offer) {
  Result<Versioned<PartitionRecord>> read = co_await host_.topology->Read(id_);
  if (!read.ok()) co_return false;
  const PartitionRecord& r = read->record;
  const bool in_sync = std::any_of(r.isr.begin(), r.isr.end(), [&](const auto& m) { return m.replica == replica(); });
  co_return r.epoch == offer.epoch&& r.master == offer.master && !in_sync;
}

// RH5. The master repeats an offer that was not taken.
Task<void> HostedReplica::AgreeToFetch(FetchPages offer) {
  const bool may = co_await MayFetch(offer);
  Status stored = Error(Code::kAborted, "not stored");
  if (may && !closing_) {
    wanted_.installed = false;
    stored = co_await file_->Store(wanted_);
  }
  if (stored.ok()) {
    LOG(INFO) << "partition " << id_ << ": the log of the master of epoch " << offer.epoch
              << " does not hold what this replica misses; it fetches a copy of the pages";
    co_return;
  }
  if (may && !closing_) {
    LOG(ERROR) << "partition " << id_ << ": the replica file cannot be stored: " << stored.ToString();
    if (partition_ != nullptr) host_.observer->OnQuarantined(id_, stored);
    co_return;
  }
  Feed([](ReplicaCore& core, Nanos now_ns) { core.OnInstalled(now_ns); });
}

Result<KeptLog> HostedReplica::KeepLogFor(const ReplicaId& learner, Nanos until_ns, bool anew) {
  if (core_ == nullptr || !core_->Serving()) return NotServing();
  const std::optional<NodeId> node = NodeOf(record_.record, learner);
  if (!node) {
    return Error(Code::kInvalidArgument, "partition {}: the topology knows no replica {} of it", id_,
                 learner.ToString());
  }
  if (core_->leader().WaitSet().Contains(learner)) {  // RC8
    return Error(Code::kInvalidArgument, "partition {}: the replica {} is in sync, so its data are not replaced", id_,
                 learner.ToString());
  }
  DropOldReaders();
  const auto held = holds_.find(learner);
  if (held != holds_.end() && !anew) {
    held->second.until_ns = until_ns;
    return held->second.reader->kept();
  }
  if (!anew) {
    return Error(Code::kSnapshotGone, "partition {}: no log is kept any more for the replica {}: begin again", id_,
                 learner.ToString());
  }
  if (held == holds_.end() && holds_.size() >= kMaxHolds) {
    return Error(Code::kOverloaded, "partition {}: {} replicas are being installed already", id_, holds_.size());
  }
  // The copy has at least what is applied now, and must have all that the replica ever acknowledged (RC8). That may lag
  // for a moment.
  const std::optional<HistoryPoint> from = partition_->PointAt(partition_->applied_lsn());
  if (!from || from->lsn < core_->leader().AckedBy(learner)) {
    return Error(Code::kUnavailable, "partition {}: what is committed is being applied; try again", id_);
  }
  ASSIGN_OR_RETURN(std::unique_ptr<LiveReader> reader, partition_->OpenReader(*from));
  const KeptLog kept = reader->kept();
  holds_[learner] = {std::move(reader), until_ns};
  return kept;
}

// A follower that was away since before this mastership has no reader yet. For it, the log of the epoch is kept, as far
// as for any follower.
void HostedReplica::KeepLogForAbsent() {
  const auto own = holds_.find(replica());
  if (core_ == nullptr || own == holds_.end() || !own->second.reader->kept().complete) return;
  for (const ReplicaId& id : core_->entry().assigned) {
    const auto shipper = shippers_.find(id);
    if (id == replica() || (shipper != shippers_.end() && shipper->second.reader)) continue;
    own->second.until_ns = host_.reactor.NowNs() + kSecond;
  }
}

// Log is kept only for those who may still come for it.
void HostedReplica::DropOldReaders() {
  KeepLogForAbsent();
  std::erase_if(holds_, [now_ns = host_.reactor.NowNs()](const auto& hold) { return hold.second.until_ns <= now_ns; });
  for (auto& [replica, shipper] : shippers_) {
    if (!shipper.running && shipper.reader && !NodeOf(record_.record, replica)) shipper.reader.reset();
  }
}

ChangeResult HostedReplica::Change(const std::function<ChangeResult(ReplicaCore&, Nanos)>& change) {
  ChangeResult result = ChangeResult::kNotMaster;
  Feed([&](ReplicaCore& core, Nanos now_ns) { result = change(core, now_ns); });
  return result;
}

// -- messages

// RH2, RH4.
void HostedReplica::OnMessage(NodeId from, const Message& message) {
  if (core_ == nullptr) {
    const bool leads = std::holds_alternative<Heartbeat>(message.body) && message.from == record_.record.master;
    if (lost_ && leads && message.to == replica()) BecomeAnotherSoon();
    return;
  }
  if (message.to != replica() || NodeOf(record_.record, message.from).value_or(from) != from) {
    host_.metrics.messages_misdirected_total.Add();
    return;
  }
  const auto* append = std::get_if<AppendBody>(&message.body);
  if (append == nullptr || append->units.empty()) {
    return Feed([&](ReplicaCore& core, Nanos now_ns) { core.Step(message, now_ns); });
  }
  if (!taking_ && !closing_ && partition_ != nullptr && partition_->HasRoom(append->units.size())) {
    return Feed([&](ReplicaCore& core, Nanos now_ns) { core.Step(message, now_ns); });
  }
  const auto bytes = static_cast<int64_t>(append->units.size());
  if (inbox_bytes_ + append->units.size() > kMaxInboxBytes || !host_.memory->TryReserve(bytes)) {
    host_.metrics.appends_dropped_total.Add();
    return;
  }
  inbox_.push_back(message);
  inbox_bytes_ += append->units.size();
  host_.metrics.waiting_append_bytes.Add(bytes);
  if (!std::exchange(taking_, true)) tasks_.Spawn(TakeAppends());
}

// Without a suspension, as long as there is room.
Task<void> HostedReplica::TakeAppends() {
  bool late = false;
  while (!inbox_.empty()) {
    const Message message = std::move(inbox_.front());
    inbox_.pop_front();
    const size_t bytes = std::get<AppendBody>(message.body).units.size();
    if (partition_ != nullptr && core_ != nullptr && !closing_) {
      Result<LogSpace> room = co_await partition_->WaitForRoom(bytes, host_.reactor.NowNs() + kRoomTimeoutNs);
      if (room.ok() && !late) {
        Feed([&](ReplicaCore& core, Nanos now_ns) { core.Step(message, now_ns); });
      } else {
        // Those behind it continue what is not there. The master sends them again.
        late = true;
        host_.metrics.appends_dropped_total.Add();
      }
    }
    inbox_bytes_ -= bytes;
    host_.memory->Release(static_cast<int64_t>(bytes));
    host_.metrics.waiting_append_bytes.Add(-static_cast<int64_t>(bytes));
  }
  taking_ = false;
}

void HostedReplica::OnDeath(NodeId node, uint64_t incarnation) {
  const PartitionRecord& r = record_.record;
  for (const auto* replicas : {&r.isr, &r.evicted, &r.learners}) {
    for (const ReplicaRecord& dead : *replicas) {
      if (dead.node != node) continue;
      const Message notice{dead.replica, replica(), DeathNotice{dead.replica, incarnation}};
      Feed([&](ReplicaCore& core, Nanos now_ns) { core.Step(notice, now_ns); });
    }
  }
}

void HostedReplica::Tick() {
  DropOldReaders();
  if (core_ == nullptr) return;
  NoteApplying();
  Feed([heard_ns = host_.topology_heard_ns](ReplicaCore& core, Nanos now_ns) {
    if (heard_ns != 0) core.OnTopologyHeard(heard_ns);
    core.Tick(now_ns);
  });
  NoteOpening();
  if (core_ == nullptr) return;
  Wake();
  const std::string wrong = core_->CheckInvariants();
  CHECK(wrong.empty()) << "partition " << id_ << ": " << wrong;
}

void HostedReplica::Stop() {
  closing_ = true;
  Retire();
}

// RH3.
Task<void> HostedReplica::Close() {
  Stop();
  co_await tasks_.Drain();
  while (waiting_ > 0) co_await Sleep(host_.reactor, kMillisecond);
  shippers_.clear();
  if (!std::exchange(file_closed_, true)) {
    const Status closed = co_await file_->Close();
    LOG_IF(WARNING, !closed.ok()) << "partition " << id_ << ": " << closed.ToString();
  }
}

// -- what it says of itself

ReplicaReport HostedReplica::Report() const {
  ReplicaReport report;
  report.partition = id_;
  report.replica = replica();
  report.role = core_ == nullptr ? "joining" : std::string(core_->role());
  report.promised = file_->state().promised;
  const PartitionRecord& r = record_.record;
  report.master = r.master;
  report.master_node = NodeOf(r, r.master).value_or(0);
  report.epoch = r.epoch;
  report.in_sync = r.isr.size();
  report.replicas = r.replicas;
  report.min_isr = r.min_isr;
  if (partition_ != nullptr) {
    report.last_lsn = partition_->end().lsn;
    report.last_epoch = partition_->end().epoch;
    report.durable_lsn = partition_->durable().lsn;
    report.commit_lsn = partition_->committed_lsn();
    report.applied_lsn = partition_->applied_lsn();
  }
  const std::optional<Mastership> serving = core_ == nullptr ? std::nullopt : core_->Serving();
  report.leased = serving && core_->LeaseHolds(*serving, host_.reactor.FreshNowNs());
  ReportFollowers(&report);
  return report;
}

void HostedReplica::ReportFollowers(ReplicaReport* report) const {
  if (core_ == nullptr || !core_->leader().active()) return;
  const PartitionRecord& r = record_.record;
  auto among = [](const std::vector<ReplicaRecord>& replicas, const ReplicaId& id) {
    return std::any_of(replicas.begin(), replicas.end(), [&](const ReplicaRecord& of) { return of.replica == id; });
  };
  const Nanos now_ns = host_.reactor.NowNs();
  for (const Leader::Following& f : core_->leader().Followers()) {
    ReplicaReport::Follower& follower = report->followers.emplace_back();
    follower.replica = f.replica;
    follower.node = NodeOf(r, f.replica).value_or(0);
    follower.in_sync = among(r.isr, f.replica);
    follower.learner = among(r.learners, f.replica);
    follower.durable_lsn = f.acked_lsn;
    if (f.acked_lsn < report->last_lsn) follower.behind_ns = std::max<Nanos>(now_ns - f.caught_up_ns, 0);
    follower.silent_ns = std::max<Nanos>(now_ns - f.heard_ns, 0);
  }
}

}  // namespace pando::replication
