#include "src/partition/gatherer.h"

#include <algorithm>
#include <utility>

namespace pando {
namespace {

constexpr size_t kMaxRanges = 64;
constexpr Nanos kLongestSleepNs = kSecond / 10;
constexpr uint32_t kLeafUnits = 64;          // cost of a leaf, in units of the turn's budget
constexpr uint64_t kMostWaitingDivisor = 8;  // GA2

}  // namespace

void Gatherer::GatherSoon(std::string_view from, size_t leaves) {
  if (pace_ == nullptr || !MayGather() || ranges_.size() >= kMaxRanges) return;
  if (std::any_of(ranges_.begin(), ranges_.end(), [&](const Range& r) { return r.from == from; })) return;
  ranges_.push_back({std::string(from), leaves});
  if (gathering_) return;
  gathering_ = true;
  state_.tasks.Spawn(GatherQueued());
}

bool Gatherer::MayGather() const {
  const PartitionFile& file = *state_.file;
  const uint64_t waiting = file.pending_free_blocks() + file.held_blocks();
  return state_.works() && state_.disk_full_ns == 0 && waiting < file.allocator().total_blocks() / kMostWaitingDivisor;
}

Task<void> Gatherer::GatherQueued() {
  // Let the scan go on first.
  co_await Yield(state_.reactor);
  while (!ranges_.empty()) {
    Range range = std::move(ranges_.front());
    ranges_.pop_front();
    if (!MayGather()) continue;
    const Status status = co_await Gather(std::move(range));
    // Damage is told to whoever reads the leaf, and without memory or space the leaves stay where they are.
    LOG_IF(WARNING, !status.ok() && state_.works() && status.code() != Code::kDiskFull)
        << "partition " << state_.id() << ": putting scattered leaves together failed: " << status.ToString();
  }
  gathering_ = false;
}

Task<Status> Gatherer::Gather(Range range) {
  TurnSlice slice(state_.pool.turn());
  for (size_t i = 0; i < range.leaves && MayGather(); ++i) {
    // A path, whose pages may all be written anew.
    const uint64_t pages = uint64_t{state_.tree->root_level()} + 1;
    AdmittedBlocks admitted;
    if (!admission_.TryAdmitSpare(pages * (state_.pool.page_bytes() / kBlockBytes), &admitted)) {
      co_return Error(Code::kDiskFull, "there is no room to spare");
    }
    CO_ASSIGN_OR_RETURN(MovedLeaf moved, co_await state_.tree->MoveLeaf(range.from));
    admitted.Drop();  // what it made dirty counts as that now
    if (moved.bytes > 0) {
      // This generation's checkpoint writes it, and the next one frees the place where it was.
      checkpointer_.NoteFreedPages();
      pace_->Took(moved.bytes, state_.reactor.NowNs());
      ++state_.stats.gathered_leaves_total;
    }
    if (moved.over) break;
    range.from = std::move(moved.next);
    if (slice.Spend(kLeafUnits)) co_await Yield(state_.reactor);
    // In short steps, so that a partition that drains need not wait for a slow pace.
    for (Nanos now; MayGather() && (now = state_.reactor.NowNs()) < pace_->due_ns();) {
      co_await Sleep(state_.reactor, std::min(pace_->due_ns() - now, kLongestSleepNs));
    }
  }
  co_return Status();
}

}  // namespace pando
