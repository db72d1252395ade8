// Log: the write-ahead log of one reactor, shared by its partitions. It is a single stream of
// durable writes, however many partitions there are. Within it, each partition (LogStream) has its
// own sequence of write units with dense LSNs.
//
// Format: docs/FORMAT.md, "Log"; structs in wal/log_format.h.
//
// Threads: one reactor.
//
// Invariants
//   L1  OnDurable(lsn) is called only once every byte up to the end of lsn's batch is durable.
//       Durability is announced in stream order, even when later writes finish first. Units that
//       have been superseded meanwhile are not announced.
//   L2  A block that holds announced data is never overwritten while its segment is live. Segments
//       are zeroed before their first use, and a few are prepared in advance, so that an append
//       does not wait for allocation.
//   L3  Damage below a durable position that a later batch states is corruption, and recovery
//       stops. Any other damage is the torn tail, which recovery cuts durably before it accepts
//       appends.
//   L4  A failed write or sync is never retried. The log fails permanently, OnLogFailed tells every
//       stream, and nothing more is announced.
//   L5  Segments are recycled only once all their records are released. Some are kept longer for
//       readers (LR2).
//   L6  The end of the log never moves back: the segment that holds the last announced group stays
//       until a later segment holds one. Whoever remembers durable_end() can therefore tell a lost
//       log from an empty one.
//   L7  Streams share group commits and admission by bytes. However much one stream has waiting,
//       what another stream appends goes out before the busy one has sent as many bytes again.
//   L8  Recovery needs no disk space: records are written only while a segment is kept prepared for
//       it. If it ends before another one is prepared, the next recovery continues its segment,
//       which holds no records yet.
//
//   L9  The first batch of a segment has a mark of every stream, and each later batch one of every
//       stream that has come further. So the log always states of each partition what must exist,
//       even if it holds no record of it any more.
//   L10  A unit that was appended again is needed only where it lies last, and a unit that was
//       superseded is not needed at all, once what followed is durable.
//   L11  While units of a stream wait to be appended again, its marks repeat the commit LSN that was
//       stated last. So a mark that covers a unit comes after the place where the unit lies last, and
//       whoever reads the log up to the mark has all that it covers.
//   L12  Nothing of a removed partition is written after its removal. It counts as gone from the disk
//        only once the last segment that may hold something of it is durably gone.
//   L13  Nothing of a partition is appended before the position at which its history begins
//       (LogOptions::dropped), and its versions and epochs go on rising across that position.
//   L14  What was cut off is not found again. A cut is durable before, or together with, what is appended
//        after it, and it lies behind all that it cuts off, so the segments of that go first (W2).
//
// Group commit clocks itself: when a write completes, everything staged meanwhile goes out with the
// next write (at most kMaxWritesInFlight at once). CommitHold may delay that write for a fraction
// of a flush. An idle log writes a closing batch, so that a later batch covers the last announced
// one, and so that the last marks reach the disk.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/ids.h"
#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/io/directory.h"
#include "src/io/reactor.h"
#include "src/wal/log_format.h"

namespace pando {

struct LogOptions {
  std::string directory;  // created when missing; holds only segment files
  // The parent directory, if it is already open. It must outlive the log. The log keeps its own
  // directory open, so moving the directory does not change which files are the log's.
  const Directory* parent = nullptr;
  // Called before a file name is created or changed. An error means that another process now owns
  // the store; the log then fails with this error.
  std::function<Status()> may_change = [] { return Status(); };
  Uuid node;  // stored in every segment; segments of other nodes are refused
  uint64_t segment_bytes = 8u << 20;
  uint64_t budget_bytes = 512u << 20;   // appends wait while more bytes than this are unreleased,
  uint64_t budget_records = 4'000'000;  // or more records than this, which bounds replay time
  // The largest batch, which is one device write. A single unit that is larger is still written whole.
  uint32_t max_batch_bytes = 512u << 10;
  bool read_only = false;  // nothing is created, cut or recycled
  // Recovery refuses a log that ends before this position, since acknowledged records are missing
  // from it, and Open refuses a missing directory. `required_by` is the file that states the
  // position. 0 = any log will do, or none.
  LogPosition required_end = 0;
  std::string required_by;
  // A new log begins after this position.
  LogPosition begin_after = 0;
  // Partitions that were dropped, or whose loss an operator has accepted. What the log holds of them
  // before these positions means nothing: recovery skips it, and does not keep it (L13).
  std::vector<std::pair<Uuid, LogPosition>> dropped;
  // How a write is made durable. kProbe times a few writes of each kind during recovery and uses
  // the faster.
  enum class SyncMode : uint8_t { kProbe, kDataSyncWrite, kWriteThenSync };
  SyncMode sync_mode = SyncMode::kProbe;
  // So much of the released segments is kept, also over a restart, for followers that are not known
  // yet or come back. It does not count against the budgets, but a recovery reads it too.
  uint64_t retained_bytes = 0;
  // What readers of the running log use (LiveReader). The ring exists while there is a reader.
  uint64_t reader_ring_bytes = 8u << 20;
  MemoryBudget* reader_memory = nullptr;  // null = unlimited; outlives the log
};

// The owner of a stream. Called on the reactor's loop.
class LogConsumer {
 public:
  virtual void OnDurable(Lsn up_to) = 0;
  virtual void OnLogFailed(const Status& status) = 0;

