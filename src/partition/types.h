// What callers say to a partition and hear from it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.h"
#include "src/base/limits.h"
#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/buffer_pool/extent.h"
#include "src/io/reactor.h"
#include "src/wal/record.h"

namespace pando {

struct ReadResult {
  bool found = false;
  Version version = 0;
  int64_t expires_at_ms = 0;  // 0 = never
  std::string value;
};

struct WriteOp {
  RecordOp op = RecordOp::kPut;
  std::string key;
  std::string value;  // kPut
  int64_t delta = 0;  // kIncrement
  Condition condition;
  // kTouch: not kKeep. With kSet exactly one of the two is > 0: from the operation's own time on, or Unix time. A
  // record whose time has passed is stored, but not there.
  TtlMode ttl_mode = TtlMode::kKeep;
  int64_t ttl_ms = 0;
  int64_t expires_at_ms = 0;
  // A condition that does not hold need not hand back the value that was found, so that none has to be read for it.
  bool current_value_unwanted = false;
  bool return_previous = false;  // OpResult::current is the record as it was found also when this is applied
};

class WriteControl;

struct WriteOptions {
  bool all_or_nothing = false;      // one that is refused refuses all of them; without it only a kCheck does
  WriteControl* control = nullptr;  // outlives the call
};

// Why a value is not handed back: `room` had none for it.
inline Status NoRoom(ValueRoom::Answer answer, const ValueRoom& room, size_t value_bytes) {
  if (answer == ValueRoom::Answer::kFull) {
    return Error(Code::kOverloaded,
                 "the reply would have more than {} bytes of values: ask for this key again, with fewer others",
                 room.limit_bytes());
  }
  return Error(Code::kOverloaded, "the node has no memory for a value of {} bytes now; try again", value_bytes);
}

enum class OpOutcome : uint8_t {
  kApplied,          // also a remove of a record that does not exist, and a kCheck that holds
  kConditionFailed,  // or kTouch of a record that does not exist; `current` holds the record as it was found
  kNotANumber,       // kIncrement of a value that is not a decimal 64-bit integer; `current` holds it
  kOverflow,         // kIncrement past the 64-bit range
  kBatchRefused,     // not by itself: another operation of the write was refused, and thereby all. Nothing else is set.
};

struct OpResult {
  OpOutcome outcome = OpOutcome::kApplied;
  Version version = 0;
  bool existed = false;
  int64_t number = 0;  // kIncrement
  // When a whole write is refused: as it was before the write, although this operation met what those before it would
  // have left.
  ReadResult current;
  // current.value was left out: what the operations of one write found is handed back up to kMaxBatchBytes, and as long
  // as there is room for it (WriteControl::values).
  bool value_omitted = false;
};

// What the caller of a write keeps a hand on while it is under way. It outlives the call.
class WriteControl {
 public:
  // A write that still waits for admission at this time is given up: kDeadline. 0 = never.
  Nanos deadline_ns = 0;
  // Room for the values that are handed back; null = up to kMaxBatchBytes of them.
  ValueRoom* values = nullptr;

  // True: the write is not in the log and never will be. Any thread.
  bool Withdraw() { return Move(State::kWithdrawn); }
  // Called by the partition right before it appends: false when the write has been withdrawn.
  bool BeginAppend() { return Move(State::kAppended); }

