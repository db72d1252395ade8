// The server on the simulated kernel, whose sockets deliver bytes in random pieces: framing, order
// of replies, limits, refusals.
#include "src/rpc/rpc_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "gen-cpp/pando_constants.h"
#include "src/io/sync.h"
#include "src/rpc/rpc_dispatch.h"
#include "tests/support/rpc_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

using testing::HasSubstr;
using GetReply = api::Kv_get_result;

// Answers `get` with its key: at once, after a random time ("slow..."), never ("hang..."), or with
// many bytes ("big...").
class EchoService final : public RpcService {
 public:
  EchoService(Reactor& reactor, RpcServer* server) : reactor_(reactor), server_(server), wake_(reactor) {}

  void OnRequest(const RpcRequest& request) override {
    ++requests;
    in_progress = std::max(in_progress, ++running_);
    if (request.method != "get") {
      --running_;
      return server_->ReplyException(request.id, request.method, TApplicationException::UNKNOWN_METHOD,
                                     "no such method");
    }
    StartCall<&EchoService::Get, api::Kv_get_args, api::Kv_get_result>(this, server_, &tasks_, nullptr, request, "get",
                                                                       lane);
  }
  MemoryLane LaneOf(std::string_view) const override { return lane; }
  void OnTurnEnd() override {}
  void OnReplyRoom() override {}
  Task<void> Get(RpcCall<api::Kv_get_args, api::Kv_get_result>* call) {
    const std::string& key = call->args.request.key;
    if (key == "out of order") server_->AllowOutOfOrderReplies(call->id);
    if (key.starts_with("slow")) co_await Sleep(reactor_, static_cast<Nanos>(reactor_.Random() % (5 * kMillisecond)));
    // A write that still waits to be admitted can be withdrawn. One that was appended cannot.
    struct Write final : Withdrawable {
      bool Withdraw() override { return waits; }
      bool waits = false;
    } write;
    write.waits = key.starts_with("write-waits");
    if (key.starts_with("write")) call->withdrawable = &write;
    if (key.starts_with("hang") || key.starts_with("write")) {
      while (!released) co_await wake_.Wait();
    }
    call->withdrawable = nullptr;
    if (key.starts_with("big")) call->reply.success.record.value.assign(100'000, 'b');
    call->reply.success.record.found = true;
    call->reply.success.record.value += key;
    call->reply.__isset.success = true;
    --running_;
  }
  void Release() {
    released = true;
    wake_.NotifyAll();
  }
  Task<void> Finish() {
    Release();
    co_await tasks_.Drain();
  }

  size_t requests = 0, in_progress = 0;
  bool released = false;
  MemoryLane lane = MemoryLane::kOrdinary;

 private:
  Reactor& reactor_;
  RpcServer* server_;
  WaitQueue wake_;
  TaskGroup tasks_;
  size_t running_ = 0;
};

struct ServerParts {
  explicit ServerParts(Reactor& reactor, RpcOptions options = {}, int64_t memory = 64 << 20)
      : shared(memory), server(reactor, options, &shared), service(reactor, &server) {
    server.SetService(&service);
    ListenOptions listen;
    listen.host = "10.0.0.1";
    Result<uint16_t> bound = server.Listen(listen);
    CHECK(bound.ok()) << bound.status().ToString();
    port = *bound;
  }
  Task<void> Stop() {
    co_await service.Finish();
    co_await server.Shutdown(kSecond);
  }
  RpcShared shared;
  RpcServer server;
  EchoService service;
  uint16_t port = 0;
};

class RpcServerTest : public testing::Test {
 protected:
  explicit RpcServerTest(uint64_t seed = 11) : kernel_(seed) {
    reactor_ = kernel_.AddMachine("10.0.0.1")->Boot();
    other_ = kernel_.AddMachine("10.0.0.2")->Boot();
  }
  // Runs `body(server parts, client reactor)`, then stops the server.
  template <typename Body>
  void Run(RpcOptions options, int64_t memory, Body body) {
    auto parts = std::make_unique<ServerParts>(*reactor_, options, memory);
    ASSERT_TRUE(kernel_.RunTask(*other_, body(*parts, *other_)));
    ASSERT_TRUE(kernel_.RunTask(*reactor_, parts->Stop()));
    EXPECT_EQ(parts->shared.memory.used_bytes() <= 2 * BudgetAccount::kChunkBytes, true) << "memory was not released";
    EXPECT_EQ(parts->shared.connections.load(), 0u);
  }
  SimKernel kernel_;
  SimReactor* reactor_;
  SimReactor* other_;
};

std::string SlowKey(int i) { return (i % 3 == 0 ? "slow" : "k") + std::to_string(i); }

struct PipelineInOrder {
  Task<void> operator()(ServerParts& parts, Reactor& reactor) {
    RawPeer peer(reactor);
    Status connected = co_await peer.Connect("10.0.0.1", parts.port);
    EXPECT_TRUE(connected.ok());
    std::string all;
    for (int i = 0; i < 1000; ++i) {
      auto protocol = static_cast<WireProtocol>(i % 3);
      all += GetCall(i, SlowKey(i), 0, protocol);
    }
    peer.Send(std::move(all));
    co_await peer.UntilFrames(1000);
    EXPECT_EQ(peer.frames.size(), 1000u);
    for (int i = 0; i < static_cast<int>(peer.frames.size()); ++i) {
      auto reply = DecodeReply<GetReply>(peer.frames[static_cast<size_t>(i)]);
      EXPECT_EQ(reply.header.seqid, i);
      EXPECT_EQ(reply.header.protocol, static_cast<WireProtocol>(i % 3));
      EXPECT_EQ(reply.result.success.record.value, SlowKey(i));
      if (testing::Test::HasFailure()) break;
    }
    EXPECT_GT(parts.service.in_progress, 8u) << "pipelined requests do not overlap";
    EXPECT_LE(parts.service.in_progress, parts.server.options().max_requests);
    co_await peer.Close();
  }
};

// Random seeds vary the chunks in which bytes arrive and the times at which requests complete.
class ManySeeds : public RpcServerTest, public testing::WithParamInterface<uint64_t> {
 protected:
  ManySeeds() : RpcServerTest(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Seeds, ManySeeds, testing::Range<uint64_t>(1, 13));
TEST_P(ManySeeds, RepliesComeInOrderWhileWorkOverlaps) { Run({}, 64 << 20, PipelineInOrder()); }

// Once the client has agreed, no reply waits for another. Replies to hanging requests come last.
struct PipelineOutOfOrder {
  Task<void> operator()(ServerParts& parts, Reactor& reactor) {
    RawPeer peer(reactor);
    Status connected = co_await peer.Connect("10.0.0.1", parts.port);
    EXPECT_TRUE(connected.ok());
    // A reply that is ready early, before the agreement, waits for its turn and leaves when the
    // client agrees.
    peer.Send(GetCall(0, "hang0") + GetCall(1, "early"));
    co_await Sleep(reactor, 20 * kMillisecond);
    EXPECT_EQ(peer.frames.size(), 0u);
    peer.Send(GetCall(2, "out of order"));
    co_await peer.UntilFrames(2);
    std::string all;
    for (int i = 3; i < 500; ++i) all += GetCall(i, i % 50 == 0 ? "hang" + std::to_string(i) : SlowKey(i));
    peer.Send(std::move(all));
    co_await peer.UntilFrames(490);
    EXPECT_EQ(peer.frames.size(), 490u);
    parts.service.released = true;
    co_await parts.service.Finish();
    co_await peer.UntilFrames(500);
    EXPECT_EQ(peer.frames.size(), 500u);
    std::map<int32_t, std::string> values;
    bool overtaken = false;
    for (const std::string& frame : peer.frames) {
      auto reply = DecodeReply<GetReply>(frame);
      overtaken = overtaken || (!values.empty() && reply.header.seqid < values.rbegin()->first);
      EXPECT_TRUE(values.emplace(reply.header.seqid, reply.result.success.record.value).second) << "answered twice";
    }
    EXPECT_TRUE(overtaken);
    EXPECT_EQ(values[1], "early");
    EXPECT_EQ(values[0], "hang0");
    EXPECT_EQ(values[51], SlowKey(51));
    co_await peer.Close();
  }
};
TEST_P(ManySeeds, RepliesOvertakeOnceAgreed) { Run({}, 64 << 20, PipelineOutOfOrder()); }

// A client that disconnects with answered and unanswered requests of both kinds leaves nothing
// behind.
struct LeavesOutOfOrder {
  Task<void> operator()(ServerParts& parts, Reactor& reactor) {
    RawPeer peer(reactor);
    Status connected = co_await peer.Connect("10.0.0.1", parts.port);
    EXPECT_TRUE(connected.ok());
    std::string all = GetCall(0, "hang") + GetCall(1, "early") + GetCall(2, "out of order");
    for (int i = 3; i < 60; ++i) all += GetCall(i, SlowKey(i));
    peer.Send(std::move(all));
    co_await peer.UntilFrames(4);
    co_await peer.Close();
  }
};
TEST_P(ManySeeds, ClosedOutOfOrder) { Run({}, 64 << 20, LeavesOutOfOrder()); }

TEST_F(RpcServerTest, AtMostMaxRequestsAreInProgress) {
  RpcOptions options;
  options.max_requests = 4;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer peer(reactor);
      Status connected = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      std::string all;
      for (int i = 0; i < 64; ++i) all += GetCall(i, "slow" + std::to_string(i));
      peer.Send(std::move(all));
      co_await peer.UntilFrames(64);
      EXPECT_EQ(peer.frames.size(), 64u);
      EXPECT_EQ(parts.service.in_progress, 4u);
      co_await peer.Close();
    }
  };
  Run(options, 64 << 20, Body());
}

