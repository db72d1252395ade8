// Superblock: where a partition's newest durable tree starts (docs/FORMAT.md, "Partition file").
//
// There are two slots, each with two copies, at blocks 0-1 and 2-3. A checkpoint of generation G
// writes slot G mod 2, so the other slot's tree stays complete until this one is durable. The
// newest valid copy of the four is used.
//
// Threads: values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/buffer_pool/extent.h"
#include "src/buffer_pool/page.h"
#include "src/model/types.h"
#include "src/wal/log_format.h"

namespace pando {

inline constexpr uint64_t kSuperblockMagic = 0x314253444e415050;  // "PPANDSB1"
inline constexpr uint32_t kPartitionFormat = 2;
// Still readable; the next checkpoint writes the newest format.
inline constexpr uint32_t kOldestPartitionFormat = 1;
inline constexpr uint32_t kSuperblockBlocks = 4;  // two slots of two copies

// Refers to metadata of 16-byte entries by the first piece of its chain (meta_chain.h). In format 1
// it refers to the only extent.
struct MetaRef {
  Extent location;
  uint64_t checksum = 0;
  uint64_t entries = 0;  // in all pieces together
};
static_assert(sizeof(MetaRef) == 24);

inline constexpr uint64_t kFeatureSeal = 1;

// The fields of a superblock, as they begin its block. They do not fill it: zeros follow.
struct Superblock {
  uint64_t magic = kSuperblockMagic;
  uint32_t format = kPartitionFormat;
  uint32_t page_bytes = 0;
  uint64_t feature_bits = 0;  // kFeature*; a build refuses the file if it does not know one of the bits
  Uuid node;
  Uuid partition;
  Generation generation = 0;
  Epoch epoch = 0;
  Lsn checkpoint_lsn = 0;  // the tree contains exactly the records up to this LSN
  // The highest version in the tree or ever assigned up to checkpoint_lsn.
  Version last_version = 0;
  uint64_t next_page_id = 0;
  uint64_t file_blocks = 0;
  ChildRef root;
  uint32_t root_level = 0;
  uint32_t group_blocks = 0;
  MetaRef groups;  // array of GroupEntry
  MetaRef dead;    // DeadExtents freed in this generation; reusable once the next is durable
  // The durable end of the reactor's log when this superblock was written. A log that ends before
  // it is lost or incomplete. 0: unknown (the store has not served yet, or a version without this
  // field wrote its last checkpoint).
  LogPosition log_end = 0;
  // The chain of the log after checkpoint_lsn (wal/write_unit.h). 0: unknown (a version without this
  // field wrote the checkpoint), or the partition has no records.
  uint64_t chain = 0;
  // With kFeatureSeal, what every extent of a page or value leaves free at its end (page.h).
  uint32_t seal_bytes = 0;
  uint32_t reserved = 0;

  // For a new file: leaves room for a seal of this size, or for none.
  void LeaveSeal(uint32_t bytes) {
    seal_bytes = bytes;
    feature_bits = bytes == 0 ? 0 : kFeatureSeal;
  }
};
static_assert(sizeof(Superblock) == 240 && offsetof(Superblock, seal_bytes) == 232);
static_assert(offsetof(Superblock, log_end) == 216 && offsetof(Superblock, chain) == 224);
static_assert(offsetof(Superblock, partition) == 40 && offsetof(Superblock, root) == 104);
static_assert(offsetof(Superblock, dead) == 192);

// The end of the block. The seal is for an encryption at rest of the body, the bytes from
// kSuperblockBody to kSuperblockSeal; it is zero today.
inline constexpr size_t kSuperblockBody = 24, kSuperblockSeal = 4048, kSuperblockChecksum = 4088;
static_assert(offsetof(Superblock, node) == kSuperblockBody && sizeof(Superblock) <= kSuperblockSeal);
static_assert(kSuperblockSeal + kSealBytes == kSuperblockChecksum && kSuperblockChecksum + 8 == kBlockBytes);

// The root of the tree that it refers to.
SnapshotRoot RootOf(const Superblock& superblock);

struct GroupEntry {
  uint64_t block = 0;  // block of the group's bitmap; 0 = every block of the group is free
  uint64_t checksum = 0;
};
static_assert(sizeof(GroupEntry) == 16);

// Writes the block of a superblock, kBlockBytes long, with its checksum.
void EncodeSuperblock(const Superblock& superblock, char* block);

// Parses one copy. kCorruption: bad magic or checksum. kVersion: an unsupported format, or features
// that this build does not know.
Status ParseSuperblock(std::string_view block, Superblock* out);

// Returns the newest valid copy of the four. `older_lsn` receives the older slot's checkpoint LSN
// (0 = none). `blocks` is the first kSuperblockBlocks blocks of `path`.
Result<Superblock> ChooseSuperblock(std::string_view blocks, std::string_view path, Lsn* older_lsn);

// Lists the faults of all four copies, for the checker, including copies that are not needed now.
// In a store that was not stopped cleanly, faults in only one slot may also be the result of a
// power failure during a write.
struct SuperblockFault {
  uint32_t copy = 0;  // block number
  std::string what;
};
std::vector<SuperblockFault> JudgeSuperblocks(std::string_view blocks, const Uuid& node, const Uuid& partition);

}  // namespace pando
