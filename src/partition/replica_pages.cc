// Replica: reads a snapshot's pages as they are on disk, for copies of the partition.
#include <algorithm>
#include <cstring>

#include "src/base/hash.h"
#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr size_t kReadsInFlight = 16;
// Cost of examining an inner page's leaves, in units of the turn's budget.
constexpr uint32_t kRunUnits = 256;

}  // namespace

struct Replica::PageRead {
  PageImage image;
  Status status;
};

Task<Status> Replica::WaitUntilOnDisk(SnapshotId id) {
  for (;;) {
    if (!failure_.ok()) co_return Refusal();
    CO_ASSIGN_OR_RETURN(View view, ViewOf(id));
    if (view.generation == 0)
      co_return Error(Code::kInvalidArgument, "the newest state has no pages to copy; name a snapshot");
    if (file_->superblock().generation >= view.generation) co_return Status();
    if (checkpoint_running_) {
      co_await checkpoint_done_.Wait();
    } else {
      CO_RETURN_IF_ERROR(co_await Checkpoint());  // the first attempt ran out of space
    }
  }
}

Task<Result<SnapshotRoot>> Replica::DescribeSnapshot(SnapshotId id) {
  CO_RETURN_IF_ERROR(co_await WaitUntilOnDisk(id));
  auto found = snapshots_.find(id);
  if (found == snapshots_.end()) co_return SnapshotGone();
  const SnapshotInfo& info = found->second;
  const TreeSnapshot& tree = tree_->snapshot(info.generation);
  SnapshotRoot root;
  root.generation = info.generation;
  root.epoch = epoch_;
  root.lsn = info.lsn;
  root.last_version = info.applied_version;
  root.next_page_id = tree_->next_page_id();
  root.file_blocks = file_->allocator().total_blocks();
  root.used_blocks = file_->allocator().used_blocks();
  root.root = tree.root;
  root.root_level = tree.root_level;
  co_return root;
}

Task<void> Replica::ReadImage(PageRead* read) {
  const Extent extent = read->image.location;
  AlignedBuffer bytes(extent.size_bytes());
  read->status = co_await file_->file().Read(bytes.data(), extent.size_bytes(), extent.offset_bytes());
  if (read->status.ok() &&
      Hash64({bytes.data(), extent.size_bytes()}, ChecksumSeed(uuid(), extent.block())) != read->image.checksum) {
    read->status = Error(Code::kCorruption, "{}: the page at offset {} fails its checksum: run kvadmin check",
                         file_->file().path(), extent.offset_bytes());
  }
  if (read->status.ok()) read->image.bytes.assign(bytes.data(), extent.size_bytes());
}

Task<void> Replica::ReadImages(std::vector<PageRead>* reads, size_t* next) {
  while (*next < reads->size()) co_await ReadImage(&(*reads)[(*next)++]);
}

// Returns the locations of the leaf's overflow values that were created after `since`.
Result<std::vector<PageImage>> Replica::ValuesOf(const PageImage& leaf, Generation since) const {
  const uint32_t page_bytes = pool_.page_bytes();
  std::vector<char> page(std::max<size_t>(leaf.bytes.size(), page_bytes)), scratch(page_bytes);
  std::memcpy(page.data(), leaf.bytes.data(), leaf.bytes.size());
  RETURN_IF_ERROR(DecodePageImage(page.data(), page_bytes, leaf.location.blocks(), scratch.data()));
  RETURN_IF_ERROR(Node::Validate(page.data(), page_bytes));
  const Node node(page.data(), page_bytes);
  std::vector<PageImage> values;
  for (uint32_t i = 0; i < node.count(); ++i) {
    const RecordView record = node.Record(i);
    if (!record.overflow || record.overflow_ref.birth <= since) continue;
    values.push_back({record.overflow_ref.location, record.overflow_ref.checksum, {}});
  }
  return values;
}

