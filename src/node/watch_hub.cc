#include "src/node/watch_hub.h"

#include <algorithm>

namespace pando {

namespace {
constexpr Nanos kTickNs = 5 * kMillisecond;
}  // namespace

WatchHub::~WatchHub() { CHECK(waiting_.empty()) << waiting_.size() << " watchers are still waiting"; }

bool WatchHub::HasNews(const std::vector<Partition*>& partitions, const WatchPosition& position) {
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

bool WatchHub::IsOver(const Wait& wait, Nanos now) const {
  if (now >= wait.until_ns_ || server_->stopping() || server_->IsClosed(wait.id_)) return true;
  return now >= wait.look_after_ns_ && HasNews(*wait.partitions_, *wait.position_);
}

void WatchHub::OnTick() {
  Reactor& reactor = server_->reactor();
  const Nanos now = reactor.NowNs();
  std::erase_if(waiting_, [&](Wait* wait) {
    if (!IsOver(*wait, now)) return false;
    reactor.Schedule(wait->waiter_);
    return true;
  });
  metrics_.waiting.Set(static_cast<int64_t>(waiting_.size()));
  if (!waiting_.empty()) reactor.ArmTimer(this, now + kTickNs);
}

}  // namespace pando