TEST_F(RpcServerTest, BadRequestsAreAnsweredAndTheConnectionLives) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer peer(reactor);
      Status connected = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      std::string undecodable("\0\0\0\x14\x80\x01\0\1\0\0\0\3get\0\0\0\1\x0c\0\2\x0b\0", 24);
      undecodable[3] = 20;
      api::Kv_get_args args;
      peer.Send(EncodeCall("frobnicate", 1, args) + undecodable +
                EncodeCall("get", 3, args, WireProtocol::kBinary, apache::thrift::protocol::T_REPLY) +
                EncodeCall("get", 4, args, WireProtocol::kBinary, apache::thrift::protocol::T_ONEWAY) +
                GetCall(5, "end"));
      co_await peer.UntilFrames(4);
      EXPECT_EQ(peer.frames.size(), 4u);
      if (peer.frames.size() != 4) co_return;
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[0]).exception_type, TApplicationException::UNKNOWN_METHOD);
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[1]).exception_type, TApplicationException::PROTOCOL_ERROR);
      EXPECT_THAT(DecodeReply<GetReply>(peer.frames[1]).exception, HasSubstr("arguments of get"));
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[2]).exception_type, TApplicationException::INVALID_MESSAGE_TYPE);
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[3]).result.success.record.value,
                "end");  // the oneway call got no reply
      co_await peer.Close();
    }
  };
  Run({}, 64 << 20, Body());
}

