// The world around the replicas of ReplicationCluster: topology, clients, faults, and the phases of a run.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "tests/sim/replication_cluster.h"
#include "tests/support/linearizability.h"

namespace pando::replication {
namespace {

constexpr Nanos kFaultsFrom = 300 * kMillisecond;
constexpr Nanos kFaultsFor = 4500 * kMillisecond;
constexpr Nanos kHealsWithin = 20 * kSecond;  // I13
constexpr int kDone = 0, kRefused = 1, kUnknown = 2;

}  // namespace

SimOutcome RunReplication(uint64_t seed, const SimRules& rules, bool tell_story) {
  return ReplicationCluster(seed, rules, tell_story).Run();
}

ReplicationCluster::ReplicationCluster(uint64_t seed, const SimRules& rules, bool tell_story)
    : seed_(seed), rules_(rules), tells_(tell_story), random_(seed * 0x9e3779b97f4a7c15ull + 1) {
  static constexpr int kSizes[] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 4, 4, 5, 5, 1};
  const int size = kSizes[random_.Below(std::size(kSizes))];
  for (int i = 0; i < size; ++i) {
    SimNode& node = *nodes_.emplace_back(std::make_unique<SimNode>());
    node.index = i;
    node.id = ReplicaId{static_cast<uint64_t>(i) + 1, 0};
    node.clock_local = node.clock_last = 10 * kSecond + Between(0, 50 * kSecond);
    node.clock_rate = 1 + static_cast<double>(Between(-10'000, 10'000)) / 1e6;
    node.lineage = 1;
    entry_.isr.Insert(node.id);
  }
  entry_.assigned = entry_.isr;
  entry_.replicas = static_cast<uint32_t>(size);
  entry_.min_isr = static_cast<uint32_t>(size) / 2 + 1;
  if (random_.Chance(0.35)) entry_.min_isr = random_.Chance(0.5) ? 1 : static_cast<uint32_t>(Between(1, size));
  entry_.epoch = entry_.revision = entry_.lineage = 1;
  entry_.master = nodes_[0]->id;
  start_counters_.assign(nodes_.size(), 0);
  for (int i = 0; i < 3; ++i)
    clients_.push_back({.index = i, .target = static_cast<int>(random_.Below(size)), .command = {}});
  think_ = Between(8, 60) * kMillisecond;
  latency_ = Between(100, 900) * kMicrosecond;
  PlanSplit();
  if (random_.Chance(0.4)) apply_late_ = random_.Chance(0.7) ? 5 * kMillisecond : Between(10, 300) * kMillisecond;
}