 private:
  enum class State : uint8_t { kWaiting, kWithdrawn, kAppended };
  bool Move(State to) {
    State from = State::kWaiting;
    return state_.compare_exchange_strong(from, to, std::memory_order_relaxed) || from == to;
  }
  std::atomic<State> state_{State::kWaiting};
};

// Names a snapshot in all partitions it was cut through. Random, so that no name is given twice; 0 = the newest state.
using SnapshotId = uint64_t;

// A partition's state after a known LSN, readable until it expires or is released. Not kept over a restart.
struct SnapshotInfo {
  SnapshotId id = 0;
  Version version =
      0;  // no write in it has a higher one, no later write one at or below it; its time is the snapshot's
  int64_t expires_at_ms = 0;
  Generation generation = 0;
  Lsn lsn = 0;
  Version applied_version = 0;  // of the last write in it
};

struct ScanSpec {
  std::string start;  // inclusive unless start_exclusive; empty = from the first key
  bool start_exclusive = false;
  std::string end;  // exclusive unless end_inclusive; empty = to the last key
  bool end_inclusive = false;
  bool reverse = false;  // from the end towards the start
  bool keys_only = false;
  bool sizes_only = false;  // as keys_only, and ScanRow::value_bytes is set
  size_t max_rows = kMaxScanRows;
  SnapshotId snapshot = 0;  // kSnapshotGone once it is gone
  // Only what differs from this older snapshot, forwards: records as they are now, and ScanRow::removed for those that
  // are no more. (One that merely expired is among those once it is swept.) In time proportional to the changed pages.
  SnapshotId since = 0;
  size_t max_bytes = kMaxScanBytes;  // stops after the row that reaches it (always at least one row)
  // What the caller has memory for: keys and values of the page never take more. The page ends before the row that
  // would; a first row comes without its value then (ScanRow::unread_bytes).
  size_t hard_bytes = SIZE_MAX;
};

// What a range holds. Sums: those of disjoint ranges, or of partitions, add up, so that equal content has equal ones
// whatever the shape of its trees. Expired records count for nothing.
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

// What a snapshot's tree starts from: all that a copy of the partition needs beside its pages.
struct SnapshotRoot {
  Generation generation = 0;
  Epoch epoch = 0;
  Lsn lsn = 0;
  Version last_version = 0;  // the highest in the tree
  uint64_t next_page_id = 0;
  uint64_t file_blocks = 0, used_blocks = 0;
  ChildRef root;
  uint8_t root_level = 0;
};

// A place among a snapshot's pages: behind the first `parts` pages and values of the leaf that begins with `key`, with
// the inner pages that begin there, too.
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

struct ScanRow {
  std::string key;
  std::string value;
  Version version = 0;
  int64_t expires_at_ms = 0;
  bool removed = false;       // since ScanSpec::since; the rest is empty
  uint32_t value_bytes = 0;   // ScanSpec::sizes_only
  uint32_t unread_bytes = 0;  // the value has so many bytes and was left out: ScanSpec::hard_bytes
  size_t bytes() const { return key.size() + value.size(); }
};

struct ScanPage {
  std::vector<ScanRow> rows;
  bool exhausted = false;  // nothing is left in the range behind the last row
};

// A write that took effect, as those hear of it who watch the partition.
struct Change {
  std::string key;
  Version version = 0;
  bool removed = false;  // there is no record now
  bool operator==(const Change&) const = default;
};

struct ChangePage {
  std::vector<Change> changes;  // versions rise
  Version up_to = 0;            // everything up to this version was looked at
  bool more = false;            // there are changes after up_to already
  bool gone = false;            // what came after the version asked for is not known any more; the rest is empty
};

// One read of a batch that is answered from memory without suspending; see Engine::BatchGet.
struct PointRead {
  enum class Outcome : uint8_t { kPending, kFound, kNotFound, kMiss };
  class Partition* partition = nullptr;
  std::string_view key;
  std::string* value = nullptr;  // receives the bytes (capacity is reused); null: `in_place` is set instead
  std::string_view in_place;     // with value == nullptr: the bytes where they lie in the page, valid until the caller
                                 // suspends or calls the engine again; a value in pieces is kMiss
  Version version = 0;
  int64_t expires_at_ms = 0;
  Outcome outcome = Outcome::kPending;  // kMiss: pages are missing; co_await partition->Get(key)
};

struct PartitionStats {
  Generation generation = 0;
  Lsn last_lsn = 0, applied_lsn = 0, checkpoint_lsn = 0;
  uint64_t file_bytes = 0, used_bytes = 0, pending_free_bytes = 0;
  uint64_t hole_bytes = 0;  // of file_bytes, given back to the file system
  uint64_t dirty_pages = 0;
  uint64_t pending_writes = 0;
  uint64_t expired_total = 0, snapshots = 0, snapshot_pinned_bytes = 0;
  uint64_t changes_kept = 0;  // for watchers
  uint64_t checkpoints_total = 0, reads_total = 0, writes_total = 0, scans_total = 0;
  bool checkpoint_running = false;
};

}  // namespace pando
