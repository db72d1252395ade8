// Log: the write-ahead log of one reactor, shared by its partitions. One stream of durable writes whatever their
// number; inside it each partition (LogStream) has its own sequence of batches with dense LSNs.
//
// Format: docs/FORMAT.md, "Log"; structs in wal/log_format.h.
//
// Threads: one reactor.
//
// Invariants
//   L1  OnDurable(lsn) is called only once every byte up to the end of lsn's batch is durable: records reach the
//       device in stream order, and durability is announced in that order.
//   L2  A block that holds announced data is never written again. Segments are zeroed before first use, and a
//       few prepared ones are kept ahead, so that an append never waits for allocation.
//   L3  Damage at or below a durable position that a later batch states is corruption and recovery stops; damage above
//       it is the torn tail, which recovery cuts durably before it accepts appends.
//   L4  A failed write or sync is never retried: the log fails for good, OnLogFailed tells every stream, nothing more
//       is announced.
//   L5  Segments whose every record is released are recycled, never before.
//   L6  The end of the log never moves back: the segment that holds the last announced group stays until a later
//   segment
//       holds one. So whoever remembers durable_end() can tell a log that was lost from one that is empty.
//   L7  Streams share group commits and admission by bytes: however much one stream has waiting, what another appends
//       goes out before the hot one has sent as many bytes again.
//
// Group commit clocks itself: when a write completes, all that has gathered goes out with the next (at most
// kMaxWritesInFlight); CommitHold may hold that back for a part of a flush. An idle log writes a closing position, so
// that the last announced batch is covered.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/io/directory.h"
#include "src/io/reactor.h"
#include "src/wal/log_format.h"

namespace pando {

struct LogOptions {
  std::string directory;  // created when missing; holds segment files and nothing else
  // Its parent directory, when that is open already; outlives the log. The log holds its own open: moving it does not
  // change which files are the log's.
  const Directory* parent = nullptr;
  // Asked before a name is created or changed; an error, which the log then fails with, says that the store has become
  // another process's.
  std::function<Status()> may_change = [] { return Status(); };
  Uuid node;  // stamped into every segment; a foreign segment is refused
  uint64_t segment_bytes = 8u << 20;
  uint64_t budget_bytes = 512u << 20;     // appends wait while more than this is unreleased
  uint64_t budget_records = 4'000'000;    // and more records than this: bounds replay time
  uint32_t max_group_bytes = 512u << 10;  // one device write; a larger single batch is still written whole
  bool read_only = false;                 // for wal-dump and check: nothing is created, cut or recycled
  // Recovery refuses a log that ends before this position, because acknowledged records are missing from it, and a
  // directory that does not exist. `required_by` is the file that says so. 0: any log will do, and none, too.
  LogPosition required_end = 0;
  std::string required_by;
  // Goes on without what is missing, with positions after required_end.
  bool accept_lost = false;
  // How a write is made durable. kProbe times a few writes of each kind at start and takes the faster.
  enum class SyncMode : uint8_t { kProbe, kDataSyncWrite, kWriteThenSync };
  SyncMode sync_mode = SyncMode::kProbe;
};

// Told, on the reactor's loop, about its stream.
class LogConsumer {
 public:
  virtual void OnDurable(Lsn up_to) = 0;
  virtual void OnLogFailed(const Status& status) = 0;

 protected:
  ~LogConsumer() = default;
};

// One batch found by recovery, in log order. `records` is valid during the call only.
struct RecoveredBatch {
  Uuid partition;
  Epoch epoch = 0;
  Lsn first_lsn = 0;
  uint32_t record_count = 0;
  Lsn commit_lsn = 0;  // the stream's commit watermark when it was written
  std::string_view records;
  std::string_view file;  // for messages
  uint64_t offset = 0;
};

class LogReplaySink {
 public:
  virtual Task<Status> OnBatch(const RecoveredBatch& batch) = 0;

