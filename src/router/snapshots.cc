#include "src/router/snapshots.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/snapshot_token.h"
#include "src/router/long_work.h"
#include "src/router/node_calls.h"
#include "src/router/retry.h"

namespace pando {

namespace {

constexpr int64_t kFirstAheadMs = 20, kMaxAheadMs = 1000;  // T is so far above the highest version
constexpr size_t kPartBytes = 4096;                        // of the call of one node
constexpr size_t kPartitionBytes = 1024;                   // of what it says of one partition
constexpr Nanos kReleaseNs = kSecond;                      // what was not given out is released within this time

// What one round asks the masters, and what they answer. Each is asked for the partitions that it leads.
template <typename Args, typename Reply>
struct Part {
  std::vector<int32_t> partitions;
  Args args;
  Reply reply;
  NodeAnswer answer;
};

template <typename P>
Task<void> Send(RouteKeeper* keeper, NodeId node, std::string method, CallTerms terms, P* part) {
  // All of these may be sent again.
  auto outdated = [node, part](const RouteMap& map) {
    return map.complete() && std::any_of(part->partitions.begin(), part->partitions.end(), [&](int32_t id) {
             const Route* route = map.Find(static_cast<uint32_t>(id));
             return route == nullptr || route->master != node;
           });
  };
  part->answer = co_await CallNode(keeper, keeper->NodeOf(node), CallKind::kLong, std::move(method), &part->args,
                                   &part->reply, terms, std::move(outdated));
}

// Asks the masters until each partition has an answer that is the last word, or the deadline. `fill(args)` sets what
// the request says besides the partitions; `take(reply, open)` takes the answers of a node: it erases from `open` the
// partitions that have done it, and sets the error of those that have not. Returns those that are left.
using Errors = std::map<int32_t, api::KvError>;
template <typename Args, typename Reply, typename Fill, typename Take>
Task<Errors> AskMasters(RouteKeeper* keeper, std::string method, CallTerms terms, Fill fill, Take take) {
  Reactor& reactor = keeper->reactor();
  Backoff backoff(reactor);
  Errors open;
  std::set<int32_t> wanted;
  for (const Route& route : keeper->map().routes()) wanted.insert(static_cast<int32_t>(route.partition));
  for (;;) {
    const uint64_t before = keeper->news();
    std::map<NodeId, Part<Args, Reply>> parts;
    for (const int32_t id : wanted) {
      const Route* route = keeper->map().Find(static_cast<uint32_t>(id));
      parts[route == nullptr ? 0 : route->master].partitions.push_back(id);
    }
    TaskGroup sends;
    for (auto& [node, part] : parts) {
      part.args.request.partitions = part.partitions;
      fill(&part.args);
      sends.Spawn(Send(keeper, node, method, terms, &part));
    }
    co_await sends.Drain();  // the parts are in this frame
    open.clear();
    for (auto& [node, part] : parts) {
      if (part.answer.answered() && !part.reply.__isset.error) {
        // RS1: what a node says nothing of has not happened, and what it was not asked for does not count.
        Errors of_part;
        const api::KvError nothing =
            ToKvError(Error(Code::kUnavailable, "its node did not answer for it"), /*is_write=*/false);
        for (const int32_t id : part.partitions) of_part[id] = nothing;
        take(part.reply.success, &of_part);
        open.merge(of_part);
        continue;
      }
      const api::KvError error =
          part.answer.answered() ? part.reply.error : ToKvError(part.answer.status, /*is_write=*/false);
      for (const int32_t id : part.partitions) open[id] = error;
    }
    const bool final = std::any_of(open.begin(), open.end(), [](const auto& o) {
      return CauseOf(o.second) == RetryCause::kNone && o.second.code != static_cast<int32_t>(ApiCode::kUnavailable);
    });
    const Nanos next_ns = reactor.NowNs() + backoff.Next(RetryCause::kMisrouted);
    if (open.empty() || final || keeper->stopping() || next_ns >= terms.deadline_ns) co_return open;
    keeper->Refresh();
    co_await keeper->UntilNews(backoff.tries() > kQuickTries ? keeper->news() : before, next_ns);
    if (terms.IsUnwanted()) co_return open;
    wanted.clear();
    for (const auto& [id, error] : open) wanted.insert(id);
  }
}

void Note(int32_t partition, bool done, const api::KvError& error, Errors* open) {
  const auto at = open->find(partition);
  if (at == open->end()) return;  // it was not asked for
  if (done) {
    open->erase(at);
  } else {
    at->second = error;
  }
}

// Leaves the partitions whose marks are not confirmed.
template <typename Reply>
void TakeMarks(const Reply& reply, Errors* open) {
  for (const api::PartitionMark& mark : reply.partitions) Note(mark.partition, mark.confirmed, mark.error, open);
}

// The error of the request, from those of its partitions.
api::KvError ErrorOf(RouteKeeper* keeper, const Errors& errors, const char* what,
                     ApiCode when_gone = ApiCode::kSnapshotGone) {
  const auto& [partition, first] = *errors.begin();
  api::KvError error = first;
  if (CauseOf(first) == RetryCause::kMisrouted) error = MakeError(ApiCode::kUnavailable, first.message);
  const std::string own = fmt::format("partition {}: ", partition);
  const std::string_view said = first.message;
  const Route* route = keeper->map().Find(static_cast<uint32_t>(partition));
  const RouteNode* node = route == nullptr ? nullptr : keeper->map().FindNode(route->master);
  error.message =
      fmt::format("{} partition{} could not {}; partition {}{}: {}", errors.size(), errors.size() == 1 ? "" : "s", what,
                  partition, node == nullptr ? "" : fmt::format(" (node {} at {})", route->master, node->address),
                  said.starts_with(own) ? said.substr(own.size()) : said);
  error.applied = static_cast<int32_t>(ApiApplied::kNo);
  if (error.code == static_cast<int32_t>(ApiCode::kSnapshotGone)) error.code = static_cast<int32_t>(when_gone);
  error.retryable = error.code == static_cast<int32_t>(ApiCode::kUnavailable) || first.retryable;
  return error;
}

size_t PartsBytes(const RouteKeeper& keeper) {
  return keeper.map().routes().size() * kPartitionBytes + keeper.map().nodes().size() * kPartBytes;
}

// What is to end an overload is admitted in any case.
template <typename Call>
bool ReserveParts(RouteKeeper* keeper, Call* call) {
  const size_t bytes = PartsBytes(*keeper);
  if (call->memory.TryGrow(bytes)) return true;
  Refuse(call, call->server->OverloadedError(bytes));
  return false;
}

struct Attempt {
  int64_t version = 0, id = 0;
  std::string token;
  int64_t expires_at_ms = 0;
};

Task<Errors> Release(RouteKeeper* keeper, std::string token, CallTerms terms, bool* existed) {
  const auto fill = [&token](api::ClusterSnapshots_release_args* args) { args->request.snapshot = token; };
  const auto take = [existed](const api::ReleaseReply& reply, Errors* open) {
    for (const api::PartitionMark& mark : reply.partitions) {
      *existed |= mark.confirmed;
      // One that has gone is as good as released.
      const bool gone = mark.error.code == static_cast<int32_t>(ApiCode::kSnapshotGone);
      Note(mark.partition, mark.confirmed || gone, mark.error, open);
    }
  };
  Task<Errors> released = AskMasters<api::ClusterSnapshots_release_args, api::ClusterSnapshots_release_result>(
      keeper, "release", terms, fill, take);
  co_return co_await released;
}

Task<Errors> Prepare(RouteKeeper* keeper, int32_t ttl_ms, CallTerms terms, Attempt* attempt) {
  const auto fill = [attempt, ttl_ms](api::ClusterSnapshots_prepare_args* args) {
    args->request.version = attempt->version;
    args->request.id = attempt->id;
    args->request.ttl_ms = ttl_ms;
  };
  const auto take = [attempt](const api::PrepareReply& reply, Errors* open) {
    TakeMarks(reply, open);
    const bool first = attempt->expires_at_ms == 0;
    attempt->expires_at_ms = first ? reply.expires_at_ms : std::min(attempt->expires_at_ms, reply.expires_at_ms);
  };
  Task<Errors> prepared = AskMasters<api::ClusterSnapshots_prepare_args, api::ClusterSnapshots_prepare_result>(
      keeper, "prepare", terms, fill, take);
  co_return co_await prepared;
}

Task<Errors> AskClock(RouteKeeper* keeper, CallTerms terms, int64_t* highest) {
  const auto fill = [](api::ClusterSnapshots_clock_args*) {};
  const auto take = [highest](const api::ClockReply& reply, Errors* open) {
    *highest = std::max(*highest, reply.highest);
    for (const api::PartitionHighest& p : reply.partitions) Note(p.partition, !p.__isset.error, p.error, open);
  };
  Task<Errors> asked = AskMasters<api::ClusterSnapshots_clock_args, api::ClusterSnapshots_clock_result>(
      keeper, "clock", terms, fill, take);
  co_return co_await asked;
}

// The place that a snapshot takes of its client's share, until it is open or was given up.
class PlaceOfOpen {
 public:
  // `work` null: nobody counts.
  PlaceOfOpen(LongWork* work, uint64_t client, int64_t now_ms)
      : work_(work), place_(work == nullptr ? 0 : work->snapshots().Take(client, now_ms)) {}
  PlaceOfOpen(const PlaceOfOpen&) = delete;
  PlaceOfOpen& operator=(const PlaceOfOpen&) = delete;
  ~PlaceOfOpen() {
    if (place_ != 0) work_->snapshots().Drop(place_);
  }
  bool refused() const { return work_ != nullptr && place_ == 0; }
  void Keep(int64_t id, int64_t expires_at_ms) {
    if (place_ != 0) work_->snapshots().Keep(std::exchange(place_, 0), static_cast<SnapshotId>(id), expires_at_ms);
  }

