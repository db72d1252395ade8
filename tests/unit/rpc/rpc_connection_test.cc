// One connection of the server, with a network that the test plays itself: it decides which bytes
// arrive in which turn, also after receiving was paused.
#include "src/rpc/rpc_connection.h"

#include <gtest/gtest.h>

#include <deque>

#include "src/rpc/rpc_server.h"
#include "tests/support/rpc_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

// The network end of a connection. Whatever the server sends is taken at once, unless the test says
// that the peer does not read.
class HandConnection final : public Connection {
 public:
  HandConnection() : Connection({ListenerKind::kClient, "10.0.0.9:1", ""}) {}
  void SetHandler(ConnectionHandler* to) override { handler_ = to; }
  void Send(std::string* bytes) override {
    sent += *bytes;
    if (!reads) unsent_ += bytes->size();
    bytes->clear();
  }
  size_t unsent_bytes() const override { return unsent_; }
  uint64_t acknowledged_bytes() const override { return acknowledged; }
  void PauseReceive() override { paused = true; }
  void ResumeReceive() override { paused = false; }
  void Close(bool) override { closing = true; }

  void Deliver(const std::string& bytes) { handler_->OnData({bytes.data(), bytes.size()}); }
  void HangUp() { handler_->OnClosed(Error(Code::kAborted, "the test hangs up")); }
  // Returns the number of whole frames that the server has sent.
  size_t Frames() const {
    size_t frames = 0;
    for (size_t at = 0; at + kFrameHeaderBytes <= sent.size(); ++frames) {
      at += kFrameHeaderBytes + __builtin_bswap32(LoadLE<uint32_t>(sent.data() + at));
    }
    return frames;
  }

  std::string sent;
  bool paused = false, closing = false, reads = true;
  uint64_t acknowledged = 0;

 private:
  ConnectionHandler* handler_ = nullptr;
  size_t unsent_ = 0;
};

// Answers the method "now" at once, and others when the test says so.
class HandService final : public RpcService {
 public:
  explicit HandService(RpcServer* server) : server_(server) {}
  void OnRequest(const RpcRequest& request) override {
    ++requests;
    request_bytes += request.body.size();
    if (request.method == "writeBatch") {
      api::Kv_writeBatch_args args;
      MemoryGrant memory(&server_->account());
      decoded += server_->codec().Read(request.id.protocol, request.body, &args, &memory).ok();
    }
    waiting.push_back(request.id);
    if (request.method != "later") AnswerNewest();
  }
  MemoryLane LaneOf(std::string_view method) const override {
    return method == "status" ? MemoryLane::kControl : MemoryLane::kOrdinary;
  }
  void OnTurnEnd() override {}
  void OnReplyRoom() override {}
  void AnswerNewest() {
    Answer(waiting.back());
    waiting.pop_back();
  }
  void AnswerOldest() {
    const RequestId id = waiting.front();
    waiting.pop_front();
    Answer(id);
  }

  std::deque<RequestId> waiting;
  size_t requests = 0, request_bytes = 0, decoded = 0;
  size_t reply_bytes = 10;

 private:
  void Answer(const RequestId& id) {
    server_->ReplyException(id, "m", TApplicationException::UNKNOWN_METHOD, std::string(reply_bytes, 'r'));
  }
  RpcServer* server_;
};

std::string Frame(const std::string& method, size_t bytes = 0) {
  api::Kv_get_args args;
  args.request.key.assign(bytes, 'k');
  return EncodeCall(method, 1, args);
}

std::string Repeat(const std::string& what, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += what;
  return all;
}

// Notes the most requests and bytes that a turn handled.
struct TurnMeter final : TurnHook {
  TurnMeter(Reactor* r, const HandService* s) : reactor(r), service(s) { reactor->ArmTurnHook(this); }
  void OnTurnEnd() override {
    most_requests = std::max(most_requests, service->requests - std::exchange(requests, service->requests));
    most_bytes = std::max(most_bytes, service->request_bytes - std::exchange(bytes, service->request_bytes));
    if (measures) reactor->ArmTurnHook(this);
  }
  Reactor* reactor;
  const HandService* service;
  size_t requests = 0, bytes = 0, most_requests = 0, most_bytes = 0;
  bool measures = true;
};

class RpcConnectionTest : public testing::Test {
 public:
  static constexpr int64_t kMemory = 64 << 20;