// Sends bytes that end the connection, and checks the replies that arrive before.
struct ClosedAfter {
  std::string bytes;
  std::string message;  // of the KvError; empty: no reply
  Task<void> operator()(ServerParts& parts, Reactor& reactor) {
    RawPeer peer(reactor);
    Status connected = co_await peer.Connect("10.0.0.1", parts.port);
    EXPECT_TRUE(connected.ok());
    peer.Send(GetCall(1, "slow before") + bytes);
    co_await peer.UntilClosed();
    EXPECT_EQ(peer.frames.size(), message.empty() ? 1u : 2u);
    if (peer.frames.empty()) co_return;
    EXPECT_EQ(DecodeReply<GetReply>(peer.frames[0]).result.success.record.value, "slow before");
    if (peer.frames.size() < 2) co_return;
    auto reply = DecodeReply<GetReply>(peer.frames[1]);
    EXPECT_EQ(reply.header.seqid, 2);
    EXPECT_EQ(reply.result.error.code, api::g_pando_constants.TOO_LARGE);
    EXPECT_THAT(reply.result.error.message, HasSubstr(message));
  }
};

TEST_F(RpcServerTest, AnOversizedFrameIsNamedAndClosed) {
  std::string call = GetCall(2, "x");
  StoreLE<uint32_t>(call.data(), __builtin_bswap32(static_cast<uint32_t>(kMaxFrameBytes + 1)));
  Run({}, 64 << 20, ClosedAfter{call + std::string(200'000, 'x'), "has 4194305 bytes; the limit is 4194304"});
}
TEST_F(RpcServerTest, HttpIsClosed) { Run({}, 64 << 20, ClosedAfter{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""}); }
TEST_F(RpcServerTest, UnframedThriftIsClosed) { Run({}, 64 << 20, ClosedAfter{GetCall(2, "x").substr(4), ""}); }
TEST_F(RpcServerTest, AnEmptyFrameIsClosed) { Run({}, 64 << 20, ClosedAfter{std::string(4, '\0'), ""}); }
TEST_F(RpcServerTest, AFrameOfNonsenseIsClosed) {
  Run({}, 64 << 20, ClosedAfter{std::string("\0\0\0\5\xff\xff\xff\xff\xff", 9), ""});
}

TEST_F(RpcServerTest, DeadlinesAnswerAndTheCallGoesOn) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer peer(reactor);
      Status connected = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      Nanos sent_ns = reactor.NowNs();
      peer.Send(GetCall(1, "hang", 50) + GetCall(2, "write", 70) + GetCall(3, "k") + GetCall(4, "write-waits", 60));
      co_await peer.UntilFrames(4);
      EXPECT_EQ(peer.frames.size(), 4u);
      if (peer.frames.size() != 4) co_return;
      EXPECT_GE(reactor.NowNs() - sent_ns, 70 * kMillisecond);
      EXPECT_LT(reactor.NowNs() - sent_ns, 75 * kMillisecond);
      auto read = DecodeReply<GetReply>(peer.frames[0]).result.error;
      EXPECT_EQ(read.code, api::g_pando_constants.DEADLINE);
      EXPECT_EQ(read.message, "get did not finish within its budget of 50 ms");
      EXPECT_EQ(read.applied, api::g_pando_constants.APPLIED_NO);
      EXPECT_TRUE(read.retryable);
      auto write = DecodeReply<GetReply>(peer.frames[1]).result.error;
      EXPECT_EQ(write.applied, api::g_pando_constants.APPLIED_UNKNOWN);
      EXPECT_FALSE(write.retryable);
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[2]).result.success.record.value, "k");
      auto withdrawn = DecodeReply<GetReply>(peer.frames[3]).result.error;
      EXPECT_EQ(withdrawn.code, api::g_pando_constants.DEADLINE);
      EXPECT_EQ(withdrawn.applied, api::g_pando_constants.APPLIED_NO);
      EXPECT_TRUE(withdrawn.retryable);
      // The calls end after their connection is closed. Nothing may be sent twice or freed too
      // early.
      co_await peer.Close();
    }
  };
  Run({}, 64 << 20, Body());
}

