// PlanLoad: which masterships, and then which replicas, should leave nodes that have more than their share of the
// traffic, and how many nodes the traffic wants.
//
// The load of a node is what the replicas that it holds cost (LeaderLoad, FollowerLoad), divided by its weight. A node
// is hot if that is well above the mean (kHot). It is relieved by the move that makes the greater load of its two nodes
// the smallest: of a mastership to a replica that is in sync, which copies nothing; only if none helps, of a replica to
// a node that has none.
//
// LoadHistory keeps what a plan needs of the time before: which nodes are being relieved, what has moved lately, and
// for how long another number of nodes has been wanted. So traffic that comes and goes moves nothing back and forth.
//
// Threads: pure functions and plain values.
//
// Invariants
//   LP1  A move makes the greater load of its two nodes smaller, by at least kMinGain of the mean, and the other node
//        not hot. So for a load that does not change, plans that are carried out one after the other come to an end.
//   LP2  A replica goes only to an active node that holds none of its partition, and no zone then has more of them than
//        the one that it leaves had.
//   LP3  A partition moves at most once within kRestMs, and only while all of its replicas are in sync; and there are
//        at most `moves_per_minute` moves within a minute.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/topology/placement.h"

namespace pando {

// Of one partition, per second.
struct Traffic {
  double reads = 0, writes = 0, scans = 0;
  bool operator==(const Traffic&) const = default;
};

struct PartitionLoad {
  uint32_t id = 0;
  Traffic traffic;
  uint64_t bytes = 0;  // of a replica
  NodeId master = 0;
  std::vector<NodeId> holders;  // with the master
  bool settled = true;          // all of its replicas are in sync, and there are as many as there should be
};

struct LoadedNode {
  PlacementNode place;
  bool takes = true;         // active and reachable: it may get something. Others are left to whoever drains them
  bool disk_full = false;    // it gets no replica
  double busy = 0;           // the part of its processors' time that it has used, 0 to 1
  double latency_ms = 0;     // mean, of its requests
  double requests = 0;       // per second
  double request_bytes = 0;  // per second, in both directions
};

struct LoadMove {
  enum class Kind : uint8_t { kMaster, kReplica };
  Kind kind = Kind::kMaster;
  uint32_t partition = 0;
  NodeId from = 0, to = 0;
  bool leads = false;  // kReplica: `from` leads it, and `to` is to
  std::string why;     // a sentence
  bool operator==(const LoadMove&) const = default;
};

struct LoadInput {
  std::vector<LoadedNode> nodes;
  std::vector<PartitionLoad> partitions;
  std::set<NodeId> hot;                    // that were hot in the plan before: relieved until they are not above kCool
  std::set<uint32_t> resting;              // partitions that have moved lately
  size_t most_moves = 1, most_copies = 4;  // of any kind, and of replicas
};

struct LoadPlan {
  std::vector<LoadMove> moves;
  std::map<NodeId, double> loads;  // before the moves: 1 = the mean
  std::set<NodeId> hot;
};

// What a partition costs its master, and each of its other replicas. A scan reads a page of rows, and a write is
// written to the log and to a page, at each replica.
double LeaderLoad(const Traffic& traffic);
double FollowerLoad(const Traffic& traffic);

// Nodes that take something are hot from kHot of the mean, and then until kCool of it. While an active node has less
// than kIdle of the mean, as a new one has, others are hot from kCool: in a large cluster one node more makes little
// difference to the others.
inline constexpr double kHot = 1.3, kCool = 1.1, kIdle = 0.5;
inline constexpr double kMinGain = 0.05;  // LP1
// Below this mean load of the nodes nothing moves: it is noise.
inline constexpr double kLeastMeanLoad = 50;

LoadPlan PlanLoad(const LoadInput& input);

struct WantedInput {
  std::vector<LoadedNode> nodes;  // those that serve
  uint32_t replicas = 1;          // there are never fewer nodes
  double target_busy = 0.6;       // with which they are as many as wanted
};
// How many nodes of mean weight are so busy as they should be.
uint32_t WantedNodes(const WantedInput& input);

class LoadHistory {
 public:
  static constexpr int64_t kRestMs = 120'000;
  // A node must have been hot for so long.
  static constexpr int64_t kHotMs = 20'000;
  // More nodes are wanted after the first time, and one less after the second.
  static constexpr int64_t kMoreMs = 60'000, kLessMs = 600'000;
  // One plan has no more moves: it is carried out before the loads are measured again.
  static constexpr size_t kMostAtOnce = 8;

  // `moves_per_minute`: LP3. Times are of any clock that does not go back.
  explicit LoadHistory(size_t moves_per_minute) : moves_per_minute_(moves_per_minute) {}

  // Fills in what the plan needs to know of earlier ones, plans, and remembers. What it returns counts as moved.
  LoadPlan Plan(LoadInput input, int64_t now_ms);
  // The number of nodes to publish: `nodes` at first, and then as it is, unless another one was wanted for long enough.
  uint32_t Publish(uint32_t nodes, uint32_t wanted, int64_t now_ms);
  // Forgets everything: another node decides.
  void Clear();

 private:
  size_t moves_per_minute_;
  std::map<NodeId, int64_t> hot_since_ms_;
  std::set<NodeId> relieved_;
  std::map<uint32_t, int64_t> moved_ms_;
  std::deque<int64_t> last_moves_ms_;  // within a minute
  uint32_t published_ = 0;
  int64_t more_since_ms_ = -1, less_since_ms_ = -1;  // -1: not wanted
};

}  // namespace pando
