// PartitionReader: reads a snapshot's pages as they are on disk, for copies of the partition.
#include <algorithm>
#include <cstring>

#include "src/base/hash.h"
#include "src/partition/partition_reader.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 16;
// Cost of examining an inner page's leaves, in units of the turn's budget.
constexpr uint32_t kRunUnits = 256;

}  // namespace

// Reads page images from the partition's file, bypassing the pool, and verifies them.
class PartitionReader::PageCopier {
 public:
  PageCopier(PartitionState& state, Generation since, PageCursor from, size_t max_bytes, PageBatch* batch)
      : state_(state), since_(since), from_(std::move(from)), max_bytes_(max_bytes), batch_(*batch) {}

  // Adds the pages of a run with their values, starting at the cursor. Leaves batch->next at the
  // first one that did not fit.
  Task<Status> AddRun(const PageRun* run);

 private:
  struct PageRead {
    PageImage image;
    Status status;
  };
  std::vector<PageRead> ReadsFor(const PageRun& run) const;
  Task<Result<bool>> AddPage(PageRead* read, uint8_t level, PageCursor* at);
  Task<void> ReadImage(PageRead* read);
  Task<void> ReadImages(std::vector<PageRead>* reads, size_t* next);
  Result<std::vector<PageImage>> ValuesOf(const PageImage& leaf) const;

  PartitionState& state_;
  const Generation since_;
  const PageCursor from_;
  const size_t max_bytes_;
  PageBatch& batch_;
};

Task<void> PartitionReader::PageCopier::ReadImage(PageRead* read) {
  const Extent extent = read->image.location;
  File& file = state_.file->file();
  AlignedBuffer bytes(extent.size_bytes());
  read->status = co_await file.Read(bytes.data(), extent.size_bytes(), extent.offset_bytes());
  if (!read->status.ok()) co_return;
  const uint64_t seed = ChecksumSeed(state_.info.uuid, extent.block());
  if (Hash64({bytes.data(), extent.size_bytes()}, seed) != read->image.checksum) {
    read->status = Error(Code::kCorruption, "{}: the page at offset {} fails its checksum: run kvadmin check",
                         file.path(), extent.offset_bytes());
    co_return;
  }
  read->image.bytes.assign(bytes.data(), extent.size_bytes());
}

Task<void> PartitionReader::PageCopier::ReadImages(std::vector<PageRead>* reads, size_t* next) {
  while (*next < reads->size()) co_await ReadImage(&(*reads)[(*next)++]);
}

// Returns the locations of the leaf's overflow values that were created after `since`.
Result<std::vector<PageImage>> PartitionReader::PageCopier::ValuesOf(const PageImage& leaf) const {
  const uint32_t usable_bytes = state_.pool.usable_bytes();
  std::vector<char> page(std::max<size_t>(leaf.bytes.size(), state_.pool.page_bytes())), scratch(usable_bytes);
  std::memcpy(page.data(), leaf.bytes.data(), leaf.bytes.size());
  RETURN_IF_ERROR(DecodePageImage(page.data(), usable_bytes, leaf.location.blocks(), scratch.data()));
  RETURN_IF_ERROR(TreeNode::Validate(page.data(), usable_bytes));
  const TreeNode node(page.data(), usable_bytes);
  std::vector<PageImage> values;
  for (uint32_t i = 0; i < node.count(); ++i) {
    const RecordView record = node.Record(i);
    if (!record.overflow || record.overflow_ref.birth <= since_) continue;
    values.push_back({record.overflow_ref.location, record.overflow_ref.checksum, {}});
  }
  return values;
}

// The pages of the run that are likely to fit together, but at least one that was not delivered
// yet.
std::vector<PartitionReader::PageCopier::PageRead> PartitionReader::PageCopier::ReadsFor(const PageRun& run) const {
  std::vector<PageRead> reads;
  size_t bytes = batch_.bytes;
  uint32_t part = 0;  // index within the unit that begins with page.lower
  for (size_t i = 0; i < run.pages.size(); ++i) {
    const PageRun::Page& page = run.pages[i];
    part = i > 0 && page.lower == run.pages[i - 1].lower ? part + 1 : 0;
    const bool delivered = page.lower == from_.key && part < from_.parts;
    if (!delivered && bytes > batch_.bytes && bytes >= max_bytes_) break;
    PageRead& read = reads.emplace_back();
    read.image.location = page.ref.location;
    read.image.checksum = page.ref.checksum;
    if (!delivered) bytes += page.ref.location.size_bytes();
  }
  return reads;
}

