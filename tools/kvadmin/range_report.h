// RangeReport: what is in a range: records and bytes, the prefixes that have most of the bytes, and how large the
// values are. And how that looks as a table, as JSON and as an SVG.
//
// The store knows number and bytes of any range at once, so prefixes are found by asking for the first key, for the
// sums of its prefix, and for the first key after that. That takes two requests for each prefix, however many records
// it has. Sizes of values are read (`sizes_only`), all of them or a sample.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/base/result.h"
#include "src/model/types.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/range.h"

namespace pando::admin {

// How many values have which size.
class SizeHistogram {
 public:
  // Sizes from `least` to `most`: 0, 1, 2 to 3, 4 to 7, and so on.
  struct Bucket {
    uint64_t least = 0, most = 0, records = 0, bytes = 0;
  };
  void Add(uint64_t size, uint64_t records = 1);
  uint64_t records() const { return records_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t max() const { return max_; }
  // The smallest size that so many percent of the values do not exceed; 0 without values.
  uint64_t Percentile(double percent) const;
  // From the first to the last that has values.
  std::vector<Bucket> Buckets() const;

 private:
  std::vector<uint64_t> counts_;  // by size
  uint64_t records_ = 0, bytes_ = 0, max_ = 0;
};

struct RangeReport {
  struct Prefix {
    std::string prefix;
    RangeAggregates sums;
  };
  Range range;
  int64_t version = 0;  // of the snapshot; 0: unknown
  RangeAggregates sums;
  std::vector<Prefix> prefixes;  // those with the most bytes, descending
  uint64_t prefixes_found = 0;
  RangeAggregates other_prefixes;  // of those that were found and are not in `prefixes`
  std::string looked_up_to;        // keys from here on were not looked at for prefixes; empty: all were
  RangeAggregates not_looked_at;
  SizeHistogram sizes;
  bool sampled = false;  // `sizes` has not all values
};

// What the keys of a group begin with: `prefix` and what follows up to and including `delimiter`, or, if it does not
// follow, so many bytes.
std::string GroupOf(std::string_view key, std::string_view prefix, std::string_view delimiter, size_t bytes);
// The first key above all that begin with `prefix`; empty if there is none.
std::string AfterPrefix(std::string prefix);

std::string ReportTable(const RangeReport& report, Encoding encoding);
nlohmann::ordered_json ReportJson(const RangeReport& report);
std::string ReportSvg(const RangeReport& report, Encoding encoding);

}  // namespace pando::admin
