// TopologyStore is where a cluster keeps its map: a small set of keys, each with a value of text and
// a revision. There are two stores, a directory (src/topology/file_topology.h) and etcd
// (src/topology/etcd_topology.h), and a simulated one (tests/support/sim_topology.h).
// tests/unit/topology/store_conformance_test.cc runs the same suite against all of them.
//
// Code that uses the map does not use a store but a Topology (src/topology/topology.h), which adds
// deadlines that always hold, limits, and the check that the store never goes back.
//
// Threads: one reactor.
//
// Invariants
//   TS1  A key changes only by CompareAndSwap, which compares the key's revision. At most one
//        CompareAndSwap succeeds for each revision of a key. (A key is never removed: what is gone
//        has a value that says so.)
//   TS2  The revision of a key grows with every change of it, and the store's revision grows with
//        every change of any key.
//   TS3  Everything that Read, List or a kStored outcome has reported is durable, and is the newest
//        state at some moment of the call. So a Read that begins after a CompareAndSwap was reported
//        as stored, by whatever process, returns it or something newer.
//   TS4  An error of CompareAndSwap means that nothing was written and nothing will be. If that is
//        not certain, the outcome is kUnknown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/io/task.h"

namespace pando {

// Of a key: 0 means that the key does not exist. Of a store: at least that of each of its keys.
using Revision = uint64_t;

// Limits that hold for every store. A store that holds more is refused, with an error.
inline constexpr size_t kMaxTopologyKeyBytes = 64;
inline constexpr size_t kMaxTopologyValueBytes = 16u << 10;
inline constexpr size_t kMaxTopologyKeys = (16u << 10) + 4096;  // 16,384 partitions, and the nodes for them
inline constexpr size_t kMaxTopologyBytes = 16u << 20;          // of all keys and values together

struct TopologyEntry {
  std::string key;
  std::string value;
  Revision revision = 0;
  bool operator==(const TopologyEntry&) const = default;
};

struct TopologyListing {
  Revision revision = 0;  // of the store; the entries are at least as new
  std::vector<TopologyEntry> entries;
  MemoryGrant memory;  // what the entries take, if the store reserves memory
};

// What a CompareAndSwap did. An unknown outcome is neither a failure nor a success: the write may
// have happened, may happen later, or may never happen. JudgeUnknown (src/topology/topology.h) says
// what a later Read proves.
struct CasOutcome {
  enum class Kind : uint8_t {
    kStored,    // the key holds the new value, at `revision`
    kConflict,  // the key's revision was not the expected one; nothing was written
    kUnknown,   // `why` says what went wrong; read the key again
  };
  Kind kind = Kind::kUnknown;
  Revision revision = 0;
  Status why;

  static CasOutcome Stored(Revision revision) { return {Kind::kStored, revision, {}}; }
  static CasOutcome Conflict() { return {Kind::kConflict, 0, {}}; }
  static CasOutcome Unknown(Status why) { return {Kind::kUnknown, 0, std::move(why)}; }
};

struct TopologyChanges {
  // The store cannot say what has changed: list it.
  bool gap = false;
  // Otherwise: the changes after `after` and up to `revision`, oldest first. May repeat what was
  // seen before. Empty: there was none until the deadline.
  Revision revision = 0;
  std::vector<TopologyEntry> entries;
  // Of ReadChanges: how many keys there are, and what the entries take, if the store reserves memory.
  std::optional<size_t> keys;
  MemoryGrant memory;
};

// All deadlines are times of Reactor::NowNs(). A call returns kDeadline after it, as far as it can:
// a call that waits for a disk cannot end before the disk answers.
class TopologyStore {
 public:
  virtual ~TopologyStore() = default;

  // Returns an entry with revision 0 if there is no such key.
  virtual Task<Result<TopologyEntry>> Read(std::string key, Nanos deadline_ns) = 0;
  // Returns all keys, sorted.
  virtual Task<Result<TopologyListing>> List(Nanos deadline_ns) = 0;
  // Returns the newest states of all keys that have changed after the revision `after` of the store, sorted, as List
  // would (TS3). So whoever knew everything up to `after` knows everything up to `revision` then, unless `keys` says
  // that there are fewer keys or more. A gap, if the store cannot tell. Costs little if nothing has changed.
  virtual Task<Result<TopologyChanges>> ReadChanges(Revision after, Nanos deadline_ns) = 0;
  // Writes `value` if the key's revision is `expected`; 0 means that the key must not exist.
  virtual Task<Result<CasOutcome>> CompareAndSwap(std::string key, Revision expected, std::string value,
                                                  Nanos deadline_ns) = 0;
  // Waits for a change after the revision `after` of the store, at most until the deadline. It may
  // miss one (a peer that hangs), so its caller reads the changes from time to time.
  virtual Task<Result<TopologyChanges>> WaitForChange(Revision after, Nanos deadline_ns) = 0;
  // Ends every WaitForChange, those in progress and later ones, with kAborted. For shutting down.
  virtual void EndWaits() = 0;
  // REQUIRES: no call is in progress.
  virtual Task<Status> Close() = 0;
  // From now on, what listings and caches hold is reserved here before they grow; a listing for which
  // there is no room fails with kOverloaded. The account must outlive the store and all listings.
  void ReserveIn(BudgetAccount* account) { memory_ = account; }

  // Whether the revisions of all keys come from one counter. Then what has changed since a revision of the store are
  // the keys with higher ones, if what is known of the store is its state at one moment.
  virtual bool one_counter() const = 0;
  virtual const std::string& name() const = 0;  // for messages: the value of --topology

 protected:
  BudgetAccount* memory_ = nullptr;  // null: nothing is reserved
};

// A key consists of segments of a-z, 0-9, '_' and '-', separated by '/'. Returns kInvalidArgument
// otherwise.
Status CheckTopologyKey(const std::string& key);
// The same for a value, which must not be too long.
Status CheckTopologyValue(const std::string& key, const std::string& value);

// Adds up what a store holds, and refuses more than the limits.
class TopologySize {
 public:
  static constexpr size_t kEntryBytes = 160;  // of an entry, besides its key and its value

  // What is added is also reserved in `account`, if there is one.
  explicit TopologySize(BudgetAccount* account = nullptr) : reserves_(account != nullptr), memory_(account) {}
  // Before the entry is kept. Returns kOverloaded if there is no memory for it.
  Status Add(const std::string& key, size_t value_bytes);
  // What was reserved. REQUIRES: nothing is added afterwards.
  MemoryGrant TakeMemory() { return std::move(memory_); }

 private:
  size_t keys_ = 0, bytes_ = 0;
  const bool reserves_;
  MemoryGrant memory_;
};

}  // namespace pando
