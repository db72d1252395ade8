// SegmentFiles: makes and removes the files of a log directory.
//
// A new name for a file takes two calls: the file is put aside under a temporary name (Create, TakeAside), then Publish
// gives it a number. A call that finds no space (kDiskFull) may be made again, and goes on where it was.
//
// Threads: one reactor; one call at a time (there is one temporary name).
//
// Invariants
//   G1  A file has a segment's name only once it has its full size, no unwritten extents, and a durable header of that
//       number: it is prepared under a temporary name and renamed. A bad header under a segment's name is damage.
//   G2  Every change of names is durable before the next one begins, so names change in the order of the calls.
//   G3  No name is created or changed unless the directory is still this process's.
#pragma once

#include <functional>
#include <string>

#include "src/io/directory.h"
#include "src/wal/log_format.h"

namespace pando {

class SegmentFiles {
 public:
  // `may_change` says no once the store belongs to another process.
  SegmentFiles(const Uuid& node, uint64_t segment_bytes, std::function<Status()> may_change)
      : node_(node), segment_bytes_(segment_bytes), may_change_(std::move(may_change)) {}

  // `directory` outlives this.
  void Use(const Directory* directory) { directory_ = directory; }

  // A file is put aside and waits for Publish.
  bool has_aside() const { return aside_ != Aside::kNothing; }
  // Puts aside a new file, written with zeros to its full size, so that later writes change no metadata. kDiskFull
  // leaves nothing behind.
  Task<Status> Create();
  // Puts aside the released segment of this name (of segment_bytes); its old batches stay in it and are stale. An error
  // leaves it where it was.
  Task<Status> TakeAside(std::string name);
  // Gives what is aside the number, and opens it. The number is used up once this was called: do not use another until
  // it succeeds.
  Task<Result<File>> Publish(uint64_t number);
  // An error leaves the file, or its removal is not durable and the log must fail (a sync failed).
  Task<Status> Remove(std::string name);
  // Removes a half-prepared file of an earlier run.
  Task<Status> RemoveLeftover();

 private:
  enum class Aside : uint8_t {
    kNothing,
    kRenamed,  // has the temporary name; its old one may come back after a power failure
    kReady,
    kNamed,  // has its number's name, durably, and is not open yet
  };
  Task<Status> FillWithZeros();
  Task<Status> WriteHeader(uint64_t number);
  Task<Status> SyncNames();

  const Directory* directory_ = nullptr;
  Uuid node_;
  uint64_t segment_bytes_;
  std::function<Status()> may_change_;
  Aside aside_ = Aside::kNothing;
};

}  // namespace pando
