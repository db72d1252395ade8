// AcceptLoss: gets a quarantined partition back when what its file or the log lacks is lost for good.
// An operator decides that, with `kvadmin accept-loss`. The partition then continues from its last
// checkpoint, or from a file that is put in the place of its own: that of a backup, or an empty one.
// What the log holds of the partition so far means nothing from then on (LogOptions::dropped).
//
// Threads: one reactor, which has the store's lock. No process has the store open.
//
// Invariants
//   AL1  A crash leaves the partition as it was, or with its new file, or with its loss accepted.
//        In each case a node quarantines it or serves it, and the call can be repeated.
//   AL2  Nothing of another partition changes, and no file of this one is overwritten or removed: the
//        old one stays beside the new one.
#pragma once

#include <string>
#include <vector>

#include "src/verify/check.h"

namespace pando {

// What is wrong with a partition, and what would be lost.
struct LossReport {
  StoreInfo store;
  PartitionInfo partition;
  std::vector<CheckProblem> problems;  // none: the partition is sound
  // What its file holds. If a node cannot open and extend it, it must be replaced.
  bool file_opens = false;
  PartitionCheck file;
  // The last record that the log holds of it, or says was durable, and the newest version.
  Lsn logged_lsn = 0;
  Version logged_version = 0;
  LogPosition next_history = 0;  // where its new history begins
};

// kInvalidArgument: the store does not hold the partition. kCorruption: not only this partition is damaged,
// but the log as a whole, so that a node would not start.
Task<Result<LossReport>> ExamineLoss(Reactor& reactor, StoreInfo store, uint32_t partition);

// Accepts the loss. `replace` creates the file that takes the place of the partition's own; null: the
// partition continues from its last checkpoint, and its file must open.
Task<Status> AcceptLoss(Reactor& reactor, const LossReport* report, MakePartitionFile replace);

// Creates the file of an empty partition that continues where the damaged one cannot: its generation is
// higher than any that the partition has had, so that no backup is taken for a base of it.
Task<Status> CreateEmptySuccessor(Reactor& reactor, PartitionFileOptions options);

// The number of a segment of reactor `log` that does not exist yet, and that the log has not reached
// according to its files, store.meta, and `known`.
Task<Result<uint64_t>> UnusedSegment(Reactor* reactor, const StoreInfo* store, uint32_t log, LogPosition known);

}  // namespace pando
