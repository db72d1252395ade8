#include "src/partition/superblock.h"

#include <algorithm>
#include <cstring>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {

SnapshotRoot RootOf(const Superblock& sb) {
  SnapshotRoot root;
  root.partition = sb.partition;
  root.generation = sb.generation;
  root.epoch = sb.epoch;
  root.lsn = sb.checkpoint_lsn;
  root.chain = sb.chain;
  root.last_version = sb.last_version;
  root.next_page_id = sb.next_page_id;
  root.file_blocks = sb.file_blocks;
  root.root = sb.root;
  root.root_level = static_cast<uint8_t>(sb.root_level);
  return root;
}

void EncodeSuperblock(const Superblock& superblock, char* block) {
  std::memset(block, 0, kBlockBytes);
  std::memcpy(block, &superblock, sizeof(superblock));
  StoreLE(block + kSuperblockChecksum, Hash64({block, kSuperblockChecksum}));
}

Status ParseSuperblock(std::string_view block, Superblock* out) {
  CHECK_EQ(block.size(), kBlockBytes);
  std::memcpy(static_cast<void*>(out), block.data(), sizeof(Superblock));
  if (out->magic != kSuperblockMagic) return Error(Code::kCorruption, "no superblock (magic {:016x})", out->magic);
  if (Hash64(block.substr(0, kSuperblockChecksum)) != LoadLE<uint64_t>(block.data() + kSuperblockChecksum)) {
    return Error(Code::kCorruption, "checksum mismatch");
  }
  if (out->format < kOldestPartitionFormat || out->format > kPartitionFormat ||
      (out->feature_bits & ~kFeatureSeal) != 0) {
    return Error(Code::kVersion, "format {} with features {:x}; this build reads formats {} to {} with features {:x}",
                 out->format, out->feature_bits, kOldestPartitionFormat, kPartitionFormat, kFeatureSeal);
  }
  if (out->seal_bytes != ((out->feature_bits & kFeatureSeal) != 0 ? kSealBytes : 0)) {
    return Error(Code::kVersion, "room for a seal of {} bytes; this build reads files with room for {}",
                 out->seal_bytes, kSealBytes);
  }
  return Status();
}

Result<Superblock> ChooseSuperblock(std::string_view blocks, std::string_view path, Lsn* older_lsn) {
  Superblock best[2];  // by slot
  bool valid[2] = {false, false};
  std::string faults;
  for (uint32_t copy = 0; copy < kSuperblockBlocks; ++copy) {
    Superblock parsed;
    // A slot that was never written, as in every file before its second checkpoint.
    std::string_view block = blocks.substr(copy * kBlockBytes, kBlockBytes);
    if (block.find_first_not_of('\0') == std::string_view::npos) continue;
    Status status = ParseSuperblock(block, &parsed);
    if (status.code() == Code::kVersion) {
      return Error(Code::kVersion, "{}: superblock at offset {}: {}; use the version that wrote it", path,
                   copy * kBlockBytes, status.message());
    }
    if (!status.ok()) {
      faults += fmt::format("{}offset {}: {}", faults.empty() ? "" : "; ", copy * kBlockBytes, status.message());
      continue;
    }
    uint32_t slot = copy / 2;
    if (!valid[slot] || parsed.generation > best[slot].generation) best[slot] = parsed;
    valid[slot] = true;
  }
  if (!valid[0] && !valid[1]) {
    return Error(Code::kCorruption,
                 "{}: no valid superblock in the first 16 KiB ({}); restore the partition from a backup or a replica",
                 path, faults.empty() ? "all zeros" : faults);
  }
  uint32_t newest = !valid[0] ? 1 : !valid[1] ? 0 : best[1].generation > best[0].generation;
  *older_lsn = valid[newest ^ 1] ? best[newest ^ 1].checkpoint_lsn : 0;
  if (!faults.empty()) LOG(WARNING) << path << ": damaged superblock copies: " << faults;
  return best[newest];
}

namespace {

constexpr uint32_t kCopies = 2;  // of a slot

std::string JudgeCopy(const Superblock& sb, uint32_t slot, const Uuid& node, const Uuid& partition) {
  if (sb.node != node || sb.partition != partition) {
    return fmt::format("belongs to partition {} of node {}, not to partition {} of node {}", sb.partition.ToString(),
                       sb.node.ToString(), partition.ToString(), node.ToString());
  }
  if (sb.generation % 2 != slot) return fmt::format("generation {} belongs in the other slot", sb.generation);
  return "";
}

}  // namespace

std::vector<SuperblockFault> JudgeSuperblocks(std::string_view blocks, const Uuid& node, const Uuid& partition) {
  std::vector<SuperblockFault> faults;
  Superblock parsed[kSuperblockBlocks];
  bool valid[kSuperblockBlocks] = {}, empty[kSuperblockBlocks] = {};
  Generation newest = 0;
  for (uint32_t copy = 0; copy < kSuperblockBlocks; ++copy) {
    const std::string_view block = blocks.substr(copy * kBlockBytes, kBlockBytes);
    empty[copy] = block.find_first_not_of('\0') == std::string_view::npos;
    if (empty[copy]) continue;
    Status status = ParseSuperblock(block, &parsed[copy]);
    std::string what = status.ok() ? JudgeCopy(parsed[copy], copy / kCopies, node, partition) : status.message();
    valid[copy] = what.empty();
    if (valid[copy]) newest = std::max(newest, parsed[copy].generation);
    if (!valid[copy]) faults.push_back({copy, std::move(what)});
  }
  for (uint32_t copy = 0; copy < kSuperblockBlocks; ++copy) {
    // The slot of the newest generation, or of the one before it.
    const Generation expected = newest % 2 == copy / kCopies ? newest : newest - 1;
    if (empty[copy] && newest > 0 && expected > 0) {
      faults.push_back({copy, fmt::format("empty, but generation {} was written here", expected)});
    } else if (valid[copy] && parsed[copy].generation != expected) {
      faults.push_back(
          {copy, fmt::format("generation {}, but generation {} was written here", parsed[copy].generation, expected)});
    }
  }
  return faults;
}

}  // namespace pando
