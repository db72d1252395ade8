#include "tools/kvadmin/partial_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "src/partition/store_reading.h"
#include "tools/kvadmin/durable.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

std::string MarkerOf(const std::string& directory) { return directory + "/" + kUnfinishedName; }

bool IsMountPoint(const std::string& directory) {
  struct stat self {
  }, parent{};
  return ::stat(directory.c_str(), &self) == 0 && ::stat((directory + "/..").c_str(), &parent) == 0 &&
         self.st_dev != parent.st_dev;
}

}  // namespace

PartialDirectory::~PartialDirectory() {
  if (!created_) return;
  if (Status cleared = Clear(); !cleared.ok()) LOG(WARNING) << cleared.ToString();
}

Status PartialDirectory::Prepare(const std::string& final_path) {
  std::error_code error;
  // Resolve a symbolic link, so that the rename replaces its target and not the link.
  fs::path path = fs::weakly_canonical(final_path, error);
  if (error) return Error(Code::kIoError, "{}: {}", final_path, error.message());
  if (!path.has_filename()) path = path.parent_path();  // "name/"
  final_ = path.string();
  partial_ = final_ + ".partial";
  if (fs::exists(path, error)) {
    if (!fs::is_directory(path, error)) {
      return Error(Code::kAlreadyExists, "{}: exists and is not a directory; choose another name", final_path);
    }
    if (const bool empty = fs::is_empty(path, error); error || !empty) {
      return Error(Code::kAlreadyExists, "{}: {}; choose another directory", final_path,
                   error ? error.message() : "exists and is not empty");
    }
    if (IsMountPoint(final_)) {
      return Error(Code::kInvalidArgument,
                   "{}: is a mount point, and a finished directory cannot be renamed to a mount point; choose a "
                   "directory in it",
                   final_path);
    }
  }
  // An attempt that was killed before it created the marker leaves an empty directory.
  if (fs::exists(fs::symlink_status(partial_, error)) && !fs::is_regular_file(MarkerOf(partial_), error) &&
      !(fs::is_directory(fs::symlink_status(partial_, error)) && fs::is_empty(partial_, error))) {
    return Error(Code::kAlreadyExists,
                 "{}: exists, but kvadmin did not leave it there (it has no file {}); move it away, or choose another "
                 "name",
                 partial_, kUnfinishedName);
  }
  return Status();
}

// Removes the entries that kvadmin creates, the marker last. When there is any other entry, it
// removes nothing and the error names that entry.
Status PartialDirectory::Clear() {
  std::error_code error;
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(partial_, error)) {
    names.push_back(entry.path().filename().string());
  }
  if (error) return Error(Code::kIoError, "list {}: {}", partial_, error.message());
  for (const std::string& name : names) {
    if (name == kUnfinishedName) continue;
    if (!is_own_(name)) {
      return Error(Code::kAlreadyExists, "{}/{}: was not created by kvadmin; move it away", partial_, name);
    }
  }
  for (const std::string& name : names) {
    if (name == kUnfinishedName) continue;
    fs::remove_all(fs::path(partial_) / name, error);
    if (error) return Error(Code::kIoError, "remove {}/{}: {}", partial_, name, error.message());
  }
  fs::remove(MarkerOf(partial_), error);
  if (!error) fs::remove(partial_, error);
  if (error) return Error(Code::kIoError, "remove {}: {}", partial_, error.message());
  return Status();
}

Status PartialDirectory::Create() {
  std::error_code error;
  if (fs::exists(partial_, error)) RETURN_IF_ERROR(Clear());
  const fs::path parent = fs::path(partial_).parent_path();
  fs::create_directories(parent, error);
  if (error) return Error(Code::kIoError, "create {}: {}", parent.string(), error.message());
  if (::mkdir(partial_.c_str(), 0755) != 0) return ErrnoError(errno, "create {}", partial_);
  const std::string marker = MarkerOf(partial_);
  const int fd = ::open(marker.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) {
    const int why = errno;
    ::rmdir(partial_.c_str());
    return ErrnoError(why, "create {}", marker);
  }
  ::close(fd);
  created_ = true;
  // The marker must be durable before there are contents, in case of a power failure.
  RETURN_IF_ERROR(SyncPath(marker));
  RETURN_IF_ERROR(SyncPath(partial_));
  return SyncParent(partial_);
}

Status PartialDirectory::Commit() {
  RETURN_IF_ERROR(SyncPath(partial_));
  if (::unlink(MarkerOf(partial_).c_str()) != 0) return ErrnoError(errno, "remove {}", MarkerOf(partial_));
  created_ = false;  // complete from here on: the destructor must keep it
  RETURN_IF_ERROR(SyncPath(partial_));
  // rename(2) replaces an empty directory, and fails if the directory is not empty.
  if (std::rename(partial_.c_str(), final_.c_str()) != 0) {
    return ErrnoError(errno, "{} is complete, but renaming it to {} failed; rename it yourself", partial_, final_);
  }
  return SyncParent(final_);
}

}  // namespace pando::admin
