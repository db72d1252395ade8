// RemoveBatch: how many removes go into one write, where they need not take effect together.
//
// Many in one write are cheap. But each of them may need other pages, so a full disk may have no
// room for many, while it has room for one: that room is held back for removes (BlockAdmission).
//
// Threads: a value.
#pragma once

#include <algorithm>
#include <cstddef>

#include "src/base/result.h"

namespace pando {

class RemoveBatch {
 public:
  explicit RemoveBatch(size_t most) : most_(most), size_(most) {}
  // How many the next write should have; 1 at least.
  size_t size() const { return size_; }
  // Call with what became of each write. True: it found no room, and a smaller one may find some, so
  // write the same removes again, size() of them at a time.
  bool RetrySmaller(const Status& status) {
    if (status.ok()) size_ = std::min(size_ + 1, most_);
    if (status.code() != Code::kDiskFull || size_ == 1) return false;
    size_ /= 2;
    return true;
  }

 private:
  size_t most_;
  size_t size_;
};

}  // namespace pando
