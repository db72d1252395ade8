#include "src/router/batch_calls.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/session_token.h"
#include "src/router/node_calls.h"
#include "src/router/retry.h"

namespace pando {

namespace {

// Room in a reply frame for everything other than values.
constexpr size_t kMaxValuesBytes = kMaxFrameBytes - (512u << 10);

// The values that one reply holds: no more than fit into a frame. `memory` is for them alone.
struct ValuesOfReply {
  bool TryTake(size_t value_bytes, MemoryGrant* memory) {
    if (bytes + value_bytes > kMaxValuesBytes || !memory->TryGrow(value_bytes)) return false;
    bytes += value_bytes;
    return true;
  }
  size_t bytes = 0;
};

// What one node is asked, in one round.
template <typename Args, typename Reply>
struct Part {
  std::vector<size_t> entries;  // of the request
  Args args;
  Reply reply;
  NodeAnswer answer;
};

// The entries that have no answer yet, and why.
struct Open {
  std::vector<size_t> entries;
  RetryCause cause = RetryCause::kNone;  // the one that waits longest
  void Add(size_t entry, RetryCause why) {
    entries.push_back(entry);
    cause = std::max(cause, why);
  }
};

bool OnlyMaster(const api::Context& context) {
  return context.level != api::g_pando_constants.LEVEL_BOUNDED && context.level != api::g_pando_constants.LEVEL_SESSION;
}

bool Answers(const Route& route, NodeId node) {
  return route.master == node || std::find(route.in_sync.begin(), route.in_sync.end(), node) != route.in_sync.end();
}

// The error of a part as a whole, or nothing. `*cause`: whether its entries may be tried again.
template <typename P>
std::optional<api::KvError> ErrorOf(const P& part, bool is_write, bool named, RetryCause* cause) {
  if (part.answer.answered() && !part.reply.__isset.error) return std::nullopt;
  if (part.answer.answered()) {
    *cause = CauseOf(part.reply.error);
    return part.reply.error;
  }
  const Status& status = part.answer.status;
  api::KvError error = ToKvError(status, is_write);
  if (is_write && part.answer.sent && status.code() != Code::kOverloaded) {
    error.applied = static_cast<int32_t>(ApiApplied::kUnknown);
  }
  const bool may_repeat = !is_write || named || !part.answer.sent;
  error.retryable = may_repeat;
  if (status.code() == Code::kDeadline || status.code() == Code::kInvalidArgument) {
    *cause = RetryCause::kNone;
  } else if (status.code() == Code::kOverloaded) {
    *cause = RetryCause::kBusy;
    if (error.retry_after_ms == 0) error.retry_after_ms = LongWork::kRetryAfterMs;
  } else {
    *cause = !may_repeat ? RetryCause::kNone : part.answer.sent ? RetryCause::kBroken : RetryCause::kDown;
  }
  return error;
}

// The error of a part, as one of its entries has it. If the node has not answered, it says whose key that was.
template <typename P>
api::KvError OfPartition(api::KvError error, const P& part, uint32_t partition) {
  if (!part.answer.answered()) error.message = fmt::format("partition {}: {}", partition, error.message);
  return error;
}

// Tokens of the parts, as one.
class Sessions {
 public:
  void Begin(const Uuid& cluster, std::string_view carried) {
    cluster_ = cluster;
    Add(carried);
  }
  void Add(std::string_view token) {
    if (token.empty()) return;
    Result<SessionToken> decoded = DecodeSessionToken(cluster_, token);
    if (!decoded.ok()) return;  // the node that answers says what is wrong with the client's
    for (const auto& [partition, point] : decoded->points) merged_.Raise(partition, point);
  }
  template <typename Reply>
  void Fill(Reply* reply) {
    merged_.cluster = cluster_;
    std::string token = EncodeSessionToken(merged_);
    if (token.empty()) return;
    reply->context.session = std::move(token);
    reply->context.__isset.session = reply->__isset.context = true;
  }