Task<Status> PartitionReader::PageCopier::AddRun(const PageRun* run) {
  std::vector<PageRead> reads = ReadsFor(*run);
  TaskGroup readers;
  size_t next = 0;
  for (size_t i = 0; i < std::min(kReadsInFlight, reads.size()); ++i) readers.Spawn(ReadImages(&reads, &next));
  co_await readers.Drain();
  PageCursor at{run->pages.front().lower, 0};
  for (size_t i = 0; i < reads.size(); ++i) {
    const PageRun::Page& page = run->pages[i];
    if (page.lower != at.key) at = {page.lower, 0};
    bool fits = false;
    CO_ASSIGN_OR_RETURN(fits, co_await AddPage(&reads[i], page.level, &at));
    if (!fits) co_return Status();
  }
  const bool all = reads.size() == run->pages.size();
  if (all) {
    batch_.next = {run->next, 0};
  } else if (const std::string& lower = run->pages[reads.size()].lower; lower != at.key) {
    batch_.next = {lower, 0};
  } else {
    batch_.next = at;  // inner pages were delivered, but their first leaf was not
  }
  batch_.exhausted = all && run->over;
  co_return Status();
}

// Adds the page at *at and its values, and advances *at. False: the batch is full.
Task<Result<bool>> PartitionReader::PageCopier::AddPage(PageRead* read, uint8_t level, PageCursor* at) {
  const uint32_t delivered = at->key == from_.key ? from_.parts : 0;
  batch_.next = *at;
  if (at->parts >= delivered && batch_.full(max_bytes_)) co_return false;
  CO_RETURN_IF_ERROR(read->status);
  std::vector<PageImage> values;
  if (level == 0) {
    CO_ASSIGN_OR_RETURN(values, ValuesOf(read->image));
  }
  if (at->parts++ >= delivered) batch_.Add(std::move(read->image));
  for (PageImage& value : values) {
    batch_.next = *at;
    if (at->parts++ < delivered) continue;
    if (batch_.full(max_bytes_)) co_return false;
    PageRead value_read{std::move(value), Status()};
    co_await ReadImage(&value_read);
    CO_RETURN_IF_ERROR(value_read.status);
    batch_.Add(std::move(value_read.image));
  }
  co_return true;
}

Task<Status> PartitionReader::WaitUntilOnDisk(SnapshotId id) {
  for (;;) {
    if (state_.failed()) co_return state_.Refusal();
    CO_ASSIGN_OR_RETURN(ReadView view, snapshots_.ViewOf(id));
    if (view.generation == 0)
      co_return Error(Code::kInvalidArgument, "the newest state has no pages to copy; name a snapshot");
    if (state_.file->superblock().generation >= view.generation) co_return Status();
    // If none is running, the first attempt ran out of space.
    CO_RETURN_IF_ERROR(co_await checkpointer_.CheckpointOrJoin());
  }
}

Task<Result<SnapshotRoot>> PartitionReader::DescribeSnapshot(SnapshotId id) {
  const ActiveCall call(&state_);
  CO_RETURN_IF_ERROR(co_await WaitUntilOnDisk(id));
  CO_ASSIGN_OR_RETURN(const SnapshotInfo* info, snapshots_.Find(id));
  const TreeSnapshot& tree = state_.tree->snapshot(info->generation);
  SnapshotRoot root;
  root.partition = state_.info.uuid;
  root.generation = info->generation;
  root.epoch = info->epoch;
  root.lsn = info->lsn;
  root.chain = info->chain;
  root.last_version = info->applied_version;
  root.next_page_id = state_.tree->next_page_id();
  root.file_blocks = state_.file->allocator().total_blocks();
  root.used_blocks = state_.file->allocator().used_blocks();
  root.root = tree.root;
  root.root_level = tree.root_level;
  co_return root;
}

Task<Result<PageBatch>> PartitionReader::ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) {
  const ActiveCall call(&state_);
  CO_RETURN_IF_ERROR(co_await WaitUntilOnDisk(id));
  PageBatch batch;
  batch.next = std::move(from);
  TurnSlice slice(state_.pool.turn());
  while (!batch.exhausted && !batch.full(max_bytes)) {
    if (state_.failed()) co_return state_.Refusal();
    CO_ASSIGN_OR_RETURN(ReadView view, snapshots_.ViewOf(id));
    CO_ASSIGN_OR_RETURN(PageRun run, co_await state_.tree->CollectPages(view.generation, since, batch.next.key));
    if (run.pages.empty()) {
      batch.next = {run.next, 0};
      batch.exhausted = run.over;
      if (slice.Spend(kRunUnits)) co_await Yield(state_.reactor);
      continue;
    }
    PageCopier copier(state_, since, batch.next, max_bytes, &batch);
    Status status = co_await copier.AddRun(&run);
    // If the snapshot is gone, the bytes may be other pages'.
    CO_RETURN_IF_ERROR(snapshots_.ViewOf(id).status());
    CO_RETURN_IF_ERROR(status);
  }
  co_return batch;
}

}  // namespace pando
