// ScriptedNodes: servers that answer a router as the nodes of a cluster would, from one map of keys, and misbehave as a
// test says. They keep no replicas: what one has is what all have.
//
// Threads: one, that of the simulation.
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gen-cpp/ClusterSnapshots.h"
#include "gen-cpp/Kv.h"
#include "gen-cpp/Routing.h"
#include "gen-cpp/pando_constants.h"
#include "src/base/hash.h"
#include "src/kvapi/kv_errors.h"
#include "src/rpc/rpc_dispatch.h"
#include "src/rpc/rpc_server.h"
#include "src/topology/cluster_map.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {

inline constexpr char kRouterHost[] = "10.0.1.1";
inline const Uuid kScriptedCluster{0x1234, 0x5678};

// What all nodes of the cluster share.
struct ScriptedCluster {
  explicit ScriptedCluster(uint32_t partition_count) : partitions(partition_count), masters(partition_count, 1) {
    epochs.assign(partition_count, 1);
  }
  uint32_t partitions;
  std::vector<NodeId> masters;  // by partition
  std::vector<int64_t> epochs;
  int64_t version = 1;
  std::map<NodeId, std::string> addresses;
  std::map<std::string, std::string> records;
  Uuid id = kScriptedCluster;
  bool in_sync_everywhere = true;

  void Move(uint32_t partition, NodeId to) {
    masters[partition] = to;
    ++epochs[partition];
    ++version;
  }
  uint32_t PartitionOf(std::string_view key) const {
    for (uint32_t p = 0; p < partitions; ++p) {
      const auto [first, last] = HashRangeOf(p, partitions);
      const uint64_t hash = HashId(key);
      if (hash >= first && hash <= last) return p;
    }
    return 0;
  }
  api::MapReply Map() const {
    api::MapReply reply;
    reply.cluster_id = id.ToString();
    reply.version = version;
    reply.whole = true;
    for (const auto& [node, address] : addresses) {
      api::RouteNode& n = reply.nodes.emplace_back();
      n.id = static_cast<int32_t>(node);
      n.client_address = address;
    }
    for (uint32_t p = 0; p < partitions; ++p) {
      api::Route& r = reply.routes.emplace_back();
      const auto [first, last] = HashRangeOf(p, partitions);
      r.partition = static_cast<int32_t>(p);
      r.first_hash = static_cast<int64_t>(first);
      r.last_hash = static_cast<int64_t>(last);
      r.lineage = 1;
      r.epoch = epochs[p];
      r.master = static_cast<int32_t>(masters[p]);
      for (const auto& [node, address] : addresses) {
        if (in_sync_everywhere || node == masters[p]) r.in_sync.push_back(static_cast<int32_t>(node));
      }
    }
    return reply;
  }
};

class ScriptedNode final : public RpcService {
 public:
  struct Manners {
    bool silent = false;              // requests are taken and not answered, but for hello and getMap
    bool old_map = false;             // getMap answers with the map as it was when this was set
    bool no_hint = false;             // NOT_MASTER does not say who is
    int close_after = 0;              // closes the connection instead of the n-th answer from now; 0: never
    bool applies_and_closes = false;  // writes take effect first
    int busy = 0;                     // answers so many requests OVERLOADED
    int unavailable = 0;              // ... UNAVAILABLE, not applied
    Nanos delay_ns = 0;               // before a request is carried out
    Nanos delay_after_ns = 0;         // of a get: between that and its answer
    std::optional<Uuid> cluster;      // it belongs to this one; its connections were made before, unless they are reset
    bool old_hello = false;           // hello does not say the cluster
    std::string refuses_marks;        // marks of snapshots are refused with BAD_REQUEST, and this
    bool refuse_puts = false;         // they are not applied, and the answer has the record that is there
    Nanos too_stale_after_ns = 0;     // gets of sessions wait so long, and it has not what they have seen; 0: it has
  };

