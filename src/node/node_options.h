// NodeOptions: what a kvnode is told, and how it divides its memory.
//
// Threads: values.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"
#include "src/buffer_pool/page.h"
#include "src/io/reactor.h"

namespace pando {

struct NodeOptions {
  std::string data_dir;
  std::string host = "127.0.0.1";
  uint16_t port = 7420;                         // 0: any free port
  int32_t http_port = 7421;                     // 0: any free port; -1: no HTTP
  uint32_t reactors = 0;                        // 0: as the store has, or one per usable CPU for a new one
  uint32_t partitions = 0;                      // 0: as the store has, or kDefaultPartitions
  uint32_t page_bytes = 0;                      // 0: as the store has, or the engine's default
  Compression compression = Compression::kLz4;  // of pages written from now on
  uint64_t memory_limit_bytes = 1024u << 20;
  uint64_t log_budget_bytes = 512u << 20;  // of all reactors together
  uint64_t log_budget_records = 4'000'000;
  int64_t checkpoint_interval_s = 60;
  bool accept_lost_log = false;
  int64_t snapshot_max_age_s = 24 * 3600;
  uint64_t scrub_mb_per_s = 8;  // of all reactors together; 0: no background scrub
  int64_t scrub_interval_h = 168;
  uint64_t release_space_mb_per_s = 64;  // of all reactors together; 0: free space stays in the files
  int64_t release_space_after_s = 60;
  uint32_t max_connections = 20'000;
  int32_t default_budget_ms = 10'000;
  int32_t max_budget_ms = 600'000;
  int32_t stall_timeout_s = 60;
  int64_t idle_timeout_s = 3600;  // 0: never
  int32_t shutdown_timeout_ms = 5'000;
  bool pin_threads = false;
};

inline constexpr uint32_t kDefaultPartitions = 16;

// How the limit is divided. What is not listed is the process itself: code, stacks, the allocator's slack.
struct MemorySplit {
  uint64_t process_bytes = 0;     // held back
  uint64_t connection_bytes = 0;  // fixed cost of max_connections
  uint64_t request_bytes = 0;     // half frames, requests and replies in progress
  uint64_t engine_bytes = 0;      // per reactor: pool, log buffers, write buffers
};

// kInvalidArgument names the smallest limit that works.
Result<MemorySplit> SplitMemory(const NodeOptions& options, uint32_t reactors);
// How the descriptors that the process may have open are divided.
struct DescriptorSplit {
  uint64_t limit = 0;        // of the process
  uint64_t reserved = 0;     // for log, data files, rings, logs of the process and the HTTP page
  uint32_t sockets = 0;      // client connections that may hold a descriptor, those that are being refused included
  uint32_t connections = 0;  // client connections that are served: --max_connections, or what is left for it
};

// kInvalidArgument names the smallest limit that works.
Result<DescriptorSplit> SplitDescriptors(const NodeOptions& options, uint64_t limit, uint32_t reactors,
                                         uint32_t partitions);
// Checks every field that does not need the data directory; names the flag and what it may be.
Status CheckOptions(const NodeOptions& options);

// "host:port"; the port may be 0. IPv6 in brackets.
Status ParseListen(const std::string& text, std::string* host, uint16_t* port);

}  // namespace pando
