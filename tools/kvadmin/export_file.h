// ExportFile: the output file of an export. Rows go to FILE.partial. Save records the progress
// (the next key, bytes and their hash, rows, sums) in FILE.partial.state, so that an interrupted export can be resumed.
// Then the bytes are read again, and must still have that hash: a change of the file meanwhile is found.
// Finish syncs FILE.partial, renames it to FILE, and writes FILE.manifest. Standard output uses neither file and cannot
// be resumed. Without Finish, the destructor removes both files unless the export can be resumed.
//
// The state exists before the first row, so a FILE.partial that has rows but no state is somebody
// else's: it is left alone. A lock on FILE.partial keeps other exports away until the rename.
//
// The state names the snapshot that is read, as soon as there is one (NoteSnapshot), also where nothing can be resumed:
// the export that begins anew can release it.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "src/base/hash.h"
#include "src/base/result.h"
#include "tools/kvadmin/file_writer.h"

namespace pando::admin {

class ExportFile {
 public:
  struct Position {
    std::string next_key;  // all rows below it are written, and none of the others; empty = nothing is
    std::string snapshot;  // the snapshot that the scan reads; empty = none
    uint64_t bytes = 0, rows = 0;
    std::string sums = {};    // of these rows, as commands/export.cc writes them
    std::string footer = {};  // what the end of the file needs (ExportFormatEnds::Save)
  };

  ExportFile() = default;
  ExportFile(const ExportFile&) = delete;
  ExportFile& operator=(const ExportFile&) = delete;
  ~ExportFile();

  // "-" is standard output. If `path` is a symbolic link, its target is written. `identity`
  // describes what is exported, and where. With `resume`, a saved state with another identity is an
  // error, and one without rows is nothing to resume. Without `resume`, Open overwrites the state of an earlier export.
  // Sets `position` to where the export continues, which is the start when there is nothing to resume. kLocked: another
  // process exports to the file. kCorruption: what was written is not there any more. What was written is read again,
  // which may take longer than a server keeps a snapshot: `keep`, if it is set, is called again and again meanwhile
  // with the snapshot of the export that is resumed. Its error ends Open.
  using KeepSnapshot = std::function<Status(const std::string& snapshot)>;
  Status Open(const std::string& path, const std::string& identity, bool resume, Position* position,
              const KeepSnapshot& keep = {});
  // After an error, part of them may be written, so nothing may be saved any more.
  Status Write(std::string_view bytes);
  // Lets others see what was written.
  Status WriteOut() { return path_.empty() ? Status() : writer_.WriteOut(); }
  // Says in the state which snapshot is read, before there are rows. It does not make the export resumable.
  Status NoteSnapshot(const std::string& token);
  // Makes the written rows durable and saves the position. Ignores position.bytes.
  Status Save(const Position& position);
  // Syncs the file, removes the state, and renames the file to its final name. Then writes FILE.manifest, which says
  // what the file holds: it exists only beside the file that it describes.
  Status Finish(const std::string& manifest);
  uint64_t bytes() const { return bytes_; }
  // Of these bytes: Hash64, as 16 hexadecimal digits.
  std::string hash() const;
  // Whether a later export can resume this one: a state was saved, and Finish was not called.
  bool resumable() const { return resumable_; }
  // Whether the file has its final name. Finish may have failed after that.
  bool is_named() const { return named_; }
  // Of the export that Open has thrown away: whether there was one, and its snapshot, which may be empty.
  bool has_discarded() const { return has_discarded_; }
  const std::string& discarded_snapshot() const { return discarded_snapshot_; }

 private:
  Status Begin(bool resume, Position* position, const KeepSnapshot& keep);
  Status LoadState(Position* position, const KeepSnapshot& keep);
  void Discard(std::string snapshot);
  Status ReadWritten(uint64_t bytes, const std::string& wanted_hash, const std::function<Status()>& between);
  Status WriteState(const Position& position);
  Status CheckOwner() const;
  Status Flush();

  std::string path_, partial_, state_, identity_;
  std::FILE* file_ = nullptr;
  FileWriter writer_;  // of the file, unless it is standard output
  uint64_t bytes_ = 0;
  Hasher64 hash_;      // of these bytes
  bool ours_ = false;  // FILE.partial and its state belong to this export
  bool resumable_ = false;
  bool created_ = false;  // FILE.partial, by Open
  bool named_ = false, has_discarded_ = false;
  std::string discarded_snapshot_;
};

// What two identities differ in: "prefix=a/ there, and prefix=b/ here".
std::string ExportDifference(const std::string& there, const std::string& here);

// The manifest of a complete export at `path`, if `identity` is that export's and the file is what was exported; "null"
// if there is none, or if an interrupted export has begun after it. kInvalidArgument: it is another export.
Result<nlohmann::ordered_json> FindCompleteExport(const std::string& path, const std::string& identity);

// If there is a PATH.manifest of an export, compares the file with it. kCorruption: it is not what was exported.
// `between`, if it is set, is called again and again while the file is read. Its error ends that.
Status CheckAgainstManifest(const std::string& path, const std::function<Status()>& between = {});

}  // namespace pando::admin
