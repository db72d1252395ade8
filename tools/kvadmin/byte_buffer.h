// ByteBuffer: bytes that grow, in memory that nobody has filled with zeros. Unlike a std::string, it can be filled by
// recv(2) or an encoder directly. It keeps its memory when it is cleared, so a buffer that is used again causes no page
// faults.
//
// Threads: plain values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

namespace pando::admin {

class ByteBuffer {
 public:
  ByteBuffer() = default;
  ByteBuffer(ByteBuffer&& other) noexcept
      : bytes_(std::move(other.bytes_)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  ByteBuffer& operator=(ByteBuffer&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }

  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }
  char* data() { return bytes_.get(); }
  std::string_view view() const { return {bytes_.get(), size_}; }

  void Clear() { size_ = 0; }
  // Makes room for so many bytes in all.
  void Reserve(size_t bytes) {
    if (bytes <= capacity_) return;
    std::unique_ptr<char[]> larger(new char[bytes]);
    if (size_ > 0) std::memcpy(larger.get(), bytes_.get(), size_);
    bytes_ = std::move(larger);
    capacity_ = bytes;
  }
  // Appends so many bytes, which the caller writes where this points to.
  char* Extend(size_t bytes) {
    if (bytes > capacity_ - size_) Reserve(std::max(size_ + bytes, capacity_ * 2));
    char* at = bytes_.get() + size_;
    size_ += bytes;
    return at;
  }
  void Append(std::string_view bytes) {
    if (!bytes.empty()) std::memcpy(Extend(bytes.size()), bytes.data(), bytes.size());
  }

 private:
  std::unique_ptr<char[]> bytes_;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace pando::admin
