// LogImpl: the implementation of Log. log.cc has streams, budgets, release and closing.
// log_writer.cc has group commit and announcements. log_recovery.cc has recovery and the
// preparation of segments.
//
// Threads: one reactor.
//
// Invariants, in addition to those of log.h
//   W1  batches_ is in submission order, which is log order. Batches are announced from its front
//       only.
//   W2  live_ is in log order. Batches are written to the segment at its back. Segments leave it
//       only from the front, so the log on disk never has a hole.
//   W3  recycle_queue_ is processed in order, one file at a time. Segments killed by a cut come
//       before released ones. Otherwise a crash could leave a dead segment without the cut that
//       killed it.
//   W4  The last block of a segment is reserved for the closing position, which therefore never
//       needs another segment.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/io/sync.h"
#include "src/wal/commit_hold.h"
#include "src/wal/fair_clock.h"
#include "src/wal/live_reader.h"
#include "src/wal/log.h"
#include "src/wal/log_format.h"
#include "src/wal/log_reader.h"
#include "src/wal/segment_files.h"
#include "src/wal/segment_image.h"
#include "src/wal/stream_history.h"
#include "src/wal/unit_ring.h"

namespace pando {

// The most batches that are submitted but not yet announced.
inline constexpr size_t kMaxWritesInFlight = 4;
// A second write is submitted while one is in flight only if this fraction of a full batch has
// gathered. With less, waiting for the completion turns two small writes into one larger write,
// which measured faster: 50 writers of 1 KB did 86k records/s with one write in flight, 76k with
// two, 66k with four.
inline constexpr uint64_t kPipelineDivisor = 8;
// Appends wait while this much is staged after the writes in flight, so that memory stays bounded
// on a slow disk.
inline constexpr uint64_t kMaxStagedBytes = 8u << 20;
// Of the prepared segments, one is kept for the next recovery (L8).
inline constexpr size_t kKeptForRecovery = 1;
// The number of segments to keep prepared while none come back for recycling. A burst of writes
// outruns the zeroing of one segment.
inline constexpr size_t kPreparedAhead = 4 + kKeptForRecovery;
// The idle time before the closing position is written.
inline constexpr Nanos kIdleCloseNs = 10 * kMillisecond;
// The delay before retrying to create a segment on a full disk.
inline constexpr Nanos kDiskFullRetryNs = kSecond;

// The most segments that are in memory for readers that lag (LR3).
inline constexpr size_t kMaxImages = 2;

// The position of a batch that is not written yet.
inline constexpr LogPosition kNotWritten = ~LogPosition{0};

// A writer that waits for space. The timer is its deadline.
struct SpaceWaiter : Timer {
  LogStream* stream = nullptr;
  size_t bytes = 0;
  Status refusal;  // why it was not admitted
  std::coroutine_handle<> waiter;
};

// One partition's sequence. It exists from the first batch recovered, or from AddStream.
class LogStream {
 public:
  struct Staged {  // one Append, AppendAgain or Cut
    WriteUnit unit;
    uint16_t flags = 0;
    std::optional<HistoryPoint> cut;  // then there is no unit
    std::function<void()> on_done;    // AppendAgain
    // AppendAgain: the records, since their owner may drop them once they are applied.
    std::unique_ptr<std::string> records;
    uint32_t bytes() const { return static_cast<uint32_t>(cut ? kCutBytes : UnitBytes(unit.records.size())); }
    uint32_t records_and_cuts() const { return cut ? 1 : unit.record_count; }
    bool again() const { return (flags & kUnitAgain) != 0; }
  };

  Uuid partition;
  Epoch epoch = 0;                  // the highest one known
  Epoch last_epoch = 0;             // of the unit that the next Append continues, as far as it is known
  LogConsumer* consumer = nullptr;  // null: recovered, not registered
  Lsn next_lsn = 1;                 // of the next Append
  uint64_t chain = 0;               // after the last Append
  Lsn written_lsn = 0;              // last LSN that went into a batch
  Lsn durable_lsn = 0;
  Lsn released_lsn = 0;
  Lsn commit_lsn = 0;
  Lsn stated_commit_lsn = 0;  // in the last mark
  size_t again_staged = 0;    // units that wait to be appended again (L11)
  Version hlc = 0;
  bool starts_anew = true;  // the next unit does not continue an earlier one
  bool kept = false;        // KeepUnits was called
  bool ended = false;       // EndStream was called
  bool queued = false;      // in staged_streams_
  bool mark_due = false;    // in due_marks_
  // The log holds units of it that end elsewhere than its owner continues. Until the next unit says
  // so, marks must not state what is not there (WU3).
  bool moved = false;

