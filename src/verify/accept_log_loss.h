// AcceptLogLoss: gets a store back whose log of one reactor is damaged as a whole, so that no node starts
// on it: a batch or a header that cannot be read, a file that is cut short or missing, or a log that ends
// before a superblock says. An operator decides that, with `kvadmin accept-loss --log`. The log then ends
// before the damage (wal/log_cut.h).
//
// Each partition of the reactor continues from the newest of its checkpoint and of what the log holds
// before the damage:
//   - where the log goes further, the partition continues at its end;
//   - where the checkpoint goes further, or the end of the log is one that the checkpoint's history has
//     superseded, what the log holds of the partition means nothing from now on (StoreInfo::BeginAnew);
//   - a partition that is damaged by itself stays quarantined (verify/accept_loss.h).
// Units that no mark before the damage has called committed stay so: the CommitGate decides about them.
// The cut states of each how far it has come, the highest version that can be read, and an epoch far above
// those that can be read, so that no epoch of what is lost comes again.
//
// What is lost is known only in part: a batch that cannot be read may hold writes of any partition.
//
// Threads: one reactor, which has the store's lock. No process has the store open.
//
// Invariants
//   AL3  A crash leaves the store as it was, or done, or in between: then every start is refused, and
//        FinishLogLoss does the rest. Nothing changes what has been decided: neither the place of the cut
//        nor how each partition continues.
//   AL4  Each partition continues with a prefix of its history that contains its checkpoint.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/partition/store.h"
#include "src/wal/log_cut.h"
#include "src/wal/log_reader.h"

namespace pando {

// What one partition of the reactor keeps, and what is known to be lost of it.
struct PartitionLogLoss {
  enum class From : uint8_t { kCheckpoint, kLog, kQuarantined };
  PartitionInfo info;
  From from = From::kCheckpoint;
  std::string why;         // kQuarantined
  Lsn checkpoint_lsn = 0;  // 0 if its file cannot be read
  Lsn keeps_lsn = 0;
  Lsn known_lsn = 0;              // the last one of which the log or the file says that it was there
  Version known_version = 0;      // the highest
  uint64_t readable_records = 0;  // above keeps_lsn that can still be read behind the damage
};

struct LogLossReport {
  StoreInfo store;
  uint32_t reactor = 0;
  std::string directory;
  std::string damage;                               // says where
  uint64_t batches = 0, records = 0;                // before it
  uint64_t batches_behind = 0, records_behind = 0;  // that can still be read
  std::vector<std::string> put_aside;               // names of segments
  std::vector<PartitionLogLoss> partitions;
  LogCut cut;  // without a code
  LogCutContent content;
};

// kNotFound: there is no such log. kInvalidArgument: a node would start, so there is nothing to accept.
Task<Result<LogLossReport>> ExamineLogLoss(Reactor& reactor, StoreInfo store, uint32_t log);
// Accepts the loss. `code` is what the operator has confirmed it by.
Task<Status> AcceptLogLoss(Reactor& reactor, const LogLossReport* report, uint32_t code);

// The acceptance that was cut short, if there is one.
Task<Result<std::optional<LogCut>>> FindBegunLogLoss(Reactor& reactor, const StoreInfo* store, uint32_t log);
Task<Status> FinishLogLoss(Reactor& reactor, StoreInfo store, uint32_t log, LogCut cut);

}  // namespace pando
