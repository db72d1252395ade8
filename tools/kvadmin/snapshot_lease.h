// SnapshotLease: a snapshot that a command reads for as long as it runs: opened, renewed in time, released at the end.
//
// Threads: one.
#pragma once

#include <chrono>
#include <string>

#include "tools/kvadmin/client.h"

namespace pando::admin {

class SnapshotLease {
 public:
  // `client` outlives the lease.
  explicit SnapshotLease(Client* client) : client_(client) {}
  SnapshotLease(const SnapshotLease&) = delete;
  SnapshotLease& operator=(const SnapshotLease&) = delete;

  Status Open();
  // Goes on with one that was opened before (kSnapshotGone).
  Status Adopt(const std::string& token);
  // To be called between requests; renews when a part of the time has passed. kSnapshotGone.
  Status Keep();
  Status Release();

  const std::string& token() const { return token_; }  // empty before Open
  int64_t version() const { return version_; }

 private:
  using Clock = std::chrono::steady_clock;
  Status Renew();

  Client* const client_;
  std::string token_;
  int64_t version_ = 0;
  Clock::time_point renewed_;
};

}  // namespace pando::admin
