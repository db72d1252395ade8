#include "src/router/read_cache.h"

#include <iterator>
#include <utility>

#include "src/base/check.h"

namespace pando {

namespace {

// An answer takes at most this part of the cache.
constexpr size_t kLargestPart = 8;

void AppendSized(std::string_view text, std::string* out) {
  const auto size = static_cast<uint32_t>(text.size());
  out->append(reinterpret_cast<const char*>(&size), sizeof(size));
  out->append(text);
}

}  // namespace

ReadCache::ReadCache(size_t limit_bytes, WriteStamps* stamps)
    : limit_bytes_(limit_bytes), stamps_(*stamps), hand_(queue_.end()) {}

ReadCache::~ReadCache() = default;

// CA4.
std::string ReadCache::KeyOf(std::string_view principal, std::string_view name_space, std::string_view key) {
  std::string all;
  all.reserve(2 * sizeof(uint32_t) + principal.size() + name_space.size() + key.size());
  AppendSized(principal, &all);
  AppendSized(name_space, &all);
  all.append(key);
  return all;
}

const std::string* ReadCache::Find(const std::string& key, uint64_t hash, Nanos now_ns, Nanos max_staleness_ns) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) {
    metrics_.misses_total.Add();
    return nullptr;
  }
  Entry& entry = *found->second;
  const bool overwritten = entry.stamp != stamps_.Of(hash);                              // CA2
  const bool too_old = now_ns - entry.asked_ns + entry.staleness_ns > max_staleness_ns;  // CA1
  if (overwritten || too_old) {
    metrics_.misses_total.Add();
    if (overwritten) Erase(found->second);
    return nullptr;
  }
  entry.used = true;
  metrics_.hits_total.Add();
  return &entry.body;
}

void ReadCache::Insert(const Fill& fill, std::string_view body) {
  if (const auto found = by_key_.find(fill.key); found != by_key_.end()) {
    // A get that was asked later is newer, whichever answer comes first.
    if (found->second->asked_ns >= fill.asked_ns) return;
    Erase(found->second);
  }
  Entry entry{fill.key, std::string(body), fill.stamp, fill.asked_ns, fill.staleness_ns};
  if (entry.bytes() > limit_bytes_ / kLargestPart) return;
  while (bytes_ + entry.bytes() > limit_bytes_) EvictOne();  // CA3
  bytes_ += entry.bytes();
  queue_.push_front(std::move(entry));
  by_key_[queue_.front().key] = queue_.begin();
  metrics_.bytes.Set(static_cast<int64_t>(bytes_));
  metrics_.entries.Set(static_cast<int64_t>(queue_.size()));
}

void ReadCache::EvictOne() {
  CHECK(!queue_.empty()) << "an empty cache is full";
  if (hand_ == queue_.end()) hand_ = std::prev(queue_.end());
  while (hand_->used) {
    hand_->used = false;
    hand_ = hand_ == queue_.begin() ? std::prev(queue_.end()) : std::prev(hand_);
  }
  metrics_.evictions_total.Add();
  Erase(hand_);
}

// The hand goes on with the next newer one.
void ReadCache::Erase(Queue::iterator at) {
  if (hand_ == at) hand_ = at == queue_.begin() ? queue_.end() : std::prev(at);
  bytes_ -= at->bytes();
  by_key_.erase(at->key);
  queue_.erase(at);
  metrics_.bytes.Set(static_cast<int64_t>(bytes_));
  metrics_.entries.Set(static_cast<int64_t>(queue_.size()));
}

}  // namespace pando
