#include "tools/kvbench/cluster.h"

#include <signal.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TSocket.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "src/base/check.h"
#include "tools/common/command_line.h"

namespace pando::bench {

namespace {

namespace fs = std::filesystem;

constexpr int kCallTimeoutMs = 2000;
constexpr int kWholeTimeoutMs = 60'000;

std::string Local(uint16_t port) { return fmt::format("127.0.0.1:{}", port); }

// Sends a request, of which the last line is still missing, and returns the body of the answer.
Result<std::string> HttpBody(uint16_t port, std::string_view head, std::string_view body = "") {
  ASSIGN_OR_RETURN(Socket socket, ConnectLoopback(port, kCallTimeoutMs));
  const std::string request =
      fmt::format("{}Connection: close\r\nContent-Length: {}\r\n\r\n{}", head, body.size(), body);
  if (::send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
    return ErrnoError(errno, "send a request to port {}", port);
  }
  std::string answer;
  char buffer[16384];
  for (ssize_t n = 0; (n = ::recv(socket.fd(), buffer, sizeof(buffer), 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  const size_t end = answer.find("\r\n\r\n");
  return end == std::string::npos ? "" : answer.substr(end + 4);
}

class PandoCluster final : public Cluster {
 public:
  PandoCluster(const ClusterOptions& options, ScratchDirectory directory)
      : Cluster("pando", options.partitions, std::move(directory)), options_(options) {}

  Status Begin() {
    const bool alone = options_.nodes == 1;
    const std::string topology = directory() + "/topology";
    if (!alone) RETURN_IF_ERROR(Init(topology));
    for (size_t i = 0; i < options_.nodes; ++i) {
      Node node;
      ASSIGN_OR_RETURN(node.port, FreePort());
      ASSIGN_OR_RETURN(const uint16_t http_port, FreePort());
      http_ports_.push_back(http_port);
      node.args = {options_.server.binary,
                   fmt::format("--data_dir={}/node-{}", directory(), i + 1),
                   "--listen=" + Local(node.port),
                   fmt::format("--http_port={}", http_port),
                   "--reactors=1",
                   fmt::format("--memory_limit_mb={}", std::max<uint64_t>(options_.server.memory_limit_mb, 512))};
      if (alone) {
        node.args.push_back(fmt::format("--partitions={}", options_.partitions));
      } else {
        ASSIGN_OR_RETURN(uint16_t peer_port, FreePort());
        node.args.push_back("--topology=file:" + topology);
        node.args.push_back(fmt::format("--node_id={}", i + 1));
        node.args.push_back("--peer_listen=" + Local(peer_port));
        node.args.push_back(fmt::format("--guard={}", options_.guard));
      }
      const auto& more = options_.server.extra_args;
      node.args.insert(node.args.end(), more.begin(), more.end());
      calls_.emplace_back(node.port);
      nodes_.push_back(std::move(node));
      RETURN_IF_ERROR(Start(i));
    }
    return WaitWhole();
  }

  Result<std::vector<size_t>> Leaders() override {
    std::vector<size_t> leaders(partitions(), 0);
    if (size() == 1) return leaders;
    ASSIGN_OR_RETURN(std::ignore, Ask(&leaders));
    return leaders;
  }

  Result<double> Metric(size_t node, const std::string& name) override {
    ASSIGN_OR_RETURN(std::string metrics, HttpBody(http_ports_[node], "GET /metrics HTTP/1.1\r\nHost: pando\r\n"));
    double sum = 0;
    for (size_t at = 0; at < metrics.size();) {
      const size_t end = std::min(metrics.find('\n', at), metrics.size());
      const std::string_view line = std::string_view(metrics).substr(at, end - at);
      at = end + 1;
      if (!line.starts_with(name) || line.size() == name.size()) continue;
      if (line[name.size()] != '{' && line[name.size()] != ' ') continue;
      sum += tools::ParseNumber<double>(line.substr(line.rfind(' ') + 1)).value_or(0);
    }
    return sum;
  }

  void Kill(size_t node) override {
    const std::vector<pid_t> children = ChildrenOf(nodes_[node].process.pid());
    if (children.empty()) return Cluster::Kill(node);
    for (pid_t child : children) ::kill(child, SIGKILL);
  }
  void Silence(size_t node) override {
    // The guard is stopped first, so that it notices nothing.
    nodes_[node].process.Signal(SIGSTOP);
    Kill(node);
    Cluster::Kill(node);
  }

 private:
  Status Init(const std::string& topology) {
    std::error_code error;
    if (!fs::create_directory(topology, error))
      return Error(Code::kIoError, "create {}: {}", topology, error.message());
    std::vector<size_t> numbers;
    for (size_t i = 1; i <= options_.nodes; ++i) numbers.push_back(i);
    Process kvadmin;
    RETURN_IF_ERROR(kvadmin.Start(
        {options_.server.kvadmin_binary, "cluster", "init", "--topology=file:" + topology,
         fmt::format("--nodes={}", fmt::join(numbers, ",")), fmt::format("--partitions={}", options_.partitions),
         fmt::format("--replicas={}", options_.nodes)},
        directory() + "/kvadmin.log", -1));
    kvadmin.WaitEnded();
    if (kvadmin.wait_status() == 0) return Status();
    return Error(Code::kIoError, "{} cluster init failed: {}", options_.server.kvadmin_binary, kvadmin.LogTail());
  }

  // Asks the nodes who leads each partition. Those that are down are not asked. True: every replica is level.
  Result<bool> Ask(std::vector<size_t>* leaders) {
    size_t found = 0, level = 0;
    Status unanswered;
    for (size_t i = 0; i < size(); ++i) {
      Result<api::ReplicasReply> reply = calls_[i].Replicas();
      if (!reply.ok()) {
        unanswered = reply.TakeStatus();
        continue;
      }
      for (const api::ReplicaStatus& replica : reply->replicas) {
        if (replica.role != "master" || static_cast<size_t>(replica.partition) >= leaders->size()) continue;
        (*leaders)[static_cast<size_t>(replica.partition)] = i;
        ++found;
        const bool all = static_cast<size_t>(replica.in_sync) == size();
        level += all && std::all_of(replica.followers.begin(), replica.followers.end(), [](const auto& follower) {
                   return follower.in_sync && follower.behind_ms >= 0 && follower.behind_ms < 500;
                 });
      }
    }
    if (found < partitions()) {
      return Error(Code::kUnavailable, "{} of {} partitions have a master{}{}", found, partitions(),
                   unanswered.ok() ? "" : "; ", unanswered.message());
    }
    return unanswered.ok() && level == partitions();
  }

  Result<bool> Whole() override {
    if (size() == 1) return Accepts(nodes_[0].port);
    std::vector<size_t> leaders(partitions());
    return Ask(&leaders);
  }

  ClusterOptions options_;
  std::vector<NodeCalls> calls_;
  std::vector<uint16_t> http_ports_;
};

class EtcdCluster final : public Cluster {
 public:
  explicit EtcdCluster(ScratchDirectory directory) : Cluster("etcd", 1, std::move(directory)) {}

  Status Begin(const ClusterOptions& options) {
    std::vector<std::string> peers, members;
    for (size_t i = 0; i < options.nodes; ++i) {
      ASSIGN_OR_RETURN(uint16_t peer_port, FreePort());
      peers.push_back(Local(peer_port));
      members.push_back(fmt::format("m{}=http://{}", i, peers.back()));
    }
    for (size_t i = 0; i < options.nodes; ++i) {
      Node node;
      ASSIGN_OR_RETURN(node.port, FreePort());
      const std::string peer = "http://" + peers[i], client = "http://" + Local(node.port);
      node.args = {options.server.etcd_binary,
                   fmt::format("--name=m{}", i),
                   fmt::format("--data-dir={}/m{}", directory(), i),
                   "--listen-client-urls=" + client,
                   "--advertise-client-urls=" + client,
                   "--listen-peer-urls=" + peer,
                   "--initial-advertise-peer-urls=" + peer,
                   fmt::format("--initial-cluster={}", fmt::join(members, ",")),
                   "--initial-cluster-token=" + directory(),
                   "--quota-backend-bytes=8589934592",
                   "--log-level=warn"};
      nodes_.push_back(std::move(node));
      RETURN_IF_ERROR(Start(i));
    }
    return WaitWhole();
  }

  Result<std::vector<size_t>> Leaders() override {
    for (size_t i = 0; i < size(); ++i) {
      Result<nlohmann::json> status = StatusOf(i);
      if (status.ok() && status->value("leader", "") == (*status)["header"].value("member_id", "-")) {
        return std::vector<size_t>{i};
      }
    }
    return Error(Code::kUnavailable, "no member of etcd says that it leads");
  }

 private:
  Result<nlohmann::json> StatusOf(size_t node) {
    ASSIGN_OR_RETURN(std::string body,
                     HttpBody(nodes_[node].port, "POST /v3/maintenance/status HTTP/1.1\r\nHost: etcd\r\n", "{}"));
    nlohmann::json status = nlohmann::json::parse(body, nullptr, false);
    if (!status.is_object() || !status.contains("header")) {
      return Error(Code::kUnavailable, "etcd's status is \"{}\"", body.substr(0, 200));
    }
    return Result<nlohmann::json>(std::move(status));
  }

  Result<bool> Whole() override {
    uint64_t behind = UINT64_MAX, ahead = 0;
    for (size_t i = 0; i < size(); ++i) {
      ASSIGN_OR_RETURN(nlohmann::json status, StatusOf(i));
      if (status.value("leader", "0") == "0") return false;
      const auto applied = tools::ParseNumber<uint64_t>(status.value("raftAppliedIndex", "0"));
      behind = std::min(behind, applied.value_or(0));
      ahead = std::max(ahead, applied.value_or(0));
    }
    return ahead - behind < 1000;
  }
};

// The value of `name` in lines of "name:value" or parts of "name=value" between commas.
std::string ValueOf(const std::string& text, const std::string& name) {
  size_t at = text.find(name);
  while (at != std::string::npos && at > 0 && text[at - 1] != '\n' && text[at - 1] != ',') {
    at = text.find(name, at + 1);
  }
  if (at == std::string::npos) return "";
  at += name.size();
  return text.substr(at, text.find_first_of("\r\n,", at) - at);
}

class RedisCluster final : public Cluster {
 public:
  RedisCluster(const ClusterOptions& options, ScratchDirectory directory)
      : Cluster("redis", 1, std::move(directory)), options_(options) {}

  Status Begin() {
    for (size_t i = 0; i < options_.nodes; ++i) {
      Node node;
      ASSIGN_OR_RETURN(node.port, FreePort());
      const std::string path = fmt::format("{}/r{}", directory(), i);
      std::error_code error;
      if (!fs::create_directory(path, error)) return Error(Code::kIoError, "create {}: {}", path, error.message());
      node.args = {options_.server.redis_binary,
                   "--bind",
                   "127.0.0.1",
                   "--port",
                   std::to_string(node.port),
                   "--dir",
                   path,
                   "--save",
                   "",
                   "--appendonly",
                   "yes",
                   "--appendfsync",
                   "always",
                   "--auto-aof-rewrite-percentage",
                   "0",
                   "--maxclients",
                   "10000",
                   "--daemonize",
                   "no",
                   "--repl-diskless-sync",
                   "yes",
                   "--repl-diskless-sync-delay",
                   "0"};
      nodes_.push_back(std::move(node));
      RETURN_IF_ERROR(i == 0 ? Launch(0, {}) : Launch(i, ReplicaOf(0)));
    }
    for (size_t i = 0; options_.sentinels && i < 3; ++i) RETURN_IF_ERROR(StartSentinel(i));
    return WaitWhole();
  }

  Result<std::vector<size_t>> Leaders() override {
    std::vector<size_t> masters;
    for (size_t i = 0; i < size(); ++i) {
      Result<std::string> info = RedisCommand(nodes_[i].port, "INFO replication");
      if (info.ok() && ValueOf(*info, "role:") == "master") masters.push_back(i);
    }
    if (masters.size() == 1) return masters;
    return Error(Code::kUnavailable, "{} servers of Redis say that they are master", masters.size());
  }

  // A Redis that starts again believes to be what it was. Its place is told to it, so that only one is ever master.
  Status Start(size_t node) override {
    ASSIGN_OR_RETURN(std::vector<size_t> masters, Leaders());
    return Launch(node, ReplicaOf(masters[0]));
  }

 private:
  std::vector<std::string> ReplicaOf(size_t master) const {
    return {"--replicaof", fmt::format("127.0.0.1 {}", nodes_[master].port)};
  }

  Status StartSentinel(size_t number) {
    ASSIGN_OR_RETURN(uint16_t port, FreePort());
    const std::string path = fmt::format("{}/sentinel-{}.conf", directory(), number);
    // Without a short failover-timeout it would not fail over again within six minutes.
    const std::string configuration = fmt::format(
        "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor m 127.0.0.1 {} 2\nsentinel down-after-milliseconds m 1000\n"
        "sentinel failover-timeout m 2000\nsentinel parallel-syncs m 2\n",
        port, directory(), nodes_[0].port);
    FILE* file = std::fopen(path.c_str(), "w");
    if (!file) return ErrnoError(errno, "create {}", path);
    fmt::print(file, "{}", configuration);
    std::fclose(file);
    sentinel_ports_.push_back(port);
    helpers_.emplace_back();
    return helpers_.back().StartListening({options_.server.redis_binary, path, "--sentinel"}, path + ".log", -1, port);
  }

  Result<bool> Whole() override {
    ASSIGN_OR_RETURN(std::vector<size_t> masters, Leaders());
    const uint16_t port = nodes_[masters[0]].port;
    ASSIGN_OR_RETURN(std::string info, RedisCommand(port, "INFO replication"));
    const std::string others = std::to_string(size() - 1);
    size_t online = 0;
    for (size_t at = 0; (at = info.find("state=online", at)) != std::string::npos; ++at) ++online;
    if (ValueOf(info, "connected_slaves:") != others || online != size() - 1) return false;
    for (uint16_t sentinel : sentinel_ports_) {
      ASSIGN_OR_RETURN(std::string seen, RedisCommand(sentinel, "INFO sentinel"));
      if (ValueOf(seen, "status=") != "ok" || ValueOf(seen, "address=") != Local(port) ||
          ValueOf(seen, "slaves=") != others || ValueOf(seen, "sentinels=") != "3") {
        return false;
      }
    }
    return true;
  }

  ClusterOptions options_;
  std::vector<uint16_t> sentinel_ports_;
};

template <typename Kind, typename... Args>
Result<std::unique_ptr<Cluster>> Begun(std::unique_ptr<Kind> cluster, const Args&... args) {
  RETURN_IF_ERROR(cluster->Begin(args...));
  return std::unique_ptr<Cluster>(std::move(cluster));
}

}  // namespace

Result<api::ClusterClient*> NodeCalls::Connected() {
  if (client_) return client_.get();
  namespace tt = apache::thrift::transport;
  auto socket = std::make_shared<tt::TSocket>("127.0.0.1", port_);
  socket->setConnTimeout(kCallTimeoutMs);
  socket->setRecvTimeout(kCallTimeoutMs);
  socket->setSendTimeout(kCallTimeoutMs);
  auto transport = std::make_shared<tt::TFramedTransport>(socket);
  auto client =
      std::make_unique<api::ClusterClient>(std::make_shared<apache::thrift::protocol::TBinaryProtocol>(transport));
  transport->open();
  client_ = std::move(client);
  return client_.get();
}

Result<api::ReplicasReply> NodeCalls::Replicas() {
  try {
    api::ReplicasReply reply;
    ASSIGN_OR_RETURN(api::ClusterClient * client, Connected());
    client->replicas(reply, api::Context());
    return Result<api::ReplicasReply>(std::move(reply));
  } catch (const std::exception& e) {
    client_.reset();
    return Error(Code::kUnavailable, "the node at {} does not say what it holds: {}", Local(port_), e.what());
  }
}

Status NodeCalls::HandOver(uint32_t partition, size_t node) {
  try {
    api::HandoverRequest request;
    request.__set_partition(static_cast<int32_t>(partition));
    request.__set_node(static_cast<int32_t>(node) + 1);
    api::HandoverReply reply;
    ASSIGN_OR_RETURN(api::ClusterClient * client, Connected());
    client->handover(reply, api::Context(), request);
    return Status();
  } catch (const api::KvError& e) {
    return Error(Code::kUnavailable, "partition {} was not handed over to node {}: {}", partition, node + 1, e.message);
  } catch (const std::exception& e) {
    client_.reset();
    return Error(Code::kUnavailable, "partition {} was not handed over to node {}: {}", partition, node + 1, e.what());
  }
}

Cluster::~Cluster() {
  // All are asked at once, so that they stop at the same time.
  for (const Process& helper : helpers_) helper.Signal(SIGTERM);
  for (const Node& node : nodes_) node.process.Signal(SIGTERM);
}

std::vector<uint16_t> Cluster::ports() const {
  std::vector<uint16_t> ports;
  for (const Node& node : nodes_) ports.push_back(node.port);
  return ports;
}

double Cluster::CpuSeconds() const {
  double sum = 0;
  for (const Node& node : nodes_) sum += node.process.CpuSeconds();
  for (const Process& helper : helpers_) sum += helper.CpuSeconds();
  return sum;
}

Status Cluster::WaitWhole() {
  for (int waited = 0;; waited += kPollMs) {
    Result<bool> whole = Whole();
    if (whole.ok() && *whole) return Status();
    for (size_t i = 0; i < size(); ++i) {
      if (!nodes_[i].process.Ended()) continue;
      return Error(Code::kUnavailable, "node {} of {} has ended; the end of its log: {}", i + 1, system_,
                   nodes_[i].process.LogTail());
    }
    if (waited > kWholeTimeoutMs) {
      return Error(Code::kDeadline, "the replicas of {} are not level after {} s: {}", system_, kWholeTimeoutMs / 1000,
                   whole.ok() ? "some lag" : whole.status().message());
    }
    SleepMs(kPollMs);
  }
}

Result<double> Cluster::Metric(size_t /*node*/, const std::string& /*name*/) {
  return Error(Code::kUnsupported, "only nodes of Pando have these metrics");
}

void Cluster::Kill(size_t node) { nodes_[node].process.Signal(SIGKILL); }

Status Cluster::Launch(size_t node, const std::vector<std::string>& more_args) {
  std::vector<std::string> args = nodes_[node].args;
  args.insert(args.end(), more_args.begin(), more_args.end());
  return nodes_[node].process.Start(args, fmt::format("{}/{}-{}.log", directory(), system_, node + 1), -1);
}

Result<std::unique_ptr<Cluster>> StartPandoCluster(const ClusterOptions& options) {
  for (const std::string& binary : {options.server.binary, options.server.kvadmin_binary}) {
    if (!fs::exists(binary)) return Error(Code::kNotFound, "{} does not exist; build it, or name its path", binary);
  }
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.server.scratch_dir));
  return Begun(std::make_unique<PandoCluster>(options, std::move(directory)));
}

Result<std::unique_ptr<Cluster>> StartEtcdCluster(const ClusterOptions& options) {
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.server.scratch_dir));
  return Begun(std::make_unique<EtcdCluster>(std::move(directory)), options);
}

