// Replica: upkeep in the background: removing expired records, and merging leaves that deletes have
// emptied.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr size_t kSweepBatch = 64;  // expired records removed by one write, if the pool admits it
constexpr Nanos kSweepRetry = 10 * kSecond;
constexpr size_t kMaxMergeKeys = 64;   // underfull leaves remembered; MergeOld finds the others
constexpr uint32_t kMergeUnits = 512;  // cost of a merge, in units of the turn's budget

// The earlier of two expiry times; 0 = none.
int64_t Earlier(int64_t a, int64_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

}  // namespace

// -- expiry

void Replica::NoteExpiry(int64_t expires_at_ms) {
  next_expiry_ms_ = Earlier(next_expiry_ms_, expires_at_ms);
  new_expiry_ms_ = Earlier(new_expiry_ms_, expires_at_ms);
}

// One pass from the first key to the last. Each batch starts where the previous one ended.
// next_expiry_ms_ is not raised until the pass is complete, so a failed pass is followed by a new
// one.
Task<Status> Replica::Sweep() {
  const size_t batch = std::min<size_t>(kSweepBatch, pool_.frame_count() / kFramesPerOp);
  new_expiry_ms_ = 0;
  next_sweep_ns_ = reactor_.NowNs() + kSweepRetry;
  int64_t left_ms = 0;  // the earliest expiry of the records that are not due
  Status damage;
  std::string from;
  for (bool over = false; !over;) {
    if (draining_ || !failure_.ok()) co_return Status();
    CO_ASSIGN_OR_RETURN(DueRecords found, co_await tree_->FindDue(from, NowMs(), batch));
    left_ms = Earlier(left_ms, found.next_expiry_ms);
    if (damage.ok()) damage = std::move(found.damage);
    over = found.over;
    from = std::move(found.next);
    if (found.due.empty()) continue;
    std::vector<WriteOp> ops;
    for (DueRecords::Due& due : found.due) {
      WriteOp op;
      op.op = RecordOp::kExpire;
      op.key = std::move(due.key);
      op.condition.version = due.version;
      ops.push_back(std::move(op));
    }
    Result<std::vector<OpResult>> written = co_await Write(std::move(ops), WriteOptions());
    if (!written.ok()) co_return written.TakeStatus();
    for (const OpResult& result : *written) stats_.expired_total += result.outcome == OpOutcome::kApplied;
  }
  if (!damage.ok()) co_return damage;  // everything else has been swept
  next_expiry_ms_ = Earlier(left_ms, new_expiry_ms_);
  next_sweep_ns_ = 0;
  co_return Status();
}

// -- merging underfull leaves

void Replica::MergeSoon(const std::string& key) {
  if (draining_ || merge_keys_.size() >= kMaxMergeKeys) return;
  merge_keys_.insert(key);
  if (merging_) return;
  merging_ = true;
  tasks_.Spawn(MergeQueued());
}

Task<void> Replica::MergeQueued() {
  // Let the write that triggered this be answered first.
  co_await Yield(reactor_);
  TurnSlice slice(pool_.turn());
  while (!merge_keys_.empty() && failure_.ok() && !draining_) {
    std::string key = *merge_keys_.begin();
    merge_keys_.erase(merge_keys_.begin());
    Status status = co_await MergeOne(key);
    // Where the disk is full, MergeOld finds the leaf again.
    LOG_IF(WARNING, !status.ok() && status.code() != Code::kDiskFull)
        << "partition " << id() << ": merging a leaf failed: " << status.ToString();
    if (slice.Spend(kMergeUnits)) co_await Yield(reactor_);
  }
  merging_ = false;
}

// kDiskFull: there is no room for the pages that the merge would change. Checkpoints may make room.
Task<Status> Replica::MergeOne(std::string key) {
  uint64_t admitted = 0;
  CO_RETURN_IF_ERROR(co_await AdmitMerge(&admitted));
  bool merged = false;
  Status status = co_await tree_->MergeLeaf(std::move(key), &merged);
  TakeAdmitted(admitted, &admitted);  // what it changed counts as dirty now
  // This generation's checkpoint writes the merged pages, and the next one frees what they
  // replaced.
  if (merged) checkpoints_to_free_ = kCheckpointsToFree;
  co_return status;
}

// Called when a generation has ended. Examines what changed in it. Leaves that were emptied while
// more than kMaxMergeKeys waited, or that fitted with no neighbor at that time, are thus merged
// before the next generation ends, or soon after. Also called when a checkpoint has freed space,
// because merges may have been waiting for it.
void Replica::MergeOldSoon() {
  if (merging_old_ || draining_) return;
  merging_old_ = true;
  tasks_.Spawn(MergeOld());
}

Task<void> Replica::MergeOld() {
  // A generation may end while a cut is applied, which must not wait for merges.
  co_await Yield(reactor_);
  while (merged_through_ + 1 < tree_->generation() && failure_.ok() && !draining_) {
    // Later generations may end meanwhile. Pages that they changed are younger and are examined
    // again.
    const Generation last = tree_->generation() - 1;
    Status status = co_await MergeBornAfter(merged_through_);
    if (!status.ok()) {
      LOG_IF(WARNING, !draining_) << "partition " << id() << ": merging emptied leaves "
                                  << (status.code() == Code::kDiskFull ? "waits for disk space: " : "failed: ")
                                  << status.ToString();
      break;  // the next checkpoint starts over
    }
    merged_through_ = last;
  }
  merging_old_ = false;
}

Task<Status> Replica::MergeBornAfter(Generation since) {
  TurnSlice slice(pool_.turn());
  UnderfullLeaves found;
  Status damage;  // the first page that cannot be read. Everything else is merged
  do {
    CO_ASSIGN_OR_RETURN(found, co_await tree_->FindUnderfull(since, found.next));
    if (damage.ok()) damage = std::move(found.damage);
    for (const std::string& key : found.keys) {
      if (draining_ || !failure_.ok()) co_return Refusal();
      Status status = co_await MergeOne(key);
      const bool damaged = status.code() == Code::kCorruption || status.code() == Code::kIoError;
      if (!status.ok() && !damaged) co_return status;
      if (damaged && damage.ok()) damage = std::move(status);
      if (slice.Spend(kMergeUnits)) co_await Yield(reactor_);
    }
  } while (!found.over);
  LOG_IF(WARNING, !damage.ok()) << "partition " << id()
                                << ": leaves next to a damaged page were not merged: " << damage.ToString();
  co_return Status();
}

}  // namespace pando