 private:
  Uuid cluster_;
  SessionToken merged_;
};

// Waits before the next round. False: the budget is over, or the router stops.
Task<bool> PauseBetween(RouteKeeper* keeper, RpcCallBase* call, Backoff* backoff, RetryCause cause, uint64_t seen) {
  if (cause == RetryCause::kMisrouted || cause == RetryCause::kNotNow || cause == RetryCause::kBroken ||
      cause == RetryCause::kDown) {
    keeper->Refresh();
  }
  Reactor& reactor = call->server->reactor();
  const Nanos next_ns = reactor.NowNs() + backoff->Next(cause);
  if (backoff->tries() > kQuickTries) seen = keeper->news();
  if (keeper->stopping() || call->IsUnwanted() || next_ns >= call->deadline_ns) co_return false;
  if (cause == RetryCause::kBusy) {
    co_await Sleep(reactor, next_ns - reactor.NowNs());
  } else {
    co_await keeper->UntilNews(seen, next_ns);
  }
  co_return !call->IsUnwanted() && !keeper->stopping();
}

// -- multiGet

using GetPart = Part<api::Kv_multiGet_args, api::Kv_multiGet_result>;

// Who answers the entries of a multiGet.
struct Readers {
  explicit Readers(const api::Context& context) : only_master(OnlyMaster(context)) {}
  NodeId Choose(const RouteKeeper& keeper, const Route& route) {
    if (only_master) return route.master;
    may_ask_another |= route.in_sync.size() > 1;
    return keeper.ChooseReplica(route, silent);
  }
  // After a round: whoever could not answer is not asked again.
  void Learn(const std::map<NodeId, GetPart>& parts) {
    only_master_asked = only_master;
    const NodeId before = std::exchange(silent, 0);
    for (const auto& [node, part] : parts) {
      if (part.answer.silent) silent = node;
    }
    only_master |= silent == 0 || before != 0;
    may_ask_another = false;
  }
  // After a round of masters alone that has left these open: whether asking once more is of no use.
  bool AreTooStale(const std::vector<size_t>& open, const std::vector<api::MultiGetItem>& items) {
    return only_master_asked &&
           std::any_of(open.begin(), open.end(),
                       [&](size_t i) { return items[i].error.code == static_cast<int32_t>(ApiCode::kTooStale); }) &&
           ++too_stale >= kMostTooStale;
  }
  bool only_master, may_ask_another = false;
  bool only_master_asked = false;  // in the last round
  int too_stale = 0;
  NodeId silent = 0;  // it has not answered while there was time to ask another
};

Task<void> SendGets(RouteKeeper* keeper, MultiGetCall* call, NodeId node, bool may_ask_another, GetPart* part) {
  part->args.context = call->args.context;
  part->args.request.snapshot = call->args.request.snapshot;
  for (const size_t i : part->entries) part->args.request.keys.push_back(call->args.request.keys[i]);
  CallTerms terms(*call);
  terms.may_ask_another = may_ask_another;
  const bool only_master = OnlyMaster(call->args.context);
  auto outdated = [node, part, only_master](const RouteMap& map) {
    const std::vector<std::string>& keys = part->args.request.keys;
    return map.complete() && std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
             const Route& route = map.RouteOfKey(key);
             return route.master != node && (only_master || !Answers(route, node));
           });
  };
  part->answer = co_await CallNode(keeper, keeper->NodeOf(node), CallKind::kLong, "multiGet", &part->args, &part->reply,
                                   terms, std::move(outdated));
}

// What a multiGet has taken from the answers of nodes.
struct Taken {
  explicit Taken(BudgetAccount* account) : memory(account) {}
  // A value is held here, and once more in the reply when that is encoded.
  bool TryTake(size_t value_bytes, MultiGetCall* call) {
    if (!LongWork::LeavesRoom(call->server->account(), value_bytes) || !call->memory.TryGrow(value_bytes)) return false;
    if (values.TryTake(value_bytes, &memory)) return true;
    call->memory.Shrink(value_bytes);
    return false;
  }
  void Drop(MultiGetCall* call) {
    for (api::MultiGetItem& item : call->reply.success.items) item = api::MultiGetItem();
    call->memory.Shrink(values.bytes);
    memory.ReleaseAll();
    values = ValuesOfReply();
  }
  MemoryGrant memory;
  ValuesOfReply values;
};

