// UringDisk is the disk half of UringReactor. It turns IoOps into submission entries and keeps the
// tables of open files and registered buffers.
//
// Threads: one reactor.
//
// Invariants
//   UD1  A FileId is a slot of files_. If the file is registered, its slot in the kernel's table has
//        the same number and refers to the same descriptor.
#pragma once

#include <fcntl.h>

#include <vector>

#include "src/io/uring_core.h"

namespace pando {

class UringDisk {
 public:
  explicit UringDisk(UringCore* core) : core_(core) {}
  ~UringDisk();

  // Creates the kernel's sparse table for this many files. Files beyond that number are used
  // unregistered; so are all files if the kernel refuses the table.
  void RegisterFileTable(unsigned max_registered);
  void Submit(IoOp* op);
  void OnCompletion(IoOp* op, int32_t result);
  int RegisterBuffers(std::span<const iovec> regions);
  Result<uint64_t> FileSize(FileId file);
  Result<std::vector<std::string>> ListDirectory(FileId directory, const std::string& path);
  Result<FileIdentity> Identify(FileId file, const std::string& name, const std::string& path);
  Status LockFile(FileId file, const std::string& path);

  bool has_finished() const { return !finished_.empty(); }
  // Delivers the operations that finished without the ring (ftruncate).
  void DeliverFinished();
  size_t in_flight() const { return in_flight_; }
  void Forget() { --in_flight_; }  // drops a completion while the reactor is being destroyed

 private:
  struct OpenFile {
    int fd = -1;
    bool registered = false;
  };
  struct BufferRegion {
    iovec memory;
    bool registered = false;
  };
  FileId AddFile(int fd);
  int BaseOf(const IoOp& op) const { return op.directory == kNoFile ? AT_FDCWD : files_.at(op.directory).fd; }
  bool RegionRegistered(int index);
  void RefuseRegistration(int rc);
  bool Prepare(io_uring_sqe* sqe, IoOp* op);
  void Finish(IoOp* op, int32_t result);

  UringCore* core_;
  unsigned registered_slots_ = 0;
  std::vector<OpenFile> files_;
  std::vector<FileId> free_;
  std::vector<IoOp*> finished_, delivering_;
  std::vector<BufferRegion> regions_;
  bool registration_refused_ = false;
  size_t in_flight_ = 0;
};

// Returns the names of the directory's entries, sorted, without "." and "..".
Result<std::vector<std::string>> ListDirectoryBlocking(const std::string& path);

}  // namespace pando
