#include "src/partition/upkeep.h"

#include <algorithm>

#include "src/partition/write_pipeline.h"

namespace pando {
namespace {

constexpr size_t kSweepBatch = 64;  // expired records removed by one write, if pool and disk admit it
constexpr Nanos kSweepRetry = 10 * kSecond;
constexpr size_t kMaxMergeKeys = 64;   // underfull leaves remembered; MergeOld finds the others
constexpr uint32_t kMergeUnits = 512;  // cost of a merge, in units of the turn's budget
constexpr Generation kGenerationsToMerge = 4;

// The earlier of two expiry times; 0 = none.
int64_t Earlier(int64_t a, int64_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

}  // namespace

void Upkeep::Begin(const Superblock& opened) {
  next_expiry_ms_ = opened.root.earliest_expiry_ms;
  // Includes the leaves that an earlier process had not merged when it ended. A merge may be
  // delayed by a generation or two.
  merged_through_ = opened.generation - std::min<Generation>(opened.generation, kGenerationsToMerge);
}

// -- expiry

void Upkeep::NoteExpiry(int64_t expires_at_ms) {
  next_expiry_ms_ = Earlier(next_expiry_ms_, expires_at_ms);
  new_expiry_ms_ = Earlier(new_expiry_ms_, expires_at_ms);
}

void Upkeep::SweepSoon() {
  if (sweeping_ || !MaySweep()) return;
  sweeping_ = true;
  state_.tasks.Spawn(SweepOnce());
}

Task<void> Upkeep::SweepOnce() {
  const Status status = co_await Sweep();
  LOG_IF(WARNING, !status.ok() && MaySweep())
      << "could not remove the expired records of partition " << state_.id() << ": " << status.ToString();
  sweeping_ = false;
  sweep_stopped_.NotifyAll();
}

// One pass from the first key to the last. Each batch starts where the previous one ended.
// next_expiry_ms_ is not raised until the pass is complete, so a failed pass is followed by a new
// one.
Task<Status> Upkeep::Sweep() {
  RemoveBatch batch(std::min<size_t>(kSweepBatch, state_.pool.frame_count() / Applier::kFramesPerRecord));
  new_expiry_ms_ = 0;
  next_sweep_ns_ = state_.reactor.NowNs() + kSweepRetry;
  int64_t left_ms = 0;  // the earliest expiry of the records that are not due
  Status damage;
  std::string from;
  for (bool over = false; !over;) {
    if (!MaySweep()) co_return Status();
    CO_ASSIGN_OR_RETURN(DueRecords found, co_await state_.tree->FindDue(from, state_.clock.NowMs(), kSweepBatch));
    left_ms = Earlier(left_ms, found.next_expiry_ms);
    if (damage.ok()) damage = std::move(found.damage);
    over = found.over;
    from = std::move(found.next);
    CO_RETURN_IF_ERROR(co_await Remove(std::move(found.due), &batch));
  }
  if (!damage.ok()) co_return damage;  // everything else has been swept
  next_expiry_ms_ = Earlier(left_ms, new_expiry_ms_);
  next_sweep_ns_ = 0;
  co_return Status();
}

Task<Status> Upkeep::Remove(std::vector<DueRecords::Due> due, RemoveBatch* batch) {
  for (size_t done = 0; done < due.size() && MaySweep();) {
    std::vector<WriteOp> ops(std::min(batch->size(), due.size() - done));
    for (size_t i = 0; i < ops.size(); ++i) {
      ops[i].op = RecordOp::kExpire;
      ops[i].key = due[done + i].key;
      ops[i].condition.version = due[done + i].version;
    }
    const Result<std::vector<OpResult>> results = co_await pipeline_.Write(std::move(ops), WriteOptions());
    if (batch->RetrySmaller(results.status())) continue;
    CO_RETURN_IF_ERROR(results.status());
    for (const OpResult& result : *results) state_.stats.expired_total += result.outcome == OpOutcome::kApplied;
    done += results->size();
  }
  co_return Status();
}

// -- merging underfull leaves

// PU1: the flags of both kinds of tasks are set from Spawn to the end of the task.
void Upkeep::MergeSoon(std::string_view key) {
  if (!state_.works() || merge_keys_.size() >= kMaxMergeKeys) return;
  merge_keys_.emplace(key);
  if (merging_) return;
  merging_ = true;
  state_.tasks.Spawn(MergeQueued());
}

Task<void> Upkeep::MergeQueued() {
  // Let the write that triggered this be answered first.
  co_await Yield(state_.reactor);
  TurnSlice slice(state_.pool.turn());
  while (!merge_keys_.empty() && state_.works()) {
    std::string key = *merge_keys_.begin();
    merge_keys_.erase(merge_keys_.begin());
    Status status = co_await MergeOne(key);
    // Where the disk is full, MergeOld finds the leaf again.
    LOG_IF(WARNING, !status.ok() && status.code() != Code::kDiskFull)
        << "partition " << state_.id() << ": merging a leaf failed: " << status.ToString();
    if (slice.Spend(kMergeUnits)) co_await Yield(state_.reactor);
  }
  merging_ = false;
}

// kDiskFull: there is no room for the pages that the merge would change. Checkpoints may make room.
Task<Status> Upkeep::MergeOne(std::string key) {
  AdmittedBlocks admitted;
  CO_RETURN_IF_ERROR(co_await admission_.AdmitMerge(&admitted));
  bool merged = false;
  Status status = co_await state_.tree->MergeLeaf(std::move(key), &merged);
  admitted.Drop();  // what it changed counts as dirty now
  // This generation's checkpoint writes the merged pages, and the next one frees what they
  // replaced.
  if (merged) checkpointer_.NoteFreedPages();
  co_return status;
}

// Examines what changed in the generations that have ended. Leaves that were emptied while more
// than kMaxMergeKeys waited, or that fitted with no neighbor at that time, are thus merged before
// the next generation ends, or soon after (P8). After a checkpoint, merges may have been waiting
// for the space that it has freed.
void Upkeep::MergeOldSoon() {
  if (merging_old_ || !state_.works()) return;
  merging_old_ = true;
  state_.tasks.Spawn(MergeOld());
}

Task<void> Upkeep::MergeOld() {
  // A generation may end while a cut is applied, which must not wait for merges.
  co_await Yield(state_.reactor);
  while (merged_through_ + 1 < state_.tree->generation() && state_.works()) {
    // Later generations may end meanwhile. Pages that they changed are younger and are examined
    // again.
    const Generation last = state_.tree->generation() - 1;
    Status status = co_await MergeBornAfter(merged_through_);
    if (!status.ok()) {
      LOG_IF(WARNING, state_.phase() != Phase::kDraining)
          << "partition " << state_.id() << ": merging emptied leaves "
          << (status.code() == Code::kDiskFull ? "waits for disk space: " : "failed: ") << status.ToString();
      break;  // the next checkpoint starts over
    }
    merged_through_ = last;
  }
  merging_old_ = false;
}

Task<Status> Upkeep::MergeBornAfter(Generation since) {
  TurnSlice slice(state_.pool.turn());
  UnderfullLeaves found;
  Status damage;  // the first page that cannot be read. Everything else is merged
  do {
    CO_ASSIGN_OR_RETURN(found, co_await state_.tree->FindUnderfull(since, found.next));
    if (damage.ok()) damage = std::move(found.damage);
    for (const std::string& key : found.keys) {
      if (!state_.works()) co_return state_.Refusal();
      Status status = co_await MergeOne(key);
      const bool damaged = status.code() == Code::kCorruption || status.code() == Code::kIoError;
      if (!status.ok() && !damaged) co_return status;
      if (damaged && damage.ok()) damage = std::move(status);
      if (slice.Spend(kMergeUnits)) co_await Yield(state_.reactor);
    }
  } while (!found.over);
  LOG_IF(WARNING, !damage.ok()) << "partition " << state_.id()
                                << ": leaves next to a damaged page were not merged: " << damage.ToString();
  co_return Status();
}

}  // namespace pando
