#include "src/partition/unit_history.h"

#include <algorithm>

#include "src/base/check.h"
#include "src/base/near_end.h"

namespace pando {
namespace {

bool EpochAbove(Epoch epoch, const HistoryPoint& point) { return epoch < point.epoch; }

// Null: there is none.
template <typename Points>
const HistoryPoint* Find(const Points& points, Lsn lsn) {
  const auto at = FindNearEnd(points, lsn, [](const HistoryPoint& point) { return point.lsn; });
  return at == points.end() ? nullptr : &*at;
}

template <typename Points>
const HistoryPoint* LastOf(const Points& points, Epoch epoch) {
  const auto after = std::upper_bound(points.begin(), points.end(), epoch, EpochAbove);
  return after == points.begin() ? nullptr : &*(after - 1);
}

}  // namespace

void UnitHistory::Begin(const HistoryPoint& point) {
  epoch_ends_.clear();
  points_.assign(1, point.lsn == 0 ? HistoryPoint() : point);
}

void UnitHistory::Add(const HistoryPoint& end) {
  CHECK(end.lsn > points_.back().lsn && end.epoch >= points_.back().epoch)
      << "UH1: a unit that ends at LSN " << end.lsn << " in epoch " << end.epoch << " follows LSN "
      << points_.back().lsn << " of epoch " << points_.back().epoch;
  points_.push_back(end);
}

void UnitHistory::CutAfter(Lsn lsn) {
  while (points_.size() > 1 && points_.back().lsn > lsn) points_.pop_back();
  CHECK_EQ(points_.back().lsn, lsn) << "UH1: the history is cut where no known unit ends";
}

void UnitHistory::Trim(Lsn committed_lsn) {
  while (points_.size() > max_points_ && points_.size() > 1 && points_[1].lsn <= committed_lsn) {
    if (points_[0].lsn != 0 && points_[0].epoch < points_[1].epoch) {
      if (epoch_ends_.size() == kMaxEpochs) epoch_ends_.erase(epoch_ends_.begin());
      epoch_ends_.push_back(points_[0]);
    }
    points_.pop_front();
  }
}

std::optional<HistoryPoint> UnitHistory::At(Lsn lsn) const {
  if (lsn == 0) return HistoryPoint();
  const HistoryPoint* found = Find(points_, lsn);
  if (found == nullptr) found = Find(epoch_ends_, lsn);
  return found == nullptr ? std::nullopt : std::make_optional(*found);
}

HistoryPoint UnitHistory::EpochEnd(Epoch epoch) const {
  const HistoryPoint* found = LastOf(points_, epoch);
  if (found == nullptr) found = LastOf(epoch_ends_, epoch);
  return found == nullptr ? HistoryPoint() : *found;
}

}  // namespace pando
