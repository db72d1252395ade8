#include "src/wal/log_cut.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "src/base/codec.h"
#include "src/wal/segment_files.h"

namespace pando {
namespace {

constexpr uint64_t kCopyBytes = 512u << 10;

std::string BegunName(const LogCut& cut) { return fmt::format("{}{:08x}", kAcceptedCutPrefix, cut.code); }

// Opens, calls `use`, and closes.
template <typename Use>
Task<Status> WithFile(const Directory* directory, std::string name, File::Mode mode, bool direct, Use use) {
  CO_ASSIGN_OR_RETURN(File file, co_await directory->OpenFile(std::move(name), mode, direct));
  Status status = co_await use(&file);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

// The part of a segment before the damage, as a segment of its own that ends there.
struct PartCopy {
  uint64_t number, end;
  Uuid node;
  File* from = nullptr;

  Task<Status> operator()(File* to) const {
    const uint64_t bytes = std::max(AlignUp(end, kBlockBytes), kMinSegmentBytes);
    CO_ASSIGN_OR_RETURN(const uint64_t there, from->Size());  // the file may end within a block
    AlignedBuffer buffer(kCopyBytes);
    CO_RETURN_IF_ERROR(co_await to->Truncate(0));
    for (uint64_t at = 0; at < bytes; at += kCopyBytes) {
      const uint64_t part = std::min(kCopyBytes, bytes - at);
      const uint64_t filled = std::min({part, end - std::min(at, end), there - std::min(at, there)});
      std::memset(buffer.data(), 0, buffer.size());
      if (filled > 0) CO_RETURN_IF_ERROR(co_await from->Read(buffer.data(), filled, at));
      if (at == 0) EncodeSegmentHeader(node, number, bytes, buffer.data());
      CO_RETURN_IF_ERROR(co_await to->Write(buffer.data(), part, at));
    }
    co_return co_await to->Sync(/*data_only=*/false);
  }
};

struct CopyPart {
  const Directory* directory;
  PartCopy copy;
  Task<Status> operator()(File* from) const {
    PartCopy part = copy;
    part.from = from;
    return WithFile(directory, SegmentFiles::kPartName, File::Mode::kCreate, /*direct=*/true, part);
  }
};

// The header of the new segment, and the batch that is the cut.
struct WriteNewSegment {
  Uuid node;
  LogCut cut;
  uint64_t segment_bytes;
  const std::vector<StreamMark>* marks;

  Task<Status> operator()(File* file) const {
    const size_t payload = marks->size() * kMarkBytes;
    AlignedBuffer buffer(kFirstGroupOffset + BatchBytes(payload));
    EncodeSegmentHeader(node, cut.number, segment_bytes, buffer.data());
    char* const batch = buffer.data() + kFirstGroupOffset;
    char* out = batch + kBatchOverhead;
    for (const StreamMark& mark : *marks) out = EncodeMark(mark, out);
    BatchHeader header{};
    header.flags = kBatchEndsGroup | kBatchCut;
    header.segment_number = cut.number;
    header.position = MakePosition(cut.number, kFirstGroupOffset);
    header.previous_end = header.durable_position = cut.at;
    SealBatch(header, LogChecksumSeed(node), payload, batch);
    CO_RETURN_IF_ERROR(co_await file->Write(buffer.data(), buffer.size(), 0));
    co_return co_await file->Sync(/*data_only=*/false);
  }
};

struct ReadBegun {
  Uuid node;
  LogCut* cut;

  Task<Status> operator()(File* file) const {
    CO_ASSIGN_OR_RETURN(const uint64_t size, file->Size());
    const uint64_t bytes = std::min(size, kMaxSegmentBytes);
    AlignedBuffer buffer(bytes);
    CO_RETURN_IF_ERROR(co_await file->Read(buffer.data(), bytes, 0));
    const std::string_view image(buffer.data(), bytes);
    SegmentHeader header;
    BatchView first;
    if (DecodeSegmentHeader(image, &header) == HeaderState::kValid && header.node == node &&
        DecodeBatch(image, header.segment_number, kFirstGroupOffset, LogChecksumSeed(node), &first) ==
            BatchState::kValid &&
        (first.header.flags & kBatchCut) != 0) {
      cut->number = header.segment_number;
      cut->at = first.header.previous_end;
      co_return Status();
    }
    co_return Error(Code::kCorruption,
                    "{}: is damaged, so that it is not known where accept-loss was about to end the log; give the "
                    "segments that it has put aside their names back, remove this file, and begin again",
                    file->path());
  }
};

}  // namespace

std::string AsideName(const std::vector<std::string>& names, std::string_view segment) {
  return DamagedName(names, segment.substr(0, segment.rfind('.')));
}

Task<Result<std::optional<LogCut>>> FindBegunCut(const Directory* directory, Uuid node) {
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> names, directory->List());
  for (const std::string& name : names) {
    if (!name.starts_with(kAcceptedCutPrefix)) continue;
    LogCut cut;
    const char* const digits = name.data() + kAcceptedCutPrefix.size();
    std::from_chars(digits, name.data() + name.size(), cut.code, 16);
    const ReadBegun read{node, &cut};
    CO_RETURN_IF_ERROR(co_await WithFile(directory, name, File::Mode::kRead, /*direct=*/false, read));
    co_return std::optional<LogCut>(cut);
  }
  co_return std::optional<LogCut>();
}

Task<Status> BeginCut(const Directory* directory, Uuid node, LogCut cut, const LogCutContent* content) {
  const uint64_t needed = kFirstGroupOffset + BatchBytes(content->marks.size() * kMarkBytes) + kClosingBytes;
  const uint64_t bytes = std::max({content->segment_bytes, AlignUp(needed, kBlockBytes), kMinSegmentBytes});
  if (cut.number > kMaxSegmentNumber || bytes > kMaxSegmentBytes) {
    co_return Error(Code::kInvalidArgument, "{}: no new segment can be added to this log; restore from a backup",
                    directory->path());
  }
  SegmentFiles files(node, bytes, [] { return Status(); });
  files.Use(directory);
  // PutAside goes by whether there is a copy, so one of an attempt that was cut short must be durably gone.
  CO_RETURN_IF_ERROR(co_await files.RemoveLeftover());
  if (content->copy_part) {
    const uint64_t number = PositionSegment(cut.at);
    const CopyPart copy{directory, {number, PositionOffset(cut.at), node}};
    CO_RETURN_IF_ERROR(
        co_await WithFile(directory, SegmentFileName(number), File::Mode::kRead, /*direct=*/false, copy));
  }
  CO_RETURN_IF_ERROR(co_await files.Create());
  const WriteNewSegment write{node, cut, bytes, &content->marks};
  CO_RETURN_IF_ERROR(
      co_await WithFile(directory, SegmentFiles::kTemporaryName, File::Mode::kReadWrite, /*direct=*/true, write));
  CO_RETURN_IF_ERROR(co_await directory->Sync());
  CO_RETURN_IF_ERROR(co_await directory->Rename(SegmentFiles::kTemporaryName, BegunName(cut)));
  co_return co_await directory->Sync();
}

Task<Status> PutAside(const Directory* directory, LogCut cut) {
  // A call that was cut short may have changed names that are not durable yet.
  CO_RETURN_IF_ERROR(co_await directory->Sync());
  CO_ASSIGN_OR_RETURN(std::vector<std::string> names, directory->List());
  const bool part = std::find(names.begin(), names.end(), SegmentFiles::kPartName) != names.end();
  const uint64_t last = PositionSegment(cut.at);
  for (const std::string& name : names) {
    const auto number = ParseSegmentFileName(name);
    if (!number || *number < last || (*number == last && !part)) continue;
    CO_RETURN_IF_ERROR(co_await directory->Rename(name, AsideName(names, name)));
  }
  // LC2: durably aside before the copy takes the name.
  CO_RETURN_IF_ERROR(co_await directory->Sync());
  if (!part) co_return Status();
  CO_RETURN_IF_ERROR(co_await directory->Rename(SegmentFiles::kPartName, SegmentFileName(last)));
  co_return co_await directory->Sync();
}

Task<Status> FinishCut(const Directory* directory, LogCut cut) {
  CO_RETURN_IF_ERROR(co_await directory->Rename(BegunName(cut), SegmentFileName(cut.number)));
  co_return co_await directory->Sync();
}

}  // namespace pando
