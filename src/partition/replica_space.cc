// Replica: disk space: what writes are admitted against, and what may be returned to the file
// system.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {

// Kept free beyond the known need, for inner pages and their splits.
constexpr uint64_t kHeadroomBlocks = 256;
// A leaf, the page it splits into or merges with, and their parent.
constexpr uint64_t kPagesPerOp = 3;
// Kept for merges, so that deletes free space on a full disk.
constexpr uint64_t kMergesWaiting = 64;
// 1/64 of the file is held back so that deletes work on a full disk.
constexpr uint64_t kReservedShare = 64;
constexpr uint64_t kMinReservedBlocks = 64;

}  // namespace

uint64_t Replica::BlocksFor(RecordOp op, size_t key_bytes, size_t value_bytes) const {
  if (op == RecordOp::kCheck) return 0;
  const bool overflow = op == RecordOp::kPut && tree_->NeedsOverflow(key_bytes, value_bytes);
  return kPagesPerOp * pool_.page_bytes() / kBlockBytes +
         (overflow ? (value_bytes + kBlockBytes - 1) / kBlockBytes : 0);
}

// Dirty pages will be written to new locations before any old space is freed. So will the metadata
// of this checkpoint and of the next one: what this checkpoint frees is usable only after the next
// one.
uint64_t Replica::CheckpointBlocks() const {
  return admitted_blocks_ + tree_->dirty_pages() * (pool_.page_bytes() / kBlockBytes) + kHeadroomBlocks +
         kCheckpointsToFree * file_->MetadataBlocks();
}

uint64_t Replica::PromisedBlocks() const {
  return CheckpointBlocks() + kPagesPerOp * kMergesWaiting * (pool_.page_bytes() / kBlockBytes);
}

uint64_t Replica::ReservedBlocks() const {
  const ExtentAllocator& allocator = file_->allocator();
  return std::max(kMinReservedBlocks, (allocator.total_blocks() - allocator.set_aside_blocks()) / kReservedShare);
}

// Waits until the disk has room for `blocks` blocks beyond those already promised, and promises
// them (*admitted). On a full disk, checkpoints free what the last generations replaced. Removes,
// which are how a full disk is emptied, wait for checkpoints whenever that suffices. Other writes
// wait only if checkpoints free more than the write at hand needs. Otherwise every write would wait
// for two checkpoints.
Task<Status> Replica::AdmitBlocks(uint64_t blocks, bool only_removes, uint64_t* admitted) {
  for (uint64_t checkpoints = 0;;) {
    const uint64_t reserved = only_removes ? 0 : ReservedBlocks();
    const uint64_t needed = blocks + PromisedBlocks() + reserved;
    const uint64_t free = file_->allocator().free_blocks();
    if (free >= needed) break;
    Status status = co_await file_->EnsureFreeBlocks(needed);
    if (status.ok()) continue;  // others may have taken some of it meanwhile
    const bool enough = free + file_->pending_free_blocks() >= needed + reserved;
    // One more than needed: the running checkpoint may have begun before the space that is pending
    // now was freed.
    if (status.code() != Code::kDiskFull || !enough || checkpoints > kCheckpointsToFree) co_return status;
    ++checkpoints;
    if (checkpoint_running_) {
      co_await checkpoint_done_.Wait();
    } else {
      CO_RETURN_IF_ERROR(co_await Checkpoint());
    }
  }
  // There was no suspension since the check, so nobody else was promised the same blocks.
  admitted_blocks_ += blocks;
  *admitted += blocks;
  co_return Status();
}

// Promises the blocks that one merge may need, or returns kDiskFull. Does not wait for checkpoints:
// the merge may run during one. Merges may use what PromisedBlocks keeps for them.
Task<Status> Replica::AdmitMerge(uint64_t* admitted) {
  // The path to the leaf, a neighbor on each level, and the root's only child. The leaf is tried
  // twice.
  const uint64_t pages = 2 * (uint64_t{tree_->root_level()} + 1) + 2;
  const uint64_t blocks = pages * (pool_.page_bytes() / kBlockBytes);
  for (;;) {
    const uint64_t needed = blocks + CheckpointBlocks();
    if (file_->allocator().free_blocks() >= needed) break;
    Status status = co_await file_->EnsureFreeBlocks(needed);
    // Meanwhile others may have taken some of the space, or freed some.
    if (!status.ok() && file_->allocator().free_blocks() < needed) co_return status;
  }
  admitted_blocks_ += blocks;
  *admitted += blocks;
  co_return Status();
}

// `blocks` of the blocks promised to a write have been allocated or are no longer needed.
void Replica::TakeAdmitted(uint64_t blocks, uint64_t* admitted) {
  blocks = std::min(blocks, *admitted);
  *admitted -= blocks;
  CHECK_GE(admitted_blocks_, blocks) << "P9: blocks that were promised are missing in the sum";
  admitted_blocks_ -= blocks;
}

}  // namespace pando
