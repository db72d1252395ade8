// Trio: a few replication cores with quick disks, a quick network and a quick topology, in which a test
// breaks one thing at a time (replication_rules_test.cc). ReplicationCluster is the world with random faults.
//
// Threads: one.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "src/replication/replica_core.h"
#include "tests/sim/replication_sim_log.h"

namespace pando::replication {

class Trio {
 public:
  struct Node {
    ReplicaId id;
    SimLog log;
    std::unique_ptr<ReplicaCore> core;  // empty: the process is down
    uint64_t incarnation = 0;
    Epoch promise = 0;
    uint64_t lineage = 1;
    bool hangs = false;                   // the disk
    Nanos sync_ns = 500 * kMicrosecond;   // how long it takes
    Nanos store_ns = 500 * kMicrosecond;  // the same, of a promise
    Nanos news_ns = kMillisecond;         // until a change of the topology is known
    bool syncing = false;
    Lsn committed = 0;  // by the core; applied once the call into it has returned, before its effects are carried out
    bool cut = false;   // from the others
    bool hears_topology = true;
    bool cut_from_topology = false;  // it cannot write either
    bool installed = true;
    size_t acks_sent = 0;
    std::vector<Effect> told;  // what is neither a message nor a request
  };

  explicit Trio(size_t count = 3, uint32_t min_isr = 2, const Rules& rules = {}, uint64_t seed = 1)
      : rules_(rules), seed_(seed) {
    for (size_t i = 0; i < count; ++i) {
      nodes_.push_back(std::make_unique<Node>());
      nodes_[i]->id = ReplicaId{i + 1, 0};
      entry.isr.Insert(nodes_[i]->id);
    }
    entry.assigned = entry.isr;
    entry.lineage = entry.epoch = entry.revision = 1;
    entry.master = nodes_[0]->id;
    entry.replicas = static_cast<uint32_t>(count);
    entry.min_isr = min_isr;
    for (size_t i = 0; i < count; ++i) Start(i);
  }
  // With the first replica as open master, and all in sync.
  bool Opens() {
    return RunUntil([this] { return master() == 0 && core(0).all_lsn() > 0; }, 3 * kSecond);
  }

  PartitionEntry entry;  // the topology
  bool topology_down = false;
  Nanos now() const { return now_; }
  Node& operator[](size_t i) { return *nodes_[i]; }
  ReplicaCore& core(size_t i) { return *nodes_[i]->core; }
  size_t size() const { return nodes_.size(); }
  // The replica that serves with a lease; size() if there is none.
  size_t master() {
    for (size_t i = 0; i < size(); ++i) {
      if (nodes_[i]->core == nullptr) continue;
      const auto serving = core(i).Serving();
      if (serving && core(i).LeaseHolds(*serving, now_)) return i;
    }
    return size();
  }
  template <typename E>
  const E* Told(size_t i) {
    for (const Effect& effect : nodes_[i]->told) {
      if (const E* found = std::get_if<E>(&effect)) return found;
    }
    return nullptr;
  }

