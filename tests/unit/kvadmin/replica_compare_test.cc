// How two replicas are compared, and where they differ, on replicas that are maps.
#include "tools/kvadmin/replica_compare.h"

#include <gtest/gtest.h>

#include "src/base/hash.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando::admin {
namespace {

struct FakeReplica {
  std::map<std::string, std::string> records;
  int64_t lsn = 1;
  int64_t lsn_step = 0;  // it applies so much between two questions
  bool moves = false;

  Result<api::AggregateReplicaReply> Answer(const api::AggregateReplicaRequest& request) {
    lsn += lsn_step;
    api::AggregateReplicaReply reply;
    reply.lsn = lsn;
    reply.chain = lsn * 31;
    reply.moved = moves;
    std::vector<std::string> keys;
    for (const auto& [key, value] : records) {
      if (key < request.start_key || (!request.end_key.empty() && key >= request.end_key)) continue;
      keys.push_back(key);
      ++reply.count;
      reply.bytes += static_cast<int64_t>(key.size() + value.size());
      reply.content_hash += static_cast<int64_t>(Hash64(key + "\n" + value));
      if (reply.records.size() >= static_cast<size_t>(request.records)) continue;
      api::StoredRecord& record = reply.records.emplace_back();
      record.key = key;
      record.value_hash = static_cast<int64_t>(Hash64(value));
    }
    if (request.middle && keys.size() > 1) reply.__set_middle_key(keys[keys.size() / 2]);
    return reply;
  }
};

ReplicaComparer Comparer(FakeReplica* a, FakeReplica* b,
                         std::chrono::milliseconds patience = std::chrono::seconds(20)) {
  return ReplicaComparer(
      0, [a](const auto& request) { return a->Answer(request); },
      [b](const auto& request) { return b->Answer(request); }, ReplicaComparer::Clock::now() + patience);
}

TEST(ReplicaCompare, FindsTheFirstRecordInFewRequests) {
  for (const uint64_t seed : Seeds(100)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    FakeReplica a;
    const uint64_t count = 1 + random.Below(3000);
    for (uint64_t i = 0; i < count; ++i) a.records[fmt::format("key-{:05}", i)] = "value";
    FakeReplica b = a;
    const std::string key = fmt::format("key-{:05}", random.Below(count));
    bool in_a = true, in_b = true;
    switch (random.Below(3)) {
      case 0: b.records[key] = "valua"; break;
      case 1: b.records.erase(key), in_b = false; break;
      case 2: a.records.erase(key), in_a = false; break;
    }
    // Others further on do not matter.
    for (uint64_t i = random.Below(3); i > 0; --i)
      b.records.erase(fmt::format("key-{:05}", random.Between(0, 4000)) + "x");
    ReplicaComparer comparer = Comparer(&a, &b);
    Result<EqualPoint> whole = comparer.Compare({});
    ASSERT_TRUE(whole.ok());
    EXPECT_TRUE(whole->same_history());
    ASSERT_FALSE(whole->same_content());
    Result<std::optional<Difference>> found = comparer.Locate();
    ASSERT_TRUE(found.ok() && *found) << found.status().ToString();
    EXPECT_EQ((*found)->key, key);
    EXPECT_EQ((*found)->first != nullptr, in_a);
    EXPECT_EQ((*found)->second != nullptr, in_b);
    EXPECT_LT(comparer.requests(), 60u);
  }
}

TEST(ReplicaCompare, WaitsUntilBothWereSeenAtOneLsn) {
  FakeReplica a, b;
  a.records = b.records = {{"k", "v"}};
  a.lsn_step = 3;  // 4, 7, 10, ...
  b.lsn_step = 2;  // 3, 5, 7, ...
  ReplicaComparer comparer = Comparer(&a, &b);
  Result<EqualPoint> point = comparer.Compare({});
  ASSERT_TRUE(point.ok()) << point.status().ToString();
  EXPECT_EQ(point->first.lsn, 7);
  EXPECT_EQ(point->second.lsn, 7);
  EXPECT_TRUE(point->same_content());
}

TEST(ReplicaCompare, GivesUpInTime) {
  FakeReplica a, b;
  b.lsn = 2;
  ReplicaComparer apart = Comparer(&a, &b, std::chrono::milliseconds(50));
  EXPECT_EQ(apart.Compare({}).code(), Code::kDeadline);
  b.lsn = 1;
  b.moves = true;  // an answer of no certain moment does not count
  ReplicaComparer moving = Comparer(&a, &b, std::chrono::milliseconds(50));
  EXPECT_EQ(moving.Compare({}).code(), Code::kDeadline);
}

TEST(ReplicaCompare, ADifferenceThatHasGone) {
  FakeReplica a, b;
  a.records = b.records = {{"k", "v"}};
  ReplicaComparer comparer = Comparer(&a, &b);
  Result<std::optional<Difference>> found = comparer.Locate();
  ASSERT_TRUE(found.ok());
  EXPECT_FALSE(found->has_value());
}

}  // namespace
}  // namespace pando::admin
