// Members: where the nodes of the cluster are, as the topology says. Every reactor has a copy.
//
// Threads: one reactor.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "src/topology/cluster_map.h"

namespace pando::replication {

struct Member {
  std::string client_address;               // host:port, for Thrift
  std::vector<std::string> peer_addresses;  // one for each of its reactors
  uint64_t starts = 0;                      // of it, which is the incarnation of its newest process; 0: not known
};

using Members = std::map<NodeId, Member>;

}  // namespace pando::replication
