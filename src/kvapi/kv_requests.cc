#include "src/kvapi/kv_requests.h"

#include <algorithm>
#include <set>
#include <utility>

#include "src/base/hash.h"
#include "src/base/limits.h"
#include "src/kvapi/kv_errors.h"
#include "src/kvapi/page_cursor.h"

namespace pando {

namespace {

// The values of Context.level, ttl_mode and WriteOp.kind. A test compares them with the constants
// of the IDL.
enum Level : int32_t { kDefault, kOne, kQuorum, kAll, kLinearizable, kBounded, kSession };
enum Ttl : int32_t { kTtlKeep, kTtlSet, kTtlClear, kTtlSetAbsolute };
enum OpKind : int32_t { kOpPut = 1, kOpRemove = 2, kOpIncrement = 3, kOpTouch = 4 };
// A call that waits in vain answers this long before its deadline, or a tenth of its budget before it if that is less.
constexpr Nanos kReplyMarginNs = 100 * kMillisecond;
// Ten thousand years. With this limit, now + ttl cannot overflow.
constexpr int64_t kMaxTtlMs = 10'000LL * 366 * 24 * 3600 * 1000;

template <typename... Args>
api::KvError Bad(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(ApiCode::kBadRequest, fmt::format(format, std::forward<Args>(args)...));
}

Refusal CheckValue(std::string_view value) {
  if (value.size() <= kMaxValueBytes) return {};
  return MakeError(ApiCode::kTooLarge, fmt::format("the value has {} bytes; the limit is {} (max_value_bytes)",
                                                   value.size(), kMaxValueBytes));
}

// The checks that reads and writes share.
Refusal CheckContext(const api::Context& context) {
  if (context.budget_ms < 0) return Bad("budget_ms is {}; it must be 0 (the default) or more", context.budget_ms);
  if (!context.principal.empty()) {
    return MakeError(ApiCode::kDenied,
                     "only a router may set a principal, and this client is not one: leave principal empty");
  }
  if (!context.name_space.empty()) {
    return Bad("name_space has {} bytes, but this node has only the default namespace: leave name_space empty",
               context.name_space.size());
  }
  if (context.hlc < 0) return Bad("hlc is {}; it must be 0, or what a reply has said", context.hlc);
  if (context.max_staleness_ms < 0 || (context.max_staleness_ms > 0 && context.level != kBounded)) {
    return Bad("max_staleness_ms is {}; it must be 0, or positive with LEVEL_BOUNDED (5)", context.max_staleness_ms);
  }
  return {};
}

Refusal CheckAlone(const api::Context& context, Refusal other) {
  if (other) return other;
  if (context.hlc != 0) return Bad("hlc is {}; this node is alone and merges no clocks: leave hlc 0", context.hlc);
  if (context.session.empty()) return {};
  return MakeError(ApiCode::kTokenMismatch, "this node does not issue session tokens: leave session empty");
}

bool HasName(const api::Context& context) {
  return !context.client_id.empty() || context.sequence != 0 || context.first_sent_ms != 0;
}

Refusal CheckUnused(const char* name, int64_t value, const char* belongs_to) {
  if (value == 0) return {};
  return Bad("{} is {}, but it applies only to {}", name, value, belongs_to);
}

template <typename Request>
Refusal SetTtl(const Request& request, WriteOp* op) {
  const int32_t mode = request.ttl_mode;
  if (mode != kTtlSet) {
    if (Refusal refusal = CheckUnused("ttl_ms", request.ttl_ms, "ttl_mode TTL_SET (1)")) return refusal;
  }
  if (mode != kTtlSetAbsolute) {
    const char* belongs_to = "ttl_mode TTL_SET_ABSOLUTE (3)";
    if (Refusal refusal = CheckUnused("expires_at_ms", request.expires_at_ms, belongs_to)) return refusal;
  }
  switch (mode) {
    case kTtlKeep: op->ttl_mode = TtlMode::kKeep; return {};
    case kTtlClear: op->ttl_mode = TtlMode::kClear; return {};
    case kTtlSet:
      if (request.ttl_ms <= 0 || request.ttl_ms > kMaxTtlMs) {
        return Bad("ttl_ms is {}; it must be from 1 to {}", request.ttl_ms, kMaxTtlMs);
      }
      op->ttl_mode = TtlMode::kSet;
      op->ttl_ms = request.ttl_ms;
      return {};
    case kTtlSetAbsolute:
      if (request.expires_at_ms <= 0 || request.expires_at_ms > kMaxTtlMs) {
        return Bad("expires_at_ms is {}; it must be from 1 to {}", request.expires_at_ms, kMaxTtlMs);
      }
      op->ttl_mode = TtlMode::kSet;
      op->expires_at_ms = request.expires_at_ms;
      return {};
    default:
      return Bad("ttl_mode is {}; it must be TTL_KEEP (0), TTL_SET (1), TTL_CLEAR (2) or TTL_SET_ABSOLUTE (3)", mode);
  }
}

Refusal SetCondition(api::Condition& from, Condition* to) {
  if (from.__isset.version) {
    if (from.version <= 0) return Bad("condition.version is {}; versions are positive", from.version);
    to->version = static_cast<Version>(from.version);
  }
  if (from.__isset.exists) to->exists = from.exists;
  if (from.__isset.value) {
    if (Refusal refusal = CheckValue(from.value)) return refusal;
    to->value = std::move(from.value);
  }
  if (to->exists == false && (to->version || to->value)) {
    return Bad("the condition names a version or a value, but also says that the record must not exist");
  }
  return {};
}

// Sets the fields that the single writes and the ops of a batch share.
template <typename Request>
Refusal SetKeyAndCondition(Request& request, WriteOp* op) {
  if (Refusal refusal = CheckKey(request.key)) return refusal;
  if (request.__isset.condition) {
    if (Refusal refusal = SetCondition(request.condition, &op->condition)) return refusal;
  }
  op->key = std::move(request.key);
  return {};
}

template <typename Request>
Refusal SetPut(Request& request, WriteOp* op) {
  op->op = RecordOp::kPut;
  if (Refusal refusal = SetKeyAndCondition(request, op)) return refusal;
  if (Refusal refusal = CheckValue(request.value)) return refusal;
  if (Refusal refusal = SetTtl(request, op)) return refusal;
  op->value = std::move(request.value);
  op->return_previous = request.return_previous;
  return {};
}

template <typename Request>
Refusal SetRemove(Request& request, WriteOp* op) {
  op->op = RecordOp::kRemove;
  op->return_previous = request.return_previous;
  return SetKeyAndCondition(request, op);
}

template <typename Request>
Refusal SetIncrement(Request& request, WriteOp* op) {
  op->op = RecordOp::kIncrement;
  op->delta = request.delta;
  if (Refusal refusal = SetTtl(request, op)) return refusal;
  return SetKeyAndCondition(request, op);
}

template <typename Request>
Refusal SetTouch(Request& request, WriteOp* op) {
  op->op = RecordOp::kTouch;
  if (request.ttl_mode == kTtlKeep) {
    return Bad("a touch needs ttl_mode TTL_SET (1), TTL_CLEAR (2) or TTL_SET_ABSOLUTE (3)");
  }
  if (Refusal refusal = SetTtl(request, op)) return refusal;
  return SetKeyAndCondition(request, op);
}

// Refuses fields that the kind of the op does not use. They would otherwise be ignored silently.
Refusal CheckUnused(const api::WriteOp& op) {
  if (op.kind != kOpPut) {
    const auto bytes = static_cast<int64_t>(op.value.size());
    if (Refusal refusal = CheckUnused("the number of bytes in value", bytes, "OP_PUT (1)")) return refusal;
  }
  if (op.kind != kOpIncrement) {
    if (Refusal refusal = CheckUnused("delta", op.delta, "OP_INCREMENT (3)")) return refusal;
  }
  if (op.kind == kOpRemove) {
    for (const auto& [name, value] : {std::pair<const char*, int64_t>{"ttl_mode", op.ttl_mode},
                                      {"ttl_ms", op.ttl_ms},
                                      {"expires_at_ms", op.expires_at_ms}}) {
      if (Refusal refusal = CheckUnused(name, value, "ops that leave a record")) return refusal;
    }
  }
  if (op.return_previous && op.kind != kOpPut && op.kind != kOpRemove) {
    return Bad("return_previous is set, but it applies only to OP_PUT (1) and OP_REMOVE (2)");
  }
  return {};
}

Refusal ToCheck(api::KeyCondition& request, WriteOp* op) {
  op->op = RecordOp::kCheck;
  if (Refusal refusal = CheckKey(request.key)) return refusal;
  if (Refusal refusal = SetCondition(request.condition, &op->condition)) return refusal;
  if (op->condition.empty()) return Bad("the condition is empty: set version, value or exists");
  op->key = std::move(request.key);
  return {};
}

// Conditions and ops are evaluated atomically only if one partition holds all of their keys.
Refusal CheckOneTag(const BatchOfWrites& batch) {
  const std::string_view tag = HashTag(batch.ops.front().key);
  for (size_t i = 1; i < batch.ops.size(); ++i) {
    if (HashTag(batch.ops[i].key) == tag) continue;
    return Bad(
        "in a batch with conditions, all keys must have the same {{tag}} or be the same key; the key of {} {} does not "
        "match that of condition 0: use one {{tag}} for all keys, or send the other ops in a separate batch",
        i < batch.checks ? "condition" : "op", i < batch.checks ? i : i - batch.checks);
  }
  return {};
}

size_t BatchBytes(const api::WriteBatchRequest& request) {
  size_t bytes = 0;
  for (const api::WriteOp& op : request.ops) bytes += op.key.size() + op.value.size() + op.condition.value.size();
  for (const api::KeyCondition& c : request.conditions) bytes += c.key.size() + c.condition.value.size();
  return bytes;
}

}  // namespace

Refusal CheckKey(std::string_view key) {
  if (key.empty()) return Bad("the key is empty; keys have 1 to {} bytes", kMaxKeyBytes);
  if (key.size() <= kMaxKeyBytes) return {};
  return MakeError(ApiCode::kTooLarge,
                   fmt::format("the key has {} bytes; the limit is {} (max_key_bytes)", key.size(), kMaxKeyBytes));
}

bool IsPlainRead(const api::Context& context, bool in_cluster) {
  return (context.level == kDefault || context.level == kLinearizable) && context.budget_ms >= 0 &&
         context.principal.empty() && context.name_space.empty() && context.session.empty() &&
         (in_cluster ? context.hlc >= 0 : context.hlc == 0) && context.max_staleness_ms == 0;
}

void ResetForPlainRead(api::Context* context) {
  context->level = kDefault;
  context->budget_ms = 0;
  context->principal.clear();
  context->name_space.clear();
  context->session.clear();
  context->hlc = 0;
  context->max_staleness_ms = 0;
}

Refusal CheckHello(const api::HelloRequest& request) {
  if (request.api_version < 0) return Bad("api_version is {}; it must be 0 (any) or more", request.api_version);
  if (request.identity.empty() && request.credential.empty()) return {};
  return MakeError(ApiCode::kUnauthenticated,
                   "this node cannot verify identities: leave identity and credential empty to be anonymous");
}

Refusal CheckReadContextInCluster(const api::Context& context) {
  switch (context.level) {
    case kDefault:
    case kLinearizable:
    case kBounded:
    case kSession: return CheckContext(context);
    case kOne:
    case kQuorum:
    case kAll:
      return Bad("level {} is for writes; reads take LEVEL_LINEARIZABLE (4), LEVEL_BOUNDED (5) or LEVEL_SESSION (6)",
                 context.level);
    default: return Bad("level {} is unknown to this server", context.level);
  }
}

Refusal CheckReadContext(const api::Context& context) {
  return CheckAlone(context, CheckReadContextInCluster(context));
}

Refusal CheckWriteContext(const api::Context& context) {
  return CheckAlone(context, CheckWriteContextInCluster(context));
}

Refusal ToSession(const api::Context& context, const Uuid& cluster, SessionToken* session) {
  Result<SessionToken> decoded = DecodeSessionToken(cluster, context.session);
  if (!decoded.ok()) return MakeError(ApiCode::kTokenMismatch, decoded.status().message());
  *session = *std::move(decoded);
  return {};
}

ReadLevel ToReadLevel(const api::Context& context) {
  if (context.level == kBounded) return ReadLevel::kBounded;
  return context.level == kSession ? ReadLevel::kSession : ReadLevel::kLinearizable;
}

WriteLevel ToWriteLevel(const api::Context& context) {
  if (context.level == kOne) return WriteLevel::kOne;
  return context.level == kAll ? WriteLevel::kAll : WriteLevel::kQuorum;
}

Refusal CheckWriteContextInCluster(const api::Context& context) {
  switch (context.level) {
    case kDefault:
    case kOne:
    case kQuorum:
    case kAll: break;
    case kLinearizable:
    case kBounded:
    case kSession:
      return Bad("level {} is for reads; writes take LEVEL_ONE (1), LEVEL_QUORUM (2) or LEVEL_ALL (3)", context.level);
    default: return Bad("level {} is unknown to this server", context.level);
  }
  return CheckContext(context);
}

Refusal ToOnce(const api::Context& context, bool remembers, WriteOp* once) {
  once->sequence = 0;
  if (!HasName(context)) return {};
  // The client would rely on it that its retries are applied once.
  if (!remembers) {
    return Bad(
        "this server does not remember (client_id, sequence), so it cannot detect retries: leave client_id empty, and "
        "sequence and first_sent_ms 0 (see HelloReply.features)");
  }
  if (context.client_id.empty() || context.client_id.size() > kMaxClientIdBytes) {
    return Bad("client_id has {} bytes; with sequence or first_sent_ms it must have 1 to {}", context.client_id.size(),
               kMaxClientIdBytes);
  }
  if (context.sequence < 1) return Bad("sequence is {}; with client_id it must be positive", context.sequence);
  if (context.first_sent_ms < 1) {
    return Bad("first_sent_ms is {}; with client_id it must be the server's time at the first sending (see HelloReply)",
               context.first_sent_ms);
  }
  once->op = RecordOp::kOnce;
  once->key.assign(context.client_id);
  once->sequence = static_cast<uint64_t>(context.sequence);
  once->first_sent_ms = context.first_sent_ms;
  return {};
}

Refusal CheckUnnamed(const api::Context& context) {
  if (!HasName(context)) return {};
  return Bad(
      "this call does no harm when it is repeated, so its retries are not detected: leave client_id empty, and "
      "sequence and first_sent_ms 0");
}

Refusal ToWriteOp(api::PutRequest& request, WriteOp* op) { return SetPut(request, op); }

Refusal ToWriteOp(api::RemoveRequest& request, WriteOp* op) { return SetRemove(request, op); }
Refusal ToWriteOp(api::IncrementRequest& request, WriteOp* op) { return SetIncrement(request, op); }
Refusal ToWriteOp(api::TouchRequest& request, WriteOp* op) { return SetTouch(request, op); }

Refusal ToWriteOp(api::WriteOp& request, WriteOp* op) {
  if (request.kind < kOpPut || request.kind > kOpTouch) {
    return Bad("kind is {}; it must be OP_PUT (1), OP_REMOVE (2), OP_INCREMENT (3) or OP_TOUCH (4)", request.kind);
  }
  if (Refusal refusal = CheckUnused(request)) return refusal;
  switch (request.kind) {
    case kOpPut: return SetPut(request, op);
    case kOpRemove: return SetRemove(request, op);
    case kOpIncrement: return SetIncrement(request, op);
    default: return SetTouch(request, op);
  }
}

Refusal ToWriteBatch(api::WriteBatchRequest& request, BatchOfWrites* batch) {
  batch->checks = request.conditions.size();
  const size_t count = batch->checks + request.ops.size();
  if (count > kMaxBatchOps) {
    return MakeError(ApiCode::kTooLarge, fmt::format("the batch has {} {}; the limit is {} (max_batch_ops)", count,
                                                     batch->checks > 0 ? "ops and conditions" : "ops", kMaxBatchOps));
  }
  if (size_t bytes = BatchBytes(request); bytes > kMaxBatchBytes) {
    return MakeError(ApiCode::kTooLarge,
                     fmt::format("the batch has {} bytes of keys and values; the limit is {} (max_batch_bytes)", bytes,
                                 kMaxBatchBytes));
  }
  batch->options.all_or_nothing = request.all_or_nothing;
  batch->ops.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const bool check = i < batch->checks;
    const size_t at = check ? i : i - batch->checks;
    WriteOp* op = &batch->ops[i];
    Refusal refusal = check ? ToCheck(request.conditions[at], op) : ToWriteOp(request.ops[at], op);
    if (refusal) {
      refusal->message = fmt::format("{} {} of the batch: {}", check ? "condition" : "op", at, refusal->message);
      return refusal;
    }
  }
  if (batch->checks > 0) return CheckOneTag(*batch);
  return {};
}

