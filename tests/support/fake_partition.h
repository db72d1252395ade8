// FakePartition: the Partition interface over a std::map, for tests of the layers above the engine.
//
// It follows partition.h: atomic batches, all-or-nothing, conditions, increments, scans with
// limits. Calls complete at once unless the test passes a reactor and max_delay_ns. Then each call
// first waits for a random time, so that calls overlap and finish out of order.
//
// Threads: one.
#pragma once

#include <charconv>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/base/hash.h"
#include "src/io/reactor.h"
#include "src/model/partition.h"
#include "src/model/point_write.h"
#include "src/partition/change_tail.h"

namespace pando {

class FakePartition final : public Partition {
 public:
  explicit FakePartition(uint32_t id, Reactor* reactor = nullptr, Nanos max_delay_ns = 0)
      : id_(id), uuid_{1, id}, reactor_(reactor), max_delay_ns_(max_delay_ns) {
    changes.Begin(next_version_ - 1, 64u << 10);
  }

  uint32_t id() const override { return id_; }
  const Uuid& uuid() const override { return uuid_; }

  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    CO_ASSIGN_OR_RETURN(const Records* view, View(snapshot));
    auto it = view->find(key);
    if (it == view->end()) co_return ReadResult{};
    const size_t bytes = it->second.value.size();
    if (room != nullptr) {
      const ValueRoom::Answer answer = room->TryTake(bytes);
      if (answer != ValueRoom::Answer::kTaken) co_return NoRoom(answer, *room, bytes);
    }
    co_return it->second;
  }

