// The client with a real server and with one that misbehaves, on the simulated kernel.
#include "src/rpc/rpc_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "gen-cpp/Kv.h"
#include "tests/support/rpc_harness.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Answers every frame with the result of `answer`. If that is empty, it does not reply.
class ScriptedServer final : public AcceptHandler, private ConnectionHandler {
 public:
  using Answer = std::string (*)(std::string_view frame, int count);
  ScriptedServer(Reactor& reactor, Answer answer) : answer_(answer) {
    ListenOptions listen;
    listen.host = "10.0.0.1";
    Result<uint16_t> bound = reactor.Listen(listen, this);
    CHECK(bound.ok());
    port = *bound;
  }
  uint16_t port = 0;

 private:
  void OnAccept(Connection* connection) override {
    connection_ = connection;
    connection->SetHandler(this);
  }
  void OnData(std::span<const char> bytes) override {
    in_.append(bytes.data(), bytes.size());
    while (in_.size() >= 4) {
      size_t whole = 4 + __builtin_bswap32(LoadLE<uint32_t>(in_.data()));
      if (in_.size() < whole) break;
      std::string out = answer_(std::string_view(in_).substr(4, whole - 4), count_++);
      in_.erase(0, whole);
      if (out == "close") return connection_->Close(true);
      if (!out.empty()) connection_->Send(&out);
    }
  }
  void OnSent() override {}
  void OnClosed(const Status&) override {}
  Connection* connection_ = nullptr;
  std::string in_;
  int count_ = 0;
  const Answer answer_;
};

std::string Echo(std::string_view frame, int) {
  MessageHeader header;
  CHECK(DecodeMessageHeader(&frame, &header).ok());
  ThriftCodec codec;
  api::Kv_get_args args;
  CHECK(codec.Read(header.protocol, frame, &args).ok());
  api::Kv_get_result result;
  result.success.record.value = args.request.key;
  result.__isset.success = true;
  header.type = apache::thrift::protocol::T_REPLY;
  std::string out;
  codec.Write(header, result, &out);
  return out;
}

struct Outcome {
  Status status;
  std::string value;
};
Task<void> GetInto(RpcClient* client, std::string key, Nanos timeout_ns, Outcome* outcome) {
  api::Kv_get_args args;
  api::Kv_get_result result;
  args.request.key = std::move(key);
  outcome->status = co_await client->Call("get", &args, &result, timeout_ns);
  outcome->value = result.success.record.value;
}

class RpcClientTest : public testing::Test {
 protected:
  RpcClientTest() : kernel_(5) {
    server_ = kernel_.AddMachine("10.0.0.1")->Boot();
    client_ = kernel_.AddMachine("10.0.0.2")->Boot();
  }
  // Makes `count` pipelined calls and returns their outcomes in order.
  static Task<std::vector<Outcome>> CallMany(Reactor* reactor, uint16_t port, int count, Nanos timeout_ns,
                                             RpcClientOptions options) {
    std::vector<Outcome> outcomes(static_cast<size_t>(count));
    RpcClient client(*reactor, options);
    Status connected = co_await client.Connect("10.0.0.1", port, kSecond);
    EXPECT_TRUE(connected.ok()) << connected.ToString();
    TaskGroup calls;
    for (int i = 0; i < count; ++i) {
      calls.Spawn(GetInto(&client, "key" + std::to_string(i), timeout_ns, &outcomes[static_cast<size_t>(i)]));
    }
    co_await calls.Drain();
    co_await client.Close();
    co_return outcomes;
  }
  std::vector<Outcome> Many(ScriptedServer::Answer answer, int count, Nanos timeout_ns = kSecond,
                            RpcClientOptions options = {}) {
    auto server = std::make_shared<ScriptedServer>(*server_, answer);
    servers_.push_back(server);
    auto outcomes = kernel_.RunTask(*client_, CallMany(client_, server->port, count, timeout_ns, options));
    CHECK(outcomes.has_value());
    return *outcomes;
  }

  SimKernel kernel_;
  SimReactor* server_;
  SimReactor* client_;
  std::vector<std::shared_ptr<ScriptedServer>> servers_;
};

