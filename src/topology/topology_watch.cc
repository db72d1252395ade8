#include "src/topology/topology_watch.h"

#include <algorithm>
#include <utility>

#include "src/io/timed_wait.h"

namespace pando {

TopologyWatch::TopologyWatch(Topology* topology)
    : topology_(topology), reactor_(topology->reactor()), news_(reactor_), pause_(reactor_) {
  tasks_.Spawn(Run());
}

TopologyWatch::~TopologyWatch() { CHECK(stopping_) << "a TopologyWatch was not stopped"; }

Task<void> TopologyWatch::Stop() {
  stopping_ = true;
  news_.NotifyAll();
  pause_.NotifyAll();
  co_await tasks_.Drain();
}

Task<void> TopologyWatch::Run() {
  Nanos backoff_ns = kMinBackoffNs;
  while (!stopping_) {
    const Nanos now_ns = reactor_.NowNs();
    const bool checks = check_ || now_ns >= checked_ns_ + kCheckNs;
    const bool lists = list_ || now_ns >= list_at_ns_ || (checks && !topology_->went_back().ok());
    const bool follows = !lists && !checks;
    if (lists) {
      status_ = co_await ListAll();
    } else if (checks) {
      status_ = co_await Check();
    } else {
      status_ = co_await Follow();
    }
    if (status_.ok()) {
      // A wait that fails is followed by a read: that this succeeds is no reason to wait again at once.
      if (follows) backoff_ns = kMinBackoffNs;
      continue;
    }
    check_ = true;
    list_ = list_ || !follows;
    // Not all watches at once.
    const Nanos pause_ns = backoff_ns / 2 + static_cast<Nanos>(reactor_.Random() % static_cast<uint64_t>(backoff_ns));
    co_await WaitUntil(reactor_, pause_, reactor_.NowNs() + pause_ns, [this] { return stopping_; });
    backoff_ns = std::min(2 * backoff_ns, kMaxBackoffNs);
  }
}

Task<Status> TopologyWatch::ListAll() {
  Result<TopologyListing> listing = co_await topology_->List(kListTimeoutNs);
  if (!listing.ok()) co_return listing.TakeStatus();
  // Topology::List has checked that this is not too much, and that no key has disappeared.
  for (TopologyEntry& entry : listing->entries) Merge(std::move(entry));
  memory_ = std::move(listing->memory);
  Prove(listing->revision);
  checked_ns_ = reactor_.NowNs();
  list_at_ns_ = checked_ns_ + kListNs / 2 + static_cast<Nanos>(reactor_.Random() % kListNs);
  list_ = check_ = false;
  co_return Status();
}

Task<Status> TopologyWatch::Check() {
  Result<TopologyChanges> changes = co_await topology_->ReadChanges(proven_, kListTimeoutNs);
  if (!changes.ok()) co_return changes.TakeStatus();
  gaps_ += changes->gap;
  list_ = changes->gap || !MergeAll(std::move(changes->entries)) ||
          (changes->keys.has_value() && *changes->keys != newest_.size());
  if (list_) co_return Status();
  Prove(changes->revision);
  checked_ns_ = reactor_.NowNs();
  check_ = false;
  co_return Status();
}

// TW4. Everything up to this revision is known.
void TopologyWatch::Prove(Revision revision) {
  proven_ = std::max(proven_, revision);
  // Of a store with one counter, each revision is one change.
  while (!unproven_.empty() && *unproven_.begin() <= proven_ + 1) {
    proven_ = std::max(proven_, *unproven_.begin());
    unproven_.erase(unproven_.begin());
  }
  revision_ = std::max(revision_, proven_);
}

Task<Status> TopologyWatch::Follow() {
  const Nanos timeout_ns = checked_ns_ + kCheckNs - reactor_.NowNs();
  Result<TopologyChanges> changes = co_await topology_->WaitForChange(revision_, timeout_ns);
  if (!changes.ok()) co_return changes.TakeStatus();
  if (changes->gap) {
    ++gaps_;
    list_ = true;
    co_return Status();
  }
  std::vector<Revision> told;
  for (const TopologyEntry& entry : changes->entries) told.push_back(entry.revision);
  list_ = !MergeAll(std::move(changes->entries));
  if (list_) co_return Status();
  revision_ = std::max(revision_, changes->revision);
  for (const Revision revision : told) {
    if (revision > proven_ && unproven_.size() < kMaxUnproven) unproven_.insert(revision);
    if (topology_->one_counter()) Prove(proven_);
  }
  co_return Status();
}

// False: there is too much. A listing says what.
bool TopologyWatch::MergeAll(std::vector<TopologyEntry> entries) {
  for (TopologyEntry& entry : entries) {
    if (!Fits(entry)) return false;
    Merge(std::move(entry));
  }
  return true;
}

// Reserves what is added, if listings reserve.
bool TopologyWatch::Fits(const TopologyEntry& entry) {
  const auto kept = newest_.find(entry.key);
  if (kept != newest_.end() && entry.revision <= kept->second.revision) return true;
  if (bytes_ + entry.key.size() + entry.value.size() > kMaxTopologyBytes) return false;
  if (kept == newest_.end() && newest_.size() >= kMaxTopologyKeys) return false;
  const size_t bytes = entry.key.size() + entry.value.size() + TopologySize::kEntryBytes;
  const size_t had =
      kept == newest_.end() ? 0 : entry.key.size() + kept->second.value.size() + TopologySize::kEntryBytes;
  return memory_.bytes() == 0 || bytes <= had || memory_.TryGrow(bytes - had);
}

void TopologyWatch::Merge(TopologyEntry entry) {
  TopologyEntry& kept = newest_[entry.key];
  if (entry.revision <= kept.revision) return;
  bytes_ += entry.key.size() + entry.value.size();
  bytes_ -= kept.key.size() + kept.value.size();
  kept = std::move(entry);
  changed_.insert(kept.key);
  news_.NotifyAll();
}

Task<Result<std::vector<TopologyEntry>>> TopologyWatch::Next(Nanos timeout_ns) {
  co_await WaitUntil(reactor_, news_, reactor_.NowNs() + timeout_ns, [this] { return stopping_ || !changed_.empty(); });
  if (stopping_) co_return Error(Code::kAborted, "the watch of {} has been stopped", topology_->name());
  if (changed_.empty()) {
    if (!status_.ok()) co_return Error(Code::kDeadline, "no change is known of: {}", status_.message());
    co_return Error(Code::kDeadline, "{} has not changed", topology_->name());
  }
  std::vector<TopologyEntry> changed;
  for (const std::string& key : std::exchange(changed_, {})) changed.push_back(newest_.at(key));
  co_return changed;
}

}  // namespace pando