// There was no memory here for the answer of a node.
bool IsUnread(const std::map<NodeId, GetPart>& parts) {
  return std::any_of(parts.begin(), parts.end(), [](const auto& p) {
    return p.second.answer.sent && p.second.answer.status.code() == Code::kOverloaded;
  });
}

void TakeGets(RouteKeeper* keeper, MultiGetCall* call, GetPart& part, Taken* taken, Sessions* sessions, Open* open) {
  const RouteMap& map = keeper->map();
  RetryCause cause = RetryCause::kNone;
  const std::optional<api::KvError> failed = ErrorOf(part, /*is_write=*/false, false, &cause);
  if (!failed) sessions->Add(part.reply.success.context.session);
  const auto partition = [&](size_t k) { return map.RouteOfKey(call->args.request.keys[part.entries[k]]).partition; };
  for (size_t k = 0; k < part.entries.size(); ++k) {
    api::MultiGetItem& to = call->reply.success.items[part.entries[k]];
    if (failed || k >= part.reply.success.items.size()) {
      to.__set_error(failed ? OfPartition(*failed, part, partition(k))
                            : ToKvError(Error(Code::kUnavailable, "a node answered for fewer keys than it was asked"),
                                        /*is_write=*/false));
      if (cause != RetryCause::kNone) open->Add(part.entries[k], cause);
      continue;
    }
    api::MultiGetItem& from = part.reply.success.items[k];
    const RetryCause why = from.__isset.error ? CauseOf(from.error) : RetryCause::kNone;
    if (why == RetryCause::kNotNow) keeper->NoteRefusal(partition(k), from.error.message);
    if (why != RetryCause::kNone) open->Add(part.entries[k], why);
    if (!taken->TryTake(from.record.value.size(), call)) {
      to.__set_error(MakeBusy("the values of one reply are too many; read this key again together with fewer others",
                              /*retry_after_ms=*/0));
      continue;
    }
    to = std::move(from);
  }
}

}  // namespace

Task<void> RouteMultiGet(RouteKeeper* keeper, MultiGetCall* call) {
  if (Refuse(call, CheckMultiGet(call->args.request))) co_return;
  if (Failed(call, co_await keeper->UntilComplete(call->deadline_ns))) co_return;
  call->reply.success.items.resize(call->args.request.keys.size());
  Backoff backoff(call->server->reactor());
  Sessions sessions;
  sessions.Begin(keeper->map().cluster_id(), call->args.context.session);
  LongWork* const work = keeper->long_work();
  Taken taken(work == nullptr ? &call->server->account() : &work->answers());
  Open open;
  for (size_t i = 0; i < call->args.request.keys.size(); ++i) open.entries.push_back(i);
  const std::vector<size_t> all = open.entries;
  Readers readers(call->args.context);
  while (!open.entries.empty()) {
    const uint64_t seen = keeper->news();
    std::map<NodeId, GetPart> parts;
    for (const size_t i : open.entries) {
      const Route& route = keeper->map().RouteOfKey(call->args.request.keys[i]);
      parts[readers.Choose(*keeper, route)].entries.push_back(i);
    }
    TaskGroup sends;
    for (auto& [node, part] : parts) sends.Spawn(SendGets(keeper, call, node, readers.may_ask_another, &part));
    co_await sends.Drain();  // the parts are in this frame
    if (call->answered) co_return;
    open = Open();
    for (auto& [node, part] : parts) {
      for (const size_t i : part.entries) call->reply.success.items[i] = api::MultiGetItem();
      TakeGets(keeper, call, part, &taken, &sessions, &open);
    }
    readers.Learn(parts);
    if (open.entries.empty()) break;
    // LW1: nobody keeps answers while it waits until there is memory for others. The client asks for the rest again.
    const bool unread = IsUnread(parts);
    parts.clear();
    if (unread && taken.values.bytes > 0) break;
    if (readers.AreTooStale(open.entries, call->reply.success.items)) break;
    if (open.cause == RetryCause::kBusy && taken.values.bytes > 0) {
      taken.Drop(call);
      open.entries = all;
    }
    if (!co_await PauseBetween(keeper, call, &backoff, open.cause, seen)) break;
  }
  if (call->answered) co_return;
  for (const size_t i : open.entries) {
    api::KvError& error = call->reply.success.items[i].error;
    error = GaveUp(error, backoff.tries(), call->budget_ms);
  }
  sessions.Fill(&call->reply.success);
}

