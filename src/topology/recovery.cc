#include "src/topology/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

namespace pando {
namespace {

constexpr const char* kNothingWritten = "Nothing was written";

template <typename... Args>
Status Mismatch(fmt::format_string<Args...> format, Args&&... args) {
  return Error(Code::kInvalidArgument, "{}. {}", fmt::format(format, std::forward<Args>(args)...), kNothingWritten);
}

struct Heard {
  NodeId node = 0;
  const ReplicaReport* report = nullptr;
  std::pair<Epoch, Lsn> end() const { return {report->last_lsn == 0 ? 0 : report->last_epoch, report->last_lsn}; }
};

// Which replicas go on, of those of one partition that were heard.
class PartitionPlan {
 public:
  // `base`: ClusterRecord::partitions.
  PartitionPlan(uint32_t id, uint32_t base, const PartitionRecord* old) : id_(id), base_(base), old_(old) {
    if (old != nullptr) {
      epoch_ = old->epoch;
      lineage_ = old->lineage;
    }
  }

  void Hear(NodeId node, const ReplicaReport& report) {
    all_.push_back({node, &report});
    epoch_ = std::max({epoch_, report.promised, report.last_epoch});
    lineage_ = std::max(lineage_, report.lineage);
  }
  void HearEpoch(Epoch epoch) { epoch_ = std::max(epoch_, epoch); }
  const PartitionRecord* old() const { return old_; }
  // Whether a node may have more of it than the beginning of an installation.
  bool IsHeard() const { return !all_.empty(); }
  bool IsKnown() const { return IsHeard() || old_ != nullptr; }
  bool IsHeld() const {
    return std::any_of(all_.begin(), all_.end(),
                       [](const Heard& heard) { return heard.report->installed || !heard.report->problem.empty(); });
  }
  std::set<NodeId> Nodes() const {
    std::set<NodeId> nodes;
    for (const Heard& heard : all_) nodes.insert(heard.node);
    return nodes;
  }

  // What is not known of it, although all nodes were heard.
  void AddMissing(std::vector<std::string>* missing) const {
    for (const Heard& heard : all_) {
      if (heard.report->problem.empty()) continue;
      missing->push_back(fmt::format("partition {} on node {}: {}", id_, heard.node, heard.report->problem));
    }
    if (Eligible().empty() && !Sound(0).empty()) {
      missing->push_back(fmt::format("partition {}: no sound replica of its lineage {} was heard", id_, lineage_));
    }
  }

  Status CheckAgree() const {
    std::map<Uuid, NodeId> owners;
    std::map<std::pair<Epoch, Lsn>, Heard> by_end;
    for (const Heard& heard : all_) {
      const ReplicaReport& r = *heard.report;
      const auto [owner, fresh] = owners.emplace(r.replica, heard.node);
      if (!fresh && r.problem.empty()) {
        return Mismatch(
            "nodes {} and {} hold the same replica {} of partition {}: one directory is a copy of the other",
            owner->second, heard.node, r.replica.ToString(), id_);
      }
      if (!r.problem.empty() || !r.installed || r.lineage != lineage_ || r.chain == 0) continue;
      const auto [same, first] = by_end.emplace(heard.end(), heard);
      if (!first && same->second.report->chain != r.chain) {
        return Error(Code::kCorruption,
                     "partition {}: the replicas of nodes {} and {} both end at LSN {} of epoch {}, and have different "
                     "pasts. {}",
                     id_, same->second.node, heard.node, r.last_lsn, r.last_epoch, kNothingWritten);
      }
    }
    if (Sound(0).empty()) {
      return Error(
          Code::kCorruption,
          "no sound replica of partition {} was heard{}. Name all data directories, put back what is damaged, or "
          "restore a backup into a new cluster. {}",
          id_, all_.empty() ? "" : ": " + all_.front().report->problem, kNothingWritten);
    }
    return Status();
  }

