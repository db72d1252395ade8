#include "src/engine/work_list.h"

#include <algorithm>

#include "src/engine/engine.h"
#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr Nanos kCheckpointRetry = kSecond;  // of a partition whose last checkpoint failed
// Up to this many busy partitions, every call looks at them. If there are more, a look is followed
// by a pause of kPausePerBusy for each: looking at one takes about 100 ns.
constexpr size_t kFewBusy = 64;
constexpr Nanos kPausePerBusy = 20 * kMicrosecond;
constexpr Nanos kUsedInterval = kSecond;
// Once replay dirties more pages than the pool holds, each replayed record costs a page read and a
// page write. A longer log would then save little, because most pages were already written to make
// room. Checkpoint at that point, so that recovery is faster.
constexpr uint64_t kLogRecordsPerPoolPage = 4;
// Space that pages free becomes reusable two checkpoints later. It may grow to this share of the
// space in use.
constexpr uint64_t kPendingFreeShare = 8;
// It may not exceed 8 GiB either: each of its pages is an entry of the dead list, in memory and at
// every checkpoint.
constexpr uint64_t kMaxPendingBlocks = 1u << 21;

}  // namespace

void WorkList::Add(Replica* replica) {
  Entry& entry = entries_[replica->id()];
  CHECK(entry.replica == nullptr) << "partition " << replica->id() << " was added twice";
  entry.replica = replica;
  NoteBusy(replica);
}

void WorkList::Remove(Replica* replica) {
  const auto entry = entries_.find(replica->id());
  if (entry == entries_.end() || entry->second.replica != replica) return;
  SetSweep(&entry->second, 0);
  entries_.erase(entry);
  std::erase(busy_, replica);
  std::erase(overdue_, replica);
  if (most_pending_ == replica) most_pending_ = nullptr;
}

void WorkList::NoteBusy(Replica* replica) {
  const auto found = entries_.find(replica->id());
  if (found == entries_.end() || std::exchange(found->second.busy, true)) return;
  SetSweep(&found->second, 0);
  busy_.push_back(replica);
}

void WorkList::SetSweep(Entry* entry, int64_t at_ms) {
  const uint32_t id = entry->replica->id();
  if (entry->sweep_ms != 0) sweeps_.erase({entry->sweep_ms, id});
  entry->sweep_ms = at_ms;
  if (at_ms != 0) sweeps_.insert({at_ms, id});
}

// BG1.
bool WorkList::IsBusy(const Replica& replica) const {
  return replica.has_units_to_apply() || replica.checkpointer().Needed() || replica.has_snapshots() ||
         replica.partition_file().held_extents() > 0 || replica.partition_file().releasing_generations();
}

bool WorkList::MayCheckpoint(const Replica& replica) const {
  const Nanos failed_ns = entries_.at(replica.id()).failed_ns;
  return replica.checkpointer().Needed() && (failed_ns == 0 || reactor_.NowNs() - failed_ns >= kCheckpointRetry);
}

void WorkList::NoteCheckpoint(Replica* replica, const Status& status) {
  const auto found = entries_.find(replica->id());
  if (found != entries_.end()) found->second.failed_ns = status.ok() ? 0 : reactor_.NowNs();
}

bool WorkList::LogIsLong(const LogStats& log) const {
  const uint64_t enough_records =
      std::min<uint64_t>(options_.log_budget_records / 2, kLogRecordsPerPoolPage * pool_.frame_count());
  return LogIsShort(log) || log.unreleased_records > enough_records;
}

bool WorkList::LogIsShort(const LogStats& log) const {
  return log.unreleased_bytes > options_.log_budget_bytes / 2 ||
         log.unreleased_records > options_.log_budget_records / 2 || log.waits_for_segment;
}

// If much log is retained, or the log waits for a segment, it is the partition that pins the oldest
// log. If much space waits to be freed, it is the one that would free the most. Otherwise it is the
// one whose last checkpoint is longest ago, if that is too long. Unless the log is short, none begins in which the mark
// of a snapshot of the cluster is expected: the mark would have to wait for its end, and all later writes with it.
Replica* WorkList::NextToCheckpoint(Replica* pins, bool log_is_short) {
  Look();
  const auto may_begin = [this, log_is_short](const Replica& replica) {
    // Whoever asks for marks and makes none does not put it off for ever.
    const Nanos age_ns = reactor_.NowNs() - replica.checkpointer().last_ns();
    const bool may_wait = !log_is_short && age_ns < 2 * options_.checkpoint_interval_ns;
    return MayCheckpoint(replica) && !(may_wait && replica.checkpointer().held_off());
  };
  if (pins != nullptr && may_begin(*pins)) return pins;
  // Checkpoints cannot release what is not committed. It is copied only when the log needs the room,
  // not for the sake of a quick recovery: it would be copied for ever.
  if (log_is_short && pins != nullptr && !pins->checkpointer().Needed()) pins->AppendTailAgain();
  if (Replica* most = std::exchange(most_pending_, nullptr); most != nullptr && MayCheckpoint(*most)) return most;
  while (!overdue_.empty()) {
    Replica* replica = overdue_.back();
    overdue_.pop_back();
    const Nanos age_ns = reactor_.NowNs() - replica->checkpointer().last_ns();
    if (may_begin(*replica) && age_ns >= options_.checkpoint_interval_ns) return replica;
  }
  return nullptr;
}

