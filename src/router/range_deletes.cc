// deleteRange of a router. Each node deletes from the partitions that it leads, up to its share of the limit. The
// position after it is the lowest key up to which some partition was not visited further; what others have visited
// beyond it is visited again by the next call.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/router/range_requests.h"
#include "src/router/range_tries.h"

namespace pando {

namespace {

// Of the keys that nodes are deleting, in no part more than this: nothing is held but the replies.
constexpr size_t kReplyBytes = 2 * kMaxKeyBytes + 4096;

struct Deletion {
  const api::DeleteRangeRequest* request = nullptr;
  ScanRange range;
  size_t limit = 0;
  int64_t removed = 0;
  bool unknown = false;  // what came of a part
  // By partition: what was visited of it. Those that are not here were not visited.
  struct Visited {
    bool exhausted = false;
    std::shared_ptr<const std::string> last_key;  // of its share: it may be long, and they may be many
    api::Covered covered;
  };
  std::map<int32_t, Visited> visited;
};

// Once a node was asked, something may have been removed.
struct SentDeletion final : Withdrawable {
  bool sent = false;
  bool Withdraw() override { return !sent; }
};

Task<void> DeletePart(RangeAsk* ask, NodeShare share, size_t limit, Deletion* deletion) {
  api::Routing_deletePartitions_args args;
  api::Routing_deletePartitions_result reply;
  args.context = ask->ContextOfPart();
  args.request.partitions = share.partitions;
  args.request.range = *deletion->request;
  args.request.range.cursor.clear();
  args.request.range.limit_rows = static_cast<int32_t>(limit);
  if (deletion->range.start_exclusive) args.request.__set_after_key(deletion->range.start);
  const NodeAnswer answer = co_await ask->nodes().Delete(share.node, &args, &reply, ask->terms());
  const Status taken = ask->Take(share, answer, &reply);
  if (!taken.ok()) {
    const bool lost = !answer.answered() && answer.sent;
    deletion->unknown |= lost || (answer.answered() && reply.__isset.error &&
                                  reply.error.applied == static_cast<int32_t>(ApiApplied::kUnknown));
    co_return;
  }
  api::DeletePartitionsReply& part = reply.success;
  deletion->removed += part.removed;
  const auto last_key = std::make_shared<const std::string>(std::move(part.last_key));
  for (const api::Covered& covered : part.covered) {
    deletion->visited[covered.partition] = {part.exhausted, last_key, covered};
  }
}

// Leaves what was visited already out of a plan. Returns how many partitions it had.
size_t LeaveOutVisited(const Deletion& deletion, RangePlan* plan) {
  size_t all = 0;
  for (NodeShare& share : plan->shares) {
    all += share.partitions.size();
    std::erase_if(share.partitions, [&](int32_t id) { return deletion.visited.contains(id); });
  }
  std::erase_if(plan->shares, [](const NodeShare& share) { return share.partitions.empty(); });
  return all;
}

// Tries until every partition was visited. False: RangeTries::LastError says why one was not.
Task<bool> VisitAll(RangeAsk* ask, RangeTries* tries, Deletion* deletion) {
  for (;;) {
    Result<RangePlan> plan = tries->Plan(deletion->range);
    if (plan.ok()) {
      const size_t all = LeaveOutVisited(*deletion, &*plan);
      TaskGroup deletes;
      for (const NodeShare& share : plan->shares) {
        const size_t limit = std::max<size_t>(1, deletion->limit * share.partitions.size() / all);
        deletes.Spawn(DeletePart(ask, share, limit, deletion));
      }
      co_await deletes.Drain();
      if (!ask->failure()) {
        std::vector<api::Covered> covered;
        for (const auto& [id, visited] : deletion->visited) covered.push_back(visited.covered);
        const Status whole = CheckCovered(*plan, covered);
        if (whole.ok()) co_return true;
        deletion->visited.clear();
        tries->NoteGap(whole);
      }
    }
    const bool again = co_await tries->WaitForNext();
    if (!again) co_return false;
  }
}

// The key up to which all partitions were visited; nothing: all of them to the end.
std::optional<std::string> PositionOf(const Deletion& deletion, bool all_visited) {
  const std::string begin = deletion.range.start_exclusive ? deletion.range.start : std::string();
  if (!all_visited) return begin;
  std::optional<std::string> position;
  for (const auto& [id, visited] : deletion.visited) {
    if (!visited.exhausted && (!position || *visited.last_key < *position)) position = *visited.last_key;
  }
  if (position) position = std::max(*position, begin);
  return position;
}

}  // namespace

Task<void> RouteDeleteRange(RangeNodes* nodes, DeleteRangeCall* call) {
  const api::DeleteRangeRequest& request = call->args.request;
  Deletion deletion;
  deletion.request = &request;
  if (Refuse(call, SetLimit("limit_rows", request.limit_rows, kMaxBatchOps, &deletion.limit))) co_return;
  const Status complete = co_await nodes->UntilComplete(call->deadline_ns);
  if (Failed(call, complete)) co_return;
  const Uuid cluster = nodes->map().cluster_id();
  if (Refuse(call, ToScanRange(request, &deletion.range, cluster))) co_return;
  const uint64_t scan_id = ScanIdOf(deletion.range, call->server->reactor());
  const size_t bytes = MostSharesOf(nodes->map()) * kReplyBytes + nodes->map().routes().size() * 384;
  const CallTerms terms(*call);
  LongWork::Ticket ticket;
  if (!ReserveLong(nodes->long_work(), terms.client, call, bytes, &ticket)) co_return;
  RangeAsk ask(nodes, &call->args.context, terms);
  RangeTries tries(&ask, call, /*only_master=*/true);
  bool all_visited = deletion.range.empty;
  SentDeletion sent;
  call->withdrawable = &sent;
  sent.sent = !all_visited;
  if (!all_visited) all_visited = co_await VisitAll(&ask, &tries, &deletion);
  call->withdrawable = nullptr;
  if (call->answered) co_return;
  // As on a node: what is left is still there, and if something was removed, the answer says how much. The next call
  // comes to the refusal.
  if (!all_visited && (deletion.unknown || deletion.removed == 0)) {
    api::KvError error = tries.LastError();
    if (deletion.unknown) {
      error.applied = static_cast<int32_t>(ApiApplied::kUnknown);
      if (deletion.removed > 0) error.message += fmt::format("; this call removed {} records before", deletion.removed);
    }
    SetError(&call->reply, error);
    co_return;
  }
  api::DeleteRangeReply& reply = call->reply.success;
  reply.removed = deletion.removed;
  const std::optional<std::string> position = PositionOf(deletion, all_visited);
  if (!deletion.range.empty && position) reply.cursor = EncodeCursor(request, {scan_id, *position}, cluster);
  ask.FillSession(&reply);
}

}  // namespace pando
