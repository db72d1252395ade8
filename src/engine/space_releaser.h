// SpaceReleaser: returns the space that deletes have freed to the file system, in the background,
// by punching holes in the partitions' files.
//
// A file that is being written to always needs free space for its next checkpoints. Space that
// comes and goes between them is not worth a hole, which would soon have to be filled again. Only
// space that has stayed free for `after_ns` is returned. Free space equal to 1/8 of the space in
// use, and the space promised to admitted writes, stays in the file.
//
// Threads: one reactor.
//
// Invariants
//   SR1  At most bytes_per_s are returned, in pieces of at most kPieceBlocks.
//   SR2  If the file system cannot punch holes, the releaser tries once per file.
//   SR3  A tick looks at a bounded number of partitions, in turn.
#pragma once

#include <map>

#include "src/io/reactor.h"

namespace pando {

class Replica;

struct SpaceReleaseOptions {
  uint64_t bytes_per_s = 0;       // 0: nothing is returned
  Nanos after_ns = 60 * kSecond;  // how long space must have been free
  // 4 MiB of free space stay in each file even if little is in use.
  uint64_t min_keep_blocks = 1024;
};

struct SpaceReleaseStats {
  uint64_t bytes_total = 0;
  uint64_t refused_files = 0;  // that are there now, whose file system cannot punch holes
};

class SpaceReleaser {
 public:
  SpaceReleaser(Reactor& reactor, SpaceReleaseOptions options);

  // A replica stays until Remove, which may be called once nothing holds the replica any more.
  void Add(Replica* replica);
  void Remove(Replica* replica);
  // Works until Stop().
  Task<void> Run();
  void Stop() { stopping_ = true; }
  const SpaceReleaseStats& stats() const { return stats_; }

 private:
  static constexpr uint64_t kPieceBlocks = 1024;  // 4 MiB
  struct Watched {
    Replica* replica = nullptr;
    // The least spare space in the last period and in this one.
    uint64_t low_before = 0, low_now = UINT64_MAX;
    Nanos period_end_ns = 0;
    bool refused = false;
  };

  uint64_t Surplus(Watched* watched) const;
  void AddCredit(Nanos passed_ns);
  Task<void> LookAtNext();
  Task<void> Release(Watched* watched);

  Reactor& reactor_;
  const SpaceReleaseOptions options_;
  std::map<uint32_t, Watched> watched_;  // by ID
  uint32_t next_id_ = 0;                 // at or after which to look next
  uint64_t credit_bytes_ = 0;            // how much the rate allows now
  bool stopping_ = false;
  SpaceReleaseStats stats_;
};

}  // namespace pando
