#include "src/io/uring_disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pando {

UringDisk::~UringDisk() {
  for (const OpenFile& file : files_) {
    if (file.fd >= 0) close(file.fd);
  }
}

void UringDisk::RegisterFileTable(unsigned max_registered) {
  if (max_registered == 0) return;
  int rc = io_uring_register_files_sparse(&core_->ring, max_registered);
  if (rc == 0) {
    registered_slots_ = max_registered;
  } else {
    LOG(WARNING) << "cannot register files with io_uring (" << strerror(-rc)
                 << "); file operations are slightly slower";
  }
}

FileId UringDisk::AddFile(int fd) {
  FileId id;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else {
    id = static_cast<FileId>(files_.size());
    files_.emplace_back();
  }
  files_[id] = {fd, false};
  if (static_cast<unsigned>(id) < registered_slots_) {
    files_[id].registered = io_uring_register_files_update(&core_->ring, id, &fd, 1) == 1;
  }
  return id;
}

// Fills `sqe` for the kinds that operate on an open file. Returns false for all other kinds.
bool UringDisk::Prepare(io_uring_sqe* sqe, IoOp* op) {
  const OpenFile& file = files_[op->file];
  const int fd = file.registered ? op->file : file.fd;
  switch (op->kind) {
    case IoOp::Kind::kRead:
      if (RegionRegistered(op->buffer_index)) {
        io_uring_prep_read_fixed(sqe, fd, op->data, op->length, op->offset, op->buffer_index);
      } else {
        io_uring_prep_read(sqe, fd, op->data, op->length, op->offset);
      }
      break;
    case IoOp::Kind::kWrite:
      if (RegionRegistered(op->buffer_index)) {
        io_uring_prep_write_fixed(sqe, fd, op->data, op->length, op->offset, op->buffer_index);
      } else {
        io_uring_prep_write(sqe, fd, op->data, op->length, op->offset);
      }
      if (op->data_sync) sqe->rw_flags = RWF_DSYNC;
      break;
    case IoOp::Kind::kReadv: io_uring_prep_readv(sqe, fd, static_cast<iovec*>(op->data), op->length, op->offset); break;
    case IoOp::Kind::kWritev:
      io_uring_prep_writev2(sqe, fd, static_cast<iovec*>(op->data), op->length, op->offset,
                            op->data_sync ? RWF_DSYNC : 0);
      break;
    case IoOp::Kind::kSync: io_uring_prep_fsync(sqe, fd, op->data_sync ? IORING_FSYNC_DATASYNC : 0); break;
    case IoOp::Kind::kAllocate:
      io_uring_prep_fallocate(sqe, fd, op->flags, static_cast<off_t>(op->offset),
                              static_cast<off_t>(op->allocate_bytes));
      break;
    default: return false;
  }
  if (file.registered) sqe->flags |= IOSQE_FIXED_FILE;
  return true;
}

void UringDisk::Submit(IoOp* op) {
  ++core_->stats.disk_ops_total;
  ++in_flight_;
  op->result = 0;
  const bool by_path = op->kind == IoOp::Kind::kOpen || op->kind == IoOp::Kind::kRename ||
                       op->kind == IoOp::Kind::kLink || op->kind == IoOp::Kind::kUnlink ||
                       op->kind == IoOp::Kind::kMakeDirectory;
  if (!by_path) {
    CHECK(op->file >= 0 && static_cast<size_t>(op->file) < files_.size() && files_[op->file].fd >= 0)
        << "operation on file " << op->file << ", which is not open";
  }
  // Older kernels cannot truncate through the ring. A truncate is rare and never on the request
  // path.
  if (op->kind == IoOp::Kind::kTruncate) {
    int rc = ftruncate(files_[op->file].fd, static_cast<off_t>(op->offset));
    return Finish(op, rc == 0 ? 0 : -errno);
  }
  io_uring_sqe* sqe = core_->Sqe();
  switch (op->kind) {
    case IoOp::Kind::kOpen: io_uring_prep_openat(sqe, BaseOf(*op), op->path, op->flags | O_CLOEXEC, 0644); break;
    case IoOp::Kind::kRename:
      io_uring_prep_renameat(sqe, BaseOf(*op), op->path, BaseOf(*op), op->new_path, static_cast<unsigned>(op->flags));
      break;
    case IoOp::Kind::kLink: io_uring_prep_linkat(sqe, BaseOf(*op), op->path, BaseOf(*op), op->new_path, 0); break;
    case IoOp::Kind::kUnlink: io_uring_prep_unlinkat(sqe, BaseOf(*op), op->path, 0); break;
    case IoOp::Kind::kMakeDirectory: io_uring_prep_mkdirat(sqe, BaseOf(*op), op->path, 0755); break;
    case IoOp::Kind::kClose: {
      OpenFile& file = files_[op->file];
      if (file.registered) {
        int none = -1;
        io_uring_register_files_update(&core_->ring, op->file, &none, 1);
      }
      io_uring_prep_close(sqe, file.fd);
      file = {};  // the FileId is reused only after the close completes
      break;
    }
    default: CHECK(Prepare(sqe, op)) << "unknown operation";
  }
  UringCore::Own(sqe, op, UringTag::kIoOp);
}

