// PartitionFile: the file of a new partition.
#include <cstring>

#include "src/btree/tree_node.h"
#include "src/partition/partition_file.h"

namespace pando {
namespace {
constexpr uint64_t kInitialBlocks = 64;  // 256 KiB
}  // namespace

Task<Result<File>> OpenNewPartitionFile(Reactor& reactor, const PartitionFileOptions& options) {
  if (options.store != nullptr) return options.store->OpenFile(options.name, File::Mode::kCreate, /*direct=*/true);
  return File::Open(reactor, options.path, File::Mode::kCreate, /*direct=*/true);
}

Task<Status> CreatePartitionFile(Reactor& reactor, PartitionFileOptions options, Version last_version,
                                 Generation generation) {
  Result<File> opened = co_await OpenNewPartitionFile(reactor, options);
  if (!opened.ok()) co_return opened.TakeStatus();
  File file = *std::move(opened);
  // Superblocks, one empty leaf, the bitmap of group 0, and the group directory in one piece.
  constexpr uint64_t kLeafBlock = kSuperblockBlocks, kBitmapBlock = kLeafBlock + 1, kDirectoryBlock = kLeafBlock + 2;
  AlignedBuffer image((kDirectoryBlock + 1) * kBlockBytes);
  const uint32_t usable_bytes = UsablePageBytes(options.page_bytes, options.seal_bytes);
  std::vector<char> page(options.page_bytes), scratch(options.page_bytes);
  AlignedBuffer leaf(options.page_bytes);
  TreeNode::Format(page.data(), usable_bytes, 0, {}, nullptr, /*page_id=*/1, generation);
  EncodePageImage(page.data(), usable_bytes, Compression::kNone, leaf.data(), scratch.data());
  std::memcpy(image.data() + kLeafBlock * kBlockBytes, leaf.data(), kBlockBytes);

  ExtentAllocator allocator(kInitialBlocks);
  allocator.MarkUsed(Extent::Of(0, kDirectoryBlock + 1));
  char* bitmap = image.data() + kBitmapBlock * kBlockBytes;
  allocator.EncodeGroup(0, bitmap);
  auto checksum_at = [&](uint64_t block) {
    return MetaChecksum(options.partition, Extent::Of(block, 1), image.data() + block * kBlockBytes);
  };
  const GroupEntry entry{kBitmapBlock, checksum_at(kBitmapBlock)};
  const Extent directory = Extent::Of(kDirectoryBlock, 1);
  std::vector<MetaWrite> chain;
  TurnBudget turn(reactor);
  const MetaRef groups = co_await EncodeMetaChain(reactor, turn, options.partition, &entry, 1, {&directory, 1}, &chain);
  std::memcpy(image.data() + kDirectoryBlock * kBlockBytes, chain[0].bytes.data(), kBlockBytes);

  Superblock sb;
  sb.page_bytes = options.page_bytes;
  sb.LeaveSeal(options.seal_bytes);
  sb.node = options.node;
  sb.partition = options.partition;
  sb.generation = generation;
  sb.epoch = 1;
  sb.last_version = last_version;
  sb.next_page_id = 2;
  sb.file_blocks = kInitialBlocks;
  sb.root.location = Extent::Of(kLeafBlock, 1);
  sb.root.birth = generation;
  sb.root.checksum = checksum_at(kLeafBlock);
  sb.group_blocks = ExtentAllocator::kGroupBlocks;
  sb.groups = groups;
  uint32_t slot = sb.generation % 2;
  for (uint32_t copy = 0; copy < 2; ++copy) EncodeSuperblock(sb, image.data() + (slot * 2 + copy) * kBlockBytes);

  Status status = co_await file.Truncate(0);
  if (status.ok()) status = co_await file.Allocate(0, kInitialBlocks * kBlockBytes);
  if (status.ok()) status = co_await file.Write(image.data(), image.size(), 0);
  if (status.ok()) status = co_await file.Sync(/*data_only=*/false);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace pando