  void Start(size_t i) {
    Node& node = *nodes_[i];
    ++node.incarnation;
    node.log.Recover();
    node.log.on_append = [this, i](const SimUnit&) { Sync(i); };
    node.log.on_commit = [&node](Lsn up_to) { node.committed = up_to; };
    node.committed = 0;
    node.syncing = false;
    CoreConfig config;
    config.partition = partition_;
    config.self = node.id;
    config.incarnation = node.incarnation;
    config.seed = seed_ * 100 + i;
    config.rules = rules_;
    RecoveredReplica found;
    found.promised = node.promise;
    found.lineage = node.lineage;
    found.installed = node.installed;
    found.committed_lsn = std::min(node.log.mark(), node.log.durable().lsn);
    node.core = std::make_unique<ReplicaCore>(config, found, node.log, now_ - 2 * kSecond);
    if (Hears(i)) {
      At(kMillisecond, i, [this, i] { core(i).OnTopology(entry, now_); });
    }
    At(kMillisecond, i, [this, i] { Tick(i); });
  }
  void Stop(size_t i) {
    SimRandom random(1);
    nodes_[i]->log.Crash(random, false);
    nodes_[i]->core.reset();
    ++nodes_[i]->incarnation;
  }
  void NoticeDeath(size_t i, uint64_t incarnation) {
    for (size_t to = 0; to < size(); ++to) {
      if (to != i) Deliver({nodes_[i]->id, nodes_[to]->id, DeathNotice{nodes_[i]->id, incarnation}});
    }
  }
  // Calls into a core, and carries out what it wants.
  template <typename Call>
  auto Do(size_t i, Call call) {
    struct Carry {
      Trio* trio;
      size_t i;
      ~Carry() { trio->CarryOut(i); }
    } carry{this, i};
    return call(core(i));
  }
  // A write, if it is accepted.
  bool Write(size_t i, std::string records = "x") {
    if (nodes_[i]->core == nullptr || !core(i).AcceptsWrites(now_)) return false;
    nodes_[i]->log.AppendOwn(core(i).leader().epoch(), 1, std::move(records));
    Do(i, [this](ReplicaCore& core) { core.OnAppended(now_); });
    return true;
  }
  // A write every so often, wherever it is accepted.
  void WriteEvery(Nanos pause) {
    events_.push({now_ + pause, order_++, [this, pause] {
                    for (size_t i = 0; i < size(); ++i) Write(i);
                    WriteEvery(pause);
                  }});
  }
  void Land(PartitionEntry desired) {
    ++desired.revision;
    entry = desired;
    for (size_t i = 0; i < size(); ++i) {
      if (nodes_[i]->hears_topology && !nodes_[i]->cut_from_topology) {
        At(nodes_[i]->news_ns, i, [this, i, known = entry] { core(i).OnTopology(known, now_); });
      }
    }
  }

  void Run(Nanos time) {
    RunUntil([] { return false; }, time);
  }
  bool RunUntil(const std::function<bool()>& done, Nanos limit) {
    const Nanos end = now_ + limit;
    while (!events_.empty() && events_.top().at <= end) {
      if (done()) return true;
      Event event = events_.top();
      events_.pop();
      now_ = event.at;
      event.run();
    }
    now_ = end;
    return done();
  }
  std::string Wrong() {
    for (auto& node : nodes_) {
      if (node->core != nullptr && !node->core->CheckInvariants().empty()) return node->core->CheckInvariants();
    }
    return "";
  }

 private:
  struct Event {
    Nanos at;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Event& other) const { return at != other.at ? at > other.at : order > other.order; }
  };

