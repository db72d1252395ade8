#include "tools/kvbench/workload.h"

#include <fmt/ranges.h>

namespace pando::bench {

namespace {
constexpr uint32_t kFullScanRows = 4096;  // of one step of scan-full: 4 MB of records of 1 KB
}  // namespace

const std::vector<std::string>& WorkloadNames() {
  static const std::vector<std::string> names = {"get",    "put",    "mixed",  "scan",   "scan-full", "load",
                                                 "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e",    "ycsb-f"};
  return names;
}

Result<Mix> MixOf(const WorkloadOptions& options) {
  const std::string& name = options.name;
  Mix mix;
  mix.distribution = options.distribution;
  mix.scan_rows_min = mix.scan_rows_max = options.scan_rows;
  if (name == "get") return mix.get = 100, mix;
  if (name == "put") return mix.put = 100, mix;
  if (name == "scan") return mix.scan = 100, mix;
  if (name == "scan-full") {
    mix.scan = 100;
    mix.scan_full = true;
    mix.scan_rows_min = mix.scan_rows_max = kFullScanRows;
    return mix;
  }
  if (name == "load") return mix.insert = 100, mix.sequential = true, mix;
  if (name == "mixed") {
    if (options.read_percent > 100) {
      return Error(Code::kInvalidArgument, "--read_percent={} is above 100; use 0 to 100", options.read_percent);
    }
    mix.get = options.read_percent;
    mix.put = 100 - options.read_percent;
    return mix;
  }
  mix.distribution = name == "ycsb-d" ? Distribution::kLatest : Distribution::kZipfian;
  mix.scan_rows_min = 1;
  mix.scan_rows_max = 100;
  if (name == "ycsb-a") return mix.get = 50, mix.put = 50, mix;
  if (name == "ycsb-b") return mix.get = 95, mix.put = 5, mix;
  if (name == "ycsb-c") return mix.get = 100, mix;
  if (name == "ycsb-d") return mix.get = 95, mix.insert = 5, mix;
  if (name == "ycsb-e") return mix.scan = 95, mix.insert = 5, mix;
  if (name == "ycsb-f") return mix.get = 50, mix.read_modify_write = 50, mix;
  return Error(Code::kInvalidArgument, "unknown workload \"{}\"; use one of {}", name,
               fmt::join(WorkloadNames(), ", "));
}

OpStream::OpStream(const Mix& mix, uint64_t keys, uint64_t seed)
    : mix_(mix), random_(seed), chooser_(mix.distribution, keys) {
  CHECK_EQ(mix.get + mix.put + mix.insert + mix.scan + mix.read_modify_write, 100u);
}

OpStream OpStream::WithSeed(uint64_t seed) const {
  OpStream copy = *this;
  copy.random_ = Random(seed);
  return copy;
}

Op OpStream::Next() {
  if (mix_.sequential) return Op{OpKind::kPut, next_sequential_++, 0};
  auto dice = static_cast<uint32_t>(random_.Below(100));
  if (dice < mix_.get) return Op{OpKind::kGet, chooser_.Next(random_), 0};
  dice -= mix_.get;
  if (dice < mix_.put) return Op{OpKind::kPut, chooser_.Next(random_), 0};
  dice -= mix_.put;
  if (dice < mix_.insert) {
    uint64_t index = chooser_.count();
    chooser_.Grow(index + 1);
    return Op{OpKind::kPut, index, 0, true};
  }
  dice -= mix_.insert;
  if (dice < mix_.scan) {
    auto rows = mix_.scan_rows_min + random_.Below(mix_.scan_rows_max - mix_.scan_rows_min + 1);
    return Op{OpKind::kScan, chooser_.Next(random_), static_cast<uint32_t>(rows)};
  }
  return Op{OpKind::kReadModifyWrite, chooser_.Next(random_), 0};
}

}  // namespace pando::bench
