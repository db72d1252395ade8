// CopiedPages: a copy of a partition that its master offers to one replica (Cluster.openCopy), as the pages that
// an installation needs. It keeps the copy alive while the pages come, and slows down to a rate.
//
// The master keeps a bounded part of the log for a copy. If more is written while the pages come, CopiedPages opens
// another copy and asks for those pages that were written since the last one. Each of these rounds is shorter than the
// one before, as long as pages come faster than they are written; the last one leaves half of the log that may be kept
// to the verification of the file.
//
// Threads: one reactor. Memory: one batch of pages, in the reply and decoded (kMemoryBytes).
//
// Invariants
//   CP1  Once the copy is gone, or the node there is not the master any more, Next fails soon: a copy of a master
//        that was deposed is of no use, because nobody keeps the log after it.
//   CP2  The copies of an installation are of one process: pages of another replica lie elsewhere. They are fetched
//   over
//        one connection.
#pragma once

#include <optional>
#include <string>

#include "src/backup/install.h"
#include "src/io/pace.h"
#include "src/io/reactor.h"
#include "src/metrics/metrics.h"
#include "src/node/node_partitions.h"
#include "src/rpc/rpc_client.h"

namespace pando {

class CopiedPages final : public SnapshotPages {
 public:
  // What a copy takes of the node's memory while it comes.
  static constexpr int64_t kMemoryBytes = 8 << 20;

  struct Progress {
    uint64_t bytes = 0, of_bytes = 0;  // of pages; `of_bytes` is about right
  };
  // `pace`: of this node's copies, which outlives this. `came`: counts the bytes of pages.
  CopiedPages(Reactor& reactor, uint32_t partition, Uuid replica, Pace* pace, Counter* came)
      : reactor_(reactor),
        client_(reactor),
        partition_(partition),
        replica_(replica.ToString()),
        pace_(*pace),
        came_(*came) {}
  ~CopiedPages();  // REQUIRES: Close has returned

  Task<Status> Connect(std::string host, uint16_t port);
  // Asks the master, to which this is connected, to let the replica take the place of another one of its node; nil:
  // of none. True: the topology says so already; else ask again.
  Task<Result<bool>> Replace(uint32_t node, Uuid leaves);
  // Opens the copy. `uuid`: that of the partition. `ranges`: of the store, which is the same everywhere.
  Task<Result<InstallSource>> Open(Uuid uuid, uint32_t ranges);
  Task<void> Close();

  Task<Result<PageBatch>> Next() override;
  Task<Result<std::optional<SnapshotRoot>>> Newer() override;
  void Cancel() override;

  const Progress& progress() const { return progress_; }

 private:
  static constexpr Nanos kCallNs = 20 * kSecond;
  static constexpr int32_t kDescribeMs = 60'000;  // it waits for a checkpoint there
  static constexpr Nanos kRenewNs = 2 * kSecond, kPollNs = 50 * kMillisecond;

  // After so many copies whose log was not kept, the installation goes on with what has come. Its master offers
  // another.
  static constexpr int kMaxRounds = 16;

  // Opens another copy, in the place of the one that is open.
  Task<Result<InstallSource>> OpenNext();
  Task<void> Release(std::string snapshot);
  Task<Status> Renew();
  Task<void> KeepRenewing();
  void End(Status why);
  Task<void> KeepPace();

  Reactor& reactor_;
  RpcClient client_;
  const uint32_t partition_;
  const std::string replica_;
  Pace& pace_;
  Counter& came_;
  Uuid uuid_;  // of the partition
  uint32_t ranges_ = 0;
  std::string snapshot_, cursor_;
  Generation generation_ = 0;  // of the newest copy
  Generation have_ = 0;        // of the copy before: its pages are here
  int copies_ = 0;
  bool log_suffices_ = true;  // what is kept after the newest copy, when it was last renewed
  Progress progress_;
  Status ended_;
  bool closing_ = false, connection_ended_ = false;
  TaskGroup tasks_;
};

}  // namespace pando
