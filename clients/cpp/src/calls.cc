#include "calls.h"

#include <algorithm>
#include <limits>

namespace pando::client {
namespace detail {

CallSpec read_spec(const Scope& scope, ReadLevel level, milliseconds max_staleness,
                   std::optional<milliseconds> timeout) {
  if (level == ReadLevel::kDefault && scope.snapshot == nullptr) {
    level = scope.session != nullptr ? ReadLevel::kSession : scope.core->options().read_level;
  }
  if (level == ReadLevel::kBounded && max_staleness == milliseconds(0)) {
    max_staleness = scope.core->options().max_staleness;
  }
  return {.kind = CallKind::kRead,
          .level = static_cast<std::int32_t>(level),
          .max_staleness = milliseconds(to_i32(max_staleness.count())),
          .timeout = timeout};
}

CallSpec write_spec(const Scope& scope, WriteLevel level, std::optional<milliseconds> timeout, CallKind kind) {
  if (level == WriteLevel::kDefault) level = scope.core->options().write_level;
  return {.kind = kind, .level = static_cast<std::int32_t>(level), .timeout = timeout};
}

const std::string& snapshot_token(const Scope& scope) {
  static const std::string kNone;
  return scope.snapshot != nullptr ? scope.snapshot->token : kNone;
}

std::int32_t to_i32(std::int64_t number) {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(number, std::numeric_limits<std::int32_t>::min(),
                                                            std::numeric_limits<std::int32_t>::max()));
}

std::optional<TimePoint> to_time(std::int64_t expires_at_ms) {
  if (expires_at_ms == 0) return std::nullopt;
  return TimePoint(milliseconds(expires_at_ms));
}

namespace {

std::optional<Record> to_record(api::Record&& record) {
  if (!record.found) return std::nullopt;
  return Record{std::move(record.value), record.version, to_time(record.expires_at_ms)};
}

api::Condition to_wire(const Condition& condition) {
  api::Condition wire;
  if (condition.version) wire.__set_version(*condition.version);
  if (condition.value) wire.__set_value(*condition.value);
  if (condition.exists) wire.__set_exists(*condition.exists);
  return wire;
}

template <class Request>
void set_condition(const Condition& condition, Request* request) {
  if (!condition.empty()) request->__set_condition(to_wire(condition));
}

template <class Request>
void set_expiry(const Expiry& expiry, Request* request) {
  request->__set_ttl_mode(static_cast<std::int32_t>(expiry.mode));
  request->__set_ttl_ms(expiry.ttl.count());
  request->__set_expires_at_ms(expiry.time.time_since_epoch().count());
}

template <class Request>
Request to_request(const Range& range, const Scope& scope) {
  Request request;
  request.__set_start_key(range.start);
  request.__set_end_key(range.end);
  request.__set_prefix(range.prefix);
  request.__set_snapshot(snapshot_token(scope));
  return request;
}

void fill_result(api::WriteResult&& wire, WriteResult* result) {
  result->applied = wire.applied;
  result->version = wire.version;
  result->existed = wire.existed;
  if (wire.__isset.current) result->current = to_record(std::move(wire.current));
  if (wire.__isset.previous) result->previous = to_record(std::move(wire.previous));
  result->current_omitted = wire.current_value_omitted;
  result->previous_omitted = wire.previous_value_omitted;
}

WriteResult to_result(api::WriteResult&& wire) {
  WriteResult result;
  fill_result(std::move(wire), &result);
  return result;
}

api::WriteOp to_wire(const Batch::Op& op) {
  api::WriteOp wire;
  wire.__set_kind(static_cast<std::int32_t>(op.kind));
  wire.__set_key(op.key);
  wire.__set_value(op.value);
  wire.__set_delta(op.delta);
  set_condition(op.condition, &wire);
  set_expiry(op.expiry, &wire);
  wire.__set_return_previous(op.return_previous);
  return wire;
}

OpResult to_op_result(api::WriteResult&& wire) {
  OpResult result;
  if (wire.__isset.number) result.number = wire.number;
  if (wire.__isset.error) result.error = to_info(wire.error);
  result.withheld = wire.withheld;
  fill_result(std::move(wire), &result);
  return result;
}

// Reads some keys. Those that cannot be read now are asked for again, and the others are not.
class MultiGet {
 public:
  MultiGet(std::span<const std::string_view> keys, std::string snapshot) : keys_(keys), records_(keys.size()) {
    request_.__set_snapshot(std::move(snapshot));
    for (std::size_t i = 0; i < keys.size(); ++i) missing_.push_back(i);
  }

