// Tests the services Kv and Admin over the wire protocol with RpcClient, with fake partitions on
// two simulated reactors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_node.h"

namespace pando {
namespace {

using testing::HasSubstr;

class KvServiceTest : public FakeNodeTest {};
INSTANTIATE_TEST_SUITE_P(Wire, KvServiceTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

// The reactors take long to hear from each other.
class SlowReactorsTest : public FakeNodeTest {
 protected:
  static constexpr int kPeers = 20, kGets = 60;
  static constexpr int64_t kKeyBytes = 1000, kValueBytes = 4000;
  static SimOptions Slow() {
    SimOptions options;
    options.remote_min_ns = options.remote_max_ns = 50 * kMillisecond;
    return options;
  }
  SlowReactorsTest() : FakeNodeTest(Slow()) {
    for (int i = 0; static_cast<int>(keys_.size()) < kGets; ++i) {
      std::string key = "key" + std::to_string(i);
      key.resize(kKeyBytes, 'k');
      if (node_->store.PartitionOf(key) % 2 == 0) continue;  // of the reactor that the clients call
      WriteOp op;
      op.key = key;
      op.value.assign(kValueBytes, 'v');
      node_->PartitionOf(key).WriteNow(op);
      keys_.push_back(key);
    }
  }
  static Task<void> Connect(SlowReactorsTest* t) {
    for (int i = 0; i < kPeers; ++i) {
      t->peers_.push_back(std::make_unique<RawPeer>(*t->client_reactor_));
      Status connected = co_await t->peers_.back()->Connect("10.0.0.1", t->node_->port);
      CHECK(connected.ok());
    }
  }
  static Task<void> Leave(SlowReactorsTest* t) {
    for (auto& peer : t->peers_) co_await peer->Close();
    co_await Sleep(*t->client_reactor_, 100 * kMillisecond);
  }
  // Each client sends all of its gets at once.
  void SendAll() {
    for (auto& peer : peers_) {
      peer->frames.clear();
      for (int i = 0; i < kGets; ++i) peer->Send(GetCall(i, keys_[static_cast<size_t>(i)], 0, GetParam()));
    }
  }
  int Count(int32_t code) {
    int count = 0;
    for (auto& peer : peers_) {
      for (const std::string& frame : peer->frames) {
        auto reply = DecodeReply<api::Kv_get_result>(frame);
        count +=
            reply.result.error.code == code && (code != 0 || reply.result.success.record.value.size() == kValueBytes);
      }
    }
    return count;
  }
  int64_t used() const { return node_->shared.memory.used_bytes(); }

  std::vector<std::string> keys_;
  std::vector<std::unique_ptr<RawPeer>> peers_;
};
INSTANTIATE_TEST_SUITE_P(Wire, SlowReactorsTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

// M3: the keys wait for the other reactor, and the values that it has copied wait for this one. All
// of them are reserved.
TEST_P(SlowReactorsTest, GetsThatTravelAreReservedAndLeaveLittleBehind) {
  Await(Connect(this));
  const int64_t before = used();
  SendAll();
  kernel_.RunFor(30 * kMillisecond);
  EXPECT_GE(used() - before, kPeers * kGets * kKeyBytes);
  kernel_.RunFor(45 * kMillisecond);
  EXPECT_GE(used() - before, kPeers * kGets * kValueBytes);
  kernel_.RunFor(500 * kMillisecond);
  EXPECT_EQ(Count(0), kPeers * kGets);
  EXPECT_LE(used() - before, 2 * BudgetAccount::kChunkBytes);
  EXPECT_LE(node_->services[0]->get_path().spare_bytes(), 2u << 20);
  Await(Leave(this));
}

TEST_P(SlowReactorsTest, GetsThatTravelAreRefusedWithoutMemory) {
  Await(Connect(this));
  for (const int64_t left : {int64_t{3} << 20, int64_t{512} << 10}) {  // too little for the values, and for the keys
    const int64_t taken = node_->shared.memory.limit_bytes() - left;
    node_->shared.memory.Force(taken);
    SendAll();
    kernel_.RunFor(600 * kMillisecond);
    const int refused = Count(api::g_pando_constants.OVERLOADED);
    EXPECT_GT(refused, 0);
    EXPECT_EQ(Count(0) + refused, kPeers * kGets);
    node_->shared.memory.Release(taken);
  }
  Await(Leave(this));
}

TEST_P(KvServiceTest, GetsFromEveryPartitionWarmAndCold) {
  for (int i = 0; i < 100; ++i) {
    std::string key = "key" + std::to_string(i);
    api::WriteResult put = Put(key, "value" + std::to_string(i));
    EXPECT_TRUE(put.applied);
    EXPECT_FALSE(put.existed);
    if (i % 3 == 0) node_->PartitionOf(key).cold.insert(key);
  }
  for (int i = 0; i < 100; ++i) {
    auto got = Get("key" + std::to_string(i));
    EXPECT_TRUE(got->__isset.success && got->success.record.found) << i;
    EXPECT_EQ(got->success.record.value, "value" + std::to_string(i));
    EXPECT_GT(got->success.record.version, 0);
  }
  auto missing = Get("nothing");
  EXPECT_TRUE(missing->__isset.success);
  EXPECT_FALSE(missing->success.record.found);
  EXPECT_GT(node_->services[0]->get_path().metrics().remote_total.value(), 20u);
  EXPECT_GT(node_->services[1]->get_path().metrics().gets_total.value(), 20u);
  // The fakes begin every other write without a coroutine.
  const WritePath::Metrics& here = node_->services[0]->write_path().metrics();
  const WritePath::Metrics& there = node_->services[1]->write_path().metrics();
  EXPECT_GT(here.remote_total.value(), 20u);
  EXPECT_GT(here.begun_total.value(), 10u);
  EXPECT_GT(here.slowly_total.value(), 10u);
  EXPECT_GT(there.begun_total.value(), 10u);
  EXPECT_GT(there.slowly_total.value(), 10u);
  EXPECT_EQ(
      here.begun_total.value() + here.slowly_total.value() + there.begun_total.value() + there.slowly_total.value(),
      100u);
}

TEST_P(KvServiceTest, BadGetsNameTheLimit) {
  EXPECT_THAT(Get("")->error.message, HasSubstr("1 to 2048 bytes"));
  EXPECT_THAT(Get(std::string(2049, 'k'))->error.message, HasSubstr("2049 bytes; the limit is 2048"));
  api::Kv_get_args args;
  args.request.key = "k";
  args.context.level = 2;
  EXPECT_THAT(CallFor<api::Kv_get_result>("get", args)->error.message, HasSubstr("level 2 is for writes"));
}

TEST_P(KvServiceTest, FailuresOfPartitionsAreTold) {
  Put("k", "v");
  node_->PartitionOf("k").failure = Status(Code::kCorruption, "partition-1/data: block 9 is damaged");
  auto got = Get("k");
  EXPECT_EQ(got->error.code, api::g_pando_constants.CORRUPT);
  EXPECT_THAT(got->error.message, HasSubstr("block 9"));
  node_->PartitionOf("k").failure = Status(Code::kDiskFull, "no space");
  api::Kv_put_args args;
  args.request.key = "k";
  auto put = CallFor<api::Kv_put_result>("put", args);
  EXPECT_EQ(put->error.code, api::g_pando_constants.DISK_FULL);
  EXPECT_EQ(put->error.applied, api::g_pando_constants.APPLIED_NO);
}

TEST_P(KvServiceTest, ConditionsRemovesAndIncrements) {
  api::WriteResult first = Put("k", "one");
  api::Kv_put_args put;
  put.request.key = "k";
  put.request.value = "two";
  put.request.__isset.condition = true;
  put.request.condition.__set_version(first.version + 100);
  auto failed = CallFor<api::Kv_put_result>("put", put)->success;
  EXPECT_FALSE(failed.applied);
  EXPECT_EQ(failed.current.value, "one");
  put.request.condition.__set_version(first.version);
  EXPECT_TRUE(CallFor<api::Kv_put_result>("put", put)->success.applied);

  api::Kv_increment_args increment;
  increment.request.key = "n";
  increment.request.delta = 5;
  EXPECT_EQ(CallFor<api::Kv_increment_result>("increment", increment)->success.number, 5);
  increment.request.delta = -7;
  EXPECT_EQ(CallFor<api::Kv_increment_result>("increment", increment)->success.number, -2);
  increment.request.key = "k";
  auto not_a_number = CallFor<api::Kv_increment_result>("increment", increment);
  EXPECT_EQ(not_a_number->error.code, api::g_pando_constants.BAD_REQUEST);
  EXPECT_EQ(not_a_number->error.applied, api::g_pando_constants.APPLIED_NO);

  api::Kv_remove_args remove;
  remove.request.key = "k";
  EXPECT_TRUE(CallFor<api::Kv_remove_result>("remove", remove)->success.existed);
  EXPECT_FALSE(CallFor<api::Kv_remove_result>("remove", remove)->success.existed);
}

TEST_P(KvServiceTest, BatchesReportEachOpInOrder) {
  Put("b", "not a number");
  api::Kv_writeBatch_args args;
  for (int i = 0; i < 50; ++i) {
    api::WriteOp op;
    op.kind = 1;
    op.key = "batch" + std::to_string(i);
    op.value = std::to_string(i);
    args.request.ops.push_back(op);
  }
  args.request.ops[7].value.clear();
  args.request.ops[9].value.clear();
  args.request.ops[7].kind = 3;
  args.request.ops[7].key = "b";
  args.request.ops[9].kind = 2;
  node_->PartitionOf("batch3").failure = Status(Code::kOverloaded, "the log is full");
  auto reply = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success;
  ASSERT_EQ(reply.results.size(), 50u);
  for (size_t i = 0; i < 50; ++i) {
    const std::string& key = args.request.ops[i].key;
    const api::WriteResult& result = reply.results[i];
    if (!node_->PartitionOf(key).failure.ok()) {
      EXPECT_EQ(result.error.code, api::g_pando_constants.OVERLOADED) << i;
      EXPECT_TRUE(result.error.retryable);
    } else if (i == 7) {
      EXPECT_THAT(result.error.message, HasSubstr("not a decimal"));
    } else {
      EXPECT_TRUE(result.applied) << i;
      if (i != 9) {
        EXPECT_EQ(node_->PartitionOf(key).records[key].value, std::to_string(i));
      }
    }
  }
}

api::WriteOp BatchOp(int32_t kind, std::string key, std::string value) {
  api::WriteOp op;
  op.kind = kind;
  op.key = std::move(key);
  op.value = std::move(value);
  return op;
}

TEST_P(KvServiceTest, AllOrNothingWithholdsTheOthers) {
  Put("{t}n", "not a number");
  api::Kv_writeBatch_args args;
  args.request.all_or_nothing = true;
  args.request.ops = {BatchOp(1, "{t}a", "1"), BatchOp(3, "{t}n", ""), BatchOp(4, "{t}nobody", "")};
  args.request.ops[2].ttl_mode = api::g_pando_constants.TTL_CLEAR;
  auto reply = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success;
  ASSERT_EQ(reply.results.size(), 3u);
  for (const api::WriteResult& result : reply.results) EXPECT_FALSE(result.applied);
  EXPECT_TRUE(reply.results[0].withheld);
  EXPECT_FALSE(reply.results[0].__isset.current);
  EXPECT_THAT(reply.results[1].error.message, HasSubstr("not a decimal"));
  EXPECT_EQ(reply.results[1].error.applied, api::g_pando_constants.APPLIED_NO);
  EXPECT_FALSE(reply.results[1].withheld);
  EXPECT_TRUE(reply.results[2].__isset.current);
  EXPECT_FALSE(reply.results[2].current.found);
  EXPECT_TRUE(reply.failed_conditions.empty());
  EXPECT_FALSE(node_->PartitionOf("{t}a").records.contains("{t}a"));
  // Without the two ops that fail, the batch is applied.
  args.request.ops = {BatchOp(1, "{t}a", "1"), BatchOp(2, "{t}n", "")};
  args.request.ops[1].return_previous = true;
  reply = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success;
  EXPECT_TRUE(reply.results[0].applied);
  EXPECT_FALSE(reply.results[0].__isset.previous);
  EXPECT_EQ(reply.results[1].previous.value, "not a number");
}

TEST_P(KvServiceTest, ConditionsGuardABatch) {
  Put("{t}guard", "1");
  api::Kv_writeBatch_args args;
  args.request.conditions.resize(2);
  args.request.conditions[0].key = "{t}guard";
  args.request.conditions[0].condition.__set_value("1");
  args.request.conditions[1].key = "{t}other";
  args.request.conditions[1].condition.__set_exists(true);
  args.request.ops = {BatchOp(1, "{t}a", "1")};
  auto reply = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success;
  ASSERT_EQ(reply.results.size(), 1u);
  EXPECT_TRUE(reply.results[0].withheld);
  ASSERT_EQ(reply.failed_conditions.size(), 1u);
  EXPECT_EQ(reply.failed_conditions[0].index, 1);
  EXPECT_FALSE(reply.failed_conditions[0].current.found);
  EXPECT_FALSE(node_->PartitionOf("{t}a").records.contains("{t}a"));
  args.request.conditions[1].condition.__set_exists(false);
  reply = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success;
  EXPECT_TRUE(reply.results[0].applied);
  EXPECT_TRUE(reply.failed_conditions.empty());
  // A batch of conditions without ops checks several keys atomically.
  args.request.ops.clear();
  args.request.conditions[0].condition.__set_value("2");
  reply = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success;
  ASSERT_EQ(reply.failed_conditions.size(), 1u);
  EXPECT_EQ(reply.failed_conditions[0].current.value, "1");
  node_->PartitionOf("{t}a").failure = Status(Code::kOverloaded, "the log is full");
  EXPECT_EQ(CallFor<api::Kv_writeBatch_result>("writeBatch", args)->error.code, api::g_pando_constants.OVERLOADED);
}

TEST_P(KvServiceTest, TouchPreviousAndExactExpiry) {
  const auto& c = api::g_pando_constants;
  api::Kv_put_args put;
  put.request.key = "k";
  put.request.value = "v";
  put.request.ttl_mode = c.TTL_SET_ABSOLUTE;
  put.request.expires_at_ms = 1'234'567'890'123;
  put.request.return_previous = true;
  api::WriteResult result = CallFor<api::Kv_put_result>("put", put)->success;
  EXPECT_TRUE(result.applied);
  ASSERT_TRUE(result.__isset.previous);
  EXPECT_FALSE(result.previous.found);
  EXPECT_EQ(node_->PartitionOf("k").records["k"].expires_at_ms, 1'234'567'890'123);
  const int64_t version = result.version;

  api::Kv_touch_args touch;
  touch.request.key = "k";
  touch.request.ttl_mode = c.TTL_CLEAR;
  result = CallFor<api::Kv_touch_result>("touch", touch)->success;
  EXPECT_TRUE(result.applied);
  EXPECT_TRUE(result.existed);
  EXPECT_GT(result.version, version);
  EXPECT_EQ(node_->PartitionOf("k").records["k"].expires_at_ms, 0);
  touch.request.key = "nobody";
  result = CallFor<api::Kv_touch_result>("touch", touch)->success;
  EXPECT_FALSE(result.applied);
  EXPECT_TRUE(result.__isset.current);
  EXPECT_FALSE(result.current.found);

  api::Kv_remove_args remove;
  remove.request.key = "k";
  remove.request.return_previous = true;
  result = CallFor<api::Kv_remove_result>("remove", remove)->success;
  EXPECT_TRUE(result.existed);
  EXPECT_EQ(result.previous.value, "v");
}

TEST_P(KvServiceTest, MultiGetKeepsOrderAndBounds) {
  api::Kv_multiGet_args args;
  for (int i = 0; i < 200; ++i) {
    std::string key = "m" + std::to_string(i);
    if (i % 4 != 0) node_->PartitionOf(key).records[key] = {true, 5, 0, "v" + std::to_string(i)};
    if (i % 5 == 0) node_->PartitionOf(key).cold.insert(key);
    args.request.keys.push_back(key);
  }
  auto items = CallFor<api::Kv_multiGet_result>("multiGet", args)->success.items;
  ASSERT_EQ(items.size(), 200u);
  for (size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(items[i].record.found, i % 4 != 0) << i;
    if (i % 4 != 0) {
      EXPECT_EQ(items[i].record.value, "v" + std::to_string(i));
    }
  }
  // With more values than a frame can carry, the reply has those that fit and an error for each of
  // the other keys.
  args.request.keys.clear();
  for (int i = 0; i < 20; ++i) {
    std::string key = "large" + std::to_string(i);
    node_->PartitionOf(key).records[key] = {true, 5, 0, std::string(kMaxValueBytes / 2, 'x')};
    if (i % 2 == 0) node_->PartitionOf(key).cold.insert(key);
    args.request.keys.push_back(key);
  }
  items = CallFor<api::Kv_multiGet_result>("multiGet", args)->success.items;
  int found = 0;
  for (auto& item : items) {
    found += item.record.found;
    EXPECT_NE(item.record.found, item.__isset.error);
    if (item.__isset.error) {
      EXPECT_EQ(item.error.code, api::g_pando_constants.OVERLOADED);
    }
  }
  EXPECT_EQ(found, 7);  // 3.5 MiB
  args.request.keys.assign(1025, "k");
  EXPECT_THAT(CallFor<api::Kv_multiGet_result>("multiGet", args)->error.message,
              HasSubstr("1025 keys; the limit is 1024"));
}

TEST_P(KvServiceTest, ScansAndCountsOverAllPartitionsAndWithinATag) {
  for (int i = 0; i < 300; ++i) {
    Put(fmt::format("s{:04}", i), "v" + std::to_string(i));
    Put(fmt::format("{{tag}}/{:04}", i), "t");
  }
  api::Kv_scan_args args;
  args.request.prefix = "s";
  args.request.limit_rows = 70;
  std::vector<std::string> keys;
  do {
    auto reply = CallFor<api::Kv_scan_result>("scan", args)->success;
    for (auto& row : reply.rows) keys.push_back(row.key);
    args.request.cursor = reply.cursor;
  } while (!args.request.cursor.empty());
  ASSERT_EQ(keys.size(), 300u);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(keys[static_cast<size_t>(i)], fmt::format("s{:04}", i));

  uint64_t before = 0, after = 0;
  for (auto& fake : node_->fakes) before += fake->scans;
  args.request = {};
  args.request.prefix = "{tag}";
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", args)->success.rows.size(), 300u);
  for (auto& fake : node_->fakes) after += fake->scans;
  EXPECT_EQ(after - before, 1u) << "a scan within one tag reads one partition";

  api::Kv_count_args count;
  EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->success.count, 600);
  count.request.prefix = "{tag}";
  EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->success.count, 300);
  count.request.prefix = "";
  count.request.start_key = "s0100";
  count.request.end_key = "s0150";
  EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->success.count, 50);

