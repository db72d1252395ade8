// Tests of the client against several scripted servers, and of batches of which some ops fail: whom it asks next, what
// it sends again, and what it says of it.
#include <gtest/gtest.h>
#include <pando/client.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <iterator>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fake_server.h"
#include "pool.h"
#include "script.h"

namespace pando::client::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// -- whom to ask next
// ----------------------------------------------------------------------------------------------

api::KvError not_master(const std::string& master) {
  api::KvError error = kv_error(5, 1, true, 20);
  error.__set_master(master);
  return error;
}

TEST(Addresses, AServerRefersToOthersThatTheUserGave) {
  using detail::parse_address;
  detail::AddressBook book({parse_address("a:1"), parse_address("b:1"), parse_address("[::1]:1")}, 0);
  const Clock::time_point now = Clock::now();
  const auto expect = [&](const detail::Referral& referral, std::size_t address, bool is_named) {
    EXPECT_EQ(referral.address, address);
    EXPECT_EQ(referral.is_named, is_named);
  };
  expect(book.refer(0, "[::1]:1", now), 2, true);
  EXPECT_EQ(book.choose(now), 0u) << "other calls do not follow";
  expect(book.refer(2, "stranger:1", now), 0, false);
  expect(book.refer(0, "", now), 1, false);
  expect(book.refer(1, "b:1", now), 2, false);  // it names itself
  EXPECT_EQ(book.choose(now), 0u);
  book.leave(1);
  EXPECT_EQ(book.choose(now), 0u);
  book.leave(0);
  EXPECT_EQ(book.choose(now), 1u);
  EXPECT_EQ(book.choose(now, 0), 0u) << "what one call wishes changes nothing for the others";
  EXPECT_EQ(book.choose(now), 1u);
  book.failed(0, now);
  EXPECT_EQ(book.choose(now, 0), 1u);
  expect(book.refer(2, "a:1", now), 0, false);  // it failed lately
}

TEST(Masters, AreFollowed) {
  FakeServer master(scripted({answer_write}));
  FakeServer other([&](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    return failure(request, not_master(master.address()));
  });
  for (int i = 0; i < 8; ++i) {  // a client begins with any of its addresses
    Client client({other.address(), master.address()}, {.timeout = 2s});
    EXPECT_TRUE(client.put("k", "v").applied);
    EXPECT_TRUE(client.put("k", "v").applied);
  }
  EXPECT_EQ(master.requests().size(), 16u);
  EXPECT_LE(other.requests().size(), 16u);
}

// Answers puts of one key; for the others it names a master.
FakeServer::Handler leads(const std::string& key, std::function<std::string()> master) {
  return [key, master = std::move(master)](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    if (request.as<api::PutRequest>().key == key) return answer_write(request);
    return failure(request, not_master(master()));
  };
}

TEST(Masters, AreFollowedByOneCallAndNotByOthers) {
  FakeServer* second = nullptr;
  FakeServer a(leads("a", [&] { return second->address(); }));
  FakeServer b(leads("b", [&] { return a.address(); }));
  second = &b;
  for (int i = 0; i < 8; ++i) {
    Client client({a.address(), b.address()}, {.timeout = 2s});
    const std::size_t before = a.requests().size() + b.requests().size();
    for (int j = 0; j < 2; ++j) {
      EXPECT_TRUE(client.put("a", "v").applied);
      EXPECT_TRUE(client.put("b", "v").applied);
    }
    EXPECT_EQ(a.requests().size() + b.requests().size() - before, 6u) << "one key of two is at the preferred server";
  }
}

TEST(Masters, ThatAreSilentDoNotHoldUpCallsForOthers) {
  std::atomic<bool> is_silent = false;
  std::atomic<int> waiting = 0;
  FakeServer silent([&](const Request& request) -> std::optional<Answer> {
    waiting += is_silent ? 1 : 0;
    while (is_silent) std::this_thread::sleep_for(1ms);
    if (request.method == "hello") return std::nullopt;
    if (request.as<api::PutRequest>().key == "b") return answer_write(request);
    return failure(request, kv_error(10, 1, true, 1));
  });
  FakeServer a(leads("a", [&] { return silent.address(); }));
  Client client({a.address(), silent.address()}, {.timeout = 20s, .connect_timeout = 20s});
  client.put("a", "v");  // a client begins with any of its addresses, and leaves one that is unavailable
  is_silent = true;
  std::thread referred([&] { EXPECT_TRUE(client.put("b", "v").applied); });
  while (waiting == 0) std::this_thread::sleep_for(1ms);
  for (int i = 0; i < 20; ++i) {
    EXPECT_NO_THROW(client.put("a", "v", {.timeout = 5s})) << i;
  }
  is_silent = false;
  referred.join();
}

