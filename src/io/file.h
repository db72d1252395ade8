// File is an open file of a reactor.
//
// Reads and writes use O_DIRECT if the file was opened with `direct`; memory, offset and length
// must then be multiples of 4 KiB. A short transfer is continued until it is complete or fails.
// Error messages name the file, the offset and the length.
//
// Threads: one reactor. Move-only; it must be closed with co_await Close() before it is destroyed.
#pragma once

#include <string>

#include "src/base/limits.h"
#include "src/io/reactor.h"

namespace pando {

class File {
 public:
  // kCreate: read-write; the file is created if it does not exist (mode 0644).
  // kDirectory: used only to make creations, renames and removals in a directory durable with
  // Sync(false). Code that does so repeatedly keeps the directory open, because a free descriptor
  // may not be available later.
  enum class Mode { kRead, kReadWrite, kCreate, kDirectory };

  File() = default;
  File(File&& other) noexcept { *this = std::move(other); }
  File& operator=(File&& other) noexcept {
    CHECK_EQ(id_, kNoFile) << path_ << " is still open";
    reactor_ = other.reactor_;
    id_ = std::exchange(other.id_, kNoFile);
    path_ = std::move(other.path_);
    return *this;
  }
  ~File() { CHECK_EQ(id_, kNoFile) << path_ << " was not closed"; }

  // Opens a file, with O_DIRECT if `direct` is set. Returns kUnsupported, with the remedy, when the
  // file system does not support O_DIRECT. Returns kOverloaded when no descriptor, or no memory for
  // one, is available (EMFILE, ENFILE, ENOMEM). That is not a disk failure: as with a full disk,
  // the caller waits and retries.
  static Task<Result<File>> Open(Reactor& reactor, std::string path, Mode mode, bool direct);
  // Opens `name` in an open directory; error messages call it `path`. Directory::OpenFile calls
  // this.
  static Task<Result<File>> OpenAt(Reactor& reactor, FileId directory, std::string name, std::string path, Mode mode,
                                   bool direct);
  Task<Status> Close();

  // Reads exactly `bytes` bytes. Returns kCorruption ("shorter than") if the file ends before that.
  Task<Status> Read(void* data, size_t bytes, uint64_t offset, int buffer_index = kNoBuffer);
  // Scattered read that fills all of `vectors`. They must stay alive until the read completes; the
  // read may modify them.
  Task<Status> ReadVector(std::span<iovec> vectors, uint64_t offset);
  Task<Status> Write(const void* data, size_t bytes, uint64_t offset, int buffer_index = kNoBuffer,
                     bool data_sync = false);
  Task<Status> WriteVector(std::span<iovec> vectors, uint64_t offset);
  Task<Status> Sync(bool data_only = true);
  Task<Status> Allocate(uint64_t offset, uint64_t bytes);  // reserves space, extends the file
  Task<Status> Truncate(uint64_t bytes);
  Result<uint64_t> Size() const { return reactor_->FileSize(id_); }
  Status Lock() { return reactor_->LockFile(id_, path_); }
  Result<FileIdentity> Identity() const { return reactor_->Identify(id_, "", path_); }

  bool is_open() const { return id_ != kNoFile; }
  FileId id() const { return id_; }
  const std::string& path() const { return path_; }
  void NoteRenamed(std::string path) { path_ = std::move(path); }  // for errors
  Reactor& reactor() const { return *reactor_; }

 private:
  Task<Status> Transfer(IoOp::Kind kind, char* data, size_t bytes, uint64_t offset, int buffer_index, bool data_sync);
  Task<Status> TransferVector(IoOp::Kind kind, std::span<iovec> vectors, uint64_t offset);

  Reactor* reactor_ = nullptr;
  FileId id_ = kNoFile;
  std::string path_;
};

Task<Status> MakeDirectory(Reactor& reactor, std::string path);  // OK if it exists
Task<Status> RenameFile(Reactor& reactor, std::string from, std::string to);
Task<Status> RemoveFile(Reactor& reactor, std::string path);
// Makes creations, renames and removals in the directory durable.
Task<Status> SyncDirectory(Reactor& reactor, std::string path);
std::string ParentDirectory(const std::string& path);  // "." for a name without '/'

// Memory aligned to 4 KiB, as O_DIRECT requires. The destructor frees it.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes);  // rounded up to 4 KiB, zeroed
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~AlignedBuffer();
  char* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace pando
