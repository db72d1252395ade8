// ReplicaChange: one partition gets a replica on a node, loses the one of another node, or both, in this order.
//
// It takes one step at a time, each asked of the partition's master, and decides the next one from a new look at the
// cluster. Nothing is remembered between two of them, so whoever goes on after an interruption needs only the same
// request: an operator who repeats kvadmin replica, or a plan that is resumed (plan_run.h).
//
// Threads: one.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

struct ReplicaRequest {
  uint32_t partition = 0;
  NodeId add = 0, leave = 0;  // 0: none
  bool yes = false;           // without `add`: another node may become master first
};

// The replicas of a partition, as its master knows them.
struct Situation {
  struct Member {
    NodeId node = 0;
    std::string replica;
    bool master = false, in_sync = false, learner = false;
  };
  NodeId master = 0;
  uint32_t replicas = 0, min_isr = 0;
  std::vector<Member> members;

  const Member* On(NodeId node) const;  // null: it holds none
  size_t InSync() const;
};

// Nothing without a master that may serve.
std::optional<Situation> SituationOf(const ClusterView& view, uint32_t partition);

// Whether two texts differ in numbers only: what is waited for is said once, and not for each byte.
bool SaysTheSame(std::string_view a, std::string_view b);

class ReplicaChange {
 public:
  enum class Step { kAdd, kWait, kHandOver, kRemove, kDone };

  // `globals` outlives this object.
  ReplicaChange(const Globals& globals, ReplicaRequest request) : globals_(globals), o_(request) {}

  // Takes a new look at the cluster, which outlives the next calls. False: the partition has no master now, and
  // everything else is as it was before. kInvalidArgument: there is no such partition.
  Result<bool> Observe(const ClusterView& view);
  // The others REQUIRE that Observe has returned true.

  // What is wrong with the request itself, before anything was changed.
  Status CheckBegin() const;
  // If two replicas of the partition would be in one zone, a sentence; else empty.
  std::string ZoneNote() const;
  Step Next() const;
  // The steps that are left, for people.
  std::vector<std::string> Plan() const;
  // Asks the master to take this step. An error is for good; what may pass is kept for WhyNotDone.
  Status Carry(Step step);
  // Why it is not done yet; empty: nothing is in the way.
  std::string WhyNotDone() const;
  // Why the new replica could not be installed when its node last tried; empty: it could be, as far as is known.
  std::string InstallProblem() const;
  // Bytes that have come to the new replica, of how many about; 0 of 0: not known.
  std::pair<uint64_t, uint64_t> Installed() const;

  const Situation& now() const { return now_; }
  const std::string& left() const { return left_; }  // the UUID of the replica that was removed
  const ReplicaRequest& request() const { return o_; }

 private:
  Status CheckSpare() const;
  Status Ask(const std::function<Status(Client&)>& call);

  const Globals& globals_;
  const ReplicaRequest o_;
  const ClusterView* view_ = nullptr;
  Situation now_;
  std::string left_;
  Status refused_;  // why the last step was not taken
};

}  // namespace pando::admin
