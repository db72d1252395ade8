#include "tools/kvadmin/replica_change.h"

#include <algorithm>

#include "src/base/counted.h"
#include "tools/kvadmin/refusal.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

const Situation::Member* Situation::On(NodeId node) const {
  if (node == 0) return nullptr;
  const auto at = std::find_if(members.begin(), members.end(), [node](const Member& m) { return m.node == node; });
  return at == members.end() ? nullptr : &*at;
}

size_t Situation::InSync() const {
  return static_cast<size_t>(std::count_if(members.begin(), members.end(), [](const Member& m) { return m.in_sync; }));
}

bool SaysTheSame(std::string_view a, std::string_view b) {
  const auto words = [](std::string_view text) {
    std::string without(text);
    std::erase_if(without, [](char c) { return c >= '0' && c <= '9'; });
    return without;
  };
  return words(a) == words(b);
}

std::optional<Situation> SituationOf(const ClusterView& view, uint32_t partition) {
  const ClusterView::Master master = view.MasterOf(partition);
  if (master.status == nullptr) return std::nullopt;
  Situation now;
  now.master = master.node;
  now.replicas = static_cast<uint32_t>(master.status->replicas);
  now.min_isr = static_cast<uint32_t>(master.status->min_isr);
  now.members.push_back({master.node, master.status->replica, true, true, false});
  for (const api::FollowerStatus& f : master.status->followers) {
    now.members.push_back({static_cast<NodeId>(f.node), f.replica, false, f.in_sync, f.learner});
  }
  return now;
}

Result<bool> ReplicaChange::Observe(const ClusterView& view) {
  view_ = &view;
  RETURN_IF_ERROR(CheckPartition(view.map, o_.partition));
  std::optional<Situation> now = SituationOf(view, o_.partition);
  if (!now) return false;
  now_ = *std::move(now);
  return true;
}

Status ReplicaChange::CheckBegin() const {
  if (o_.add != 0) RETURN_IF_ERROR(CheckNode(*view_, o_.add));
  if (o_.leave != 0) RETURN_IF_ERROR(CheckNode(*view_, o_.leave));
  const Situation::Member* added = now_.On(o_.add);
  const Situation::Member* leaves = now_.On(o_.leave);
  if (o_.add != 0 && o_.add == o_.leave) {
    return Error(Code::kInvalidArgument, "a replica cannot be moved from node {} to the same node", o_.add);
  }
  if (o_.leave == 0 && added != nullptr && !added->learner) {
    return Error(Code::kInvalidArgument, "node {} holds a replica of partition {} already", o_.add, o_.partition);
  }
  if (o_.leave != 0 && leaves == nullptr && added == nullptr) {
    return Error(Code::kInvalidArgument, "node {} holds no replica of partition {}", o_.leave, o_.partition);
  }
  // It may be in sync as far as its master knows, and would not be once the other one is removed.
  if (o_.add != 0 && !view_->IsReachable(o_.add) && (added == nullptr || leaves != nullptr)) {
    return Error(Code::kUnavailable, "node {} does not answer, so it cannot be given a replica: {}",
                 view_->NameOf(o_.add), view_->nodes.at(o_.add).status.message());
  }
  if (o_.add != 0 && added == nullptr && view_->map.nodes.at(o_.add).record.state != NodeState::kActive) {
    return Error(Code::kUnavailable,
                 "node {} is being drained, so it is given no replica; kvadmin node drain {} --cancel ends that",
                 o_.add, o_.add);
  }
  for (const Situation::Member& m : now_.members) {
    if (o_.add == 0 || !m.learner || m.node == o_.add) continue;
    return Error(Code::kUnavailable,
                 "node {} is being given a replica of partition {} already; wait until it is in sync (kvadmin replica "
                 "add {} {} waits for it), or remove it",
                 m.node, o_.partition, o_.partition, m.node);
  }
  if (o_.add != 0 || leaves == nullptr) return Status();
  if (leaves->master && !o_.yes) {
    return Error(Code::kUnavailable,
                 "node {} is the master of partition {}: make another node master first (kvadmin failover {}), or say "
                 "--yes to have that done",
                 o_.leave, o_.partition, o_.partition);
  }
  if (leaves->in_sync && now_.InSync() <= now_.min_isr) {
    return Error(Code::kUnavailable,
                 "{} of partition {} {} in sync, and {} must be (min_isr): without node {} there would be too "
                 "few. Add one first, or move it",
                 Counted(now_.InSync(), "replica"), o_.partition, now_.InSync() == 1 ? "is" : "are", now_.min_isr,
                 o_.leave);
  }
  return Status();
}

std::string ReplicaChange::ZoneNote() const {
  if (o_.add == 0 || now_.On(o_.add) != nullptr) return "";
  const std::string& zone = view_->map.nodes.at(o_.add).record.zone;
  for (const Situation::Member& m : now_.members) {
    const auto at = view_->map.nodes.find(m.node);
    if (m.node == o_.leave || zone.empty() || at == view_->map.nodes.end() || at->second.record.zone != zone) continue;
    return fmt::format(
        "the nodes {} and {} are both in the zone {}: if it fails, partition {} loses two replicas at once", m.node,
        o_.add, zone, o_.partition);
  }
  return "";
}

