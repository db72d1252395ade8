// Workloads: define which operations are sent, in which proportions, and on which records.
//
// Threads: an OpStream belongs to one thread. Streams with the same mix, count and seed are equal.
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
  kPut,              // of an existing record, or of the next new one
  kScan,             // forward from the record's key
  kReadModifyWrite,  // a get, and after its answer a put of the same key
};

struct Op {
  OpKind kind = OpKind::kGet;
  uint64_t index = 0;
  uint32_t rows = 0;    // kScan
  bool insert = false;  // kPut of a new record; `index` is the stream's own count, see WithSeed
};

struct WorkloadOptions {
  std::string name = "get";
  uint64_t keys = 1'000'000;
  uint32_t read_percent = 50;  // mixed
  uint32_t scan_rows = 100;    // scan
  Distribution distribution = Distribution::kUniform;
  uint64_t seed = 1;
};

// The share of each operation in percent. The shares add up to 100.
struct Mix {
  uint32_t get = 0, put = 0, insert = 0, scan = 0, read_modify_write = 0;
  uint32_t scan_rows_min = 0, scan_rows_max = 0;
  Distribution distribution = Distribution::kUniform;
  bool sequential = false;  // load: each record once, in index order
  // scan-full: each client scans all records in key order, over and over. A scan begins where the
  // client's last one ended.
  bool scan_full = false;
};

// Names: get, put, mixed, scan, scan-full, load, ycsb-a .. ycsb-f. The YCSB workloads have their own
// distribution.
Result<Mix> MixOf(const WorkloadOptions& options);
const std::vector<std::string>& WorkloadNames();

class OpStream {
 public:
  // `keys` is the number of records in the store (with `load`: after the load).
  OpStream(const Mix& mix, uint64_t keys, uint64_t seed);
  Op Next();
  // A copy with the same mix and another seed, for one stream per thread. Unlike a new stream it
  // does not sum zeta(n) again. Each stream counts only its own inserts, so threads that share a
  // store must assign the indexes of new records together.
  OpStream WithSeed(uint64_t seed) const;

 private:
  Mix mix_;
  Random random_;
  KeyChooser chooser_;
  uint64_t next_sequential_ = 0;
};

}  // namespace pando::bench