  uint64_t indexed_in = 0;  // the last segment whose index has an entry of it
  size_t indexed_at = 0;    // where in that index, unless streams have been removed

  std::deque<Staged> units;
  uint64_t batch_tag = 0;  // batch_clock_: of the last unit put into a batch

  std::deque<SpaceWaiter*> space_waiters;
  uint64_t space_tag = 0;  // space_clock_: of the last record admitted

  // -- readers
  struct Recent {  // a unit in the ring
    HistoryPoint end;
    Lsn first_lsn = 0;
    uint64_t chain_before = 0;
    uint64_t place = 0;
    size_t bytes = 0;
  };
  // Units from `from` on that lie before `until` are no longer part of the history.
  struct Supersession {
    Lsn from = 0;
    LogPosition until = kNotWritten;  // the batch that says so
  };
  std::vector<LiveReader*> readers;
  std::deque<Recent> recent;                // while there are readers; without gaps
  std::vector<Supersession> supersessions;  // as long as the log may hold such units
};

class LogImpl final : public Log, private TurnHook {
 public:
  LogImpl(Reactor& reactor, LogOptions options);
  ~LogImpl() override;
  Task<Status> OpenDirectory();

  Task<Status> Recover(LogReplaySink* sink) override;
  LogStream* AddStream(const Uuid& partition, Epoch epoch, Lsn next_lsn, uint64_t chain,
                       LogConsumer* consumer) override;
  void EndStream(LogStream* stream, const Status& why) override;
  void RemoveStream(LogStream* stream) override;
  Task<void> UntilAnnounced(LogStream* stream) override;
  void ForgetUnits(const Uuid& partition) override;
  std::vector<Uuid> RemovedPartitions() override;
  void ReleaseUnknownStreams() override;
  void KeepUnits(const Uuid& partition) override;
  void DropUnits(const Uuid& partition) override;
  Task<Result<LogSpace>> WaitForSpace(LogStream* stream, size_t bytes, Nanos deadline_ns) override;
  bool HasSpace(size_t bytes) const override;
  bool HalfUsed() const override;
  void Append(LogStream* stream, const WriteUnit& unit) override;
  void Cut(LogStream* stream, const HistoryPoint& after) override;
  void AppendAgain(LogStream* stream, const WriteUnit& unit, std::function<void()> on_done) override;
  void SetCommit(LogStream* stream, Lsn commit_lsn, Version hlc) override;
  void Release(LogStream* stream, Lsn lsn) override;
  Task<bool> GiveUpRetained() override;
  Uuid OldestPinnedStream() const override;
  std::vector<DurableSegment> DurableSegments() const override;
  bool IsLive(uint64_t segment_number) const override;
  LogPosition written_end() const override { return written_end_; }
  LogPosition durable_end() const override { return announced_end_; }
  Result<std::unique_ptr<LiveReader>> OpenReader(LogStream* stream, const HistoryPoint& after,
                                                 uint64_t retention_bytes) override;
  LogStats stats() const override;
  void CheckInvariants() const override;
  void Abandon(const Status& status) override { Fail(status); }
  Task<Status> Close() override;

