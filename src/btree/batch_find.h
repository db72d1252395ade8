// BatchFind: point lookups in many trees at once. A single lookup spends most of its time waiting
// for memory: the header, the slots, the child reference, the record. BatchFind descends for a
// group of keys in step and prefetches the next cache lines of each key before it reads any of
// them, so that the waits overlap (the idea of AMAC, Kocberber et al., VLDB'15).
//
// Threads: the reactor of the trees. Nothing suspends.
#pragma once

#include <span>
#include <string_view>

#include "src/btree/tree.h"

namespace pando {

struct BatchLookup {
  Tree* tree = nullptr;  // null: nothing is found out
  std::string_view key;
  bool leaf_only = false;  // only `leaf` is wanted: the leaf's page is not looked at
  // Results. `leaf` is null when a page is missing. Otherwise `found` is set and, if true, so is
  // `record`.
  Frame* leaf = nullptr;
  bool found = false;
  RecordView record;

  // Working state.
  Frame* at = nullptr;
  uint8_t level = 0;  // of `at`; known without a look at the frame, which may not be in the cache
  uint32_t slot = 0;
};

// All trees share one pool. Nothing may be modified while the results are in use.
void BatchFind(BufferPool& pool, std::span<BatchLookup> lookups);

}  // namespace pando
