#include "src/wal/write_unit.h"

#include <cstring>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {

uint64_t UnitChain(uint64_t before, Epoch epoch, Lsn first_lsn, uint32_t record_count, std::string_view records) {
  const uint64_t place[4] = {before, epoch, first_lsn, record_count};
  return Hash64(records, Hash64({reinterpret_cast<const char*>(place), sizeof(place)}));
}

char* EncodeUnit(const Uuid& partition, const WriteUnit& unit, uint16_t flags, char* out) {
  UnitHeader header{};
  header.kind = ItemKind::kUnit;
  header.record_format = RecordFormatOf(unit.records);
  header.flags = flags;
  header.record_bytes = static_cast<uint32_t>(unit.records.size());
  header.record_count = unit.record_count;
  header.partition = partition;
  header.epoch = unit.epoch;
  header.first_lsn = unit.first_lsn;
  header.chain_before = unit.chain_before;
  header.chain_after = unit.chain_after;
  StoreLE(out, header);
  std::memcpy(out + sizeof(header), unit.records.data(), unit.records.size());
  const size_t bytes = sizeof(header) + unit.records.size();
  std::memset(out + bytes, 0, UnitBytes(unit.records.size()) - bytes);
  return out + UnitBytes(unit.records.size());
}

char* EncodeMark(const StreamMark& mark, char* out) {
  MarkItem item{};
  item.kind = ItemKind::kMark;
  item.partition = mark.partition;
  item.epoch = mark.epoch;
  item.commit_lsn = mark.commit_lsn;
  item.durable_lsn = mark.durable_lsn;
  item.released_lsn = mark.released_lsn;
  item.hlc = mark.hlc;
  StoreLE(out, item);
  return out + kMarkBytes;
}

char* EncodeCut(const StreamCut& cut, char* out) {
  CutItem item{};
  item.kind = ItemKind::kCut;
  item.partition = cut.partition;
  item.epoch = cut.after.epoch;
  item.lsn = cut.after.lsn;
  item.chain = cut.after.chain;
  StoreLE(out, item);
  return out + kCutBytes;
}

PayloadReader::Item PayloadReader::Next() {
  if (rest_.empty()) return Item::kEnd;
  switch (static_cast<ItemKind>(rest_[0])) {
    case ItemKind::kUnit: return NextUnit();
    case ItemKind::kMark: return NextMark();
    case ItemKind::kCut: return NextCut();
  }
  return Item::kDamaged;
}

bool PayloadReader::Take(size_t bytes) {
  const size_t padded = (bytes + kItemAlignment - 1) / kItemAlignment * kItemAlignment;
  if (rest_.size() < padded) return false;
  for (size_t i = bytes; i < padded; ++i) {
    if (rest_[i] != 0) return false;
  }
  rest_.remove_prefix(padded);
  return true;
}

PayloadReader::Item PayloadReader::NextUnit() {
  if (rest_.size() < sizeof(UnitHeader)) return Item::kDamaged;
  const auto header = LoadLE<UnitHeader>(rest_.data());
  if (header.record_bytes > rest_.size() - sizeof(UnitHeader)) return Item::kDamaged;
  const std::string_view records = rest_.substr(sizeof(UnitHeader), header.record_bytes);
  if (!Take(sizeof(UnitHeader) + header.record_bytes)) return Item::kDamaged;
  const bool sane = (header.flags & ~kUnitKnownFlags) == 0 && header.record_format >= kOldestRecordFormat &&
                    header.record_format <= kRecordFormat && header.reserved == 0 && !header.partition.IsNil() &&
                    header.record_count > 0 && header.record_bytes > 0 && header.first_lsn > 0 &&
                    header.first_lsn + header.record_count > header.first_lsn;
  if (!sane) return Item::kDamaged;
  partition = header.partition;
  flags = header.flags;
  unit = {header.epoch, header.first_lsn, header.record_count, header.chain_before, header.chain_after, records};
  return Item::kUnit;
}

PayloadReader::Item PayloadReader::NextMark() {
  if (rest_.size() < sizeof(MarkItem)) return Item::kDamaged;
  const auto item = LoadLE<MarkItem>(rest_.data());
  if (!Take(sizeof(MarkItem))) return Item::kDamaged;
  const bool sane =
      item.reserved8 == 0 && item.flags == 0 && item.reserved32 == 0 && item.reserved64 == 0 && !item.partition.IsNil();
  if (!sane) return Item::kDamaged;
  partition = item.partition;
  mark = {item.partition, item.epoch, item.commit_lsn, item.durable_lsn, item.released_lsn, item.hlc};
  return Item::kMark;
}

PayloadReader::Item PayloadReader::NextCut() {
  if (rest_.size() < sizeof(CutItem)) return Item::kDamaged;
  const auto item = LoadLE<CutItem>(rest_.data());
  if (!Take(sizeof(CutItem))) return Item::kDamaged;
  const bool sane = item.reserved8 == 0 && item.flags == 0 && item.reserved32 == 0 && item.reserved64 == 0 &&
                    !item.partition.IsNil() && item.lsn + 1 > item.lsn;
  if (!sane) return Item::kDamaged;
  partition = item.partition;
  cut = {item.partition, {item.epoch, item.lsn, item.chain}};
  return Item::kCut;
}

}  // namespace pando
