// FileWriter: appends to a file in large blocks, past the page cache (O_DIRECT) where the file system can do that. That
// takes half the time, and what other programs have in the page cache stays there.
//
// Bytes are gathered in a block of kBlockBytes. The last ones before a flush, which do not fill 4 KiB, go through the
// page cache, and are written once more with what follows.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace pando::admin {

class FileWriter {
 public:
  static constexpr size_t kBlockBytes = 4 << 20;

  // `fd` can be read and written, and is the caller's. `path` is for messages. Goes on at `offset`, where the file
  // ends.
  Status Open(int fd, std::string path, uint64_t offset);
  Status Append(std::string_view bytes);
  // Writes all that was appended, so that others see it.
  Status WriteOut();
  // The same, and makes it durable. Once that has failed, it fails for ever: the system reports a lost write only once.
  Status Flush();

 private:
  struct FreeBlock {
    void operator()(char* block) const;
  };
  Status Write(std::string_view bytes, uint64_t offset);
  void SetDirect(bool direct);

  int fd_ = -1;
  std::string path_;
  std::unique_ptr<char, FreeBlock> block_;
  size_t used_ = 0;      // of the block
  uint64_t offset_ = 0;  // of the block in the file
  bool direct_ = false;
  Status sync_failed_;
};

}  // namespace pando::admin
