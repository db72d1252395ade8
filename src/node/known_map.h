// KnownMap is what one reactor knows of the map of the cluster, as routers are told it (thrift/routing.thrift).
// NodeCluster tells it what is new. On a node that is alone, it shows one node and never changes.
//
// Its version follows from the revisions of the records that it holds. So other keys of the topology do not change it,
// and nodes that know the same records show the same version.
//
// Threads: its reactor.
//
// Invariants
//   KM1  The version grows with every record that is new, and a reply shows every record that the map holds and that
//        is newer than the version which its caller knows, if it is to be shown at all.
//   KM2  A reply shows the routes of the partitions that serve, and of no others. A caller that knows a version
//        from before other ones served gets the whole map, because no delta says what is gone.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "gen-cpp/routing_types.h"
#include "src/base/hash_ranges.h"
#include "src/base/ids.h"
#include "src/partition/store.h"
#include "src/topology/cluster_map.h"

namespace pando {

// The newest states of records of which some may be known already.
struct MapNews {
  // TopologyStore::one_counter.
  bool one_counter = false;
  uint32_t base = 0;  // ClusterRecord::partitions; 0: as before
  std::vector<Versioned<NodeRecord>> nodes;
  std::vector<Versioned<PartitionRecord>> partitions;

  bool empty() const { return nodes.empty() && partitions.empty(); }
};

class KnownMap {
 public:
  // Of a node that is alone: it is master of all partitions, in epoch kAloneEpoch. Its clients know where it is.
  static constexpr NodeId kAloneNode = 1;
  static constexpr Epoch kAloneEpoch = 1;
  static KnownMap Alone(const StoreInfo& store);

  KnownMap() = default;
  // Returns the partitions that serve, if they are others than before and have each hash once.
  std::optional<RangeTable> Take(const MapNews& news);

  // 0: nothing is known yet.
  uint64_t version() const { return version_; }
  // The memory that a reply takes, for a caller that knows this version.
  size_t ReplyBytes(uint64_t known) const;
  // Sets all but the cluster.
  void Fill(uint64_t known, api::MapReply* reply) const;

 private:
  template <typename Shown>
  struct Entry {
    Shown shown;
    Revision revision = 0;
  };
  template <typename Shown>
  void Keep(Entry<Shown>* kept, Shown shown, Revision revision);
  bool IsDelta(uint64_t known) const {
    return one_counter_ && known > 0 && known <= version_ && known >= serving_since_;
  }
  template <typename Shown>
  static size_t CountAfter(const std::map<uint32_t, Entry<Shown>>& entries, uint64_t known);
  bool Serves(uint32_t id) const;
  std::optional<RangeTable> UpdateServing();

  bool one_counter_ = false;
  uint32_t base_ = 0;
  std::map<uint32_t, PartitionStage> states_;
  std::set<uint32_t> serving_;
  uint64_t serving_since_ = 0;  // the version of the map when others served last
  // With one counter, the highest revision of an entry; otherwise the sum of all.
  uint64_t version_ = 0;
  std::map<uint32_t, Entry<api::RouteNode>> nodes_;
  std::map<uint32_t, Entry<api::Route>> routes_;
};

}  // namespace pando
