// RowsReply: the result of a scan with its rows, which are encoded from where they lie. Its rows are not in the struct
// that Thrift generates, because that would copy each key and value into a string of its own.
//
// It is encoded like the struct with these rows in its first field, `success.rows`, in any protocol.
//
// Threads: one reactor. The result and the page, or the encoded rows, must outlive it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "gen-cpp/pando_types.h"
#include "src/kvapi/merge_scan.h"
#include "src/model/scan_page.h"
#include "src/rpc/rpc_dispatch.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

// `Result`: a generated result whose `success` has a list of api::Row as its field 1.
template <typename Result>
class RowsReply {
 public:
  // REQUIRES: `result.success` has no rows. `sizes_only`: as in ScanRequest.
  RowsReply(const Result& result, const ScanPage& page, bool sizes_only)
      : result_(result), page_(&page), count_(static_cast<uint32_t>(page.rows.size())), sizes_only_(sizes_only) {}
  // Rows that are encoded already, in the binary protocol.
  RowsReply(const Result& result, std::string_view encoded, uint32_t count)
      : result_(result), encoded_(encoded), count_(count) {}

  // About how many bytes the rows take, and what is around them.
  size_t likely_bytes() const {
    constexpr size_t kAroundBytes = 4096;
    size_t bytes = kAroundBytes + result_.success.context.session.size() + encoded_.size();
    if (page_ == nullptr) return bytes;
    for (const ScanRow& row : page_->rows) bytes += row.bytes() + kFrameRowBytes;
    return bytes;
  }

  // What ThriftCodec::Write asks of a body.
  template <typename Protocol>
  uint32_t write(Protocol* out) const;

 private:
  static constexpr int16_t kSuccess = 0, kRows = 1;
  static constexpr auto kStruct = apache::thrift::protocol::T_STRUCT, kList = apache::thrift::protocol::T_LIST;

  template <typename Protocol>
  static void BeginRows(Protocol* out, uint32_t count) {
    out->writeStructBegin("");
    out->writeFieldBegin("rows", kList, kRows);
    out->writeListBegin(kStruct, count);
  }
  template <typename Protocol>
  void WriteRest(Protocol* out) const;

  const Result& result_;
  const ScanPage* page_ = nullptr;
  std::string_view encoded_;
  uint32_t count_ = 0;
  bool sizes_only_ = false;
};

// Encodes a row as api::Row::write does.
template <typename Protocol>
void WriteRow(const ScanRow& row, bool sizes_only, Protocol* out) {
  using apache::thrift::protocol::TType;
  out->writeStructBegin("");
  out->writeFieldBegin("key", TType::T_STRING, 1);
  out->writeView(row.key);
  out->writeFieldBegin("value", TType::T_STRING, 2);
  out->writeView(row.value);
  out->writeFieldBegin("version", TType::T_I64, 3);
  out->writeI64(static_cast<int64_t>(row.version));
  out->writeFieldBegin("expires_at_ms", TType::T_I64, 4);
  out->writeI64(row.expires_at_ms);
  out->writeFieldBegin("removed", TType::T_BOOL, 5);
  out->writeBool(row.removed);
  if (sizes_only && !row.removed) {
    out->writeFieldBegin("value_bytes", TType::T_I64, 6);
    out->writeI64(row.value_bytes);
  }
  out->writeFieldStop();
  out->writeStructEnd();
}

template <typename Result>
template <typename Protocol>
uint32_t RowsReply<Result>::write(Protocol* out) const {
  out->writeStructBegin("");
  out->writeFieldBegin("success", kStruct, kSuccess);
  BeginRows(out, count_);
  if (page_ == nullptr) {
    out->output()->append(encoded_);
  } else {
    for (const ScanRow& row : page_->rows) WriteRow(row, sizes_only_, out);
  }
  out->writeStructEnd();
  WriteRest(out);
  out->writeFieldStop();
  out->writeStructEnd();
  return 0;  // nobody asks
}

// Appends `success` and cuts off how it begins, which is an empty list of rows.
template <typename Result>
template <typename Protocol>
void RowsReply<Result>::WriteRest(Protocol* out) const {
  std::string* bytes = out->output();
  const size_t from = bytes->size();
  BeginRows(out, 0);
  out->writeStructEnd();
  const std::string no_rows = bytes->substr(from);
  bytes->resize(from);
  result_.success.write(out);
  CHECK(std::string_view(*bytes).substr(from).starts_with(no_rows)) << "the rows are not the first field, or are there";
  bytes->erase(from, no_rows.size());
}

// Answers the call, unless it is answered. `rows`: as for a RowsReply. likely_reply_bytes: of the rest.
template <typename Call, typename... Rows>
void ReplyRows(Call* call, const Rows&... rows) {
  if (call->answered) return;
  call->reply.__isset.success = true;
  const RowsReply reply(call->reply, rows...);
  call->server->Reply(call->id, call->method, reply, call->likely_reply_bytes + reply.likely_bytes());
  call->answered = true;
}

}  // namespace pando
