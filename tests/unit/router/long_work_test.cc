// Requests that take long and want more memory than there is: all of them end, and others go on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "src/router/long_work.h"
#include "tests/support/router_harness.h"

namespace pando {
namespace {

const auto& kConst = api::g_pando_constants;

// LW2.
TEST(LongWorkTest, AClientLeavesRoomForOthers) {
  LongWork::Shared shared(4 * 3000);
  LongWork work(&shared);
  std::deque<LongWork::Ticket> mine, theirs;
  EXPECT_EQ(work.MostFor(7), SIZE_MAX) << "one that is alone";
  while (work.Admit(7, 10, &mine.emplace_back())) continue;
  mine.pop_back();
  EXPECT_EQ(mine.size(), 200u) << "two thirds";
  while (work.Admit(8, 10, &theirs.emplace_back())) continue;
  theirs.pop_back();
  EXPECT_GT(theirs.size(), 60u);
  EXPECT_FALSE(work.Admit(7, 10, &mine.emplace_back()));
  const api::KvError refused = work.Refuse(7);
  EXPECT_EQ(refused.code, kConst.OVERLOADED);
  EXPECT_GT(refused.retry_after_ms, 0);
  LongWork::Ticket third;
  EXPECT_TRUE(work.Admit(9, 10, &third)) << "there is room for one more";
  mine.clear();
  theirs.clear();
  third = LongWork::Ticket();
  EXPECT_EQ(shared.ranges.used_bytes(), 0);
  EXPECT_TRUE(work.Admit(7, 1 << 20, &third)) << "one that is alone has what it needs";
}

class LongRequestsTest : public RouterTest {
 protected:
  static constexpr int kClients = 3, kCallsOfClient = 128;

  LongRequestsTest() : RouterTest({}, kPartitionCount, 64 << 20) {}

  void SetUp() override {
    RouterTest::SetUp();
    for (int i = 0; i < 240; ++i) cluster_.records[fmt::format("large{:03}", i)] = std::string(30'000, 'v');
    for (int i = 0; i < kClients; ++i) {
      // Each is of a host of its own: those of one host have one share.
      SimReactor* host = hosts_.emplace_back(kernel_.AddMachine(fmt::format("10.0.2.{}", 2 + i))->Boot());
      auto& client = clients_.emplace_back(std::make_unique<RpcClient>(*host));
      CHECK(kernel_.RunTask(*host, client->Connect(kRouterHost, 7430, kSecond))->ok());
    }
  }
  void TearDown() override {
    for (size_t i = 0; i < clients_.size(); ++i) kernel_.RunTask(*hosts_[i], clients_[i]->Close());
    RouterTest::TearDown();
    EXPECT_EQ(long_shared_.ranges.used_bytes(), 0);
    EXPECT_EQ(long_work_.answers().in_use_bytes(), 0);
  }
  template <typename Args, typename Result>
  static Task<void> Ask(RpcClient* client, std::string method, const Args* args, Result* result) {
    const Status called = co_await client->Call(method, args, result, 700 * kSecond);
    CHECK(called.ok()) << called.message();
  }
  // All of them at once, of a budget that nobody wants to wait for. Others read in the meantime.
  template <typename Args, typename Result>
  std::vector<Result> AskAll(const std::string& method, Args* args) {
    args->context.budget_ms = 600'000;
    std::vector<Result> results(kClients * kCallsOfClient);
    TaskGroup calls;
    for (size_t i = 0; i < results.size(); ++i) {
      calls.Spawn(Ask(clients_[i % kClients].get(), method, args, &results[i]));
    }
    for (int second = 0; second < 20; ++second) {
      const api::Kv_get_result others = Get("large000", Budget(500));
      EXPECT_EQ(others.success.record.value.size(), 30'000u) << "in second " << second << ": " << others.error.message;
      most_answers_ = std::max(most_answers_, long_shared_.answers.used_bytes());
      EXPECT_LE(shared_.memory.used_bytes(), shared_.memory.limit_bytes()) << "in second " << second;
      kernel_.RunFor(kSecond);
    }
    EXPECT_EQ(calls.running(), 0u) << "they wait for each other";
    if (calls.running() > 0) kernel_.RunFor(600 * kSecond);
    return results;
  }
  std::vector<SimReactor*> hosts_;
  std::vector<std::unique_ptr<RpcClient>> clients_;
  int64_t most_answers_ = 0;
};

// LW1.
TEST_F(LongRequestsTest, ScansDoNotWaitForEachOther) {
  api::Kv_scan_args args;
  args.request.limit_bytes = 4 << 20;
  int pages = 0;
  for (const api::Kv_scan_result& result : AskAll<api::Kv_scan_args, api::Kv_scan_result>("scan", &args)) {
    if (result.__isset.success) {
      ++pages;
      continue;
    }
    EXPECT_EQ(result.error.code, kConst.OVERLOADED) << result.error.message;
    EXPECT_GT(result.error.retry_after_ms, 0);
  }
  EXPECT_GT(pages, 10);
}

// LW1.
TEST_F(LongRequestsTest, MultiGetsDoNotWaitForEachOther) {
  api::Kv_multiGet_args args;
  for (int i = 0; i < 120; ++i) args.request.keys.push_back(fmt::format("large{:03}", i));
  int records = 0;
  for (const auto& result : AskAll<api::Kv_multiGet_args, api::Kv_multiGet_result>("multiGet", &args)) {
    for (const api::MultiGetItem& item : result.success.items) {
      if (!item.__isset.error) {
        records += item.record.value.size() == 30'000 ? 1 : 0;
        continue;
      }
      EXPECT_EQ(item.error.code, kConst.OVERLOADED) << item.error.message;
    }
  }
  EXPECT_GT(records, 1000);
  EXPECT_LE(most_answers_, long_shared_.answers.limit_bytes());
}

}  // namespace
}  // namespace pando
