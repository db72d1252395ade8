#include "src/router/watch_router.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "src/io/timed_wait.h"
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/watch_position.h"
#include "src/router/range_tries.h"

namespace pando {

namespace {

// How long nodes are asked to wait: not at all, then so long, then twice as long each time.
constexpr int32_t kFirstWaitMs = 50, kMaxWaitMs = 1000;
// How long a node may take besides.
constexpr Nanos kAnswerNs = 2 * kSecond;
// How often a call that waits looks whether it must end.
constexpr Nanos kLookNs = 20 * kMillisecond;
constexpr int32_t kWatchRetryMs = 1000;
// What the parts of a call take: the positions, as they are asked for, as they come, and in the reply.
constexpr size_t kPositionBytes = 4 * sizeof(api::PartitionPosition) + 4 * sizeof(api::Covered);
// The changes in a reply, as ChangeBytes counts them; those of one node alone fit, however many there are.
constexpr size_t kMaxReplyBytes = 1u << 20;
constexpr int64_t kFromNow = -1;

size_t ChangeBytes(const std::vector<api::Change>& changes) {
  size_t bytes = 0;
  for (const api::Change& change : changes) bytes += sizeof(change) + change.key.size();
  return bytes;
}

bool MustEnd(const WatchCall& call) {
  return call.answered || call.server->stopping() || call.server->IsClosed(call.id) ||
         call.server->HoldsUpReplies(call.id);
}

}  // namespace

// What one node was asked. The task that asks holds it, because it may outlive the call.
struct WatchRouter::Part {
  NodeShare share;
  api::Routing_watchPartitions_args args;
  api::Routing_watchPartitions_result reply;
  NodeAnswer answer;
  bool ended = false, failed = false;
  bool has_news() const {
    return ended && (!answer.answered() || reply.__isset.error || !reply.success.changes.empty());
  }
};

// What a call watches.
struct WatchRouter::Watched {
  ScanRange range;
  std::string prefix;
  std::map<int32_t, int64_t> versions;  // by partition
  size_t limit = 0;
  RangeAsk* ask = nullptr;
  RangeTries* tries = nullptr;
  std::shared_ptr<WaitQueue> part_ended;
  std::vector<std::shared_ptr<Part>> kept;  // of a round in which another part has failed
  std::vector<Change> changes;
  bool more = false;
};

// One question to each node.
struct WatchRouter::Round {
  std::vector<std::shared_ptr<Part>> parts;
  bool ended() const {
    return std::all_of(parts.begin(), parts.end(), [](const auto& part) { return part->ended; });
  }
  bool has_news() const {
    return std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part->has_news(); });
  }
};

Task<void> WatchRouter::AskPart(std::shared_ptr<Part> part, std::shared_ptr<WaitQueue> ended, CallTerms terms) {
  part->answer = co_await nodes_->Watch(part->share.node, &part->args, &part->reply, terms);
  part->ended = true;
  ended->NotifyAll();
}

// Takes the changes of the nodes that have answered, as many as the client wants and a reply holds. RW1.
void WatchRouter::TakeChanges(const Round& round, Watched* watched) {
  size_t bytes = 0;
  for (const std::shared_ptr<Part>& part : round.parts) {
    if (!part->ended) continue;
    api::WatchPartitionsReply& reply = part->reply.success;
    bytes += ChangeBytes(reply.changes);
    const bool too_long = bytes > kMaxReplyBytes && !watched->changes.empty();
    if (too_long || watched->changes.size() + reply.changes.size() > watched->limit) {
      bytes -= ChangeBytes(reply.changes);
      watched->more = true;
      metrics_.dropped_total.Add();
      continue;
    }
    for (api::Change& from : reply.changes) {
      watched->changes.push_back({std::move(from.key), static_cast<Version>(from.version), from.removed});
    }
    for (const api::PartitionPosition& position : reply.positions) {
      watched->versions[position.partition] = position.version;
    }
    watched->more |= reply.more;
  }
}