// -- writeBatch

namespace {

using WritePart = Part<api::Kv_writeBatch_args, api::Kv_writeBatch_result>;

// A batch of which a node may have carried out something cannot be withdrawn.
struct SentBatch final : Withdrawable {
  bool sent = false;
  bool Withdraw() override { return !sent; }
};

// What is tried of a batch: its conditions go with every part, of which there is one then (they share a tag).
Task<void> SendWrites(RouteKeeper* keeper, WriteBatchCall* call, NodeId node, SentBatch* sent, WritePart* part) {
  const api::WriteBatchRequest& request = call->args.request;
  part->args.context = call->args.context;
  part->args.request.all_or_nothing = request.all_or_nothing;
  part->args.request.conditions = request.conditions;
  for (const size_t i : part->entries) part->args.request.ops.push_back(request.ops[i]);
  sent->sent = true;
  std::function<bool(const RouteMap&)> outdated;
  if (!call->args.context.client_id.empty()) {
    outdated = [node, part](const RouteMap& map) {
      const std::vector<api::WriteOp>& ops = part->args.request.ops;
      return map.complete() &&
             std::any_of(ops.begin(), ops.end(), [&](const auto& op) { return map.RouteOfKey(op.key).master != node; });
    };
  }
  part->answer = co_await CallNode(keeper, keeper->NodeOf(node), CallKind::kPoint, "writeBatch", &part->args,
                                   &part->reply, CallTerms(*call), std::move(outdated), /*is_write=*/true);
}

// Leaves out the values for which the reply has no room, as a node does.
void TakeResult(api::WriteResult& from, MemoryGrant* memory, ValuesOfReply* values, api::WriteResult* to) {
  const auto fit = [&](api::Record& record) {
    if (values->TryTake(record.value.size(), memory)) return true;
    std::string().swap(record.value);
    return false;
  };
  if (from.__isset.current && !fit(from.current)) from.current_value_omitted = true;
  if (from.__isset.previous && !fit(from.previous)) from.previous_value_omitted = true;
  *to = std::move(from);
}

void TakeWrites(RouteKeeper* keeper, WriteBatchCall* call, WritePart& part, ValuesOfReply* values, Sessions* sessions,
                Open* open) {
  const RouteMap& map = keeper->map();
  RetryCause cause = RetryCause::kNone;
  const bool named = !call->args.context.client_id.empty();
  const std::optional<api::KvError> failed = ErrorOf(part, /*is_write=*/true, named, &cause);
  api::WriteBatchReply& reply = call->reply.success;
  if (!failed) {
    sessions->Add(part.reply.success.context.session);
    reply.failed_conditions = std::move(part.reply.success.failed_conditions);
  }
  const auto partition = [&](size_t k) {
    return map.RouteOfKey(call->args.request.ops[part.entries[k]].key).partition;
  };
  for (size_t k = 0; k < part.entries.size(); ++k) {
    api::WriteResult& to = reply.results[part.entries[k]];
    if (failed || k >= part.reply.success.results.size()) {
      to.__set_error(failed ? OfPartition(*failed, part, partition(k))
                            : ToKvError(Error(Code::kAborted, "a node answered for fewer ops than it was asked"),
                                        /*is_write=*/true));
      if (cause != RetryCause::kNone) open->Add(part.entries[k], cause);
      continue;
    }
    TakeResult(part.reply.success.results[k], &call->memory, values, &to);
    const RetryCause why = to.__isset.error ? CauseOf(to.error) : RetryCause::kNone;
    if (why == RetryCause::kNotNow) keeper->NoteRefusal(partition(k), to.error.message);
    if (why != RetryCause::kNone) open->Add(part.entries[k], why);
  }
}

// What the last try says of an op does not tell what came of the first.
void NoteLost(const std::vector<bool>& lost, std::vector<api::WriteResult>* results) {
  for (size_t i = 0; i < lost.size(); ++i) {
    api::WriteResult& result = (*results)[i];
    if (lost[i] && result.__isset.error) result.error.applied = static_cast<int32_t>(ApiApplied::kUnknown);
  }
}

// Where an op goes, and one of a batch that has only conditions.
const std::string& KeyOfEntry(const api::WriteBatchRequest& request, size_t i) {
  return request.ops.empty() ? request.conditions[0].key : request.ops[i].key;
}

}  // namespace

