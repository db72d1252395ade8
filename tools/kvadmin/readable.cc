#include "tools/kvadmin/readable.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

std::string UserName(uid_t user) {
  const struct passwd* entry = ::getpwuid(user);
  return entry != nullptr ? entry->pw_name : fmt::format("with number {}", user);
}

Status CheckOne(const fs::path& path, bool directory) {
  if (::access(path.c_str(), directory ? R_OK | X_OK : R_OK) == 0 || errno != EACCES) return Status();
  struct stat info {};
  const bool known = ::stat(path.c_str(), &info) == 0;
  return Error(Code::kIoError,
               "{}: user {} may not read it{}; run kvadmin as the user of the node. This says nothing about its "
               "contents",
               path.string(), UserName(::geteuid()),
               known ? fmt::format(" (it belongs to user {})", UserName(info.st_uid)) : "");
}

}  // namespace

Status CheckReadable(const std::string& data_dir) {
  RETURN_IF_ERROR(CheckOne(data_dir, /*directory=*/true));
  // What comes or goes meanwhile does not matter.
  std::error_code error;
  for (fs::recursive_directory_iterator at(data_dir, error), end; !error && at != end; at.increment(error)) {
    std::error_code gone;
    RETURN_IF_ERROR(CheckOne(at->path(), at->is_directory(gone)));
  }
  return Status();
}

}  // namespace pando::admin
