// ExportFile: the output file of an export. Rows go to FILE.partial. Save records the progress
// (the next key, bytes and their hash, rows, sums) in FILE.partial.state, so that an interrupted export can be resumed.
// Then the bytes are read again, and must still have that hash: a change of the file meanwhile is found.
// Finish syncs FILE.partial, renames it to FILE, and writes FILE.manifest. Standard output uses neither file and cannot
// be resumed. Without Finish, the destructor removes both files unless the export can be resumed.
//
// The state exists before the first row, so a FILE.partial that has rows but no state is somebody
// else's: it is left alone. A lock on FILE.partial keeps other exports away until the rename.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "src/base/hash.h"
#include "src/base/result.h"

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
  // error. Without `resume`, Open overwrites the state of an earlier export. Sets `position` to where the export
  // continues, which is the start when there is nothing to resume.
  Status Open(const std::string& path, const std::string& identity, bool resume, Position* position);
  Status Write(const std::string& bytes);
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

 private:
  Status LoadState(Position* position);
  Status ReadWritten(uint64_t bytes, const std::string& wanted_hash);
  Status WriteState(const Position& position);
  Status CheckOwner() const;
  Status Flush();

  std::string path_, partial_, state_, identity_;
  std::FILE* file_ = nullptr;
  uint64_t bytes_ = 0;
  Hasher64 hash_;      // of these bytes
  bool ours_ = false;  // FILE.partial and its state belong to this export
  bool resumable_ = false;
};

// If there is a PATH.manifest of an export, compares the file with it. kCorruption: it is not what was exported.
Status CheckAgainstManifest(const std::string& path);

}  // namespace pando::admin