 private:
  friend class LiveReader;
  // The records of one stream in a segment, between two cuts of it, as far as they are not superseded and lie
  // nowhere later.
  struct IndexEntry {
    LogStream* stream = nullptr;
    Lsn first_lsn = 0, last_lsn = 0;    // none if first_lsn > last_lsn
    uint64_t offset = 0;                // of its first batch
    Lsn lies_first = 0, lies_last = 0;  // all that lie here, wherever else they do (for readers)
    bool pinned() const { return !stream->ended && last_lsn > stream->released_lsn && first_lsn <= last_lsn; }
  };
  struct Segment {
    uint64_t number = 0;
    std::string path;
    File file;  // open while batches are written to it
    uint64_t bytes = 0;
    uint64_t head = kFirstGroupOffset;                // where the next batch goes
    uint64_t durable_end = 0;                         // end of the batches announced or recovered
    uint64_t counted_bytes = 0, counted_records = 0;  // counted against the budgets
    size_t in_flight = 0;
    std::vector<IndexEntry> index;
    size_t pinned_at = 0;  // the entry that pinned it when it was last looked at
  };
  // A change to what is needed of a stream (L10), once the batch is durable.
  struct Moved {
    Lsn first_lsn = 0, last_lsn = 0;  // appended again; last_lsn = 0: cut off from first_lsn on
    std::function<void()> on_done;
  };
  struct Batch {
    struct Part {
      LogStream* stream = nullptr;
      size_t units = 0;
      uint32_t bytes = 0, records = 0;
      Lsn last_lsn = 0;  // to announce; 0: nothing
      uint64_t tag = 0;  // the stream's batch_tag once this is submitted
      std::vector<Moved> moved;
    };
    Segment* segment = nullptr;
    uint64_t offset = 0;
    AlignedBuffer buffer;
    uint64_t bytes = 0;  // before padding
    LogPosition end = 0;
    LogPosition durable_position = 0;  // as it states it
    uint64_t records = 0;
    Nanos submitted_ns = 0;
    std::vector<Part> parts;
    bool done = false;
  };
  struct Discarded {  // a segment file that is no longer part of the log
    uint64_t number = 0;
    uint64_t bytes = 0;
    bool given_up = false;  // its room goes to the file system (GiveUpRetained)
  };
  struct Prepared {
    uint64_t number = 0;
    File file;
  };
  // The units of the next batch. A plan changes nothing until it is submitted.
  struct BatchPlan {
    std::vector<Batch::Part> parts;
    uint64_t bytes = 0;  // of the payload, without marks
    FairClock clock;
  };
  struct SpaceAwaiter : SpaceWaiter {
    LogImpl* log = nullptr;
    Nanos give_up_ns = 0;  // 0 = never
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      waiter = h;
      log->AddSpaceWaiter(this);
      on_fire = [](Timer* t) {
        auto* self = static_cast<SpaceAwaiter*>(t);
        self->log->GiveUpLate(self);
      };
      if (give_up_ns != 0) log->reactor_.ArmTimer(this, give_up_ns);
    }
    void await_resume() noexcept {}
  };
  struct LogTimer : Timer {
    LogImpl* log = nullptr;
  };

  // -- log.cc
  LogStream* StreamOf(const Uuid& partition);
  bool IsAnnounced(const LogStream* stream) const;
  bool Fits(uint64_t bytes) const;
  void AddSpaceWaiter(SpaceWaiter* waiter);
  void GiveUpWaiting(SpaceWaiter* waiter, Status why);
  void GiveUpLate(SpaceWaiter* waiter);
  LogStream* NextToAdmit() const;
  void WakeSpaceWaiters();
  void GiveBack(size_t bytes) override;
  void DropReleasedSegments();
  bool IsIdle() const { return staged_bytes_ == 0 && batches_.empty(); }
  Status Refusal() const;
  uint64_t MaxSpares() const;
  size_t PreparedAhead() const;
  Task<void> UntilIdle();
  Task<Status> CloseFiles();