TEST_F(RpcClientTest, APortThatDoesNotSpeakThriftIsNamedForWhatItIs) {
  const auto http = [](std::string_view, int) { return std::string("HTTP/1.1 400 Bad Request\r\n\r\n"); };
  EXPECT_THAT(Many(http, 1)[0].status.message(), AllOf(HasSubstr("10.0.0.1"), HasSubstr("answers HTTP")));
  const auto ssh = [](std::string_view, int) { return std::string("SSH-2.0-x\r\n"); };
  EXPECT_THAT(Many(ssh, 1)[0].status.message(), HasSubstr("it sent \"SSH-\""));
}

TEST_F(RpcClientTest, PipelinesInBothProtocols) {
  for (WireProtocol protocol : {WireProtocol::kBinary, WireProtocol::kCompact}) {
    RpcClientOptions options;
    options.protocol = protocol;
    std::vector<Outcome> outcomes = Many(Echo, 200, kSecond, options);
    for (size_t i = 0; i < outcomes.size(); ++i) EXPECT_EQ(outcomes[i].value, "key" + std::to_string(i));
  }
}

TEST_F(RpcClientTest, ALateReplyIsDroppedAndTheNextOneStillFits) {
  // The first call gets no answer before its deadline. Its answer arrives together with the second
  // one's.
  static std::string held;
  std::vector<Outcome> outcomes = Many(
      [](std::string_view frame, int count) -> std::string {
        if (count == 0) return held = Echo(frame, 0), "";
        return held + Echo(frame, 0);
      },
      1, 10 * kMillisecond);
  EXPECT_EQ(outcomes[0].status.code(), Code::kDeadline);
  outcomes =
      Many([](std::string_view frame, int count) { return count == 2 ? "" : Echo(frame, 0); }, 3, 10 * kMillisecond);
  EXPECT_TRUE(outcomes[0].status.ok());
  EXPECT_TRUE(outcomes[1].status.ok());
  EXPECT_EQ(outcomes[2].status.code(), Code::kDeadline);
}

TEST_F(RpcClientTest, RepliesMayComeInAnyOrder) {
  static std::vector<std::string> held;
  held.clear();
  auto reversed = [](std::string_view frame, int count) -> std::string {
    held.push_back(Echo(frame, 0));
    if (count < 9) return "";
    std::string all;
    for (auto reply = held.rbegin(); reply != held.rend(); ++reply) all += *reply;
    return all;
  };
  std::vector<Outcome> outcomes = Many(reversed, 10);
  for (size_t i = 0; i < outcomes.size(); ++i) EXPECT_EQ(outcomes[i].value, "key" + std::to_string(i));
}

TEST_F(RpcClientTest, CallsThatWereGivenUpCountUntilTheyAreAnswered) {
  struct Body {
    static Task<std::vector<Code>> Run(Reactor* reactor, uint16_t port) {
      RpcClientOptions options;
      options.max_calls = 2;
      RpcClient client(*reactor, options);
      CHECK((co_await client.Connect("10.0.0.1", port, kSecond)).ok());
      std::vector<Code> codes;
      Outcome outcome;
      for (int i = 0; i < 3; ++i) {
        co_await GetInto(&client, "k", kMillisecond, &outcome);
        codes.push_back(outcome.status.code());
      }
      EXPECT_EQ(client.unanswered(), 2u);
      EXPECT_EQ(client.calls_in_progress(), 0u);
      co_await client.Close();
      co_return codes;
    }
  };
  ScriptedServer silent(*server_, [](std::string_view, int) { return std::string(); });
  auto codes = kernel_.RunTask(*client_, Body::Run(client_, silent.port));
  ASSERT_TRUE(codes.has_value());
  EXPECT_EQ(*codes, (std::vector<Code>{Code::kDeadline, Code::kDeadline, Code::kOverloaded}));
}

TEST_F(RpcClientTest, ABrokenConnectionFailsEveryCall) {
  std::vector<Outcome> outcomes =
      Many([](std::string_view frame, int count) { return count == 2 ? "close" : Echo(frame, 0); }, 5);
  for (size_t i = 2; i < 5; ++i) {
    EXPECT_EQ(outcomes[i].status.code(), Code::kAborted) << i;
    EXPECT_THAT(outcomes[i].status.message(), HasSubstr("unknown"));
  }
}