TEST_F(RpcServerTest, ASlowReaderIsBoundedAndThenClosed) {
  RpcOptions options;
  options.stall_timeout_ns = 20 * kSecond;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer peer(reactor);
      Status connected = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      peer.Pause();
      std::string all;
      for (int i = 0; i < 600; ++i) all += GetCall(i, "big");  // 60 MB of replies
      peer.Send(std::move(all));
      co_await Sleep(reactor, 10 * kSecond);
      size_t asked = parts.service.requests;
      EXPECT_LT(asked, 600u);
      EXPECT_GE(parts.server.metrics().paused_connections.value(), 1);
      EXPECT_LT(parts.shared.memory.used_bytes(), 24 << 20);
      EXPECT_FALSE(peer.closed);
      // The connection continues when the client reads again.
      peer.Resume();
      co_await Sleep(reactor, 20 * kMillisecond);
      EXPECT_GT(parts.service.requests, asked);
      peer.Pause();
      co_await Sleep(reactor, 45 * kSecond);
      EXPECT_EQ(parts.server.metrics().closed_stalled_total.value(), 1u);
      peer.Resume();
      co_await peer.UntilClosed();
      co_await peer.Close();
    }
  };
  SimOptions& sim = kernel_.options();
  sim.socket_window_bytes = 64 << 10;
  Run(options, 64 << 20, Body());
}

