// Reads what a partition's file says about itself: its newest superblock, and the metadata that this
// superblock names. Nothing is written.
//
// Threads: one reactor.
#pragma once

#include <string>
#include <vector>

#include "src/buffer_pool/extent_allocator.h"
#include "src/buffer_pool/page_store.h"
#include "src/partition/partition_file_options.h"
#include "src/partition/superblock.h"

namespace pando {

struct LoadedPartition {
  Superblock superblock;
  Lsn older_lsn = 0;  // checkpoint LSN of the other slot; 0: there is none
  ExtentAllocator allocator{0};
  std::vector<GroupEntry> groups;
  std::vector<Extent> pieces;  // of the group directory and the dead list
  std::vector<DeadExtent> dead;
};

// Damage to the metadata, for the checker.
struct MetaDamage {
  uint64_t offset_bytes = 0;
  std::string what;
};

// Errors name the file and the offset. The checker passes `damage`: damage to anything but the
// superblocks is then recorded there instead of failing the call, and the caller must not rely on
// the allocator and the dead list.
Task<Result<LoadedPartition>> LoadPartition(Reactor& reactor, TurnBudget& turn, File* file,
                                            const PartitionFileOptions& options, std::vector<MetaDamage>* damage);

}  // namespace pando
