// Tests levels and sessions over the wire protocol, with fake partitions on two simulated reactors and a gate that
// says what the test wants.
#include <gtest/gtest.h>

#include "src/node/local_partition.h"
#include "tests/support/fake_node.h"

namespace pando {
namespace {

constexpr Uuid kCluster{11, 12};

struct LevelGate final : ReadGate {
  Result<Mastership> Begin(uint32_t) const override {
    if (holds) return Mastership{1, 1};
    return Error(Code::kNotMaster, "another node is master").WithMaster("10.0.0.9:7420", 4);
  }
  Status Check(uint32_t, const Mastership&) const override { return Status(); }
  bool Holds(uint32_t, Nanos) const override { return holds; }
  Task<Status> Await(uint32_t partition, ReplicaRead read) override {
    asked[partition] = read;
    co_return refused.contains(partition) ? refused.at(partition) : Status();
  }
  std::optional<SessionPoint> Shown(uint32_t) const override { return shown; }
  bool IsLost(uint32_t, const SessionPoint& point) const override { return lost && *lost == point; }

  bool holds = true;
  SessionPoint shown{3, 70};
  std::optional<SessionPoint> lost;
  std::map<uint32_t, Status> refused;
  std::map<uint32_t, ReplicaRead> asked;
};

class KvLevelsTest : public FakeNodeTest {
 protected:
  KvLevelsTest() {
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
  std::unique_ptr<api::Kv_get_result> GetAt(const std::string& key, const api::Context& context) {
    api::Kv_get_args args;
    args.context = context;
    args.request.key = key;
    return CallFor<api::Kv_get_result>("get", args);
  }
  static api::Context At(int32_t level, const std::string& session = "", int32_t staleness_ms = 0) {
    api::Context context;
    context.level = level;
    context.session = session;
    context.max_staleness_ms = staleness_ms;
    return context;
  }
  // A key of a partition of that reactor.
  std::string KeyOn(uint32_t reactor) const {
    for (int i = 0;; ++i) {
      std::string key = "k" + std::to_string(i);
      if (node_->store.PartitionOf(key) % 2 == reactor) return key;
    }
  }
  static std::string TokenOf(std::map<uint32_t, SessionPoint> points) {
    return EncodeSessionToken({kCluster, std::move(points)});
  }
  static std::map<uint32_t, SessionPoint> PointsOf(const std::string& token) {
    Result<SessionToken> decoded = DecodeSessionToken(kCluster, token);
    EXPECT_TRUE(decoded.ok()) << decoded.status().ToString();
    return decoded.ok() ? decoded->points : std::map<uint32_t, SessionPoint>();
  }

  LevelGate gate_;
  std::atomic<Version> newest_{0};
  std::vector<std::unique_ptr<LocalPartition>> places_, replicas_;
  std::vector<std::unique_ptr<RemotePartition>> proxies_;
};
INSTANTIATE_TEST_SUITE_P(Wire, KvLevelsTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

const auto& kConst = api::g_pando_constants;

TEST_P(KvLevelsTest, AReplicaThatHasEnoughAnswersWithoutALease) {
  gate_.holds = false;
  for (uint32_t reactor = 0; reactor < 2; ++reactor) {
    const std::string key = KeyOn(reactor);
    const uint32_t partition = node_->store.PartitionOf(key);
    node_->PartitionOf(key).records[key] = {true, 5, 0, "v"};
    auto refused = GetAt(key, At(kConst.LEVEL_DEFAULT));
    EXPECT_EQ(refused->error.code, kConst.NOT_MASTER);

    auto bounded = GetAt(key, At(kConst.LEVEL_BOUNDED, "", 250));
    EXPECT_EQ(bounded->success.record.value, "v") << bounded->error.message;
    EXPECT_EQ(gate_.asked.at(partition).max_staleness_ns, 250 * kMillisecond);
    EXPECT_FALSE(gate_.asked.at(partition).after);
    EXPECT_EQ(PointsOf(bounded->success.context.session).at(partition), (SessionPoint{3, 70}));

    auto session = GetAt(key, At(kConst.LEVEL_SESSION, TokenOf({{partition, {2, 9}}})));
    EXPECT_EQ(session->success.record.value, "v") << session->error.message;
    EXPECT_EQ(gate_.asked.at(partition).after, (SessionPoint{2, 9}));
    EXPECT_FALSE(gate_.asked.at(partition).max_staleness_ns);
    EXPECT_EQ(PointsOf(session->success.context.session).at(partition), (SessionPoint{3, 70}));
  }
}

TEST_P(KvLevelsTest, ARefusalNamesTheMasterAndIsDefinite) {
  const std::string key = KeyOn(1);
  const uint32_t partition = node_->store.PartitionOf(key);
  gate_.refused[partition] = Error(Code::kTooStale, "too old").WithMaster("10.0.0.9:7420", 4);
  auto stale = GetAt(key, At(kConst.LEVEL_BOUNDED, "", 1));
  EXPECT_EQ(stale->error.code, kConst.TOO_STALE);
  EXPECT_EQ(stale->error.master, "10.0.0.9:7420");
  EXPECT_EQ(stale->error.applied, kConst.APPLIED_NO);
  EXPECT_TRUE(stale->error.retryable);
  gate_.refused[partition] = Error(Code::kSessionLost, "gone");
  auto lost = GetAt(key, At(kConst.LEVEL_SESSION));
  EXPECT_EQ(lost->error.code, kConst.SESSION_LOST);
  EXPECT_FALSE(lost->error.retryable);

  api::Kv_multiGet_args args;
  args.context = At(kConst.LEVEL_SESSION);
  args.request.keys = {KeyOn(0), key};
  node_->PartitionOf(args.request.keys[0]).records[args.request.keys[0]] = {true, 5, 0, "v"};
  gate_.holds = false;
  auto multi = CallFor<api::Kv_multiGet_result>("multiGet", args);
  ASSERT_EQ(multi->success.items.size(), 2u) << multi->error.message;
  EXPECT_EQ(multi->success.items[0].record.value, "v");
  EXPECT_EQ(multi->success.items[1].error.code, kConst.SESSION_LOST);
}

// A node that has not learned of a split must not answer a session that has seen a half: its replica of the whole lacks
// what the half has taken since (docs/SPLIT.md).
TEST_P(KvLevelsTest, AWholeDoesNotAnswerASessionThatHasSeenItsHalf) {
  const std::string key = KeyOn(1), other = KeyOn(0);
  for (const std::string& k : {key, other}) node_->PartitionOf(k).records[k] = {true, 5, 0, "v"};
  const uint32_t half = HalvesOf(node_->store.PartitionOf(key), kPartitions)->at(1);
  const uint32_t part_of_half = HalvesOf(half, kPartitions)->at(0);
  for (const uint32_t seen : {half, part_of_half}) {
    const std::string token = TokenOf({{seen, {1, 1}}});
    auto refused = GetAt(key, At(kConst.LEVEL_SESSION, token));
    EXPECT_EQ(refused->error.code, kConst.NOT_MASTER) << refused->error.message;
    EXPECT_TRUE(refused->error.retryable);
    EXPECT_EQ(GetAt(other, At(kConst.LEVEL_SESSION, token))->error.code, 0);
    EXPECT_EQ(GetAt(key, At(kConst.LEVEL_BOUNDED, token, 250))->error.code, 0);
  }
}

TEST_P(KvLevelsTest, ForeignTokensAreRefused) {
  const std::string foreign = EncodeSessionToken({Uuid{1, 2}, {{0, {1, 1}}}});
  for (const std::string& token : {std::string("garbage"), foreign}) {
    EXPECT_EQ(GetAt("a", At(kConst.LEVEL_SESSION, token))->error.code, kConst.TOKEN_MISMATCH);
    EXPECT_EQ(GetAt("a", At(kConst.LEVEL_DEFAULT, token))->error.code, kConst.TOKEN_MISMATCH);
    api::Kv_put_args put;
    put.context.session = token;
    put.request.key = "a";
    auto written = CallFor<api::Kv_put_result>("put", put);
    EXPECT_EQ(written->error.code, kConst.TOKEN_MISMATCH);
    EXPECT_EQ(written->error.applied, kConst.APPLIED_NO);
    api::Kv_count_args count;
    count.context.session = token;
    EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->error.code, kConst.TOKEN_MISMATCH);
  }
}

// The token of a reply covers that of the request.
TEST_P(KvLevelsTest, TokensOfRepliesCoverWhatTheSessionHasSeen) {
  node_->PartitionOf("a").write_end = SessionPoint{4, 71};
  const uint32_t partition = node_->store.PartitionOf("a");
  const uint32_t other = (partition + 3) % kPartitions;
  for (int i = 0; i < 4; ++i) {  // with and without a coroutine
    api::Kv_put_args put;
    put.context.session = i < 2 ? "" : TokenOf({{other, {1, 5}}, {partition, {3, 90}}});
    put.request.key = "a";
    auto written = CallFor<api::Kv_put_result>("put", put);
    ASSERT_TRUE(written->__isset.success) << written->error.message;
    const auto points = PointsOf(written->success.context.session);
    EXPECT_EQ(points.at(partition), (SessionPoint{4, 71}));
    EXPECT_EQ(points.contains(other), i >= 2);
  }
  // What was lost stays in the token, so that the next read at SESSION says so.
  gate_.lost = SessionPoint{3, 90};
  api::Kv_writeBatch_args batch;
  batch.request.ops.resize(1);
  batch.request.ops[0].kind = kConst.OP_PUT;
  batch.request.ops[0].key = "a";
  batch.context.session = TokenOf({{partition, {3, 90}}});
  auto written = CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
  EXPECT_EQ(PointsOf(written->success.context.session).at(partition), (SessionPoint{3, 90}));
  for (int i = 0; i < 2; ++i) {
    api::Kv_put_args put;
    put.context.session = batch.context.session;
    put.request.key = "a";
    auto one = CallFor<api::Kv_put_result>("put", put);
    EXPECT_EQ(PointsOf(one->success.context.session).at(partition), (SessionPoint{3, 90}));
  }
  gate_.shown = SessionPoint{4, 71};
  written = CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
  EXPECT_EQ(PointsOf(written->success.context.session).at(partition), (SessionPoint{3, 90}));
  gate_.lost.reset();
  written = CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
  EXPECT_EQ(PointsOf(written->success.context.session).at(partition), (SessionPoint{4, 71}));
}

// CM5: the partition is told which versions the writer has seen, on every way that a write takes, and replies say which
// they tell of.
TEST_P(KvLevelsTest, RequestsAndRepliesCarryVersions) {
  newest_ = 4711;
  for (uint32_t reactor = 0; reactor < 2; ++reactor) {
    FakePartition& partition = node_->PartitionOf(KeyOn(reactor));
    partition.write_end = SessionPoint{3, 71};
    for (int i = 0; i < 4; ++i) {  // with and without a coroutine
      api::Kv_put_args put;
      put.context.hlc = 1000 + i;
      put.request.key = KeyOn(reactor);
      put.request.return_previous = i < 2;
      auto written = CallFor<api::Kv_put_result>("put", put);
      ASSERT_TRUE(written->__isset.success) << written->error.message;
      EXPECT_EQ(partition.seen_version, Version{1000} + static_cast<Version>(i));
      EXPECT_EQ(written->success.context.hlc, written->success.version);
    }
    api::Kv_writeBatch_args batch;
    batch.context.hlc = 2000;
    batch.request.ops.resize(1);
    batch.request.ops[0].kind = kConst.OP_PUT;
    batch.request.ops[0].key = KeyOn(reactor);
    auto written = CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
    EXPECT_EQ(partition.seen_version, 2000u);
    EXPECT_EQ(written->success.context.hlc, 4711);
    api::Kv_deleteRange_args remove;
    remove.context.hlc = 3000;
    remove.request.prefix = KeyOn(reactor);
    EXPECT_EQ(CallFor<api::Kv_deleteRange_result>("deleteRange", remove)->success.removed, 1);
    EXPECT_EQ(partition.seen_version, 3000u);
    api::Context context;
    context.hlc = 9;
    EXPECT_EQ(GetAt(KeyOn(reactor), context)->success.context.hlc, 4711);
    context.level = kConst.LEVEL_SESSION;
    EXPECT_EQ(GetAt(KeyOn(reactor), context)->success.context.hlc, 4711);
    context.hlc = -1;
    EXPECT_EQ(GetAt(KeyOn(reactor), context)->error.code, kConst.BAD_REQUEST);
  }
}

// The service of ClusterSnapshots: what it asks of partitions, and what it says of each.
TEST_P(KvLevelsTest, SnapshotsOfTheClusterAreTakenPartitionByPartition) {
  const std::string key = KeyOn(0), other = KeyOn(1);
  const auto id = static_cast<int32_t>(node_->store.PartitionOf(key));
  const auto other_id = static_cast<int32_t>(node_->store.PartitionOf(other));
  FakePartition& partition = node_->PartitionOf(key);
  partition.records[key] = {true, 5, 0, "old"};
  partition.write_end = SessionPoint{3, 70};
  api::ClusterSnapshots_clock_args clock;
  clock.request.partitions = {id, other_id};
  node_->PartitionOf(other).failure = Error(Code::kNotMaster, "another node is").WithMaster("10.0.0.9:7420", 7);
  auto highest = CallFor<api::ClusterSnapshots_clock_result>("clock", clock);
  ASSERT_EQ(highest->success.partitions.size(), 2u) << highest->error.message;
  EXPECT_GT(highest->success.partitions[0].version, 0);
  EXPECT_EQ(highest->success.highest, highest->success.partitions[0].version);
  EXPECT_EQ(highest->success.partitions[1].error.code, kConst.NOT_MASTER);
  EXPECT_EQ(highest->success.partitions[1].error.master, "10.0.0.9:7420");

  api::ClusterSnapshots_prepare_args prepare;
  prepare.request.partitions = {other_id, id};
  prepare.request.version = highest->success.highest + 100;
  prepare.request.id = -7;
  auto prepared = CallFor<api::ClusterSnapshots_prepare_result>("prepare", prepare);
  ASSERT_EQ(prepared->success.partitions.size(), 2u) << prepared->error.message;
  EXPECT_FALSE(prepared->success.partitions[0].confirmed);
  EXPECT_EQ(prepared->success.partitions[0].error.code, kConst.NOT_MASTER);
  EXPECT_TRUE(prepared->success.partitions[1].confirmed);
  EXPECT_EQ(prepared->success.partitions[1].partition, id);
  EXPECT_EQ(prepared->success.partitions[1].epoch, 3);
  EXPECT_EQ(prepared->success.partitions[1].lsn, 70);
  partition.records[key].value = "new";
  api::Kv_get_args get;
  get.request.key = key;
  get.request.snapshot = prepared->success.snapshot;
  EXPECT_EQ(CallFor<api::Kv_get_result>("get", get)->success.record.value, "old");

  api::ClusterSnapshots_renew_args renew;
  renew.request.partitions = {id};
  renew.request.snapshot = prepared->success.snapshot;
  EXPECT_TRUE(CallFor<api::ClusterSnapshots_renew_result>("renew", renew)->success.partitions.at(0).confirmed);
  api::ClusterSnapshots_release_args release;
  release.request.partitions = {id};
  release.request.snapshot = prepared->success.snapshot;
  EXPECT_TRUE(CallFor<api::ClusterSnapshots_release_result>("release", release)->success.partitions.at(0).confirmed);
  auto gone = CallFor<api::ClusterSnapshots_renew_result>("renew", renew);
  EXPECT_EQ(gone->success.partitions.at(0).error.code, kConst.SNAPSHOT_GONE);
  EXPECT_EQ(CallFor<api::Kv_get_result>("get", get)->error.code, kConst.SNAPSHOT_GONE);

  // Requests that make no sense.
  auto refused = [&](auto change) {
    api::ClusterSnapshots_prepare_args args;
    args.request = prepare.request;
    change(&args.request);
    return CallFor<api::ClusterSnapshots_prepare_result>("prepare", args)->error.code;
  };
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->id = 0; }), kConst.BAD_REQUEST);
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->version = -1; }), kConst.BAD_REQUEST);
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->ttl_ms = -1; }), kConst.BAD_REQUEST);
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->partitions.clear(); }), kConst.BAD_REQUEST);
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->partitions = {1 << 20}; }), kConst.BAD_REQUEST);
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->partitions = {99}; }), kConst.STALE_MAP);
  EXPECT_EQ(refused([](api::PrepareRequest* r) { r->partitions.assign(1000, 0); }), kConst.BAD_REQUEST);
  renew.request.snapshot = "no token";
  EXPECT_EQ(CallFor<api::ClusterSnapshots_renew_result>("renew", renew)->error.code, kConst.BAD_REQUEST);
}

