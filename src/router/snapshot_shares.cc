#include "src/router/snapshot_shares.h"

#include <algorithm>
#include <limits>

namespace pando {

uint64_t SnapshotShares::Take(uint64_t client, int64_t now_ms) {
  const std::lock_guard lock(mutex_);
  std::erase_if(open_, [now_ms](const auto& o) { return o.second.expires_at_ms <= now_ms; });
  const auto mine = static_cast<size_t>(
      std::count_if(open_.begin(), open_.end(), [client](const auto& o) { return o.second.client == client; }));
  if (mine >= kClientShare * (kMost - open_.size())) return 0;
  open_[++last_place_] = {client, 0, std::numeric_limits<int64_t>::max()};
  return last_place_;
}

void SnapshotShares::Keep(uint64_t place, SnapshotId id, int64_t expires_at_ms) {
  const std::lock_guard lock(mutex_);
  Open& open = open_.at(place);
  open.id = id;
  open.expires_at_ms = expires_at_ms;
}

void SnapshotShares::Drop(uint64_t place) {
  const std::lock_guard lock(mutex_);
  open_.erase(place);
}

void SnapshotShares::NoteRenewed(SnapshotId id, int64_t expires_at_ms) {
  const std::lock_guard lock(mutex_);
  for (auto& [place, open] : open_) {
    if (open.id == id) open.expires_at_ms = expires_at_ms;
  }
}

void SnapshotShares::NoteReleased(SnapshotId id) {
  const std::lock_guard lock(mutex_);
  std::erase_if(open_, [id](const auto& o) { return o.second.id == id; });
}

}  // namespace pando
