#include "src/router/route_keeper.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "src/io/timed_wait.h"

namespace pando {

namespace {

constexpr Nanos kPauseNs = 20 * kMillisecond;  // after a node that could not be asked
constexpr Nanos kAnswerNs = 2 * kMillisecond;
constexpr Nanos kLogIntervalNs = 10 * kSecond, kTroubleLogIntervalNs = 60 * kSecond;
constexpr size_t kMostNamed = 3;  // nodes in a message
constexpr Nanos kRefusalNs = 10 * kSecond;
constexpr size_t kMaxRefusals = 1024, kMaxRefusalBytes = 512;
constexpr Nanos kRefreshPauseNs = kMillisecond;  // between two rounds of questions

}  // namespace

RouteKeeper::RouteKeeper(Reactor& reactor, RouteKeeperOptions options)
    : reactor_(reactor),
      options_(std::move(options)),
      changed_(reactor),
      trouble_(Error(Code::kUnavailable, "none of the nodes has answered yet")) {}

RouteKeeper::~RouteKeeper() {
  CHECK_EQ(tasks_.running(), 0u) << "a RouteKeeper was destroyed before Stop had finished";
}

void RouteKeeper::Start(std::function<void()> on_complete) {
  on_complete_ = std::move(on_complete);
  turn_ = reactor_.Random();
  AdoptNodes();
  tasks_.Spawn(Poll());
}

Task<void> RouteKeeper::Stop() {
  BeginStop();
  co_await tasks_.Drain();
}

void RouteKeeper::BeginStop() {
  if (stopping_) return;
  stopping_ = true;
  WakeAll();
  for (auto& [address, upstream] : upstreams_) tasks_.Spawn(StopUpstream(upstream));
  upstreams_.clear();
}

Task<void> RouteKeeper::StopUpstream(std::shared_ptr<Upstream> upstream) { co_await upstream->Stop(); }

std::shared_ptr<Upstream> RouteKeeper::MakeUpstream(const std::string& address) {
  UpstreamOptions upstream = options_.upstream;
  upstream.address = address;
  upstream.metrics = &metrics_.upstream;
  upstream.on_up = [this] { TellNews(); };
  upstream.admit = [this, address](const Uuid& cluster) { return Admit(address, cluster); };
  auto made = std::make_shared<Upstream>(reactor_, std::move(upstream));
  made->Start();
  return made;
}

void RouteKeeper::AdoptNodes() {
  if (stopping_) return;
  std::set<std::string> wanted(options_.seeds.begin(), options_.seeds.end());
  for (const auto& [id, node] : map_.nodes()) {
    if (!node.address.empty()) wanted.insert(node.address);
  }
  for (auto at = upstreams_.begin(); at != upstreams_.end();) {
    if (wanted.contains(at->first)) {
      ++at;
      continue;
    }
    options_.cluster->Forget(at->first);
    tasks_.Spawn(StopUpstream(std::move(at->second)));
    at = upstreams_.erase(at);
  }
  for (const std::string& address : wanted) {
    if (!upstreams_.contains(address)) upstreams_[address] = MakeUpstream(address);
  }
}

std::shared_ptr<Upstream> RouteKeeper::NodeOf(NodeId node) const {
  const RouteNode* known = map_.FindNode(node);
  if (known == nullptr) return nullptr;
  const auto at = upstreams_.find(known->address);
  return at == upstreams_.end() ? nullptr : at->second;
}

NodeId RouteKeeper::ChooseReplica(const Route& route, NodeId avoid) const {
  std::vector<std::pair<NodeId, size_t>> able;
  for (const NodeId node : route.in_sync) {
    const std::shared_ptr<Upstream> upstream = NodeOf(node);
    if (node != avoid && upstream != nullptr && upstream->up()) able.emplace_back(node, upstream->calls_in_progress());
  }
  if (able.empty()) return route.master;
  const auto& a = able[reactor_.Random() % able.size()];
  const auto& b = able[reactor_.Random() % able.size()];
  return a.second <= b.second ? a.first : b.first;
}

bool RouteKeeper::HasAnother(const Route& route, NodeId asked) const {
  return std::any_of(route.in_sync.begin(), route.in_sync.end(), [this, asked](NodeId node) {
    const std::shared_ptr<Upstream> upstream = node == asked ? nullptr : NodeOf(node);
    return upstream != nullptr && upstream->up();
  });
}

std::shared_ptr<Upstream> RouteKeeper::AnyNode() {
  for (size_t i = 0; i < upstreams_.size(); ++i) {
    auto at = upstreams_.begin();
    std::advance(at, static_cast<ptrdiff_t>(turn_++ % upstreams_.size()));
    if (at->second->up()) return at->second;
  }
  return nullptr;
}

bool RouteKeeper::ApplyHint(uint32_t partition, std::string_view master_address, Epoch epoch) {
  if (!map_.ApplyHint(partition, master_address, epoch)) return false;
  OnMapChanged();
  return true;
}

void RouteKeeper::TellNews() {
  ++news_;
  WakeAll();
}

void RouteKeeper::WakeAll() {
  changed_.NotifyAll();
  for (NewsAwaiter* waiter : std::exchange(news_waiters_, {})) {
    reactor_.CancelTimer(waiter);
    reactor_.Schedule(waiter->handle);
  }
}

void RouteKeeper::NewsAwaiter::await_suspend(std::coroutine_handle<> h) {
  handle = h;
  index = keeper->news_waiters_.size();
  keeper->news_waiters_.push_back(this);
  on_fire = [](Timer* t) {
    auto* late = static_cast<NewsAwaiter*>(t);
    std::vector<NewsAwaiter*>& all = late->keeper->news_waiters_;
    all[late->index] = all.back();
    all[late->index]->index = late->index;
    all.pop_back();
    late->keeper->reactor_.Schedule(late->handle);
  };
  keeper->reactor_.ArmTimer(this, until_ns);
}

void RouteKeeper::OnMapChanged() {
  metrics_.map_changes_total.Add();
  for (InFlight* call : in_flight_) {
    if (!call->Outdated(map_)) continue;
    metrics_.abandoned_total.Add();
    call->client_->Abandon(call->exchange_, Error(Code::kAborted, "another node is asked instead by now"));
  }
  TellNews();
}

void RouteKeeper::Add(InFlight* call, RpcClient* client, RpcExchange* exchange) {
  call->client_ = client;
  call->exchange_ = exchange;
  call->index_ = in_flight_.size();
  in_flight_.push_back(call);
}

void RouteKeeper::Remove(InFlight* call) {
  in_flight_[call->index_] = in_flight_.back();
  in_flight_[call->index_]->index_ = call->index_;
  in_flight_.pop_back();
}

Task<Status> RouteKeeper::UntilComplete(Nanos deadline_ns) {
  if (map_.complete()) co_return Status();
  // The caller still has to answer.
  const Nanos until_ns = deadline_ns - kAnswerNs;
  co_await WaitUntil(reactor_, changed_, until_ns, [this] { return stopping_ || map_.complete(); });
  if (map_.complete()) co_return Status();
  co_return Error(Code::kUnavailable, "this router has no map of the cluster: {}", trouble_.message());
}

// -- what is wrong

Status RouteKeeper::Admit(const std::string& address, const Uuid& cluster) {
  const NodeId id = map_.NodeAt(address);
  return options_.cluster->Admit(address, id == 0 ? address : fmt::format("node {} at {}", id, address), cluster);
}

bool RouteKeeper::seeds_tried() const {
  return std::all_of(options_.seeds.begin(), options_.seeds.end(), [this](const std::string& seed) {
    const auto at = upstreams_.find(seed);
    return at != upstreams_.end() && at->second->tried();
  });
}

Status RouteKeeper::ForeignNodes() const {
  const std::map<std::string, std::string> all = foreign();
  for (const std::string& seed : options_.seeds) {
    if (const auto at = all.find(seed); at != all.end()) return Error(Code::kUnavailable, "{}", at->second);
  }
  return NoNodeLeft();
}

// Whether all nodes of the map are foreign.
Status RouteKeeper::NoNodeLeft() const {
  const std::map<std::string, std::string> all = foreign();
  const auto& nodes = map_.nodes();
  const auto is_ours = [&all](const auto& node) { return !all.contains(node.second.address); };
  if (all.empty() || std::any_of(nodes.begin(), nodes.end(), is_ours)) return {};
  return Error(Code::kUnavailable, "no node of the cluster is left where the map says: {}", all.begin()->second);
}

std::string RouteKeeper::WhyNoMap() const {
  std::string why;
  size_t named = 0;
  for (const auto& [address, upstream] : upstreams_) {
    if (upstream->up()) continue;
    if (++named > kMostNamed) return why + "; and others";
    why += (why.empty() ? "" : "; ") + upstream->trouble().message();
  }
  return why.empty() ? trouble_.message() : why;
}

// A wrong address in --nodes takes no router that serves out of a load balancer, where it would be wrong in all of
// them.
std::string RouteKeeper::WhyNotReady() const {
  const Status foreign = map_.complete() ? NoNodeLeft() : ForeignNodes();
  if (!foreign.ok()) return foreign.message();
  return map_.complete() ? std::string() : "no map of the cluster: " + WhyNoMap();
}

void RouteKeeper::NoteRefusal(uint32_t partition, const std::string& why) {
  const Nanos now_ns = reactor_.NowNs();
  if (refusals_.size() >= kMaxRefusals) {
    std::erase_if(refusals_, [now_ns](const auto& r) { return r.second.at_ns + kRefusalNs < now_ns; });
    if (refusals_.size() >= kMaxRefusals) return;
  }
  refusals_[partition] = {now_ns, why.substr(0, kMaxRefusalBytes)};
}

std::map<uint32_t, std::string> RouteKeeper::Refusals() const {
  std::map<uint32_t, std::string> recent;
  for (const auto& [partition, refusal] : refusals_) {
    if (refusal.at_ns + kRefusalNs >= reactor_.NowNs()) recent[partition] = refusal.why;
  }
  return recent;
}

// One reactor tells it for all.
void RouteKeeper::LogTrouble() {
  if (reactor_.index() != 0 || !seeds_tried() || reactor_.NowNs() < next_trouble_log_ns_) return;
  next_trouble_log_ns_ = reactor_.NowNs() + kTroubleLogIntervalNs;
  if (!map_.complete()) {
    LOG(WARNING) << "this router has no map of the cluster: " << WhyNoMap();
    return;
  }
  size_t named = 0;
  for (const auto& [address, why] : foreign()) {
    if (++named > kMostNamed) break;
    LOG(WARNING) << why;
  }
}

// -- asking

Status RouteKeeper::Refused(Status why) {
  metrics_.refused_maps_total.Add();
  if (reactor_.NowNs() >= next_log_ns_) {
    LOG(WARNING) << why.message();
    next_log_ns_ = reactor_.NowNs() + kLogIntervalNs;
  }
  return why;
}

Task<Status> RouteKeeper::AskMap(std::shared_ptr<Upstream> node, Nanos wait_ns, bool* contradicts) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<Upstream::Link> link, node->Pick(CallKind::kMap));
  api::Routing_getMap_args args;
  api::Routing_getMap_result result;
  const Nanos budget_ns = wait_ns + options_.answer_ns;
  args.context.budget_ms = static_cast<int32_t>(budget_ns / kMillisecond);
  args.request.known_version = contradicts != nullptr ? 0 : map_.version();
  const Uuid followed = options_.cluster->id();
  args.request.wait_ms = static_cast<int32_t>(wait_ns / kMillisecond);
  if (!followed.IsNil()) args.request.cluster_id = followed.ToString();
  Status asked = co_await link->client->Call("getMap", &args, &result, budget_ns + options_.answer_ns);
  if (asked.code() == Code::kAborted && !link->client->broken().ok()) asked = link->client->broken();
  if (asked.code() == Code::kDeadline) node->NoteSilence(budget_ns);
  CO_RETURN_IF_ERROR(asked);
  node->NoteAnswer();
  if (result.__isset.error) {
    co_return Refused(Error(Code::kUnavailable, "{} does not say where the partitions are: {}", node->address(),
                            result.error.message));
  }
  const uint64_t before = map_.changes();
  if (const std::optional<Uuid> cluster = Uuid::Parse(result.success.cluster_id); cluster && !cluster->IsNil()) {
    if (Status admitted = Admit(node->address(), *cluster); !admitted.ok()) co_return Refused(std::move(admitted));
  }
  if (contradicts != nullptr) *contradicts = map_.IsContradictedBy(result.success);
  if (Status applied = map_.Apply(result.success, node->address()); !applied.ok()) {
    co_return Refused(std::move(applied));
  }
  if (map_.changes() != before) {
    AdoptNodes();
    OnMapChanged();
    if (on_complete_ && map_.complete()) std::exchange(on_complete_, nullptr)();
  }
  co_return Status();
}