  void attempt(Core& core, const Scope& scope, Connection& connection, const api::Context& context, Deadline deadline) {
    request_.keys.clear();
    for (const std::size_t i : missing_) request_.keys.emplace_back(keys_[i]);
    api::MultiGetReply reply;
    connection.call("multiGet", context, request_, &reply, deadline);
    core.learn(scope, reply.context);
    if (reply.items.size() != missing_.size()) {
      throw transport_failure("the reply has another number of records than the request has keys", true);
    }
    std::vector<std::size_t> missing;
    std::optional<ErrorInfo> error;
    for (std::size_t i = 0; i < missing_.size(); ++i) {
      api::MultiGetItem& item = reply.items[i];
      if (!item.__isset.error) {
        records_[missing_[i]] = to_record(std::move(item.record));
        continue;
      }
      missing.push_back(missing_[i]);
      if (!error || error->retryable) error = to_info(item.error);
    }
    missing_ = std::move(missing);
    if (error) throw Failure{*std::move(error)};
  }

  std::vector<std::optional<Record>> records() { return std::move(records_); }

 private:
  std::span<const std::string_view> keys_;
  std::vector<std::optional<Record>> records_;
  std::vector<std::size_t> missing_;
  api::MultiGetRequest request_;
};

// Writes a batch. While an op fails in a way that may pass, the whole batch is sent again under its name: each
// partition that has carried out its ops answers as the first time. The results of all replies are merged here.
//
// Invariants:
// - An op that is decided (it was applied, or its condition did not hold) keeps its first result: the later ones lack
//   `current` and `previous`.
// - Of an op that failed the last error counts, since each try judges it anew. It says kNo only if no try can have
//   applied the op.
// - Without a name, the batch is sent again only if no op can have been applied.
class BatchWrite {
 public:
  explicit BatchWrite(api::WriteBatchRequest request) : request_(std::move(request)) {}

  void attempt(Core& core, const Scope& scope, Connection& connection, const api::Context& context, Deadline deadline) {
    api::WriteBatchReply reply;
    try {
      connection.call("writeBatch", context, request_, &reply, deadline);
    } catch (const Failure& failure) {
      lost_ |= failure.info.applied != Applied::kNo;
      throw;
    }
    core.learn(scope, reply.context);
    if (reply.results.size() != request_.ops.size() && reply.failed_conditions.empty()) {
      lost_ = true;
      throw transport_failure("the reply has another number of results than the request has ops", true);
    }
    merge(std::move(reply));
    if (std::optional<ErrorInfo> passing = reason_to_repeat(!context.client_id.empty())) {
      passing->applied = unknown_inside_ ? Applied::kUnknown : Applied::kNo;
      throw Failure{*std::move(passing)};
    }
  }

  // There will be no more tries. False: none was answered, so there is nothing to tell but the error.
  bool end(const Error& error) {
    if (!answered_) return false;
    const bool of_server =
        error.code() != Code::kDeadline && error.code() != Code::kTransport && error.code() != Code::kClosed;
    for (OpResult& op : result_.results) {
      if (is_decided(op)) continue;
      const bool unknown = lost_ || op.error->applied != Applied::kNo;
      if (of_server) op.error = error.info();
      op.error->applied = unknown ? Applied::kUnknown : Applied::kNo;
    }
    return true;
  }

  BatchResult take_result() {
    for (OpResult& op : result_.results) {
      // The next call would have another name.
      if (op.error && op.error->applied != Applied::kNo) op.error->retryable = false;
    }
    return std::move(result_);
  }

  bool* unknown_inside() { return &unknown_inside_; }

 private:
  static bool is_decided(const OpResult& op) { return !op.error || op.error->applied == Applied::kYes; }