  api::Kv_aggregate_args sums;
  auto all = CallFor<api::Kv_aggregate_result>("aggregate", sums)->success;
  EXPECT_EQ(all.count, 600);
  EXPECT_EQ(all.bytes, 10 * 7 + 90 * 8 + 200 * 9 + 300 * 11);
  sums.request.prefix = "{tag}";
  auto tagged = CallFor<api::Kv_aggregate_result>("aggregate", sums)->success;
  EXPECT_EQ(tagged.count, 300);
  EXPECT_EQ(tagged.bytes, 300 * 11);
  sums.request.prefix = "s";
  auto rest = CallFor<api::Kv_aggregate_result>("aggregate", sums)->success;
  EXPECT_EQ(static_cast<uint64_t>(all.content_hash),
            static_cast<uint64_t>(tagged.content_hash) + static_cast<uint64_t>(rest.content_hash));
  sums.request.start_key = std::string(2049, 'k');
  EXPECT_EQ(CallFor<api::Kv_aggregate_result>("aggregate", sums)->error.code, static_cast<int32_t>(ApiCode::kTooLarge));
}

TEST_P(KvServiceTest, BadScans) {
  api::Kv_scan_args args;
  args.request.cursor = "nonsense";
  auto reply = CallFor<api::Kv_scan_result>("scan", args);
  EXPECT_EQ(reply->error.code, api::g_pando_constants.BAD_CURSOR);
  args.request = {};
  args.request.limit_rows = -1;
  EXPECT_THAT(CallFor<api::Kv_scan_result>("scan", args)->error.message, HasSubstr("limit_rows is -1"));
  args.request = {};
  args.request.start_key.assign(3000, 'x');
  EXPECT_THAT(CallFor<api::Kv_scan_result>("scan", args)->error.message, HasSubstr("3000 bytes; the limit is 2048"));
  args.request = {};
  args.request.snapshot = "s";
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", args)->error.code, api::g_pando_constants.BAD_REQUEST);
}

TEST_P(KvServiceTest, ASnapshotWhoseClientNoLongerWaitsIsReleased) {
  api::Kv_openSnapshot_args open;
  open.context.budget_ms = 1;  // less than the rounds of messages take
  open.request.ttl_ms = 60'000;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(CallFor<api::Kv_openSnapshot_result>("openSnapshot", open)->error.code, api::g_pando_constants.DEADLINE);
  }
  Await(Wait(client_reactor_, kSecond));
  for (auto& fake : node_->fakes) EXPECT_TRUE(fake->snapshots.empty()) << "nobody knows its token";
  open.context.budget_ms = 1000;
  EXPECT_FALSE(CallFor<api::Kv_openSnapshot_result>("openSnapshot", open)->success.snapshot.empty());
}

