#include "src/router/router_options.h"

#include <algorithm>

#include "src/base/address.h"
#include "src/io/socket_address.h"

namespace pando {

namespace {

constexpr size_t kMaxSeeds = 256;
constexpr uint32_t kMaxReactors = 256;
constexpr int64_t kMaxHedgePercent = 2;

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

std::span<const FlagRange> RouterFlagRanges() {
  static constexpr FlagRange kRanges[] = {
      {"http_port", 0, UINT16_MAX, -1, "-1 for none"},
      {"reactors", 1, kMaxReactors, 0, "0 for one per CPU"},
      {"memory_limit_mb", kMinRouterMemoryBytes >> 20, int64_t{1} << 24},
      {"max_connections", 1, 1'000'000},
      {"default_budget_ms", 1, INT32_MAX},
      {"max_budget_ms", 1, INT32_MAX},
      {"stall_timeout_s", 1, 86'400},
      {"idle_timeout_s", 1, INT32_MAX, 0, "0 for never"},
      {"shutdown_timeout_ms", 0, 3'600'000},
      {"hedge_percent", 0, kMaxHedgePercent},
  };
  return kRanges;
}

Status CheckOptions(const RouterOptions& options) {
  if (options.nodes.empty()) {
    return Error(Code::kInvalidArgument, "--nodes is missing: host:port of one or more nodes of the cluster");
  }
  const auto check = [](const char* flag, auto value) { return CheckRange(RouterFlagRanges(), flag, value); };
  RETURN_IF_ERROR(check("http_port", options.http_port));
  if (options.port != 0 && options.http_port == options.port) {
    return Error(Code::kInvalidArgument, "--listen and --http_port both name port {}; choose another for one of them",
                 options.port);
  }
  RETURN_IF_ERROR(check("reactors", options.reactors));
  RETURN_IF_ERROR(check("memory_limit_mb", options.memory_limit_bytes >> 20));
  const uint64_t most_cached = options.memory_limit_bytes - kMinRouterMemoryBytes;
  if (options.cache_bytes > most_cached) {
    return Error(Code::kInvalidArgument,
                 "--cache_mb={}: with --memory_limit_mb={} it must be 0 to {}, so that there is memory for requests",
                 options.cache_bytes >> 20, options.memory_limit_bytes >> 20, most_cached >> 20);
  }
  RETURN_IF_ERROR(check("max_connections", options.max_connections));
  RETURN_IF_ERROR(check("default_budget_ms", options.default_budget_ms));
  RETURN_IF_ERROR(check("max_budget_ms", options.max_budget_ms));
  if (options.max_budget_ms < options.default_budget_ms) {
    return Error(Code::kInvalidArgument, "--default_budget_ms={} is larger than --max_budget_ms={}",
                 options.default_budget_ms, options.max_budget_ms);
  }
  RETURN_IF_ERROR(check("stall_timeout_s", options.stall_timeout_s));
  RETURN_IF_ERROR(check("idle_timeout_s", options.idle_timeout_s));
  if (!(options.hedge_percent >= 0 && options.hedge_percent <= double{kMaxHedgePercent})) {
    return Error(Code::kInvalidArgument, "--hedge_percent={}; it must be from 0 to {}", options.hedge_percent,
                 kMaxHedgePercent);
  }
  return check("shutdown_timeout_ms", options.shutdown_timeout_ms);
}

}  // namespace pando
