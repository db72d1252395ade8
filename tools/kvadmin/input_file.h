// InputFile: a file or standard input, read as a stream. A signal (Interrupts) ends a read that waits, and an error of
// the system is kept with its reason; both make the stream bad(), so that neither looks like the end of the input.
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
  // "-" is standard input. A directory is an error.
  static Result<std::unique_ptr<InputFile>> Open(const std::string& path);
  ~InputFile();

  std::istream& stream() { return stream_; }
  // OK unless the stream is bad.
  const Status& status() const;
  uint64_t size_bytes() const { return size_bytes_; }  // of a plain file; 0 = not known

 private:
  class Buffer;
  InputFile(std::unique_ptr<Buffer> buffer, uint64_t size_bytes);

  std::unique_ptr<Buffer> buffer_;
  std::istream stream_;
  const uint64_t size_bytes_;
};

// All of it; kInvalidArgument when there are more than `most_bytes`.
Result<std::string> ReadInput(const std::string& path, uint64_t most_bytes);

}  // namespace pando::admin
