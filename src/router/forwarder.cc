#include "src/router/forwarder.h"

#include <algorithm>
#include <utility>

#include "gen-cpp/pando_constants.h"
#include "src/base/hash.h"
#include "src/kvapi/kv_errors.h"
#include "src/kvapi/kv_requests.h"
#include "src/router/client_share.h"
#include "src/router/point_request.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

namespace {

// What is kept of a node's budget for the way back.
constexpr Nanos kWayBackNs = kMillisecond;
// So long, and at most half of what is left, a get waits for a replica that need not be the one that answers.
constexpr Nanos kReplicaPatienceNs = 300 * kMillisecond;

struct Times {
  Nanos patience_ns, budget_ns;  // how long the node is waited for, and how long it may take
};

Times TimesOf(const PointCall& call, Nanos now_ns) {
  const Nanos left_ns = std::max(call.deadline_ns - now_ns, kMillisecond);
  if (!call.may_ask_another) return {left_ns + Forwarder::kGraceNs, left_ns - kWayBackNs};
  const Nanos patience_ns = std::min(kReplicaPatienceNs, left_ns / 2);
  // The node's own answer that it was too slow must come first: whoever says that is not silent.
  return {patience_ns, patience_ns - std::max(patience_ns / 50, 2 * kWayBackNs)};
}

// As that of CallTerms.
uint64_t ClientOf(const RequestId& id, const Identity* identity) {
  return identity != nullptr ? ShareOf(*identity) : reinterpret_cast<uintptr_t>(id.connection);
}

bool MayWait(const api::Context& context) {
  return context.level == api::g_pando_constants.LEVEL_BOUNDED ||
         (context.level == api::g_pando_constants.LEVEL_SESSION && !context.session.empty());
}

// Half of it must be worth asking for.
constexpr int32_t kLeastCachedStalenessMs = 2;

}  // namespace

Forwarder::Forwarder(RpcServer* server, RouteKeeper* keeper, const PointOptions& options)
    : server_(server), keeper_(keeper), hedger_(server, keeper, options.hedge_percent), stamps_(options.stamps) {
  if (options.cache_bytes > 0) cache_ = std::make_unique<ReadCache>(options.cache_bytes, stamps_.get());
}

void Forwarder::OnRequest(const RpcRequest& request, const PointMethod& method) {
  metrics_.requests_total.Add();
  MemoryGrant memory(&server_->account());
  const size_t bytes = kCallOverheadBytes + 2 * request.body.size();
  if (!memory.TryGrow(bytes)) return server_->ReplyOverloaded(request.id, method.name, bytes);
  std::string usual;
  std::string_view body = request.body;
  std::optional<PointRequestView> view;
  if (request.id.protocol == WireProtocol::kBinary) view = ViewPointRequest(body);
  if (!view) {
    const Status decoded = method.normalize(&server_->codec(), request.id.protocol, body, &memory, &usual);
    if (!decoded.ok()) return ReplyUndecodable(server_, request.id, method.name, decoded);
    body = usual;
    view = ViewPointRequest(body);
    CHECK(view.has_value()) << "encoded arguments of " << method.name << " are not in the usual form";
  }
  auto call = std::make_unique<PointCall>();
  if (!view->context.empty()) {
    const Status decoded = server_->codec().Read(WireProtocol::kBinary, view->context, &call->context);
    if (!decoded.ok()) return ReplyUndecodable(server_, request.id, method.name, decoded);
  }
  call->server = server_;
  call->method = &method;
  call->must_arrive = method.is_write;
  call->id = request.id;
  call->memory = std::move(memory);
  call->rest = view->rest;
  call->key =
      std::string_view(call->rest).substr(static_cast<size_t>(view->key.data() - view->rest.data()), view->key.size());
  call->hash = HashId(view->key);
  call->only_master = method.is_write || call->context.level == api::g_pando_constants.LEVEL_DEFAULT ||
                      call->context.level == api::g_pando_constants.LEVEL_LINEARIZABLE;
  call->budget_ms = server_->options().BudgetMs(call->context.budget_ms);
  call->received_ns = server_->reactor().NowNs();
  call->deadline_ns = call->received_ns + call->budget_ms * kMillisecond;
  if (AnswerFromCache(call.get(), *view)) return;
  if (method.is_write && stamps_ != nullptr) {
    call->stamps = stamps_.get();
    stamps_->Count(call->hash);
  }
  server_->BeginCall(request.id);
  const Identity* identity = server_->IdentityOf(request.id);
  call->may_wait = !method.is_write && MayWait(call->context);
  if (call->may_wait) call->owner = call->client = ClientOf(request.id, identity);
  call->shareable = method.name == "get" && request.id.protocol == WireProtocol::kBinary && view->only_key &&
                    IsPlainRead(call->context) && identity != nullptr && identity->principal.empty();
  if (sharing_.Join(&call)) return metrics_.shared_total.Add();
  tasks_.Spawn(Run(std::move(call)));
}

