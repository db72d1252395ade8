// Directory is an open directory in which names are looked up, even if the directory has since been
// moved. A store that holds its directories open keeps using its own files when its path is
// renamed, and never touches the files of another store that takes over the path.
//
// Names are relative to the directory and may have several components ("partition-00003/data").
// Error messages use the path by which the directory was opened.
//
// Threads: one reactor. Move-only; it must be closed with co_await Close() before it is destroyed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/io/file.h"

namespace pando {

// What is damaged, and was replaced, is kept under such a name: data.damaged-1. Nothing removes it.
inline constexpr std::string_view kDamagedInfix = ".damaged-";
// STEM.damaged-K with the lowest K that is not in `names`.
std::string DamagedName(const std::vector<std::string>& names, std::string_view stem);

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
  Task<Status> MakeDirectory(std::string name) const;  // OK if it already exists
  Task<Status> Rename(std::string from, std::string to) const;
  // Gives the file `from` a second name, `to`. Returns kAlreadyExists, and changes nothing, when
  // there is a file with that name: of several callers, one wins.
  Task<Status> Link(std::string from, std::string to) const;
  Task<Status> Remove(std::string name) const;
  Task<Status> Sync() const;  // makes creations, renames and removals in it durable
  // Returns the entries in sorted order. It blocks, so it is for startup and recovery only.
  Result<std::vector<std::string>> List() const { return reactor_->ListDirectory(id_, path_); }
  // Returns which file has this name now. It blocks, but the kernel answers from its cache because
  // the directory is open.
  Result<FileIdentity> Identify(const std::string& name) const;

  bool is_open() const { return id_ != kNoFile; }
  Reactor& reactor() const { return *reactor_; }
  const std::string& path() const { return path_; }  // the path by which it was opened
  std::string PathOf(const std::string& name) const { return path_ == "/" ? path_ + name : path_ + "/" + name; }

 private:
  static Task<Result<Directory>> OpenAt(Reactor& reactor, FileId base, std::string name, std::string path);

  Reactor* reactor_ = nullptr;
  FileId id_ = kNoFile;
  std::string path_;
};

}  // namespace pando
