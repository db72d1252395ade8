// CopyRows: the rows of a page as Thrift's structs, for fakes of nodes and for what a reply must be.
#pragma once

#include <string>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/model/scan_page.h"

namespace pando {

inline void CopyRows(const ScanPage& page, bool sizes_only, std::vector<api::Row>* rows) {
  for (const ScanRow& from : page.rows) {
    api::Row& to = rows->emplace_back();
    to.key = from.key;
    to.value = from.value;
    to.version = static_cast<int64_t>(from.version);
    to.expires_at_ms = from.expires_at_ms;
    to.removed = from.removed;
    if (sizes_only && !from.removed) to.__set_value_bytes(from.value_bytes);
  }
}

}  // namespace pando
