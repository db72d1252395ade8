// Topology is how the rest of Pando uses the place where a cluster keeps its map. It adds to a
// TopologyStore what every user needs: deadlines that hold even if the store hangs, a limit on the
// number of calls, metrics, and the check that the store never goes back.
//
// An error of any call means that the topology is unavailable, and nothing else. In particular it
// does not mean that this node has lost a role.
//
// Threads: one reactor.
//
// Invariants
//   TC1  A call ends within kTopologyGraceNs after its deadline, whatever the store does. A
//        CompareAndSwap that has not been answered until then has an unknown outcome.
//   TC2  What a call reports is never older than what an earlier call, or NoteSeen, has reported:
//        neither a key nor the store. Otherwise the call fails, and went_back() says so.
//   TC3  At most kMaxTopologyCalls calls are in progress, those that nobody waits for any more
//        included. Close waits for all.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "src/io/sync.h"
#include "src/metrics/metrics.h"
#include "src/metrics/registry.h"
#include "src/topology/topology_store.h"

namespace pando {

inline constexpr size_t kMaxTopologyCalls = 64;
inline constexpr Nanos kTopologyGraceNs = 100 * kMillisecond;

struct TopologyMetrics {
  Counter calls;   // of all kinds
  Counter errors;  // calls that failed; unknown outcomes not included
  Counter cas_stored, cas_conflicts, cas_unknown;
  Counter went_back;  // answers that were older than what was known
  Gauge calls_in_progress;
  Gauge keys, bytes;  // of the last listing
};

// What a Read proves about an earlier CompareAndSwap whose outcome is unknown.
enum class Judged : uint8_t {
  kLanded,    // it was stored
  kMayLand,   // it was not stored so far, and may still be
  kOvertaken  // somebody else's write came after or instead of it; it cannot land any more
};
// `expected` and `op_id` are those of the CompareAndSwap, `now` was read after it. REQUIRES: no other
// write has this op_id, which is not empty.
Judged JudgeUnknown(Revision expected, std::string_view op_id, const TopologyEntry& now);
// A random op_id.
std::string NewOpId(Reactor& reactor);
class Topology;
// Writes `value`, which has this op_id, until it is certain what came of it. Returns the revision of the
// value, or nullopt: the key's revision is not `expected`, and the value was not written. After an error,
// which can only be that the topology was not available in time, it may have been written, and may be
// later.
Task<Result<std::optional<Revision>>> SwapUntilKnown(Topology& topology, std::string key, Revision expected,
                                                     std::string value, std::string op_id, Nanos timeout_ns);

class Topology {
 public:
  // What listings take is reserved in `memory`, if there is one; see TopologyStore::ReserveIn.
  Topology(Reactor& reactor, std::unique_ptr<TopologyStore> store, BudgetAccount* memory = nullptr);
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;
  ~Topology();  // REQUIRES: Close has returned
  // Ends the calls of WaitForChange, waits for the others, and closes the store.
  Task<Status> Close();

  // Like those of the store, with timeouts from now.
  Task<Result<TopologyEntry>> Read(std::string key, Nanos timeout_ns);
  Task<Result<TopologyListing>> List(Nanos timeout_ns);
  Task<Result<TopologyChanges>> ReadChanges(Revision after, Nanos timeout_ns);
  Task<Result<CasOutcome>> CompareAndSwap(std::string key, Revision expected, std::string value, Nanos timeout_ns);
  // May report what is older than what is known; TopologyWatch sorts that out.
  Task<Result<TopologyChanges>> WaitForChange(Revision after, Nanos timeout_ns);

  // Tells what this node has seen before it started, from what it keeps on its own disk: from now
  // on a listing with an older revision of the store is an error.
  void NoteSeen(Revision store_revision);
  // Ends the calls of WaitForChange, so that those who follow the topology can stop.
  void EndWaits() { store_->EndWaits(); }
  // The newest revision of the store that was seen: what a node keeps.
  Revision seen() const { return seen_.revision; }
  // Why the store is not to be trusted: it went back. OK after a listing in which nothing had gone
  // back, or if nothing ever has.
  const Status& went_back() const { return went_back_; }

  Reactor& reactor() { return reactor_; }
  bool one_counter() const { return store_->one_counter(); }
  const std::string& name() const { return store_->name(); }
  const TopologyMetrics& metrics() const { return metrics_; }

 private:
  // A revision, and the number of the call that reported it. A call compares only with what was
  // known before it began.
  struct Seen {
    Revision revision = 0;
    uint64_t call = 0;
  };
  template <typename T>
  struct Carried;
  template <typename T>
  static Task<void> Carry(Task<Result<T>> work, std::shared_ptr<Carried<T>> carried, Gauge* in_progress);
  template <typename T>
  Task<std::optional<Result<T>>> Await(Task<Result<T>> work, Nanos deadline_ns);
  template <typename T>
  Task<Result<T>> UntilDeadline(Task<Result<T>> work, const char* what, Nanos deadline_ns);
  Status Admit();
  void Note(const std::string& key, Revision revision);
  Status CheckKey(const std::string& key, Revision revision, uint64_t call);
  Status WentBack(const std::string& what, Revision now, Revision before);

  Reactor& reactor_;
  std::unique_ptr<TopologyStore> store_;
  uint64_t calls_ = 0;
  Seen seen_;
  std::map<std::string, Seen> seen_keys_;  // at most kMaxTopologyKeys
  Status went_back_;
  bool closed_ = false;
  TaskGroup carried_;
  TopologyMetrics metrics_;
};

// Shows the metrics as kv_topology_...; Registry::Remove(&topology) removes them again.
void RegisterTopologyMetrics(Registry* registry, const Topology& topology);

}  // namespace pando