TEST_F(RpcServerTest, WhoReadsNothingIsClosedSoonWhenMemoryIsShort) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      std::vector<std::unique_ptr<RawPeer>> peers;
      for (int p = 0; p < 3; ++p) {
        peers.push_back(std::make_unique<RawPeer>(reactor));
        const Status connected = co_await peers.back()->Connect("10.0.0.1", parts.port);
        EXPECT_TRUE(connected.ok());
        peers.back()->Pause();
        std::string all;
        for (int i = 0; i < 80; ++i) all += GetCall(i, "big");  // 8 MB of replies
        peers.back()->Send(std::move(all));
      }
      co_await Sleep(reactor, 200 * kMillisecond);
      EXPECT_GT(parts.shared.memory.used_bytes(), 7 << 20);
      co_await Sleep(reactor, 6 * kSecond);
      EXPECT_GE(parts.server.metrics().closed_stalled_total.value(), 1u);
      EXPECT_LT(parts.server.metrics().closed_stalled_total.value(), 3u) << "no more than is needed";
      EXPECT_LT(parts.shared.memory.used_bytes(), 7 << 20);
      for (auto& peer : peers) {
        peer->Resume();
        co_await peer->Close();
      }
    }
  };
  kernel_.options().socket_window_bytes = 64 << 10;
  Run({}, 8 << 20, Body());
}

TEST_F(RpcServerTest, HalfFramesThatDoNotMoveAreClosedAndIdleOnesStay) {
  RpcOptions options;
  options.stall_timeout_ns = 5 * kSecond;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer half(reactor), idle(reactor);
      Status a = co_await half.Connect("10.0.0.1", parts.port);
      Status b = co_await idle.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(a.ok() && b.ok());
      half.Send(GetCall(1, "key").substr(0, 10));
      idle.Send(GetCall(1, "key"));
      co_await Sleep(reactor, 60 * kSecond);
      EXPECT_TRUE(half.closed);
      EXPECT_FALSE(idle.closed);
      idle.Send(GetCall(2, "still here"));
      co_await idle.UntilFrames(2);
      EXPECT_EQ(idle.frames.size(), 2u);
      co_await idle.Close();
    }
  };
  Run(options, 64 << 20, Body());
}

// Both peers move bytes all the time, but so few that they could hold memory forever.
TEST_F(RpcServerTest, PeersThatDripBytesAreClosed) {
  RpcOptions options;
  options.stall_timeout_ns = 20 * kSecond;
  options.min_bytes_per_s = 1024;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer reader(reactor), writer(reactor);
      Status a = co_await reader.Connect("10.0.0.1", parts.port);
      Status b = co_await writer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(a.ok() && b.ok());
      std::string asked;
      for (int i = 0; i < 40; ++i) asked += GetCall(i, "big");  // 4 MB of replies
      reader.Send(std::move(asked));
      co_await Sleep(reactor, kSecond);
      reader.Pause();
      std::string half = GetCall(1, std::string(1000, 'h'));
      for (size_t i = 0; i < 60 && !(reader.closed && writer.closed); ++i) {
        writer.Send(half.substr(i, 1));
        if (!reader.closed) reader.Resume();
        co_await Yield(reactor);
        if (!reader.closed) reader.Pause();
        co_await Sleep(reactor, kSecond);
      }
      EXPECT_EQ(parts.server.metrics().closed_stalled_total.value(), 2u);
      EXPECT_TRUE(writer.closed);
      if (!reader.closed) reader.Resume();
      co_await reader.UntilClosed();
    }
  };
  kernel_.options().socket_window_bytes = 64;
  kernel_.options().network_min_ns = kernel_.options().network_max_ns = kSecond / 4;
  Run(options, 64 << 20, Body());
}

// The peers are slow for several whole periods, but never too slow.
TEST_F(RpcServerTest, SlowButSteadyPeersAreServed) {
  RpcOptions options;
  options.stall_timeout_ns = 10 * kSecond;
  options.min_bytes_per_s = 1024;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer reader(reactor), writer(reactor);
      Status a = co_await reader.Connect("10.0.0.1", parts.port);
      Status b = co_await writer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(a.ok() && b.ok());
      for (int i = 0; i < 10; ++i) reader.Send(GetCall(i, "big"));  // 1 MB at about 16 KB/s
      std::string call = GetCall(1, std::string(100'000, 'w'));     // at 2 KB/s
      for (size_t at = 0; at < call.size(); at += 2000) {
        writer.Send(call.substr(at, 2000));
        co_await Sleep(reactor, kSecond);
      }
      co_await writer.UntilFrames(1);
      EXPECT_EQ(writer.frames.size(), 1u);
      co_await reader.UntilFrames(10);
      EXPECT_EQ(reader.frames.size(), 10u);
      EXPECT_EQ(parts.server.metrics().closed_stalled_total.value(), 0u);
      co_await reader.Close();
      co_await writer.Close();
    }
  };
  kernel_.options().socket_window_bytes = 8192;
  kernel_.options().network_min_ns = kernel_.options().network_max_ns = kSecond / 4;
  Run(options, 64 << 20, Body());
}