namespace {

Refusal CheckBounds(std::string_view start, std::string_view end, std::string_view prefix) {
  for (std::string_view bound : {start, end, prefix}) {
    if (bound.size() > kMaxKeyBytes) {
      return MakeError(ApiCode::kTooLarge,
                       fmt::format("a bound of the range has {} bytes; the limit is {} (max_key_bytes)", bound.size(),
                                   kMaxKeyBytes));
    }
  }
  return {};
}

Refusal CheckSlice(const api::ScanRequest& request) {
  if (request.slices < 0 || request.slices > static_cast<int32_t>(kMaxSlices)) {
    return Bad("slices is {}; it must be 0 (all rows) to {}", request.slices, kMaxSlices);
  }
  if (request.slice < 0 || request.slice >= std::max(request.slices, 1)) {
    return Bad("slice is {}; it must be 0 or more, and below slices, which is {}", request.slice, request.slices);
  }
  if (request.slices != 0 && !request.since.empty()) {
    return Bad("slices and since are both set, but changes since a snapshot can only be scanned all together");
  }
  return {};
}

// Moves what was decoded to `to`, or refuses the request with `code`.
template <typename T>
Refusal Decoded(Result<T> decoded, ApiCode code, T* to) {
  if (!decoded.ok()) return MakeError(code, decoded.status().message());
  *to = *std::move(decoded);
  return {};
}

template <typename Request>
Refusal ToScanRangeAfterCursor(const Request& request, ScanRange* range, const Uuid& cluster) {
  if (Refusal refusal = CheckBounds(request.start_key, request.end_key, request.prefix)) return refusal;
  return Decoded(ScanRange::Of(request, cluster), ApiCode::kBadCursor, range);
}

template <typename Request>
Refusal ToScanRangeAfterKey(const Request& request, const std::string* after_key, ScanRange* range) {
  if (!request.cursor.empty()) return Bad("cursor is set; a request for some partitions has after_key instead");
  if (Refusal refusal = ToScanRangeAfterCursor(request, range, Uuid())) return refusal;
  if (after_key == nullptr) return {};
  if (Refusal refusal = CheckKey(*after_key)) return refusal;
  range->ContinueAfter(*after_key);
  return {};
}

}  // namespace

