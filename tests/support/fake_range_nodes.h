// FakeRangeNodes: the nodes of a cluster as requests for ranges see them, over fake partitions, and a service that
// answers such requests as a router does; and the fixture of tests that call it over the wire.
//
// The data of a partition is the same at every node: a move changes only who answers for it.
//
// Threads: one, that of the simulation.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gen-cpp/pando_constants.h"
#include "src/base/hash.h"
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/split_range.h"
#include "src/router/range_nodes.h"
#include "src/router/range_requests.h"
#include "src/router/watch_router.h"
#include "src/rpc/rpc_client.h"
#include "src/rpc/rpc_server.h"
#include "tests/support/copy_rows.h"
#include "tests/support/fake_partition.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {

class FakeRangeNodes final : public RangeNodes {
 public:
  FakeRangeNodes(Reactor* reactor, uint32_t partitions, NodeId nodes) : reactor_(*reactor), budget_(64 << 20) {
    for (uint32_t p = 0; p < partitions; ++p) {
      fakes.push_back(std::make_unique<FakePartition>(p));
      masters.push_back(1 + p % nodes);
      epochs.push_back(1);
    }
    node_count = nodes;
    Publish();
  }

  uint32_t PartitionOf(const std::string& key) const {
    return static_cast<uint32_t>(HashId(key) >> (64 - std::countr_zero(fakes.size())));
  }
  FakePartition& Of(const std::string& key) { return *fakes[PartitionOf(key)]; }
  void Put(const std::string& key, const std::string& value) {
    WriteOp op;
    op.key = key;
    op.value = value;
    Of(key).WriteNow(op);
  }
  // The router does not know yet.
  void Move(uint32_t partition, NodeId to) {
    masters[partition] = to;
    ++epochs[partition];
  }
  // The router's map becomes what is true.
  void Publish() {
    api::MapReply reply;
    reply.cluster_id = cluster.ToString();
    reply.version = ++version_;
    reply.whole = true;
    for (NodeId id = 1; id <= node_count; ++id) {
      api::RouteNode& node = reply.nodes.emplace_back();
      node.id = static_cast<int32_t>(id);
      node.client_address = "10.0.0." + std::to_string(id) + ":7420";
    }
    for (uint32_t p = 0; p < fakes.size(); ++p) {
      api::Route& route = reply.routes.emplace_back();
      route.partition = static_cast<int32_t>(p);
      std::tie(route.first_hash, route.last_hash) = RangeOf(p);
      route.epoch = epochs[p];
      route.lineage = 1;
      route.master = static_cast<int32_t>(masters[p]);
      for (NodeId id = 1; id <= node_count; ++id) route.in_sync.push_back(static_cast<int32_t>(id));
    }
    const uint64_t before = map_.changes();
    const Status applied = map_.Apply(reply, "");
    CHECK(applied.ok()) << applied.ToString();
    if (map_.changes() != before) ++news_;
  }

  // -- RangeNodes
  const RouteMap& map() const override { return map_; }
  Task<Status> UntilComplete(Nanos) override { co_return Status(); }
  NodeId ChooseReplica(const Route&, NodeId avoid) const override { return avoid == 1 ? 2 : 1; }
  void Refresh() override {
    ++refreshes;
    if (refresh_publishes) Publish();
  }
  uint64_t news() const override { return news_; }
  Task<void> UntilNews(uint64_t seen, Nanos deadline_ns) override {
    while (news_ <= seen && reactor_.NowNs() < deadline_ns) co_await Sleep(reactor_, kMillisecond);
  }
  bool stopping() const override { return false; }

