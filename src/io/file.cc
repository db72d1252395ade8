#include "src/io/file.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace pando {
namespace {

// Linux transfers at most 0x7ffff000 bytes in one call. This limit is below that, and on a block
// boundary.
constexpr size_t kMaxTransferBytes = 1u << 30;
constexpr size_t kMaxVectors = 1024;  // IOV_MAX
// If the kernel returns EAGAIN or EINTR, or makes no progress, this many times in a row, the
// transfer fails.
constexpr int kMaxRetries = 64;

bool IsTransient(int32_t result) { return result == -EINTR || result == -EAGAIN; }

// Returns the position from which a transfer continues after `moved` bytes. A transfer of whole
// blocks always continues on a block boundary, as O_DIRECT requires.
size_t Progress(size_t moved, size_t bytes, uint64_t offset) {
  const bool in_blocks = offset % kBlockBytes == 0 && bytes % kBlockBytes == 0;
  return in_blocks ? moved / kBlockBytes * kBlockBytes : moved;
}

size_t TotalBytes(std::span<const iovec> vectors) {
  size_t total = 0;
  for (const iovec& v : vectors) total += v.iov_len;
  return total;
}

// Drops the first `bytes` of `vectors`.
void Advance(std::span<iovec>* vectors, size_t bytes) {
  while (bytes > 0) {
    iovec& first = vectors->front();
    const size_t step = std::min(bytes, first.iov_len);
    first.iov_base = static_cast<char*>(first.iov_base) + step;
    first.iov_len -= step;
    bytes -= step;
    if (first.iov_len == 0) *vectors = vectors->subspan(1);
  }
}

Status TransferError(bool write, const std::string& path, size_t bytes, uint64_t offset, int32_t result) {
  return ErrnoError(-result, "{} {} bytes at offset {} of {}", write ? "write" : "read", bytes, offset, path);
}
Status ShorterThan(const std::string& path, size_t bytes, uint64_t offset, uint64_t size) {
  return Error(Code::kCorruption,
               "{} is shorter than expected: a read of {} bytes at offset {} goes past its end at {} bytes", path,
               bytes, offset, size);
}
Status NoProgress(bool write, const std::string& path, size_t bytes, uint64_t offset) {
  return Error(Code::kIoError, "{} {} bytes at offset {} of {}: the kernel repeatedly transferred no bytes",
               write ? "write" : "read", bytes, offset, path);
}

Status OpenError(int error_number, const std::string& path) {
  if (error_number != EMFILE && error_number != ENFILE && error_number != ENOMEM) {
    return ErrnoError(error_number, "open {}", path);
  }
  return Error(
      Code::kOverloaded,
      "open {}: {} (errno {}). This may be temporary. Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE= in a systemd "
      "unit) or allow fewer connections",
      path, strerror(error_number), error_number);
}

Task<Status> RunPathOp(Reactor& reactor, IoOp::Kind kind, const char* path, const char* new_path, const char* what) {
  IoAwaiter awaiter{&reactor, {}};
  awaiter.op.kind = kind;
  awaiter.op.path = path;
  awaiter.op.new_path = new_path;
  const int32_t result = co_await awaiter;
  if (result >= 0) co_return Status();
  if (new_path) co_return ErrnoError(-result, "{} {} to {}", what, path, new_path);
  co_return ErrnoError(-result, "{} {}", what, path);
}

}  // namespace

Task<Result<File>> File::Open(Reactor& reactor, std::string path, Mode mode, bool direct) {
  std::string name = path;
  co_return co_await OpenAt(reactor, kNoFile, std::move(name), std::move(path), mode, direct);
}

Task<Result<File>> File::OpenAt(Reactor& reactor, FileId directory, std::string name, std::string path, Mode mode,
                                bool direct) {
  IoAwaiter awaiter{&reactor, {}};
  awaiter.op.kind = IoOp::Kind::kOpen;
  awaiter.op.directory = directory;
  awaiter.op.path = name.c_str();
  const bool read_only = mode == Mode::kRead || mode == Mode::kDirectory;
  awaiter.op.flags = (read_only ? O_RDONLY : O_RDWR) | (mode == Mode::kCreate ? O_CREAT : 0) |
                     (mode == Mode::kDirectory ? O_DIRECTORY : 0) | (direct ? O_DIRECT : 0) | O_CLOEXEC;
  const int32_t result = co_await awaiter;
  if (result == -EINVAL && direct) {
    co_return Error(
        Code::kUnsupported,
        "{}: this file system does not support O_DIRECT (direct I/O), which Pando needs; put the data directory on "
        "ext4, xfs or another file system with direct I/O",
        path);
  }
  if (result < 0) co_return OpenError(-result, path);
  File file;
  file.reactor_ = &reactor;
  file.id_ = result;
  file.path_ = std::move(path);
  co_return file;
}

Task<Status> File::Close() {
  if (id_ == kNoFile) co_return Status();
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kClose;
  awaiter.op.file = std::exchange(id_, kNoFile);
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "close {}", path_);
  co_return Status();
}

