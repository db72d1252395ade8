// A plan of moves as a file, and what was asked of it since. docs/FORMAT.md describes both.
//
//   FILE        the plan; never changed
//   FILE.state  whether it is to go on, to pause, or to be aborted; missing: nobody has said
//
// How far a plan has come is not written down: the topology says it (JudgePlanned). So nothing can be lost, and nothing
// contradicts it, whenever kvadmin is killed.
//
// Threads: one. The functions block.
//
// Invariants
//   PF1  FILE.state is replaced as a whole. One that was written for another plan means nothing.
//   PF2  At most one process of this machine carries a plan out: the one that has locked FILE.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/topology/cluster_map.h"
#include "src/topology/move_plan.h"

namespace pando::admin {

// A partition that moves, as it was when the plan was made.
struct PlannedPartition {
  uint64_t lineage = 0;
  Epoch epoch = 0;
  std::vector<NodeId> nodes;  // with replicas
  bool operator==(const PlannedPartition&) const = default;
};

struct PlannedNode {
  std::string zone;
  uint32_t weight = 0;  // 0: it is drained
  NodeLoad load;
};

struct PlanFile {
  std::string kind;  // rebalance or drain
  Uuid cluster_id;
  Revision revision = 0;  // of the topology that it was made from
  int64_t made_at_ms = 0;
  uint64_t mb_per_s = 0, eta_s = 0;
  std::map<NodeId, PlannedNode> nodes;
  std::map<uint32_t, PlannedPartition> partitions;
  std::vector<ReplicaMove> moves;  // those of a partition in their order
  std::string checksum;            // set by Encode and Decode
};

// Returns the contents of the file.
std::string EncodePlan(PlanFile* plan);
// Returns kCorruption or kVersion, with `path`.
Result<PlanFile> DecodePlan(std::string_view bytes, const std::string& path);

// kAlreadyExists: there is such a file, which may be a plan that is carried out.
Status WritePlan(const std::string& path, PlanFile* plan);
Result<PlanFile> ReadPlan(const std::string& path);

enum class Wanted : uint8_t { kRun, kPause, kAbort };
// What FILE.state says of this plan.
Result<Wanted> ReadWanted(const std::string& path, const PlanFile& plan);
Status WriteWanted(const std::string& path, const PlanFile& plan, Wanted wanted);

// PF2.
class PlanLock {
 public:
  PlanLock() = default;
  PlanLock(const PlanLock&) = delete;
  PlanLock& operator=(const PlanLock&) = delete;
  ~PlanLock();
  // kLocked: another process has it.
  Status TryLock(const std::string& path);

 private:
  int descriptor_ = -1;
};

// How far the moves of one partition have come. The moves before `done` are done.
struct PlanProgress {
  enum class State : uint8_t {
    kLeft,   // the next one has not begun
    kBegun,  // the next one has: both nodes hold replicas
    kDone,   // all are done
    kStale,  // the partition is not where any of the moves begins or ends
  };
  State state = State::kLeft;
  size_t done = 0;
  std::string why;  // of kStale, a sentence
};
// `moves`: those of the partition, in their order.
PlanProgress JudgePlanned(const PlannedPartition& planned, const std::vector<ReplicaMove>& moves,
                          const ClusterMap& map);

}  // namespace pando::admin
