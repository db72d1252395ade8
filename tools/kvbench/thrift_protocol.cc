// Pando's service over framed binary Thrift.
//
// The Thrift library writes the templates once. A request omits every field that has its default
// value, as the stock Python client does; the context is an empty struct. An answer is compared
// with the prefix that the generated code writes for a success. Any other answer goes through the
// generated decoder.
#include <fmt/format.h>
#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include "gen-cpp/Kv.h"
#include "src/base/codec.h"
#include "tools/kvbench/data.h"
#include "tools/kvbench/protocol.h"

namespace pando::bench {

namespace {

namespace tp = apache::thrift::protocol;
using apache::thrift::transport::TMemoryBuffer;

constexpr size_t kFrameHeader = 4;

uint32_t LoadBE32(const char* p) { return __builtin_bswap32(LoadLE<uint32_t>(p)); }
void StoreBE32(char* p, uint32_t v) { StoreLE<uint32_t>(p, __builtin_bswap32(v)); }

// Writes a frame with the Thrift library and tracks the offsets of the parts to be patched.
class FrameWriter {
 public:
  FrameWriter() : buffer_(std::make_shared<TMemoryBuffer>()), protocol_(buffer_) {}

  void BeginCall(const char* method) {
    protocol_.writeMessageBegin(method, tp::T_CALL, 0);
    protocol_.writeFieldBegin("context", tp::T_STRUCT, 1);
    protocol_.writeFieldStop();
    protocol_.writeFieldBegin("request", tp::T_STRUCT, 2);
  }
  void Binary(int16_t id, size_t bytes) {
    protocol_.writeFieldBegin("", tp::T_STRING, id);
    protocol_.writeBinary(std::string(bytes, '\0'));
  }
  void I32(int16_t id) {
    protocol_.writeFieldBegin("", tp::T_I32, id);
    protocol_.writeI32(0);
  }
  void EndCall() {
    protocol_.writeFieldStop();
    protocol_.writeFieldStop();
  }
  // Offset of the next byte in the finished frame.
  size_t at() const { return kFrameHeader + buffer_->available_read(); }
  tp::TBinaryProtocol* protocol() { return &protocol_; }
  std::string Finish() {
    std::string frame(kFrameHeader, '\0');
    frame += buffer_->getBufferAsString();
    StoreBE32(frame.data(), static_cast<uint32_t>(frame.size() - kFrameHeader));
    return frame;
  }

