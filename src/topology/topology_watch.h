// TopologyWatch keeps a copy of the whole topology and hands out what is new in it.
//
// It lists the topology, then waits for changes, and lists it again every kRelistNs, and whenever
// the store cannot say what has changed: after a connection was lost, after etcd has compacted what
// was not read yet, after the directory was replaced. So a change that no notice tells of is seen
// within kRelistNs and the time that a listing takes.
//
// Threads: one reactor.
//
// Invariants
//   TW1  The copy of a key only goes forward: a notice of an older revision changes nothing.
//   TW2  Next hands out the newest state of every key that has changed since the last call. It may
//        skip states in between, but never the last one.
//   TW3  What a watch keeps is bounded by kMaxTopologyKeys and kMaxTopologyBytes, however many
//        changes there are and however long nobody calls Next.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/io/sync.h"
#include "src/topology/topology.h"

namespace pando {

class TopologyWatch {
 public:
  static constexpr Nanos kRelistNs = 2 * kSecond;
  static constexpr Nanos kListTimeoutNs = 2 * kSecond;
  static constexpr Nanos kMinBackoffNs = 20 * kMillisecond, kMaxBackoffNs = kSecond;

  // Begins at once. `topology` must outlive the watch.
  explicit TopologyWatch(Topology* topology);
  ~TopologyWatch();  // REQUIRES: Stop has returned
  // REQUIRES: Topology::EndWaits; otherwise this takes until the wait in progress ends. Calls of
  // Next end with kAborted.
  Task<void> Stop();

  // Waits until some key has changed, and returns the newest states of all that have, sorted by key.
  // The first call returns all keys. Returns kDeadline if nothing changed in time; if the topology
  // is not available, the message says why. One caller at a time.
  Task<Result<std::vector<TopologyEntry>>> Next(Nanos timeout_ns);

  Reactor& reactor() { return reactor_; }
  // The newest known state of every key.
  const std::map<std::string, TopologyEntry>& newest() const { return newest_; }
  // Why the last attempt to follow the topology failed, or OK.
  const Status& status() const { return status_; }
  // When a listing last succeeded, or 0.
  Nanos listed_ns() const { return listed_ns_; }
  uint64_t gaps() const { return gaps_; }

 private:
  Task<void> Run();
  Task<Status> ListAll();
  Task<Status> Follow();
  bool Fits(const TopologyEntry& entry) const;
  void Merge(TopologyEntry entry);

  Topology* const topology_;
  Reactor& reactor_;
  std::map<std::string, TopologyEntry> newest_;
  size_t bytes_ = 0;               // of newest_
  MemoryGrant memory_;             // what newest_ took at the last listing
  std::set<std::string> changed_;  // keys that Next has not handed out
  Revision revision_ = 0;          // everything up to here is in newest_
  bool list_ = true;
  Nanos listed_ns_ = 0;
  Status status_;
  uint64_t gaps_ = 0;
  bool stopping_ = false;
  WaitQueue news_;   // for Next
  WaitQueue pause_;  // for Run; only Stop notifies it
  TaskGroup tasks_;
};

}  // namespace pando