TEST(Masters, WithoutAWaitUnlessTheyWereAskedAlready) {
  FakeServer* first = nullptr;
  FakeServer second([&](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    api::KvError error = not_master(first->address());
    error.__set_retry_after_ms(150);
    return failure(request, error);
  });
  FakeServer server([&](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    api::KvError error = not_master(second.address());
    error.__set_retry_after_ms(150);
    return failure(request, error);
  });
  first = &server;
  Client client({server.address(), second.address()}, {.timeout = 400ms});
  const auto error = thrown<DeadlineError>([&] { client.get("k"); });
  EXPECT_EQ(error.cause()->code, Code::kNotMaster);
  EXPECT_EQ(error.tries(), 4) << "at 0, 0, 150 and 300 ms";
}

TEST(Masters, AtAddressesThatTheUserDidNotGiveAreNotAsked) {
  FakeServer stranger(scripted({answer_get}));
  FakeServer server([&](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    return failure(request, not_master(stranger.address()));
  });
  Client client = make_client(server, {.timeout = 150ms});
  const auto error = thrown<DeadlineError>([&] { client.get("k"); });
  EXPECT_EQ(error.cause()->master, stranger.address());
  EXPECT_EQ(stranger.connections(), 0);
  EXPECT_GT(server.requests().size(), 2u);
}

TEST(Masters, OfTheItemsOfAReplyAreAskedOneAfterTheOther) {
  FakeServer* second = nullptr;
  const auto serves = [&](const std::string& mine, FakeServer** other) {
    return [mine, other](const Request& request) -> std::optional<Answer> {
      if (request.method == "hello") return std::nullopt;
      api::MultiGetReply wire;
      for (const std::string& key : request.as<api::MultiGetRequest>().keys) {
        api::MultiGetItem& item = wire.items.emplace_back();
        if (key == mine) {
          item.record = found(key).record;
        } else {
          item.__set_error(not_master((*other)->address()));
        }
      }
      return reply(request, wire);
    };
  };
  FakeServer* first = nullptr;
  FakeServer a(serves("a", &second));
  FakeServer b(serves("b", &first));
  first = &a;
  second = &b;
  Client client({a.address(), b.address()}, {.timeout = 2s});
  const auto records = client.multi_get({"b", "a"});
  EXPECT_EQ(records.at(0)->value, "b");
  EXPECT_EQ(records.at(1)->value, "a");
  EXPECT_EQ(a.requests().size() + b.requests().size(), 2u);
}

TEST(Masters, AWatchLeavesAServerThatCannotServeIt) {
  const auto watching = [](const Request& request) {
    api::WatchReply wire;
    wire.__set_position("p");
    return reply(request, wire);
  };
  FakeServer good(scripted({watching}));
  FakeServer bad([&](const Request& request) -> std::optional<Answer> {
    if (request.method == "hello") return std::nullopt;
    return failure(request, kv_error(10, 1, true));
  });
  for (int i = 0; i < 6; ++i) {
    Client client({bad.address(), good.address()}, {.timeout = 3s});
    EXPECT_EQ(client.watch("").position(), "p");
  }
  EXPECT_EQ(good.requests().size(), 6u);
}

TEST(Connections, ToSeveralAddressesDoNotDisplaceEachOther) {
  FakeServer* other = nullptr;
  std::atomic<bool> turn = false;
  const auto serve = [&](bool mine) {
    return [&, mine](const Request& request) -> std::optional<Answer> {
      if (request.method == "hello") return std::nullopt;
      if (turn == mine) return answer_get(request);
      return failure(request, not_master(other->address()));
    };
  };
  FakeServer a(serve(false));
  FakeServer b(serve(true));
  Client client({a.address(), b.address()}, {.timeout = 2s, .pool_size = 1});
  for (int i = 0; i < 20; ++i) {
    turn = i % 2 == 1;
    other = turn ? &b : &a;
    EXPECT_TRUE(client.get("k"));
  }
  EXPECT_EQ(a.connections() + b.connections(), 2);
}

// -- batches of which some ops failed
// ----------------------------------------------------------------------------------------------

using OpAnswers = std::vector<api::WriteResult>;

api::WriteResult op_failed(std::int32_t code, std::int32_t applied, bool retryable, std::int32_t retry_after_ms = 1) {
  api::WriteResult result;
  result.__set_error(kv_error(code, applied, retryable, retry_after_ms));
  return result;
}

