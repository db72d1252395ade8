#include "src/io/directory.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

namespace pando {

std::string DamagedName(const std::vector<std::string>& names, std::string_view stem) {
  for (int i = 1;; ++i) {
    std::string name = fmt::format("{}{}{}", stem, kDamagedInfix, i);
    if (std::find(names.begin(), names.end(), name) == names.end()) return name;
  }
}

Task<Result<Directory>> Directory::OpenAt(Reactor& reactor, FileId base, std::string name, std::string path) {
  IoAwaiter awaiter{&reactor, {}};
  awaiter.op.kind = IoOp::Kind::kOpen;
  awaiter.op.directory = base;
  awaiter.op.path = name.c_str();
  awaiter.op.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "open directory {}", path);
  Directory directory;
  directory.reactor_ = &reactor;
  directory.id_ = result;
  directory.path_ = std::move(path);
  co_return directory;
}

Task<Result<Directory>> Directory::Open(Reactor& reactor, std::string path) {
  std::string name = path;
  co_return co_await OpenAt(reactor, kNoFile, std::move(name), std::move(path));
}

Task<Result<Directory>> Directory::OpenDirectory(std::string name) const {
  std::string path = PathOf(name);
  co_return co_await OpenAt(*reactor_, id_, std::move(name), std::move(path));
}

Task<Status> Directory::Close() {
  if (id_ == kNoFile) co_return Status();
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kClose;
  awaiter.op.file = std::exchange(id_, kNoFile);
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "close directory {}", path_);
  co_return Status();
}

Task<Result<File>> Directory::OpenFile(std::string name, File::Mode mode, bool direct) const {
  std::string path = PathOf(name);
  co_return co_await File::OpenAt(*reactor_, id_, std::move(name), std::move(path), mode, direct);
}

Task<Status> Directory::MakeDirectory(std::string name) const {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kMakeDirectory;
  awaiter.op.directory = id_;
  awaiter.op.path = name.c_str();
  const int32_t result = co_await awaiter;
  if (result < 0 && result != -EEXIST) co_return ErrnoError(-result, "create directory {}", PathOf(name));
  co_return Status();
}

Task<Status> Directory::Rename(std::string from, std::string to) const {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kRename;
  awaiter.op.directory = id_;
  awaiter.op.path = from.c_str();
  awaiter.op.new_path = to.c_str();
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "rename {} to {}", PathOf(from), to);
  co_return Status();
}

Task<Status> Directory::Link(std::string from, std::string to) const {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kLink;
  awaiter.op.directory = id_;
  awaiter.op.path = from.c_str();
  awaiter.op.new_path = to.c_str();
  const int32_t result = co_await awaiter;
  if (result == -EEXIST) co_return Error(Code::kAlreadyExists, "{} exists", PathOf(to));
  if (result < 0) co_return ErrnoError(-result, "link {} to {}", PathOf(from), to);
  co_return Status();
}

Task<Status> Directory::Remove(std::string name) const {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kUnlink;
  awaiter.op.directory = id_;
  awaiter.op.path = name.c_str();
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "remove {}", PathOf(name));
  co_return Status();
}

Task<Status> Directory::Sync() const {
  IoAwaiter awaiter{reactor_, {}};
  awaiter.op.kind = IoOp::Kind::kSync;
  awaiter.op.file = id_;
  const int32_t result = co_await awaiter;
  if (result < 0) co_return ErrnoError(-result, "fsync directory {}", path_);
  co_return Status();
}

Result<FileIdentity> Directory::Identify(const std::string& name) const {
  return reactor_->Identify(id_, name, PathOf(name));
}

}  // namespace pando
