// Write units, marks and cuts: what the batches of the log carry (docs/FORMAT.md, "Log").
//
//   payload := (unit | mark | cut)...             each padded with zeros to a multiple of 8
//   unit    := UnitHeader, records                the records of one write of one partition
//   mark    := MarkItem                           how far a partition has come; no records
//   cut     := CutItem                            where the history of a partition ends; no records
//
// A unit states logical facts only, so it is the same on every replica of its partition: the epoch
// in which it was written, its LSNs, and a chain. Where it lies in which log is a matter of the
// batch.
//
// Threads: plain data and pure functions.
//
// Invariants
//   WU1  chain_after = UnitChain(chain_before, epoch, first_lsn, record_count, records). Equal chains
//       at equal LSNs therefore mean an equal past, on whatever node.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "src/base/ids.h"

namespace pando {

enum class ItemKind : uint8_t { kUnit = 1, kMark = 2, kCut = 3 };

// The newest version of the records in a unit (src/model/record.h), and the oldest that is read. Version 2
// added kOnce, version 3 kClose and kLease, version 4 kFeed and copies. To the log they are bytes, except that a unit
// which begins with one of the latter says version 3 or 4, and all others version 2: so nodes of an earlier build read
// all that they know.
inline constexpr uint8_t kRecordFormat = 4;
inline constexpr uint8_t kOldestRecordFormat = 1;
inline constexpr uint8_t kOpsOfFormat3[] = {9, 10};
inline constexpr uint8_t kOpOfFormat4 = 11;
inline constexpr uint8_t RecordFormatOf(std::string_view records) {
  const auto op = static_cast<uint8_t>(records.empty() ? 0 : records[0]);
  if (op == kOpOfFormat4) return 4;
  return op == kOpsOfFormat3[0] || op == kOpsOfFormat3[1] ? 3 : 2;
}

// The sequence of the partition starts anew here: LSN and chain do not continue an earlier unit.
inline constexpr uint16_t kUnitStartsAnew = 1u << 0;
// The unit is already in the log. It was appended again so that its old segment can be released.
inline constexpr uint16_t kUnitAgain = 1u << 1;
inline constexpr uint16_t kUnitKnownFlags = kUnitStartsAnew | kUnitAgain;

struct UnitHeader {
  ItemKind kind;
  uint8_t record_format;
  uint16_t flags;
  uint32_t record_bytes;  // the records follow the header directly
  uint32_t record_count;  // at least 1
  uint32_t reserved;
  Uuid partition;
  Epoch epoch;
  Lsn first_lsn;  // of the first record; those of the others follow without gaps
  uint64_t chain_before;
  uint64_t chain_after;
};
static_assert(sizeof(UnitHeader) == 64);
static_assert(offsetof(UnitHeader, record_bytes) == 4 && offsetof(UnitHeader, partition) == 16);
static_assert(offsetof(UnitHeader, epoch) == 32 && offsetof(UnitHeader, chain_after) == 56);

struct MarkItem {
  ItemKind kind;
  uint8_t reserved8;
  uint16_t flags;
  uint32_t reserved32;
  uint64_t reserved64;
  Uuid partition;
  Epoch epoch;
  Lsn commit_lsn;
  Lsn durable_lsn;
  Lsn released_lsn;
  Version hlc;
};
static_assert(sizeof(MarkItem) == 72);
static_assert(offsetof(MarkItem, partition) == 16 && offsetof(MarkItem, commit_lsn) == 40);
static_assert(offsetof(MarkItem, durable_lsn) == 48 && offsetof(MarkItem, hlc) == 64);

struct CutItem {
  ItemKind kind;
  uint8_t reserved8;
  uint16_t flags;
  uint32_t reserved32;
  uint64_t reserved64;
  Uuid partition;
  Epoch epoch;
  Lsn lsn;
  uint64_t chain;
};
static_assert(sizeof(CutItem) == 56);
static_assert(offsetof(CutItem, partition) == 16 && offsetof(CutItem, epoch) == 32);
static_assert(offsetof(CutItem, lsn) == 40 && offsetof(CutItem, chain) == 48);

// One write of one partition. A view: the records are somebody else's.
struct WriteUnit {
  Epoch epoch = 0;
  Lsn first_lsn = 0;
  uint32_t record_count = 0;
  uint64_t chain_before = 0, chain_after = 0;
  std::string_view records;
  Lsn last_lsn() const { return first_lsn + record_count - 1; }
};

// The end of a unit in the history of a partition. Equal points mean an equal past (WU1).
struct HistoryPoint {
  Epoch epoch = 0;
  Lsn lsn = 0;
  uint64_t chain = 0;
};

// The history of a partition ends at this point: units above it that lie before the cut in the log are no
// longer part of it, whatever their epochs. What follows the cut continues the point.
struct StreamCut {
  Uuid partition;
  HistoryPoint after;  // an epoch of 0: not stated
};

// How far a partition had come when a batch was submitted. The last mark of a partition tells
// recovery what must exist.
struct StreamMark {
  Uuid partition;
  Epoch epoch = 0;       // the highest one known, which the last units need not have
  Lsn commit_lsn = 0;    // everything up to it is committed
  Lsn durable_lsn = 0;   // everything up to it was durable in this log
  Lsn released_lsn = 0;  // everything up to it is in both checkpoints of the partition
  Version hlc = 0;       // the highest version given or seen by then
};

// The chain after a unit, given the chain before it.
uint64_t UnitChain(uint64_t before, Epoch epoch, Lsn first_lsn, uint32_t record_count, std::string_view records);
// The chain after `unit`, whose other fields are set.
inline uint64_t UnitChain(const WriteUnit& unit) {
  return UnitChain(unit.chain_before, unit.epoch, unit.first_lsn, unit.record_count, unit.records);
}

inline constexpr size_t kItemAlignment = 8;
// What a unit, a mark or a cut takes in a payload.
inline constexpr size_t UnitBytes(size_t record_bytes) {
  return (sizeof(UnitHeader) + record_bytes + kItemAlignment - 1) / kItemAlignment * kItemAlignment;
}
inline constexpr size_t kMarkBytes = sizeof(MarkItem);
inline constexpr size_t kCutBytes = sizeof(CutItem);

// Writes an item to `out`, which has room for it. Returns its end.
char* EncodeUnit(const Uuid& partition, const WriteUnit& unit, uint16_t flags, char* out);
char* EncodeMark(const StreamMark& mark, char* out);
char* EncodeCut(const StreamCut& cut, char* out);

// Reads the items of a payload one by one. Never reads outside of it.
class PayloadReader {
 public:
  explicit PayloadReader(std::string_view payload) : rest_(payload) {}

  enum class Item : uint8_t { kUnit, kMark, kCut, kEnd, kDamaged };
  // Reads the next item into the members below.
  Item Next();

  Uuid partition;
  WriteUnit unit;
  uint16_t flags = 0;  // of the unit
  StreamMark mark;
  StreamCut cut;

 private:
  Item NextUnit();
  Item NextMark();
  Item NextCut();
  // Removes an item of `bytes` bytes and its padding. Returns false if it is not all there.
  bool Take(size_t bytes);
  std::string_view rest_;
};

}  // namespace pando
