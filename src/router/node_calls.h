// Calls of single nodes, with generated arguments and replies.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "src/kvapi/kv_errors.h"
#include "src/router/route_keeper.h"

namespace pando {

inline constexpr Nanos kNodeGraceNs = 100 * kMillisecond;

struct NodeAnswer {
  Status status;      // OK: the reply, which may have an error of its own
  bool sent = false;  // the node may have carried it out
  bool answered() const { return status.ok(); }
};

// Calls `method` of the node. `args->context.budget_ms` is set to what is left. Both outlive the task, and the reply
// must be fresh.
template <typename Args, typename Reply>
Task<NodeAnswer> CallNode(Reactor& reactor, std::shared_ptr<Upstream> node, CallKind kind, std::string method,
                          Args* args, Reply* reply, Nanos deadline_ns) {
  if (node == nullptr) co_return NodeAnswer{Error(Code::kUnavailable, "the node is not in the map"), false};
  Result<std::shared_ptr<Upstream::Link>> picked = node->Pick(kind);
  if (!picked.ok()) co_return NodeAnswer{picked.TakeStatus(), false};
  const std::shared_ptr<Upstream::Link> link = *std::move(picked);
  const Nanos left_ns = std::max(deadline_ns - reactor.NowNs(), kMillisecond);
  args->context.budget_ms = static_cast<int32_t>(left_ns / kMillisecond);
  const Nanos patience_ns = left_ns + kNodeGraceNs;
  Status status = co_await link->client->Call(std::move(method), args, reply, patience_ns);
  if (status.ok()) node->NoteAnswer();
  if (status.code() == Code::kDeadline) node->NoteSilence(patience_ns);
  // What RpcClient refuses before it sends is kOverloaded or what broke the connection; both are rare enough here to
  // count as sent.
  co_return NodeAnswer{std::move(status), true};
}

}  // namespace pando
