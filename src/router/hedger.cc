#include "src/router/hedger.h"

#include "gen-cpp/pando_constants.h"
#include "src/router/point_request.h"

namespace pando {

// One read, from when it was sent first until its caller has waited. What is sent second may end later.
class Hedge final : public RpcExchange, public std::enable_shared_from_this<Hedge> {
 public:
  struct Alarm : Timer {
    Hedge* hedge = nullptr;
  };

  Status OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) override {
    const bool useful = header.type == apache::thrift::protocol::T_REPLY && KindOfReply(body) == ReplyKind::kSuccess;
    // HG2. An error is not the last word: the first node may still answer.
    if (call == nullptr || call->answered || call->has_error || !useful) return Status();
    hedger->metrics_.won_total.Add();
    Status passed = call->OnReply(header, body, codec);
    first_client->Abandon(call, Error(Code::kAborted, "another replica has answered"));
    return passed;
  }

  Hedger* hedger = nullptr;
  PointCall* call = nullptr;  // null: it has ended
  RpcClient* first_client = nullptr;
  std::shared_ptr<Upstream::Link> link;  // that the second is sent on, while it waits for an answer
  Alarm alarm;
};

std::shared_ptr<Hedge> Hedger::Begin(PointCall* call, RpcClient* client, Upstream* node) {
  const bool bounded = call->context.level == api::g_pando_constants.LEVEL_BOUNDED && !call->only_master;
  if (!on_ || call->method->is_write || !bounded) return nullptr;
  const Nanos now_ns = server_->reactor().NowNs();
  budget_.Count();
  node->gets().Turn(now_ns);
  if (node->gets().count() < kLeastSamples) return nullptr;
  auto hedge = std::make_shared<Hedge>();
  hedge->hedger = this;
  hedge->call = call;
  hedge->first_client = client;
  hedge->alarm.hedge = hedge.get();
  hedge->alarm.on_fire = [](Timer* t) {
    Hedge* late = static_cast<Hedge::Alarm*>(t)->hedge;
    late->hedger->tasks_.Spawn(late->hedger->Send(late->shared_from_this()));
  };
  server_->reactor().ArmTimer(&hedge->alarm, now_ns + std::max(node->gets().Percentile(95), kLeastWaitNs));
  return hedge;
}

void Hedger::End(Hedge* hedge) {
  server_->reactor().CancelTimer(&hedge->alarm);
  hedge->call = nullptr;
  if (hedge->link != nullptr) {
    hedge->link->client->Abandon(hedge, Error(Code::kAborted, "the read has ended"));
  }
}

Task<void> Hedger::Send(std::shared_ptr<Hedge> hedge) {
  Reactor& reactor = server_->reactor();
  PointCall* call = hedge->call;
  if (call == nullptr || call->answered || call->has_error || !keeper_->map().complete()) co_return;
  const Route& route = keeper_->map().RouteOfHash(call->hash);
  const NodeId other = keeper_->ChooseReplica(route, call->asked);
  const std::shared_ptr<Upstream> node = keeper_->NodeOf(other);
  if (other == call->asked || node == nullptr || !node->up()) co_return;
  if (!budget_.TryTake()) {
    metrics_.no_token_total.Add();
    co_return;
  }
  Result<std::shared_ptr<Upstream::Link>> picked =
      node->Pick(call->may_wait ? CallKind::kWaiting : CallKind::kPoint, call->client);
  if (!picked.ok()) co_return;
  api::Context context = call->context;
  const Nanos left_ns = call->deadline_ns - reactor.NowNs();
  context.budget_ms = static_cast<int32_t>(std::max(left_ns / kMillisecond - 1, Nanos{1}));
  std::string head(kContextFieldHead);
  server_->codec().WriteStruct(context, &head);
  const std::shared_ptr<Upstream::Link> link = *std::move(picked);
  if (!link->client->Send(WireProtocol::kBinary, call->method->name, head, call->rest).ok()) co_return;
  metrics_.sent_total.Add();
  hedge->link = link;
  hedge->owner = call->owner;
  const Nanos sent_ns = reactor.NowNs();
  co_await link->client->Begin(hedge.get(), std::max(left_ns, kMillisecond));
  hedge->link = nullptr;
  if (hedge->status.ok()) {
    node->NoteAnswer();
    node->gets().Record(reactor.NowNs() - sent_ns, reactor.NowNs());
  }
}

}  // namespace pando
