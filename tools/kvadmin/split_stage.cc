#include "tools/kvadmin/split_stage.h"

#include "src/base/hash_ranges.h"

namespace pando::admin {

namespace {

std::optional<uint32_t> WholeOf(const ClusterMap& map, uint32_t partition) {
  return map.cluster ? pando::WholeOf(partition, map.cluster->record.partitions) : std::nullopt;
}

}  // namespace

SplitStage StageOf(const ClusterMap& map, uint32_t partition) {
  const PartitionRecord& record = map.partitions.at(partition).record;
  switch (record.state) {
    case PartitionStage::kServing: return record.split ? SplitStage::kSplitting : SplitStage::kServing;
    case PartitionStage::kBuilding: return map.Serves(partition) ? SplitStage::kOpening : SplitStage::kBuilding;
    case PartitionStage::kRetired: break;
  }
  const std::optional<uint32_t> whole = WholeOf(map, partition);
  const auto at = whole ? map.partitions.find(*whole) : map.partitions.end();
  const bool given_up = at != map.partitions.end() && at->second.record.state != PartitionStage::kRetired;
  return given_up ? SplitStage::kGivenUp : SplitStage::kSplit;
}

std::string_view StageName(SplitStage stage) {
  switch (stage) {
    case SplitStage::kServing: return "serving";
    case SplitStage::kSplitting: return "splitting";
    case SplitStage::kBuilding: return "building";
    case SplitStage::kOpening: return "opening";
    case SplitStage::kSplit: return "split";
    case SplitStage::kGivenUp: return "given up";
  }
  return "?";
}

bool IsInUse(SplitStage stage) { return stage != SplitStage::kSplit && stage != SplitStage::kGivenUp; }

std::optional<std::array<uint32_t, 2>> HalvesOf(const ClusterMap& map, uint32_t partition) {
  return map.cluster ? pando::HalvesOf(partition, map.cluster->record.partitions) : std::nullopt;
}

std::string HalvesText(const ClusterMap& map, uint32_t partition) {
  const auto halves = HalvesOf(map, partition);
  return halves ? fmt::format("{} and {}", (*halves)[0], (*halves)[1]) : "?";
}

Status CheckPartition(const ClusterMap& map, uint32_t partition) {
  if (!map.partitions.contains(partition)) {
    return Error(Code::kInvalidArgument, "there is no partition {}: the cluster has {}", partition,
                 map.Serving().size());
  }
  const SplitStage stage = StageOf(map, partition);
  if (stage == SplitStage::kSplit) {
    return Error(Code::kInvalidArgument, "partition {} was split: the partitions {} have its records", partition,
                 HalvesText(map, partition));
  }
  if (stage == SplitStage::kGivenUp) {
    const uint32_t whole = *WholeOf(map, partition);
    return Error(Code::kInvalidArgument,
                 "partition {} is a half of partition {} whose split was given up: partition {} has its records",
                 partition, whole, whole);
  }
  return Status();
}

Status CheckNoSplit(const ClusterMap& map) {
  for (const auto& [id, known] : map.partitions) {
    const SplitStage stage = StageOf(map, id);
    if (stage == SplitStage::kServing || !IsInUse(stage)) continue;
    const uint32_t whole = stage == SplitStage::kSplitting ? id : WholeOf(map, id).value_or(id);
    return Error(Code::kUnavailable,
                 "partition {} is being split, so no plan is made. kvadmin partition split {} waits until that has "
                 "ended, and with --abort gives it up",
                 whole, whole);
  }
  return Status();
}

}  // namespace pando::admin
