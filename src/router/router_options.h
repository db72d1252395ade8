// RouterOptions: the settings of a kvrouter.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/flag_range.h"
#include "src/base/result.h"

namespace pando {

struct RouterOptions {
  std::vector<std::string> nodes;  // host:port; any of the cluster
  std::string host = "127.0.0.1";
  uint16_t port = 7450;      // 0: any free port
  int32_t http_port = 7451;  // 0: any free port; -1: no HTTP
  uint32_t reactors = 0;     // 0: one per usable CPU
  uint64_t memory_limit_bytes = 512u << 20;
  uint32_t max_connections = 20'000;
  int32_t default_budget_ms = 10'000;
  int32_t max_budget_ms = 600'000;
  int32_t stall_timeout_s = 60;
  int64_t idle_timeout_s = 3600;  // 0: never
  int32_t shutdown_timeout_ms = 5'000;
  uint64_t cache_bytes = 0;  // for reads at BOUNDED; 0: no cache
  double hedge_percent = 0;  // of reads at BOUNDED; 0: none is sent twice
};

// Of the memory limit, for the process itself: code, stacks, connections to nodes, the allocator's slack.
inline constexpr uint64_t kRouterProcessBytes = 64u << 20;
inline constexpr uint64_t kMinRouterMemoryBytes = 128u << 20;

// Of the flags of kvrouter that are numbers.
std::span<const FlagRange> RouterFlagRanges();
// Checks every field. The error names the flag and its allowed values.
Status CheckOptions(const RouterOptions& options);
// Splits "h1:p,h2:p". kInvalidArgument names the part that is not an address.
Result<std::vector<std::string>> ParseNodes(const std::string& text);

}  // namespace pando