ReplicaChange::Step ReplicaChange::Next() const {
  if (o_.add != 0) {
    const Situation::Member* added = now_.On(o_.add);
    if (added == nullptr) return Step::kAdd;
    if (!added->in_sync) return Step::kWait;
  }
  const Situation::Member* leaves = now_.On(o_.leave);
  if (o_.leave == 0 || leaves == nullptr) return Step::kDone;
  return leaves->master ? Step::kHandOver : Step::kRemove;
}

std::vector<std::string> ReplicaChange::Plan() const {
  std::vector<std::string> steps;
  const Situation::Member* added = now_.On(o_.add);
  const Situation::Member* leaves = now_.On(o_.leave);
  if (o_.add != 0 && added == nullptr) steps.push_back(fmt::format("give node {} a replica", view_->NameOf(o_.add)));
  if (o_.add != 0 && (added == nullptr || !added->in_sync)) {
    steps.push_back(fmt::format("wait until node {} is in sync", o_.add));
  }
  if (leaves != nullptr && leaves->master) {
    steps.push_back(o_.add != 0 ? fmt::format("make node {} master instead of node {}", o_.add, o_.leave)
                                : fmt::format("make another node master instead of node {}", o_.leave));
  }
  if (leaves != nullptr) steps.push_back(fmt::format("remove the replica of node {}", view_->NameOf(o_.leave)));
  return steps;
}

// kInvalidArgument and kAborted end the command; whatever else is in the way may pass.
Status ReplicaChange::Ask(const std::function<Status(Client&)>& call) {
  Client client({view_->map.nodes.at(now_.master).record.client_address, globals_.target.timeout_ms});
  Status status = call(client);
  if (status.code() == Code::kInvalidArgument) return RefusalOf(status);
  if (status.code() == Code::kAborted) return status;
  refused_ = std::move(status);
  return Status();
}

// The new replica takes the place of one only. It may have taken that of another one meanwhile, if somebody else moves
// a replica of the partition to the same node.
Status ReplicaChange::CheckSpare() const {
  const auto counts = [](const Situation::Member& m) { return !m.learner; };
  const auto members = static_cast<size_t>(std::count_if(now_.members.begin(), now_.members.end(), counts));
  if (o_.add == 0 || members > now_.replicas) return Status();
  return Error(
      Code::kUnavailable,
      "partition {} has {}, and should have {}: the one on node {} has taken the place of another one, which "
      "somebody else has removed meanwhile, so that of node {} stays. kvadmin replica remove {} {} takes it away "
      "all the same",
      o_.partition, Counted(members, "replica"), now_.replicas, o_.add, o_.leave, o_.partition, o_.leave);
}

Status ReplicaChange::Carry(Step step) {
  const auto partition = static_cast<int32_t>(o_.partition);
  if (step == Step::kAdd) {
    api::AddReplicaRequest request;
    request.partition = partition;
    request.node = static_cast<int32_t>(o_.add);
    request.replaces = o_.leave != 0;
    return Ask([&](Client& client) {
      return client.Call(Client::Repeat::kSafe, &api::ClusterIf::addReplica, request).TakeStatus();
    });
  }
  if (step == Step::kRemove) {
    RETURN_IF_ERROR(CheckSpare());
    api::RemoveReplicaRequest request;
    request.partition = partition;
    request.replica = left_ = now_.On(o_.leave)->replica;
    request.replaced = o_.add != 0;
    return Ask([&](Client& client) {
      return client.Call(Client::Repeat::kSafe, &api::ClusterIf::removeReplica, request).TakeStatus();
    });
  }
  if (step != Step::kHandOver) return Status();
  api::HandoverRequest request;
  request.partition = partition;
  request.node = static_cast<int32_t>(o_.add);
  return Ask([&](Client& client) {
    return client.Call(Client::Repeat::kUnsafe, &api::ClusterIf::handover, request).TakeStatus();
  });
}

std::string ReplicaChange::WhyNotDone() const {
  if (Next() != Step::kWait) return refused_.ok() ? "" : refused_.message();
  if (!view_->IsReachable(o_.add)) return fmt::format("node {} does not answer", view_->NameOf(o_.add));
  const api::ReplicaStatus* replica = view_->ReplicaOn(o_.add, o_.partition);
  if (replica == nullptr) return fmt::format("node {} does not hold its replica yet", o_.add);
  if (!replica->install_problem.empty()) {
    return fmt::format("node {} could not install its replica, and tries again: {}", view_->NameOf(o_.add),
                       replica->install_problem);
  }
  return fmt::format("the replica of node {} is {}", o_.add, replica->role);
}

std::string ReplicaChange::InstallProblem() const {
  const api::ReplicaStatus* replica = view_->ReplicaOn(o_.add, o_.partition);
  return replica == nullptr ? "" : replica->install_problem;
}

std::pair<uint64_t, uint64_t> ReplicaChange::Installed() const {
  const api::ReplicaStatus* replica = view_->ReplicaOn(o_.add, o_.partition);
  if (replica == nullptr || replica->install_bytes == 0) return {0, 0};
  return {static_cast<uint64_t>(replica->installed_bytes), static_cast<uint64_t>(replica->install_bytes)};
}

}  // namespace pando::admin
