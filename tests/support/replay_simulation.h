// The command that replays a seed of the simulations of replication, from the root of the source tree.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace pando {

// `which`: "core" or "nodes", as ./dev sim names them.
inline std::string ReplayOfSimulation(const char* which, uint64_t seed) {
#ifdef PANDO_SANITIZED
  const char* preset = " --asan";
#else
  const char* preset = "";
#endif
  return fmt::format("./dev sim --{}{} --seed {}", which, preset, seed);
}

}  // namespace pando
