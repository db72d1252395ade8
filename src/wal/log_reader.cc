#include "src/wal/log_reader.h"

#include <algorithm>
#include <cstring>

#include "src/base/codec.h"

namespace pando {
namespace {

constexpr size_t kReadBytes = 1u << 20;               // one device read
constexpr size_t kHeaderReadBytes = 2 * kBlockBytes;  // header block, first block of first group

// Whether `status` says something about the bytes of the log.
bool IsDamage(const Status& status) { return status.code() == Code::kCorruption || status.code() == Code::kIoError; }

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
      end == 0 ? "it is missing, or no segment in it has records"
               : fmt::format("it ends in {} at offset {}", SegmentFileName(PositionSegment(end)), PositionOffset(end));
  return Error(Code::kCorruption,
               "{}: a part of the log is lost: {}, but it had reached {} at offset {} when {} was last checkpointed. "
               "The missing part holds acknowledged writes. Put the directory back as the node left it, or restore "
               "from a replica or a backup",
               directory, found, SegmentFileName(PositionSegment(required_end)), PositionOffset(required_end),
               required_by);
}

Task<Result<std::unique_ptr<LogReader>>> LogReader::Open(Reactor& reactor, Options options) {
  std::unique_ptr<LogReader> reader(new LogReader(reactor, std::move(options)));
  CO_RETURN_IF_ERROR(co_await reader->ReadHeaders());
  reader->ApplyCuts();
  CO_RETURN_IF_ERROR(reader->JudgeUnreadable());
  co_return std::move(reader);
}

// V3: what a cut has ended need not be readable.
Status LogReader::JudgeUnreadable() {
  if (options_.salvage) return Status();
  for (const LogSegmentInfo& segment : segments_) {
    const bool whole_enough = segment.readable && segment.ends_at && PositionOffset(*segment.ends_at) <= segment.bytes;
    if (segment.damage.empty() || segment.cut_off || whole_enough) continue;
    Status status = std::move(header_errors_.at(segment.number));
    NoteDamaged(status, segment);
    return status;
  }
  return Status();
}

Task<Status> LogReader::ReadHeaders() {
  auto names = options_.open_directory != nullptr ? options_.open_directory->List()
                                                  : reactor_->ListDirectory(options_.directory);
  if (!names.ok()) co_return names.TakeStatus();
  CO_RETURN_IF_ERROR(JudgeNames(*names));
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
  seed_ = LogChecksumSeed(node_);
  AlignedBuffer blocks(kHeaderReadBytes);
  for (LogSegmentInfo& segment : segments_) {
    if (segment.number < options_.first_segment) {
      segment.use = LogSegmentInfo::Use::kDead;
      continue;
    }
    Status status = co_await ReadHeader(&segment, blocks.data());
    if (!status.ok() && !IsDamage(status)) co_return status;
    if (status.ok()) continue;
    segment.readable = false;
    segment.damage = unreadable_.empty() ? std::string(status.message()) : unreadable_.begin()->second;
    header_errors_.emplace(segment.number, std::move(status));
  }
  if (!options_.sync) co_return Status();
  if (options_.open_directory != nullptr) co_return co_await options_.open_directory->Sync();
  co_return co_await SyncDirectory(*reactor_, options_.directory);
}

// What an operator has accepted must be finished first.
Status LogReader::JudgeNames(const std::vector<std::string>& names) const {
  if (options_.salvage) return Status();
  for (const std::string& name : names) {
    if (!name.starts_with(kAcceptedCutPrefix)) continue;
    return Error(Code::kCorruption,
                 "{}: kvadmin accept-loss was cut short here; run it again with --confirm {}, and it goes on",
                 options_.directory, name.substr(kAcceptedCutPrefix.size()));
  }
  return Status();
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
  unreadable_.clear();
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
  if (options_.salvage) segment->bytes = std::min(segment->bytes, kMaxSegmentBytes);
  if (status.ok() && segment->bytes < kHeaderReadBytes) {
    status = Error(Code::kCorruption,
                   "{}: the file has only {} bytes, too few for a log segment; restore it from a replica or a backup",
                   segment->path, segment->bytes);
  }
  if (status.ok()) status = co_await ReadBytes(&file, blocks, kHeaderReadBytes, 0);
  // A cut with the marks of many partitions is longer.
  std::string_view head(blocks, kHeaderReadBytes);
  AlignedBuffer longer(status.ok() ? BytesOfLongCut(head, *segment) : 0);
  if (longer.size() > 0) {
    status = co_await ReadBytes(&file, longer.data(), longer.size(), 0);
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
  JudgeSize(segment, header.segment_bytes);
  seed_ = LogChecksumSeed(node_);
  BatchView first;
  const BatchState batch = DecodeBatch(blocks, segment->number, kFirstGroupOffset, seed_, &first);
  if (batch == BatchState::kValid && (first.header.flags & kBatchCut)) segment->cut_at = first.header.previous_end;
  return {};
}

void LogReader::JudgeSize(LogSegmentInfo* segment, uint64_t stated_bytes) {
  if (stated_bytes == segment->bytes) return;
  Status wrong = Error(Code::kCorruption,
                       "{}: the file has {} bytes, but its header says {}: it was truncated or extended; restore it "
                       "from a replica or a backup",
                       segment->path, segment->bytes, stated_bytes);
  segment->damage = wrong.message();
  segment->bytes = std::min(segment->bytes, stated_bytes);
  header_errors_.emplace(segment->number, std::move(wrong));
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
        segment.cut_off = true;
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

// With `salvage`, blocks that cannot be read are zeros.
Task<Status> LogReader::ReadBytes(File* file, char* out, uint64_t bytes, uint64_t offset) {
  Status status = co_await file->Read(out, bytes, offset);
  if (!options_.salvage || status.code() != Code::kIoError) co_return status;
  for (uint64_t at = 0; at < bytes; at += kBlockBytes) {
    const uint64_t part = std::min<uint64_t>(kBlockBytes, bytes - at);
    status = co_await file->Read(out + at, part, offset + at);
    if (status.ok()) continue;
    if (status.code() != Code::kIoError) co_return status;
    std::memset(out + at, 0, part);
    unreadable_.emplace(offset + at, status.message());
  }
  co_return Status();
}

Task<Status> LogReader::Load(size_t index) {
  const LogSegmentInfo& segment = segments_[index];
  if (loaded_ == index) co_return Status();
  if (buffer_.size() < segment.bytes) {
    buffer_ = AlignedBuffer();  // free the old one first: both together would double the peak
    buffer_ = AlignedBuffer(segment.bytes);
  }
  loaded_ = SIZE_MAX;
  unreadable_.clear();
  CO_ASSIGN_OR_RETURN(File file, co_await OpenSegment(segment, File::Mode::kRead));
  Status status;
  // What a cut has ended is not read, as nothing of it is needed.
  const uint64_t needed = segment.ends_at ? AlignUp(PositionOffset(*segment.ends_at), kBlockBytes) : segment.bytes;
  loaded_bytes_ = std::min(needed, segment.bytes);
  for (uint64_t at = 0; at < loaded_bytes_ && status.ok(); at += kReadBytes) {
    const size_t bytes = std::min<uint64_t>(kReadBytes, loaded_bytes_ - at);
    status = co_await ReadBytes(&file, buffer_.data() + at, bytes, at);
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
  if (EndsAtBadFile(index, SIZE_MAX)) co_return Status();
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

void LogReader::EndAtDamage(size_t index, uint64_t offset, std::string what) {
  damage_ = LogDamage{segments_[index].number, offset, std::move(what)};
  done_ = true;
}

// Salvage: whether the log ends because of the file at `index`, as a whole, or of one of its blocks at or
// after `from`; then it must be loaded.
bool LogReader::EndsAtBadFile(size_t index, uint64_t from) {
  if (!options_.salvage) return false;
  const LogSegmentInfo& segment = segments_[index];
  const auto block = unreadable_.lower_bound(from);
  if (!segment.readable) {
    EndAtDamage(index, 0, segment.damage);
  } else if (from != SIZE_MAX && block != unreadable_.end()) {
    EndAtDamage(index, block->first, block->second);
  } else if (from != SIZE_MAX && !segment.damage.empty()) {
    EndAtDamage(index, segment.bytes, segment.damage);
  }
  return done_;
}

Task<Result<bool>> LogReader::Next(LogEntry* entry) {
  Result<bool> more = co_await ReadNext(entry);
  if (!more.ok() && current_ != SIZE_MAX) NoteDamaged(more.status(), segments_[current_]);
  if (!options_.salvage || more.code() != Code::kCorruption) co_return more;
  EndAtDamage(current_, offset_, std::string(more.status().message()));
  co_return false;
}

Task<Result<bool>> LogReader::NextBehind(LogEntry* entry) {
  CHECK(options_.salvage && done_);
  if (behind_ == SIZE_MAX) {
    behind_ = current_ == SIZE_MAX ? 0 : current_;
    behind_offset_ = current_ == SIZE_MAX ? kFirstGroupOffset : offset_;
  }
  for (; behind_ < segments_.size(); ++behind_, behind_offset_ = kFirstGroupOffset) {
    const LogSegmentInfo& segment = segments_[behind_];
    if (segment.cut_off || segment.bytes <= kFirstGroupOffset) continue;
    Status loaded = co_await Load(behind_);
    if (loaded.code() == Code::kIoError) continue;
    CO_RETURN_IF_ERROR(std::move(loaded));
    const uint64_t end = segment.ends_at ? PositionOffset(*segment.ends_at) : segment.bytes;
    while (behind_offset_ < end) {
      const uint64_t offset = behind_offset_;
      BatchView batch;
      if (DecodeBatch(image(), segment.number, offset, seed_, &batch) != BatchState::kValid) {
        behind_offset_ = AlignUp(offset + 1, kBlockBytes);
        continue;
      }
      const uint64_t next = offset + BatchBytes(batch.header);
      behind_offset_ = (batch.header.flags & kBatchEndsGroup) != 0 ? AlignUp(next, kBlockBytes) : next;
      *entry = {batch.header, batch.payload, &segment, offset, MakePosition(segment.number, next)};
      co_return true;
    }
  }
  co_return false;
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
  for (uint64_t at = AlignUp(offset, kBlockBytes); at < loaded_bytes_; at += kBlockBytes) {
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
  if (EndsAtBadFile(current_, offset_)) co_return Status();
  CO_RETURN_IF_ERROR(SearchLater(offset_ + 1, gap, found, &unfinished));
  if (segment.ends_at) {
    co_return Damaged(offset_, fmt::format("{}, although an earlier recovery found the log intact up to offset {}",
                                           BatchStateName(found), PositionOffset(*segment.ends_at)));
  }
  for (size_t i = current_ + 1; i < segments_.size(); ++i) {
    if (segments_[i].use == LogSegmentInfo::Use::kDead) continue;
    if (EndsAtBadFile(i, SIZE_MAX)) co_return Status();
    CO_RETURN_IF_ERROR(co_await Load(i));
    BatchView first;
    const bool intact =
        DecodeBatch(image(), segments_[i].number, kFirstGroupOffset, seed_, &first) == BatchState::kValid;
    // Nothing follows a first segment without a batch. What a later one holds was then never durable.
    const bool follows =
        i == current_ + 1 && segments_[i].number == segment.number + 1 && !chain_.in_group() && chain_.last_end() != 0;
    if (follows && intact && first.header.previous_end == chain_.last_end()) co_return co_await Enter(i);
    if (EndsAtBadFile(i, 0)) co_return Status();
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
