// Protocol: encodes the requests to one system and parses its answers.
//
// Threads: immutable after construction, so any.
//
// A request is a patched copy of a template. An answer is recognized by comparing a fixed prefix.
// Neither allocates, because the generator must not be what the benchmark measures.
//
// In both protocols the requests of a connection are answered in order. An answer therefore needs
// no identity: the generator knows which kind it waits for.
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
  bool slow = false;            // the prefix did not match, so the general decoder was used
  std::string_view value = {};  // kGet: points into the frame, or is valid until the next Parse
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

  // Each Append function appends one request. `key` has the shape's key_bytes. AppendPut returns
  // where the caller must write the value. The pointer is valid until `out` changes again.
  virtual void AppendGet(std::string_view key, std::string* out) const = 0;
  // Then the caller calls EncodeValue with the same pointer.
  virtual char* AppendPut(std::string_view key, std::string* out) const = 0;
  virtual void EncodeValue(char* /*value*/) const {}
  virtual void AppendScan(std::string_view start_key, uint32_t rows, std::string* out) const = 0;
  virtual bool HasScan() const = 0;

  // The length of the whole answer that starts with `head`. 0 when more bytes are needed to know
  // it, kGarbage when `head` does not start an answer.
  virtual size_t ReplyBytes(std::string_view head) const = 0;
  // `kind` is kGet, kPut or kScan; `frame` is exactly one answer.
  virtual Reply Parse(OpKind kind, std::string_view frame) const = 0;
  // The text of an answer that Parse called an error. Slow; for messages only.
  virtual std::string Describe(OpKind kind, std::string_view frame) const = 0;
  // Decodes the whole answer of a scan, and checks that the keys ascend and that every value is one
  // that was stored.
  virtual Status CheckScan(std::string_view frame, std::string_view start_key) const = 0;
};

std::unique_ptr<Protocol> MakeThriftProtocol(const RecordShape& shape);
// With `wait_replicas`, each SET is followed by a WAIT for so many replicas, and both answers are one.
std::unique_ptr<Protocol> MakeRespProtocol(const RecordShape& shape, uint32_t wait_replicas = 0);
// The JSON gateway of etcd: POST over HTTP, on connections that are kept.
std::unique_ptr<Protocol> MakeEtcdProtocol(const RecordShape& shape);

}  // namespace pando::bench
