// Dispatch connects method names to handler coroutines that work on the generated args and result
// structs.
//
// A handler is `Task<void> Service::Name(RpcCall<Args, Reply>* call)`. It reads call->args, fills
// call->reply.success or sets call->reply.error, and may look at call->deadline_ns. The call lives
// until the handler returns. If the deadline passes first, the client gets a KvError DEADLINE at once, and what the
// handler writes to the reply later is dropped. The error says applied = NO for a read, and for a write that could
// still be withdrawn.
//
// Memory: call->memory holds what the request has reserved. A handler must grow it before it makes
// an allocation whose size the client controls. All of it is released after the reply is encoded.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "gen-cpp/pando_constants.h"
#include "src/io/task.h"
#include "src/metrics/histogram.h"
#include "src/rpc/rpc_server.h"

namespace pando {

// What a call waits for: a write to be admitted, or a snapshot to be opened. It can be withdrawn
// only until then.
class Withdrawable {
 public:
  // Returns true if it has not taken effect and never will.
  virtual bool Withdraw() = 0;

 protected:
  ~Withdrawable() = default;
};

struct RpcCallBase : Timer {
  RpcServer* server = nullptr;
  RequestId id;
  std::string_view method;  // has static storage duration
  Nanos received_ns = 0, deadline_ns = 0;
  int32_t budget_ms = 0;
  Withdrawable* withdrawable = nullptr;  // what the call waits for, if that can be withdrawn
  bool answered = false;
  size_t likely_reply_bytes = 0;  // a handler may say so of a large reply, so that it is allocated once
  MemoryGrant memory;
  bool* ended = nullptr;  // set to true if the call ends before its first suspension
  Histogram* latency = nullptr;

  // Nobody waits for the answer any more: there is one, or the client has gone. What has not begun need not begin.
  bool IsUnwanted() const { return answered || server->IsClosed(id); }

  void ArmDeadline();
  void AnswerLate();
  void End();
};

// Answers a request whose arguments cannot be decoded, or for which there is no memory.
void ReplyUndecodable(RpcServer* server, const RequestId& id, std::string_view method, const Status& status);
// Answers a request whose deadline has passed.
void ReplyLate(RpcServer* server, const RequestId& id, std::string_view method, int32_t budget_ms, bool not_applied);

template <typename Args, typename Reply>
struct RpcCall : RpcCallBase {
  Args args;
  Reply reply;
};

// The memory that one request takes besides its own bytes: the call, its coroutine frames and its
// reply struct.
inline constexpr size_t kCallOverheadBytes = 4096;

namespace detail {

template <auto Handler, typename Service, typename Call>
Task<void> RunCall(Service* service, std::unique_ptr<Call> call) {
  co_await (service->*Handler)(call.get());
  if (!call->answered) {
    call->reply.__isset.success = !call->reply.__isset.error;
    call->server->Reply(call->id, call->method, call->reply, call->likely_reply_bytes);
  }
  call->End();
}

}  // namespace detail

// Starts a call whose args are decoded and whose memory is reserved. The call answers `id`.
template <auto Handler, typename Args, typename Reply, typename Service>
void StartDecoded(Service* service, RpcServer* server, TaskGroup* tasks, Histogram* latency, const RequestId& id,
                  std::string_view method, std::unique_ptr<RpcCall<Args, Reply>> call) {
  int32_t budget_ms = 0;
  if constexpr (requires { call->args.context; }) budget_ms = call->args.context.budget_ms;
  const RpcOptions& options = server->options();
  call->server = server;
  call->id = id;
  call->method = method;
  call->latency = latency;
  call->budget_ms = options.BudgetMs(budget_ms);
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

// Looks at the context of a request before its handler starts. Returns why the request is refused.
using ContextCheck = std::optional<api::KvError> (*)(const api::Context&);

// Decodes, checks and starts one call. The reply comes from the handler, or is an error created here.
template <auto Handler, typename Args, typename Reply, typename Service>
void StartCall(Service* service, RpcServer* server, TaskGroup* tasks, Histogram* latency, const RpcRequest& request,
               std::string_view method, MemoryLane lane = MemoryLane::kOrdinary, ContextCheck check = nullptr) {
  MemoryGrant memory(&server->account(), lane);
  const size_t bytes = kCallOverheadBytes + 2 * request.body.size();
  if (!memory.TryGrow(bytes)) return server->ReplyOverloaded(request.id, method, bytes);
  auto call = std::make_unique<RpcCall<Args, Reply>>();
  Status status = server->codec().Read(request.id.protocol, request.body, &call->args, &memory);
  if (!status.ok()) return ReplyUndecodable(server, request.id, method, status);
  if (check != nullptr) {
    if (std::optional<api::KvError> refusal = check(call->args.context)) {
      return server->ReplyError(request.id, method, *refusal);
    }
  }
  call->memory = std::move(memory);
  StartDecoded<Handler, Args, Reply>(service, server, tasks, latency, request.id, method, std::move(call));
}

}  // namespace pando
