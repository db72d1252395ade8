#include "src/wal/segment_files.h"

#include <algorithm>

namespace pando {
namespace {

constexpr size_t kZeroWriteBytes = 512u << 10;

// A failed sync is never retried (L4), not even if the error says that there is no space.
Status NoRetry(Status status) {
  if (status.code() != Code::kDiskFull) return status;
  return Error(Code::kIoError, "{}", status.message());
}

}  // namespace

Task<Status> SegmentFiles::Create() {
  CHECK(!has_aside());
  // G3, here and below: nothing is changed once another process owns the directory.
  CO_RETURN_IF_ERROR(may_change_());
  Status filled = co_await FillWithZeros();
  if (filled.ok()) {
    aside_ = Aside::kReady;
    co_return filled;
  }
  // Give back the reserved space: it may be what fills the disk.
  Status removed = co_await Remove(kTemporaryName);
  LOG_IF(WARNING, !removed.ok()) << removed.ToString();
  co_return filled;
}

Task<Status> SegmentFiles::FillWithZeros() {
  CO_ASSIGN_OR_RETURN(File file, co_await directory_->OpenFile(kTemporaryName, File::Mode::kCreate, true));
  AlignedBuffer zeros(std::min<uint64_t>(kZeroWriteBytes, segment_bytes_));
  Status status = co_await file.Allocate(0, segment_bytes_);
  for (uint64_t at = 0; at < segment_bytes_ && status.ok(); at += zeros.size()) {
    status = co_await file.Write(zeros.data(), std::min<uint64_t>(zeros.size(), segment_bytes_ - at), at);
  }
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(std::move(status));
  co_return closed;
}

Task<Status> SegmentFiles::TakeAside(std::string name) {
  CHECK(!has_aside());
  CO_RETURN_IF_ERROR(may_change_());
  CO_RETURN_IF_ERROR(co_await directory_->Rename(std::move(name), kTemporaryName));
  aside_ = Aside::kRenamed;
  co_return Status();
}

// Writes the header of the file that is aside, makes all of it durable, gives it its name, and
// opens it under that name. Any step may fail for lack of space or of a descriptor. The next call
// continues at that step.
Task<Result<File>> SegmentFiles::Publish(uint64_t number) {
  CHECK(has_aside());
  CO_RETURN_IF_ERROR(may_change_());
  if (aside_ == Aside::kRenamed) {
    // G2: remove the old name durably before overwriting the old header.
    CO_RETURN_IF_ERROR(co_await SyncNames());
    aside_ = Aside::kReady;
  }
  std::string name = SegmentFileName(number);
  if (aside_ == Aside::kReady) {
    CO_RETURN_IF_ERROR(co_await WriteHeader(number));
    CO_RETURN_IF_ERROR(co_await directory_->Rename(kTemporaryName, name));
    CO_RETURN_IF_ERROR(co_await SyncNames());
    aside_ = Aside::kNamed;
  }
  Result<File> file = co_await directory_->OpenFile(std::move(name), File::Mode::kReadWrite, true);
  if (file.ok()) aside_ = Aside::kNothing;
  co_return file;
}

Task<Status> SegmentFiles::WriteHeader(uint64_t number) {
  CO_ASSIGN_OR_RETURN(File file, co_await directory_->OpenFile(kTemporaryName, File::Mode::kReadWrite, true));
  AlignedBuffer block(kBlockBytes);
  EncodeSegmentHeader(node_, number, segment_bytes_, block.data());
  Status status = co_await file.Write(block.data(), kBlockBytes, 0);
  if (status.ok()) status = NoRetry(co_await file.Sync(false));
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(std::move(status));
  co_return closed;
}

Task<Status> SegmentFiles::Remove(std::string name) {
  CO_RETURN_IF_ERROR(may_change_());
  CO_RETURN_IF_ERROR(co_await directory_->Remove(std::move(name)));
  co_return co_await SyncNames();
}

Task<Status> SegmentFiles::SyncNames() { co_return NoRetry(co_await directory_->Sync()); }

Task<Status> SegmentFiles::RemoveLeftover() {
  auto names = directory_->List();
  if (!names.ok()) co_return names.TakeStatus();
  const auto begun = [](const std::string& name) { return name.starts_with(kAcceptedCutPrefix); };
  if (std::any_of(names->begin(), names->end(), begun)) co_return Status();
  for (const std::string& name : *names) {
    if (name == kTemporaryName || name == kPartName) CO_RETURN_IF_ERROR(co_await Remove(name));
  }
  co_return Status();
}

}  // namespace pando
