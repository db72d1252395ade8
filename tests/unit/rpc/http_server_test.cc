// Tests HttpServer on the simulated kernel: its answers, and that no client blocks another.
#include "src/rpc/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "src/io/call_on.h"
#include "src/io/connection_budget.h"
#include "src/io/offload.h"
#include "src/io/socket_address.h"
#include "src/io/uring_reactor.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"
#include "tests/support/toy_filter.h"

namespace pando {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// A client that records everything it receives and whether the server has closed the connection.
class Browser final : public ConnectionHandler {
 public:
  Task<void> Connect(Reactor& reactor, uint16_t port, bool filtered = false) {
    reactor_ = &reactor;
    Result<Connection*> connection = co_await reactor.Connect("127.0.0.1", port, kSecond);
    EXPECT_TRUE(connection.ok()) << connection.status().ToString();
    connection_ = *connection;
    if (filtered) connection_ = AddFilter(reactor, connection_, ToyFilters(/*client=*/true).MakeFilter(reactor));
    connection_->SetHandler(this);
  }
  void Send(std::string bytes) {
    if (connection_ != nullptr) connection_->Send(&bytes);
  }
  Task<void> UntilClosed() {
    while (connection_ != nullptr) co_await Sleep(*reactor_, kMillisecond);
  }
  void HangUp() { connection_->Close(/*now=*/true); }
  bool closed() const { return connection_ == nullptr; }
  std::string received;

 private:
  void OnData(std::span<const char> bytes) override { received.append(bytes.data(), bytes.size()); }
  void OnSent() override {}
  void OnClosed(const Status&) override { connection_ = nullptr; }
  Reactor* reactor_ = nullptr;
  Connection* connection_ = nullptr;
};

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServerTest() : kernel_(11), reactor_(*kernel_.AddMachine("10.0.0.1")->Boot()) {
    registry_.Add(this, "kv_test_total", "A counter.", {}, &counter_);
  }
  // Runs `story` against a listening server, then shuts it down.
  void Run(Task<void> (*story)(HttpServerTest*)) { kernel_.RunTask(reactor_, WithServer(story)); }
  Task<void> WithServer(Task<void> (*story)(HttpServerTest*)) {
    server_ = std::make_unique<HttpServer>(reactor_, &registry_, &health_, &memory_, filters_);
    Result<uint16_t> port = server_->Listen("127.0.0.1", 0);
    EXPECT_TRUE(port.ok());
    co_await story(this);
    co_await server_->Shutdown();
    EXPECT_EQ(server_->metrics().connections.value(), 0);
    server_.reset();
    EXPECT_EQ(memory_.used_bytes(), 0);
  }
  Task<std::string> Fetch(std::string request) {
    Browser browser;
    co_await browser.Connect(reactor_, server_->port());
    browser.Send(std::move(request));
    co_await browser.UntilClosed();
    co_return std::move(browser.received);
  }
  Task<std::string> Get(std::string path) { return Fetch("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"); }

 public:
  static Task<void> Paths(HttpServerTest* t);
  static Task<void> Pages(HttpServerTest* t);
  static Task<void> NotKnown(HttpServerTest* t);
  static Task<void> Together(HttpServerTest* t);
  static Task<void> ShutDownWhileRendering(HttpServerTest* t);
  static Task<void> BadRequests(HttpServerTest* t);
  static Task<void> Idle(HttpServerTest* t);
  static Task<void> Slow(HttpServerTest* t);
  static Task<void> ShutDownWhileOpen(HttpServerTest* t);
  static Task<void> PortInUse(HttpServerTest* t);
  static Task<void> Filtered(HttpServerTest* t);

 protected:
  SimKernel kernel_;
  SimReactor& reactor_;
  Counter counter_;
  Registry registry_;
  NodeHealth health_;
  MemoryBudget memory_{64 << 20};
  ByteFilters* filters_ = nullptr;
  std::unique_ptr<HttpServer> server_;
};

