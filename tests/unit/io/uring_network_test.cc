// Sockets of the io_uring reactor against peers that close one direction, reset, stop reading or
// read slowly.
#include "src/io/uring_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <vector>

#include "src/io/call_on.h"
#include "src/io/socket_address.h"
#include "src/io/uring_reactor.h"
#include "tests/support/network_script.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

#ifdef __SANITIZE_ADDRESS__
extern "C" size_t __sanitizer_get_current_allocated_bytes();  // its header comes with clang only
#endif

namespace pando {
namespace {

// Sends at once a reply that is larger than the sockets' buffers, and closes when a byte arrives.
struct ReplyThenClose final : AcceptHandler, ConnectionHandler {
  static constexpr size_t kReplyBytes = 3u << 20;
  Connection* connection = nullptr;
  Status reason;
  void OnAccept(Connection* accepted) override {
    connection = accepted;
    accepted->SetHandler(this);
    std::string reply(kReplyBytes, 'r');
    accepted->Send(&reply);
  }
  void OnData(std::span<const char>) override { connection->Close(false); }
  void OnSent() override {}
  void OnClosed(const Status& why) override {
    reason = why;
    connection = nullptr;
  }
};

// S2: a client that has closed its sending direction still receives what was queued for it, and its
// connection is freed exactly once.
Task<void> HalfCloseWhileDraining(UringReactor& r) {
  ReplyThenClose server;
  Result<uint16_t> port = r.Listen({}, &server);
  CHECK(port.ok()) << port.status().ToString();
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int window_bytes = 4096;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window_bytes, sizeof window_bytes);
  Result<SocketAddress> address = SocketAddress::Parse("127.0.0.1", *port);
  EXPECT_EQ(connect(fd, address->get(), address->length), 0);
  while (server.connection == nullptr) co_await Yield(r);
  EXPECT_EQ(send(fd, "x", 1, MSG_NOSIGNAL), 1);
  shutdown(fd, SHUT_WR);
  co_await Sleep(r, 5 * kMillisecond);  // probably both arrive; if not, the result is the same
  EXPECT_GT(server.connection->unsent_bytes(), 0u) << "the reply must not fit into the sockets' buffers";
  size_t received = 0;
  char buffer[16384];
  for (ssize_t n = 1; n != 0;) {
    n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n > 0) received += static_cast<size_t>(n);
    if (n < 0) {
      EXPECT_EQ(errno, EAGAIN);
      if (errno != EAGAIN) break;
      co_await Sleep(r, 20 * kMicrosecond);
    }
  }
  EXPECT_EQ(received, ReplyThenClose::kReplyBytes);
  while (server.connection != nullptr || r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  EXPECT_EQ(server.reason.code(), Code::kAborted);
  close(fd);
  r.StopListening(&server);
}
TEST(UringNetwork, HalfCloseWhileDraining) {
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, HalfCloseWhileDraining(reactor));
}

// A plain client socket.
int ConnectTo(uint16_t port, int window_bytes = 0) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (window_bytes > 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window_bytes, sizeof window_bytes);
  Result<SocketAddress> address = SocketAddress::Parse("127.0.0.1", port);
  PCHECK(connect(fd, address->get(), address->length) == 0);
  return fd;
}

// Only counts connections.
struct Counting final : AcceptHandler {
  struct Peer final : ConnectionHandler {
    Counting* server = nullptr;
    Connection* connection = nullptr;
    void OnData(std::span<const char>) override {}
    void OnSent() override {}
    void OnClosed(const Status& why) override {
      connection = nullptr;
      --server->open;
      server->last_reason = why;
    }
  };
  void OnAccept(Connection* connection) override {
    peers.push_back(std::make_unique<Peer>());
    peers.back()->server = this;
    peers.back()->connection = connection;
    connection->SetHandler(peers.back().get());
    most_open = std::max(most_open, ++open);
  }
  std::vector<std::unique_ptr<Peer>> peers;
  int open = 0, most_open = 0;
  Status last_reason;
};