 protected:
  ~LogConsumer() = default;
};

// Units of one partition found by recovery, in log order. Each continues the one before it, unless
// units were appended again (WU4). Their records are valid only during the call.
struct RecoveredUnits {
  Uuid partition;
  std::vector<WriteUnit> units;
  bool starts_anew = false;  // the first unit; what earlier marks stated no longer holds
  // They come from a batch of format 1 or 2: a unit may hold several writes, all of them committed.
  bool old_format = false;
  std::string_view file;  // for messages
  uint64_t offset = 0;    // of their batch
};

// The units of the partition after `after` that were found before are no longer part of its history.
struct RecoveredCut {
  Uuid partition;
  HistoryPoint after;
  std::string_view file;  // for messages
  uint64_t offset = 0;    // of the batch that says so
};

class LogReplaySink {
 public:
  virtual Task<Status> OnUnits(const RecoveredUnits& found) = 0;
  virtual Task<Status> OnCut(const RecoveredCut& cut) = 0;
  virtual Task<Status> OnMark(const StreamMark& mark) = 0;
  // The units of this partition do not form one history (WU1 to WU3): acknowledged writes of it are
  // missing. Nothing more of it is delivered, and all of its units stay in the log until KeepUnits or
  // ReleaseUnknownStreams has decided about them. The other partitions are not concerned.
  virtual void OnBroken(const Uuid& partition, const Status& why) = 0;
  // What the newest checkpoint of the partition contains need not be in the log. A segment may be gone before the
  // mark that says so is durable.
  virtual Lsn CheckpointOf(const Uuid& /*partition*/) const { return 0; }

 protected:
  ~LogReplaySink() = default;
};

class Log;
class LogStream;   // one partition's sequence; owned by the Log
class LiveReader;  // live_reader.h

// A segment that recovery would read, and the part of it that is known to be durable. A retained one is
// kept for readers only.
struct DurableSegment {
  uint64_t number = 0;
  std::string path;
  const Directory* directory = nullptr;  // the log's directory, open as long as the log
  uint64_t bytes = 0;                    // size of the file
  uint64_t durable_end = 0;              // offset of the end of the last durable batch
  bool retained = false;
};

// A reservation in the log's budgets, given back when it is dropped. Drop it once the record is
// appended, which then counts by itself, or when no record will be appended.
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
  bool data_sync_writes = false;  // true: RWF_DSYNC, false: write + fdatasync
  // Appended records wait for a segment, and the disk has no room for a new one. They go on when
  // the oldest segment is released.
  bool waits_for_segment = false;
  uint64_t readers = 0;                     // LiveReader
  uint64_t retained_bytes = 0;              // of released segments that are kept
  uint64_t reader_segments_read_total = 0;  // by readers that lag
  uint64_t readers_gone_total = 0;          // readers that lagged too far
};

class Log {
 public:
  // Opens or creates the directory. Then call Recover, even if the log is empty, then AddStream,
  // then Append.
  static Task<Result<std::unique_ptr<Log>>> Open(Reactor& reactor, LogOptions options);
  virtual ~Log() = default;

  // Reads all segments once, oldest first. Flushes existing data before reading it, distinguishes a
  // torn tail from corruption (L3), cuts the tail, and prepares a fresh segment for appends. A
  // crash during recovery is harmless: the next one reads the same log. kCorruption names the file
  // and the offset.
  virtual Task<Status> Recover(LogReplaySink* sink) = 0;

  // Registers a partition, whose next unit begins at `next_lsn` and continues `chain`. `epoch` is the highest
  // one known of the partition, which marks state; units may be of lower ones. The recovered records below
  // `next_lsn` stay pinned until Release. The stream lives until RemoveStream.
  virtual LogStream* AddStream(const Uuid& partition, Epoch epoch, Lsn next_lsn, uint64_t chain,
                               LogConsumer* consumer) = 0;
  // The partition was dropped, so nothing more is appended. Who waits for room on its behalf gets `why`, its
  // records pin nothing any more, and what is in no batch yet never will be. What is on its way to the disk is
  // still announced; the log reads nothing of the owner's memory any more. Then call RemoveStream.
  virtual void EndStream(LogStream* stream, const Status& why) = 0;
  // Ends a registration and releases the records, since the partition was dropped. Its units must
  // have been announced (UntilAnnounced), or the log must have failed. Not from within OnDurable or
  // on_done.
  virtual void RemoveStream(LogStream* stream) = 0;
  // Returns once no unit of the stream is on its way to the disk, or the log has failed.
  virtual Task<void> UntilAnnounced(LogStream* stream) = 0;
  // The same as RemoveStream, for a partition that is not registered.
  virtual void ForgetUnits(const Uuid& partition) = 0;
  // The removed partitions of which a segment on the disk may still hold something (L12).
  virtual std::vector<Uuid> RemovedPartitions() = 0;
  // Releases the records of partitions that nobody has registered (dropped partitions), except
  // those for which KeepUnits was called.
  virtual void ReleaseUnknownStreams() = 0;
  // The partition is quarantined and not registered: keeps its units, and goes on to state what must
  // exist of it (L9).
  virtual void KeepUnits(const Uuid& partition) = 0;
  // Releases the units of a quarantined partition, registered or not. The marks say so, so that no
  // later start takes what is left of the partition for all of it.
  virtual void DropUnits(const Uuid& partition) = 0;

