#include "src/node/balancer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "src/replication/partition_record.h"
#include "src/topology/replacement.h"

namespace pando {

namespace {

using Kind = LoadMove::Kind;

const ReplicaRecord* InSyncOn(const PartitionRecord& record, NodeId node) {
  const auto at = std::find_if(record.isr.begin(), record.isr.end(), [node](const auto& r) { return r.node == node; });
  return at == record.isr.end() ? nullptr : &*at;
}

std::string_view NameOf(AutoBalance mode) {
  switch (mode) {
    case AutoBalance::kOff: return "off";
    case AutoBalance::kLog: return "log";
    case AutoBalance::kOn: return "on";
  }
  return "";
}

}  // namespace

Balancer::Balancer(Reactor& reactor, NodeCluster* cluster, replication::PeerLinks* links, NodeControl* self,
                   Controller* controller, Registry* registry, const NodeOptions& options)
    : reactor_(reactor),
      cluster_(*cluster),
      links_(*links),
      masters_(reactor, cluster, links, self),
      controller_(*controller),
      registry_(registry),
      mode_(options.auto_balance),
      target_busy_(static_cast<double>(options.balance_target_percent) / 100),
      history_(options.balance_moves_per_minute) {
  auto add = [this](std::string name, std::string help, const auto* metric) {
    registry_->Add(this, std::move(name), std::move(help), {}, metric);
  };
  add("pando_wanted_nodes", "How many nodes the traffic wants; 0: unknown. The same on all nodes.", &wanted_gauge_);
  add("kv_balancer_hot_count", "Nodes with much more traffic than the mean, as far as this node decides.", &hot_gauge_);
  add("kv_balancer_planned_total", "Moves that this node has decided, or with --auto_balance=log would have.",
      &planned_total_);
  add("kv_balancer_moves_total", "Masterships and replicas that masters have moved because this node asked them to.",
      &moves_total_);
  add("kv_balancer_failed_total", "Requests of this node to move something that failed.", &failed_total_);
}

Balancer::~Balancer() {
  CHECK(stopped_) << "a Balancer was destroyed before it was stopped";
  registry_->Remove(this);
}

void Balancer::Start() {
  stopped_ = false;
  tasks_.Spawn(Run());
}

Task<void> Balancer::Stop() {
  stopping_ = true;
  co_await tasks_.Drain();
  stopped_ = true;
}

Task<void> Balancer::Run() {
  Nanos next_ns = reactor_.NowNs();
  while (!stopping_) {
    if (reactor_.NowNs() >= next_ns) {
      next_ns = reactor_.NowNs() + kRoundNs;
      if (controller_.MayDecide()) {
        co_await Measure();
        if (!stopping_) co_await Decide();
      } else {
        Forget();
        co_await AskHolder();
      }
      wanted_gauge_.Set(wanted_nodes());
    }
    if (!stopping_) co_await Sleep(reactor_, 200 * kMillisecond);
  }
}

// Another node decides.
void Balancer::Forget() {
  meter_.Clear();
  history_.Clear();
  begun_.clear();
  surplus_since_ns_.clear();
  controller_.LeaveSurplusOf({});
  shown_.reset();
  hot_gauge_.Set(0);
}

// -- what is known

std::set<NodeId> Balancer::Reached() const {
  std::set<NodeId> reached;
  for (const auto& [id, node] : cluster_.newest().nodes) {
    if (node.record.state == NodeState::kRemoved) continue;
    if (id == cluster_.node() || links_.IsUp(id, 0)) reached.insert(id);
  }
  return reached;
}

Task<void> Balancer::Measure() {
  meter_.Keep(cluster_.newest());
  Semaphore calls(reactor_, kMeasuredAtOnce);
  TaskGroup asking;
  for (const NodeId node : Reached()) asking.Spawn(MeasureNode(node, &calls));
  co_await asking.Drain();
}

Task<void> Balancer::MeasureNode(NodeId node, Semaphore* calls) {
  co_await calls->Acquire();
  Result<api::ReplicasReply> reply = co_await masters_.ReplicasOf(node);
  calls->Release();
  if (reply.ok()) meter_.Take(node, *reply, cluster_.newest(), NowMs());
  const bool said = reply.ok() && reply->__isset.traffic;
  LOG_IF_EVERY_N(WARNING, !said && !stopping_, 20)
      << "node " << node << " does not say what it does, so nothing is balanced: "
      << (reply.ok() ? "it stops, or was started without --auto_balance" : reply.status().ToString());
}

Task<void> Balancer::AskHolder() {
  const auto holder = static_cast<NodeId>(controller_.status().holder);
  if (holder == 0 || holder == cluster_.node()) co_return;
  Result<api::ReplicasReply> reply = co_await masters_.ReplicasOf(holder);
  if (!reply.ok() || !reply->__isset.controller || reply->controller.wanted_nodes <= 0) co_return;
  wanted_ = static_cast<uint32_t>(reply->controller.wanted_nodes);
  decided_by_ = holder;
  decided_ns_ = reactor_.NowNs();
}

uint32_t Balancer::wanted_nodes() const {
  return decided_ns_ != 0 && reactor_.NowNs() - decided_ns_ < kStaleNs ? wanted_ : 0;
}

HttpPage Balancer::Page() const {
  if (wanted_nodes() == 0) {
    return HttpPage::NotKnown(
        "the nodes have not all been measured yet, a third of them is away, or no node decides at the moment; ask "
        "again in half a minute, and see the log of the node that `kvadmin cluster status` names\n");
  }
  nlohmann::ordered_json page;
  page["wanted_nodes"] = wanted_;
  size_t active = 0;
  for (const auto& [id, node] : cluster_.newest().nodes) active += node.record.state == NodeState::kActive;
  page["active_nodes"] = active;
  page["auto_balance"] = NameOf(mode_);
  page["target_busy"] = target_busy_;
  page["decided_by"] = decided_by_;
  page["age_s"] = static_cast<double>((reactor_.NowNs() - decided_ns_) / kMillisecond) / 1000;
  if (shown_) {
    for (const LoadedNode& node : shown_->nodes) {
      const auto load = shown_plan_.loads.find(node.place.id);
      page["nodes"].push_back({{"node", node.place.id},
                               {"busy", node.busy},
                               {"load", load == shown_plan_.loads.end() ? 0 : load->second},
                               {"requests_per_s", node.requests},
                               {"bytes_per_s", node.request_bytes},
                               {"latency_ms", node.latency_ms}});
    }
  }
  return page.dump() + "\n";
}

// -- what is decided

// BA1.
Task<void> Balancer::Decide() {
  const std::set<NodeId> reached = Reached();
  size_t nodes = 0;
  for (const auto& [id, node] : cluster_.newest().nodes) nodes += node.record.state != NodeState::kRemoved;
  std::optional<LoadInput> input = meter_.Input(cluster_.newest(), reached, NowMs());
  if (!input || !controller_.MayDecide() || 3 * (nodes - reached.size()) >= nodes) co_return;
  Publish(*input);
  const LoadPlan plan = Plan(*std::move(input));
  if (mode_ != AutoBalance::kOn) co_return;  // BA2
  co_await GoOn();
  for (const LoadMove& move : plan.moves) {
    if (stopping_ || !controller_.MayDecide()) co_return;
    co_await Carry(move);
  }
  co_await Trim();
  controller_.LeaveSurplusOf(Moving());
}

std::set<uint32_t> Balancer::Moving() const {
  std::set<uint32_t> moving;
  for (const auto& [partition, move] : begun_) moving.insert(partition);
  return moving;
}

void Balancer::Publish(const LoadInput& input) {
  WantedInput wanted;
  wanted.target_busy = target_busy_;
  for (const LoadedNode& node : input.nodes) {
    if (node.takes) wanted.nodes.push_back(node);
  }
  const ClusterMap& map = cluster_.newest();
  for (const auto& [id, partition] : map.partitions) {
    wanted.replicas = std::max(wanted.replicas, partition.record.replicas);
  }
  // It goes on from what another holder said last, and from all active nodes, with those that are away.
  uint32_t first = wanted_nodes();
  if (first == 0) {
    for (const auto& [id, node] : map.nodes) first += node.record.state == NodeState::kActive;
  }
  const uint32_t before = wanted_nodes();
  wanted_ = history_.Publish(first, WantedNodes(wanted), NowMs());
  LOG_IF(INFO, before != 0 && before != wanted_) << wanted_ << " nodes are wanted, instead of " << before;
  decided_by_ = cluster_.node();
  decided_ns_ = reactor_.NowNs();
}

LoadPlan Balancer::Plan(LoadInput input) {
  // What is on its way counts as arrived, or else too much would follow it.
  for (PartitionLoad& p : input.partitions) {
    const auto begun = begun_.find(p.id);
    if (begun == begun_.end()) continue;
    const Begun& move = begun->second;
    std::erase(p.holders, move.to);
    std::replace(p.holders.begin(), p.holders.end(), move.from, move.to);
    if (p.master == move.from) p.master = move.to;
    p.settled = false;
  }
  input.most_copies = kCopiesAtOnce - std::min(kCopiesAtOnce, begun_.size());
  if (OthersMoveReplicas(cluster_.newest(), Moving())) input.most_copies = 0;  // BA3
  LoadPlan plan = history_.Plan(input, NowMs());
  hot_gauge_.Set(static_cast<int64_t>(plan.hot.size()));
  for (const LoadMove& move : plan.moves) {
    planned_total_.Add();
    LOG(INFO) << "partition " << move.partition << ": " << move.why
              << (mode_ == AutoBalance::kOn ? "" : "; nothing is done, because of --auto_balance=log");
  }
  shown_plan_ = plan;
  shown_ = std::move(input);
  return plan;
}

Task<void> Balancer::Carry(LoadMove move) {
  const auto at = cluster_.newest().partitions.find(move.partition);
  // Others have changed it while the moves before were carried out.
  if (at == cluster_.newest().partitions.end() || !IsPossible(at->second.record, move)) co_return;
  Status status;
  if (move.kind == Kind::kMaster) {
    const Epoch epoch = at->second.record.epoch;
    status = co_await masters_.HandOver(move.partition, move.to, epoch);
    if (status.ok()) moves_total_.Add();
  } else {
    // Also if it fails: the master may have done it. GoOn finds out.
    begun_[move.partition] = {move.from, move.to, reactor_.NowNs()};
    controller_.LeaveSurplusOf(Moving());
    status = co_await masters_.AddReplica(move.partition, move.to);
  }
  NoteOutcome(move.partition, status);
}

// Takes the next step of each replica that moves.
Task<void> Balancer::GoOn() {
  const std::map<uint32_t, Begun> begun = begun_;
  for (const auto& [partition, move] : begun) {
    if (stopping_ || !controller_.MayDecide()) co_return;
    const Status status = co_await NextStep(partition, move);
    NoteOutcome(partition, status);
  }
}

Task<Status> Balancer::NextStep(uint32_t partition, Begun move) {
  const auto at = cluster_.newest().partitions.find(partition);
  const bool there = at != cluster_.newest().partitions.end();
  const ReplicaRecord* from = there ? InSyncOn(at->second.record, move.from) : nullptr;
  const bool retired = there && at->second.record.state == PartitionStage::kRetired;
  if (from == nullptr || retired) {  // it has left, or it is out of sync, which others see to
    if (there && !retired && InSyncOn(at->second.record, move.to) != nullptr) moves_total_.Add();
    begun_.erase(partition);
    co_return Status();
  }
  const PartitionRecord& record = at->second.record;
  if (record.split) co_return Status();
  const Uuid old = from->replica;
  if (InSyncOn(record, move.to) != nullptr) {
    const Epoch epoch = record.epoch;
    if (record.master == old) co_return co_await masters_.HandOver(partition, move.to, epoch);
    if (record.isr.size() > record.replicas) co_return co_await masters_.RemoveReplica(partition, old);
    co_return Status();
  }
  const ReplicaRecord* fresh = replication::ReplicaOn(record, move.to);
  // This node may not have heard yet of one that was added just now.
  if (fresh == nullptr && reactor_.NowNs() - move.since_ns >= kSeenNs) begun_.erase(partition);
  const bool reached = Reached().contains(move.to);
  if (fresh == nullptr || (reached && reactor_.NowNs() - move.since_ns < kGiveUpNs)) co_return Status();
  const Uuid replica = fresh->replica;
  LOG(INFO) << "partition " << partition << ": node " << move.to
            << (reached ? " has had its replica for two hours, and it is not in sync" : " is not reached")
            << ", so the replica that was to move to it stays where it is";
  co_return co_await masters_.RemoveReplica(partition, replica);
}

// What a holder has left that has stopped in the middle of a move.
Task<void> Balancer::Trim() {
  ReplacementInput input;
  input.map = &cluster_.newest();
  for (const auto& [id, partition] : cluster_.newest().partitions) {
    const PartitionRecord& record = partition.record;
    if (begun_.contains(id) || record.isr.size() <= record.replicas || !record.learners.empty()) {
      surplus_since_ns_.erase(id);
    } else if (reactor_.NowNs() - surplus_since_ns_.try_emplace(id, reactor_.NowNs()).first->second >= kSurplusNs) {
      input.surplus.insert(id);
    }
  }
  const ReplacementPlan plan = PlanReplacement(input);
  for (const ReplacementStep& step : plan.steps) {
    if (stopping_ || !controller_.MayDecide()) co_return;
    if (step.kind != ReplacementStep::Kind::kRemove) continue;
    LOG(INFO) << "partition " << step.partition << ": " << step.why;
    const Status status = co_await masters_.RemoveReplica(step.partition, step.replica);
    NoteOutcome(step.partition, status);
  }
}

void Balancer::NoteOutcome(uint32_t partition, const Status& status) {
  if (status.ok()) return;
  failed_total_.Add();
  LOG_IF(WARNING, !stopping_) << "partition " << partition
                              << ": its master was asked to move it or a replica, because of the traffic, and did not: "
                              << status.ToString();
}

}  // namespace pando
