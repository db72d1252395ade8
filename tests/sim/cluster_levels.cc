// The clients of ClusterWorld that read and write at levels.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/replication/hosted_replica.h"
#include "tests/sim/cluster_world.h"

namespace pando {
namespace {

constexpr Nanos kAdmittedWithin = 1500 * kMillisecond;
constexpr int kLevelKeys = 3;  // of a partition

}  // namespace

LevelRequest ClusterWorld::RandomLevelRequest(Client& client, uint32_t partition) {
  LevelRequest request;
  request.key = KeyOf('l', partition, random_.Below(kLevelKeys));
  const uint64_t choice = random_.Below(100);
  if (choice < 40) {
    static constexpr WriteLevel kLevels[] = {WriteLevel::kOne, WriteLevel::kQuorum, WriteLevel::kAll};
    request.level = IsLoyal(client) ? WriteLevel::kOne : kLevels[random_.Below(std::size(kLevels))];
    request.value = fmt::format("{}/{}", client.index, ++values_);
  } else if (choice < 70) {
    request.kind = LevelRequest::Kind::kBounded;
    request.max_staleness_ns = Between(20, 600) * kMillisecond;
  } else {
    request.kind = LevelRequest::Kind::kSession;
  }
  return request;
}

// As SessionCall and KvService do it.
Task<Code> ClusterWorld::RunLevelRequest(ClusterMember* member, uint32_t partition, LevelRequest* request) {
  SimReactor& reactor = member->reactor();
  replication::ReplicaHost* host = member->host();
  if (request->kind == LevelRequest::Kind::kWrite) {
    std::vector<WriteOp> ops(1);
    ops[0].key = request->key;
    ops[0].value = request->value;
    WriteControl control;
    control.deadline_ns = reactor.NowNs() + kAdmittedWithin;
    WriteOptions options;
    options.level = request->level;
    if (request->after) options.seen_epoch = request->after->epoch;
    options.control = &control;
    Result<std::vector<OpResult>> done = co_await member->place(partition)->Write(std::move(ops), options);
    if (!done.ok()) co_return done.code();
    request->version = done->front().version;
    request->end = control.end;
    const std::optional<SessionPoint>& carried = request->after;
    request->carried_is_lost = carried && carried->epoch < control.end.epoch && host->IsLost(partition, *carried);
    co_return Code::kOk;
  }
  ReplicaRead read;
  read.deadline_ns = reactor.NowNs() + kAdmittedWithin;
  if (request->kind == LevelRequest::Kind::kBounded) read.max_staleness_ns = request->max_staleness_ns;
  if (request->kind == LevelRequest::Kind::kSession) read.after = request->after;
  const Status may = co_await host->Await(partition, read);
  if (!may.ok()) co_return may.code();
  Result<ReadResult> got = co_await member->replica_place(partition)->Get(request->key, kNewest, nullptr);
  if (!got.ok()) co_return got.code();
  if (got->found) request->found = got->value;
  request->version = got->version;
  request->end = host->Shown(partition);
  const std::optional<SessionPoint>& carried = request->after;
  request->carried_is_lost =
      carried && request->end && carried->epoch < request->end->epoch && host->IsLost(partition, *carried);
  co_return Code::kOk;
}

// A write at ALL is on the disks of all replicas that run, when its master says so.
void ClusterWorld::LookAtAllReplicas(const Call& call) {
  const LevelRequest& request = *call.level;
  if (request.kind != LevelRequest::Kind::kWrite) {
    const replication::HostedReplica* here =
        call.node->member ? call.node->member->host()->Find(call.partition) : nullptr;
    counts_.by_followers += here != nullptr && here->core() != nullptr && !here->core()->leader().active();
    return;
  }
  if (request.level != WriteLevel::kAll) return;
  // One that was in sync has what it had then, also if it is not any more.
  const PartitionRecord record = Record(call.partition).record;
  std::vector<ReplicaRecord> replicas = record.isr;
  replicas.insert(replicas.end(), record.evicted.begin(), record.evicted.end());
  for (const ReplicaRecord& replica : replicas) {
    const Node& node = *nodes_[replica.node - 1];
    if (node.state != State::kUp || !node.member->serving()) continue;
    const replication::HostedReplica* hosted = node.member->host()->Find(call.partition);
    auto* partition = dynamic_cast<GatedPartition*>(node.member->engine()->partition(call.partition));
    if (hosted == nullptr || hosted->replica() != replica.replica || partition == nullptr) continue;
    if (!hosted->state().installed) continue;
    const HistoryPoint durable = partition->durable();
    if (durable.lsn < request.end->lsn || durable.epoch < request.end->epoch) {
      Wrong(fmt::format("ALL: the write at epoch {}, LSN {} was acknowledged, and {} has only epoch {}, LSN {}",
                        request.end->epoch, request.end->lsn, node.name(), durable.epoch, durable.lsn));
    }
  }
}

void ClusterWorld::LevelAnswered(Client& client, const Call& call, Code code) {
  const LevelRequest& request = *call.level;
  LevelSession& session = client.session;
  if (options_.tells) {
    const auto text = [](const std::optional<SessionPoint>& at) {
      return at ? fmt::format("epoch {}, LSN {}", at->epoch, at->lsn) : "nothing";
    };
    Say("client {} at {}, partition {}: {} of {}, having seen {}: {}, version {:x}, up to {}{}", client.index,
        call.node->name(), call.partition,
        request.kind == LevelRequest::Kind::kWrite
            ? fmt::format("a write at level {}", static_cast<int>(request.level))
            : (request.kind == LevelRequest::Kind::kBounded ? "BOUNDED" : "SESSION"),
        request.key, text(request.after), CodeName(code), request.version, text(request.end),
        request.carried_is_lost ? "; what was seen is lost" : "");
  }
  counts_.stale += code == Code::kTooStale;
  if (code == Code::kSessionLost) {
    ++counts_.lost;
    session = {};  // a new one
  }
  if (code != Code::kOk) return;
  std::string wrong;
  switch (request.kind) {
    case LevelRequest::Kind::kWrite:
      counts_.ones += request.level == WriteLevel::kOne;
      counts_.alls += request.level == WriteLevel::kAll;
      wrong = levels_.Written(request, kernel_.now_ns());
      break;
    case LevelRequest::Kind::kBounded:
      ++counts_.bounded;
      wrong = levels_.Read(request);
      break;
    case LevelRequest::Kind::kSession: ++counts_.sessions; wrong = levels_.Read(request);
  }
  if (!wrong.empty()) {
    Wrong(fmt::format("{} (client {} at {}, partition {})", wrong, client.index, call.node->name(), call.partition));
  }
  if (request.carried_is_lost || !request.end) return;
  session.token.Raise(call.partition, *request.end);
  Version& seen = session.seen[request.key];
  seen = std::max(seen, request.version);
}

void ClusterWorld::JudgeLevels() {
  StoreInfo store;
  store.ranges = partitions_;
  for (const std::string& key : levels_.Keys()) {
    const uint32_t p = store.PartitionOf(key);
    const NodeId master = [&] {
      const PartitionRecord record = Record(p).record;
      for (const ReplicaRecord& r : record.isr) {
        if (r.replica == record.master) return r.node;
      }
      return NodeId(0);
    }();
    if (master == 0) return Wrong(fmt::format("partition {} has no master", p));
    ClusterMember& member = *nodes_[master - 1]->member;
    auto got = kernel_.RunTask(member.reactor(), member.place(p)->Get(key, kNewest, nullptr));
    if (!(*got).ok()) return Wrong(fmt::format("{}: {}", key, (*got).status().ToString()));
    const std::optional<std::string> found = (*got)->found ? std::optional<std::string>((*got)->value) : std::nullopt;
    if (const std::string wrong = levels_.Final(key, found, (*got)->version); !wrong.empty()) {
      Wrong("in the end: " + wrong);
    }
  }
  for (const auto& node : nodes_) counts_.held += node->member->host()->metrics().held_writes_total.value();
  if (options_.calm && counts_.unknown > 0) {
    Wrong(fmt::format("{} writes have an unknown outcome, and nothing has failed", counts_.unknown));
  }
}

}  // namespace pando
