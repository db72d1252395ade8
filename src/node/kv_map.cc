// KvService: the map of the cluster, for routers.
#include "src/kvapi/kv_requests.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

constexpr int32_t kMapRetryMs = 1000;

// Waits for a map that is newer than the caller's.
class [[nodiscard]] MapWait final : public WatchHub::Wait {
 public:
  MapWait(WatchHub* hub, const KnownMap& map, uint64_t known, const RequestId& id, Nanos until_ns)
      : Wait(hub, id, /*look_after_ns=*/0, until_ns), map_(map), known_(known) {}

 private:
  bool HasNews() const override { return map_.version() > known_; }
  size_t cost() const override { return 1; }

  const KnownMap& map_;
  const uint64_t known_;
};

}  // namespace

Task<void> KvService::GetMap(Call<api::Routing_getMap_args, api::Routing_getMap_result>* call) {
  const api::GetMapRequest& request = call->args.request;
  if (request.known_version < 0 || request.wait_ms < 0) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest, fmt::format("known_version {}, wait_ms {}: neither can be "
                                                                       "negative",
                                                                       request.known_version, request.wait_ms)));
    co_return;
  }
  const Uuid cluster = backend_->cluster_id.value_or(backend_->store->node);
  if (!request.cluster_id.empty() && Uuid::Parse(request.cluster_id) != cluster) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest, fmt::format("this node belongs to the cluster {}, and the map that the "
                                                         "caller has to the cluster {}: ask one of that cluster",
                                                         cluster.ToString(), request.cluster_id)));
    co_return;
  }
  const KnownMap& map = backend_->map;
  // A version says nothing without the cluster.
  const uint64_t known = request.cluster_id.empty() ? 0 : static_cast<uint64_t>(request.known_version);
  const Nanos until_ns = EndOfWait(*call, request.wait_ms);
  while (map.version() <= known && server_->reactor().NowNs() < until_ns && !call->answered &&
         !WatchHub::MustEnd(*server_, call->id)) {
    if (!map_watchers_.HasRoom()) {
      map_watchers_.metrics().refused_total.Add();
      const size_t limit = map_watchers_.options().max_waiting;
      SetError(&call->reply, MakeBusy(fmt::format("{} calls already wait for a newer map on this reactor, which is the "
                                                  "limit of each reactor: try again later, or ask another node",
                                                  limit),
                                      kMapRetryMs));
      co_return;
    }
    MapWait wait(&map_watchers_, map, known, call->id, until_ns);
    co_await wait;  // returns for several reasons
  }
  if (call->answered) co_return;
  if (map.version() == 0) {
    Failed(call, Error(Code::kUnavailable, "this node has not yet joined its cluster; ask another node, or try again"));
    co_return;
  }
  if (Refuse(call, Reserve(call, map.ReplyBytes(known)))) co_return;
  call->reply.success.cluster_id = cluster.ToString();
  map.Fill(known, &call->reply.success);
}

}  // namespace pando
