// ExportFile: where an export goes. Rows are written to FILE.partial; FILE.partial.state remembers, from time to time,
// how far it got (scan cursor, bytes, rows), so that an export cut short can go on there; at the end the file is synced
// and renamed to FILE. Standard output has none of that.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "src/base/result.h"

namespace pando::admin {

class ExportFile {
 public:
  struct Position {
    std::string cursor;    // of the scan, behind the last row written
    std::string snapshot;  // that it reads; empty = none
    uint64_t bytes = 0, rows = 0;
  };

  ExportFile() = default;
  ExportFile(const ExportFile&) = delete;
  ExportFile& operator=(const ExportFile&) = delete;
  ~ExportFile();

  // "-" is standard output. `identity` describes what is exported; with `resume` a state of another identity is an
  // error, without it the state of an earlier export is removed. Fills `position` with where to go on (the start when
  // there is nothing to resume).
  Status Open(const std::string& path, const std::string& identity, bool resume, Position* position);
  Status Write(const std::string& bytes);
  // Makes what was written durable and remembers it; position.bytes is not looked at.
  Status Save(const Position& position);
  // Syncs, renames to the final name, removes the state.
  Status Finish();
  uint64_t bytes() const { return bytes_; }
  // A later export can go on with what is here: a state was saved, and not finished since.
  bool resumable() const { return resumable_; }

 private:
  Status LoadState(Position* position);
  Status Flush();

  std::string path_, partial_, state_, identity_;
  std::FILE* file_ = nullptr;
  uint64_t bytes_ = 0;
  bool resumable_ = false;
};

}  // namespace pando::admin
