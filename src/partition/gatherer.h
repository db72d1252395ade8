// Gatherer: writes leaves anew that a scan found scattered, so that they come to lie together.
//
// A scan reports ranges of leaves that took many reads. A task makes those dirty that would come to lie with more of
// their siblings; the next checkpoint or eviction writes them there. In a store that is not written to, each such move
// brings siblings together, so this ends. What a snapshot has stays where it is, because the snapshot would hold the
// old place, too.
//
// Threads: one reactor.
//
// Invariants
//   GA1  At most one task of a partition gathers. All of an engine keep to one pace, but for a leaf of each partition,
//   and
//        begin nothing once the partition drains or has failed.
//   GA2  It takes no disk space that writes or checkpoints may need. While more than an eighth of the file waits for
//        checkpoints to free it, or is held by readers of older states, nothing is gathered.
#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "src/io/pace.h"
#include "src/partition/block_admission.h"

namespace pando {

class Gatherer {
 public:
  // pace: shared by the partitions of the reactor. Null: nothing is gathered.
  Gatherer(PartitionState& state, Checkpointer& checkpointer, BlockAdmission& admission, Pace* pace)
      : state_(state), checkpointer_(checkpointer), admission_(admission), pace_(pace) {}

  // A scan has found the leaves from the one of `from` on scattered. Forgotten if too many ranges wait: the next scan
  // finds it again.
  void GatherSoon(std::string_view from, size_t leaves);

 private:
  struct Range {
    std::string from;
    size_t leaves = 0;
  };

  bool MayGather() const;
  Task<void> GatherQueued();
  Task<Status> Gather(Range range);

  PartitionState& state_;
  Checkpointer& checkpointer_;
  BlockAdmission& admission_;
  Pace* const pace_;
  std::deque<Range> ranges_;
  bool gathering_ = false;  // GatherQueued runs
};

}  // namespace pando
