// SegmentFiles: creates and removes the files of a log directory.
//
// Giving a file a new name takes two calls. Create or TakeAside first puts the file aside under a
// temporary name, then Publish gives it a number. A call that finds no space (kDiskFull) may be
// repeated and continues where it stopped.
//
// Threads: one reactor; one call at a time, since there is only one temporary name.
//
// Invariants
//   G1  A file has the name of a segment only once it has its full size, no unwritten extents, and
//       a durable header with that number. It is prepared under a temporary name and then renamed.
//       A bad header under the name of a segment is therefore damage.
//   G2  Every change of names is durable before the next one begins, so names change in the order
//       of the calls.
//   G3  No name is created or changed unless this process still owns the directory.
#pragma once

#include <functional>
#include <string>

#include "src/io/directory.h"
#include "src/wal/log_format.h"

namespace pando {

class SegmentFiles {
 public:
  // The file that is put aside, and the copy of a part of a segment that log_cut.h makes. Both mean nothing
  // when the log is opened.
  static constexpr char kTemporaryName[] = "preparing.tmp", kPartName[] = "part.tmp";

  // `may_change` returns an error once the store belongs to another process.
  SegmentFiles(const Uuid& node, uint64_t segment_bytes, std::function<Status()> may_change)
      : node_(node), segment_bytes_(segment_bytes), may_change_(std::move(may_change)) {}

  // `directory` must outlive this object.
  void Use(const Directory* directory) { directory_ = directory; }

  // Whether a file has been put aside and waits for Publish.
  bool has_aside() const { return aside_ != Aside::kNothing; }
  // Puts aside a new file, filled with zeros to its full size, so that later writes change no
  // metadata. kDiskFull leaves nothing behind.
  Task<Status> Create();
  // Puts aside the released segment with this name (of segment_bytes). Its old batches remain in it
  // and are stale. On error, the file keeps its name.
  Task<Status> TakeAside(std::string name);
  // Gives the file that is aside this number, and opens it. A call uses up the number: do not use
  // another one until Publish succeeds.
  Task<Result<File>> Publish(uint64_t number);
  // On error, either the file still exists, or its removal is not durable (a sync failed) and the
  // log must fail.
  Task<Status> Remove(std::string name);
  // Removes the unfinished files of an earlier run, unless a cut of the log has begun that needs them
  // (log_cut.h).
  Task<Status> RemoveLeftover();

 private:
  enum class Aside : uint8_t {
    kNothing,
    kRenamed,  // has the temporary name; its old name may come back after a power failure
    kReady,
    kNamed,  // durably has the name of its number, but is not open yet
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
