// SpaceReleaser: gives space that deletes have freed back to the file system, in the background, by making holes in the
// partitions' files.
//
// A file that is written to needs free space for its next checkpoints all the time: what comes and goes between them is
// not worth a hole, which would have to be filled again soon. So only what has stayed free for `after_ns` goes back,
// and an eighth of what is in use, and what admitted writes are promised, stays.
//
// Threads: one reactor.
//
// Invariants
//   SR1  At most bytes_per_s are given back, in pieces of at most kPieceBlocks.
//   SR2  A file system that makes no holes is asked once for each file.
#pragma once

#include <vector>

#include "src/io/reactor.h"

namespace pando {

class Replica;

struct SpaceReleaseOptions {
  uint64_t bytes_per_s = 0;         // 0: nothing is given back
  Nanos after_ns = 60 * kSecond;    // for so long it must have been free
  uint64_t min_keep_blocks = 1024;  // 4 MiB of free space stay in each file, however little is in use
};

struct SpaceReleaseStats {
  uint64_t bytes_total = 0;
  uint64_t refused_files = 0;  // whose file system makes no holes
};

class SpaceReleaser {
 public:
  SpaceReleaser(Reactor& reactor, std::vector<Replica*> replicas, SpaceReleaseOptions options);

  // Until Stop.
  Task<void> Run();
  void Stop() { stopping_ = true; }
  const SpaceReleaseStats& stats() const { return stats_; }

 private:
  static constexpr uint64_t kPieceBlocks = 1024;  // 4 MiB
  struct Watched {
    Replica* replica = nullptr;
    uint64_t low_before = 0, low_now = UINT64_MAX;  // the least that was spare in the last period, and in this one
    bool refused = false;
  };

  uint64_t Surplus(Watched* watched) const;
  Task<void> Release(Watched* watched);

  Reactor& reactor_;
  std::vector<Watched> watched_;
  const SpaceReleaseOptions options_;
  Nanos period_end_ns_;
  uint64_t credit_bytes_ = 0;  // of the rate
  bool stopping_ = false;
  SpaceReleaseStats stats_;
};

}  // namespace pando
