// StreamHistory: verifies that the units of the partitions, as they come along the log, form one
// history for each of them. The caller has verified the batches.
//
// Threads: plain data.
//
// Invariants
//   WU2  A unit continues its partition's sequence (next LSN, same chain, no lower epoch), or
//       supersedes its end in a higher epoch, or repeats what is there. A cut ends the sequence at a
//       point of it; what it cuts off may be of higher epochs than what follows. Nothing at or below
//       the commit LSN is superseded or cut off.
//   WU3  What the last mark states about a partition is there: at the end of the log, its durable LSN
//        is not above the last unit, or what a checkpoint contains.
//   WU4  The first segment of a tail that was appended again may be gone, and later ones may not be.
//       Units that were appended again then come after the units that follow them (kFills). Until
//       then there is a gap. A gap that is left at the end is no fault if a checkpoint contains what
//       is missing, so only who knows the checkpoint can judge it.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "src/wal/write_unit.h"

namespace pando {

class StreamHistory {
 public:
  enum class Verdict : uint8_t {
    kContinues,
    kSupersedes,  // the units at its first LSN and above are no longer part of the history
    kRepeats,     // it is known already
    kFills,       // it was appended again, and comes before something that is known
    kBroken,      // it fits in no way; `wrong()` says why
    kIgnored,     // its partition is broken, so it means nothing
  };
  // Accepts the next unit. `chained`: it states chains of its own (WU1), which units of old batches
  // do not. A broken partition stays as it was before the unit.
  Verdict Accept(const Uuid& partition, const WriteUnit& unit, uint16_t flags, bool chained);
  // kSupersedes, kBroken or kIgnored.
  Verdict Accept(const StreamCut& cut);
  // Returns false if the partition is broken. Its mark then only rises.
  bool Accept(const StreamMark& mark);
  const std::string& wrong() const { return wrong_; }

  struct End {  // of a unit
    Lsn lsn = 0;
    uint64_t chain = 0;
    Epoch epoch = 0;
    Lsn first_lsn = 0;
    uint64_t chain_before = 0;
    // False: the history was cut after this point, and the unit that ends there is not known. Then first_lsn is
    // lsn + 1.
    bool is_unit = true;
  };
  struct Stream {
    // Of the last unit at or below the commit LSN, and of all after it, by LSN.
    std::deque<End> ends;
    Lsn last_gap = 0;  // the last LSN that is missing between units that `ends` no longer has; 0: none
    const End& last() const { return ends.back(); }
  };
  // Accepts the end of the log. Returns false if units are missing at the end (WU3). Those up to `checkpoint_lsn`,
  // which a checkpoint contains, need not be there, even if no mark has come to say so.
  bool AcceptEnd(const Uuid& partition, Lsn checkpoint_lsn = 0);
  // The last LSN that is missing between two units of the partition; 0: none (WU4).
  Lsn LastGap(const Uuid& partition) const;
  bool broken(const Uuid& partition) const { return broken_.contains(partition); }
  std::vector<Uuid> Partitions() const;  // those with units or cuts that are not broken, in a fixed order
  // Null: the log holds no unit of it.
  const Stream* Find(const Uuid& partition) const;
  const std::unordered_map<Uuid, StreamMark, UuidHash>& marks() const { return marks_; }

 private:
  Verdict Broken(const Uuid& partition, std::string what);
  Verdict AcceptInside(const Uuid& partition, Stream* stream, const End& end, Lsn commit);
  Verdict CommittedSuperseded(const Uuid& partition, const End& end, Lsn commit);
  Verdict AcceptSuperseding(const Uuid& partition, Stream* stream, const End& end, Lsn commit);
  Verdict CutAfter(const Uuid& partition, Stream* stream, const HistoryPoint& after);
  static void PopFront(Stream* stream);

  std::unordered_map<Uuid, Stream, UuidHash> streams_;  // those with units or cuts
  std::unordered_set<Uuid, UuidHash> broken_;
  std::unordered_map<Uuid, StreamMark, UuidHash> marks_;
  std::string wrong_;
};

}  // namespace pando
