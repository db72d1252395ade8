#include "src/router/router.h"

#include <algorithm>
#include <utility>

#include "src/base/address.h"
#include "src/io/process.h"
#include "src/rpc/listen_patiently.h"

namespace pando {

namespace {

// Descriptors that are not clients': connections to nodes, rings, log files, HTTP.
constexpr uint64_t kReservedDescriptors = 2048;
constexpr uint32_t kClosingConnections = 256;  // beyond those that are served
constexpr uint32_t kMaxHttpSockets = 64;
// So long the start waits for the nodes of --nodes, and so often it looks.
constexpr Nanos kHearSeedsNs = kSecond, kLookNs = 2 * kMillisecond;

// Makes a reactor's main task return.
struct LeaveCall final : RemoteCall {
  void Start() override {
    wait->NotifyAll();
    target_reactor->Return(this);
  }
  void Finish() override {}
  WaitQueue* wait = nullptr;
};

// Only to see whether a port is free.
struct PortProbe final : AcceptHandler {
  void OnAccept(Connection* connection) override {
    struct Ignore final : ConnectionHandler {
      void OnData(std::span<const char>) override {}
      void OnSent() override {}
      void OnClosed(const Status&) override {}
    };
    static Ignore ignore;
    connection->SetHandler(&ignore);
    connection->Close(/*now=*/true);
  }
};

}  // namespace

Router::Router(RouterOptions options) : options_(std::move(options)) {}

Router::~Router() { CHECK(group_ == nullptr) << "a Router was destroyed before its Stop had returned"; }

Status Router::Start() {
  RETURN_IF_ERROR(CheckOptions(options_));
  if (options_.reactors == 0) options_.reactors = static_cast<uint32_t>(UsableCpus());
  const uint64_t descriptors = RaiseDescriptorLimit();
  if (descriptors < 2 * kReservedDescriptors) {
    return Error(Code::kInvalidArgument,
                 "the process may open {} file descriptors, and a router needs {}; raise RLIMIT_NOFILE", descriptors,
                 2 * kReservedDescriptors);
  }
  options_.max_connections = static_cast<uint32_t>(
      std::min<uint64_t>(options_.max_connections, descriptors - kReservedDescriptors - kClosingConnections));
  budgets_ = std::make_unique<ConnectionBudgets>(
      ConnectionBudgets::Limits{options_.max_connections + kClosingConnections, 1, kMaxHttpSockets});
  const auto memory_bytes =
      static_cast<int64_t>(options_.memory_limit_bytes - kRouterProcessBytes - options_.cache_bytes);
  long_shared_ = std::make_unique<LongWork::Shared>(memory_bytes);
  shared_ = std::make_unique<RpcShared>(memory_bytes - long_shared_->answers.limit_bytes());
  if (options_.cache_bytes > 0) stamps_ = std::make_shared<WriteStamps>();
  parts_.resize(options_.reactors);
  without_map_.store(parts_.size());
  ReactorGroupOptions group;
  group.reactors = static_cast<int>(options_.reactors);
  group.uring.network.peer_timeout_ns = 2 * options_.stall_timeout_s * kSecond;
  ASSIGN_OR_RETURN(group_, ReactorGroup::Start(group, [this](Reactor& reactor) { return ReactorMain(reactor); }));
  Status status = group_->RunOn(0, [this](Reactor& first) -> Task<Status> {
    CO_RETURN_IF_ERROR(co_await ServeHttp(first));
    CO_RETURN_IF_ERROR(co_await HearSeeds(first));
    co_return co_await ListenAll(first);
  });
  if (!status.ok()) Stop();
  return status;
}

Task<void> Router::ReactorMain(Reactor& reactor) {
  const auto index = static_cast<size_t>(reactor.index());
  Part& part = parts_[index];
  RpcOptions rpc;
  rpc.max_connections = options_.max_connections;
  rpc.stall_timeout_ns = options_.stall_timeout_s * kSecond;
  rpc.idle_timeout_ns = options_.idle_timeout_s * kSecond;
  rpc.default_budget_ms = options_.default_budget_ms;
  rpc.max_budget_ms = options_.max_budget_ms;
  part.server = std::make_unique<RpcServer>(reactor, rpc, shared_.get());
  RouteKeeperOptions keeper;
  keeper.seeds = options_.nodes;
  keeper.hlc = hlc_;
  keeper.cluster = cluster_;
  keeper.upstream.memory = &part.server->account();
  part.long_work = std::make_unique<LongWork>(long_shared_.get());
  keeper.upstream.answers = &part.long_work->answers();
  keeper.long_work = part.long_work.get();
  part.keeper = std::make_unique<RouteKeeper>(reactor, std::move(keeper));
  PointOptions point;
  point.hedge_percent = options_.hedge_percent;
  point.cache_bytes = options_.cache_bytes / parts_.size();
  point.stamps = stamps_;
  part.service = std::make_unique<RouterService>(part.server.get(), part.keeper.get(), point);
  part.server->SetService(part.service.get());
  RegisterMetrics(&part, index);
  part.keeper->Start([this] {
    if (without_map_.fetch_sub(1) == 1) health_.ready.store(true, std::memory_order_relaxed);
  });
  WaitQueue wait(reactor);
  part.leave = &wait;
  co_await wait.Wait();  // until Stop sends a LeaveCall
  registry_.Remove(&part);
  part = Part();
}

Task<Status> Router::ServeHttp(Reactor& first) {
  if (options_.http_port < 0) co_return Status();
  health_.trouble = [part = &parts_[0]] { return part->keeper == nullptr ? "" : part->keeper->WhyNotReady(); };
  http_ = std::make_unique<HttpServer>(first, &registry_, &health_, &shared_->memory);
  first_ = &first;
  started_ns_ = first.NowNs();
  http_->AddPage("/", kHttpHtml, [this] { return RenderStatus(&StatusAsHtml); });
  http_->AddPage("/status", kHttpJson, [this] { return RenderStatus(&StatusAsJson); });
  auto listen = [this] {
    return http_->Listen(options_.host, static_cast<uint16_t>(options_.http_port), budgets_.get());
  };
  CO_ASSIGN_OR_RETURN(http_port_, co_await ListenPatiently(first, std::move(listen)));
  http_->RegisterMetrics(&registry_);
  registry_.Add(cluster_.get(), "kv_router_foreign_nodes_count",
                "Addresses of --nodes or of the map where nodes of another cluster answer: nothing is sent there.", {},
                &cluster_->foreign_count());
  co_return Status();
}

// Whoever named nodes of two clusters learns of it before anything is served. A node that is down says nothing.
Task<Status> Router::HearSeeds(Reactor& first) {
  const RouteKeeper& keeper = *parts_[0].keeper;
  const auto any_up = [&keeper] {
    const auto& all = keeper.upstreams();
    return std::any_of(all.begin(), all.end(), [](const auto& u) { return u.second->up(); });
  };
  const Nanos until_ns = first.NowNs() + kHearSeedsNs;
  while ((!keeper.seeds_tried() || (any_up() && !keeper.ready())) && first.NowNs() < until_ns) {
    co_await Sleep(first, kLookNs);
  }
  began_without_map_ = !keeper.ready();
  const Status foreign = keeper.ForeignNodes();
  if (!foreign.ok()) co_return Error(Code::kInvalidArgument, "--nodes: {}", foreign.message());
  co_return Status();
}

Task<RouterStatus> Router::GatherStatus() {
  RouterStatus status;
  status.version = PANDO_VERSION;
  status.uptime_s = (first_->NowNs() - started_ns_) / kSecond;
  for (size_t i = 0; i < parts_.size(); ++i) {
    // One after the other, so that they may write to the same value.
    auto collect = [part = &parts_[i], &status](Reactor&) -> Task<void> {
      if (part->service != nullptr) CollectStatus(part->server.get(), part->keeper.get(), part->service.get(), &status);
      co_return;
    };
    co_await CallOn(*first_, static_cast<int>(i), std::move(collect));
  }
  status.memory_used_bytes = shared_->memory.used_bytes() + long_shared_->answers.used_bytes();
  status.memory_limit_bytes = shared_->memory.limit_bytes() + long_shared_->answers.limit_bytes();
  rates_.Fill(first_->NowNs() - started_ns_, &status);
  co_return status;
}

Task<HttpPage> Router::RenderStatus(std::string (*render)(const RouterStatus&)) {
  const RouterStatus status = co_await GatherStatus();
  co_return render(status);
}

Task<Status> Router::ListenAll(Reactor& first) {
  ListenOptions listen;
  listen.host = options_.host;
  listen.port = options_.port;
  listen.budgets = budgets_.get();
  listen.reuse_port = parts_.size() > 1;
  if (listen.reuse_port && listen.port != 0) {
    // Another process of the same user could share the port unnoticed. So first listen alone.
    static PortProbe probe;
    ListenOptions alone = listen;
    alone.reuse_port = false;
    auto look = [&first, alone] { return first.Listen(alone, &probe); };
    CO_RETURN_IF_ERROR((co_await ListenPatiently(first, std::move(look))).status());
    first.StopListening(&probe);
    co_await Yield(first);  // gives the probe's socket a turn to close
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto on_reactor = [part = &parts_[i], listen](Reactor& reactor) {
      return ListenPatiently(reactor, [part, listen] { return part->server->Listen(listen); });
    };
    CO_ASSIGN_OR_RETURN(listen.port, co_await CallOn(first, static_cast<int>(i), std::move(on_reactor)));
  }
  port_ = listen.port;
  co_return Status();
}

void Router::Stop() {
  if (group_ == nullptr) return;
  health_.ready.store(false, std::memory_order_relaxed);
  group_->RunOn(0, [this](Reactor& first) { return StopOnReactor(first); });
  // A loop ends when its main task returns, perhaps before the answer to its LeaveCall is delivered. So nothing waits
  // for the answers, and the calls live until Join returns.
  std::vector<LeaveCall> leaves(parts_.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    leaves[i].wait = parts_[i].leave;
    group_->Post(static_cast<int>(i), &leaves[i]);
  }
  group_->Join();
  group_.reset();
}

Task<void> Router::StopOnReactor(Reactor& first) {
  TaskGroup stops;
  for (size_t i = 0; i < parts_.size(); ++i) stops.Spawn(StopPartOn(&first, i));
  co_await stops.Drain();
  if (http_ == nullptr) co_return;
  co_await http_->Shutdown();
  registry_.Remove(http_.get());
  registry_.Remove(cluster_.get());
  http_.reset();
}

Task<void> Router::StopPartOn(Reactor* caller, size_t index) {
  auto stop = [this, part = &parts_[index]](Reactor&) { return StopPart(part); };
  co_await CallOn(*caller, static_cast<int>(index), std::move(stop));
}

Task<void> Router::StopPart(Part* part) {
  // What still runs at the end of the time waits for nodes: it ends with their connections.
  co_await part->server->Shutdown(options_.shutdown_timeout_ms * kMillisecond,
                                  [keeper = part->keeper.get()] { keeper->BeginStop(); });
  co_await part->service->Drain();
  co_await part->keeper->Stop();
}

void Router::RegisterMetrics(Part* part, size_t index) {
  const MetricLabels labels{{"reactor", std::to_string(index)}};
  auto add = [&](std::string name, std::string help, const auto* metric) {
    registry_.Add(part, std::move(name), std::move(help), labels, metric);
  };
  part->server->RegisterMetrics(&registry_, part, labels);
  const RouteKeeperMetrics& keeper = part->keeper->metrics();
  add("kv_router_polls_total", "Long polls for a newer map.", &keeper.polls_total);
  add("kv_router_refreshes_total", "Questions for a newer map because a request met an error.",
      &keeper.refreshes_total);
  add("kv_router_map_changes_total", "Changes of the map.", &keeper.map_changes_total);
  add("kv_router_refused_maps_total", "Maps that did not fit together or were of another cluster.",
      &keeper.refused_maps_total);
  add("kv_router_abandoned_calls_total", "Calls given up because another node has become the right one.",
      &keeper.abandoned_total);
  add("kv_router_connects_total", "Connections made to nodes.", &keeper.upstream.connects_total);
  add("kv_router_connect_failures_total", "Connections to nodes that could not be made.",
      &keeper.upstream.connect_failures_total);
  add("kv_router_broken_connections_total", "Connections to nodes that ended.", &keeper.upstream.broken_total);
  add("kv_router_tripped_nodes_total", "Times that a node was left out because it did not answer.",
      &keeper.upstream.tripped_total);
  add("kv_router_refused_calls_total", "Calls refused because their node was out or had too many.",
      &keeper.upstream.refused_total);
  add("kv_router_refused_share_calls_total",
      "Calls refused because their client has its share of those that take long.",
      &keeper.upstream.refused_share_total);
  add("kv_router_unread_answers_total", "Answers of nodes that were not read for lack of memory.",
      &keeper.upstream.unread_total);
  add("kv_router_refused_long_requests_total",
      "Requests that take long, refused because their client has its share of the memory for them.",
      &part->long_work->refused_total());
  add("kv_router_calls_total", "Calls of nodes.", &keeper.upstream.calls_total);
  const ForwarderMetrics& forward = part->service->forwarder().metrics();
  add("kv_router_point_requests_total", "Requests that name one key.", &forward.requests_total);
  add("kv_router_retries_total", "Tries of such requests after the first.", &forward.retries_total);
  add("kv_router_misrouted_total", "Tries that met a node that was not the master.", &forward.misrouted_total);
  add("kv_router_shared_gets_total", "Gets that waited for one of the same key, and shared the next.",
      &forward.shared_total);
  add("kv_router_gave_up_total", "Requests whose budget ended while they were tried.", &forward.gave_up_total);
  add("kv_router_unknown_outcomes_total", "Writes whose connection to the node ended before the answer.",
      &forward.unknown_total);
  const HedgeMetrics& hedges = part->service->forwarder().hedge_metrics();
  add("kv_router_hedged_reads_total", "Reads that were sent to a second replica as well.", &hedges.sent_total);
  add("kv_router_hedged_reads_won_total", "Reads that the second replica answered first.", &hedges.won_total);
  add("kv_router_hedges_without_token_total", "Reads that took longer than usual after the hedges were used up.",
      &hedges.no_token_total);
  if (ReadCache* cache = part->service->forwarder().cache(); cache != nullptr) {
    add("kv_router_cache_hits_total", "Reads at BOUNDED that the cache has answered.", &cache->metrics().hits_total);
    add("kv_router_cache_misses_total", "Reads at BOUNDED that the cache had no answer for.",
        &cache->metrics().misses_total);
    add("kv_router_cache_evictions_total", "Answers that had to make room in the cache.",
        &cache->metrics().evictions_total);
    add("kv_router_cache_bytes", "Memory of the answers in the cache.", &cache->metrics().bytes);
    add("kv_router_cache_entries_count", "Answers in the cache.", &cache->metrics().entries);
  }
  const WatchRouterMetrics& watches = part->service->watches().metrics();
  add("kv_router_watches_refused_total", "Watches refused because too many wait.", &watches.refused_total);
  add("kv_router_watch_answers_dropped_total", "Answers of nodes to watches that had ended.", &watches.dropped_total);
  registry_.Add(part, "kv_router_point_latency_seconds", "Duration of requests that name one key.", labels,
                &forward.latency_ns, 1e-9);
  for (const auto& method : part->service->method_metrics()) {
    MetricLabels of_method = labels;
    of_method.emplace_back("method", std::string(method->name));
    registry_.Add(part, "kv_router_requests_total", "Requests of other methods.", of_method, &method->requests_total);
    registry_.Add(part, "kv_router_latency_seconds", "Duration of requests of other methods.", of_method,
                  &method->latency_ns, 1e-9);
  }
}

std::string Router::Describe() const {
  std::string nodes;
  for (const std::string& node : options_.nodes) nodes += (nodes.empty() ? "" : ",") + node;
  return fmt::format("kvrouter ready{}: thrift {}, {}, {} reactor{}, nodes {}",
                     began_without_map_ ? ", but without a map of the cluster so far" : "",
                     FormatHostPort(options_.host, port_),
                     http_port_ == 0 ? "no http" : "http " + FormatHostPort(options_.host, http_port_), parts_.size(),
                     parts_.size() == 1 ? "" : "s", nodes);
}

}  // namespace pando
