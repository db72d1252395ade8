// Directory: an open directory, in which names are looked up wherever it was moved meanwhile. A store that holds its
// directories open stays in its own files when its path is renamed, and never touches those of a store that takes the
// path over. Move-only; must be closed with co_await Close() before it is destroyed.
//
// Names are relative to it and may have several parts ("partition-00003/data"). Errors name the path it was opened by.
#pragma once

#include <string>
#include <vector>

#include "src/io/file.h"

namespace pando {

class Directory {
 public:
  Directory() = default;
  Directory(Directory&& other) noexcept { *this = std::move(other); }
  Directory& operator=(Directory&& other) noexcept {
    CHECK_EQ(id_, kNoFile) << path_ << " is still open";
    reactor_ = other.reactor_;
    id_ = std::exchange(other.id_, kNoFile);
    path_ = std::move(other.path_);
    return *this;
  }
  ~Directory() { CHECK_EQ(id_, kNoFile) << path_ << " was not closed"; }

  static Task<Result<Directory>> Open(Reactor& reactor, std::string path);
  Task<Status> Close();

  Task<Result<Directory>> OpenDirectory(std::string name) const;
  Task<Result<File>> OpenFile(std::string name, File::Mode mode, bool direct) const;
  Task<Status> MakeDirectory(std::string name) const;  // OK when it exists
  Task<Status> Rename(std::string from, std::string to) const;
  Task<Status> Remove(std::string name) const;
  Task<Status> Sync() const;  // makes creations, renames and removals durable
  // Sorted; blocking, for start-up and recovery only.
  Result<std::vector<std::string>> List() const { return reactor_->ListDirectory(id_, path_); }
  // Which file has this name now. Blocking, but from the kernel's cache: the directory is open.
  Result<FileIdentity> Identify(const std::string& name) const;

  bool is_open() const { return id_ != kNoFile; }
  Reactor& reactor() const { return *reactor_; }
  const std::string& path() const { return path_; }  // by which it was opened
  std::string PathOf(const std::string& name) const { return path_ == "/" ? path_ + name : path_ + "/" + name; }

 private:
  static Task<Result<Directory>> OpenAt(Reactor& reactor, FileId base, std::string name, std::string path);

  Reactor* reactor_ = nullptr;
  FileId id_ = kNoFile;
  std::string path_;
};

}  // namespace pando
