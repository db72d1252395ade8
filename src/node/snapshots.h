// Snapshots: those that clients of a node have open, over all its partitions, and the tokens that name them.
//
// A token holds all that reading needs (docs/FORMAT.md, "Snapshot token"): any reactor turns it into the partitions'
// name for the snapshot, and the partitions say when it is gone. This class only opens, renews and releases.
//
// Threads: the reactor it was made on; Node carries calls there. Tokens are values.
//
// Invariants
//   SN1  At most kMaxSnapshots are open or being opened.
//   SN2  No snapshot outlives its opening by more than max_age_ms, however often it is renewed.
//   SN3  One is opened at a time, so that partitions wait for one round of messages only.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/sync.h"
#include "src/partition/partition.h"

namespace pando {

inline constexpr size_t kMaxSnapshots = 64;
inline constexpr int64_t kDefaultSnapshotTtlMs = 60'000;

inline constexpr uint8_t kSnapshotTokenVersion = 1;
struct SnapshotToken {
  SnapshotId id = 0;
  Version version = 0;
};
std::string EncodeSnapshotToken(const SnapshotToken& token);
// kInvalidArgument when the bytes are no token, or of another version.
Result<SnapshotToken> DecodeSnapshotToken(std::string_view bytes);

struct OpenedSnapshot {
  SnapshotToken token;
  int64_t expires_at_ms = 0;
};

class Snapshots {
 public:
  // `partitions` by id; both outlive this.
  Snapshots(Reactor& reactor, const std::vector<Partition*>* partitions, int64_t max_age_ms)
      : reactor_(reactor), partitions_(*partitions), max_age_ms_(max_age_ms), turn_(reactor, 1) {}

  // ttl_ms 0: the default; longer ones are cut to the age limit. kOverloaded when there are kMaxSnapshots.
  Task<Result<OpenedSnapshot>> Open(int64_t ttl_ms);
  // From now on; never shortens. kSnapshotGone.
  Task<Result<OpenedSnapshot>> Renew(SnapshotToken token, int64_t ttl_ms);
  // False when it was gone already.
  Task<Result<bool>> Release(SnapshotToken token);

 private:
  Task<Result<OpenedSnapshot>> OpenInTurn(int64_t ttl_ms);
  int64_t ExpiryOf(int64_t opened_at_ms, int64_t ttl_ms) const;
  void ForgetExpired();

  Reactor& reactor_;
  const std::vector<Partition*>& partitions_;
  const int64_t max_age_ms_;
  Semaphore turn_;
  std::map<SnapshotId, OpenedSnapshot> open_;
};

}  // namespace pando
