// What a router tells people of itself: the status page (HTML) and the same as JSON.
//
// Threads: plain values. CollectStatus runs on the reactor whose parts it reads.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/base/hash_ranges.h"
#include "src/router/recent_latency.h"
#include "src/router/route_keeper.h"
#include "src/router/router_service.h"

namespace pando {

struct NodeStatus {
  NodeId id = 0;  // 0: one of --nodes that is not in the map
  std::string zone;
  uint32_t reactors_up = 0;     // that have a connection to it
  std::string trouble;          // why another has none
  uint64_t in_flight = 0;       // calls
  uint64_t in_flight_long = 0;  // of them, those that take long
  uint64_t trips = 0;           // how often it was left out because it did not answer
  uint32_t masters = 0;         // partitions that it leads
  RecentLatency gets, writes;
};

// Partitions that something is the matter with. It takes 8 KiB however many they are.
using PartitionSet = std::bitset<kMaxPartitions>;

struct RouterTotals {
  uint64_t point_requests = 0, other_requests = 0, calls = 0, retries = 0, gave_up = 0, overloaded = 0;
};

struct RouterStatus {
  std::string version;
  int64_t uptime_s = 0;
  uint32_t reactors = 0, reactors_with_map = 0;
  std::string cluster_id;
  int64_t map_version = 0;
  uint64_t partitions = 0;
  std::string map_trouble;                     // why there is no map, or all its nodes are of another cluster
  std::map<std::string, std::string> foreign;  // by address: why nothing is sent there
  std::map<std::string, NodeStatus> nodes;     // by address
  PartitionSet no_master;                      // partitions without a master that this router knows
  PartitionSet unreachable;                    // whose master it cannot reach
  std::map<uint32_t, std::string> refused;     // whose master has refused a request in the last ten seconds, and why
  RouterTotals totals;
  int64_t rates_over_s = 0;  // what `rates` is the average of
  std::map<std::string, double> rates;
  int64_t memory_used_bytes = 0, memory_limit_bytes = 0;
  int64_t connections = 0, watches = 0;
};

// Adds what one reactor has. Nodes are looked up once, and each partition takes one look into a small table.
void CollectStatus(RpcServer* server, RouteKeeper* keeper, RouterService* service, RouterStatus* status);

// Averages since the last time that is long enough ago, for which it keeps the totals.
class RouterRates {
 public:
  void Fill(Nanos now_ns, RouterStatus* status);

 private:
  static constexpr Nanos kLeastNs = 5 * kSecond;
  RouterTotals before_, last_;
  Nanos before_ns_ = 0, last_ns_ = 0;
};

std::string StatusAsJson(const RouterStatus& status);
std::string StatusAsHtml(const RouterStatus& status);

}  // namespace pando
