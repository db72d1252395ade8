// Scrubber: while the engine serves, reads again from disk what it owns and verifies it, so that damage is found while
// there is still a good copy, and not by the request or the restart that needs the bytes.
//
// A pass covers, for each partition: both superblock slots with both copies, the group directory, the bitmaps and the
// dead list; then the tree of the newest checkpoint (tree_check.h); and of the log all that is durable and still
// needed. That every block has exactly one owner can be seen only in a store that stands still: `kvadmin check DIR`
// does that.
//
// A tree is walked in slices: each holds the newest checkpoint's root against reuse and goes on at the key where the
// last one ended. A slice is over after ten seconds, or when a 32nd of the file has been given up since it began: a
// pass that takes hours pins no more than that.
//
// Damage stops nothing: the page's own requests answer CORRUPT as they would anyway, all others are served. Findings
// are logged, counted, and kept until a later complete pass does not see them any more.
//
// Threads: the engine's reactor. Run() belongs to the engine's TaskGroup; Stop() makes it return soon.
//
// Invariants
//   U1  What is verified comes from the disk, by reads of its own with O_DIRECT; the buffer pool is neither asked nor
//       filled, and nothing is written.
//   U2  Whatever changes on disk while it is read is no finding: trees are held, metadata that a checkpoint may have
//       replaced and segments that were recycled are read again or left out.
//   U3  Reads keep to the pass's rate: none is started before the bytes of those before it are paid for.
//   U4  Memory is bounded: the buffers of one read, a page for each level of one tree, kMaxFindings findings, and
//       while a partition's bitmaps are verified a bit for each of its blocks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/io/reactor.h"
#include "src/partition/check_problem.h"
#include "src/partition/store.h"
#include "src/wal/log.h"

namespace pando {

class BatchChain;
class PartitionFile;
class Replica;

struct ScrubOptions {
  uint64_t bytes_per_s = 0;  // of background passes; 0: there are none, only those asked for
  Nanos interval_ns = 0;     // between the starts of background passes
};

struct ScrubFinding {
  CheckProblem problem;
  uint64_t pass = 0;  // that saw it last
  int64_t first_seen_ms = 0;
};

struct ScrubReport {
  bool running = false;
  uint64_t passes_started = 0, passes_finished = 0;
  // Of the pass under way, or of the last one.
  uint64_t bytes = 0, expected_bytes = 0, rate_bytes_per_s = 0;
  uint64_t pages = 0, values = 0, batches = 0;
  uint64_t skipped = 0;  // partitions whose metadata never stood still for long enough
  // Since the start.
  uint64_t bytes_total = 0, pages_total = 0, findings_total = 0;
  int64_t last_finished_ms = 0;  // Unix time; 0: no pass has finished
  std::vector<ScrubFinding> findings;
};

// What a pass may use beside the pool: its read buffers.
inline constexpr uint64_t kScrubBufferBytes = 2u << 20;

class Scrubber {
 public:
  static constexpr size_t kMaxFindings = 100;

  // All outlive it. `log` is open.
  Scrubber(Reactor& reactor, const StoreInfo* store, std::vector<Replica*> replicas, Log* log, ScrubOptions options);
  ~Scrubber();

  // Works until Stop().
  Task<void> Run();
  // Begins a pass; one that is under way is given up for it. `bytes_per_s` 0: the background's rate, or kDefaultRate.
  void StartPass(uint64_t bytes_per_s);
  void Stop() { stopping_ = true; }
  // What has been found so far; a report's findings are few.
  const ScrubReport& report() const { return report_; }

  static constexpr uint64_t kDefaultRate = 8u << 20;

 private:
  class PartitionHost;

  bool Over() const { return stopping_ || asked_rate_ != 0; }
  Task<void> Pass();
  Task<bool> Pace(uint64_t bytes);
  void Find(std::string file, uint64_t offset_bytes, std::string what, std::string_view advice);
  void Finish();
  uint64_t ExpectedBytes() const;
  Task<void> ScrubMetadata(PartitionFile* file);
  Task<uint64_t> ReadMetadata(PartitionFile* file, std::vector<CheckProblem>* found);
  Task<void> ScrubTree(PartitionFile* file);
  Task<void> ScrubLog();
  Task<void> ScrubSegment(DurableSegment segment, BatchChain* chain);

  Reactor& reactor_;
  const StoreInfo* const store_;
  const std::vector<Replica*> replicas_;
  Log* const log_;
  const ScrubOptions options_;
  ScrubReport report_;
  uint64_t asked_rate_ = 0;  // of the pass asked for; 0: none is
  bool stopping_ = false;
  Nanos next_pass_ns_ = 0;
  Nanos paid_until_ns_ = 0;  // when the reads so far are paid for
};

}  // namespace pando
