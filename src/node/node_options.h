// NodeOptions: the settings of a kvnode, and how it divides its memory and its file descriptors.
//
// Threads: plain values, owned by whoever holds them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "src/base/flag_range.h"
#include "src/base/result.h"
#include "src/buffer_pool/page.h"
#include "src/io/reactor.h"
#include "src/partition/store.h"
#include "src/replication/rules.h"

namespace pando {

// Whether replicas move off nodes with too much traffic (src/node/balancer.h): not at all, or it is only logged, or
// done.
enum class AutoBalance : uint8_t { kOff, kLog, kOn };
Result<AutoBalance> ParseAutoBalance(const std::string& text);

struct NodeOptions {
  std::string data_dir;
  std::string host = "127.0.0.1";
  uint16_t port = 7420;      // 0: any free port
  int32_t http_port = 7421;  // 0: any free port; -1: no HTTP
  // 0: as the store was created; for a new store one per usable CPU, kDefaultPartitions and
  // the engine's default.
  uint32_t reactors = 0;
  uint32_t partitions = 0;
  uint32_t page_bytes = 0;
  Compression compression = Compression::kLz4;  // of pages written from now on
  uint64_t memory_limit_bytes = 1024u << 20;
  uint64_t log_budget_bytes = 512u << 20;  // of all reactors together
  uint64_t log_budget_records = 4'000'000;
  uint64_t log_retained_bytes = 0;  // of all reactors together: of log that only followers may still need
  int64_t checkpoint_interval_s = 60;
  int64_t snapshot_max_age_s = 24 * 3600;
  uint64_t scrub_mb_per_s = 8;  // of all reactors together; 0: no background scrub
  int64_t scrub_interval_h = 168;
  uint64_t gather_mb_per_s = 8;          // of all reactors together; 0: scattered leaves stay so
  uint64_t release_space_mb_per_s = 64;  // of all reactors together; 0: space stays in the files
  int64_t release_space_after_s = 60;
  uint32_t max_connections = 20'000;
  int32_t default_budget_ms = 10'000;
  int32_t max_budget_ms = 600'000;
  int32_t stall_timeout_s = 60;
  int64_t idle_timeout_s = 3600;  // 0: never
  int32_t shutdown_timeout_ms = 5'000;
  bool pin_threads = false;

  // -- of a node of a cluster
  std::string topology;  // where the cluster map is (topology_spec.h); empty: this node is alone
  uint32_t node_id = 0;  // in the topology; 0: as in the data directory
  // Where the other nodes reach this one. Reactor i listens on port + i; 0: any free ports.
  std::string peer_host;  // empty: that of `host`
  uint16_t peer_port = 0;
  int guard_descriptor = -1;    // of RunGuarded
  int64_t replace_after_s = 0;  // a node of the cluster that stays away is replaced after so long; 0: never
  AutoBalance auto_balance = AutoBalance::kOff;
  uint32_t balance_moves_per_minute = 2;
  uint32_t balance_target_percent = 60;  // so busy the nodes are as many as are wanted
  uint64_t install_mb_per_s = 0;         // of pages that come for replicas of this node; 0: no limit
  replication::Rules rules;              // no flag sets them, and production never changes them
  bool clustered() const { return !topology.empty(); }
};

inline constexpr uint32_t kDefaultPartitions = 16;

// How the memory limit is divided.
struct MemorySplit {
  uint64_t process_bytes = 0;     // the process itself: code, stacks, the allocator's slack
  uint64_t connection_bytes = 0;  // fixed cost of a quarter of max_connections
  uint64_t request_bytes = 0;     // partly received frames, requests and replies in progress
  uint64_t engine_bytes = 0;      // per reactor: pool, log buffers, write buffers
};

// What must be known of a store before its resources are divided.
struct StoreShape {
  uint32_t reactors = 0;
  uint32_t page_bytes = 0;  // 0: the default
  uint32_t ranges = 0;      // StoreInfo::IdLimit
  uint32_t partitions = 0;  // that it holds
  uint32_t fullest = 0;     // those of the reactor that has the most
};
StoreShape ShapeOf(const StoreInfo& store, uint32_t reactors);
// Of a new store, which holds a partition for each range.
StoreShape ShapeOfNew(uint32_t partitions, uint32_t page_bytes, uint32_t reactors);

// kInvalidArgument: the limit is too small; the message names the smallest one that works. Partitions that may
// come take nothing that the others need (EngineOptions::spare_partitions).
Result<MemorySplit> SplitMemory(const NodeOptions& options, const StoreShape& shape);

// How the file descriptors that the process may open are divided.
struct DescriptorSplit {
  uint64_t limit = 0;  // of the process
  // For the log, data files, rings, log files of the process, the HTTP page, and other nodes.
  uint64_t reserved = 0;
  uint32_t sockets = 0;       // client connections that may be open, including those being refused
  uint32_t connections = 0;   // client connections served: --max_connections, or as many as fit
  uint32_t peer_sockets = 0;  // connections from other nodes
  // For so many more partitions of each reactor there are descriptors.
  uint32_t spare_partitions = 0;
};

// How many sockets the listeners that do not serve clients may hold. They are reserved, so that
// clients can never take them.
inline constexpr uint32_t kMaxHttpSockets = 64;
// Each reactor of another node has a connection to each reactor of this one. A small limit allows fewer.
inline constexpr uint32_t kMaxPeerSockets = 1024;

// kInvalidArgument: the limit is too small; the message names the smallest one that works.
Result<DescriptorSplit> SplitDescriptors(const NodeOptions& options, uint64_t limit, const StoreShape& shape);
// kInvalidArgument: a log with this budget would stall writes, because nothing fits beside a batch.
// The message names the smallest budget that works.
Status CheckLogBudget(const NodeOptions& options, uint32_t reactors);
// Of the flags of kvnode that are numbers, and need nothing else to be checked.
std::span<const FlagRange> NodeFlagRanges();
// kInvalidArgument: two flags name one port. Each reactor listens for the other nodes on a port of its own, so call it
// again when options.reactors is known.
Status CheckPorts(const NodeOptions& options);
// Checks every field that can be checked without the data directory. The error names the flag and
// its allowed values.
Status CheckOptions(const NodeOptions& options);

// Parses "host:port"; the port may be 0. An IPv6 address is in brackets.
Status ParseListen(const std::string& text, std::string* host, uint16_t* port);

}  // namespace pando
