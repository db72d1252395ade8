// ReceivedPage: the reply to a scan as it came. Its rows are views into the received frame (RowWalk), so none of them
// is copied or allocated. The rest of the reply is decoded by generated code.
//
// Nothing is taken on trust: every row lies in the frame, and there are no more rows than were asked for.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/kvapi/row_walk.h"
#include "tools/kvadmin/byte_buffer.h"

namespace pando::admin {

struct ReceivedPage {
  ByteBuffer frame;           // without its length; it has what `rows` point to
  std::vector<RowView> rows;  // of the page
  std::string cursor;         // empty: the range is exhausted
};

// Reads what page->frame has. Throws what KvClient::recv_scan throws: api::KvError and TApplicationException, if it
// says so, and TProtocolException if it cannot be read. Then the page has no rows.
void ReadScanReply(uint32_t most_rows, ReceivedPage* page);

RowView ViewOf(const api::Row& row);  // which must outlive the view
std::vector<RowView> ViewsOf(const std::vector<api::Row>& rows);

}  // namespace pando::admin
