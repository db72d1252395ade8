#include "tools/kvadmin/cluster_health.h"

#include <algorithm>
#include <set>

#include "src/base/counted.h"
#include "src/base/hash_ranges.h"
#include "tools/common/table.h"
#include "tools/kvadmin/clock_health.h"
#include "tools/kvadmin/force_plan.h"

namespace pando::admin {

namespace {

// A follower that is in sync and lacks something for longer than this is mentioned. It is evicted earlier,
// unless too few would be left.
constexpr int64_t kLagMs = 2000;
// A follower that is not in sync, and that its master has not heard for longer than this, does not come back by
// itself, although its node answers.
constexpr int64_t kUnheardMs = 10'000;
constexpr size_t kMaxNamed = 8;

bool Contains(const std::vector<NodeId>& nodes, NodeId node) {
  return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
}

std::string SecondsText(int64_t ms) { return fmt::format("{:.1f} s", static_cast<double>(ms) / 1000); }

bool IsUnheard(const ClusterView& view, uint32_t partition, const api::FollowerStatus& f) {
  if (f.in_sync || f.silent_ms <= kUnheardMs) return false;
  const api::ReplicaStatus* replica = view.ReplicaOn(static_cast<NodeId>(f.node), partition);
  return replica != nullptr && replica->role != "installing";  // the one that is being installed says nothing
}

// Why a replica that should be in sync is not.
std::string WhyMissing(const ClusterView& view, const ClusterView::Master& master, uint32_t partition, NodeId node) {
  if (!view.IsReachable(node)) return "it is unreachable";
  const api::ReplicaStatus* replica = view.ReplicaOn(node, partition);
  if (replica == nullptr) return "it does not hold the replica (yet)";
  if (replica->role == "quarantined" || replica->role == "discarded") return "its replica is " + replica->role;
  if (replica->role == "installing") {
    if (!replica->install_problem.empty()) {
      return "it could not be installed, and is tried again: " + replica->install_problem;
    }
    if (replica->install_bytes == 0) return "it waits for its turn to be installed";
    return fmt::format("it is being installed, {} of about {}",
                       tools::HumanBytes(static_cast<double>(replica->installed_bytes)),
                       tools::HumanBytes(static_cast<double>(replica->install_bytes)));
  }
  if (master.status == nullptr) return "it is a " + replica->role;
  for (const api::FollowerStatus& f : master.status->followers) {
    if (f.node != static_cast<int32_t>(node)) continue;
    if (f.silent_ms > kLagMs) return "its master has not heard it for " + SecondsText(f.silent_ms);
    if (f.behind_records < 0) return "it has not told its master yet what it has";
    return fmt::format("it is catching up, {} and {} behind",
                       Counted(static_cast<uint64_t>(f.behind_records), "record"), SecondsText(f.behind_ms));
  }
  return "its master does not know it";
}

std::string WhyNoMaster(const ClusterView& view, const PartitionRecord& record, const std::vector<NodeId>& in_sync) {
  const api::ReplicaStatus* claims = nullptr;
  NodeId of = 0;
  for (const auto& [id, node] : view.nodes) {
    const api::ReplicaStatus* replica = view.ReplicaOn(id, record.id);
    if (replica == nullptr || (replica->role != "master" && replica->role != "new master")) continue;
    if (claims == nullptr || replica->epoch > claims->epoch) claims = replica, of = id;
  }
  std::vector<NodeId> lost;
  for (const NodeId node : in_sync) {
    if (!view.IsReachable(node)) lost.push_back(node);
  }
  std::string text = "no master: ";
  if (claims != nullptr && claims->role == "master") {
    text += fmt::format("node {} leads it without a lease, because it does not reach all that are in sync", of);
  } else if (claims != nullptr) {
    text += fmt::format("node {} begins to lead it", of);
  } else {
    text += fmt::format("in sync {} {}", in_sync.size() > 1 ? "are" : "is", NamedNodes(in_sync));
  }
  if (!lost.empty()) text += fmt::format("; unreachable of them: {}", NodesText(lost));
  return text;
}

void JudgeMissing(const ClusterView& view, const ClusterView::Master& master, PartitionHealth* p) {
  if (p->in_sync.size() >= p->replicas && p->missing.empty()) return;
  std::string text = CountedOf(p->in_sync.size(), p->replicas, "replica") + " in sync";
  for (const NodeId node : p->missing) {
    text += fmt::format("; node {}: {}", node, WhyMissing(view, master, p->partition, node));
  }
  if (p->in_sync.size() <= p->min_isr) text += "; without one more of them, writes stop";
  p->few = p->in_sync.size() < p->replicas;
  if (p->few) p->health = std::max(p->health, Health::kDegraded);
  p->problems.push_back(std::move(text));
}

// A command that moves replicas works on it, or has been interrupted and forgotten. Until it is over, the replicas are
// not where they should be; and what is not in sync will be, or is to be taken back.
void JudgeChange(const PartitionRecord& record, const ClusterView::Master& master, PartitionHealth* p) {
  for (const ReplicaRecord& r : record.learners) {
    if (!Contains(p->in_sync, r.node)) p->adding.push_back(r.node);
  }
  size_t members = record.isr.size() + record.evicted.size();
  if (p->knows_more) {
    members = 1;
    p->adding.clear();
    for (const api::FollowerStatus& f : master.status->followers) {
      members += !f.learner;
      if (f.learner) p->adding.push_back(static_cast<NodeId>(f.node));
    }
  }
  p->extra = p->adding.empty() && members > record.replicas;
  if (p->adding.empty() && !p->extra) return;
  p->health = std::max(p->health, Health::kDegraded);
  p->problems.push_back(p->extra ? fmt::format("it has {} replicas, and should have {}", members, record.replicas)
                                 : fmt::format("{} {} being given a replica", NamedNodes(p->adding),
                                               p->adding.size() == 1 ? "is" : "are"));
}

// What a full disk does to it: writes wait for that replica as long as it is in sync.
void JudgeDisks(const ClusterView& view, PartitionHealth* p) {
  for (const auto& [id, node] : view.nodes) {
    const api::ReplicaStatus* replica = view.ReplicaOn(id, p->partition);
    if (replica == nullptr || !replica->disk_full) continue;
    p->on_full_disk.push_back(id);
    p->problems.push_back(fmt::format("the disk of node {} is full{}", id,
                                      Contains(p->in_sync, id) ? ": writes are refused while it is in sync" : ""));
  }
}

// The min_isr with which its master could go on without those that do not answer. 0: it has no master that is there.
// A master that cannot commit stays master as long as nobody else is elected.
uint32_t LowerMinIsr(const ClusterView& view, const PartitionRecord& record, const ForcePlan& plan) {
  uint32_t members = 0;
  bool led = false;
  for (const Survivor& s : plan.survivors) {
    if (!s.able || !s.member) continue;
    ++members;
    const api::ReplicaStatus* replica = view.ReplicaOn(s.node, record.id);
    led = led || ((replica->role == "master" || replica->role == "new master") &&
                  static_cast<Epoch>(replica->epoch) >= record.epoch);
  }
  return led && members < record.min_isr ? members : 0;
}

// Whether it can have a master again without those that do not answer.
void JudgeSurvivors(const ClusterView& view, const PartitionRecord& record, PartitionHealth* p) {
  const ForcePlan plan = LookAtSurvivors(view, record);
  if (plan.can_elect) return;
  p->stuck = true;
  p->stale = plan.stale;
  p->force_on = plan.best;
  p->lower_min_isr = plan.stale.empty() ? LowerMinIsr(view, record, plan) : 0;
  std::string text = fmt::format("{} of its replicas {} left, and {} must be to elect a master", plan.able(),
                                 plan.able() == 1 ? "is" : "are", plan.min_isr);
  if (const Survivor* best = plan.Find(plan.best)) {
    p->force_loses = !best->member;
    text += best->member ? fmt::format("; node {} has all that was acknowledged", best->node)
                         : fmt::format("; node {} was not in sync", best->node);
  }
  p->problems.push_back(std::move(text));
}

PartitionHealth JudgePartition(const ClusterView& view, const PartitionRecord& record) {
  PartitionHealth p;
  p.partition = record.id;
  p.epoch = record.epoch;
  p.replicas = record.replicas;
  p.min_isr = record.min_isr;
  for (const ReplicaRecord& r : record.isr) p.in_sync.push_back(r.node);
  for (const auto* others : {&record.evicted, &record.learners}) {
    for (const ReplicaRecord& r : *others) p.missing.push_back(r.node);
  }
  const ClusterView::Master master = view.MasterOf(record.id);
  p.master = master.node;
  if (master.status != nullptr && static_cast<Epoch>(master.status->epoch) >= record.epoch) {
    // The master knows it at least as well as the copy of the topology that was read.
    p.knows_more = true;
    p.epoch = static_cast<Epoch>(master.status->epoch);
    p.in_sync = {master.node};
    p.missing.clear();
    bool all_known = true;
    for (const api::FollowerStatus& f : master.status->followers) {
      all_known = all_known && f.behind_records >= 0;
      (f.in_sync ? p.in_sync : p.missing).push_back(static_cast<NodeId>(f.node));
      if (IsUnheard(view, record.id, f)) p.unheard = static_cast<NodeId>(f.node);
      p.behind_records = std::max(p.behind_records, f.behind_records);
      p.behind_ms = std::max(p.behind_ms, f.behind_ms);
      if (!f.in_sync || f.behind_ms <= kLagMs) continue;
      p.lagging = true;
      p.health = Health::kDegraded;
      p.problems.push_back(fmt::format("node {} is {} and {} behind", f.node,
                                       Counted(static_cast<uint64_t>(f.behind_records), "record"),
                                       SecondsText(f.behind_ms)));
    }
    if (!all_known && p.behind_records == 0) p.behind_records = p.behind_ms = -1;
  }
  std::sort(p.in_sync.begin(), p.in_sync.end());
  std::sort(p.missing.begin(), p.missing.end());
  if (p.master == 0) {
    p.health = Health::kUnavailable;
    p.problems.push_back(WhyNoMaster(view, record, p.in_sync));
    JudgeSurvivors(view, record, &p);
  }
  for (const auto& [id, node] : view.nodes) {
    const api::ReplicaStatus* replica = view.ReplicaOn(id, record.id);
    if (replica == nullptr || (replica->role != "quarantined" && replica->role != "discarded")) continue;
    p.quarantined = true;
    p.health = std::max(p.health, Health::kDegraded);
    if (!Contains(p.missing, id)) p.problems.push_back(fmt::format("the replica on node {} is {}", id, replica->role));
  }
  JudgeMissing(view, master, &p);
  JudgeChange(record, master, &p);
  JudgeDisks(view, &p);
  if (const uint32_t of_cluster = view.map.cluster->record.replicas; record.replicas < of_cluster) {
    p.reduced = true;
    p.health = std::max(p.health, Health::kDegraded);
    p.problems.push_back(
        fmt::format("it has {} of the {} replicas that partitions of this cluster have", record.replicas, of_cluster));
  }
  const uint32_t usual = DefaultMinIsr(record.replicas);
  if (record.lineage > 1 && record.min_isr < usual) {
    p.problems.push_back(fmt::format(
        "min_isr is {} since a failover was forced; once {} in sync: kvadmin cluster "
        "set-min-isr {} {}",
        record.min_isr, usual == 1 ? "1 replica is" : fmt::format("{} replicas are", usual), record.id, usual));
  }
  return p;
}

bool Holds(const PartitionRecord& record, NodeId node) {
  for (const auto* list : {&record.isr, &record.evicted, &record.learners}) {
    if (std::any_of(list->begin(), list->end(), [node](const ReplicaRecord& r) { return r.node == node; })) return true;
  }
  return false;
}

// A half that does not serve yet. That replicas are still to be in sync is usual, and its split waits for them.
PartitionHealth JudgeHalf(const ClusterView& view, const PartitionRecord& record) {
  PartitionHealth p = JudgePartition(view, record);
  const auto whole = WholeOf(record.id, view.map.cluster->record.partitions);
  p.health = p.master == 0 || p.quarantined ? Health::kDegraded : Health::kOk;
  p.few = p.reduced = p.lagging = p.stuck = false;
  if (p.health == Health::kOk) p.problems.clear();
  if (p.master == 0) p.problems.push_back(fmt::format("the split of partition {} waits for it", whole.value_or(0)));
  return p;
}

// Those that are being split, and those whose halves are being opened or given up.
std::set<uint32_t> SplittingIn(const ClusterMap& map) {
  std::set<uint32_t> splitting;
  for (const auto& [id, known] : map.partitions) {
    const SplitStage stage = StageOf(map, id);
    if (stage == SplitStage::kSplitting) splitting.insert(id);
    if (stage != SplitStage::kOpening && stage != SplitStage::kBuilding) continue;
    if (const auto whole = WholeOf(id, map.cluster->record.partitions)) splitting.insert(*whole);
  }
  return splitting;
}

// For the first half that is being built and has no master. "" if there is none.
std::string SplitStep(const ClusterView& view, const ClusterHealth& h) {
  for (const PartitionHealth& p : h.partitions) {
    if (p.stage != SplitStage::kBuilding || p.master != 0) continue;
    const auto whole = WholeOf(p.partition, view.map.cluster->record.partitions);
    return fmt::format(
        "wait until partition {} has a master, or start its nodes ({}); or kvadmin partition split {} --abort, which "
        "gives the split up",
        p.partition, NodesText(p.in_sync), whole.value_or(0));
  }
  return "";
}

NodeHealth JudgeNode(const ClusterView& view, NodeId id, const ClusterView::Node& node, const std::string& clock) {
  NodeHealth out;
  out.node = id;
  const NodeRecord& record = view.map.nodes.at(id).record;
  out.zone = record.zone;
  out.address = record.client_address;
  if (!node.status.ok()) out.problem = node.status.message();
  out.draining = record.state == NodeState::kDraining;
  for (const auto& [partition, known] : view.map.partitions) out.held += Holds(known.record, id);
  for (const api::ReplicaStatus& r : node.reply.replicas) {
    const auto partition = static_cast<uint32_t>(r.partition);
    if (view.map.partitions.contains(partition) && !IsInUse(view.map, partition)) continue;  // it drops it
    const bool leads = r.role == "master" || r.role == "new master";
    (leads ? out.masters : out.followers) += 1;
    out.installing += r.role == "installing";
    out.disk_full += r.disk_full;
    if (r.install_problem.empty()) continue;
    if (++out.not_installed > 1) continue;
    out.first_not_installed = partition;
    out.install_problem = r.install_problem;
  }
  if (!out.problem.empty()) return out;
  std::vector<std::string> troubles;
  if (out.disk_full > 0) {
    troubles.push_back("the disk is full; writes are refused in " + Counted(out.disk_full, "partition"));
  }
  if (node.reply.__isset.topology_trouble) {
    const api::TopologyTrouble& trouble = node.reply.topology_trouble;
    troubles.push_back(trouble.went_back ? "the topology has gone back"
                                         : "the topology does not answer for " + SecondsText(trouble.silent_ms));
  }
  if (out.not_installed > 0) {
    troubles.push_back(
        fmt::format("cannot install {}: {}", Counted(out.not_installed, "replica"), out.install_problem));
  }
  if (!clock.empty()) troubles.push_back(clock);
  out.trouble = fmt::format("{}", fmt::join(troubles, "; "));
  return out;
}

TopologyHealth JudgeTopology(const ClusterView& view, const std::vector<PartitionHealth>& partitions) {
  TopologyHealth t;
  for (const auto& [id, node] : view.nodes) {
    if (!node.status.ok() || !node.reply.__isset.topology_trouble) continue;
    t.without.push_back(id);
    if (t.problem.empty()) t.problem = node.reply.topology_trouble.problem;
    t.silent_ms = std::max(t.silent_ms, node.reply.topology_trouble.silent_ms);
  }
  std::string stale = view.WhyStale();
  // A node that cannot follow it may be the one whose copy was read.
  for (const PartitionHealth& p : partitions) {
    if (stale.empty() && t.without.empty()) stale = p.stale;
  }
  t.went_back = !stale.empty();
  if (t.went_back) t.problem = stale;
  return t;
}

std::string TopologyCause(const TopologyHealth& t) {
  if (t.went_back) return "the topology is older than what the nodes have: " + t.problem;
  return fmt::format("{} cannot reach the topology, for {}: {}", NamedNodes(t.without), SecondsText(t.silent_ms),
                     t.problem);
}

// Before anything else: what the map says may be wrong, and nothing can be changed.
std::string TopologyStep(const TopologyHealth& t) {
  if (t.went_back) {
    return "bring back the newest copy of the topology; if there is none, stop all nodes and make it anew with kvadmin "
           "topology recover. Force no failover by this one";
  }
  return fmt::format(
      "repair the topology, or the way of {} to it, while the nodes run: until then no partition gets another master, "
      "and no other replica comes in sync",
      NamedNodes(t.without));
}

// For the first node whose disk is full. "" if there is none. Another master does not help, because a commit waits for
// all that are in sync: what helps is room, or that the node is not in sync any more.
std::string FullDiskStep(const ClusterView& view, const ClusterHealth& h) {
  for (const NodeHealth& node : h.nodes) {
    if (node.disk_full == 0) continue;
    std::string step = fmt::format("add space to the disk of node {}, or delete records", view.NameOf(node.node));
    std::vector<uint32_t> held;  // by this node
    bool others_suffice = true;
    for (const PartitionHealth& p : h.partitions) {
      if (!Contains(p.on_full_disk, node.node) || !Contains(p.in_sync, node.node)) continue;
      held.push_back(p.partition);
      others_suffice = others_suffice && p.in_sync.size() > p.min_isr;
    }
    if (held.empty()) return step;  // nothing waits for it
    if (!others_suffice) return step + ": until then writes are refused, because too few others are in sync";
    return step + fmt::format(
                      ". To have writes before that, stop node {}: the others go on without it. Or kvadmin replica "
                      "remove {} {}{}, and add it again later",
                      node.node, held.front(), node.node,
                      held.size() == 1 ? "" : fmt::format(" (so for each of its {} partitions)", held.size()));
  }
  return "";
}

// The node that decides knows best.
ControllerHealth JudgeController(const ClusterView& view) {
  ControllerHealth controller;
  for (const auto& [id, node] : view.nodes) {
    if (!node.status.ok() || !node.reply.__isset.controller) continue;
    const api::ControllerStatus& status = node.reply.controller;
    if (controller.holder != 0 && status.holder != static_cast<int32_t>(id)) continue;
    controller.holder = static_cast<NodeId>(status.holder);
    controller.replace_after_s = status.replace_after_s;
    controller.wanted_nodes = status.wanted_nodes;
    controller.plans = status.plans;
    if (controller.holder == id) break;
  }
  return controller;
}

// "3 of 8 partitions have no master (1, 2, 5)", or nothing.
template <typename Is>
void AddCount(const std::vector<PartitionHealth>& partitions, std::string_view what, Is is,
              std::vector<std::string>* causes) {
  std::vector<uint32_t> ids;
  for (const PartitionHealth& p : partitions) {
    if (is(p)) ids.push_back(p.partition);
  }
  if (ids.empty()) return;
  const size_t count = ids.size();
  if (count > kMaxNamed) ids.resize(kMaxNamed);
  causes->push_back(fmt::format("{} of {} partitions {} ({}{})", count, partitions.size(), what, fmt::join(ids, ", "),
                                count > kMaxNamed ? ", ..." : ""));
}

// For those whose master is there and could go on with a lower min_isr, which loses nothing. "" if there are none.
std::string MinIsrStep(const ClusterHealth& h) {
  const auto can = [](const PartitionHealth& p) { return p.lower_min_isr != 0; };
  const auto first = std::find_if(h.partitions.begin(), h.partitions.end(), can);
  if (first == h.partitions.end()) return "";
  const auto count = static_cast<size_t>(std::count_if(h.partitions.begin(), h.partitions.end(), can));
  const uint32_t to = first->lower_min_isr;
  // `all` is refused if the master of any partition is not there, and must raise none.
  const bool all = std::all_of(h.partitions.begin(), h.partitions.end(), [to](const PartitionHealth& p) {
    return p.stage == SplitStage::kServing && p.min_isr >= to && (p.lower_min_isr == to || p.master != 0);
  });
  return fmt::format(
      "to have reads and writes before that, kvadmin cluster set-min-isr {} {}{}, which loses nothing, though writes "
      "are then acknowledged with {}; raise it again afterwards",
      count > 1 && all ? "all" : fmt::format("{}", first->partition), to,
      count > 1 && !all ? fmt::format(" (so for each of {} partitions)", count) : "",
      to == 1 ? "1 copy" : fmt::format("{} copies", to));
}

// For the first partition that cannot have a master any more. "" if there is none, or if no node answers: then
// nothing is known of what is left.
std::string ForceStep(const ClusterHealth& h) {
  if (std::none_of(h.nodes.begin(), h.nodes.end(), [](const NodeHealth& n) { return n.problem.empty(); })) return "";
  for (const PartitionHealth& p : h.partitions) {
    if (!p.stuck || p.lower_min_isr != 0) continue;
    if (p.force_on == 0) return fmt::format("partition {} has no replica left: restore it from a backup", p.partition);
    return fmt::format("kvadmin failover {} --force{}", p.partition,
                       p.force_loses ? " --accept-loss (it shows what is lost, and asks)"
                                     : fmt::format(" (node {} has all that was acknowledged)", p.force_on));
  }
  return "";
}

// For the first partition that was left with fewer replicas than those of this cluster have. "" if there is none.
std::string AddStep(const ClusterView& view, const ClusterHealth& h) {
  for (const PartitionHealth& p : h.partitions) {
    if (!p.reduced || p.few) continue;
    for (const NodeHealth& node : h.nodes) {
      if (!node.problem.empty() || Contains(p.in_sync, node.node) || Contains(p.missing, node.node)) continue;
      if (view.map.nodes.at(node.node).record.state != NodeState::kActive) continue;
      return fmt::format("kvadmin replica add {} {}", p.partition, node.node);
    }
  }
  return "";
}

// For the first node that cannot install what it is to hold. "" if there is none.
std::string InstallStep(const ClusterView& view, const ClusterHealth& h) {
  for (const NodeHealth& node : h.nodes) {
    if (node.not_installed == 0 || !node.problem.empty()) continue;
    return fmt::format(
        "mend what keeps node {} from installing its replicas (a full disk needs space); it tries again by itself. If "
        "it cannot be mended, kvadmin rebalance abort PLAN, or kvadmin replica remove {} {}, takes the new replicas "
        "back",
        view.NameOf(node.node), node.first_not_installed, node.node);
  }
  return "";
}

// For the first partition that was left in the middle of a change, if it was.
std::string ChangeStep(const ClusterHealth& h) {
  for (const PartitionHealth& p : h.partitions) {
    if (!p.adding.empty()) {
      return fmt::format(
          "wait, if a kvadmin rebalance, node drain or replica command is at work, or a node that stays away is being "
          "replaced. Otherwise run that command again (kvadmin rebalance resume PLAN), or kvadmin replica remove {} "
          "{}, "
          "which takes the new replica back",
          p.partition, p.adding.front());
    }
    if (p.extra) {
      return fmt::format(
          "wait, if a command moves replicas. Otherwise run it again (kvadmin replica move, or rebalance resume PLAN), "
          "or kvadmin replica remove {} NODE takes one away",
          p.partition);
    }
  }
  return "";
}

// Nothing is lost with it, and it may go.
bool IsDrained(const NodeHealth& node) { return node.draining && node.held == 0; }

std::string NextStep(const ClusterView& view, const ClusterHealth& h, const ClockHealth& clocks) {
  std::vector<std::string> down;
  std::string drained;
  for (const NodeHealth& node : h.nodes) {
    if (node.problem.empty()) continue;
    if (!IsDrained(node)) {
      down.push_back("node " + view.NameOf(node.node));
    } else if (drained.empty()) {
      drained = fmt::format(
          "node {} is drained and holds nothing: kvadmin node remove {}, or, if it is to stay, kvadmin node drain {} "
          "--cancel, and start it",
          node.node, node.node, node.node);
    }
  }
  if (h.topology.went_back) return TopologyStep(h.topology);
  if (!h.topology.without.empty()) {
    return TopologyStep(h.topology) + (down.empty() ? "" : fmt::format("; start {}", fmt::join(down, " and ")));
  }
  const std::string force = ForceStep(h);
  const std::string lower = MinIsrStep(h);
  if (!down.empty()) {
    return fmt::format("start {}, or repair the network; then run kvadmin cluster status again{}{}",
                       fmt::join(down, " and "), lower.empty() ? "" : "; " + lower,
                       force.empty() ? "" : ". If their data is lost for good: " + force);
  }
  if (!lower.empty()) return "look at the logs of the nodes that are not in sync; " + lower;
  if (!force.empty()) return force;
  for (const PartitionHealth& p : h.partitions) {
    if (!p.quarantined) continue;
    for (const auto& [id, node] : view.nodes) {
      const api::ReplicaStatus* replica = view.ReplicaOn(id, p.partition);
      if (replica == nullptr || (replica->role != "quarantined" && replica->role != "discarded")) continue;
      return fmt::format("kvadmin --server {} status", view.map.nodes.at(id).record.client_address);
    }
  }
  if (h.health == Health::kUnavailable) {
    return "run kvadmin cluster status -v in a few seconds; if it stays so, the logs of the nodes say why";
  }
  if (std::string full = FullDiskStep(view, h); !full.empty()) return full;
  if (!clocks.must_wait && !clocks.next.empty()) return clocks.next;
  for (const PartitionHealth& p : h.partitions) {
    if (p.unheard == 0) continue;
    return fmt::format(
        "see the log of node {}: it answers here, but its replica of partition {} is not in sync, and the master on "
        "node {} does not hear it. Repair the network between the two; if that is not it, start node {} again",
        view.NameOf(p.unheard), p.partition, p.master, p.unheard);
  }
  if (const std::string add = AddStep(view, h); !add.empty()) return add;
  if (const std::string split = SplitStep(view, h); !split.empty()) return split;
  if (const std::string install = InstallStep(view, h); !install.empty()) return install;
  if (const std::string change = ChangeStep(h); !change.empty()) return change;
  if (!drained.empty()) return drained;
  if (!clocks.next.empty() && h.PartitionsAreWell()) return clocks.next;
  return "wait: the replicas catch up by themselves; kvadmin cluster status -v shows how far they are";
}

void JudgeNodes(const ClusterView& view, const ClockHealth& clocks, ClusterHealth* h,
                std::vector<std::string>* causes) {
  for (const auto& [id, node] : view.nodes) {
    const auto clock = clocks.troubles.find(id);
    const NodeHealth& judged =
        h->nodes.emplace_back(JudgeNode(view, id, node, clock == clocks.troubles.end() ? "" : clock->second));
    if (judged.problem.empty() && judged.trouble.empty()) continue;
    h->health = Health::kDegraded;
    if (!judged.problem.empty()) {
      causes->push_back(
          fmt::format("node {} does not answer{}", view.NameOf(id), IsDrained(judged) ? ", and is drained" : ""));
    }
    if (judged.disk_full > 0) {
      causes->push_back(fmt::format("node {}: the disk is full; writes are refused in {}", view.NameOf(id),
                                    Counted(judged.disk_full, "partition")));
    }
    if (judged.not_installed > 0) {
      causes->push_back(fmt::format("node {} cannot install {}: {}", view.NameOf(id),
                                    Counted(judged.not_installed, "replica"), judged.install_problem));
    }
  }
  if (!clocks.causes.empty()) h->health = Health::kDegraded;
  causes->insert(causes->end(), clocks.causes.begin(), clocks.causes.end());
}

}  // namespace

std::string_view HealthName(Health health) {
  switch (health) {
    case Health::kOk: return "ok";
    case Health::kDegraded: return "degraded";
    case Health::kUnavailable: return "unavailable";
  }
  return "?";
}

SplitHealth JudgeSplit(const ClusterView& view, uint32_t partition) {
  SplitHealth s;
  s.partition = partition;
  s.halves = HalvesOf(view.map, partition).value_or(std::array<uint32_t, 2>{});
  const PartitionRecord& record = view.map.partitions.at(partition).record;
  if (record.split) s.rate_mb_s = record.split->rate_mb_s;
  s.node = view.MasterOf(partition).node;
  for (const auto& [id, node] : view.nodes) {
    if (!node.status.ok()) continue;
    for (const api::SplitStatus& said : node.reply.splits) {
      if (said.partition != static_cast<int32_t>(partition)) continue;
      // One that has just lost the mastership may still say so.
      if (!s.phase.empty() && id != s.node) continue;
      s.phase = said.phase;
      s.copied_bytes = static_cast<uint64_t>(std::max<int64_t>(0, said.copied_bytes));
      s.total_bytes = static_cast<uint64_t>(std::max<int64_t>(0, said.total_bytes));
      s.waits_for = said.waits_for;
    }
  }
  if (!s.phase.empty()) return s;
  if (record.state == PartitionStage::kRetired) {
    s.phase = "opening";
    for (const uint32_t half : s.halves) {
      if (s.waits_for.empty() && view.MasterOf(half).node == 0) {
        s.waits_for = fmt::format("partition {}, a half, has no master", half);
      }
    }
  } else if (s.node == 0) {
    s.waits_for = "the partition has no master";
  } else {
    s.waits_for = fmt::format(
        "node {}, which leads the partition, says nothing of the split: it is about to begin, or "
        "its version is too old",
        view.NameOf(s.node));
  }
  return s;
}

ClusterHealth JudgeCluster(const ClusterView& view) {
  ClusterHealth h;
  std::vector<std::string> causes;
  h.controller = JudgeController(view);
  const ClockHealth clocks = JudgeClocks(view);
  JudgeNodes(view, clocks, &h, &causes);
  for (const auto& [id, known] : view.map.partitions) {
    const SplitStage stage = StageOf(view.map, id);
    if (!IsInUse(stage)) continue;
    PartitionHealth judged =
        stage == SplitStage::kBuilding ? JudgeHalf(view, known.record) : JudgePartition(view, known.record);
    judged.stage = stage;
    h.health = std::max(h.health, judged.health);
    h.partitions.push_back(std::move(judged));
  }
  for (const uint32_t id : SplittingIn(view.map)) h.splits.push_back(JudgeSplit(view, id));
  h.topology = JudgeTopology(view, h.partitions);
  if (!h.topology.problem.empty()) {
    h.health = std::max(h.health, Health::kDegraded);
    causes.insert(causes.begin(), TopologyCause(h.topology));
  }
  AddCount(
      h.partitions, "have no master", [](const auto& p) { return p.master == 0 && p.stage != SplitStage::kBuilding; },
      &causes);
  AddCount(
      h.partitions, "are being built for a split and have no master",
      [](const auto& p) { return p.master == 0 && p.stage == SplitStage::kBuilding; }, &causes);
  AddCount(
      h.partitions, "have too few replicas left to elect one", [](const auto& p) { return p.stuck; }, &causes);
  AddCount(
      h.partitions, "have too few replicas in sync", [](const auto& p) { return p.few; }, &causes);
  // Halves of a split that are only made are judged otherwise, and are not degraded for that.
  AddCount(
      h.partitions, "have a replica that is being added",
      [](const auto& p) { return p.health != Health::kOk && !p.adding.empty(); }, &causes);
  AddCount(
      h.partitions, "have more replicas than they should",
      [](const auto& p) { return p.health != Health::kOk && p.extra; }, &causes);
  AddCount(
      h.partitions, "have fewer replicas than the cluster's", [](const auto& p) { return p.reduced; }, &causes);
  AddCount(
      h.partitions, "have a quarantined replica", [](const auto& p) { return p.quarantined; }, &causes);
  AddCount(
      h.partitions, "have a replica that lags", [](const auto& p) { return p.lagging; }, &causes);
  for (const std::string& problem : view.map.Problems()) {
    h.health = std::max(h.health, Health::kDegraded);
    causes.push_back(problem);
  }
  h.cause = fmt::format("{}", fmt::join(causes, "; "));
  if (h.health != Health::kOk) h.next = NextStep(view, h, clocks);
  return h;
}

}  // namespace pando::admin
