#include "src/backup/copied_tree.h"

#include <algorithm>
#include <utility>

#include "src/io/punch_hole.h"
#include "src/partition/meta_chain.h"
#include "src/partition/superblock.h"

namespace pando {
namespace {

// Fills both slots with the snapshot's generation and the one after it, as if a second checkpoint
// had found nothing to do. With a single slot, one damaged superblock could make the restored
// partition unreadable.
void FillSlots(Superblock* sb, AlignedBuffer* slots) {
  for (const Generation generation : {sb->generation, sb->generation + 1}) {
    sb->generation = generation;
    char* slot = slots->data() + generation % 2 * (2 * kBlockBytes);
    for (int copy = 0; copy < 2; ++copy) EncodeSuperblock(*sb, slot + copy * kBlockBytes);
  }
}

// Chunks that are entirely free become holes, if an earlier snapshot has left pages there, or stay holes: they may be
// holes in the file that was copied, and the next start assumes that they are. Space for the other chunks is allocated
// now, so that later writes do not find the disk full.
Task<Status> HoldChunksInUse(File* file, const ExtentAllocator& blocks) {
  constexpr uint64_t kChunk = ExtentAllocator::kChunkBlocks;
  uint64_t from = 0;  // start of the run of chunks that are in use but not allocated yet
  bool may_punch = true;
  for (uint64_t at = 0; at < blocks.total_blocks(); at += kChunk) {
    const uint64_t end = std::min(at + kChunk, blocks.total_blocks());
    bool used = end - at < kChunk;
    for (uint64_t b = at; b < end && !used; ++b) used = blocks.IsUsed(b);
    if (used && end < blocks.total_blocks()) continue;
    const uint64_t to = used ? end : at;
    if (to > from) CO_RETURN_IF_ERROR(co_await file->Allocate(from * kBlockBytes, (to - from) * kBlockBytes));
    from = end;
    if (used || !may_punch) continue;
    Status punched = co_await PunchHole(file, at * kBlockBytes, (end - at) * kBlockBytes);
    may_punch = punched.code() != Code::kUnsupported;
    if (may_punch) CO_RETURN_IF_ERROR(punched);
  }
  co_return Status();
}

// The pages may fill the file, so it grows at its end. (This may begin another group, whose bitmap
// counts too.)
Task<Status> MakeRoomForMetadata(File* file, ExtentAllocator* blocks) {
  const uint64_t old_blocks = blocks->total_blocks();
  const uint64_t groups = blocks->group_count() + 1;
  const uint64_t step = groups + MetaBlocksFor(groups);
  CO_RETURN_IF_ERROR(co_await file->Allocate(old_blocks * kBlockBytes, step * kBlockBytes));
  blocks->Grow(old_blocks + step);
  co_return Status();
}

}  // namespace

// The bitmap of the blocks, and its groups as they are written, all of them together.
uint64_t CopiedTree::MemoryBytes(uint64_t blocks) {
  const uint64_t groups = blocks / ExtentAllocator::kGroupBlocks + 2;
  return 2 * groups * (kBlockBytes + sizeof(GroupEntry) + sizeof(MetaWrite));
}

CopiedTree::CopiedTree(Reactor& reactor, TreeForm form, const SnapshotRoot& root, std::string name, std::string advice,
                       Problem on_problem, Progress on_progress, size_t reads)
    : reactor_(reactor),
      form_(form),
      root_(root),
      name_(std::move(name)),
      advice_(std::move(advice)),
      on_problem_(std::move(on_problem)),
      on_progress_(std::move(on_progress)),
      reads_(reads),
      blocks_(root.file_blocks) {
  blocks_.MarkUsed(Extent::Of(0, kSuperblockBlocks));
}

Task<void> CopiedTree::Walk(PageSource* pages) {
  TreeCheck check({&reactor_, pages, form_, root_, reads_, /*resume_key=*/{}}, this);
  co_await check.Run();
  counts_ = check.counts();
}

Task<bool> CopiedTree::MayRead(uint64_t bytes) {
  read_blocks_ += bytes / kBlockBytes;
  if (on_progress_) Stop(on_progress_(read_blocks_));
  co_return stopped_.ok();
}

bool CopiedTree::OnExtent(Extent extent, std::string_view owner) {
  bool sound = !extent.empty() && extent.block() + extent.blocks() <= root_.file_blocks;
  for (uint64_t b = extent.block(); sound && b < extent.block() + extent.blocks(); ++b) sound = !blocks_.IsUsed(b);
  if (sound) {
    blocks_.MarkUsed(extent);
  } else {
    OnProblem(extent.offset_bytes(),
              fmt::format("{}: its blocks lie outside the partition or belong to something else too", owner), {});
  }
  return sound;
}

void CopiedTree::OnProblem(uint64_t offset_bytes, std::string what, std::string_view) {
  if (!stopped_.ok()) return;
  on_problem_({name_, offset_bytes, std::move(what), advice_});
}

Task<Status> CopiedTree::WriteMetadata(File* file, PartitionFileOptions options) {
  ExtentAllocator* blocks = &blocks_;
  const SnapshotRoot& root = root_;
  CO_RETURN_IF_ERROR(co_await MakeRoomForMetadata(file, blocks));
  std::vector<GroupEntry> groups(blocks->group_count());
  std::vector<Extent> pieces(MetaBlocksFor(groups.size())), bitmaps(groups.size());
  for (Extent& piece : pieces) piece = *blocks->Allocate(1);
  for (Extent& bitmap : bitmaps) bitmap = *blocks->Allocate(1);
  CO_RETURN_IF_ERROR(co_await HoldChunksInUse(file, *blocks));
  std::vector<MetaWrite> writes;
  for (uint32_t g = 0; g < groups.size(); ++g) {
    AlignedBuffer bytes(kBlockBytes);
    blocks->EncodeGroup(g, bytes.data());
    groups[g] = {bitmaps[g].block(), MetaChecksum(options.partition, bitmaps[g], bytes.data())};
    writes.push_back({bitmaps[g], std::move(bytes)});
  }
  TurnBudget turn(reactor_);
  const MetaRef directory =
      co_await EncodeMetaChain(reactor_, turn, options.partition, groups.data(), groups.size(), pieces, &writes);
  CO_RETURN_IF_ERROR(co_await pando::WriteMetadata(file, std::move(writes)));
  CO_RETURN_IF_ERROR(co_await file->Sync(/*data_only=*/false));

  Superblock sb;
  sb.page_bytes = options.page_bytes;
  sb.LeaveSeal(options.seal_bytes);
  sb.node = options.node;
  sb.partition = options.partition;
  sb.generation = root.generation;
  sb.epoch = root.epoch;
  sb.checkpoint_lsn = root.lsn;
  sb.chain = root.chain;
  sb.last_version = root.last_version;
  sb.next_page_id = root.next_page_id;
  sb.file_blocks = blocks->total_blocks();
  sb.root = root.root;
  sb.root_level = root.root_level;
  sb.group_blocks = ExtentAllocator::kGroupBlocks;
  sb.groups = directory;
  AlignedBuffer slots(kSuperblockBlocks * kBlockBytes);
  FillSlots(&sb, &slots);
  CO_RETURN_IF_ERROR(co_await file->Write(slots.data(), slots.size(), 0));
  co_return co_await file->Sync(/*data_only=*/false);
}

}  // namespace pando