  // A write waits for admission while `holding_writes`, and for durability while `holding_answers`.
  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    seen_epoch = options.seen_epoch;
    seen_version = options.seen_version;
    co_await Delay();
    if (!failure.ok()) co_return failure;
    if (!write_failure.ok()) co_return write_failure;
    if (ops.size() > ops_with_room) co_return Error(Code::kDiskFull, "no room for {} operations", ops.size());
    while (holding_writes) co_await Sleep(*reactor_, kMillisecond);
    if (options.control != nullptr && !options.control->BeginAppend()) co_return Error(Code::kDeadline, "withdrawn");
    while (holding_answers) co_await Sleep(*reactor_, kMillisecond);
    const Records before = records;
    std::vector<OpResult> results;
    bool refused = false, check_failed = false;
    for (WriteOp& op : ops) {
      results.emplace_back().outcome = OpOutcome::kBatchRefused;
      const bool check = op.op == RecordOp::kCheck;
      if (check_failed && !check) continue;
      results.back() = Apply(op);
      const bool applied = results.back().outcome == OpOutcome::kApplied;
      refused |= !applied && (check || options.all_or_nothing);
      check_failed |= !applied && check;
    }
    for (size_t i = 0; refused && i < ops.size(); ++i) {
      if (results[i].outcome == OpOutcome::kApplied)
        results[i] = OpResult(), results[i].outcome = OpOutcome::kBatchRefused;
      auto it = before.find(ops[i].key);
      if (results[i].outcome != OpOutcome::kBatchRefused)
        results[i].current = it == before.end() ? ReadResult{} : it->second;
    }
    if (refused) records = before;
    for (size_t i = 0; i < ops.size(); ++i) {
      NoteChange(ops[i], results[i]);
      std::string& value = results[i].current.value;
      if (value.empty() || options.control == nullptr || options.control->values == nullptr) continue;
      results[i].value_omitted = options.control->values->TryTake(value.size()) != ValueRoom::Answer::kTaken;
      if (results[i].value_omitted) value.clear();
    }
    changes.Publish();
    if (options.control != nullptr) options.control->end = write_end;
    co_return results;
  }
  // Begins every other write, so that both ways are taken.
  static void BatchWrite(std::span<PointWrite* const> writes) {
    for (PointWrite* write : writes) {
      auto* fake = static_cast<FakePartition*>(write->partition);
      const bool waits = fake->holding_writes || !fake->failure.ok() || !fake->write_failure.ok();
      write->begun = !waits && fake->reactor_ && ++fake->point_writes_ % 2 == 0;
      if (write->begun) fake->tasks_.Spawn(RunPointWrite(fake, write));
    }
  }
  // Applies one write without waiting.
  OpResult WriteNow(WriteOp op) {
    OpResult result = Apply(op);
    NoteChange(op, result);
    changes.Publish();
    return result;
  }

  Task<Result<ScanPage>> Scan(ScanSpec spec) override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    ++scans;
    CO_ASSIGN_OR_RETURN(const Records* view, View(spec.snapshot));
    std::vector<std::pair<std::string, ReadResult>> range;
    for (const auto& [key, record] : *view) {
      if (!spec.start.empty() && (key < spec.start || (spec.start_exclusive && key == spec.start))) continue;
      if (!spec.end.empty() && (key > spec.end || (!spec.end_inclusive && key == spec.end))) continue;
      range.emplace_back(key, record);
    }
    if (spec.reverse) std::reverse(range.begin(), range.end());
    ScanPage page;
    size_t bytes = 0;
    for (auto& [key, record] : range) {
      if (page.rows.size() == spec.max_rows || bytes >= spec.max_bytes) co_return page;
      if (!spec.slice.all()) {
        // As a partition does: the record that reaches the bound is the last one.
        if (page.examined == spec.max_examined) co_return page;
        ++page.examined;
        page.examined_to = page.examined == spec.max_examined ? key : "";
        if (!spec.slice.Has(HashId(key))) continue;
      }
      ScanRow row{page.bytes.Copy(key), {}, record.version, record.expires_at_ms};
      if (!spec.keys_only && !spec.sizes_only) row.value = page.bytes.Copy(record.value);
      if (spec.sizes_only) row.value_bytes = static_cast<uint32_t>(record.value.size());
      if (row.bytes() > spec.hard_bytes) {
        page.examined_to.clear();
        if (!page.rows.empty()) co_return page;
        row.unread_bytes = static_cast<uint32_t>(row.value.size());
        row.value = {};
        scanned_bytes += row.bytes();
        page.rows.push_back(row);
        co_return page;
      }
      spec.hard_bytes -= row.bytes();
      bytes += row.bytes();
      scanned_bytes += row.bytes();
      page.rows.push_back(row);
    }
    page.exhausted = page.examined_to.empty();
    co_return page;
  }

  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    CO_ASSIGN_OR_RETURN(const Records* view, View(at.snapshot));
    RangeAggregates sum;
    for (const auto& [key, record] : *view) {
      if (key < start || (!end.empty() && key >= end)) continue;
      sum.Add({1, key.size() + record.value.size(), std::hash<std::string>()(key + record.value)});
    }
    co_return sum;
  }

  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    CO_ASSIGN_OR_RETURN(const Records* view, View(snapshot));
    std::vector<std::string> keys;
    uint64_t rank = 0;
    for (auto it = view->lower_bound(start); it != view->end() && (end.empty() || it->first < end); ++it, ++rank) {
      if (keys.size() == ranks.size()) break;
      if (ranks[keys.size()] == rank) keys.push_back(it->first);
    }
    co_return keys;
  }

  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    co_return changes.After(after, prefix, max_changes, max_bytes, next_version_ - 1);
  }
  Version newest_change() const override { return changes.newest(); }

  // No write is applied between HoldWrites and Cut or AbandonCut, as in the real partition.
  // Otherwise a test could not tell whether the cut is one moment.
  Task<Status> PrepareCut() override {
    co_await Delay();
    co_return failure;
  }
  Task<Result<Version>> HoldWrites() override {
    co_await Delay();
    holding_writes = true;
    co_return next_version_ - 1;
  }
  Task<Status> Cut(SnapshotInfo snapshot) override {
    if (failure.ok()) {
      next_version_ = snapshot.version + 1;
      snapshots[snapshot.id] = records;
    }
    holding_writes = false;
    co_await Delay();
    co_return failure;
  }
  Task<Status> AbandonCut() override {
    co_await Delay();
    holding_writes = false;
    co_return Status();
  }
  Task<Status> RenewSnapshot(SnapshotId id, int64_t) override {
    co_await Delay();
    co_return View(id).status();
  }
  Task<Status> ReleaseSnapshot(SnapshotId id) override {
    co_await Delay();
    if (snapshots.erase(id) == 0) co_return Gone();
    co_return Status();
  }

  Task<Result<Version>> HighestVersion() override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    co_return next_version_ - 1;
  }
  Task<Result<SessionPoint>> CloseAt(CloseMark mark) override {
    co_await Delay();
    if (!failure.ok()) co_return failure;
    if (mark.version < next_version_) co_return Error(Code::kUnavailable, "a higher version was given");
    next_version_ = mark.version + 1;
    snapshots[mark.id] = records;
    co_return write_end;
  }

  Task<Result<SnapshotRoot>> DescribeSnapshot(SnapshotId) override { co_return NoPages(); }
  Task<Result<PageBatch>> ReadPages(SnapshotId, Generation, PageCursor, size_t) override { co_return NoPages(); }
  Task<Status> Checkpoint() override { co_return failure; }
  PartitionStats stats() const override { return statistics; }

  // The counterpart of Engine::BatchGet; keys in `cold` are kMiss.
  static void BatchGet(std::span<PointRead> reads) {
    for (PointRead& read : reads) {
      auto* fake = static_cast<FakePartition*>(read.partition);
      auto it = fake->records.find(std::string(read.key));
      if (fake->cold.contains(std::string(read.key)) || !fake->failure.ok()) {
        read.outcome = PointRead::Outcome::kMiss;
      } else if (it == fake->records.end()) {
        read.outcome = PointRead::Outcome::kNotFound;
      } else {
        read.outcome = PointRead::Outcome::kFound;
        read.version = it->second.version;
        read.expires_at_ms = it->second.expires_at_ms;
        if (read.value == nullptr) {
          read.in_place = it->second.value;
        } else {
          *read.value = it->second.value;
        }
      }
    }
  }

  using Records = std::map<std::string, ReadResult>;
  Records records;
  std::map<SnapshotId, Records> snapshots;
  bool holding_writes = false, holding_answers = false;
  std::set<std::string> cold;       // keys that are not "in memory"
  SessionPoint write_end;           // where writes end
  Epoch seen_epoch = 0;             // of the session of the last write
  Version seen_version = 0;         // the same
  Status failure;                   // if set, every call returns it
  Status write_failure;             // if set, every write returns it
  size_t ops_with_room = SIZE_MAX;  // a write of more finds the disk full
  ChangeTail changes;
  PartitionStats statistics;
  uint64_t scans = 0, scanned_bytes = 0;

 private:
  static Task<void> RunPointWrite(FakePartition* fake, PointWrite* write) {
    co_await Yield(*fake->reactor_);
    WriteControl control;
    control.values = write->values;
    WriteOptions options;
    options.control = &control;
    options.seen_epoch = write->seen_epoch;
    options.seen_version = write->seen_version;
    std::vector<WriteOp> ops{write->op};
    Result<std::vector<OpResult>> outcome = co_await fake->Write(std::move(ops), options);
    write->status = outcome.status();
    if (outcome.ok()) write->result = std::move(outcome->front());
    write->end = control.end;
    write->OnDone();
  }
  Task<void> Delay() {
    if (reactor_ == nullptr || max_delay_ns_ == 0) co_return;
    auto delay = static_cast<Nanos>(reactor_->Random() % static_cast<uint64_t>(max_delay_ns_));
    co_await Sleep(*reactor_, delay);
  }

  static Status NoPages() { return Error(Code::kUnsupported, "a fake has no pages"); }
  static Status Gone() { return Error(Code::kSnapshotGone, "gone"); }
  Result<const Records*> View(SnapshotId id) const {
    if (id == 0) return &records;
    auto found = snapshots.find(id);
    if (found == snapshots.end()) return Gone();
    return &found->second;
  }

  ReadResult Find(const std::string& key) const {
    auto it = records.find(key);
    return it == records.end() ? ReadResult{} : it->second;
  }

  static bool Holds(const Condition& condition, const ReadResult& current) {
    if (condition.exists && *condition.exists != current.found) return false;
    if (condition.version && (!current.found || *condition.version != current.version)) return false;
    return !condition.value || (current.found && *condition.value == current.value);
  }

  void NoteChange(const WriteOp& op, const OpResult& result) {
    if (result.outcome != OpOutcome::kApplied || op.op == RecordOp::kCheck) return;
    changes.Add(result.version, op.key, op.op == RecordOp::kRemove);
  }

  OpResult Apply(WriteOp& op) {
    OpResult result;
    ReadResult current = Find(op.key);
    result.existed = current.found;
    if (!Holds(op.condition, current) || (op.op == RecordOp::kTouch && !current.found)) {
      result.outcome = OpOutcome::kConditionFailed;
      result.current = current;
      return result;
    }
    if (op.return_previous) result.current = current;
    if (op.op == RecordOp::kCheck) return result;
    ReadResult next{true, next_version_++, 0, std::move(op.value)};
    if (op.ttl_mode == TtlMode::kSet) next.expires_at_ms = op.ttl_ms > 0 ? 1'000'000 + op.ttl_ms : op.expires_at_ms;
    if (op.op == RecordOp::kIncrement) {
      int64_t number = 0;
      const char* end = current.value.data() + current.value.size();
      auto [stop, error] = std::from_chars(current.value.data(), end, number);
      if (current.found && (error != std::errc() || stop != end)) result.outcome = OpOutcome::kNotANumber;
      if (__builtin_add_overflow(number, op.delta, &number)) result.outcome = OpOutcome::kOverflow;
      if (result.outcome != OpOutcome::kApplied) {
        result.current = current;
        return result;
      }
      result.number = number;
      next.value = std::to_string(number);
    }
    result.version = next.version;
    if (op.op == RecordOp::kRemove) {
      records.erase(op.key);
    } else if (op.op == RecordOp::kTouch) {
      next.value = current.value;
      records[op.key] = std::move(next);
    } else {
      records[op.key] = std::move(next);
    }
    return result;
  }

  const uint32_t id_;
  const Uuid uuid_;
  Reactor* const reactor_;
  const Nanos max_delay_ns_;
  Version next_version_ = 1000;
  uint64_t point_writes_ = 0;
  TaskGroup tasks_;  // of BatchWrite
};

}  // namespace pando
