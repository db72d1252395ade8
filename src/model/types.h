// The request and result types of Partition: writes, scans, snapshots, changes, and statistics.
//
// Threads: values, except WriteControl, whose Withdraw may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/hash_slices.h"
#include "src/base/ids.h"
#include "src/base/limits.h"
#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/buffer_pool/extent.h"
#include "src/io/reactor.h"
#include "src/model/record.h"
#include "src/model/scan_page.h"

namespace pando {

struct ReadResult {
  bool found = false;
  Version version = 0;
  int64_t expires_at_ms = 0;  // 0 = never
  std::string value;
};

// Identifies a snapshot in all the partitions that it was cut through. Random, so that no ID is
// used twice.
using SnapshotId = uint64_t;
inline constexpr SnapshotId kNewest = 0;  // no snapshot: the newest state

struct WriteOp {
  RecordOp op = RecordOp::kPut;
  std::string key;
  std::string value;  // kPut
  int64_t delta = 0;  // kIncrement
  Condition condition;
  // kTouch requires a mode other than kKeep. With kSet exactly one of the two times is > 0:
  // `ttl_ms` counts from the operation's own time, and `expires_at_ms` is Unix time. A record that
  // has expired is treated as absent even while it is still stored.
  TtlMode ttl_mode = TtlMode::kKeep;
  int64_t ttl_ms = 0;
  int64_t expires_at_ms = 0;
  // If the condition fails, the reply need not contain the current value, so the value need not be
  // read.
  bool current_value_unwanted = false;
  // OpResult::current is set to the record as it was found even if the operation is applied.
  bool return_previous = false;
  // kOnce, whose key is the client ID: see LogRecord.
  uint64_t sequence = 0;
  int64_t first_sent_ms = 0;  // when the write was first sent, by the server's clock
  // kPut: see LogRecord; 0: it is no copy. WriteOptions::seen_version is at or above it.
  Version copied = 0;
  // kClose, kLease: see LogRecord. They are the only operation of their write, and have no key. Partitions make them.
  SnapshotId snapshot = 0;
  Version version = 0;  // kClose: of its record; the write is refused if it is not above all that were given
};

class WriteControl;

// When a write is acknowledged. A partition with one replica does the same for all of them.
enum class WriteLevel : uint8_t {
  kOne,     // durable on this replica. What came of it is not known yet, and it may still be lost
  kQuorum,  // committed and applied
  kAll,     // and durable on all replicas
};

// A point of a partition's history: the end of a unit. The epoch belongs to it, because the LSN alone may be
// that of a unit that was superseded.
struct SessionPoint {
  Epoch epoch = 0;
  Lsn lsn = 0;
  bool operator==(const SessionPoint&) const = default;
};

struct WriteOptions {
  bool all_or_nothing = false;  // any refused operation refuses all; else only a kCheck does
  WriteLevel level = WriteLevel::kQuorum;
  Epoch seen_epoch = 0;  // the newest that the writer's session has seen: no older master takes the write
  // The highest version that the writer has seen, of any partition: the records of the write get higher ones (CM5),
  // unless it is further ahead of the clock of this node than PartitionClock::kMaxLeadMs.
  Version seen_version = 0;
  // A write of a split: a claim, a batch of the feed, or what opens a half (docs/SPLIT.md). Until a half serves, it
  // takes these and no others; afterwards, it takes none of these.
  bool of_split = false;
  WriteControl* control = nullptr;  // outlives the call
};

// The error for a value that is not returned because `room` had no room for it.
inline Status NoRoom(ValueRoom::Answer answer, const ValueRoom& room, size_t value_bytes) {
  if (answer == ValueRoom::Answer::kFull) {
    return Error(Code::kOverloaded,
                 "the values in the reply would exceed {} bytes; read this key again together with fewer others",
                 room.limit_bytes());
  }
  return Error(Code::kOverloaded, "the node has no memory for a value of {} bytes now; try again", value_bytes);
}

enum class OpOutcome : uint8_t {
  kApplied,          // also a remove of a record that does not exist, and a kCheck that holds
  kConditionFailed,  // also a kTouch of a missing record; `current` is the record as found
  kNotANumber,       // kIncrement of a value (`current`) that is no decimal 64-bit integer
  kOverflow,         // kIncrement beyond the 64-bit range
  // Another operation of the write was refused, and so all were; nothing else is set.
  kBatchRefused,
};

struct OpResult {
  OpOutcome outcome = OpOutcome::kApplied;
  Version version = 0;
  bool existed = false;
  int64_t number = 0;  // kIncrement
  // If the whole write is refused, this is the record as it was before the write, even though this
  // operation was judged against what the operations before it would have left.
  ReadResult current;
  // current.value was left out. One write returns values of up to kMaxBatchBytes in total, and only
  // while there is room for them (WriteControl::values).
  bool value_omitted = false;
  // The write was sent before, and of `current` only `found` is remembered.
  bool current_forgotten = false;
};

// Lets the caller of a write control it while it is in progress. Outlives the call.
class WriteControl {
 public:
  // A write that still waits for admission at this time is abandoned with kDeadline. 0 = never.
  Nanos deadline_ns = 0;
  // Room for the values that are returned. Null = up to kMaxBatchBytes of values.
  ValueRoom* values = nullptr;
  // Set by the partition, when the write has succeeded: where it ends.
  SessionPoint end;

