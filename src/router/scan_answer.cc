#include "src/router/scan_answer.h"

#include <utility>

namespace pando {

Status ReadScanAnswer(std::string_view body, std::string* storage, ThriftCodec* codec, MemoryGrant* memory,
                      size_t entry_bytes, ScanAnswer* answer) {
  const Status garbled = Error(Code::kUnavailable, "its answer to a scan cannot be read");
  RowsPlace place;
  if (!FindRows(body, &place)) return garbled;
  const std::string rest = WithoutRows(body, place);
  const Status read =
      memory == nullptr
          ? codec->Read(WireProtocol::kBinary, rest, static_cast<api::Routing_scanPartitions_result*>(answer))
          : codec->ReadReply(WireProtocol::kBinary, rest, static_cast<api::Routing_scanPartitions_result*>(answer),
                             memory, entry_bytes, /*must_arrive=*/false);
  if (read.code() == Code::kOverloaded) return read;
  if (!read.ok() || !answer->success.rows.empty()) return garbled;
  if (place.count == 0) return Status();
  if (memory != nullptr && !memory->TryGrow(body.size())) {
    return Error(Code::kOverloaded, "its answer has {} bytes, for which there is no memory here; retry later",
                 body.size());
  }
  answer->rows_begin = place.rows_begin;
  // What a string has beyond the body is not counted.
  if (storage != nullptr && storage->capacity() - body.size() <= body.size() / 8) {
    answer->rows_begin += static_cast<size_t>(body.data() - storage->data());
    answer->frame = std::move(*storage);
    storage->clear();
  } else {
    answer->frame = body;
  }
  answer->rows_bytes = place.field_end - place.rows_begin;
  answer->row_count = place.count;
  return Status();
}

Status ScanExchange::OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) {
  if (header.type == apache::thrift::protocol::T_EXCEPTION) return RpcClient::ToStatus(header, body, codec);
  if (header.protocol == WireProtocol::kCompact) {
    return Error(Code::kUnavailable, "it answered a request in the binary protocol in another one");
  }
  return ReadScanAnswer(body, storage, codec, memory, entry_bytes, reply);
}

}  // namespace pando
