// Reads of records in resident leaves, for readers and for the Applier.
//
// Threads: one reactor.
#pragma once

#include <string_view>

#include "src/base/expiry.h"
#include "src/btree/tree.h"
#include "src/model/types.h"

namespace pando {

inline size_t ValueBytes(const RecordView& record) {
  return record.overflow ? record.value_bytes : record.value.size();
}

// Copies the record of `key` out of a resident leaf. Returns false if its value is an overflow
// value that is not resident. *unread is then the record, and the rest of *out is filled in.
bool ReadResident(Tree* tree, Frame* leaf, std::string_view key, int64_t now_ms, ReadResult* out, RecordView* unread);

}  // namespace pando
