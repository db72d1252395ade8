// TopologyWatch keeps a copy of the whole topology and hands out what is new in it.
//
// It lists the topology, and then waits for changes. A wait may miss a change, or tell of it late or twice. So every
// kCheckNs, and after a wait that has failed, it reads what has changed since the last revision up to which it
// certainly knows everything: a small answer, however large the topology is. So a change that no notice tells of is
// seen within kCheckNs and the time that such a read takes.
//
// It lists the topology again whenever the store cannot say what has changed (etcd has compacted what was not read yet,
// the directory has changed), when what it knows does not agree with the number of keys, after a listing or a read that
// has failed, while the store is not to be trusted, and every kListNs on average, not at the same time as others.
//
// Threads: one reactor.
//
// Invariants
//   TW1  The copy of a key only goes forward: a notice of an older revision changes nothing.
//   TW2  Next hands out the newest state of every key that has changed since the last call. It may
//        skip states in between, but never the last one.
//   TW3  What a watch keeps is bounded by kMaxTopologyKeys and kMaxTopologyBytes, however many
//        changes there are and however long nobody calls Next.
//   TW4  What counts as certainly known is in the copy: everything up to a revision that a listing or a read of changes
//        has reported, and up to each later revision that notices continue without a hole, if all keys have one
//        counter.
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
  static constexpr Nanos kCheckNs = 2 * kSecond, kListNs = 600 * kSecond;
  static constexpr size_t kMaxUnproven = 1024;
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
  // When it last was certain that nothing is missing, or 0.
  Nanos checked_ns() const { return checked_ns_; }
  uint64_t gaps() const { return gaps_; }

 private:
  Task<void> Run();
  Task<Status> ListAll();
  Task<Status> Check();
  Task<Status> Follow();
  bool MergeAll(std::vector<TopologyEntry> entries);
  bool Fits(const TopologyEntry& entry);
  void Merge(TopologyEntry entry);
  void Prove(Revision revision);

  Topology* const topology_;
  Reactor& reactor_;
  std::map<std::string, TopologyEntry> newest_;
  size_t bytes_ = 0;               // of newest_
  MemoryGrant memory_;             // what newest_ took at the last listing, and has grown by since then
  std::set<std::string> changed_;  // keys that Next has not handed out
  Revision revision_ = 0;          // the newest that it has heard of: waits go on from here
  Revision proven_ = 0;            // everything up to here is in newest_
  std::set<Revision> unproven_;    // later ones that are in newest_ too; at most kMaxUnproven
  bool list_ = true, check_ = false;
  Nanos checked_ns_ = 0, list_at_ns_ = 0;
  Status status_;
  uint64_t gaps_ = 0;
  bool stopping_ = false;
  WaitQueue news_;   // for Next
  WaitQueue pause_;  // for Run; only Stop notifies it
  TaskGroup tasks_;
};

}  // namespace pando
