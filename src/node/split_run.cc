#include "src/node/split_run.h"

#include <algorithm>
#include <array>
#include <utility>

#include "src/model/key_space.h"

namespace pando {

namespace {

// A write of the feed that the half has no room for is tried again for so long.
constexpr Nanos kRoomNs = 10 * kSecond, kRoomPauseNs = 20 * kMillisecond;
constexpr uint64_t kMb = 1'000'000;

size_t BytesOf(const std::vector<WriteOp>& ops) {
  size_t bytes = 0;
  for (const WriteOp& op : ops) bytes += op.key.size() + op.value.size();
  return bytes;
}

}  // namespace

std::string_view NameOf(SplitPhase phase) {
  switch (phase) {
    case SplitPhase::kPreparing: return "preparing";
    case SplitPhase::kCopying: return "copying";
    case SplitPhase::kCatchingUp: return "catching up";
    case SplitPhase::kSwitching: return "switching";
    case SplitPhase::kOpening: return "opening";
    case SplitPhase::kGivingUp: return "giving up";
  }
  return "";
}

// The partition, as long as the run is wanted. It counts what is read of it for the first time.
class SplitRun::Source final : public RangeReads {
 public:
  explicit Source(SplitRun* run) : run_(*run) {}

  Task<Result<ScanPage>> Scan(ScanSpec spec) override {
    CO_RETURN_IF_ERROR(run_.CheckWanted());
    const bool all = spec.since == 0;
    Result<ScanPage> page = co_await run_.parts_.whole->Scan(std::move(spec));
    if (!page.ok() || !all) co_return page;
    uint64_t bytes = 0;
    for (const ScanRow& row : page->rows) bytes += row.bytes();
    run_.control_.copied_bytes.fetch_add(bytes, std::memory_order_relaxed);
    co_return page;
  }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    return run_.parts_.whole->Aggregate(std::move(start), std::move(end), at);
  }

 private:
  SplitRun& run_;
};

// A half, as long as the run is wanted, at the rate that the split has now.
class SplitRun::Target final : public PartitionRecords {
 public:
  Target(SplitRun* run, PartitionRecords* half) : run_(*run), half_(*half) {}

  Task<Result<std::vector<OpResult>>> Write(std::vector<WriteOp> ops, WriteOptions options) override {
    const size_t bytes = BytesOf(ops);
    const Nanos until_ns = run_.reactor_.NowNs() + kRoomNs;
    for (;;) {
      CO_RETURN_IF_ERROR(run_.CheckWanted());
      std::vector<WriteOp> sent = ops;
      Result<std::vector<OpResult>> results = co_await half_.Write(std::move(sent), options);
      if (results.code() == Code::kOverloaded && !run_.unpaced_ && run_.reactor_.NowNs() < until_ns) {
        co_await Sleep(run_.reactor_, kRoomPauseNs);
        continue;
      }
      if (!results.ok()) co_return results;
      run_.control_.written_bytes.fetch_add(bytes, std::memory_order_relaxed);
      co_await run_.KeepPace(bytes);
      co_return results;
    }
  }
  Task<Result<ScanPage>> Scan(ScanSpec spec) override {
    CO_RETURN_IF_ERROR(run_.CheckWanted());
    co_return co_await half_.Scan(std::move(spec));
  }
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override {
    return half_.Aggregate(std::move(start), std::move(end), at);
  }
  Task<Result<ReadResult>> Get(std::string key, SnapshotId snapshot, ValueRoom* room) override {
    return half_.Get(std::move(key), snapshot, room);
  }
  Task<Result<std::vector<std::string>>> KeysAtRanks(std::string start, std::string end, std::vector<uint64_t> ranks,
                                                     SnapshotId snapshot) override {
    return half_.KeysAtRanks(std::move(start), std::move(end), std::move(ranks), snapshot);
  }
  Task<Result<ChangePage>> Changes(Version after, std::string prefix, size_t max_changes, size_t max_bytes) override {
    return half_.Changes(after, std::move(prefix), max_changes, max_bytes);
  }
  Version newest_change() const override { return half_.newest_change(); }

 private:
  SplitRun& run_;
  PartitionRecords& half_;
};

SplitRun::SplitRun(Reactor& reactor, Parts parts, SplitControl* control)
    : reactor_(reactor), parts_(parts), control_(*control), source_(std::make_unique<Source>(this)) {
  std::array<SplitFeed::Half, 2> halves = parts_.halves;
  for (size_t i = 0; i < halves.size(); ++i) {
    targets_[i] = std::make_unique<Target>(this, halves[i].partition);
    halves[i].partition = targets_[i].get();
  }
  feed_ = std::make_unique<SplitFeed>(reactor_, source_.get(), halves, /*bytes_per_s=*/0);
}

SplitRun::~SplitRun() = default;

// -- while it is wanted

Status SplitRun::CheckWanted() const {
  if (control_.restart) return Error(Code::kUnavailable, "a half of partition {} cannot be filled now", parts_.id);
  if (!control_.cancelled) return Status();
  return Error(Code::kUnavailable, "the split of partition {} was called off, or goes on elsewhere", parts_.id);
}

