// Log records: the logical operations that the log of a partition consists of, and their encoding
// (docs/FORMAT.md, "Log record").
//
// A record states the request, not its result. Conditions and increments are evaluated when the
// record is applied, with the time ("now") taken from the record's own version, so that every
// replica computes the same result.
//
// Threads: plain data and pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/codec.h"
#include "src/base/ids.h"
#include "src/base/result.h"

namespace pando {

enum class RecordOp : uint8_t {
  kPut = 1,
  kRemove = 2,
  kIncrement = 3,
  kExpire = 4,  // removes the record if it has expired and has the version in the condition
  kTouch = 5,   // changes the expiry and version of an existing record, without rewriting its value
  // Changes nothing, but its whole batch takes effect only if its condition holds. Precedes the
  // other operations of the batch.
  kCheck = 6,
  // Changes nothing: the first record of an epoch. It has no key and is a unit of its own.
  kEpochStart = 7,
  // Names its write, so that the write is applied once (src/partition/lane.h). It is the first record
  // of the write, and its key is that of the client's lane.
  kOnce = 8,
  // Ends what a snapshot of the cluster has of this partition (src/partition/cluster_marks.h): every record before it
  // has a lower version, and every record after it a higher one. It has no key, an expiry (that of the snapshot), and
  // is a unit of its own.
  kClose = 9,
  // Sets the expiry of such a snapshot, or releases it (TtlMode::kClear). It has no key, and is a unit of its own.
  kLease = 10,
  // As kCheck. It is the first record of its unit, and the puts after it may be copies (docs/SPLIT.md).
  kFeed = 11,
};

// Whether it changes nothing, and decides whether its unit takes effect.
inline bool IsCheck(RecordOp op) { return op == RecordOp::kCheck || op == RecordOp::kFeed; }

// Whether it is about a snapshot of the cluster, and not about a record.
inline bool IsClusterMark(RecordOp op) { return op == RecordOp::kClose || op == RecordOp::kLease; }

// What must be true of the current record for the operation to take effect. All given parts must
// hold.
template <typename Bytes>
struct BasicCondition {
  std::optional<Version> version;
  std::optional<Bytes> value;
  std::optional<bool> exists;
  bool empty() const { return !version && !value && !exists; }
};
using Condition = BasicCondition<std::string>;
using ConditionView = BasicCondition<std::string_view>;

enum class TtlMode : uint8_t { kKeep = 0, kSet = 1, kClear = 2 };

// A view: key, value and condition point into the caller's memory or the decoded buffer.
struct LogRecord {
  RecordOp op = RecordOp::kPut;
  bool continues = false;  // the next record belongs to the same atomic batch
  // One refused operation refuses the whole batch. The same in all records of a batch.
  bool all_or_nothing = false;
  Version version = 0;
  TtlMode ttl_mode = TtlMode::kKeep;
  int64_t expires_at_ms = 0;  // with kSet
  int64_t delta = 0;          // kIncrement
  uint64_t sequence = 0;      // kOnce: of the write in its lane, at least 1
  int64_t first_sent_ms = 0;  // kOnce: when the write was first sent, by the server's clock; positive
  // kOnce: of the operations as the client asked for them. Not set: an earlier version wrote the record.
  std::optional<uint64_t> digest;
  uint64_t snapshot = 0;  // kClose, kLease: the ID of the snapshot
  // kPut, in a unit that begins with a kFeed: it copies a record, which keeps the version that it has elsewhere. Not
  // above the version of this record.
  std::optional<Version> copied;
  std::string_view key;
  std::string_view value;  // kPut
  ConditionView condition;

  // Of the record that a put leaves.
  Version stored_version() const { return copied.value_or(version); }
};

void EncodeRecord(const LogRecord& record, std::string* out);  // appends
// Decodes one record from `reader` and advances it. kCorruption on any malformed byte. Never reads
// outside the buffer.
Result<LogRecord> DecodeRecord(ByteReader* reader);

}  // namespace pando