Script::Step answer_ops(OpAnswers ops) {
  return [ops = std::move(ops)](const Request& request) {
    api::WriteBatchReply wire;
    wire.__set_results(ops);
    return reply(request, wire);
  };
}

Batch two_puts() { return Batch().put("1", "x").put("2", "x"); }

TEST(Batches, ThatFailedInPartAreSentAgainUnderTheSameName) {
  FakeServer server(
      scripted({answer_ops({applied(7), op_failed(10, 0, true)}), answer_ops({op_failed(10, 0, false), applied(8)})}));
  Client client = make_client(server);
  const BatchResult result = client.write_batch(two_puts());
  ASSERT_TRUE(result.all_applied());
  EXPECT_EQ(result.results[0].version, 7) << "what was decided stays, whatever a later try says";
  EXPECT_EQ(result.results[1].version, 8);
  const std::vector<Request> requests = server.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].context.client_id, requests[1].context.client_id);
  EXPECT_EQ(requests[0].context.sequence, requests[1].context.sequence);
  EXPECT_EQ(requests[0].context.first_sent_ms, requests[1].context.first_sent_ms);
  client.put("k", "v");
  EXPECT_EQ(server.requests("put").at(0).context.sequence, 2) << "all is known, so the lane is used again";
}

TEST(Batches, JudgeWhatFailedAnewWithEachTry) {
  FakeServer server(scripted({answer_ops({op_failed(15, 1, false), op_failed(8, 1, true)}),
                              answer_ops({applied(3), op_failed(15, 1, false)})}));
  const BatchResult result = make_client(server).write_batch(two_puts());
  EXPECT_TRUE(result.results.at(0).applied) << "there was space again";
  EXPECT_EQ(result.results.at(1).error->code, Code::kDiskFull);
  EXPECT_EQ(result.results.at(1).error->applied, Applied::kNo);
}

TEST(Batches, EndWithTheirResultsWhenTimeIsOver) {
  FakeServer server(scripted({answer_ops({applied(7), op_failed(10, 1, true)})}));
  Client client = make_client(server, {.timeout = 100ms});
  BatchResult result = client.write_batch(two_puts());
  EXPECT_TRUE(result.results.at(0).applied);
  EXPECT_EQ(result.results.at(1).error->applied, Applied::kNo);
  EXPECT_TRUE(result.results.at(1).error->retryable);
  EXPECT_GT(server.requests().size(), 1u);

  FakeServer lost(scripted({answer_ops({applied(7), op_failed(10, 1, true)}), cut}));
  result = make_client(lost, {.timeout = 100ms}).write_batch(two_puts());
  EXPECT_TRUE(result.results.at(0).applied);
  EXPECT_EQ(result.results.at(1).error->code, Code::kUnavailable);
  EXPECT_EQ(result.results.at(1).error->applied, Applied::kUnknown);
  EXPECT_FALSE(result.results.at(1).error->retryable) << "another call would have another name";
}

TEST(Batches, EndWithTheirResultsWhenTheWholeIsRefused) {
  FakeServer server(scripted({answer_ops({applied(7), op_failed(10, 1, true)}),
                              [](const Request& request) { return failure(request, kv_error(4, 1, false)); }}));
  const BatchResult result = make_client(server).write_batch(two_puts());
  EXPECT_TRUE(result.results.at(0).applied);
  EXPECT_EQ(result.results.at(1).error->code, Code::kDenied);
  EXPECT_EQ(result.results.at(1).error->applied, Applied::kNo);

  FakeServer never(scripted({[](const Request& request) { return failure(request, kv_error(4, 1, false)); }}));
  EXPECT_EQ(thrown<Error>([&] { make_client(never).write_batch(two_puts()); }).applied(), Applied::kNo);
}

TEST(Batches, SayUnknownIfAnyTryMayHaveAppliedAnOp) {
  FakeServer server(scripted({answer_ops({op_failed(10, 0, true), applied(7)}),
                              answer_ops({op_failed(15, 1, false), applied(7)}), answer_write}));
  Client client = make_client(server);
  const BatchResult result = client.write_batch(two_puts());
  EXPECT_EQ(result.results.at(0).error->code, Code::kDiskFull);
  EXPECT_EQ(result.results.at(0).error->applied, Applied::kUnknown);
  client.put("k", "v");
  EXPECT_EQ(server.requests("put").at(0).context.sequence, 1) << "the lane is not used again";

  FakeServer lost(scripted({cut, answer_ops({applied(7), op_failed(15, 1, false)})}));
  EXPECT_EQ(make_client(lost).write_batch(two_puts()).results.at(1).error->applied, Applied::kUnknown);
}

