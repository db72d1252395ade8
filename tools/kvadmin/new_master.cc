#include "tools/kvadmin/new_master.h"

#include <algorithm>
#include <chrono>

#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kFirstPauseMs = 5, kMaxPauseMs = 100;
constexpr int64_t kAskMs = 1000;
// A wait that takes longer is explained.
constexpr std::chrono::milliseconds kExplainAfter{500};

// What the node says of the partition; or why it says nothing.
struct Seen {
  bool leads = false;
  NodeId other = 0;  // who leads instead, in a later epoch
  std::string text;
};

Seen Look(const NewMaster& master, const Result<api::ReplicasReply>& reply) {
  Seen seen;
  if (!reply.ok()) {
    seen.text = fmt::format("it does not answer: {}", reply.status().message());
    return seen;
  }
  const auto at = std::find_if(reply->replicas.begin(), reply->replicas.end(),
                               [&](const auto& r) { return r.partition == static_cast<int32_t>(master.partition); });
  if (at == reply->replicas.end()) {
    seen.text = "it holds no replica of it";
    return seen;
  }
  seen.leads = at->role == "master" && at->leased && at->epoch >= master.epoch;
  const auto named = static_cast<NodeId>(at->master_node);
  if (at->epoch > master.epoch && named != 0 && named != master.node) seen.other = named;
  if (at->epoch < master.epoch) {
    seen.text = "it has not heard of it yet";
  } else if (at->role == "master") {
    seen.text = "it has no lease yet: not all replicas in sync have answered it";
  } else {
    seen.text = fmt::format("its replica is {}: not all replicas in sync have the record that begins its epoch",
                            Printable(at->role, Encoding::kText));
  }
  return seen;
}

}  // namespace

Status WaitUntilLeads(const NewMaster& master, const MasterQuestion& question) {
  const Clock::time_point began = Clock::now();
  const Clock::time_point until = began + std::chrono::milliseconds(question.timeout_ms);
  bool explained = false;
  for (int64_t pause_ms = kFirstPauseMs;; pause_ms = std::min(2 * pause_ms, kMaxPauseMs)) {
    const Seen seen = Look(master, question.ask());
    if (seen.leads) return Status();
    if (seen.other != 0) {
      return Error(Code::kUnavailable,
                   "node {} was made master of partition {}, in epoch {}, but node {} has become its master since",
                   master.name, master.partition, master.epoch, seen.other);
    }
    if (Clock::now() >= until) {
      return Error(Code::kDeadline,
                   "the topology names node {} as the master of partition {}, in epoch {}, but it does not lead after "
                   "{} ms: {}. It goes on by itself; kvadmin cluster status says what is missing",
                   master.name, master.partition, master.epoch, question.timeout_ms, seen.text);
    }
    if (!explained && Clock::now() - began >= kExplainAfter) {
      explained = true;
      question.explain(
          fmt::format("waiting until node {} leads partition {}: {}", master.name, master.partition, seen.text));
    }
    if (!tools::Interrupts::Sleep(pause_ms)) return tools::Interrupts::Check();
  }
}

Status WaitUntilLeads(const Globals& globals, const ClusterView& view, uint32_t partition, NodeId node, int64_t epoch) {
  const auto at = view.map.nodes.find(node);
  if (at == view.map.nodes.end()) return Error(Code::kUnavailable, "the cluster has no node {}", node);
  Client client({at->second.record.client_address, std::min(globals.target.timeout_ms, kAskMs)});
  MasterQuestion question;
  question.ask = [&client] { return client.Call(Client::Repeat::kSafe, &api::ClusterIf::replicas); };
  question.explain = [&globals](const std::string& text) {
    tools::PrintNote("{}\n", globals.json ? JsonText(Json{{"note", text}}) : "note: " + text);
  };
  question.timeout_ms = globals.target.timeout_ms;
  return WaitUntilLeads(NewMaster{partition, node, view.NameOf(node), epoch}, question);
}

}  // namespace pando::admin