  ScriptedNode(ScriptedCluster* cluster, NodeId id, SimKernel* kernel)
      : cluster_(*cluster),
        id_(id),
        kernel_(*kernel),
        reactor_(*kernel->AddMachine(Host(id))->Boot()),
        shared_(64 << 20) {
    RpcOptions options;
    server_ = std::make_unique<RpcServer>(reactor_, options, &shared_);
    server_->SetService(this);
    ListenOptions listen;
    listen.host = Host(id);
    listen.port = 7420;
    Result<uint16_t> port = server_->Listen(listen);
    CHECK(port.ok()) << port.status().ToString();
    cluster_.addresses[id] = fmt::format("{}:{}", listen.host, *port);
  }

  // Another process is at its address from now on, of this cluster.
  void Replace(const Uuid& cluster) {
    manners.cluster = cluster;
    kernel_.network().ResetConnections(Host(id_), kRouterHost);
  }

  static std::string Host(NodeId id) { return fmt::format("10.0.0.{}", id); }

  Manners manners;
  int requests = 0, writes = 0, gets = 0, maps_asked = 0;
  std::vector<int32_t> budgets_ms;
  std::vector<std::string> features = {"conditions", "levels", "out_of_order_replies"};
  api::Context last_context;

  Task<void> Stop() {
    for (const RequestId& id : std::exchange(held_, {})) {
      server_->ReplyException(id, "get", TApplicationException::UNKNOWN, "too late");
    }
    co_await server_->Shutdown(0);
    co_await tasks_.Drain();
  }
  void KeepMap() {
    manners.old_map = true;
    kept_ = cluster_.Map();
  }

  void OnRequest(const RpcRequest& request) override {
    if (request.method == "hello") return Start<&ScriptedNode::Hello>(request, "hello");
    maps_asked += request.method == "getMap" ? 1 : 0;
    if (request.method == "getMap") return Start<&ScriptedNode::GetMap>(request, "getMap");
    if (request.method == "clock") return Start<&ScriptedNode::Clock>(request, "clock");
    if (request.method == "prepare") return Start<&ScriptedNode::Prepare>(request, "prepare");
    ++requests;
    if (manners.silent) return held_.push_back(request.id);
    if (request.method == "get") return Start<&ScriptedNode::Get>(request, "get");
    if (request.method == "put") return Start<&ScriptedNode::Put>(request, "put");
    if (request.method == "multiGet") return Start<&ScriptedNode::MultiGet>(request, "multiGet");
    if (request.method == "scanPartitions") return Start<&ScriptedNode::ScanPartitions>(request, "scanPartitions");
    if (request.method == "writeBatch") return Start<&ScriptedNode::WriteBatch>(request, "writeBatch");
    server_->ReplyException(request.id, request.method, TApplicationException::UNKNOWN_METHOD, "unknown");
  }
  void OnTurnEnd() override {}
  void OnReplyRoom() override {}

 private:
  template <auto Handler, typename Args, typename Reply>
  void StartAs(Task<void> (ScriptedNode::*)(RpcCall<Args, Reply>*), const RpcRequest& request, std::string_view name) {
    StartCall<Handler, Args, Reply>(this, server_.get(), &tasks_, nullptr, request, name);
  }
  template <auto Handler>
  void Start(const RpcRequest& request, std::string_view name) {
    StartAs<Handler>(Handler, request, name);
  }

  Task<void> Hello(RpcCall<api::Kv_hello_args, api::Kv_hello_result>* call) {
    server_->AllowOutOfOrderReplies(call->id);
    call->reply.success.accepted_features = {"out_of_order_replies"};
    call->reply.success.features = features;
    if (!manners.old_hello) call->reply.success.cluster_id = manners.cluster.value_or(cluster_.id).ToString();
    co_return;
  }
  Task<void> GetMap(RpcCall<api::Routing_getMap_args, api::Routing_getMap_result>* call) {
    const std::string& asked = call->args.request.cluster_id;
    if (manners.cluster && !asked.empty() && asked != manners.cluster->ToString()) {
      SetError(&call->reply, MakeError(ApiCode::kBadRequest, "this node belongs to another cluster"));
      co_return;
    }
    const Nanos until_ns = reactor_.NowNs() + call->args.request.wait_ms * kMillisecond;
    while (!manners.old_map && cluster_.version <= call->args.request.known_version && reactor_.NowNs() < until_ns &&
           !server_->stopping()) {
      co_await Sleep(reactor_, kMillisecond);
    }
    call->reply.success = manners.old_map ? kept_ : cluster_.Map();
    if (manners.cluster) call->reply.success.cluster_id = manners.cluster->ToString();
  }