Task<void> HttpServerTest::Paths(HttpServerTest* t) {
  t->counter_.Add(7);
  EXPECT_THAT(co_await t->Get("/metrics"),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("\nkv_test_total 7\n"), HasSubstr("version=0.0.4")));
  EXPECT_THAT(co_await t->Get("/healthz"), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("\r\n\r\nok\n")));
  EXPECT_THAT(co_await t->Get("/readyz?verbose=1"), StartsWith("HTTP/1.1 503 "));
  t->health_.ready.store(true);
  EXPECT_THAT(co_await t->Get("/readyz"), AllOf(StartsWith("HTTP/1.1 200 "), EndsWith("ready\n")));
  std::string trouble = "no map";
  t->health_.trouble = [&trouble] { return trouble; };
  EXPECT_THAT(co_await t->Get("/readyz"), AllOf(StartsWith("HTTP/1.1 503 "), EndsWith("not ready: no map\n")));
  trouble.clear();
  EXPECT_THAT(co_await t->Get("/readyz"), StartsWith("HTTP/1.1 200 "));
  t->health_.trouble = nullptr;
  t->health_.failed.store(true);
  EXPECT_THAT(co_await t->Get("/healthz"), StartsWith("HTTP/1.1 500 "));
  EXPECT_THAT(co_await t->Get("/"), StartsWith("HTTP/1.1 404 "));
  std::string head = co_await t->Fetch("HEAD /readyz HTTP/1.0\r\n\r\n");
  EXPECT_THAT(head, AllOf(HasSubstr("Content-Length: 6\r\n"), EndsWith("\r\n\r\n")));
  t->counter_.Add(1);
  co_await Sleep(t->reactor_, 2 * kHttpPageAgeNs);
  EXPECT_THAT(co_await t->Get("/metrics"), HasSubstr("\nkv_test_total 8\n"));
}
TEST_F(HttpServerTest, Paths) { Run(&HttpServerTest::Paths); }

Task<void> HttpServerTest::Pages(HttpServerTest* t) {
  HttpServer pages(t->reactor_, &t->registry_, &t->health_, &t->memory_);
  int rendered = 0;
  pages.AddPage("/", kHttpHtml, [&]() -> Task<HttpPage> {
    co_await Sleep(t->reactor_, kMillisecond);
    co_return "<p>" + std::to_string(++rendered) + "</p>";
  });
  EXPECT_TRUE(pages.Listen("127.0.0.1", 0).ok());
  Browser first, second;
  for (Browser* browser : {&first, &second}) {
    co_await browser->Connect(t->reactor_, pages.port());
    browser->Send("GET / HTTP/1.1\r\n\r\n");
  }
  for (Browser* browser : {&first, &second}) {
    co_await browser->UntilClosed();
    EXPECT_THAT(browser->received, AllOf(HasSubstr("Content-Type: text/html"), HasSubstr("default-src 'none'"),
                                         EndsWith("\r\n\r\n<p>1</p>")));
  }
  Browser unknown;
  co_await unknown.Connect(t->reactor_, pages.port());
  unknown.Send("GET /status HTTP/1.1\r\n\r\n");
  co_await unknown.UntilClosed();
  EXPECT_THAT(unknown.received, EndsWith("try /metrics, /, /healthz or /readyz\n"));
  co_await pages.Shutdown();
}
TEST_F(HttpServerTest, Pages) { Run(&HttpServerTest::Pages); }

