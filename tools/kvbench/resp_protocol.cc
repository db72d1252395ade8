// The RESP2 protocol of Redis, as far as GET and SET need it.
#include <fmt/format.h>

#include <charconv>

#include "tools/kvbench/protocol.h"

namespace pando::bench {

namespace {

constexpr std::string_view kEnd = "\r\n";
constexpr std::string_view kSetOk = "+OK\r\n";
constexpr std::string_view kNil = "$-1\r\n";

class RespProtocol final : public Protocol {
 public:
  RespProtocol(const RecordShape& shape, uint32_t wait_replicas)
      : shape_(shape),
        wait_replicas_(wait_replicas),
        set_tail_(wait_replicas == 0 ? std::string(kEnd) : fmt::format("\r\nWAIT {} {}\r\n", wait_replicas, kWaitMs)),
        get_head_(fmt::format("*2\r\n$3\r\nGET\r\n${}\r\n", shape.key_bytes)),
        set_head_(fmt::format("*3\r\n$3\r\nSET\r\n${}\r\n", shape.key_bytes)),
        set_middle_(fmt::format("\r\n${}\r\n", shape.value_bytes)),
        value_head_(fmt::format("${}\r\n", shape.value_bytes)) {}

  void AppendGet(std::string_view key, std::string* out) const override {
    out->append(get_head_).append(key).append(kEnd);
  }
  char* AppendPut(std::string_view key, std::string* out) const override {
    out->append(set_head_).append(key).append(set_middle_);
    size_t at = out->size();
    out->resize(at + shape_.value_bytes);
    out->append(set_tail_);
    return out->data() + at;
  }
  void AppendScan(std::string_view, uint32_t, std::string*) const override {
    LOG(FATAL) << "Redis has no ordered scan";
  }
  bool HasScan() const override { return false; }

  size_t ReplyBytes(std::string_view head) const override {
    if (head.starts_with(value_head_)) return value_head_.size() + shape_.value_bytes + kEnd.size();
    size_t line = head.find('\n');
    if (line == std::string_view::npos) return head.size() > kMaxLine ? kGarbage : 0;
    if (line == 0 || head[line - 1] != '\r') return kGarbage;
    switch (head[0]) {
      case '+':
      case '-':
        if (wait_replicas_ == 0) return line + 1;
        line = head.find('\n', line + 1);  // the answer to the WAIT
        return line == std::string_view::npos ? 0 : line + 1;
      case ':': return line + 1;
      case '$': break;
      default: return kGarbage;
    }
    int64_t length = 0;
    auto [end, error] = std::from_chars(head.data() + 1, head.data() + line - 1, length);
    if (error != std::errc() || end != head.data() + line - 1 || length < -1) return kGarbage;
    return length < 0 ? line + 1 : line + 1 + static_cast<size_t>(length) + kEnd.size();
  }

  Reply Parse(OpKind kind, std::string_view frame) const override {
    Reply reply;
    if (kind == OpKind::kPut) {
      reply.outcome = Stored(frame) ? Outcome::kOk : Outcome::kError;
    } else if (frame == kNil) {
      reply.outcome = Outcome::kNotFound;
    } else if (frame.starts_with(value_head_)) {
      reply.outcome = Outcome::kOk;
      reply.value = frame.substr(value_head_.size(), shape_.value_bytes);
    }
    return reply;
  }
  std::string Describe(OpKind, std::string_view frame) const override {
    std::string text(frame.substr(0, 200));
    for (char& c : text) c = c == '\r' || c == '\n' ? ' ' : c;
    text.erase(text.find_last_not_of(' ') + 1);
    return fmt::format("the server answered \"{}\"", text);
  }
  Status CheckScan(std::string_view, std::string_view) const override {
    return Status(Code::kUnsupported, "Redis has no ordered scan");
  }

 private:
  static constexpr size_t kMaxLine = 4096;
  static constexpr int kWaitMs = 5000;

  bool Stored(std::string_view frame) const {
    if (wait_replicas_ == 0 || !frame.starts_with(kSetOk)) return frame == kSetOk;
    frame.remove_prefix(kSetOk.size());
    uint32_t replicas = 0;
    return frame.starts_with(':') &&
           std::from_chars(frame.data() + 1, frame.data() + frame.size(), replicas).ec == std::errc() &&
           replicas >= wait_replicas_;
  }

  RecordShape shape_;
  uint32_t wait_replicas_;
  std::string set_tail_;
  std::string get_head_, set_head_, set_middle_, value_head_;
};

}  // namespace

std::unique_ptr<Protocol> MakeRespProtocol(const RecordShape& shape, uint32_t wait_replicas) {
  return std::make_unique<RespProtocol>(shape, wait_replicas);
}

}  // namespace pando::bench
