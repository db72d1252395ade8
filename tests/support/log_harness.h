// Helpers for tests of the log: a partition that appends numbered records and remembers which were
// announced as durable, and a sink that remembers and checks what recovery delivers.
//
// The text of a record names its partition and LSN, so that a test detects a record that is lost,
// duplicated, out of place, or of another partition.
//
// Threads: one reactor.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/codec.h"
#include "src/wal/log.h"
#include "tests/support/sim_kernel.h"

namespace pando::log_test {

inline constexpr Uuid kNode{0x1111, 0x2222};
inline Uuid PartitionUuid(uint64_t i) { return {0xabcd, i + 1}; }

inline std::string Body(const Uuid& partition, Epoch epoch, Lsn lsn, size_t filler_bytes) {
  std::string body = fmt::format("{:x}/{}/{}:", partition.lo, epoch, lsn);
  for (size_t i = 0; i < filler_bytes; ++i) body.push_back(static_cast<char>('a' + (lsn * 7 + i) % 26));
  return body;
}

// A partition, as a Log sees it. It remembers the histories that a crash may bring back.
class Stream final : public LogConsumer {
 public:
  Stream(Log* log, const Uuid& partition, Lsn next_lsn = 1, Epoch epoch = 1, uint64_t chain = 0)
      : log_(log), partition_(partition), epoch_(epoch), next_lsn_(next_lsn), durable_(next_lsn - 1), chain_(chain) {
    history_.base = {epoch, next_lsn - 1, chain};
    handle_ = log->AddStream(partition, epoch, next_lsn, chain, this);
  }
  // The same partition after a recovery, which found it up to `end`, or only what was released.
  Stream(Log* log, const Stream& before, const HistoryPoint& end)
      : log_(log),
        partition_(before.partition_),
        epoch_(std::max(before.epoch_, end.epoch)),
        history_(before.HistoryOf(end)),
        released_(before.released_),
        unit_ends_(before.unit_ends_) {
    while (!history_.units.empty() && history_.units.back()->view.first_lsn > end.lsn) history_.units.pop_back();
    durable_ = end.lsn;
    next_lsn_ = end.lsn + 1;
    chain_ = history_.At(end.lsn)->chain;
    handle_ = log->AddStream(partition_, epoch_, next_lsn_, chain_, this);
    SetCommit(std::min(before.commit_, end.lsn));
    log->Release(handle_, released_);
  }

  // Appends one record for each size in `fillers`, all as one unit. Returns the LSN of the last.
  Lsn Append(const std::vector<size_t>& fillers) {
    auto unit = std::make_shared<Unit>();
    ByteWriter writer(&unit->bytes);
    unit->view.first_lsn = next_lsn_;
    for (size_t filler : fillers) writer.LengthPrefixed(Body(partition_, epoch_, next_lsn_++, filler));
    unit->view.epoch = epoch_;
    unit->view.record_count = static_cast<uint32_t>(fillers.size());
    unit->view.chain_before = chain_;
    unit->view.records = unit->bytes;
    unit->view.chain_after = chain_ = UnitChain(unit->view);
    log_->Append(handle_, unit->view);
    history_.units.push_back(unit);
    unit_ends_.push_back(next_lsn_ - 1);
    return next_lsn_ - 1;
  }
  Lsn Append(size_t filler = 20) { return Append(std::vector<size_t>{filler}); }
  // Appends a unit of a new epoch after `last`, which must be the end of a unit.
  Lsn Supersede(Lsn last, Epoch epoch, size_t filler = 20) {
    Leave(last);
    epoch_ = epoch;
    return Append(filler);
  }
  // Ends the history after `last`, which must be the end of a unit. What follows has this epoch; 0: the one of
  // that unit.
  void Cut(Lsn last, Epoch epoch = 0) {
    const HistoryPoint after = PointAt(last);
    log_->Cut(handle_, after);
    Leave(last);
    epoch_ = std::max(epoch, after.epoch);
  }
  HistoryPoint PointAt(Lsn lsn) const {
    const std::optional<HistoryPoint> point = history_.At(lsn);
    CHECK(point) << "no unit ends at LSN " << lsn;
    return *point;
  }
  // Where a new epoch may begin: after what is committed, at the end of a unit.
  std::vector<Lsn> EndsNotCommitted() const {
    std::vector<Lsn> ends;
    const Lsn least = std::max(commit_, released_);
    if (history_.base.lsn >= least && history_.base.lsn < last()) ends.push_back(history_.base.lsn);
    for (const auto& unit : history_.units) {
      const Lsn end = unit->view.last_lsn();
      if (end >= least && end < last()) ends.push_back(end);
    }
    return ends;
  }
  // Appends what is durable and not committed once more. Returns the number of units.
  size_t AppendAgain() {
    size_t count = 0;
    for (const auto& unit : history_.units) {
      if (unit->view.first_lsn <= std::max(commit_, released_) || unit->view.last_lsn() > durable_) continue;
      log_->AppendAgain(handle_, unit->view, [this] { ++appended_again_; });
      ++count;
    }
    return count;
  }
  void Release(Lsn lsn) {
    log_->Release(handle_, lsn);
    released_ = std::max(released_, lsn);
  }
  void SetCommit(Lsn lsn) {
    commit_ = std::max(commit_, lsn);
    log_->SetCommit(handle_, lsn, VersionAtMs(static_cast<int64_t>(lsn)));
  }