Task<void> RouteKeeper::Poll() {
  while (!stopping_) {
    Status asked = Error(Code::kUnavailable, "none of the nodes can be connected to");
    const uint64_t before = map_.changes();
    const std::shared_ptr<Upstream> node = AnyNode();
    if (node != nullptr) {
      metrics_.polls_total.Add();
      asked = co_await AskMap(node, map_.complete() ? options_.poll_ns : 0);
    } else if (!upstreams_.empty()) {
      asked = upstreams_.begin()->second->trouble();
    }
    if (asked.ok() && map_.changes() != before) {
      co_await Sleep(reactor_, kRefreshPauseNs);
      continue;
    }
    if (!asked.ok()) trouble_ = std::move(asked);
    LogTrouble();
    // Also a node that answers at once, without news, is not asked again at once.
    const Nanos until_ns = reactor_.NowNs() + kPauseNs;
    co_await WaitUntil(reactor_, changed_, until_ns, [this] { return stopping_; });
  }
}

void RouteKeeper::Refresh() {
  if (refreshing_ || stopping_) return;
  refreshing_ = true;
  metrics_.refreshes_total.Add();
  tasks_.Spawn(AskAll());
}

Task<bool> RouteKeeper::IsContradicted() {
  std::vector<std::shared_ptr<Upstream>> up;
  for (const auto& [address, upstream] : upstreams_) {
    if (upstream->up()) up.push_back(upstream);
  }
  bool any = false;
  for (const std::shared_ptr<Upstream>& node : up) {
    if (stopping_) co_return false;
    bool contradicts = false;
    const Status asked = co_await AskMap(node, 0, &contradicts);
    if (asked.ok() && !contradicts) co_return false;
    any |= asked.ok();
  }
  co_return any;
}

