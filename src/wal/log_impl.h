// LogImpl: the implementation of Log. log.cc has streams, budgets, release and closing.
// log_writer.cc has group commit and announcements. log_recovery.cc has recovery and the
// preparation of segments.
//
// Threads: one reactor.
//
// Invariants, in addition to those of log.h
//   W1  groups_ is in submission order, which is log order. Groups are announced from its front
//       only.
//   W2  live_ is in log order. Groups are written to the segment at its back. Segments leave it
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
#include "src/wal/log.h"
#include "src/wal/log_format.h"
#include "src/wal/segment_files.h"

namespace pando {

// The most groups that are submitted but not yet announced.
inline constexpr size_t kMaxWritesInFlight = 4;
// A second write is submitted while one is in flight only if this fraction of a full group has
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

class LogReader;

// A writer that waits for space. The timer is its deadline.
struct SpaceWaiter : Timer {
  LogStream* stream = nullptr;
  size_t bytes = 0;
  bool late = false;
  std::coroutine_handle<> waiter;
};

// One partition's sequence. It exists from the first batch recovered, or from AddStream.
class LogStream {
 public:
  struct Unit {  // one Append
    uint32_t bytes = 0;
    uint32_t records = 0;
  };

  Uuid partition;
  Epoch epoch = 0;
  LogConsumer* consumer = nullptr;  // null: recovered, not registered
  Lsn next_lsn = 1;                 // of the next Append
  Lsn written_lsn = 0;              // last LSN that went into a group
  Lsn durable_lsn = 0;
  Lsn released_lsn = 0;
  Lsn commit_lsn = 0;
  uint64_t last_checksum = 0;  // of the last batch
  bool starts_anew = true;     // the next batch does not continue an earlier one
  bool queued = false;         // in staged_streams_

  std::string staged;  // bytes before staged_begin have been submitted
  size_t staged_begin = 0;
  std::deque<Unit> units;
  uint64_t group_tag = 0;  // group_clock_: of the last unit put into a group

  std::deque<SpaceWaiter*> space_waiters;
  uint64_t space_tag = 0;  // space_clock_: of the last record admitted
};

class LogImpl final : public Log, private TurnHook {
 public:
  LogImpl(Reactor& reactor, LogOptions options);
  ~LogImpl() override;
  Task<Status> OpenDirectory();

  Task<Status> Recover(LogReplaySink* sink) override;
  LogStream* AddStream(const Uuid& partition, Epoch epoch, Lsn next_lsn, LogConsumer* consumer) override;
  void ReleaseUnknownStreams() override;
  Task<Result<LogSpace>> WaitForSpace(LogStream* stream, size_t bytes, Nanos deadline_ns) override;
  bool HasSpace(size_t bytes) const override;
  Lsn Append(LogStream* stream, std::string_view records, uint32_t count) override;
  void SetCommit(LogStream* stream, Lsn commit_lsn) override;
  void Release(LogStream* stream, Lsn lsn) override;
  Uuid OldestPinnedStream() const override;
  std::vector<DurableSegment> DurableSegments() const override;
  bool IsLive(uint64_t segment_number) const override;
  LogPosition durable_end() const override { return announced_end_; }
  LogStats stats() const override;
  void Abandon(const Status& status) override { Fail(status); }
  Task<Status> Close() override;

