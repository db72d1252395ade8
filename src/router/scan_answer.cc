#include "src/router/scan_answer.h"

#include <utility>

namespace pando {

namespace {

// Field IDs of routing.thrift and pando.thrift.
constexpr int kSuccess = 0, kRows = 1;
constexpr int kKey = 1, kValue = 2, kVersion = 3, kExpiresAt = 4, kRemoved = 5, kValueBytes = 6;

// Where the field with the rows lies in an answer, and the rows in it.
struct RowsPlace {
  size_t field_begin = 0, field_end = 0, rows_begin = 0;
  uint32_t count = 0;
};

// False: the answer cannot be read. Without rows, the place is empty.
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

}  // namespace

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

Status ReadScanAnswer(std::string_view body, std::string* storage, ThriftCodec* codec, MemoryGrant* memory,
                      size_t entry_bytes, ScanAnswer* answer) {
  const Status garbled = Error(Code::kUnavailable, "its answer to a scan cannot be read");
  RowsPlace place;
  if (!FindRows(body, &place)) return garbled;
  // Everything but the field with the rows.
  std::string rest(body.substr(0, place.field_begin));
  rest += body.substr(place.field_end);
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