// One that is not known is made again at once.
Task<void> HttpServerTest::NotKnown(HttpServerTest* t) {
  HttpServer pages(t->reactor_, &t->registry_, &t->health_, &t->memory_);
  bool known = false;
  pages.AddPage("/", kHttpJson, [&]() -> Task<HttpPage> {
    if (known) co_return HttpPage("{}\n");
    co_return HttpPage::NotKnown("not yet\n");
  });
  EXPECT_TRUE(pages.Listen("127.0.0.1", 0).ok());
  for (int i = 0; i < 3; ++i) {
    known = i == 1;
    if (i == 2) co_await Sleep(t->reactor_, 2 * kHttpPageAgeNs);
    Browser browser;
    co_await browser.Connect(t->reactor_, pages.port());
    browser.Send("GET /?x HTTP/1.1\r\n\r\n");
    co_await browser.UntilClosed();
    EXPECT_THAT(browser.received, StartsWith(known ? "HTTP/1.1 200 OK" : "HTTP/1.1 503 "));
    EXPECT_THAT(browser.received, HasSubstr(known ? "Content-Type: application/json" : "Content-Type: text/plain"));
    EXPECT_THAT(browser.received, EndsWith(known ? "\r\n\r\n{}\n" : "\r\n\r\nnot yet\n"));
  }
  co_await pages.Shutdown();
}
TEST_F(HttpServerTest, NotKnown) { Run(&HttpServerTest::NotKnown); }

// A page is rendered outside of the reactor, once for all who ask meanwhile. Who goes away before
// it is ready is forgotten.
Task<void> HttpServerTest::Together(HttpServerTest* t) {
  t->kernel_.options().offload_min_ns = t->kernel_.options().offload_max_ns = 50 * kMillisecond;
  t->counter_.Add(1);
  std::vector<std::unique_ptr<Browser>> browsers;
  for (int i = 0; i < 5; ++i) {
    browsers.push_back(std::make_unique<Browser>());
    co_await browsers.back()->Connect(t->reactor_, t->server_->port());
  }
  for (auto& browser : browsers) browser->Send("GET /metrics HTTP/1.1\r\n\r\n");
  while (t->server_->metrics().requests_total.value() < 5) co_await Yield(t->reactor_);
  EXPECT_EQ(t->reactor_.offload_metrics().in_pool.value(), 1);
  EXPECT_EQ(browsers[0]->received, "");
  browsers[4]->HangUp();
  for (auto& browser : browsers) co_await browser->UntilClosed();
  for (size_t i = 0; i < 4; ++i) EXPECT_THAT(browsers[i]->received, HasSubstr("\nkv_test_total 1\n"));
  EXPECT_EQ(t->reactor_.offload_metrics().work_ns.count(), 1u);
}
TEST_F(HttpServerTest, OnePageForAllWhoAskTogether) { Run(&HttpServerTest::Together); }

// Shutdown waits for the page that is being rendered: it reads the registry.
Task<void> HttpServerTest::ShutDownWhileRendering(HttpServerTest* t) {
  t->kernel_.options().offload_min_ns = t->kernel_.options().offload_max_ns = 50 * kMillisecond;
  static Browser browser;
  co_await browser.Connect(t->reactor_, t->server_->port());
  browser.Send("GET /metrics HTTP/1.1\r\n\r\n");
  while (t->server_->metrics().requests_total.value() < 1) co_await Yield(t->reactor_);
  EXPECT_EQ(t->reactor_.offload_metrics().in_pool.value(), 1);
}
TEST_F(HttpServerTest, ShutDownWhileRendering) {
  Run(&HttpServerTest::ShutDownWhileRendering);
  EXPECT_EQ(reactor_.offload_metrics().work_ns.count(), 1u);
}

Task<void> HttpServerTest::BadRequests(HttpServerTest* t) {
  EXPECT_THAT(co_await t->Fetch("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
              AllOf(StartsWith("HTTP/1.1 405 "), HasSubstr("Allow: GET, HEAD\r\n")));
  EXPECT_THAT(co_await t->Fetch(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11)),
              StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(co_await t->Fetch("GET /metrics HTTP/1.1\r\nX: " + std::string(kMaxHttpRequestBytes, 'x')),
              AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("exceeds 8192 bytes")));
  EXPECT_THAT(co_await t->Fetch(std::string(64u << 10, '\0')), StartsWith("HTTP/1.1 400 "));
  EXPECT_EQ(t->server_->metrics().bad_requests_total.value(), 3u);
}
TEST_F(HttpServerTest, BadRequests) { Run(&HttpServerTest::BadRequests); }