Task<void> RouteWriteBatch(RouteKeeper* keeper, WriteBatchCall* call) {
  const api::WriteBatchRequest& request = call->args.request;
  {
    // The limits and rules are those of a node; each node sees only its part.
    api::WriteBatchRequest copy = request;
    BatchOfWrites checked;
    if (Refuse(call, ToWriteBatch(copy, &checked))) co_return;
  }
  if (request.ops.empty() && request.conditions.empty()) co_return;
  // The ops are kept for another try, beside those that are being sent.
  size_t bytes = 0;
  for (const api::WriteOp& op : request.ops) bytes += sizeof(op) + op.key.size() + op.value.size();
  if (!call->memory.TryGrow(2 * bytes)) {
    if (Refuse(call, call->server->OverloadedError(2 * bytes))) co_return;
  }
  if (Failed(call, co_await keeper->UntilComplete(call->deadline_ns), /*is_write=*/false)) co_return;
  call->reply.success.results.resize(request.ops.size());
  Backoff backoff(call->server->reactor());
  Sessions sessions;
  ValuesOfReply values;
  sessions.Begin(keeper->map().cluster_id(), call->args.context.session);
  SentBatch sent;
  call->withdrawable = &sent;
  Open open;
  for (size_t i = 0; i < std::max<size_t>(request.ops.size(), 1); ++i) open.entries.push_back(i);
  std::optional<api::KvError> last;
  std::vector<bool> lost(request.ops.size());  // an earlier try was sent, and its answer was lost
  while (!open.entries.empty()) {
    const uint64_t seen = keeper->news();
    std::map<NodeId, WritePart> parts;
    for (const size_t i : open.entries) {
      WritePart& part = parts[keeper->map().RouteOfKey(KeyOfEntry(request, i)).master];
      if (!request.ops.empty()) part.entries.push_back(i);
    }
    TaskGroup sends;
    for (auto& [node, part] : parts) sends.Spawn(SendWrites(keeper, call, node, &sent, &part));
    co_await sends.Drain();  // the parts are in this frame
    if (call->answered) break;
    open = Open();
    last.reset();
    for (auto& [node, part] : parts) {
      for (const size_t i : part.entries) call->reply.success.results[i] = api::WriteResult();
      TakeWrites(keeper, call, part, &values, &sessions, &open);
      if (!part.answer.answered() && part.answer.sent) {
        for (const size_t i : part.entries) lost[i] = true;
      }
      RetryCause cause = RetryCause::kNone;
      last = ErrorOf(part, /*is_write=*/true, !call->args.context.client_id.empty(), &cause);
      if (request.ops.empty() && last && cause != RetryCause::kNone) open.Add(0, cause);
    }
    if (open.entries.empty()) break;
    parts.clear();  // what they take is not kept while this waits
    if (!co_await PauseBetween(keeper, call, &backoff, open.cause, seen)) break;
  }
  call->withdrawable = nullptr;
  if (call->answered) co_return;
  for (const size_t i : open.entries) {
    if (request.ops.empty()) break;
    api::KvError& error = call->reply.success.results[i].error;
    error = GaveUp(error, backoff.tries(), call->budget_ms);
  }
  NoteLost(lost, &call->reply.success.results);
  // A batch of conditions alone has no result that could carry its error.
  if (request.ops.empty() && last) {
    Refuse(call, open.entries.empty() ? last : GaveUp(*last, backoff.tries(), call->budget_ms));
  }
  sessions.Fill(&call->reply.success);
}

}  // namespace pando