// LV5: the partition is told what the session has seen, on every way that a write takes.
TEST_P(KvLevelsTest, WritesSayWhatTheirSessionHasSeen) {
  for (uint32_t reactor = 0; reactor < 2; ++reactor) {
    const std::string key = KeyOn(reactor);
    FakePartition& partition = node_->PartitionOf(key);
    const uint32_t other = (partition.id() + 1) % kPartitions;
    api::Kv_put_args put;
    put.request.key = key;
    for (Epoch seen = 4; seen < 8; ++seen) {  // with and without a coroutine
      put.context.session = TokenOf({{partition.id(), {seen, 1}}, {other, {9, 1}}});
      auto written = CallFor<api::Kv_put_result>("put", put);
      ASSERT_TRUE(written->__isset.success) << written->error.message;
      EXPECT_EQ(partition.seen_epoch, seen);
    }
    for (const std::string& session : {std::string(), TokenOf({{other, {9, 1}}})}) {
      put.context.session = session;
      for (int i = 0; i < 2; ++i) {
        partition.seen_epoch = 1;
        CallFor<api::Kv_put_result>("put", put);
        EXPECT_EQ(partition.seen_epoch, 0u);
      }
    }
    api::Kv_writeBatch_args batch;
    batch.request.ops.resize(1);
    batch.request.ops[0].kind = kConst.OP_PUT;
    batch.request.ops[0].key = key;
    batch.context.session = TokenOf({{partition.id(), {5, 1}}, {other, {9, 1}}});
    CallFor<api::Kv_writeBatch_result>("writeBatch", batch);
    EXPECT_EQ(partition.seen_epoch, 5u);
  }
}