// Opens far more idle connections than the limit. A health check is still answered at once (HS1).
Task<void> HttpServerTest::Idle(HttpServerTest* t) {
  std::vector<std::unique_ptr<Browser>> idle;
  for (size_t i = 0; i < 3 * kMaxHttpConnections; ++i) {
    idle.push_back(std::make_unique<Browser>());
    co_await idle.back()->Connect(t->reactor_, t->server_->port());
    EXPECT_LE(t->server_->metrics().connections.value(), static_cast<int64_t>(kMaxHttpConnections) + 1);
  }
  Nanos begin_ns = t->reactor_.NowNs();
  EXPECT_THAT(co_await t->Get("/healthz"), EndsWith("ok\n"));
  EXPECT_LT(t->reactor_.NowNs() - begin_ns, kSecond / 2);
  EXPECT_TRUE(idle.front()->closed());
  EXPECT_FALSE(idle.back()->closed());
  // The remaining connections are closed at their deadline (HS2), without an answer.
  for (auto& browser : idle) co_await browser->UntilClosed();
  EXPECT_LT(t->reactor_.NowNs() - begin_ns, kHttpRequestLimitNs + kSecond);
  EXPECT_GT(t->server_->metrics().timed_out_total.value(), 0u);
  EXPECT_THAT(idle.back()->received, IsEmpty());
}
TEST_F(HttpServerTest, IdleConnectionsKeepNobodyOut) { Run(&HttpServerTest::Idle); }

// A client that sends one byte every 2 s never completes a request. Other requests do not wait for
// it.
Task<void> HttpServerTest::Slow(HttpServerTest* t) {
  Browser dripping;
  co_await dripping.Connect(t->reactor_, t->server_->port());
  for (char c : std::string("GET /metr")) {
    dripping.Send(std::string(1, c));
    EXPECT_THAT(co_await t->Get("/healthz"), EndsWith("ok\n"));
    co_await Sleep(t->reactor_, 2 * kSecond);
  }
  EXPECT_TRUE(dripping.closed());
  EXPECT_THAT(dripping.received, IsEmpty());
  // A request that arrives in pieces, but in time, is answered.
  Browser steady;
  co_await steady.Connect(t->reactor_, t->server_->port());
  for (char c : std::string("GET /healthz HTTP/1.1\r\n\r\n")) {
    steady.Send(std::string(1, c));
    co_await Sleep(t->reactor_, kMillisecond);
  }
  co_await steady.UntilClosed();
  EXPECT_THAT(steady.received, EndsWith("ok\n"));
}
TEST_F(HttpServerTest, SlowClientsBlockNobody) { Run(&HttpServerTest::Slow); }

Task<void> HttpServerTest::ShutDownWhileOpen(HttpServerTest* t) {
  static Browser idle;
  co_await idle.Connect(t->reactor_, t->server_->port());
  idle.Send("GET ");
  co_await Sleep(t->reactor_, 10 * kMillisecond);
  EXPECT_EQ(t->server_->metrics().connections.value(), 1);
}
TEST_F(HttpServerTest, ShutDownWhileOpen) { Run(&HttpServerTest::ShutDownWhileOpen); }

Task<void> HttpServerTest::PortInUse(HttpServerTest* t) {
  HttpServer second(t->reactor_, &t->registry_, &t->health_, &t->memory_);
  Result<uint16_t> taken = second.Listen("127.0.0.1", t->server_->port());
  EXPECT_EQ(taken.code(), Code::kAlreadyExists);
  EXPECT_THAT(taken.status().message(), HasSubstr("--http_port"));
  co_await second.Shutdown();
}
TEST_F(HttpServerTest, PortInUse) { Run(&HttpServerTest::PortInUse); }

