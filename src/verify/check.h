// CheckStore: the page audit behind `kvadmin check` and the tests. It reads a store that no process
// has open and changes nothing in it. (The scrubber, scrub.h, checks a store that is open.)
//
// For every partition it checks the superblock copies, the group directory, the bitmaps, and the
// dead list, and then the whole tree from the newest root (tree_check.h). Every block must have
// exactly one owner (a page, a value, metadata, or the dead list) or be free in the bitmap. For
// every log it reads all batches in order.
//
// Threads: one reactor.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/partition/store.h"
#include "src/verify/check_problem.h"
#include "src/wal/log_format.h"
#include "src/wal/write_unit.h"

namespace pando {

struct PartitionCheck {
  uint32_t id = 0;
  std::string file;
  bool opened = false;          // its superblock can be read, and what follows says something
  bool metadata_sound = false;  // also its bitmaps and its dead list, so that it may be written
  uint64_t generation = 0, checkpoint_lsn = 0;
  Epoch checkpoint_epoch = 0;     // of the record at checkpoint_lsn
  uint64_t checkpoint_chain = 0;  // after it; 0: unknown
  Version last_version = 0;
  LogPosition log_end = 0;     // how far the log had come, according to the superblock
  uint64_t tree_problems = 0;  // places of its tree that are damaged; what needs them cannot be read
  uint64_t inner_pages = 0, leaf_pages = 0, overflow_values = 0;
  uint64_t records = 0, bytes = 0, content_hash = 0;  // of the tree; the log may hold more
  uint64_t file_blocks = 0, reachable_blocks = 0, metadata_blocks = 0, pending_free_blocks = 0, free_blocks = 0;
  uint64_t leaf_fill_percent = 0;
};

struct LogCheck {
  std::string directory;
  uint64_t segments = 0, batches = 0, records = 0;
  // An unfinished write at the end, as a crash leaves it; recovery cuts it off.
  bool torn_tail = false;
  // What it says about a partition, or holds of it, whether or not that is sound.
  struct Logged {
    Lsn last_lsn = 0;
    Version version = 0;  // the highest that a mark has stated
    // Where the history of a partition of the store ends, if the log holds any of it.
    std::optional<HistoryPoint> end;
  };
  std::unordered_map<Uuid, Logged, UuidHash> logged;
};

struct CheckReport {
  StoreInfo store;
  std::vector<PartitionCheck> partitions;
  std::vector<LogCheck> logs;
  std::vector<CheckProblem> problems;  // empty: the store is intact
  uint64_t problems_total = 0;         // includes those beyond kMaxProblems
  // What they concern: the partitions, and whether there are others, because of which no node should
  // be started.
  std::vector<uint32_t> damaged_partitions;
  bool whole_logs_damaged = false;
  // Harmless damage that a power failure may also leave: in the copies of one superblock slot.
  std::vector<CheckProblem> notes;
  static constexpr size_t kMaxProblems = 100;
  void Add(CheckProblem problem);
};

struct CheckOptions {
  // Only what says how far each partition has come: its superblock, its metadata and the logs, not its tree.
  bool without_trees = false;
  // Called from time to time with the blocks read and the blocks in use, to report progress.
  std::function<void(uint64_t done_blocks, uint64_t total_blocks)> on_progress;
};

// kLocked: a process has the store open. kNotFound: there is no store. Other errors are returned
// only if not even the store file can be read. Damage is not an error but a problem in the report.
Task<Result<CheckReport>> CheckStore(Reactor& reactor, std::string data_dir, CheckOptions options = {});

// Checks one partition, and what the log of its reactor says about it. REQUIRES: the store holds it,
// and the caller holds the store's lock.
Task<CheckReport> CheckPartition(Reactor& reactor, StoreInfo store, uint32_t partition);

}  // namespace pando