// Sessions see what they have seen, whoever wrote it; other levels ask the master.
bool Forwarder::AnswerFromCache(PointCall* call, const PointRequestView& view) {
  api::Context& context = call->context;
  if (cache_ == nullptr || call->method->name != "get" || !view.only_key || context.budget_ms < 0 ||
      context.level != api::g_pando_constants.LEVEL_BOUNDED || context.max_staleness_ms < kLeastCachedStalenessMs ||
      !context.session.empty() || !context.principal.empty() || call->id.protocol != WireProtocol::kBinary) {
    return false;
  }
  const Identity* identity = server_->IdentityOf(call->id);
  if (identity == nullptr) return false;
  std::string key = ReadCache::KeyOf(identity->principal, context.name_space, call->key);
  const Nanos max_staleness_ns = context.max_staleness_ms * kMillisecond;
  const std::string* body = cache_->Find(key, call->hash, server_->reactor().NowNs(), max_staleness_ns);
  if (body == nullptr) {
    context.max_staleness_ms /= 2;
    call->fill.cache = cache_.get();
    call->fill.key = std::move(key);
    call->fill.staleness_ns = context.max_staleness_ms * kMillisecond;
    return false;
  }
  if (server_->Exhausted()) {
    server_->ReplyOverloaded(call->id, call->method->name);
    return true;
  }
  const MessageHeader header = RpcServer::Header(call->id, call->method->name, apache::thrift::protocol::T_REPLY);
  server_->codec().WriteEncoded(header, *body, {}, server_->BeginReply(call->id));
  server_->EndReply(call->id);
  return true;
}

Task<void> Forwarder::Run(std::unique_ptr<PointCall> call) {
  Reactor& reactor = server_->reactor();
  Backoff backoff(reactor);
  while (!call->answered) {
    const RetryCause cause = co_await Try(call.get());
    if (call->answered) break;
    if (cause == RetryCause::kNone) {
      call->Refuse(call->error);
      break;
    }
    metrics_.retries_total.Add();
    const bool busy = cause == RetryCause::kBusy;
    const Nanos next_ns =
        reactor.NowNs() + backoff.Next(cause, busy ? call->error.retry_after_ms * kMillisecond : Nanos{0});
    if (next_ns >= call->deadline_ns || keeper_->stopping() || server_->IsClosed(call->id)) {
      metrics_.gave_up_total.Add();
      call->Refuse(GaveUp(call->error, backoff.tries(), call->budget_ms));
      break;
    }
    if (busy) {
      co_await Sleep(reactor, next_ns - reactor.NowNs());
    } else {
      // What this try has learned of the map is worth another at once, but not for ever: two nodes may each call
      // the other master.
      const uint64_t seen = backoff.tries() <= kQuickTries ? call->seen : keeper_->news();
      co_await keeper_->UntilNews(seen, next_ns);
    }
  }
  GoOn(call.get());
  End(call.get());
}

Task<void> Forwarder::Drain() {
  co_await tasks_.Drain();
  co_await hedger_.Drain();
}