SimOutcome ReplicationCluster::Run() {
  Say("seed {}: {} replicas, {}", seed_, nodes_.size(), EntryText(entry_));
  for (auto& node : nodes_) Start(*node, true);
  At(50 * kMillisecond, [this] { Operate(); });
  clients_on_ = true;
  for (Client& client : clients_) At(Between(0, think_), [this, &client] { ClientNext(client); });
  At(kFaultsFrom, [this] { PlanFaults(); });
  const Nanos heal_at = kFaultsFrom + kFaultsFor;
  At(heal_at, [this] { Heal(); });
  At(heal_at + kHealsWithin, [this] {
    Violated(fmt::format("I13: {} s after all faults the partition is not whole: {}", kHealsWithin / kSecond,
                         EntryText(entry_)));
  });
  bool healed = false;
  Nanos next_look = heal_at, stop_at = 0;
  while (outcome_.violation.empty() && !events_.empty()) {
    Event event = events_.top();
    events_.pop();
    now_ = event.at;
    ++outcome_.events;
    event.run();
    if (!healed && now_ >= next_look) {
      next_look = now_ + 20 * kMillisecond;
      healed = now_ > heal_at && Healed();
      if (healed) {
        Say("all replicas are in sync again");
        stop_at = now_ + 300 * kMillisecond;
      }
    }
    if (healed && now_ >= stop_at) break;
  }
  if (!outcome_.violation.empty()) return std::move(outcome_);
  const Linearizability judged = CheckLinearizable(history_, {.max_configurations = 20'000});
  if (judged.verdict == Linearizability::Verdict::kTooWide) ++outcome_.too_wide;
  if (judged.verdict == Linearizability::Verdict::kNo) Violated("history: " + judged.why);
  return std::move(outcome_);
}

bool ReplicationCluster::Healed() {
  if (entry_.retired()) return HasEnded();
  if (entry_.isr.size() != entry_.replicas || entry_.isr.size() < nodes_.size()) return false;
  for (auto& node : nodes_) {
    if (!node->running || !entry_.isr.Contains(node->id)) return false;
  }
  SimNode& master = *FindNode(entry_.master);
  const auto mastership = master.core->Serving();
  return mastership && mastership->epoch == entry_.epoch && master.core->LeaseHolds(*mastership, Local(master)) &&
         master.core->AcceptsWrites(Local(master)) && master.core->commit_lsn() == master.log.end().lsn;
}

// -- the topology

std::string ReplicationCluster::EntryText(const PartitionEntry& entry) {
  const auto names = [this](const ReplicaSet& set) {
    std::string text;
    for (const ReplicaId& id : set) text += NameOf(id) + " ";
    return text;
  };
  static constexpr std::string_view kStages[] = {"", ", building", ", retired"};
  return fmt::format("revision {}, epoch {}, master {}, ISR {}of assigned {}, learners {}, min_isr {}{}{}{}",
                     entry.revision, entry.epoch, NameOf(entry.master), names(entry.isr), names(entry.assigned),
                     names(entry.learners), entry.min_isr, kStages[static_cast<size_t>(entry.stage)],
                     entry.split ? ", being split" : "",
                     entry.opened_lsn != 0 ? fmt::format(", opened at LSN {}", entry.opened_lsn) : "");
}

void ReplicationCluster::Land(const PartitionEntry& desired, CasOutcome* outcome) {
  if (faults_on_ && now_ < topology_down_until_) return;
  if (desired.revision != entry_.revision) {
    // The same proposal may have landed before.
    *outcome = desired.op_id == entry_.op_id ? CasOutcome::kApplied : CasOutcome::kConflict;
    return;
  }
  const PartitionEntry before = former_entry_ = std::exchange(entry_, desired);
  ++entry_.revision;
  *outcome = CasOutcome::kApplied;
  Say("topology: {}", EntryText(entry_));
  AuditLanding(before, entry_);
  Audit(nullptr);
  Publish();
}

void ReplicationCluster::Cas(SimNode& node, const PartitionEntry& desired) {
  Say("{} proposes: {}", node.name(), EntryText(desired));
  AuditHandover(node, desired);
  AuditRetiring(node, desired);
  auto outcome = std::make_shared<CasOutcome>(CasOutcome::kUnknown);
  auto current = std::make_shared<PartitionEntry>();
  Nanos there = Between(500 * kMicrosecond, 4 * kMillisecond);
  if (faults_on_ && random_.Chance(cas_late_)) there = Between(100 * kMillisecond, 1500 * kMillisecond);
  bool answer_lost = faults_on_ && random_.Chance(cas_lost_);
  if (faults_on_ && plot_cas_) plot_cas_(desired, &there, &answer_lost);
  const bool lost = !ReachesTopology(node) || (faults_on_ && random_.Chance(cas_lost_ / 2));
  if (!lost) {
    At(there, [this, desired, outcome, current] {
      Land(desired, outcome.get());
      *current = entry_;
    });
  }
  const Nanos back = there + Between(500 * kMicrosecond, 3 * kMillisecond);
  const Nanos limit = 300 * kMillisecond;
  OnNode(node, std::min(back, limit), [this, &node, outcome, current, answer_lost, op = desired.op_id] {
    const CasOutcome known = answer_lost ? CasOutcome::kUnknown : *outcome;
    if (known == CasOutcome::kUnknown) {
      ++outcome_.cas_in_doubt;
      Say("{} gets no answer to its proposal", node.name());
    }
    node.core->OnCasDone(op, known, *current, Local(node));
  });
}

bool ReplicationCluster::ReachesTopology(const SimNode& node) const {
  return !faults_on_ || (now_ >= topology_down_until_ && now_ >= node.no_topology_until);
}

void ReplicationCluster::Read(SimNode& node) {
  At(Between(300 * kMicrosecond, 3 * kMillisecond), [this, &node, boot = node.boot] {
    if (node.boot != boot || !ReachesTopology(node)) return;
    OnNode(node, Between(300 * kMicrosecond, 3 * kMillisecond),
           [this, &node, entry = entry_] { node.core->OnTopology(entry, Local(node)); });
  });
}

void ReplicationCluster::Publish() {
  for (auto& node : nodes_) {
    if (!node->running || !ReachesTopology(*node) || (faults_on_ && random_.Chance(0.1))) continue;
    const Nanos delay =
        faults_on_ && random_.Chance(0.1) ? Between(0, 800 * kMillisecond) : Between(kMillisecond, 5 * kMillisecond);
    OnNode(*node, delay, [this, &n = *node, entry = entry_] { n.core->OnTopology(entry, Local(n)); });
  }
}

void ReplicationCluster::Poll(SimNode& node) {
  Read(node);
  OnNode(node, kSecond, [this, &node] { Poll(node); });
}

// Gives replicas with a new UUID a place, instead of those whose disk is gone.
void ReplicationCluster::Operate() {
  At(100 * kMillisecond, [this] { Operate(); });
  SimNode* master = FindNode(entry_.master);
  if (master == nullptr || !master->running || now_ < master->paused_until || !master->core->leader().active()) return;
  for (auto& node : nodes_) {
    if (!node->running || entry_.assigned.Contains(node->id) || entry_.learners.Contains(node->id)) continue;
    // One that has not read of its end yet does not ask for a place.
    if (node->core->entry().lineage != entry_.lineage) continue;
    std::optional<ReplicaId> leaves;
    for (const ReplicaId& id : entry_.assigned.Union(entry_.learners)) {
      if (FindNode(id) == nullptr && !entry_.isr.Contains(id)) leaves = id;
    }
    OnNode(*master, 0, [this, master, id = node->id, leaves] { master->core->Assign(id, leaves, Local(*master)); });
    return;
  }
}

// -- clients

void ReplicationCluster::ClientNext(Client& client) {
  if (!clients_on_) return;
  Operation op;
  op.client = client.index + 1;
  const bool numbers = random_.Chance(0.4);
  op.key = numbers ? "n" : "x";
  client.writes = random_.Chance(0.55);
  client.may_have_happened = client.repeats = false;
  client.tries = 0;
  if (!client.writes) {
    op.kind = Operation::Kind::kGet;
    client.command = {.client = client.index, .key = op.key, .value = ""};
  } else {
    client.command = {
        .client = client.index, .sequence = ++client.sequence, .add = numbers, .key = op.key, .value = ""};
    if (numbers) {
      op.kind = Operation::Kind::kAdd;
      op.delta = client.command.delta = static_cast<int64_t>(1 + random_.Below(9));
    } else {
      op.kind = Operation::Kind::kPut;
      op.value = client.command.value = std::to_string(next_value_++);
    }
    client.repeats = random_.Chance(0.6);
  }
  client.op = history_.Begin(op, now_);
  ClientSend(client);
}

void ReplicationCluster::ClientSend(Client& client) {
  const uint64_t attempt = ++client.attempt;
  ++client.tries;
  SimNode& node = *nodes_[static_cast<size_t>(client.target)];
  // A request that was held up carries what it was sent with.
  const auto serve = [this, &node, &client, attempt, writes = client.writes, command = client.command] {
    OnNode(node, 0, [this, &node, &client, attempt, writes, command] {
      if (client.attempt != attempt) {
        if (!writes) return;
        ++outcome_.late;
      }
      writes ? ServeWrite(node, client, attempt, command) : ServeRead(node, client, attempt);
    });
  };
  Nanos delay = Between(latency_ / 2, 2 * latency_);
  if (faults_on_ && random_.Chance(request_late_)) delay += Between(0, 2500 * kMillisecond);
  At(delay, serve);
  At(Between(200, 500) * kMillisecond, [this, &client, attempt] { Answer(client, attempt, kUnknown, {}, 0); });
}

void ReplicationCluster::ServeWrite(SimNode& node, Client& client, uint64_t attempt, const SimCommand& command) {
  ReplicaCore& core = *node.core;
  const WriteVerdict verdict = core.JudgeWrite(WriteLevel::kQuorum, 1, Local(node));
  if (verdict == WriteVerdict::kHandingOver) {
    ++outcome_.held;
    node.held.push_back([this, &node, &client, attempt, command] { ServeWrite(node, client, attempt, command); });
    return;
  }
  if (verdict != WriteVerdict::kAccepted) {
    At(latency_, [this, &client, attempt] { Answer(client, attempt, kRefused, {}, 0); });
    return;
  }
  if (const auto& lane = node.state.lanes[command.client];
      !rules_.once_is_judged_at_apply && lane.sequence >= command.sequence) {
    At(latency_, [this, &client, attempt, number = lane.number] { Answer(client, attempt, kDone, {}, number); });
    return;
  }
  // One of an older epoch commits nothing.
  if (core.leader().epoch() >= entry_.epoch) AuditServing(node, "takes a write");
  const uint32_t records = random_.Chance(0.2) ? 2 : 1;
  UnitPtr unit = node.log.AppendOwn(core.leader().epoch(), records, command.Encode());
  Token& token = tokens_[next_token_++ % tokens_.size()];
  token = {unit->end(), false};
  node.waiting.push_back(
      {unit, [this, &node, &client, attempt, &token, point = unit->end()](bool known, int64_t number) {
         if (known) AuditServing(node, "acknowledges a write");
         if (token.point.chain == point.chain) token.acknowledged = known;
         At(latency_,
            [this, &client, attempt, known, number] { Answer(client, attempt, known ? kDone : kUnknown, {}, number); });
       }});
  core.OnAppended(Local(node));
}

void ReplicationCluster::AnswerHeld(SimNode& node) {
  std::vector<std::function<void()>> held = std::exchange(node.held, {});
  for (const auto& serve : held) serve();
}

// Also killed half-way, and two at once.
void ReplicationCluster::BeginHandover() {
  SimNode* master = FindNode(entry_.master);
  if (master == nullptr || !master->running) return;
  SimNode* target = FindNode(*(entry_.isr.begin() + random_.Below(entry_.isr.size())));
  if (target == nullptr) return;
  const Nanos within = random_.Chance(0.3) ? Between(kMillisecond, 40 * kMillisecond) : 800 * kMillisecond;
  OnNode(*master, 0, [this, master, id = target->id, within] {
    const Nanos now = Local(*master);
    const bool begun = master->core->Handover(id, now, now + within);
    Say("{} is asked to hand over to {}{}", master->name(), NameOf(id), begun ? "" : ", and cannot");
  });
  if (random_.Chance(0.2)) At(Between(0, 5 * kMillisecond), [this] { BeginHandover(); });
  if (!random_.Chance(0.4)) return;
  SimNode* dies = random_.Chance(0.5) ? master : target;
  At(Between(0, 12 * kMillisecond), [this, dies] {
    Stop(*dies, random_.Chance(0.3));
    At(Between(kMillisecond, 800 * kMillisecond), [this, dies] {
      if (!dies->running) Start(*dies, false);
    });
  });
}

// The snapshot, then the look at the clock, then the answer. The process may stop in between.
void ReplicationCluster::ServeRead(SimNode& node, Client& client, uint64_t attempt) {
  const auto refuse = [this, &client, attempt] {
    At(latency_, [this, &client, attempt] { Answer(client, attempt, kRefused, {}, 0); });
  };
  const auto mastership = node.core->Serving();
  if (!mastership || !node.core->Serves()) return refuse();
  std::optional<std::string> seen;
  if (const auto at = node.state.values.find(client.command.key); at != node.state.values.end()) seen = at->second;
  node.core->OnAppended(Local(node));  // the turn has read the clock, and tells the core
  if (faults_on_ && random_.Chance(3 * pause_in_turn_)) {
    node.paused_until = now_ + Between(100 * kMillisecond, 2500 * kMillisecond);
    Say("{} stops between a snapshot and its look at the lease, for {} ms", node.name(),
        (node.paused_until - now_) / kMillisecond);
  }
  OnNode(node, 0, [this, &node, &client, attempt, mastership, seen, refuse] {
    if (!node.core->LeaseHolds(*mastership, Local(node))) return refuse();
    AuditServing(node, "answers a read");
    At(latency_, [this, &client, attempt, seen] { Answer(client, attempt, kDone, seen, 0); });
  });
}

void ReplicationCluster::Answer(Client& client, uint64_t attempt, int outcome, std::optional<std::string> seen,
                                int64_t number) {
  if (client.attempt != attempt) return;
  ++client.attempt;
  Operation& op = history_.operation(client.op);
  if (outcome == kDone) {
    op.seen = std::move(seen);
    op.number = number;
    client.writes ? ++outcome_.acknowledged : ++outcome_.reads;
    return ClientEnd(client, true);
  }
  client.target = random_.Chance(0.5) && FindNode(entry_.master) != nullptr
                      ? FindNode(entry_.master)->index
                      : static_cast<int>(random_.Below(nodes_.size()));
  if (outcome == kUnknown) client.may_have_happened = true;
  if (client.writes && client.may_have_happened && (!client.repeats || client.tries > 12))
    return ClientEnd(client, false);
  if (client.tries > 30) return ClientEnd(client, false);
  At(Between(5 * kMillisecond, 25 * kMillisecond), [this, &client] { ClientSend(client); });
}

void ReplicationCluster::ClientEnd(Client& client, bool finished) {
  if (finished) {
    history_.Finish(client.op, now_);
  } else if (!client.writes || !client.may_have_happened) {
    history_.Forget(client.op);
  }
  if (tells_) Say("{}", history_.operation(client.op).ToString());
  At(Between(think_ / 2, think_ * 2), [this, &client] { ClientNext(client); });
}

// -- faults

void ReplicationCluster::PlanFaults() {
  faults_on_ = true;
  const auto some = [this](double chance, double most) {
    return random_.Chance(chance) ? most * static_cast<double>(random_.Below(100)) / 100 : 0;
  };
  drop_ = some(0.4, 0.1);
  repeat_ = some(0.5, 0.1);
  delay_ = some(0.5, 0.1);
  pause_in_turn_ = some(0.4, 0.002);
  cas_lost_ = some(0.5, 0.5);
  cas_late_ = some(0.5, 0.5);
  sync_fails_ = some(0.2, 0.004);
  request_late_ = some(0.5, 0.2);
  PlanForce();
  for (auto& node : nodes_) node->disk_slow = random_.Chance(0.2) ? static_cast<double>(Between(2, 60)) : 1;
  if (random_.Chance(0.3)) {
    // Nothing else disturbs a plot.
    drop_ = repeat_ = delay_ = pause_in_turn_ = cas_lost_ = cas_late_ = sync_fails_ = 0;
    At(Between(0, 800 * kMillisecond), [this] { Plot(); });
    return;
  }
  const uint64_t count = 2 + random_.Below(8);
  for (uint64_t i = 0; i < count; ++i) At(Between(0, kFaultsFor - 200 * kMillisecond), [this] { Fault(); });
}

// A disk may be lost if the partition can live without it: who is left can win a promotion, and holds all.
bool ReplicationCluster::MayLoseDisk(const SimNode& lost) {
  size_t voters = 0;
  if (now_ < forcing_until_) return false;
  for (const ReplicaId& id : entry_.assigned) voters += FindNode(id) != nullptr && id != lost.id;
  // Proposals on their way may make the ISR one that the lost replica is the last of.
  for (auto& node : nodes_) {
    if (node->tainted || (node.get() != &lost && !entry_.isr.Contains(node->id))) return false;
  }
  return voters >= entry_.min_isr && entry_.min_isr >= 2;
}

void ReplicationCluster::Fault() {
  if (!faults_on_) return;
  ++outcome_.faults;
  SimNode& node = *nodes_[random_.Below(nodes_.size())];
  SimNode& other = *nodes_[random_.Below(nodes_.size())];
  SimNode* master = FindNode(entry_.master);
  SimNode& one = random_.Chance(0.4) && master != nullptr ? *master : node;
  const auto again = [this](SimNode& n, Nanos after) {
    At(after, [this, &n] {
      if (!n.running) Start(n, false);
    });
  };
  const Nanos soon = random_.Chance(0.5) ? Between(kMillisecond, 100 * kMillisecond)
                                         : Between(100 * kMillisecond, 2500 * kMillisecond);
  switch (random_.Below(17)) {
    case 13:
    case 14:
    case 15: BeginHandover(); break;
    case 16:
      one.disk_hangs_until = now_ + soon + 700 * kMillisecond;
      ++outcome_.stalls;
      Say("the disk of {} hangs for {} ms", one.name(), (one.disk_hangs_until - now_) / kMillisecond);
      break;
    case 0:
    case 1:
      Stop(one, false);
      again(one, soon);
      break;
    case 2:
      Stop(one, true);
      again(one, soon);
      break;
    case 3:
      for (auto& n : nodes_) {
        Stop(*n, true);
        again(*n, Between(kMillisecond, 500 * kMillisecond));
      }
      break;
    case 4:
      one.paused_until = std::max(one.paused_until, now_ + soon);
      Say("{} is paused for {} ms", one.name(), soon / kMillisecond);
      break;
    case 5:
      cut_until_[one.index][other.index] = now_ + soon + 500 * kMillisecond;
      Say("{} no longer reaches {}", one.name(), other.name());
      break;
    case 6:
      for (auto& n : nodes_) {
        cut_until_[one.index][n->index] = now_ + soon + 500 * kMillisecond;
        if (random_.Chance(0.7)) cut_until_[n->index][one.index] = now_ + soon + 500 * kMillisecond;
      }
      Say("{} is cut off", one.name());
      break;
    case 7:
      if (random_.Chance(0.6)) {
        one.no_topology_until = now_ + soon + kSecond;
        Say("{} does not reach the topology", one.name());
        break;
      }
      topology_down_until_ = now_ + soon;
      Say("the topology is down for {} ms", soon / kMillisecond);
      break;
    case 8:
      for (auto& n : nodes_) MoveClock(*n, random_.Chance(0.5) ? 20 * kMillisecond : -20 * kMillisecond);
      break;
    case 9: one.disk_slow = static_cast<double>(random_.Chance(0.5) ? Between(50, 400) : 1); break;
    case 10:
      // Taken while the node is down: the next start raises its counter.
      Stop(one, false);
      one.image = SimNode::Image{one.log.disk(),     one.log.mark(),    one.checkpoint_lsn,
                                 one.stored_promise, one.start_counter, one.id};
      again(one, Between(kMillisecond, 50 * kMillisecond));
      break;
    case 12:
      // A master that is alone, and hears nothing of its end for a while.
      one.no_topology_until = now_ + soon + 1500 * kMillisecond;
      if (random_.Chance(0.5)) {
        one.paused_until = std::max(one.paused_until, now_ + soon);
      } else {
        for (auto& n : nodes_) cut_until_[one.index][n->index] = now_ + soon;
      }
      Say("{} does not reach the topology, and is paused or heard by nobody for {} ms", one.name(),
          soon / kMillisecond);
      break;
    case 11:
      if (!MayLoseDisk(one)) break;
      Stop(one, true);
      if (one.image && one.image->counter < start_counters_[static_cast<size_t>(one.index)] && random_.Chance(0.6)) {
        Say("{} gets an old image of its disk", one.name());
        one.log.PutDisk(one.image->disk, one.image->mark);
        one.checkpoint_lsn = one.image->checkpoint;
        one.stored_promise = one.image->promise;
        one.start_counter = one.image->counter;
      } else {
        Say("{} gets an empty disk", one.name());
        one.log.PutDisk({}, 0);
        one.checkpoint_lsn = 0;
        one.stored_promise = 0;
        one.empty_disk = true;
      }
      one.tainted = true;
      again(one, Between(kMillisecond, 300 * kMillisecond));
      break;
  }
}

void ReplicationCluster::Heal() {
  Say("all faults end");
  faults_on_ = false;
  for (auto& node : nodes_) {
    node->disk_slow = 1;
    if (!node->running) Start(*node, false);
  }
}

}  // namespace pando::replication
