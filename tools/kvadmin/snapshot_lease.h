// SnapshotLease: a snapshot that a command reads for as long as it runs: opened, renewed in time, and released when the
// lease goes away, whatever the reason. Only Leave() keeps it, for a later command that resumes this one.
//
// The server frees a snapshot by itself when it is not renewed. One that is lost with its process is gone after `ttl`;
// one whose token got lost, because the answer to its opening did not arrive, after kOpenTtl.
//
// Threads: one.
#pragma once

#include <chrono>
#include <string>

#include "tools/kvadmin/client.h"

namespace pando::admin {

class SnapshotLease {
 public:
  // For a command that can be resumed, and for one that cannot.
  static constexpr std::chrono::milliseconds kResumableTtl = std::chrono::minutes(30);
  static constexpr std::chrono::milliseconds kWorkingTtl = std::chrono::minutes(5);

  // `client` outlives the lease.
  SnapshotLease(Client* client, std::chrono::milliseconds ttl) : client_(client), ttl_(ttl) {}
  SnapshotLease(const SnapshotLease&) = delete;
  SnapshotLease& operator=(const SnapshotLease&) = delete;
  ~SnapshotLease();

  Status Open();
  // Goes on with one that was opened before (kSnapshotGone).
  Status Adopt(const std::string& token);
  // To be called between requests; renews when a part of the time has passed. kSnapshotGone.
  Status Keep();
  Status Release();
  // Leaves the snapshot on the server for its `ttl`, or, on an error, for what is left of it.
  Status Leave();

  const std::string& token() const { return token_; }  // empty before Open and after Release and Leave
  int64_t version() const { return version_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kOpenTtl = std::chrono::minutes(1);
  Status Renew();

  Client* const client_;
  const std::chrono::milliseconds ttl_;
  std::string token_;
  int64_t version_ = 0;
  Clock::time_point renewed_;
};

}  // namespace pando::admin