Refusal ToScanRange(std::string_view start, std::string_view end, std::string_view prefix, ScanRange* range) {
  if (Refusal refusal = CheckBounds(start, end, prefix)) return refusal;
  *range = ScanRange::Of(start, end, prefix, /*reverse=*/false);
  return {};
}

Refusal ToScanRange(const api::ScanRequest& request, ScanRange* range, const Uuid& cluster) {
  if (Refusal refusal = CheckSlice(request)) return refusal;
  return ToScanRangeAfterCursor(request, range, cluster);
}

Refusal ToScanRange(const api::DeleteRangeRequest& request, ScanRange* range, const Uuid& cluster) {
  return ToScanRangeAfterCursor(request, range, cluster);
}

Refusal ToScanRange(const api::ScanRequest& request, const std::string* after_key, ScanRange* range) {
  if (Refusal refusal = CheckSlice(request)) return refusal;
  return ToScanRangeAfterKey(request, after_key, range);
}

Refusal ToScanRange(const api::DeleteRangeRequest& request, const std::string* after_key, ScanRange* range) {
  return ToScanRangeAfterKey(request, after_key, range);
}

Refusal CheckServing(int32_t partition, const RangeTable& serving, bool of_cluster) {
  const auto id = static_cast<uint32_t>(partition);
  if (partition >= 0 && serving.Has(id)) return {};
  if (partition < 0 || id >= kMaxPartitions || !of_cluster) {
    return Bad("there is no partition {}; the store is divided into {}", partition, serving.ids().size());
  }
  api::KvError stale = MakeError(
      ApiCode::kStaleMap,
      fmt::format("partition {} does not serve, as far as this node knows: it was split, or is a half that has not "
                  "begun; ask for a newer map",
                  id));
  stale.retryable = true;
  return stale;
}