  Task<void> UntilDurable(Reactor& reactor, Lsn lsn) {
    while (durable_ < lsn && failure_.ok()) co_await Sleep(reactor, 10 * kMicrosecond);
  }

  void OnDurable(Lsn up_to) override {
    EXPECT_TRUE(failure_.ok()) << "announced after the failure";
    EXPECT_GT(up_to, durable_) << "announced twice";
    EXPECT_LT(up_to, next_lsn_) << "announced before it was appended";
    durable_ = up_to;
    // What was appended after a cut is durable, and so is the cut.
    std::erase_if(left_, [&](const Left& left) { return left.after < up_to; });
    if (on_durable) on_durable(up_to);
  }
  void OnLogFailed(const Status& status) override {
    EXPECT_TRUE(failure_.ok()) << "told twice";
    failure_ = status;
  }

  // Why a recovery must not have found the partition with this end; empty: it may have. What is released may be
  // gone.
  std::string Judge(Lsn found_lsn, uint64_t chain) const {
    const Lsn lsn = std::max(found_lsn, released_);
    if (lsn < durable_ && left_.empty()) return fmt::format("LSN {} was announced as durable", durable_);
    if (found_lsn < released_) return "";
    auto fits = [&](const History& history, Lsn durable) {
      const auto point = history.At(lsn);
      return point && point->chain == chain && lsn >= durable;
    };
    if (fits(history_, durable_)) return "";
    for (const Left& left : left_) {
      if (fits(left.history, left.durable)) return "";
    }
    return fmt::format("it is in no history that may be there: the last one ends at LSN {}, durable up to {}", last(),
                       durable_);
  }

  const Uuid& partition() const { return partition_; }
  Epoch epoch() const { return epoch_; }
  Lsn durable() const { return durable_; }
  Lsn last() const { return next_lsn_ - 1; }
  Lsn released() const { return released_; }
  Lsn commit() const { return commit_; }
  uint64_t chain() const { return chain_; }
  size_t appended_again() const { return appended_again_; }         // and durable
  const std::vector<Lsn>& unit_ends() const { return unit_ends_; }  // the last LSN of each Append
  const Status& failure() const { return failure_; }
  LogStream* handle() const { return handle_; }

  std::function<void(Lsn)> on_durable;

 private:
  struct Unit {
    std::string bytes;
    WriteUnit view;
  };
  struct History {
    HistoryPoint base;
    std::vector<std::shared_ptr<const Unit>> units;
    std::optional<HistoryPoint> At(Lsn lsn) const {
      if (lsn == base.lsn) return base;
      for (const auto& unit : units) {
        if (unit->view.last_lsn() == lsn) return HistoryPoint{unit->view.epoch, lsn, unit->view.chain_after};
      }
      return std::nullopt;
    }
  };
  // A history that was cut, until something that was appended after the cut is durable.
  struct Left {
    History history;
    Lsn after = 0, durable = 0;
  };

  void Leave(Lsn last) {
    for (Left& left : left_) left.after = std::min(left.after, last);
    left_.push_back({history_, last, durable_});
    next_lsn_ = last + 1;
    durable_ = std::min(durable_, last);
    chain_ = PointAt(last).chain;
    auto& units = history_.units;
    for (; !units.empty() && units.back()->view.first_lsn > last; units.pop_back()) {
      graves_.push_back(units.back());  // the log may still write them
    }
  }
  History HistoryOf(const HistoryPoint& end) const {
    for (const Left& left : left_) {
      const auto point = left.history.At(end.lsn);
      if (point && point->chain == end.chain) return left.history;
    }
    return history_;
  }

  Log* log_;
  Uuid partition_;
  Epoch epoch_;
  Lsn next_lsn_ = 1;
  Lsn durable_ = 0;
  uint64_t chain_ = 0;
  History history_;
  std::vector<Left> left_;
  std::vector<std::shared_ptr<const Unit>> graves_;
  Lsn released_ = 0, commit_ = 0;
  size_t appended_again_ = 0;
  std::vector<Lsn> unit_ends_;
  Status failure_;
  LogStream* handle_;
};

// What a recovery delivered.
struct Recovered final : LogReplaySink {
  struct Partition {
    // From `first` to `last` nothing is missing. What was found before a gap (WU4) is only in `found`.
    Lsn first = 0, last = 0, commit = 0;
    Epoch epoch = 0;
    uint64_t chain = 0;
    std::vector<Lsn> units;    // the last LSN of each unit from `first` on
    std::map<Lsn, Lsn> found;  // the first and the last LSN of each unit
    bool operator==(const Partition&) const = default;
  };
  std::map<Uuid, Partition> partitions;
  std::map<Uuid, StreamMark> marks;  // the last of each partition
  std::map<Uuid, Status> broken;
  std::string bad;  // the first problem with the records themselves

