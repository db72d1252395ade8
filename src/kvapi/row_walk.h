// RowWalk: walks over the rows of an encoded reply to a scan, in Thrift's binary protocol, without decoding them into
// structs. Clients get api::Row from servers, and routers get it from nodes, in the same form.
//
// Nothing is taken on trust: every row is read with bounds.
//
// Threads: plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/rpc/binary_walker.h"

namespace pando {

// A row as it lies in an answer. Its fields ascend by ID, as generated code writes them, so none is there twice. One of
// another type is no field, as for generated code.
struct RowView {
  std::string_view encoded;  // the whole struct
  std::string_view key, value;
  int64_t version = 0, expires_at_ms = 0, value_bytes = 0;
  bool removed = false;
  size_t bytes() const { return key.size() + value.size(); }  // as ScanRow::bytes
};

// Rows that lie one after the other.
class RowWalk {
 public:
  explicit RowWalk(std::string_view rows) : rows_(rows), walker_(rows) {}
  // False: there is none, or it cannot be read (ok).
  bool Next(RowView* row);
  bool ok() const { return walker_.ok(); }
  size_t at() const { return walker_.at(); }  // the end of the last one

 private:
  const std::string_view rows_;
  BinaryWalker walker_;
};

// Where the field with the rows lies in an answer, and the rows in it.
struct RowsPlace {
  size_t field_begin = 0, field_end = 0, rows_begin = 0;
  uint32_t count = 0;
};

// `body`: the result of Kv.scan or of Routing.scanPartitions, which have the rows in the same place. False: it cannot
// be read. Without rows, the place is empty.
bool FindRows(std::string_view body, RowsPlace* place);
// The same result without the field with the rows, for generated code.
std::string WithoutRows(std::string_view body, const RowsPlace& place);

}  // namespace pando
