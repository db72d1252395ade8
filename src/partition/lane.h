// Lane: what a partition remembers of the last write of a client, so that a write that is sent
// again is applied once.
//
// A client that wants this names its writes (RecordOp::kOnce): a client ID, which is a lane with
// one write in flight, and a sequence that rises. Each partition keeps one record per lane, in the
// reserved namespace of its own tree (docs/FORMAT.md, "Lane"): the last sequence and its results.
// It is looked up and replaced when a write is applied, in the same step, so every replica that
// applies the same log has the same lanes. It expires like any record, kLaneRetentionMs after the
// write was applied and after it was first sent, whichever is later. A write that was first sent
// kMaxWriteAgeMs ago is refused, because it may have been applied and forgotten. "Now" is the time
// of the record's version, and a client says when it sent the write first by the server's clock
// (StoreClock). So a write that spends any time on its way, or a clock that is set, makes it too
// old and never new. What is said to be more than kMaxAheadMs ahead is refused, so that lanes do
// not stay for long.
//
// A write that is sent again must be the same one. A digest of what it asks for tells
// (write_record.h).
//
// Threads: pure functions.
//
// Invariants
//   LN1  (I11 of the design) Of the writes of a lane, a partition applies each sequence at most once,
//        and none below one that it has applied.
//   LN2  A partition begins no more lanes than PartitionState::max_lanes, apart from the writes that are
//        on their way. A write that would begin one is refused before it is in the log, so that this
//        decides nothing that replicas must agree on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/model/types.h"

namespace pando {

// Lanes of a partition, by default. A lane takes about 100 bytes, and as much as its results.
inline constexpr uint64_t kMaxLanes = 65'536;
inline constexpr int64_t kLaneRetentionMs = 15 * 60 * 1000, kMaxWriteAgeMs = 10 * 60 * 1000;
// first_sent_ms may be up to this far ahead of the server's clock: that of a client that has not
// asked for the time again for hours may be.
inline constexpr int64_t kMaxAheadMs = 10 * 60 * 1000;
static_assert(kMaxWriteAgeMs < kLaneRetentionMs, "LN1: a write must be too old before its lane is forgotten");

// The last write of a lane.
struct Lane {
  uint64_t sequence = 0;
  Version version = 0;  // of the write's kOnce record
  // Of what it asked for. Not set: an earlier version applied it.
  std::optional<uint64_t> digest;
  // One for each operation after kOnce. Empty if they were too many to be kept. Values are left
  // out.
  std::vector<OpResult> results;
};

// The value of a lane's record, built while its write is applied.
class LaneEncoder {
 public:
  LaneEncoder(uint64_t sequence, Version version, std::optional<uint64_t> digest);
  void Add(const OpResult& result);
  // The value, of at most `max_bytes`: if the results would exceed that, it is without them.
  std::string Finish(size_t max_bytes) &&;

 private:
  const uint64_t sequence_;
  const Version version_;
  const std::optional<uint64_t> digest_;
  Version expected_;  // of the next result, most often
  size_t count_ = 0;
  std::string results_;
};

// kCorruption on bytes that LaneEncoder does not produce.
Result<Lane> DecodeLane(std::string_view value);

}  // namespace pando
