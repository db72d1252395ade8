// RouteMap: where each partition of a cluster is, as far as a router knows. The nodes tell it (Routing.getMap), and
// their errors correct it until they do.
//
// Threads: plain values.
//
// Invariants
//   RM1  A map that is given out covers every hash exactly once.
//   RM2  A route is never replaced by an older one: lineage and epoch only grow. Nor does a map that is older than
//        what is known say which partitions there are: a node that lags behind may not know of a split. So it is until
//        all nodes contradict what is known (Doubt).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gen-cpp/routing_types.h"
#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/topology/cluster_map.h"

namespace pando {

struct Route {
  uint32_t partition = 0;
  uint64_t first_hash = 0, last_hash = 0;  // both included
  uint64_t lineage = 0;
  Epoch epoch = 0;
  NodeId master = 0;  // 0: unknown
  std::vector<NodeId> in_sync;

  bool OlderThan(const Route& other) const {
    return lineage != other.lineage ? lineage < other.lineage : epoch < other.epoch;
  }
  bool operator==(const Route&) const = default;
};

struct RouteNode {
  std::string address;  // host:port for clients
  std::string zone;
  bool operator==(const RouteNode&) const = default;
};

class RouteMap {
 public:
  // Takes the answer of a node, which it reached at `asked_at`: the address of a node that has none in the answer
  // (one that is alone). kInvalidArgument: the answer is of another cluster, or does not fit together; then no route
  // has changed. After a delta that does not fit (RM1) the version is 0, so the next question is for a whole map.
  Status Apply(const api::MapReply& reply, const std::string& asked_at);
  // The master in the map has said that another one is, at this address (KvError.master), in this epoch (0: it did
  // not say). Returns whether that is news. The map is corrected until the nodes send a newer one.
  bool ApplyHint(uint32_t partition, std::string_view master_address, Epoch epoch);

  // Whether this answer, of a whole map, says that something was so at a time that is before what is known.
  bool IsContradictedBy(const api::MapReply& reply) const;
  // The next whole map replaces what is known, whatever it says: no node knows of it any more.
  void Doubt();

  bool complete() const { return !routes_.empty(); }
  // Nil: no node has answered yet.
  const Uuid& cluster_id() const { return cluster_id_; }
  int64_t version() const { return version_; }
  // How often something has changed: whoever waits for a newer map compares it.
  uint64_t changes() const { return changes_; }
  // REQUIRES: complete().
  const Route& RouteOfHash(uint64_t hash) const;
  const Route& RouteOfKey(std::string_view key) const;
  // Null: there is none.
  const Route* Find(uint32_t partition) const;
  const RouteNode* FindNode(NodeId node) const;
  NodeId NodeAt(std::string_view address) const;  // 0: none
  const std::map<NodeId, RouteNode>& nodes() const { return nodes_; }
  const std::vector<Route>& routes() const { return routes_; }  // by first_hash
  // With how many partitions the cluster was created (hash_ranges.h). REQUIRES: complete().
  uint32_t base() const { return base_; }

 private:
  // Whether these partitions are known, with these ranges: then the map covers what it did (RM1), and only they have to
  // be looked at. In a map of many partitions, changes come often.
  bool KnowsRangesOf(const std::vector<Route>& told) const;
  // Takes those that are not older (RM2). Returns whether something has changed.
  bool Replace(std::vector<Route> told);

  Uuid cluster_id_;
  int64_t version_ = 0;
  uint32_t base_ = 0;
  uint64_t changes_ = 0;
  std::map<NodeId, RouteNode> nodes_;
  std::vector<Route> routes_;
  std::unordered_map<uint32_t, size_t> by_partition_;  // index in routes_
};

// How many partitions a cluster was created with in which these partitions have these ranges. kCorruption: in none.
Result<uint32_t> BaseOf(const std::vector<Route>& routes);

// Whether the ranges cover every hash exactly once. kCorruption says where they do not. Sorts `routes`.
Status CheckCoverage(std::vector<Route>* routes);

}  // namespace pando
