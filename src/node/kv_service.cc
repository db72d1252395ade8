#include "src/node/kv_service.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "src/btree/tree_node.h"
#include "src/kvapi/kv_requests.h"
#include "src/node/multi_get.h"
#include "src/node/scrub_report.h"

namespace pando {

namespace {

constexpr int32_t kApiVersion = 2;
constexpr size_t kStatusBytes = 16u << 10;
constexpr size_t kPartitionStatusBytes = 1u << 10;
constexpr char kOutOfOrderReplies[] = "out_of_order_replies";
// Room in a reply frame for everything other than values.
constexpr size_t kReplySlackBytes = 512u << 10;
constexpr size_t kMaxMultiGetBytes = kMaxFrameBytes - kReplySlackBytes;

struct BatchPart {
  std::vector<size_t> indexes;  // into the batch; its first `checks` entries are conditions
  std::vector<WriteOp> ops;
  WriteOptions options;
  size_t checks = 0;
  bool named = false;  // a kOnce comes first
  Status status;
  WriteControl control;
};

// A batch counts as withdrawn only if all of its parts are.
struct WithdrawableBatch final : Withdrawable {
  bool Withdraw() override {
    bool all = true;
    for (auto& [id, part] : parts) all &= part.control.Withdraw();
    return all;
  }
  std::map<uint32_t, BatchPart> parts;
};

// Reports a condition of the whole batch if it failed.
void NoteCondition(size_t index, OpResult& result, api::WriteBatchReply* reply) {
  if (result.outcome != OpOutcome::kConditionFailed) return;
  api::FailedCondition& failed = reply->failed_conditions.emplace_back();
  failed.index = static_cast<int32_t>(index);
  ToRecord(result.current, &failed.current);
  failed.current_value_omitted = result.value_omitted;
}

Task<void> WritePart(Partition* partition, BatchPart* part, api::WriteBatchReply* reply) {
  // Write consumes the ops, so keep the fields that the results need.
  std::vector<WriteOp> shapes;
  shapes.reserve(part->ops.size());
  for (const WriteOp& op : part->ops) {
    if (op.op != RecordOp::kOnce) shapes.push_back(KeepShape(op));
  }
  part->options.control = &part->control;
  Result<std::vector<OpResult>> outcome = co_await partition->Write(std::move(part->ops), part->options);
  part->status = outcome.status();
  if (part->named && outcome.ok()) outcome->erase(outcome->begin());  // says nothing about an op
  for (size_t i = 0; i < part->indexes.size(); ++i) {
    const size_t index = part->indexes[i];
    if (index < part->checks) {
      if (outcome.ok()) NoteCondition(index, (*outcome)[i], reply);
      continue;
    }
    api::WriteResult& result = reply->results[index - part->checks];
    if (!outcome.ok()) {
      result.__set_error(ToKvError(outcome.status(), /*is_write=*/true));
    } else if (Refusal refusal = ToWriteResult(shapes[i], (*outcome)[i], &result)) {
      result.__set_error(*refusal);
    }
  }
}

api::Limits PublishedLimits(const StoreInfo& store) {
  api::Limits limits;
  limits.max_key_bytes =
      static_cast<int32_t>(MaxKeyBytes(UsablePageBytes(store.page_bytes, store.seal_bytes)) - kNamespaceBytes);
  limits.max_value_bytes = kMaxValueBytes;
  limits.max_batch_ops = kMaxBatchOps;
  limits.max_batch_bytes = kMaxBatchBytes;
  limits.max_multi_get_keys = kMaxMultiGetKeys;
  limits.max_frame_bytes = kMaxFrameBytes;
  limits.max_scan_rows = kMaxScanRows;
  limits.max_scan_bytes = kMaxScanBytes;
  return limits;
}

}  // namespace

const KvService::Method KvService::kMethods[] = {
    {"get", &StartRead<&KvService::Get>},
    {"put", &TakeWrite<api::Kv_put_args>},
    {"remove", &TakeWrite<api::Kv_remove_args>},
    {"increment", &TakeWrite<api::Kv_increment_args>},
    {"touch", &TakeWrite<api::Kv_touch_args>},
    {"multiGet", &StartRead<&KvService::MultiGet>},
    {"writeBatch", &StartWrite<&KvService::WriteBatch>},
    {"scan", &StartRead<&KvService::Scan>},
    {"count", &StartRead<&KvService::Count>},
    {"aggregate", &StartRead<&KvService::Aggregate>},
    {"splitRange", &StartRead<&KvService::SplitRange>},
    {"openSnapshot", &StartRead<&KvService::OpenSnapshot>},
    {"renewSnapshot", &StartRead<&KvService::RenewSnapshot>, MemoryLane::kControl},
    {"releaseSnapshot", &StartRead<&KvService::ReleaseSnapshot>, MemoryLane::kControl},
    {"deleteRange", &StartWrite<&KvService::DeleteRange>},
    {"watch", &StartRead<&KvService::Watch>},
    {"hello", &StartRead<&KvService::Hello>, MemoryLane::kControl},
    {"status", &StartRead<&KvService::AdminStatus>, MemoryLane::kControl},
    {"describeSnapshot", &StartRead<&KvService::DescribeSnapshot>},
    {"readPages", &StartRead<&KvService::ReadPages>},
    {"checkpoint", &StartRead<&KvService::AdminCheckpoint>},
    {"scrub", &StartRead<&KvService::AdminScrub>},
    {"replicas", &StartRead<&KvService::ClusterReplicas>, MemoryLane::kControl},
    {"topology", &StartRead<&KvService::ClusterTopology>, MemoryLane::kControl},
    {"handover", &StartRead<&KvService::ClusterHandover>, MemoryLane::kControl},
    {"forceFailover", &StartRead<&KvService::ClusterForceFailover>, MemoryLane::kControl},
    {"setMinIsr", &StartRead<&KvService::ClusterSetMinIsr>, MemoryLane::kControl},
    {"openCopy", &StartRead<&KvService::ClusterOpenCopy>, MemoryLane::kControl},
    {"renewCopy", &StartRead<&KvService::ClusterRenewCopy>, MemoryLane::kControl},
    {"replaceReplica", &StartRead<&KvService::ClusterReplaceReplica>, MemoryLane::kControl},
    {"addReplica", &StartRead<&KvService::ClusterAddReplica>, MemoryLane::kControl},
    {"splitPartition", &StartRead<&KvService::ClusterSplitPartition>, MemoryLane::kControl},
    {"removeReplica", &StartRead<&KvService::ClusterRemoveReplica>, MemoryLane::kControl},
    {"aggregateReplica", &StartRead<&KvService::ClusterAggregateReplica>},
    {"getMap", &StartRead<&KvService::GetMap>, MemoryLane::kControl},
    {"clock", &StartRead<&KvService::SnapshotsClock>},
    {"prepare", &StartRead<&KvService::SnapshotsPrepare>},
    {"renew", &StartRead<&KvService::SnapshotsRenew>, MemoryLane::kControl},
    {"release", &StartRead<&KvService::SnapshotsRelease>, MemoryLane::kControl},
    {"scanPartitions", &StartRead<&KvService::ScanPartitions>},
    {"aggregatePartitions", &StartRead<&KvService::AggregatePartitions>},
    {"samplePartitions", &StartRead<&KvService::SamplePartitions>},
    {"deletePartitions", &StartWrite<&KvService::DeletePartitions>},
    {"watchPartitions", &StartRead<&KvService::WatchPartitions>},
};
const size_t KvService::kMethodCount = std::size(kMethods);

template <auto Handler, typename Args, typename Reply>
void KvService::Start(Task<void> (KvService::*)(Call<Args, Reply>*), ContextCheck check, const RpcRequest& request,
                      size_t index) {
  StartCall<Handler, Args, Reply>(this, server_, &tasks_, &metrics_[index]->latency_ns, request, kMethods[index].name,
                                  kMethods[index].lane, check);
}

template <auto Handler>
void KvService::StartRead(KvService* service, const RpcRequest& request, size_t index) {
  const bool alone = !service->backend_->cluster_id;
  service->Start<Handler>(Handler, alone ? &CheckReadContext : &CheckReadContextInCluster, request, index);
}

template <auto Handler>
void KvService::StartWrite(KvService* service, const RpcRequest& request, size_t index) {
  const bool alone = !service->backend_->cluster_id;
  service->Start<Handler>(Handler, alone ? &CheckWriteContext : &CheckWriteContextInCluster, request, index);
}

template <typename Args>
void KvService::TakeWrite(KvService* service, const RpcRequest& request, size_t index) {
  service->writes_.Take<Args>(request, kMethods[index].name, &service->metrics_[index]->latency_ns);
}

// Control methods let operators inspect an overloaded node, let clients free memory, and keep
// running backups from losing their snapshot. They therefore run even when ordinary requests are
// refused for lack of memory.
MemoryLane KvService::LaneOf(std::string_view method) const {
  for (const Method& m : kMethods) {
    if (method == m.name) return m.lane;
  }
  return MemoryLane::kOrdinary;
}

KvService::KvService(RpcServer* server, KvBackend* backend, NodeControl* control, WatchOptions watch_options)
    : server_(server),
      backend_(backend),
      control_(control),
      gets_(
          server, backend,
          [this](const RequestId& id, std::string key, int32_t budget_ms) { SlowGet(id, std::move(key), budget_ms); }),
      writes_(server, backend, &tasks_),
      watchers_(
          server, [backend] { return SumOfChanges(*backend); }, watch_options),
      map_watchers_(
          server, [backend] { return backend->map.version(); }, watch_options) {
  for (const Method& method : kMethods) {
    metrics_.push_back(std::make_unique<MethodMetrics>());
    metrics_.back()->name = method.name;
  }
}

KvService::~KvService() = default;

void KvService::OnRequest(const RpcRequest& request) {
  for (size_t i = 0; i < kMethodCount; ++i) {
    if (request.method != kMethods[i].name) continue;
    metrics_[i]->requests_total.Add();
    if (i == 0 && gets_.Offer(request)) return;
    return kMethods[i].start(this, request, i);
  }
  server_->ReplyException(request.id, request.method, TApplicationException::UNKNOWN_METHOD,
                          fmt::format("this server has no method \"{}\"", request.method));
}

std::vector<uint32_t> KvService::IdsOf(const ScanRange& range) const {
  const RangeTable& serving = backend_->serving;
  if (range.tag) return {serving.PartitionOfHash(range.tag_hash())};
  if (range.slice.all()) return serving.ids();
  std::vector<uint32_t> ids;
  for (uint32_t id : serving.ids()) {
    const auto [first, last] = HashRangeOf(id, serving.base());
    if (range.slice.Overlaps(first, last)) ids.push_back(id);
  }
  return ids;
}

Task<Result<std::vector<Partition*>>> KvService::PlacesFor(SessionCall* session, std::vector<uint32_t> ids,
                                                           Nanos deadline_ns) {
  std::vector<Partition*> places;
  places.reserve(ids.size());
  for (uint32_t id : ids) places.push_back(session->place(id));
  const std::map<uint32_t, Status> refused = co_await session->Await(std::move(ids), deadline_ns);
  if (!refused.empty()) co_return refused.begin()->second;
  co_return places;
}

Task<Status> KvService::NoteRead(SessionCall* session, std::vector<uint32_t> ids) {
  const std::map<uint32_t, Status> refused = co_await session->Note(std::move(ids));
  co_return refused.empty() ? Status() : refused.begin()->second;
}

// -- reads

void KvService::SlowGet(const RequestId& id, std::string key, int32_t budget_ms) {
  MemoryGrant memory(&server_->account());
  if (!memory.TryGrow(kCallOverheadBytes + key.size())) return server_->ReplyOverloaded(id, "get");
  auto call = std::make_unique<Call<api::Kv_get_args, api::Kv_get_result>>();
  call->args.context.budget_ms = budget_ms;
  call->args.request.key = std::move(key);
  call->memory = std::move(memory);
  StartDecoded<&KvService::Get, api::Kv_get_args, api::Kv_get_result>(this, server_, &tasks_, &metrics_[0]->latency_ns,
                                                                      id, "get", std::move(call));
}

Task<void> KvService::Get(Call<api::Kv_get_args, api::Kv_get_result>* call) {
  std::string& key = call->args.request.key;
  SnapshotId snapshot = 0;
  if (Refuse(call, CheckKey(key))) co_return;
  if (Refuse(call, ToSnapshotId(call->args.request.snapshot, &snapshot))) co_return;
  SessionCall session(backend_, &server_->reactor());
  if (Refuse(call, session.Begin(call->args.context, snapshot != 0))) co_return;
  const std::vector<uint32_t> ids{backend_->serving.PartitionOf(key)};
  const Result<std::vector<Partition*>> places = co_await PlacesFor(&session, ids, call->deadline_ns);
  if (call->answered || Failed(call, places.status())) co_return;
  ValueRoom value(server_->account().budget(), kMaxValueBytes);
  // May wait for the disk or another reactor. The deadline may answer the call meanwhile.
  Result<ReadResult> read = co_await places->front()->Get(key, snapshot, &value);
  if (call->answered || Failed(call, read.status())) co_return;
  gets_.NoteSlowValue(read->value.size());
  if (snapshot == 0 && IsPlainRead(call->args.context, backend_->cluster_id.has_value()) &&
      !server_->HasRoom(call->id)) {
    // The client is not reading its replies, and many large values already wait for it. Drop this
    // value and read the record again once the connection has room.
    call->answered = true;
    int64_t left_ms = (call->deadline_ns - server_->reactor().NowNs()) / kMillisecond;
    gets_.Park(call->id, key, static_cast<int32_t>(std::max<int64_t>(left_ms, 1)));
    co_return;
  }
  if (snapshot == 0) {
    const Status noted = co_await NoteRead(&session, ids);
    if (Failed(call, noted)) co_return;
  }
  call->memory.Adopt(&value);  // the value may wait for its turn among the replies
  ToRecord(*read, &call->reply.success.record);
  session.Fill(&call->reply.success);
}

Task<void> KvService::MultiGet(Call<api::Kv_multiGet_args, api::Kv_multiGet_result>* call) {
  SnapshotId snapshot = 0;
  if (Refuse(call, CheckMultiGet(call->args.request))) co_return;
  if (Refuse(call, ToSnapshotId(call->args.request.snapshot, &snapshot))) co_return;
  SessionCall session(backend_, &server_->reactor());
  if (Refuse(call, session.Begin(call->args.context, snapshot != 0))) co_return;
  ValueRoom values(server_->account().budget(), kMaxMultiGetBytes);
  std::vector<std::string>& keys = call->args.request.keys;
  std::vector<uint32_t> of_keys;
  if (backend_->cluster_id) {
    for (const std::string& key : keys) of_keys.push_back(backend_->serving.PartitionOf(key));
  }
  const std::set<uint32_t> distinct(of_keys.begin(), of_keys.end());
  const std::vector<uint32_t> ids(distinct.begin(), distinct.end());
  const std::map<uint32_t, Status> refused = co_await session.Await(ids, call->deadline_ns);
  const MultiGetFrom from{snapshot, session.any_replica(), &refused};
  std::vector<MultiGetResult> results =
      co_await ReadKeys(backend_, &server_->reactor(), std::move(keys), from, &values);
  if (snapshot == 0) {
    const std::map<uint32_t, Status> of_no_account = co_await session.Note(ids);
    for (size_t i = 0; i < of_keys.size(); ++i) {
      const auto why = of_no_account.find(of_keys[i]);
      if (why != of_no_account.end() && results[i].status.ok()) results[i].status = why->second;
    }
  }
  session.Fill(&call->reply.success);
  call->memory.Adopt(&values);
  for (const MultiGetResult& result : results) {
    if (result.status.code() == Code::kSnapshotGone && Failed(call, result.status)) co_return;
  }
  std::vector<api::MultiGetItem>& items = call->reply.success.items;
  items.resize(results.size());
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].status.ok()) {
      ToRecord(results[i].record, &items[i].record);
    } else {
      items[i].__set_error(ToKvError(results[i].status, /*is_write=*/false));
    }
  }
}

