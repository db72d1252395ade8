#include "core.h"

#include <sys/random.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace pando::client::detail {
namespace {

constexpr milliseconds kFirstBackoff{10};
constexpr milliseconds kLongestBackoff{1000};
constexpr milliseconds kLongestTimeout = std::chrono::hours(24 * 24);  // it fits into the 32 bits of budget_ms

std::string random_client_id() {
  std::string id(16, '\0');
  for (std::size_t filled = 0; filled < id.size();) {
    const ssize_t got = ::getrandom(id.data() + filled, id.size() - filled, 0);
    if (got > 0) filled += static_cast<std::size_t>(got);
  }
  return id;
}

}  // namespace

Lane Lanes::take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return {random_client_id(), 0};
  Lane lane = std::move(free_.back());
  free_.pop_back();
  return lane;
}

void Lanes::give_back(Lane lane) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(lane));
}

// How far a call has come.
struct Core::Progress {
  Deadline deadline;
  int tries = 0;
  bool unknown = false;  // a try may have changed something
  bool reused = false;   // the last try had a connection that was idle before
  bool forgave = false;  // one broken idle connection costs no wait
  bool asked = false;    // whether the server remembers writes
  std::optional<Lane> lane{};
  std::int64_t first_sent_ms = 0;
  std::optional<std::size_t> wish{};   // the address to ask next, after a server that could not serve the call
  bool at_once = false;                // it was not asked yet, so the next try need not wait
  std::vector<std::size_t> visited{};  // addresses that were asked
};

Core::Core(const std::vector<Address>& addresses, const Options& options)
    : options_(options), pool_(addresses, options.pool_size, options.client_name, options.connect_timeout) {}

Core::~Core() { close(); }

void Core::run(const Scope& scope, const CallSpec& spec, const Attempt& attempt) {
  const milliseconds timeout = std::min(spec.timeout.value_or(options_.timeout), kLongestTimeout);
  Progress progress{.deadline = Clock::now() + timeout};
  if (timeout <= milliseconds(0)) out_of_time(spec, &progress, std::nullopt);
  for (;;) {
    try {
      try_once(scope, spec, attempt, &progress);
      const bool unknown_inside = spec.unknown_inside != nullptr && *spec.unknown_inside;
      if (progress.lane && !unknown_inside) lanes_.give_back(*std::move(progress.lane));
      return;
    } catch (Failure& failure) {
      wait_after(spec, &progress, std::move(failure));
    }
  }
}

void Core::try_once(const Scope& scope, const CallSpec& spec, const Attempt& attempt, Progress* progress) {
  ++progress->tries;
  progress->reused = false;
  progress->at_once = false;
  const std::optional<std::size_t> wish = std::exchange(progress->wish, std::nullopt);
  Pool::Lease pooled;
  Pool::Lease& lease = spec.own != nullptr ? *spec.own : pooled;
  if (lease && !lease->usable()) lease.discard();
  if (!lease) {
    lease = spec.own != nullptr ? pool_.dedicated(progress->deadline, wish) : pool_.acquire(progress->deadline, wish);
  }
  progress->reused = lease.reused();
  if (std::find(progress->visited.begin(), progress->visited.end(), lease->address_index()) ==
      progress->visited.end()) {
    progress->visited.push_back(lease->address_index());
  }
  name_write(spec, *lease, progress);
  const api::Context context = context_for(scope, spec, *lease, *progress);
  try {
    attempt(*lease, context, progress->deadline + kReplySlack);
  } catch (const ServerFailure& failure) {
    learn(scope, failure.context);
    refer(spec, failure.info, &lease, progress);
    throw;
  } catch (const Failure& failure) {
    if (!failure.transport) refer(spec, failure.info, &lease, progress);  // of an item of the reply
    // We have ended it ourselves, or the server may have closed it because it was idle: the address may be good.
    if (stopped(spec) || (failure.transport && lease.reused() && Clock::now() < progress->deadline)) {
      lease.discard();
    } else if (failure.transport) {
      lease.fail();
    }
    throw;
  } catch (...) {
    lease.discard();
    throw;
  }
}

