// Forced failovers in ReplicationCluster: all replicas but one are gone for a while, and an operator makes that one
// the master of a new lineage. It was in sync, so nothing that was acknowledged may be lost, and what the others
// bring back with them must not come in.
#include <fmt/format.h>

#include "tests/sim/replication_cluster.h"

namespace pando::replication {

// By a random sequence of its own, so that the other seeds stay as they are.
void ReplicationCluster::PlanForce() {
  SimRandom random(seed_ * 0xd1342543de82ef95ull + 3);
  if (nodes_.size() < 2 || !random.Chance(0.12)) return;
  At(random.Between(0, 1500 * kMillisecond), [this, which = random.Next()] {
    if (entry_.isr.empty()) return;
    SimNode* one = FindNode(*(entry_.isr.begin() + which % entry_.isr.size()));
    if (one != nullptr && one->running && !one->tainted) LoseAllBut(*one);
  });
}

void ReplicationCluster::LoseAllBut(SimNode& one) {
  Say("only {} is left for a while", one.name());
  outcome_.faults += nodes_.size() - 1;
  for (auto& node : nodes_) {
    if (node.get() == &one) continue;
    const Nanos back = Between(1200 * kMillisecond, 3500 * kMillisecond);
    const uint64_t how = random_.Below(4);
    if (how == 0) {
      // It lives, and does not even learn for a while that it is out.
      Isolate(*node, back);
      if (random_.Chance(0.5)) node->no_topology_until = now_ + back;
      continue;
    }
    Stop(*node, how == 1);
    At(back, [this, &n = *node] {
      if (!n.running) Start(n, false);
    });
  }
  forcing_until_ = now_ + 4 * kSecond;
  At(Between(100 * kMillisecond, 1500 * kMillisecond), [this, &one] { ForceOn(one, now_ + 2 * kSecond); });
}

// The operator repeats the command while it is refused. Two operators at once do the same.
void ReplicationCluster::ForceOn(SimNode& node, Nanos until) {
  if (!faults_on_ || now_ >= until || entry_.lineage > 1) return;
  OnNode(node, 0, [this, &node] {
    ReplicaSet learners;
    const PartitionEntry& known = node.core->entry();
    for (const ReplicaId& id : known.assigned.Union(known.learners)) {
      SimNode& at = *nodes_[id.hi - 1];
      if (&at != &node && known.known()) learners.Insert(ReplicaId{id.hi, ++at.replica_number});
    }
    const ForceVerdict verdict = node.core->Force(learners, false, Local(node));
    Say("{} is to take over by force: {}", node.name(), ToString(verdict));
  });
  At(Between(5 * kMillisecond, 300 * kMillisecond), [this, &node, until] { ForceOn(node, until); });
}

// RC9.
void ReplicationCluster::AuditLineage(const PartitionEntry& before, const PartitionEntry& after) {
  if (after.lineage != before.lineage) {
    ++outcome_.forced;
    for (const ReplicaId& id : before.assigned.Union(before.learners)) {
      if (!after.isr.Contains(id)) left_behind_.insert(id);
    }
    const bool alone = after.isr == ReplicaSet{after.master} && before.isr.Contains(after.master);
    if (after.lineage != before.lineage + 1 || after.epoch <= before.epoch || !alone) {
      Violated(fmt::format("RC9: a forced failover makes {} of {}", EntryText(after), EntryText(before)));
    }
  }
  for (const ReplicaId& id : after.isr) {
    if (!left_behind_.contains(id)) continue;
    Violated(fmt::format("RC9: {} is in sync again, and is of an older lineage: {}", NameOf(id), EntryText(after)));
  }
}

}  // namespace pando::replication