// Behind a byte filter, who shakes hands is answered, and who does not gets no answer.
Task<void> HttpServerTest::Filtered(HttpServerTest* t) {
  Browser browser, plain, silent;
  co_await browser.Connect(t->reactor_, t->server_->port(), /*filtered=*/true);
  browser.Send("GET /metrics HTTP/1.1\r\n\r\n");
  co_await browser.UntilClosed();
  EXPECT_THAT(browser.received, AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("\nkv_test_total 0\n")));
  co_await plain.Connect(t->reactor_, t->server_->port());
  plain.Send("GET /metrics HTTP/1.1\r\n\r\n");
  co_await plain.UntilClosed();
  EXPECT_EQ(plain.received, "TOYX");
  const Nanos begin_ns = t->reactor_.NowNs();
  co_await silent.Connect(t->reactor_, t->server_->port());
  co_await silent.UntilClosed();
  EXPECT_LT(t->reactor_.NowNs() - begin_ns, kHttpRequestLimitNs + kSecond) << "HS2 holds for handshakes too";
  EXPECT_EQ(t->server_->metrics().requests_total.value(), 1u);
}
TEST_F(HttpServerTest, Filtered) {
  ToyFilters filters(/*client=*/false);
  filters_ = &filters;
  Run(&HttpServerTest::Filtered);
}

// Sends a request from a plain socket, and leaves the socket open.
int Ask(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Result<SocketAddress> address = SocketAddress::Parse("127.0.0.1", port);
  PCHECK(connect(fd, address->get(), address->length) == 0);
  constexpr std::string_view kRequest = "GET /healthz HTTP/1.1\r\n\r\n";
  PCHECK(send(fd, kRequest.data(), kRequest.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(kRequest.size()));
  return fd;
}

Task<bool> IsAnswered(UringReactor& r, int fd) {
  const Nanos give_up_ns = r.NowNs() + 10 * kSecond;
  char byte;
  while (r.NowNs() < give_up_ns) {
    if (recv(fd, &byte, 1, MSG_DONTWAIT) == 1) co_return true;
    co_await Sleep(r, kMillisecond);
  }
  co_return false;
}

// S4: sockets whose clients do not close them after the answer stay for a while, on a real network.
// They never keep a request out (HS1), even when all places of the page are taken.
Task<void> ClientsThatNeverClose(UringReactor& r) {
  Registry registry;
  NodeHealth health;
  MemoryBudget memory(64 << 20);
  ConnectionBudgets budgets({.clients = 0, .peers = 0, .http = 4 * kMaxHttpConnections});
  ConnectionBudget& sockets = budgets.of(ListenerKind::kHttp);
  HttpServer server(r, &registry, &health, &memory);
  Result<uint16_t> port = server.Listen("127.0.0.1", 0, &budgets);
  CHECK(port.ok()) << port.status().ToString();
  std::vector<int> clients;
  for (size_t i = 0; i < 3 * 4 * kMaxHttpConnections; ++i) {
    clients.push_back(Ask(*port));
    const bool answered = co_await IsAnswered(r, clients.back());
    EXPECT_TRUE(answered) << "request " << i;
    EXPECT_LE(sockets.in_use(), sockets.limit());
    if (!answered) break;
  }
  for (int fd : clients) close(fd);
  co_await server.Shutdown();
  while (r.stats().connections > 0) co_await Sleep(r, kMillisecond);
  EXPECT_EQ(sockets.in_use(), 0);
}
TEST(HttpServerOnSockets, ClientsThatNeverCloseKeepNobodyOut) {
  UringOptions options;
  options.network.linger_limit_ns = 60 * kSecond;
  auto made = MakeUringReactor(options);
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  auto& reactor = static_cast<UringReactor&>(**made);
  RunBlocking(reactor, ClientsThatNeverClose(reactor));
}

}  // namespace
}  // namespace pando
