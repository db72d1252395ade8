// Little-endian fixed-width loads and stores, LEB128 varints, and two bounded cursors (ByteWriter,
// ByteReader). Every decoder of bytes from a disk or a peer uses these cursors, so that none can
// read past the end of its input.
//
// Threads: plain values; an object must not be shared between threads.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace pando {

static_assert(std::endian::native == std::endian::little, "on-disk structs are read in place: little-endian only");

template <typename T>
inline T LoadLE(const void* p) {
  static_assert(std::is_trivially_copyable_v<T>);
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}
template <typename T>
inline void StoreLE(void* p, T v) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(p, &v, sizeof(T));
}

// For bytes that must sort like the number, and for formats of others.
inline void StoreBigEndian32(void* p, uint32_t v) { StoreLE(p, __builtin_bswap32(v)); }
inline void StoreBigEndian64(void* p, uint64_t v) { StoreLE(p, __builtin_bswap64(v)); }
inline uint32_t LoadBigEndian32(const void* p) { return __builtin_bswap32(LoadLE<uint32_t>(p)); }

inline constexpr size_t kMaxVarintBytes = 10;

inline size_t VarintSize(uint64_t v) {
  size_t n = 1;
  while (v >= 0x80) v >>= 7, ++n;
  return n;
}

// Appends to a std::string that it does not own.
class ByteWriter {
 public:
  explicit ByteWriter(std::string* out) : out_(out) {}
  template <typename T>
  void Fixed(T v) {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>);
    out_->append(reinterpret_cast<const char*>(&v), sizeof(T));
  }
  // Small magnitudes take few bytes, whatever their sign (zigzag).
  void Signed(int64_t v) { Varint((static_cast<uint64_t>(v) << 1) ^ static_cast<uint64_t>(v >> 63)); }
  void Varint(uint64_t v) {
    while (v >= 0x80) {
      out_->push_back(static_cast<char>(v | 0x80));
      v >>= 7;
    }
    out_->push_back(static_cast<char>(v));
  }
  void Bytes(std::string_view b) { out_->append(b); }
  void LengthPrefixed(std::string_view b) {
    Varint(b.size());
    Bytes(b);
  }

 private:
  std::string* out_;
};

// Reads from a view that it does not own. After the first failure, ok() is false and every read
// returns zero or an empty view.
class ByteReader {
 public:
  explicit ByteReader(std::string_view in) : in_(in) {}
  bool ok() const { return ok_; }
  size_t remaining() const { return in_.size(); }
  std::string_view rest() const { return in_; }

  template <typename T>
  T Fixed() {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>);
    if (in_.size() < sizeof(T)) return Fail(), T{};
    T v = LoadLE<T>(in_.data());
    in_.remove_prefix(sizeof(T));
    return v;
  }
  uint64_t Varint() {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (in_.empty()) return Fail(), 0;
      uint8_t byte = static_cast<uint8_t>(in_[0]);
      in_.remove_prefix(1);
      if (shift == 63 && byte > 1) return Fail(), 0;
      v |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return v;
    }
    return Fail(), 0;
  }
  int64_t Signed() {
    const uint64_t v = Varint();
    return static_cast<int64_t>(v >> 1) ^ -static_cast<int64_t>(v & 1);
  }
  std::string_view Bytes(size_t n) {
    if (in_.size() < n) return Fail(), std::string_view{};
    std::string_view b = in_.substr(0, n);
    in_.remove_prefix(n);
    return b;
  }
  std::string_view LengthPrefixed() {
    uint64_t n = Varint();
    if (!ok_ || n > in_.size()) return Fail(), std::string_view{};
    return Bytes(n);
  }

 private:
  void Fail() {
    ok_ = false;
    in_ = {};
  }
  std::string_view in_;
  bool ok_ = true;
};

}  // namespace pando
