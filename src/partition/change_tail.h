// ChangeTail: the latest changes of a partition, kept in memory for its watchers.
//
// It holds (version, key, removed) for applied writes in a limited number of bytes, which are
// allocated as changes come. When it is full, its older half is dropped. It does not survive
// a restart: it then begins with the last version that recovery found.
//
// Threads: one reactor. newest() may be called from any thread.
//
// Invariants
//   CT1  The tail contains every change with a version above floor() once, in ascending order of
//        version. (A half of a partition tells of some changes of the whole again, with higher versions.)
//   CT2  newest() is at or above the version of every change that was acknowledged before the call.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "src/model/types.h"

namespace pando {

class ChangeTail {
 public:
  // Changes that one call of After examines; it does not yield.
  static constexpr size_t kMaxLooked = 4096;
  static constexpr size_t kMinBytes = 16u << 10;
  // What a change counts for in a page, in addition to its key.
  static constexpr size_t kChangeBytes = 64;

  ChangeTail() = default;
  ChangeTail(const ChangeTail&) = delete;
  ChangeTail& operator=(const ChangeTail&) = delete;

  // newest() after Close.
  static constexpr Version kOutOfService = UINT64_MAX;

  // Forgets everything, after a change of version `last`. Versions up to `floor`, or to `last` if that is
  // higher, are unknown from then on. Holds at most max_bytes (at least kMinBytes).
  void Begin(Version last, size_t max_bytes, Version floor = 0);
  // REQUIRES: `version` is higher than that of every earlier change.
  void Add(Version version, std::string_view key, bool removed);
  // Changes up to `version` that are not here may have been missed: they are unknown from then on.
  void RaiseFloor(Version version) { floor_ = std::max(floor_, version); }
  // Makes the added changes visible to After and advances newest(). Call it between writes, not
  // within one.
  void Publish() {
    if (newest() != kOutOfService) SetNewest(std::max(last_, floor_));
  }
  // There will be no changes any more that After returns. newest() is above every version from then
  // on, so that watchers look, and get the error.
  void Close() { SetNewest(kOutOfService); }
  // Adds one to *count after each Publish and Close. It belongs to this reactor, and outlives the tail.
  void CountIn(std::atomic<uint64_t>* count) { count_ = count; }
  // From now on newest() is in *newest, which outlives the tail.
  void PublishIn(std::atomic<Version>* newest) { newest_ = newest; }

  // The changes after `after` to keys that begin with `prefix`, oldest first. `applied` is the
  // partition's last applied version: a page that reaches the end of the tail covers everything up
  // to it.
  ChangePage After(Version after, std::string_view prefix, size_t max_changes, size_t max_bytes, Version applied) const;

  Version floor() const { return floor_; }
  Version newest() const { return newest_->load(std::memory_order_acquire); }
  size_t size() const { return halves_[0].entries.size() + halves_[1].entries.size(); }
  size_t allocated_bytes() const { return halves_[0].allocated_bytes() + halves_[1].allocated_bytes(); }

 private:
  struct Entry {
    Version version = 0;
    uint32_t key_offset = 0;
    uint16_t key_bytes = 0;
    bool removed = false;
  };
  struct Half {
    std::vector<Entry> entries;
    std::vector<char> keys;  // not a string, which reserves more than it is asked for
    size_t allocated_bytes() const { return entries.capacity() * sizeof(Entry) + keys.capacity(); }
  };
  static_assert(sizeof(Entry) == 16 && kMaxStoredKeyBytes <= UINT16_MAX);

  void SetNewest(Version newest) {
    newest_->store(newest, std::memory_order_release);
    if (count_ != nullptr) count_->store(count_->load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  Half& older() { return halves_[1 - newer_]; }
  bool HasRoom(const Half& half, std::string_view key) const;
  void Reserve(Half* half, size_t key_bytes) const;

  std::array<Half, 2> halves_;
  size_t newer_ = 0;  // the half being filled
  size_t half_entries_ = 0, half_key_bytes_ = 0;
  Version floor_ = 0, last_ = 0;
  std::atomic<Version> own_newest_ = 0;
  std::atomic<Version>* newest_ = &own_newest_;
  std::atomic<uint64_t>* count_ = nullptr;
};

}  // namespace pando