  void merge(api::WriteBatchReply&& reply) {
    std::vector<OpResult> before = std::move(result_.results);
    result_ = BatchResult();
    for (api::WriteResult& wire : reply.results) result_.results.push_back(to_op_result(std::move(wire)));
    for (api::FailedCondition& failed : reply.failed_conditions) {
      result_.failed_conditions.push_back(
          {static_cast<std::size_t>(failed.index), to_record(std::move(failed.current)), failed.current_value_omitted});
    }
    answered_ = true;
    before.resize(result_.failed_conditions.empty() ? before.size() : 0);  // then nothing was applied
    unknown_inside_ = false;
    for (std::size_t i = 0; i < result_.results.size(); ++i) {
      OpResult& op = result_.results[i];
      if (i < before.size() && is_decided(before[i])) op = std::move(before[i]);
      if (is_decided(op)) continue;
      const bool was_unknown = i < before.size() && before[i].error->applied != Applied::kNo;
      if (lost_ || was_unknown) op.error->applied = Applied::kUnknown;
      unknown_inside_ |= op.error->applied != Applied::kNo;
    }
  }

  // The error of an op for which the batch is sent again. One that names a server comes first: so all masters are
  // asked, although one of them may be gone.
  std::optional<ErrorInfo> reason_to_repeat(bool named) const {
    const ErrorInfo* passing = nullptr;
    for (const OpResult& op : result_.results) {
      if (!named && (!op.error || op.error->applied != Applied::kNo)) return std::nullopt;
      if (!op.error || !op.error->retryable) continue;
      if (passing == nullptr || (passing->master.empty() && !op.error->master.empty())) passing = &*op.error;
    }
    return passing != nullptr ? std::optional(*passing) : std::nullopt;
  }

  const api::WriteBatchRequest request_;
  BatchResult result_;
  bool answered_ = false;
  bool lost_ = false;  // a try may have been carried out without an answer that says what came of each op
  bool unknown_inside_ = false;
};

}  // namespace
}  // namespace detail

using namespace detail;

// -- Reader ----------------------------------------------------------------------------------------------------------

Reader::Reader(std::shared_ptr<Scope> scope) : scope_(std::move(scope)) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

std::optional<Record> Reader::get(std::string_view key, const ReadOptions& options) const {
  api::GetRequest request;
  request.__set_key(std::string(key));
  request.__set_snapshot(snapshot_token(*scope_));
  const CallSpec spec = read_spec(*scope_, options.level, options.max_staleness, options.timeout);
  return to_record(std::move(scope_->core->call<api::GetReply>(*scope_, spec, "get", request).record));
}

std::vector<std::optional<Record>> Reader::multi_get(std::span<const std::string_view> keys,
                                                     const ReadOptions& options) const {
  if (keys.empty()) return {};
  MultiGet get(keys, snapshot_token(*scope_));
  const CallSpec spec = read_spec(*scope_, options.level, options.max_staleness, options.timeout);
  Core& core = *scope_->core;
  core.run(*scope_, spec, [&](Connection& connection, const api::Context& context, Deadline deadline) {
    get.attempt(core, *scope_, connection, context, deadline);
  });
  return get.records();
}

std::vector<std::optional<Record>> Reader::multi_get(std::initializer_list<std::string_view> keys,
                                                     const ReadOptions& options) const {
  return multi_get(std::span(keys.begin(), keys.size()), options);
}

std::vector<std::optional<Record>> Reader::multi_get(const std::vector<std::string>& keys,
                                                     const ReadOptions& options) const {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  return multi_get(std::span(views), options);
}

std::int64_t Reader::count(const Range& range, const ReadOptions& options) const {
  const CallSpec spec = read_spec(*scope_, options.level, options.max_staleness, options.timeout);
  const auto request = to_request<api::CountRequest>(range, *scope_);
  return scope_->core->call<api::CountReply>(*scope_, spec, "count", request).count;
}

Aggregate Reader::aggregate(const Range& range, const ReadOptions& options) const {
  const CallSpec spec = read_spec(*scope_, options.level, options.max_staleness, options.timeout);
  const auto request = to_request<api::AggregateRequest>(range, *scope_);
  const auto reply = scope_->core->call<api::AggregateReply>(*scope_, spec, "aggregate", request);
  return {reply.count, reply.bytes, reply.content_hash};
}

std::vector<RangePart> Reader::split_range(const Range& range, std::int32_t parts, const ReadOptions& options) const {
  const CallSpec spec = read_spec(*scope_, options.level, options.max_staleness, options.timeout);
  auto request = to_request<api::SplitRangeRequest>(range, *scope_);
  request.__set_parts(parts);
  auto reply = scope_->core->call<api::SplitRangeReply>(*scope_, spec, "splitRange", request);
  std::vector<RangePart> result;
  for (api::RangePart& part : reply.parts) {
    result.push_back({std::move(part.start_key), std::move(part.end_key), part.count, part.bytes});
  }
  return result;
}