  // `complete`: all that could have counted was heard.
  PartitionRecord Record(uint32_t replicas, uint32_t min_isr, bool complete,
                         const std::function<Uuid()>& new_uuid) const {
    PartitionRecord r;
    if (old_ != nullptr) r = *old_;
    r.id = id_;
    r.state = PartitionStage::kServing;
    r.split.reset();  // what was copied is not complete
    std::tie(r.first_hash, r.last_hash) = HashRangeOf(id_, base_);
    r.replicas = old_ != nullptr ? old_->replicas : replicas;
    r.epoch = epoch_ + 1;  // TR1
    r.isr.clear();
    r.evicted.clear();
    r.learners.clear();
    if (complete) {
      r.lineage = lineage_;
      GoOn(&r);
      r.min_isr = std::min<uint32_t>(old_ != nullptr ? old_->min_isr : min_isr, static_cast<uint32_t>(r.isr.size()));
    } else {
      r.lineage = lineage_ + 1;  // TR3
      GoOnAlone(&r, new_uuid);
      r.min_isr = 1;
    }
    r.master = r.isr[id_ % r.isr.size()].replica;  // all are equal, so masters are spread
    return r;
  }

  // That it serves no more, so that nodes drop what they have of it. nullopt: no node has anything, and no map says
  // otherwise.
  std::optional<PartitionRecord> Retired(const std::function<Uuid()>& new_uuid) const {
    PartitionRecord r;
    if (old_ != nullptr) {
      r = *old_;
    } else if (all_.empty()) {
      return std::nullopt;
    } else {
      r.id = id_;
      std::tie(r.first_hash, r.last_hash) = HashRangeOf(id_, base_);
      for (const Heard& heard : all_) {
        r.isr.push_back(Of(heard));
        if (r.isr.back().replica.IsNil()) r.isr.back().replica = new_uuid();
      }
      r.replicas = static_cast<uint32_t>(r.isr.size());
      r.min_isr = 1;
      r.master = r.isr.front().replica;
    }
    r.state = PartitionStage::kRetired;
    r.split.reset();
    r.lineage = lineage_;
    r.epoch = epoch_ + 1;
    return r;
  }

 private:
  // The sound replicas of at least this lineage, the best first.
  std::vector<Heard> Sound(uint64_t lineage) const {
    std::vector<Heard> sound;
    for (const Heard& heard : all_) {
      const ReplicaReport& r = *heard.report;
      if (r.problem.empty() && r.installed && r.lineage >= lineage) sound.push_back(heard);
    }
    std::stable_sort(sound.begin(), sound.end(), [](const Heard& a, const Heard& b) {
      return std::make_pair(a.report->lineage, a.end()) > std::make_pair(b.report->lineage, b.end());
    });
    return sound;
  }
  std::vector<Heard> Eligible() const { return Sound(lineage_); }

  static ReplicaRecord Of(const Heard& heard) { return {heard.node, heard.report->replica, ""}; }

  void GoOn(PartitionRecord* r) const {
    const std::vector<Heard> sound = Eligible();
    // Wherever a half was opened, those that are in sync have that in their logs (SP4).
    r->opened_lsn = r->id < base_ ? 0 : sound.front().report->last_lsn;
    for (const Heard& heard : sound) {
      if (r->isr.size() + r->evicted.size() >= r->replicas) break;
      auto& list = heard.end() == sound.front().end() ? r->isr : r->evicted;  // TR2
      list.push_back(Of(heard));
    }
    for (const Heard& heard : all_) {
      if (heard.report->installed || heard.report->lineage != lineage_) continue;
      if (r->isr.size() + r->evicted.size() + r->learners.size() < r->replicas) r->learners.push_back(Of(heard));
    }
  }

  void GoOnAlone(PartitionRecord* r, const std::function<Uuid()>& new_uuid) const {
    const Heard best = Sound(0).front();
    r->opened_lsn = 0;
    r->isr = {Of(best)};
    for (const Heard& heard : all_) {
      if (heard.node == best.node || r->learners.size() + 1 >= r->replicas) continue;
      r->learners.push_back({heard.node, new_uuid(), ""});
    }
  }

  const uint32_t id_, base_;
  const PartitionRecord* const old_;  // null: the topology has none
  std::vector<Heard> all_;
  Epoch epoch_ = 0;
  uint64_t lineage_ = 1;
};

class Planner {
 public:
  Planner(const RecoveryInput& input, const std::function<Uuid()>& new_uuid) : in_(input), new_uuid_(new_uuid) {}

