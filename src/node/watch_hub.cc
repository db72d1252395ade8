#include "src/node/watch_hub.h"

#include <algorithm>
#include <utility>

namespace pando {

namespace {
constexpr Nanos kTickNs = 5 * kMillisecond;
constexpr size_t kMaxCompared = 8192;  // versions that one tick compares with watchers' positions
}  // namespace

WatchHub::~WatchHub() { CHECK(waiting_.empty()) << waiting_.size() << " watchers are still waiting"; }

bool HasNews(const std::vector<Partition*>& partitions, const WatchPosition& position) {
  for (size_t i = 0; i < partitions.size(); ++i) {
    if (partitions[i]->newest_change() > position.versions[i]) return true;
  }
  return false;
}

void WatchHub::Add(Wait* wait) {
  waiting_.push_back(wait);
  metrics_.waiting.Set(static_cast<int64_t>(waiting_.size()));
  if (armed) return;
  on_fire = [](Timer* t) { static_cast<WatchHub*>(t)->OnTick(); };
  server_->reactor().ArmTimer(this, server_->reactor().NowNs() + kTickNs);
}

// Counts and versions only grow, so their sum changes when any of them does.
uint64_t SumOfChanges(const KvBackend& backend) {
  uint64_t sum = 0;
  for (const std::atomic<uint64_t>* count : backend.change_counts) sum += count->load(std::memory_order_acquire);
  if (backend.change_counts.empty()) {
    for (const Partition* partition : backend.partitions) sum += partition->newest_change();
  }
  return sum;
}

bool WatchHub::IsOver(Wait* wait, Nanos now, size_t* compared) const {
  if (now >= wait->until_ns_ || MustEnd(*server_, wait->id_)) return true;
  if (!wait->unchecked_ || now < wait->look_after_ns_ || *compared >= kMaxCompared) return false;
  wait->unchecked_ = false;
  *compared += wait->cost();
  return wait->HasNews();
}

// While nothing is written, a tick looks at one count per reactor, however many watchers and
// partitions there are.
// Otherwise it checks as many watchers as kMaxCompared allows, and the rest in the next ticks.
void WatchHub::OnTick() {
  Reactor& reactor = server_->reactor();
  const Nanos now = reactor.NowNs();
  const uint64_t changes = changes_();
  const bool any_change = std::exchange(seen_changes_, changes) != changes;
  size_t compared = 0;
  std::erase_if(waiting_, [&](Wait* wait) {
    wait->unchecked_ |= any_change;
    if (!IsOver(wait, now, &compared)) return false;
    reactor.Schedule(wait->waiter_);
    return true;
  });
  metrics_.waiting.Set(static_cast<int64_t>(waiting_.size()));
  if (!waiting_.empty()) reactor.ArmTimer(this, now + kTickNs);
}

}  // namespace pando
