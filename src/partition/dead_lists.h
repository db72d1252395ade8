// DeadLists: where an extent of a partition file that died waits until it may be reused.
//
// An extent that was born in generation b and died in generation d belongs to the generations b to
// d - 1. It waits on the list of the youngest of these generations that is held. If none is held,
// it waits on the dead list of generation d until generation d + 1 is durable (D1 in
// partition_file.h). This is the scheme of the dead lists in ZFS: a release looks only at what the
// released generation retained, and never walks a tree.
//
// Holds are not persistent. A restart drops all of them and frees the blocks that they retained.
//
// Threads: one reactor. One task at a time walks the lists (Lock). It yields, and meanwhile everyone
// else only appends.
//
// Invariants
//   D6  An extent that died is on exactly one list. While a task moves extents from one list to
//       another, those in its hands are on none, and it has locked the lists.
//   D7  The dead list on disk names an extent once, in the checkpoint of the generation in which it
//       died. An extent that is held for longer is transient (A5): later bitmaps have it free.
#pragma once

#include <deque>
#include <map>
#include <vector>

#include "src/buffer_pool/extent_allocator.h"
#include "src/buffer_pool/page_store.h"
#include "src/io/sync.h"
#include "src/io/turn_budget.h"

namespace pando {

class DeadLists {
 public:
  // All three outlive this.
  DeadLists(Reactor& reactor, TurnBudget& turn, ExtentAllocator& allocator)
      : reactor_(reactor), turn_(turn), allocator_(allocator), lock_(reactor, 1) {}

  // Sets the newest durable generation and its dead list, as they were read from the file.
  void Begin(Generation durable, std::vector<DeadExtent> dead);
  // Waits for releases that are running. None may begin afterwards.
  Task<void> Drain() { co_await tasks_.Drain(); }

  // An extent died in the current generation.
  void Add(DeadExtent dead) { Place(dead, frozen_ + 1); }

  // -- checkpoints, in this order. From ListFrozen on, the caller has locked the lists.
  void EndGeneration(Generation frozen);
  // What died in the frozen generation, held or not. The next start must treat all of it as dead.
  Task<std::vector<DeadExtent>> ListFrozen();
  // Marks the groups of what this checkpoint no longer reaches: newest(), and the extents that are
  // held for longer, which become transient. A checkpoint that ran out of space may repeat this.
  Task<void> MarkUnreached();
  // From now on the dead list that is being written cannot change.
  void Fix() { fixed_ = true; }
  // The checkpoint is durable; `metadata` is what it replaced. Returns the extents that may be
  // reused now, which only the generation before the previous one needed: pass them to Reuse.
  std::vector<DeadExtent> Advance(const std::vector<DeadExtent>& metadata);
  // Ends what Advance began. The next checkpoint may already have begun.
  Task<void> Settle();
  // Frees extents in slices. The lists need not be locked.
  Task<void> Reuse(std::vector<DeadExtent> extents);

  bool checkpointing() const { return checkpointing_; }
  // The generation being checkpointed, or the last one that was.
  Generation frozen() const { return frozen_; }
  // A dead list that may already be on disk in part is not durable yet. This stays set when its
  // checkpoint fails on I/O; the engine stops then.
  bool fixed() const { return fixed_; }

  // -- holds
  void Hold(Generation generation) { ++held_[generation].holds; }
  // REQUIRES: the generation is held. Extents that only it needed become free in the background.
  void Release(Generation generation);
  // Released generations still retain extents, because their lists are being walked.
  bool releasing() const { return releasing_; }
  // Holds the newest durable generation. The caller has locked the lists. Takes time proportional
  // to the number of extents that died since that generation ended.
  Task<void> HoldDurable();

  Task<void> Lock() { return lock_.Acquire(); }
  void Unlock() { lock_.Release(); }

  // -- sizes
  // Freed in the newest durable generation, or replaced metadata; reusable once the next generation
  // is durable.
  const std::vector<DeadExtent>& newest() const { return newest_; }
  // The most entries that the dead lists to come can have in the current state, besides metadata.
  uint64_t entries_to_list() const;
  uint64_t held_blocks() const { return held_blocks_; }
  // Extents that holds retain. Each takes memory, but is written only once (D7).
  uint64_t held_extents() const { return held_extents_; }
  // Blocks that become free with the next checkpoints.
  uint64_t pending_blocks() const { return pending_blocks_; }

 private:
  using Extents = std::deque<DeadExtent>;  // grows without copies
  // What waits for the release of one generation: it belongs to that generation, perhaps to older
  // held ones, and to no younger one that is held.
  struct Held {
    uint32_t holds = 0;
    // Died before the newest durable generation. Neither root on disk reaches them.
    Extents settled;
    // Died since, by the generation in which they died: the newest durable one, the one being
    // checkpointed, and the current one.
    std::map<Generation, Extents> recent;
  };

  void Place(const DeadExtent& dead, Generation died);
  Task<void> PlaceHeld(Extents extents, Generation died);
  Task<void> PlaceDead(std::vector<DeadExtent> extents, Generation died);
  Task<void> PlaceReleased();

  Reactor& reactor_;
  TurnBudget& turn_;
  ExtentAllocator& allocator_;
  Generation durable_ = 0;  // the newest durable generation
  Generation frozen_ = 0;
  bool checkpointing_ = false;
  bool fixed_ = false;
  std::vector<DeadExtent> current_;      // died in the current generation
  std::vector<DeadExtent> frozen_dead_;  // died in the generation being checkpointed
  std::vector<DeadExtent> newest_;       // died in the newest durable generation
  std::map<Generation, Held> held_;
  Semaphore lock_;        // one credit
  uint64_t in_hand_ = 0;  // extents in motion that may get onto a dead list still to be written
  bool releasing_ = false;
  uint64_t held_blocks_ = 0, held_extents_ = 0;
  uint64_t pending_blocks_ = 0;
  TaskGroup tasks_;
};

}  // namespace pando