void WorkList::Look() {
  const Nanos now_ns = reactor_.NowNs();
  if (now_ns < next_look_ns_) return;  // BG2
  next_look_ns_ = busy_.size() <= kFewBusy ? now_ns : now_ns + static_cast<Nanos>(busy_.size()) * kPausePerBusy;
  ExpireSnapshots();
  std::erase_if(busy_, [this](Replica* replica) {
    if (IsBusy(*replica)) return false;
    Entry& entry = entries_.at(replica->id());
    entry.busy = false;
    replica->NoteIdle();
    SetSweep(&entry, replica->upkeep().next_expiry_ms());
    return true;
  });
  SumPending();
  overdue_.clear();
  for (Replica* replica : busy_) {
    if (now_ns - replica->checkpointer().last_ns() < options_.checkpoint_interval_ns) continue;
    if (MayCheckpoint(*replica)) overdue_.push_back(replica);
  }
  std::stable_sort(overdue_.begin(), overdue_.end(), [](const Replica* a, const Replica* b) {
    return a->checkpointer().last_ns() > b->checkpointer().last_ns();
  });
}

// If the data fits into memory, a page that is rewritten many times between two checkpoints is
// written only once. That is worth letting space wait, up to the size of the pool.
void WorkList::SumPending() {
  uint64_t pending = 0;
  Replica* most = nullptr;
  for (Replica* replica : busy_) {
    const PartitionFile& file = replica->partition_file();
    pending += file.pending_free_blocks();
    if (!MayCheckpoint(*replica)) continue;
    if (!most || file.pending_free_blocks() > most->partition_file().pending_free_blocks()) most = replica;
  }
  const uint64_t pool_blocks = uint64_t{pool_.frame_count()} * pool_.page_bytes() / kBlockBytes;
  // An extent has at least one block.
  const uint64_t limit = std::min(kMaxPendingBlocks, max_listed_ / 4);
  most_pending_ = nullptr;
  if (pending <= std::min(pool_blocks, limit)) return;
  if (pending > std::min(std::max(pool_blocks, UsedBlocks() / kPendingFreeShare), limit)) most_pending_ = most;
}

// In the files of all partitions; counted from time to time.
uint64_t WorkList::UsedBlocks() {
  if (reactor_.NowNs() < used_until_ns_) return used_blocks_;
  if (entries_.size() > kFewBusy) used_until_ns_ = reactor_.NowNs() + kUsedInterval;
  used_blocks_ = 0;
  for (const auto& [id, entry] : entries_) used_blocks_ += entry.replica->partition_file().allocator().used_blocks();
  return used_blocks_;
}

// A snapshot belongs to all partitions, so it is released in all of them.
void WorkList::ExpireSnapshots() {
  uint64_t held = 0;
  const SnapshotInfo* oldest = nullptr;
  for (Replica* replica : busy_) {
    replica->snapshots().ReleaseExpired();
    // What an earlier release frees may be enough.
    if (replica->partition_file().releasing_generations()) return;
    held += replica->partition_file().held_extents();
    const SnapshotInfo* snapshot = replica->snapshots().Oldest();
    if (snapshot && (!oldest || snapshot->version < oldest->version)) oldest = snapshot;
  }
  const uint64_t limit = std::min(options_.max_held_extents, max_listed_ / 4 * 3);
  if (held <= limit || !oldest) return;
  const SnapshotInfo released = *oldest;
  LOG(WARNING) << "the snapshot that was opened " << (reactor_.WallMs() - VersionMs(released.version)) / 1000
               << " s ago is released early: snapshots retain " << held << " replaced pages and values on reactor "
               << options_.reactor_index << ", where the limit is " << limit
               << ". Close snapshots sooner, or raise --memory_limit_mb";
  for (Replica* replica : busy_) replica->snapshots().ReleaseIfOpen(released.id);
}

std::vector<uint32_t> WorkList::SweepsDue() {
  std::vector<uint32_t> due;
  for (const Replica* replica : busy_) {
    if (replica->upkeep().ExpiryDue()) due.push_back(replica->id());
  }
  while (!sweeps_.empty()) {
    Entry& entry = entries_.at(sweeps_.begin()->second);
    if (entry.sweep_ms > entry.replica->clock().NowMs()) break;
    SetSweep(&entry, 0);
    due.push_back(entry.replica->id());
  }
  return due;
}

void WorkList::NoteSwept(Replica* replica) {
  const auto found = entries_.find(replica->id());
  if (found == entries_.end() || found->second.busy) return;
  const int64_t next_ms = replica->upkeep().next_expiry_ms();
  // Not at once after a failure.
  SetSweep(&found->second, next_ms == 0 ? 0 : std::max(next_ms, replica->clock().NowMs() + kSecond / kMillisecond));
}

}  // namespace pando
