// The range of records that a command works on, and its pages: the options of scan, count, export,
// aggregate, diff, split and delete-range, the fields of a request that they become, and the loop
// that reads a range page by page.
//
// Threads: one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "src/base/result.h"
#include "tools/common/command_line.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/client.h"

namespace pando::admin {

// What the user gave, as text.
struct RangeOptions {
  std::string start, end, prefix;  // in `encoding`
  std::string snapshot, cursor;    // base64, as kvadmin printed them
  Encoding encoding = Encoding::kText;
  uint64_t limit = 100;  // rows; 0 = all
};

// --hex and --base64: how keys and values are read and printed.
void AddEncodingOptions(tools::Command command, Encoding* encoding);
void AddSnapshotOption(tools::Command command, std::string* token);
// --start, --end, --prefix, and the encoding.
void AddKeyRangeOptions(tools::Command command, RangeOptions* options);
// The same, and --snapshot.
void AddRangeOptions(tools::Command command, RangeOptions* options);
// --limit and --cursor of a command `name` that prints `rows` ("rows").
void AddPageOptions(tools::Command command, RangeOptions* options, const std::string& name, const std::string& rows);

struct Range {
  std::string start, end, prefix, snapshot, cursor;
  bool whole_store() const { return start.empty() && end.empty() && prefix.empty(); }
};
Result<Range> BuildRange(const RangeOptions& options);

// Sets the range of any request that has one, and its snapshot and cursor if it has these.
template <typename Request>
void SetRange(const Range& range, Request* request) {
  request->start_key = range.start;
  request->end_key = range.end;
  request->prefix = range.prefix;
  if constexpr (requires { request->snapshot; }) request->snapshot = range.snapshot;
  if constexpr (requires { request->cursor; }) request->cursor = range.cursor;
}

// Sends `request` for one page after the other, and gives each reply to `take`, which returns a
// Result<bool>: whether to go on. When the loop ends, request->cursor continues after the pages that
// were taken; it is empty if there are no more.
template <typename Reply, typename Request, typename Take>
Status ForEachPage(Client& client, Client::Repeat repeat, KvMethod<Reply, Request> method, Request* request,
                   Take&& take) {
  do {
    ASSIGN_OR_RETURN(Reply reply, client.Call(repeat, method, *request));
    request->cursor = reply.cursor;
    ASSIGN_OR_RETURN(const bool more, take(reply));
    if (!more) break;
  } while (!request->cursor.empty());
  return Status();
}

// Scans until there are `limit` rows (0 = no limit), with at most `page_rows` in a page. Counts them
// in `*rows`. `take(page)` returns a Status.
template <typename Take>
Status ScanRows(Client& client, api::ScanRequest* request, uint64_t limit, uint64_t page_rows, uint64_t* rows,
                Take&& take) {
  auto fit_limit = [=] {
    request->limit_rows = static_cast<int32_t>(limit == 0 ? page_rows : std::min(limit - *rows, page_rows));
  };
  fit_limit();
  return ForEachPage(client, Client::Repeat::kSafe, &api::KvIf::scan, request,
                     [&](const api::ScanReply& reply) -> Result<bool> {
                       *rows += reply.rows.size();
                       RETURN_IF_ERROR(take(reply.rows));
                       fit_limit();
                       return limit == 0 || *rows < limit;
                     });
}

}  // namespace pando::admin
