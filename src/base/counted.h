// Counted and CountedOf: a number and what it counts, as a person writes it.
//
// Threads: pure functions.
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

// "1 of 3 replicas is", "2 of 3 replicas are".
inline std::string CountedOf(uint64_t number, uint64_t of, std::string_view noun) {
  return fmt::format("{} of {} {}", number, Counted(of, noun), number == 1 ? "is" : "are");
}

}  // namespace pando
