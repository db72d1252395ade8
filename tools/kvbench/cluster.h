// Cluster: servers that kvbench starts on the loopback interface and that replicate among each other: nodes of Pando,
// members of etcd, or a Redis master with replicas and, for failovers, three Sentinels. A "cluster" of one is the
// single server that the others are compared with. The destructor stops all processes and removes their files.
//
// Threads: the main thread. Calls block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gen-cpp/Cluster.h"
#include "src/base/result.h"
#include "tools/kvbench/process.h"
#include "tools/kvbench/server.h"

namespace pando::bench {

// A blocking connection to a node of Pando, for what only nodes of a cluster answer. It is opened when it is needed.
class NodeCalls {
 public:
  explicit NodeCalls(uint16_t port) : port_(port) {}
  Result<api::ReplicasReply> Replicas();
  Status HandOver(uint32_t partition, size_t node);  // nodes count from 0

 private:
  Result<api::ClusterClient*> Connected();

  uint16_t port_;
  std::unique_ptr<api::ClusterClient> client_;
};

class Cluster {
 public:
  virtual ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  const std::string& system() const { return system_; }  // "pando", "etcd" or "redis"
  size_t size() const { return nodes_.size(); }
  uint32_t partitions() const { return partitions_; }  // with a leader each
  std::vector<uint16_t> ports() const;                 // where clients find the nodes
  double CpuSeconds() const;                           // of all processes that run

  // Waits until every node serves, and every replica has what its leader has.
  Status WaitWhole();
  // The node that leads each partition, as far as one says so itself: which node, from 0.
  virtual Result<std::vector<size_t>> Leaders() = 0;

  // A metric of a node of Pando, summed over its reactors.
  virtual Result<double> Metric(size_t node, const std::string& name);

  // Kills the process that serves, with SIGKILL.
  virtual void Kill(size_t node);
  // The same, and nobody is left who could tell the others.
  virtual void Silence(size_t node) { Kill(node); }
  void Terminate(size_t node) { nodes_[node].process.Signal(SIGTERM); }
  void WaitEnded(size_t node) { nodes_[node].process.WaitEnded(); }
  // Starts a node that has ended, and does not wait for it.
  virtual Status Start(size_t node) { return Launch(node, {}); }

 protected:
  struct Node {
    std::vector<std::string> args;
    uint16_t port = 0;
    Process process;
  };
  Cluster(std::string system, uint32_t partitions, ScratchDirectory directory)
      : system_(std::move(system)), partitions_(partitions), directory_(std::move(directory)) {}
  Status Launch(size_t node, const std::vector<std::string>& more_args);
  // Whether WaitWhole can return; an error if it cannot be known.
  virtual Result<bool> Whole() = 0;
  const std::string& directory() const { return directory_.path(); }

 private:
  std::string system_;
  uint32_t partitions_;
  ScratchDirectory directory_;  // removed once the processes below have ended

 protected:
  std::vector<Node> nodes_;
  std::vector<Process> helpers_;
};

struct ClusterOptions {
  ServerOptions server;
  size_t nodes = 3;          // each holds all data
  uint32_t partitions = 16;  // of Pando
  bool sentinels = false;    // of Redis
  bool guard = true;
};

// Each waits until the cluster is whole.
Result<std::unique_ptr<Cluster>> StartPandoCluster(const ClusterOptions& options);
Result<std::unique_ptr<Cluster>> StartEtcdCluster(const ClusterOptions& options);
Result<std::unique_ptr<Cluster>> StartRedisCluster(const ClusterOptions& options);

// Hands all partitions of a cluster of Pando over to one node, so that it is led as the others are.
Status LeadFrom(Cluster* pando, size_t node);

// A cluster as the generator sees it: the address of the node that leads everything, and the CPU time of all.
// `cluster` outlives it.
Result<std::unique_ptr<Server>> ServerOf(Cluster* cluster);

}  // namespace pando::bench
