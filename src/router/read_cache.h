// ReadCache: answers of gets at BOUNDED, kept by one reactor of a router for those that come soon after. It is off
// unless
// --cache_mb is set.
//
// An answer is as old as its age here and what its replica was behind when it answered. Nodes do not tell that, so a
// get that may fill the cache asks for half of the staleness that its client allows, and the answer serves for the
// other half.
//
// Writes through this router make what they may have changed unusable, on all reactors: WriteStamps counts them by the
// hash of their key, once before they are sent and once before they are answered. An answer is used only if nothing was
// counted since before it was asked for. (Other routers' writes show after max_staleness_ms, as the level says.)
//
// Eviction is SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024): a queue in the order of arrival, and a hand
// that goes from its end to its beginning, spares what was used since it last came by, and evicts the first other one.
//
// Threads: one reactor; WriteStamps: any.
//
// Invariants
//   CA1  An answer is used only while it is within the staleness that the request allows.
//   CA2  What was asked for before a write of its key through this router was acknowledged is not used after that.
//   CA3  The entries take no more than the limit.
//   CA4  An answer goes only to requests of the principal and namespace for which it was asked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/io/reactor.h"
#include "src/metrics/metrics.h"

namespace pando {

class WriteStamps {
 public:
  struct Stamp {
    uint64_t of_hash = 0, of_all = 0;
    bool operator==(const Stamp&) const = default;
  };
  WriteStamps() : counts_(kCounts) {}
  // A write of a key with this hash begins, or is about to be answered.
  void Count(uint64_t hash) { counts_[hash % kCounts].fetch_add(1, std::memory_order_acq_rel); }
  // A write whose keys are not known.
  void CountAll() { all_.fetch_add(1, std::memory_order_acq_rel); }
  Stamp Of(uint64_t hash) const {
    return {counts_[hash % kCounts].load(std::memory_order_acquire), all_.load(std::memory_order_acquire)};
  }

 private:
  static constexpr size_t kCounts = 1u << 16;  // keys that share one make each other's answers unusable
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<uint64_t> all_{0};
};

struct ReadCacheMetrics {
  Counter hits_total, misses_total, evictions_total;
  Gauge bytes, entries;
};

class ReadCache {
 public:
  // What a get that may fill the cache has to remember.
  struct Fill {
    ReadCache* cache = nullptr;  // null: it does not
    std::string key;             // as KeyOf makes it
    WriteStamps::Stamp stamp;    // before it was sent
    Nanos asked_ns = 0, staleness_ns = 0;
  };

  // `stamps` outlives it.
  ReadCache(size_t limit_bytes, WriteStamps* stamps);
  ~ReadCache();

  static std::string KeyOf(std::string_view principal, std::string_view name_space, std::string_view key);
  // The answer, until the next call of this object; null: there is none that may be used.
  const std::string* Find(const std::string& key, uint64_t hash, Nanos now_ns, Nanos max_staleness_ns);
  // `body`: the encoded answer.
  void Insert(const Fill& fill, std::string_view body);
  WriteStamps& stamps() { return stamps_; }
  ReadCacheMetrics& metrics() { return metrics_; }

 private:
  struct Entry {
    std::string key, body;
    WriteStamps::Stamp stamp;
    Nanos asked_ns = 0, staleness_ns = 0;
    bool used = false;
    size_t bytes() const { return kEntryBytes + key.size() + body.size(); }
  };
  using Queue = std::list<Entry>;  // the newest first
  static constexpr size_t kEntryBytes = 256;

  void Erase(Queue::iterator at);
  void EvictOne();

  const size_t limit_bytes_;
  WriteStamps& stamps_;
  ReadCacheMetrics metrics_;
  Queue queue_;
  Queue::iterator hand_;  // end(): at the oldest
  std::unordered_map<std::string_view, Queue::iterator> by_key_;
  size_t bytes_ = 0;
};

}  // namespace pando