TEST_F(RpcServerTest, IdleConnectionsAreClosedAndBusyOnesStay) {
  RpcOptions options;
  options.idle_timeout_ns = 30 * kSecond;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer idle(reactor), busy(reactor), waiting(reactor);
      Status a = co_await idle.Connect("10.0.0.1", parts.port);
      Status b = co_await busy.Connect("10.0.0.1", parts.port);
      Status c = co_await waiting.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(a.ok() && b.ok() && c.ok());
      waiting.Send(GetCall(1, "hang", 600'000));  // a request that takes long
      for (int i = 0; i < 6; ++i) {
        busy.Send(GetCall(i, "k"));
        co_await Sleep(reactor, 20 * kSecond);
        EXPECT_EQ(idle.closed, i > 0) << i;
      }
      EXPECT_FALSE(busy.closed);
      EXPECT_EQ(busy.frames.size(), 6u);
      EXPECT_EQ(parts.server.metrics().closed_idle_total.value(), 1u);
      EXPECT_FALSE(waiting.closed);
      co_await busy.Close();
      co_await waiting.Close();
    }
  };
  Run(options, 64 << 20, Body());
}

TEST_F(RpcServerTest, WithoutMemoryRequestsAreRefusedNotForgotten) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer hog(reactor), peer(reactor);
      Status a = co_await hog.Connect("10.0.0.1", parts.port);
      Status b = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(a.ok() && b.ok());
      // There are two MiB of memory. The hog's partial frame takes most of it, so there is none for
      // the peer's large frame.
      hog.Send(GetCall(1, std::string(1'600'000, 'h')).substr(0, 1'200'000));
      co_await Sleep(reactor, kSecond);
      peer.Send(GetCall(7, std::string(1 << 20, 'p')) + GetCall(8, "small"));
      co_await peer.UntilFrames(2);
      EXPECT_EQ(peer.frames.size(), 2u);
      if (peer.frames.size() != 2) co_return;
      auto refused = DecodeReply<GetReply>(peer.frames[0]);
      EXPECT_EQ(refused.header.seqid, 7);
      EXPECT_EQ(refused.result.error.code, api::g_pando_constants.OVERLOADED);
      EXPECT_GT(refused.result.error.retry_after_ms, 0);
      EXPECT_THAT(refused.result.error.message, HasSubstr("the limit is 1966080"));
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[1]).result.success.record.value, "small");
      EXPECT_LE(parts.shared.memory.used_bytes(), 2 << 20);
      co_await hog.Close();
      // Once the hog is gone, there is room again.
      peer.Send(GetCall(9, std::string(100'000, 'p')));
      co_await peer.UntilFrames(3);
      EXPECT_EQ(peer.frames.size(), 3u);
      if (peer.frames.size() != 3) co_return;
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[2]).result.success.record.value.size(), 100'000u);
      co_await peer.Close();
    }
  };
  Run({}, 2 << 20, Body());
}

TEST_F(RpcServerTest, WithoutMemoryTheControlLaneIsServed) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer peer(reactor);
      Status connected = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      parts.shared.memory.Force(parts.shared.memory.limit_bytes() + 1000);
      peer.Send(GetCall(1, "ordinary"));
      co_await peer.UntilFrames(1);
      parts.service.lane = MemoryLane::kControl;
      peer.Send(GetCall(2, "status"));
      co_await peer.UntilFrames(2);
      parts.shared.memory.Release(parts.shared.memory.limit_bytes() + 1000);
      EXPECT_EQ(peer.frames.size(), 2u);
      if (peer.frames.size() != 2) co_return;
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[0]).result.error.code, api::g_pando_constants.OVERLOADED);
      EXPECT_EQ(DecodeReply<GetReply>(peer.frames[1]).result.success.record.value, "status");
      co_await peer.Close();
    }
  };
  Run({}, 2 << 20, Body());
}

