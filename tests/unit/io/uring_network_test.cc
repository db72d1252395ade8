// The sockets of the io_uring reactor against peers that close halves, reset, stop reading and read slowly.
#include "src/io/uring_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "src/io/call_on.h"
#include "src/io/socket_address.h"
#include "src/io/uring_reactor.h"
#include "tests/support/network_script.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

// Replies at once with more than the sockets' buffers hold, and closes when a byte comes.
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

// A client that has closed its sending half gets what was queued for it, and its connection is freed once.
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
  co_await Sleep(r, 5 * kMillisecond);  // most likely both have arrived; the result is the same if not
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

// The kernel decides the moments, so a failed seed may need a few runs.
TEST(UringNetwork, RandomScriptsOfHalfClosesResetsAndSlowReaders) {
  const char* rounds = std::getenv("PANDO_TEST_ROUNDS");
  const uint64_t count = rounds ? std::strtoull(rounds, nullptr, 10) : 40;
  for (uint64_t seed : Seeds(count)) {
    // Printed before, because a sanitizer's report ends the process.
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
