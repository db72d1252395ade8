#include "src/node/replica_sums.h"

#include <utility>

#include "src/base/hash.h"
#include "src/node/reactor_part.h"
#include "src/partition/replica.h"
#include "src/replication/hosted_replica.h"

namespace pando {

namespace {

constexpr size_t kShownBytes = 1u << 20;  // of the records that are shown, with their values

// Nothing while more is committed than applied: then the point may not be known.
std::optional<HistoryPoint> AppliedPoint(const Replica& replica) { return replica.PointAt(replica.applied_lsn()); }

Task<Status> AddShown(Replica* replica, const api::AggregateReplicaRequest& request,
                      api::AggregateReplicaReply* reply) {
  ScanSpec spec;
  spec.start = request.start_key;
  spec.end = request.end_key;
  spec.max_rows = static_cast<size_t>(request.records);
  spec.max_bytes = spec.hard_bytes = kShownBytes;
  CO_ASSIGN_OR_RETURN(const ScanPage page, co_await replica->Scan(std::move(spec)));
  for (const ScanRow& row : page.rows) {
    api::StoredRecord& record = reply->records.emplace_back();
    record.key = row.key;
    record.version = static_cast<int64_t>(row.version);
    record.expires_at_ms = row.expires_at_ms;
    record.value_bytes = static_cast<int64_t>(row.unread_bytes != 0 ? row.unread_bytes : row.value.size());
    record.value_hash = row.unread_bytes != 0 ? 0 : static_cast<int64_t>(Hash64(row.value));
  }
  co_return Status();
}

}  // namespace

// Records that have expired are counted until their removal is applied, so that no clock matters.
Task<Result<api::AggregateReplicaReply>> AggregateHeldReplica(ReactorPart* part, api::AggregateReplicaRequest request) {
  const auto id = static_cast<uint32_t>(request.partition);
  const replication::HostedReplica* hosted = part->replica_host()->Find(id);
  auto* replica = dynamic_cast<Replica*>(part->engine()->partition(id));
  if (hosted == nullptr || replica == nullptr) co_return PartitionNotHere(id);
  if (!replica->serving() || replica->out_of_service()) {
    co_return Error(Code::kUnavailable, "partition {}: the replica on this node is out of service", id);
  }
  const ActiveCall held = replica->Hold();
  api::AggregateReplicaReply reply;
  reply.replica = hosted->replica().ToString();
  const std::optional<HistoryPoint> before = AppliedPoint(*replica);
  std::string start = request.start_key, end = request.end_key;
  CO_ASSIGN_OR_RETURN(const Aggregates sum, co_await replica->tree().Aggregate(/*view=*/0, start, end, /*now_ms=*/0));
  if (request.records > 0) CO_RETURN_IF_ERROR(co_await AddShown(replica, request, &reply));
  const HistoryPoint after = AppliedPoint(*replica).value_or(HistoryPoint());
  if (request.middle && sum.count > 1) {
    std::vector<uint64_t> ranks{sum.count / 2};
    CO_ASSIGN_OR_RETURN(std::vector<std::string> keys, co_await replica->tree().KeysAtRanks(0, start, end, ranks));
    if (!keys.empty()) reply.__set_middle_key(std::move(keys.front()));
  }
  reply.epoch = static_cast<int64_t>(after.epoch);
  reply.lsn = static_cast<int64_t>(after.lsn);
  reply.chain = static_cast<int64_t>(after.chain);
  reply.moved = !before || before->lsn != after.lsn || before->chain != after.chain;
  reply.count = static_cast<int64_t>(sum.count);
  reply.bytes = static_cast<int64_t>(sum.bytes);
  reply.content_hash = static_cast<int64_t>(sum.content_hash);
  co_return reply;
}

}  // namespace pando
