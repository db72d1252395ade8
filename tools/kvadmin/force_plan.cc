#include "tools/kvadmin/force_plan.h"
#include "src/base/counted.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

constexpr std::string_view kAbleRoles[] = {"master", "new master", "candidate", "follower"};

bool IsAfter(const Survivor& a, const Survivor& b) {
  return std::tie(a.member, a.last_epoch, a.last_lsn) > std::tie(b.member, b.last_epoch, b.last_lsn);
}

Survivor LookAt(const ClusterView& view, uint32_t partition, const ReplicaRecord& record, bool member) {
  Survivor s;
  s.node = record.node;
  s.member = member;
  if (!view.IsReachable(record.node)) {
    s.state = "unreachable";
    return s;
  }
  const api::ReplicaStatus* replica = view.ReplicaOn(record.node, partition);
  if (replica == nullptr) {
    s.state = "not there";
    return s;
  }
  // The node has lost it, or given it up, and has another one instead.
  if (replica->replica != record.replica.ToString()) {
    s.state = "lost; another one is " + replica->role;
    return s;
  }
  s.state = replica->role;
  s.able = std::find(std::begin(kAbleRoles), std::end(kAbleRoles), replica->role) != std::end(kAbleRoles);
  s.last_epoch = static_cast<Epoch>(replica->last_epoch);
  s.last_lsn = replica->last_lsn;
  s.durable_lsn = replica->durable_lsn;
  s.commit_lsn = replica->commit_lsn;
  s.newest_change_ms = replica->newest_change_ms;
  return s;
}

std::string EndText(const Survivor& s) { return fmt::format("LSN {} of epoch {}", s.last_lsn, s.last_epoch); }

std::vector<NodeId> AbleNodes(const ForcePlan& plan) {
  std::vector<NodeId> nodes;
  for (const Survivor& s : plan.survivors) {
    if (s.able) nodes.push_back(s.node);
  }
  return nodes;
}

}  // namespace

std::string PartitionName(uint32_t partition) { return fmt::format("partition-{}", partition); }

const Survivor* ForcePlan::Find(NodeId node) const {
  for (const Survivor& s : survivors) {
    if (s.node == node) return &s;
  }
  return nullptr;
}

size_t ForcePlan::able() const {
  return static_cast<size_t>(std::count_if(survivors.begin(), survivors.end(), [](const auto& s) { return s.able; }));
}

ForcePlan LookAtSurvivors(const ClusterView& view, const PartitionRecord& record) {
  ForcePlan plan;
  plan.partition = record.id;
  plan.epoch = record.epoch;
  plan.lineage = record.lineage;
  plan.replicas = record.replicas;
  plan.min_isr = record.min_isr;
  plan.served_by = view.MasterOf(record.id).node;
  for (const ReplicaRecord& r : record.isr) plan.survivors.push_back(LookAt(view, record.id, r, true));
  for (const ReplicaRecord& r : record.evicted) plan.survivors.push_back(LookAt(view, record.id, r, false));
  const Survivor* best = nullptr;
  bool member = false;
  plan.stale = view.WhyStale();
  for (const Survivor& s : plan.survivors) {
    if (!s.able) continue;
    // An epoch is in the topology before its first record is written.
    if (s.last_epoch > record.epoch && plan.stale.empty()) {
      plan.stale = fmt::format("partition {} is in epoch {} there, and node {} has records of epoch {}", record.id,
                               record.epoch, s.node, s.last_epoch);
    }
    member = member || s.member;
    if (best == nullptr || IsAfter(s, *best)) best = &s;
  }
  plan.best = best == nullptr ? 0 : best->node;
  plan.can_elect = member && plan.able() >= record.min_isr;
  return plan;
}

std::string LossText(const ForcePlan& plan, const Survivor& chosen) {
  if (chosen.member) {
    return fmt::format("nothing that was acknowledged is lost: node {} is in sync, so it has all of it", chosen.node);
  }
  std::string text =
      fmt::format("node {} was not in sync: what was acknowledged after {} is lost", chosen.node, EndText(chosen));
  if (chosen.newest_change_ms != 0) {
    text += fmt::format(", which are the changes since about {}", TimeText(chosen.newest_change_ms));
  }
  for (const Survivor& s : plan.survivors) {
    if (!s.able || s.node == chosen.node || s.commit_lsn <= chosen.last_lsn) continue;
    text += fmt::format("; node {} has {} more", s.node,
                        Counted(static_cast<uint64_t>(s.commit_lsn - chosen.last_lsn), "record"));
  }
  return text;
}

Result<Survivor> ChooseForced(const ForcePlan& plan, NodeId to, bool accept_loss) {
  const std::string name = fmt::format("partition {}", plan.partition);
  if (plan.served_by != 0) {
    return Error(Code::kUnavailable,
                 "{} is well: node {} is its master, so nothing is forced. Without --force, its mastership is handed "
                 "over",
                 name, plan.served_by);
  }
  if (!plan.stale.empty()) {
    return Error(
        Code::kUnavailable,
        "the topology is older than what the nodes have, so it does not say who has all that was acknowledged, "
        "and nothing is forced: {}. Bring back the newest copy of it; or, if there is none, stop all nodes and "
        "make it anew with kvadmin topology recover",
        plan.stale);
  }
  if (plan.can_elect) {
    return Error(Code::kUnavailable,
                 "{} has no master at the moment, but {} {} enough to elect one (min_isr is {}), so nothing "
                 "is forced. If that does not happen, they do not reach each other, or the topology: kvadmin cluster "
                 "status, and "
                 "their logs, say more",
                 name, NamedNodes(AbleNodes(plan)), plan.able() == 1 ? "is" : "are", plan.min_isr);
  }
  if (plan.best == 0) {
    return Error(Code::kUnavailable,
                 "{} has no replica left that could take over: {}. Start one of these nodes with its data, or create "
                 "the cluster anew and load a backup",
                 name, [&] {
                   std::string text;
                   for (const Survivor& s : plan.survivors) {
                     text += fmt::format("{}node {}: {}", text.empty() ? "" : ", ", s.node, s.state);
                   }
                   return text;
                 }());
  }
  const Survivor& best = *plan.Find(plan.best);
  const Survivor* chosen = to == 0 ? &best : plan.Find(to);
  if (chosen == nullptr) {
    return Error(Code::kInvalidArgument, "node {} has no replica that counts for {}; the best one left is node {}", to,
                 name, best.node);
  }
  if (!chosen->able) {
    return Error(Code::kUnavailable, "node {} cannot take {} over: {}; the best one left is node {}", to, name,
                 chosen->state, best.node);
  }
  if (accept_loss || chosen->member) return *chosen;
  if (chosen != &best && IsAfter(best, *chosen)) {
    return Error(Code::kUnavailable,
                 "node {} is behind: it {}, and its log ends at {}; node {} {}, and has {}. Choose that one, or say "
                 "--accept-loss: {}",
                 chosen->node, chosen->member ? "is in sync" : "was not in sync", EndText(*chosen), best.node,
                 best.member ? "is in sync" : "was not either", EndText(best), LossText(plan, *chosen));
  }
  return Error(Code::kUnavailable, "{}. To accept that, say --accept-loss", LossText(plan, *chosen));
}

}  // namespace pando::admin
