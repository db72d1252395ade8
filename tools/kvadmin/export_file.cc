#include "tools/kvadmin/export_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "tools/common/interrupts.h"
#include "tools/common/output.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/durable.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = 1 << 20;
constexpr size_t kCachedBytes = 64 << 10;

std::string HashText(const Hasher64& hash) { return fmt::format("{:016x}", hash.Finish()); }

// Adds the next `bytes` bytes of the file to the hash. Calls `between`, if it is set, before each block.
Status HashNext(std::FILE* file, const std::string& path, uint64_t bytes, const std::function<Status()>& between,
                Hasher64* hash) {
  std::string block(kReadBytes, '\0');
  while (bytes > 0) {
    RETURN_IF_ERROR(tools::Interrupts::Check());
    if (between) RETURN_IF_ERROR(between());
    const size_t wanted = std::min<uint64_t>(bytes, block.size());
    if (std::fread(block.data(), 1, wanted, file) != wanted) return ErrnoError(errno, "read {}", path);
    hash->Update({block.data(), wanted});
    bytes -= wanted;
  }
  return Status();
}

// The words of an identity (see Identity in commands/export.cc). What has no name belongs to the word before.
std::vector<std::string> WordsOf(const std::string& identity) {
  std::vector<std::string> words;
  std::istringstream in(identity);
  for (std::string word; in >> word;) {
    const bool begins = word.find('=') != std::string::npos || word == "csv" || word == "jsonl" || word == "parquet" ||
                        word == "latest" || word == "base64";
    if (begins || words.empty()) {
      words.push_back(word);
    } else {
      words.back() += " " + word;
    }
  }
  return words;
}

// Keys, which are in hexadecimal in an identity, as they are shown elsewhere.
std::string Shown(const std::string& word) {
  if (word == "snapshot=") return "snapshot=now";
  const size_t equals = word.find('=');
  const std::string name = word.substr(0, equals);
  if (name != "start" && name != "end" && name != "prefix") return word;
  const Result<std::string> key = HexDecode(word.substr(equals + 1));
  return key.ok() ? fmt::format("{}={}", name, Printable(*key, Encoding::kText)) : word;
}

}  // namespace

std::string ExportDifference(const std::string& there, const std::string& here) {
  const std::vector<std::string> a = WordsOf(there), b = WordsOf(here);
  const auto only = [](const std::vector<std::string>& in, const std::vector<std::string>& not_in) {
    std::vector<std::string> left;
    for (const std::string& word : in) {
      if (std::find(not_in.begin(), not_in.end(), word) == not_in.end()) left.push_back(Shown(word));
    }
    return left.empty() ? "nothing" : fmt::format("{}", fmt::join(left, " and "));
  };
  return fmt::format("{} there, and {} here", only(a, b), only(b, a));
}

namespace {

nlohmann::json ReadState(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in, nullptr, false);
}

