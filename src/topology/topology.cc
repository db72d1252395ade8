#include "src/topology/topology.h"

#include <algorithm>
#include <utility>

#include "src/io/timed_wait.h"
#include "src/topology/cluster_map.h"

namespace pando {

Judged JudgeUnknown(Revision expected, std::string_view op_id, const TopologyEntry& now) {
  CHECK(!op_id.empty());
  if (now.revision <= expected) return Judged::kMayLand;
  return OpIdOf(now.value) == op_id ? Judged::kLanded : Judged::kOvertaken;
}

std::string NewOpId(Reactor& reactor) { return fmt::format("{:016x}", RandomId(reactor)); }

Task<Result<std::optional<Revision>>> SwapUntilKnown(Topology& topology, std::string key, Revision expected,
                                                     std::string value, std::string op_id, Nanos timeout_ns) {
  constexpr Nanos kCallTimeoutNs = 2 * kSecond, kRetryNs = 20 * kMillisecond;
  Reactor& reactor = topology.reactor();
  const Nanos deadline_ns = reactor.NowNs() + timeout_ns;
  bool sent = false;  // a write without an answer
  for (;;) {
    Nanos left_ns = std::max<Nanos>(deadline_ns - reactor.NowNs(), kMillisecond);
    // A second write with the same revision does no harm: only one of them can succeed.
    Result<CasOutcome> outcome =
        co_await topology.CompareAndSwap(key, expected, value, std::min(left_ns, kCallTimeoutNs));
    Status why;
    if (outcome.ok()) {
      if (outcome->kind == CasOutcome::Kind::kStored) co_return std::optional(outcome->revision);
      if (outcome->kind == CasOutcome::Kind::kConflict && !sent) co_return std::optional<Revision>();
      sent = true;
      why = std::move(outcome->why);
    } else {
      if (outcome.code() == Code::kInvalidArgument || outcome.code() == Code::kAborted) co_return outcome.TakeStatus();
      why = outcome.TakeStatus();
    }
    if (sent) {
      left_ns = std::max<Nanos>(deadline_ns - reactor.NowNs(), kMillisecond);
      Result<TopologyEntry> now = co_await topology.Read(key, std::min(left_ns, kCallTimeoutNs));
      const Judged judged = now.ok() ? JudgeUnknown(expected, op_id, *now) : Judged::kMayLand;
      if (judged == Judged::kLanded) co_return std::optional(now->revision);
      if (judged == Judged::kOvertaken) co_return std::optional<Revision>();
      if (!now.ok()) why = now.TakeStatus();
    }
    if (reactor.NowNs() >= deadline_ns) {
      co_return Error(Code::kUnavailable, "{}{}", why.message(), sent ? " (it may have been written)" : "");
    }
    co_await Sleep(reactor, kRetryNs + static_cast<Nanos>(reactor.Random() % kRetryNs));
  }
}

// The result of a call, kept by the call itself and by whoever waits for it.
template <typename T>
struct Topology::Carried {
  explicit Carried(Reactor& reactor) : queue(reactor) {}
  std::optional<Result<T>> result;
  WaitQueue queue;
};

Topology::Topology(Reactor& reactor, std::unique_ptr<TopologyStore> store, BudgetAccount* memory)
    : reactor_(reactor), store_(std::move(store)) {
  store_->ReserveIn(memory);
}

Topology::~Topology() { CHECK(closed_) << "the topology " << name() << " was not closed"; }

Task<Status> Topology::Close() {
  closed_ = true;
  store_->EndWaits();
  co_await carried_.Drain();
  co_return co_await store_->Close();
}

Status Topology::Admit() {
  if (closed_) return Error(Code::kAborted, "the topology {} is being closed", name());
  if (carried_.running() >= kMaxTopologyCalls) {
    metrics_.errors.Add();
    return Error(Code::kOverloaded, "{} calls of the topology {} are in progress and do not end; is it available?",
                 kMaxTopologyCalls, name());
  }
  metrics_.calls.Add();
  ++calls_;
  return Status();
}

template <typename T>
Task<void> Topology::Carry(Task<Result<T>> work, std::shared_ptr<Carried<T>> carried, Gauge* in_progress) {
  in_progress->Add(1);
  carried->result.emplace(co_await work);
  work = {};
  carried->queue.NotifyAll();
  in_progress->Add(-1);
}

// Returns nullopt if the call has not ended at its deadline.
template <typename T>
Task<std::optional<Result<T>>> Topology::Await(Task<Result<T>> work, Nanos deadline_ns) {
  auto carried = std::make_shared<Carried<T>>(reactor_);
  carried_.Spawn(Carry(std::move(work), carried, &metrics_.calls_in_progress));
  co_await WaitUntil(reactor_, carried->queue, deadline_ns + kTopologyGraceNs,
                     [&carried] { return carried->result.has_value(); });
  co_return std::move(carried->result);
}

template <typename T>
Task<Result<T>> Topology::UntilDeadline(Task<Result<T>> work, const char* what, Nanos deadline_ns) {
  std::optional<Result<T>> result = co_await Await(std::move(work), deadline_ns);
  if (!result) result = Error(Code::kDeadline, "{}: {} was not done in time", name(), what);
  if (!result->ok() && result->code() != Code::kAborted) metrics_.errors.Add();
  co_return *std::move(result);
}

Status Topology::WentBack(const std::string& what, Revision now, Revision before) {
  metrics_.went_back.Add();
  went_back_ = Error(Code::kCorruption,
                     "the topology {} has gone back: {} is at revision {}, and was at revision {} before. Has an old "
                     "copy of it been restored, or another one put in its place? Bring back the newest, or stop all "
                     "nodes and make it anew with kvadmin topology recover",
                     name(), what, now, before);
  return went_back_;
}

void Topology::NoteSeen(Revision store_revision) {
  if (store_revision > seen_.revision) seen_ = {store_revision, calls_};
}

void Topology::Note(const std::string& key, Revision revision) {
  NoteSeen(revision);
  if (revision == 0 || (seen_keys_.size() >= kMaxTopologyKeys && !seen_keys_.contains(key))) return;
  Seen& seen = seen_keys_[key];
  if (revision > seen.revision) seen = {revision, calls_};
}

Status Topology::CheckKey(const std::string& key, Revision revision, uint64_t call) {
  auto it = seen_keys_.find(key);
  if (it == seen_keys_.end() || it->second.call >= call || revision >= it->second.revision) return Status();
  return WentBack(key, revision, it->second.revision);
}

Task<Result<TopologyEntry>> Topology::Read(std::string key, Nanos timeout_ns) {
  CO_RETURN_IF_ERROR(CheckTopologyKey(key));
  CO_RETURN_IF_ERROR(Admit());
  const uint64_t call = calls_;
  const Nanos deadline_ns = reactor_.NowNs() + timeout_ns;
  Task<Result<TopologyEntry>> work = store_->Read(key, deadline_ns);
  Result<TopologyEntry> entry = co_await UntilDeadline(std::move(work), "a read", deadline_ns);
  if (!entry.ok()) co_return entry;
  CO_RETURN_IF_ERROR(CheckKey(key, entry->revision, call));
  Note(key, entry->revision);
  co_return entry;
}

Task<Result<TopologyListing>> Topology::List(Nanos timeout_ns) {
  CO_RETURN_IF_ERROR(Admit());
  const uint64_t call = calls_;
  const Nanos deadline_ns = reactor_.NowNs() + timeout_ns;
  Task<Result<TopologyListing>> work = store_->List(deadline_ns);
  Result<TopologyListing> listing = co_await UntilDeadline(std::move(work), "a listing", deadline_ns);
  if (!listing.ok()) co_return listing;
  if (seen_.call < call && listing->revision < seen_.revision) {
    co_return WentBack("it", listing->revision, seen_.revision);
  }
  TopologySize size;
  std::map<std::string_view, Revision> listed;
  int64_t bytes = 0;
  for (const TopologyEntry& entry : listing->entries) {
    if (Status fits = size.Add(entry.key, entry.value.size()); !fits.ok()) {
      metrics_.errors.Add();
      co_return Error(fits.code(), "{}: {}", name(), fits.message());
    }
    listed[entry.key] = entry.revision;
    bytes += static_cast<int64_t>(entry.key.size() + entry.value.size());
  }
  for (const auto& [key, seen] : seen_keys_) {
    auto it = listed.find(key);
    CO_RETURN_IF_ERROR(CheckKey(key, it == listed.end() ? 0 : it->second, call));
  }
  for (const TopologyEntry& entry : listing->entries) Note(entry.key, entry.revision);
  NoteSeen(listing->revision);
  went_back_ = Status();
  metrics_.keys.Set(static_cast<int64_t>(listing->entries.size()));
  metrics_.bytes.Set(bytes);
  co_return listing;
}

Task<Result<TopologyChanges>> Topology::ReadChanges(Revision after, Nanos timeout_ns) {
  CO_RETURN_IF_ERROR(Admit());
  const uint64_t call = calls_;
  const Nanos deadline_ns = reactor_.NowNs() + timeout_ns;
  Task<Result<TopologyChanges>> work = store_->ReadChanges(after, deadline_ns);
  Result<TopologyChanges> changes = co_await UntilDeadline(std::move(work), "a read of changes", deadline_ns);
  if (!changes.ok() || changes->gap) co_return changes;
  if (seen_.call < call && changes->revision < seen_.revision) {
    co_return WentBack("it", changes->revision, seen_.revision);
  }
  for (const TopologyEntry& entry : changes->entries) CO_RETURN_IF_ERROR(CheckKey(entry.key, entry.revision, call));
  for (const TopologyEntry& entry : changes->entries) Note(entry.key, entry.revision);
  NoteSeen(changes->revision);
  co_return changes;
}

Task<Result<CasOutcome>> Topology::CompareAndSwap(std::string key, Revision expected, std::string value,
                                                  Nanos timeout_ns) {
  CO_RETURN_IF_ERROR(CheckTopologyKey(key));
  CO_RETURN_IF_ERROR(CheckTopologyValue(key, value));
  CO_RETURN_IF_ERROR(Admit());
  const Nanos deadline_ns = reactor_.NowNs() + timeout_ns;
  Task<Result<CasOutcome>> work = store_->CompareAndSwap(key, expected, std::move(value), deadline_ns);
  std::optional<Result<CasOutcome>> answer = co_await Await(std::move(work), deadline_ns);
  if (!answer) {
    metrics_.cas_unknown.Add();
    co_return CasOutcome::Unknown(
        Error(Code::kDeadline, "{}: a change of {} was not answered in time; read the key to learn what came of it",
              name(), key));
  }
  Result<CasOutcome> outcome = *std::move(answer);
  if (!outcome.ok()) {
    metrics_.errors.Add();
    co_return outcome;
  }
  switch (outcome->kind) {
    case CasOutcome::Kind::kStored:
      metrics_.cas_stored.Add();
      if (outcome->revision <= expected) co_return WentBack(key, outcome->revision, expected);
      Note(key, outcome->revision);
      break;
    case CasOutcome::Kind::kConflict: metrics_.cas_conflicts.Add(); break;
    case CasOutcome::Kind::kUnknown: metrics_.cas_unknown.Add(); break;
  }
  co_return outcome;
}

Task<Result<TopologyChanges>> Topology::WaitForChange(Revision after, Nanos timeout_ns) {
  CO_RETURN_IF_ERROR(Admit());
  const Nanos deadline_ns = reactor_.NowNs() + timeout_ns;
  Task<Result<TopologyChanges>> work = store_->WaitForChange(after, deadline_ns);
  Result<TopologyChanges> changes = co_await UntilDeadline(std::move(work), "a wait for changes", deadline_ns);
  if (!changes.ok()) co_return changes;
  for (const TopologyEntry& entry : changes->entries) Note(entry.key, entry.revision);
  co_return changes;
}

void RegisterTopologyMetrics(Registry* registry, const Topology& topology) {
  const TopologyMetrics& m = topology.metrics();
  const auto add = [&](const char* name, const char* help, const auto* metric) {
    registry->Add(&topology, std::string("kv_topology_") + name, help, {}, metric);
  };
  add("calls_total", "Calls of the topology", &m.calls);
  add("errors_total", "Calls of the topology that failed", &m.errors);
  add("changes_stored_total", "Changes of the topology that were stored", &m.cas_stored);
  add("changes_refused_total", "Changes of the topology that came after another one", &m.cas_conflicts);
  add("changes_unknown_total", "Changes of the topology that were not answered", &m.cas_unknown);
  add("went_back_total", "Answers of the topology that were older than what was known", &m.went_back);
  add("calls_in_progress_count", "Calls of the topology in progress", &m.calls_in_progress);
  add("keys_count", "Keys of the topology at the last listing", &m.keys);
  add("bytes", "Bytes of all keys and values of the topology at the last listing", &m.bytes);
}

}  // namespace pando
