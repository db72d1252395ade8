// etcd's JSON gateway, as far as put and range of one key need it. Keys and values are base64 in JSON, which the server
// has to decode; the same holds for one member and for three. A request allocates, unlike those of the other protocols.
#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "src/base/base64.h"
#include "tools/kvbench/protocol.h"

namespace pando::bench {

namespace {

constexpr std::string_view kEndOfHead = "\r\n\r\n";
constexpr std::string_view kOk = "HTTP/1.1 200 ";
constexpr std::string_view kLength = "\r\nContent-Length: ";
constexpr std::string_view kValue = "\"value\":\"";

constexpr size_t EncodedBytes(size_t bytes) { return (bytes + 2) / 3 * 4; }

std::string Head(std::string_view path, size_t body_bytes) {
  return fmt::format("POST {} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                     path, body_bytes);
}

class EtcdProtocol final : public Protocol {
 public:
  explicit EtcdProtocol(const RecordShape& shape) : shape_(shape) {
    const std::string_view begin = R"({"key":")", middle = R"(","value":")", end = R"("})";
    const size_t key = EncodedBytes(shape.key_bytes), value = EncodedBytes(shape.value_bytes);
    get_head_ = Head("/v3/kv/range", begin.size() + key + end.size()).append(begin);
    put_head_ = Head("/v3/kv/put", begin.size() + key + middle.size() + value + end.size()).append(begin);
    middle_ = middle;
    end_ = end;
  }

  void AppendGet(std::string_view key, std::string* out) const override {
    out->append(get_head_);
    out->append(Base64Encode(key));
    out->append(end_);
  }
  char* AppendPut(std::string_view key, std::string* out) const override {
    out->append(put_head_);
    out->append(Base64Encode(key));
    out->append(middle_);
    const size_t at = out->size();
    out->resize(at + EncodedBytes(shape_.value_bytes));
    out->append(end_);
    return out->data() + at;
  }
  void EncodeValue(char* value) const override {
    const std::string encoded = Base64Encode({value, shape_.value_bytes});
    std::memcpy(value, encoded.data(), encoded.size());
  }
  void AppendScan(std::string_view, uint32_t, std::string*) const override { LOG(FATAL) << "not used with etcd"; }
  bool HasScan() const override { return false; }

  size_t ReplyBytes(std::string_view head) const override {
    const size_t end = head.find(kEndOfHead);
    if (end == std::string_view::npos) return head.size() > kMaxHead ? kGarbage : 0;
    const size_t at = head.find(kLength);
    if (!head.starts_with("HTTP/1.1 ") || at == std::string_view::npos || at > end) return kGarbage;
    size_t body = 0;
    if (std::from_chars(head.data() + at + kLength.size(), head.data() + head.size(), body).ec != std::errc()) {
      return kGarbage;
    }
    return end + kEndOfHead.size() + body;
  }

  Reply Parse(OpKind kind, std::string_view frame) const override {
    Reply reply;
    if (!frame.starts_with(kOk)) return reply;
    reply.outcome = Outcome::kOk;
    if (kind == OpKind::kPut) return reply;
    size_t at = frame.find(kValue);
    if (at == std::string_view::npos) {
      reply.outcome = Outcome::kNotFound;
      return reply;
    }
    thread_local std::string value;
    at += kValue.size();
    Result<std::string> decoded = Base64Decode(frame.substr(at, frame.find('"', at) - at));
    value = decoded.ok() ? *std::move(decoded) : "";
    reply.value = value;
    if (value.size() != shape_.value_bytes) reply.outcome = Outcome::kError;
    return reply;
  }
  std::string Describe(OpKind, std::string_view frame) const override {
    const size_t end = frame.find(kEndOfHead);
    const std::string_view body = end == std::string_view::npos ? "" : frame.substr(end + kEndOfHead.size());
    return fmt::format("etcd answered \"{}\": {}", frame.substr(0, frame.find('\r')), body.substr(0, 300));
  }
  Status CheckScan(std::string_view, std::string_view) const override {
    return Status(Code::kUnsupported, "not used with etcd");
  }

 private:
  static constexpr size_t kMaxHead = 4096;

  RecordShape shape_;
  std::string get_head_, put_head_, middle_, end_;
};

}  // namespace

std::unique_ptr<Protocol> MakeEtcdProtocol(const RecordShape& shape) { return std::make_unique<EtcdProtocol>(shape); }

}  // namespace pando::bench
