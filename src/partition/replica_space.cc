// Replica: room on the disk: what writes are admitted against, and what may go back to the file system.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr uint64_t kHeadroomBlocks = 256;  // kept free beyond what is known to be needed: inner pages, splits of them
constexpr uint64_t kPagesPerOp = 3;        // a leaf and what it splits into, or is merged with, and their parent
constexpr uint64_t kMergesWaiting = 64;    // that removes leave behind, and that change pages when these are applied
constexpr uint64_t kReservedShare = 64;    // 1/64 of the file is held back so that deletes work on a full disk
constexpr uint64_t kMinReservedBlocks = 64;

}  // namespace

uint64_t Replica::BlocksFor(RecordOp op, size_t key_bytes, size_t value_bytes) const {
  if (op == RecordOp::kCheck) return 0;
  const bool overflow = op == RecordOp::kPut && tree_->NeedsOverflow(key_bytes, value_bytes);
  return kPagesPerOp * pool_.page_bytes() / kBlockBytes +
         (overflow ? (value_bytes + kBlockBytes - 1) / kBlockBytes : 0);
}

// What is dirty will be written to new places before anything old is given back; so will the metadata, of this
// checkpoint and of the next one, without which what this one frees cannot be used.
uint64_t Replica::PromisedBlocks() const {
  const uint64_t pages = tree_->dirty_pages() + kPagesPerOp * kMergesWaiting;
  return admitted_blocks_ + pages * (pool_.page_bytes() / kBlockBytes) + kHeadroomBlocks +
         kCheckpointsToFree * file_->MetadataBlocks();
}

uint64_t Replica::ReservedBlocks() const {
  const ExtentAllocator& allocator = file_->allocator();
  return std::max(kMinReservedBlocks, (allocator.total_blocks() - allocator.set_aside_blocks()) / kReservedShare);
}

// Waits until the disk has room for `blocks` more than what is promised already, and promises them (*admitted). On a
// full one checkpoints give back what the last generations replaced: for removes, which are how a full disk gets empty,
// whenever that suffices; for others only when it is worth more than the write at hand, which would else wait for two
// checkpoints again and again.
Task<Status> Replica::AdmitBlocks(uint64_t blocks, bool only_removes, uint64_t* admitted) {
  for (uint64_t checkpoints = 0;;) {
    const uint64_t reserved = only_removes ? 0 : ReservedBlocks();
    const uint64_t needed = blocks + PromisedBlocks() + reserved;
    const uint64_t free = file_->allocator().free_blocks();
    if (free >= needed) break;
    Status status = co_await file_->EnsureFreeBlocks(needed);
    if (status.ok()) continue;  // others took of it meanwhile, perhaps
    const bool enough = free + file_->pending_free_blocks() >= needed + reserved;
    // One more than it takes: the one under way may have begun before what is pending now.
    if (status.code() != Code::kDiskFull || !enough || checkpoints > kCheckpointsToFree) co_return status;
    ++checkpoints;
    if (checkpoint_running_) {
      co_await checkpoint_done_.Wait();
    } else {
      CO_RETURN_IF_ERROR(co_await Checkpoint());
    }
  }
  // Since the check nothing was awaited: nobody else was promised the same blocks.
  admitted_blocks_ += blocks;
  *admitted += blocks;
  co_return Status();
}

// Of what a write was promised, `blocks` are taken, or not needed any more.
void Replica::TakeAdmitted(uint64_t blocks, uint64_t* admitted) {
  blocks = std::min(blocks, *admitted);
  *admitted -= blocks;
  CHECK_GE(admitted_blocks_, blocks);
  admitted_blocks_ -= blocks;
}

}  // namespace pando
