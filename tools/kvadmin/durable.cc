#include "tools/kvadmin/durable.h"

#include <fcntl.h>
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
    return Error(Code::kAlreadyExists, "{}: another process is writing this file; wait until it ends", path);
  }
}

}  // namespace pando::admin