Result<std::unique_ptr<Cluster>> StartRedisCluster(const ClusterOptions& options) {
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.server.scratch_dir));
  return Begun(std::make_unique<RedisCluster>(options, std::move(directory)));
}

Status LeadFrom(Cluster* pando, size_t node) {
  std::vector<NodeCalls> calls;
  for (uint16_t port : pando->ports()) calls.emplace_back(port);
  Status refused;
  for (int tries = 0; tries < 10; ++tries) {
    RETURN_IF_ERROR(pando->WaitWhole());  // a partition that is being handed over has no master
    ASSIGN_OR_RETURN(std::vector<size_t> leaders, pando->Leaders());
    bool all = true;
    for (uint32_t partition = 0; partition < leaders.size(); ++partition) {
      if (leaders[partition] == node) continue;
      all = false;
      Status handed = calls[leaders[partition]].HandOver(partition, node);
      if (!handed.ok()) refused = std::move(handed);
    }
    if (all) return Status();
  }
  return refused;
}

Result<std::unique_ptr<Server>> ServerOf(Cluster* cluster) {
  struct View final : Server {
    View(Cluster* c, uint16_t port) : Server(c->system(), "127.0.0.1", port), cluster(c) {}
    double CpuSeconds() const override { return cluster->CpuSeconds(); }
    Cluster* cluster;
  };
  ASSIGN_OR_RETURN(std::vector<size_t> leaders, cluster->Leaders());
  return std::unique_ptr<Server>(std::make_unique<View>(cluster, cluster->ports()[leaders[0]]));
}

}  // namespace pando::bench