  Result<RecoveryPlan> Run() {
    RETURN_IF_ERROR(CheckReports());
    RETURN_IF_ERROR(CheckNodes());
    MakeCluster();
    for (const PlacementNode& node : in_.nodes) MakeNode(node);
    RETURN_IF_ERROR(MakePartitions());
    if (plan_.missing.empty() || in_.accept_loss) return std::move(plan_);
    return Error(
        Code::kUnavailable,
        "it is not certain that nothing would be lost:\n  {}\nName the data directories that are missing and put "
        "back what is damaged; or say --accept-loss, and what only those had is given up. {}",
        fmt::join(plan_.missing, "\n  "), kNothingWritten);
  }

 private:
  Status CheckReports() {
    if (in_.reports.empty()) return Mismatch("no data directory was named");
    const NodeReport& first = in_.reports.front();
    for (const NodeReport& report : in_.reports) {
      if (report.cluster_id != first.cluster_id) {
        return Mismatch("{} belongs to the cluster {}, and {} to the cluster {}", first.data_dir,
                        first.cluster_id.ToString(), report.data_dir, report.cluster_id.ToString());
      }
      if (report.partitions != first.partitions) {
        return Mismatch("{} has {} partitions, and {} has {}", first.data_dir, first.partitions, report.data_dir,
                        report.partitions);
      }
      const auto [other, fresh] = heard_.emplace(report.node, &report);
      if (!fresh) {
        return Mismatch("{} and {} are both directories of node {}", other->second->data_dir, report.data_dir,
                        report.node);
      }
    }
    if (!in_.old.cluster) return Status();
    const ClusterRecord& old = in_.old.cluster->record;
    if (old.cluster_id != first.cluster_id) {
      return Mismatch("the topology holds another cluster, {}", old.cluster_id.ToString());
    }
    if (!old.creating.empty() && old.creating != kRecoveringMap) {
      return Mismatch("the cluster in the topology has not been created completely: kvadmin cluster init goes on");
    }
    return Status();
  }

  // Every node that was heard or that the old map has is one that the operator named.
  Status CheckNodes() {
    std::set<NodeId> named;
    for (const PlacementNode& node : in_.nodes) {
      if (!named.insert(node.id).second) return Mismatch("node {} was named twice", node.id);
    }
    for (const auto& [id, report] : heard_) {
      if (!named.contains(id)) return Mismatch("{} belongs to node {}: name all nodes", report->data_dir, id);
    }
    for (const auto& [id, node] : in_.old.nodes) {
      if (node.record.state != NodeState::kRemoved && !named.contains(id)) {
        return Mismatch("the topology has a node {}: name all nodes, also one that is lost", id);
      }
    }
    return Status();
  }

  const NodeRecord* OldNode(NodeId id) const {
    const auto at = in_.old.nodes.find(id);
    return at == in_.old.nodes.end() ? nullptr : &at->second.record;
  }

  void MakeCluster() {
    ClusterRecord& cluster = plan_.cluster;
    if (in_.old.cluster) {
      cluster = in_.old.cluster->record;
    } else {
      cluster.replicas = in_.replicas;
      cluster.min_isr = in_.min_isr;
    }
    cluster.cluster_id = in_.reports.front().cluster_id;
    cluster.partitions = in_.reports.front().partitions;
    cluster.creating.clear();
  }

  void MakeNode(const PlacementNode& node) {
    NodeRecord record;
    if (const NodeRecord* old = OldNode(node.id)) record = *old;
    record.id = node.id;
    if (!node.zone.empty()) record.zone = node.zone;
    if (node.weight != 1) record.weight = node.weight;
    const auto heard = heard_.find(node.id);
    if (heard == heard_.end()) {
      Miss(fmt::format("node {}: its data directory was not named", node.id));
    } else if (heard->second->renew || heard->second->start < record.opened) {
      Miss(fmt::format("node {}: {} is an older copy of its directory", node.id, heard->second->data_dir));
      record.starts = std::max(record.starts, heard->second->start);
    } else {
      record.starts = std::max(record.starts, heard->second->start);
      // Without an address, no start can have been opened.
      if (!record.client_address.empty()) record.opened = std::max(record.opened, heard->second->start);
    }
    plan_.nodes.push_back(std::move(record));
  }

  void Miss(std::string what) {
    plan_.missing.push_back(std::move(what));
    a_node_is_missing_ = true;
  }