Refusal ToPartitions(const std::vector<int32_t>& named, const RangeTable& serving, bool of_cluster,
                     std::vector<uint32_t>* ids) {
  if (named.empty() || named.size() > kMaxNamedPartitions) {
    return Bad("the request names {} partitions; it must name 1 to {}", named.size(), kMaxNamedPartitions);
  }
  std::set<uint32_t> seen;
  for (int32_t partition : named) {
    if (Refusal refusal = CheckServing(partition, serving, of_cluster)) return refusal;
    const auto id = static_cast<uint32_t>(partition);
    if (!seen.insert(id).second) return Bad("the request names partition {} twice", partition);
    ids->push_back(id);
  }
  return {};
}

Refusal ToSnapshotToken(std::string_view bytes, SnapshotToken* token) {
  return Decoded(DecodeSnapshotToken(bytes), ApiCode::kBadRequest, token);
}

Refusal ToSnapshotId(std::string_view token, SnapshotId* id) {
  SnapshotToken decoded;
  if (!token.empty()) {
    if (Refusal refusal = ToSnapshotToken(token, &decoded)) return refusal;
  }
  *id = decoded.id;  // 0 without a token
  return {};
}

Refusal ToPageCursor(std::string_view bytes, PageCursor* cursor) {
  return Decoded(DecodePageCursor(bytes), ApiCode::kBadCursor, cursor);
}

