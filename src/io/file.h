// File: an open file of a reactor. Move-only; must be closed with co_await Close() before it is destroyed.
//
// Reads and writes are O_DIRECT where the opener says so: memory, offset and length are then multiples of 4 KiB.
// Short transfers are continued until done or failed. Errors name the file, the offset and the length.
#pragma once

#include <string>

#include "src/base/limits.h"
#include "src/io/reactor.h"

namespace pando {

class File {
 public:
  // kCreate: read-write, created when missing (0644). kDirectory: only to Sync(false) what was created, renamed and
  // removed in it; whoever does that again and again keeps it open, because later no descriptor may be left.
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

  // `direct`: O_DIRECT; where the file system refuses it the error says so and what to do (kUnsupported).
  // kOverloaded: no descriptor, or no memory for one, is free now (EMFILE, ENFILE, ENOMEM). That is no fault of the
  // disk: like a full one it is waited out.
  static Task<Result<File>> Open(Reactor& reactor, std::string path, Mode mode, bool direct);
  // The same of `name` in an open directory; `path` is its name in errors. Called by Directory::OpenFile.
  static Task<Result<File>> OpenAt(Reactor& reactor, FileId directory, std::string name, std::string path, Mode mode,
                                   bool direct);
  Task<Status> Close();

  // Reads exactly `bytes`; an end of file before that is kCorruption ("shorter than").
  Task<Status> Read(void* data, size_t bytes, uint64_t offset, int buffer_index = kNoBuffer);
  // Scattered read into whole iovecs, exactly their sum. `vectors` must live until completion and may be changed.
  Task<Status> ReadVector(std::span<iovec> vectors, uint64_t offset);
  Task<Status> Write(const void* data, size_t bytes, uint64_t offset, int buffer_index = kNoBuffer,
                     bool data_sync = false);
  Task<Status> WriteVector(std::span<iovec> vectors, uint64_t offset);
  Task<Status> Sync(bool data_only = true);
  Task<Status> Allocate(uint64_t offset, uint64_t bytes);  // fallocate: reserves and extends
  Task<Status> Truncate(uint64_t bytes);
  Result<uint64_t> Size() const { return reactor_->FileSize(id_); }
  Status Lock() { return reactor_->LockFile(id_, path_); }
  Result<FileIdentity> Identity() const { return reactor_->Identify(id_, "", path_); }

  bool is_open() const { return id_ != kNoFile; }
  FileId id() const { return id_; }
  const std::string& path() const { return path_; }
  void NoteRenamed(std::string path) { path_ = std::move(path); }  // for messages
  Reactor& reactor() const { return *reactor_; }

 private:
  Task<Status> Transfer(IoOp::Kind kind, char* data, size_t bytes, uint64_t offset, int buffer_index, bool data_sync);
  Task<Status> TransferVector(IoOp::Kind kind, std::span<iovec> vectors, uint64_t offset);

  Reactor* reactor_ = nullptr;
  FileId id_ = kNoFile;
  std::string path_;
};

Task<Status> MakeDirectory(Reactor& reactor, std::string path);  // OK when it exists
Task<Status> RenameFile(Reactor& reactor, std::string from, std::string to);
Task<Status> RemoveFile(Reactor& reactor, std::string path);
Task<Status> SyncDirectory(Reactor& reactor, std::string path);  // makes creations, renames and removals durable
std::string ParentDirectory(const std::string& path);            // "." for a plain name

// 4-KiB aligned memory for O_DIRECT, freed on destruction.
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
