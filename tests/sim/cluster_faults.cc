// The clients and the faults of ClusterWorld.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/node/guard.h"
#include "tests/sim/cluster_world.h"

namespace pando {
namespace {

constexpr Nanos kCallWithin = 3 * kSecond;
constexpr Nanos kLoyalCallWithin = 300 * kMillisecond;  // a write that cannot commit must not keep it from reading
constexpr Nanos kAdmittedWithin = 1500 * kMillisecond;
constexpr int kKeysOfPartition = 3;
constexpr int64_t kExpiresMs = 700;
constexpr Nanos kTravelMin = 50 * kMicrosecond, kTravelMax = kMillisecond;

}  // namespace

// -- clients

std::string ClusterWorld::KeyOf(char kind, uint32_t partition, uint64_t i) const {
  StoreInfo store;
  store.ranges = partitions_;
  for (int n = 0;; ++n) {
    std::string key = fmt::format("{}{}-{}", kind, i, n);
    if (store.PartitionOf(key) == partition) return key;
  }
}

bool ClusterWorld::IsLoyal(const Client& client) const { return client.index >= kClients; }

Operation ClusterWorld::RandomOperation(Client& client) {
  Operation op;
  op.client = client.index;
  const bool plots = IsLoyal(client) || (plot_goes_on_ && random_.Chance(0.7));
  const auto partition = plots ? plot_partition_ : static_cast<uint32_t>(random_.Below(partitions_));
  const uint64_t choice = IsLoyal(client) && random_.Chance(0.7) ? 0 : random_.Below(100);
  if (random_.Chance(0.2)) {
    op.key = KeyOf('n', partition, 1);
    op.kind = choice < 35 ? Operation::Kind::kGet : Operation::Kind::kAdd;
    op.delta = 1;
    return op;
  }
  op.key = KeyOf('k', partition, random_.Below(kKeysOfPartition));
  op.value = fmt::format("{}", ++values_) + std::string(random_.Below(static_cast<uint64_t>(value_bytes_) + 1), '.');
  if (choice < 45) {
    op.kind = Operation::Kind::kGet;
  } else if (choice < 75) {
    op.kind = Operation::Kind::kPut;
  } else if (choice < 92 && client.last_key == op.key) {
    op.kind = Operation::Kind::kSwap;
    op.expected = client.last_seen;
  } else if (choice < 92) {
    op.kind = Operation::Kind::kPut;
  } else {
    op.kind = Operation::Kind::kRemove;
  }
  return op;
}

// A request has come to a node and is looked at.
void ClusterWorld::CountRequest(const Node& node, const Call& call) {
  const replication::ReplicaCore* core = CoreOf(node, call.partition);
  if (call.level || core == nullptr || !core->Serving() ||
      core->leader().epoch() >= Record(call.partition).record.epoch)
    return;
  ++(call.op.kind == Operation::Kind::kGet ? counts_.reads_at_old_master : counts_.writes_at_old_master);
}

void ClusterWorld::ClientNext(Client& client) {
  if (!clients_on_) return;
  if (IsLoyal(client) && loyal_to_ == nullptr) {
    return At(20 * kMillisecond, [this, &client] { ClientNext(client); });
  }
  auto call = std::make_shared<Call>();
  call->op = RandomOperation(client);
  if (random_.Chance(0.15) && !IsLoyal(client)) {
    call->expires = true;
    call->op.kind = Operation::Kind::kPut;
    call->op.key = fmt::format("e{}", random_.Below(200));
    call->op.value = std::string(random_.Below(6000), 'e');
  }
  StoreInfo store;
  store.ranges = partitions_;
  if (!call->expires && random_.Chance(IsLoyal(client) ? 0.2 : 0.35)) {
    call->level = RandomLevelRequest(client, store.PartitionOf(call->op.key));
    call->op.key = call->level->key;
  }
  call->partition = store.PartitionOf(call->op.key);
  const auto serves = [](const Node* n) { return n != nullptr && n->state == State::kUp && n->member->serving(); };
  const bool anywhere = call->level && call->level->kind != LevelRequest::Kind::kWrite;
  Node* any = &AnyNode();
  Node*& target = anywhere ? any : client.targets[call->partition];
  if (IsLoyal(client) && !anywhere) {
    target = loyal_to_;
  } else if (!serves(target)) {
    target = &AnyNode();
  }
  if (!serves(target)) return At(10 * kMillisecond, [this, &client] { ClientNext(client); });
  call->node = target;
  call->life = target->life;
  if (call->level) {
    LevelRequest& request = *call->level;
    request.invoked_ns = kernel_.now_ns();
    request.after = client.session.token.At(call->partition);
    request.floor = client.session.seen[request.key];
    levels_.Begin(request);
  } else if (!call->expires) {
    call->history = history_.Begin(call->op, kernel_.now_ns());
  }
  client.call = call;
  ++calls_open_;
  counts_.sent_while_paused += target->paused_until_ns > kernel_.now_ns();
  call->node->member->calls().Spawn(RunCall(this, &client, call->node->member, call));
  At(IsLoyal(client) ? kLoyalCallWithin : kCallWithin,
     [this, &client, call] { Answered(client, call, Code::kAborted); });
}

Task<void> ClusterWorld::RunCall(ClusterWorld* world, Client* client, ClusterMember* member,
                                 std::shared_ptr<Call> call) {
  SimReactor& reactor = member->reactor();
  co_await Sleep(reactor, world->Between(kTravelMin, kTravelMax));
  Code code = Code::kUnavailable;
  Operation& op = call->op;
  if (member->serving() && !call->over) world->CountRequest(*call->node, *call);
  if (!member->serving()) {
  } else if (call->level) {
    Task<Code> run = RunLevelRequest(member, call->partition, &*call->level);
    code = co_await run;
    if (code == Code::kOk) world->LookAtAllReplicas(*call);
  } else if (op.kind == Operation::Kind::kGet) {
    Result<ReadResult> read = co_await member->place(call->partition)->Get(op.key, kNewest, nullptr);
    code = read.code();
    if (read.ok() && read->found) op.seen = read->value;
  } else {
    std::vector<WriteOp> ops(1);
    WriteOp& write = ops[0];
    write.key = op.key;
    write.value = op.value;
    switch (op.kind) {
      case Operation::Kind::kRemove: write.op = RecordOp::kRemove; break;
      case Operation::Kind::kAdd:
        write.op = RecordOp::kIncrement;
        write.delta = op.delta;
        write.value.clear();
        break;
      default: write.op = RecordOp::kPut;
    }
    if (op.kind == Operation::Kind::kRemove) write.value.clear();
    if (op.kind == Operation::Kind::kSwap) {
      write.condition.value = op.expected;
      if (!op.expected) write.condition.exists = false;
    }
    if (call->expires) {
      write.ttl_mode = TtlMode::kSet;
      write.ttl_ms = kExpiresMs;
    }
    WriteControl control;
    control.deadline_ns = reactor.NowNs() + kAdmittedWithin;
    WriteOptions options;
    options.control = &control;
    Result<std::vector<OpResult>> done = co_await member->place(call->partition)->Write(std::move(ops), options);
    code = done.code();
    if (done.ok()) {
      const OpResult& result = done->front();
      op.refused = result.outcome == OpOutcome::kConditionFailed;
      if (op.refused && result.current.found) op.seen = result.current.value;
      op.existed = result.existed;
      op.number = result.number;
    }
  }
  // The answer leaves when the machine acts (K4), if it still runs then.
  world->kernel_.At(reactor.ActsAtNs(), SimKernel::kNoBoot, [world, client, call, code] {
    if (call->node->life != call->life || call->node->state == State::kDown) return;
    world->At(world->Between(kTravelMin, kTravelMax),
              [world, client, call, code] { world->Answered(*client, call, code); });
  });
}

void ClusterWorld::Answered(Client& client, const std::shared_ptr<Call>& call, Code code) {
  if (std::exchange(call->over, true)) return;
  --calls_open_;
  const bool read =
      call->level ? call->level->kind != LevelRequest::Kind::kWrite : call->op.kind == Operation::Kind::kGet;
  const bool ok = code == Code::kOk;
  Node*& target = client.targets[call->partition];
  if (!ok && target == call->node) target = nullptr;
  if (call->level) LevelAnswered(client, *call, code);
  plot_writes_ += ok && !read && call->partition == plot_partition_ && call->node != loyal_to_;
  if (ok) {
    ++counts_.done;
    counts_.judged += !call->expires;
  } else if (read || code != Code::kAborted) {
    ++counts_.refused;
  } else {
    ++counts_.unknown;
  }
  if (!call->expires && !call->level) {
    Operation& recorded = history_.operation(call->history);
    if (ok) {
      recorded.refused = call->op.refused;
      recorded.seen = call->op.seen;
      if (recorded.kind == Operation::Kind::kRemove) recorded.existed = call->op.existed;
      recorded.number = call->op.number;
      client.last_key = recorded.key;
      client.last_seen =
          read || recorded.refused
              ? recorded.seen
              : (recorded.kind == Operation::Kind::kRemove ? std::nullopt : std::optional<std::string>(recorded.value));
      history_.Finish(call->history, kernel_.now_ns());
      if (!read && call->partition == 0) write_ns_.push_back(kernel_.now_ns() - recorded.invoked_ns);
    } else if (read || code != Code::kAborted) {
      history_.Forget(call->history);
    }
  }
  At(Between(0, ok && !IsLoyal(client) ? think_ns_ : 20 * kMillisecond), [this, &client] { ClientNext(client); });
}

// -- faults

void ClusterWorld::NextFault() {
  if (!faults_on_) return;
  ++counts_.faults;
  OneFault();
  // A plot needs some peace.
  const Nanos most = plot_goes_on_ ? 3 * kSecond : 900 * kMillisecond;
  At(Between(20 * kMillisecond, most), [this] { NextFault(); });
}

void ClusterWorld::OneFault() {
  Node& node = AnyNode();
  Node& other = AnyNode();
  switch (options_.calm ? 13 : random_.Below(17)) {
    case 0:
    case 1: return Crash(node, false);
    case 2: return Crash(node, true);
    case 3: return BeginStop(node);
    case 4: {
      const Nanos for_ns = Between(kMillisecond, 3 * kSecond);
      Say("{} is paused for {} ms", node.name(), for_ns / kMillisecond);
      node.paused_until_ns = kernel_.now_ns() + for_ns;
      if (random_.Chance(0.5)) return node.machine->Pause(for_ns);
      return node.machine->PauseInTurn(for_ns, random_.Below(300));
    }
    case 5: {
      const int64_t ppm = random_.Between(-14'000, 14'000);
      Say("the clock of {} runs at {:+} ppm", node.name(), ppm);
      node.machine->SetClockRate(ppm);
      if (random_.Chance(0.3)) node.machine->JumpWallClock(random_.Between(-5000, 5000));
      return;
    }
    case 6:
    case 7:
    case 8: return NetworkFault(node, other);
    case 9:
    case 10: return DiskFaultOf(node);
    case 11:
    case 12: return TopologyFault(node);
    case 13:
    case 14:
      if (node.state == State::kUp && node.member->serving()) {
        const auto partition = static_cast<uint32_t>(random_.Below(partitions_));
        node.member->calls().Spawn(RunHandover(this, node.member, partition));
      }
      return;
    case 15: return LoseDisk(node);
    default:
      if (node.state == State::kUp && node.member->serving()) {
        Say("the connections between {} and {} are reset", node.name(), other.name());
        kernel_.network().ResetConnections(node.machine->host(), other.machine->host());
      }
  }
}

Task<void> ClusterWorld::RunHandover(ClusterWorld* world, ClusterMember* member, uint32_t partition) {
  co_await Sleep(member->reactor(), kMicrosecond);
  if (!member->serving()) co_return;
  Result<replication::HandoverResult> done = co_await member->host()->HandOver(partition, 0, /*epoch=*/0, kSecond);
  if (done.code() == Code::kNotMaster) co_return;
  world->counts_.handovers += done.ok();
  world->Say("partition {}: a handover: {}", partition, done.ok() ? "done" : done.status().ToString());
}

void ClusterWorld::NetworkFault(Node& a, Node& b) {
  SimNetwork& network = kernel_.network();
  const std::string x = a.machine->host(), y = b.machine->host();
  const Nanos for_ns = Between(20 * kMillisecond, 2500 * kMillisecond);
  std::vector<std::pair<std::string, std::string>> cut;
  switch (random_.Below(6)) {
    case 0:
      Say("from {} to {} nothing arrives, for {} ms", a.name(), b.name(), for_ns / kMillisecond);
      cut.emplace_back(x, y);
      break;
    case 1:
      Say("{} and {} are cut, for {} ms", a.name(), b.name(), for_ns / kMillisecond);
      cut = {{x, y}, {y, x}};
      break;
    case 2:
      Say("{} is cut from all others, for {} ms", a.name(), for_ns / kMillisecond);
      for (auto& node : nodes_) {
        if (node.get() == &a) continue;
        cut.emplace_back(x, node->machine->host());
        cut.emplace_back(node->machine->host(), x);
      }
      break;
    case 3: {
      const Nanos most = Between(kMillisecond, 200 * kMillisecond);
      Say("the link from {} to {} is slow, up to {} ms", a.name(), b.name(), most / kMillisecond);
      network.SetLatency(x, y, kMillisecond, most);
      return At(for_ns, [this, x, y] { kernel_.network().SetLatency(x, y, 20 * kMicrosecond, 100 * kMicrosecond); });
    }
    case 4:
      Say("what is on its way from {} to {} comes {} ms later", a.name(), b.name(), for_ns / kMillisecond);
      return network.Hold(x, y, kernel_.now_ns() + for_ns);
    default: Say("{} forgets its connections to {}", a.name(), b.name()); return network.Forget(x, y);
  }
  for (const auto& [from, to] : cut) network.Cut(from, to);
  At(for_ns, [this, cut] {
    for (const auto& [from, to] : cut) kernel_.network().Heal(from, to);
  });
}

void ClusterWorld::DiskFaultOf(Node& node) {
  const Nanos for_ns = Between(50 * kMillisecond, 2500 * kMillisecond);
  switch (random_.Below(4)) {
    case 0:
      Say("the disk of {} is slow for {} ms", node.name(), for_ns / kMillisecond);
      node.machine->SetDiskLatency(kMillisecond, 60 * kMillisecond);
      return At(for_ns, [&node] { node.machine->SetDiskLatency(0, 0); });
    case 1:
      Say("the disk of {} hangs for {} ms", node.name(), for_ns / kMillisecond);
      return node.machine->StallDiskUntil(kernel_.now_ns() + for_ns);
    case 2: {
      DiskFault fault;
      fault.kind = IoOp::Kind::kWrite;
      fault.path_contains = "/log";
      node.disk_failed = true;
      node.failed_in_life = node.life;
      Say("a write of the log of {} fails", node.name());
      return node.machine->AddFault(fault);
    }
    default: {
      DiskFault fault = SyncFault(random_.Below(5), 1);
      node.disk_failed = true;
      node.failed_in_life = node.life;
      Say("a sync of {} fails", node.name());
      return node.machine->AddFault(fault);
    }
  }
}

// Whether the topology still counts a replica whose disk was lost: nobody has noticed yet.
bool ClusterWorld::HasLostReplica() const {
  for (uint32_t p = 0; p < partitions_; ++p) {
    for (const ReplicaRecord& replica : Record(p).record.isr) {
      if (lost_replicas_.contains(replica.replica)) return true;
    }
  }
  return false;
}

void ClusterWorld::NoteLostReplicas(const Node& node) {
  for (uint32_t p = 0; p < partitions_; ++p) {
    for (const ReplicaRecord& replica : Record(p).record.isr) {
      if (replica.node == node.id) lost_replicas_.insert(replica.replica);
    }
  }
}

// One at a time: two of three replicas that lose what they have acknowledged are more than the protocol promises.
void ClusterWorld::LoseDisk(Node& node) {
  if (node.state == State::kDown || plot_goes_on_ || !WhyNotInSync().empty() || HasLostReplica()) return;
  // An image of the process that runs has the start counter of the topology: nobody could know later that it is old.
  const bool known_as_old = node.backup && node.backup_life < node.life;
  if (!random_.Chance(0.5) || (node.backup && !known_as_old)) {
    Say("an image is taken of the disk of {}", node.name());
    node.backup = node.machine->Image(random_.Next());
    node.backup_life = node.life;
    return;
  }
  NoteLostReplicas(node);
  Crash(node, true);
  if (node.backup) {
    Say("{} gets back the disk of its image", node.name());
    node.image = *node.backup;
  } else {
    Say("{} gets an empty disk", node.name());
    node.loses_disk = true;
  }
}

void ClusterWorld::TopologyFault(Node& node) {
  const Nanos for_ns = Between(100 * kMillisecond, 4 * kSecond);
  SimTopologyFaults faults;
  switch (random_.Below(4)) {
    case 0:
      Say("{} does not reach the topology for {} ms", node.name(), for_ns / kMillisecond);
      faults.unreachable = true;
      break;
    case 1:
      Say("the topology is slow for {}, for {} ms", node.name(), for_ns / kMillisecond);
      faults.latency_max_ns = Between(10 * kMillisecond, kSecond);
      break;
    default:
      Say("the topology often gives {} no answer, or an error, for {} ms", node.name(), for_ns / kMillisecond);
      faults.unknown_probability = 0.5;
      faults.error_probability = random_.Chance(0.5) ? 0.3 : 0;
      faults.gap_probability = faults.repeat_probability = 0.2;
  }
  SetTopology(&node, faults);
  At(for_ns, [&node] { SetTopology(&node, {}); });
}

void ClusterWorld::SetTopology(Node* node, const SimTopologyFaults& faults) {
  node->faults = faults;
  if (node->topology != nullptr) node->topology->faults() = faults;
}

void ClusterWorld::Isolate(Node& node, bool cut) {
  for (auto& other : nodes_) {
    if (other.get() == &node) continue;
    const std::string &x = node.machine->host(), &y = other->machine->host();
    for (const auto& [from, to] : {std::pair(x, y), std::pair(y, x)}) {
      if (cut) {
        kernel_.network().Cut(from, to);
      } else {
        kernel_.network().Heal(from, to);
      }
    }
  }
}

void ClusterWorld::HealAll() {
  Say("everything is healed");
  kernel_.network().HealAll();
  for (auto& owned : nodes_) {
    Node& node = *owned;
    node.machine->ClearFaults();
    node.machine->SetDiskLatency(0, 0);
    node.machine->StallDiskUntil(0);
    SetTopology(&node, {});
  }
}

}  // namespace pando
