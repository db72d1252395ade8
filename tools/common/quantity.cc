#include "tools/common/quantity.h"

#include <cmath>

#include "tools/common/command_line.h"

namespace pando::tools {

std::optional<double> ParseQuantity(std::string_view text) {
  constexpr std::string_view kSuffixes = "KMGTP";
  double base = 1000;
  if (text.ends_with('i')) {
    base = 1024;
    text.remove_suffix(1);
  }
  double factor = 1;
  const size_t suffix = text.empty() ? std::string_view::npos : kSuffixes.find(text.back());
  if (suffix != std::string_view::npos) {
    factor = std::pow(base, static_cast<double>(suffix + 1));
    text.remove_suffix(1);
  } else if (base == 1024) {
    return std::nullopt;
  }
  const std::optional<double> number = ParseNumber<double>(text);
  if (!number || *number < 0 || !std::isfinite(*number * factor)) return std::nullopt;
  return *number * factor;
}

}  // namespace pando::tools
