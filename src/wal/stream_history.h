// StreamHistory: verifies that the units of the partitions, as they come along the log, form one
// history for each of them. The caller has verified the batches.
//
// Threads: plain data.
//
// Invariants
//   WU2  A unit continues its partition's sequence (next LSN, same chain, no lower epoch), or
//       supersedes its end in a higher epoch, or repeats what is there. Nothing at or below the
//       commit LSN is superseded.
//   WU3  What a mark states about a partition is there: its durable LSN is not above the last unit.
#pragma once

#include <deque>
#include <string>
#include <unordered_map>

#include "src/wal/write_unit.h"

namespace pando {

class StreamHistory {
 public:
  enum class Verdict : uint8_t {
    kContinues,
    kSupersedes,  // the units at its first LSN and above are no longer part of the history
    kRepeats,     // it is known already
    kBroken,      // it fits in no way; `wrong()` says why
  };
  // Accepts the next unit. `chained`: it states chains of its own (WU1), which units of old batches
  // do not. A broken partition stays as it was before the unit.
  Verdict Accept(const Uuid& partition, const WriteUnit& unit, uint16_t flags, bool chained);
  // Accepts a mark. Returns false if it contradicts what the log holds.
  bool Accept(const StreamMark& mark);
  const std::string& wrong() const { return wrong_; }

  struct End {  // of a unit
    Lsn lsn = 0;
    uint64_t chain = 0;
    Epoch epoch = 0;
  };
  struct Stream {
    std::deque<End> ends;  // of the last unit at or below the commit LSN, and of all after it
    StreamMark mark;       // the last one
    const End& last() const { return ends.back(); }
  };
  // Null: the log holds no unit of it.
  const Stream* Find(const Uuid& partition) const;
  const std::unordered_map<Uuid, StreamMark, UuidHash>& marks() const { return marks_; }

 private:
  Verdict Broken(const Uuid& partition, std::string what);
  void ForgetCommitted(Stream* stream);

  std::unordered_map<Uuid, Stream, UuidHash> streams_;  // those with units
  std::unordered_map<Uuid, StreamMark, UuidHash> marks_;
  std::string wrong_;
};

}  // namespace pando