 private:
  LongWork* const work_;
  uint64_t place_;
};

api::KvError NoPlace() {
  constexpr int32_t kRetryMs = 1000;
  return MakeBusy(fmt::format("this client has its share of the {} snapshots that can be open; release those that are "
                              "not needed",
                              SnapshotShares::kMost),
                  kRetryMs);
}

}  // namespace

Task<void> RouteOpenSnapshot(RouteKeeper* keeper, OpenSnapshotCall* call) {
  if (Refuse(call, CheckReadContextInCluster(call->args.context))) co_return;
  if (Refuse(call, CheckTtl(call->args.request.ttl_ms))) co_return;
  if (Failed(call, co_await keeper->UntilComplete(call->deadline_ns))) co_return;
  const CallTerms terms(*call);
  PlaceOfOpen place(keeper->long_work(), terms.client, keeper->reactor().WallMs());
  if (place.refused()) {
    Refuse(call, Refusal(NoPlace()));
    co_return;
  }
  LongWork::Ticket ticket;
  if (!ReserveLong(keeper->long_work(), terms.client, call, PartsBytes(*keeper), &ticket)) co_return;
  Errors failed;
  for (int64_t ahead_ms = kFirstAheadMs;;) {
    Attempt attempt;
    failed = co_await AskClock(keeper, terms, &attempt.version);
    if (!failed.empty() || call->IsUnwanted()) break;
    attempt.version += ahead_ms << kVersionCounterBits;
    attempt.id = static_cast<int64_t>(RandomId(keeper->reactor()));
    // A try that waits for too long is worth less than another one.
    const Nanos now_ns = keeper->reactor().NowNs();
    const Nanos try_ns = std::max((call->deadline_ns - now_ns) / 2, kSecond);
    attempt.token = EncodeSnapshotToken({static_cast<SnapshotId>(attempt.id), static_cast<Version>(attempt.version)});
    failed = co_await Prepare(keeper, call->args.request.ttl_ms, terms.Until(now_ns + try_ns), &attempt);
    if (failed.empty() && !call->IsUnwanted()) {
      api::SnapshotReply& reply = call->reply.success;
      reply.snapshot = std::move(attempt.token);
      reply.version = attempt.version;
      reply.expires_at_ms = attempt.expires_at_ms;
      place.Keep(attempt.id, attempt.expires_at_ms);
      co_return;
    }
    // RS2: also where the answer did not come in time.
    bool existed = false;
    const Nanos release_until_ns = keeper->reactor().NowNs() + kReleaseNs;
    static_cast<void>(co_await Release(keeper, attempt.token, release_until_ns, &existed));
    const auto gone = [](const auto& f) { return f.second.code == static_cast<int32_t>(ApiCode::kSnapshotGone); };
    const bool may_repeat = std::all_of(failed.begin(), failed.end(), [&gone](const auto& f) {
      return gone(f) || f.second.code == static_cast<int32_t>(ApiCode::kUnavailable) ||
             CauseOf(f.second) != RetryCause::kNone;
    });
    // A partition that has given a version above T refuses: then T was too close.
    if (std::any_of(failed.begin(), failed.end(), gone)) ahead_ms = std::min(2 * ahead_ms, kMaxAheadMs);
    if (call->IsUnwanted() || keeper->stopping() || !may_repeat ||
        keeper->reactor().NowNs() + kSecond >= call->deadline_ns)
      break;
  }
  if (call->answered || failed.empty()) co_return;
  api::KvError error = ErrorOf(keeper, failed, "take the snapshot", ApiCode::kUnavailable);
  // Whatever a node finds wrong with the mark, its client has chosen nothing of it.
  if (error.code == static_cast<int32_t>(ApiCode::kBadRequest))
    error.code = static_cast<int32_t>(ApiCode::kUnavailable);
  Refuse(call, error);
}

Task<void> RouteRenewSnapshot(RouteKeeper* keeper, RenewSnapshotCall* call) {
  const api::RenewSnapshotRequest& request = call->args.request;
  SnapshotToken token;
  if (Refuse(call, CheckReadContextInCluster(call->args.context))) co_return;
  if (Refuse(call, CheckTtl(request.ttl_ms)) || Refuse(call, ToSnapshotToken(request.snapshot, &token))) co_return;
  if (Failed(call, co_await keeper->UntilComplete(call->deadline_ns))) co_return;
  if (!ReserveParts(keeper, call)) co_return;
  api::SnapshotReply& reply = call->reply.success;
  const auto fill = [&request](api::ClusterSnapshots_renew_args* args) {
    args->request.snapshot = request.snapshot;
    args->request.ttl_ms = request.ttl_ms;
  };
  const auto take = [&reply](const api::RenewReply& from, Errors* open) {
    TakeMarks(from, open);
    const bool first = reply.expires_at_ms == 0;
    reply.expires_at_ms = first ? from.expires_at_ms : std::min(reply.expires_at_ms, from.expires_at_ms);
  };
  Task<Errors> renewed = AskMasters<api::ClusterSnapshots_renew_args, api::ClusterSnapshots_renew_result>(
      keeper, "renew", CallTerms(*call), fill, take);
  const Errors failed = co_await renewed;
  if (call->answered) co_return;
  if (!failed.empty()) {
    Refuse(call, ErrorOf(keeper, failed, "renew the snapshot"));
    co_return;
  }
  if (LongWork* work = keeper->long_work()) work->snapshots().NoteRenewed(token.id, reply.expires_at_ms);
  reply.snapshot = request.snapshot;
  reply.version = static_cast<int64_t>(token.version);
}

Task<void> RouteReleaseSnapshot(RouteKeeper* keeper, ReleaseSnapshotCall* call) {
  SnapshotToken token;
  if (Refuse(call, CheckReadContextInCluster(call->args.context))) co_return;
  if (Refuse(call, ToSnapshotToken(call->args.request.snapshot, &token))) co_return;
  if (Failed(call, co_await keeper->UntilComplete(call->deadline_ns))) co_return;
  if (!ReserveParts(keeper, call)) co_return;
  bool existed = false;
  CallTerms terms(*call);
  terms.call = nullptr;  // it is released although the client has gone
  const Errors failed = co_await Release(keeper, call->args.request.snapshot, terms, &existed);
  if (LongWork* work = keeper->long_work(); work != nullptr && existed) work->snapshots().NoteReleased(token.id);
  if (call->answered) co_return;
  // A partition that could not be asked lets it expire.
  call->reply.success.existed = existed;
  if (!existed && !failed.empty()) Refuse(call, ErrorOf(keeper, failed, "release the snapshot"));
}

}  // namespace pando
