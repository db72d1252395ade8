// Real etcd servers for tests: processes of this machine, on the loopback interface, that end with
// the test.
#pragma once

#include <arpa/inet.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "src/io/http_client.h"
#include "src/topology/etcd_topology.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {

// A port that was free a moment ago.
inline uint16_t FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t bytes = sizeof address;
  CHECK_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  close(fd);
  return ntohs(address.sin_port);
}

class EtcdCluster {
 public:
  // With `tls`, a directory with ca.pem, node.pem and node.key, clients must use TLS and a certificate.
  EtcdCluster(std::string binary, size_t members, std::string tls = "")
      : binary_(std::move(binary)), tls_(std::move(tls)), pids_(members, -1) {
    std::string pattern = (std::filesystem::current_path() / "etcd_test_XXXXXX").string();
    CHECK(mkdtemp(pattern.data())) << pattern;
    root_ = pattern;
    for (size_t i = 0; i < members; ++i) {
      client_ports_.push_back(FreePort());
      peer_ports_.push_back(FreePort());
      peers_ += fmt::format("{}m{}=http://127.0.0.1:{}", i == 0 ? "" : ",", i, peer_ports_[i]);
    }
    for (size_t i = 0; i < members; ++i) Start(i);
  }
  ~EtcdCluster() {
    for (size_t i = 0; i < pids_.size(); ++i) Kill(i);
    std::filesystem::remove_all(root_);
  }

  std::vector<std::string> endpoints() const {
    std::vector<std::string> all;
    for (const uint16_t port : client_ports_) all.push_back(fmt::format("127.0.0.1:{}", port));
    return all;
  }
  size_t size() const { return pids_.size(); }
  void Start(size_t i) {
    const std::string client = fmt::format("{}://127.0.0.1:{}", tls_.empty() ? "http" : "https", client_ports_[i]);
    const std::string peer = fmt::format("http://127.0.0.1:{}", peer_ports_[i]);
    std::vector<std::string> args = {binary_,
                                     "--name",
                                     fmt::format("m{}", i),
                                     "--data-dir",
                                     (root_ / fmt::format("m{}", i)).string(),
                                     "--listen-client-urls",
                                     client,
                                     "--advertise-client-urls",
                                     client,
                                     "--listen-peer-urls",
                                     peer,
                                     "--initial-advertise-peer-urls",
                                     peer,
                                     "--initial-cluster",
                                     peers_,
                                     "--heartbeat-interval",
                                     "50",
                                     "--election-timeout",
                                     "500"};
    if (!tls_.empty()) {
      for (const char* arg :
           {"--client-cert-auth", "--trusted-ca-file", "ca.pem", "--cert-file", "node.pem", "--key-file", "node.key"}) {
        args.push_back(arg[0] == '-' ? arg : tls_ + "/" + arg);
      }
    }
    const std::string log = (root_ / fmt::format("m{}.log", i)).string();
    const pid_t pid = fork();
    CHECK_GE(pid, 0);
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (freopen(log.c_str(), "a", stdout) == nullptr || dup2(1, 2) < 0) _exit(126);
      std::vector<char*> argv;
      for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    pids_[i] = pid;
  }
  void Kill(size_t i) {
    if (pids_[i] < 0) return;
    kill(pids_[i], SIGKILL);
    waitpid(pids_[i], nullptr, 0);
    pids_[i] = -1;
  }
  void Pause(size_t i) { kill(pids_[i], SIGSTOP); }
  void Continue(size_t i) { kill(pids_[i], SIGCONT); }

 private:
  const std::string binary_, tls_;
  std::filesystem::path root_;
  std::vector<uint16_t> client_ports_, peer_ports_;
  std::string peers_;
  std::vector<pid_t> pids_;
};

// Debian's etcd, and the one that ./dev test builds from tests/support/etcd, if there are.
inline std::string EtcdOfDebian() { return "/usr/bin/etcd"; }
inline std::string EtcdOfGo() {
  const char* path = std::getenv("PANDO_ETCD");
  return path != nullptr ? path : (std::filesystem::current_path() / "../etcd/etcd").string();
}

inline std::unique_ptr<TopologyStore> ConnectToEtcd(Reactor& reactor, EtcdOptions options) {
  auto http = MakeHttpClient(reactor);
  CHECK(http.ok()) << http.status().ToString();
  return std::make_unique<EtcdTopology>(reactor, *std::move(http), std::move(options));
}

// Waits until etcd answers.
inline Task<void> AwaitEtcd(Topology* topology) {
  const Nanos limit = topology->reactor().NowNs() + 60 * kSecond;
  for (;;) {
    Result<TopologyListing> listing = co_await topology->List(kSecond);
    if (listing.ok()) co_return;
    CHECK_LT(topology->reactor().NowNs(), limit) << "etcd does not begin to serve: " << listing.status().ToString();
    co_await Sleep(topology->reactor(), 100 * kMillisecond);
  }
}

// One server for all tests; each test has a topology of its own in it.
template <std::string (*Binary)()>
class EtcdWorld {
 public:
  EtcdWorld() {
    auto made = MakeUringReactor({});
    CHECK(made.ok()) << made.status().ToString();
    reactor_ = *std::move(made);
    static EtcdCluster cluster(Binary(), 1);
    static int tests = 0;
    options_.endpoints = cluster.endpoints();
    options_.name = fmt::format("test-{}", ++tests);
    Topology first(*reactor_, ConnectToEtcd(*reactor_, options_));
    RunBlocking(*reactor_, AwaitEtcd(&first));
    CHECK(RunBlocking(*reactor_, first.Close()).ok());
  }
  static std::string Missing() {
    if (access(Binary().c_str(), X_OK) == 0) return "";
    return fmt::format("there is no etcd at {}; install etcd-server, or let ./dev test build etcd with Go", Binary());
  }
  Reactor& reactor() { return *reactor_; }
  Task<Result<std::unique_ptr<TopologyStore>>> Open() { co_return ConnectToEtcd(*reactor_, options_); }
  bool Backup() { return false; }
  void Restore() {}

 private:
  std::unique_ptr<Reactor> reactor_;
  EtcdOptions options_;
};
using Etcd34World = EtcdWorld<EtcdOfDebian>;
using Etcd36World = EtcdWorld<EtcdOfGo>;

}  // namespace pando::topology_test