  Task<NodeAnswer> Scan(NodeId node, api::Routing_scanPartitions_args* args, ScanAnswer* answer,
                        const CallTerms& terms) override {
    api::Routing_scanPartitions_result decoded;
    api::Routing_scanPartitions_result* reply = &decoded;
    ++calls;
    co_await Sleep(reactor_, delay_ns);
    if (down.contains(node)) co_return NodeAnswer{Error(Code::kUnavailable, "down"), false};
    if (silent.contains(node)) {
      const Nanos left_ns = terms.deadline_ns - reactor_.NowNs();
      co_await Sleep(reactor_, terms.may_ask_another ? left_ns / 2 : left_ns - 10 * kMillisecond);
      const Code code = terms.may_ask_another ? Code::kUnavailable : Code::kDeadline;
      co_return NodeAnswer{Error(code, "silence"), true, {}, terms.may_ask_another};
    }
    const std::vector<Partition*> places = Begin(node, args->request.partitions, args->context, reply);
    if (!reply->__isset.error) {
      MergeScanSpec spec;
      const api::ScanRequest& scan = args->request.scan;
      const std::string* after = args->request.__isset.after_key ? &args->request.after_key : nullptr;
      const Refusal refusal = ToScanRange(scan, after, &spec.range);
      CHECK(!refusal) << refusal->message;
      spec.keys_only = scan.keys_only;
      spec.sizes_only = scan.sizes_only;
      spec.max_rows = static_cast<size_t>(scan.limit_rows);
      spec.max_bytes = limit_bytes != 0 ? limit_bytes : static_cast<size_t>(scan.limit_bytes);
      spec.max_examined = max_examined;
      std::vector<MergeSource> sources = SourcesOf(places);
      for (MergeSource& source : sources) source.filtered = true;
      Result<ScanPage> page = co_await MergeScan(std::move(sources), spec);
      reply->success.exhausted = page->exhausted;
      reply->success.examined_to = page->examined_to;
      CopyRows(*page, scan.sizes_only, &reply->success.rows);
    }
    if (tamper_scan) tamper_scan(node, *args, reply);
    reply->__isset.success = !reply->__isset.error;
    std::string encoded;
    ThriftCodec codec;
    codec.WriteStruct(*reply, &encoded);
    if (tamper_bytes) tamper_bytes(node, &encoded);
    NodeAnswer got;
    got.sent = true;
    got.memory = MemoryGrant(&answers_);  // apart from that of requests (LW1)
    const std::string copy = encoded;
    got.status = ReadScanAnswer(take_frames ? std::string_view(encoded) : std::string_view(copy),
                                take_frames ? &encoded : nullptr, &codec, &got.memory, sizeof(api::Row), answer);
    co_return got;
  }
  Task<NodeAnswer> Aggregate(NodeId node, api::Routing_aggregatePartitions_args* args,
                             api::Routing_aggregatePartitions_result* reply, const CallTerms&) override {
    ++calls;
    co_await Sleep(reactor_, delay_ns);
    const std::vector<Partition*> places = Begin(node, args->request.partitions, args->context, reply);
    if (reply->__isset.error) co_return NodeAnswer{Status(), true};
    ScanRange range;
    const api::AggregateRequest& asked = args->request.range;
    CHECK(!ToScanRange(asked.start_key, asked.end_key, asked.prefix, &range));
    Result<RangeAggregates> sums = co_await MergeAggregates(SourcesOf(places), range, 0);
    reply->success.count = static_cast<int64_t>(sums->count);
    reply->success.bytes = static_cast<int64_t>(sums->bytes);
    reply->success.content_hash = static_cast<int64_t>(sums->content_hash);
    co_return NodeAnswer{Status(), true};
  }
  Task<NodeAnswer> Sample(NodeId node, api::Routing_samplePartitions_args* args,
                          api::Routing_samplePartitions_result* reply, const CallTerms&) override {
    co_await Sleep(reactor_, delay_ns);
    const std::vector<Partition*> places = Begin(node, args->request.partitions, args->context, reply);
    if (reply->__isset.error) co_return NodeAnswer{Status(), true};
    ScanRange range;
    const api::AggregateRequest& asked = args->request.range;
    CHECK(!ToScanRange(asked.start_key, asked.end_key, asked.prefix, &range));
    CHECK_LE(static_cast<size_t>(args->request.keys_per_partition) * places.size(), kMaxNamedPartitions);
    BudgetAccount account(&budget_);
    MemoryGrant memory(&account);
    const auto keys = static_cast<size_t>(args->request.keys_per_partition);
    Result<RangeSample> sample = co_await SampleRange(places, range, keys, 0, &memory);
    reply->success.count = static_cast<int64_t>(sample->count);
    for (const SampledKey& key : sample->keys) {
      api::SampledKey& to = reply->success.keys.emplace_back();
      to.key = key.key;
      to.records = static_cast<int64_t>(key.records);
    }
    co_return NodeAnswer{Status(), true};
  }
  Task<NodeAnswer> Delete(NodeId node, api::Routing_deletePartitions_args* args,
                          api::Routing_deletePartitions_result* reply, const CallTerms&) override {
    co_await Sleep(reactor_, delay_ns);
    const std::vector<Partition*> places = Begin(node, args->request.partitions, args->context, reply);
    if (reply->__isset.error) co_return NodeAnswer{Status(), true};
    MergeScanSpec spec;
    const std::string* after = args->request.__isset.after_key ? &args->request.after_key : nullptr;
    CHECK(!ToScanRange(args->request.range, after, &spec.range));
    spec.max_rows = static_cast<size_t>(args->request.range.limit_rows);
    if (after) reply->success.last_key = *after;
    Result<ScanPage> page = co_await MergeScan(SourcesOf(places), spec);
    for (const ScanRow& row : page->rows) {
      const std::string key(row.key);
      Of(key).records.erase(key);
      reply->success.last_key = row.key;
      ++reply->success.removed;
    }
    reply->success.exhausted = page->exhausted;
    if (lose_deletes > 0 && lose_deletes-- > 0) co_return NodeAnswer{Error(Code::kAborted, "lost"), true};
    co_return NodeAnswer{Status(), true};
  }
  Task<NodeAnswer> Watch(NodeId node, api::Routing_watchPartitions_args* args,
                         api::Routing_watchPartitions_result* reply, const CallTerms&) override {
    ++calls;
    ++watches[node];
    if (down.contains(node)) co_return NodeAnswer{Error(Code::kUnavailable, "down"), false};
    const Nanos until_ns = reactor_.NowNs() + args->request.wait_ms * kMillisecond;
    std::vector<int32_t> named;
    for (const api::PartitionPosition& position : args->request.positions) named.push_back(position.partition);
    for (;;) {
      co_await Sleep(reactor_, kMillisecond);
      const std::vector<Partition*> places = Begin(node, named, args->context, reply);
      if (reply->__isset.error) co_return NodeAnswer{Status(), true};
      reply->success.positions = args->request.positions;
      for (size_t i = 0; i < places.size(); ++i) {
        api::PartitionPosition& position = reply->success.positions[i];
        if (position.version < 0) {
          position.version = static_cast<int64_t>(places[i]->newest_change());
          continue;
        }
        const size_t left = static_cast<size_t>(args->request.limit_changes) - reply->success.changes.size();
        if (left == 0) {
          reply->success.more = true;
          continue;
        }
        Result<ChangePage> page =
            co_await places[i]->Changes(static_cast<Version>(position.version), args->request.prefix, left, 1 << 20);
        if (page->gone) {
          reply->success = api::WatchPartitionsReply();
          SetError(reply, FeedGone("gone"));
          co_return NodeAnswer{Status(), true};
        }
        ToChanges(page->changes, &reply->success.changes);
        reply->success.more |= page->more;
        position.version = static_cast<int64_t>(page->up_to);
      }
      if (!reply->success.changes.empty() || reactor_.NowNs() >= until_ns) co_return NodeAnswer{Status(), true};
      reply->success = api::WatchPartitionsReply();
    }
  }