TEST_F(RpcClientTest, WrongSequenceIdsAndNonsenseEndTheConnection) {
  auto wrong = [](std::string_view frame, int) {
    std::string out = Echo(frame, 0);
    out[4 + 4 + 4 + 3 + 3] = 99;  // the last byte of the sequence ID
    return out;
  };
  EXPECT_EQ(Many(wrong, 1)[0].status.code(), Code::kAborted);
  EXPECT_EQ(Many([](std::string_view, int) { return std::string("\0\0\0\4abcd", 8); }, 1)[0].status.code(),
            Code::kAborted);
  EXPECT_EQ(Many([](std::string_view, int) { return std::string("\x7f\0\0\4abcd", 8); }, 1)[0].status.code(),
            Code::kAborted);
}

TEST_F(RpcClientTest, ServerExceptionsAndLimits) {
  auto refuse = [](std::string_view frame, int) {
    MessageHeader header;
    CHECK(DecodeMessageHeader(&frame, &header).ok());
    ThriftCodec codec;
    std::string out;
    codec.WriteException(header, TApplicationException::UNKNOWN_METHOD, "what is get?", &out);
    return out;
  };
  std::vector<Outcome> outcomes = Many(refuse, 1);
  EXPECT_EQ(outcomes[0].status.code(), Code::kUnsupported);
  EXPECT_THAT(outcomes[0].status.message(), HasSubstr("what is get?"));

  RpcClientOptions options;
  options.max_calls = 3;
  outcomes = Many(Echo, 5, kSecond, options);
  EXPECT_EQ(outcomes[2].status.code(), Code::kOk);
  EXPECT_EQ(outcomes[3].status.code(), Code::kOverloaded);
}

TEST_F(RpcClientTest, CallsWithoutAConnectionFail) {
  struct Body {
    static Task<Status> Run(Reactor* reactor) {
      RpcClient client(*reactor);
      Outcome outcome;
      co_await GetInto(&client, "k", kSecond, &outcome);
      EXPECT_EQ(outcome.status.code(), Code::kUnavailable);
      Status refused = co_await client.Connect("10.0.0.1", 9, kSecond);
      co_return refused;
    }
  };
  auto refused = kernel_.RunTask(*client_, Body::Run(client_));
  ASSERT_TRUE(refused.has_value());
  EXPECT_FALSE(refused->ok());
}

// A reply for which there is no memory is skipped, and what follows is read; but what came of a write arrives.
TEST_F(RpcClientTest, AReplyForWhichThereIsNoMemory) {
  ScriptedServer server(*server_, Echo);
  MemoryBudget budget(512 << 10);
  BudgetAccount account(&budget);
  RpcClientOptions options;
  options.memory = &account;
  RpcClient client(*client_, options);
  struct Body {
    static Task<void> Run(RpcClient* client, uint16_t port, MemoryBudget* budget) {
      CHECK((co_await client->Connect("10.0.0.1", port, kSecond)).ok());
      const std::string large(1 << 20, 'k');
      Outcome first, second, third;
      TaskGroup calls;
      calls.Spawn(GetInto(client, large, kSecond, &first));
      calls.Spawn(GetInto(client, "small", kSecond, &second));
      calls.Spawn(GetInto(client, std::string(300'000, 'k'), kSecond, &third));
      co_await calls.Drain();
      EXPECT_EQ(first.status.code(), Code::kOverloaded) << first.status.message();
      EXPECT_EQ(second.value, "small");
      EXPECT_EQ(third.value.size(), 300'000u);
      api::Kv_get_args args;
      api::Kv_get_result result;
      args.request.key = large;
      RpcClient::TypedCall<api::Kv_get_result> call;
      call.reply = &result;
      call.must_arrive = true;
      CHECK(client->SendArgs("get", args).ok());
      co_await client->Begin(&call, kSecond);
      EXPECT_TRUE(call.status.ok()) << call.status.message();
      EXPECT_EQ(result.success.record.value.size(), large.size());
      EXPECT_LE(budget->used_bytes(), 2 * BudgetAccount::kChunkBytes);
      co_await client->Close();
    }
  };
  kernel_.RunTask(*client_, Body::Run(&client, server.port, &budget));
}

}  // namespace
}  // namespace pando