Refusal KvService::Overloaded(size_t bytes) {
  server_->metrics().overloaded_total.Add();
  return server_->OverloadedError(bytes);
}

Refusal KvService::Reserve(RpcCallBase* call, size_t bytes) {
  if (call->memory.TryGrow(bytes)) return {};
  return Overloaded(bytes);
}

// -- writes

Task<void> KvService::WriteBatch(Call<api::Kv_writeBatch_args, api::Kv_writeBatch_result>* call) {
  BatchOfWrites batch;
  WriteOp once;
  if (Refuse(call, ToOnce(call->args.context, backend_->RemembersWrites(), &once))) co_return;
  if (Refuse(call, ToWriteBatch(call->args.request, &batch))) co_return;
  SessionCall session(backend_, &server_->reactor());
  if (Refuse(call, session.Begin(call->args.context))) co_return;
  batch.options.level = ToWriteLevel(call->args.context);
  // Shared by all parts, so that the values they return together fit into one reply.
  ValueRoom values(server_->account().budget(), kMaxBatchBytes);
  WithdrawableBatch write;
  for (size_t i = 0; i < batch.ops.size(); ++i) {
    const uint32_t id = backend_->serving.PartitionOf(batch.ops[i].key);
    BatchPart& part = write.parts[id];
    if (once.sequence > 0 && !std::exchange(part.named, true)) part.ops.push_back(once);
    part.indexes.push_back(i);
    part.ops.push_back(std::move(batch.ops[i]));
    part.options = batch.options;
    part.options.seen_epoch = session.SeenEpoch(id);
    part.options.seen_version = static_cast<Version>(call->args.context.hlc);
    part.checks = batch.checks;
  }
  if (Refuse(call, Reserve(call, write.parts.size() * kFanOutBytes))) co_return;
  api::WriteBatchReply& reply = call->reply.success;
  reply.results.resize(batch.ops.size() - batch.checks);
  call->withdrawable = &write;
  TaskGroup writes;
  for (auto& [id, part] : write.parts) {
    part.control.deadline_ns = call->deadline_ns;
    part.control.values = &values;
    writes.Spawn(WritePart(backend_->partitions[id], &part, &reply));
  }
  // The parts run concurrently, on their partitions' reactors. They point into this frame, so wait
  // for all of them.
  co_await writes.Drain();
  call->withdrawable = nullptr;
  if (call->answered) co_return;
  call->memory.Adopt(&values);
  for (const auto& [id, part] : write.parts) {
    if (part.status.ok()) co_await session.NoteWrite(id, part.control.end);
  }
  session.Fill(&reply);
  // A batch of conditions without ops has no per-op result that could carry the error.
  if (reply.results.empty() && !write.parts.empty())
    Failed(call, write.parts.begin()->second.status, /*is_write=*/true);
}

