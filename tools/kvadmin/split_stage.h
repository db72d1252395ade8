// Where a partition stands in a cluster whose partitions are split (docs/SPLIT.md), as the topology says.
//
// Threads: plain values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "src/base/result.h"
#include "src/topology/cluster_map.h"

namespace pando::admin {

enum class SplitStage : uint8_t {
  kServing,
  kSplitting,  // it serves, and its halves are being built
  kBuilding,   // a half that does not serve yet
  kOpening,    // a half whose whole serves no more, and whose record says `building`
  kSplit,      // it serves nothing any more: its halves do
  kGivenUp,    // a half of a split that was given up
};

// REQUIRES: the map has the partition.
SplitStage StageOf(const ClusterMap& map, uint32_t partition);
std::string_view StageName(SplitStage stage);
// Whether its replicas count: those of the others are dropped by their nodes.
bool IsInUse(SplitStage stage);
inline bool IsInUse(const ClusterMap& map, uint32_t partition) { return IsInUse(StageOf(map, partition)); }

// The numbers of its halves, whether there are any or not. nullopt: it cannot have halves, or there is no cluster.
std::optional<std::array<uint32_t, 2>> HalvesOf(const ClusterMap& map, uint32_t partition);
// In a sentence: "22 and 23".
std::string HalvesText(const ClusterMap& map, uint32_t partition);

// kInvalidArgument: there is no such partition, or it is not in use; then the message says where its records are.
Status CheckPartition(const ClusterMap& map, uint32_t partition);
// For plans of what moves. kUnavailable: a partition is being split, so where its records will be changes.
Status CheckNoSplit(const ClusterMap& map);

}  // namespace pando::admin
