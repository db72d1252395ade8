// TreeForm: how the pages of a tree are stored, and what may be in it, for whoever checks it.
//
// Threads: a value.
#pragma once

#include <cstdint>

#include "src/partition/store.h"

namespace pando {

// How a store keeps its records, and what may be in a tree of it.
struct TreeForm {
  uint32_t page_bytes = 0;
  uint32_t seal_bytes = 0;
  bool namespaced = false;  // StoreInfo::namespaced
  // With checks_keys, every key must be one that this version stores, in a partition of these hashes.
  bool checks_keys = false;
  uint64_t first_hash = 0, last_hash = ~0ull;
};
TreeForm FormOf(const StoreInfo& store);
// Of a partition whose keys are checked.
TreeForm FormOf(const StoreInfo& store, const PartitionInfo& partition);

}  // namespace pando
