#include "src/base/arena.h"

#include <iterator>

namespace pando {

Arena& Arena::operator=(Arena&& other) noexcept {
  blocks_ = std::move(other.blocks_);
  strings_ = std::move(other.strings_);
  next_ = std::exchange(other.next_, nullptr);
  left_ = std::exchange(other.left_, 0);
  allocated_bytes_ = std::exchange(other.allocated_bytes_, 0);
  other.blocks_.clear();
  other.strings_.clear();
  return *this;
}

char* Arena::AddBlock(size_t bytes) {
  allocated_bytes_ += bytes;
  return blocks_.emplace_back(std::make_unique_for_overwrite<char[]>(bytes)).get();
}

char* Arena::Grow(size_t bytes) {
  const size_t block_bytes = std::clamp(allocated_bytes_, kLeastBlockBytes, kMostBlockBytes);
  if (bytes > block_bytes / 8) return AddBlock(bytes);
  next_ = AddBlock(block_bytes);
  left_ = block_bytes;
  return Take(bytes);
}

std::string_view Arena::Adopt(std::string bytes) {
  allocated_bytes_ += bytes.capacity();
  return strings_.emplace_back(std::move(bytes));
}

void Arena::Adopt(Arena other) {
  std::move(other.blocks_.begin(), other.blocks_.end(), std::back_inserter(blocks_));
  strings_.splice(strings_.end(), other.strings_);
  allocated_bytes_ += other.allocated_bytes_;
}

}  // namespace pando
