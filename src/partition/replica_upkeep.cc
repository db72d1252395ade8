// Replica: what a partition does on its own: removing expired records, merging leaves that deletes have emptied.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr size_t kSweepBatch = 64;  // expired records removed with one write, in a pool that admits it
constexpr Nanos kSweepRetry = 10 * kSecond;
constexpr size_t kMaxMergeKeys = 64;   // underfull leaves remembered; MergeOld finds what is over
constexpr uint32_t kMergeUnits = 512;  // of the turn's budget

// The earlier of two expiries, 0 = none.
int64_t Earlier(int64_t a, int64_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

}  // namespace

// -- expiry

void Replica::NoteExpiry(int64_t expires_at_ms) {
  next_expiry_ms_ = Earlier(next_expiry_ms_, expires_at_ms);
  new_expiry_ms_ = Earlier(new_expiry_ms_, expires_at_ms);
}

// One pass from the first key to the last, each batch from where the one before ended. What next_expiry_ms_ says holds
// until the pass is through: should it fail, the next one begins anew.
Task<Status> Replica::Sweep() {
  const size_t batch = std::min<size_t>(kSweepBatch, pool_.frame_count() / kFramesPerOp);
  new_expiry_ms_ = 0;
  next_sweep_ns_ = reactor_.NowNs() + kSweepRetry;
  int64_t left_ms = 0;  // the earliest expiry of what is not due
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
  if (!damage.ok()) co_return damage;  // all else has been swept
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
  // Let the write that got us here be answered first.
  co_await Yield(reactor_);
  TurnSlice slice(pool_.turn());
  while (!merge_keys_.empty() && failure_.ok() && !draining_) {
    std::string key = *merge_keys_.begin();
    merge_keys_.erase(merge_keys_.begin());
    Status status = co_await MergeOne(key);
    LOG_IF(WARNING, !status.ok()) << "partition " << id() << ": merge: " << status.ToString();
    if (slice.Spend(kMergeUnits)) co_await Yield(reactor_);
  }
  merging_ = false;
}

Task<Status> Replica::MergeOne(std::string key) {
  bool merged = false;
  Status status = co_await tree_->MergeLeaf(std::move(key), &merged);
  // This generation's checkpoint writes what was merged, and the next one frees what that replaced.
  if (merged) checkpoints_to_free_ = kCheckpointsToFree;
  co_return status;
}

// A generation has ended: looks at what was changed in it. So leaves that were emptied while more than kMaxMergeKeys
// waited, or that fitted with no neighbour then, are merged before the next generation ends, or soon after.
void Replica::MergeOldSoon() {
  if (merging_old_ || draining_) return;
  merging_old_ = true;
  tasks_.Spawn(MergeOld());
}

Task<void> Replica::MergeOld() {
  co_await Yield(reactor_);  // a generation ends within the applying of a cut
  while (merged_through_ + 1 < tree_->generation() && failure_.ok() && !draining_) {
    // Later generations may end meanwhile: pages that they changed are younger, and looked at again.
    const Generation last = tree_->generation() - 1;
    Status status = co_await MergeBornAfter(merged_through_);
    if (!status.ok()) {
      LOG_IF(WARNING, !draining_) << "partition " << id() << ": merging emptied leaves: " << status.ToString();
      break;  // the next generation's end begins anew
    }
    merged_through_ = last;
  }
  merging_old_ = false;
}

Task<Status> Replica::MergeBornAfter(Generation since) {
  TurnSlice slice(pool_.turn());
  UnderfullLeaves found;
  do {
    CO_ASSIGN_OR_RETURN(found, co_await tree_->FindUnderfull(since, found.next));
    for (const std::string& key : found.keys) {
      if (draining_ || !failure_.ok()) co_return Refusal();
      CO_RETURN_IF_ERROR(co_await MergeOne(key));
      if (slice.Spend(kMergeUnits)) co_await Yield(reactor_);
    }
  } while (!found.over);
  co_return Status();
}

}  // namespace pando
