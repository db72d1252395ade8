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

// The record that `key` most likely has in this leaf, as far as a small value goes.
inline void PrefetchRecord(const TreeNode& leaf, std::string_view key) {
  if (leaf.count() == 0) return;
  const char* record = leaf.RecordAddress(std::min(leaf.GuessSlot(key), leaf.count() - 1));
  for (size_t n = 0; n < 4; ++n) __builtin_prefetch(record + n * kLine);
}

void ReadLeaf(char* page, uint32_t usable_bytes, BatchLookup* l) {
  const TreeNode node(page, usable_bytes);
  uint8_t& heat = HeaderOf(page).heat;
  if (heat < 3) ++heat;
  l->leaf = l->at;
  const uint32_t slot = node.LowerBound(l->key, &l->found);
  if (l->found) l->record = node.Record(slot);
}

// Whether the leaf is all that is wanted, and is reached.
bool Reached(BatchLookup* l) {
  if (!l->leaf_only || l->level != 0) return false;
  l->leaf = l->at;
  return true;
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
      l.level = l.at->level;
      if (!Reached(&l)) {
        PrefetchPage(pool.data(*l.at), l.level == 0, usable_bytes);
        active[count++] = &l;
      }
    }
    while (count > 0) {
      // Search the node of each key, and prefetch what the answer refers to.
      for (size_t i = 0; i < count; ++i) {
        BatchLookup& l = *active[i];
        const TreeNode node(pool.data(*l.at), usable_bytes);
        if (l.level == 0) {
          PrefetchRecord(node, l.key);
        } else {
          l.slot = node.ChildSlot(l.key);
          __builtin_prefetch(node.Child(l.slot));
        }
      }
      // Collect the answers. Each lookup is finished or moves one level down.
      size_t still = 0;
      for (size_t i = 0; i < count; ++i) {
        BatchLookup& l = *active[i];
        if (l.level == 0) {
          ReadLeaf(pool.data(*l.at), usable_bytes, &l);
          continue;
        }
        l.at = l.tree->ChildIfResident(l.at, l.slot);
        if (!l.at) continue;
        --l.level;
        if (Reached(&l)) {
          __builtin_prefetch(l.at, 1);  // it will be pinned
          continue;
        }
        PrefetchPage(pool.data(*l.at), l.level == 0, usable_bytes);
        active[still++] = &l;
      }
      count = still;
    }
  }
}

}  // namespace pando
