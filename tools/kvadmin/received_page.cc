#include "tools/kvadmin/received_page.h"

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TProtocolException.h>

#include <string_view>
#include <utility>

#include "gen-cpp/Kv.h"
#include "src/rpc/thrift_codec.h"

namespace pando::admin {

namespace {

using apache::thrift::protocol::TProtocolException;

[[noreturn]] void ThrowGarbled(const std::string& why) {
  throw TProtocolException(TProtocolException::INVALID_DATA, "not the reply to a scan: " + why);
}

struct ExceptionBody {
  TApplicationException exception;
  uint32_t read(apache::thrift::protocol::TProtocol* protocol) { return exception.read(protocol); }
};

// The body of the reply in `frame`. Throws the exception that the server has sent instead.
std::string_view BodyOf(std::string_view frame, ThriftCodec* codec) {
  MessageHeader header;
  if (const Status status = DecodeMessageHeader(&frame, &header); !status.ok()) ThrowGarbled(status.message());
  if (header.protocol == WireProtocol::kCompact) ThrowGarbled("it is in another protocol");
  if (header.type == apache::thrift::protocol::T_EXCEPTION) {
    ExceptionBody body;
    if (const Status status = codec->Read(header.protocol, frame, &body); !status.ok()) ThrowGarbled(status.message());
    throw body.exception;
  }
  if (header.type != apache::thrift::protocol::T_REPLY || header.method != "scan")
    ThrowGarbled("it is another message");
  return frame;
}

}  // namespace

void ReadScanReply(uint32_t most_rows, ReceivedPage* page) {
  page->rows.clear();
  page->cursor.clear();
  ThriftCodec codec;
  const std::string_view body = BodyOf(page->frame.view(), &codec);
  RowsPlace place;
  if (!FindRows(body, &place)) ThrowGarbled("a field reaches beyond its end");
  if (place.count > most_rows) ThrowGarbled("it has more rows than were asked for");
  api::Kv_scan_result result;
  const Status rest = codec.Read(WireProtocol::kBinary, WithoutRows(body, place), &result);
  if (!rest.ok()) ThrowGarbled(rest.message());
  if (!result.success.rows.empty()) ThrowGarbled("it has rows twice");
  if (!result.__isset.success && result.__isset.error) throw result.error;
  if (!result.__isset.success) ThrowGarbled("it has no result");
  page->rows.reserve(place.count);
  RowWalk walk(body.substr(place.rows_begin, place.field_end - place.rows_begin));
  for (RowView row; walk.Next(&row);) page->rows.push_back(row);
  if (!walk.ok() || page->rows.size() != place.count) {
    page->rows.clear();
    ThrowGarbled("a row cannot be read");
  }
  page->cursor = std::move(result.success.cursor);
}

RowView ViewOf(const api::Row& row) {
  RowView view;
  view.key = row.key;
  view.value = row.value;
  view.version = row.version;
  view.expires_at_ms = row.expires_at_ms;
  return view;
}

std::vector<RowView> ViewsOf(const std::vector<api::Row>& rows) {
  std::vector<RowView> views;
  for (const api::Row& row : rows) views.push_back(ViewOf(row));
  return views;
}

}  // namespace pando::admin
