#include "src/router/router_service.h"

#include <algorithm>
#include <string>
#include <utility>

#include "src/base/hash.h"
#include "src/kvapi/kv_requests.h"
#include "src/router/node_calls.h"

namespace pando {

namespace {

constexpr char kOutOfOrderReplies[] = "out_of_order_replies";
constexpr std::string_view kFeatures[] = {"conditions",
                                          "increment",
                                          "multi_get",
                                          "write_batch",
                                          "scan",
                                          "count",
                                          "aggregate",
                                          "ttl",
                                          "snapshots",
                                          "split_range",
                                          "delete_range",
                                          "watch",
                                          "touch",
                                          "all_or_nothing",
                                          "levels",
                                          "slices",
                                          "batch_conditions",
                                          kOutOfOrderReplies,
                                          "absolute_expiry",
                                          "return_previous",
                                          "sessions",
                                          "clocks",
                                          "idempotent_writes"};

}  // namespace

const RouterService::Method RouterService::kMethods[] = {
    {"hello", &StartAny<&RouterService::Hello>, MemoryLane::kControl},
    {"multiGet", &StartAny<&RouterService::MultiGet>},
    {"writeBatch", &StartAny<&RouterService::WriteBatch>},
    {"scan", &StartAny<&RouterService::Scan>},
    {"count", &StartAny<&RouterService::Count>},
    {"aggregate", &StartAny<&RouterService::Aggregate>},
    {"splitRange", &StartAny<&RouterService::SplitRange>},
    {"deleteRange", &StartAny<&RouterService::DeleteRange>},
    {"watch", &StartAny<&RouterService::Watch>},
    {"openSnapshot", &StartAny<&RouterService::OpenSnapshot>},
    {"renewSnapshot", &StartAny<&RouterService::RenewSnapshot>, MemoryLane::kControl},
    {"releaseSnapshot", &StartAny<&RouterService::ReleaseSnapshot>, MemoryLane::kControl},
};
const size_t RouterService::kMethodCount = std::size(kMethods);

template <auto Handler, typename Args, typename Reply>
void RouterService::Start(Task<void> (RouterService::*)(Call<Args, Reply>*), const RpcRequest& request, size_t index) {
  StartCall<Handler, Args, Reply>(this, server_, &tasks_, &metrics_[index]->latency_ns, request, kMethods[index].name,
                                  kMethods[index].lane);
}

template <auto Handler>
void RouterService::StartAny(RouterService* service, const RpcRequest& request, size_t index) {
  service->Start<Handler>(Handler, request, index);
}

RouterService::RouterService(RpcServer* server, RouteKeeper* keeper, const PointOptions& options)
    : server_(server),
      keeper_(keeper),
      stamps_(options.stamps),
      nodes_(keeper),
      watches_(&nodes_),
      forwarder_(server, keeper, options) {
  for (const Method& method : kMethods) {
    metrics_.push_back(std::make_unique<MethodMetrics>());
    metrics_.back()->name = method.name;
  }
}

MemoryLane RouterService::LaneOf(std::string_view method) const {
  for (const Method& m : kMethods) {
    if (method == m.name) return m.lane;
  }
  return MemoryLane::kOrdinary;
}

Task<void> RouterService::Drain() {
  co_await forwarder_.Drain();
  co_await tasks_.Drain();
  co_await watches_.Drain();
}

void RouterService::OnRequest(const RpcRequest& request) {
  if (const PointMethod* point = FindPointMethod(request.method)) return forwarder_.OnRequest(request, *point);
  for (size_t i = 0; i < kMethodCount; ++i) {
    if (request.method != kMethods[i].name) continue;
    metrics_[i]->requests_total.Add();
    return kMethods[i].start(this, request, i);
  }
  server_->ReplyException(request.id, request.method, TApplicationException::UNKNOWN_METHOD,
                          fmt::format("a router has no method \"{}\": ask a node of the cluster; the status page of "
                                      "the router lists them",
                                      request.method));
}

// CA2: counted before anything is sent, and before the answer.
Task<void> RouterService::WriteBatch(WriteBatchCall* call) {
  const auto count = [this, call] {
    if (stamps_ == nullptr) return;
    for (const api::WriteOp& op : call->args.request.ops) stamps_->Count(HashId(op.key));
  };
  count();
  co_await RouteWriteBatch(keeper_, call);
  count();
}

Task<void> RouterService::DeleteRange(DeleteRangeCall* call) {
  if (stamps_ != nullptr) stamps_->CountAll();
  co_await RouteDeleteRange(&nodes_, call);
  if (stamps_ != nullptr) stamps_->CountAll();
}

// A node answers what is the same for the whole cluster: its limits and its clock.
Task<void> RouterService::Hello(Call<api::Kv_hello_args, api::Kv_hello_result>* call) {
  if (Refuse(call, CheckHello(call->args.request))) co_return;
  // Its question for the map would be refused, and two routers that name each other would wait for each other.
  if (call->args.request.client_name.starts_with(kRouterClientName)) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest, "this is a router, and --nodes must name nodes (kvnode)"));
    co_return;
  }
  if (Failed(call, co_await keeper_->UntilComplete(call->deadline_ns))) co_return;
  const std::vector<std::string> wanted = call->args.request.features;
  call->args.request.features.clear();
  const NodeAnswer answer = co_await CallNode(keeper_, keeper_->AnyNode(), CallKind::kPoint, "hello", &call->args,
                                              &call->reply, call->deadline_ns);
  if (call->answered || Failed(call, answer.status) || call->reply.__isset.error) co_return;
  api::HelloReply& reply = call->reply.success;
  // What this router would not pass on, it does not announce.
  std::erase_if(reply.features, [](const std::string& feature) {
    return std::find(std::begin(kFeatures), std::end(kFeatures), feature) == std::end(kFeatures);
  });
  reply.partitions = static_cast<int32_t>(keeper_->map().routes().size());
  reply.node_id = "router of cluster " + keeper_->map().cluster_id().ToString();
  if (std::find(wanted.begin(), wanted.end(), kOutOfOrderReplies) != wanted.end()) {
    server_->AllowOutOfOrderReplies(call->id);
    reply.accepted_features = {kOutOfOrderReplies};
  }
}

}  // namespace pando
