#include "tools/kvadmin/hand_over.h"

#include <algorithm>

#include "src/base/counted.h"
#include "tools/kvadmin/new_master.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/refusal.h"

namespace pando::admin {

Json MoveJson(const MasterMove& move) {
  return Json{{"partition", move.partition}, {"epoch", move.epoch}, {"from", move.from}, {"to", move.to}};
}

Result<api::HandoverReply> HandOver(const Globals& globals, const ClusterView& view, const MasterMove& move) {
  Client client({view.map.nodes.at(move.from).record.client_address, globals.target.timeout_ms});
  api::HandoverRequest request;
  request.partition = static_cast<int32_t>(move.partition);
  request.node = static_cast<int32_t>(move.to);
  request.epoch = static_cast<int64_t>(move.epoch);
  Result<api::HandoverReply> reply = client.Call(Client::Repeat::kUnsafe, &api::ClusterIf::handover, request);
  if (reply.ok()) return reply;
  return RefusalOf(reply.status());
}

int64_t FirstEpochAfter(const MasterMove& move) { return static_cast<int64_t>(move.epoch) + 1; }

namespace {

void PrintPlan(const Globals& globals, const ClusterView& view, const std::vector<MasterMove>& moves) {
  for (const MasterMove& move : moves) {
    if (globals.json) {
      PrintJson(Json{{"would_hand_over", MoveJson(move)}});
    } else {
      tools::Print("partition {}: node {} would hand over to node {}\n", move.partition, view.NameOf(move.from),
                   view.NameOf(move.to));
    }
  }
}

void PrintSummary(const Globals& globals, size_t moved, int64_t longest_ms) {
  if (globals.json) return PrintJson(Json{{"handed_over", moved}, {"longest_pause_ms", longest_ms}});
  tools::Print("{} handed over; the longest accepted no writes for {} ms\n", Counted(moved, "partition"), longest_ms);
}

}  // namespace

Result<ExitCode> HandOverAll(const Globals& globals, const ClusterView& view, const std::vector<MasterMove>& moves,
                             bool dry_run) {
  if (dry_run) {
    PrintPlan(globals, view, moves);
    if (!globals.json)
      tools::Print("{} would be handed over; nothing was changed\n", Counted(moves.size(), "partition"));
    return kExitOk;
  }
  Progress progress("handing over", "partitions", moves.size(), globals.json);
  int64_t longest_ms = 0;
  size_t moved = 0;
  std::vector<std::pair<MasterMove, NodeId>> led;
  for (const MasterMove& move : moves) {
    Result<api::HandoverReply> reply = HandOver(globals, view, move);
    if (!reply.ok()) {
      progress.Clear();
      return Error(reply.status().code(),
                   "{}; {} of {} handed over before. Look at kvadmin cluster status, and run the "
                   "command again for the others",
                   reply.status().message(), moved, Counted(moves.size(), "partition"));
    }
    longest_ms = std::max(longest_ms, reply->pause_ms);
    ++moved;
    led.emplace_back(move, static_cast<NodeId>(reply->node));
    progress.Update(moved, 0, moved);
    if (!globals.json) continue;
    Json done = MoveJson(move);
    done["pause_ms"] = reply->pause_ms;
    PrintJson(Json{{"moved", done}});
  }
  for (const auto& [move, node] : led) {
    const Status leads = WaitUntilLeads(globals, view, move.partition, node, FirstEpochAfter(move));
    if (leads.ok()) continue;
    progress.Clear();
    return Error(leads.code(), "{}; {} handed over, and {} led by its new master as far as is known", leads.message(),
                 Counted(moved, "partition"), moved == 1 ? "it is not yet" : "not each is yet");
  }
  progress.Clear();
  PrintSummary(globals, moved, longest_ms);
  return kExitOk;
}

Result<ExitCode> BalanceMasters(const Globals& globals, const ClusterView& view, bool dry_run) {
  const std::vector<Led> led = LedPartitions(view);
  std::map<NodeId, uint32_t> nodes;
  for (const auto& [id, node] : view.nodes) {
    const NodeRecord& record = view.map.nodes.at(id).record;
    if (node.status.ok() && record.state == NodeState::kActive) nodes[id] = record.weight;
  }
  if (led.empty()) {
    return Error(Code::kUnavailable,
                 "no partition has a master, so there is nothing to hand over; kvadmin cluster status says what is "
                 "missing");
  }
  if (const size_t left = view.map.Serving().size() - led.size(); left != 0) {
    const std::string note =
        fmt::format("{} no master and {} left out",
                    left == 1 ? "1 partition has" : fmt::format("{} partitions have", left), left == 1 ? "is" : "are");
    tools::PrintNote("{}\n", globals.json ? JsonText(Json{{"note", note}}) : "note: " + note);
  }
  return HandOverAll(globals, view, PlanRebalance(led, nodes), dry_run);
}

Result<ExitCode> DrainMasters(const Globals& globals, const ClusterView& view, NodeId node, bool dry_run) {
  RETURN_IF_ERROR(CheckNode(view, node));
  if (!view.IsReachable(node)) {
    return Error(Code::kUnavailable, "node {} does not answer, so it cannot hand over anything: {}", view.NameOf(node),
                 view.nodes.at(node).status.message());
  }
  RETURN_IF_ERROR(CheckDrain(view, node));
  ASSIGN_OR_RETURN(const std::vector<MasterMove> moves, PlanDrain(LedPartitions(view), node));
  return HandOverAll(globals, view, moves, dry_run);
}

}  // namespace pando::admin