  RpcConnectionTest() : kernel_(5), shared(kMemory) { reactor_ = kernel_.AddMachine("10.0.0.1")->Boot(); }
  using Story = Task<void> (*)(RpcConnectionTest* t);
  void Run(Story story, RpcOptions options = {}) {
    server = std::make_unique<RpcServer>(*reactor_, options, &shared);
    service = std::make_unique<HandService>(server.get());
    server->SetService(service.get());
    ASSERT_TRUE(kernel_.RunTask(*reactor_, WithServer(this, story)));
    server.reset();
    EXPECT_EQ(shared.memory.used_bytes(), 0);
  }
  static Task<void> WithServer(RpcConnectionTest* t, Story story) {
    ListenOptions listen;
    listen.host = "10.0.0.1";
    EXPECT_TRUE(t->server->Listen(listen).ok());
    co_await story(t);
    for (auto& peer : t->peers) peer->HangUp();
    while (!t->service->waiting.empty()) t->service->AnswerOldest();
    co_await t->server->Shutdown(kSecond);
  }
  HandConnection* Accept() {
    peers.push_back(std::make_unique<HandConnection>());
    static_cast<AcceptHandler&>(*server).OnAccept(peers.back().get());
    return peers.back().get();
  }
  auto Pass(Nanos time_ns = kMillisecond) { return Sleep(*reactor_, time_ns); }
  // Takes all of the memory for requests, to the last byte.
  void UseUpMemory() {
    forced_ = shared.memory.limit_bytes();
    shared.memory.Force(forced_);
    while (server->account().TryReserve(16)) taken_ += 16;
  }
  void GiveMemoryBack() {
    server->account().Release(std::exchange(taken_, 0));
    shared.memory.Release(std::exchange(forced_, 0));
  }

  static Task<void> PausedBelowItsLimit(RpcConnectionTest* t);
  static Task<void> LastBytesWithoutMemory(RpcConnectionTest* t);
  static Task<void> ManyFramesInOneTurn(RpcConnectionTest* t);
  static Task<void> ManyBytesInOneTurn(RpcConnectionTest* t);
  static Task<void> ManyListEntriesInOneTurn(RpcConnectionTest* t);
  static Task<void> EarlyRepliesThenOutOfOrder(RpcConnectionTest* t);
  static Task<void> PlacesOfIdleConnections(RpcConnectionTest* t);
  static Task<void> ManyIdleConnections(RpcConnectionTest* t);
  static Task<void> OverTheLimit(RpcConnectionTest* t);
  static Task<void> LargeFramesThatDrip(RpcConnectionTest* t);
  static Task<void> LargeRepliesThatDrip(RpcConnectionTest* t);
  static Task<void> GaugeOfBufferedBytes(RpcConnectionTest* t);

  SimKernel kernel_;
  SimReactor* reactor_;
  RpcShared shared;
  std::unique_ptr<RpcServer> server;
  std::unique_ptr<HandService> service;
  std::vector<std::unique_ptr<HandConnection>> peers;

 private:
  int64_t forced_ = 0, taken_ = 0;
};

// Requests are still answered and the connection still stops receiving, but it is no longer at its
// limit. Bytes that were on their way arrive while there is no memory to keep them.
Task<void> RpcConnectionTest::PausedBelowItsLimit(RpcConnectionTest* t) {
  HandConnection* peer = t->Accept();
  peer->Deliver(Repeat(Frame("later"), 6));
  EXPECT_EQ(t->service->requests, 4u);
  EXPECT_TRUE(peer->paused);
  co_await t->Pass();
  t->service->AnswerOldest();
  co_await t->Pass();
  EXPECT_TRUE(peer->paused) << "3 of 4 requests are unanswered, which is more than half of the limit";
  t->UseUpMemory();
  peer->Deliver(Repeat(Frame("later"), 30));
  t->GiveMemoryBack();
  co_await t->Pass();
  for (int i = 0; i < 50 && !peer->closing; ++i) {
    while (!t->service->waiting.empty()) t->service->AnswerOldest();
    co_await t->Pass();
  }
  EXPECT_EQ(peer->Frames(), 36u) << "requests were swallowed";
  peer->Deliver(Frame("now"));
  co_await t->Pass();
  EXPECT_EQ(peer->Frames(), 37u) << "the connection is deaf";
}
TEST_F(RpcConnectionTest, PausedBelowItsLimitItLosesNothing) {
  RpcOptions options;
  options.max_requests = 4;
  Run(&RpcConnectionTest::PausedBelowItsLimit, options);
}

