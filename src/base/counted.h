// Counted: a number and what it counts, as a person writes it.
//
// Threads: a pure function.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace pando {

// "1 problem", "2 problems": for nouns whose plural ends in s.
inline std::string Counted(uint64_t number, std::string_view noun) {
  return fmt::format("{} {}{}", number, noun, number == 1 ? "" : "s");
}

}  // namespace pando
