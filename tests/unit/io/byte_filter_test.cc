// Byte filters, against both reactors: a toy filter with a handshake on either end of a connection,
// or played by hand against an end without one.
#include "src/io/byte_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/toy_filter.h"
#include "tests/unit/io/reactor_harness.h"
#include "tests/unit/io/socket_peers.h"

namespace pando {
namespace {

using ::testing::HasSubstr;

template <typename Harness>
class ByteFilterConformance : public ::testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE(ByteFilterConformance, ReactorImplementations, ReactorNames);

// Listens, and puts a filter on what it accepts.
struct FilteredAcceptor final : AcceptHandler {
  explicit FilteredAcceptor(Reactor& r, bool echo = true) : reactor(r), inner(r) {
    inner.echo = echo;
    options.metrics = &metrics;
    Result<uint16_t> bound = r.Listen({}, this);
    CHECK(bound.ok()) << bound.status().ToString();
    port = *bound;
  }
  void OnAccept(Connection* connection) override {
    inner.OnAccept(AddFilter(reactor, connection, filters.MakeFilter(reactor), options));
    if (pause) inner.peers.back()->connection->PauseReceive();
  }
  Task<void> Stop() {
    reactor.StopListening(this);
    co_await inner.WaitAllClosed();
    EXPECT_EQ(metrics.handshakes.value(), 0);
  }
  Reactor& reactor;
  ToyFilters filters{/*client=*/false};
  FilterMetrics metrics;
  FilterOptions options;
  bool pause = false;
  Acceptor inner;
  uint16_t port = 0;
};

Task<Connection*> ConnectPlain(Reactor& r, uint16_t port) {
  auto connected = co_await r.Connect("127.0.0.1", port, 10 * kSecond);
  EXPECT_OK(connected.status());
  co_return *connected;
}
Task<Connection*> ConnectFiltered(Reactor& r, uint16_t port, std::string name = "tester", FilterOptions options = {}) {
  Connection* plain = co_await ConnectPlain(r, port);
  co_return AddFilter(r, plain, std::make_unique<ToyFilter>(r, /*client=*/true, std::move(name)), options);
}

// An end without a filter, which plays the protocol by hand.
struct Hand {
  Hand(Reactor& r, bool client) : reactor(r), filter(r, client, "hand") {}
  void SendNow(std::string bytes) { end.connection->Send(&bytes); }
  // One byte per turn.
  Task<void> Drip(std::string bytes) {
    for (char c : bytes) {
      SendNow(std::string(1, c));
      co_await Yield(reactor);
    }
  }
  Task<void> Establish() {
    std::string hello;
    EXPECT_OK(filter.Start(&hello));
    co_await Drip(std::move(hello));
    co_await end.WaitFor(ToyFilter::kAnswerBytes);
    EXPECT_EQ(Decode(), "");
    EXPECT_TRUE(filter.established());
  }
  std::string Encode(std::string_view plain) {
    std::string wire;
    EXPECT_OK(filter.Send(plain, &wire));
    return wire;
  }
  // What has arrived since the last call.
  std::string Decode() {
    std::string plain, wire;
    EXPECT_OK(filter.Receive(end.received, &plain, &wire));
    end.received.clear();
    if (!wire.empty()) SendNow(std::move(wire));
    return plain;
  }
  Reactor& reactor;
  ToyFilter filter;
  Peer end;
};

Task<void> EchoThroughFilters(Reactor& r) {
  FilteredAcceptor server(r);
  FilterMetrics metrics;
  FilterOptions options;
  options.metrics = &metrics;
  Peer client;
  Connection* connection = co_await ConnectFiltered(r, server.port, "alice", options);
  client.Attach(r, connection);
  std::string expected;
  for (int i = 0; i < 50; ++i) {
    std::string message = fmt::format("message {};", i);
    expected += message;
    connection->Send(&message);
    EXPECT_TRUE(message.empty());
  }
  EXPECT_GE(connection->unsent_bytes(), expected.size()) << "it counts what waits for the handshake";
  co_await client.WaitFor(expected.size());
  EXPECT_EQ(client.received, expected);
  EXPECT_GE(client.sent_events, 1);
  EXPECT_EQ(connection->unsent_bytes(), 0u);

  const std::string large = Bytes(3u << 20, 3);
  std::string copy = large;
  client.received.clear();
  connection->Send(&copy);
  EXPECT_TRUE(copy.empty());
  EXPECT_GT(connection->unsent_bytes(), large.size()) << "each record has a head";
  co_await client.WaitFor(large.size());
  EXPECT_TRUE(client.received == large);

  Peer& accepted = *server.inner.peers.at(0);
  EXPECT_EQ(accepted.connection->identity().principal, "alice");
  EXPECT_EQ(accepted.connection->identity().listener, ListenerKind::kClient);
  EXPECT_EQ(connection->identity().principal, "");
  EXPECT_THAT(connection->identity().address, HasSubstr(fmt::format(":{}", server.port)));
  connection->Close(false);
  std::string late = "too late";
  connection->Send(&late);
  co_await client.WaitClosed();
  co_await server.Stop();
  EXPECT_EQ(accepted.reason.code(), Code::kAborted) << accepted.reason.ToString();
  EXPECT_THAT(accepted.reason.message(), HasSubstr("closed the connection"));
  EXPECT_EQ(metrics.established_total.value(), 1u);
  EXPECT_EQ(metrics.failed_total.value(), 0u);
  EXPECT_EQ(server.metrics.established_total.value(), 1u);
}
TYPED_TEST(ByteFilterConformance, Echo) { this->harness_.Run(EchoThroughFilters(this->harness_.reactor())); }

Task<void> FilteredClient(Reactor& r, uint16_t port, uint64_t seed) {
  Peer client;
  Connection* connection = co_await ConnectFiltered(r, port);
  client.Attach(r, connection);
  std::string expected;
  for (uint64_t i = 0; i < 15; ++i) {
    std::string message = Bytes(1 + (seed * 31 + i) * 977 % 20000, seed + i);
    expected += message;
    connection->Send(&message);
    if (i % 5 == 4) co_await client.WaitFor(expected.size());
    if ((seed + i) % 7 == 0) connection->PauseReceive();
    connection->ResumeReceive();
  }
  co_await client.WaitFor(expected.size());
  EXPECT_TRUE(client.received == expected);
  connection->Close(seed % 2 == 0);
  co_await client.WaitClosed();
}
Task<void> ManyFiltered(Reactor& r) {
  MemoryBudget budget(64 << 20);
  BudgetAccount memory(&budget);
  FilteredAcceptor server(r);
  server.options.memory = &memory;
  TaskGroup clients;
  for (uint64_t i = 0; i < 30; ++i) clients.Spawn(FilteredClient(r, server.port, i));
  co_await clients.Drain();
  co_await server.Stop();
  EXPECT_EQ(server.metrics.established_total.value(), 30u);
  EXPECT_EQ(memory.in_use_bytes(), 0);
}
TYPED_TEST(ByteFilterConformance, ManyConnections) { this->harness_.Run(ManyFiltered(this->harness_.reactor())); }

// BF2: handshake and records that arrive byte by byte are put together, and what is kept is
// counted.
Task<void> PartialRecords(Reactor& r) {
  MemoryBudget budget(1 << 20);
  BudgetAccount memory(&budget);
  FilteredAcceptor server(r);
  server.options.memory = &memory;
  Hand hand(r, /*client=*/true);
  Connection* plain = co_await ConnectPlain(r, server.port);
  hand.end.Attach(r, plain);
  co_await hand.Establish();
  const std::string text = Bytes(3000, 5);
  std::string record = hand.Encode(text);
  hand.SendNow(record.substr(0, 2900));
  while (memory.in_use_bytes() < 2900) co_await Sleep(r, kMillisecond);
  EXPECT_EQ(server.inner.peers[0]->received, "");
  co_await hand.Drip(record.substr(2900));
  co_await hand.Drip(hand.Encode("and more"));
  std::string echoed;
  while (echoed.size() < 3008) {
    echoed += hand.Decode();
    co_await Yield(r);
  }
  EXPECT_TRUE(echoed == text + "and more");
  EXPECT_LT(memory.in_use_bytes(), 2900);
  hand.end.connection->Close(false);
  co_await hand.end.WaitClosed();
  co_await server.Stop();
  EXPECT_EQ(memory.in_use_bytes(), 0);
}
TYPED_TEST(ByteFilterConformance, PartialRecords) { this->harness_.Run(PartialRecords(this->harness_.reactor())); }

// BF3: nothing leaves before the handshake is complete. Close(false) waits for it, and then
// everything leaves.
Task<void> HoldsBack(Reactor& r) {
  Acceptor server(r);
  server.echo = false;
  auto port = r.Listen({}, &server);
  EXPECT_OK(port.status());
  Peer client;
  Connection* connection = co_await ConnectFiltered(r, *port);
  client.Attach(r, connection);
  const std::string text = Bytes(100'000, 6);
  std::string first = text.substr(0, 10), second = text.substr(10);
  connection->Send(&first);
  connection->Send(&second);
  connection->Close(false);
  std::string late = "after close";
  connection->Send(&late);
  co_await server.WaitFor(1);
  Hand hand(r, /*client=*/false);
  hand.end.Attach(r, server.peers[0]->connection);  // takes over from the acceptor's peer
  hand.end.received = server.peers[0]->received;
  co_await hand.end.WaitFor(ToyFilter::kHelloBytes);
  co_await Sleep(r, 5 * kMillisecond);
  EXPECT_EQ(hand.end.received.size(), ToyFilter::kHelloBytes);
  EXPECT_EQ(connection->unsent_bytes(), text.size());
  EXPECT_FALSE(client.closed);
  std::string received = hand.Decode();  // and answers
  while (!hand.end.closed) co_await hand.end.changed->Wait();
  received += hand.Decode();
  EXPECT_TRUE(received == text);
  EXPECT_TRUE(hand.filter.ended());
  co_await client.WaitClosed();
  EXPECT_THAT(client.reason.message(), HasSubstr("on this side"));
  r.StopListening(&server);
}
TYPED_TEST(ByteFilterConformance, HoldsBackUntilTheHandshake) {
  this->harness_.Run(HoldsBack(this->harness_.reactor()));
}

Task<void> HandshakeErrors(Reactor& r) {
  FilteredAcceptor server(r);
  Hand browser(r, /*client=*/true);
  Connection* plain = co_await ConnectPlain(r, server.port);
  browser.end.Attach(r, plain);
  browser.SendNow("GET / HTTP/1.1\r\n\r\n");
  co_await browser.end.WaitClosed();
  EXPECT_EQ(browser.end.received, "TOYX") << "what the filter says last still arrives";
  Peer& refused = *server.inner.peers[0];
  co_await refused.WaitClosed();
  EXPECT_EQ(refused.received, "");
  EXPECT_EQ(refused.reason.code(), Code::kCorruption) << refused.reason.ToString();
  EXPECT_THAT(refused.reason.message(), HasSubstr("no handshake"));
  EXPECT_THAT(refused.reason.message(), HasSubstr(":"));

  Peer stranger;
  Connection* connection = co_await ConnectFiltered(r, server.port, "stranger");
  stranger.Attach(r, connection);
  std::string secret = "never arrives";
  connection->Send(&secret);
  co_await stranger.WaitClosed();
  EXPECT_EQ(stranger.reason.code(), Code::kAborted);
  EXPECT_THAT(stranger.reason.message(), HasSubstr("refuses the handshake"));
  co_await server.Stop();
  EXPECT_EQ(server.inner.peers[1]->received, "");
  EXPECT_EQ(server.inner.peers[1]->reason.code(), Code::kInvalidArgument);
  EXPECT_EQ(server.metrics.failed_total.value(), 2u);
  EXPECT_EQ(server.metrics.established_total.value(), 0u);
}
TYPED_TEST(ByteFilterConformance, HandshakeErrors) { this->harness_.Run(HandshakeErrors(this->harness_.reactor())); }

// BF3: a peer that says nothing, or stops in the middle, does not keep the connection.
Task<void> SilentPeers(Reactor& r) {
  FilteredAcceptor server(r);
  server.options.handshake_limit_ns = 20 * kMillisecond;
  Hand silent(r, /*client=*/true), halfway(r, /*client=*/true);
  Connection* first = co_await ConnectPlain(r, server.port);
  silent.end.Attach(r, first);
  Connection* second = co_await ConnectPlain(r, server.port);
  halfway.end.Attach(r, second);
  halfway.SendNow("TOYC123");
  co_await silent.end.WaitClosed();
  co_await halfway.end.WaitClosed();
  co_await server.Stop();
  for (auto& peer : server.inner.peers) {
    EXPECT_EQ(peer->reason.code(), Code::kDeadline) << peer->reason.ToString();
    EXPECT_THAT(peer->reason.message(), HasSubstr("20 ms"));
  }
  EXPECT_EQ(server.metrics.failed_total.value(), 2u);
}
TYPED_TEST(ByteFilterConformance, SilentPeers) { this->harness_.Run(SilentPeers(this->harness_.reactor())); }

// BF4: the peer closes its sending direction at different places.
struct Cut {
  const char* where;
  Code code;
  const char* message;
  std::string received;
};
Task<void> OneCut(Reactor& r, FilteredAcceptor* server, int which, Cut expected) {
  Hand hand(r, /*client=*/true);
  Connection* plain = co_await ConnectPlain(r, server->port);
  hand.end.Attach(r, plain);
  if (which == 0) {
    hand.SendNow("TOYC12");
  } else {
    co_await hand.Establish();
    std::string wire = hand.Encode("first");
    wire += hand.Encode("second");
    if (which == 1) wire.resize(wire.size() - 1);
    if (which == 3) hand.filter.End(&wire);
    hand.SendNow(std::move(wire));
  }
  hand.end.connection->Close(false);
  co_await server->inner.WaitFor(1);
  Peer& accepted = *server->inner.peers.back();
  co_await accepted.WaitClosed();
  co_await hand.end.WaitClosed();
  EXPECT_EQ(accepted.received, expected.received) << expected.where;
  EXPECT_EQ(accepted.reason.code(), expected.code) << expected.where << ": " << accepted.reason.ToString();
  EXPECT_THAT(accepted.reason.message(), HasSubstr(expected.message)) << expected.where;
}
Task<void> Cuts(Reactor& r) {
  const std::vector<Cut> cuts = {
      {"in the handshake", Code::kAborted, "handshake was not complete", ""},
      {"in a record", Code::kCorruption, "did not say that nothing follows", "first"},
      {"after a record", Code::kCorruption, "did not say that nothing follows", "firstsecond"},
      {"at the end", Code::kAborted, "closed the connection", "firstsecond"},
  };
  for (int which = 0; which < 4; ++which) {
    FilteredAcceptor server(r, /*echo=*/false);
    Cut expected = cuts[static_cast<size_t>(which)];
    co_await OneCut(r, &server, which, std::move(expected));
    co_await server.Stop();
  }
}
TYPED_TEST(ByteFilterConformance, Cuts) { this->harness_.Run(Cuts(this->harness_.reactor())); }

// BF3: the handshake goes on although the server does not read. Then its window fills, and what
// the client has not sent stays with the client.
Task<void> SlowReader(Reactor& r) {
  FilteredAcceptor server(r, /*echo=*/false);
  server.pause = true;
  Peer client;
  Connection* connection = co_await ConnectFiltered(r, server.port);
  client.Attach(r, connection);
  constexpr size_t kBytes = 24u << 20;
  const std::string flood = Bytes(kBytes, 8);
  std::string copy = flood;
  connection->Send(&copy);
  co_await server.inner.WaitFor(1);
  Peer& reader = *server.inner.peers[0];
  while (server.metrics.established_total.value() == 0) co_await Sleep(r, kMillisecond);
  co_await Sleep(r, 100 * kMillisecond);
  EXPECT_LT(reader.received.size(), 1u << 20);
  const size_t early = reader.received.size();
  EXPECT_GT(connection->unsent_bytes(), 1u << 20);
  co_await Sleep(r, 20 * kMillisecond);
  EXPECT_EQ(reader.received.size(), early);
  reader.connection->ResumeReceive();
  co_await reader.WaitFor(kBytes);
  EXPECT_TRUE(reader.received == flood);
  while (connection->unsent_bytes() > 0) co_await client.changed->Wait();
  reader.connection->Close(true);
  co_await client.WaitClosed();
  co_await server.Stop();
  EXPECT_EQ(client.reason.code(), Code::kCorruption) << "the server cut the connection";
}
TYPED_TEST(ByteFilterConformance, SlowReader) { this->harness_.Run(SlowReader(this->harness_.reactor())); }

// BF1: an error in Send ends the connection, but not from inside Send. Close(true) may come at any
// time.
Task<void> ErrorsAndCloses(Reactor& r) {
  FilteredAcceptor server(r);
  Peer client;
  Connection* connection = co_await ConnectFiltered(r, server.port);
  client.Attach(r, connection);
  std::string text = "text";
  connection->Send(&text);
  co_await client.WaitFor(4);
  ToyFilter::fail_sends = true;
  text = "fails";
  connection->Send(&text);
  ToyFilter::fail_sends = false;
  EXPECT_TRUE(text.empty());
  EXPECT_FALSE(client.closed);
  text = "after the error";
  connection->Send(&text);
  connection->Close(false);
  connection->Close(true);
  co_await client.WaitClosed();
  EXPECT_EQ(client.reason.code(), Code::kIoError);
  EXPECT_THAT(client.reason.message(), HasSubstr("the key is used up"));
  EXPECT_THAT(client.reason.message(), HasSubstr(fmt::format(":{}", server.port)));

  Peer hasty;  // closes during the handshake
  Connection* second = co_await ConnectFiltered(r, server.port);
  hasty.Attach(r, second);
  text = "dropped";
  second->Send(&text);
  second->Close(true);
  EXPECT_EQ(second->unsent_bytes(), 0u) << "what was held back is dropped";
  co_await hasty.WaitClosed();

  Connection* third = co_await ConnectFiltered(r, server.port);  // before it has a handler
  third->Close(true);
  co_await server.inner.WaitFor(3);
  co_await server.Stop();
}
TYPED_TEST(ByteFilterConformance, ErrorsAndCloses) { this->harness_.Run(ErrorsAndCloses(this->harness_.reactor())); }

// Keeps all that it gets, as a filter with a defect would.
class Hoarder final : public ByteFilter {
 public:
  Status Start(std::string*) override { return {}; }
  Status Receive(std::string_view bytes, std::string*, std::string*) override {
    kept_ += bytes.size();
    return {};
  }
  Status Send(std::string_view, std::string*) override { return {}; }
  void End(std::string*) override {}
  Status OnCut() override { return {}; }
  bool established() const override { return false; }
  bool ended() const override { return false; }
  std::string principal() const override { return ""; }
  size_t held_bytes() const override { return kept_; }

 private:
  size_t kept_ = 0;
};
struct Hoarders final : AcceptHandler {
  explicit Hoarders(Reactor& r) : reactor(r), inner(r) {}
  void OnAccept(Connection* connection) override {
    inner.OnAccept(AddFilter(reactor, connection, std::make_unique<Hoarder>()));
  }
  Reactor& reactor;
  Acceptor inner;
};
Task<void> OutOfMemory(Reactor& r, int64_t limit_bytes, bool established) {
  MemoryBudget budget(limit_bytes);
  BudgetAccount memory(&budget);
  FilteredAcceptor server(r);
  server.options.memory = &memory;
  Hand hand(r, /*client=*/true);
  Connection* plain = co_await ConnectPlain(r, server.port);
  hand.end.Attach(r, plain);
  if (established) {
    co_await hand.Establish();
    hand.SendNow(hand.Encode(std::string(4000, 'x')).substr(0, 3500));
  }
  co_await hand.end.WaitClosed();
  co_await server.Stop();
  EXPECT_EQ(server.inner.peers[0]->reason.code(), Code::kOverloaded) << server.inner.peers[0]->reason.ToString();
  EXPECT_EQ(memory.in_use_bytes(), 0);
}
// BF2: without memory for what a filter keeps, or when it keeps too much, the connection ends.
Task<void> Bounds(Reactor& r) {
  co_await OutOfMemory(r, 10, /*established=*/false);
  co_await OutOfMemory(r, 2000, /*established=*/true);
  Hoarders hoarders(r);
  auto port = r.Listen({}, &hoarders);
  EXPECT_OK(port.status());
  Hand hand(r, /*client=*/true);
  Connection* plain = co_await ConnectPlain(r, *port);
  hand.end.Attach(r, plain);
  hand.SendNow(std::string(2 * kMaxFilterBytes, 'x'));
  co_await hand.end.WaitClosed();
  co_await hoarders.inner.WaitAllClosed();
  EXPECT_EQ(hoarders.inner.peers[0]->reason.code(), Code::kCorruption);
  EXPECT_THAT(hoarders.inner.peers[0]->reason.message(), HasSubstr("the limit is 65536"));
  r.StopListening(&hoarders);
}
TYPED_TEST(ByteFilterConformance, Bounds) { this->harness_.Run(Bounds(this->harness_.reactor())); }

}  // namespace
}  // namespace pando