Task<void> SplitRun::SleepFor(Nanos duration_ns) {
  const Nanos until_ns = reactor_.NowNs() + duration_ns;
  while (reactor_.NowNs() < until_ns && CheckWanted().ok()) {
    co_await Sleep(reactor_, std::min(kSliceNs, until_ns - reactor_.NowNs()));
  }
}

Task<void> SplitRun::KeepPace(uint64_t bytes) {
  const uint32_t rate = control_.rate_mb_s.load(std::memory_order_relaxed);
  if (!pace_ || rate != rate_mb_s_) pace_.emplace(rate * kMb);
  rate_mb_s_ = rate;
  if (unpaced_) co_return;
  pace_->Took(bytes, reactor_.NowNs());
  const Nanos wait_ns = pace_->due_ns() - reactor_.NowNs();
  if (wait_ns > 0) co_await SleepFor(wait_ns);
}

// -- snapshots of the partition

Task<Result<SnapshotInfo>> SplitRun::Cut() {
  std::vector<Partition*> one{parts_.whole};
  co_return co_await CutSnapshot(reactor_, std::move(one), reactor_.WallMs() + kSnapshotMs);
}

Task<void> SplitRun::Release(SnapshotId* id) {
  const SnapshotId released_id = std::exchange(*id, 0);
  if (released_id == 0) co_return;
  const Status released = co_await parts_.whole->ReleaseSnapshot(released_id);
  VLOG_IF(1, !released.ok()) << released.ToString();
}

// The halves become as `next`.
Task<Status> SplitRun::Follow(SnapshotInfo next) {
  next_ = next.id;
  const Status copied = co_await feed_->CopyChanges(at_, next_);
  co_await Release(&at_);
  at_ = std::exchange(next_, 0);
  co_return copied;
}

// A long copy needs its snapshots for longer than those of a run that has died are kept.
Task<void> SplitRun::KeepSnapshot() {
  Nanos next_ns = reactor_.NowNs() + kRenewNs;
  while (!over_) {
    co_await Sleep(reactor_, kSliceNs);
    if (over_ || reactor_.NowNs() < next_ns) continue;
    next_ns = reactor_.NowNs() + kRenewNs;
    const std::array<SnapshotId, 2> held{at_, next_};
    for (const SnapshotId id : held) {
      if (id == 0) continue;
      const Status renewed = co_await parts_.whole->RenewSnapshot(id, reactor_.WallMs() + kSnapshotMs);
      LOG_IF(WARNING, !renewed.ok() && renewed.code() != Code::kSnapshotGone) << renewed.ToString();
    }
  }
}

// -- the feed

Task<Status> SplitRun::Run(std::string claim) {
  tasks_.Spawn(KeepSnapshot());
  const Status status = co_await CopyAndSwitch(std::move(claim));
  parts_.host->LetGo(parts_.id);
  over_ = true;
  co_await Release(&at_);
  co_await Release(&next_);
  co_await tasks_.Drain();
  co_return status;
}

Task<Status> SplitRun::CopyAndSwitch(std::string claim) {
  control_.phase = SplitPhase::kCopying;
  control_.copied_bytes = control_.total_bytes = 0;
  control_.waits_for = "";
  CO_ASSIGN_OR_RETURN(const SnapshotInfo first, co_await Cut());
  at_ = first.id;
  CO_ASSIGN_OR_RETURN(const RangeAggregates all, co_await parts_.whole->Aggregate("", "", at_));
  control_.total_bytes = all.bytes;
  CO_RETURN_IF_ERROR(co_await feed_->Claim(std::move(claim)));
  CO_RETURN_IF_ERROR(co_await feed_->CopyAll(at_));
  control_.phase = SplitPhase::kCatchingUp;
  Nanos pause_ns = kPauseNs;
  for (;;) {
    CO_RETURN_IF_ERROR(co_await CatchUp());
    CO_ASSIGN_OR_RETURN(const bool switched, co_await TrySwitch());
    if (switched) co_return Status();
    control_.phase = SplitPhase::kCatchingUp;
    co_await SleepFor(pause_ns);
    pause_ns = std::min(2 * pause_ns, kMaxPauseNs);
  }
}

// Returns once writes may be held for the last difference.
Task<Status> SplitRun::CatchUp() {
  Nanos before_ns = 0;
  for (;;) {
    CO_RETURN_IF_ERROR(CheckWanted());
    CO_ASSIGN_OR_RETURN(const SnapshotInfo next, co_await Cut());
    const Nanos began_ns = reactor_.NowNs();
    CO_RETURN_IF_ERROR(co_await Follow(next));
    const Nanos took_ns = reactor_.NowNs() - began_ns;
    const bool caught_up = took_ns < kFastNs || (before_ns != 0 && took_ns >= before_ns);
    before_ns = took_ns;
    if (!caught_up) continue;
    const char* why_not = WhyNotYet(took_ns);
    control_.waits_for = why_not == nullptr ? "" : why_not;
    if (why_not == nullptr) co_return Status();
    co_await SleepFor(kPauseNs);
  }
}

