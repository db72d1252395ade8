// BatchFind: point lookups in many trees at once. A lookup alone spends most of its time waiting for memory: the
// header, the slots, the child reference, the record. Descending for a group of keys in step and prefetching each one's
// next cache lines before any is looked at lets those waits overlap (the idea of AMAC, Kocberber et al., VLDB'15).
//
// Threads: the trees' reactor. Nothing suspends.
#pragma once

#include <span>
#include <string_view>

#include "src/btree/tree.h"

namespace pando {

struct BatchLookup {
  Tree* tree = nullptr;
  std::string_view key;
  // Results: `leaf` null = a page is missing; else `found` and, when found, the record.
  Frame* leaf = nullptr;
  bool found = false;
  RecordView record;

  // Working state.
  Frame* at = nullptr;
  uint32_t slot = 0;
};

// All trees share one pool.
void BatchFind(BufferPool& pool, std::span<BatchLookup> lookups);

}  // namespace pando