TEST_P(KvServiceTest, SnapshotsAreReadByEveryCallThatTakesOne) {
  for (int i = 0; i < 50; ++i) Put("key" + std::to_string(i), "old");
  api::Kv_openSnapshot_args open;
  open.request.ttl_ms = 60'000;
  api::SnapshotReply snapshot = CallFor<api::Kv_openSnapshot_result>("openSnapshot", open)->success;
  EXPECT_FALSE(snapshot.snapshot.empty());
  for (int i = 0; i < 100; ++i) EXPECT_GT(Put("key" + std::to_string(i), "newer").version, snapshot.version);

  api::Kv_get_args get;
  get.request.key = "key1";
  EXPECT_EQ(CallFor<api::Kv_get_result>("get", get)->success.record.value, "newer");
  get.request.snapshot = snapshot.snapshot;
  EXPECT_EQ(CallFor<api::Kv_get_result>("get", get)->success.record.value, "old");
  get.request.key = "key70";
  EXPECT_FALSE(CallFor<api::Kv_get_result>("get", get)->success.record.found);
  EXPECT_EQ(Get("key1")->success.record.value, "newer") << "the fast path keeps no field of the previous request";

  api::Kv_scan_args scan;
  scan.request.snapshot = snapshot.snapshot;
  scan.request.limit_rows = 20;
  size_t rows = 0;
  do {
    auto page = CallFor<api::Kv_scan_result>("scan", scan);
    ASSERT_TRUE(page->__isset.success) << page->error.message;
    for (const api::Row& row : page->success.rows) EXPECT_EQ(row.value, "old");
    rows += page->success.rows.size();
    if (!page->success.cursor.empty()) {
      api::Kv_scan_args newest;
      newest.request = scan.request;
      newest.request.cursor = page->success.cursor;
      newest.request.snapshot.clear();
      EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", newest)->error.code, api::g_pando_constants.BAD_CURSOR);
    }
    scan.request.cursor = page->success.cursor;
  } while (!scan.request.cursor.empty());
  EXPECT_EQ(rows, 50u);

  api::Kv_count_args count;
  count.request.snapshot = snapshot.snapshot;
  EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->success.count, 50);
  api::Kv_aggregate_args sums;
  sums.request.snapshot = snapshot.snapshot;
  EXPECT_EQ(CallFor<api::Kv_aggregate_result>("aggregate", sums)->success.count, 50);
  api::Kv_splitRange_args split;
  split.request.snapshot = snapshot.snapshot;
  split.request.parts = 5;
  auto parts = CallFor<api::Kv_splitRange_result>("splitRange", split);
  ASSERT_TRUE(parts->__isset.success) << parts->error.message;
  EXPECT_EQ(parts->success.parts.size(), 5u);
  int64_t in_parts = 0;
  for (const api::RangePart& part : parts->success.parts) in_parts += part.count;
  EXPECT_EQ(in_parts, 50);

  api::Kv_releaseSnapshot_args release;
  release.request.snapshot = snapshot.snapshot;
  EXPECT_TRUE(CallFor<api::Kv_releaseSnapshot_result>("releaseSnapshot", release)->success.existed);
  EXPECT_FALSE(CallFor<api::Kv_releaseSnapshot_result>("releaseSnapshot", release)->success.existed);
  const int32_t gone = api::g_pando_constants.SNAPSHOT_GONE;
  scan.request.cursor.clear();
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", scan)->error.code, gone);
  EXPECT_EQ(CallFor<api::Kv_get_result>("get", get)->error.code, gone);
  EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->error.code, gone);
  EXPECT_EQ(CallFor<api::Kv_splitRange_result>("splitRange", split)->error.code, gone);
  api::Kv_renewSnapshot_args renew;
  renew.request.snapshot = snapshot.snapshot;
  EXPECT_EQ(CallFor<api::Kv_renewSnapshot_result>("renewSnapshot", renew)->error.code, gone);
}

