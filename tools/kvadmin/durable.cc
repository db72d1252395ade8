#include "tools/kvadmin/durable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace pando::admin {

Status SyncPath(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "open {}", path);
  const int synced = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  return synced == 0 ? Status() : ErrnoError(error, "sync {}", path);
}

Status SyncParent(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return SyncPath(parent.empty() ? "." : parent);
}

Status WriteDurably(const std::string& path, const std::string& bytes, bool replace) {
  const std::string temporary = fmt::format("{}.tmp-{}", path, ::getpid());
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    const std::string parent = std::filesystem::path(path).parent_path().string();
    return ErrnoError(errno, "create a file in {}, for {}", parent.empty() ? "." : parent, path);
  }
  Status status;
  for (size_t done = 0; status.ok() && done < bytes.size();) {
    const ssize_t written = ::write(descriptor, bytes.data() + done, bytes.size() - done);
    if (written < 0) status = ErrnoError(errno, "write {}", temporary);
    if (written >= 0) done += static_cast<size_t>(written);
  }
  if (status.ok() && ::fsync(descriptor) != 0) status = ErrnoError(errno, "sync {}", temporary);
  if (::close(descriptor) != 0 && status.ok()) status = ErrnoError(errno, "close {}", temporary);
  const int named = !status.ok() ? 0
                    : replace    ? ::rename(temporary.c_str(), path.c_str())
                                 : ::link(temporary.c_str(), path.c_str());
  if (named != 0 && errno == EEXIST) {
    status = Error(Code::kAlreadyExists, "{} is there already", path);
  } else if (named != 0) {
    status = ErrnoError(errno, "name {}", path);
  }
  if (!status.ok() || !replace) ::unlink(temporary.c_str());
  return status.ok() ? SyncParent(path) : status;
}

Result<int> LockDirectory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "open {}", path);
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  const int why = errno;
  ::close(fd);
  if (why != EWOULDBLOCK) return ErrnoError(why, "lock {}", path);
  return Error(Code::kLocked, "{}: another process is writing into this directory; wait until it ends", path);
}

Result<int> OpenAndLock(const std::string& path, const std::function<void()>& opened) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return ErrnoError(errno, "open {}", path);
    if (opened) opened();
    struct stat held {
    }, named{};
    const bool locked = ::flock(fd, LOCK_EX | LOCK_NB) == 0;
    const int why = errno;
    const bool same = locked && ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
                      held.st_dev == named.st_dev && held.st_ino == named.st_ino;
    if (same) return fd;
    ::close(fd);
    if (locked) continue;  // the holder has just renamed its file
    if (why != EWOULDBLOCK) return ErrnoError(why, "lock {}", path);
    return Error(Code::kLocked, "{}: another process is writing this file; wait until it ends", path);
  }
}

}  // namespace pando::admin