  Status MakePartitions() {
    Epoch highest = 0;
    for (const NodeReport& report : in_.reports) highest = std::max(highest, report.epoch);
    for (const auto& [id, old] : in_.old.partitions) highest = std::max(highest, old.record.epoch);
    for (uint32_t id = 0; id < plan_.cluster.partitions; ++id) AddPlan(id);
    for (const auto& [id, old] : in_.old.partitions) AddPlan(id);
    for (const auto& [node, report] : heard_) {
      for (const ReplicaReport& replica : report->replicas) {
        if (replica.partition >= kMaxPartitions) {
          return Mismatch("{} holds a partition {}, and there cannot be one", report->data_dir, replica.partition);
        }
        AddPlan(replica.partition).Hear(node, replica);
      }
    }
    RETURN_IF_ERROR(CheckSaid());
    std::set<uint32_t> serving;
    for (uint32_t id = 0; id < plan_.cluster.partitions; ++id) Decide(id, &serving);
    if (!unclear_.empty()) {
      return Error(Code::kUnavailable, "it is not certain which partitions serve:\n  {}\n{}",
                   fmt::join(unclear_, "\n  "), kNothingWritten);
    }
    for (auto& [id, plan] : plans_) {
      plan.HearEpoch(highest);
      RETURN_IF_ERROR(serving.contains(id) ? MakeServing(id, plan) : MakeRetired(plan));
    }
    return Check(plan_.cluster);
  }

  PartitionPlan& AddPlan(uint32_t id) {
    const auto old = in_.old.partitions.find(id);
    return plans_
        .try_emplace(id, id, plan_.cluster.partitions, old == in_.old.partitions.end() ? nullptr : &old->second.record)
        .first->second;
  }

  Status MakeServing(uint32_t id, const PartitionPlan& plan) {
    RETURN_IF_ERROR(plan.CheckAgree());
    const size_t before = plan_.missing.size();
    plan.AddMissing(&plan_.missing);
    const bool complete = !a_node_is_missing_ && plan_.missing.size() == before;
    plan_.partitions.push_back(plan.Record(plan_.cluster.replicas, plan_.cluster.min_isr, complete, new_uuid_));
    // While its whole is there, it may not have been opened yet. Then its master does that.
    const std::optional<uint32_t> whole = WholeOf(id, plan_.cluster.partitions);
    if (whole && plans_.contains(*whole) && plans_.at(*whole).IsKnown()) {
      plan_.partitions.back().state = PartitionStage::kBuilding;
      plan_.partitions.back().opened_lsn = 0;
    }
    return Check(plan_.partitions.back());
  }

  Status MakeRetired(const PartitionPlan& plan) {
    std::optional<PartitionRecord> record = plan.Retired(new_uuid_);
    if (!record) return Status();
    plan_.partitions.push_back(*std::move(record));
    return Check(plan_.partitions.back());
  }

  // -- which of a partition and its halves serve (TR5)

  Status CheckSaid() const {
    for (const auto* said : {&in_.was_split, &in_.was_not_split}) {
      for (const uint32_t id : *said) {
        if (id < kMaxPartitions && IsPartHeld(id)) continue;
        return Mismatch("no directory has a half of partition {}, so nothing is to be said of its split", id);
      }
    }
    for (const uint32_t id : in_.was_not_split) {
      if (OldSaysSplit(id)) return Mismatch("the topology says that partition {} was split, so its halves serve", id);
    }
    return Status();
  }

  bool IsPartHeld(uint32_t id) const {
    return std::any_of(plans_.begin(), plans_.end(), [&](const auto& p) {
      return IsPartOf(p.first, id, plan_.cluster.partitions) && p.second.IsHeard();
    });
  }

  void Decide(uint32_t id, std::set<uint32_t>* serving) {
    AddPlan(id);
    if (!WasSplit(id)) {
      serving->insert(id);
      return;
    }
    const auto halves = HalvesOf(id, plan_.cluster.partitions);
    for (const uint32_t half : *halves) Decide(half, serving);
  }

