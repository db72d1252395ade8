// Tests requests for ranges over the wire, with fake nodes: what a router answers, and that it never answers less than
// everything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/fake_range_nodes.h"

namespace pando {
namespace {

using testing::HasSubstr;

const auto& kConst = api::g_pando_constants;

// Appends to a key what puts it into a partition of eight that the second of three nodes does not lead.
void MoveToAnother(std::string* key) {
  for (char c = 'a';; ++c) {
    const std::string other = *key + c;
    const uint64_t partition = HashId(other) >> 61;
    if (partition % 3 == 1) continue;
    *key = other;
    return;
  }
}

class RangeRequestsTest : public RangeTest {
 protected:
  void Fill(int count, const std::string& prefix = "k/") {
    for (int i = 0; i < count; ++i) {
      const std::string key = fmt::format("{}{:05}", prefix, i);
      nodes_->Put(key, "value");
      all_.push_back(key);
    }
    std::sort(all_.begin(), all_.end());
  }
  std::vector<std::string> all_;
};

TEST_F(RangeRequestsTest, ScansInOrderBothWaysAndInsideATag) {
  Fill(500);
  Fill(50, "{tag}/");
  api::ScanRequest request;
  request.limit_rows = 70;
  int pages = 0;
  EXPECT_EQ(ScanAll(request, &pages), all_);
  EXPECT_EQ(pages, 8);
  request.reverse = true;
  std::vector<std::string> backwards = all_;
  std::reverse(backwards.begin(), backwards.end());
  EXPECT_EQ(ScanAll(request), backwards);
  request.reverse = false;
  request.prefix = "{tag}/";
  const int before = nodes_->calls;
  EXPECT_EQ(ScanAll(request).size(), 50u);
  EXPECT_EQ(nodes_->calls - before, 1) << "one partition has them all";
  request.prefix = "";
  request.start_key = "k/00100";
  request.end_key = "k/00200";
  EXPECT_EQ(ScanAll(request).size(), 100u);
  request.end_key = "k/00050";
  EXPECT_TRUE(ScanAll(request).empty());
  request = api::ScanRequest();
  request.keys_only = true;
  EXPECT_EQ(Scan(request)->success.rows.front().value, "");
  request.sizes_only = true;
  EXPECT_EQ(Scan(request)->success.rows.front().value_bytes, 5);
  request = api::ScanRequest();
  request.limit_bytes = 120;
  EXPECT_EQ(Scan(request)->success.rows.size(), 10u);
  EXPECT_EQ(ScanAll(request), all_);
}

// Whether slices are larger than partitions or smaller, or lie across them: together they have each row once.
TEST_F(RangeRequestsTest, SlicesHaveEachRowOnce) {
  Fill(400);
  nodes_->max_examined = 30;
  for (const int32_t slices : {1, 2, 3, 8, 11, 40}) {
    for (const bool reverse : {false, true}) {
      SCOPED_TRACE(slices);
      api::ScanRequest request;
      request.slices = slices;
      request.reverse = reverse;
      request.limit_rows = 25;
      std::vector<std::string> all;
      for (request.slice = 0; request.slice < slices; ++request.slice) {
        const std::vector<std::string> keys = ScanAll(request);
        if (reverse) {
          EXPECT_TRUE(std::is_sorted(keys.rbegin(), keys.rend()));
        } else {
          EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
        }
        all.insert(all.end(), keys.begin(), keys.end());
      }
      std::sort(all.begin(), all.end());
      EXPECT_EQ(all, all_);
    }
  }
}

// Only the nodes that have a part of it are asked.
TEST_F(RangeRequestsTest, ASliceIsReadFromFewPartitions) {
  Fill(100);
  nodes_->down = {2, 3};
  api::ScanRequest request;
  request.slices = 16;
  for (const int32_t slice : {0, 1, 6, 7}) {  // of the partitions 0 and 3, of node 1
    request.slice = slice;
    const int before = nodes_->calls;
    auto reply = Scan(request, 300);
    EXPECT_TRUE(reply->__isset.success) << reply->error.message;
    EXPECT_EQ(nodes_->calls, before + 1);
  }
  request.slices = 8;
  request.slice = 1;
  EXPECT_FALSE(Scan(request, 300)->__isset.success);
  // A tag is in one slice; the others need nobody.
  request.prefix = "{tag}/";
  nodes_->down = {1, 2, 3};
  int answered = 0;
  for (request.slice = 0; request.slice < request.slices; ++request.slice) {
    answered += Scan(request, 100)->__isset.success ? 1 : 0;
  }
  EXPECT_EQ(answered, 7);
}

// Rows of other slices do not make a page long, nor the wait for it.
TEST_F(RangeRequestsTest, APageOfASliceMayHaveNoRow) {
  Fill(1000);
  nodes_->max_examined = 10;
  api::ScanRequest request;
  request.slices = 60'000;
  request.slice = 59'999;
  int pages = 0;
  EXPECT_LE(ScanAll(request, &pages).size(), 1u);
  EXPECT_GT(pages, 8);
  EXPECT_LT(pages, 20);
}

TEST_F(RangeRequestsTest, ASliceGoesOnWhilePartitionsMove) {
  Fill(500);
  nodes_->max_examined = 50;
  api::ScanRequest request;
  request.limit_rows = 20;
  request.slices = 3;
  std::vector<std::string> keys;
  for (request.slice = 0; request.slice < 3; ++request.slice) {
    request.cursor.clear();
    for (uint32_t page = 0;; ++page) {
      auto reply = Scan(request);
      ASSERT_TRUE(reply->__isset.success) << reply->error.message;
      for (const api::Row& row : reply->success.rows) keys.push_back(row.key);
      request.cursor = reply->success.cursor;
      if (request.cursor.empty()) break;
      nodes_->Move(page % 8, 1 + (nodes_->masters[page % 8] % 3));
    }
  }
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(keys, all_);
}

TEST_F(RangeRequestsTest, BadSlices) {
  Fill(50);
  api::ScanRequest request;
  request.slices = 4;
  request.slice = 4;
  EXPECT_EQ(Scan(request)->error.code, kConst.BAD_REQUEST);
  request.slice = 1;
  request.limit_rows = 3;
  const std::string cursor = Scan(request)->success.cursor;
  ASSERT_FALSE(cursor.empty());
  request.cursor = cursor;
  EXPECT_TRUE(Scan(request)->__isset.success);
  request.slice = 2;
  EXPECT_EQ(Scan(request)->error.code, kConst.BAD_CURSOR);
  request.slices = 0, request.slice = 0;
  EXPECT_EQ(Scan(request)->error.code, kConst.BAD_CURSOR);
}

// CV1.
TEST_F(RangeRequestsTest, NoAnswerOfANodeMakesASliceShort) {
  Fill(300);
  using Reply = api::Routing_scanPartitions_result;
  using Tamper = void (*)(Reply*);
  const std::map<std::string, Tamper> tampers = {
      {"half the partitions", [](Reply* r) { r->success.covered.resize(r->success.covered.size() / 2); }},
      {"a partition twice", [](Reply* r) { r->success.covered.push_back(r->success.covered.front()); }},
      {"an overlap", [](Reply* r) { r->success.covered.back().first_hash -= 1; }},
      {"a gap", [](Reply* r) { r->success.covered.front().last_hash -= 1; }},
      {"an end outside", [](Reply* r) { r->success.exhausted = false, r->success.examined_to = "a"; }},
      {"an end before the last row",
       [](Reply* r) { r->success.exhausted = false, r->success.examined_to = r->success.rows.front().key; }},
      {"more without rows",
       [](Reply* r) { r->success.rows.clear(), r->success.examined_to.clear(), r->success.exhausted = false; }},
  };
  api::ScanRequest request;
  request.prefix = "k/";
  request.slices = 3;
  for (const auto& [name, tamper] : tampers) {
    SCOPED_TRACE(name);
    nodes_->tamper_scan = [tamper = tamper](NodeId node, const auto&, Reply* reply) {
      if (node == 1) tamper(reply);
    };
    auto reply = Scan(request, 300);
    EXPECT_FALSE(reply->__isset.success);
    EXPECT_EQ(reply->error.code, kConst.UNAVAILABLE) << reply->error.message;
  }
  // Rows of another slice.
  nodes_->tamper_scan = [](NodeId node, const auto&, Reply* reply) {
    for (int i = 0; node == 3; ++i) {  // whose partition 2 is only in part in the slice
      const std::string key = fmt::format("k/{:05}/x", i);
      const uint64_t hash = HashId(key);
      const auto is_here = [hash](const api::Covered& c) {
        return static_cast<uint64_t>(c.first_hash) <= hash && hash <= static_cast<uint64_t>(c.last_hash);
      };
      const auto& covered = reply->success.covered;
      if (std::none_of(covered.begin(), covered.end(), is_here) || HashSlice::Of(3, 0).Has(hash)) continue;
      reply->success.rows.resize(1);
      reply->success.rows[0].key = key;
      reply->success.exhausted = true;
      break;
    }
  };
  auto reply = Scan(request, 300);
  EXPECT_FALSE(reply->__isset.success);
  EXPECT_THAT(reply->error.message, HasSubstr("slice"));
}

// Rows of a newer version may have more fields. They are not kept with the rows while these wait to be merged.
TEST_F(RangeRequestsTest, RowsWithUnknownFieldsAreMerged) {
  Fill(300);
  api::ScanRequest request;
  const auto want = ScanAll(request);
  nodes_->tamper_bytes = [](NodeId, std::string* bytes) {
    ThriftCodec codec;
    ScanAnswer answer;
    ASSERT_TRUE(ReadScanAnswer(*bytes, nullptr, &codec, nullptr, 0, &answer).ok());
    std::string rows;
    RowWalk walk(answer.rows());
    for (RowView row; walk.Next(&row);) {
      rows += row.encoded.substr(0, row.encoded.size() - 1);
      rows += std::string("\x0b\0\x63\0\0\0\x64", 7) + std::string(100, 'u') + '\0';
    }
    bytes->replace(answer.rows_begin, answer.rows_bytes, rows);
  };
  EXPECT_EQ(want.size(), 300u);
  EXPECT_EQ(ScanAll(request), want);
}

TEST_F(RangeRequestsTest, EmptyNodesAndAnEmptyCluster) {
  EXPECT_TRUE(ScanAll(api::ScanRequest()).empty());
  Fill(3);
  nodes_->node_count = 5;  // two lead nothing
  nodes_->Publish();
  EXPECT_EQ(ScanAll(api::ScanRequest()), all_);
}

TEST_F(RangeRequestsTest, APartitionThatMovesBetweenPagesOrDuringOne) {
  Fill(600);
  api::ScanRequest request;
  request.limit_rows = 100;
  std::vector<std::string> keys;
  for (uint32_t page = 0;; ++page) {
    auto reply = Scan(request);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    EXPECT_LE(reply->success.rows.size(), 100u);
    for (const api::Row& row : reply->success.rows) keys.push_back(row.key);
    request.cursor = reply->success.cursor;
    if (request.cursor.empty()) break;
    nodes_->Move(page % 8, 1 + (nodes_->masters[page % 8] % 3));
  }
  EXPECT_EQ(keys, all_);
  EXPECT_GE(nodes_->refreshes, 5);
  // While the answers of a page are on their way.
  kernel_.At(kernel_.now_ns() + 50 * kMicrosecond, SimKernel::kNoBoot, [this] { nodes_->Move(3, 1); });
  EXPECT_EQ(ScanAll(request), all_);
}

TEST_F(RangeRequestsTest, AMapThatStaysWrongEndsWithTheBudget) {
  Fill(20);
  nodes_->refresh_publishes = false;
  nodes_->Move(3, 1 + nodes_->masters[3] % 3);
  const Nanos begin = kernel_.now_ns();
  auto reply = Scan(api::ScanRequest(), 500);
  EXPECT_FALSE(reply->__isset.success);
  EXPECT_EQ(reply->error.code, kConst.UNAVAILABLE);
  EXPECT_THAT(reply->error.message, HasSubstr("partition 3"));
  EXPECT_LT(kernel_.now_ns() - begin, 700 * kMillisecond);
}

// A budget of minutes is no reason to ask nodes again and again for an answer that nobody gets.
TEST_F(RangeRequestsTest, NothingGoesOnForAClientThatHasGone) {
  Fill(20);
  nodes_->refresh_publishes = false;
  nodes_->Move(3, 1 + nodes_->masters[3] % 3);
  api::Kv_scan_args args;
  args.context.budget_ms = 600'000;
  RpcClient gone(*at_client_);
  ASSERT_TRUE(kernel_.RunTask(*at_client_, gone.Connect("10.0.1.1", port_, kSecond))->ok());
  const int before = nodes_->calls;
  EXPECT_EQ(shared_.connections.load(), 2);
  api::Kv_scan_result reply;
  TaskGroup calls;
  calls.Spawn([](RpcClient* client, api::Kv_scan_args* scan, api::Kv_scan_result* result) -> Task<void> {
    EXPECT_FALSE((co_await client->Call("scan", scan, result, 600 * kSecond)).ok());
  }(&gone, &args, &reply));
  kernel_.RunFor(kSecond);
  EXPECT_GT(nodes_->calls, before);
  kernel_.RunTask(*at_client_, gone.Close());
  kernel_.RunFor(10 * kMillisecond);
  EXPECT_EQ(shared_.connections.load(), 1) << "another client may have its place";
  kernel_.RunFor(2 * kSecond);
  const int then = nodes_->calls;
  kernel_.RunFor(20 * kSecond);
  EXPECT_EQ(nodes_->calls, then);
  kernel_.RunTask(*at_client_, [](TaskGroup* group) -> Task<void> { co_await group->Drain(); }(&calls));
}

TEST_F(RangeRequestsTest, ANodeThatIsDownIsWaitedFor) {
  Fill(100);
  nodes_->down = {2};
  kernel_.At(kernel_.now_ns() + 300 * kMillisecond, SimKernel::kNoBoot, [this] { nodes_->down.clear(); });
  EXPECT_EQ(ScanAll(api::ScanRequest()), all_);
  nodes_->down = {2};
  auto reply = Scan(api::ScanRequest(), 300);
  EXPECT_EQ(reply->error.code, kConst.UNAVAILABLE);
  EXPECT_TRUE(reply->error.retryable);
}

// Whatever a node answers: the client gets everything, or an error (CV1).
TEST_F(RangeRequestsTest, NoAnswerOfANodeMakesAPageShort) {
  Fill(200);
  using Reply = api::Routing_scanPartitions_result;
  using Tamper = void (*)(Reply*);
  const std::map<std::string, Tamper> tampers = {
      {"half the partitions", [](Reply* r) { r->success.covered.resize(r->success.covered.size() / 2); }},
      {"nothing", [](Reply* r) { r->success = api::ScanPartitionsReply(), r->success.exhausted = true; }},
      {"a partition twice", [](Reply* r) { r->success.covered.push_back(r->success.covered.front()); }},
      {"another partition", [](Reply* r) { r->success.covered.front().partition ^= 1; }},
      {"an overlap", [](Reply* r) { r->success.covered.front().first_hash -= 1; }},
      {"a gap", [](Reply* r) { r->success.covered.front().last_hash -= 1; }},
      {"no order", [](Reply* r) { std::swap(r->success.rows.front(), r->success.rows.back()); }},
      {"a row twice", [](Reply* r) { r->success.rows.insert(r->success.rows.begin(), r->success.rows.front()); }},
      {"a row of another partition", [](Reply* r) { MoveToAnother(&r->success.rows.front().key); }},
      {"a row outside", [](Reply* r) { r->success.rows.front().key = "a"; }},
      {"more without rows", [](Reply* r) { r->success.rows.clear(), r->success.exhausted = false; }},
      {"too many rows", [](Reply* r) { r->success.rows.resize(20'000); }},
  };
  api::ScanRequest request;
  request.prefix = "k/";
  for (const auto& [name, tamper] : tampers) {
    SCOPED_TRACE(name);
    // Once: it is asked again.
    int left = 1;
    nodes_->tamper_scan = [&, tamper = tamper](NodeId node, const auto&, Reply* reply) {
      if (node == 2 && left-- > 0) tamper(reply);
    };
    EXPECT_EQ(ScanAll(request), all_);
    // Always.
    nodes_->tamper_scan = [tamper = tamper](NodeId node, const auto&, Reply* reply) {
      if (node == 2) tamper(reply);
    };
    auto reply = Scan(request, 300);
    EXPECT_FALSE(reply->__isset.success);
    EXPECT_EQ(reply->error.code, kConst.UNAVAILABLE) << reply->error.message;
    nodes_->tamper_scan = {};
  }
}

// Another replica may answer as well, if the level allows that.
TEST_F(RangeRequestsTest, ASilentReplicaIsLeftForAnother) {
  Fill(100);
  context_.level = kConst.LEVEL_SESSION;
  nodes_->silent = {1};
  auto reply = Scan(api::ScanRequest(), 4000);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_EQ(reply->success.rows.size(), 100u);
  context_.level = kConst.LEVEL_LINEARIZABLE;
  reply = Scan(api::ScanRequest(), 500);
  EXPECT_EQ(reply->error.code, kConst.DEADLINE);
  EXPECT_THAT(reply->error.message, HasSubstr("partitions 0, 3, 6: silence"));
}

TEST_F(RangeRequestsTest, AFinalErrorIsAnsweredAtOnce) {
  Fill(10);
  nodes_->tamper_scan = [](NodeId, const auto&, api::Routing_scanPartitions_result* reply) {
    SetError(reply, MakeError(ApiCode::kSnapshotGone, "gone"));
  };
  const Nanos begin = kernel_.now_ns();
  EXPECT_EQ(Scan(api::ScanRequest())->error.code, kConst.SNAPSHOT_GONE);
  EXPECT_LT(kernel_.now_ns() - begin, 10 * kMillisecond);
}

TEST_F(RangeRequestsTest, CursorsAreOfOneClusterAndOutliveARouter) {
  Fill(100);
  api::ScanRequest request;
  request.limit_rows = 10;
  request.cursor = Scan(request)->success.cursor;
  ASSERT_FALSE(request.cursor.empty());
  auto second = Scan(request);
  EXPECT_EQ(second->success.rows.front().key, all_[10]);
  api::ScanRequest bad = request;
  bad.cursor[5] = static_cast<char>(bad.cursor[5] ^ 1);
  EXPECT_EQ(Scan(bad)->error.code, kConst.BAD_CURSOR);
  bad = request;
  bad.prefix = "k";
  EXPECT_EQ(Scan(bad)->error.code, kConst.BAD_CURSOR);
  bad = request;
  bad.cursor = EncodeCursor(request, {1, all_[10]}, Uuid{5, 6});
  EXPECT_EQ(Scan(bad)->error.code, kConst.BAD_CURSOR) << "of another cluster";
  bad.cursor = EncodeCursor(request, {1, all_[10]});
  EXPECT_EQ(Scan(bad)->error.code, kConst.BAD_CURSOR) << "of a node";
}

TEST_F(RangeRequestsTest, SessionsOfAllPartsAreOne) {
  Fill(100);
  auto reply = Scan(api::ScanRequest());
  Result<SessionToken> token = DecodeSessionToken(nodes_->cluster, reply->success.context.session);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->points.size(), 8u);
  context_.session = EncodeSessionToken({nodes_->cluster, {{2, {9, 9}}}});
  context_.level = kConst.LEVEL_SESSION;
  const int before = nodes_->calls;
  reply = Scan(api::ScanRequest());
  token = DecodeSessionToken(nodes_->cluster, reply->success.context.session);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->At(2), (SessionPoint{9, 9})) << "the reply's token covers the request's";
  EXPECT_EQ(token->points.size(), 8u);
  EXPECT_EQ(nodes_->calls - before, 1) << "one replica has all partitions";
}

TEST_F(RangeRequestsTest, CountsAndAggregates) {
  Fill(300);
  Fill(20, "{t}");
  api::Kv_count_args count;
  EXPECT_EQ((CallFor<api::Kv_count_result>("count", count))->success.count, 320);
  count.request.prefix = "{t}";
  EXPECT_EQ((CallFor<api::Kv_count_result>("count", count))->success.count, 20);
  count.request.prefix = "k/";
  nodes_->Move(5, 1 + nodes_->masters[5] % 3);
  EXPECT_EQ((CallFor<api::Kv_count_result>("count", count))->success.count, 300);
  api::Kv_aggregate_args sums;
  auto reply = CallFor<api::Kv_aggregate_result>("aggregate", sums);
  EXPECT_EQ(reply->success.count, 320);
  uint64_t hash = 0;
  for (const std::string& key : all_) hash += std::hash<std::string>()(key + "value");
  EXPECT_EQ(static_cast<uint64_t>(reply->success.content_hash), hash);
}

TEST_F(RangeRequestsTest, SplitsEvenly) {
  Fill(4000);
  for (int32_t parts : {2, 8, 100}) {
    api::Kv_splitRange_args args;
    args.request.parts = parts;
    auto reply = CallFor<api::Kv_splitRange_result>("splitRange", args);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    const std::vector<api::RangePart>& told = reply->success.parts;
    ASSERT_EQ(told.size(), static_cast<size_t>(parts));
    int64_t sum = 0;
    for (size_t i = 0; i < told.size(); ++i) {
      EXPECT_EQ(told[i].start_key, i == 0 ? "" : told[i - 1].end_key);
      EXPECT_GT(told[i].count, 2000 / parts);
      EXPECT_LT(told[i].count, 8000 / parts);
      sum += told[i].count;
    }
    EXPECT_EQ(told.back().end_key, "");
    EXPECT_EQ(sum, 4000);
  }
  api::Kv_splitRange_args bad;
  bad.request.parts = 1;
  EXPECT_EQ((CallFor<api::Kv_splitRange_result>("splitRange", bad))->error.code, kConst.BAD_REQUEST);
}

TEST_F(RangeRequestsTest, DeletesARangeInSeveralCalls) {
  Fill(300);
  Fill(30, "rest/");
  api::Kv_deleteRange_args args;
  args.request.prefix = "k/";
  args.request.limit_rows = 60;
  int64_t removed = 0;
  int calls = 0;
  do {
    auto reply = CallFor<api::Kv_deleteRange_result>("deleteRange", args);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    EXPECT_LE(reply->success.removed, 60);
    removed += reply->success.removed;
    args.request.cursor = reply->success.cursor;
    nodes_->Move(static_cast<uint32_t>(calls % 8), 1 + static_cast<NodeId>(calls % 3));
    ASSERT_LT(++calls, 100);
  } while (!args.request.cursor.empty());
  EXPECT_EQ(removed, 300);
  EXPECT_EQ(ScanAll(api::ScanRequest()).size(), 30u);
}

TEST_F(RangeRequestsTest, ADeletionWhoseAnswerIsLostIsSentAgain) {
  Fill(100);
  nodes_->lose_deletes = 1;
  api::Kv_deleteRange_args args;
  args.context.budget_ms = 1000;
  auto reply = CallFor<api::Kv_deleteRange_result>("deleteRange", args);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_TRUE(reply->success.cursor.empty());
  EXPECT_TRUE(ScanAll(api::ScanRequest()).empty());
  Fill(100);
  nodes_->lose_deletes = 1'000'000;
  reply = CallFor<api::Kv_deleteRange_result>("deleteRange", args);
  EXPECT_FALSE(reply->__isset.success);
  EXPECT_EQ(reply->error.applied, kConst.APPLIED_UNKNOWN);
}

// What a partition refuses is still there, and the answer says what others have removed.
TEST_F(RangeRequestsTest, ADeletionThatOnePartitionRefuses) {
  Fill(100);
  nodes_->refresh_publishes = false;
  nodes_->Move(3, 1 + nodes_->masters[3] % 3);
  const size_t left = nodes_->fakes[3]->records.size();
  api::Kv_deleteRange_args args;
  args.context.budget_ms = 300;
  auto reply = CallFor<api::Kv_deleteRange_result>("deleteRange", args);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_GT(reply->success.removed, 0);
  EXPECT_FALSE(reply->success.cursor.empty());
  EXPECT_EQ(nodes_->fakes[3]->records.size(), left);
  nodes_->Publish();
  args.request.cursor = reply->success.cursor;
  int64_t removed = reply->success.removed;
  for (int i = 0; i < 20 && !args.request.cursor.empty(); ++i) {
    reply = CallFor<api::Kv_deleteRange_result>("deleteRange", args);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    removed += reply->success.removed;
    args.request.cursor = reply->success.cursor;
  }
  EXPECT_EQ(removed, 100);
}

class WideRangeTest : public RangeTest {
 protected:
  WideRangeTest() : RangeTest(64, 3) {}
};

// Nodes give a margin to their partitions, and the router to its nodes.
TEST_F(WideRangeTest, ReadsLittleMoreThanItReturns) {
  constexpr int kRows = 30'000;
  for (int i = 0; i < kRows; ++i) nodes_->Put(fmt::format("key/{:06}", i), "");
  const uint64_t row_bytes = 10;
  for (auto [page, most] : {std::pair(10'000, 1.5), std::pair(1000, 2.5)}) {
    const uint64_t before = nodes_->scanned_bytes();
    api::ScanRequest request;
    request.limit_rows = page;
    int64_t rows = 0;
    while (rows < 10'000) {
      auto reply = Scan(request);
      ASSERT_TRUE(reply->__isset.success) << reply->error.message;
      ASSERT_FALSE(reply->success.rows.empty());
      rows += static_cast<int64_t>(reply->success.rows.size());
      request.cursor = reply->success.cursor;
    }
    const double read = static_cast<double>(nodes_->scanned_bytes() - before) / row_bytes;
    const double ratio = read / static_cast<double>(rows);
    RecordProperty("ratio_of_" + std::to_string(page), fmt::format("{:.2f}", ratio));
    std::cout << "pages of " << page << " rows: " << ratio << " rows read for each returned\n";
    EXPECT_LE(ratio, most) << "pages of " << page;
  }
}

class ShortMemoryTest : public RangeTest {
 protected:
  ShortMemoryTest() : RangeTest(8, 3, 32 << 20) {}
};

// Memory for the parts of a page is reserved before nodes are asked for them.
TEST_F(ShortMemoryTest, ManyScansAtOnceStayWithinTheBudget) {
  for (int i = 0; i < 30; ++i) nodes_->Put(fmt::format("k{:03}", i), std::string(700'000, 'v'));
  nodes_->delay_ns = 20 * kMillisecond;
  struct Body {
    static Task<void> Run(RpcClient* client, const api::Kv_scan_args* args, api::Kv_scan_result* result) {
      CHECK((co_await client->Call("scan", args, result, 60 * kSecond)).ok());
    }
  };
  api::Kv_scan_args args;
  args.context.budget_ms = 30'000;
  std::vector<api::Kv_scan_result> results(100);
  TaskGroup scans;
  int64_t most = 0;
  for (int i = 0; i < 5000; ++i) {
    kernel_.At(kernel_.now_ns() + i * kMillisecond, SimKernel::kNoBoot,
               [&] { most = std::max(most, shared_.memory.used_bytes()); });
  }
  for (api::Kv_scan_result& result : results) scans.Spawn(Body::Run(client_.get(), &args, &result));
  kernel_.RunFor(5 * kSecond);
  EXPECT_EQ(scans.running(), 0u);
  // One reply may be encoded while its rows are still held.
  EXPECT_LE(most, shared_.memory.limit_bytes() + static_cast<int64_t>(kMaxFrameBytes));
  int answered = 0;
  for (const api::Kv_scan_result& result : results) {
    answered += result.__isset.success ? 1 : 0;
    if (result.__isset.success) continue;
    EXPECT_EQ(result.error.code, kConst.OVERLOADED) << result.error.message;
    EXPECT_GT(result.error.retry_after_ms, 0);
  }
  EXPECT_GT(answered, 0);
}

// -- watch

class WatchRouterTest : public RangeTest {
 protected:
  std::unique_ptr<api::Kv_watch_result> Watch(const api::WatchRequest& request, int32_t budget_ms = 20'000) {
    api::Kv_watch_args args;
    args.context.budget_ms = budget_ms;
    args.request = request;
    return CallFor<api::Kv_watch_result>("watch", args);
  }
  api::WatchRequest FromNow(const std::string& prefix) {
    api::WatchRequest request;
    request.prefix = prefix;
    auto reply = Watch(request);
    EXPECT_TRUE(reply->__isset.success) << reply->error.message;
    request.position = reply->success.position;
    return request;
  }
};

TEST_F(WatchRouterTest, TellsOfAllChangesOnce) {
  api::WatchRequest request = FromNow("k");
  std::multiset<std::string> told, expected;
  for (int i = 0; i < 200; ++i) {
    nodes_->Put(fmt::format("k{}", i), "v");
    nodes_->Put(fmt::format("other{}", i), "v");
    expected.insert(fmt::format("k{}", i));
    if (i % 50 == 0) nodes_->Move(static_cast<uint32_t>(i / 50), 1 + static_cast<NodeId>(i / 50) % 3);
  }
  request.limit_changes = 30;
  for (bool more = true; more;) {
    auto reply = Watch(request);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    EXPECT_LE(reply->success.changes.size(), 30u);
    for (const api::Change& change : reply->success.changes) told.insert(change.key);
    request.position = reply->success.position;
    more = reply->success.more || !reply->success.changes.empty();
  }
  EXPECT_EQ(told, expected);
}

TEST_F(WatchRouterTest, WaitsForAChangeAnywhere) {
  for (int i = 0; i < 10; ++i) {
    api::WatchRequest request = FromNow("k");
    request.wait_ms = 10'000;
    const Nanos begin = kernel_.now_ns();
    const std::string key = fmt::format("k{}", i);
    kernel_.At(begin + kSecond, SimKernel::kNoBoot, [this, key] { nodes_->Put(key, "v"); });
    auto reply = Watch(request);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    ASSERT_EQ(reply->success.changes.size(), 1u);
    EXPECT_EQ(reply->success.changes[0].key, key);
    EXPECT_LT(kernel_.now_ns() - begin, kSecond + 20 * kMillisecond);
  }
  // The tag's partition alone is asked.
  api::WatchRequest request = FromNow("{t}");
  nodes_->Put("{t}1", "v");
  nodes_->Put("k", "v");
  EXPECT_EQ(Watch(request)->success.changes.size(), 1u);
}

TEST_F(WatchRouterTest, EndsWithItsTimeAndSurvivesAMove) {
  api::WatchRequest request = FromNow("k");
  request.wait_ms = 500;
  const Nanos begin = kernel_.now_ns();
  auto reply = Watch(request);
  EXPECT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_TRUE(reply->success.changes.empty());
  EXPECT_GE(kernel_.now_ns() - begin, 500 * kMillisecond);
  EXPECT_LT(kernel_.now_ns() - begin, 600 * kMillisecond);
  request.position = reply->success.position;
  request.wait_ms = 5000;
  kernel_.At(kernel_.now_ns() + 300 * kMillisecond, SimKernel::kNoBoot, [this] {
    for (uint32_t p = 0; p < 8; ++p) nodes_->Move(p, 3);
  });
  kernel_.At(kernel_.now_ns() + kSecond, SimKernel::kNoBoot, [this] { nodes_->Put("k1", "v"); });
  reply = Watch(request);
  ASSERT_EQ(reply->success.changes.size(), 1u) << reply->error.message;
}

// Nobody else is asked again and again while one partition cannot answer.
TEST_F(WatchRouterTest, APartitionThatCannotAnswerCostsTheOthersNothing) {
  api::WatchRequest request = FromNow("k");
  request.wait_ms = 20'000;
  const Nanos begin = kernel_.now_ns();
  kernel_.At(begin + 10 * kMillisecond, SimKernel::kNoBoot, [this] {
    nodes_->down = {2};
    nodes_->watches.clear();
  });
  kernel_.At(begin + 10 * kSecond, SimKernel::kNoBoot, [this] { nodes_->down.clear(); });
  std::map<NodeId, int> asked;
  kernel_.At(begin + 10 * kSecond, SimKernel::kNoBoot, [this, &asked] { asked = nodes_->watches; });
  std::string key;
  for (int i = 0; key.empty() || nodes_->masters[nodes_->PartitionOf(key)] != 2; ++i) key = fmt::format("k{}", i);
  kernel_.At(begin + 12 * kSecond, SimKernel::kNoBoot, [this, key] { nodes_->Put(key, "v"); });
  auto reply = Watch(request, 30'000);
  ASSERT_EQ(reply->success.changes.size(), 1u) << reply->error.message;
  EXPECT_EQ(reply->success.changes[0].key, key);
  EXPECT_LE(asked[1], 3);
  EXPECT_LE(asked[3], 3);
  EXPECT_LE(asked[2], 35);
}

// RW3.
TEST_F(WatchRouterTest, OneClientDoesNotTakeThePlacesOfAllWatchers) {
  std::vector<api::Kv_watch_result> results(WatchRouter::kMaxWaiting);
  struct Body {
    static Task<void> Run(RpcClient* client, const api::Kv_watch_args* args, api::Kv_watch_result* result) {
      CHECK((co_await client->Call("watch", args, result, 60 * kSecond)).ok());
    }
  };
  api::Kv_watch_args args;
  args.request.wait_ms = 2000;
  TaskGroup watches;
  SimReactor* elsewhere = kernel_.AddMachine("10.0.2.2")->Boot();
  RpcClient second(*at_client_), other(*elsewhere);
  CHECK(kernel_.RunTask(*at_client_, second.Connect("10.0.1.1", port_, kSecond))->ok());
  CHECK(kernel_.RunTask(*elsewhere, other.Connect("10.0.1.1", port_, kSecond))->ok());
  // However many connections it has.
  for (size_t i = 0; i < results.size(); ++i) {
    watches.Spawn(Body::Run(i % 2 == 0 ? client_.get() : &second, &args, &results[i]));
  }
  kernel_.RunFor(100 * kMillisecond);
  api::Kv_watch_result result;
  kernel_.RunTask(*elsewhere, Body::Run(&other, &args, &result));
  EXPECT_TRUE(result.__isset.success) << result.error.message;
  kernel_.RunFor(5 * kSecond);
  size_t refused = 0;
  for (const api::Kv_watch_result& r : results) refused += r.error.code == kConst.OVERLOADED ? 1 : 0;
  EXPECT_EQ(refused, 21u);
  kernel_.RunTask(*at_client_, second.Close());
  kernel_.RunTask(*elsewhere, other.Close());
}

// The changes of all nodes together may be more than a frame holds.
TEST_F(WatchRouterTest, AReplyFitsIntoAFrame) {
  for (auto& fake : nodes_->fakes) fake->changes.Begin(fake->newest_change(), 1u << 20);
  api::WatchRequest request = FromNow("k");
  std::multiset<std::string> told, expected;
  for (int i = 0; i < 2300; ++i) {
    const std::string key = fmt::format("k{:02000}", i);
    nodes_->Put(key, "v");
    expected.insert(key);
  }
  for (bool more = true; more;) {
    auto reply = Watch(request);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    for (const api::Change& change : reply->success.changes) told.insert(change.key);
    request.position = reply->success.position;
    more = reply->success.more || !reply->success.changes.empty();
  }
  EXPECT_EQ(told, expected);
}

TEST_F(WatchRouterTest, PositionsAreOfOneClusterAndPrefix) {
  api::WatchRequest request = FromNow("k");
  request.prefix = "other";
  EXPECT_EQ(Watch(request)->error.code, kConst.BAD_CURSOR);
  request.prefix = "k";
  request.position[3] = static_cast<char>(request.position[3] ^ 1);
  EXPECT_EQ(Watch(request)->error.code, kConst.BAD_CURSOR);
  request.position = EncodeWatchPosition({Uuid{5, 6}, "k", 8, {0, 1, 2, 3, 4, 5, 6, 7}}, {std::vector<Version>(8, 1)});
  EXPECT_EQ(Watch(request)->error.code, kConst.FEED_GONE);
}

}  // namespace
}  // namespace pando
