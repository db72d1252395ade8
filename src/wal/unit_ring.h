// UnitRing: the encoded units that a log submitted last, as far as a fixed amount of memory holds
// them. Those who follow a partition closely read them here instead of from the disk.
//
// A place is a number that grows with every unit. It stays valid until newer units need its room.
//
// Threads: one reactor.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include "src/base/check.h"

namespace pando {

class UnitRing {
 public:
  // A unit of more than this part of the ring is not kept, since it would drive out all the others.
  static constexpr size_t kLargestShare = 4;

  explicit UnitRing(size_t bytes) : bytes_(bytes), data_(std::make_unique_for_overwrite<char[]>(bytes)) {}

  // The place of the unit, or nothing if it is too large.
  std::optional<uint64_t> Add(std::string_view unit) {
    if (unit.size() > bytes_ / kLargestShare) return std::nullopt;
    const uint64_t offset = end_ % bytes_;
    if (offset + unit.size() > bytes_) end_ += bytes_ - offset;  // units are contiguous
    std::memcpy(data_.get() + end_ % bytes_, unit.data(), unit.size());
    const uint64_t place = end_;
    end_ += unit.size();
    return place;
  }
  bool Holds(uint64_t place) const { return place + bytes_ >= end_; }
  std::string_view At(uint64_t place, size_t bytes) const {
    CHECK(Holds(place) && place + bytes <= end_) << "a unit was read that is no longer in memory";
    return {data_.get() + place % bytes_, bytes};
  }

 private:
  const size_t bytes_;
  std::unique_ptr<char[]> data_;
  uint64_t end_ = 0;
};

}  // namespace pando