  // -- log_writer.cc
  void OnTurnEnd() override;
  void ArmHook() {
    if (!TurnHook::armed) reactor_.ArmTurnHook(this);
  }
  bool MaySubmit() const;
  bool HoldBack();
  BatchPlan PlanBatch() const;
  BatchPlan PlanOfAll() const;
  BatchPlan PlanByTurns() const;
  bool EnsureRoom(uint64_t batch_bytes);
  bool TakeSegment();
  void SubmitBatch(BatchPlan plan);
  char* EncodePart(Batch* batch, Batch::Part* part, char* out);
  size_t MarksThatFit(uint64_t payload_bytes) const;
  char* EncodeMarks(size_t count, char* out);
  void MarkDue(LogStream* stream);
  void MarkSoon(LogStream* stream);
  bool UnstageAfter(LogStream* stream, Lsn lsn);
  void Stage(LogStream* stream, LogStream::Staged staged);
  void UnstageAgain(LogStream* stream);
  static StreamMark MarkOf(LogStream* stream);
  void ApplyMoved(const Batch& batch, const Batch::Part& part);
  void MoveIndex(LogStream* stream, uint64_t number, Lsn first, Lsn last);
  void CutIndex(LogStream* stream, LogPosition cut, Lsn first);
  void AddToIndex(Segment* segment, LogStream* stream, Lsn first, Lsn last, uint64_t offset);
  // Marks alone may not use the block that is reserved for the closing position (W4), nor the segment
  // that the next recovery may have to continue (L8).
  bool NeedsClosingPosition() const {
    if (failed() || !begun_) return false;
    const Segment& active = *live_.back();
    return covered_ < records_end_ ||
           (!due_marks_.empty() && !prepared_.empty() && active.head + kBlockBytes + kClosingBytes <= active.bytes);
  }
  void SubmitClosingPosition();
  void DequeueStreams();
  AlignedBuffer TakeBuffer(uint64_t bytes);
  BatchHeader NewHeader(uint64_t position) const;
  Task<void> WriteBatch(Batch* batch);
  void OnBatchDone(Batch* batch, Status status);
  void Announce();
  void NoteDurable(LogPosition end);
  void WhenIdle();
  void Fail(Status status);
  bool failed() const { return !failure_.ok(); }
  Task<void> CloseFile(File file);

  // -- log_readers.cc
  void CloseReader(LiveReader* reader);
  void DetachReaders(LogStream* stream);
  static void WakeReaders(LogStream* stream);
  void WakeAllReaders();
  Task<void> UntilReadersRest();
  void Remember(LogStream* stream, const WriteUnit& unit, std::string_view encoded);
  static void NoteSuperseded(LogStream* stream, Lsn from, LogPosition until);
  static void NoteWritten(LogStream* stream, LogPosition batch);
  std::vector<uint64_t> SegmentsOf(const LogStream* stream, Lsn lsn) const;
  std::shared_ptr<SegmentImage> CachedImage(uint64_t number);
  Task<Result<std::shared_ptr<SegmentImage>>> LoadImage(uint64_t number);
  bool HeldByReader(const Segment& segment, uint64_t released_bytes) const;
  void RetainOrRecycle(size_t released);

  // -- log_recovery.cc
  struct Replaying;
  Task<Result<std::unique_ptr<LogReader>>> ReadAndReplay(LogReader::Options reading, LogReplaySink* sink);
  Task<Result<std::unique_ptr<LogReader>>> OpenAndReplay(LogReader::Options reading, LogReplaySink* sink);
  Task<Status> Replay(LogReader* reader, LogReplaySink* sink);
  Task<Status> ReplayBatch(const LogEntry& entry, Replaying* replaying);
  Task<Status> ReplayMark(StreamMark mark, Replaying* replaying);
  Task<Status> ReplayCut(StreamCut cut, const LogEntry& entry, Replaying* replaying);
  Task<Status> EndAt(StreamCut cut, const LogEntry& entry, Replaying* replaying);
  void AcceptUnit(const WriteUnit& unit, uint16_t flags, StreamHistory::Verdict verdict, const LogEntry& entry,
                  Replaying* replaying, RecoveredUnits* run);
  void BreakStream(const Uuid& partition, std::string_view where, Replaying* replaying);
  bool MeansNothing(const Uuid& partition, const LogEntry& entry);
  Task<Status> FollowForgotten(StreamMark mark, LogReplaySink* sink);
  bool IsBeforeHistory(LogPosition end) const;
  Status JudgeEnd(const LogReader& reader) const;
  Task<Status> BeginFirstSegment(const LogReader& reader);
  Task<Result<uint64_t>> PutFirstSegmentAside(const LogReader& reader);
  bool MayContinueLastSegment(const LogReader& reader) const;
  Task<Status> ContinueLastSegment(const LogReader& reader);
  Task<Status> PrepareForNextRecovery();
  Task<Status> ProbeSyncMode(File* file);
  Task<Result<Nanos>> TimeWrite(File* file, const AlignedBuffer& block, uint64_t offset, bool data_sync);
  Task<Status> WriteCut(Segment* segment, LogPosition end);
  void AddLiveSegment(uint64_t number, File file);
  void DiscardDeadSegments(const LogReader& reader, uint64_t taken);
  Task<void> MaintainSegments();
  bool NeedsSegmentWork() const;
  Task<Status> PrepareSegment();

