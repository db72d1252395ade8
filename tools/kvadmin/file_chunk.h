// FileChunk: consecutive bytes of a file that is made in pieces. ChunkPool: the memory of chunks that are written, for
// the next ones. New memory would cost a page fault for each 4 KiB.
//
// Threads: a chunk belongs to one at a time. Any thread may use a pool.
//
// Memory: a pool keeps at most kMostSpares buffers. One that has grown beyond kMostBytes, for a large row, is not kept.
#pragma once

#include <cstddef>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/kvadmin/byte_buffer.h"

namespace pando::admin {

struct FileChunk {
  ByteBuffer buffer;
  size_t begin = 0;  // what is before it in the buffer is not of the file
  std::string_view view() const { return buffer.view().substr(begin); }
};

class ChunkPool {
 public:
  static constexpr size_t kChunkBytes = 1 << 20;        // a chunk with as many is full
  static constexpr size_t kRoomBytes = 1088 << 10;      // what a new buffer has room for, so that few have to grow
  static constexpr size_t kMostBytes = 4 * kRoomBytes;  // of a buffer that is kept
  static constexpr size_t kMostSpares = 64;

  // An empty buffer.
  ByteBuffer Take() {
    ByteBuffer buffer;
    {
      std::lock_guard lock(mutex_);
      if (!spares_.empty()) {
        buffer = std::move(spares_.back());
        spares_.pop_back();
      }
    }
    buffer.Reserve(kRoomBytes);
    return buffer;
  }
  void Give(ByteBuffer buffer) {
    buffer.Clear();
    if (buffer.capacity() < kRoomBytes || buffer.capacity() > kMostBytes) return;
    std::lock_guard lock(mutex_);
    if (spares_.size() < kMostSpares) spares_.push_back(std::move(buffer));
  }

 private:
  std::mutex mutex_;
  std::vector<ByteBuffer> spares_;
};

}  // namespace pando::admin
