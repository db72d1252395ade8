#include "src/base/hash_ranges.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "src/base/check.h"

namespace pando {

namespace {

// The place of a range in a heap whose first row has one: its highest bit is the row, the others are the first bits of
// its hashes.
uint32_t PlaceOf(uint32_t id, uint32_t base) { return id + base; }

int RowOf(uint32_t place) { return static_cast<int>(std::bit_width(place)) - 1; }

void CheckBase(uint32_t base) { CHECK(std::has_single_bit(base) && base <= kMaxPartitions) << base; }

}  // namespace

std::pair<uint64_t, uint64_t> HashRangeOf(uint32_t id, uint32_t base) {
  CheckBase(base);
  CHECK_LT(id, kMaxPartitions);
  const uint32_t place = PlaceOf(id, base);
  const int row = RowOf(place);
  if (row == 0) return {0, UINT64_MAX};
  const uint64_t first = (uint64_t{place} - (uint64_t{1} << row)) << (64 - row);
  return {first, first + (UINT64_MAX >> row)};
}

std::optional<std::array<uint32_t, 2>> HalvesOf(uint32_t id, uint32_t base) {
  CheckBase(base);
  const uint64_t lower = 2 * uint64_t{id} + base;
  if (lower + 1 >= kMaxPartitions) return std::nullopt;
  return std::array<uint32_t, 2>{static_cast<uint32_t>(lower), static_cast<uint32_t>(lower + 1)};
}

std::optional<uint32_t> WholeOf(uint32_t id, uint32_t base) {
  CheckBase(base);
  if (id < base) return std::nullopt;
  return (id - base) / 2;
}

bool IsPartOf(uint32_t id, uint32_t whole, uint32_t base) {
  while (id > whole) {
    const std::optional<uint32_t> next = WholeOf(id, base);
    if (!next) return false;
    if (*next == whole) return true;
    id = *next;
  }
  return false;
}

RangeTable RangeTable::Equal(uint32_t base) {
  CheckBase(base);
  RangeTable table;
  table.base_ = base;
  table.bits_ = std::countr_zero(base);
  table.ids_.resize(base);
  std::iota(table.ids_.begin(), table.ids_.end(), 0);
  return table;
}

Result<RangeTable> RangeTable::Of(uint32_t base, std::vector<uint32_t> ids) {
  CheckBase(base);
  RangeTable table;
  table.base_ = base;
  for (uint32_t id : ids) {
    if (id >= kMaxPartitions) return Error(Code::kCorruption, "there cannot be a partition {}", id);
    table.bits_ = std::max(table.bits_, RowOf(PlaceOf(id, base)));
  }
  std::sort(ids.begin(), ids.end(),
            [base](uint32_t a, uint32_t b) { return HashRangeOf(a, base) < HashRangeOf(b, base); });
  uint64_t next = 0;
  bool covered = false;  // up to the last hash
  for (uint32_t id : ids) {
    const auto [first, last] = HashRangeOf(id, base);
    if (covered || first < next) return Error(Code::kCorruption, "partition {} has hashes of another one", id);
    if (first > next)
      return Error(Code::kCorruption, "no partition has the hashes {:016x} to {:016x}", next, first - 1);
    covered = last == UINT64_MAX;
    next = last + 1;
  }
  if (!covered) return Error(Code::kCorruption, "no partition has the hashes {:016x} to {:016x}", next, UINT64_MAX);
  table.ids_ = std::move(ids);
  if (table.ids_ == Equal(base).ids_) return table;
  for (uint32_t id : table.ids_) {
    table.by_first_bits_.insert(table.by_first_bits_.end(), size_t{1} << (table.bits_ - RowOf(PlaceOf(id, base))), id);
  }
  return table;
}

bool RangeTable::Has(uint32_t id) const {
  if (by_first_bits_.empty()) return id < ids_.size();
  return id < kMaxPartitions && PartitionOfHash(HashRangeOf(id, base_).first) == id;
}

}  // namespace pando