namespace {

// The positions in a reply are those of its share.
Status CheckPositions(const NodeShare& share, const api::WatchPartitionsReply& reply, size_t limit) {
  const auto same = [](int32_t asked, const api::PartitionPosition& told) {
    return asked == told.partition && told.version >= 0;
  };
  if (reply.changes.size() <= limit && std::equal(share.partitions.begin(), share.partitions.end(),
                                                  reply.positions.begin(), reply.positions.end(), same)) {
    return Status();
  }
  return Error(Code::kCorruption, "node {} sent other positions than it was asked for", share.node);
}

// The same positions for the partitions of the plan, of which some may have been split since (RW1).
Status MoveTo(const RangePlan& plan, uint32_t base, std::map<int32_t, int64_t>* versions) {
  if (versions->empty()) return Status();  // from now on
  std::map<uint32_t, Version> known;
  for (const auto& [id, version] : *versions) known[static_cast<uint32_t>(id)] = static_cast<Version>(version);
  std::map<int32_t, int64_t> moved;
  for (const NodeShare& share : plan.shares) {
    for (const int32_t id : share.partitions) {
      ASSIGN_OR_RETURN(const Version version, VersionFor(static_cast<uint32_t>(id), base, known));
      moved[id] = static_cast<int64_t>(version);
    }
  }
  *versions = std::move(moved);
  return Status();
}

}  // namespace

// Asks each node, unless what it was asked before is still asked or answered.
void WatchRouter::Ask(WatchCall* call, Watched* watched, const RangePlan& plan, int32_t wait_ms, Round* round) {
  const Nanos until_ns = call->server->reactor().NowNs() + wait_ms * kMillisecond + kAnswerNs;
  for (const NodeShare& share : plan.shares) {
    auto part = std::make_shared<Part>();
    part->share = share;
    part->args.context = watched->ask->ContextOfPart();
    part->args.request.prefix = watched->prefix;
    part->args.request.wait_ms = wait_ms;
    part->args.request.limit_changes = static_cast<int32_t>(watched->limit);
    for (int32_t id : share.partitions) {
      api::PartitionPosition& position = part->args.request.positions.emplace_back();
      position.partition = id;
      position.version = watched->versions.empty() ? kFromNow : watched->versions.at(id);
    }
    const auto same = [&part](const std::shared_ptr<Part>& kept) {
      return kept->share.node == part->share.node && kept->args.request.positions == part->args.request.positions;
    };
    const auto kept = std::find_if(watched->kept.begin(), watched->kept.end(), same);
    if (kept != watched->kept.end()) {
      part = *kept;
    } else {
      tasks_.Spawn(AskPart(part, watched->part_ended, watched->ask->terms().Until(until_ns)));
    }
    round->parts.push_back(std::move(part));
  }
  watched->kept.clear();
}

// Asks all nodes, and waits until one has changes, or all have answered. False: a part has failed, and RangeAsk says
// why.
Task<bool> WatchRouter::RunRound(WatchCall* call, Watched* watched, int32_t wait_ms) {
  Reactor& reactor = call->server->reactor();
  Result<RangePlan> plan = watched->tries->Plan(watched->range);
  if (!plan.ok()) co_return false;
  if (const Status moved = MoveTo(*plan, nodes_->map().base(), &watched->versions); !moved.ok()) {
    watched->tries->NoteGap(moved);
    co_return false;
  }
  Round round;
  Ask(call, watched, *plan, wait_ms, &round);
  // The first round takes no time, and gives every partition its position.
  const bool all = wait_ms == 0;
  const auto finished = [&] { return (!all && round.has_news()) || round.ended(); };
  while (!finished() && (all || !MustEnd(*call))) {
    co_await WaitUntil(reactor, *watched->part_ended, reactor.NowNs() + kLookNs, finished);
  }
  std::vector<api::Covered> covered;
  bool failed = false;
  for (const std::shared_ptr<Part>& part : round.parts) {
    if (!part->ended) continue;
    if (part->answer.status.code() == Code::kDeadline && reactor.NowNs() < call->deadline_ns) {
      part->answer.status = Error(Code::kUnavailable, "node {} does not answer", part->share.node);
    }
    Status taken = watched->ask->Take(part->share, part->answer, &part->reply);
    if (taken.ok()) {
      taken = CheckPositions(part->share, part->reply.success, watched->limit);
      if (!taken.ok()) watched->ask->FailGarbled(taken);
    }
    part->failed = !taken.ok();
    failed |= part->failed;
    const auto& of_part = part->reply.success.covered;
    covered.insert(covered.end(), of_part.begin(), of_part.end());
  }
  if (failed) {
    std::erase_if(round.parts, [](const auto& part) { return part->failed; });
    watched->kept = std::move(round.parts);
    co_return false;
  }
  if (round.ended()) {
    if (const Status whole = CheckCovered(*plan, covered); !whole.ok()) {  // RW2
      watched->tries->NoteGap(whole);
      co_return false;
    }
  }
  TakeChanges(round, watched);
  co_return true;
}

