// CopiedPages: a copy of a partition that its master offers to one replica (Cluster.openCopy), as the pages that
// an installation needs. It keeps the copy alive while the pages come, and slows down to a rate.
//
// Threads: one reactor. Memory: one batch of pages, in the reply and decoded (kMemoryBytes).
//
// Invariants
//   CP1  Once the copy is gone, or the node there is not the master any more, Next fails soon: a copy of a master
//        that was deposed is of no use, because nobody keeps the log after it.
#pragma once

#include <string>

#include "src/backup/install.h"
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
  // `bytes_per_s`: 0: as fast as possible. `came`: counts the bytes of pages.
  CopiedPages(Reactor& reactor, uint32_t partition, Uuid replica, uint64_t bytes_per_s, Counter* came)
      : reactor_(reactor),
        client_(reactor),
        partition_(partition),
        replica_(replica.ToString()),
        bytes_per_s_(bytes_per_s),
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
  void Cancel() override;

  const Progress& progress() const { return progress_; }

 private:
  static constexpr Nanos kCallNs = 20 * kSecond;
  static constexpr int32_t kDescribeMs = 60'000;  // it waits for a checkpoint there
  static constexpr Nanos kRenewNs = 2 * kSecond, kPollNs = 50 * kMillisecond;

  Task<Status> Renew();
  Task<void> KeepRenewing();
  void End(Status why);
  Task<void> Pace();

  Reactor& reactor_;
  RpcClient client_;
  const uint32_t partition_;
  const std::string replica_;
  const uint64_t bytes_per_s_;
  Counter& came_;
  std::string snapshot_, cursor_;
  Progress progress_;
  Nanos began_ns_ = 0;
  Status ended_;
  bool closing_ = false, connection_ended_ = false;
  TaskGroup tasks_;
};

}  // namespace pando