Refusal CheckTtl(int32_t ttl_ms) {
  if (ttl_ms < 0) return Bad("ttl_ms is {}; it must be 0 (the default, one minute) or more", ttl_ms);
  if (ttl_ms > kMaxSnapshotTtlMs) {
    return Bad("ttl_ms is {}; the most is {}: renew the snapshot to keep it open longer (renewSnapshot)", ttl_ms,
               kMaxSnapshotTtlMs);
  }
  return {};
}

Refusal CheckMultiGet(const api::MultiGetRequest& request) {
  if (request.keys.size() > kMaxMultiGetKeys) {
    return MakeError(ApiCode::kTooLarge, fmt::format("the request has {} keys; the limit is {} (max_multi_get_keys)",
                                                     request.keys.size(), kMaxMultiGetKeys));
  }
  for (size_t i = 0; i < request.keys.size(); ++i) {
    if (Refusal refusal = CheckKey(request.keys[i])) {
      refusal->message = fmt::format("key {} of the request: {}", i, refusal->message);
      return refusal;
    }
  }
  return {};
}

Refusal ToWatchPosition(std::string_view bytes, const WatchBinding& binding, WatchPosition* position) {
  Result<WatchPosition> decoded = DecodeWatchPosition(binding, bytes);
  if (decoded.code() == Code::kNotFound) return FeedGone(decoded.status().message());
  if (decoded.code() == Code::kUnavailable) return ToKvError(decoded.status(), false);
  return Decoded(std::move(decoded), ApiCode::kBadCursor, position);
}

