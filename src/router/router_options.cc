#include "src/router/router_options.h"

#include <algorithm>

#include "src/base/address.h"
#include "src/io/socket_address.h"

namespace pando {

namespace {

constexpr size_t kMaxSeeds = 256;
constexpr uint32_t kMaxReactors = 256;
constexpr double kMaxHedgePercent = 2;

Status CheckRange(const char* flag, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return {};
  return Error(Code::kInvalidArgument, "--{}={}: it must be {} to {}", flag, value, least, most);
}

}  // namespace

Result<std::vector<std::string>> ParseNodes(const std::string& text) {
  std::vector<std::string> nodes;
  for (size_t from = 0; from <= text.size();) {
    const size_t comma = std::min(text.find(',', from), text.size());
    const std::string part = text.substr(from, comma - from);
    from = comma + 1;
    ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(part));
    if (Result<SocketAddress> parsed = SocketAddress::Parse(at.host, at.port); !parsed.ok()) return parsed.TakeStatus();
    const std::string normal = FormatHostPort(at.host, at.port);
    if (std::find(nodes.begin(), nodes.end(), normal) == nodes.end()) nodes.push_back(normal);
  }
  if (nodes.size() > kMaxSeeds) {
    return Error(Code::kInvalidArgument, "{} nodes are more than {}; a few are enough, the router finds the others",
                 nodes.size(), kMaxSeeds);
  }
  return nodes;
}

Status CheckOptions(const RouterOptions& options) {
  if (options.nodes.empty()) {
    return Error(Code::kInvalidArgument, "--nodes is missing: host:port of one or more nodes of the cluster");
  }
  RETURN_IF_ERROR(CheckRange("http_port", options.http_port, -1, UINT16_MAX));
  RETURN_IF_ERROR(CheckRange("reactors", options.reactors, 0, kMaxReactors));
  RETURN_IF_ERROR(CheckRange("memory_limit_mb", static_cast<int64_t>(options.memory_limit_bytes >> 20),
                             kMinRouterMemoryBytes >> 20, int64_t{1} << 24));
  const uint64_t most_cached = options.memory_limit_bytes - kMinRouterMemoryBytes;
  if (options.cache_bytes > most_cached) {
    return Error(Code::kInvalidArgument,
                 "--cache_mb={}: with --memory_limit_mb={} it must be 0 to {}, so that there is memory for requests",
                 options.cache_bytes >> 20, options.memory_limit_bytes >> 20, most_cached >> 20);
  }
  RETURN_IF_ERROR(CheckRange("max_connections", options.max_connections, 1, 1'000'000));
  RETURN_IF_ERROR(CheckRange("default_budget_ms", options.default_budget_ms, 1, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("max_budget_ms", options.max_budget_ms, options.default_budget_ms, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("stall_timeout_s", options.stall_timeout_s, 1, 86'400));
  RETURN_IF_ERROR(CheckRange("idle_timeout_s", options.idle_timeout_s, 0, INT32_MAX));
  if (!(options.hedge_percent >= 0 && options.hedge_percent <= kMaxHedgePercent)) {
    return Error(Code::kInvalidArgument, "--hedge_percent={}: it must be 0 to {}", options.hedge_percent,
                 kMaxHedgePercent);
  }
  return CheckRange("shutdown_timeout_ms", options.shutdown_timeout_ms, 0, 3'600'000);
}

}  // namespace pando