  std::pair<int64_t, int64_t> RangeOf(uint32_t p) const {
    const auto [first, last] = HashRangeOf(p, static_cast<uint32_t>(fakes.size()));
    return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
  }
  // What partitions have returned to nodes.
  uint64_t scanned_bytes() const {
    uint64_t bytes = 0;
    for (const auto& fake : fakes) bytes += fake->scanned_bytes;
    return bytes;
  }

  Uuid cluster{0x77, 0x88};
  NodeId node_count = 0;
  std::vector<std::unique_ptr<FakePartition>> fakes;
  std::vector<NodeId> masters;
  std::vector<int64_t> epochs;
  Nanos delay_ns = 100 * kMicrosecond;
  size_t max_examined = 1000;  // of a scan of a slice
  size_t limit_bytes = 0;      // of a scan, whatever the router asks for; 0: what it asks for
  std::set<NodeId> down, silent;
  bool refresh_publishes = true;
  int calls = 0, refreshes = 0, lose_deletes = 0;
  std::map<NodeId, int> watches;  // calls
  std::function<void(NodeId, const api::Routing_scanPartitions_args&, api::Routing_scanPartitions_result*)> tamper_scan;
  // The answer as it comes over the wire.
  std::function<void(NodeId, std::string*)> tamper_bytes;
  bool take_frames = true;  // the router takes the string of the answer, and does not copy it

