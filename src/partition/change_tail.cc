#include "src/partition/change_tail.h"

#include <algorithm>

namespace pando {
namespace {
constexpr size_t kMinEntries = 16;
}  // namespace

void ChangeTail::Begin(Version last, size_t max_bytes, Version floor) {
  // A third of each half is for the entries, because keys are about twice as large as the 16 bytes
  // that describe them. At least one key of any size fits.
  const size_t half_bytes = std::max(max_bytes, kMinBytes) / 2;
  half_entries_ = half_bytes / 3 / sizeof(Entry);
  half_key_bytes_ = half_bytes - half_entries_ * sizeof(Entry);
  CHECK_GE(half_key_bytes_, kMaxStoredKeyBytes);
  for (Half& half : halves_) half = Half();
  last_ = last;
  floor_ = std::max(last, floor);
  SetNewest(floor_);
}

bool ChangeTail::HasRoom(const Half& half, std::string_view key) const {
  return half.entries.size() < half_entries_ && half.keys.size() + key.size() <= half_key_bytes_;
}

// Makes room for one more change. Memory doubles up to the limits, so a partition that changes
// little takes little.
void ChangeTail::Reserve(Half* half, size_t key_bytes) const {
  if (half->entries.size() == half->entries.capacity()) {
    half->entries.reserve(std::min(half_entries_, std::max<size_t>(2 * half->entries.size(), kMinEntries)));
  }
  const size_t needed = half->keys.size() + key_bytes;
  if (needed > half->keys.capacity()) {
    half->keys.reserve(std::min(half_key_bytes_, std::max(needed, 2 * half->keys.capacity())));
  }
}

void ChangeTail::Add(Version version, std::string_view key, bool removed) {
  CHECK_GT(version, last_) << "CT1: versions rise";
  if (!HasRoom(halves_[newer_], key)) {
    if (!older().entries.empty()) RaiseFloor(older().entries.back().version);
    older().entries.clear();
    older().keys.clear();
    newer_ = 1 - newer_;
  }
  Half& half = halves_[newer_];
  Reserve(&half, key.size());
  half.entries.push_back(
      {version, static_cast<uint32_t>(half.keys.size()), static_cast<uint16_t>(key.size()), removed});
  half.keys.insert(half.keys.end(), key.begin(), key.end());
  last_ = version;
}

ChangePage ChangeTail::After(Version after, std::string_view prefix, size_t max_changes, size_t max_bytes,
                             Version applied) const {
  ChangePage page;
  page.up_to = after;
  if (after < floor_) {
    page.gone = true;
    return page;
  }
  size_t looked = 0, bytes = 0;
  for (const Half* half : {&halves_[1 - newer_], &halves_[newer_]}) {
    auto it = std::upper_bound(half->entries.begin(), half->entries.end(), after,
                               [](Version v, const Entry& e) { return v < e.version; });
    for (; it != half->entries.end(); ++it) {
      if (page.changes.size() >= max_changes || bytes >= max_bytes || looked == kMaxLooked) {
        page.more = true;
        return page;
      }
      ++looked;
      page.up_to = it->version;
      const std::string_view key(half->keys.data() + it->key_offset, it->key_bytes);
      if (!key.starts_with(prefix)) continue;
      bytes += key.size() + kChangeBytes;
      page.changes.push_back({std::string(key), it->version, it->removed});
    }
  }
  page.up_to = std::max(page.up_to, applied);
  return page;
}

}  // namespace pando
