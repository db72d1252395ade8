#include "tools/kvadmin/file_writer.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace pando::admin {

namespace {

constexpr size_t kAlignment = 4096;  // of memory, offsets and lengths for O_DIRECT

}  // namespace

void FileWriter::FreeBlock::operator()(char* block) const { std::free(block); }

Status FileWriter::Open(int fd, std::string path, uint64_t offset) {
  fd_ = fd;
  path_ = std::move(path);
  block_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, kBlockBytes)));
  if (!block_) return Error(Code::kIoError, "write {}: out of memory", path_);
  SetDirect(false);  // for what is read
  used_ = offset % kAlignment;
  offset_ = offset - used_;
  for (size_t read = 0; read < used_;) {
    const ssize_t got = ::pread(fd_, block_.get() + read, used_ - read, static_cast<off_t>(offset_ + read));
    if (got <= 0) return ErrnoError(got == 0 ? EIO : errno, "read {}", path_);
    read += static_cast<size_t>(got);
  }
  SetDirect(true);
  return Status();
}

// Where that is impossible, the page cache is used.
void FileWriter::SetDirect(bool direct) {
  const int flags = ::fcntl(fd_, F_GETFL);
  direct_ = flags >= 0 && ::fcntl(fd_, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0 && direct;
}

Status FileWriter::Append(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t fits = std::min(bytes.size(), kBlockBytes - used_);
    std::memcpy(block_.get() + used_, bytes.data(), fits);
    used_ += fits;
    bytes.remove_prefix(fits);
    if (used_ < kBlockBytes) break;
    RETURN_IF_ERROR(Write({block_.get(), used_}, offset_));
    offset_ += kBlockBytes;
    used_ = 0;
  }
  return Status();
}

Status FileWriter::Write(std::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote == static_cast<ssize_t>(bytes.size())) break;
    if (direct_) {
      // Not on this file system, or only a part has room, whose end need not be aligned. What is wrong then, the page
      // cache will say.
      SetDirect(false);
    } else if (wrote <= 0) {
      return ErrnoError(wrote == 0 ? ENOSPC : errno, "write {}", path_);
    }
    const size_t done = static_cast<size_t>(std::max<ssize_t>(wrote, 0));
    bytes.remove_prefix(done);
    offset += done;
  }
  return Status();
}

Status FileWriter::WriteOut() {
  const size_t whole = used_ / kAlignment * kAlignment, rest = used_ - whole;
  RETURN_IF_ERROR(Write({block_.get(), whole}, offset_));
  if (rest > 0) {
    const bool direct = direct_;
    if (direct) SetDirect(false);
    RETURN_IF_ERROR(Write({block_.get() + whole, rest}, offset_ + whole));
    if (direct) SetDirect(true);
  }
  std::memmove(block_.get(), block_.get() + whole, rest);
  offset_ += whole;
  used_ = rest;
  return Status();
}

Status FileWriter::Flush() {
  RETURN_IF_ERROR(WriteOut());
  if (sync_failed_.ok() && ::fdatasync(fd_) != 0) sync_failed_ = ErrnoError(errno, "sync {}", path_);
  return sync_failed_;
}

}  // namespace pando::admin
