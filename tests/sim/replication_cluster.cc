#include "tests/sim/replication_cluster.h"

#include <fmt/format.h>

#include <utility>

#include "src/base/hash.h"
#include "src/topology/start_counter.h"

namespace pando::replication {
namespace {

constexpr Nanos kTickEvery = 20 * kMillisecond;

}  // namespace

std::string SimCommand::Encode() const {
  return fmt::format("{} {} {} {} {} {}", client, sequence, add ? 1 : 0, key, value.empty() ? "-" : value, delta);
}

std::optional<SimCommand> SimCommand::Decode(const std::string& records) {
  if (records.empty()) return std::nullopt;
  SimCommand c;
  char key[16], value[32];
  int add = 0;
  long long delta = 0;
  unsigned long long sequence = 0;
  if (sscanf(records.c_str(), "%d %llu %d %15s %31s %lld", &c.client, &sequence, &add, key, value, &delta) != 6) {
    return std::nullopt;
  }
  c.sequence = sequence;
  c.add = add != 0;
  c.key = key;
  c.value = value;
  c.delta = delta;
  return c;
}

void ReplicationCluster::Line(std::string text) {
  outcome_.story.push_back(fmt::format("{:10.3f} ms  {}", static_cast<double>(now_) / 1e6, std::move(text)));
}

void ReplicationCluster::At(Nanos delay, std::function<void()> run) {
  events_.push({now_ + std::max<Nanos>(delay, 0), next_order_++, std::move(run)});
}

// Runs it in the present process of the node, after its pause, or never.
void ReplicationCluster::OnNode(SimNode& node, Nanos delay, std::function<void()> run) {
  At(delay, [this, &node, boot = node.boot, run = std::move(run)] {
    if (node.boot != boot || !node.running) return;
    if (now_ < node.paused_until) {
      OnNode(node, node.paused_until - now_, run);
    } else {
      RunOnNode(node, run);
    }
  });
}

void ReplicationCluster::RunOnNode(SimNode& node, const std::function<void()>& run) {
  run();
  Drain(node);
  Audit(&node);
}

// Carries out what the core wants done, in order. The process may stop in between for a while.
void ReplicationCluster::Drain(SimNode& node) {
  while (node.running) {
    for (Effect& effect : node.core->TakeEffects()) node.todo.push_back(std::move(effect));
    if (node.todo.empty()) return;
    if (faults_on_ && random_.Chance(pause_in_turn_)) {
      const Nanos pause = Between(10 * kMillisecond, 2500 * kMillisecond);
      node.paused_until = now_ + pause;
      ++outcome_.faults;
      Say("{} stops in the middle of a turn for {} ms, with {} effects to carry out", node.name(), pause / kMillisecond,
          node.todo.size());
      OnNode(node, pause, [] {});
      return;
    }
    Effect effect = std::move(node.todo.front());
    node.todo.pop_front();
    Do(node, effect);
  }
}

void ReplicationCluster::Do(SimNode& node, Effect& effect) {
  if (auto* e = std::get_if<SendMessage>(&effect)) {
    Send(node, e->message);
  } else if (auto* e1 = std::get_if<ShipUnits>(&effect)) {
    Ship(node, *e1);
  } else if (auto* e2 = std::get_if<StorePromise>(&effect)) {
    StoreThePromise(node, *e2);
  } else if (auto* e3 = std::get_if<CasTopology>(&effect)) {
    Cas(node, e3->desired);
  } else if (std::holds_alternative<ReadTopology>(effect)) {
    Read(node);
  } else if (auto* e4 = std::get_if<OpenMastership>(&effect)) {
    Say("{} is open as master of epoch {}", node.name(), e4->epoch);
    ++outcome_.masterships;
  } else if (auto* e5 = std::get_if<CloseMastership>(&effect)) {
    Say("{} is no longer master of epoch {}: {}", node.name(), e5->epoch, e5->why);
    std::deque<SimNode::Waiting> waiting = std::exchange(node.waiting, {});
    for (auto& w : waiting) w.reply(false, 0);
    OnNode(node, 0, [this, &node] { AnswerHeld(node); });
  } else if (auto* h = std::get_if<HandoverEnded>(&effect)) {
    Say("{} {} to {}: {}", node.name(), h->done ? "has handed over" : "does not hand over", NameOf(h->target), h->why);
    if (h->target.IsNil()) {
      outcome_.failed_retires += !h->done;
    } else {
      ++(h->done ? outcome_.handovers : outcome_.failed_handovers);
    }
    OnNode(node, 0, [this, &node] { AnswerHeld(node); });
  } else if (auto* lost = std::get_if<ReportLostReplica>(&effect)) {
    Violated(fmt::format("I9: {} finds that {} has lost its past: {}", node.name(), NameOf(lost->replica), lost->why));
  } else if (auto* discard = std::get_if<DiscardReplica>(&effect)) {
    Say("{} discards its replica: {}", node.name(), discard->why);
    Stop(node, false);
    // Another one is to take its place.
    node.log.PutDisk({}, 0);
    node.id = ReplicaId{static_cast<uint64_t>(node.index) + 1, ++node.replica_number};
    node.checkpoint_lsn = node.stored_promise = node.lineage = 0;
    node.tainted = false;
    At(10 * kMillisecond, [this, &node] {
      if (!node.running) Start(node, false);
    });
  } else if (auto* e6 = std::get_if<InstallReplica>(&effect)) {
    Violated(fmt::format("install: {} finds that {} must be installed, and all logs are complete", node.name(),
                         NameOf(e6->replica)));
  } else if (auto* e7 = std::get_if<QuarantineReplica>(&effect)) {
    Violated(fmt::format("I5: {} is quarantined: {}", node.name(), e7->why));
  }
}

void ReplicationCluster::Ship(SimNode& node, const ShipUnits& ship) {
  if (node.core->leader().epoch() != ship.epoch) return;
  const auto at = node.log.PointAt(ship.after.lsn);
  if (!at || at->chain != ship.after.chain) {
    node.core->OnShipFailed(ship.to, ship.epoch, Local(node));
    return;
  }
  Append append;
  append.epoch = ship.epoch;
  append.after = ship.after;
  append.commit_lsn = ship.commit_lsn;
  HistoryPoint end = ship.after;
  const size_t first = node.log.IndexAfter(ship.after.lsn);
  const size_t most = first + 1 + random_.Below(12);
  for (size_t i = first; i < node.log.units().size() && i < most; ++i) {
    const SimUnit& unit = *node.log.units()[i];
    const size_t before = append.units.size();
    append.units.resize(before + UnitBytes(unit.records.size()));
    EncodeUnit(partition_, unit.View(), 0, append.units.data() + before);
    end = unit.end();
  }
  Send(node, Message{node.id, ship.to, std::move(append)});
  node.core->OnShipped(ship.to, ship.epoch, end, Local(node));
}

// -- the network

SimNode* ReplicationCluster::FindNode(const ReplicaId& id) {
  for (auto& node : nodes_) {
    if (node->id == id) return node.get();
  }
  return nullptr;
}

std::string ReplicationCluster::NameOf(const ReplicaId& id) {
  if (id.IsNil()) return "nobody";
  return fmt::format("{}{}", static_cast<char>('a' + id.hi - 1), id.lo == 0 ? "" : std::to_string(id.lo));
}

void ReplicationCluster::Send(SimNode& from, const Message& message) {
  AuditSend(from, message);
  SimNode* to = FindNode(message.to);
  if (to == nullptr) return;
  Nanos delay = Between(latency_ / 2, latency_ * 2);
  if (faults_on_) {
    if (now_ < cut_until_[from.index][to->index] || random_.Chance(drop_)) return;
    if (plot_delay_) {
      const std::optional<Nanos> more = plot_delay_(message);
      if (!more) return;
      delay += *more;
    }
    if (random_.Chance(delay_)) delay += Between(0, random_.Chance(0.2) ? 2500 * kMillisecond : 100 * kMillisecond);
    if (random_.Chance(repeat_)) Deliver(message, delay + Between(0, 1500 * kMillisecond));
  }
  Deliver(message, delay);
}

void ReplicationCluster::Deliver(const Message& message, Nanos delay) {
  SimNode* to = FindNode(message.to);
  At(delay, [this, to, message] {
    if (!to->running || to->id != message.to) return;
    OnNode(*to, 0, [this, to, message] {
      if (tells_ && !std::holds_alternative<Heartbeat>(message.body) &&
          !std::holds_alternative<HeartbeatAck>(message.body)) {
        Say("{} -> {}: {}", NameOf(message.from), NameOf(message.to), ToString(message));
      }
      const Nanos local = Local(*to);
      if (std::holds_alternative<Heartbeat>(message.body)) NoteFreshness(*to, local);
      to->core->Step(message, local);
    });
  });
}

// -- disks

void ReplicationCluster::StartSync(SimNode& node) {
  if (node.syncing || !node.running || !node.log.NeedsSync()) return;
  node.syncing = true;
  auto sync = std::make_shared<SimLog::Sync>(node.log.BeginSync());
  Nanos takes = Between(100 * kMicrosecond, 3 * kMillisecond);
  if (faults_on_) {
    takes = static_cast<Nanos>(static_cast<double>(takes) * node.disk_slow);
    takes += std::max<Nanos>(0, node.disk_hangs_until - now_);
  }
  At(takes, [this, &node, sync, boot = node.boot] {
    if (node.boot != boot) return;
    node.syncing = false;
    if (faults_on_ && random_.Chance(sync_fails_)) {
      // What a failed sync has left on the disk is unknown, so the process ends.
      Say("{} cannot write to its disk", node.name());
      ++outcome_.faults;
      Stop(node, false);
      const Nanos after = Between(kMillisecond, 500 * kMillisecond);
      At(after, [this, &node] {
        if (!node.running) Start(node, false);
      });
      return;
    }
    // The disk does not pause with the process; the completion waits.
    const bool more = node.log.EndSync(*sync);
    if (more) OnNode(node, 0, [this, &node] { node.core->OnDurable(Local(node)); });
    StartSync(node);
  });
}

void ReplicationCluster::StoreThePromise(SimNode& node, const StorePromise& store) {
  Nanos takes = Between(100 * kMicrosecond, 4 * kMillisecond);
  if (faults_on_) takes += std::max<Nanos>(0, node.disk_hangs_until - now_);
  At(takes, [this, &node, store, boot = node.boot, id = node.id] {
    if (node.boot != boot) {
      // It was under way at the crash: it happened or not.
      if (node.id == id && node.boot == boot + 1 && !node.running && random_.Chance(0.5)) {
        node.stored_promise = std::max(node.stored_promise, store.epoch);
        node.lineage = std::max(node.lineage, store.lineage);
      }
      return;
    }
    node.stored_promise = std::max(node.stored_promise, store.epoch);
    node.lineage = std::max(node.lineage, store.lineage);
    OnNode(node, 0, [this, &node, epoch = store.epoch] { node.core->OnPromiseStored(epoch, Local(node)); });
  });
}

// -- processes

void ReplicationCluster::Start(SimNode& node, bool at_once) {
  CHECK(!node.running);
  const uint64_t counter = start_counters_[static_cast<size_t>(node.index)];
  // Whoever starts here serves at once, so every start has been opened.
  NodeRecord record;
  record.starts = record.opened = counter;
  const DirectoryHistory history = JudgeDirectory(node.empty_disk ? 0 : node.start_counter, record);
  if (history == DirectoryHistory::kRestored && rules_.identity_is_judged) {
    node.id = ReplicaId{static_cast<uint64_t>(node.index) + 1, ++node.replica_number};
    node.stored_promise = 0;
    node.lineage = 0;
    node.tainted = false;
    Say("{} {}: it takes the new UUID {}", node.name(),
        node.empty_disk ? "finds an empty directory" : "has an old image", NameOf(node.id));
  }
  node.empty_disk = false;
  node.start_counter = start_counters_[static_cast<size_t>(node.index)] = std::max(counter, node.start_counter) + 1;
  ++node.boot;
  node.running = true;
  node.paused_until = 0;
  node.syncing = false;
  node.todo.clear();
  node.waiting.clear();
  node.held.clear();
  node.fresh.clear();
  node.state = SimState();
  node.log.Recover();
  node.log.on_append = [this, &node](const SimUnit& unit) {
    AuditAppend(node, unit);
    // Group commit: what is appended in this turn goes out together.
    OnNode(node, 0, [this, &node] { StartSync(node); });
  };
  node.log.on_commit = [this, &node](Lsn up_to) {
    AuditCommit(node, up_to);
    if (apply_late_ == 0) return Apply(node, up_to);
    // Pages must be fetched first. Applying goes in order, whatever the delays.
    OnNode(node, Between(0, apply_late_), [this, &node, up_to] { Apply(node, up_to); });
  };
  CoreConfig config;
  config.partition = partition_;
  config.self = node.id;
  config.incarnation = node.start_counter;
  config.seed = random_.Next();
  config.rules = rules_;
  RecoveredReplica found;
  found.promised = node.stored_promise;
  found.lineage = node.lineage;
  found.committed_lsn = std::min(std::max(node.log.mark(), node.checkpoint_lsn), node.log.durable().lsn);
  Say("{} starts: process {}, promised {}, log to {}:{}, committed {}", node.name(), node.start_counter, found.promised,
      node.log.end().epoch, node.log.end().lsn, found.committed_lsn);
  const Nanos started = at_once ? Local(node) - 3 * kSecond : Local(node);
  node.core = std::make_unique<ReplicaCore>(config, found, node.log, started);
  AuditStart(node);
  OnNode(node, Between(0, 5 * kMillisecond), [this, &node] { Tick(node); });
  if (faults_on_ && (stale_reads_ || random_.Chance(0.1)) && former_entry_.known()) {
    // A watch may begin with a value that is not current any more.
    OnNode(node, 0, [this, &node, entry = former_entry_] { node.core->OnTopology(entry, Local(node)); });
  }
  OnNode(node, kMillisecond, [this, &node] { Poll(node); });
  Audit(&node);
}

void ReplicationCluster::Stop(SimNode& node, bool power_loss) {
  if (!node.running) return;
  Say("{} {}", node.name(), power_loss ? "loses power" : "crashes");
  node.running = false;
  ++node.boot;
  node.log.Crash(random_, power_loss);
  node.core.reset();
  node.todo.clear();
  node.waiting.clear();
  node.held.clear();
  if (power_loss || random_.Chance(0.2)) return;
  // The guard has seen it.
  const Nanos late = random_.Chance(0.3) ? Between(0, 2500 * kMillisecond) : Between(kMillisecond, 20 * kMillisecond);
  for (auto& peer : nodes_) {
    if (peer.get() == &node || random_.Chance(0.1)) continue;
    Deliver(Message{node.id, peer->id, DeathNotice{node.id, node.start_counter}}, late);
  }
}

void ReplicationCluster::Tick(SimNode& node) {
  node.core->Tick(Local(node));
  OnNode(node, kTickEvery, [this, &node] { Tick(node); });
}

// -- the partition of a replica

void ReplicationCluster::Apply(SimNode& node, Lsn up_to) {
  const auto& units = node.log.units();
  for (size_t i = node.log.IndexAfter(node.state.applied.lsn); i < units.size() && units[i]->last_lsn() <= up_to; ++i) {
    ApplyUnit(node, *units[i]);
    while (!node.waiting.empty() && node.waiting.front().unit->last_lsn() <= node.state.applied.lsn) {
      SimNode::Waiting first = std::move(node.waiting.front());
      node.waiting.pop_front();
      const bool is_it = first.unit == units[i];
      const auto command = SimCommand::Decode(first.unit->records);
      first.reply(is_it, command ? node.state.lanes[command->client].number : 0);
    }
  }
  node.log.SetApplied(node.state.applied.lsn);
  if (faults_on_ && random_.Chance(0.1)) {
    node.checkpoint_lsn = rules_.checkpoint_is_applied ? node.state.applied.lsn : node.log.durable().lsn;
  }
}

void ReplicationCluster::ApplyUnit(SimNode& node, const SimUnit& unit) {
  SimState& state = node.state;
  state.applied = unit.end();
  if (const auto command = SimCommand::Decode(unit.records)) {
    SimState::Lane& lane = state.lanes[command->client];
    if (command->sequence > lane.sequence || !rules_.once_is_judged_at_apply) {
      lane = {command->sequence, 0};
      if (!state.effects.emplace(command->client, command->sequence).second) {
        Violated(fmt::format("I11: {} applies write {} of client {} twice", node.name(), command->sequence,
                             command->client));
      }
      auto& value = state.values[command->key];
      const auto hash = [&] { return value.empty() ? 0 : Hash64(value, Hash64(command->key)); };
      state.content_hash -= hash();
      if (command->add) {
        lane.number = (value.empty() ? 0 : std::stoll(value)) + command->delta;
        value = std::to_string(lane.number);
      } else {
        value = command->value;
      }
      state.content_hash += hash();
    }
  }
  const auto [at, is_new] = contents_.emplace(unit.chain_after, state.content_hash);
  if (!is_new && at->second != state.content_hash) {
    Violated(fmt::format("I12: {} has other contents at LSN {} than another replica with the same chain", node.name(),
                         unit.last_lsn()));
  }
}

// -- clocks

Nanos ReplicationCluster::Local(SimNode& node) {
  const Nanos local =
      node.clock_local + static_cast<Nanos>(static_cast<double>(now_ - node.clock_true) * node.clock_rate);
  return node.clock_last = std::max(node.clock_last, local);
}

// Forward at once; backward the clock stands still for as long.
void ReplicationCluster::MoveClock(SimNode& node, Nanos by) {
  node.clock_local = Local(node);
  node.clock_true = now_;
  node.clock_local += by;
}

}  // namespace pando::replication
