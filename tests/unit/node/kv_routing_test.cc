// Tests the calls with which a router asks for some partitions, over the wire protocol, with fake partitions on two
// simulated reactors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "src/node/local_partition.h"
#include "tests/support/fake_node.h"

namespace pando {
namespace {

using testing::HasSubstr;

constexpr Uuid kCluster{11, 12};
const auto& kConst = api::g_pando_constants;

// A gate that another node's mastership can be set at.
struct PlainGate final : ReadGate {
  Result<Mastership> Begin(uint32_t id) const override {
    if (!elsewhere.contains(id)) return Mastership{epoch, 1};
    return Error(Code::kNotMaster, "partition {}: another node is master", id).WithMaster("10.0.0.9:7420", 8);
  }
  Status Check(uint32_t id, const Mastership& mastership) const override {
    if (change_after > 0 && --change_after == 0) ++epoch;
    if (mastership.epoch == epoch && !elsewhere.contains(id)) return Status();
    return Error(Code::kNotMaster, "partition {}: it has changed", id);
  }
  bool Holds(uint32_t, Nanos) const override { return true; }
  std::optional<SessionPoint> Shown(uint32_t) const override { return SessionPoint{epoch, 70}; }

  std::set<uint32_t> elsewhere;
  mutable Epoch epoch = 5;
  mutable int change_after = 0;  // calls of Check
};

class KvRoutingTest : public FakeNodeTest {
 protected:
  void JoinCluster() {
    for (uint32_t id = 0; id < kPartitions; ++id) {
      KvBackend& here = node_->backends[id % 2];
      KvBackend& there = node_->backends[1 - id % 2];
      here.cluster_id = kCluster;
      here.read_gate = &gate_;
      places_.push_back(std::make_unique<LocalPartition>(id, &here.stored[id], &newest_, &gate_));
      replicas_.push_back(std::make_unique<LocalPartition>(id, &here.stored[id], &newest_));
      here.partitions[id] = places_.back().get();
      Proxy(&there, &there.partitions[id], places_.back().get());
      here.replicas.resize(kPartitions);
      there.replicas.resize(kPartitions);
      here.replicas[id] = replicas_.back().get();
      Proxy(&there, &there.replicas[id], replicas_.back().get());
    }
  }
  void Proxy(KvBackend* of, Partition** place, Partition* target) {
    Reactor& reactor = of == &node_->backends[0] ? node_->servers[0]->reactor() : node_->servers[1]->reactor();
    proxies_.push_back(std::make_unique<RemotePartition>(reactor, static_cast<int>(target->id() % 2), target));
    *place = proxies_.back().get();
  }
  void PutAll(int count) {
    for (int i = 0; i < count; ++i) {
      const std::string key = fmt::format("k/{:04}", i);
      node_->PartitionOf(key).records[key] = {true, 5, 0, "value"};
      all_.insert(key);
    }
  }
  std::vector<std::string> KeysIn(const std::vector<int32_t>& partitions) const {
    std::vector<std::string> keys;
    for (const std::string& key : all_) {
      const auto id = static_cast<int32_t>(node_->store.PartitionOf(key));
      if (std::find(partitions.begin(), partitions.end(), id) != partitions.end()) keys.push_back(key);
    }
    return keys;
  }
  std::unique_ptr<api::Routing_scanPartitions_result> Scan(const api::ScanPartitionsRequest& request,
                                                           const api::Context& context = {}) {
    api::Routing_scanPartitions_args args;
    args.context = context;
    args.request = request;
    return CallFor<api::Routing_scanPartitions_result>("scanPartitions", args);
  }
  // Covers exactly these, in this epoch.
  void ExpectCovered(const std::vector<api::Covered>& covered, const std::vector<int32_t>& partitions, int64_t epoch) {
    ASSERT_EQ(covered.size(), partitions.size());
    for (size_t i = 0; i < covered.size(); ++i) {
      const PartitionInfo& info = node_->store.partitions[static_cast<size_t>(partitions[i])];
      EXPECT_EQ(covered[i].partition, partitions[i]);
      EXPECT_EQ(static_cast<uint64_t>(covered[i].first_hash), info.first_hash);
      EXPECT_EQ(static_cast<uint64_t>(covered[i].last_hash), info.last_hash);
      EXPECT_EQ(covered[i].epoch, epoch);
    }
  }