// -- calls about the server

Task<void> KvService::Hello(Call<api::Kv_hello_args, api::Kv_hello_result>* call) {
  if (Refuse(call, CheckHello(call->args.request))) co_return;
  api::HelloReply& reply = call->reply.success;
  reply.server_version = control_->server_version();
  reply.api_version = kApiVersion;
  reply.limits = PublishedLimits(*backend_->store);
  reply.node_id = backend_->store->node.ToString();
  reply.cluster_id = backend_->cluster_id.value_or(backend_->store->node).ToString();
  reply.partitions = static_cast<int32_t>(backend_->here.size());
  reply.features = {"conditions",      "increment",       "multi_get", "write_batch",    "scan",
                    "count",           "aggregate",       "ttl",       "snapshots",      "split_range",
                    "delete_range",    "watch",           "touch",     "all_or_nothing", "batch_conditions",
                    "absolute_expiry", "return_previous", "levels",    "slices",         kOutOfOrderReplies};
  reply.now_ms = backend_->clock->NowMs(server_->reactor());
  if (backend_->cluster_id) {
    reply.features.emplace_back("sessions");
    reply.features.emplace_back("clocks");
  }
  if (backend_->RemembersWrites()) reply.features.emplace_back("idempotent_writes");
  const std::vector<std::string>& wanted = call->args.request.features;
  if (std::find(wanted.begin(), wanted.end(), kOutOfOrderReplies) != wanted.end()) {
    server_->AllowOutOfOrderReplies(call->id);
    reply.accepted_features = {kOutOfOrderReplies};
  }
  co_return;
}

Task<void> KvService::AdminStatus(Call<api::Admin_status_args, api::Admin_status_result>* call) {
  // Covers the reply's structs and the coroutine frames of the calls to the other reactors.
  const size_t bytes =
      kStatusBytes + kPartitionStatusBytes * backend_->here.size() + DamageReport::kMaxBytes * backend_->peers.size();
  if (Refuse(call, Reserve(call, bytes))) co_return;
  Result<api::NodeStatus> status = co_await control_->CollectStatus(server_->reactor());
  if (Failed(call, status.status())) co_return;
  call->reply.success = *std::move(status);
}

Task<void> KvService::AdminCheckpoint(Call<api::Admin_checkpoint_args, api::Admin_checkpoint_result>* call) {
  Status status = co_await control_->CheckpointAll(server_->reactor());
  if (Failed(call, status)) co_return;
  call->reply.success.partitions = static_cast<int32_t>(backend_->here.size());
}

}  // namespace pando
