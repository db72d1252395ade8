#include "tools/kvadmin/durable.h"

#include <fcntl.h>
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

}  // namespace pando::admin