 protected:
  ~LogReplaySink() = default;
};

class Log;
class LogStream;  // one partition's sequence; owned by the Log

// A segment that recovery would read, and how far it is known to be durable.
struct DurableSegment {
  uint64_t number = 0;
  std::string path;
  const Directory* directory = nullptr;  // the log's, open as long as the log
  uint64_t bytes = 0;                    // of the file
  uint64_t durable_end = 0;              // offset behind the last durable batch
};

// Room in the log's budgets, given back when it is dropped: once its record counts itself, or because nothing comes.
class LogSpace {
 public:
  LogSpace() = default;
  LogSpace(Log* log, size_t bytes) : log_(log), bytes_(bytes) {}
  LogSpace(LogSpace&& other) noexcept { *this = std::move(other); }
  LogSpace& operator=(LogSpace&& other) noexcept {
    std::swap(log_, other.log_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~LogSpace() { Drop(); }
  void Drop();

 private:
  Log* log_ = nullptr;
  size_t bytes_ = 0;
};

struct LogStats {
  uint64_t unreleased_bytes = 0, unreleased_records = 0, segments = 0;
  uint64_t appended_records_total = 0, appended_bytes_total = 0;
  uint64_t device_writes_total = 0, device_bytes_total = 0, append_waits_total = 0;
  bool data_sync_writes = false;  // what the probe chose: RWF_DSYNC, or write + fdatasync
};

class Log {
 public:
  // Opens or creates the directory. Call Recover next, also on an empty one, then AddStream, then Append.
  static Task<Result<std::unique_ptr<Log>>> Open(Reactor& reactor, LogOptions options);
  virtual ~Log() = default;

  // One pass over all segments, oldest first. Flushes what is there before reading it, tells a torn tail from
  // corruption (L3), cuts the tail, and readies a fresh segment for appends. Idempotent: a crash during it changes
  // nothing that matters. kCorruption names file and offset.
  virtual Task<Status> Recover(LogReplaySink* sink) = 0;

  // Registers a partition; its next record gets `next_lsn`. What recovery found for it below stays pinned until
  // Release.
  virtual LogStream* AddStream(const Uuid& partition, Epoch epoch, Lsn next_lsn, LogConsumer* consumer) = 0;
  // Forgets records of partitions nobody registered (a dropped partition).
  virtual void ReleaseUnknownStreams() = 0;

  // OK at once while under the budgets, else suspends until Release has made room: smooth back-pressure towards
  // writers. The space is the caller's from then on: keep it until the record is appended, then drop it. Streams take
  // turns by bytes. kUnavailable once the log has failed or is closing; kDeadline when `deadline_ns` (0 = none) comes
  // first.
  virtual Task<Result<LogSpace>> WaitForSpace(LogStream* stream, size_t bytes, Nanos deadline_ns = 0) = 0;
  // True when WaitForSpace would not suspend.
  virtual bool HasSpace(size_t bytes) const = 0;

  // Stages `count` encoded records as one unit that recovery sees whole or not at all; returns the LSN of the first.
  // The bytes are copied. Never suspends, never fails (failure arrives by OnLogFailed).
  virtual Lsn Append(LogStream* stream, std::string_view records, uint32_t count) = 0;

  // The commit watermark that the stream's next batches carry.
  virtual void SetCommit(LogStream* stream, Lsn commit_lsn) = 0;
  // Records up to and including `lsn` will not be needed by recovery: both superblock slots are past them.
  virtual void Release(LogStream* stream, Lsn lsn) = 0;
  // Everything before it is durable, and stays in the log or becomes unneeded: every later recovery ends at or after
  // it.
  virtual LogPosition durable_end() const = 0;
  // The stream whose unreleased records pin the oldest segment; nil when nothing is pinned. It is the one to
  // checkpoint when the budget runs low.
  virtual Uuid OldestPinnedStream() const = 0;

  // For the scrubber, which reads them again: the live segments, oldest first, with what is durable in each. One that
  // is not live any more may change at any time.
  virtual std::vector<DurableSegment> DurableSegments() const = 0;
  virtual bool IsLive(uint64_t segment_number) const = 0;

  virtual LogStats stats() const = 0;
  // Fails the log: nothing more is written.
  virtual void Abandon(const Status& status) = 0;
  // Waits for what is staged, writes the closing position, closes the files. Appends after this are a bug.
  virtual Task<Status> Close() = 0;

 private:
  friend class LogSpace;
  virtual void GiveBack(size_t bytes) = 0;
};

inline void LogSpace::Drop() {
  if (log_ != nullptr) std::exchange(log_, nullptr)->GiveBack(bytes_);
}

}  // namespace pando
