// Log records: the logical operations a partition's log is made of, and their encoding (docs/FORMAT.md, "Log record").
//
// A record says what was asked, not what came of it: conditions and increments are evaluated when the record is
// applied, with "now" taken from the record's own version, so that every replica computes the same result.
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
  kExpire = 4,  // removes the record if it still has the version the condition names and its expiry has come
  kTouch = 5,   // gives a record, which must exist, another expiry and a version; its value is not written again
  kCheck = 6,   // changes nothing: unless its condition holds, nothing of its batch takes effect. Before all others.
};

// What must hold of the current record for the operation to take effect; all given parts must.
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
  bool continues = false;       // the next record belongs to the same atomic batch
  bool all_or_nothing = false;  // one refused operation refuses the whole batch; the same in all records of a batch
  Version version = 0;
  TtlMode ttl_mode = TtlMode::kKeep;
  int64_t expires_at_ms = 0;  // with kSet
  int64_t delta = 0;          // kIncrement
  std::string_view key;
  std::string_view value;  // kPut
  ConditionView condition;
};

void EncodeRecord(const LogRecord& record, std::string* out);  // appends
// Takes one record off `reader`. kCorruption on any malformed byte; never reads outside.
Result<LogRecord> DecodeRecord(ByteReader* reader);

}  // namespace pando
