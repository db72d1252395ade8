// Protocol: how one system is asked and how its answers are told apart. Requests are patched copies of templates and
// answers are recognised by comparing a fixed prefix, so that neither allocates: the generator must never be what is
// measured.
//
// Requests of a connection are answered in order in both protocols, so an answer needs no identity: the generator
// knows which kind it waits for.
//
// Threads: immutable after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "tools/kvbench/data.h"
#include "tools/kvbench/workload.h"

namespace pando::bench {

enum class Outcome : uint8_t { kOk, kNotFound, kError };

struct Reply {
  Outcome outcome = Outcome::kError;
  bool slow = false;            // the prefix did not fit and the general decoder was used
  std::string_view value = {};  // kGet: points into the frame
  uint32_t rows = 0;            // kScan
};

struct RecordShape {
  size_t key_bytes = 16;
  size_t value_bytes = 1000;
  uint32_t compressible_percent = kCompressiblePercent;  // of a value
};

class Protocol {
 public:
  static constexpr size_t kGarbage = SIZE_MAX;

  virtual ~Protocol() = default;

  // Appends one request. `key` has the shape's key_bytes. AppendPut returns where the caller writes the value's bytes;
  // the pointer is valid until `out` changes again.
  virtual void AppendGet(std::string_view key, std::string* out) const = 0;
  virtual char* AppendPut(std::string_view key, std::string* out) const = 0;
  virtual void AppendScan(std::string_view start_key, uint32_t rows, std::string* out) const = 0;
  virtual bool HasScan() const = 0;

  // Length of the whole answer that starts with `head`; 0 when that takes more bytes to tell; kGarbage when it is none.
  virtual size_t ReplyBytes(std::string_view head) const = 0;
  // `kind` is kGet, kPut or kScan; `frame` is exactly one answer.
  virtual Reply Parse(OpKind kind, std::string_view frame) const = 0;
  // What an answer that Parse called an error says. Slow; for messages.
  virtual std::string Describe(OpKind kind, std::string_view frame) const = 0;
  // Decodes a scan's answer in full: keys ascend and every value is what was stored.
  virtual Status CheckScan(std::string_view frame, std::string_view start_key) const = 0;
};

std::unique_ptr<Protocol> MakeThriftProtocol(const RecordShape& shape);
std::unique_ptr<Protocol> MakeRespProtocol(const RecordShape& shape);

}  // namespace pando::bench
