// Arena: memory for many small pieces of bytes that are freed together.
//
// Pieces lie one after the other in blocks of 4 to 64 KiB: each is as large as what was allocated before, within these
// limits. A piece of more than an eighth of that gets a block of its own.
//
// A piece stays where it is until the arena is destroyed, also if the arena is moved, or adopted by another one.
//
// Threads: a plain value.
#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pando {

class Arena {
 public:
  static constexpr size_t kLeastBlockBytes = 4u << 10, kMostBlockBytes = 64u << 10;
  // What `arenas` allocate at most whose pieces have so many bytes together.
  static constexpr size_t MostAllocated(size_t bytes, size_t arenas = 1) {
    return bytes + bytes / 4 + std::min(bytes + arenas * kLeastBlockBytes, arenas * kMostBlockBytes);
  }

  Arena() = default;
  Arena(Arena&& other) noexcept { *this = std::move(other); }
  Arena& operator=(Arena&& other) noexcept;

  // Copies the two pieces, one after the other.
  std::string_view Copy(std::string_view first, std::string_view second = {}) {
    const size_t bytes = first.size() + second.size();
    if (bytes == 0) return {};
    char* to = bytes <= left_ ? Take(bytes) : Grow(bytes);
    first.copy(to, first.size());
    second.copy(to + first.size(), second.size());
    return {to, bytes};
  }
  // Takes over the bytes, which are not copied.
  std::string_view Adopt(std::string bytes);
  // Takes over all pieces of another arena.
  void Adopt(Arena other);

  size_t allocated_bytes() const { return allocated_bytes_; }

 private:
  char* Take(size_t bytes) {
    char* piece = next_;
    next_ += bytes;
    left_ -= bytes;
    return piece;
  }
  char* Grow(size_t bytes);
  char* AddBlock(size_t bytes);

  std::vector<std::unique_ptr<char[]>> blocks_;
  std::list<std::string> strings_;  // a list, because the bytes of a short string move with it
  char* next_ = nullptr;            // the free part of the last shared block
  size_t left_ = 0;
  size_t allocated_bytes_ = 0;
};

}  // namespace pando
