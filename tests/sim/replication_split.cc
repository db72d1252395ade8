// Splits in ReplicationCluster (docs/SPLIT.md): the partition begins as a half that is opened later, or is retired in
// the end. Both happen under all faults. What must hold is that nobody is served before the one or after the other.
#include <fmt/format.h>

#include "tests/sim/replication_cluster.h"

namespace pando::replication {

// By a random sequence of its own, so that the other seeds stay as they are.
void ReplicationCluster::PlanSplit() {
  SimRandom random(seed_ * 0x9fb21c651e98df25ull + 5);
  if (random.Chance(0.15)) {
    entry_.stage = PartitionStage::kBuilding;
    At(random.Between(0, 2500 * kMillisecond), [this] { TryOpen(); });
  }
  if (random.Chance(0.3)) At(random.Between(400 * kMillisecond, 4 * kSecond), [this] { TryRetire(); });
}

// Who opens a half writes a record into its log, and waits until that is applied. If he ends meanwhile, another one
// does the same.
void ReplicationCluster::TryOpen() {
  if (entry_.stage != PartitionStage::kBuilding) return;
  At(Between(5 * kMillisecond, 100 * kMillisecond), [this] { TryOpen(); });
  SimNode* master = FindNode(entry_.master);
  if (master == nullptr || !master->running) return;
  OnNode(*master, 0, [this, master] {
    ReplicaCore& core = *master->core;
    if (core.JudgeFeed(WriteLevel::kQuorum, 1, Local(*master)) != WriteVerdict::kAccepted || core.Serves()) return;
    if (opens_ == nullptr || opens_->epoch != core.leader().epoch()) {
      opens_ = master->log.AppendOwn(core.leader().epoch(), 1, "open");
      core.OnAppended(Local(*master));
    }
    const ChangeResult result = core.SetServing(opens_->last_lsn(), Local(*master));
    Say("{} is asked to open the half at LSN {}: {}", master->name(), opens_->last_lsn(), ToString(result));
  });
}

// The driver of a split, with doubts.
void ReplicationCluster::TryRetire() {
  if (entry_.retired() || !faults_on_) return;
  const Nanos next =
      random_.Chance(0.2) ? Between(50 * kMillisecond, 600 * kMillisecond) : Between(0, 12 * kMillisecond);
  At(next, [this] { TryRetire(); });
  SimNode* master = FindNode(entry_.master);
  if (master == nullptr || !master->running) return;
  OnNode(*master, 0, [this, master] { StepOfSplit(*master); });
}

void ReplicationCluster::StepOfSplit(SimNode& master) {
  ReplicaCore& core = *master.core;
  if (!core.Serving() || !core.Serves()) return;
  const Nanos now = Local(master);
  const Nanos within = random_.Chance(0.3) ? Between(kMillisecond, 60 * kMillisecond) : 800 * kMillisecond;
  const Handover& handover = core.leader().handover();
  if (random_.Chance(0.03)) {
    core.SetSplit(std::nullopt, now);
  } else if (!core.entry().split) {
    core.SetSplit(SplitOrder{}, now);
  } else if (!handover.active()) {
    if (core.HoldForSplit(now, now + within)) Say("{} holds writes for a split", master.name());
  } else if (handover.holds() && random_.Chance(0.1)) {
    core.LetGo(now);
  } else if (handover.holds() && (core.leader().IsQuiet() || random_.Chance(0.2))) {
    core.Retire(now, now + within);
    Say("{} is to retire the partition", master.name());
    if (!random_.Chance(0.3)) return;
    At(Between(0, 12 * kMillisecond), [this, &master] {
      Stop(master, random_.Chance(0.3));
      At(Between(kMillisecond, 800 * kMillisecond), [this, &master] {
        if (!master.running) Start(master, false);
      });
    });
  }
}

// RC10.
void ReplicationCluster::AuditRetiring(SimNode& node, const PartitionEntry& desired) {
  if (!desired.retired() || !node.core->leader().active()) return;
  const ReplicaCore& core = *node.core;
  if (core.commit_lsn() == node.log.end().lsn && node.state.applied.lsn == node.log.end().lsn) return;
  Violated(fmt::format("RC10: {} retires the partition at LSN {}, has committed LSN {} and applied LSN {}", node.name(),
                       node.log.end().lsn, core.commit_lsn(), node.state.applied.lsn));
}

void ReplicationCluster::AuditSplit(const PartitionEntry& before, const PartitionEntry& after) {
  if (before.retired()) {
    Violated(fmt::format("RC11: the record of a retired partition is changed: {}", EntryText(after)));
  } else if (after.retired()) {
    ++outcome_.retired;
    if (!before.split || before.stage != PartitionStage::kServing || after.op_id.replica != before.master) {
      Violated(
          fmt::format("RC10: {} makes {} of {}", NameOf(after.op_id.replica), EntryText(after), EntryText(before)));
    }
  }
  outcome_.opened += before.stage == PartitionStage::kBuilding && after.stage == PartitionStage::kServing;
  const bool forced = after.lineage != before.lineage;
  if (after.opened_lsn != before.opened_lsn && before.stage != PartitionStage::kBuilding && !forced) {
    Violated(fmt::format("SP4: {} makes {} of {}", NameOf(after.op_id.replica), EntryText(after), EntryText(before)));
  }
}

// A client is about to be answered, or a write of it appended.
void ReplicationCluster::AuditServing(const SimNode& node, std::string_view what) {
  if (entry_.retired()) {
    Violated(fmt::format("RC11: {} {}, and the partition is retired", node.name(), what));
  } else if (entry_.stage == PartitionStage::kBuilding || node.state.applied.lsn < entry_.opened_lsn) {
    Violated(fmt::format("SP4: {} {} before the half is opened: it has applied LSN {}, {}", node.name(), what,
                         node.state.applied.lsn, EntryText(entry_)));
  }
}

// All have learned it. Those that nobody lists may have no part in it.
bool ReplicationCluster::HasEnded() {
  for (auto& node : nodes_) {
    if (!node->running || node->core->leader().active()) return false;
    const bool listed = entry_.assigned.Contains(node->id) || entry_.learners.Contains(node->id);
    if (listed && !node->core->entry().retired()) return false;
  }
  return true;
}

}  // namespace pando::replication