  // True: the write is not in the log and never will be. Callable from any thread.
  bool Withdraw() { return Move(State::kWithdrawn); }
  // The partition calls this right before it appends. False: the write has been withdrawn.
  bool BeginAppend() { return Move(State::kAppended); }

 private:
  enum class State : uint8_t { kWaiting, kWithdrawn, kAppended };
  bool Move(State to) {
    State from = State::kWaiting;
    return state_.compare_exchange_strong(from, to, std::memory_order_relaxed) || from == to;
  }
  std::atomic<State> state_{State::kWaiting};
};

// A partition's state after a known LSN, readable until it expires or is released. It does not
// survive a restart.
struct SnapshotInfo {
  SnapshotId id = 0;
  // No write in the snapshot has a higher version, and no later write has this version or a lower
  // one. The time in this version is the snapshot's time.
  Version version = 0;
  int64_t expires_at_ms = 0;
  Generation generation = 0;
  Lsn lsn = 0;
  Epoch epoch = 0;              // of the record at `lsn`
  uint64_t chain = 0;           // of the log after it
  Version applied_version = 0;  // of the last write in it
  // It is for another replica, which gets what follows from the log: it has what is applied, and need not have
  // everything that was acknowledged.
  bool is_copy = false;
  // A mark in the log has cut it, so other replicas have it too.
  bool of_cluster = false;
};

// What a snapshot of the cluster asks of each of its partitions.
struct CloseMark {
  SnapshotId id = 0;
  // The snapshot has the records up to this version, and no others. Its time is that of the snapshot.
  Version version = 0;
  int64_t expires_at_ms = 0;
};

struct ScanSpec {
  std::string start;  // inclusive unless start_exclusive; empty = from the first key
  bool start_exclusive = false;
  std::string end;  // exclusive unless end_inclusive; empty = to the last key
  bool end_inclusive = false;
  bool reverse = false;  // from the end towards the start
  bool keys_only = false;
  bool sizes_only = false;  // like keys_only, but also sets ScanRow::value_bytes
  size_t max_rows = kMaxScanRows;
  SnapshotId snapshot = 0;  // kSnapshotGone once it is gone
  // Returns only what differs from this older snapshot, in ascending order: records as they are
  // now, and ScanRow::removed for records that no longer exist. (A record that has merely expired
  // counts as removed once it has been swept.) Takes time proportional to the number of changed
  // pages.
  SnapshotId since = 0;
  // Stops after the row that reaches it (always at least one row)
  size_t max_bytes = kMaxScanBytes;
  // The memory that the caller has. The keys and values of a page never exceed it: the page ends
  // before the row that would. A first row that would exceed it comes without its value
  // (ScanRow::unread_bytes).
  size_t hard_bytes = SIZE_MAX;
  // Only keys whose hash IDs are in this slice; not with `since`. The records that are not count against max_examined:
  // the page ends after so many, and ScanPage::examined_to says where.
  HashSlice slice;
  size_t max_examined = SIZE_MAX;
};

// Aggregates of a range. They are sums: those of disjoint ranges or of several partitions add up.
// Equal content therefore has equal aggregates, whatever the shape of its trees. Expired records do
// not count.
struct RangeAggregates {
  uint64_t count = 0;
  uint64_t bytes = 0;         // of keys and values
  uint64_t content_hash = 0;  // of keys, values, versions and expiries (RecordHash), modulo 2^64
  bool operator==(const RangeAggregates&) const = default;
  void Add(const RangeAggregates& other) {
    count += other.count;
    bytes += other.bytes;
    content_hash += other.content_hash;
  }
};

// The start of a snapshot's tree: everything that a copy of the partition needs besides its pages.
struct SnapshotRoot {
  Uuid partition;  // whose pages they are
  Generation generation = 0;
  Epoch epoch = 0;
  Lsn lsn = 0;
  uint64_t chain = 0;        // of the log after `lsn`; 0: unknown, or there are no records
  Version last_version = 0;  // the highest in the tree
  uint64_t next_page_id = 0;
  uint64_t file_blocks = 0, used_blocks = 0;
  ChildRef root;
  uint8_t root_level = 0;
};

// A position among a snapshot's pages: after the first `parts` pages and values of the leaf that
// begins with `key`, counting the inner pages that begin there too.
struct PageCursor {
  std::string key;
  uint32_t parts = 0;
  bool operator==(const PageCursor&) const = default;
};

struct PageImage {
  Extent location;
  uint64_t checksum = 0;
  std::string bytes;  // as on disk
};

struct PageBatch {
  std::vector<PageImage> images;
  size_t bytes = 0;  // of the images
  PageCursor next;
  bool exhausted = false;
  bool full(size_t max_bytes) const { return bytes >= max_bytes; }
  void Add(PageImage image) {
    bytes += image.bytes.size();
    images.push_back(std::move(image));
  }
};

// A write that took effect, as reported to watchers of the partition.
struct Change {
  std::string key;
  Version version = 0;
  bool removed = false;  // the record no longer exists
  bool operator==(const Change&) const = default;
};

struct ChangePage {
  std::vector<Change> changes;  // in ascending order of version
  Version up_to = 0;            // all changes up to this version have been examined
  bool more = false;            // more changes after up_to exist already
  // The changes after the requested version are no longer known; the rest is empty.
  bool gone = false;
};

// One read of a batch that is answered from memory without suspending. See Engine::BatchGet.
struct PointRead {
  enum class Outcome : uint8_t { kPending, kFound, kNotFound, kMiss };
  class Partition* partition = nullptr;
  std::string_view key;
  // Receives the value (capacity is reused); null: `in_place` is set instead.
  std::string* value = nullptr;
  // With value == nullptr: the value where it lies in the page, valid until the caller suspends or
  // calls the engine again. A value that is stored in pieces is kMiss.
  std::string_view in_place;
  Version version = 0;
  int64_t expires_at_ms = 0;
  Outcome outcome = Outcome::kPending;  // kMiss: pages are missing; co_await partition->Get(key)
};

struct PartitionStats {
  Generation generation = 0;
  Lsn last_lsn = 0, durable_lsn = 0, committed_lsn = 0, applied_lsn = 0, checkpoint_lsn = 0;
  Epoch epoch = 0;
  uint64_t uncommitted_bytes = 0;  // of records that were appended and are not committed
  uint64_t file_bytes = 0, used_bytes = 0, pending_free_bytes = 0;
  uint64_t hole_bytes = 0;  // of file_bytes, returned to the file system
  uint64_t dirty_pages = 0;
  uint64_t pending_writes = 0;
  uint64_t gathered_leaves_total = 0;  // scattered leaves that were written anew for the sake of scans
  uint64_t expired_total = 0, snapshots = 0, snapshot_pinned_bytes = 0;
  uint64_t cluster_snapshots = 0;        // of `snapshots`
  int64_t cluster_snapshots_end_ms = 0;  // when the last of these expires, unless it is renewed, in ms since 1970
  uint64_t cluster_marks_total = 0;      // kClose and kLease that were applied
  uint64_t clocks_ahead_total = 0;       // writes whose writer has seen versions that are too far ahead
  uint64_t changes_kept = 0;             // for watchers
  uint64_t checkpoints_total = 0, reads_total = 0, writes_total = 0, scans_total = 0;
  uint64_t disk_full_total = 0;            // writes refused with kDiskFull
  uint64_t uncommitted_refused_total = 0;  // writes refused because too much waits to be committed
  uint64_t lanes_refused_total = 0;        // writes refused because too many clients are remembered
  bool disk_full = false;                  // one was refused lately, and none that needs space was admitted since
  bool checkpoint_running = false;

  // Adds those that only grow, and that a partition takes with it when it is dropped.
  void AddCounters(const PartitionStats& other) {
    reads_total += other.reads_total;
    writes_total += other.writes_total;
    scans_total += other.scans_total;
    gathered_leaves_total += other.gathered_leaves_total;
    disk_full_total += other.disk_full_total;
    uncommitted_refused_total += other.uncommitted_refused_total;
    lanes_refused_total += other.lanes_refused_total;
    cluster_marks_total += other.cluster_marks_total;
    clocks_ahead_total += other.clocks_ahead_total;
  }
};

}  // namespace pando
