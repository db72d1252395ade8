// KvService: the watch call, which waits for changes of keys with a given prefix.
#include <algorithm>
#include <tuple>
#include <utility>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/watch_position.h"
#include "src/node/kv_service.h"
#include "src/partition/change_tail.h"

namespace pando {

namespace {

// The limit of a reply, as ChangeTail counts bytes. The change that reaches it is the last one.
constexpr size_t kWatchReplyBytes = 128u << 10;
// When memory is short, the reply becomes shorter, down to this, before the request is refused.
constexpr size_t kMinWatchReplyBytes = 8u << 10;
// The changes exist twice: as gathered, and as encoded. Each may exceed the limit by one key and
// the structs.
constexpr size_t kReservedPerReplyByte = 4;
// A watcher that found changes, but none with its prefix, pauses before it looks again. The pause
// doubles each time.
constexpr Nanos kFirstPauseNs = 10 * kMillisecond;
constexpr Nanos kMaxPauseNs = 80 * kMillisecond;
constexpr int32_t kWatchRetryMs = 1000;

struct WatchFindings {
  std::vector<Change> changes;
  bool more = false;
  Status failure;
  std::optional<uint32_t> gone;  // the partition that no longer keeps the changes
};

}  // namespace

struct KvService::Watcher {
  std::vector<uint32_t> ids;  // of the partitions that may hold keys with the prefix
  std::vector<Partition*> partitions;
  WatchPosition position;
  std::string prefix;
  size_t limit = 0;
  std::vector<Mastership> in;  // whose answer it is
  WatchFindings found;
};

namespace {

// Asks the partitions that have changes, one after the other, until the reply is full. The caller
// picks a random `first`, so that a busy partition does not starve the others.
template <typename Watcher>
Task<void> Gather(Watcher* watcher, size_t first, size_t max_changes, size_t max_bytes) {
  WatchFindings& found = watcher->found;
  found.more = false;
  size_t bytes = 0;
  for (size_t i = 0; i < watcher->partitions.size(); ++i) {
    const size_t index = (first + i) % watcher->partitions.size();
    Partition* partition = watcher->partitions[index];
    Version& version = watcher->position.versions[index];
    if (partition->newest_change() <= version) continue;
    if (found.changes.size() >= max_changes || bytes >= max_bytes) {
      found.more = true;
      co_return;
    }
    Result<ChangePage> page =
        co_await partition->Changes(version, watcher->prefix, max_changes - found.changes.size(), max_bytes - bytes);
    if (!page.ok()) {
      found.failure = page.TakeStatus();
      co_return;
    }
    if (page->gone) {
      found.gone = partition->id();
      co_return;
    }
    version = page->up_to;
    found.more |= page->more;
    for (Change& change : page->changes) {
      bytes += change.key.size() + ChangeTail::kChangeBytes;
      found.changes.push_back(std::move(change));
    }
  }
}

api::KvError TooManyWatchers(size_t limit) {
  return MakeBusy(
      fmt::format("{} watchers already wait on this reactor, which is the limit of each reactor: try again later",
                  limit),
      kWatchRetryMs);
}

// 0: from now on.
Version StartAfter(const Partition* partition, Version after) {
  if (after == 0) after = partition->newest_change();
  // A partition that is out of service is asked from the beginning, and answers why.
  return after == UINT64_MAX ? 0 : after;
}

Refusal StartPosition(const api::WatchRequest& request, const WatchBinding& binding,
                      const std::vector<Partition*>& partitions, WatchPosition* position) {
  if (request.position.empty()) {
    for (Partition* partition : partitions) {
      position->versions.push_back(StartAfter(partition, static_cast<Version>(request.after_version)));
    }
    return {};
  }
  return ToWatchPosition(request.position, binding, position);
}

}  // namespace

// Gathers more changes after the first one, as many as there is memory for. Returns false if there
// is not even enough for a few.
template <typename C>
Task<bool> KvService::GatherMore(C* call, Watcher* watcher, size_t first) {
  size_t bytes = kWatchReplyBytes;
  while (!call->memory.TryGrow(kReservedPerReplyByte * bytes)) {
    if (bytes <= kMinWatchReplyBytes) co_return false;
    bytes /= 2;
  }
  co_await Gather(watcher, first, watcher->limit, bytes);
  co_return true;
}

// Looks once for changes. Returns true if the watcher must answer now: with changes, whose memory
// is reserved, or with the error that is set in the reply. Most looks find nothing, and one write
// makes many watchers look at once, so a look reserves memory only when it has found a change.
// Until then it holds at most that one.
template <typename C>
Task<bool> KvService::LookForChanges(C* call, Watcher* watcher) {
  if (!HasNews(watcher->partitions, watcher->position)) co_return false;
  WatchFindings& found = watcher->found;
  const size_t first = server_->reactor().Random() % watcher->partitions.size();
  co_await Gather(watcher, first, /*max_changes=*/1, /*max_bytes=*/1);
  if (!found.changes.empty()) {
    const bool reserved = co_await GatherMore(call, watcher, first);
    if (reserved) co_return true;
    co_return Refuse(call, Overloaded(kReservedPerReplyByte * kMinWatchReplyBytes));
  }
  if (Failed(call, found.failure)) co_return true;
  if (!found.gone) co_return false;
  watchers_.metrics().gone_total.Add();
  SetError(&call->reply,
           FeedGone(fmt::format("partition {} no longer keeps the changes after this position", *found.gone)));
  co_return true;
}

// Looks for changes and waits in turn, until it finds some or the time is over. It reserves no
// memory for the reply while it waits. False: there is nothing to answer, or an error is set in the reply.
template <typename C>
Task<bool> KvService::WatchUntil(C* call, Watcher* watcher, int32_t wait_ms) {
  // A replica that follows learns of changes late, and so does a master that was replaced. Asked after the look.
  Result<std::vector<Mastership>> leased = co_await CheckLeases(backend_, &server_->reactor(), watcher->ids);
  if (Failed(call, leased.status())) co_return false;
  watcher->in = *std::move(leased);

  Reactor& reactor = server_->reactor();
  const Nanos until_ns = EndOfWait(*call, wait_ms);
  Nanos look_after_ns = 0, pause_ns = kFirstPauseNs;
  for (;;) {
    const bool news = HasNews(watcher->partitions, watcher->position);
    const bool finished = co_await LookForChanges(call, watcher);
    if (call->reply.__isset.error) co_return false;
    const Nanos now = reactor.NowNs();
    if (finished || call->answered || now >= until_ns || WatchHub::MustEnd(*server_, call->id)) break;
    if (watcher->found.more) {
      // There are many changes to look through, none with this prefix yet. Let others run.
      co_await Yield(reactor);
      continue;
    }
    if (news) {
      look_after_ns = now + pause_ns;
      pause_ns = std::min(2 * pause_ns, kMaxPauseNs);
    }
    if (!watchers_.HasRoom()) {
      watchers_.metrics().refused_total.Add();
      SetError(&call->reply, TooManyWatchers(watchers_.options().max_waiting));
      co_return false;
    }
    ChangeWait wait(&watchers_, watcher->partitions, watcher->position, call->id, look_after_ns, until_ns);
    co_await wait;  // returns for several reasons, so the loop checks all of them again
  }
  if (call->answered) co_return false;
  std::vector<Change>& changes = watcher->found.changes;
  if (changes.empty()) {
    Result<std::vector<Mastership>> still_leased = co_await CheckLeases(backend_, &reactor, watcher->ids);
    if (Failed(call, still_leased.status())) co_return false;
    watcher->in = *std::move(still_leased);
  }
  watchers_.metrics().changes_total.Add(changes.size());
  std::sort(changes.begin(), changes.end(),
            [](const Change& a, const Change& b) { return std::tie(a.version, a.key) < std::tie(b.version, b.key); });
  co_return true;
}

Task<void> KvService::Watch(Call<api::Kv_watch_args, api::Kv_watch_result>* call) {
  const api::WatchRequest& request = call->args.request;
  if (Refuse(call, CheckWatch(request))) co_return;
  Watcher watcher;
  if (Refuse(call, SetLimit("limit_changes", request.limit_changes, kMaxScanRows, &watcher.limit))) co_return;
  watcher.prefix = request.prefix;
  watcher.ids = IdsOf(ScanRange::Of({}, {}, request.prefix, /*reverse=*/false));
  for (uint32_t id : watcher.ids) watcher.partitions.push_back(backend_->partitions[id]);
  const WatchBinding binding{backend_->store->node, request.prefix, backend_->serving.base(), watcher.ids};
  if (Refuse(call, StartPosition(request, binding, watcher.partitions, &watcher.position))) co_return;
  const bool ready = co_await WatchUntil(call, &watcher, request.wait_ms);
  if (!ready) co_return;
  api::WatchReply& reply = call->reply.success;
  ToChanges(watcher.found.changes, &reply.changes);
  reply.position = EncodeWatchPosition(binding, watcher.position);
  reply.more = watcher.found.more;
}

Task<void> KvService::WatchPartitions(
    Call<api::Routing_watchPartitions_args, api::Routing_watchPartitions_result>* call) {
  const api::WatchPartitionsRequest& request = call->args.request;
  api::WatchPartitionsReply& reply = call->reply.success;
  if (Refuse(call, CheckWatch(request.prefix, request.wait_ms))) co_return;
  Watcher watcher;
  if (Refuse(call, SetLimit("limit_changes", request.limit_changes, kMaxScanRows, &watcher.limit))) co_return;
  watcher.prefix = request.prefix;
  std::vector<int32_t> named;
  for (const api::PartitionPosition& position : request.positions) named.push_back(position.partition);
  if (Refuse(call, backend_->ToPartitions(named, &watcher.ids))) co_return;
  const Asked asked{watcher.ids, &reply.covered};
  // The positions take as much in the reply.
  if (Refuse(call, Reserve(call, 2 * CoveredBytes(asked)))) co_return;
  for (size_t i = 0; i < watcher.ids.size(); ++i) {
    Partition* partition = backend_->partitions[watcher.ids[i]];
    const bool from_now = request.positions[i].version < 0;
    watcher.partitions.push_back(partition);
    watcher.position.versions.push_back(from_now ? StartAfter(partition, 0)
                                                 : static_cast<Version>(request.positions[i].version));
  }
  const bool ready = co_await WatchUntil(call, &watcher, request.wait_ms);
  if (!ready) co_return;
  ToChanges(watcher.found.changes, &reply.changes);
  for (size_t i = 0; i < watcher.ids.size(); ++i) {
    api::PartitionPosition& position = reply.positions.emplace_back();
    position.partition = static_cast<int32_t>(watcher.ids[i]);
    position.version = static_cast<int64_t>(watcher.position.versions[i]);
  }
  reply.more = watcher.found.more;
  SetCovered(asked, watcher.in);
}

}  // namespace pando