const char* SplitRun::WhyNotYet(Nanos round_ns) const {
  if (round_ns > kMostNs) return "changes are written faster than they are copied: raise the rate of the split";
  if (parts_.whole->stats().cluster_snapshots > 0) return "snapshots of the cluster are open, and would end";
  if (!control_.may_switch) return "the halves have fewer replicas in sync than the partition";
  return nullptr;
}

// -- the switch

// SX1. Writes are held from before the cut on, and the cut itself waits for nothing then.
Task<Result<SnapshotInfo>> SplitRun::CutHeld() {
  CO_RETURN_IF_ERROR(co_await parts_.whole->PrepareCut());
  Status status = co_await parts_.host->HoldForSplit(parts_.id, kHoldNs);
  SnapshotInfo cut;
  cut.expires_at_ms = reactor_.WallMs() + kSnapshotMs;
  cut.id = RandomId(reactor_);
  if (status.ok()) {
    const Result<Version> newest = co_await parts_.whole->HoldWrites();
    status = newest.status();
    if (newest.ok()) cut.version = std::max(*newest + 1, VersionAtMs(reactor_.WallMs()));
  }
  if (!status.ok()) {
    const Status abandoned = co_await parts_.whole->AbandonCut();
    LOG_IF(WARNING, !abandoned.ok()) << abandoned.ToString();
    co_return status;
  }
  CO_RETURN_IF_ERROR(co_await parts_.whole->Cut(cut));
  co_return cut;
}

// False: not this time, and the halves are as `at_`.
Task<Result<bool>> SplitRun::TrySwitch() {
  control_.phase = SplitPhase::kSwitching;
  Result<SnapshotInfo> cut = co_await CutHeld();
  if (!cut.ok()) {
    parts_.host->LetGo(parts_.id);
    if (cut.code() != Code::kOverloaded && cut.code() != Code::kUnavailable) co_return cut.TakeStatus();
    LOG_EVERY_N(INFO, 20) << "partition " << parts_.id
                          << " cannot be switched to its halves yet: " << cut.status().ToString();
    co_return false;
  }
  const Nanos began_ns = reactor_.NowNs();
  unpaced_ = true;
  Status status = co_await FillWhileHeld(*cut);
  unpaced_ = false;
  Result<bool> retired = false;
  if (status.ok()) retired = co_await Retire();
  parts_.host->LetGo(parts_.id);
  CO_RETURN_IF_ERROR(status);
  LOG_IF(INFO, retired.ok() && *retired) << "partition " << parts_.id << " is split; its writes waited for "
                                         << (reactor_.NowNs() - began_ns) / kMillisecond << " ms";
  co_return retired;
}

// SX2.
Task<Status> SplitRun::FillWhileHeld(SnapshotInfo cut) {
  for (int attempt = 1;; ++attempt) {
    CO_RETURN_IF_ERROR(co_await Follow(cut));
    CO_ASSIGN_OR_RETURN(const bool same, co_await feed_->CheckSums(at_, cut.version));
    if (same) break;
    if (attempt == kSumsTries) {
      co_return Error(Code::kUnavailable,
                      "the sums of partition {} and of its halves differ, after all was copied; all of it is compared "
                      "and copied again",
                      parts_.id);
    }
    CO_ASSIGN_OR_RETURN(cut, co_await Cut());
  }
  // All writes that were acknowledged are in the snapshot, so no later change is in any watcher's position.
  const Version told = parts_.whole->newest_change();
  if (told >= cut.version) co_return Error(Code::kUnavailable, "partition {} is out of service", parts_.id);
  CO_RETURN_IF_ERROR(co_await feed_->Seal(cut.version, told));
  co_return CheckWanted();
}

// False: it is not retired, nor will it be.
Task<Result<bool>> SplitRun::Retire() {
  for (;;) {
    const Status retired = co_await parts_.host->Retire(parts_.id, kRetireNs);
    if (retired.ok()) co_return true;
    LOG_IF(INFO, retired.code() == Code::kAborted)
        << "partition " << parts_.id << " was not split yet: " << retired.message();
    if (retired.code() == Code::kAborted) co_return false;
    if (retired.code() != Code::kUnavailable || control_.stopping) co_return retired;
    control_.waits_for = "the topology must say whether the partition is split";
    co_await Sleep(reactor_, kSliceNs);
  }
}

// -- opening

// After a restart it may be gone already. Then this only adds an LSN.
Task<Result<Lsn>> OpenHalf(Partition* half) {
  WriteOp op;
  op.op = RecordOp::kRemove;
  op.key = SplitFeed::ClaimKey();
  std::vector<WriteOp> ops;
  ops.push_back(std::move(op));
  WriteControl control;
  WriteOptions options;
  options.of_split = true;
  options.control = &control;
  CO_RETURN_IF_ERROR((co_await half->Write(std::move(ops), options)).status());
  co_return control.end.lsn;
}

}  // namespace pando
