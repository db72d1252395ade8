// ConnectedNodes says when the replicas should look at a connection with another node that has come up. That is a look
// at every replica of the reactor, and whoever can connect may make connections come up as often as it likes. So
// there is one look in each pause for each node, at once if the last one was long ago.
//
// Threads: plain values.
//
// Invariants
//   CN1  There is at most one look at a node in each pause, and one after the last connection of the node.
#pragma once

#include <map>
#include <vector>

#include "src/io/reactor.h"
#include "src/topology/cluster_map.h"

namespace pando::replication {

class ConnectedNodes {
 public:
  explicit ConnectedNodes(Nanos pause_ns) : pause_ns_(pause_ns) {}

  // A connection with that node has come up. True: look now; otherwise Due says so later.
  bool Note(NodeId node, Nanos now_ns) {
    Looked& looked = nodes_[node];
    looked.again = now_ns < looked.next_ns;
    if (!looked.again) looked.next_ns = now_ns + pause_ns_;
    return !looked.again;
  }
  // Those to look at now. To be called often.
  std::vector<NodeId> Due(Nanos now_ns) {
    std::vector<NodeId> due;
    for (auto& [node, looked] : nodes_) {
      if (!looked.again || now_ns < looked.next_ns) continue;
      looked = {now_ns + pause_ns_, false};
      due.push_back(node);
    }
    return due;
  }
  // Forgets all nodes but these.
  template <typename Nodes>
  void Keep(const Nodes& nodes) {
    std::erase_if(nodes_, [&](const auto& n) { return !nodes.contains(n.first); });
  }

 private:
  struct Looked {
    Nanos next_ns = 0;   // not before then
    bool again = false;  // there was a connection since the last look
  };
  const Nanos pause_ns_;
  std::map<NodeId, Looked> nodes_;
};

}  // namespace pando::replication