void UringDisk::OnCompletion(IoOp* op, int32_t result) {
  --in_flight_;
  if (op->kind == IoOp::Kind::kOpen && result >= 0) result = AddFile(result);
  if (op->kind == IoOp::Kind::kClose) free_.push_back(op->file);
  op->result = result;
  if (op->on_complete) {
    op->on_complete(op);
  } else {
    op->waiter.resume();
  }
}

void UringDisk::Finish(IoOp* op, int32_t result) {
  op->result = result;
  finished_.push_back(op);
}

void UringDisk::DeliverFinished() {
  delivering_.swap(finished_);
  for (IoOp* op : delivering_) OnCompletion(op, op->result);
  delivering_.clear();
}

// This only creates the kernel's table. Registering all regions now would fault in and lock all of
// their memory before the first operation, which takes seconds for a large pool.
int UringDisk::RegisterBuffers(std::span<const iovec> regions) {
  // A node that changes its number of reactors has one pool after another. The old one is gone.
  if (!regions_.empty()) io_uring_unregister_buffers(&core_->ring);
  regions_.clear();
  registration_refused_ = false;
  for (const iovec& region : regions) {
    CHECK_LE(region.iov_len, size_t{1} << 30) << "a registered region is at most 1 GiB";
    regions_.push_back({region, false});
  }
  if (int rc = io_uring_register_buffers_sparse(&core_->ring, static_cast<unsigned>(regions.size())); rc < 0) {
    RefuseRegistration(rc);
    return kNoBuffer;
  }
  return 0;
}

void UringDisk::RefuseRegistration(int rc) {
  registration_refused_ = true;
  ++core_->stats.buffer_registrations_refused_total;
  LOG(WARNING) << "cannot lock I/O buffers in memory (" << strerror(-rc)
               << "); using unregistered buffers, which are slower. To lock them, raise RLIMIT_MEMLOCK (ulimit -l, "
                  "LimitMEMLOCK=infinity in a systemd unit)";
}

// Registers a region when it is first used. Returns false if it is not registered; the operation
// then uses plain memory.
bool UringDisk::RegionRegistered(int index) {
  if (index == kNoBuffer) return false;
  BufferRegion& region = regions_[static_cast<size_t>(index)];
  if (region.registered || registration_refused_) return region.registered;
  __u64 tag = 0;
  int rc = io_uring_register_buffers_update_tag(&core_->ring, static_cast<unsigned>(index), &region.memory, &tag, 1);
  if (rc < 0) {
    RefuseRegistration(rc);
  } else {
    region.registered = true;
  }
  return region.registered;
}

Result<uint64_t> UringDisk::FileSize(FileId file) {
  struct stat info;
  if (fstat(files_.at(file).fd, &info) != 0) return ErrnoError(errno, "read the size of open file {}", file);
  return static_cast<uint64_t>(info.st_size);
}

Status UringDisk::LockFile(FileId file, const std::string& path) {
  const int fd = files_.at(file).fd;
  struct flock lock {};
  // For a file that is open for reading only, the kernel grants only a read lock. That still
  // excludes writers.
  lock.l_type = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES) {
    return Error(Code::kLocked, "{} is locked by another process that has it open; stop that process first", path);
  }
  return ErrnoError(errno, "lock {}", path);
}

Result<FileIdentity> UringDisk::Identify(FileId file, const std::string& name, const std::string& path) {
  struct stat info;
  const int flags = AT_SYMLINK_NOFOLLOW | (name.empty() ? AT_EMPTY_PATH : 0);
  const int base = file == kNoFile ? AT_FDCWD : files_.at(file).fd;
  if (fstatat(base, name.c_str(), &info, flags) != 0) return ErrnoError(errno, "look up {}", path);
  return FileIdentity{info.st_dev, info.st_ino};
}

namespace {

Result<std::vector<std::string>> ListAt(int base, const char* name, const std::string& path) {
  const int fd = openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "list directory {}", path);
  std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(fd), closedir);
  if (!dir) {
    close(fd);
    return ErrnoError(errno, "list directory {}", path);
  }
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (!entry) break;
    std::string entry_name = entry->d_name;
    if (entry_name != "." && entry_name != "..") names.push_back(std::move(entry_name));
  }
  if (errno != 0) return ErrnoError(errno, "list directory {}", path);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

Result<std::vector<std::string>> UringDisk::ListDirectory(FileId directory, const std::string& path) {
  return ListAt(files_.at(directory).fd, ".", path);
}

Result<std::vector<std::string>> ListDirectoryBlocking(const std::string& path) {
  return ListAt(AT_FDCWD, path.c_str(), path);
}

}  // namespace pando