void Forwarder::GoOn(PointCall* call) {
  std::unique_ptr<PointCall> next = sharing_.Leave(call);
  for (std::unique_ptr<PointCall>& sharer : std::exchange(call->sharers, {})) {
    server_->reactor().CancelTimer(sharer.get());
    sharer->lead = nullptr;
    if (sharer->answered) {
      End(sharer.get());
    } else {
      tasks_.Spawn(Run(std::move(sharer)));  // its budget may be longer
    }
  }
  if (next != nullptr) tasks_.Spawn(Run(std::move(next)));
}

void Forwarder::End(PointCall* call) {
  if (!call->ended) {
    metrics_.latency_ns.Record(static_cast<uint64_t>(server_->reactor().NowNs() - call->received_ns));
  }
  call->End();
}

std::shared_ptr<Upstream> Forwarder::Choose(PointCall* call) {
  const Route& route = keeper_->map().RouteOfHash(call->hash);
  call->asked = route.master;
  call->may_ask_another = false;
  if (call->only_master) return keeper_->NodeOf(route.master);
  call->asked = keeper_->ChooseReplica(route, call->avoid);
  call->may_ask_another = call->asked != route.master || (call->avoid == 0 && keeper_->HasAnother(route, call->asked));
  return keeper_->NodeOf(call->asked);
}

Status Forwarder::SendTo(Upstream::Link* link, PointCall* call, Nanos budget_ns) {
  call->context.budget_ms = static_cast<int32_t>(std::max(budget_ns / kMillisecond, Nanos{1}));
  if (call->method->is_write && link->clocks) call->context.hlc = std::max(call->context.hlc, keeper_->hlc());
  call->has_error = false;
  call->fill.asked_ns = server_->reactor().NowNs();
  if (call->fill.cache != nullptr) call->fill.stamp = stamps_->Of(call->hash);
  std::string head(kContextFieldHead);
  server_->codec().WriteStruct(call->context, &head);
  return link->client->Send(WireProtocol::kBinary, call->method->name, head, call->rest);
}

Task<RetryCause> Forwarder::Try(PointCall* call) {
  Reactor& reactor = server_->reactor();
  if (!keeper_->map().complete()) {
    const Status complete = co_await keeper_->UntilComplete(call->deadline_ns);
    if (!complete.ok()) {
      call->Fail(complete);
      co_return RetryCause::kNone;
    }
  }
  call->seen = keeper_->news();
  const std::shared_ptr<Upstream> upstream = Choose(call);
  if (upstream == nullptr) {
    call->Fail(Error(Code::kUnavailable, "partition {} has no master that this router knows",
                     keeper_->map().RouteOfHash(call->hash).partition));
    keeper_->Refresh();
    co_return RetryCause::kDown;
  }
  Result<std::shared_ptr<Upstream::Link>> picked =
      upstream->Pick(call->may_wait ? CallKind::kWaiting : CallKind::kPoint, call->client);
  if (!picked.ok()) {
    call->Fail(picked.status());
    call->avoid = call->asked;
    if (picked.code() == Code::kOverloaded) co_return RetryCause::kBusy;
    keeper_->Refresh();
    co_return RetryCause::kDown;
  }
  const std::shared_ptr<Upstream::Link> link = *std::move(picked);
  const auto [patience_ns, budget_ns] = TimesOf(*call, reactor.NowNs());
  if (Status sent = SendTo(link.get(), call, budget_ns); !sent.ok()) {
    call->Fail(sent);
    if (sent.code() == Code::kInvalidArgument) {  // it is too long with what the router adds
      call->error = MakeError(ApiCode::kTooLarge, sent.message());
      co_return RetryCause::kNone;
    }
    co_return sent.code() == Code::kOverloaded ? RetryCause::kBusy : RetryCause::kDown;
  }
  // The call stays where it is: Run owns it until it has ended.
  if (call->may_repeat()) keeper_->Add(call, link->client.get(), call);
  const Nanos sent_ns = reactor.NowNs();
  const std::shared_ptr<Hedge> hedge = hedger_.Begin(call, link->client.get(), upstream.get());
  co_await link->client->Begin(call, patience_ns);
  if (hedge != nullptr) hedger_.End(hedge.get());
  if (call->may_repeat()) keeper_->Remove(call);
  // A hedge may have answered instead.
  if (call->status.ok()) upstream->NoteAnswer();
  if (call->answered && call->status.ok()) {
    RecentLatency& latency = call->method->is_write ? upstream->writes() : upstream->gets();
    latency.Record(reactor.NowNs() - sent_ns, reactor.NowNs());
  }
  keeper_->NoteHlc(call->hlc);
  if (call->answered) co_return RetryCause::kNone;
  if (!call->has_error) {
    if (call->status.code() == Code::kDeadline) upstream->NoteSilence(patience_ns);
    if (call->status.code() == Code::kOverloaded) {  // of this router: no write's answer is given up for that
      keeper_->metrics().upstream.unread_total.Add();
      call->Fail(call->status);
      co_return RetryCause::kBusy;
    }
    co_return JudgeLost(call, call->status);
  }
  co_return JudgeError(call, upstream->address());
}

