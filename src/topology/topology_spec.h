// TopologySpec is what --topology says: where the cluster map is.
//
//   file:/var/lib/pando/topology                       a directory of this machine
//   etcd://10.0.0.1:2379,10.0.0.2:2379/production      etcd, and the name of the topology in it
//   etcd://h1:2379/production?ca=/etc/pando/ca.pem&cert=/etc/pando/node.pem&key=/etc/pando/node.key
//
// Threads: ParseTopologySpec is a pure function, OpenTopologyStore belongs to the reactor.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "src/topology/etcd_topology.h"
#include "src/topology/topology_store.h"

namespace pando {

struct TopologySpec {
  std::string directory;  // of a file topology; empty: it is etcd
  EtcdOptions etcd;
};

// Returns kInvalidArgument, with what is wrong and an example, for anything else.
Result<TopologySpec> ParseTopologySpec(std::string_view text);

// kInvalidArgument: the data directory of a node is the directory of a file topology, holds it, or lies in it. The node
// would mix its files with those of the map. Touches neither.
Status CheckApart(const TopologySpec& spec, const std::string& data_dir);

Task<Result<std::unique_ptr<TopologyStore>>> OpenTopologyStore(Reactor& reactor, TopologySpec spec);

}  // namespace pando
