#include "src/router/upstream.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "gen-cpp/Kv.h"
#include "src/base/address.h"
#include "src/io/timed_wait.h"

namespace pando {

namespace {

constexpr char kOutOfOrderReplies[] = "out_of_order_replies";
constexpr int32_t kApiVersion = 2;

}  // namespace

Upstream::Upstream(Reactor& reactor, UpstreamOptions options)
    : reactor_(reactor),
      options_(std::move(options)),
      changed_(reactor),
      trouble_(Error(Code::kUnavailable, "{} has not been connected to yet", options_.address)) {}

Upstream::~Upstream() { CHECK_EQ(tasks_.running(), 0u) << "an Upstream was destroyed before its Stop had finished"; }

void Upstream::Start() {
  for (Slot& slot : slots_) tasks_.Spawn(Keep(&slot));
}

Task<void> Upstream::Stop() {
  stopping_ = true;
  changed_.NotifyAll();
  co_await tasks_.Drain();
}

Task<void> Upstream::Keep(Slot* slot) {
  Nanos retry_ns = options_.first_retry_ns;
  while (!stopping_) {
    auto link = std::make_shared<Link>();
    slot->ended = false;
    Status status = co_await Connect(link.get(), slot);
    if (status.ok()) {
      options_.metrics->connects_total.Add();
      link->up = true;
      tried_ = true;
      slot->link = link;
      silent_calls_ = 0;
      retry_ns = options_.first_retry_ns;
      if (options_.on_up) options_.on_up();
      // OnClosed, a trip of the breaker or Stop ends the wait.
      while (!slot->ended && !stopping_) co_await changed_.Wait();
      status = link->client->broken();
      if (!stopping_) options_.metrics->broken_total.Add();
      link->up = false;
      slot->link = nullptr;
    } else {
      options_.metrics->connect_failures_total.Add();
    }
    tried_ = true;
    if (!status.ok()) {
      const bool named = status.message().find(options_.address) != std::string::npos;
      trouble_ = Error(Code::kUnavailable, "{}{}", named ? "" : options_.address + ": ", status.message());
    }
    co_await link->client->Close();
    changed_.NotifyAll();
    // The time is spread, so that a node that comes back is not met by all connections at once.
    const Nanos until_ns = reactor_.NowNs() + retry_ns / 2 + static_cast<Nanos>(reactor_.Random() % (retry_ns / 2));
    co_await WaitUntil(reactor_, changed_, until_ns, [this] { return stopping_; });
    retry_ns = std::min(2 * retry_ns, options_.max_retry_ns);
  }
}

Task<Status> Upstream::Connect(Link* link, Slot* slot) {
  RpcClientOptions client;
  client.max_calls = kMaxCallsPerLink;
  if (slot != &slots_.back()) client.memory = options_.memory;  // a map is needed in any case
  const std::span<const Slot> long_slots = SlotsOf(CallKind::kLong);
  const bool is_long = std::any_of(long_slots.begin(), long_slots.end(), [slot](const Slot& s) { return &s == slot; });
  if (is_long && options_.answers != nullptr) client.memory = options_.answers;
  client.on_closed = [this, slot] {
    slot->ended = true;
    changed_.NotifyAll();
  };
  link->client = std::make_unique<RpcClient>(reactor_, std::move(client));
  CO_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(options_.address));
  CO_RETURN_IF_ERROR(co_await link->client->Connect(at.host, at.port, options_.connect_timeout_ns));
  co_return co_await SayHello(link);
}