api::KvError FeedGone(std::string why) {
  return MakeError(ApiCode::kFeedGone,
                   fmt::format("{}: open a snapshot, scan it, and watch from its version", std::move(why)));
}

Nanos EndOfWait(const RpcCallBase& call, int32_t wait_ms) {
  const Nanos margin_ns = std::min(kReplyMarginNs, call.budget_ms * kMillisecond / 10);
  return std::min(call.received_ns + wait_ms * kMillisecond, call.deadline_ns - margin_ns);
}

Refusal CheckSplitParts(int32_t parts) {
  if (parts >= 2 && parts <= static_cast<int32_t>(kMaxSplitParts)) return {};
  return Bad("parts is {}; it must be from 2 to {}", parts, kMaxSplitParts);
}

Refusal CheckMaxVersion(int64_t max_version) {
  if (max_version >= 0) return {};
  return Bad("max_version is {}; it must be 0 (no limit) or more", max_version);
}

Refusal CheckWatch(std::string_view prefix, int32_t wait_ms) {
  if (Refusal refusal = CheckBounds({}, {}, prefix)) return refusal;
  if (wait_ms < 0) return Bad("wait_ms is {}; it must be 0 or more", wait_ms);
  return {};
}

Refusal CheckWatch(const api::WatchRequest& request) {
  if (Refusal refusal = CheckWatch(request.prefix, request.wait_ms)) return refusal;
  if (request.after_version < 0) return Bad("after_version is {}; it must be 0 or more", request.after_version);
  if (request.after_version > 0 && !request.position.empty()) {
    return Bad("after_version is {}, but position is set too: send only one of them", request.after_version);
  }
  return {};
}

