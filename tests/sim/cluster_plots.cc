// The plots of ClusterWorld: schedules that random faults meet rarely.
//
// A plot goes on beside random faults, which are fewer meanwhile and may spoil it. It returns whether it came to what
// it is about; the test asserts that each kind did so often enough.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/replication/hosted_replica.h"
#include "tests/sim/cluster_world.h"

namespace pando {

const char* NameOf(Plot plot) {
  switch (plot) {
    case Plot::kNone: return "none";
    case Plot::kCutMaster: return "cut master";
    case Plot::kPausedMaster: return "paused master";
    case Plot::kLateNotice: return "late notice";
    case Plot::kPowerLoss: return "power loss of all";
    case Plot::kForgottenPromise: return "forgotten promise";
    case Plot::kLongTail: return "long tail";
    case Plot::kOldImage: return "old image";
  }
  return "?";
}

// Every tenth seed has no plot, and those from 8 on.
Plot ClusterWorld::PlotOf(uint64_t seed) {
  const uint64_t kind = seed % 10;
  return kind < kPlots ? static_cast<Plot>(kind) : Plot::kNone;
}

detail::FireAndForget ClusterWorld::RunPlot(ClusterWorld* world, Plot plot) {
  world->plot_partition_ = static_cast<uint32_t>(world->random_.Below(world->partitions_));
  world->Say("a plot begins: {}, partition {}", pando::NameOf(plot), world->plot_partition_);
  bool done = false;
  switch (plot) {
    case Plot::kNone: break;
    case Plot::kCutMaster: done = co_await world->CutMaster(); break;
    case Plot::kPausedMaster: done = co_await world->PausedMaster(); break;
    case Plot::kLateNotice: done = co_await world->LateNotice(); break;
    case Plot::kPowerLoss: done = co_await world->PowerLossOfAll(); break;
    case Plot::kForgottenPromise: done = co_await world->ForgottenPromise(); break;
    case Plot::kLongTail: done = co_await world->LongTail(); break;
    case Plot::kOldImage: done = co_await world->OldImage(); break;
  }
  world->Say("the plot is over{}", done ? "" : ", and has come to nothing");
  world->counts_.plots[static_cast<size_t>(plot)] += done;
  // Its last answers are still on their way.
  co_await world->For(100 * kMillisecond);
  world->loyal_to_ = nullptr;
  world->plot_goes_on_ = false;
}

Task<bool> ClusterWorld::Until(std::function<bool()> what, Nanos within_ns, Nanos every_ns) {
  const Nanos end_ns = kernel_.now_ns() + within_ns;
  while (!what()) {
    if (kernel_.now_ns() >= end_ns || !wrong_.empty()) co_return false;
    co_await For(every_ns);
  }
  co_return true;
}

ClusterWorld::Node* ClusterWorld::NodeOf(const Uuid& replica, uint32_t partition) {
  for (auto& node : nodes_) {
    if (node->state != State::kUp || !node->member->serving() || CoreOf(*node, partition) == nullptr) continue;
    if (node->member->host()->Find(partition)->replica() == replica) return node.get();
  }
  return nullptr;
}

ClusterWorld::Node* ClusterWorld::MasterOf(uint32_t partition) {
  const PartitionRecord record = Record(partition).record;
  Node* node = NodeOf(record.master, partition);
  if (node == nullptr) return nullptr;
  const replication::ReplicaCore* core = CoreOf(*node, partition);
  const std::optional<Mastership> serving = core->Serving();
  if (!serving || serving->epoch != record.epoch) return nullptr;
  return core->LeaseHolds(*serving, node->member->reactor().FreshNowNs()) ? node : nullptr;
}

Task<ClusterWorld::Node*> ClusterWorld::FindMaster(uint32_t partition) {
  co_await Until([this, partition] { return MasterOf(partition) != nullptr; }, 4 * kSecond);
  co_return MasterOf(partition);
}

// Another one is promoted, and the old master hears nothing of it. Its clients do not leave it.
Task<bool> ClusterWorld::CutMaster() {
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  loyal_to_ = master;
  co_await For(Between(20, 200) * kMillisecond);
  const Epoch epoch = Record(plot_partition_).record.epoch;
  const uint64_t reads = counts_.reads_at_old_master;
  Say("{} is cut from its peers, but not from its clients", master->name());
  Isolate(*master, true);
  if (random_.Chance(0.8)) SetTopology(master, {.unreachable = true});
  co_await Until([this, epoch] { return Record(plot_partition_).record.epoch > epoch; }, 4 * kSecond);
  // What was written to the next one can be missed at the old one. Those who wrote to that first give up.
  const uint64_t enough = plot_writes_ + 5;
  co_await Until([this, enough] { return plot_writes_ >= enough; }, 4 * kSecond);
  co_await For(Between(200, 900) * kMillisecond);
  Isolate(*master, false);
  SetTopology(master, {});
  co_await For(Between(20, 200) * kMillisecond);
  co_return counts_.reads_at_old_master > reads;
}

Task<bool> ClusterWorld::PausedMaster() {
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  loyal_to_ = master;
  co_await For(Between(20, 200) * kMillisecond);
  const Epoch epoch = Record(plot_partition_).record.epoch;
  const uint64_t sent = counts_.sent_while_paused;
  const Nanos for_ns = Between(1800, 3000) * kMillisecond;
  Say("{} is paused for {} ms, and its clients go on asking it", master->name(), for_ns / kMillisecond);
  if (random_.Chance(0.5)) SetTopology(master, {.latency_min_ns = kMillisecond, .latency_max_ns = 300 * kMillisecond});
  master->paused_until_ns = kernel_.now_ns() + for_ns;
  if (random_.Chance(0.5)) {
    master->machine->Pause(for_ns);
  } else {
    master->machine->PauseInTurn(for_ns, random_.Below(60));
  }
  co_await For(for_ns);
  const bool replaced = Record(plot_partition_).record.epoch > epoch;
  co_await For(Between(20, 300) * kMillisecond);
  SetTopology(master, {});
  co_return replaced&& counts_.sent_while_paused > sent;
}

// A master dies, and its next process leads again. Only then the others hear that the first one has died, and
// nothing more of the second one.
Task<bool> ClusterWorld::LateNotice() {
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  const uint64_t incarnation = master->member->incarnation();
  master->start_after_ns = kMillisecond;
  Crash(*master, false, /*guard_tells=*/false);
  const bool again = co_await Until([this, master] { return MasterOf(plot_partition_) == master; }, 4 * kSecond);
  if (!again) co_return false;
  loyal_to_ = master;
  co_await For(Between(100, 500) * kMillisecond);
  const Epoch epoch = Record(plot_partition_).record.epoch;
  if (MasterOf(plot_partition_) != master) co_return false;
  NotifyOfDeath(*master, incarnation);
  // It takes that long until it is heard.
  co_await For(Between(200, 1500) * kMicrosecond);
  ++counts_.late_notices;
  Say("{} is cut from its peers and from the topology", master->name());
  Isolate(*master, true);
  SetTopology(master, {.unreachable = true});
  co_await Until([this, epoch] { return Record(plot_partition_).record.epoch > epoch; }, 3 * kSecond);
  co_await For(Between(300, 900) * kMillisecond);
  Isolate(*master, false);
  SetTopology(master, {});
  co_return true;
}

Task<bool> ClusterWorld::PowerLossOfAll() {
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  Say("the disks of all but {} are slow", master->name());
  for (auto& node : nodes_) {
    if (node.get() != master) node->machine->SetDiskLatency(5 * kMillisecond, 40 * kMillisecond);
  }
  co_await For(Between(100, 400) * kMillisecond);
  if (master->state != State::kUp) co_return false;
  Say("all power fails");
  for (auto& node : nodes_) {
    // Others must be able to win without it.
    node->start_after_ns = node.get() == master ? Between(3000, 4000) * kMillisecond : Between(20, 300) * kMillisecond;
    Crash(*node, true);
    node->machine->SetDiskLatency(0, 0);
  }
  co_await For(4500 * kMillisecond);
  co_return true;
}

// Power fails where a promise has just been given, and where the disk is slow.
Task<bool> ClusterWorld::ForgottenPromise() {
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  const Epoch epoch = Record(plot_partition_).record.epoch;
  Isolate(*master, true);
  Say("{} is cut from its peers; the disks of the others are slow", master->name());
  for (auto& node : nodes_) {
    if (node.get() != master) node->machine->SetDiskLatency(20 * kMillisecond, 100 * kMillisecond);
  }
  Node* voter = nullptr;
  co_await Until(
      [this, master, epoch, &voter] {
        for (auto& node : nodes_) {
          const replication::ReplicaCore* core = CoreOf(*node, plot_partition_);
          if (node.get() != master && core != nullptr && core->stored_promise() > epoch) voter = node.get();
        }
        return voter != nullptr;
      },
      4 * kSecond, 200 * kMicrosecond);
  for (auto& node : nodes_) node->machine->SetDiskLatency(0, 0);
  if (voter == nullptr || voter->state != State::kUp) {
    Isolate(*master, false);
    co_return false;
  }
  voter->start_after_ns = Between(1, 50) * kMillisecond;
  Crash(*voter, true);
  ++counts_.promises_before_power_loss;
  co_await For(Between(20, 1000) * kMillisecond);
  Isolate(*master, false);
  co_return true;
}

// A master goes on appending what cannot be committed, and dies. It comes back when another one has gone on without.
Task<bool> ClusterWorld::LongTail() {
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  loyal_to_ = master;
  co_await For(Between(20, 200) * kMillisecond);
  const Epoch epoch = Record(plot_partition_).record.epoch;
  Isolate(*master, true);
  Say("{} is cut from its peers, but not from its clients", master->name());
  co_await For(Between(50, 300) * kMillisecond);
  const replication::ReplicaCore* core = CoreOf(*master, plot_partition_);
  bool tail = false;
  if (master->state == State::kUp && core != nullptr) {
    const auto* gated = dynamic_cast<const GatedPartition*>(master->member->engine()->partition(plot_partition_));
    tail = gated != nullptr && gated->durable().lsn > core->commit_lsn();
    master->start_after_ns = Between(2000, 3000) * kMillisecond;
    Crash(*master, random_.Chance(0.5));
  }
  co_await Until([this, epoch] { return Record(plot_partition_).record.epoch > epoch; }, 2 * kSecond);
  Isolate(*master, false);
  co_await For(kSecond);
  counts_.tails_superseded += tail;
  co_return tail&& Record(plot_partition_).record.epoch > epoch;
}

// A member of the ISR gets back an old disk. Its master dies, and the other member cannot reach the topology.
Task<bool> ClusterWorld::OldImage() {
  if (!co_await Until([this] { return WhyNotWhole().empty() || WhyNotInSync().empty(); }, 3 * kSecond)) co_return false;
  Node* master = co_await FindMaster(plot_partition_);
  if (master == nullptr) co_return false;
  std::vector<Node*> others;
  for (const ReplicaRecord& r : Record(plot_partition_).record.isr) {
    Node* node = NodeOf(r.replica, plot_partition_);
    if (node != nullptr && node != master) others.push_back(node);
  }
  if (others.size() != 2) co_return false;
  Node *old = others[random_.Below(2)], *third = old == others[0] ? others[1] : others[0];
  Say("an image is taken of the disk of {}", old->name());
  const SimDisk image = old->machine->Image(random_.Next());
  old->start_after_ns = 5 * kMillisecond;
  Crash(*old, false);
  // Its next start must be finished: the counter tells starts apart, and nothing finer.
  const bool again = co_await Until(
      [this, old] { return old->state == State::kUp && old->member->serving() && WhyNotInSync().empty(); },
      5 * kSecond);
  if (!again || MasterOf(plot_partition_) != master || third->state != State::kUp) co_return false;
  co_await For(Between(200, 500) * kMillisecond);
  if (old->state != State::kUp || master->state != State::kUp || !WhyNotInSync().empty()) co_return false;
  if (HasLostReplica()) co_return false;
  NoteLostReplicas(*old);
  Say("{} gets back the disk of its image, and {} dies; {} does not reach the topology", old->name(), master->name(),
      third->name());
  SetTopology(third, {.unreachable = true});
  old->image = image;
  old->start_after_ns = 5 * kMillisecond;
  master->start_after_ns = 4 * kSecond;
  Crash(*old, true);
  Crash(*master, false, /*guard_tells=*/false);
  co_await For(4 * kSecond);
  SetTopology(third, {});
  co_return true;
}

}  // namespace pando
