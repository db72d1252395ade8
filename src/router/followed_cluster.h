// FollowedCluster: which cluster a router serves. The first node that says its cluster decides it, for all reactors.
//
// A node of another cluster is foreign: no reactor uses a connection to it. It stays foreign until whoever is at its
// address says that it belongs to the cluster.
//
// Threads: any. A mutex guards it: it is asked when a connection is made, and not for each request.
//
// Invariants
//   FC1  All reactors of a router follow the same cluster for the life of the process.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/metrics/metrics.h"

namespace pando {

class FollowedCluster {
 public:
  // The node at `address` says that it belongs to `cluster`. kUnavailable: the router follows another one. `node` is
  // what messages call it.
  Status Admit(const std::string& address, const std::string& node, const Uuid& cluster);
  // No reactor asks whoever is at this address any more.
  void Forget(const std::string& address);

  Uuid id() const;                                     // nil: no node has answered yet
  std::map<std::string, std::string> foreign() const;  // by address: what is wrong with it
  const Gauge& foreign_count() const { return foreign_count_; }

 private:
  void CountForeign() { foreign_count_.Set(static_cast<int64_t>(foreign_.size())); }

  mutable std::mutex mutex_;
  Uuid id_;
  std::string first_;  // the address of the node that has decided
  std::map<std::string, std::string> foreign_;
  Gauge foreign_count_;  // written under the mutex
};

}  // namespace pando