Refusal SetLimit(const char* name, int32_t asked, size_t most, size_t* limit) {
  if (asked < 0) return Bad("{} is {}; it must be 0 (the server's limit) or more", name, asked);
  *limit = asked == 0 ? most : std::min<size_t>(static_cast<size_t>(asked), most);
  return {};
}

void ToRecord(ReadResult& from, api::Record* to) {
  to->found = from.found;
  to->version = static_cast<int64_t>(from.version);
  to->expires_at_ms = from.expires_at_ms;
  to->value = std::move(from.value);
}

Refusal ToWriteResult(const WriteOp& op, OpResult& from, api::WriteResult* to) {
  switch (from.outcome) {
    case OpOutcome::kApplied:
      to->applied = true;
      to->version = static_cast<int64_t>(from.version);
      to->existed = from.existed;
      if (op.op == RecordOp::kIncrement) to->__set_number(from.number);
      if (op.return_previous && from.current_forgotten) {
        to->previous_value_omitted = true;
      } else if (op.return_previous) {
        ToRecord(from.current, &to->previous);
        to->__isset.previous = true;
        to->previous_value_omitted = from.value_omitted;
      }
      return {};
    case OpOutcome::kConditionFailed:
      to->existed = from.current.found;
      to->current_value_omitted = from.value_omitted;
      if (from.current_forgotten) return {};
      ToRecord(from.current, &to->current);
      to->__isset.current = true;
      return {};
    case OpOutcome::kNotANumber:
      if (from.value_omitted) return Bad("cannot increment: the value is not a decimal 64-bit integer");
      return Bad("cannot increment: the value of {} bytes is not a decimal 64-bit integer", from.current.value.size());
    case OpOutcome::kOverflow:
      return Bad("cannot increment by {}: the sum would exceed the range of 64-bit integers", op.delta);
    case OpOutcome::kBatchRefused: to->withheld = true; return {};
  }
  return MakeError(ApiCode::kInternal, "the partition returned an unknown outcome for a write");
}

WriteOp KeepShape(const WriteOp& op) {
  WriteOp shape;
  shape.op = op.op;
  shape.delta = op.delta;
  shape.return_previous = op.return_previous;
  return shape;
}

void ToChanges(std::vector<Change>& from, std::vector<api::Change>* to) {
  for (Change& change : from) {
    api::Change& told = to->emplace_back();
    told.key = std::move(change.key);
    told.version = static_cast<int64_t>(change.version);
    told.removed = change.removed;
  }
}

void ToRangePart(RangePart& from, api::RangePart* to) {
  to->start_key = std::move(from.start);
  to->end_key = std::move(from.end);
  to->count = static_cast<int64_t>(from.sums.count);
  to->bytes = static_cast<int64_t>(from.sums.bytes);
}

}  // namespace pando