// -- Store -----------------------------------------------------------------------------------------------------------

WriteResult Store::put(std::string_view key, std::string_view value, const PutOptions& options) {
  api::PutRequest request;
  request.__set_key(std::string(key));
  request.__set_value(std::string(value));
  set_condition(options.condition, &request);
  set_expiry(options.expiry, &request);
  request.__set_return_previous(options.return_previous);
  const CallSpec spec = write_spec(*scope_, options.level, options.timeout);
  return to_result(scope_->core->call<api::WriteResult>(*scope_, spec, "put", request));
}

WriteResult Store::remove(std::string_view key, const RemoveOptions& options) {
  api::RemoveRequest request;
  request.__set_key(std::string(key));
  set_condition(options.condition, &request);
  request.__set_return_previous(options.return_previous);
  const CallSpec spec = write_spec(*scope_, options.level, options.timeout);
  return to_result(scope_->core->call<api::WriteResult>(*scope_, spec, "remove", request));
}

std::int64_t Store::increment(std::string_view key, std::int64_t delta, const IncrementOptions& options) {
  api::IncrementRequest request;
  request.__set_key(std::string(key));
  request.__set_delta(delta);
  set_expiry(options.expiry, &request);
  const CallSpec spec = write_spec(*scope_, options.level, options.timeout);
  return scope_->core->call<api::WriteResult>(*scope_, spec, "increment", request).number;
}

WriteResult Store::touch(std::string_view key, const Expiry& expiry, const TouchOptions& options) {
  api::TouchRequest request;
  request.__set_key(std::string(key));
  set_condition(options.condition, &request);
  set_expiry(expiry, &request);
  const CallSpec spec = write_spec(*scope_, options.level, options.timeout);
  return to_result(scope_->core->call<api::WriteResult>(*scope_, spec, "touch", request));
}

BatchResult Store::write_batch(const Batch& batch, const BatchOptions& options) {
  api::WriteBatchRequest request;
  for (const Batch::Op& op : batch.ops()) request.ops.push_back(to_wire(op));
  request.__isset.ops = true;
  request.__set_all_or_nothing(batch.is_all_or_nothing());
  for (const Batch::Requirement& requirement : batch.requirements()) {
    api::KeyCondition condition;
    condition.__set_key(requirement.key);
    condition.__set_condition(to_wire(requirement.condition));
    request.conditions.push_back(std::move(condition));
  }
  request.__isset.conditions = true;
  CallSpec spec = write_spec(*scope_, options.level, options.timeout);
  BatchWrite write(std::move(request));
  spec.unknown_inside = write.unknown_inside();
  Core& core = *scope_->core;
  try {
    core.run(*scope_, spec, [&](Connection& connection, const api::Context& context, Deadline deadline) {
      write.attempt(core, *scope_, connection, context, deadline);
    });
  } catch (const Error& error) {
    if (!write.end(error)) throw;
  }
  return write.take_result();
}

std::int64_t Store::delete_range(const Range& range, const DeleteRangeOptions& options) {
  api::DeleteRangeRequest request;
  request.__set_start_key(range.start);
  request.__set_end_key(range.end);
  request.__set_prefix(range.prefix);
  request.__set_limit_rows(options.page_rows);
  request.__set_max_version(options.max_version);
  const CallSpec spec = write_spec(*scope_, options.level, options.timeout, CallKind::kRepeatableWrite);
  std::int64_t removed = 0;
  do {
    auto reply = scope_->core->call<api::DeleteRangeReply>(*scope_, spec, "deleteRange", request);
    removed += reply.removed;
    request.__set_cursor(reply.cursor);
  } while (!request.cursor.empty());
  return removed;
}