  // Reserves space for one record. Returns at once while the log is under its budgets, otherwise
  // suspends until Release has made room: smooth back pressure on writers. The caller keeps the
  // space until the record is appended, then drops it. Streams take turns by bytes. kUnavailable
  // once the log has failed or is closing, and what EndStream says once the partition was dropped. kDeadline when
  // `deadline_ns` (0 = none) comes first.
  virtual Task<Result<LogSpace>> WaitForSpace(LogStream* stream, size_t bytes, Nanos deadline_ns) = 0;
  // Returns true when WaitForSpace would not suspend.
  virtual bool HasSpace(size_t bytes) const = 0;
  // More than half of a budget is used.
  virtual bool HalfUsed() const = 0;

  // Stages one unit, of which recovery sees all or nothing. It continues the stream (CHECKed). If its first
  // LSN is one that the stream has reached already, and its epoch is higher than that of the last unit, the
  // stream is cut before it, as by Cut. `unit.records` must stay as it is until the unit is announced or
  // superseded, or the log has failed. Never suspends and never fails; OnLogFailed reports a failure.
  virtual void Append(LogStream* stream, const WriteUnit& unit) = 0;
  // The units after `after` are superseded: they are no longer part of the partition's history, whatever
  // their epochs. `after` is the end of a unit of it, or what the stream was registered with, and nothing
  // above it is committed or released (CHECKed). Those units are not announced any more, those that were not
  // submitted yet never are, and readers that have returned some of them end (LR1). The next Append
  // continues `after`, in any epoch that is not below `after.epoch`. The log says so before it has anything
  // that is appended later (L14); UntilAnnounced waits for that, too. Never suspends and never fails.
  virtual void Cut(LogStream* stream, const HistoryPoint& after) = 0;
  // Stages a unit that is durable in the log already, unchanged, so that the segment it lies in can
  // be released (L10). It is not announced again; on_done is called instead of OnDurable, unless the
  // unit is superseded first or the log fails. The records are copied. Of a tail, append all units
  // again, in order (WU4).
  virtual void AppendAgain(LogStream* stream, const WriteUnit& unit, std::function<void()> on_done) = 0;

  // States that everything up to `commit_lsn` is committed, and the highest version seen. The next
  // batch carries it.
  virtual void SetCommit(LogStream* stream, Lsn commit_lsn, Version hlc) = 0;
  // Recovery no longer needs records up to and including `lsn`, because both superblock slots are
  // past them.
  virtual void Release(LogStream* stream, Lsn lsn) = 0;
  // What is appended from now on lies at or after this position.
  virtual LogPosition written_end() const = 0;
  // Everything before this position is durable, and stays in the log until it is released. Every
  // later recovery ends at or after it.
  virtual LogPosition durable_end() const = 0;
  // Others need room on a full disk: gives the segments that are kept for readers only back to the file
  // system. Returns whether there were any, once they are gone.
  virtual Task<bool> GiveUpRetained() = 0;
  // The stream whose unreleased records pin the oldest segment; nil when nothing is pinned.
  // Checkpoint this stream first when the budget runs low.
  virtual Uuid OldestPinnedStream() const = 0;

  // Opens a reader of the units after `after`, where a follower of the partition is; its chain is
  // verified against the first unit that is read (0: not verified). The stream must be registered. Up
  // to `retention_bytes` of released segments are kept while the reader has not passed them. Destroy
  // the reader before the log's owner destroys the log; it then only returns errors. kOverloaded:
  // there is no memory for the first reader's ring.
  virtual Result<std::unique_ptr<LiveReader>> OpenReader(LogStream* stream, const HistoryPoint& after,
                                                         uint64_t retention_bytes) = 0;

  // For the scrubber, which rereads segments: the live segments, oldest first, with the durable
  // part of each. A segment that is no longer live may change at any time.
  virtual std::vector<DurableSegment> DurableSegments() const = 0;
  virtual bool IsLive(uint64_t segment_number) const = 0;

  virtual LogStats stats() const = 0;
  // For tests: CHECKs what must hold between two turns.
  virtual void CheckInvariants() const = 0;
  // Fails the log. Nothing more is written.
  virtual void Abandon(const Status& status) = 0;
  // Waits until everything staged is durable, writes the closing position and closes the files. An
  // append after this is a bug.
  virtual Task<Status> Close() = 0;

 private:
  friend class LogSpace;
  virtual void GiveBack(size_t bytes) = 0;
};

inline void LogSpace::Drop() {
  if (log_ != nullptr) std::exchange(log_, nullptr)->GiveBack(bytes_);
}

}  // namespace pando
