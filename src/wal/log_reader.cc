#include "src/wal/log_reader.h"

#include <algorithm>

#include "src/base/codec.h"

namespace pando {
namespace {

constexpr size_t kReadBytes = 1u << 20;               // one device read
constexpr size_t kHeaderReadBytes = 2 * kBlockBytes;  // header block, first block of first group

}  // namespace

const char* SegmentUseName(LogSegmentInfo::Use use) {
  switch (use) {
    case LogSegmentInfo::Use::kUnread: return "unread";
    case LogSegmentInfo::Use::kData: return "data";
    case LogSegmentInfo::Use::kSpare: return "spare";
    case LogSegmentInfo::Use::kDead: return "dead";
  }
  return "?";
}

Status LostLog(std::string_view directory, LogPosition end, LogPosition required_end, std::string_view required_by) {
  const std::string found =
      end == 0 ? "it is empty or missing"
               : fmt::format("it ends in {} at offset {}", SegmentFileName(PositionSegment(end)), PositionOffset(end));
  return Error(Code::kCorruption,
               "{}: a part of the log is lost: {}, but it had reached {} at offset {} when {} was last checkpointed. "
               "The missing part holds acknowledged writes. Put the directory back as the node left it, or restore "
               "from a replica or a backup. To continue without these writes, start kvnode once with "
               "--accept_lost_log",
               directory, found, SegmentFileName(PositionSegment(required_end)), PositionOffset(required_end),
               required_by);
}

Task<Result<std::unique_ptr<LogReader>>> LogReader::Open(Reactor& reactor, Options options) {
  std::unique_ptr<LogReader> reader(new LogReader(reactor, std::move(options)));
  CO_RETURN_IF_ERROR(co_await reader->ReadHeaders());
  reader->ApplyCuts();
  co_return std::move(reader);
}

Task<Status> LogReader::ReadHeaders() {
  auto names = options_.open_directory != nullptr ? options_.open_directory->List()
                                                  : reactor_->ListDirectory(options_.directory);
  if (!names.ok()) co_return names.TakeStatus();
  for (const std::string& name : *names) {
    const auto number = ParseSegmentFileName(name);
    if (!number) continue;
    LogSegmentInfo segment;
    segment.number = *number;
    segment.path = options_.directory + "/" + name;
    segments_.push_back(std::move(segment));
  }
  std::sort(segments_.begin(), segments_.end(),
            [](const LogSegmentInfo& a, const LogSegmentInfo& b) { return a.number < b.number; });
  node_ = options_.node;
  AlignedBuffer blocks(kHeaderReadBytes);
  for (LogSegmentInfo& segment : segments_) {
    if (segment.number < options_.first_segment) {
      segment.use = LogSegmentInfo::Use::kDead;
      continue;
    }
    Status status = co_await ReadHeader(&segment, blocks.data());
    NoteDamaged(status, segment);
    CO_RETURN_IF_ERROR(std::move(status));
  }
  if (!options_.sync) co_return Status();
  if (options_.open_directory != nullptr) co_return co_await options_.open_directory->Sync();
  co_return co_await SyncDirectory(*reactor_, options_.directory);
}

Task<Result<File>> LogReader::OpenSegment(const LogSegmentInfo& segment, File::Mode mode) {
  if (options_.open_directory == nullptr) {
    co_return co_await File::Open(*reactor_, segment.path, mode, options_.sync);
  }
  co_return co_await options_.open_directory->OpenFile(SegmentFileName(segment.number), mode, options_.sync);
}

// How far to read to see all of the cut that the segment seems to begin with; 0: `head` is enough.
uint64_t LogReader::BytesOfLongCut(std::string_view head, const LogSegmentInfo& segment) {
  const auto first = LoadLE<BatchHeader>(head.data() + kFirstGroupOffset);
  if (first.magic != kBatchMagic || first.segment_number != segment.number || (first.flags & kBatchCut) == 0) return 0;
  const uint64_t end = AlignUp(kFirstGroupOffset + BatchOverhead(first) + first.payload_bytes, kBlockBytes);
  return end > head.size() && end <= segment.bytes ? end : 0;
}

Task<Status> LogReader::ReadHeader(LogSegmentInfo* segment, char* blocks) {
  const File::Mode mode = options_.sync ? File::Mode::kReadWrite : File::Mode::kRead;
  CO_ASSIGN_OR_RETURN(File file, co_await OpenSegment(*segment, mode));
  // Bytes that the last run wrote but never synced may be readable now and lost after the next
  // power failure. Make them durable before anything depends on them.
  Status status;
  if (options_.sync) status = co_await file.Sync(false);
  if (status.ok()) {
    auto size = file.Size();
    if (size.ok()) segment->bytes = *size;
    status = size.ok() ? Status() : size.TakeStatus();
  }
  if (status.ok() && segment->bytes < kMinSegmentBytes) {
    status = Error(Code::kCorruption,
                   "{}: the file has only {} bytes, too few for a log segment; restore it from a replica or a backup",
                   segment->path, segment->bytes);
  }
  if (status.ok()) status = co_await file.Read(blocks, kHeaderReadBytes, 0);
  // A cut with the marks of many partitions is longer.
  std::string_view head(blocks, kHeaderReadBytes);
  AlignedBuffer longer(status.ok() ? BytesOfLongCut(head, *segment) : 0);
  if (longer.size() > 0) {
    status = co_await file.Read(longer.data(), longer.size(), 0);
    head = {longer.data(), longer.size()};
  }
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(std::move(status));
  CO_RETURN_IF_ERROR(std::move(closed));
  co_return JudgeHeader(segment, head);
}

Status LogReader::JudgeHeader(LogSegmentInfo* segment, std::string_view blocks) {
  SegmentHeader header;
  const HeaderState state = DecodeSegmentHeader(blocks, &header);
  if (state == HeaderState::kDamaged) {
    // G1: a file gets its name only after its header is durable, so this is not an unfinished
    // segment.
    return Error(Code::kCorruption,
                 "{}: offset 0: the segment header is damaged; restore the log from a replica or a backup",
                 segment->path);
  }
  if (state == HeaderState::kOtherVersion) {
    return Error(Code::kVersion, "{}: the log has format version {}, but this build reads versions {} to {}",
                 segment->path, header.format_version, kOldestLogFormatVersion, kLogFormatVersion);
  }
  if (header.segment_number != segment->number) {
    return Error(Code::kCorruption,
                 "{}: offset 0: the header is that of segment {}; if the file was renamed, give it its old name back",
                 segment->path, header.segment_number);
  }
  if (node_.IsNil()) node_ = header.node;
  if (header.node != node_) {
    return Error(Code::kCorruption,
                 "{}: offset 0: the segment belongs to node {}, not to {}; put back the log of this node",
                 segment->path, header.node.ToString(), node_.ToString());
  }
  if (header.segment_bytes != segment->bytes) {
    return Error(Code::kCorruption,
                 "{}: the file has {} bytes, but its header says {}: it was truncated or extended; restore it from a "
                 "replica or a backup",
                 segment->path, segment->bytes, header.segment_bytes);
  }
  seed_ = LogChecksumSeed(node_);
  BatchView first;
  const BatchState batch = DecodeBatch(blocks, segment->number, kFirstGroupOffset, seed_, &first);
  if (batch == BatchState::kValid && (first.header.flags & kBatchCut)) segment->cut_at = first.header.previous_end;
  return {};
}

// Newest first, because a cut inside a dead segment was itself cut away.
void LogReader::ApplyCuts() {
  size_t cut_by = SIZE_MAX;
  LogPosition cut_at = 0;
  for (size_t i = segments_.size(); i-- > 0;) {
    LogSegmentInfo& segment = segments_[i];
    if (segment.number < options_.first_segment) return;
    if (cut_by != SIZE_MAX) {
      if (segment.number > PositionSegment(cut_at)) {
        segment.use = LogSegmentInfo::Use::kDead;
        continue;
      }
      if (segment.number == PositionSegment(cut_at)) {
        segment.ends_at = cut_at;
        segment.continued_by = cut_by;
      }
      // Otherwise the segment that the cut ended is missing. Next will find that nothing continues
      // this one.
      cut_by = SIZE_MAX;
    }
    if (segment.cut_at) {
      cut_by = i;
      cut_at = *segment.cut_at;
    }
  }
}

Task<Status> LogReader::Load(size_t index) {
  const LogSegmentInfo& segment = segments_[index];
  if (loaded_ == index) co_return Status();
  if (buffer_.size() < segment.bytes) {
    buffer_ = AlignedBuffer();  // free the old one first: both together would double the peak
    buffer_ = AlignedBuffer(segment.bytes);
  }
  loaded_ = SIZE_MAX;
  CO_ASSIGN_OR_RETURN(File file, co_await OpenSegment(segment, File::Mode::kRead));
  Status status;
  for (uint64_t at = 0; at < segment.bytes && status.ok(); at += kReadBytes) {
    const size_t bytes = std::min<uint64_t>(kReadBytes, segment.bytes - at);
    status = co_await file.Read(buffer_.data() + at, bytes, at);
  }
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(std::move(status));
  CO_RETURN_IF_ERROR(std::move(closed));
  loaded_ = index;
  co_return Status();
}

Status LogReader::Damaged(uint64_t offset, std::string_view what) const {
  return Error(Code::kCorruption, "{}: offset {}: {}; restore the log from a replica or a backup",
               segments_[current_].path, offset, what);
}

Task<Status> LogReader::Enter(size_t index) {
  CO_RETURN_IF_ERROR(co_await Load(index));
  current_ = index;
  offset_ = kFirstGroupOffset;
  chain_.EndGroup();
  segments_[index].use = LogSegmentInfo::Use::kData;
  co_return Status();
}

void LogReader::NoteDamaged(const Status& status, const LogSegmentInfo& segment) const {
  if (status.code() == Code::kCorruption && options_.damaged_segment) *options_.damaged_segment = segment.number;
}

Task<Result<bool>> LogReader::Next(LogEntry* entry) {
  Result<bool> more = co_await ReadNext(entry);
  if (!more.ok() && current_ != SIZE_MAX) NoteDamaged(more.status(), segments_[current_]);
  co_return more;
}

Task<Result<bool>> LogReader::ReadNext(LogEntry* entry) {
  if (current_ == SIZE_MAX && !done_) {
    size_t first = 0;
    while (first < segments_.size() && segments_[first].use == LogSegmentInfo::Use::kDead) ++first;
    if (first == segments_.size()) {
      done_ = true;
      end_reason_ = "there is no segment file";
    } else {
      CO_RETURN_IF_ERROR(co_await Enter(first));
    }
  }
  while (!done_) {
    const LogSegmentInfo& segment = segments_[current_];
    if (segment.ends_at && chain_.last_end() == *segment.ends_at) {
      CO_RETURN_IF_ERROR(co_await Enter(segment.continued_by));
      continue;
    }
    BatchView batch;
    const BatchState state = DecodeBatch(image(), segment.number, offset_, seed_, &batch);
    if (state == BatchState::kValid) {
      CO_RETURN_IF_ERROR(Accept(batch, entry));
      co_return true;
    }
    if (state == BatchState::kOtherVersion) {
      co_return Error(Code::kVersion, "{}: offset {}: the batch has a format version that this build does not read",
                      segment.path, offset_);
    }
    CO_RETURN_IF_ERROR(co_await PassGap(state));
  }
  co_return false;
}

Status LogReader::Accept(const BatchView& batch, LogEntry* entry) {
  const BatchHeader& header = batch.header;
  const LogSegmentInfo& segment = segments_[current_];
  const uint64_t end_offset = offset_ + BatchBytes(header);
  const LogPosition end = MakePosition(segment.number, end_offset);
  if (segment.ends_at && end > *segment.ends_at) {
    return Damaged(offset_, "a batch extends past the offset where a recovery ended this segment");
  }
  if (std::string wrong = chain_.Accept(header, end); !wrong.empty()) return Damaged(offset_, wrong);
  *entry = {header, batch.payload, &segment, offset_, end};
  offset_ = chain_.in_group() ? end_offset : AlignUp(end_offset, kBlockBytes);
  return {};
}

Status LogReader::SearchLater(uint64_t offset, LogPosition gap, BatchState found, bool* has_batches) {
  const LogSegmentInfo& searched = segments_[loaded_];
  for (uint64_t at = AlignUp(offset, kBlockBytes); at < searched.bytes; at += kBlockBytes) {
    BatchView batch;
    if (DecodeBatch(image(), searched.number, at, seed_, &batch) != BatchState::kValid) continue;
    *has_batches = true;
    if (batch.header.durable_position <= gap) continue;
    return Error(Code::kCorruption,
                 "{}: offset {}: {}, but the batch in {} at offset {} states that the data here was durable; "
                 "restore the log from a replica or a backup",
                 segments_[current_].path, PositionOffset(gap), BatchStateName(found), searched.path, at);
  }
  return {};
}

// There is no intact batch at offset_. The log continues in the next segment, ends here, or is
// damaged.
Task<Status> LogReader::PassGap(BatchState found) {
  const LogSegmentInfo& segment = segments_[current_];
  const LogPosition gap = MakePosition(segment.number, offset_);
  bool unfinished = found == BatchState::kDamaged;
  CO_RETURN_IF_ERROR(SearchLater(offset_ + 1, gap, found, &unfinished));
  if (segment.ends_at) {
    co_return Damaged(offset_, fmt::format("{}, although an earlier recovery found the log intact up to offset {}",
                                           BatchStateName(found), PositionOffset(*segment.ends_at)));
  }
  for (size_t i = current_ + 1; i < segments_.size(); ++i) {
    if (segments_[i].use == LogSegmentInfo::Use::kDead) continue;
    CO_RETURN_IF_ERROR(co_await Load(i));
    BatchView first;
    const bool intact =
        DecodeBatch(image(), segments_[i].number, kFirstGroupOffset, seed_, &first) == BatchState::kValid;
    // Nothing follows a first segment without a batch. What a later one holds was then never durable.
    const bool follows =
        i == current_ + 1 && segments_[i].number == segment.number + 1 && !chain_.in_group() && chain_.last_end() != 0;
    if (follows && intact && first.header.previous_end == chain_.last_end()) co_return co_await Enter(i);
    bool has_batches = false;
    CO_RETURN_IF_ERROR(SearchLater(kFirstGroupOffset, gap, found, &has_batches));
    segments_[i].use = has_batches ? LogSegmentInfo::Use::kDead : LogSegmentInfo::Use::kSpare;
    unfinished |= has_batches;
  }
  done_ = true;
  torn_ = unfinished;
  end_reason_ = fmt::format("{}: offset {}: {}", segment.path, offset_, BatchStateName(found));
  co_return Status();
}

}  // namespace pando