  // In the present process of the node.
  void At(Nanos delay, size_t i, std::function<void()> run) {
    events_.push({now_ + delay, order_++, [this, i, incarnation = nodes_[i]->incarnation, run = std::move(run)] {
                    if (nodes_[i]->core == nullptr || nodes_[i]->incarnation != incarnation) return;
                    run();
                    CarryOut(i);
                  }});
  }
  bool Hears(size_t i) const { return !topology_down && nodes_[i]->hears_topology && !nodes_[i]->cut_from_topology; }
  void Tick(size_t i) {
    if (Hears(i)) core(i).OnTopologyHeard(now_);
    core(i).Tick(now_);
    At(20 * kMillisecond, i, [this, i] { Tick(i); });
  }
  void Sync(size_t i) {
    Node& node = *nodes_[i];
    if (node.syncing || !node.log.NeedsSync()) return;
    node.syncing = true;
    At(node.sync_ns, i, [this, i] { EndSync(i, nullptr); });
  }
  void EndSync(size_t i, std::shared_ptr<SimLog::Sync> sync) {
    Node& node = *nodes_[i];
    if (sync == nullptr) sync = std::make_shared<SimLog::Sync>(node.log.BeginSync());
    if (node.hangs) return At(kMillisecond, i, [this, i, sync] { EndSync(i, sync); });
    node.syncing = false;
    if (node.log.EndSync(*sync)) core(i).OnDurable(now_);
    Sync(i);
  }
  void Store(size_t i, const StorePromise& store) {
    Node& node = *nodes_[i];
    if (node.hangs) return At(kMillisecond, i, [this, i, store] { Store(i, store); });
    node.promise = std::max(node.promise, store.epoch);
    node.lineage = store.lineage;
    core(i).OnPromiseStored(store.epoch, now_);
  }
  size_t IndexOf(const ReplicaId& id) const {
    size_t i = 0;
    while (i < size() && nodes_[i]->id != id) ++i;
    return i;
  }
  void Deliver(const Message& message) {
    const size_t to = IndexOf(message.to), from = IndexOf(message.from);
    if (from < size() && std::holds_alternative<AppendAck>(message.body)) ++nodes_[from]->acks_sent;
    if (to == size() || nodes_[to]->cut || nodes_[from]->cut) return;
    At(200 * kMicrosecond, to, [this, to, message] { core(to).Step(message, now_); });
  }
  void Ship(size_t i, const ShipUnits& ship) {
    Append append;
    append.epoch = ship.epoch;
    append.after = ship.after;
    append.commit_lsn = ship.commit_lsn;
    HistoryPoint end = ship.after;
    const auto& units = nodes_[i]->log.units();
    for (size_t at = nodes_[i]->log.IndexAfter(ship.after.lsn); at < units.size(); ++at) {
      const size_t before = append.units.size();
      append.units.resize(before + UnitBytes(units[at]->records.size()));
      EncodeUnit(partition_, units[at]->View(), 0, append.units.data() + before);
      end = units[at]->end();
    }
    Deliver({nodes_[i]->id, ship.to, std::move(append)});
    core(i).OnShipped(ship.to, ship.epoch, end, now_);
  }
  void Cas(size_t i, const PartitionEntry& desired) {
    if (topology_down || nodes_[i]->cut_from_topology) {
      return At(300 * kMillisecond, i,
                [this, i, op = desired.op_id] { core(i).OnCasDone(op, CasOutcome::kUnknown, {}, now_); });
    }
    auto outcome = std::make_shared<CasOutcome>(CasOutcome::kConflict);
    events_.push({now_ + kMillisecond, order_++, [this, desired, outcome] {
                    if (desired.revision != entry.revision) return;
                    *outcome = CasOutcome::kApplied;
                    Land(desired);
                  }});
    At(2 * kMillisecond, i, [this, i, outcome, op = desired.op_id] { core(i).OnCasDone(op, *outcome, entry, now_); });
  }
  void CarryOut(size_t i) {
    std::vector<Effect> effects;
    while (nodes_[i]->core != nullptr) {
      core(i).TakeEffects(&effects);
      if (const Lsn up_to = std::exchange(nodes_[i]->committed, 0); up_to > nodes_[i]->log.applied()) {
        nodes_[i]->log.SetApplied(up_to);
        core(i).OnApplied(now_);
        std::vector<Effect> more;
        core(i).TakeEffects(&more);
        std::move(more.begin(), more.end(), std::back_inserter(effects));
      } else if (effects.empty()) {
        return;
      }
      for (Effect& effect : effects) CarryOut(i, effect);
    }
  }
  void CarryOut(size_t i, Effect& effect) {
    if (auto* send = std::get_if<SendMessage>(&effect)) return Deliver(send->message);
    if (auto* ship = std::get_if<ShipUnits>(&effect)) return Ship(i, *ship);
    if (auto* store = std::get_if<StorePromise>(&effect)) {
      return At(nodes_[i]->store_ns, i, [this, i, what = *store] { Store(i, what); });
    }
    if (auto* cas = std::get_if<CasTopology>(&effect)) return Cas(i, cas->desired);
    if (std::holds_alternative<ReadTopology>(effect)) {
      if (!Hears(i)) return;
      return At(nodes_[i]->news_ns, i, [this, i] { core(i).OnTopology(entry, now_); });
    }
    nodes_[i]->told.push_back(std::move(effect));
  }

  const Uuid partition_{7, 7};
  const Rules rules_;
  const uint64_t seed_;
  Nanos now_ = 100 * kSecond;
  uint64_t order_ = 0;
  std::priority_queue<Event> events_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace pando::replication
