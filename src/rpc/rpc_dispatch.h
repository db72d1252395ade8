// Dispatch: method names to handler coroutines over the generated args and result structs.
//
// A handler is `Task<void> Service::Name(RpcCall<Args, Reply>* call)`: it reads call->args, fills call->reply, and may
// look at call->deadline_ns. The call lives until the handler returns. When the deadline passes first, the client gets
// a KvError DEADLINE with call->applied_if_late at once, and what the handler fills in later is dropped.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "gen-cpp/pando_constants.h"
#include "src/io/task.h"
#include "src/metrics/histogram.h"
#include "src/rpc/rpc_server.h"

namespace pando {

struct RpcCallBase : Timer {
  RpcCallBase() : applied_if_late(api::g_pando_constants.APPLIED_NO) {}
  RpcServer* server = nullptr;
  RequestId id;
  std::string_view method;  // static storage
  Nanos received_ns = 0, deadline_ns = 0;
  int32_t budget_ms = 0;
  int32_t applied_if_late;  // APPLIED_*: NO, until a write sets UNKNOWN before it hands the write on
  bool answered = false;
  size_t reserved_bytes = 0;
  bool* ended = nullptr;  // told when the call ends before its first suspension returned
  Histogram* latency = nullptr;

  bool Late() const { return server->reactor().NowNs() >= deadline_ns; }
  void ArmDeadline();
  void AnswerLate();
  void End();
};

template <typename Args, typename Reply>
struct RpcCall : RpcCallBase {
  Args args;
  Reply reply;
};

// What one request costs beside its own bytes: the call, its coroutine frames, its reply struct.
inline constexpr size_t kCallOverheadBytes = 4096;

namespace detail {

template <auto Handler, typename Service, typename Call>
Task<void> RunCall(Service* service, std::unique_ptr<Call> call) {
  co_await (service->*Handler)(call.get());
  if (!call->answered) call->server->Reply(call->id, call->method, call->reply);
  call->End();
}

}  // namespace detail

// Starts a call whose args are in place and whose `bytes` are reserved; it answers `id`.
template <auto Handler, typename Args, typename Reply, typename Service>
void StartDecoded(Service* service, RpcServer* server, TaskGroup* tasks, Histogram* latency, const RequestId& id,
                  std::string_view method, std::unique_ptr<RpcCall<Args, Reply>> call, size_t bytes) {
  int32_t budget_ms = 0;
  if constexpr (requires { call->args.context; }) budget_ms = call->args.context.budget_ms;
  const RpcOptions& options = server->options();
  call->server = server;
  call->id = id;
  call->method = method;
  call->latency = latency;
  call->reserved_bytes = bytes;
  call->budget_ms = budget_ms <= 0 ? options.default_budget_ms : std::min(budget_ms, options.max_budget_ms);
  call->received_ns = server->reactor().NowNs();
  call->deadline_ns = call->received_ns + call->budget_ms * kMillisecond;
  server->BeginCall(id);

  bool ended = false;
  RpcCallBase* base = call.get();
  base->ended = &ended;
  tasks->Spawn(detail::RunCall<Handler>(service, std::move(call)));
  if (ended) return;
  base->ended = nullptr;
  base->ArmDeadline();
}

// Decodes and starts one call. The reply is either the handler's, or an error made here.
template <auto Handler, typename Args, typename Reply, typename Service>
void StartCall(Service* service, RpcServer* server, TaskGroup* tasks, Histogram* latency, const RpcRequest& request,
               std::string_view method) {
  size_t bytes = kCallOverheadBytes + 2 * request.body.size();
  if (!server->TryReserve(bytes)) {
    server->metrics().overloaded_total.Add();
    return server->ReplyError(request.id, method, server->OverloadedError());
  }
  auto call = std::make_unique<RpcCall<Args, Reply>>();
  if (Status status = server->codec().Read(request.id.protocol, request.body, &call->args); !status.ok()) {
    server->Release(bytes);
    return server->ReplyException(request.id, method, TApplicationException::PROTOCOL_ERROR,
                                  fmt::format("cannot decode the arguments of {}: {}", method, status.message()));
  }
  StartDecoded<Handler, Args, Reply>(service, server, tasks, latency, request.id, method, std::move(call), bytes);
}

}  // namespace pando
