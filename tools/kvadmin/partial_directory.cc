#include "tools/kvadmin/partial_directory.h"

#include <fcntl.h>
#include <sys/file.h>
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

// Creates the marker of an empty directory. Returns -1 and EEXIST if the directory is not empty: a
// process may create its marker there at the same time, or may have finished the directory since it
// was last looked at, and be about to rename it. That is why this uses the directory's descriptor.
int NewMarker(const std::string& directory) {
  const int dir = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return -1;
  int marker = ::openat(dir, kUnfinishedName, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  int why = errno;
  if (marker >= 0) {
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(fmt::format("/proc/self/fd/{}", dir), error)) {
      if (marker < 0 || entry.path().filename() == kUnfinishedName) continue;
      ::unlinkat(dir, kUnfinishedName, 0);
      ::close(std::exchange(marker, -1));
      why = EEXIST;
    }
  }
  ::close(dir);
  errno = why;
  return marker;
}

}  // namespace

PartialDirectory::~PartialDirectory() {
  if (marker_ < 0) return;
  if (Status removed = Remove(); !removed.ok()) LOG(WARNING) << removed.ToString();
  Unlock();
}

Status PartialDirectory::Prepare(const std::string& final_path) {
  if (final_path.empty()) return Error(Code::kInvalidArgument, "the name of the directory to create is empty");
  std::error_code error;
  // weakly_canonical resolves symbolic links, so that the rename replaces their target and not the
  // link. It makes a path absolute only if the first name in it exists.
  fs::path path = fs::absolute(final_path, error);
  if (!error) path = fs::weakly_canonical(path, error);
  if (error) return Error(Code::kIoError, "{}: {}", final_path, error.message());
  if (!path.has_filename()) path = path.parent_path();  // "name/"
  final_ = path.string();
  partial_ = final_ + ".partial";
  RETURN_IF_ERROR(CheckFinal());
  // Missing parents are not created: the file system that has them may not be mounted.
  const fs::path parent = path.parent_path();
  if (!fs::is_directory(parent, error)) {
    return Error(Code::kNotFound,
                 "{}: there is no such directory; create it, or mount the file system that has it, because only {} in "
                 "it is created",
                 parent.string(), path.filename().string());
  }
  return CheckPartial();
}

Status PartialDirectory::CheckFinal() const {
  std::error_code error;
  if (!fs::exists(final_, error)) {
    if (!fs::is_symlink(fs::symlink_status(final_, error))) return Status();
    return Error(Code::kAlreadyExists, "{}: is a symbolic link to nothing; create its target, or choose another name",
                 final_);
  }
  if (!fs::is_directory(final_, error)) {
    return Error(Code::kAlreadyExists, "{}: exists and is not a directory; choose another name", final_);
  }
  if (const bool empty = fs::is_empty(final_, error); error || !empty) {
    return Error(Code::kAlreadyExists, "{}: {}; choose another directory", final_,
                 error ? error.message() : "exists and is not empty");
  }
  if (IsMountPoint(final_)) {
    return Error(Code::kInvalidArgument,
                 "{}: is a mount point, and a finished directory cannot be renamed to a mount point; choose a "
                 "directory in it",
                 final_);
  }
  return Status();
}