void Core::refer(const CallSpec& spec, const ErrorInfo& info, Pool::Lease* lease, Progress* progress) {
  const bool cannot = info.code == Code::kNotMaster || info.code == Code::kUnavailable;
  const bool may_name_another = info.code == Code::kStaleMap || info.code == Code::kTooStale;
  if (!cannot && !(may_name_another && !info.master.empty())) return;
  const std::size_t from = (*lease)->address_index();
  const Referral next = pool_.refer(from, info.master);
  const auto& visited = progress->visited;
  progress->wish = next.address;
  progress->at_once = next.is_named && std::find(visited.begin(), visited.end(), next.address) == visited.end();
  // Unlike the others, this one may be about the whole server, such as a router that finds no node.
  if (info.code == Code::kUnavailable) pool_.leave(from);
  if (spec.own != nullptr) lease->discard();  // a watch would ask the same server again
}

void Core::name_write(const CallSpec& spec, const Connection& connection, Progress* progress) {
  if (spec.kind != CallKind::kNamedWrite || progress->asked) return;
  progress->asked = true;
  // A master that alone has a write cannot remember its name for its successor.
  if (!connection.remembers_writes() || spec.level == static_cast<std::int32_t>(WriteLevel::kOne)) return;
  progress->lane = lanes_.take();
  ++progress->lane->sequence;
  progress->first_sent_ms = connection.server_now_ms();
}

api::Context Core::context_for(const Scope& scope, const CallSpec& spec, const Connection& connection,
                               const Progress& progress) {
  api::Context context;
  const auto left = std::chrono::floor<milliseconds>(progress.deadline - Clock::now()).count();
  context.__set_budget_ms(static_cast<std::int32_t>(std::max<std::int64_t>(left, 1)));
  context.__set_level(spec.level);
  const milliseconds staleness = std::clamp(spec.max_staleness, milliseconds(INT32_MIN), milliseconds(INT32_MAX));
  context.__set_max_staleness_ms(static_cast<std::int32_t>(staleness.count()));
  if (scope.session != nullptr) {
    const std::lock_guard lock(scope.session->mutex);
    context.__set_session(scope.session->token);
  }
  if (connection.has_clocks()) context.__set_hlc(hlc_.load());
  if (progress.lane) {
    context.__set_client_id(progress.lane->client_id);
    context.__set_sequence(progress.lane->sequence);
    context.__set_first_sent_ms(progress.first_sent_ms);
  }
  return context;
}

void Core::wait_after(const CallSpec& spec, Progress* progress, Failure failure) {
  ErrorInfo& info = failure.info;
  if (spec.kind == CallKind::kRead) info.applied = Applied::kNo;
  if (info.applied != Applied::kNo) progress->unknown = true;
  if (stopped(spec)) give_up(spec, progress, closed_failure().info);
  if (!info.retryable) give_up(spec, progress, std::move(info));
  const Clock::time_point now = Clock::now();
  if (now >= progress->deadline) out_of_time(spec, progress, std::move(info));
  // A write without a name is not sent again if it may have taken effect.
  if (spec.kind == CallKind::kNamedWrite && progress->asked && !progress->lane && progress->unknown) {
    give_up(spec, progress, std::move(info));
  }
  if (progress->at_once) return;
  if (failure.transport && progress->reused && !progress->forgave) {
    progress->forgave = true;
    return;
  }
  const Clock::time_point until = now + backoff(progress->tries, info.retry_after);
  if (until >= progress->deadline) out_of_time(spec, progress, std::move(info));
  std::unique_lock lock(mutex_);
  if (wake_.wait_until(lock, until, [&] { return stopped(spec); })) {
    lock.unlock();
    give_up(spec, progress, closed_failure().info);
  }
}

void Core::give_up(const CallSpec& spec, Progress* progress, ErrorInfo last) {
  if (!progress->unknown) {
    last.applied = Applied::kNo;
    if (progress->lane) lanes_.give_back(*std::move(progress->lane));
  } else {
    // An earlier try may have taken effect, or may do so yet. The next call would have another name.
    if (last.applied == Applied::kNo) last.applied = Applied::kUnknown;
    if (spec.kind == CallKind::kNamedWrite) last.retryable = false;
  }
  throw_error(std::move(last), progress->tries);
}