Task<Status> Upstream::SayHello(Link* link) {
  api::Kv_hello_args args;
  api::Kv_hello_result result;
  args.request.client_name = std::string(kRouterClientName) + PANDO_VERSION;
  args.request.api_version = kApiVersion;
  args.request.features = {kOutOfOrderReplies};
  Status said = co_await link->client->Call("hello", &args, &result, options_.connect_timeout_ns);
  // A hello carries out nothing, so nobody need know whether it was.
  if (said.code() == Code::kAborted && !link->client->broken().ok()) said = link->client->broken();
  CO_RETURN_IF_ERROR(said);
  if (result.__isset.error) {
    co_return Error(Code::kUnavailable, "it refuses this router: {}", result.error.message);
  }
  if (!result.success.cluster_id.empty() && options_.admit) {
    const std::optional<Uuid> cluster = Uuid::Parse(result.success.cluster_id);
    if (!cluster || cluster->IsNil()) {
      co_return Error(Code::kUnavailable, "its cluster \"{}\" is not a UUID", result.success.cluster_id);
    }
    CO_RETURN_IF_ERROR(options_.admit(*cluster));
  }
  const std::vector<std::string>& features = result.success.features;
  link->clocks = std::find(features.begin(), features.end(), "clocks") != features.end();
  reads_slices_ = std::find(features.begin(), features.end(), "slices") != features.end();
  const std::vector<std::string>& accepted = result.success.accepted_features;
  if (std::find(accepted.begin(), accepted.end(), kOutOfOrderReplies) == accepted.end()) {
    co_return Error(Code::kUnsupported, "it does not answer out of order; is it an older kvnode?");
  }
  co_return Status();
}

std::span<const Upstream::Slot> Upstream::SlotsOf(CallKind kind) const {
  const std::span<const Slot> all(slots_);
  if (kind == CallKind::kPoint) return all.first(kPointLinks);
  if (kind == CallKind::kWaiting) return all.subspan(kPointLinks, kWaitingLinks);
  return kind == CallKind::kLong ? all.subspan(kPointLinks + kWaitingLinks, kLongLinks) : all.last(kMapLinks);
}

bool Upstream::IsUp(CallKind kind) const {
  const std::span<const Slot> slots = SlotsOf(kind);
  return std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.link != nullptr && s.link->up; });
}

bool Upstream::up() const { return IsUp(CallKind::kPoint); }

size_t Upstream::calls_in_progress() const {
  size_t calls = 0;
  for (const Slot& slot : slots_) calls += slot.link == nullptr ? 0 : slot.link->client->calls_in_progress();
  return calls;
}

size_t Upstream::long_calls_in_progress() const {
  size_t calls = 0;
  for (const Slot& slot : SlotsOf(CallKind::kLong)) {
    calls += slot.link == nullptr ? 0 : slot.link->client->calls_in_progress();
  }
  return calls;
}

Result<std::shared_ptr<Upstream::Link>> Upstream::Pick(CallKind kind, uint64_t client) {
  const std::shared_ptr<Link>* best = nullptr;
  for (const Slot& slot : SlotsOf(kind)) {
    if (slot.link == nullptr || !slot.link->up || !slot.link->client->connected()) continue;
    if (best == nullptr || slot.link->client->unanswered() < (*best)->client->unanswered()) best = &slot.link;
  }
  if (best == nullptr) {
    options_.metrics->refused_total.Add();
    return trouble_.ok() ? Error(Code::kUnavailable, "{} is not connected", options_.address) : trouble_;
  }
  const size_t most = HasShares(kind) ? kMaxLongCalls : kMaxCallsPerLink;
  if ((*best)->client->unanswered() >= most) {
    options_.metrics->refused_total.Add();
    return Error(Code::kOverloaded, "{} has not answered {} requests of this router yet; retry later", options_.address,
                 most);
  }
  const size_t mine = (*best)->client->unanswered_of(client);
  if (HasShares(kind) && mine >= kLongShare * (most - (*best)->client->unanswered())) {
    options_.metrics->refused_share_total.Add();
    return Error(Code::kOverloaded,
                 "{} has not answered {} requests of this client yet, which is its share of the {} that may take long; "
                 "retry later",
                 options_.address, mine, most);
  }
  options_.metrics->calls_total.Add();
  return *best;
}

void Upstream::NoteSilence(Nanos waited_ns) {
  if (waited_ns < kSilenceNs || ++silent_calls_ < kMaxSilentCalls) return;
  silent_calls_ = 0;
  ++trips_;
  options_.metrics->tripped_total.Add();
  trouble_ = Error(Code::kUnavailable, "{} has left {} requests in a row without an answer", options_.address,
                   kMaxSilentCalls);
  for (Slot& slot : slots_) {
    if (slot.link == nullptr) continue;
    slot.link->up = false;
    slot.ended = true;
  }
  changed_.NotifyAll();
}

}  // namespace pando
