// SegmentImage: the durable part of one segment of a running log in memory, with an index of its
// units by partition.
//
// A slave that was away for a while lags with all of its partitions at about the same place of the
// log. One image serves all of them, so the segment is read and verified once.
//
// Threads: one reactor.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/base/codec.h"
#include "src/base/memory_budget.h"
#include "src/io/file.h"
#include "src/wal/log.h"

namespace pando {

class SegmentImage {
 public:
  struct Place {
    Lsn first_lsn = 0;
    uint32_t offset = 0;  // of the unit's header
  };

  // Reads the segment, verifies its batches and indexes their units. Units of formats 1 and 2 are
  // left out. kOverloaded: `memory` (null = unlimited) has no room, or there is no descriptor.
  // kCorruption and kIoError name the file and the offset. A segment that is recycled meanwhile looks
  // damaged, so ask Log::IsLive afterwards.
  static Task<Result<std::unique_ptr<SegmentImage>>> Load(DurableSegment segment, Uuid node, MemoryBudget* memory);
  ~SegmentImage();

  uint64_t number() const { return segment_.number; }
  uint64_t durable_end() const { return segment_.durable_end; }
  // The units of a partition, in log order.
  const std::vector<Place>& UnitsOf(const Uuid& partition) const;
  LogPosition PositionOf(const Place& place) const { return MakePosition(segment_.number, place.offset); }
  UnitHeader Header(const Place& place) const { return LoadLE<UnitHeader>(bytes_.data() + place.offset); }
  // The header and the records, with padding.
  std::string_view At(const Place& place) const {
    return {bytes_.data() + place.offset, UnitBytes(Header(place).record_bytes)};
  }

 private:
  explicit SegmentImage(DurableSegment segment) : segment_(std::move(segment)) {}
  Task<Status> Read();
  Task<Status> Index(uint64_t seed);
  void IndexBatch(std::string_view payload);

  DurableSegment segment_;
  MemoryBudget* memory_ = nullptr;
  int64_t reserved_bytes_ = 0;
  AlignedBuffer bytes_;
  std::unordered_map<Uuid, std::vector<Place>, UuidHash> units_;
};

}  // namespace pando
