// RangeTries: the tries of one request for a range. Each makes a plan from the map as it is then; between them the
// router looks for a newer map, or waits as long as a node asks for.
//
// Threads: one reactor.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "src/router/range_parts.h"
#include "src/router/range_plan.h"
#include "src/router/retry.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

// The parts of one try.
struct RangeParts {
  RangePlan plan;
  std::vector<std::unique_ptr<NodePart>> nodes;

  std::vector<MergeSource> Sources() const;
  // CV1.
  Status CheckCovered() const;
};

class RangeTries {
 public:
  // All outlive it. `only_master`: no other replica may answer.
  RangeTries(RangeAsk* ask, RpcCallBase* call, bool only_master)
      : ask_(*ask), call_(*call), backoff_(call->server->reactor()), only_master_(only_master) {}

  // Begins a try.
  Result<RangePlan> Plan(const ScanRange& range);
  // After one that has failed: waits until another is worth it. False: there is no time for it, or it would fail too.
  Task<bool> WaitForNext();
  // Why there was no answer.
  api::KvError LastError() const;

  // Tries until `attempt(parts)`, which returns a Task<Status>, has ended well and its parts cover the range.
  // Nothing, or why there is no answer.
  template <typename Attempt>
  Task<Refusal> UntilCovered(ScanRange range, Attempt attempt) {
    for (;;) {
      Result<RangePlan> plan = Plan(range);
      if (plan.ok()) {
        RangeParts parts;
        parts.plan = *std::move(plan);
        for (const NodeShare& share : parts.plan.shares) {
          parts.nodes.push_back(std::make_unique<NodePart>(&ask_, share));
        }
        Task<Status> trying = attempt(&parts);
        const Status status = co_await trying;
        if (!status.ok() && !ask_.failure()) co_return ToKvError(status, false);
        if (status.ok()) {
          const Status covered = parts.CheckCovered();
          if (covered.ok()) co_return Refusal();
          NoteGap(covered);
        }
      }
      const bool again = co_await WaitForNext();
      if (!again) co_return LastError();
    }
  }
  // The parts do not cover the range.
  void NoteGap(const Status& why);

 private:
  RangeAsk& ask_;
  RpcCallBase& call_;
  Backoff backoff_;
  bool only_master_;
  NodeId silent_ = 0;  // as of the try before
  int silences_ = 0;   // tries that a silent replica has ended
  int too_stale_ = 0;  // tries of masters alone in which one said that it is
  uint64_t seen_ = 0;  // of the nodes' news, when the try began
};

// Whether reads with this context are for masters alone.
bool IsForMasters(const api::Context& context);

}  // namespace pando