Snapshot Store::snapshot(const SnapshotOptions& options) {
  api::OpenSnapshotRequest request;
  request.__set_ttl_ms(to_i32(options.ttl.count()));
  const CallSpec spec{.timeout = options.timeout};
  auto reply = scope_->core->call<api::SnapshotReply>(*scope_, spec, "openSnapshot", request);
  auto state = std::make_shared<SnapshotState>();
  state->token = std::move(reply.snapshot);
  state->version = reply.version;
  state->ttl = milliseconds(request.ttl_ms);
  state->expires_at_ms = reply.expires_at_ms;
  if (options.renew && state->ttl > milliseconds(0)) scope_->core->renew_in_background(state);
  // The snapshot has what the session had seen, so reads of it need no session.
  return {std::make_shared<Scope>(Scope{scope_->core, nullptr, state}), state};
}

Snapshot Store::attach_snapshot(std::string_view token, std::int64_t version) {
  auto state = std::make_shared<SnapshotState>();
  state->token = token;
  state->version = version;
  state->owned = false;
  return {std::make_shared<Scope>(Scope{scope_->core, nullptr, state}), state};
}

// -- Snapshot, Session, Client
// -----------------------------------------------------------------------------------------

Snapshot::Snapshot(std::shared_ptr<Scope> scope, std::shared_ptr<SnapshotState> state)
    : Reader(std::move(scope)), state_(std::move(state)) {}

Snapshot::Snapshot(Snapshot&&) noexcept = default;

Snapshot& Snapshot::operator=(Snapshot&& other) noexcept {
  if (this != &other) {
    drop();
    Reader::operator=(std::move(other));
    state_ = std::move(other.state_);
  }
  return *this;
}

Snapshot::~Snapshot() { drop(); }

void Snapshot::drop() noexcept {
  if (state_ == nullptr || !state_->owned || state_->released) return;
  try {
    // Without an answer it expires by itself.
    release({.timeout = std::min(scope_->core->options().timeout, milliseconds(1000))});
  } catch (...) {
  }
}

std::int64_t Snapshot::version() const { return state_->version; }
TimePoint Snapshot::expires_at() const { return TimePoint(milliseconds(state_->expires_at_ms)); }
const std::string& Snapshot::token() const { return state_->token; }

void Snapshot::renew(milliseconds ttl, const CallOptions& options) {
  api::RenewSnapshotRequest request;
  request.__set_snapshot(state_->token);
  request.__set_ttl_ms(to_i32(ttl.count()));
  const CallSpec spec{.timeout = options.timeout};
  state_->expires_at_ms = scope_->core->call<api::SnapshotReply>(*scope_, spec, "renewSnapshot", request).expires_at_ms;
}

bool Snapshot::release(const CallOptions& options) {
  state_->released = true;
  api::ReleaseSnapshotRequest request;
  request.__set_snapshot(state_->token);
  const CallSpec spec{.timeout = options.timeout};
  return scope_->core->call<api::ReleaseSnapshotReply>(*scope_, spec, "releaseSnapshot", request).existed;
}

Session::Session(std::shared_ptr<Scope> scope) : Store(std::move(scope)) {}

std::string Session::token() const {
  const std::lock_guard lock(scope_->session->mutex);
  return scope_->session->token;
}

namespace {

std::shared_ptr<Scope> make_scope(const std::vector<std::string>& texts, const Options& options) {
  if (texts.empty()) throw std::invalid_argument("a client needs the address of at least one router or node");
  std::vector<Address> addresses;
  for (const std::string& text : texts) addresses.push_back(parse_address(text));
  return std::make_shared<Scope>(Scope{std::make_shared<Core>(addresses, options), nullptr, nullptr});
}

}  // namespace

Client::Client(const std::vector<std::string>& addresses, const Options& options)
    : Store(make_scope(addresses, options)) {}

Client& Client::operator=(Client&& other) noexcept {
  if (this != &other) {
    if (scope_ != nullptr) close();
    Store::operator=(std::move(other));
  }
  return *this;
}

Client::~Client() {
  if (scope_ != nullptr) close();
}

Session Client::session(std::string_view token) const {
  auto state = std::make_shared<SessionState>();
  state->token = token;
  return Session(std::make_shared<Scope>(Scope{scope_->core, std::move(state), nullptr}));
}

ServerInfo Client::server_info(const CallOptions& options) const {
  ServerInfo info;
  scope_->core->run(*scope_, CallSpec{.timeout = options.timeout},
                    [&](Connection& connection, const api::Context&, Deadline) { info = connection.info(); });
  return info;
}

void Client::close() { scope_->core->close(); }

}  // namespace pando::client