// S5: connections beyond the budget wait in the backlog without using CPU time, and are accepted
// when others have closed.
Task<void> BeyondTheBudget(UringReactor& r) {
  Counting server;
  ConnectionBudgets budgets({.clients = 5, .peers = 0, .http = 0});
  ConnectionBudget& budget = budgets.of(ListenerKind::kClient);
  ListenOptions options;
  options.budgets = &budgets;
  Result<uint16_t> port = r.Listen(options, &server);
  CHECK(port.ok()) << port.status().ToString();
  std::vector<int> clients;
  for (int i = 0; i < 40; ++i) clients.push_back(ConnectTo(*port));
  while (server.peers.size() < 5) co_await Yield(r);
  const uint64_t turns = r.stats().turns_total;
  co_await Sleep(r, 200 * kMillisecond);
  EXPECT_EQ(server.peers.size(), 5u);
  EXPECT_LT(r.stats().turns_total - turns, 100u) << "it spins";
  for (int fd : clients) {
    close(fd);
    co_await Sleep(r, kMillisecond);
  }
  while (server.peers.size() < 40 || r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  EXPECT_EQ(server.most_open, 5);
  EXPECT_EQ(budget.in_use(), 0);
  r.StopListening(&server);
}
TEST(UringNetwork, ConnectionsBeyondTheBudgetWait) {
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, BeyondTheBudget(reactor));
}

// A connection that has sent everything holds no memory for it, however many there are: only the reactor keeps some
// buffers for the next sends.
size_t AllocatedBytes() {
#ifdef __SANITIZE_ADDRESS__
  return __sanitizer_get_current_allocated_bytes();
#else
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#endif
}
Task<void> IdleConnectionsHoldNoBuffers(UringReactor& r) {
  constexpr int kConnections = 100;
  constexpr size_t kReplyBytes = 200u << 10;
  Counting server;
  Result<uint16_t> port = r.Listen({}, &server);
  CHECK(port.ok()) << port.status().ToString();
  std::vector<int> clients;
  for (int i = 0; i < kConnections; ++i) clients.push_back(ConnectTo(*port));
  while (server.open < kConnections) co_await Yield(r);
  std::string buffer(kReplyBytes, '\0');
  const size_t before = AllocatedBytes();
  for (auto& peer : server.peers) {
    std::string reply(kReplyBytes, 'r');
    peer->connection->Send(&reply);
  }
  for (int client : clients) {
    for (size_t received = 0; received < kReplyBytes;) {
      const ssize_t n = recv(client, buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (n > 0) received += static_cast<size_t>(n);
      if (n <= 0) co_await Sleep(r, 20 * kMicrosecond);
    }
  }
  co_await Sleep(r, kMillisecond);  // the last completions
  const size_t after = AllocatedBytes();
  EXPECT_LT(after - std::min(before, after), 4u << 20) << "of " << kConnections * kReplyBytes << " bytes sent";
  for (int client : clients) close(client);
  while (r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  r.StopListening(&server);
}
TEST(UringNetwork, IdleConnectionsHoldNoBuffers) {
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, IdleConnectionsHoldNoBuffers(reactor));
}

// While no descriptors are available, the listener waits. It continues when there are some again.
Task<void> WithoutDescriptors(UringReactor& r) {
  Counting server;
  Result<uint16_t> port = r.Listen({}, &server);
  CHECK(port.ok()) << port.status().ToString();
  const int client = ConnectTo(*port);
  rlimit before{};
  PCHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit none = before;
  none.rlim_cur = 3;
  PCHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  const uint64_t turns = r.stats().turns_total;
  co_await Sleep(r, 200 * kMillisecond);
  PCHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  EXPECT_GT(r.stats().accept_failures_total, 0u);
  EXPECT_LT(r.stats().turns_total - turns, 100u) << "it spins";
  EXPECT_TRUE(server.peers.empty());
  while (server.peers.empty()) co_await Sleep(r, kMillisecond);
  close(client);
  while (r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  r.StopListening(&server);
}
TEST(UringNetwork, WithoutDescriptorsItWaits) {
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, WithoutDescriptors(reactor));
}

// The kernel's list of sockets shows which timer each has; 02 is keep-alive.
int SocketsWithKeepAlive(uint16_t port) {
  std::ifstream table("/proc/net/tcp");
  const std::string wanted = fmt::format(":{:04X}", port);
  int found = 0;
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string number, local, remote, state, queues, timer;
    words >> number >> local >> remote >> state >> queues >> timer;
    found += local.ends_with(wanted) && state == "01" && timer.starts_with("02:");
  }
  return found;
}
Task<void> SilentPeers(UringReactor& r) {
  Counting server;
  Result<uint16_t> port = r.Listen({}, &server);
  CHECK(port.ok()) << port.status().ToString();
  // An idle connection has a keep-alive timer.
  const int idle = ConnectTo(*port);
  while (server.open < 1) co_await Yield(r);
  EXPECT_EQ(SocketsWithKeepAlive(*port), 1);
  close(idle);
  while (server.open > 0) co_await Sleep(r, kMillisecond);
  // A connection ends if its peer never acknowledges the sent bytes.
  const int stopped = ConnectTo(*port, 4096);
  while (server.open < 1) co_await Yield(r);
  std::string flood(8u << 20, 'f');
  server.peers.back()->connection->Send(&flood);
  const Nanos give_up_ns = r.NowNs() + 30 * kSecond;
  while (server.open > 0 && r.NowNs() < give_up_ns) co_await Sleep(r, 10 * kMillisecond);
  EXPECT_EQ(server.open, 0) << "the connection was never closed";
  EXPECT_EQ(server.last_reason.code(), Code::kUnavailable) << server.last_reason.ToString();
  if (server.open > 0) server.peers.back()->connection->Close(true);
  close(stopped);
  while (r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  r.StopListening(&server);
}
TEST(UringNetwork, SilentPeersAreFound) {
  UringOptions options;
  options.network.peer_timeout_ns = 2 * kSecond;
  auto made = MakeUringReactor(options);
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, SilentPeers(reactor));
}

