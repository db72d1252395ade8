#include "src/btree/batch_find.h"

#include <algorithm>

namespace pando {
namespace {

constexpr size_t kGroup = 16;  // about the number of line-fill buffers of a core
constexpr size_t kLine = 64;

inline void PrefetchPage(const char* page, bool leaf, uint32_t usable_bytes) {
  __builtin_prefetch(page);
  __builtin_prefetch(page + kLine);
  if (leaf) return;
  // The first slots that a binary search over a typically filled inner page looks at.
  size_t slots = usable_bytes / 90 * kSlotBytes;
  __builtin_prefetch(page + kPageHeaderBytes + slots / 2);
  __builtin_prefetch(page + kPageHeaderBytes + slots / 4);
  __builtin_prefetch(page + kPageHeaderBytes + slots / 4 * 3);
}

}  // namespace

void BatchFind(BufferPool& pool, std::span<BatchLookup> lookups) {
  const uint32_t usable_bytes = pool.usable_bytes();
  for (size_t base = 0; base < lookups.size(); base += kGroup) {
    std::span<BatchLookup> group = lookups.subspan(base, std::min(kGroup, lookups.size() - base));
    BatchLookup* active[kGroup];
    size_t count = 0;
    for (BatchLookup& l : group) {
      if (l.tree == nullptr) continue;
      l.at = l.tree->root();
      if (l.leaf_only && l.at->level == 0) {
        l.leaf = l.at;
        continue;
      }
      PrefetchPage(pool.data(*l.at), l.at->level == 0, usable_bytes);
      active[count++] = &l;
    }
    while (count > 0) {
      // Search the node of each key, and prefetch the line that holds the answer.
      for (size_t i = 0; i < count; ++i) {
        BatchLookup& l = *active[i];
        Node node(pool.data(*l.at), usable_bytes);
        if (node.leaf()) {
          l.slot = node.LowerBound(l.key, &l.found);
          if (l.found) {
            const char* record = node.RecordAddress(l.slot);
            for (size_t n = 0; n < 4; ++n) __builtin_prefetch(record + n * kLine);
          }
        } else {
          l.slot = node.ChildSlot(l.key);
          __builtin_prefetch(node.Child(l.slot));
        }
      }
      // Collect the answers. Each lookup is finished or moves one level down.
      size_t still = 0;
      for (size_t i = 0; i < count; ++i) {
        BatchLookup& l = *active[i];
        char* page = pool.data(*l.at);
        Node node(page, usable_bytes);
        if (node.leaf()) {
          uint8_t& heat = HeaderOf(page).heat;
          if (heat < 3) ++heat;
          l.leaf = l.at;
          if (l.found) l.record = node.Record(l.slot);
          continue;
        }
        l.at = l.tree->ChildIfResident(l.at, l.slot);
        if (!l.at) continue;
        if (l.leaf_only && l.at->level == 0) {
          l.leaf = l.at;
          __builtin_prefetch(l.at, 1);  // it will be pinned
          continue;
        }
        PrefetchPage(pool.data(*l.at), node.header().level == 1, usable_bytes);
        active[still++] = &l;
      }
      count = still;
    }
  }
}

}  // namespace pando
