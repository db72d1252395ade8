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
    const bool lists = list_ || reactor_.NowNs() >= listed_ns_ + kRelistNs;
    if (lists) {
      status_ = co_await ListAll();
    } else {
      status_ = co_await Follow();
    }
    if (status_.ok()) {
      // A wait that fails is followed by a listing: that this succeeds is no reason to wait again at once.
      if (!lists) backoff_ns = kMinBackoffNs;
      continue;
    }
    list_ = true;
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
  revision_ = std::max(revision_, listing->revision);
  listed_ns_ = reactor_.NowNs();
  list_ = false;
  co_return Status();
}

Task<Status> TopologyWatch::Follow() {
  const Nanos timeout_ns = listed_ns_ + kRelistNs - reactor_.NowNs();
  Result<TopologyChanges> changes = co_await topology_->WaitForChange(revision_, timeout_ns);
  if (!changes.ok()) co_return changes.TakeStatus();
  if (changes->gap) {
    ++gaps_;
    list_ = true;
    co_return Status();
  }
  for (TopologyEntry& entry : changes->entries) {
    if (!Fits(entry)) {
      list_ = true;  // the listing says what is too much
      co_return Status();
    }
    Merge(std::move(entry));
  }
  revision_ = std::max(revision_, changes->revision);
  co_return Status();
}

bool TopologyWatch::Fits(const TopologyEntry& entry) const {
  return bytes_ + entry.key.size() + entry.value.size() <= kMaxTopologyBytes &&
         (newest_.size() < kMaxTopologyKeys || newest_.contains(entry.key));
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
