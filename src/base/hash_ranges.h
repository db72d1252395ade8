// Hash ranges: which hashes a partition stands for, and which partition has a hash (docs/SPLIT.md).
//
// A store is created with `base` equal ranges, a power of two. A range can be halved, and its halves can. All ranges
// are numbered as the nodes of a binary heap whose first row has the numbers 0 to base - 1, so a number says which
// range it stands for, and nothing else has to.
//
// Threads: plain values.
//
// Invariants
//   HR1  A number stands for one range, for ever: that of an ID below `base` is the one that it had before there were
//        halves.
//   HR2  A RangeTable has every hash in the range of exactly one of its partitions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/hash.h"
#include "src/base/result.h"

namespace pando {

inline constexpr uint32_t kMaxPartitions = 65536;  // IDs are below it

// Both included (HR1). REQUIRES: `base` is a power of two up to kMaxPartitions, and id < kMaxPartitions.
std::pair<uint64_t, uint64_t> HashRangeOf(uint32_t id, uint32_t base);

// The halves of its range, the lower hashes first. nullopt: their numbers would be too high.
std::optional<std::array<uint32_t, 2>> HalvesOf(uint32_t id, uint32_t base);

// The partition that it is a half of. nullopt: it is of the first row.
std::optional<uint32_t> WholeOf(uint32_t id, uint32_t base);

// Whether the range of `id` is a part of that of `whole`, and another one.
bool IsPartOf(uint32_t id, uint32_t whole, uint32_t base);

// Finds the partition of a hash in one step.
class RangeTable {
 public:
  // Of nothing: assign another one before it is asked.
  RangeTable() = default;
  // The ranges that a store is created with.
  static RangeTable Equal(uint32_t base);
  // Of these partitions, in any order. kCorruption says which hashes are in none of their ranges, or in several (HR2).
  static Result<RangeTable> Of(uint32_t base, std::vector<uint32_t> ids);

  uint32_t base() const { return base_; }
  uint32_t PartitionOfHash(uint64_t hash) const {
    const auto first_bits = static_cast<uint32_t>((hash >> 1) >> (63 - bits_));
    return by_first_bits_.empty() ? first_bits : by_first_bits_[first_bits];
  }
  uint32_t PartitionOf(std::string_view key) const { return PartitionOfHash(HashId(key)); }
  // Its partitions, in the order of their hashes.
  const std::vector<uint32_t>& ids() const { return ids_; }
  bool Has(uint32_t id) const;
  bool operator==(const RangeTable&) const = default;

 private:
  uint32_t base_ = 0;
  int bits_ = 0;  // of a hash that tell its partition
  std::vector<uint32_t> ids_;
  std::vector<uint32_t> by_first_bits_;  // empty: the ranges are the equal ones, and the bits are the number
};

}  // namespace pando
