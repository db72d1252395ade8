#include "src/wal/segment_image.h"

#include <algorithm>

namespace pando {
namespace {

constexpr uint64_t kReadBytes = 512u << 10;
// Verified and indexed in one turn.
constexpr uint64_t kIndexedPerTurnBytes = 256u << 10;
// The index of a segment full of the smallest units takes less than half of what the segment does.
constexpr int64_t MemoryFor(uint64_t bytes) { return static_cast<int64_t>(bytes + bytes / 2); }

}  // namespace

Task<Result<std::unique_ptr<SegmentImage>>> SegmentImage::Load(DurableSegment segment, Uuid node,
                                                               MemoryBudget* memory) {
  const uint64_t bytes = AlignUp(segment.durable_end, kBlockBytes);
  if (memory && !memory->TryReserve(MemoryFor(bytes))) {
    co_return Error(Code::kOverloaded, "{}: there is no memory to read the segment for a reader of the log; try again",
                    segment.path);
  }
  std::unique_ptr<SegmentImage> image(new SegmentImage(std::move(segment)));
  image->memory_ = memory;
  image->reserved_bytes_ = MemoryFor(bytes);
  image->bytes_ = AlignedBuffer(bytes);
  CO_RETURN_IF_ERROR(co_await image->Read());
  CO_RETURN_IF_ERROR(co_await image->Index(LogChecksumSeed(node)));
  co_return std::move(image);
}

SegmentImage::~SegmentImage() {
  if (memory_) memory_->Release(reserved_bytes_);
}

const std::vector<SegmentImage::Place>& SegmentImage::UnitsOf(const Uuid& partition) const {
  static const std::vector<Place> kNone;
  const auto found = units_.find(partition);
  return found == units_.end() ? kNone : found->second;
}

Task<Status> SegmentImage::Read() {
  CO_ASSIGN_OR_RETURN(File file, co_await segment_.directory->OpenFile(SegmentFileName(segment_.number),
                                                                       File::Mode::kRead, /*direct=*/true));
  Status status;
  for (uint64_t at = 0; status.ok() && at < bytes_.size(); at += kReadBytes) {
    status = co_await file.Read(bytes_.data() + at, std::min<uint64_t>(kReadBytes, bytes_.size() - at), at);
  }
  Status closed = co_await file.Close();
  co_return status.ok() ? closed : status;
}

Task<Status> SegmentImage::Index(uint64_t seed) {
  const std::string_view image(bytes_.data(), segment_.durable_end);
  uint64_t yielded_at = 0;
  for (uint64_t offset = kFirstGroupOffset; offset < image.size();) {
    BatchView batch;
    const BatchState state = DecodeBatch(image, segment_.number, offset, seed, &batch);
    if (state != BatchState::kValid) {
      co_return Error(Code::kCorruption, "{}: offset {}: a durable batch was written here, but {}", segment_.path,
                      offset, BatchStateName(state));
    }
    if (HasUnits(batch.header)) IndexBatch(batch.payload);
    const uint64_t end = offset + BatchBytes(batch.header);
    const bool ends_group = (batch.header.flags & kBatchEndsGroup) != 0;
    offset = ends_group ? AlignUp(end, kBlockBytes) : end;
    if (offset - yielded_at < kIndexedPerTurnBytes) continue;
    yielded_at = offset;
    co_await Yield(segment_.directory->reactor());
  }
  co_return Status();
}

void SegmentImage::IndexBatch(std::string_view payload) {
  PayloadReader reader(payload);
  for (auto item = reader.Next(); item != PayloadReader::Item::kEnd; item = reader.Next()) {
    if (item == PayloadReader::Item::kDamaged) return;  // DecodeBatch accepts no such payload
    if (item != PayloadReader::Item::kUnit) continue;
    const size_t header_at = static_cast<size_t>(reader.unit.records.data() - bytes_.data()) - sizeof(UnitHeader);
    units_[reader.partition].push_back({reader.unit.first_lsn, static_cast<uint32_t>(header_at)});
  }
}

}  // namespace pando