// The client has sent all of its request and waits for the answer.
Task<void> RpcConnectionTest::LastBytesWithoutMemory(RpcConnectionTest* t) {
  HandConnection* peer = t->Accept();
  const std::string frame = Frame("now", 40'000);
  peer->Deliver(frame.substr(0, 1000));
  t->UseUpMemory();
  peer->Deliver(frame.substr(1000));
  co_await t->Pass();
  EXPECT_EQ(peer->Frames(), 1u) << "a request is refused as soon as it is complete";
  t->GiveMemoryBack();
  peer->Deliver(Frame("now"));
  co_await t->Pass();
  EXPECT_EQ(peer->Frames(), 2u);
}
TEST_F(RpcConnectionTest, ARequestThatEndsWithoutMemoryIsRefusedAtOnce) {
  Run(&RpcConnectionTest::LastBytesWithoutMemory);
}

// Requests that are answered at once never bring a connection to its limit of requests.
Task<void> RpcConnectionTest::ManyFramesInOneTurn(RpcConnectionTest* t) {
  constexpr size_t kFrames = 50'000;
  TurnMeter meter(t->reactor_, t->service.get());
  HandConnection* greedy = t->Accept();
  HandConnection* other = t->Accept();
  co_await t->Pass();
  greedy->Deliver(Repeat(Frame("now"), kFrames));
  other->Deliver(Frame("now"));
  co_await Yield(*t->reactor_);
  co_await Yield(*t->reactor_);
  co_await Yield(*t->reactor_);
  EXPECT_EQ(other->Frames(), 1u);
  EXPECT_LT(t->service->requests, 5000u) << "the other client had to wait for too many";
  while (t->service->requests <= kFrames) co_await t->Pass();
  meter.measures = false;
  co_await t->Pass();
  EXPECT_LE(meter.most_requests, 1000u);
  EXPECT_EQ(greedy->Frames(), kFrames);
  EXPECT_FALSE(greedy->paused);
  greedy->Deliver(Frame("now"));
  co_await t->Pass();
  EXPECT_EQ(greedy->Frames(), kFrames + 1);
}
TEST_F(RpcConnectionTest, ATurnHandlesALimitedNumberOfFrames) { Run(&RpcConnectionTest::ManyFramesInOneTurn); }

Task<void> RpcConnectionTest::ManyBytesInOneTurn(RpcConnectionTest* t) {
  TurnMeter meter(t->reactor_, t->service.get());
  HandConnection* greedy = t->Accept();
  // The last frame is incomplete at first.
  const std::string all = Repeat(Frame("now", 60'000), 60);
  greedy->Deliver(all.substr(0, all.size() - 100));
  for (int i = 0; i < 100 && t->service->requests < 59; ++i) co_await t->Pass();
  EXPECT_FALSE(greedy->paused);
  greedy->Deliver(all.substr(all.size() - 100));
  co_await t->Pass();
  meter.measures = false;
  co_await t->Pass();
  EXPECT_EQ(greedy->Frames(), 60u);
  EXPECT_LE(meter.most_bytes, 400'000u);
}
TEST_F(RpcConnectionTest, ATurnHandlesALimitedNumberOfBytes) { Run(&RpcConnectionTest::ManyBytesInOneTurn); }

// An empty operation takes one byte on the wire, but its struct takes hundreds.
Task<void> RpcConnectionTest::ManyListEntriesInOneTurn(RpcConnectionTest* t) {
  TurnMeter meter(t->reactor_, t->service.get());
  HandConnection* greedy = t->Accept();
  api::Kv_writeBatch_args args;
  args.request.ops.resize(1024);
  greedy->Deliver(Repeat(EncodeCall("writeBatch", 1, args), 200));
  while (t->service->requests < 200) co_await t->Pass();
  meter.measures = false;
  co_await t->Pass();
  EXPECT_EQ(t->service->decoded, 200u);
  EXPECT_LE(meter.most_requests, 8u);
  EXPECT_EQ(greedy->Frames(), 200u);
}
TEST_F(RpcConnectionTest, ATurnDecodesALimitedNumberOfListEntries) {
  Run(&RpcConnectionTest::ManyListEntriesInOneTurn);
}

// Replies that wait behind the oldest request take memory, until the client agrees that they may
// overtake it.
Task<void> RpcConnectionTest::EarlyRepliesThenOutOfOrder(RpcConnectionTest* t) {
  const int64_t before = t->server->account().in_use_bytes();
  HandConnection* peer = t->Accept();
  peer->Deliver(Frame("later"));
  EXPECT_FALSE(t->server->HoldsUpReplies(t->service->waiting[0]));
  t->service->reply_bytes = 1 << 20;
  peer->Deliver(Repeat(Frame("now"), 3));
  co_await t->Pass();
  EXPECT_EQ(peer->Frames(), 0u);
  EXPECT_GT(t->server->account().in_use_bytes(), before + (3 << 20));
  EXPECT_TRUE(t->server->HoldsUpReplies(t->service->waiting[0]));
  t->server->AllowOutOfOrderReplies(t->service->waiting[0]);
  co_await t->Pass();
  EXPECT_EQ(peer->Frames(), 3u);
  EXPECT_FALSE(t->server->HoldsUpReplies(t->service->waiting[0]));
  EXPECT_EQ(t->server->account().in_use_bytes(), before);
}
TEST_F(RpcConnectionTest, EarlyRepliesThatHaveLeftTakeNoMemory) { Run(&RpcConnectionTest::EarlyRepliesThenOutOfOrder); }

// -- connections over the limit

Task<void> RpcConnectionTest::PlacesOfIdleConnections(RpcConnectionTest* t) {
  for (int i = 0; i < 4; ++i) {
    t->Accept();
    co_await t->Pass(2 * kSecond);
  }
  // These three are in use: one waits for a reply, one has sent half a frame, one does not read.
  t->peers[0]->Deliver(Frame("later"));
  t->peers[1]->Deliver(Frame("now").substr(0, 10));
  t->peers[3]->reads = false;
  t->peers[3]->Deliver(Frame("now"));
  co_await t->Pass(8 * kSecond);
  HandConnection* fifth = t->Accept();
  EXPECT_TRUE(t->peers[2]->closing);
  t->peers[2]->HangUp();
  for (size_t i : {0u, 1u, 3u}) EXPECT_FALSE(t->peers[i]->closing) << i;
  fifth->Deliver(Frame("now"));
  co_await t->Pass();
  EXPECT_EQ(t->service->requests, 3u) << "the new connection is not served";
  EXPECT_FALSE(fifth->closing);
  EXPECT_EQ(t->server->metrics().evicted_total.value(), 1u);
  // Now no connection has been idle for long, so the next one is refused.
  HandConnection* sixth = t->Accept();
  sixth->Deliver(Frame("now"));
  co_await t->Pass();
  EXPECT_EQ(t->service->requests, 3u);
  EXPECT_TRUE(sixth->closing);
  EXPECT_EQ(t->server->metrics().refused_total.value(), 1u);
  sixth->HangUp();
  t->peers.erase(t->peers.begin() + 5);
  t->peers.erase(t->peers.begin() + 2);
}
TEST_F(RpcConnectionTest, AnIdleConnectionMakesRoomForANewOne) {
  RpcOptions options;
  options.max_connections = 4;
  Run(&RpcConnectionTest::PlacesOfIdleConnections, options);
}

// A flood of connections that never send a byte goes before one that was used, although that one
// has been idle for longer.
Task<void> RpcConnectionTest::ManyIdleConnections(RpcConnectionTest* t) {
  t->Accept()->Deliver(Frame("now"));
  co_await t->Pass(5 * kSecond);
  while (t->peers.size() < 1000) t->Accept();
  co_await t->Pass(20 * kSecond);
  for (int i = 0; i < 500; ++i) {
    HandConnection* peer = t->Accept();
    peer->Deliver(Frame("now"));
    co_await t->Pass();
    EXPECT_EQ(peer->Frames(), 1u) << i;
    EXPECT_FALSE(peer->closing) << "connection " << i << " was refused";
    std::erase_if(t->peers, [](auto& p) { return p->closing ? p->HangUp(), true : false; });
    EXPECT_EQ(t->peers.size(), 1000u);
    if (testing::Test::HasFailure()) co_return;
  }
  EXPECT_EQ(t->peers[0]->Frames(), 1u) << "the connection that was used is gone";
}
TEST_F(RpcConnectionTest, AFloodOfIdleConnectionsKeepsNobodyOut) {
  RpcOptions options;
  options.max_connections = 1000;
  Run(&RpcConnectionTest::ManyIdleConnections, options);
}

// Even when no connection can be closed, an operator can ask how the node is.
Task<void> RpcConnectionTest::OverTheLimit(RpcConnectionTest* t) {
  t->Accept()->Deliver(Frame("later"));
  co_await t->Pass();
  HandConnection* client = t->Accept();
  HandConnection* operators = t->Accept();
  HandConnection* silent = t->Accept();
  client->Deliver(Frame("now"));
  const std::string status = Frame("status", 200);
  operators->Deliver(status.substr(0, 100));
  operators->Deliver(status.substr(100) + Frame("now"));
  co_await t->Pass();
  EXPECT_EQ(t->service->requests, 2u) << "besides the first, only status is served, and only once";
  EXPECT_EQ(client->Frames(), 1u);
  EXPECT_EQ(operators->Frames(), 1u);
  EXPECT_TRUE(client->closing && operators->closing);
  EXPECT_FALSE(silent->closing);
  co_await t->Pass(6 * kSecond);
  EXPECT_TRUE(silent->closing) << "it holds one of the few places over the limit";
}
TEST_F(RpcConnectionTest, OverTheLimitStatusIsServed) {
  RpcOptions options;
  options.max_connections = 1;
  Run(&RpcConnectionTest::OverTheLimit, options);
}

// -- peers that hold memory

// Both move more than min_bytes_per_s. The first one would take an hour for its frame.
Task<void> RpcConnectionTest::LargeFramesThatDrip(RpcConnectionTest* t) {
  HandConnection* drips = t->Accept();
  HandConnection* steady = t->Accept();
  const std::string frame = Frame("now", 4'000'000);
  drips->Deliver(frame.substr(0, 2'200'000));
  size_t dripped = 2'200'000;
  for (size_t at = 0; at < frame.size(); at += 17'000) {
    steady->Deliver(frame.substr(at, 17'000));
    if (t->peers.size() == 2) drips->Deliver(frame.substr(std::exchange(dripped, dripped + 1100), 1100));
    co_await t->Pass(kSecond);
    if (t->peers.size() == 2 && drips->closing) {
      EXPECT_LE(dripped, 2'200'000u + 125 * 1100);
      drips->HangUp();
      t->peers.erase(t->peers.begin());
    }
    EXPECT_FALSE(steady->closing) << "closed at 17 KB/s, after " << at << " bytes";
    if (steady->closing) co_return;
  }
  EXPECT_EQ(steady->Frames(), 1u);
  EXPECT_EQ(t->peers.size(), 1u) << "the one that drips is still there";
  EXPECT_EQ(t->server->metrics().closed_stalled_total.value(), 1u);
}
TEST_F(RpcConnectionTest, WhoHoldsALargePartOfAFrameMustMoveMore) { Run(&RpcConnectionTest::LargeFramesThatDrip); }

Task<void> RpcConnectionTest::LargeRepliesThatDrip(RpcConnectionTest* t) {
  HandConnection* drips = t->Accept();
  HandConnection* steady = t->Accept();
  t->service->reply_bytes = 1 << 20;
  for (HandConnection* peer : {drips, steady}) {
    peer->reads = false;
    peer->Deliver(Repeat(Frame("now"), 4));
  }
  for (int second = 0; second < 200; ++second) {
    steady->acknowledged += 17'000;
    drips->acknowledged += 1100;
    co_await t->Pass(kSecond);
  }
  EXPECT_TRUE(drips->closing);
  EXPECT_FALSE(steady->closing);
}
TEST_F(RpcConnectionTest, WhoHoldsLargeRepliesMustReadFaster) { Run(&RpcConnectionTest::LargeRepliesThatDrip); }

// A connection that ends without a reply causes no event of the server's turn.
Task<void> RpcConnectionTest::GaugeOfBufferedBytes(RpcConnectionTest* t) {
  HandConnection* peer = t->Accept();
  peer->Deliver(Frame("now"));
  peer->Deliver(Frame("now", 100'000).substr(0, 50'000));
  co_await t->Pass();
  t->server->PublishMetrics();
  EXPECT_GE(t->server->metrics().buffered_bytes.value(), 50'000);
  peer->HangUp();
  t->peers.clear();
  co_await t->Pass();
  t->server->PublishMetrics();
  EXPECT_EQ(t->server->metrics().buffered_bytes.value(), 0);
}
TEST_F(RpcConnectionTest, TheGaugeOfBufferedBytesFalls) { Run(&RpcConnectionTest::GaugeOfBufferedBytes); }

}  // namespace
}  // namespace pando