// Adds the pages of a run with their values, starting at the cursor. Leaves batch->next at the
// first one that did not fit.
Task<Status> Replica::AddRun(const PageRun* run, Generation since, PageCursor from, size_t max_bytes,
                             PageBatch* batch) {
  // Read the pages that are likely to fit together, but at least one that was not delivered yet.
  std::vector<PageRead> reads;
  size_t bytes = batch->bytes;
  uint32_t part = 0;  // index within the unit that begins with page.lower
  for (size_t i = 0; i < run->pages.size(); ++i) {
    const PageRun::Page& page = run->pages[i];
    part = i > 0 && page.lower == run->pages[i - 1].lower ? part + 1 : 0;
    const bool delivered = page.lower == from.key && part < from.parts;
    if (!delivered && bytes > batch->bytes && bytes >= max_bytes) break;
    PageRead& read = reads.emplace_back();
    read.image.location = page.ref.location;
    read.image.checksum = page.ref.checksum;
    if (!delivered) bytes += page.ref.location.size_bytes();
  }
  TaskGroup readers;
  size_t next = 0;
  for (size_t i = 0; i < std::min(kReadsInFlight, reads.size()); ++i) readers.Spawn(ReadImages(&reads, &next));
  co_await readers.Drain();
  PageCursor at{run->pages.front().lower, 0};
  for (size_t i = 0; i < reads.size(); ++i) {
    const PageRun::Page& page = run->pages[i];
    if (page.lower != at.key) at = {page.lower, 0};
    const uint32_t delivered = at.key == from.key ? from.parts : 0;
    batch->next = at;
    if (at.parts >= delivered && batch->full(max_bytes)) co_return Status();
    CO_RETURN_IF_ERROR(reads[i].status);
    std::vector<PageImage> values;
    if (page.level == 0) {
      CO_ASSIGN_OR_RETURN(values, ValuesOf(reads[i].image, since));
    }
    if (at.parts++ >= delivered) batch->Add(std::move(reads[i].image));
    for (PageImage& value : values) {
      batch->next = at;
      if (at.parts++ < delivered) continue;
      if (batch->full(max_bytes)) co_return Status();
      PageRead read{std::move(value), Status()};
      co_await ReadImage(&read);
      CO_RETURN_IF_ERROR(read.status);
      batch->Add(std::move(read.image));
    }
  }
  const bool all = reads.size() == run->pages.size();
  if (all) {
    batch->next = {run->next, 0};
  } else if (const std::string& lower = run->pages[reads.size()].lower; lower != at.key) {
    batch->next = {lower, 0};
  } else {
    batch->next = at;  // inner pages were delivered, but their first leaf was not
  }
  batch->exhausted = all && run->over;
  co_return Status();
}

Task<Result<PageBatch>> Replica::ReadPages(SnapshotId id, Generation since, PageCursor from, size_t max_bytes) {
  CO_RETURN_IF_ERROR(co_await WaitUntilOnDisk(id));
  PageBatch batch;
  batch.next = std::move(from);
  TurnSlice slice(pool_.turn());
  while (!batch.exhausted && !batch.full(max_bytes)) {
    if (!failure_.ok()) co_return Refusal();
    CO_ASSIGN_OR_RETURN(View view, ViewOf(id));
    const PageCursor at = batch.next;
    CO_ASSIGN_OR_RETURN(PageRun run, co_await tree_->CollectPages(view.generation, since, at.key));
    if (run.pages.empty()) {
      batch.next = {run.next, 0};
      batch.exhausted = run.over;
      if (slice.Spend(kRunUnits)) co_await Yield(reactor_);
      continue;
    }
    Status status = co_await AddRun(&run, since, at, max_bytes, &batch);
    // If the snapshot is gone, the bytes may be other pages'.
    CO_RETURN_IF_ERROR(ViewOf(id).status());
    CO_RETURN_IF_ERROR(status);
  }
  co_return batch;
}

}  // namespace pando
