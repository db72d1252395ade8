// The capacity model behind `kvadmin plan`: how many nodes and partitions a cluster needs, and what each node then has
// on its disk, in its memory and on its network, at peak and after the loss of a node.
//
// The model assumes that keys are drawn uniformly and that all nodes are alike. docs/CAPACITY.md explains each formula
// and compares it with measurements.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"

namespace pando::admin {

struct CapacityInputs {
  double records = 0;
  double key_bytes = 16, value_bytes = 0;
  double compression_ratio = 1;  // bytes of a page before compression, divided by those after it
  double reads_per_s = 0, writes_per_s = 0;
  uint32_t replicas = 3;
  uint32_t zones = 0;       // 0: every node is a zone of its own
  uint32_t nodes = 0;       // 0: the fewest that suffice
  uint32_t partitions = 0;  // 0: as many as suit the data and the nodes
  // Of each node.
  double node_disk_bytes = 0, node_memory_bytes = 0;
  double node_network_bytes_per_s = 1.25e9;  // in each direction
  double node_disk_bytes_per_s = 500e6;      // reads and writes together
  double install_bytes_per_s = 100e6;        // --install_mb_per_s
  double log_budget_bytes = 512.0 * 1024 * 1024;
  uint32_t reactors = 8;
};

enum class CapacityUnit : uint8_t { kCount, kBytes, kBytesPerSecond, kSeconds, kRatio };

// One figure, and how it was computed.
struct CapacityRow {
  std::string name;  // unique, with its unit
  CapacityUnit unit = CapacityUnit::kCount;
  double value = 0;
  std::string formula, numbers;  // "records / nodes", "1e+09 / 4"
};

struct CapacityPlan {
  uint32_t nodes = 0, partitions = 0;
  std::string bound_by;  // why fewer nodes do not suffice; empty if the replicas or the options say how many
  std::vector<CapacityRow> rows;
  std::vector<std::string> notes;  // what the operator should know besides, a sentence each
  // REQUIRES: there is such a row.
  const CapacityRow& Row(std::string_view name) const;
};

// kInvalidArgument: an input is impossible, or contradicts another one. The message names the options.
Result<CapacityPlan> PlanCapacity(const CapacityInputs& inputs);

}  // namespace pando::admin
