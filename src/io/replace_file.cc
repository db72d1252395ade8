#include "src/io/replace_file.h"

#include <cerrno>
#include <cstdio>
#include <utility>

namespace pando {
namespace {

constexpr size_t kRoomBytes = 64 << 10;  // what a message asks for, beyond the file itself

// Opens the spare, and makes it if there is none.
Task<Result<File>> OpenSpare(const Directory* directory, const ReplacedFile* file) {
  const bool is_there = directory->Identify(file->spare).ok();
  Result<File> spare = co_await directory->OpenFile(file->spare, File::Mode::kCreate, file->direct);
  if (!spare.ok() || !is_there) co_return spare;
  Status synced = co_await directory->Sync();  // RP1
  if (synced.ok()) co_return spare;
  Status closed = co_await spare->Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  co_return synced;
}

Task<Status> WriteSpare(const Directory* directory, const ReplacedFile* file, std::string_view contents) {
  CO_ASSIGN_OR_RETURN(File spare, co_await OpenSpare(directory, file));
  // It is not emptied first, because that would give its blocks away.
  Status status = co_await spare.Write(contents.data(), contents.size(), 0);
  if (status.ok()) {
    const Result<uint64_t> size = spare.Size();
    status = size.ok() ? Status() : size.status();
    if (size.ok() && *size > contents.size()) status = co_await spare.Truncate(contents.size());
  }
  if (status.ok()) status = co_await spare.Sync(/*data_only=*/false);
  Status closed = co_await spare.Close();
  CO_RETURN_IF_ERROR(status);
  co_return closed;
}

// Whether there is a spare of so many bytes: writing one may have failed before.
Task<bool> HasBytes(const Directory* directory, const ReplacedFile* file, size_t bytes) {
  Result<File> spare = co_await directory->OpenFile(file->spare, File::Mode::kRead, file->direct);
  if (!spare.ok()) co_return false;
  const Result<uint64_t> size = spare->Size();
  const Status closed = co_await spare->Close();
  co_return closed.ok() && size.ok() && *size >= bytes;
}

// In one step. An error means that the names are as they were, unless the device has failed.
Task<Status> Exchange(const Directory* directory, const ReplacedFile* file) {
  CO_ASSIGN_OR_RETURN(File base, co_await directory->OpenFile(".", File::Mode::kDirectory, /*direct=*/false));
  IoAwaiter awaiter{&directory->reactor(), {}};
  awaiter.op.kind = IoOp::Kind::kRename;
  awaiter.op.flags = RENAME_EXCHANGE;
  awaiter.op.directory = base.id();
  awaiter.op.path = file->spare.c_str();
  awaiter.op.new_path = file->name.c_str();
  const int32_t result = co_await awaiter;
  Status closed = co_await base.Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  if (result >= 0) co_return Status();
  if (result == -EINVAL || result == -ENOSYS || result == -EOPNOTSUPP) {
    co_return Error(Code::kUnsupported, "{} and {} cannot be exchanged", directory->PathOf(file->spare), file->name);
  }
  co_return ErrnoError(-result, "exchange {} and {}", directory->PathOf(file->spare), file->name);
}

}  // namespace

Task<Status> PrepareReplacement(const Directory* directory, ReplacedFile file, std::string_view contents) {
  Status status = co_await WriteSpare(directory, &file, contents);
  if (status.code() != Code::kDiskFull) co_return status;
  co_return Error(Code::kDiskFull,
                  "the disk is full, so {} cannot be replaced; nothing is lost. Make room there for {} bytes at least, "
                  "and try again: {}",
                  directory->PathOf(file.name), contents.size() + kRoomBytes, status.message());
}

Task<Status> PublishReplacement(const Directory* directory, ReplacedFile file) {
  Status status;  // RP2
  bool renames = !directory->Identify(file.name).ok();
  if (!renames) {
    status = co_await Exchange(directory, &file);
    // The file system cannot do it, or there is no free descriptor.
    renames = status.code() == Code::kUnsupported || status.code() == Code::kOverloaded;
  }
  if (renames) status = co_await directory->Rename(file.spare, file.name);
  CO_RETURN_IF_ERROR(status);
  co_return co_await directory->Sync();
}

Task<void> KeepSpare(const Directory* directory, ReplacedFile file, std::string_view contents) {
  if (co_await HasBytes(directory, &file, contents.size())) co_return;
  const Status status = co_await WriteSpare(directory, &file, contents);
  LOG_IF(WARNING, !status.ok()) << directory->PathOf(file.name)
                                << ": it has no spare, so it cannot be replaced while the disk is full: "
                                << status.message();
}

}  // namespace pando
