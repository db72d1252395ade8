// FindNearEnd: looks up what is asked for mostly near the end of an ordered sequence.
//
// Threads: any.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace pando {

// The element whose key is `key`; end() if there is none. `key_of` gives integers that rise from one element to the
// next, so no element is farther from the end than its key is from the last one; if they rise by one, it is just there.
template <typename Sequence, typename KeyOf>
auto FindNearEnd(const Sequence& sequence, uint64_t key, KeyOf key_of) {
  const auto end = sequence.end();
  if (sequence.empty() || key > key_of(sequence.back())) return end;
  const uint64_t farthest = std::min<uint64_t>(key_of(sequence.back()) - key, sequence.size() - 1);
  auto at = end - 1 - static_cast<ptrdiff_t>(farthest);
  if (key_of(*at) == key) return at;
  at = std::lower_bound(at, end, key, [&key_of](const auto& element, uint64_t k) { return key_of(element) < k; });
  return key_of(*at) == key ? at : end;
}

}  // namespace pando
