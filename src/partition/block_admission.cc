#include "src/partition/block_admission.h"

#include <algorithm>

namespace pando {
namespace {

// Kept free beyond the known need, for inner pages and their splits: at most this much.
constexpr uint64_t kHeadroomBlocks = 256;
constexpr uint64_t kMinHeadroomBlocks = 16;
// A leaf, the page it splits into or merges with, and their parent.
constexpr uint64_t kPagesPerOp = 3;
// Kept for merges, so that deletes free space on a full disk.
constexpr uint64_t kMergesWaiting = 64;
constexpr uint64_t kMinMergesWaiting = 2;
// 1/64 of the file is held back so that deletes work on a full disk.
constexpr uint64_t kReservedShare = 64;
constexpr uint64_t kMinReservedBlocks = 64;

}  // namespace

void AdmittedBlocks::Take(uint64_t blocks) {
  blocks = std::min(blocks, blocks_);
  if (blocks == 0) return;
  blocks_ -= blocks;
  CHECK_GE(owner_->promised_blocks_, blocks) << "P9: blocks that were promised are missing in the sum";
  owner_->promised_blocks_ -= blocks;
}

void BlockAdmission::Promise(uint64_t blocks, AdmittedBlocks* admitted) {
  admitted->owner_ = this;
  admitted->blocks_ += blocks;
  promised_blocks_ += blocks;
}

uint64_t BlockAdmission::BlocksFor(RecordOp op, size_t key_bytes, size_t value_bytes) const {
  if (IsCheck(op) || op == RecordOp::kEpochStart || IsClusterMark(op)) return 0;
  const bool overflow = op == RecordOp::kPut && state_.tree->NeedsOverflow(key_bytes, value_bytes);
  return kPagesPerOp * PageBlocks() + (overflow ? state_.pool.BlocksFor(value_bytes) : 0);
}

// No tree has more pages than this. A page on disk takes at least a block, and the others are
// dirty. It bounds what a small tree must keep free: a node may have thousands of them.
uint64_t BlockAdmission::PagesAtMost() const {
  return state_.file->allocator().used_blocks() + state_.tree->dirty_pages();
}

// Dirty pages will be written to new locations before any old space is freed. So will the metadata
// of this checkpoint and of the next one: what this checkpoint frees is usable only after the next
// one.
uint64_t BlockAdmission::CheckpointBlocks() const {
  // At most half of the pages are inner pages, and each may be written for two generations: the one
  // that is being checkpointed, and the current one.
  const uint64_t headroom = std::min(kHeadroomBlocks, kMinHeadroomBlocks + PagesAtMost() * PageBlocks());
  return promised_blocks_ + state_.tree->dirty_pages() * PageBlocks() + headroom +
         Checkpointer::kCheckpointsToFree * state_.file->MetadataBlocks();
}

uint64_t BlockAdmission::PromisedBlocks() const {
  // A merge joins two pages.
  const uint64_t merges = std::min(kMergesWaiting, kMinMergesWaiting + PagesAtMost() / 2);
  return CheckpointBlocks() + kPagesPerOp * merges * PageBlocks();
}

uint64_t BlockAdmission::ReservedBlocks() const {
  const ExtentAllocator& allocator = state_.file->allocator();
  return std::max(kMinReservedBlocks, (allocator.total_blocks() - allocator.set_aside_blocks()) / kReservedShare);
}

// On a full disk, checkpoints free what the last generations replaced. Removes, which are how a
// full disk is emptied, wait for checkpoints whenever that suffices. Other writes wait only if
// checkpoints free more than the write at hand needs. Otherwise every write would wait for two
// checkpoints.
Task<Status> BlockAdmission::Admit(uint64_t blocks, bool only_removes, AdmittedBlocks* admitted) {
  for (uint64_t checkpoints = 0;;) {
    const uint64_t reserved = only_removes ? 0 : ReservedBlocks();
    const uint64_t needed = blocks + PromisedBlocks() + reserved;
    const uint64_t free = state_.file->allocator().free_blocks();
    if (free >= needed) break;
    Status status = co_await state_.file->EnsureFreeBlocks(needed);
    if (status.ok()) continue;  // others may have taken some of it meanwhile
    const bool enough = free + state_.file->pending_free_blocks() >= needed + reserved;
    // One more than needed: the running checkpoint may have begun before the space that is pending
    // now was freed.
    if (status.code() != Code::kDiskFull || !enough || checkpoints > Checkpointer::kCheckpointsToFree) co_return status;
    ++checkpoints;
    CO_RETURN_IF_ERROR(co_await checkpointer_.CheckpointOrJoin());
  }
  // There was no suspension since the check, so nobody else was promised the same blocks.
  Promise(blocks, admitted);
  co_return Status();
}

bool BlockAdmission::TryAdmit(uint64_t blocks, bool only_removes, AdmittedBlocks* admitted) {
  const uint64_t needed = blocks + PromisedBlocks() + (only_removes ? 0 : ReservedBlocks());
  if (state_.file->allocator().free_blocks() < needed) return false;
  Promise(blocks, admitted);
  return true;
}

bool BlockAdmission::TryAdmitSpare(uint64_t blocks, AdmittedBlocks* admitted) {
  if (state_.file->allocator().free_blocks() < blocks + PromisedBlocks() + 3 * ReservedBlocks()) return false;
  Promise(blocks, admitted);
  return true;
}

Task<Status> BlockAdmission::AdmitMerge(AdmittedBlocks* admitted) {
  // The path to the leaf, a neighbor on each level, and the root's only child. The leaf is tried
  // twice.
  const uint64_t pages = 2 * (uint64_t{state_.tree->root_level()} + 1) + 2;
  const uint64_t blocks = pages * PageBlocks();
  for (;;) {
    const uint64_t needed = blocks + CheckpointBlocks();
    if (state_.file->allocator().free_blocks() >= needed) break;
    Status status = co_await state_.file->EnsureFreeBlocks(needed);
    // Meanwhile others may have taken some of the space, or freed some.
    if (!status.ok() && state_.file->allocator().free_blocks() < needed) co_return status;
  }
  Promise(blocks, admitted);
  co_return Status();
}

}  // namespace pando