 private:
  std::shared_ptr<TMemoryBuffer> buffer_;
  tp::TBinaryProtocol protocol_;
};

// The bytes before the value in a successful answer. They are the same in every such answer.
std::string GetPrefix(size_t value_bytes, size_t* frame_bytes) {
  api::Kv_get_result result;
  result.success.record.found = true;
  result.success.record.value.assign(value_bytes, '\x55');
  result.__isset.success = true;
  FrameWriter writer;
  writer.protocol()->writeMessageBegin("get", tp::T_REPLY, 0);
  result.write(writer.protocol());
  std::string frame = writer.Finish();
  *frame_bytes = frame.size();
  return frame.substr(kFrameHeader, frame.find(result.success.record.value) - kFrameHeader);
}

std::string PutPrefix() {
  FrameWriter writer;
  writer.protocol()->writeMessageBegin("put", tp::T_REPLY, 0);
  writer.protocol()->writeFieldBegin("success", tp::T_STRUCT, 0);
  writer.protocol()->writeFieldBegin("applied", tp::T_BOOL, 1);
  writer.protocol()->writeBool(true);
  return writer.Finish().substr(kFrameHeader);
}

// The bytes before the element count of the rows.
std::string ScanPrefix() {
  FrameWriter writer;
  writer.protocol()->writeMessageBegin("scan", tp::T_REPLY, 0);
  writer.protocol()->writeFieldBegin("success", tp::T_STRUCT, 0);
  writer.protocol()->writeFieldBegin("rows", tp::T_LIST, 1);
  writer.protocol()->writeListBegin(tp::T_STRUCT, 0);
  std::string frame = writer.Finish();
  return frame.substr(kFrameHeader, frame.size() - kFrameHeader - sizeof(uint32_t));
}

// Decodes a frame's body. A Thrift exception, a KvError and damaged bytes each become an error.
template <typename GeneratedResult>
Status Decode(std::string_view frame, GeneratedResult* result) {
  try {
    auto* bytes = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(frame.data() + kFrameHeader));
    auto buffer = std::make_shared<TMemoryBuffer>(bytes, static_cast<uint32_t>(frame.size() - kFrameHeader));
    tp::TBinaryProtocol protocol(buffer);
    std::string name;
    tp::TMessageType type = tp::T_REPLY;
    int32_t sequence = 0;
    protocol.readMessageBegin(name, type, sequence);
    if (type == tp::T_EXCEPTION) {
      apache::thrift::TApplicationException error;
      error.read(&protocol);
      return Error(Code::kInvalidArgument, "the server answered {}: {}", name, error.what());
    }
    result->read(&protocol);
    if (result->__isset.error) {
      return Error(Code::kIoError, "the server answered {} with KvError code {}: {}", name, result->error.code,
                   result->error.message);
    }
    if (!result->__isset.success) return Error(Code::kCorruption, "the server answered {} without a result", name);
    return Status();
  } catch (const std::exception& e) {
    return Error(Code::kCorruption, "the server's answer cannot be decoded: {}", e.what());
  }
}

class ThriftProtocol final : public Protocol {
 public:
  explicit ThriftProtocol(const RecordShape& shape) : shape_(shape) {
    FrameWriter get;
    get.BeginCall("get");
    get.Binary(1, shape.key_bytes);
    get_key_at_ = get.at() - shape.key_bytes;
    get.EndCall();
    get_ = get.Finish();

    FrameWriter put;
    put.BeginCall("put");
    put.Binary(1, shape.key_bytes);
    put_key_at_ = put.at() - shape.key_bytes;
    put.Binary(2, shape.value_bytes);
    put_head_bytes_ = put.at() - shape.value_bytes;
    put.EndCall();
    std::string frame = put.Finish();
    put_head_ = frame.substr(0, put_head_bytes_);
    put_tail_ = frame.substr(put_head_bytes_ + shape.value_bytes);

    FrameWriter scan;
    scan.BeginCall("scan");
    scan.Binary(1, shape.key_bytes);
    scan_key_at_ = scan.at() - shape.key_bytes;
    scan.I32(6);
    scan_rows_at_ = scan.at() - sizeof(int32_t);
    scan.EndCall();
    scan_ = scan.Finish();

    get_ok_ = GetPrefix(shape.value_bytes, &get_ok_bytes_);
    put_ok_ = PutPrefix();
    scan_ok_ = ScanPrefix();
  }

  void AppendGet(std::string_view key, std::string* out) const override {
    size_t at = out->size();
    out->append(get_);
    std::memcpy(out->data() + at + get_key_at_, key.data(), shape_.key_bytes);
  }
  char* AppendPut(std::string_view key, std::string* out) const override {
    size_t at = out->size();
    out->append(put_head_);
    std::memcpy(out->data() + at + put_key_at_, key.data(), shape_.key_bytes);
    out->resize(at + put_head_bytes_ + shape_.value_bytes);
    out->append(put_tail_);
    return out->data() + at + put_head_bytes_;
  }
  void AppendScan(std::string_view start_key, uint32_t rows, std::string* out) const override {
    size_t at = out->size();
    out->append(scan_);
    std::memcpy(out->data() + at + scan_key_at_, start_key.data(), shape_.key_bytes);
    StoreBE32(out->data() + at + scan_rows_at_, rows);
  }
  bool HasScan() const override { return true; }

  size_t ReplyBytes(std::string_view head) const override {
    if (head.size() < kFrameHeader) return 0;
    const uint32_t body = LoadBE32(&head.front());
    return body == 0 || body > kMaxBody ? kGarbage : kFrameHeader + body;
  }

