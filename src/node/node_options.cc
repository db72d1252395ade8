#include "src/node/node_options.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "src/base/address.h"
#include "src/base/counted.h"
#include "src/engine/engine.h"
#include "src/io/socket_address.h"
#include "src/topology/topology_spec.h"

namespace pando {

namespace {

constexpr uint64_t kMiB = 1u << 20;
// Code, glog, stacks, rings and receive buffers: measured on an idle node, plus room for the
// allocator's slack.
constexpr uint64_t kProcessBytes = 24 * kMiB;
constexpr uint64_t kReactorBytes = 10 * kMiB;
constexpr uint64_t kConnectionBytes = 1536;  // both connection objects and their list entries
constexpr uint64_t kMinRequestBytes = 8 * kMiB;
constexpr uint64_t kMaxRequestBytes = 512 * kMiB;
constexpr uint64_t kMinEngineBytes = 16 * kMiB;
// Descriptors that are not counted per reactor or partition: standard streams, the logging
// library's files, the lock, and those that are open only for a moment.
constexpr uint64_t kProcessDescriptors = 64;
// Ring, wake-up, listeners, the log's directory, its current, next and retiring segments, and the
// scrub's files.
constexpr uint64_t kReactorDescriptors = 24;
constexpr uint64_t kPartitionDescriptors = 1;               // its data file
constexpr uint64_t kHttpDescriptors = kMaxHttpSockets + 8;  // its sockets, its listener, and some spare
constexpr uint32_t kMinSockets = 16;
constexpr uint64_t kSpareShare = 4;  // of the descriptors that are left, for partitions that may come
// Per reactor: connections over the limit that stay open until they have been told so.
constexpr uint32_t kMaxRefusedSockets = 64;
constexpr uint32_t kMaxReactors = 256;
// Of each reactor's log: a segment, and several of the largest batches.
constexpr uint64_t kMinLogMb = 8;
constexpr uint64_t kMinLogRecords = 10'000;

uint32_t PageBytes(const StoreShape& shape) { return shape.page_bytes ? shape.page_bytes : kDefaultPageBytes; }
// All engines get the same.
uint64_t MinEngineBytes(const StoreShape& shape) {
  return std::max(kMinEngineBytes, Engine::MinMemoryBytes(PageBytes(shape), shape.fullest, shape.ranges));
}

// Divides `limit_bytes`, except for the engines' part.
MemorySplit SplitWithoutEngines(const NodeOptions& options, uint32_t reactors, uint64_t limit_bytes) {
  MemorySplit split;
  split.process_bytes = kProcessBytes + reactors * kReactorBytes;
  // Few nodes ever have as many connections as the limit allows. A quarter of their cost is set
  // aside; the rest comes out of the memory for requests.
  split.connection_bytes = std::min<uint64_t>(options.max_connections * kConnectionBytes / 4, limit_bytes / 16);
  split.request_bytes = std::clamp(limit_bytes / 8, kMinRequestBytes, kMaxRequestBytes);
  return split;
}

uint64_t Needed(const MemorySplit& split, const StoreShape& shape) {
  return split.process_bytes + split.connection_bytes + split.request_bytes + shape.reactors * MinEngineBytes(shape);
}

// The smallest limit that works, in MiB.
uint64_t LeastLimit(const NodeOptions& options, const StoreShape& shape) {
  // The need grows with the limit, but more slowly, so this loop ends.
  uint64_t limit_bytes = 0;
  for (;;) {
    const uint64_t needed = Needed(SplitWithoutEngines(options, shape.reactors, limit_bytes), shape);
    if (needed <= limit_bytes) return limit_bytes / kMiB;
    limit_bytes = (needed + kMiB - 1) / kMiB * kMiB;
  }
}

}  // namespace

StoreShape ShapeOf(const StoreInfo& store, uint32_t reactors) {
  StoreShape shape{reactors, store.page_bytes, store.IdLimit(), static_cast<uint32_t>(store.partitions.size()), 0};
  std::vector<uint32_t> by_reactor(reactors);
  for (const PartitionInfo& p : store.partitions)
    shape.fullest = std::max(shape.fullest, ++by_reactor[p.id % reactors]);
  return shape;
}

StoreShape ShapeOfNew(uint32_t partitions, uint32_t page_bytes, uint32_t reactors) {
  return {reactors, page_bytes, partitions, partitions, (partitions + reactors - 1) / reactors};
}

Result<MemorySplit> SplitMemory(const NodeOptions& options, const StoreShape& shape) {
  MemorySplit split = SplitWithoutEngines(options, shape.reactors, options.memory_limit_bytes);
  const uint64_t needed = Needed(split, shape);
  if (options.memory_limit_bytes < needed) {
    return Error(
        Code::kInvalidArgument,
        "--memory_limit_mb={} is too small for {} reactors, {} partitions and pages of {} bytes; give at least {}",
        options.memory_limit_bytes / kMiB, shape.reactors, shape.partitions, PageBytes(shape),
        LeastLimit(options, shape));
  }
  const uint64_t taken = needed - shape.reactors * MinEngineBytes(shape);
  split.engine_bytes = (options.memory_limit_bytes - taken) / shape.reactors;
  return split;
}

Result<DescriptorSplit> SplitDescriptors(const NodeOptions& options, uint64_t limit, const StoreShape& shape) {
  DescriptorSplit split;
  split.limit = limit;
  // Of a cluster: as many connections to other nodes as from them, and a file of each replica.
  const uint64_t per_partition = kPartitionDescriptors + options.clustered();
  split.peer_sockets = options.clustered() ? static_cast<uint32_t>(std::min<uint64_t>(kMaxPeerSockets, limit / 8)) : 0;
  split.reserved = kProcessDescriptors + shape.reactors * kReactorDescriptors + shape.partitions * per_partition +
                   2 * uint64_t{split.peer_sockets} + (options.http_port >= 0 ? kHttpDescriptors : 0);
  if (limit < split.reserved + kMinSockets) {
    return Error(Code::kInvalidArgument,
                 "the process may open only {} descriptors, but {} reactors and {} partitions need at least {}; raise "
                 "RLIMIT_NOFILE (ulimit -n, LimitNOFILE= in a systemd unit)",
                 limit, shape.reactors, shape.partitions, split.reserved + kMinSockets);
  }
  // Partitions that may come must not leave clients without connections.
  const uint64_t spare = (limit - split.reserved - kMinSockets) / kSpareShare / per_partition / shape.reactors;
  split.spare_partitions = static_cast<uint32_t>(std::min(spare, kSparePartitions));
  // Of a cluster, halves of partitions may come too.
  uint64_t may_come = shape.ranges - shape.partitions;
  if (options.clustered()) may_come += shape.ranges + 2 * uint64_t{shape.reactors};
  split.reserved += std::min<uint64_t>(uint64_t{split.spare_partitions} * shape.reactors, may_come) * per_partition;
  const uint64_t left = std::min<uint64_t>(limit - split.reserved, UINT32_MAX / 2);
  // A few sockets beyond the limit, to tell further clients that there are too many connections.
  const uint64_t refused = std::min<uint64_t>(uint64_t{kMaxRefusedSockets} * shape.reactors, left / 8);
  split.connections = static_cast<uint32_t>(std::min<uint64_t>(options.max_connections, left - refused));
  split.sockets = static_cast<uint32_t>(split.connections + refused);
  return split;
}

Status CheckLogBudget(const NodeOptions& options, uint32_t reactors) {
  if (options.log_budget_bytes < reactors * kMinLogMb * kMiB) {
    return Error(Code::kInvalidArgument,
                 "--log_budget_mb={} is too small for the logs of {}; give at least {} (the default is {})",
                 options.log_budget_bytes / kMiB, Counted(reactors, "reactor"), reactors * kMinLogMb,
                 NodeOptions().log_budget_bytes / kMiB);
  }
  if (options.log_budget_records < reactors * kMinLogRecords) {
    return Error(Code::kInvalidArgument,
                 "--log_budget_records={} is too small for the logs of {}; give at least {} (the default is "
                 "{})",
                 options.log_budget_records, Counted(reactors, "reactor"), reactors * kMinLogRecords,
                 NodeOptions().log_budget_records);
  }
  return {};
}

namespace {

Status CheckNumbers(const NodeOptions& o) {
  const auto check = [](const char* flag, auto value) { return CheckRange(NodeFlagRanges(), flag, value); };
  RETURN_IF_ERROR(check("reactors", o.reactors));
  RETURN_IF_ERROR(check("http_port", o.http_port));
  RETURN_IF_ERROR(check("memory_limit_mb", o.memory_limit_bytes / kMiB));
  RETURN_IF_ERROR(check("log_budget_mb", o.log_budget_bytes / kMiB));
  RETURN_IF_ERROR(check("log_retained_mb", o.log_retained_bytes / kMiB));
  RETURN_IF_ERROR(check("max_connections", o.max_connections));
  RETURN_IF_ERROR(check("default_budget_ms", o.default_budget_ms));
  RETURN_IF_ERROR(check("max_budget_ms", o.max_budget_ms));
  if (o.max_budget_ms < o.default_budget_ms) {
    return Error(Code::kInvalidArgument, "--default_budget_ms={} is larger than --max_budget_ms={}",
                 o.default_budget_ms, o.max_budget_ms);
  }
  RETURN_IF_ERROR(check("snapshot_max_age_s", o.snapshot_max_age_s));
  RETURN_IF_ERROR(check("checkpoint_interval_s", o.checkpoint_interval_s));
  RETURN_IF_ERROR(check("scrub_mb_per_s", o.scrub_mb_per_s));
  RETURN_IF_ERROR(check("scrub_interval_h", o.scrub_interval_h));
  RETURN_IF_ERROR(check("idle_timeout_s", o.idle_timeout_s));
  RETURN_IF_ERROR(check("gather_mb_per_s", o.gather_mb_per_s));
  RETURN_IF_ERROR(check("release_space_mb_per_s", o.release_space_mb_per_s));
  RETURN_IF_ERROR(check("release_space_after_s", o.release_space_after_s));
  RETURN_IF_ERROR(check("balance_moves_per_minute", o.balance_moves_per_minute));
  RETURN_IF_ERROR(check("balance_target_percent", o.balance_target_percent));
  RETURN_IF_ERROR(check("replace_after_s", o.replace_after_s));
  RETURN_IF_ERROR(check("install_mb_per_s", o.install_mb_per_s));
  RETURN_IF_ERROR(check("stall_timeout_s", o.stall_timeout_s));
  return check("shutdown_timeout_ms", o.shutdown_timeout_ms);
}

// What concerns a node of a cluster, or one that is alone and is told otherwise.
Status CheckClusterFlags(const NodeOptions& options) {
  if (options.clustered() && options.partitions != 0) {
    return Error(
        Code::kInvalidArgument,
        "--partitions and --topology are both given; the number of partitions is that of the cluster, so leave "
        "--partitions out");
  }
  if (!options.clustered() && (options.node_id != 0 || !options.peer_host.empty())) {
    return Error(Code::kInvalidArgument, "{} means nothing without --topology, which says where the cluster's map is",
                 options.node_id != 0 ? "--node_id" : "--peer_listen");
  }
  if (options.clustered()) {
    ASSIGN_OR_RETURN(const TopologySpec spec, ParseTopologySpec(options.topology));
    RETURN_IF_ERROR(CheckApart(spec, options.data_dir));
  }
  // The topology tells other nodes and clients this address, and nobody can connect to "any".
  for (const auto& [flag, host] :
       {std::pair("--listen", options.host), std::pair("--peer_listen", options.peer_host)}) {
    if (!options.clustered() || (host != "0.0.0.0" && host != "::")) continue;
    return Error(Code::kInvalidArgument,
                 "{}={} names no machine; in a cluster, other nodes and clients connect to this address: give that of "
                 "one interface of this machine, as in {}=10.0.0.1:7420",
                 flag, host, flag);
  }
  return {};
}

}  // namespace

std::span<const FlagRange> NodeFlagRanges() {
  constexpr int64_t kHour = 3600, kDay = 24 * kHour, kMaxMb = int64_t{1} << 30;
  static constexpr FlagRange kRanges[] = {
      {"reactors", 1, kMaxReactors, 0, "0 for the store's number, or one per CPU for a new store"},
      {"http_port", 0, 65535, -1, "-1 for none"},
      {"memory_limit_mb", 0, kMaxMb},
      {"log_budget_mb", 0, kMaxMb},
      {"log_budget_records", 0, INT64_MAX},
      {"log_retained_mb", 1, kMaxMb, 0, "0 for none"},
      {"max_connections", 1, UINT32_MAX},
      {"default_budget_ms", 1, INT32_MAX},
      {"max_budget_ms", 1, INT32_MAX},
      {"snapshot_max_age_s", 1, 366 * kDay},
      {"checkpoint_interval_s", 1, 30 * kDay},
      {"scrub_mb_per_s", 1, 1'000'000, 0, "0 for never"},
      {"scrub_interval_h", 1, 100'000},
      {"idle_timeout_s", 1, 366 * kDay, 0, "0 for never"},
      {"gather_mb_per_s", 1, 1'000'000, 0, "0 for never"},
      {"release_space_mb_per_s", 1, 1'000'000, 0, "0 for never"},
      {"release_space_after_s", 1, 30 * kDay},
      {"balance_moves_per_minute", 1, 600},
      {"balance_target_percent", 10, 95},
      {"replace_after_s", 1, 30 * kDay, 0, "0 for never"},
      {"install_mb_per_s", 1, 1'000'000, 0, "0 for no limit"},
      {"stall_timeout_s", 1, INT32_MAX},
      {"shutdown_timeout_ms", 0, INT32_MAX},
  };
  return kRanges;
}

Result<AutoBalance> ParseAutoBalance(const std::string& text) {
  if (text == "off") return AutoBalance::kOff;
  if (text == "log") return AutoBalance::kLog;
  if (text == "on") return AutoBalance::kOn;
  return Error(Code::kInvalidArgument, "--auto_balance={}; it must be off, log or on", text);
}

Status CheckPorts(const NodeOptions& options) {
  if (options.port != 0 && options.http_port == options.port) {
    return Error(Code::kInvalidArgument, "--listen and --http_port both name port {}; choose another for one of them",
                 options.port);
  }
  if (options.peer_port == 0 || options.peer_host != options.host) return {};
  const int32_t last = options.peer_port + static_cast<int32_t>(std::max(options.reactors, 1u)) - 1;
  for (const auto& [flag, port] : {std::pair("--listen", int32_t{options.port}), {"--http_port", options.http_port}}) {
    if (port < options.peer_port || port > last) continue;
    return Error(Code::kInvalidArgument,
                 "{} and --peer_listen both name port {}: --peer_listen takes {}; choose another for one of them", flag,
                 port,
                 last == options.peer_port ? "one for each reactor from its own on"
                                           : fmt::format("{} to {}, one for each reactor", options.peer_port, last));
  }
  return {};
}

Status CheckOptions(const NodeOptions& options) {
  if (options.data_dir.empty()) {
    return Error(Code::kInvalidArgument,
                 "--data_dir is required: the directory of the store, which is created if missing");
  }
  // What a shell makes of `--data_dir $UNSET --listen=...`.
  if (options.data_dir.starts_with("--")) {
    return Error(Code::kInvalidArgument,
                 "--data_dir={} looks like a flag, so the directory's name is missing; write ./{} if it is meant",
                 options.data_dir, options.data_dir);
  }
  if (options.partitions != 0 && (!std::has_single_bit(options.partitions) || options.partitions > kMaxPartitions)) {
    return Error(Code::kInvalidArgument, "--partitions={}; it must be a power of two up to {}", options.partitions,
                 kMaxPartitions);
  }
  RETURN_IF_ERROR(CheckClusterFlags(options));
  if (options.page_bytes != 0 &&
      (!std::has_single_bit(options.page_bytes) || options.page_bytes < 4096 || options.page_bytes > 65536)) {
    return Error(Code::kInvalidArgument, "--page_bytes={}; it must be 4096, 8192, 16384, 32768 or 65536",
                 options.page_bytes);
  }
  RETURN_IF_ERROR(CheckNumbers(options));
  return CheckPorts(options);
}

Status ParseListen(const std::string& text, std::string* host, uint16_t* port) {
  ASSIGN_OR_RETURN(HostPort address, ParseHostPort(text, /*any_port=*/true));
  if (Result<SocketAddress> parsed = SocketAddress::Parse(address.host, address.port); !parsed.ok()) {
    return parsed.TakeStatus();
  }
  *host = std::move(address.host);
  *port = address.port;
  return {};
}

}  // namespace pando
