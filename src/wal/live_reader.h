// LiveReader: reads the units of one partition from a log that is being written, in order, for
// whoever follows the partition: a slave, or a feed of changes.
//
// A reader that keeps up reads from memory: while a partition has readers, the log keeps the units
// that it submitted last (UnitRing, shared by all of its partitions). One that lags reads segments
// (SegmentImage). Units come as soon as they are submitted to the disk, so they may not be durable
// yet: a master ships them while it writes them.
//
// Threads: the reactor of the log.
//
// Invariants
//   LR1  A reader returns each unit of its partition's history once, in order, and each continues the
//        one before it: LSN, chain, and an epoch that does not fall. When units that it has returned
//        are superseded, it ends (kAborted).
//   LR2  Readers do not hold up writers. Segments that are kept for them count against the reader's
//        own `retention_bytes`, not against the log's budgets, and are given up on a full disk.
//   LR3  Memory is bounded: one ring and at most kMaxImages segments for all readers of a log,
//        reserved in LogOptions::reader_memory.
#pragma once

#include <memory>
#include <string>

#include "src/io/sync.h"
#include "src/wal/log.h"
#include "src/wal/segment_image.h"

namespace pando {

class LogImpl;

// Of the log, beyond what recovery needs.
struct KeptLog {
  uint64_t bytes = 0, limit_bytes = 0;
  bool complete = true;  // the next unit is there, or is still to come
};

class LiveReader {
 public:
  struct Units {
    size_t count = 0;
    // Not 0: the next unit takes so many bytes, more than `max_bytes`; nothing was read.
    size_t needs_bytes = 0;
  };

  // See Log::OpenReader.
  LiveReader(LogImpl* log, LogStream* stream, const HistoryPoint& after, uint64_t retention_bytes);
  ~LiveReader();  // no call may be in progress

  // Appends to `out` the next units, in the form in which batches carry them (write_unit.h) with
  // flags of 0, and of at most `max_bytes` in all. None: there are none yet. One call at a time. What an
  // error leaves in `out` means nothing.
  //
  // kNotFound: the log does not hold the next unit any more; the follower needs a copy of the pages.
  // kAborted: the follower has a history that is not, or no longer, the partition's.
  // kOverloaded: no memory or descriptor now; try again. kUnavailable: the log has failed or is
  // closing, or the partition was dropped. kCorruption and kIoError name the file.
  Task<Result<Units>> Read(size_t max_bytes, std::string* out);
  // Returns once Read may have something to return, be it an error. After kOverloaded, pause first.
  Task<void> UntilMore();
  // From now on Read returns kUnavailable, so that who waits can end. What was kept for it is given up.
  void Stop();

  // What the log keeps for its readers, and the most that it keeps for this one.
  KeptLog kept() const;

  const HistoryPoint& position() const { return position_; }  // the end of the last unit returned

 private:
  friend class LogImpl;

  Status Usable() const;
  bool Superseded(LogPosition place, Lsn lsn) const;
  size_t FindInMemory() const;
  bool HasMore() const;
  Status CheckContinues(Epoch epoch, uint64_t chain_before) const;
  void Take(std::string_view unit, const HistoryPoint& end, std::string* out);
  Result<Units> TryReadMemory(size_t max_bytes, std::string* out);
  Task<Result<std::shared_ptr<SegmentImage>>> FindImage();
  size_t FindIn(const SegmentImage& image) const;
  bool IsInsideUnit(const SegmentImage& image) const;
  Result<Units> ReadImage(const SegmentImage& image, size_t max_bytes, std::string* out);
  void SetLagging(bool lagging);

  LogImpl* log_;       // null: the log was closed
  LogStream* stream_;  // null: the partition was dropped
  HistoryPoint position_;
  const uint64_t retention_bytes_;
  bool reading_ = false, stopped_ = false;
  bool superseded_ = false;  // units that it has returned, or that the follower had before
  bool lagging_ = false;     // the last units came from a segment
  // Where the last unit came from, so that the next one is not searched for.
  uint64_t image_number_ = 0;
  size_t image_index_ = 0;
  WaitQueue news_;
};

}  // namespace pando