// Each refusal is larger than its request, so refusals must not pile up for clients that do not
// read them.
TEST_F(RpcServerTest, WithoutMemoryWhoTakesNoRefusalsIsNotRead) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      RawPeer peer(reactor);
      Status connected = co_await peer.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      const int64_t hogged = parts.shared.memory.limit_bytes() + 1000;
      parts.shared.memory.Force(hogged);
      peer.Pause();
      for (int i = 0; i < 500; ++i) {
        peer.Send(GetCall(i, "k"));
        co_await Sleep(reactor, 100 * kMicrosecond);
      }
      EXPECT_LT(parts.shared.memory.used_bytes() - hogged, 64 << 10);
      EXPECT_GE(parts.server.metrics().paused_connections.value(), 1);
      EXPECT_LT(parts.server.metrics().overloaded_total.value(), 100u);
      // The connection continues once the client reads and memory is available again.
      peer.Resume();
      co_await peer.UntilFrames(200);
      parts.shared.memory.Release(hogged);
      co_await peer.UntilFrames(500);
      EXPECT_EQ(peer.frames.size(), 500u);
      EXPECT_EQ(parts.server.metrics().paused_connections.value(), 0);
      // A client that keeps sending is disconnected, because its requests cannot be kept.
      parts.shared.memory.Force(hogged);
      RawPeer flood(reactor);
      connected = co_await flood.Connect("10.0.0.1", parts.port);
      flood.Pause();
      std::string all;
      for (int i = 0; i < 20'000; ++i) all += GetCall(i, "k");
      flood.Send(std::move(all));
      co_await Sleep(reactor, kSecond);
      EXPECT_LT(parts.shared.memory.used_bytes() - hogged, 512 << 10);
      parts.shared.memory.Release(hogged);
      co_await flood.Close();
      co_await peer.Close();
    }
  };
  SimOptions& sim = kernel_.options();
  sim.socket_window_bytes = 4 << 10;
  Run({}, 2 << 20, Body());
}

// An empty struct in a list takes one byte on the wire.
TEST_F(RpcServerTest, ListsAreRefusedBeforeTheyAreMade) {
  ThriftCodec codec;
  api::Kv_writeBatch_args args;
  args.request.ops.resize(2000);
  for (WireProtocol protocol : {WireProtocol::kBinary, WireProtocol::kCompact}) {
    std::string_view body;
    const std::string call = EncodeCall("writeBatch", 1, args, protocol);
    body = std::string_view(call).substr(kFrameHeaderBytes);
    MessageHeader header;
    ASSERT_TRUE(DecodeMessageHeader(&body, &header).ok());
    MemoryBudget budget(1 << 20);
    BudgetAccount account(&budget);
    MemoryGrant memory(&account);
    api::Kv_writeBatch_args decoded;
    EXPECT_EQ(codec.Read(protocol, body, &decoded, &memory).code(), Code::kOverloaded);
    EXPECT_TRUE(decoded.request.ops.empty());
    EXPECT_EQ(memory.bytes(), 0u);
    args.request.ops.resize(1000);
    const std::string smaller = EncodeCall("writeBatch", 1, args, protocol);
    body = std::string_view(smaller).substr(kFrameHeaderBytes);
    ASSERT_TRUE(DecodeMessageHeader(&body, &header).ok());
    EXPECT_TRUE(codec.Read(protocol, body, &decoded, &memory).ok());
    EXPECT_EQ(decoded.request.ops.size(), 1000u);
    EXPECT_EQ(memory.bytes(), 1000 * kListEntryBytes);
    args.request.ops.resize(2000);
  }
}