  Reply Parse(OpKind kind, std::string_view frame) const override {
    std::string_view body = frame.substr(kFrameHeader);
    Reply reply;
    if (kind == OpKind::kGet && frame.size() == get_ok_bytes_ && body.starts_with(get_ok_)) {
      reply.outcome = Outcome::kOk;
      reply.value = body.substr(get_ok_.size(), shape_.value_bytes);
    } else if (kind == OpKind::kPut && body.starts_with(put_ok_)) {
      reply.outcome = Outcome::kOk;
    } else if (kind == OpKind::kScan && body.starts_with(scan_ok_) && body.size() > scan_ok_.size() + 4) {
      reply.outcome = Outcome::kOk;
      reply.rows = LoadBE32(body.data() + scan_ok_.size());
    } else {
      ParseSlowly(kind, frame, &reply);
    }
    return reply;
  }

  std::string Describe(OpKind kind, std::string_view frame) const override {
    Status status;
    if (kind == OpKind::kGet) {
      api::Kv_get_result result;
      status = Decode(frame, &result);
      if (status.ok())
        return fmt::format("the server answered a get with a value of {} bytes", result.success.record.value.size());
    } else if (kind == OpKind::kPut) {
      api::Kv_put_result result;
      status = Decode(frame, &result);
      if (status.ok()) return "the server did not apply a put";
    } else {
      api::Kv_scan_result result;
      status = Decode(frame, &result);
    }
    return status.message();
  }

  Status CheckScan(std::string_view frame, std::string_view start_key) const override {
    api::Kv_scan_result result;
    RETURN_IF_ERROR(Decode(frame, &result));
    std::string_view last;
    for (const api::Row& row : result.success.rows) {
      if (row.key < start_key || (!last.empty() && row.key <= last)) {
        return Error(Code::kCorruption, "the scan from \"{}\" returned key \"{}\" after \"{}\"", start_key, row.key,
                     last);
      }
      if (!CheckValue(row.key, row.value, shape_.value_bytes, shape_.compressible_percent)) {
        return Error(Code::kCorruption, "the scan returned a value for key \"{}\" that was not stored there", row.key);
      }
      last = row.key;
    }
    return Status();
  }

 private:
  static constexpr uint32_t kMaxBody = 64u << 20;

  // For an answer with another order of fields, a missing record, or an error.
  void ParseSlowly(OpKind kind, std::string_view frame, Reply* reply) const {
    reply->slow = true;
    if (kind == OpKind::kGet) {
      api::Kv_get_result result;
      if (!Decode(frame, &result).ok()) return;
      const api::Record& record = result.success.record;
      if (!record.found) {
        reply->outcome = Outcome::kNotFound;
      } else if (record.value.size() == shape_.value_bytes) {
        reply->outcome = Outcome::kOk;
        reply->value = frame.substr(frame.find(record.value), shape_.value_bytes);
      }
    } else if (kind == OpKind::kPut) {
      api::Kv_put_result result;
      if (Decode(frame, &result).ok() && result.success.applied) reply->outcome = Outcome::kOk;
    } else {
      api::Kv_scan_result result;
      if (!Decode(frame, &result).ok()) return;
      reply->outcome = Outcome::kOk;
      reply->rows = static_cast<uint32_t>(result.success.rows.size());
    }
  }

  RecordShape shape_;
  std::string get_, put_head_, put_tail_, scan_;
  size_t get_key_at_ = 0, put_key_at_ = 0, put_head_bytes_ = 0, scan_key_at_ = 0, scan_rows_at_ = 0;
  std::string get_ok_, put_ok_, scan_ok_;  // the beginning of the body of a success
  size_t get_ok_bytes_ = 0;                // size of the whole frame of a get that found its record
};

}  // namespace

std::unique_ptr<Protocol> MakeThriftProtocol(const RecordShape& shape) {
  return std::make_unique<ThriftProtocol>(shape);
}

}  // namespace pando::bench