  PlainGate gate_;
  const std::atomic<Version> newest_{0};
  std::vector<std::unique_ptr<LocalPartition>> places_, replicas_;
  std::vector<std::unique_ptr<RemotePartition>> proxies_;
  std::set<std::string> all_;
};
INSTANTIATE_TEST_SUITE_P(Wire, KvRoutingTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

TEST_P(KvRoutingTest, ScansTheNamedPartitionsInOrder) {
  PutAll(400);
  for (bool reverse : {false, true}) {
    api::ScanPartitionsRequest request;
    request.partitions = {6, 1, 4};
    request.scan.reverse = reverse;
    request.scan.limit_rows = 30;
    request.scan.prefix = "k/";
    std::vector<std::string> found;
    for (bool exhausted = false; !exhausted;) {
      auto reply = Scan(request);
      ASSERT_TRUE(reply->__isset.success) << reply->error.message;
      for (const api::Row& row : reply->success.rows) found.push_back(row.key);
      EXPECT_LE(reply->success.rows.size(), 30u);
      ExpectCovered(reply->success.covered, {6, 1, 4}, KnownMap::kAloneEpoch);
      exhausted = reply->success.exhausted;
      if (!exhausted) request.__set_after_key(found.back());
    }
    std::vector<std::string> expected = KeysIn(request.partitions);
    if (reverse) std::reverse(expected.begin(), expected.end());
    EXPECT_EQ(found, expected);
  }
}

// A named partition may have hashes that are not of the slice.
TEST_P(KvRoutingTest, ScansASliceOfTheNamedPartitions) {
  PutAll(400);
  api::ScanPartitionsRequest request;
  request.partitions = {2, 3};  // of eight; the slice is the second third
  request.scan.slices = 3;
  request.scan.slice = 1;
  std::vector<std::string> expected;
  for (const std::string& key : KeysIn({2, 3})) {
    if (HashSlice::Of(3, 1).Has(HashId(key))) expected.push_back(key);
  }
  auto reply = Scan(request);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_TRUE(reply->success.exhausted);
  EXPECT_EQ(reply->success.examined_to, "");
  std::vector<std::string> keys;
  for (const api::Row& row : reply->success.rows) keys.push_back(row.key);
  EXPECT_EQ(keys, expected);
}

TEST_P(KvRoutingTest, AfterKeyNeverWidensARange) {
  PutAll(100);
  api::ScanPartitionsRequest request;
  for (int32_t p = 0; p < static_cast<int32_t>(kPartitions); ++p) request.partitions.push_back(p);
  request.scan.start_key = "k/0050";
  request.scan.end_key = "k/0060";
  request.__set_after_key("a");
  EXPECT_EQ(Scan(request)->success.rows.size(), 10u);
  request.__set_after_key("k/0057");
  EXPECT_EQ(Scan(request)->success.rows.size(), 2u);
  request.__set_after_key("k/0070");
  EXPECT_EQ(Scan(request)->success.rows.size(), 0u);
  request.scan.reverse = true;
  EXPECT_EQ(Scan(request)->success.rows.size(), 10u);
  request.__set_after_key("k/0052");
  EXPECT_EQ(Scan(request)->success.rows.size(), 2u);
  request.__set_after_key("a");
  auto reply = Scan(request);
  EXPECT_EQ(reply->success.rows.size(), 0u);
  EXPECT_TRUE(reply->success.exhausted);
}

TEST_P(KvRoutingTest, RefusesWhatItCannotName) {
  api::ScanPartitionsRequest request;
  for (std::vector<int32_t> partitions : {std::vector<int32_t>{}, {1, 2, 1}, {8}, {-1}}) {
    request.partitions = partitions;
    EXPECT_EQ(Scan(request)->error.code, kConst.BAD_REQUEST);
  }
  request.partitions.assign(8193, 0);
  EXPECT_THAT(Scan(request)->error.message, HasSubstr("1 to 8192"));
  request.partitions = {1};
  request.scan.cursor = "c";
  EXPECT_THAT(Scan(request)->error.message, HasSubstr("after_key"));
}

TEST_P(KvRoutingTest, AnswersInOneEpochOrNotAtAll) {
  JoinCluster();
  PutAll(100);
  api::ScanPartitionsRequest request;
  request.partitions = {0, 1, 2, 3};
  auto reply = Scan(request);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  ExpectCovered(reply->success.covered, {0, 1, 2, 3}, 5);
  EXPECT_EQ(reply->success.rows.size(), KeysIn(request.partitions).size());
  EXPECT_FALSE(reply->success.context.session.empty());
  // It fails with the error of the partition that is elsewhere, and names its master.
  gate_.elsewhere = {3};
  reply = Scan(request);
  EXPECT_EQ(reply->error.code, kConst.NOT_MASTER);
  EXPECT_EQ(reply->error.master, "10.0.0.9:7420");
  EXPECT_EQ(reply->error.epoch, 8);
  EXPECT_THAT(reply->error.message, HasSubstr("partition 3"));
  request.partitions = {0, 1, 2};
  EXPECT_TRUE(Scan(request)->__isset.success);
  // Any replica may answer that has enough, and then there is no epoch.
  gate_.elsewhere = {0, 1, 2};
  for (int32_t level : {kConst.LEVEL_SESSION, kConst.LEVEL_BOUNDED}) {
    api::Context context;
    context.level = level;
    if (level == kConst.LEVEL_BOUNDED) context.max_staleness_ms = 100;
    reply = Scan(request, context);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    ExpectCovered(reply->success.covered, {0, 1, 2}, 0);
    EXPECT_FALSE(reply->success.context.session.empty());
  }
}

// The lease is looked at before, between and after the reads of four partitions: a change at any time is an error.
TEST_P(KvRoutingTest, NotesThatAMasterHasChangedMeanwhile) {
  JoinCluster();
  PutAll(100);
  api::ScanPartitionsRequest request;
  request.partitions = {0, 1, 2, 3};
  int refused = 0;
  for (int change_after = 1; change_after <= 12; ++change_after) {
    gate_.change_after = change_after;
    const Epoch before = gate_.epoch;
    auto reply = Scan(request);
    gate_.change_after = 0;
    if (reply->__isset.success) {
      ExpectCovered(reply->success.covered, {0, 1, 2, 3}, static_cast<int64_t>(before));
    } else {
      EXPECT_EQ(reply->error.code, kConst.NOT_MASTER);
      ++refused;
    }
  }
  EXPECT_GT(refused, 8);
}

TEST_P(KvRoutingTest, AggregatesAndSamplesTheNamedPartitions) {
  PutAll(800);
  api::Routing_aggregatePartitions_args args;
  args.request.partitions = {0, 5};
  args.request.range.prefix = "k/";
  auto sums = CallFor<api::Routing_aggregatePartitions_result>("aggregatePartitions", args);
  ASSERT_TRUE(sums->__isset.success) << sums->error.message;
  const auto count = static_cast<int64_t>(KeysIn({0, 5}).size());
  EXPECT_EQ(sums->success.count, count);
  EXPECT_EQ(sums->success.bytes, count * 11);
  ExpectCovered(sums->success.covered, {0, 5}, KnownMap::kAloneEpoch);

  api::Routing_samplePartitions_args sample;
  sample.request.partitions = {0, 5};
  sample.request.keys_per_partition = 10;
  auto keys = CallFor<api::Routing_samplePartitions_result>("samplePartitions", sample);
  ASSERT_TRUE(keys->__isset.success) << keys->error.message;
  EXPECT_EQ(keys->success.count, count);
  EXPECT_EQ(keys->success.keys.size(), 20u);
  EXPECT_TRUE(std::is_sorted(keys->success.keys.begin(), keys->success.keys.end(),
                             [](const auto& a, const auto& b) { return a.key < b.key; }));
  int64_t records = 0;
  for (const api::SampledKey& key : keys->success.keys) {
    EXPECT_TRUE(all_.contains(key.key));
    records += key.records;
  }
  EXPECT_GT(records, count * 3 / 4);
  EXPECT_LE(records, count);
  ExpectCovered(keys->success.covered, {0, 5}, KnownMap::kAloneEpoch);
  for (int32_t bad : {0, -1, 4097}) {
    sample.request.keys_per_partition = bad;
    keys = CallFor<api::Routing_samplePartitions_result>("samplePartitions", sample);
    EXPECT_EQ(keys->error.code, kConst.BAD_REQUEST);
  }
}

TEST_P(KvRoutingTest, DeletesFromTheNamedPartitions) {
  JoinCluster();
  PutAll(300);
  api::Routing_deletePartitions_args args;
  args.request.partitions = {2, 7};
  args.request.range.prefix = "k/";
  args.request.range.limit_rows = 16;
  int64_t removed = 0;
  const auto mine = static_cast<int64_t>(KeysIn({2, 7}).size());
  for (bool exhausted = false; !exhausted;) {
    auto reply = CallFor<api::Routing_deletePartitions_result>("deletePartitions", args);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    removed += reply->success.removed;
    exhausted = reply->success.exhausted;
    if (!exhausted) {
      EXPECT_EQ(reply->success.removed, 16);
      args.request.__set_after_key(reply->success.last_key);
    }
    ExpectCovered(reply->success.covered, {2, 7}, 5);
    EXPECT_FALSE(reply->success.context.session.empty()) << "the session has seen it";
  }
  EXPECT_EQ(removed, mine);
  size_t left = 0;
  for (auto& fake : node_->fakes) left += fake->records.size();
  EXPECT_EQ(left, 300 - static_cast<size_t>(mine));
  EXPECT_EQ(node_->fakes[2]->records.size() + node_->fakes[7]->records.size(), 0u);
  gate_.elsewhere = {7};
  auto refused = CallFor<api::Routing_deletePartitions_result>("deletePartitions", args);
  EXPECT_EQ(refused->error.code, kConst.NOT_MASTER);
  EXPECT_EQ(refused->error.applied, kConst.APPLIED_NO);
}

// LV5: the session of a deletion has seen a later master.
TEST_P(KvRoutingTest, DeletesForNoSessionOfALaterMaster) {
  JoinCluster();
  PutAll(300);
  api::Routing_deletePartitions_args args;
  args.request.partitions = {2};
  args.context.session = EncodeSessionToken({kCluster, {{2, {9, 3}}}});
  node_->fakes[2]->seen_epoch = 0;
  auto reply = CallFor<api::Routing_deletePartitions_result>("deletePartitions", args);
  EXPECT_EQ(node_->fakes[2]->seen_epoch, 9u) << "the partition is told, and refuses";
}

TEST_P(KvRoutingTest, WatchesTheNamedPartitions) {
  PutAll(100);
  api::Routing_watchPartitions_args args;
  for (int32_t id : {3, 0}) {
    api::PartitionPosition& position = args.request.positions.emplace_back();
    position.partition = id;
    position.version = -1;
  }
  args.request.prefix = "k/";
  auto now = CallFor<api::Routing_watchPartitions_result>("watchPartitions", args);
  ASSERT_TRUE(now->__isset.success) << now->error.message;
  EXPECT_TRUE(now->success.changes.empty());
  ExpectCovered(now->success.covered, {3, 0}, KnownMap::kAloneEpoch);
  args.request.positions = now->success.positions;
  EXPECT_EQ(args.request.positions[0].partition, 3);
  EXPECT_GT(args.request.positions[0].version, 0);
  std::vector<std::string> expected;
  for (const std::string& key : all_) {
    WriteOp op;
    op.key = key;
    op.value = "new";
    node_->PartitionOf(key).WriteNow(op);
  }
  expected = KeysIn({0, 3});
  auto changed = CallFor<api::Routing_watchPartitions_result>("watchPartitions", args);
  ASSERT_TRUE(changed->__isset.success) << changed->error.message;
  std::vector<std::string> told;
  for (const api::Change& change : changed->success.changes) told.push_back(change.key);
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told, expected);
  args.request.positions = changed->success.positions;
  args.request.wait_ms = 200;
  const Nanos begin = kernel_.now_ns();
  EXPECT_TRUE(CallFor<api::Routing_watchPartitions_result>("watchPartitions", args)->success.changes.empty());
  EXPECT_GE(kernel_.now_ns() - begin, 200 * kMillisecond);
  args.request.positions[1].partition = 3;
  EXPECT_EQ(CallFor<api::Routing_watchPartitions_result>("watchPartitions", args)->error.code, kConst.BAD_REQUEST);
}

}  // namespace
}  // namespace pando