void Core::out_of_time(const CallSpec& spec, Progress* progress, std::optional<ErrorInfo> last) {
  const milliseconds timeout = spec.timeout.value_or(options_.timeout);
  ErrorInfo info{.code = Code::kDeadline,
                 .message = "the call did not succeed within " + std::to_string(timeout.count()) + " ms",
                 .applied = progress->unknown ? Applied::kUnknown : Applied::kNo,
                 .retryable = !progress->unknown || spec.kind != CallKind::kNamedWrite};
  if (!progress->unknown && progress->lane) lanes_.give_back(*std::move(progress->lane));
  throw_error(std::move(info), progress->tries, std::move(last));
}

milliseconds Core::backoff(int tries, milliseconds retry_after) {
  if (retry_after > milliseconds(0)) return retry_after;
  milliseconds longest = kFirstBackoff;
  for (int i = 1; i < tries && longest < kLongestBackoff; ++i) longest *= 2;
  const std::lock_guard lock(mutex_);
  return milliseconds(
      std::uniform_int_distribution<std::int64_t>(0, std::min(longest, kLongestBackoff).count())(random_));
}

void Core::learn(const Scope& scope, const api::ReplyContext& context) {
  std::int64_t seen = hlc_.load();
  while (context.hlc > seen && !hlc_.compare_exchange_weak(seen, context.hlc)) {
  }
  if (scope.session != nullptr && !context.session.empty()) {
    const std::lock_guard lock(scope.session->mutex);
    scope.session->token = context.session;
  }
}

void Core::wake() {
  const std::lock_guard lock(mutex_);
  wake_.notify_all();
}

void Core::renew_in_background(std::weak_ptr<SnapshotState> snapshot) {
  const std::shared_ptr<SnapshotState> state = snapshot.lock();
  const std::lock_guard lock(mutex_);
  if (closed_ || state == nullptr) return;
  renewals_.push_back({Clock::now() + state->ttl / 3, std::move(snapshot)});
  if (!renewer_.joinable()) renewer_ = std::thread([this] { renew_loop(); });
  wake_.notify_all();
}

void Core::renew_loop() {
  std::unique_lock lock(mutex_);
  while (!closed_) {
    const auto next = std::min_element(renewals_.begin(), renewals_.end(),
                                       [](const Renewal& a, const Renewal& b) { return a.due < b.due; });
    if (next == renewals_.end()) {
      wake_.wait(lock);
    } else if (const Clock::time_point due = next->due; due > Clock::now()) {
      wake_.wait_until(lock, due);
    } else {
      std::weak_ptr<SnapshotState> snapshot = std::move(next->snapshot);
      renewals_.erase(next);
      lock.unlock();
      Clock::time_point again = Clock::time_point::max();
      if (const std::shared_ptr<SnapshotState> state = snapshot.lock(); state && !state->released) {
        again = renew_one(*state);
      }
      lock.lock();
      if (again != Clock::time_point::max()) renewals_.push_back({again, std::move(snapshot)});
    }
  }
}

// When to renew it again; never, if it is gone.
Clock::time_point Core::renew_one(SnapshotState& snapshot) {
  const milliseconds third = snapshot.ttl / 3;
  try {
    api::RenewSnapshotRequest request;
    request.__set_snapshot(snapshot.token);
    request.__set_ttl_ms(static_cast<std::int32_t>(snapshot.ttl.count()));
    const CallSpec spec{.timeout = std::min(options_.timeout, std::max(third, milliseconds(1)))};
    snapshot.expires_at_ms = call<api::SnapshotReply>(Scope{}, spec, "renewSnapshot", request).expires_at_ms;
    return Clock::now() + third;
  } catch (const Error& error) {
    // Reads will say that it is gone. What may be well later is tried again soon.
    return error.retryable() ? Clock::now() + std::max(third / 10, milliseconds(10)) : Clock::time_point::max();
  }
}

void Core::close() {
  std::thread renewer;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    renewer.swap(renewer_);
    wake_.notify_all();
  }
  pool_.close();
  if (renewer.joinable()) renewer.join();
}

}  // namespace pando::client::detail