// LV5: its lease may be of a lineage that was given up.
TEST_P(KvLevelsTest, AReadThatAsksAMasterRefusesAnOlderOneThanItsSessionHasSeen) {
  const std::string key = KeyOn(1), other = KeyOn(0);
  for (const std::string& k : {key, other}) node_->PartitionOf(k).records[k] = {true, 5, 0, "v"};
  const std::string token = TokenOf({{node_->store.PartitionOf(key), {4, 1}}});
  for (const bool newer : {true, false}) {
    if (!newer) gate_.shown = SessionPoint{4, 71};
    const int32_t wanted = newer ? kConst.NOT_MASTER : 0;
    auto got = GetAt(key, At(kConst.LEVEL_DEFAULT, token));
    EXPECT_EQ(got->error.code, wanted) << got->error.message;
    EXPECT_EQ(GetAt(other, At(kConst.LEVEL_DEFAULT, token))->error.code, 0);
    EXPECT_EQ(GetAt(key, At(kConst.LEVEL_BOUNDED, token, 250))->error.code, 0);
    api::Kv_multiGet_args multi;
    multi.context.session = token;
    multi.request.keys = {other, key, other};
    auto items = CallFor<api::Kv_multiGet_result>("multiGet", multi);
    ASSERT_EQ(items->success.items.size(), 3u) << items->error.message;
    EXPECT_EQ(items->success.items[0].error.code, 0);
    EXPECT_EQ(items->success.items[1].error.code, wanted);
    EXPECT_EQ(items->success.items[2].error.code, 0);
    api::Kv_scan_args scan;
    scan.context.session = token;
    EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", scan)->error.code, wanted);
    api::Kv_count_args count;
    count.context.session = token;
    EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->error.code, wanted);
  }
}