TEST_F(RpcServerTest, ConnectionsOverTheLimitAreToldSo) {
  RpcOptions options;
  options.max_connections = 2;
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      std::vector<std::unique_ptr<RawPeer>> peers;
      for (int i = 0; i < 4; ++i) {
        peers.push_back(std::make_unique<RawPeer>(reactor));
        Status connected = co_await peers.back()->Connect("10.0.0.1", parts.port);
        EXPECT_TRUE(connected.ok());
      }
      co_await Sleep(reactor, kSecond);
      for (auto& peer : peers) peer->Send(GetCall(3, "k"));
      for (auto& peer : peers) co_await peer->UntilFrames(1);
      for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(peers[i]->frames.size(), 1u);
        if (peers[i]->frames.empty()) co_return;
        auto reply = DecodeReply<GetReply>(peers[i]->frames[0]);
        EXPECT_EQ(reply.header.seqid, 3);
        EXPECT_EQ(reply.result.error.message,
                  i < 2 ? "" : "the node has 2 connections open, which is the limit set by --max_connections");
      }
      co_await peers[2]->UntilClosed();
      co_await peers[3]->UntilClosed();
      for (auto& peer : peers) co_await peer->Close();
      // Their places in the connection limit are free again.
      RawPeer late(reactor);
      Status connected = co_await late.Connect("10.0.0.1", parts.port);
      EXPECT_TRUE(connected.ok());
      co_await Sleep(reactor, kSecond);
      late.Send(GetCall(1, "k"));
      co_await late.UntilFrames(1);
      EXPECT_EQ(DecodeReply<GetReply>(late.frames.at(0)).result.success.record.value, "k");
      co_await late.Close();
    }
  };
  Run(options, 64 << 20, Body());
}

TEST_F(RpcServerTest, ConnectionsThatBreakMidCallLeakNothing) {
  struct Body {
    Task<void> operator()(ServerParts& parts, Reactor& reactor) {
      for (int round = 0; round < 20; ++round) {
        RawPeer peer(reactor);
        Status connected = co_await peer.Connect("10.0.0.1", parts.port);
        EXPECT_TRUE(connected.ok());
        std::string all;
        for (int i = 0; i < 50; ++i) all += GetCall(i, i % 2 ? "slow" : "hang");
        peer.Send(all.substr(0, all.size() - static_cast<size_t>(round)));
        co_await Sleep(reactor, static_cast<Nanos>(reactor.Random() % kMillisecond));
        co_await peer.Close();
      }
    }
  };
  Run({}, 64 << 20, Body());
}

TEST_F(RpcServerTest, ShutdownFinishesWhatWasAsked) {
  auto parts = std::make_unique<ServerParts>(*reactor_);
  RawPeer peer(*other_);
  struct Ask {
    static Task<void> Run(RawPeer* p, uint16_t port) {
      Status connected = co_await p->Connect("10.0.0.1", port);
      EXPECT_TRUE(connected.ok());
      std::string all;
      for (int i = 0; i < 20; ++i) all += GetCall(i, "slow");
      p->Send(std::move(all));
      co_await p->UntilFrames(1);
    }
  };
  ASSERT_TRUE(kernel_.RunTask(*other_, Ask::Run(&peer, parts->port)));
  ASSERT_TRUE(kernel_.RunTask(*reactor_, parts->server.Shutdown(kSecond)));
  ASSERT_TRUE(kernel_.RunTask(*reactor_, parts->service.Finish()));
  ASSERT_TRUE(kernel_.RunTask(*other_, peer.UntilClosed()));
  EXPECT_EQ(peer.frames.size(), 20u);
}

// Calls that wait for what never comes end when the service is told to give it up.
TEST_F(RpcServerTest, ShutdownGivesUpWhatNeverEnds) {
  auto parts = std::make_unique<ServerParts>(*reactor_);
  RawPeer peer(*other_);
  struct Ask {
    static Task<void> Run(Reactor* reactor, RawPeer* p, uint16_t port) {
      Status connected = co_await p->Connect("10.0.0.1", port);
      EXPECT_TRUE(connected.ok());
      p->Send(GetCall(0, "hang", 600'000) + GetCall(1, "hang", 600'000));
      co_await Sleep(*reactor, 10 * kMillisecond);
    }
  };
  ASSERT_TRUE(kernel_.RunTask(*other_, Ask::Run(other_, &peer, parts->port)));
  const Nanos began = kernel_.now_ns();
  int given_up = 0;
  auto give_up = [&] {
    ++given_up;
    EXPECT_GE(kernel_.now_ns() - began, kSecond);
    parts->service.Release();
  };
  ASSERT_TRUE(kernel_.RunTask(*reactor_, parts->server.Shutdown(kSecond, give_up)));
  EXPECT_EQ(given_up, 1);
  EXPECT_LT(kernel_.now_ns() - began, 2 * kSecond);
  ASSERT_TRUE(kernel_.RunTask(*reactor_, parts->service.Finish()));
  ASSERT_TRUE(kernel_.RunTask(*other_, peer.UntilClosed()));
}

}  // namespace
}  // namespace pando