Status PartialDirectory::CheckPartial() const {
  std::error_code error;
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

// Whether the marker that has the name now is the one that this process locked.
bool PartialDirectory::OwnsMarker() const {
  struct stat held {
  }, named{};
  return ::fstat(marker_, &held) == 0 && ::stat(MarkerOf(partial_).c_str(), &named) == 0 &&
         held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

// Opens and locks the marker. Two processes may do this at the same time, and one may rename the
// directory meanwhile; at most one of them succeeds.
Status PartialDirectory::OpenMarker() {
  const std::string marker = MarkerOf(partial_);
  marker_ = ::open(marker.c_str(), O_WRONLY | O_CLOEXEC);
  if (marker_ < 0 && errno == ENOENT) marker_ = NewMarker(partial_);
  if (marker_ < 0 && errno != EEXIST) return ErrnoError(errno, "create {}", marker);
  const bool locked = marker_ >= 0 && ::flock(marker_, LOCK_EX | LOCK_NB) == 0;
  const int why = errno;
  if (locked && OwnsMarker()) return Status();
  const bool busy = marker_ < 0 || locked || why == EWOULDBLOCK;
  Unlock();
  if (!busy) return ErrnoError(why, "lock {}", marker);
  return Error(Code::kLocked,
               "{}: another kvadmin builds this directory now; wait until it ends, or choose another name", partial_);
}

void PartialDirectory::Unlock() {
  if (marker_ >= 0) ::close(std::exchange(marker_, -1));
}

// Removes the entries that kvadmin creates, except for the marker. When there is any other entry,
// it removes nothing and the error names that entry.
Status PartialDirectory::ClearContents() const {
  std::error_code error;
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(partial_, error)) {
    names.push_back(entry.path().filename().string());
  }
  if (error) return Error(Code::kIoError, "list {}: {}", partial_, error.message());
  std::erase(names, kUnfinishedName);
  for (const std::string& name : names) {
    if (!is_own_(name)) {
      return Error(Code::kAlreadyExists, "{}/{}: was not created by kvadmin; move it away", partial_, name);
    }
  }
  for (const std::string& name : names) {
    fs::remove_all(fs::path(partial_) / name, error);
    if (error) return Error(Code::kIoError, "remove {}/{}: {}", partial_, name, error.message());
  }
  return Status();
}

// Removes the directory, the marker last.
Status PartialDirectory::Remove() {
  if (!OwnsMarker()) return Status();  // somebody replaced the directory
  RETURN_IF_ERROR(ClearContents());
  std::error_code error;
  fs::remove(MarkerOf(partial_), error);
  if (!error) fs::remove(partial_, error);
  if (error) return Error(Code::kIoError, "remove {}: {}", partial_, error.message());
  return Status();
}

Status PartialDirectory::Create() {
  const bool made = ::mkdir(partial_.c_str(), 0755) == 0;
  if (!made && errno != EEXIST) return ErrnoError(errno, "create {}", partial_);
  RETURN_IF_ERROR(CheckPartial());
  if (Status opened = OpenMarker(); !opened.ok()) {
    if (made) ::rmdir(partial_.c_str());  // fails if another process uses it
    return opened;
  }
  // From here on, no other kvadmin changes the directory.
  if (Status cleared = ClearContents(); !cleared.ok()) {
    Unlock();  // the directory stays as it was
    return cleared;
  }
  RETURN_IF_ERROR(CheckFinal());  // another process may have finished since Prepare
  // The marker must be durable before there are contents, in case of a power failure.
  RETURN_IF_ERROR(SyncPath(MarkerOf(partial_)));
  RETURN_IF_ERROR(SyncPath(partial_));
  return SyncParent(partial_);
}

Status PartialDirectory::Commit() {
  if (!OwnsMarker()) {
    return Error(Code::kAborted, "{}: was removed or replaced while it was built; run the command again", partial_);
  }
  RETURN_IF_ERROR(SyncPath(partial_));
  if (::unlink(MarkerOf(partial_).c_str()) != 0) return ErrnoError(errno, "remove {}", MarkerOf(partial_));
  // Complete from here on: the destructor must keep it. The lock is held until the rename, so that
  // another process does not take the directory for an abandoned one.
  const int marker = std::exchange(marker_, -1);
  Status status = SyncPath(partial_);
  // rename(2) replaces an empty directory, and fails if the directory is not empty.
  if (status.ok() && std::rename(partial_.c_str(), final_.c_str()) != 0) {
    status = ErrnoError(errno, "{} is complete, but renaming it to {} failed; rename it yourself", partial_, final_);
  }
  ::close(marker);
  return status.ok() ? SyncParent(final_) : status;
}

}  // namespace pando::admin