 private:
  // The partitions that the node is asked for, or the error of one that it does not lead.
  template <typename Reply>
  std::vector<Partition*> Begin(NodeId node, const std::vector<int32_t>& named, const api::Context& context,
                                Reply* reply) {
    std::vector<Partition*> places;
    reply->success.covered.clear();
    SessionToken session;
    session.cluster = cluster;
    for (int32_t partition : named) {
      const auto p = static_cast<uint32_t>(partition);
      if (masters[p] != node && context.level != api::g_pando_constants.LEVEL_SESSION) {
        api::KvError error =
            ToKvError(Error(Code::kNotMaster, "partition {}: the master is another node", p).WithMaster("", 0), false);
        SetError(reply, error);
        return {};
      }
      places.push_back(fakes[p].get());
      api::Covered& covered = reply->success.covered.emplace_back();
      covered.partition = partition;
      std::tie(covered.first_hash, covered.last_hash) = RangeOf(p);
      covered.epoch = epochs[p];
      session.Raise(p, {static_cast<Epoch>(epochs[p]), 10});
    }
    reply->success.context.session = EncodeSessionToken(session);
    reply->success.context.__isset.session = reply->success.__isset.context = true;
    reply->__isset.success = true;
    return places;
  }

  Reactor& reactor_;
  MemoryBudget budget_;
  BudgetAccount answers_{&budget_};
  RouteMap map_;
  int64_t version_ = 0;
  uint64_t news_ = 0;
};

// Answers requests for ranges.
class RangeService final : public RpcService {
 public:
  RangeService(RpcServer* server, RangeNodes* nodes) : watches(nodes), server_(server), nodes_(nodes) {}

  void OnRequest(const RpcRequest& request) override {
    if (request.method == "scan")
      return Start<&RangeService::Scan, api::Kv_scan_args, api::Kv_scan_result>(request, "scan");
    if (request.method == "count")
      return Start<&RangeService::Count, api::Kv_count_args, api::Kv_count_result>(request, "count");
    if (request.method == "aggregate")
      return Start<&RangeService::Aggregate, api::Kv_aggregate_args, api::Kv_aggregate_result>(request, "aggregate");
    if (request.method == "splitRange")
      return Start<&RangeService::Split, api::Kv_splitRange_args, api::Kv_splitRange_result>(request, "splitRange");
    if (request.method == "deleteRange")
      return Start<&RangeService::Delete, api::Kv_deleteRange_args, api::Kv_deleteRange_result>(request, "deleteRange");
    Start<&RangeService::Watch, api::Kv_watch_args, api::Kv_watch_result>(request, "watch");
  }
  void OnTurnEnd() override {}
  void OnReplyRoom() override {}
  Task<void> Drain() {
    co_await tasks_.Drain();
    co_await watches.Drain();
  }

