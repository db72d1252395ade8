// ReplicaSet: a small set of replicas of one partition, in a fixed order: at most kMaxReplicas. It
// never allocates.
//
// Threads: a value.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>

#include "src/base/check.h"
#include "src/base/ids.h"
#include "src/topology/cluster_map.h"

namespace pando::replication {

// A replica is named by its UUID, which is new when its directory was empty or restored
// (src/topology/start_counter.h).
using ReplicaId = Uuid;

class ReplicaSet {
 public:
  ReplicaSet() = default;
  ReplicaSet(std::initializer_list<ReplicaId> ids) {
    for (const ReplicaId& id : ids) Insert(id);
  }

  bool Contains(const ReplicaId& id) const { return std::binary_search(begin(), end(), id); }
  bool HasRoom() const { return size_ < kMaxReplicas; }
  // REQUIRES: it has room, unless it contains the replica.
  void Insert(const ReplicaId& id) {
    const auto at = std::lower_bound(ids_.begin(), ids_.begin() + size_, id);
    if (at != ids_.begin() + size_ && *at == id) return;
    CHECK(HasRoom()) << "a partition has more than " << kMaxReplicas << " replicas";
    std::move_backward(at, ids_.begin() + size_, ids_.begin() + size_ + 1);
    *at = id;
    ++size_;
  }
  void Remove(const ReplicaId& id) {
    const auto at = std::lower_bound(ids_.begin(), ids_.begin() + size_, id);
    if (at == ids_.begin() + size_ || *at != id) return;
    std::move(at + 1, ids_.begin() + size_, at);
    --size_;
  }
  bool IsSubsetOf(const ReplicaSet& other) const {
    return std::all_of(begin(), end(), [&](const ReplicaId& id) { return other.Contains(id); });
  }
  ReplicaSet Union(const ReplicaSet& other) const {
    ReplicaSet all = *this;
    for (const ReplicaId& id : other) all.Insert(id);
    return all;
  }
  ReplicaSet Intersection(const ReplicaSet& other) const {
    ReplicaSet both;
    for (const ReplicaId& id : *this) {
      if (other.Contains(id)) both.Insert(id);
    }
    return both;
  }
  bool operator==(const ReplicaSet& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const ReplicaId* begin() const { return ids_.data(); }
  const ReplicaId* end() const { return ids_.data() + size_; }

 private:
  std::array<ReplicaId, kMaxReplicas> ids_;
  size_t size_ = 0;
};

}  // namespace pando::replication