 private:
  // The records of one stream in a segment.
  struct IndexEntry {
    LogStream* stream = nullptr;
    Lsn first_lsn = 0, last_lsn = 0;
    uint64_t offset = 0;  // of its first batch
    bool pinned() const { return last_lsn > stream->released_lsn; }
  };
  struct Segment {
    uint64_t number = 0;
    std::string path;
    File file;  // open while groups are written to it
    uint64_t bytes = 0;
    uint64_t head = kFirstGroupOffset;                // where the next group goes
    uint64_t durable_end = 0;                         // end of the batches announced or recovered
    uint64_t counted_bytes = 0, counted_records = 0;  // counted against the budgets
    size_t in_flight = 0;
    std::vector<IndexEntry> index;
  };
  struct Group {
    struct Part {
      LogStream* stream = nullptr;
      size_t units = 0;
      uint32_t bytes = 0, records = 0;
      Lsn last_lsn = 0;
      uint64_t tag = 0;  // the stream's group_tag once this is submitted
    };
    Segment* segment = nullptr;
    uint64_t offset = 0;
    AlignedBuffer buffer;
    uint64_t bytes = 0;  // batches, before padding
    LogPosition end = 0;
    LogPosition durable_position = 0;  // as its batches state it
    uint64_t records = 0;
    Nanos submitted_ns = 0;
    std::vector<Part> parts;
    bool done = false;
  };
  struct Discarded {  // a segment file that is no longer part of the log
    std::string name;
    uint64_t bytes = 0;
  };
  struct Prepared {
    uint64_t number = 0;
    File file;
  };
  // The contents of the next group. A plan changes nothing until it is submitted.
  struct GroupPlan {
    std::vector<Group::Part> parts;
    uint64_t bytes = 0;
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
        self->log->GiveUpWaiting(self);
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
  bool Fits(uint64_t bytes) const;
  void AddSpaceWaiter(SpaceWaiter* waiter);
  void GiveUpWaiting(SpaceWaiter* waiter);
  LogStream* NextToAdmit() const;
  void WakeSpaceWaiters();
  void GiveBack(size_t bytes) override;
  void DropReleasedSegments();
  bool IsIdle() const { return staged_bytes_ == 0 && groups_.empty(); }
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
  GroupPlan PlanGroup() const;
  GroupPlan PlanOfAll() const;
  GroupPlan PlanByTurns() const;
  bool EnsureRoom(uint64_t group_bytes);
  bool TakeSegment();
  void SubmitGroup(GroupPlan plan);
  uint64_t EncodePart(Group* group, Group::Part* part, bool last, uint64_t at);
  void AddToIndex(Segment* segment, LogStream* stream, Lsn first, Lsn last, uint64_t offset);
  bool NeedsClosingPosition() const { return !failed() && covered_ < records_end_; }
  void SubmitClosingPosition();
  void DequeueStreams();
  AlignedBuffer TakeBuffer(uint64_t bytes);
  BatchHeader NewHeader(uint64_t position) const;
  Task<void> WriteGroup(Group* group);
  void OnGroupDone(Group* group, Status status);
  void Announce();
  void NoteDurable(LogPosition end);
  void WhenIdle();
  void Fail(Status status);
  bool failed() const { return !failure_.ok(); }
  Task<void> CloseFile(File file);

  // -- log_recovery.cc
  Task<Status> Replay(LogReader* reader, LogReplaySink* sink);
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
  const uint64_t max_group_bytes_;
  const uint64_t pipeline_bytes_;
  Directory directory_;
  SegmentFiles files_;
  bool data_sync_ = true;
  bool recovered_ = false, closing_ = false, stopping_ = false;
  Status failure_;

  std::unordered_map<Uuid, std::unique_ptr<LogStream>, UuidHash> streams_;
  std::vector<LogStream*> staged_streams_;  // the streams with units
  FairClock group_clock_;
  uint64_t staged_bytes_ = 0, staged_records_ = 0;

  std::deque<std::unique_ptr<Segment>> live_;
  uint64_t live_bytes_ = 0, live_records_ = 0;  // sums of counted_*
  std::deque<std::unique_ptr<Group>> groups_;   // submitted, not yet announced
  std::vector<AlignedBuffer> free_buffers_;
  LogPosition written_end_ = 0;    // end of the last group submitted
  LogPosition records_end_ = 0;    // end of the last group with records submitted
  LogPosition announced_end_ = 0;  // everything before it is durable
  LogPosition covered_ = 0;        // the durable position that the last announced group states

  uint64_t next_number_ = 1;
  std::deque<Prepared> prepared_;
  std::deque<Discarded> recycle_queue_;
  // The last attempt to create a segment failed for lack of space or descriptors.
  bool disk_full_ = false;
  bool disk_full_reported_ = false;
  bool short_of_segments_ = false;  // the next group waits for a segment

  std::vector<LogStream*> waiting_streams_;  // the streams with space_waiters
  FairClock space_clock_;
  uint64_t granted_bytes_ = 0, granted_records_ = 0;  // reserved by LogSpaces
  uint64_t woken_bytes_ = 0;                          // of these, for writers not resumed yet
  WaitQueue maintenance_wake_;
  WaitQueue idle_wake_;
  LogTimer idle_timer_, retry_timer_, hold_timer_;
  CommitHold hold_;
  TaskGroup tasks_;
  LogStats counters_;  // only the *_total fields
};

}  // namespace pando
