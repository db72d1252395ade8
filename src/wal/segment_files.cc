#include "src/wal/segment_files.h"

#include <algorithm>

namespace pando {
namespace {

constexpr size_t kZeroWriteBytes = 512u << 10;

}  // namespace

Task<Status> SegmentFiles::Open() {
  CO_ASSIGN_OR_RETURN(held_, co_await File::Open(*reactor_, directory_, File::Mode::kDirectory, /*direct=*/false));
  co_return Status();
}

Task<Result<File>> SegmentFiles::Create(uint64_t number) {
  Status filled = co_await FillWithZeros();
  if (filled.code() == Code::kOverloaded) co_return filled;  // it could not even be opened
  if (!filled.ok()) {
    // What was reserved is given back: the disk may be full because of it.
    Status removed = co_await Remove(TemporaryPath());
    LOG_IF(WARNING, !removed.ok()) << removed.ToString();
    co_return filled;
  }
  co_return co_await Publish(number);
}

Task<Status> SegmentFiles::FillWithZeros() {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(*reactor_, TemporaryPath(), File::Mode::kCreate, true));
  AlignedBuffer zeros(std::min<uint64_t>(kZeroWriteBytes, segment_bytes_));
  Status status = co_await file.Allocate(0, segment_bytes_);
  for (uint64_t at = 0; at < segment_bytes_ && status.ok(); at += zeros.size()) {
    status = co_await file.Write(zeros.data(), std::min<uint64_t>(zeros.size(), segment_bytes_ - at), at);
  }
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(std::move(status));
  co_return closed;
}

Task<Result<File>> SegmentFiles::Recycle(std::string path, uint64_t number) {
  if (path != TemporaryPath()) CO_RETURN_IF_ERROR(co_await RenameFile(*reactor_, path, TemporaryPath()));
  // The old name must be gone before the old header is.
  CO_RETURN_IF_ERROR(co_await held_.Sync(false));
  co_return co_await Publish(number);
}

// Writes the header of the prepared file, makes all of it durable, and gives it its name. It stays open through that:
// once it has its name, nothing may fail for want of a descriptor.
Task<Result<File>> SegmentFiles::Publish(uint64_t number) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(*reactor_, TemporaryPath(), File::Mode::kReadWrite, true));
  AlignedBuffer block(kBlockBytes);
  EncodeSegmentHeader(node_, number, segment_bytes_, block.data());
  Status status = co_await file.Write(block.data(), kBlockBytes, 0);
  if (status.ok()) status = co_await file.Sync(false);
  if (status.ok()) status = co_await RenameFile(*reactor_, TemporaryPath(), PathOf(number));
  if (status.ok()) status = co_await held_.Sync(false);
  if (status.ok()) {
    file.NoteRenamed(PathOf(number));
    co_return file;
  }
  Status closed = co_await file.Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  co_return status;
}

Task<Status> SegmentFiles::Remove(std::string path) {
  CO_RETURN_IF_ERROR(co_await RemoveFile(*reactor_, path));
  co_return co_await held_.Sync(false);
}

Task<Status> SegmentFiles::RemoveLeftover() {
  auto names = reactor_->ListDirectory(directory_);
  if (!names.ok()) co_return names.TakeStatus();
  for (const std::string& name : *names) {
    if (directory_ + "/" + name == TemporaryPath()) co_return co_await Remove(TemporaryPath());
  }
  co_return Status();
}

}  // namespace pando
