// Strict parsing of numeric options. CLI11's own conversion reads "010" as octal and "0x10" as
// hexadecimal, and turns a number that is too large into the largest one. Here, a number is
// decimal, and anything else, or a number out of range, is a usage error. Every tool adds all its
// numeric options with AddNumber.
//
// Threads: one.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace pando::tools {

// The type name that marks numeric options in --help.
inline constexpr char kNumberTypeName[] = "N";

// Returns nothing if `text` is not a decimal number of type T. A number is an optional minus sign
// and digits without a leading zero; a floating-point number may have a fraction and an exponent,
// too.
template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
  std::string_view digits = text;
  if (digits.starts_with('-')) digits.remove_prefix(1);
  if (digits.empty() || digits[0] < '0' || digits[0] > '9') return std::nullopt;  // also inf, nan
  if (digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9') return std::nullopt;
  T value{};
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

template <typename T>
std::string NumberRange(T least, T most) {
  const bool lower = least != std::numeric_limits<T>::lowest(), upper = most != std::numeric_limits<T>::max();
  if (lower && upper) return fmt::format("from {} to {}", least, most);
  if (upper) return fmt::format("up to {}", most);
  if (std::is_floating_point_v<T>) return fmt::format("of at least {}", least);
  return fmt::format("from {} to {}", least, most);
}

// Adds the option `names` ("--limit", or a positional one). Its value, from `least` to `most`, is
// stored in `*target`, which must live until the command line is parsed.
template <typename T>
CLI::Option* AddNumber(CLI::App* app, const std::string& names, T* target, const std::string& help,
                       std::type_identity_t<T> least = std::numeric_limits<T>::lowest(),
                       std::type_identity_t<T> most = std::numeric_limits<T>::max()) {
  auto take = [target, least, most, names](const CLI::results_t& results) {
    const std::optional<T> value = ParseNumber<T>(results.back());
    if (!value || *value < least || *value > most) {
      throw CLI::ValidationError(
          names.substr(0, names.find(',')),
          fmt::format("\"{}\" is not a {} {}", results.back(),
                      std::is_floating_point_v<T> ? "number" : "decimal whole number", NumberRange<T>(least, most)));
    }
    *target = *value;
    return true;
  };
  CLI::Option* option =
      app->add_option(names, take, help, /*defaulted=*/false, [target] { return fmt::format("{}", *target); });
  option->type_name(kNumberTypeName)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  return option;
}

}  // namespace pando::tools
