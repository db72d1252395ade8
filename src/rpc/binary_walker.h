// BinaryWalker: walks over values in Thrift's binary protocol without decoding them. Once it has failed, everything
// fails. It never reads past the end, and every element of a list takes at least a byte, so a walk takes no more steps
// than there are bytes.
//
// Threads: plain values.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "src/base/codec.h"

namespace pando {

class BinaryWalker {
 public:
  // Types of the protocol.
  static constexpr uint8_t kStop = 0, kBool = 2, kByte = 3, kDouble = 4, kI16 = 6, kI32 = 8, kI64 = 10, kString = 11,
                           kStruct = 12, kMap = 13, kSet = 14, kList = 15;
  static constexpr int kMaxDepth = 8;  // a context has no struct inside; newer ones may

  explicit BinaryWalker(std::string_view bytes) : bytes_(bytes) {}
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
  uint8_t Byte() {
    if (!ok_ || at_ >= bytes_.size()) {
      ok_ = false;
      return kStop;
    }
    return static_cast<uint8_t>(bytes_[at_++]);
  }
  // The length of a string, or the number of elements of a list.
  uint32_t Length() {
    if (!ok_ || bytes_.size() - at_ < 4) {
      ok_ = false;
      return 0;
    }
    const uint32_t length = __builtin_bswap32(LoadLE<uint32_t>(bytes_.data() + at_));
    at_ += 4;
    return length;
  }
  void Fail() { ok_ = false; }
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

}  // namespace pando
