#include "src/node/node_options.h"

#include <algorithm>
#include <bit>
#include <charconv>

namespace pando {

namespace {

constexpr uint64_t kMiB = 1u << 20;
// Code, glog, stacks, rings and receive buffers; measured on an idle node, with room for the allocator's slack.
constexpr uint64_t kProcessBytes = 24 * kMiB;
constexpr uint64_t kReactorBytes = 10 * kMiB;
constexpr uint64_t kConnectionBytes = 1536;  // both connection objects, the list entries
constexpr uint64_t kMinRequestBytes = 8 * kMiB;
constexpr uint64_t kMaxRequestBytes = 512 * kMiB;
constexpr uint64_t kMinEngineBytes = 16 * kMiB;
constexpr uint32_t kMaxPartitions = 4096;
constexpr uint32_t kMaxReactors = 256;
constexpr int64_t kMaxSnapshotAgeS = 366 * 24 * 3600;
constexpr uint64_t kMaxScrubMbPerS = 1'000'000;
constexpr int64_t kMaxScrubIntervalH = 100'000;

}  // namespace

Result<MemorySplit> SplitMemory(const NodeOptions& options, uint32_t reactors) {
  MemorySplit split;
  split.process_bytes = kProcessBytes + reactors * kReactorBytes;
  // A limit on connections is not a plan to have them all: a quarter is set aside, the rest comes out of requests.
  split.connection_bytes =
      std::min<uint64_t>(options.max_connections * kConnectionBytes / 4, options.memory_limit_bytes / 16);
  split.request_bytes = std::clamp(options.memory_limit_bytes / 8, kMinRequestBytes, kMaxRequestBytes);
  uint64_t taken = split.process_bytes + split.connection_bytes + split.request_bytes;
  uint64_t least = taken + reactors * kMinEngineBytes;
  if (options.memory_limit_bytes < least) {
    return Error(Code::kInvalidArgument, "--memory_limit_mb={} is too small for {} reactors; give at least {}",
                 options.memory_limit_bytes / kMiB, reactors, (least + kMiB - 1) / kMiB);
  }
  split.engine_bytes = (options.memory_limit_bytes - taken) / reactors;
  return split;
}

Status CheckOptions(const NodeOptions& options) {
  if (options.data_dir.empty()) {
    return Error(Code::kInvalidArgument,
                 "--data_dir is needed: the directory that holds the store (made when missing)");
  }
  if (options.partitions != 0 && (!std::has_single_bit(options.partitions) || options.partitions > kMaxPartitions)) {
    return Error(Code::kInvalidArgument, "--partitions={}; it must be a power of two up to {}", options.partitions,
                 kMaxPartitions);
  }
  if (options.reactors > kMaxReactors) {
    return Error(Code::kInvalidArgument, "--reactors={}; it must be at most {}", options.reactors, kMaxReactors);
  }
  if (options.page_bytes != 0 &&
      (!std::has_single_bit(options.page_bytes) || options.page_bytes < 4096 || options.page_bytes > 65536)) {
    return Error(Code::kInvalidArgument, "--page_bytes={}; it must be 4096, 8192, 16384, 32768 or 65536",
                 options.page_bytes);
  }
  if (options.http_port < -1 || options.http_port > 65535) {
    return Error(Code::kInvalidArgument, "--http_port={}; it must be from 0 to 65535, or -1 for none",
                 options.http_port);
  }
  if (options.max_connections == 0) return Error(Code::kInvalidArgument, "--max_connections must be at least 1");
  if (options.default_budget_ms < 1 || options.max_budget_ms < options.default_budget_ms) {
    return Error(Code::kInvalidArgument, "--default_budget_ms={} and --max_budget_ms={}: 1 <= default <= max must hold",
                 options.default_budget_ms, options.max_budget_ms);
  }
  if (options.snapshot_max_age_s < 1 || options.snapshot_max_age_s > kMaxSnapshotAgeS)
    return Error(Code::kInvalidArgument, "--snapshot_max_age_s must be from 1 to {}", kMaxSnapshotAgeS);
  if (options.checkpoint_interval_s < 1)
    return Error(Code::kInvalidArgument, "--checkpoint_interval_s must be at least 1");
  if (options.scrub_mb_per_s > kMaxScrubMbPerS) {
    return Error(Code::kInvalidArgument, "--scrub_mb_per_s={}; it must be at most {}, or 0 for none",
                 options.scrub_mb_per_s, kMaxScrubMbPerS);
  }
  if (options.scrub_interval_h < 1 || options.scrub_interval_h > kMaxScrubIntervalH) {
    return Error(Code::kInvalidArgument, "--scrub_interval_h={}; it must be from 1 to {}", options.scrub_interval_h,
                 kMaxScrubIntervalH);
  }
  if (options.stall_timeout_s < 1) return Error(Code::kInvalidArgument, "--stall_timeout_s must be at least 1");
  if (options.shutdown_timeout_ms < 0) return Error(Code::kInvalidArgument, "--shutdown_timeout_ms must be 0 or more");
  return {};
}

Status ParseListen(const std::string& text, std::string* host, uint16_t* port) {
  size_t colon = text.rfind(':');
  std::string_view number = colon == std::string::npos ? "" : std::string_view(text).substr(colon + 1);
  auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), *port);
  if (colon == 0 || number.empty() || error != std::errc() || end != number.data() + number.size()) {
    return Error(Code::kInvalidArgument, "\"{}\" is not host:port, for example 127.0.0.1:7420", text);
  }
  *host = text.substr(0, colon);
  if (host->size() > 2 && host->front() == '[' && host->back() == ']') *host = host->substr(1, host->size() - 2);
  return {};
}

}  // namespace pando
