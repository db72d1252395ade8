// SimLog: the log of one simulated replica, and what of it a disk holds (replication_cluster.h).
//
// A sync makes durable what was appended when it began. Units that were superseded stay on the disk
// until something that was appended later is durable.
//
// Threads: one.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/replication/replica_log.h"
#include "tests/support/sim_random.h"

namespace pando::replication {

struct SimUnit {
  Epoch epoch = 0;
  Lsn first_lsn = 0;
  uint32_t record_count = 1;
  uint64_t chain_before = 0, chain_after = 0;
  std::string records;
  Lsn last_lsn() const { return first_lsn + record_count - 1; }
  HistoryPoint end() const { return {epoch, last_lsn(), chain_after}; }
  WriteUnit View() const { return {epoch, first_lsn, record_count, chain_before, chain_after, records}; }
};
using UnitPtr = std::shared_ptr<const SimUnit>;

class SimLog final : public ReplicaLog {
 public:
  // -- to be set before use
  std::function<void(const SimUnit&)> on_append;
  std::function<void(Lsn)> on_commit;
  // Of what ends below, it remembers only the ends of epochs (UnitHistory).
  Lsn remembers_from = 0;

  HistoryPoint end() const override { return units_.empty() ? HistoryPoint() : units_.back()->end(); }
  HistoryPoint durable() const override { return durable_ == 0 ? HistoryPoint() : units_[durable_ - 1]->end(); }
  Lsn applied() const override { return applied_lsn_; }
  std::optional<HistoryPoint> PointAt(Lsn lsn) const override {
    const std::optional<HistoryPoint> point = PointIn(units_, lsn);
    const bool forgotten = point && lsn < remembers_from && lsn != EpochEnd(point->epoch).lsn;
    return forgotten ? std::nullopt : point;
  }
  HistoryPoint EpochEnd(Epoch epoch) const override {
    const auto at =
        std::partition_point(units_.begin(), units_.end(), [&](const UnitPtr& u) { return u->epoch <= epoch; });
    return at == units_.begin() ? HistoryPoint() : (*(at - 1))->end();
  }
  bool Append(const WriteUnit& unit) override {
    auto copy = std::make_shared<SimUnit>();
    *copy = {unit.epoch,        unit.first_lsn,   unit.record_count,
             unit.chain_before, unit.chain_after, std::string(unit.records)};
    Push(std::move(copy));
    return true;
  }
  void Supersede(const HistoryPoint& after) override {
    while (!units_.empty() && units_.back()->last_lsn() > after.lsn) units_.pop_back();
    durable_ = std::min(durable_, units_.size());
  }
  void BeginEpoch(Epoch epoch) override { AppendOwn(epoch, 1, "begin"); }
  void Commit(Lsn up_to) override {
    commit_lsn_ = std::max(commit_lsn_, up_to);
    on_commit(up_to);
  }

  void SetApplied(Lsn up_to) { applied_lsn_ = up_to; }
  UnitPtr AppendOwn(Epoch epoch, uint32_t record_count, std::string records) {
    auto unit = std::make_shared<SimUnit>();
    *unit = {epoch, end().lsn + 1, record_count, end().chain, 0, std::move(records)};
    unit->chain_after = UnitChain(unit->View());
    Push(unit);
    return unit;
  }
  const std::vector<UnitPtr>& units() const { return units_; }
  // The index of the first unit after `lsn`, which ends a unit.
  size_t IndexAfter(Lsn lsn) const {
    const auto at =
        std::partition_point(units_.begin(), units_.end(), [&](const UnitPtr& u) { return u->last_lsn() <= lsn; });
    return static_cast<size_t>(at - units_.begin());
  }

  // -- the disk
  bool NeedsSync() const { return durable_ < units_.size(); }
  struct Sync {
    size_t count = 0;
    UnitPtr last;
    Lsn mark = 0;
  };
  Sync BeginSync() const { return {units_.size(), units_.back(), commit_lsn_}; }
  // Returns whether more is durable now.
  bool EndSync(const Sync& sync) {
    if (sync.count <= durable_ || units_.size() < sync.count || units_[sync.count - 1] != sync.last) return false;
    disk_.resize(durable_);
    disk_.insert(disk_.end(), units_.begin() + static_cast<int64_t>(durable_),
                 units_.begin() + static_cast<int64_t>(sync.count));
    durable_ = sync.count;
    mark_ = std::max(mark_, sync.mark);
    return true;
  }
  // What a start finds after the process ended: all that was written, or less of what was not synced.
  void Crash(SimRandom& random, bool power_loss) {
    size_t keep = units_.size();
    if (power_loss || random.Chance(0.3))
      keep = static_cast<size_t>(random.Between(static_cast<int64_t>(durable_), static_cast<int64_t>(keep)));
    if (keep > durable_) {
      disk_ = units_;
      disk_.resize(keep);
    }
    units_.clear();
    durable_ = 0;
    commit_lsn_ = applied_lsn_ = 0;
  }
  void Recover() {
    units_ = disk_;
    durable_ = units_.size();
    commit_lsn_ = applied_lsn_ = 0;
  }
  Lsn mark() const { return mark_; }
  const std::vector<UnitPtr>& disk() const { return disk_; }
  void PutDisk(std::vector<UnitPtr> disk, Lsn mark) {
    disk_ = std::move(disk);
    mark_ = mark;
    units_.clear();
    durable_ = 0;
  }
  static std::optional<HistoryPoint> PointIn(const std::vector<UnitPtr>& units, Lsn lsn) {
    if (lsn == 0) return HistoryPoint();
    const auto at =
        std::partition_point(units.begin(), units.end(), [&](const UnitPtr& u) { return u->last_lsn() < lsn; });
    if (at == units.end() || (*at)->last_lsn() != lsn) return std::nullopt;
    return (*at)->end();
  }

 private:
  void Push(UnitPtr unit) {
    units_.push_back(unit);
    on_append(*unit);
  }

  std::vector<UnitPtr> units_;  // in memory
  size_t durable_ = 0;          // so many of them; the disk begins with the same
  Lsn commit_lsn_ = 0, applied_lsn_ = 0;
  std::vector<UnitPtr> disk_;
  Lsn mark_ = 0;  // the last durable commit mark
};

}  // namespace pando::replication