  bool WasSplit(uint32_t id) {
    const auto halves = HalvesOf(id, plan_.cluster.partitions);
    if (!halves) return false;
    if (in_.was_split.contains(id) || OldSaysSplit(id)) return true;
    if (in_.was_not_split.contains(id) || !IsPartHeld(id)) return false;
    // Only a half that serves is split.
    if (std::any_of(halves->begin(), halves->end(), [this](uint32_t half) { return IsPartHeld(half); })) return true;
    const PartitionPlan& plan = plans_.at(id);
    if (!plan.IsHeld() && !a_node_is_missing_) return true;
    std::set<NodeId> nodes;
    for (const uint32_t half : *halves) {
      if (plans_.contains(half)) nodes.merge(plans_.at(half).Nodes());
    }
    unclear_.push_back(fmt::format(
        "partition {} {}, and its halves {} and {} are on node {}. Look into the logs of these nodes: if one says that "
        "partition {} was split, or that {} or {} serves, add --was-split {}; if they were only being built, add "
        "--was-not-split {}, and what was copied is dropped",
        id, plan.IsHeld() ? fmt::format("is on node {}", fmt::join(plan.Nodes(), ",")) : "was not found", (*halves)[0],
        (*halves)[1], fmt::join(nodes, ","), id, (*halves)[0], (*halves)[1], id, id));
    return false;
  }

  // A partition that was split never serves again. But a half that was given up may have been made anew since then.
  bool OldSaysSplit(uint32_t id) const {
    const auto is_retired = [this](uint32_t partition) {
      const auto at = in_.old.partitions.find(partition);
      return at != in_.old.partitions.end() && at->second.record.state == PartitionStage::kRetired;
    };
    const std::optional<uint32_t> whole = WholeOf(id, plan_.cluster.partitions);
    return is_retired(id) && (!whole || is_retired(*whole));
  }

  const RecoveryInput& in_;
  const std::function<Uuid()>& new_uuid_;
  std::map<NodeId, const NodeReport*> heard_;
  std::map<uint32_t, PartitionPlan> plans_;
  std::vector<std::string> unclear_;
  bool a_node_is_missing_ = false;
  RecoveryPlan plan_;
};

template <typename Record>
Task<Result<Revision>> Put(Topology* topology, std::string key, Revision expected, Record record, Nanos timeout_ns) {
  record.op_id = NewOpId(topology->reactor());
  const std::string op_id = record.op_id;
  CO_ASSIGN_OR_RETURN(std::string value, Encode(record));
  CO_ASSIGN_OR_RETURN(const std::optional<Revision> written,
                      co_await SwapUntilKnown(*topology, key, expected, std::move(value), op_id, timeout_ns));
  if (written) co_return *written;
  co_return Error(
      Code::kAborted,
      "the topology {}: somebody else has changed {} meanwhile. Stop all nodes and whoever else writes there, "
      "and run the command again",
      topology->name(), key);
}

template <typename Id, typename Record>
Revision RevisionOf(const std::map<Id, Versioned<Record>>& records, Id id) {
  const auto at = records.find(id);
  return at == records.end() ? 0 : at->second.revision;
}

}  // namespace

Result<RecoveryPlan> PlanRecovery(const RecoveryInput& input, const std::function<Uuid()>& new_uuid) {
  return Planner(input, new_uuid).Run();
}

Task<Status> WriteRecovery(Topology& topology, RecoveryPlan plan, ClusterMap old, Nanos timeout_ns) {
  ClusterRecord cluster = plan.cluster;
  cluster.creating = kRecoveringMap;  // TR4
  const Revision before = old.cluster ? old.cluster->revision : 0;
  CO_ASSIGN_OR_RETURN(const Revision begun,
                      co_await Put(&topology, std::string(kClusterKey), before, cluster, timeout_ns));
  for (const NodeRecord& node : plan.nodes) {
    const Revision expected = RevisionOf(old.nodes, node.id);
    CO_RETURN_IF_ERROR((co_await Put(&topology, NodeKey(node.id), expected, node, timeout_ns)).status());
  }
  for (const PartitionRecord& partition : plan.partitions) {
    const Revision expected = RevisionOf(old.partitions, partition.id);
    CO_RETURN_IF_ERROR((co_await Put(&topology, PartitionKey(partition.id), expected, partition, timeout_ns)).status());
  }
  cluster.creating.clear();
  co_return (co_await Put(&topology, std::string(kClusterKey), begun, cluster, timeout_ns)).TakeStatus();
}

}  // namespace pando