// One after the other, until one knows more: a node that is cut off from the topology knows nothing new.
Task<void> RouteKeeper::AskAll() {
  const uint64_t before = map_.changes();
  for (size_t i = 0; i < upstreams_.size() && !stopping_ && map_.changes() == before; ++i) {
    const std::shared_ptr<Upstream> node = AnyNode();
    if (node == nullptr) break;
    if (Status asked = co_await AskMap(node, 0); !asked.ok()) trouble_ = std::move(asked);
  }
  const Nanos now_ns = reactor_.NowNs();
  if (map_.changes() != before || !map_.complete()) {
    vain_since_ns_ = 0;
  } else if (vain_since_ns_ == 0) {
    vain_since_ns_ = now_ns;
  } else if (now_ns - vain_since_ns_ >= options_.doubt_ns) {
    vain_since_ns_ = 0;
    if (co_await IsContradicted()) {
      LOG(WARNING) << "all nodes that answer know only of an older map than this router, which believes them now";
      map_.Doubt();
      const std::shared_ptr<Upstream> node = AnyNode();
      if (node != nullptr) static_cast<void>(co_await AskMap(node, 0));
    }
  }
  const Nanos until_ns = reactor_.NowNs() + kRefreshPauseNs;
  co_await WaitUntil(reactor_, changed_, until_ns, [this] { return stopping_; });
  refreshing_ = false;
}

}  // namespace pando
