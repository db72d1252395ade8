#include "src/rpc/thrift_codec.h"

#include <thrift/protocol/TProtocolException.h>

#include "src/base/codec.h"

namespace pando {

namespace {

using apache::thrift::protocol::TProtocolException;
namespace thrift = apache::thrift;

constexpr uint8_t kStrictBinary = 0x80;
constexpr uint32_t kStrictBinaryVersion = 0x80010000;
constexpr uint8_t kCompactId = 0x82;
constexpr uint8_t kCompactVersion = 1;
constexpr uint8_t kCompactVersionMask = 0x1f;
constexpr unsigned kCompactTypeShift = 5;

uint32_t ReadBigEndian32(ByteReader* in) { return __builtin_bswap32(in->Fixed<uint32_t>()); }

Status NotThrift(const char* what) { return Error(Code::kInvalidArgument, "not a Thrift message: {}", what); }

Status DecodeType(uint8_t type, MessageHeader* header) {
  static_assert(thrift::protocol::T_CALL == 1 && thrift::protocol::T_ONEWAY == 4);
  if (type < thrift::protocol::T_CALL || type > thrift::protocol::T_ONEWAY) return NotThrift("unknown message type");
  header->type = static_cast<ThriftMessageType>(type);
  return {};
}

Status DecodeBinary(ByteReader* in, MessageHeader* header) {
  uint32_t first = ReadBigEndian32(in);
  uint32_t name_bytes = first;
  if ((first >> 24) == kStrictBinary) {
    if ((first & 0xffff0000) != kStrictBinaryVersion) return NotThrift("unknown version of the binary protocol");
    header->protocol = WireProtocol::kBinary;
    RETURN_IF_ERROR(DecodeType(first & 0xff, header));
    name_bytes = ReadBigEndian32(in);
  } else {
    header->protocol = WireProtocol::kOldBinary;
  }
  if (name_bytes > kMaxMethodNameBytes) return NotThrift("the method name is longer than 64 bytes");
  header->method = in->Bytes(name_bytes);
  if (header->protocol == WireProtocol::kOldBinary) RETURN_IF_ERROR(DecodeType(in->Fixed<uint8_t>(), header));
  header->seqid = static_cast<int32_t>(ReadBigEndian32(in));
  return {};
}

Status DecodeCompact(ByteReader* in, MessageHeader* header) {
  in->Fixed<uint8_t>();
  auto version_and_type = in->Fixed<uint8_t>();
  if ((version_and_type & kCompactVersionMask) != kCompactVersion) {
    return NotThrift("unknown version of the compact protocol");
  }
  header->protocol = WireProtocol::kCompact;
  RETURN_IF_ERROR(DecodeType(version_and_type >> kCompactTypeShift, header));
  header->seqid = static_cast<int32_t>(in->Varint());
  uint64_t name_bytes = in->Varint();
  if (name_bytes > kMaxMethodNameBytes) return NotThrift("the method name is longer than 64 bytes");
  header->method = in->Bytes(name_bytes);
  return {};
}

}  // namespace

Status DecodeMessageHeader(std::string_view* frame, MessageHeader* header) {
  if (frame->empty()) return NotThrift("the frame is empty");
  ByteReader in(*frame);
  switch (static_cast<uint8_t>(frame->front())) {
    case kStrictBinary:
    case 0: RETURN_IF_ERROR(DecodeBinary(&in, header)); break;
    case kCompactId: RETURN_IF_ERROR(DecodeCompact(&in, header)); break;
    default: return NotThrift("the first byte is of neither the binary (0x80) nor the compact (0x82) protocol");
  }
  if (!in.ok()) return NotThrift("the frame ends inside the message header");
  *frame = in.rest();
  return {};
}

void ListBudget::Charge(uint32_t more, bool numbers) {
  if (memory == nullptr || more == 0) return;
  const bool of_request = entry_bytes == 0;
  if (numbers) ChargeFields(more);
  if (numbers || !of_request) {
    if (memory->TryGrow(more * (numbers ? sizeof(int32_t) : entry_bytes)) || must_arrive) return;
    refused = true;
    throw TProtocolException(TProtocolException::SIZE_LIMIT, "no memory for a list");
  }
  // The protocol has checked that `more` is at most kMaxContainerEntries. The limit is on the sum,
  // because a frame can hold the same list again and again.
  entries += more;
  if (entries > kMaxRequestEntries) throw TProtocolException(TProtocolException::SIZE_LIMIT, "too many entries");
  entries_total += more;
  if (memory->TryGrow(more * kListEntryBytes)) return;
  refused = true;
  throw TProtocolException(TProtocolException::SIZE_LIMIT, "no memory for a list");
}

void ListBudget::TooManyFields() { throw TProtocolException(TProtocolException::SIZE_LIMIT, "too many fields"); }

ThriftCodec::ThriftCodec() : transport_(std::make_shared<FrameTransport>()) { MakeProtocols(); }

void ThriftCodec::MakeProtocols() {
  binary_ = std::make_unique<BinaryProtocol>(&lists_, transport_, 0, kMaxContainerEntries, /*strict_read=*/false,
                                             /*strict_write=*/true);
  compact_ = std::make_unique<CompactProtocol>(&lists_, transport_, kSmallFrameBytes, kMaxContainerEntries);
}

Status ThriftCodec::ReadFailed(const std::exception& e) {
  MakeProtocols();  // a protocol object that has thrown is left in an undefined state
  if (lists_.refused) return Error(Code::kOverloaded, "this process has no memory for the lists of this message");
  if (const auto* p = dynamic_cast<const TProtocolException*>(&e)) {
    switch (p->getType()) {
      case TProtocolException::SIZE_LIMIT:
        return Error(Code::kInvalidArgument,
                     "a string is longer than the frame that holds it, lists have more than {} entries, or there are "
                     "more than {} fields",
                     lists_.memory ? kMaxRequestEntries : uint32_t{kMaxContainerEntries}, kMaxRequestFields);
      case TProtocolException::NEGATIVE_SIZE:
        return Error(Code::kInvalidArgument, "a string or list has a negative size");
      case TProtocolException::DEPTH_LIMIT:
        return Error(Code::kInvalidArgument, "structs are nested deeper than 64 levels");
      default: break;
    }
  }
  return Error(Code::kInvalidArgument, "{}", e.what());
}

size_t ThriftCodec::BeginFrame(const MessageHeader& header, std::string* out) {
  size_t start = out->size();
  out->append(kFrameHeaderBytes, '\0');
  transport_->SetOutput(out);
  std::string method(header.method);
  if (header.protocol == WireProtocol::kCompact) {
    compact_->writeMessageBegin(method, header.type, header.seqid);
  } else {
    binary_->setStrict(false, header.protocol == WireProtocol::kBinary);
    binary_->writeMessageBegin(method, header.type, header.seqid);
  }
  return start;
}

void ThriftCodec::EndFrame(size_t start, std::string* out) {
  size_t bytes = out->size() - start - kFrameHeaderBytes;
  StoreLE<uint32_t>(out->data() + start, __builtin_bswap32(static_cast<uint32_t>(bytes)));
}

void ThriftCodec::WriteException(MessageHeader header, TApplicationException::TApplicationExceptionType type,
                                 std::string_view message, std::string* out) {
  header.type = thrift::protocol::T_EXCEPTION;
  struct Body {
    TApplicationException exception;
    void write(thrift::protocol::TProtocol* protocol) const { exception.write(protocol); }
  };
  Write(header, Body{TApplicationException(type, std::string(message))}, out);
}

}  // namespace pando