  Task<void> Scan(ScanCall* call) { return RouteScan(nodes_, call); }
  Task<void> Count(CountCall* call) { return RouteCount(nodes_, call); }
  Task<void> Aggregate(AggregateCall* call) { return RouteAggregate(nodes_, call); }
  Task<void> Split(SplitRangeCall* call) { return RouteSplitRange(nodes_, call); }
  Task<void> Delete(DeleteRangeCall* call) { return RouteDeleteRange(nodes_, call); }
  Task<void> Watch(WatchCall* call) { return watches.Watch(call); }

  WatchRouter watches;

 private:
  template <auto Handler, typename Args, typename Reply>
  void Start(const RpcRequest& request, std::string_view method) {
    StartCall<Handler, Args, Reply>(this, server_, &tasks_, &latency_, request, method);
  }

  RpcServer* const server_;
  RangeNodes* const nodes_;
  TaskGroup tasks_;
  Histogram latency_;
};

class RangeTest : public testing::Test {
 protected:
  explicit RangeTest(uint32_t partitions = 8, NodeId nodes = 3, int64_t memory_bytes = 256 << 20)
      : kernel_(11), shared_(memory_bytes) {
    SimMachine* machine = kernel_.AddMachine("10.0.1.1");
    at_router_ = machine->Boot();
    at_client_ = kernel_.AddMachine("10.0.2.1")->Boot();
    nodes_ = std::make_unique<FakeRangeNodes>(at_router_, partitions, nodes);
    StartService();
    ListenOptions listen;
    listen.host = "10.0.1.1";
    listen.reuse_port = false;
    Result<uint16_t> port = server_->Listen(listen);
    CHECK(port.ok());
    port_ = *port;
    client_ = std::make_unique<RpcClient>(*at_client_);
    CHECK(kernel_.RunTask(*at_client_, client_->Connect("10.0.1.1", *port, kSecond))->ok());
  }
  void StartService() {
    server_ = std::make_unique<RpcServer>(*at_router_, RpcOptions(), &shared_);
    service_ = std::make_unique<RangeService>(server_.get(), nodes_.get());
    server_->SetService(service_.get());
  }
  void TearDown() override {
    kernel_.RunTask(*at_client_, client_->Close());
    kernel_.RunTask(*at_router_, Stop());
    EXPECT_LE(shared_.memory.used_bytes(), 2 * BudgetAccount::kChunkBytes);
  }
  Task<void> Stop() {
    co_await server_->Shutdown(kSecond);
    co_await service_->Drain();
  }

  template <typename Reply, typename Args>
  std::unique_ptr<Reply> CallFor(const std::string& method, const Args& args) {
    auto reply = std::make_unique<Reply>();
    std::optional<Status> status =
        kernel_.RunTask(*at_client_, client_->Call(method, &args, reply.get(), 60 * kSecond));
    CHECK(status && status->ok()) << status->ToString();
    return reply;
  }
  std::unique_ptr<api::Kv_scan_result> Scan(const api::ScanRequest& request, int32_t budget_ms = 2000) {
    api::Kv_scan_args args;
    args.context = context_;
    args.context.budget_ms = budget_ms;
    args.request = request;
    return CallFor<api::Kv_scan_result>("scan", args);
  }
  // All pages.
  std::vector<std::string> ScanAll(api::ScanRequest request, int* pages = nullptr) {
    std::vector<std::string> keys;
    do {
      auto reply = Scan(request);
      EXPECT_TRUE(reply->__isset.success) << reply->error.message;
      if (!reply->__isset.success) break;
      for (const api::Row& row : reply->success.rows) keys.push_back(row.key);
      request.cursor = reply->success.cursor;
      if (pages) ++*pages;
    } while (!request.cursor.empty());
    return keys;
  }

  SimKernel kernel_;
  RpcShared shared_;
  SimReactor* at_router_;
  SimReactor* at_client_;
  std::unique_ptr<FakeRangeNodes> nodes_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<RangeService> service_;
  std::unique_ptr<RpcClient> client_;
  api::Context context_;
  uint16_t port_ = 0;
};

}  // namespace pando
