// The invariants of ClusterWorld, as far as they can be seen from outside while it runs.
#include <fmt/format.h>

#include <algorithm>

#include "src/replication/hosted_replica.h"
#include "tests/sim/cluster_world.h"

namespace pando {

// What a partition forgets is not compared; so many commit points are remembered.
constexpr size_t kMaxPoints = 5000;

const replication::ReplicaCore* ClusterWorld::CoreOf(const Node& node, uint32_t partition) const {
  if (node.member == nullptr || node.member->host() == nullptr) return nullptr;
  const replication::HostedReplica* hosted = node.member->host()->Find(partition);
  return hosted == nullptr ? nullptr : hosted->core();
}

void ClusterWorld::Audit() {
  ++counts_.audits;
  for (uint32_t p = 0; p < partitions_; ++p) AuditPartition(p);
  for (auto& node : nodes_) {
    if (node->state != State::kUp || !node->member->serving() || node->disk_went_back) continue;
    const Status& why = node->member->quarantine();
    if (why.code() != Code::kCorruption) continue;
    // The text is that of the core.
    const bool committed = why.message().find("which is committed here") != std::string::npos;
    const bool lost = why.message().find("was lost here") != std::string::npos;
    // What could not be written is not there, and its file may lag behind what the log still has.
    if (!committed && !lost && node->disk_failed) continue;
    Wrong(fmt::format("{}: the disk of {} has lost nothing, and yet: {}",
                      committed ? "I5" : (lost ? "I8" : "quarantine"), node->name(), why.message()));
  }
}

void ClusterWorld::AuditPartition(uint32_t partition) {
  const PartitionRecord record = Record(partition).record;
  if (record.isr.size() < record.min_isr)
    Wrong(fmt::format("I10: partition {}: {} in sync", partition, record.isr.size()));
  const Node* leased = nullptr;
  const replication::ReplicaCore* master = nullptr;
  for (auto& owned : nodes_) {
    Node& node = *owned;
    const replication::ReplicaCore* core = CoreOf(node, partition);
    if (core == nullptr) continue;
    AuditReplica(node, partition);
    if (const auto serving = core->Serving();
        serving && core->LeaseHolds(*serving, node.member->reactor().FreshNowNs())) {
      if (leased != nullptr) {
        Wrong(fmt::format("I7: partition {}: {} and {} hold its lease", partition, leased->name(), node.name()));
      }
      leased = &node;
    }
    if (core->leader().active() && core->leader().epoch() == record.epoch) {
      if (master != nullptr) Wrong(fmt::format("I1: partition {}: epoch {} has two masters", partition, record.epoch));
      master = core;
    }
  }
  if (master == nullptr) return;
  const replication::ReplicaSet waits = master->leader().WaitSet();
  for (const ReplicaRecord& r : record.isr) {
    if (!waits.Contains(r.replica)) {
      Wrong(fmt::format("I2: partition {}: a commit does not wait for the replica of node {}", partition, r.node));
    }
    const Node& node = *nodes_[r.node - 1];
    const replication::ReplicaCore* core = CoreOf(node, partition);
    if (core == nullptr || core->out_of_service() || node.member->host()->Find(partition)->replica() != r.replica)
      continue;
    const auto* gated = dynamic_cast<const GatedPartition*>(node.member->engine()->partition(partition));
    if (gated != nullptr && gated->end().lsn < master->commit_lsn()) {
      Wrong(fmt::format("I3: partition {}: LSN {} is committed, and the log of {} ends at LSN {}", partition,
                        master->commit_lsn(), node.name(), gated->end().lsn));
    }
  }
}

void ClusterWorld::AuditReplica(Node& node, uint32_t partition) {
  const replication::HostedReplica& hosted = *node.member->host()->Find(partition);
  const replication::ReplicaCore& core = *hosted.core();
  Epoch& promised = promised_[hosted.replica()];
  if (core.stored_promise() < promised) {
    Wrong(fmt::format("I1: partition {}: the replica of {} has promised epoch {}, and knows of epoch {} only",
                      partition, node.name(), promised, core.stored_promise()));
  }
  promised = std::max(promised, core.stored_promise());
  const auto* gated = dynamic_cast<const GatedPartition*>(node.member->engine()->partition(partition));
  if (gated == nullptr) return;
  std::map<Lsn, uint64_t>& points = committed_[partition];
  const std::optional<HistoryPoint> point = gated->PointAt(gated->committed_lsn());
  if (!point || point->lsn == 0) return;
  const auto [at, is_new] = points.emplace(point->lsn, point->chain);
  if (!is_new && at->second != point->chain) {
    Wrong(fmt::format("I5: partition {}: {} has committed another unit at LSN {} than another replica", partition,
                      node.name(), point->lsn));
  }
  if (points.size() > kMaxPoints) points.erase(points.begin());
}

}  // namespace pando
