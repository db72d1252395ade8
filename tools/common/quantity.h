// ParseQuantity reads sizes and other large numbers as people write them.
//
// Threads: a pure function.
#pragma once

#include <optional>
#include <string_view>

namespace pando::tools {

// A number as ParseNumber takes it, not negative, and optionally a suffix: K, M, G, T or P stand for powers of 1000,
// and Ki, Mi, Gi, Ti or Pi for powers of 1024. "4T", "64Gi", "1.5M", "100e9". Nothing if `text` is something else, or
// is not finite.
std::optional<double> ParseQuantity(std::string_view text);

}  // namespace pando::tools
