// FlagRange: which numbers a flag of a server takes, and the refusal of others.
//
// A value that is no number never reaches the check of a flag's range: gflags ends the process before, and names
// neither the unit nor the range. So CheckNumberFlags looks at the command line before gflags does.
//
// Threads: plain values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/result.h"

namespace pando {

struct FlagRange {
  const char* flag;  // without "--"; its unit is at the end: _s, _ms, _h, _mb, _mb_per_s, _percent
  int64_t least, most;
  // A number beyond these that means something else, and what: "0 for never".
  int64_t special = 0;
  const char* meaning = nullptr;  // null: there is none
};

// "from 1 to 600, or 0 for never"
std::string AllowedText(const FlagRange& range);

// kInvalidArgument: "--FLAG=VALUE; it must be ...".
template <typename T>
Status CheckRange(const FlagRange& range, T value) {
  if (std::cmp_greater_equal(value, range.least) && std::cmp_less_equal(value, range.most)) return {};
  if (range.meaning != nullptr && std::cmp_equal(value, range.special)) return {};
  return Error(Code::kInvalidArgument, "--{}={}; it must be {}", range.flag, value, AllowedText(range));
}

// REQUIRES: `ranges` has the flag.
template <typename T>
Status CheckRange(std::span<const FlagRange> ranges, std::string_view flag, T value) {
  const auto at = std::find_if(ranges.begin(), ranges.end(), [&](const FlagRange& r) { return flag == r.flag; });
  CHECK(at != ranges.end()) << flag << " has no range";
  return CheckRange(*at, value);
}

// kInvalidArgument: the command line gives a flag that is a number as something else, as in --idle_timeout_s=1h.
// REQUIRES: gflags has not read it yet. What gflags refuses for other reasons is left to it.
Status CheckNumberFlags(int argc, char* const* argv, std::span<const FlagRange> ranges);

}  // namespace pando
