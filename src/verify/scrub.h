// Scrubber: rereads from disk what the engine owns and verifies it, while the engine serves
// requests. It finds damage while a good copy still exists, instead of leaving it to the request or
// the restart that needs the bytes.
//
// A pass covers, for each partition, both superblock slots with both copies, the group directory,
// the bitmaps, and the dead list, and then the tree of the newest checkpoint (tree_check.h). Of the
// log it covers everything that is durable and still needed. A running store cannot be checked for
// blocks that have no owner or more than one; `kvadmin check DIR` does that on a stopped store.
//
// A tree is walked in slices. Each slice holds the newest checkpoint's root so that its blocks are
// not reused, and continues at the key where the last slice ended. A slice ends after ten seconds,
// or when 1/32 of the blocks in use have been freed since it began. A pass that takes hours
// therefore retains no more than that.
//
// Damage stops nothing: requests for the damaged page return CORRUPT as they would anyway, and all
// others are served. Findings are logged, counted, and kept until a later complete pass no longer
// sees them.
//
// Threads: the engine's reactor. Run() belongs to the engine's TaskGroup. Stop() makes it return
// soon.
//
// Invariants
//   U1  Verification reads from the disk with its own O_DIRECT reads. It neither consults nor fills
//       the buffer pool, and it writes nothing.
//   U2  Changes on disk during a read are never reported as damage. Trees are held. Metadata that a
//       checkpoint may have replaced and segments that were recycled are reread or skipped.
//   U3  Reads keep to the rate of the pass. No read starts before the time budgeted for the earlier
//       reads has passed.
//   U4  Memory is bounded: the buffers of one read, one page for each level of one tree,
//       kMaxFindings findings, and one bit for each block of a partition while its bitmaps are
//       verified.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/io/reactor.h"
#include "src/partition/store.h"
#include "src/verify/check_problem.h"
#include "src/wal/log.h"

namespace pando {

class BatchChain;
class PartitionFile;
class Replica;

struct ScrubOptions {
  uint64_t bytes_per_s = 0;  // of background passes; 0: only requested passes run
  Nanos interval_ns = 0;     // between the starts of background passes
};

struct ScrubFinding {
  CheckProblem problem;
  uint64_t pass = 0;  // the last pass that saw it
  int64_t first_seen_ms = 0;
};

struct ScrubReport {
  bool running = false;
  uint64_t passes_started = 0, passes_finished = 0;
  // Of the current pass, or of the last one.
  uint64_t bytes = 0, expected_bytes = 0, rate_bytes_per_s = 0;
  uint64_t pages = 0, values = 0, batches = 0;
  uint64_t skipped = 0;  // partitions whose metadata kept changing for the whole time
  // Since the start.
  uint64_t bytes_total = 0, pages_total = 0, findings_total = 0;
  int64_t last_finished_ms = 0;  // Unix time; 0: no pass has finished
  std::vector<ScrubFinding> findings;
};

// The memory that a pass may use outside the pool: its read buffers.
inline constexpr uint64_t kScrubBufferBytes = 2u << 20;

class Scrubber {
 public:
  static constexpr size_t kMaxFindings = 100;

  // All pointers outlive the scrubber. `log` is open.
  Scrubber(Reactor& reactor, const StoreInfo* store, Log* log, ScrubOptions options);
  ~Scrubber();

  // A replica stays until Remove, which may be called once nothing holds the replica any more.
  void Add(Replica* replica);
  void Remove(const Replica* replica);
  // Works until Stop().
  Task<void> Run();
  // Begins a pass. Abandons the current one if it is a background pass, or if the new one is at
  // least twice as fast; otherwise the new one follows it. `bytes_per_s` 0: the background rate, or
  // kDefaultRate.
  void StartPass(uint64_t bytes_per_s);
  void Stop() { stopping_ = true; }
  // The findings so far. A report has few of them.
  const ScrubReport& report() const { return report_; }

  static constexpr uint64_t kDefaultRate = 8u << 20;

 private:
  class PartitionHost;

  bool Over() const { return stopping_ || abandon_; }
  // Whether the pass is over, or the partition that is being read leaves service.
  bool Ends() const;
  Task<void> Pass();
  Task<void> ScrubPartition(Replica* replica);
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
  std::map<uint32_t, Replica*> replicas_;  // by ID
  const Replica* current_ = nullptr;       // the one that is being read
  Log* const log_;
  const ScrubOptions options_;
  ScrubReport report_;
  bool requested_ = false;  // the current pass was asked for
  bool abandon_ = false;    // the current pass ends early
  Nanos next_log_ns_ = 0;
  uint64_t asked_rate_ = 0;  // rate of the requested pass; 0: none is requested
  bool stopping_ = false;
  Nanos next_pass_ns_ = 0;
  Nanos paid_until_ns_ = 0;  // when the rate allows the next read
};

}  // namespace pando
