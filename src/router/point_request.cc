#include "src/router/point_request.h"

#include <climits>
#include <cstddef>
#include <cstdint>

#include "src/base/codec.h"

namespace pando {

namespace {

// Types of the binary protocol.
constexpr uint8_t kStop = 0, kBool = 2, kByte = 3, kDouble = 4, kI16 = 6, kI32 = 8, kI64 = 10, kString = 11,
                  kStruct = 12, kMap = 13, kSet = 14, kList = 15;
constexpr int kMaxDepth = 8;  // a context has no struct inside; newer ones may
constexpr std::string_view kRequestFieldHead("\x0c\x00\x02", 3), kKeyFieldHead("\x0b\x00\x01", 3);
constexpr std::string_view kBothEnds("\0\0", 2), kNoSnapshot("\x0b\x00\x02\0\0\0\0", 7);
constexpr std::string_view kSuccessHead("\x0c\x00\x00", 3), kErrorHead("\x0c\x00\x01", 3);

// Walks over encoded values without decoding them. Once it has failed, everything fails. Every element of a list
// takes at least a byte, so a walk takes no more steps than there are bytes.
class Walker {
 public:
  explicit Walker(std::string_view bytes) : bytes_(bytes) {}
  bool ok() const { return ok_; }
  size_t at() const { return at_; }

  bool Take(std::string_view expected) {
    if (!ok_ || bytes_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }
  std::string_view String() {
    const uint32_t bytes = Length();
    const std::string_view text = ok_ ? bytes_.substr(at_, bytes) : std::string_view();
    Skip(bytes);
    return text;
  }
  // The fields of a struct and its end. `ordered`: their IDs ascend, so none is there twice.
  void Struct(int depth, bool ordered = false) {
    int last = INT32_MIN;
    for (;;) {
      const uint8_t type = Byte();
      if (!ok_ || type == kStop) return;
      const int high = Byte();
      const int id = static_cast<int16_t>(high << 8 | Byte());
      if (ordered && id <= last) ok_ = false;
      last = id;
      Value(type, depth);
    }
  }
  // The next field of a struct that ends nowhere before it; false: the struct has ended. Its value is next.
  bool Field(uint8_t* type, int* id) {
    *type = Byte();
    if (!ok_ || *type == kStop) return false;
    const int high = Byte();
    *id = static_cast<int16_t>(high << 8 | Byte());
    return ok_;
  }
  void SkipValue(uint8_t type) { Value(type, 0); }
  int64_t I64() {
    const size_t from = at_;
    Skip(8);
    return ok_ ? static_cast<int64_t>(__builtin_bswap64(LoadLE<uint64_t>(bytes_.data() + from))) : 0;
  }
  bool AtEnd() const { return ok_ && at_ == bytes_.size(); }

 private:
  void Value(uint8_t type, int depth) {
    if (depth > kMaxDepth) ok_ = false;
    if (!ok_) return;
    switch (type) {
      case kBool:
      case kByte: return Skip(1);
      case kI16: return Skip(2);
      case kI32: return Skip(4);
      case kI64:
      case kDouble: return Skip(8);
      case kString: return Skip(Length());
      case kStruct: return Struct(depth + 1);
      case kSet:
      case kList: {
        const uint8_t element = Byte();
        const uint32_t count = Length();
        for (uint32_t i = 0; i < count && ok_; ++i) Value(element, depth + 1);
        return;
      }
      case kMap: {
        const uint8_t key = Byte(), value = Byte();
        const uint32_t count = Length();
        for (uint32_t i = 0; i < count && ok_; ++i) {
          Value(key, depth + 1);
          Value(value, depth + 1);
        }
        return;
      }
      default: ok_ = false;
    }
  }
  uint8_t Byte() {
    if (!ok_ || at_ >= bytes_.size()) {
      ok_ = false;
      return kStop;
    }
    return static_cast<uint8_t>(bytes_[at_++]);
  }
  uint32_t Length() {
    if (!ok_ || bytes_.size() - at_ < 4) {
      ok_ = false;
      return 0;
    }
    const uint32_t length = __builtin_bswap32(LoadLE<uint32_t>(bytes_.data() + at_));
    at_ += 4;
    return length;
  }
  void Skip(size_t bytes) {
    if (!ok_ || bytes_.size() - at_ < bytes) {
      ok_ = false;
      return;
    }
    at_ += bytes;
  }

  const std::string_view bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

}  // namespace

std::optional<PointRequestView> ViewPointRequest(std::string_view body) {
  PointRequestView view;
  Walker walker(body);
  if (walker.Take(kContextFieldHead)) {
    const size_t from = walker.at();
    walker.Struct(0);
    if (!walker.ok()) return std::nullopt;
    view.context = body.substr(from, walker.at() - from);
  }
  view.rest = body.substr(walker.at());
  if (!walker.Take(kRequestFieldHead)) return std::nullopt;
  Walker request(view.rest.substr(kRequestFieldHead.size()));
  if (!request.Take(kKeyFieldHead)) return std::nullopt;
  view.key = request.String();
  // As generated clients send a get: the key, perhaps an empty string (the snapshot) after it, and the ends of both
  // structs.
  const std::string_view after = view.rest.substr(kRequestFieldHead.size() + request.at());
  view.only_key =
      after == kBothEnds || (after.starts_with(kNoSnapshot) && after.substr(kNoSnapshot.size()) == kBothEnds);
  // What decides for the node must decide here: no second key, and no second context.
  walker.Struct(0, /*ordered=*/true);
  if (!walker.Take(std::string_view("", 1)) || !walker.AtEnd() || !request.ok()) return std::nullopt;
  return view;
}

ReplyKind KindOfReply(std::string_view body) {
  const std::string_view head = body.substr(0, kSuccessHead.size());
  return head == kSuccessHead ? ReplyKind::kSuccess : head == kErrorHead ? ReplyKind::kError : ReplyKind::kOther;
}

int64_t HlcOfReply(std::string_view body) {
  constexpr int kContextField = 15, kHlcField = 2;
  Walker walker(body);
  if (!walker.Take(kSuccessHead)) return 0;
  uint8_t type = 0;
  int id = 0;
  while (walker.Field(&type, &id)) {
    if (id != kContextField || type != kStruct) {
      walker.SkipValue(type);
      continue;
    }
    while (walker.Field(&type, &id)) {
      if (id == kHlcField && type == kI64) return walker.I64();
      walker.SkipValue(type);
    }
    return 0;
  }
  return 0;
}

}  // namespace pando
