// Scan and Watch: what goes on after one reply.
#include <algorithm>

#include "calls.h"

namespace pando::client {

using namespace detail;

static_assert(std::input_iterator<Scan::iterator> && std::sentinel_for<std::default_sentinel_t, Scan::iterator>);
static_assert(std::input_iterator<Watch::iterator> && std::sentinel_for<std::default_sentinel_t, Watch::iterator>);

namespace {

constexpr milliseconds kLongestWait{10'000};  // of one request of a watch, so that a dead server is noticed

}  // namespace

// -- Scan ------------------------------------------------------------------------------------------------------------

namespace {

ScanPage read_page(const Scope& scope, const ScanOptions& options) {
  if (options.limit && *options.limit <= 0) return {{}, options.cursor};
  api::ScanRequest request;
  request.__set_start_key(options.start);
  request.__set_end_key(options.end);
  request.__set_prefix(options.prefix);
  request.__set_reverse(options.reverse);
  request.__set_keys_only(options.keys_only);
  request.__set_sizes_only(options.sizes_only);
  std::int64_t rows = options.page_rows;
  if (options.limit) rows = rows > 0 ? std::min(rows, *options.limit) : *options.limit;
  request.__set_limit_rows(to_i32(rows));
  request.__set_cursor(options.cursor);
  request.__set_snapshot(snapshot_token(scope));
  request.__set_since(options.since);
  request.__set_slices(options.slices);
  request.__set_slice(options.slice);
  CallSpec spec = read_spec(scope, options.level, options.max_staleness, options.timeout);
  // A replica need not have the older snapshot.
  if (!options.since.empty() && options.level == ReadLevel::kDefault) spec.level = 0;
  auto reply = scope.core->call<api::ScanReply>(scope, spec, "scan", request);
  ScanPage page;
  page.cursor = std::move(reply.cursor);
  page.rows.reserve(reply.rows.size());
  for (api::Row& wire : reply.rows) {
    Row row{std::move(wire.key), std::move(wire.value), wire.version, to_time(wire.expires_at_ms), wire.removed, {}};
    if (wire.__isset.value_bytes) row.value_bytes = wire.value_bytes;
    page.rows.push_back(std::move(row));
  }
  return page;
}

}  // namespace

ScanPage Reader::scan_page(const ScanOptions& options) const { return read_page(*scope_, options); }

Scan Reader::scan(ScanOptions options) const { return {scope_, std::move(options)}; }

Scan::Scan(std::shared_ptr<Scope> scope, ScanOptions options)
    : scope_(std::move(scope)), options_(std::move(options)) {}
Scan::Scan(Scan&&) noexcept = default;
Scan& Scan::operator=(Scan&&) noexcept = default;
Scan::~Scan() = default;

Scan::iterator Scan::begin() { return {this, advance()}; }

Row* Scan::advance() {
  while (next_ == page_.rows.size()) {
    if (!fetch()) return nullptr;
  }
  return &page_.rows[next_++];
}

// The next page. False: there is none.
bool Scan::fetch() {
  const std::int64_t taken = taken_ + static_cast<std::int64_t>(page_.rows.size());
  if ((pages_ > 0 && page_.cursor.empty()) || (options_.limit && taken >= *options_.limit)) return false;
  ScanOptions next = options_;
  if (pages_ > 0) next.cursor = page_.cursor;
  if (next.limit) *next.limit -= taken;
  ScanPage page = read_page(*scope_, next);  // if it throws, nothing has changed
  taken_ = taken;
  options_.cursor = std::move(next.cursor);
  page_ = std::move(page);
  next_ = 0;
  ++pages_;
  return true;
}

const std::string& Scan::cursor() const {
  return pages_ > 0 && next_ == page_.rows.size() ? page_.cursor : options_.cursor;
}

bool Scan::done() const { return pages_ > 0 && next_ == page_.rows.size() && page_.cursor.empty(); }

// -- Watch -----------------------------------------------------------------------------------------------------------

Watch Store::watch(std::string_view prefix, WatchOptions options) { return {scope_, prefix, std::move(options)}; }

Watch::Watch(std::shared_ptr<Scope> scope, std::string_view prefix, WatchOptions options)
    : state_(std::make_shared<WatchState>(std::move(scope), prefix, std::move(options))) {
  // "From now on" means from this call on, and not from the first wait.
  if (state_->options.position.empty() && state_->options.after_version == 0) state_->fetch(0, milliseconds(0));
}

Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&&) noexcept = default;
Watch::~Watch() = default;

void WatchState::fetch(std::int32_t limit_changes, milliseconds wait) {
  Core& core = *scope->core;
  api::WatchRequest request;
  request.__set_prefix(prefix);
  request.__set_position(position());
  request.__set_after_version(request.position.empty() ? options.after_version : 0);
  request.__set_limit_changes(limit_changes);
  CallSpec spec{.timeout = options.timeout.value_or(core.options().timeout) + wait};
  spec.own = &connection;
  spec.stopped = &stopped;
  const Deadline wait_until = Clock::now() + wait;
  api::WatchReply reply;
  core.run(*scope, spec, [&](Connection& to, const api::Context& context, Deadline deadline) {
    in_use = &to;
    if (stopped) throw closed_failure();
    const auto left = std::chrono::ceil<milliseconds>(wait_until - Clock::now());
    request.__set_wait_ms(to_i32(std::max(left, milliseconds(0)).count()));
    reply = api::WatchReply();
    to.call("watch", context, request, &reply, deadline);
    core.learn(*scope, reply.context);
  });
  options.position = std::move(request.position);
  next_position = std::move(reply.position);
  changes.clear();
  taken = 0;
  for (api::Change& change : reply.changes) changes.push_back({std::move(change.key), change.version, change.removed});
}

const std::string& WatchState::position() const {
  return taken == changes.size() && !next_position.empty() ? next_position : options.position;
}

void WatchState::stop() {
  stopped = true;
  scope->core->pool().interrupt(in_use);
  scope->core->wake();
}

std::vector<Change> Watch::poll(std::size_t max_changes, milliseconds wait) {
  WatchState& state = *state_;
  const Deadline deadline = Clock::now() + std::min(wait, milliseconds(std::chrono::hours(24 * 365)));
  max_changes = std::max<std::size_t>(max_changes, 1);
  try {
    while (state.taken == state.changes.size() && !state.stopped) {
      const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
      state.fetch(to_i32(static_cast<std::int64_t>(std::min<std::size_t>(max_changes, 1u << 30))),
                  std::clamp(left, milliseconds(0), kLongestWait));
      if (state.changes.empty() && left <= milliseconds(0)) break;
    }
  } catch (const ClosedError&) {
    if (!state.stopped) throw;
  }
  std::vector<Change> result;
  while (result.size() < max_changes && state.taken < state.changes.size() && !state.stopped) {
    result.push_back(std::move(state.changes[state.taken++]));
  }
  return result;
}

std::optional<Change> Watch::next(milliseconds wait) {
  WatchState& state = *state_;
  if (state.taken == state.changes.size()) {
    // Reads ahead, so that many changes do not cost a request each.
    std::vector<Change> changes = poll(SIZE_MAX, wait);
    if (changes.empty()) return std::nullopt;
    state.changes = std::move(changes);
    state.taken = 0;
  }
  if (state.stopped) return std::nullopt;
  return std::move(state.changes[state.taken++]);
}

Change* Watch::advance() {
  std::optional<Change> change;
  while (!(change = next(kLongestWait))) {
    if (state_->stopped) return nullptr;
  }
  state_->current = *std::move(change);
  return &state_->current;
}

Watch::iterator Watch::begin() { return {this, advance()}; }

const std::string& Watch::position() const { return state_->position(); }

void Watch::stop() { state_->stop(); }

}  // namespace pando::client
