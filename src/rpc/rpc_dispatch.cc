#include "src/rpc/rpc_dispatch.h"

namespace pando {

void RpcCallBase::ArmDeadline() {
  on_fire = [](Timer* t) { static_cast<RpcCallBase*>(t)->AnswerLate(); };
  server->reactor().ArmTimer(this, deadline_ns);
}

void RpcCallBase::AnswerLate() {
  answered = true;
  ReplyLate(server, id, method, budget_ms, /*not_applied=*/withdrawable == nullptr || withdrawable->Withdraw());
}

void ReplyUndecodable(RpcServer* server, const RequestId& id, std::string_view method, const Status& status) {
  if (status.code() == Code::kOverloaded) return server->ReplyOverloaded(id, method);
  server->ReplyException(id, method, TApplicationException::PROTOCOL_ERROR,
                         fmt::format("cannot decode the arguments of {}: {}", method, status.message()));
}

void ReplyLate(RpcServer* server, const RequestId& id, std::string_view method, int32_t budget_ms, bool not_applied) {
  server->metrics().deadline_total.Add();
  api::KvError error;
  error.code = api::g_pando_constants.DEADLINE;
  error.message = fmt::format("{} did not finish within its budget of {} ms", method, budget_ms);
  error.applied = not_applied ? api::g_pando_constants.APPLIED_NO : api::g_pando_constants.APPLIED_UNKNOWN;
  error.retryable = not_applied;
  server->ReplyError(id, method, error);
}

void RpcCallBase::End() {
  if (ended) *ended = true;
  Reactor& reactor = server->reactor();
  reactor.CancelTimer(this);
  if (latency) latency->Record(static_cast<uint64_t>(reactor.NowNs() - received_ns));
  memory.ReleaseAll();
  server->EndCall(id);
}

}  // namespace pando