// acknowledged_bytes shows how fast a peer reads even while one large send is in progress.
Task<void> ProgressInsideOneSend(UringReactor& r) {
  Counting server;
  Result<uint16_t> port = r.Listen({}, &server);
  CHECK(port.ok()) << port.status().ToString();
  const int reader = ConnectTo(*port, 4096);
  while (server.open < 1) co_await Yield(r);
  Connection* connection = server.peers.back()->connection;
  std::string reply(8u << 20, 'r');  // more than the sockets' buffers hold: a send must wait
  connection->Send(&reply);
  std::string buffer(16'384, '\0');
  uint64_t acknowledged = 0;
  int steps = 0;
  // Counts only the progress that is seen while no send completes.
  for (size_t unsent = 0; steps < 10 && connection->unsent_bytes() > 0;) {
    [[maybe_unused]] ssize_t n = recv(reader, buffer.data(), buffer.size(), MSG_DONTWAIT);
    const uint64_t now = connection->acknowledged_bytes();
    EXPECT_GE(now, acknowledged);
    if (now > acknowledged && connection->unsent_bytes() == unsent) ++steps;
    unsent = connection->unsent_bytes();
    acknowledged = now;
    co_await Sleep(r, 100 * kMicrosecond);
  }
  EXPECT_EQ(steps, 10);
  close(reader);
  while (r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  r.StopListening(&server);
}
TEST(UringNetwork, ProgressInsideOneSendIsSeen) {
  auto made = MakeUringReactor({});
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, ProgressInsideOneSend(reactor));
}

// The kernel decides the timing, so it may take several runs to reproduce a failed seed.
TEST(UringNetwork, RandomScriptsOfHalfClosesResetsAndSlowReaders) {
  const char* rounds = std::getenv("PANDO_TEST_ROUNDS");
  const uint64_t count = rounds ? std::strtoull(rounds, nullptr, 10) : 40;
  for (uint64_t seed : Seeds(count)) {
    // Print the seed first, because a sanitizer report ends the process.
    std::printf("%s\n", Replay(seed).c_str());
    std::fflush(stdout);
    SimRandom random(seed);
    std::vector<uint8_t> script(2 * (20 + random.Below(kMaxNetworkScriptSteps - 20)));
    for (uint8_t& byte : script) byte = static_cast<uint8_t>(random.Next());
    RunNetworkScript(script);
  }
}

}  // namespace
}  // namespace pando
