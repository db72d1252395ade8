// Calls of single nodes, with generated arguments and replies.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>

#include "gen-cpp/routing_types.h"
#include "src/kvapi/kv_errors.h"
#include "src/router/client_share.h"
#include "src/router/route_keeper.h"
#include "src/router/scan_answer.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

// So long, and at most half of what is left, a read waits for a replica that need not be the one that answers.
inline constexpr Nanos kReplicaPatienceNs = kSecond;

// For whom a node is called, and how long that may take.
struct CallTerms {
  CallTerms(Nanos deadline) : deadline_ns(deadline) {}  // NOLINT: a call of the router itself
  explicit CallTerms(const RpcCallBase& of)
      : deadline_ns(of.deadline_ns), client(ClientOf(of)), memory(&of.server->account()), call(&of) {}
  CallTerms Until(Nanos until_ns) const {
    CallTerms terms = *this;
    terms.deadline_ns = std::min(deadline_ns, until_ns);
    return terms;
  }

  // The client waits no more, so a try that failed is the last one.
  bool IsUnwanted() const { return call != nullptr && call->IsUnwanted(); }

  Nanos deadline_ns;
  bool may_ask_another = false;       // another node can answer as well: this one is not waited for to the end
  uint64_t client = kRouterItself;    // whose share it takes (UP3)
  BudgetAccount* memory = nullptr;    // for the decoded reply; null: it is small, and not counted
  const RpcCallBase* call = nullptr;  // null: it goes on without the client
  static constexpr uint64_t kRouterItself = 1;

 private:
  // A connection that has ended gets no answer: it needs no more than a share that nobody else has.
  static uint64_t ClientOf(const RpcCallBase& of) {
    const Identity* identity = of.server->IdentityOf(of.id);
    return identity != nullptr ? ShareOf(*identity) : reinterpret_cast<uintptr_t>(of.id.connection);
  }
};

struct NodeAnswer {
  Status status;         // OK: the reply, which may have an error of its own
  bool sent = false;     // the node may have carried it out
  MemoryGrant memory{};  // what the reply takes
  bool silent = false;   // it has not answered, and there is time to ask another
  bool answered() const { return status.ok(); }
};

template <typename Reply>
bool HasCode(const Reply& reply, ApiCode code) {
  return reply.__isset.error && reply.error.code == static_cast<int32_t>(code);
}

// What an entry of the lists of this reply takes when it is decoded, with what allocating its strings costs.
template <typename Reply>
constexpr size_t EntryBytesOf() {
  constexpr size_t kStringsBytes = 64;
  static_assert(sizeof(api::Covered) <= sizeof(api::Row) && sizeof(api::SampledKey) <= sizeof(api::Row));
  static_assert(sizeof(api::WriteResult) + kStringsBytes <= kReplyEntryBytes);
  static_assert(sizeof(api::MultiGetItem) + kStringsBytes <= kReplyEntryBytes);
  constexpr bool of_range = requires(Reply reply) { reply.success.covered; };
  return of_range ? sizeof(api::Row) + kStringsBytes : kReplyEntryBytes;
}

// The exchange that reads this reply.
template <typename Reply>
struct ExchangeFor {
  using Type = RpcClient::TypedCall<Reply>;
};
template <>
struct ExchangeFor<ScanAnswer> {
  using Type = ScanExchange;
};

// Calls `method` of the node. If `outdated` is given, the call is given up (kAborted) when it returns true of a newer
// map: only for calls that may be made again. `is_write`: it carries what the router has seen (RouteKeeper::hlc).
// `args->context.budget_ms` is set to what is left. Both outlive the task, and the reply must be fresh.
template <typename Args, typename Reply>
Task<NodeAnswer> CallNode(RouteKeeper* keeper, std::shared_ptr<Upstream> node, CallKind kind, std::string method,
                          Args* args, Reply* reply, CallTerms terms, std::function<bool(const RouteMap&)> outdated = {},
                          bool is_write = false) {
  struct Outdatable final : InFlight {
    bool Outdated(const RouteMap& map) const override { return outdated(map); }
    std::function<bool(const RouteMap&)> outdated;
  } in_flight;
  if (node == nullptr) co_return NodeAnswer{Error(Code::kUnavailable, "the node is not in the map"), false};
  Result<std::shared_ptr<Upstream::Link>> picked = node->Pick(kind, terms.client);
  if (!picked.ok()) co_return NodeAnswer{picked.TakeStatus(), false};
  const std::shared_ptr<Upstream::Link> link = *std::move(picked);
  const Nanos left_ns = std::max(terms.deadline_ns - keeper->reactor().NowNs(), kMillisecond);
  // The caller still has to say which node has not answered.
  Nanos patience_ns = left_ns - std::clamp(left_ns / 50, kMillisecond / 2, 20 * kMillisecond);
  if (terms.may_ask_another) patience_ns = std::min(kReplicaPatienceNs, left_ns / 2);
  // The node's own answer that it was too slow must come first: whoever says that is not silent.
  const Nanos node_budget_ns = patience_ns - std::max(patience_ns / 50, 2 * kMillisecond);
  args->context.budget_ms = static_cast<int32_t>(std::max(node_budget_ns / kMillisecond, Nanos{1}));
  if (is_write && link->clocks) args->context.hlc = std::max(args->context.hlc, keeper->hlc());
  typename ExchangeFor<Reply>::Type call;
  call.reply = reply;
  call.must_arrive = is_write;
  const bool in_part = terms.memory != nullptr && kind == CallKind::kLong && keeper->long_work() != nullptr;
  MemoryGrant memory(in_part ? &keeper->long_work()->answers() : terms.memory);
  if (terms.memory != nullptr) call.memory = &memory;
  call.entry_bytes = EntryBytesOf<Reply>();
  if (HasShares(kind)) call.owner = terms.client;
  if (Status refused = link->client->SendArgs(method, *args); !refused.ok()) {
    co_return NodeAnswer{std::move(refused), false};
  }
  in_flight.outdated = std::move(outdated);
  const bool outdatable = static_cast<bool>(in_flight.outdated);
  if (outdatable) keeper->Add(&in_flight, link->client.get(), &call);
  co_await link->client->Begin(&call, patience_ns);
  if (outdatable) keeper->Remove(&in_flight);
  Status status = std::move(call.status);
  if (status.ok()) node->NoteAnswer();
  if (status.code() == Code::kOverloaded) keeper->metrics().upstream.unread_total.Add();
  if constexpr (requires { reply->success.context.hlc; }) keeper->NoteHlc(reply->success.context.hlc);
  bool silent = status.code() == Code::kDeadline;
  if (silent) node->NoteSilence(patience_ns);
  // Its budget was a part of that of the request, so this is no last word either.
  if (status.ok() && terms.may_ask_another) silent = HasCode(*reply, ApiCode::kDeadline);
  if (silent) {
    status = Error(terms.may_ask_another ? Code::kUnavailable : Code::kDeadline, "{} has not answered within {} ms",
                   node->address(), patience_ns / kMillisecond);
  }
  co_return NodeAnswer{std::move(status), true, std::move(memory), silent && terms.may_ask_another};
}

}  // namespace pando