TEST_P(KvServiceTest, BadSnapshotRequests) {
  const int32_t bad = api::g_pando_constants.BAD_REQUEST;
  api::Kv_openSnapshot_args open;
  open.request.ttl_ms = -1;
  EXPECT_THAT(CallFor<api::Kv_openSnapshot_result>("openSnapshot", open)->error.message, HasSubstr("ttl_ms is -1"));
  api::Kv_get_args get;
  get.request.key = "k";
  get.request.snapshot = "token";
  EXPECT_EQ(CallFor<api::Kv_get_result>("get", get)->error.code, bad);
  EXPECT_EQ(CallFor<api::Kv_renewSnapshot_result>("renewSnapshot", api::Kv_renewSnapshot_args())->error.code, bad);
  EXPECT_EQ(CallFor<api::Kv_releaseSnapshot_result>("releaseSnapshot", api::Kv_releaseSnapshot_args())->error.code,
            bad);
  api::Kv_splitRange_args split;
  for (int32_t parts : {-1, 0, 1, 257}) {
    split.request.parts = parts;
    EXPECT_THAT(CallFor<api::Kv_splitRange_result>("splitRange", split)->error.message, HasSubstr("from 2 to 256"));
  }
}

// A client asks for large values and does not read them. Neither the fast nor the slow path may
// collect more than the connection's limit.
struct SlowReader {
  FakeNode* node;
  bool leave;
  Task<void> operator()(Reactor& reactor) {
    RawPeer peer(reactor);
    Status connected = co_await peer.Connect("10.0.0.1", node->port);
    EXPECT_TRUE(connected.ok());
    peer.Pause();
    std::string all;
    for (int i = 0; i < 500; ++i) all += GetCall(i, (i % 3 == 0 ? "cold" : "warm") + std::to_string(i % 10));
    peer.Send(std::move(all));
    co_await Sleep(reactor, 2 * kSecond);
    // 4 MiB of replies, plus values of running gets, which count twice: as read and as encoded.
    EXPECT_LT(node->shared.memory.used_bytes(), 10 << 20);
    EXPECT_GT(node->services[0]->get_path().metrics().parked_total.value(), 0u);
    if (!leave) {
      peer.Resume();
      co_await peer.UntilFrames(500);
      EXPECT_EQ(peer.frames.size(), 500u);
      for (size_t i = 0; i < peer.frames.size(); ++i) {
        auto reply = DecodeReply<api::Kv_get_result>(peer.frames[i]);
        EXPECT_EQ(reply.header.seqid, static_cast<int32_t>(i));
        EXPECT_EQ(reply.result.success.record.value.size(), 300'000u) << reply.result.error.message;
      }
    }
    co_await peer.Close();
  }
};

TEST_P(KvServiceTest, LargeValuesWaitForASlowReader) {
  for (int i = 0; i < 10; ++i) {
    for (std::string key : {"cold" + std::to_string(i), "warm" + std::to_string(i)}) {
      node_->PartitionOf(key).records[key] = {true, 5, 0, std::string(300'000, 'x')};
      if (key[0] == 'c') node_->PartitionOf(key).cold.insert(key);
    }
  }
  SlowReader stays{node_.get(), false}, leaves{node_.get(), true};
  Await(stays(*client_reactor_));
  Await(leaves(*client_reactor_));
}

// The values that refused operations found take at most kMaxBatchBytes in a reply, however many
// partitions they come from.
TEST_P(KvServiceTest, WhatABatchFoundFitsIntoOneReply) {
  api::Kv_writeBatch_args args;
  for (int i = 0; i < 40; ++i) {
    api::WriteOp op;
    op.kind = 1;
    op.key = "found" + std::to_string(i);
    op.__isset.condition = true;
    op.condition.__set_exists(false);
    node_->PartitionOf(op.key).records[op.key] = {true, 5, 0, std::string(kMaxValueBytes / 4, 'x')};
    args.request.ops.push_back(op);
  }
  auto results = CallFor<api::Kv_writeBatch_result>("writeBatch", args)->success.results;
  size_t bytes = 0, omitted = 0;
  for (const api::WriteResult& result : results) {
    EXPECT_TRUE(result.__isset.current && result.current.found);
    EXPECT_EQ(result.current.version, 5);
    EXPECT_EQ(result.current.value.empty(), result.current_value_omitted);
    bytes += result.current.value.size();
    omitted += result.current_value_omitted;
  }
  EXPECT_EQ(bytes, kMaxBatchBytes);
  EXPECT_EQ(omitted, 40 - kMaxBatchBytes / (kMaxValueBytes / 4));
}

// When the request memory is almost used up, values are omitted or refused one by one.
TEST_P(KvServiceTest, ValuesAreReservedBeforeTheyAreCopied) {
  MemoryBudget& memory = node_->shared.memory;
  for (int i = 0; i < 16; ++i) {
    std::string key = "v" + std::to_string(i);
    node_->PartitionOf(key).records[key] = {true, 5, 0, std::string(kMaxValueBytes / 4, 'x')};
    node_->PartitionOf(key).cold.insert(key);
  }
  const int64_t hogged = memory.limit_bytes() - memory.used_bytes() - (1 << 20);
  memory.Force(hogged);
  api::Kv_multiGet_args many;
  for (int i = 0; i < 16; ++i) many.request.keys.push_back("v" + std::to_string(i));
  auto items = CallFor<api::Kv_multiGet_result>("multiGet", many)->success.items;
  ASSERT_EQ(items.size(), 16u);
  int found = 0;
  for (auto& item : items) {
    found += item.record.found;
    EXPECT_EQ(item.error.retryable, item.__isset.error);
    EXPECT_EQ(item.record.found, !item.__isset.error);
  }
  EXPECT_GT(found, 0);
  EXPECT_LT(found, 4) << "1 MiB is left, and each value counts twice";
  const int64_t more = memory.limit_bytes() - memory.used_bytes() - (300 << 10);
  memory.Force(more);
  auto get = Get("v0");
  EXPECT_EQ(get->error.code, api::g_pando_constants.OVERLOADED);
  EXPECT_TRUE(get->error.retryable);
  api::Kv_put_args put;
  put.request.key = "v0";
  put.request.__isset.condition = true;
  put.request.condition.__set_exists(false);
  auto refused = CallFor<api::Kv_put_result>("put", put)->success;
  EXPECT_TRUE(refused.current.found && refused.current_value_omitted);
  EXPECT_TRUE(refused.current.value.empty());
  memory.Release(hogged + more);
}

// The timer of earlier writes, which may be done, must not delay later deadlines.
TEST_P(KvServiceTest, ADeadlineIsKeptWhateverTheEarlierOnesWere) {
  for (const char* key : {"a", "b", "c", "d", "e", "f"}) {  // on both reactors
    api::Kv_put_args put;
    put.request.key = key;
    put.context.budget_ms = 60'000;
    EXPECT_TRUE(CallFor<api::Kv_put_result>("put", put)->success.applied);
    node_->PartitionOf(key).holding_writes = true;
    const Nanos began = kernel_.now_ns();
    put.context.budget_ms = 100;
    auto late = CallFor<api::Kv_put_result>("put", put);
    EXPECT_EQ(late->error.code, api::g_pando_constants.DEADLINE);
    EXPECT_EQ(late->error.applied, api::g_pando_constants.APPLIED_NO);
    EXPECT_LT(kernel_.now_ns() - began, kSecond);
    node_->PartitionOf(key).holding_writes = false;
    Pass(100 * kMillisecond);
  }
}

TEST_P(KvServiceTest, AWriteThatStillWaitsIsWithdrawnAtItsDeadline) {
  api::Kv_put_args put;
  put.request.key = "k";
  put.request.value = "late";
  put.context.budget_ms = 100;
  FakePartition& partition = node_->PartitionOf("k");
  partition.holding_writes = true;
  auto waiting = CallFor<api::Kv_put_result>("put", put);
  EXPECT_EQ(waiting->error.code, api::g_pando_constants.DEADLINE);
  EXPECT_EQ(waiting->error.applied, api::g_pando_constants.APPLIED_NO);
  EXPECT_TRUE(waiting->error.retryable);
  partition.holding_writes = false;
  Pass(100 * kMillisecond);
  EXPECT_FALSE(Get("k")->success.record.found) << "the write was applied although its client was told that it was not";

  partition.holding_answers = true;
  auto appended = CallFor<api::Kv_put_result>("put", put);
  EXPECT_EQ(appended->error.code, api::g_pando_constants.DEADLINE);
  EXPECT_EQ(appended->error.applied, api::g_pando_constants.APPLIED_UNKNOWN);
  EXPECT_FALSE(appended->error.retryable);
  partition.holding_answers = false;
  Pass(100 * kMillisecond);
  EXPECT_EQ(Get("k")->success.record.value, "late");

  // A batch counts as withdrawn only if all of its parts are.
  api::Kv_writeBatch_args batch;
  batch.context.budget_ms = 100;
  for (int i = 0; i < 20; ++i) {
    api::WriteOp op;
    op.kind = 1;
    op.key = "b" + std::to_string(i);
    batch.request.ops.push_back(op);
  }
  for (auto& fake : node_->fakes) fake->holding_writes = true;
  auto whole = CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
  EXPECT_EQ(whole->error.applied, api::g_pando_constants.APPLIED_NO);
  node_->fakes[node_->store.PartitionOf("b0")]->holding_writes = false;
  auto part = CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
  EXPECT_EQ(part->error.applied, api::g_pando_constants.APPLIED_UNKNOWN);
  for (auto& fake : node_->fakes) fake->holding_writes = false;
  Pass(100 * kMillisecond);
}

TEST_P(KvServiceTest, WithoutMemoryOperatorsAreServed) {
  Put("k", "v");
  api::Kv_openSnapshot_args open;
  auto snapshot = CallFor<api::Kv_openSnapshot_result>("openSnapshot", open)->success;
  const int64_t hogged = node_->shared.memory.limit_bytes();
  node_->shared.memory.Force(hogged);
  EXPECT_EQ(Get("k")->error.code, api::g_pando_constants.OVERLOADED);
  EXPECT_TRUE(CallFor<api::Kv_hello_result>("hello", api::Kv_hello_args())->__isset.success);
  EXPECT_TRUE(CallFor<api::Admin_status_result>("status", api::Admin_status_args())->__isset.success);
  api::Kv_renewSnapshot_args renew;
  renew.request.snapshot = snapshot.snapshot;
  renew.request.ttl_ms = 60'000;
  EXPECT_TRUE(CallFor<api::Kv_renewSnapshot_result>("renewSnapshot", renew)->__isset.success);
  api::Kv_releaseSnapshot_args release;
  release.request.snapshot = snapshot.snapshot;
  EXPECT_TRUE(CallFor<api::Kv_releaseSnapshot_result>("releaseSnapshot", release)->success.existed);
  node_->shared.memory.Release(hogged);
  EXPECT_EQ(Get("k")->success.record.value, "v");
}

TEST(WriteReply, EqualsTheGeneratedCode) {
  for (const char* method : {"put", "remove", "touch"}) {
    for (const bool existed : {false, true}) {
      const std::string session = existed ? std::string("\0token\xff", 7) : "";
      for (const int64_t version : {int64_t{1}, int64_t{0x0102030405060708}}) {
        api::Kv_put_result result;
        result.__isset.success = true;
        result.success.applied = true;
        result.success.version = version;
        result.success.existed = existed;
        result.success.context.session = session;
        result.success.context.hlc = session.empty() ? 0 : version;
        result.success.context.__isset.session = result.success.__isset.context = !session.empty();
        ThriftCodec codec;
        std::string generated = "before", by_hand = "before";
        codec.Write(MessageHeader{WireProtocol::kBinary, apache::thrift::protocol::T_REPLY, -7, method}, result,
                    &generated);
        AppendWriteReply(method, -7, static_cast<Version>(version), existed, &by_hand, session);
        EXPECT_TRUE(generated == by_hand) << method << version;
      }
    }
  }
}

TEST(GetReply, EqualsTheGeneratedCode) {
  struct Case {
    int32_t seqid;
    bool found;
    std::string value;
    Version version;
    int64_t expires;
  };
  for (const Case& c :
       {Case{0, false, "", 0, 0}, Case{1, true, "v", 1, 0}, Case{-5, true, std::string(1 << 20, 'x'), 77, 9},
        Case{INT32_MAX, true, std::string("\0\xff", 2), UINT64_MAX >> 1, INT64_MAX}}) {
    api::Kv_get_result result;
    result.__isset.success = true;
    result.success.record.found = c.found;
    result.success.record.value = c.value;
    result.success.record.version = static_cast<int64_t>(c.version);
    result.success.record.expires_at_ms = c.expires;
    const std::string session(static_cast<size_t>(std::abs(c.seqid) % 70), 's');
    result.success.context.session = session;
    const auto hlc = static_cast<int64_t>(session.size() * 0x0102030405060708 / 2);
    result.success.context.hlc = hlc;
    result.success.context.__isset.session = result.success.__isset.context = !session.empty();
    ThriftCodec codec;
    std::string generated = "before", by_hand = "before";
    codec.Write(MessageHeader{WireProtocol::kBinary, apache::thrift::protocol::T_REPLY, c.seqid, "get"}, result,
                &generated);
    AppendGetReply(c.seqid, c.found, c.value, c.version, c.expires, &by_hand, session, static_cast<Version>(hlc));
    EXPECT_TRUE(generated == by_hand) << c.value.size();
  }
}

}  // namespace
}  // namespace pando
