#include "tools/kvadmin/export_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/common/output.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/durable.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

// Whether this is what Save writes. The file may be damaged, or another program's.
bool IsState(const nlohmann::json& state) {
  if (!state.is_object()) return false;
  for (const char* name : {"export", "cursor_b64", "snapshot_b64"}) {
    if (!state.contains(name) || !state[name].is_string()) return false;
  }
  for (const char* name : {"bytes", "rows"}) {
    if (!state.contains(name) || !state[name].is_number_unsigned()) return false;
  }
  return true;
}

// The path of the file that `path` leads to, so that the rename replaces a link's target and not the
// link.
Result<std::string> Resolve(const std::string& path) {
  std::error_code error;
  const fs::file_status there = fs::status(path, error);
  if (fs::exists(there) && !fs::is_regular_file(there)) {
    // The final rename would replace a device or a pipe with a regular file.
    return Error(Code::kInvalidArgument,
                 "{}: exists and is not a regular file; choose another name, or - for standard output", path);
  }
  if (!fs::is_symlink(fs::symlink_status(path, error))) return path;
  const fs::path target = fs::canonical(path, error);
  if (!error) return target.string();
  return Error(Code::kInvalidArgument, "{}: is a symbolic link to nothing; create its target, or choose another name",
               path);
}

}  // namespace

ExportFile::~ExportFile() {
  if (!file_) return;
  if (ours_ && !resumable_) {
    // While the lock is held. A file that cannot be removed is overwritten by the next export.
    ::unlink(partial_.c_str());
    ::unlink(state_.c_str());
    ::unlink((state_ + ".next").c_str());
  }
  std::fclose(file_);
}

Status ExportFile::Open(const std::string& path, const std::string& identity, bool resume, Position* position) {
  *position = Position{};
  if (path == "-") return Status();
  ASSIGN_OR_RETURN(path_, Resolve(path));
  identity_ = identity;
  partial_ = path_ + ".partial";
  state_ = partial_ + ".state";
  ASSIGN_OR_RETURN(const int fd, OpenAndLock(partial_));
  file_ = ::fdopen(fd, "r+b");
  CHECK(file_) << partial_;
  RETURN_IF_ERROR(CheckOwner());
  std::error_code error;
  ours_ = !fs::exists(state_, error);  // the file is new, so nothing is lost if Open fails
  if (resume) RETURN_IF_ERROR(LoadState(position));
  resumable_ = position->bytes > 0;
  bytes_ = position->bytes;
  // When the export starts over, the state of an interrupted one describes data that is overwritten
  // now. The replacement must be durable: after a power failure, an old state that reappears would
  // be taken for this export's.
  if (!resumable_) {
    RETURN_IF_ERROR(WriteState({}));
    RETURN_IF_ERROR(SyncParent(state_));
  }
  ours_ = true;
  // Cut off what was written after the saved position; it is written again.
  if (::ftruncate(fd, static_cast<off_t>(bytes_)) != 0 || std::fseek(file_, static_cast<long>(bytes_), SEEK_SET) != 0) {
    return ErrnoError(errno, "cut {} to {} bytes", partial_, bytes_);
  }
  return Status();
}

// An empty file may be what an export left that was killed before it wrote its state.
Status ExportFile::CheckOwner() const {
  std::error_code error;
  if (fs::exists(state_, error)) return Status();
  const uint64_t bytes = fs::file_size(partial_, error);
  if (!error && bytes == 0) return Status();
  if (error) return Error(Code::kIoError, "{}: {}", partial_, error.message());
  return Error(Code::kAlreadyExists,
               "{}: exists, but kvadmin did not leave it there (there is no {}); move it away, or choose another name",
               partial_, state_);
}

Status ExportFile::LoadState(Position* position) {
  std::ifstream in(state_);
  if (!in) return Status();  // nothing to resume
  auto state = nlohmann::json::parse(in, nullptr, false);
  if (!IsState(state)) {
    return Error(Code::kInvalidArgument, "{}: this is not the state of an export; remove the file to start over",
                 state_);
  }
  const std::string identity = state["export"];
  if (identity != identity_) {
    return Error(Code::kInvalidArgument,
                 "{}: this state belongs to another export ({}), not to {}; remove the file to start over", state_,
                 identity, identity_);
  }
  ASSIGN_OR_RETURN(position->cursor, Base64Decode(state["cursor_b64"].get<std::string>()));
  ASSIGN_OR_RETURN(position->snapshot, Base64Decode(state["snapshot_b64"].get<std::string>()));
  position->bytes = state["bytes"];
  position->rows = state["rows"];
  if (state.contains("sums") && state["sums"].is_string()) position->sums = state["sums"];
  std::error_code error;
  uint64_t there = fs::file_size(partial_, error);
  if (error || there < position->bytes) {
    return Error(Code::kInvalidArgument, "{}: the file is shorter than {} says; remove both files to start over",
                 partial_, state_);
  }
  return Status();
}

Status ExportFile::Write(const std::string& bytes) {
  if (path_.empty()) {
    tools::WriteOutput(bytes);
    RETURN_IF_ERROR(tools::OutputStatus());
  } else if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
    return ErrnoError(errno, "write {}", partial_);
  }
  bytes_ += bytes.size();
  return Status();
}

Status ExportFile::Flush() {
  if (path_.empty()) return tools::FlushOutput();
  if (std::fflush(file_) != 0) return ErrnoError(errno, "write {}", partial_);
  if (::fdatasync(::fileno(file_)) != 0) return ErrnoError(errno, "sync {}", partial_);
  return Status();
}

Status ExportFile::Save(const Position& position) {
  if (path_.empty()) return Status();
  RETURN_IF_ERROR(Flush());
  RETURN_IF_ERROR(WriteState(position));
  resumable_ = true;
  return Status();
}

Status ExportFile::WriteState(const Position& position) {
  nlohmann::json state;
  state["export"] = identity_;
  state["cursor_b64"] = Base64Encode(position.cursor);
  state["snapshot_b64"] = Base64Encode(position.snapshot);
  state["bytes"] = bytes_;
  state["rows"] = position.rows;
  state["sums"] = position.sums;
  std::string next = state_ + ".next";
  std::ofstream out(next, std::ios::trunc);
  out << state.dump() << '\n';
  out.close();
  if (!out) return ErrnoError(errno, "write {}", next);
  RETURN_IF_ERROR(SyncPath(next));  // else a power failure may leave an empty file after the rename
  if (std::rename(next.c_str(), state_.c_str()) != 0) return ErrnoError(errno, "rename {}", next);
  return Status();
}

Status ExportFile::Finish(const std::string& manifest) {
  RETURN_IF_ERROR(Flush());
  if (path_.empty()) return Status();
  // That of an older file must not be found beside this one.
  const std::string manifest_path = path_ + ".manifest";
  if (::unlink(manifest_path.c_str()) != 0 && errno != ENOENT) return ErrnoError(errno, "remove {}", manifest_path);
  // Closing the file gives up the lock, so the rename comes first: another export that finds the
  // file unlocked would begin to overwrite it. The state goes last: without it, a kill would leave
  // a FILE.partial that looks like somebody else's.
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) return ErrnoError(errno, "rename {} to {}", partial_, path_);
  resumable_ = ours_ = false;
  std::error_code ignored;
  fs::remove(state_, ignored);
  fs::remove(state_ + ".next", ignored);  // left by an interrupted Save
  std::FILE* file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0) return ErrnoError(errno, "close {}", path_);
  RETURN_IF_ERROR(SyncParent(path_));
  return WriteDurably(manifest_path, manifest, /*replace=*/true);
}

}  // namespace pando::admin
