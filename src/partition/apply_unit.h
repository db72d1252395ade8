// ApplyUnit: the records of one write, as the log holds them, on their way to the Applier.
//
// It does not matter who wrote a unit: a client now (its records were appended a moment ago), or an
// earlier process (they were read from the log). What the client of a write wants in return is
// extra (UnitReply). Units are applied whole or not at all.
//
// Threads: one reactor.
//
// Invariants
//   AU1  The records point into encoded bytes, which whoever feeds the unit to the Applier keeps
//        until it has been applied.
//   AU2  A unit has the form that a write can have: all of its records are all-or-nothing or none
//        is, a kOnce comes first and checks next, and only the last record ends it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/buffer_pool/buffer_pool.h"
#include "src/model/types.h"

namespace pando {

// Of the record that an operation finds, what its writer wants to have.
enum class WantedRecord : uint8_t {
  kNothing,
  kIfRefused,
  kAlways,
};

// The most that a record takes in a unit besides its key and values.
inline constexpr size_t kMaxRecordOverhead = 64;

inline WantedRecord WantedBy(const WriteOp& op) {
  if (op.return_previous) return WantedRecord::kAlways;
  return op.current_value_unwanted ? WantedRecord::kNothing : WantedRecord::kIfRefused;
}

struct UnitRecord {
  LogRecord record;
  WantedRecord wanted = WantedRecord::kNothing;
  Extent extent;  // where the record's large value goes; empty: it has none, or no place yet
};

// A large value that a record needs for its evaluation. It is read ahead of time, because all the
// large values that one unit may need do not fit into memory together.
struct FoundValue {
  Extent location;
  bool equal = false;                // to the condition's value
  std::optional<std::string> bytes;  // empty if no reply wants it or has room for it
};

// The reply to a client's write.
struct UnitReply {
  std::vector<OpResult> results;
  ValueRoom* room = nullptr;  // for the values handed back; null = up to kMaxBatchBytes
  size_t value_bytes = 0;     // of the values handed back, and of those in ApplyUnit::found
  // Not OK: the write was sent before, and what came of it cannot be told. There are no results.
  Status status;
};

// Some of a unit's records, by index.
struct UnitPart {
  size_t from = 0, to = 0;
  size_t size() const { return to - from; }
};

// Where the next unit continues.
struct UnitEnd {
  Lsn lsn = 0;
  Epoch epoch = 0;
  Version version = 0;
};

struct ApplyUnit {
  // Reads the records that make up the next unit. Where `records` has entries already, these are
  // filled in. kCorruption on bytes that no write produces.
  Status Decode(ByteReader* reader, size_t max_key_bytes);

  // kCorruption if the unit does not continue `last`: LSNs are missing or known already, the epoch
  // falls, or versions do not rise (P1, P5).
  Status CheckFollows(uint32_t partition, const UnitEnd& last) const;

  Lsn last_lsn() const { return first_lsn + records.size() - 1; }
  UnitEnd end() const { return {last_lsn(), epoch, records.back().record.version}; }
  UnitPart whole() const { return {0, records.size()}; }
  // One record can refuse the others, so the unit is judged as a whole.
  bool guarded() const {
    const LogRecord& first = records.front().record;
    return first.all_or_nothing || IsCheck(first.op) || once();
  }
  bool closes() const { return records.front().record.op == RecordOp::kClose; }
  bool once() const { return records.front().record.op == RecordOp::kOnce; }

  Epoch epoch = 0;
  Lsn first_lsn = 0;
  bool unplaced = false;     // the disk has not been asked for all the room that it takes
  uint64_t chain_after = 0;  // of the log after it; 0: unknown, because the unit is a part of an old one
  std::vector<UnitRecord> records;
  UnitReply* reply = nullptr;  // null: nobody waits for the results
  // What the Applier has in memory for the unit.
  std::vector<PagePin> pins;
  std::vector<FoundValue> found;  // per record, or empty
};

// The keys of a part, or of operations.
std::vector<std::string> KeysOf(const ApplyUnit& unit, UnitPart part);
std::vector<std::string> KeysOf(const std::vector<WriteOp>& ops);

}  // namespace pando