TEST(Batches, WithoutANameAreSentAgainOnlyIfNothingWasApplied) {
  const BatchOptions one{.level = WriteLevel::kOne};
  FakeServer some(scripted({answer_ops({applied(7), op_failed(8, 1, true)})}));
  BatchResult result = make_client(some).write_batch(two_puts(), one);
  EXPECT_EQ(result.results.at(1).error->code, Code::kOverloaded);
  EXPECT_EQ(some.requests().size(), 1u);

  FakeServer unknown(scripted({answer_ops({op_failed(10, 0, true), op_failed(8, 1, true)})}));
  result = make_client(unknown).write_batch(two_puts(), one);
  EXPECT_EQ(result.results.at(0).error->applied, Applied::kUnknown);
  EXPECT_EQ(unknown.requests().size(), 1u);

  FakeServer none(
      scripted({answer_ops({op_failed(8, 1, true), op_failed(15, 1, false)}), answer_ops({applied(7), applied(7)})}));
  EXPECT_TRUE(make_client(none).write_batch(two_puts(), one).all_applied());
}

TEST(Batches, AskOneMasterAfterTheOther) {
  FakeServer* first = nullptr;
  FakeServer* second = nullptr;
  const auto serves = [&](std::size_t mine, FakeServer** other) {
    return [mine, other](const Request& request) -> std::optional<Answer> {
      if (request.method == "hello") return std::nullopt;
      api::WriteBatchReply wire;
      wire.results.resize(2);
      wire.__isset.results = true;
      wire.results[mine] = applied(static_cast<std::int64_t>(mine) + 1);
      wire.results[1 - mine].__set_error(not_master((*other)->address()));
      return reply(request, wire);
    };
  };
  FakeServer a(serves(0, &second));
  FakeServer b(serves(1, &first));
  first = &a;
  second = &b;
  Client client({a.address(), b.address()}, {.timeout = 2s});
  const BatchResult result = client.write_batch(two_puts());
  EXPECT_EQ(result.results.at(0).version, 1);
  EXPECT_EQ(result.results.at(1).version, 2);
  EXPECT_EQ(a.requests().size() + b.requests().size(), 2u);
}

// -- after thousands of calls
// ----------------------------------------------------------------------------------------------

std::size_t entries_of(const char* directory) {
  const std::filesystem::directory_iterator entries(directory);
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

// Fails in many ways, in a fixed order.
class Flaky {
 public:
  std::optional<Answer> operator()(const Request& request) {
    if (request.method == "hello")
      return ++hellos_ % 7 == 0 ? Answer{frame("no hello"), true} : std::optional<Answer>();
    switch (++calls_ % 8) {
      case 0: return std::nullopt;
      case 1: return failure(request, kv_error(10, 1, true, 1));
      case 2: return failure(request, kv_error(15, 1, false));
      case 3: return Answer{frame("no reply")};
      default: return request.method == "get" ? answer_get(request) : answer_write(request);
    }
  }

 private:
  std::atomic<int> hellos_ = 0, calls_ = 0;
};

TEST(Load, LeavesNoSocketsAndNoThreads) {
  std::list<FakeServer> servers;
  for (int i = 0; i < 3; ++i) {
    servers.emplace_back([flaky = std::make_shared<Flaky>()](const Request& request) { return (*flaky)(request); });
  }
  Client client({servers.front().address(), std::next(servers.begin())->address(), servers.back().address()},
                {.timeout = 50ms, .pool_size = 4});
  const auto round = [&] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 32; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 20; ++i) {
          try {
            t % 2 == 0 ? (void)client.get("k") : (void)client.put("k", "v");
          } catch (const Error&) {
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  round();
  // The servers have a socket and a thread for each connection, and notice a bit later that it was closed.
  const std::size_t spare = 2 * 3 * 4;
  const std::size_t sockets = entries_of("/proc/self/fd") + spare, tasks = entries_of("/proc/self/task") + spare;
  for (int i = 0; i < 4; ++i) round();
  const auto too_many = [&] { return entries_of("/proc/self/fd") > sockets || entries_of("/proc/self/task") > tasks; };
  for (const auto deadline = Clock::now() + 5s; too_many() && Clock::now() < deadline;) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_FALSE(too_many());
  client.close();
  EXPECT_THROW(client.get("k"), ClosedError);
}

}  // namespace
}  // namespace pando::client::testing
