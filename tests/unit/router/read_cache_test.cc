// The cache of a router for reads at BOUNDED: what it may answer, and what it must not.
#include "src/router/read_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/router_harness.h"

namespace pando {
namespace {

ReadCache::Fill FillOf(const std::string& key, Nanos asked_ns = 0) {
  ReadCache::Fill fill;
  fill.key = key;
  fill.asked_ns = asked_ns;
  return fill;
}

// CA3, and SIEVE: keys that are read once do not drive out one that is read again and again.
TEST(ReadCacheTest, IsBoundedAndKeepsWhatIsUsed) {
  WriteStamps stamps;
  ReadCache cache(100'000, &stamps);
  cache.Insert(FillOf("hot"), "value");
  for (int i = 0; i < 10'000; ++i) {
    cache.Insert(FillOf(fmt::format("once{}", i)), std::string(100, 'v'));
    EXPECT_LE(cache.metrics().bytes.value(), 100'000);
    ASSERT_NE(cache.Find("hot", 0, 0, kSecond), nullptr) << i;
  }
  EXPECT_GT(cache.metrics().evictions_total.value(), 9000u);
  EXPECT_EQ(cache.Find("once0", 0, 0, kSecond), nullptr);
  cache.Insert(FillOf("large"), std::string(50'000, 'v'));
  EXPECT_EQ(cache.Find("large", 0, 0, kSecond), nullptr) << "it would drive out all others";
  // As many as fit, all of them used.
  ReadCache full(10'000, &stamps);
  for (int i = 0; i < 100; ++i) {
    full.Insert(FillOf(std::to_string(i)), "v");
    ASSERT_NE(full.Find(std::to_string(i), 0, 0, kSecond), nullptr);
  }
}

// CA4.
TEST(ReadCacheTest, KeysOfOthersAreOthers) {
  EXPECT_NE(ReadCache::KeyOf("a", "b", "c"), ReadCache::KeyOf("ab", "", "c"));
  EXPECT_NE(ReadCache::KeyOf("", "n", "k"), ReadCache::KeyOf("", "", "nk"));
  EXPECT_NE(ReadCache::KeyOf("n", "", "k"), ReadCache::KeyOf("", "n", "k"));
}

// CA2: a get that was asked for before a write may have seen what was before it.
TEST(ReadCacheTest, WhatWasAskedForBeforeAWriteIsNotUsed) {
  WriteStamps stamps;
  ReadCache cache(100'000, &stamps);
  ReadCache::Fill fill = FillOf("k");
  fill.stamp = stamps.Of(7);
  stamps.Count(7);
  cache.Insert(fill, "v");
  EXPECT_EQ(cache.Find("k", 7, 0, kSecond), nullptr);
  fill.stamp = stamps.Of(7);
  cache.Insert(fill, "v");
  EXPECT_NE(cache.Find("k", 7, 0, kSecond), nullptr);
  stamps.CountAll();
  EXPECT_EQ(cache.Find("k", 7, 0, kSecond), nullptr);
}

TEST(ReadCacheTest, TheNewerOfTwoAnswersStays) {
  WriteStamps stamps;
  ReadCache cache(100'000, &stamps);
  cache.Insert(FillOf("k", 2), "new");
  cache.Insert(FillOf("k", 1), "old");
  EXPECT_EQ(*cache.Find("k", 0, 2, kSecond), "new");
  cache.Insert(FillOf("k", 3), "newer");
  EXPECT_EQ(*cache.Find("k", 0, 3, kSecond), "newer");
  EXPECT_EQ(cache.metrics().entries.value(), 1);
}

class CachingRouterTest : public RouterTest {
 protected:
  CachingRouterTest() : RouterTest(PointOptions{0, 1u << 20, std::make_shared<WriteStamps>()}) {}
  static api::Context Level(int32_t level, int32_t staleness_ms = 0) {
    api::Context context = Budget(5000);
    context.level = level;
    context.max_staleness_ms = staleness_ms;
    return context;
  }
  static api::Context Bounded(int32_t staleness_ms = 1000) {
    return Level(api::g_pando_constants.LEVEL_BOUNDED, staleness_ms);
  }
  int gets() { return node(1).gets + node(2).gets + node(3).gets; }
  // Whether the nodes were asked.
  bool Asks(const api::Context& context, const std::string& value) {
    const int before = gets();
    EXPECT_EQ(Get(KeyIn(0), context).success.record.value, value);
    return gets() != before;
  }
  ReadCacheMetrics& cache() { return service_->forwarder().cache()->metrics(); }
};

TEST_F(CachingRouterTest, AnswersReadsAtBoundedAlone) {
  Put(KeyIn(0), "v");
  EXPECT_TRUE(Asks(Bounded(), "v"));
  EXPECT_FALSE(Asks(Bounded(), "v"));
  EXPECT_EQ(cache().hits_total.value(), 1u);
  EXPECT_TRUE(Asks({}, "v"));
  EXPECT_TRUE(Asks(Level(api::g_pando_constants.LEVEL_LINEARIZABLE), "v"));
  EXPECT_TRUE(Asks(Bounded(0), "v"));
  api::Context session = Bounded();
  session.session = "token";
  EXPECT_TRUE(Asks(session, "v"));
  api::Context elsewhere = Bounded();
  elsewhere.name_space = "other";
  EXPECT_TRUE(Asks(elsewhere, "v"));
  EXPECT_FALSE(Get("nothing", Bounded()).success.record.found);
  EXPECT_FALSE(Get("nothing", Bounded()).success.record.found);
  EXPECT_EQ(cache().hits_total.value(), 2u);
}

// CA1.
TEST_F(CachingRouterTest, NothingIsUsedThatIsTooStale) {
  Put(KeyIn(0), "v");
  EXPECT_TRUE(Asks(Bounded(1000), "v"));
  int asked_for_half = 0;
  for (NodeId id = 1; id <= 3; ++id) asked_for_half += node(id).last_context.max_staleness_ms == 500 ? 1 : 0;
  EXPECT_EQ(asked_for_half, 1);
  EXPECT_TRUE(Asks(Bounded(400), "v")) << "the replica may be 500 ms behind";
  kernel_.RunFor(180 * kMillisecond);
  EXPECT_FALSE(Asks(Bounded(400), "v"));
  kernel_.RunFor(30 * kMillisecond);
  EXPECT_TRUE(Asks(Bounded(400), "v"));
  kernel_.RunFor(2 * kSecond);
  EXPECT_TRUE(Asks(Bounded(1000), "v"));
  EXPECT_FALSE(Asks(Bounded(10'000), "v"));
}

// CA2.
TEST_F(CachingRouterTest, WritesThroughTheRouterShowAtOnce) {
  Put(KeyIn(0), "v");
  EXPECT_TRUE(Asks(Bounded(), "v"));
  Put(KeyIn(0), "w");
  EXPECT_TRUE(Asks(Bounded(), "w"));
  EXPECT_FALSE(Asks(Bounded(), "w"));
  api::Kv_writeBatch_args write;
  api::WriteOp& op = write.request.ops.emplace_back();
  op.kind = api::g_pando_constants.OP_PUT;
  op.key = KeyIn(0);
  op.value = "x";
  struct Body {
    static Task<void> Run(RpcClient* client, api::Kv_writeBatch_args* w) {
      api::Kv_writeBatch_result written;
      CHECK((co_await client->Call("writeBatch", w, &written, 20 * kSecond)).ok());
    }
  };
  kernel_.RunTask(*at_client_, Body::Run(client_.get(), &write));
  EXPECT_TRUE(Asks(Bounded(), "x"));
  // A get that a replica answers while a write is on its way.
  MasterOf(0).manners.delay_ns = 50 * kMillisecond;
  put_value_ = "y";
  api::Kv_put_result put;
  TaskGroup puts;
  puts.Spawn(Call<api::Kv_put_args>("put", KeyIn(0), Budget(5000), &put));
  kernel_.RunFor(10 * kMillisecond);
  RpcClient other(*at_client_);
  CHECK(kernel_.RunTask(*at_client_, other.Connect(kRouterHost, 7430, kSecond))->ok());
  struct Read {
    static Task<void> Run(RpcClient* client, std::string key, api::Context context) {
      api::Kv_get_args args;
      api::Kv_get_result result;
      args.context = std::move(context);
      args.request.key = std::move(key);
      CHECK((co_await client->Call("get", &args, &result, 20 * kSecond)).ok());
      EXPECT_EQ(result.success.record.value, "x");
    }
  };
  kernel_.RunTask(*at_client_, Read::Run(&other, KeyIn(0), Bounded()));
  kernel_.RunFor(kSecond / 10);
  EXPECT_TRUE(put.success.applied);
  MasterOf(0).manners.delay_ns = 0;
  EXPECT_TRUE(Asks(Bounded(), "y"));
  kernel_.RunTask(*at_client_, other.Close());
}

}  // namespace
}  // namespace pando
