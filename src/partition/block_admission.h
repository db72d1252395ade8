// BlockAdmission: promises disk space to writes and merges before they change anything.
//
// Threads: one reactor.
//
// Invariants
//   P9  The space that a write or a merge was admitted against stays reserved for it until it is
//       allocated or counts as dirty. Dirty pages and the metadata of the next two checkpoints have
//       room. No checkpoint fails for lack of space.
#pragma once

#include <utility>

#include "src/partition/checkpointer.h"

namespace pando {

class BlockAdmission;

// A promise of blocks, which ends when it is taken or dropped.
class AdmittedBlocks {
 public:
  AdmittedBlocks() = default;
  AdmittedBlocks(const AdmittedBlocks&) = delete;
  ~AdmittedBlocks() { Drop(); }
  uint64_t blocks() const { return blocks_; }
  // `blocks` of the promise have been allocated, or are no longer needed.
  void Take(uint64_t blocks);
  // What was changed counts as dirty now, or nothing was changed.
  void Drop() { Take(blocks_); }
  // REQUIRES: `other` has no promise.
  void MoveTo(AdmittedBlocks* other) {
    CHECK_EQ(other->blocks_, 0u);
    other->owner_ = owner_;
    other->blocks_ = std::exchange(blocks_, 0);
  }

 private:
  friend class BlockAdmission;
  BlockAdmission* owner_ = nullptr;
  uint64_t blocks_ = 0;
};

class BlockAdmission {
 public:
  BlockAdmission(PartitionState& state, Checkpointer& checkpointer) : state_(state), checkpointer_(checkpointer) {}

  // What one operation may need.
  uint64_t BlocksFor(RecordOp op, size_t key_bytes, size_t value_bytes) const;

  // Waits until the disk has room for `blocks` blocks beyond those already promised, and adds them
  // to *admitted. kDiskFull: there is none, and checkpoints would not help.
  Task<Status> Admit(uint64_t blocks, bool only_removes, AdmittedBlocks* admitted);
  // Does the same if it need not wait. Returns false otherwise.
  bool TryAdmit(uint64_t blocks, bool only_removes, AdmittedBlocks* admitted);
  // The same for something that may as well not be done: leaves twice as much as is reserved besides.
  bool TryAdmitSpare(uint64_t blocks, AdmittedBlocks* admitted);
  // Promises the blocks that one merge may need, or returns kDiskFull. Does not wait for
  // checkpoints: the merge may run during one. Merges may use what is kept for them.
  Task<Status> AdmitMerge(AdmittedBlocks* admitted);

  uint64_t promised_blocks() const { return promised_blocks_; }
  // Blocks that must stay free so that admitted writes and dirty pages can be written and removes
  // can still be admitted.
  uint64_t BlocksToKeepFree() const { return PromisedBlocks() + ReservedBlocks(); }

 private:
  friend class AdmittedBlocks;
  uint64_t PageBlocks() const { return state_.pool.page_bytes() / kBlockBytes; }
  uint64_t PagesAtMost() const;
  uint64_t CheckpointBlocks() const;
  uint64_t PromisedBlocks() const;
  uint64_t ReservedBlocks() const;
  void Promise(uint64_t blocks, AdmittedBlocks* admitted);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  uint64_t promised_blocks_ = 0;  // the sum of all AdmittedBlocks
};

}  // namespace pando