  Reactor& reactor_;
  const LogOptions options_;
  const uint64_t seed_;
  const uint64_t max_batch_bytes_;
  const uint64_t pipeline_bytes_;
  Directory directory_;
  SegmentFiles files_;
  bool data_sync_ = true;
  bool recovered_ = false, closing_ = false, stopping_ = false;
  bool begun_ = false;  // live_.back() may be written to
  Status failure_;

  std::unordered_map<Uuid, std::unique_ptr<LogStream>, UuidHash> streams_;
  // Of dropped partitions: what lies before this position means nothing (LogOptions::dropped).
  std::unordered_map<Uuid, LogPosition, UuidHash> skipped_until_;
  // Of removed partitions whose traces may be on the disk: all of them lie before this position.
  std::unordered_map<Uuid, LogPosition, UuidHash> removed_;
  std::vector<LogStream*> staged_streams_;  // the streams with units
  std::deque<LogStream*> due_marks_;        // the streams whose mark the next batch carries
  FairClock batch_clock_;
  uint64_t staged_bytes_ = 0, staged_records_ = 0;

  std::deque<std::unique_ptr<Segment>> live_;
  uint64_t live_bytes_ = 0, live_records_ = 0;  // sums of counted_*
  std::deque<std::unique_ptr<Batch>> batches_;  // submitted, not yet announced
  std::vector<AlignedBuffer> free_buffers_;
  LogPosition written_end_ = 0;    // end of the last batch submitted
  LogPosition records_end_ = 0;    // end of the last batch with records submitted
  LogPosition announced_end_ = 0;  // everything before it is durable
  LogPosition covered_ = 0;        // the durable position that the last announced batch states
  uint64_t last_checksum_ = 0;     // of the last batch submitted; 0 = not known

  uint64_t next_number_ = 1;
  std::deque<Prepared> prepared_;
  std::deque<Discarded> recycle_queue_;
  bool giving_up_ = false;
  uint64_t given_up_ = 0, given_back_ = 0;  // segments: of recycle_queue_, and gone
  WaitQueue maintained_;                    // after each step of MaintainSegments
  // The last attempt to create a segment failed for lack of space or descriptors.
  bool disk_full_ = false;
  bool disk_full_reported_ = false;
  bool short_of_segments_ = false;  // the next batch waits for a segment

  std::vector<LogStream*> waiting_streams_;  // the streams with space_waiters
  FairClock space_clock_;
  uint64_t granted_bytes_ = 0, granted_records_ = 0;  // reserved by LogSpaces
  uint64_t woken_bytes_ = 0;                          // of these, for writers not resumed yet
  WaitQueue maintenance_wake_;
  WaitQueue idle_wake_;
  WaitQueue announced_;  // after each Announce, and at the failure
  LogTimer idle_timer_, retry_timer_, hold_timer_;
  CommitHold hold_;

  // Readers. The ring has one entry in ring_owners_ for each unit in it, oldest first.
  std::unique_ptr<UnitRing> ring_;
  std::deque<std::pair<LogStream*, uint64_t>> ring_owners_;
  std::vector<std::shared_ptr<SegmentImage>> images_;  // the one used last comes last
  std::vector<LiveReader*> readers_;                   // also of partitions that were dropped
  size_t readers_lagging_ = 0;
  size_t reads_ = 0;             // calls of Read in progress
  uint64_t retained_bytes_ = 0;  // of segments at the front of live_ that recovery does not need
  size_t retained_segments_ = 0;
  Semaphore image_load_;  // one image is loaded at a time
  WaitQueue reads_done_;

  TaskGroup tasks_;
  LogStats counters_;  // only the *_total fields
};

}  // namespace pando
