// Snapshots manages the snapshots that clients of a node have open across all of its partitions: it
// opens, renews and releases them. Reads need only the token (kvapi/snapshot_token.h).
//
// Threads: the reactor it was created on; Node forwards calls to it.
//
// Invariants
//   SN1  At most kMaxSnapshots are open or being opened, and kMaxCopies besides.
//   SN2  A snapshot lives at most max_age_ms after it was opened, however often it is renewed. A copy for another
//        replica lives as long as it is renewed.
//   SN3  Snapshots are opened one at a time, so that writes wait for only one round of messages.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "src/io/sync.h"
#include "src/kvapi/snapshot_token.h"
#include "src/model/partition.h"
#include "src/wal/live_reader.h"

namespace pando {

inline constexpr size_t kMaxSnapshots = 64, kMaxCopies = 16;
inline constexpr int64_t kDefaultSnapshotTtlMs = 60'000;

struct OpenedSnapshot {
  SnapshotToken token;
  int64_t expires_at_ms = 0;
};

// A snapshot of one partition for another replica of it, and the log after it, which the master keeps meanwhile.
struct OpenedCopy {
  OpenedSnapshot snapshot;
  KeptLog log;
};

// Becomes true when nobody waits for a call any more.
using UnwantedFlag = std::shared_ptr<std::atomic<bool>>;

class Snapshots {
 public:
  // `partitions`: those of which a snapshot is opened, ascending by ID. The vector outlives this object; so
  // do the places of partitions in it (local_partition.h), even after they have left it.
  Snapshots(Reactor& reactor, const std::vector<Partition*>* partitions, int64_t max_age_ms)
      : reactor_(reactor), partitions_(*partitions), max_age_ms_(max_age_ms), turn_(reactor, 1) {}

  // ttl_ms 0 means the default; a ttl above the age limit is lowered to it. kOverloaded if
  // kMaxSnapshots are open. kDeadline, with nothing opened, if *unwanted became true while the call
  // waited for its turn; any thread may set it. Null: the call is always wanted.
  Task<Result<OpenedSnapshot>> Open(int64_t ttl_ms, UnwantedFlag unwanted = nullptr);
  // A snapshot of one partition (of the vector), for another replica of it. kOverloaded: kMaxCopies are open.
  Task<Result<OpenedSnapshot>> OpenCopy(Partition* partition, int64_t ttl_ms);
  // Sets the expiry to ttl_ms from now, but never to an earlier time than before. kSnapshotGone if
  // the snapshot is gone.
  Task<Result<OpenedSnapshot>> Renew(SnapshotToken token, int64_t ttl_ms);
  // Returns false if the snapshot was already gone.
  Task<Result<bool>> Release(SnapshotToken token);
  // The partition was dropped. The others keep their snapshots.
  void Forget(const Partition* partition);

 private:
  struct OpenSnapshot {
    OpenedSnapshot opened;
    std::vector<Partition*> partitions;  // that have it
    bool is_copy = false;
  };
  Task<Result<OpenedSnapshot>> OpenInTurn(std::vector<Partition*> partitions, bool is_copy, int64_t ttl_ms);
  int64_t ExpiryOf(int64_t opened_at_ms, int64_t ttl_ms, bool is_copy) const;
  void ForgetExpired();

  Reactor& reactor_;
  const std::vector<Partition*>& partitions_;
  const int64_t max_age_ms_;
  Semaphore turn_;
  std::map<SnapshotId, OpenSnapshot> open_;
};

}  // namespace pando
