// Workloads: which operations are sent, in which shares, on which records.
//
// Threads: an OpStream belongs to one thread; equal mixes, counts and seeds give equal streams.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "tools/kvbench/data.h"

namespace pando::bench {

enum class OpKind : uint8_t {
  kGet,
  kPut,              // of a record that exists, or the next new one
  kScan,             // forward from the record's key
  kReadModifyWrite,  // a get, and when it is answered a put of the same key
};

struct Op {
  OpKind kind = OpKind::kGet;
  uint64_t index = 0;
  uint32_t rows = 0;    // kScan
  bool insert = false;  // kPut of a new record: `index` is the stream's own count, see OpStream
};

struct WorkloadOptions {
  std::string name = "get";
  uint64_t keys = 1'000'000;
  uint32_t read_percent = 50;  // mixed
  uint32_t scan_rows = 100;    // scan
  Distribution distribution = Distribution::kUniform;
  uint64_t seed = 1;
};

// Shares in percent; they add up to 100.
struct Mix {
  uint32_t get = 0, put = 0, insert = 0, scan = 0, read_modify_write = 0;
  uint32_t scan_rows_min = 0, scan_rows_max = 0;
  Distribution distribution = Distribution::kUniform;
  bool sequential = false;  // load: each record once, in index order
};

// get, put, mixed, scan, load, ycsb-a .. ycsb-f. YCSB brings its own distribution.
Result<Mix> MixOf(const WorkloadOptions& options);
const std::vector<std::string>& WorkloadNames();

class OpStream {
 public:
  // `keys`: how many records there are (with `load`: how many there will be).
  OpStream(const Mix& mix, uint64_t keys, uint64_t seed);
  Op Next();
  // The same mix with other dice: for one stream per thread without summing the distribution's table again. Each
  // counts its own inserts only; threads that share a store number them together.
  OpStream WithSeed(uint64_t seed) const;

 private:
  Mix mix_;
  Random random_;
  KeyChooser chooser_;
  uint64_t next_sequential_ = 0;
};

}  // namespace pando::bench
