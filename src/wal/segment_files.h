// SegmentFiles: makes and removes the files of a log directory.
//
// Threads: one reactor; one call at a time (the temporary name is shared).
//
// Invariants
//   G1  A file has a segment's name only once it has its full size, no unwritten extents, and a durable header of that
//       number: it is prepared under a temporary name and renamed. A bad header under a segment's name is damage.
//   G2  Every change of names is durable before the call returns, so names change in the order of the calls.
#pragma once

#include <string>

#include "src/io/file.h"
#include "src/wal/log_format.h"

namespace pando {

class SegmentFiles {
 public:
  SegmentFiles(Reactor& reactor, std::string directory, const Uuid& node, uint64_t segment_bytes)
      : reactor_(&reactor), directory_(std::move(directory)), node_(node), segment_bytes_(segment_bytes) {}

  // Opens the directory and holds it. Before all others; and Close after them.
  Task<Status> Open();
  Task<Status> Close() { return held_.Close(); }

  // A new file, written with zeros to its full size and synced, so that later writes change no metadata. kDiskFull and
  // kOverloaded (no descriptor is free) leave nothing behind and may be tried again.
  Task<Result<File>> Create(uint64_t number);
  // Gives the released file at `path` (of segment_bytes) the number; its old batches stay in it and are stale. After
  // kOverloaded the file is at TemporaryPath(), and recycling that goes on from there.
  Task<Result<File>> Recycle(std::string path, uint64_t number);
  Task<Status> Remove(std::string path);
  // Removes a half-prepared file of an earlier run.
  Task<Status> RemoveLeftover();

  std::string TemporaryPath() const { return directory_ + "/preparing.tmp"; }
  std::string PathOf(uint64_t number) const { return directory_ + "/" + SegmentFileName(number); }

 private:
  Task<Status> FillWithZeros();
  Task<Result<File>> Publish(uint64_t number);

  Reactor* reactor_;
  std::string directory_;
  Uuid node_;
  uint64_t segment_bytes_;
  File held_;  // the directory
};

}  // namespace pando
