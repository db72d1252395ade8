// ReplicaComparer: compares what two replicas of a partition hold, and finds the first record in which they differ.
//
// Replicas apply the same log, but not at the same moment. So each is asked again and again, until both have been
// seen at the same LSN; while clients write, that is a matter of luck, and of time. A difference is found by halving
// the range of keys: each step asks for sums that take O(log n), so all of it takes O(log n) requests.
//
// Threads: one.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gen-cpp/cluster_types.h"
#include "src/topology/cluster_map.h"
#include "tools/kvadmin/client.h"

namespace pando::admin {

// A range of stored keys; an empty end = none.
struct KeyRange {
  std::string start, end;
  bool operator==(const KeyRange&) const = default;
};

// Two replicas at the same LSN.
struct EqualPoint {
  api::AggregateReplicaReply first, second;
  bool same_history() const { return first.epoch == second.epoch && first.chain == second.chain; }
  bool same_content() const {
    return first.count == second.count && first.bytes == second.bytes && first.content_hash == second.content_hash;
  }
};

// Where two replicas differ.
struct Difference {
  EqualPoint at;  // of the smallest range that was compared, with its first records
  KeyRange range;
  std::string key;  // the first one, as it is stored; empty: none of the records that are not expired differs
  const api::StoredRecord* first = nullptr;   // of `at`; null: it has no such record
  const api::StoredRecord* second = nullptr;  // of `at`
};

// Finds the first record that is not the same in both. `at` must outlive what it points to.
void FindFirstDifference(Difference* difference);

// What is asked of a replica. A seam for tests.
using AskReplica = std::function<Result<api::AggregateReplicaReply>(const api::AggregateReplicaRequest&)>;

class ReplicaComparer {
 public:
  using Clock = std::chrono::steady_clock;
  // `ask`: the two replicas.
  ReplicaComparer(uint32_t partition, AskReplica first, AskReplica second, Clock::time_point until)
      : partition_(partition), ask_{std::move(first), std::move(second)}, until_(until) {}

  // kDeadline: they were not seen at the same LSN in time. Other errors are those of the replicas.
  Result<EqualPoint> Compare(const KeyRange& range, bool middle = false, int32_t records = 0);
  // Nothing: there is no difference any more. REQUIRES: Compare has found one in everything.
  Result<std::optional<Difference>> Locate();
  uint64_t requests() const { return requests_; }

 private:
  const uint32_t partition_;
  const AskReplica ask_[2];
  const Clock::time_point until_;
  uint64_t requests_ = 0;
};

}  // namespace pando::admin