// Whether this is what Save writes. The file may be damaged, or another program's.
bool IsState(const nlohmann::json& state) {
  if (!state.is_object()) return false;
  for (const char* name : {"export", "next_key_b64", "snapshot_b64"}) {
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
  if (created_ && !ours_) ::unlink(partial_.c_str());  // Open has refused to go on
  if (ours_ && !resumable_) {
    // While the lock is held. A file that cannot be removed is overwritten by the next export.
    ::unlink(partial_.c_str());
    ::unlink(state_.c_str());
    ::unlink((state_ + ".next").c_str());
  }
  std::fclose(file_);
}

Status ExportFile::Open(const std::string& path, const std::string& identity, bool resume, Position* position,
                        const KeepSnapshot& keep) {
  *position = Position{};
  if (path == "-") return Status();
  ASSIGN_OR_RETURN(path_, Resolve(path));
  identity_ = identity;
  partial_ = path_ + ".partial";
  state_ = partial_ + ".state";
  std::error_code error;
  created_ = !fs::exists(partial_, error);
  ASSIGN_OR_RETURN(const int fd, OpenAndLock(partial_));
  file_ = ::fdopen(fd, "r+b");
  CHECK(file_) << partial_;
  RETURN_IF_ERROR(CheckOwner());
  return Begin(resume, position, keep);
}

// REQUIRES: FILE.partial is open and locked.
Status ExportFile::Begin(bool resume, Position* position, const KeepSnapshot& keep) {
  std::error_code error;
  const bool began = fs::exists(state_, error);
  ours_ = !began;  // the file is new, so nothing is lost if Open fails
  if (resume && began) RETURN_IF_ERROR(LoadState(position, keep));
  if (!resume && began) {
    const nlohmann::json state = ReadState(state_);
    Result<std::string> snapshot = Base64Decode(IsState(state) ? state["snapshot_b64"].get<std::string>() : "");
    Discard(snapshot.ok() ? *std::move(snapshot) : "");
  }
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
  if (::ftruncate(::fileno(file_), static_cast<off_t>(bytes_)) != 0) {
    return ErrnoError(errno, "cut {} to {} bytes", partial_, bytes_);
  }
  return writer_.Open(::fileno(file_), partial_, bytes_);
}

void ExportFile::Discard(std::string snapshot) {
  has_discarded_ = true;
  discarded_snapshot_ = std::move(snapshot);
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

Status ExportFile::LoadState(Position* position, const KeepSnapshot& keep) {
  const nlohmann::json state = ReadState(state_);
  if (!IsState(state)) {
    return Error(Code::kInvalidArgument, "{}: this is not the state of an export; remove the file to start over",
                 state_);
  }
  const std::string identity = state["export"];
  if (identity != identity_) {
    return Error(Code::kInvalidArgument,
                 "{}: this state belongs to another export: {}. Continue it as it was begun, or start over, without "
                 "--resume",
                 state_, ExportDifference(identity, identity_));
  }
  ASSIGN_OR_RETURN(position->next_key, Base64Decode(state["next_key_b64"].get<std::string>()));
  ASSIGN_OR_RETURN(position->snapshot, Base64Decode(state["snapshot_b64"].get<std::string>()));
  position->bytes = state["bytes"];
  position->rows = state["rows"];
  if (state.contains("sums") && state["sums"].is_string()) position->sums = state["sums"];
  if (state.contains("footer_b64") && state["footer_b64"].is_string()) {
    ASSIGN_OR_RETURN(position->footer, Base64Decode(state["footer_b64"].get<std::string>()));
  }
  if (position->rows == 0) {  // it was killed before it had saved a position
    Discard(position->snapshot);
    *position = Position{};
    return Status();
  }
  std::error_code error;
  if (created_ && fs::exists(path_, error) && !fs::exists(path_ + ".manifest", error)) {
    // It was killed when FILE had its name, before the manifest was written. What FILE has is not known any more.
    Discard(position->snapshot);
    *position = Position{};
    return Status();
  }
  const uint64_t there = fs::file_size(partial_, error);
  if (error || there < position->bytes) {
    return Error(Code::kCorruption, "{}: the file {}, and had {} bytes, as {} says. Start over, without --resume",
                 partial_, created_ || error ? "is gone" : fmt::format("has {} bytes", there), position->bytes, state_);
  }
  // Earlier versions have saved none.
  const bool has_hash = state.contains("file_hash") && state["file_hash"].is_string();
  std::function<Status()> between;
  if (keep) between = [&] { return keep(position->snapshot); };
  return ReadWritten(position->bytes, has_hash ? state["file_hash"].get<std::string>() : "", between);
}

// What was changed since the rows were compared with the store would otherwise count as compared.
Status ExportFile::ReadWritten(uint64_t bytes, const std::string& wanted_hash, const std::function<Status()>& between) {
  RETURN_IF_ERROR(HashNext(file_, partial_, bytes, between, &hash_));
  if (wanted_hash.empty() || hash() == wanted_hash) return Status();
  return Error(Code::kCorruption,
               "{}: the first {} bytes are not those that the export has written: their hash is {}, and {} says {}. "
               "Something has changed the file, or the disk is damaged; start over, without --resume",
               partial_, bytes, hash(), state_, wanted_hash);
}

std::string ExportFile::hash() const { return HashText(hash_); }

Status ExportFile::Write(std::string_view bytes) {
  if (path_.empty()) {
    tools::WriteOutput(bytes);
    RETURN_IF_ERROR(tools::OutputStatus());
    bytes_ += bytes.size();
    hash_.Update(bytes);
    return Status();
  }
  // In parts that stay in the processor's cache from one use to the next.
  while (!bytes.empty()) {
    const std::string_view part = bytes.substr(0, kCachedBytes);
    hash_.Update(part);
    RETURN_IF_ERROR(writer_.Append(part));
    bytes_ += part.size();
    bytes.remove_prefix(part.size());
  }
  return Status();
}

Status ExportFile::Flush() { return path_.empty() ? tools::FlushOutput() : writer_.Flush(); }

Status ExportFile::NoteSnapshot(const std::string& token) {
  if (path_.empty() || token.empty()) return Status();
  return WriteState({"", token});
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
  state["next_key_b64"] = Base64Encode(position.next_key);
  state["snapshot_b64"] = Base64Encode(position.snapshot);
  state["bytes"] = bytes_;
  state["file_hash"] = hash();
  state["rows"] = position.rows;
  state["sums"] = position.sums;
  if (!position.footer.empty()) state["footer_b64"] = Base64Encode(position.footer);
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
  resumable_ = ours_ = created_ = false;
  named_ = true;
  std::error_code ignored;
  fs::remove(state_, ignored);
  fs::remove(state_ + ".next", ignored);  // left by an interrupted Save
  std::FILE* file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0) return ErrnoError(errno, "close {}", path_);
  RETURN_IF_ERROR(SyncParent(path_));
  return WriteDurably(manifest_path, manifest, /*replace=*/true);
}

Result<nlohmann::ordered_json> FindCompleteExport(const std::string& path, const std::string& identity) {
  ASSIGN_OR_RETURN(const std::string file, Resolve(path));
  std::error_code error;
  if (fs::exists(file + ".partial.state", error) || !fs::exists(file, error)) return nlohmann::ordered_json();
  std::ifstream in(file + ".manifest");
  if (!in) return nlohmann::ordered_json();
  auto manifest = nlohmann::ordered_json::parse(in, nullptr, false);
  if (!manifest.is_object() || !manifest.contains("pando_export")) return nlohmann::ordered_json();
  const std::string there = manifest.value("export", std::string());
  if (there != identity) {
    return Error(Code::kInvalidArgument,
                 "{}: is complete, and another export{}. Choose another file, or start over, without --resume", path,
                 there.empty() ? ", of an earlier version" : ": " + ExportDifference(there, identity));
  }
  RETURN_IF_ERROR(CheckAgainstManifest(file));
  return manifest;
}

Status CheckAgainstManifest(const std::string& path, const std::function<Status()>& between) {
  const std::string manifest_path = path + ".manifest";
  std::ifstream in(manifest_path);
  if (path == "-" || !in) return Status();
  const auto manifest = nlohmann::json::parse(in, nullptr, false);
  const auto is_there = [&](const char* name) { return manifest.is_object() && manifest.contains(name); };
  if (!is_there("pando_export") || !is_there("file_hash") || !is_there("file_bytes")) return Status();
  if (!manifest["file_hash"].is_string() || !manifest["file_bytes"].is_number_unsigned()) return Status();
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) return Status();  // a pipe, which cannot be read twice
  Hasher64 hash;
  std::string found = fmt::format("it has {} bytes", bytes), said = fmt::format("{}", manifest["file_bytes"].dump());
  if (bytes == manifest["file_bytes"].get<uint64_t>()) {
    std::FILE* file = std::fopen(path.c_str(), "rbe");
    if (file == nullptr) return ErrnoError(errno, "open {}", path);
    Status read = HashNext(file, path, bytes, between, &hash);
    std::fclose(file);
    RETURN_IF_ERROR(read);
    said = manifest["file_hash"].get<std::string>();
    if (HashText(hash) == said) return Status();
    found = fmt::format("its hash is {}", HashText(hash));
  }
  return Error(Code::kCorruption,
               "{}: this is not the file that was exported: {}, and {} says {}. Export it again; if it was changed on "
               "purpose, remove {}, and load it then",
               path, found, manifest_path, said, manifest_path);
}

}  // namespace pando::admin
