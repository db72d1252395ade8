// SnapshotLease: holds a server snapshot open while a command runs. It opens the snapshot, renews
// it in time, and releases it in the destructor. Only Leave() keeps the snapshot, for a later
// command that resumes this one.
//
// Threads: one.
//
// The server frees a snapshot that is not renewed. If the process dies, the snapshot ends after
// `ttl`. If the answer to Open is lost, and the token with it, the snapshot ends after kOpenTtl.
#pragma once

#include <chrono>
#include <string>

#include "tools/kvadmin/client.h"

namespace pando::admin {

class SnapshotLease {
 public:
  // kResumableTtl is for commands that can be resumed, kWorkingTtl for the others.
  static constexpr std::chrono::milliseconds kResumableTtl = std::chrono::minutes(10);
  static constexpr std::chrono::milliseconds kWorkingTtl = std::chrono::minutes(5);

  // `client` must outlive the lease.
  SnapshotLease(Client* client, std::chrono::milliseconds ttl) : client_(client), ttl_(ttl) {}
  SnapshotLease(const SnapshotLease&) = delete;
  SnapshotLease& operator=(const SnapshotLease&) = delete;
  ~SnapshotLease();

  Status Open();
  // Takes over a snapshot that was opened earlier. kSnapshotGone when the server has freed it.
  Status Adopt(const std::string& token);
  // Call it between requests. Renews the snapshot if the last renewal was a minute ago or more.
  // kSnapshotGone when the server has freed the snapshot.
  Status Keep();
  Status Release();
  // Renews the snapshot and leaves it open on the server for `ttl`. After an error it stays open
  // for the rest of the current period.
  Status Leave();

  const std::string& token() const { return token_; }  // empty unless the lease holds a snapshot
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