  Task<void> Clock(RpcCall<api::ClusterSnapshots_clock_args, api::ClusterSnapshots_clock_result>* call) {
    call->reply.success.highest = 1;
    for (const int32_t id : call->args.request.partitions) {
      call->reply.success.partitions.emplace_back().partition = id;
    }
    co_return;
  }
  Task<void> Prepare(RpcCall<api::ClusterSnapshots_prepare_args, api::ClusterSnapshots_prepare_result>* call) {
    for (const int32_t id : call->args.request.partitions) {
      api::PartitionMark& mark = call->reply.success.partitions.emplace_back();
      mark.partition = id;
      mark.confirmed = manners.refuses_marks.empty();
      if (mark.confirmed) continue;
      mark.__set_error(MakeError(ApiCode::kBadRequest, fmt::format("partition {}: {}", id, manners.refuses_marks)));
    }
    co_return;
  }

  // What the node's manners make of a request. True: it is to be answered.
  template <typename Call>
  Task<bool> Behave(Call* call) {
    budgets_ms.push_back(call->args.context.budget_ms);
    last_context = call->args.context;
    if (manners.delay_ns > 0) co_await Sleep(reactor_, manners.delay_ns);
    if (manners.busy > 0) {
      --manners.busy;
      SetError(&call->reply, MakeBusy("busy", 30));
      co_return false;
    }
    if (manners.unavailable > 0) {
      --manners.unavailable;
      SetError(&call->reply, ToKvError(Error(Code::kUnavailable, "not yet"), true));
      co_return false;
    }
    co_return true;
  }
  // Closes all connections, if it is this answer's turn.
  bool Cut() {
    if (manners.close_after == 0 || --manners.close_after > 0) return false;
    kernel_.network().ResetConnections(Host(id_), kRouterHost);
    return true;
  }
  std::optional<api::KvError> Misrouted(std::string_view key) const {
    const uint32_t p = cluster_.PartitionOf(key);
    if (cluster_.masters[p] == id_) return std::nullopt;
    Status status = Error(Code::kNotMaster, "node {} is not the master of partition {}", id_, p);
    const bool known = cluster_.addresses.contains(cluster_.masters[p]);
    if (!manners.no_hint && known) status = std::move(status).WithMaster(cluster_.addresses.at(cluster_.masters[p]), 0);
    api::KvError error = ToKvError(status, true);
    if (!manners.no_hint) error.__set_epoch(cluster_.epochs[p]);
    return error;
  }

