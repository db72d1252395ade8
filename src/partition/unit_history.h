// UnitHistory: the ends of the units of a partition, as far as they are remembered. Replicas compare
// theirs to find how far they have the same past.
//
// What is not committed is remembered in full, because replicas may differ there. Of what is committed,
// a fixed number of units is, the last ones, and the ends of the last epochs: a replica that comes back
// is found by them (docs/REPLICATION.md).
//
// Threads: one reactor.
//
// Invariants
//   UH1  It has the last unit, every unit above the commit LSN, and the last one at or below it. From one
//        point to the next, LSNs rise and epochs do not fall.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

#include "src/wal/write_unit.h"

namespace pando {

class UnitHistory {
 public:
  // Ends of epochs that are kept besides, of units that are not.
  static constexpr size_t kMaxEpochs = 64;

  // Keeps at most `max_points` units, at least 1, apart from those that are not committed.
  explicit UnitHistory(size_t max_points) : max_points_(max_points) {}
  // What it takes at most, apart from units that are not committed.
  static constexpr size_t BytesFor(size_t max_points) { return (max_points + kMaxEpochs) * sizeof(HistoryPoint); }

  // Forgets everything: the history continues after `point`.
  void Begin(const HistoryPoint& point);
  // A unit that continues the last one ends here.
  void Add(const HistoryPoint& end);
  // The units after this one are no longer part of the history. REQUIRES: it is known.
  void CutAfter(Lsn lsn);
  // What is committed up to this LSN is forgotten as far as there are too many.
  void Trim(Lsn committed_lsn);

  // Of the last unit; all zeros if there never was one.
  const HistoryPoint& end() const { return points_.back(); }
  // The unit that ends at this LSN, if it is known. LSN 0: all zeros.
  std::optional<HistoryPoint> At(Lsn lsn) const;
  // The last known unit whose epoch is at most `epoch`; all zeros if there is none.
  HistoryPoint EpochEnd(Epoch epoch) const;
  size_t size() const { return points_.size(); }

 private:
  size_t max_points_;
  std::deque<HistoryPoint> points_{HistoryPoint()};
  // The last units of epochs that ended before points_ begins, in order.
  std::vector<HistoryPoint> epoch_ends_;
};

}  // namespace pando
