#include "src/kvapi/row_walk.h"

namespace pando {

namespace {

// Field IDs of pando.thrift and routing.thrift.
constexpr int kSuccess = 0, kRows = 1;
constexpr int kKey = 1, kValue = 2, kVersion = 3, kExpiresAt = 4, kRemoved = 5, kValueBytes = 6;

}  // namespace

bool FindRows(std::string_view body, RowsPlace* place) {
  BinaryWalker walker(body);
  uint8_t type = 0;
  int id = 0;
  if (!walker.Field(&type, &id)) return walker.ok();
  if (id != kSuccess || type != BinaryWalker::kStruct) return true;  // an error
  for (size_t field_begin = walker.at(); walker.Field(&type, &id); field_begin = walker.at()) {
    if (id != kRows || type != BinaryWalker::kList) {
      walker.SkipValue(type);
      continue;
    }
    const uint8_t element = walker.Byte();
    const uint32_t count = walker.Length();
    if (count > 0 && element != BinaryWalker::kStruct) return false;
    *place = {field_begin, 0, walker.at(), count};
    for (uint32_t i = 0; i < count && walker.ok(); ++i) walker.SkipValue(BinaryWalker::kStruct);
    place->field_end = walker.at();
    return walker.ok();
  }
  return walker.ok();
}

std::string WithoutRows(std::string_view body, const RowsPlace& place) {
  std::string rest(body.substr(0, place.field_begin));
  rest += body.substr(place.field_end);
  return rest;
}

bool RowWalk::Next(RowView* row) {
  if (!ok() || walker_.AtEnd()) return false;
  *row = RowView();
  const size_t begin = walker_.at();
  uint8_t type = 0;
  for (int id = 0, last = 0; walker_.Field(&type, &id); last = id) {
    if (id <= last) {
      walker_.Fail();
    } else if (type == BinaryWalker::kString && id == kKey) {
      row->key = walker_.String();
    } else if (type == BinaryWalker::kString && id == kValue) {
      row->value = walker_.String();
    } else if (type == BinaryWalker::kI64 && id == kVersion) {
      row->version = walker_.I64();
    } else if (type == BinaryWalker::kI64 && id == kExpiresAt) {
      row->expires_at_ms = walker_.I64();
    } else if (type == BinaryWalker::kI64 && id == kValueBytes) {
      row->value_bytes = walker_.I64();
    } else if (type == BinaryWalker::kBool && id == kRemoved) {
      row->removed = walker_.Byte() != 0;
    } else {
      walker_.SkipValue(type);
    }
  }
  if (!ok()) return false;
  row->encoded = rows_.substr(begin, walker_.at() - begin);
  return true;
}

}  // namespace pando
