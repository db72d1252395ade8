#include "src/node/controller.h"

#include <algorithm>
#include <utility>

#include "src/replication/partition_record.h"
#include "src/replication/replica_host.h"

namespace pando {

namespace {

constexpr size_t kMaxPlans = 16;  // that the status shows

}  // namespace

Controller::Controller(Reactor& reactor, NodeCluster* cluster, replication::PeerLinks* links, NodeControl* self,
                       Registry* registry, Nanos replace_after_ns, bool balances)
    : reactor_(reactor),
      cluster_(*cluster),
      links_(*links),
      masters_(reactor, cluster, links, self),
      registry_(registry),
      replace_after_ns_(replace_after_ns),
      balances_(balances) {
  auto add = [this](std::string name, std::string help, const auto* metric) {
    registry_->Add(this, std::move(name), std::move(help), {}, metric);
  };
  add("kv_controller_holds", "1 while this node decides which replicas of nodes that stay away others get.", &holds_);
  add("kv_controller_away_count", "Nodes of the cluster that this one does not reach.", &away_);
  add("kv_controller_added_total", "Replicas that masters have added because this node asked them to.", &added_total_);
  add("kv_controller_removed_total", "Replicas that masters have removed because this node asked them to.",
      &removed_total_);
  add("kv_controller_refused_total", "Requests of this node to add or remove a replica that failed; they are repeated.",
      &refused_total_);
}

Controller::~Controller() {
  CHECK(stopped_) << "a Controller was destroyed before it was stopped";
  registry_->Remove(this);
}

void Controller::Start() {
  stopped_ = false;
  key_changed_ns_ = reactor_.NowNs();
  tasks_.Spawn(Run());
}

Task<void> Controller::Stop() {
  stopping_ = true;
  co_await tasks_.Drain();
  stopped_ = true;
}

Task<void> Controller::Run() {
  while (!stopping_) {
    LookAtNodes();
    LookAtPartitions();
    LookAtKey();
    if (ReplaceAfter() != 0 || balances_) {
      co_await TakeOrRenew();
      if (MayDecide() && !stopping_ && ReplaceAfter() != 0) co_await Decide();
    }
    if (!MayDecide() || ReplaceAfter() == 0) {
      plans_.clear();
      told_.clear();
    }
    holds_.Set(MayDecide());
    if (!stopping_) co_await Sleep(reactor_, kTickNs);
  }
}

// -- who is away

Nanos Controller::ReplaceAfter() const {
  const auto& controller = cluster_.newest().controller;
  const Replacing replacing = controller ? controller->record.replacing : Replacing::kAsStarted;
  if (replacing == Replacing::kOff) return 0;
  if (replacing == Replacing::kOn && replace_after_ns_ == 0) return kReplaceAfterNs;
  return replace_after_ns_;
}

void Controller::LookAtNodes() {
  std::map<NodeId, Nanos> away;
  for (const auto& [id, node] : cluster_.newest().nodes) {
    if (id == cluster_.node() || node.record.state == NodeState::kRemoved || links_.IsUp(id, 0)) continue;
    const auto before = away_since_ns_.find(id);
    away[id] = before == away_since_ns_.end() ? reactor_.NowNs() : before->second;
  }
  away_since_ns_ = std::move(away);
  away_.Set(static_cast<int64_t>(away_since_ns_.size()));
}

// A move that somebody has given up may have left one too many. What was begun is over once the old replica has gone.
void Controller::LookAtPartitions() {
  std::erase_if(begun_, [this](const auto& begun) {
    const auto at = cluster_.newest().partitions.find(begun.first);
    return at == cluster_.newest().partitions.end() ||
           replication::ReplicaOn(at->second.record, begun.second.gone) == nullptr;
  });
  for (const auto& [id, partition] : cluster_.newest().partitions) {
    if (partition.record.isr.size() <= partition.record.replicas || moving_.contains(id)) {
      surplus_since_ns_.erase(id);
    } else {
      surplus_since_ns_.emplace(id, reactor_.NowNs());
    }
  }
}

// -- who decides

void Controller::LookAtKey() {
  const auto& controller = cluster_.newest().controller;
  const Revision revision = controller ? controller->revision : 0;
  if (revision == key_revision_) return;
  key_revision_ = revision;
  key_changed_ns_ = reactor_.NowNs();
}

// CO1.
bool Controller::MayDecide() const {
  const auto& controller = cluster_.newest().controller;
  return controller && controller->record.holder == cluster_.node() &&
         controller->record.incarnation == cluster_.incarnation() && held_ns_ != 0 &&
         reactor_.NowNs() - held_ns_ < kHoldNs;
}

Task<void> Controller::TakeOrRenew() {
  const Nanos now_ns = reactor_.NowNs();
  ControllerRecord record;
  if (cluster_.newest().controller) record = cluster_.newest().controller->record;
  const bool mine = record.holder == cluster_.node() && record.incarnation == cluster_.incarnation();
  // One that an operator has made names no holder.
  const bool free = key_revision_ == 0 || record.holder == 0 || now_ns - key_changed_ns_ >= kTakeAfterNs;
  if (now_ns < next_write_ns_ || (!mine && !free)) co_return;
  record.holder = cluster_.node();
  record.incarnation = cluster_.incarnation();
  ++record.renewed;
  record.op_id = NewOpId(reactor_);
  Result<std::string> value = Encode(record);
  CHECK(value.ok()) << value.status().ToString();
  co_await cluster_.topology_calls()->Acquire();
  Result<CasOutcome> outcome = co_await cluster_.topology()->CompareAndSwap(std::string(kControllerKey), key_revision_,
                                                                            *std::move(value), kTopologyNs);
  cluster_.topology_calls()->Release();
  next_write_ns_ = reactor_.NowNs() + kRenewNs + static_cast<Nanos>(reactor_.Random() % kTickNs);
  if (!outcome.ok() || outcome->kind != CasOutcome::Kind::kStored) co_return;
  held_ns_ = now_ns;
  LOG_IF(INFO, !mine && ReplaceAfter() != 0) << "this node decides from now on which replicas of nodes that stay away "
                                                "other nodes get; a node is replaced after "
                                             << ReplaceAfter() / kSecond << " s";
  LOG_IF(INFO, !mine && balances_) << "this node measures the traffic of all nodes from now on (--auto_balance)";
}

// -- what is done

// CO2.
Task<void> Controller::Decide() {
  ReplacementInput input;
  input.map = &cluster_.newest();
  for (const auto& [node, since_ns] : away_since_ns_) {
    input.away.insert(node);
    if (reactor_.NowNs() - since_ns >= ReplaceAfter()) input.gone.insert(node);
  }
  for (const auto& [partition, since_ns] : surplus_since_ns_) {
    if (reactor_.NowNs() - since_ns >= ReplaceAfter()) input.surplus.insert(partition);
  }
  input.begun = begun_;
  input.moves_at_once = kMovesAtOnce;
  ReplacementPlan plan = PlanReplacement(input);  // CO3
  plans_.clear();
  for (const auto& [node, since_ns] : away_since_ns_) {
    const Nanos left_ns = ReplaceAfter() - (reactor_.NowNs() - since_ns);
    if (left_ns > 0)
      plans_.push_back(
          fmt::format("node {} is replaced if it stays away for {} s more", node, (left_ns + kSecond - 1) / kSecond));
  }
  for (const ReplacementStep& step : plan.steps) {
    plans_.push_back(fmt::format("partition {}: {}", step.partition, step.why));
  }
  plans_.insert(plans_.end(), plan.waits.begin(), plan.waits.end());
  if (plans_.size() > kMaxPlans) plans_.resize(kMaxPlans);
  for (ReplacementStep& step : plan.steps) {
    if (stopping_ || !MayDecide()) co_return;
    co_await CarryOut(std::move(step));
  }
}

// A step that was taken does not appear any more once the topology shows it.
Task<void> Controller::CarryOut(ReplacementStep step) {
  const bool adds = step.kind == ReplacementStep::Kind::kAdd;
  const bool news = std::exchange(told_[step.partition], step.why) != step.why;
  LOG_IF(WARNING, news) << "partition " << step.partition << ": " << step.why;
  if (adds) begun_[step.partition] = {step.node, step.gone};
  const Status asked = co_await Ask(step);
  if (asked.ok()) {
    (adds ? added_total_ : removed_total_).Add(news);
    co_return;
  }
  refused_total_.Add();
  LOG_IF_EVERY_N(WARNING, !stopping_, 20)
      << "partition " << step.partition << ": its master was asked to " << (adds ? "add" : "remove")
      << " a replica on node " << step.node << ", and did not: " << asked.ToString();
}

Task<Status> Controller::Ask(const ReplacementStep& step) {
  if (step.kind == ReplacementStep::Kind::kAdd) co_return co_await masters_.AddReplica(step.partition, step.node);
  co_return co_await masters_.RemoveReplica(step.partition, step.replica);
}

api::ControllerStatus Controller::status() const {
  api::ControllerStatus status;
  const auto& controller = cluster_.newest().controller;
  // Nobody holds a key that has not changed for so long.
  const bool held = controller && reactor_.NowNs() - key_changed_ns_ < kTakeAfterNs;
  status.holder = held ? static_cast<int32_t>(controller->record.holder) : 0;
  status.replace_after_s = static_cast<int32_t>(ReplaceAfter() / kSecond);
  status.plans = plans_;
  return status;
}

}  // namespace pando