TEST_P(KvLevelsTest, ScansAndCountsAskAllTheirPartitions) {
  gate_.holds = false;
  api::Kv_scan_args scan;
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", scan)->error.code, kConst.NOT_MASTER);
  scan.context = At(kConst.LEVEL_BOUNDED, "", 100);
  auto page = CallFor<api::Kv_scan_result>("scan", scan);
  EXPECT_TRUE(page->__isset.success) << page->error.message;
  EXPECT_EQ(gate_.asked.size(), kPartitions);
  EXPECT_EQ(PointsOf(page->success.context.session).size(), kPartitions);
  api::Kv_count_args count;
  count.context = At(kConst.LEVEL_SESSION, page->success.context.session);
  EXPECT_TRUE(CallFor<api::Kv_count_result>("count", count)->__isset.success);
  EXPECT_EQ(gate_.asked.at(5).after, (SessionPoint{3, 70}));
  gate_.refused[5] = Error(Code::kTooStale, "too old");
  EXPECT_EQ(CallFor<api::Kv_count_result>("count", count)->error.code, kConst.TOO_STALE);
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", scan)->error.code, kConst.TOO_STALE);
}

// A replica that follows, or a master without a lease, cannot know that nothing has changed.
TEST_P(KvLevelsTest, AWatchNeedsTheLeaseToSayThatNothingChanged) {
  api::Kv_watch_args args;
  args.request.prefix = "{w}";
  auto now = CallFor<api::Kv_watch_result>("watch", args);
  ASSERT_TRUE(now->__isset.success) << now->error.message;
  gate_.holds = false;
  auto fresh = CallFor<api::Kv_watch_result>("watch", args);
  EXPECT_EQ(fresh->error.code, kConst.NOT_MASTER) << "a position of a replica that follows";
  EXPECT_EQ(fresh->error.master, "10.0.0.9:7420");
  args.request.position = now->success.position;
  EXPECT_EQ(CallFor<api::Kv_watch_result>("watch", args)->error.code, kConst.NOT_MASTER);
  // The lease ends while it waits.
  gate_.holds = true;
  args.request.wait_ms = 200;
  kernel_.At(kernel_.now_ns() + 100 * kMillisecond, SimKernel::kNoBoot, [this] { gate_.holds = false; });
  EXPECT_EQ(CallFor<api::Kv_watch_result>("watch", args)->error.code, kConst.NOT_MASTER);
}

}  // namespace
}  // namespace pando