  Task<Status> OnUnits(const RecoveredUnits& found) override {
    if (found.starts_anew) StartAnew(found);
    for (const WriteUnit& unit : found.units) Add(found.partition, unit);
    co_return Status();
  }
  Task<Status> OnCut(const RecoveredCut& cut) override {
    Partition& p = PartitionOf(cut.partition);
    const Lsn after = cut.after.lsn;
    if (after < p.commit) Note(fmt::format("a cut after LSN {}, and LSN {} is committed", after, p.commit));
    p.found.erase(p.found.upper_bound(after), p.found.end());
    p.last = after;
    p.epoch = cut.after.epoch;
    p.chain = cut.after.chain;
    NoteUnits(&p);
    co_return Status();
  }
  Task<Status> OnMark(const StreamMark& mark) override {
    marks[mark.partition] = mark;
    auto at = partitions.find(mark.partition);
    if (at != partitions.end()) at->second.commit = mark.commit_lsn;
    co_return Status();
  }
  void OnBroken(const Uuid& partition, const Status& why) override { broken[partition] = why; }

  Lsn last(const Uuid& partition) const {
    const auto at = partitions.find(partition);
    return at == partitions.end() ? 0 : at->second.last;
  }
  Epoch epoch(const Uuid& partition) const {  // the highest known
    const auto at = partitions.find(partition);
    const auto mark = marks.find(partition);
    return std::max(
        {Epoch{1}, at == partitions.end() ? 0 : at->second.epoch, mark == marks.end() ? 0 : mark->second.epoch});
  }
  uint64_t chain(const Uuid& partition) const {
    const auto at = partitions.find(partition);
    return at == partitions.end() ? 0 : at->second.chain;
  }

 private:
  // If the sequence does not continue what was found before, that is no longer part of it.
  void StartAnew(const RecoveredUnits& found) {
    const auto at = partitions.find(found.partition);
    if (at == partitions.end()) return;
    const Lsn lsn = found.units.front().first_lsn;
    if (lsn == at->second.last + 1) return;
    Note(fmt::format("LSN {} follows {}", lsn, at->second.last));
    partitions.erase(at);
  }
  Partition& PartitionOf(const Uuid& partition) {
    Partition& p = partitions[partition];
    if (p.found.empty()) {
      if (const auto mark = marks.find(partition); mark != marks.end()) p.commit = mark->second.commit_lsn;
    }
    return p;
  }
  // The units at the end without a gap.
  static void NoteUnits(Partition* p) {
    p->units.clear();
    p->first = p->last + 1;
    for (auto it = p->found.rbegin(); it != p->found.rend() && it->second + 1 == p->first; ++it) {
      p->first = it->first;
      p->units.insert(p->units.begin(), it->second);
    }
  }
  void Add(const Uuid& partition, const WriteUnit& unit) {
    Partition& p = PartitionOf(partition);
    ByteReader reader(unit.records);
    for (uint32_t i = 0; i < unit.record_count; ++i) {
      const std::string_view body = reader.LengthPrefixed();
      const Lsn lsn = unit.first_lsn + i;
      const size_t prefix = Body(partition, unit.epoch, lsn, 0).size();
      if (body.size() < prefix || body != Body(partition, unit.epoch, lsn, body.size() - prefix)) {
        Note(fmt::format("the record at LSN {} is not the one that was appended", lsn));
      }
    }
    if (!reader.ok() || reader.remaining() > 0) Note("a unit has more or fewer bytes than its records");
    if (!p.found.emplace(unit.first_lsn, unit.last_lsn()).second) {
      Note(fmt::format("LSN {} was delivered twice", unit.first_lsn));
    }
    const bool appended = p.last + 1 == unit.first_lsn;
    if (unit.last_lsn() > p.last) {
      p.last = unit.last_lsn();
      p.epoch = unit.epoch;
      p.chain = unit.chain_after;
    }
    if (appended && !p.units.empty()) return p.units.push_back(p.last);
    NoteUnits(&p);
  }
  void Note(std::string what) {
    if (bad.empty()) bad = std::move(what);
  }
};

inline LogOptions SmallLog(std::string directory = "/wal") {
  LogOptions options;
  options.directory = std::move(directory);
  options.node = kNode;
  options.segment_bytes = 64u << 10;
  options.budget_bytes = 1u << 20;
  options.max_batch_bytes = 32u << 10;
  options.sync_mode = LogOptions::SyncMode::kDataSyncWrite;
  return options;
}

// Opens and recovers a log. On failure, `*status` says why and the log is closed.
inline Task<std::unique_ptr<Log>> OpenLog(Reactor& reactor, LogOptions options, Recovered* recovered, Status* status) {
  auto opened = co_await Log::Open(reactor, std::move(options));
  if (!opened.ok()) {
    *status = opened.status();
    co_return nullptr;
  }
  std::unique_ptr<Log> log = *std::move(opened);
  *status = co_await log->Recover(recovered);
  if (!status->ok()) {
    Status ignored = co_await log->Close();
    co_return nullptr;
  }
  co_return std::move(log);
}

}  // namespace pando::log_test