Task<void> WatchRouter::WatchHere(WatchCall* call) {
  const api::WatchRequest& request = call->args.request;
  Watched watched;
  if (Refuse(call, CheckWatch(request))) co_return;
  if (Refuse(call, SetLimit("limit_changes", request.limit_changes, kMaxScanRows, &watched.limit))) co_return;
  const Status complete = co_await nodes_->UntilComplete(call->deadline_ns);
  if (Failed(call, complete)) co_return;
  watched.prefix = request.prefix;
  watched.range = ScanRange::Of({}, {}, request.prefix, /*reverse=*/false);
  const RouteMap& map = nodes_->map();
  std::vector<int32_t> ids;
  if (watched.range.tag) {
    ids.push_back(static_cast<int32_t>(map.RouteOfKey("{" + *watched.range.tag + "}").partition));
  } else {
    for (const Route& route : map.routes()) ids.push_back(static_cast<int32_t>(route.partition));
    std::sort(ids.begin(), ids.end());
  }
  WatchBinding binding{map.cluster_id(), watched.prefix, map.base(), {ids.begin(), ids.end()}};
  if (!call->memory.TryGrow(ids.size() * kPositionBytes)) {
    Refuse(call, Refusal(call->server->OverloadedError(ids.size() * kPositionBytes)));
    co_return;
  }
  if (!request.position.empty()) {
    WatchPosition position;
    if (Refuse(call, ToWatchPosition(request.position, binding, &position))) co_return;
    for (size_t i = 0; i < ids.size(); ++i) watched.versions[ids[i]] = static_cast<int64_t>(position.versions[i]);
  } else if (request.after_version > 0) {
    for (int32_t id : ids) watched.versions[id] = request.after_version;
  }
  RangeAsk ask(nodes_, &call->args.context, CallTerms(*call));
  RangeTries tries(&ask, call, /*only_master=*/true);
  watched.ask = &ask;
  watched.tries = &tries;
  watched.part_ended = std::make_shared<WaitQueue>(call->server->reactor());
  Reactor& reactor = call->server->reactor();
  const Nanos until_ns = EndOfWait(*call, request.wait_ms);
  int32_t wait_ms = 0;
  for (;;) {
    const bool answered = co_await RunRound(call, &watched, wait_ms);
    if (call->answered) co_return;
    if (!answered) {
      const bool again = co_await tries.WaitForNext();
      if (call->answered) co_return;
      if (again) continue;
      Refuse(call, Refusal(tries.LastError()));
      co_return;
    }
    const Nanos left_ns = until_ns - reactor.NowNs();
    if (!watched.changes.empty() || left_ns <= 0 || MustEnd(*call)) break;
    wait_ms = wait_ms == 0 ? kFirstWaitMs : std::min(2 * wait_ms, kMaxWaitMs);
    wait_ms = static_cast<int32_t>(std::min<Nanos>(wait_ms, (left_ns + kMillisecond - 1) / kMillisecond));
  }
  std::sort(watched.changes.begin(), watched.changes.end(),
            [](const Change& a, const Change& b) { return std::tie(a.version, a.key) < std::tie(b.version, b.key); });
  api::WatchReply& reply = call->reply.success;
  ToChanges(watched.changes, &reply.changes);
  WatchPosition position;
  binding.ids.clear();
  for (const auto& [id, version] : watched.versions) {
    binding.ids.push_back(static_cast<uint32_t>(id));
    position.versions.push_back(static_cast<Version>(version));
  }
  reply.position = EncodeWatchPosition(binding, position);
  reply.more = watched.more;
}

Task<void> WatchRouter::Watch(WatchCall* call) {
  const auto waiting = static_cast<size_t>(metrics_.waiting.value());
  const uint64_t client = CallTerms(*call).client;
  const size_t mine = waiting_of_.contains(client) ? waiting_of_[client] : 0;
  if (mine >= kShare * (kMaxWaiting - waiting)) {  // RW3
    metrics_.refused_total.Add();
    SetError(&call->reply, MakeBusy(fmt::format("{} watchers already wait on this reactor of a router, {} of them of "
                                                "this client, and the limit of each reactor is {}: try again later",
                                                waiting, mine, kMaxWaiting),
                                    kWatchRetryMs));
    co_return;
  }
  metrics_.waiting.Set(static_cast<int64_t>(waiting + 1));
  ++waiting_of_[client];
  co_await WatchHere(call);
  if (--waiting_of_[client] == 0) waiting_of_.erase(client);
  metrics_.waiting.Set(metrics_.waiting.value() - 1);
}

}  // namespace pando