// The node has answered with an error.
RetryCause Forwarder::JudgeError(PointCall* call, const std::string& address) {
  // Its budget was a part of that of the request, so this is no last word.
  if (call->may_ask_another && call->error.code == static_cast<int32_t>(ApiCode::kDeadline)) {
    return JudgeLost(call, Error(Code::kAborted, "{} has not answered in time", address));
  }
  const RetryCause cause = CauseOf(call->error);
  const bool too_stale = call->error.code == static_cast<int32_t>(ApiCode::kTooStale);
  if (too_stale && call->asked == keeper_->map().RouteOfHash(call->hash).master && ++call->too_stale >= kMostTooStale) {
    call->error = GaveUp(call->error, call->too_stale, call->budget_ms);
    return RetryCause::kNone;
  }
  if (cause == RetryCause::kMisrouted) NoteMisrouted(call);
  if (cause == RetryCause::kNotNow) {
    keeper_->NoteRefusal(keeper_->map().RouteOfHash(call->hash).partition, call->error.message);
    keeper_->Refresh();
  }
  return cause;
}

// The request was sent, and no answer came, or one that it takes too long.
RetryCause Forwarder::JudgeLost(PointCall* call, const Status& status) {
  // One other replica has its time. Then the master gets all that is left.
  const bool is_second = call->avoid != 0;
  call->only_master |= is_second || call->asked != keeper_->map().RouteOfHash(call->hash).master;
  call->avoid = call->asked;
  const bool may_repeat = call->may_repeat();
  call->maybe_applied |= call->method->is_write;
  if (status.code() == Code::kDeadline && server_->reactor().NowNs() >= call->deadline_ns) {
    call->error = ToKvError(status, call->method->is_write);
    // A node that is silent may have applied it.
    if (call->method->is_write) call->error.applied = static_cast<int32_t>(ApiApplied::kUnknown);
    call->error.retryable = may_repeat;
    return RetryCause::kNone;
  }
  call->Fail(Error(Code::kAborted, "{}", status.message()));
  call->error.retryable = may_repeat;
  keeper_->Refresh();
  if (may_repeat) return RetryCause::kBroken;
  metrics_.unknown_total.Add();
  return RetryCause::kNone;
}

void Forwarder::NoteMisrouted(PointCall* call) {
  metrics_.misrouted_total.Add();
  const Route& route = keeper_->map().RouteOfHash(call->hash);
  if (call->asked != route.master) {  // a replica that is behind
    call->only_master = true;
    return;
  }
  const Epoch epoch = call->error.__isset.epoch ? static_cast<Epoch>(call->error.epoch) : 0;
  if (call->error.__isset.master && keeper_->ApplyHint(route.partition, call->error.master, epoch)) return;
  keeper_->Refresh();
}

}  // namespace pando