  Task<void> Get(RpcCall<api::Kv_get_args, api::Kv_get_result>* call) {
    ++gets;
    if (!co_await Behave(call) || Cut()) co_return;
    if (manners.too_stale_after_ns > 0 && !call->args.context.session.empty()) {
      co_await Sleep(reactor_, manners.too_stale_after_ns);
      SetError(&call->reply, MakeError(ApiCode::kTooStale, "not yet applied"));
      co_return;
    }
    const std::string& key = call->args.request.key;
    const bool any = call->args.context.level == api::g_pando_constants.LEVEL_BOUNDED;
    if (std::optional<api::KvError> error = any ? std::nullopt : Misrouted(key)) {
      SetError(&call->reply, *error);
      co_return;
    }
    const auto at = cluster_.records.find(key);
    call->reply.success.record.found = at != cluster_.records.end();
    if (at != cluster_.records.end()) call->reply.success.record.value = at->second;
    if (manners.delay_after_ns > 0) co_await Sleep(reactor_, manners.delay_after_ns);
  }
  Task<void> Put(RpcCall<api::Kv_put_args, api::Kv_put_result>* call) {
    if (!co_await Behave(call)) co_return;
    const api::PutRequest& request = call->args.request;
    if (std::optional<api::KvError> error = Misrouted(request.key)) {
      SetError(&call->reply, *error);
      co_return;
    }
    if (manners.refuse_puts) {
      api::Record current;
      current.found = true;
      current.value = cluster_.records[request.key];
      call->reply.success.__set_current(current);
      co_return;
    }
    const bool cut = Cut();
    if (cut && !manners.applies_and_closes) co_return;
    ++writes;
    cluster_.records[request.key] = request.value;
    call->reply.success.applied = true;
  }
  Task<void> MultiGet(RpcCall<api::Kv_multiGet_args, api::Kv_multiGet_result>* call) {
    if (!co_await Behave(call) || Cut()) co_return;
    for (const std::string& key : call->args.request.keys) {
      api::MultiGetItem& item = call->reply.success.items.emplace_back();
      const bool any = call->args.context.level == api::g_pando_constants.LEVEL_BOUNDED;
      if (std::optional<api::KvError> error = any ? std::nullopt : Misrouted(key)) {
        item.__set_error(*error);
        continue;
      }
      const auto at = cluster_.records.find(key);
      item.record.found = at != cluster_.records.end();
      if (at != cluster_.records.end()) item.record.value = at->second;
    }
  }
  Task<void> ScanPartitions(RpcCall<api::Routing_scanPartitions_args, api::Routing_scanPartitions_result>* call) {
    if (!co_await Behave(call) || Cut()) co_return;
    const api::ScanPartitionsRequest& request = call->args.request;
    api::ScanPartitionsReply& reply = call->reply.success;
    const std::set<int32_t> asked(request.partitions.begin(), request.partitions.end());
    for (const int32_t p : asked) {
      api::Covered& covered = reply.covered.emplace_back();
      const auto [first, last] = HashRangeOf(static_cast<uint32_t>(p), cluster_.partitions);
      covered.partition = p;
      covered.first_hash = static_cast<int64_t>(first);
      covered.last_hash = static_cast<int64_t>(last);
      covered.epoch = cluster_.epochs[static_cast<size_t>(p)];
    }
    const bool goes_on = request.__isset.after_key;
    size_t bytes = 0;
    for (auto at = goes_on ? cluster_.records.upper_bound(request.after_key) : cluster_.records.begin();
         at != cluster_.records.end(); ++at) {
      if (!asked.contains(static_cast<int32_t>(cluster_.PartitionOf(at->first)))) continue;
      bytes += at->first.size() + at->second.size();
      const bool over = bytes > static_cast<size_t>(request.scan.limit_bytes) ||
                        reply.rows.size() == static_cast<size_t>(request.scan.limit_rows);
      if (over && !reply.rows.empty()) co_return;
      api::Row& row = reply.rows.emplace_back();
      row.key = at->first;
      row.value = at->second;
    }
    reply.exhausted = true;
  }
  Task<void> WriteBatch(RpcCall<api::Kv_writeBatch_args, api::Kv_writeBatch_result>* call) {
    if (!co_await Behave(call)) co_return;
    const bool cut = Cut();
    if (cut && !manners.applies_and_closes) co_return;
    size_t room = 3u << 20;  // for values
    for (const api::WriteOp& op : call->args.request.ops) {
      api::WriteResult& result = call->reply.success.results.emplace_back();
      if (std::optional<api::KvError> error = Misrouted(op.key)) {
        result.__set_error(*error);
        continue;
      }
      ++writes;
      if (op.return_previous) {
        api::Record previous;
        previous.found = cluster_.records.contains(op.key);
        previous.value = cluster_.records[op.key];
        room -= std::min(room, previous.value.size());
        result.previous_value_omitted = room == 0;
        if (room == 0) previous.value.clear();
        result.__set_previous(previous);
      }
      cluster_.records[op.key] = op.value;
      result.applied = true;
    }
  }

  ScriptedCluster& cluster_;
  const NodeId id_;
  SimKernel& kernel_;
  Reactor& reactor_;
  RpcShared shared_;
  std::unique_ptr<RpcServer> server_;
  TaskGroup tasks_;
  api::MapReply kept_;
  std::vector<RequestId> held_;  // that a silent node has taken
};

}  // namespace pando
