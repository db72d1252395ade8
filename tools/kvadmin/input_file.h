// InputFile: a file or standard input as a stream. A signal (Interrupts) ends a blocked read. A
// signal and a system error both make the stream bad(), so neither looks like the end of the input;
// status() has the reason.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <string>

#include "src/base/result.h"

namespace pando::admin {

class InputFile {
 public:
  // "-" is standard input. A directory is kInvalidArgument.
  static Result<std::unique_ptr<InputFile>> Open(const std::string& path);
  ~InputFile();

  std::istream& stream() { return stream_; }
  // OK unless the stream is bad.
  const Status& status() const;
  uint64_t size_bytes() const { return size_bytes_; }  // of a regular file; 0 = unknown
  // Whether `fd` is open on the same file, so that writing to it would destroy the input.
  bool IsSame(int fd) const;

 private:
  class Buffer;
  InputFile(std::unique_ptr<Buffer> buffer, uint64_t size_bytes);

  std::unique_ptr<Buffer> buffer_;
  std::istream stream_;
  const uint64_t size_bytes_;
};

// Reads the whole input. kInvalidArgument when it has more than `most_bytes`.
Result<std::string> ReadInput(const std::string& path, uint64_t most_bytes);

}  // namespace pando::admin