Task<Status> File::Transfer(IoOp::Kind kind, char* data, size_t bytes, uint64_t offset, int buffer_index,
                            bool data_sync) {
  const bool write = kind == IoOp::Kind::kWrite;
  int retries = 0;
  for (size_t done = 0; done < bytes;) {
    IoAwaiter awaiter{reactor_, {}};
    awaiter.op.kind = kind;
    awaiter.op.file = id_;
    awaiter.op.data = data + done;
    awaiter.op.length = static_cast<uint32_t>(std::min(bytes - done, kMaxTransferBytes));
    awaiter.op.offset = offset + done;
    awaiter.op.buffer_index = buffer_index;
    awaiter.op.data_sync = data_sync;
    const int32_t result = co_await awaiter;
    if (result < 0 && !IsTransient(result)) co_return TransferError(write, path_, bytes, offset, result);
    const size_t reached = Progress(done + static_cast<size_t>(std::max(result, 0)), bytes, offset);
    if (reached < bytes && !write && result >= 0) {
      Result<uint64_t> size = Size();
      if (!size.ok()) co_return size.TakeStatus();
      if (*size < offset + bytes) co_return ShorterThan(path_, bytes, offset, *size);
    }
    if (reached > done) {
      done = reached;
      retries = 0;
    } else if (++retries == kMaxRetries) {
      co_return NoProgress(write, path_, bytes, offset);
    }
  }
  co_return Status();
}

Task<Status> File::TransferVector(IoOp::Kind kind, std::span<iovec> vectors, uint64_t offset) {
  const bool write = kind == IoOp::Kind::kWritev;
  const size_t bytes = TotalBytes(vectors);
  int retries = 0;
  for (size_t done = 0; done < bytes;) {
    IoAwaiter awaiter{reactor_, {}};
    awaiter.op.kind = kind;
    awaiter.op.file = id_;
    awaiter.op.data = vectors.data();
    awaiter.op.length = static_cast<uint32_t>(std::min(vectors.size(), kMaxVectors));
    awaiter.op.offset = offset + done;
    const int32_t result = co_await awaiter;
    if (result < 0 && !IsTransient(result)) co_return TransferError(write, path_, bytes, offset, result);
    const size_t reached = Progress(done + static_cast<size_t>(std::max(result, 0)), bytes, offset);
    if (reached < bytes && !write && result >= 0) {
      Result<uint64_t> size = Size();
      if (!size.ok()) co_return size.TakeStatus();
      if (*size < offset + bytes) co_return ShorterThan(path_, bytes, offset, *size);
    }
    if (reached > done) {
      Advance(&vectors, reached - done);
      done = reached;
      retries = 0;
    } else if (++retries == kMaxRetries) {
      co_return NoProgress(write, path_, bytes, offset);
    }
  }
  co_return Status();
}

Task<Status> File::Read(void* data, size_t bytes, uint64_t offset, int buffer_index) {
  return Transfer(IoOp::Kind::kRead, static_cast<char*>(data), bytes, offset, buffer_index, false);
}
Task<Status> File::ReadVector(std::span<iovec> vectors, uint64_t offset) {
  return TransferVector(IoOp::Kind::kReadv, vectors, offset);
}
Task<Status> File::Write(const void* data, size_t bytes, uint64_t offset, int buffer_index, bool data_sync) {
  char* source = static_cast<char*>(const_cast<void*>(data));  // writes only read from it
  return Transfer(IoOp::Kind::kWrite, source, bytes, offset, buffer_index, data_sync);
}
Task<Status> File::WriteVector(std::span<iovec> vectors, uint64_t offset) {
  return TransferVector(IoOp::Kind::kWritev, vectors, offset);
}

Task<Status> File::Sync(bool data_only) {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kSync;
  awaiter.op.file = id_;
  awaiter.op.data_sync = data_only;
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "{} {}", data_only ? "fdatasync" : "fsync", path_);
  co_return Status();
}

Task<Status> File::Allocate(uint64_t offset, uint64_t bytes) {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kAllocate;
  awaiter.op.file = id_;
  awaiter.op.offset = offset;
  awaiter.op.allocate_bytes = bytes;
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "allocate {} bytes at offset {} of {}", bytes, offset, path_);
  co_return Status();
}

Task<Status> File::Truncate(uint64_t bytes) {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kTruncate;
  awaiter.op.file = id_;
  awaiter.op.offset = bytes;
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "truncate {} to {} bytes", path_, bytes);
  co_return Status();
}

Task<Status> MakeDirectory(Reactor& reactor, std::string path) {
  IoAwaiter awaiter{&reactor, {}};
  awaiter.op.kind = IoOp::Kind::kMakeDirectory;
  awaiter.op.path = path.c_str();
  const int32_t result = co_await awaiter;
  if (result < 0 && result != -EEXIST) co_return ErrnoError(-result, "create directory {}", path);
  co_return Status();
}

Task<Status> RenameFile(Reactor& reactor, std::string from, std::string to) {
  co_return co_await RunPathOp(reactor, IoOp::Kind::kRename, from.c_str(), to.c_str(), "rename");
}

Task<Status> RemoveFile(Reactor& reactor, std::string path) {
  co_return co_await RunPathOp(reactor, IoOp::Kind::kUnlink, path.c_str(), nullptr, "remove");
}

std::string ParentDirectory(const std::string& path) {
  const size_t slash = path.find_last_of('/', path.find_last_not_of('/'));  // ignores the trailing slash of "dir/"
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Task<Status> SyncDirectory(Reactor& reactor, std::string path) {
  CO_ASSIGN_OR_RETURN(File directory, co_await File::Open(reactor, std::move(path), File::Mode::kDirectory, false));
  Status synced = co_await directory.Sync(false);
  Status closed = co_await directory.Close();
  co_return synced.ok() ? closed : synced;
}

AlignedBuffer::AlignedBuffer(size_t bytes) : bytes_((bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes) {
  if (bytes_ == 0) return;
  data_ = static_cast<char*>(std::aligned_alloc(kBlockBytes, bytes_));
  CHECK(data_) << "out of memory for a buffer of " << bytes_ << " bytes";
  std::memset(data_, 0, bytes_);
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

}  // namespace pando
