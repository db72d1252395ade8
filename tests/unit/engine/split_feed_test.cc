// The feed that fills the halves of a partition (SF1, SF2), against the records of the whole, with writers, after
// restarts, and with a second feed that takes over.
#include "src/partition/split_feed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/base/hash.h"
#include "src/base/hash_ranges.h"
#include "src/model/key_space.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"
#include "tests/unit/engine/roster_world.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;

constexpr uint32_t kWhole = 0, kLower = 4, kUpper = 5;  // of kRanges
constexpr KeySpace kKeys(kDefaultNamespace);
constexpr int64_t kSnapshotMs = 3'600'000;

struct SplitWorld : World {
  explicit SplitWorld(uint64_t seed) : World(seed) {
    setup_.store.namespaced = true;
    setup_.store.empty = true;
    setup_.engine.log_segment_bytes = 1u << 20;
    setup_.engine.log_budget_bytes = 8u << 20;
  }
  // Stored keys of the whole, of both halves.
  static std::vector<std::string> KeysOfWhole(size_t count) {
    std::vector<std::string> keys;
    const auto [first, last] = HashRangeOf(kWhole, kRanges);
    for (int i = 0; keys.size() < count; ++i) {
      const std::string key = fmt::format("key-{:05}", i);
      if (const uint64_t hash = HashId(key); first <= hash && hash <= last) keys.push_back(kKeys.Stored(key));
    }
    return keys;
  }
  Task<void> CreateAll() {
    store_->roster().AllowHalves();
    store_->engine_of(kWhole).AddPlaces(kUpper + 1);
    for (const uint32_t id : {kWhole, kLower, kUpper}) EXPECT_OK((co_await store_->Create(id)).status());
  }
  SplitFeed::Half Half(uint32_t id) {
    const auto [first, last] = HashRangeOf(id, kRanges);
    return {store_->partition(id), first, last};
  }
  std::unique_ptr<SplitFeed> Feed() {
    const std::array<SplitFeed::Half, 2> halves{Half(kLower), Half(kUpper)};
    return std::make_unique<SplitFeed>(*reactor_, store_->partition(kWhole), halves, 0);
  }
  Task<SnapshotId> Cut() {
    std::vector<Partition*> whole{store_->partition(kWhole)};
    const Result<SnapshotInfo> cut =
        co_await CutSnapshot(*reactor_, std::move(whole), reactor_->WallMs() + kSnapshotMs);
    EXPECT_OK(cut.status());
    if (cut.ok()) cut_version_ = cut->version;
    co_return cut.ok() ? cut->id : 0;
  }
  Version cut_version_ = 0;  // of the latest one
  Task<void> Release(SnapshotId id) { EXPECT_OK(co_await store_->partition(kWhole)->ReleaseSnapshot(id)); }

  // All records but lanes and claims.
  Task<std::map<std::string, ReadResult>> RecordsOf(uint32_t id) {
    std::map<std::string, ReadResult> records;
    ScanSpec spec;
    spec.end = std::string(kLaneKeys.prefix());
    for (bool exhausted = false; !exhausted;) {
      Result<ScanPage> page = co_await store_->partition(id)->Scan(spec);
      EXPECT_OK(page.status());
      if (!page.ok()) break;
      exhausted = page->exhausted;
      for (const ScanRow& row : page->rows) {
        spec.start = row.key;
        spec.start_exclusive = true;
        records[spec.start] = {true, row.version, row.expires_at_ms, std::string(row.value)};
      }
    }
    co_return records;
  }
  // SF2.
  Task<void> ExpectSame() {
    const std::map<std::string, ReadResult> whole = co_await RecordsOf(kWhole);
    std::map<std::string, ReadResult> halves = co_await RecordsOf(kLower);
    const std::map<std::string, ReadResult> upper = co_await RecordsOf(kUpper);
    EXPECT_FALSE(halves.empty() || upper.empty());
    const size_t in_both = halves.size() + upper.size();
    halves.insert(upper.begin(), upper.end());
    EXPECT_EQ(halves.size(), in_both) << "a record is in both halves";
    EXPECT_EQ(halves.size(), whole.size());
    for (const auto& [key, row] : whole) {
      const auto at = halves.find(key);
      if (at == halves.end()) {
        ADD_FAILURE() << PrintableKey(key, true) << " is missing";
        continue;
      }
      EXPECT_EQ(at->second.value, row.value) << PrintableKey(key, true);
      EXPECT_EQ(at->second.version, row.version) << PrintableKey(key, true);
      EXPECT_EQ(at->second.expires_at_ms, row.expires_at_ms) << PrintableKey(key, true);
    }
  }
};

// -- writers

struct Writers {
  SplitWorld* world;
  SimRandom random;
  std::vector<std::string> keys = SplitWorld::KeysOfWhole(300);
  bool over = false;
};

WriteOp RandomOp(Writers* w) {
  WriteOp op;
  op.key = w->keys[w->random.Below(w->keys.size())];
  switch (w->random.Below(8)) {
    case 0: op.op = RecordOp::kRemove; return op;
    case 1:
      op.op = RecordOp::kTouch;
      op.ttl_mode = w->random.Chance(0.5) ? TtlMode::kSet : TtlMode::kClear;
      if (op.ttl_mode == TtlMode::kSet) op.ttl_ms = 3'600'000;
      return op;
    case 2: op.value = std::string(5'000 + w->random.Below(20'000), 'l'); return op;
    case 3:
      op.value = "short-lived";
      op.ttl_mode = TtlMode::kSet;
      op.ttl_ms = 1 + static_cast<int64_t>(w->random.Below(200));
      return op;
    default: op.value = fmt::format("{}", w->random.Next()); return op;
  }
}

Task<void> WriteOn(Writers* w) {
  while (!w->over) {
    std::vector<WriteOp> ops;
    for (uint64_t n = 1 + w->random.Below(4); n > 0; --n) ops.push_back(RandomOp(w));
    WriteOptions options;
    options.all_or_nothing = w->random.Chance(0.3);  // one half could not judge it
    EXPECT_OK((co_await w->world->store_->partition(kWhole)->Write(std::move(ops), options)).status());
    co_await Sleep(*w->world->reactor_, static_cast<Nanos>(w->random.Below(2'000)) * kMicrosecond);
  }
}

// A later feed claims the halves at a random time. The earlier one writes nothing more.
Task<void> RunFeeds(SplitWorld* t, Writers* w) {
  std::unique_ptr<SplitFeed> feed = t->Feed();
  EXPECT_OK(co_await feed->Claim("first"));
  SnapshotId at = co_await t->Cut();
  EXPECT_OK(co_await feed->CopyAll(at));
  for (int round = 0; round < 6; ++round) {
    co_await Sleep(*t->reactor_, static_cast<Nanos>(w->random.Below(100)) * kMillisecond);
    const SnapshotId next = co_await t->Cut();
    if (w->random.Chance(0.3)) {
      std::unique_ptr<SplitFeed> later = t->Feed();
      EXPECT_OK(co_await later->Claim(fmt::format("claim of round {}", round)));
      const Status ended = co_await feed->CopyChanges(at, next);
      EXPECT_TRUE(ended.ok() || ended.code() == Code::kAborted) << ended.ToString();
      EXPECT_OK(co_await later->CopyAll(next));
      feed = std::move(later);
    } else {
      EXPECT_OK(co_await feed->CopyChanges(at, next));
    }
    co_await t->Release(at);
    at = next;
  }
  w->over = true;
  co_await Sleep(*t->reactor_, 500 * kMillisecond);  // what is short-lived has expired
  const SnapshotId last = co_await t->Cut();
  EXPECT_OK(co_await feed->CopyChanges(at, last));
  const Result<bool> same = co_await feed->CheckSums(last, t->cut_version_);
  EXPECT_TRUE(same.ok() && *same);
  co_await t->Release(at);
  co_await t->Release(last);
}

Task<void> SplitUnderWrites(World* world) {
  auto* t = static_cast<SplitWorld*>(world);
  co_await t->CreateAll();
  Writers writers{t, SimRandom(t->seed_)};
  TaskGroup tasks;
  for (int i = 0; i < 3; ++i) tasks.Spawn(WriteOn(&writers));
  co_await RunFeeds(t, &writers);
  co_await tasks.Drain();
  co_await t->ExpectSame();
}

Task<void> ExpectTheSameLater(World* world) { co_await static_cast<SplitWorld*>(world)->ExpectSame(); }

// The audit after each life also checks that the keys of the halves are in their ranges.
TEST(SplitFeed, HalvesBecomeTheWholeUnderWritesAndStaySo) {
  for (const uint64_t seed : Seeds(12)) {
    SCOPED_TRACE(Replay(seed));
    SplitWorld world(seed);
    world.Run(SplitUnderWrites, /*checkpoint=*/seed % 2 == 0);
    world.Run(ExpectTheSameLater);
  }
}

// The halves are compared as of the time of the cut, so what expires meanwhile makes no difference.
Task<void> AskAsOf(World* world) {
  auto* t = static_cast<SplitWorld*>(world);
  co_await t->CreateAll();
  Partition* whole = t->store_->partition(kWhole);
  constexpr uint64_t kRecords = 40;
  for (const std::string& key : SplitWorld::KeysOfWhole(kRecords)) {
    std::vector<WriteOp> ops(1);
    ops.front().key = key;
    ops.front().value = "v";
    ops.front().ttl_mode = TtlMode::kSet;
    ops.front().expires_at_ms = t->reactor_->WallMs() + 60'000;
    EXPECT_OK((co_await whole->Write(std::move(ops), WriteOptions())).status());
  }
  const SnapshotId at = co_await t->Cut();
  std::vector<std::pair<ReadPoint, uint64_t>> expected;
  expected.emplace_back(kNewest, kRecords);
  expected.emplace_back(at, kRecords);
  expected.emplace_back(ReadPoint(kNewest, t->reactor_->WallMs() + 61'000), 0);
  for (const auto& [point, count] : expected) {
    const Result<RangeAggregates> sums = co_await whole->Aggregate("", std::string(kLaneKeys.prefix()), point);
    EXPECT_TRUE(sums.ok() && sums->count == count) << "of " << count;
  }
}

TEST(SplitFeed, AggregatesCanBeAskedAsOfATime) {
  SplitWorld world(4);
  world.Run(AskAsOf);
}

// SF1, and what CheckSums notices.
Task<void> ClaimTwice(World* world) {
  auto* t = static_cast<SplitWorld*>(world);
  co_await t->CreateAll();
  const std::vector<std::string> keys = SplitWorld::KeysOfWhole(40);
  for (const std::string& key : keys) EXPECT_OK(co_await Put(t->store_->partition(kWhole), key, "v"));
  const SnapshotId at = co_await t->Cut();
  std::unique_ptr<SplitFeed> first = t->Feed(), second = t->Feed();
  EXPECT_OK(co_await first->Claim("first"));
  EXPECT_OK(co_await second->Claim("second"));
  const Status refused = co_await first->CopyAll(at);
  EXPECT_EQ(refused.code(), Code::kAborted);
  EXPECT_THAT(refused.message(), HasSubstr("another feed"));
  for (const uint32_t id : {kLower, kUpper}) EXPECT_TRUE((co_await t->RecordsOf(id)).empty());
  Result<bool> same = co_await second->CheckSums(at, t->cut_version_);
  EXPECT_TRUE(same.ok() && !*same) << "nothing is there";
  EXPECT_OK(co_await second->CopyAll(at));
  same = co_await second->CheckSums(at, t->cut_version_);
  EXPECT_TRUE(same.ok() && *same);
  // A half that has too much, and one whose record is another one.
  EXPECT_OK(co_await Put(t->store_->partition(kLower), kKeys.Stored("stray"), "v"));
  EXPECT_OK(co_await Remove(t->store_->partition(kUpper), keys.back()));
  EXPECT_OK(co_await Remove(t->store_->partition(kLower), keys.back()));
  same = co_await second->CheckSums(at, t->cut_version_);
  EXPECT_TRUE(same.ok() && !*same);
  EXPECT_OK(co_await second->CopyAll(at));
  same = co_await second->CheckSums(at, t->cut_version_);
  EXPECT_TRUE(same.ok() && *same);
  EXPECT_EQ(second->stats().removed_records, 1u);
  EXPECT_EQ(second->stats().copied_records, keys.size() + 1);
  co_await t->ExpectSame();
}

TEST(SplitFeed, OnlyTheLatestFeedWrites) {
  SplitWorld world(3);
  world.Run(ClaimTwice);
}

// A removal between two snapshots leaves no trace in the halves. A watcher that has not seen it must not go on there.
Task<void> WatchAcrossASplit(World* world) {
  auto* t = static_cast<SplitWorld*>(world);
  co_await t->CreateAll();
  Partition* whole = t->store_->partition(kWhole);
  for (const std::string& key : SplitWorld::KeysOfWhole(20)) EXPECT_OK(co_await Put(whole, key, "v"));
  SnapshotId at = co_await t->Cut();
  std::unique_ptr<SplitFeed> feed = t->Feed();
  EXPECT_OK(co_await feed->Claim("claim"));
  EXPECT_OK(co_await feed->CopyAll(at));
  const std::string gone = SplitWorld::KeysOfWhole(21).back();
  EXPECT_OK(co_await Put(whole, gone, "v"));
  const Version before = whole->newest_change();
  EXPECT_OK(co_await Remove(whole, gone));
  const Version told = whole->newest_change();
  EXPECT_GT(told, before);
  const SnapshotId next = co_await t->Cut();
  EXPECT_OK(co_await feed->CopyChanges(at, next));
  EXPECT_OK(co_await feed->Seal(t->cut_version_, told));
  for (const uint32_t id : {kLower, kUpper}) {
    Partition* half = t->store_->partition(id);
    const Result<ChangePage> behind = co_await half->Changes(before, "", 100, 1 << 20);
    EXPECT_TRUE(behind.ok() && behind->gone) << "the removal would be missed";
    const Result<ChangePage> level = co_await half->Changes(told, "", 100, 1 << 20);
    EXPECT_TRUE(level.ok() && !level->gone) << "this watcher has seen all";
  }
  co_await t->Release(at);
  co_await t->Release(next);
}

TEST(SplitFeed, WatchersGoOnInTheHalvesOnlyIfTheyHaveSeenAll) {
  SplitWorld world(5);
  world.Run(WatchAcrossASplit);
}

// SP6: whatever the halves give later is above what the whole has given.
Task<void> SealHalves(World* world) {
  auto* t = static_cast<SplitWorld*>(world);
  co_await t->CreateAll();
  const std::vector<std::string> keys = SplitWorld::KeysOfWhole(20);
  for (const std::string& key : keys) EXPECT_OK(co_await Put(t->store_->partition(kWhole), key, "v"));
  const SnapshotId at = co_await t->Cut();
  std::unique_ptr<SplitFeed> first = t->Feed(), second = t->Feed();
  EXPECT_OK(co_await first->Claim("first"));
  EXPECT_OK(co_await first->CopyAll(at));
  const Version newest = VersionAtMs(t->reactor_->WallMs() + 2'000);
  EXPECT_OK(co_await first->Seal(newest, /*told=*/0));
  for (const uint32_t id : {kLower, kUpper}) {
    std::vector<WriteOp> ops(1);
    ops.front().key = kKeys.Stored("later");
    const Result<std::vector<OpResult>> put = co_await t->store_->partition(id)->Write(std::move(ops), WriteOptions());
    EXPECT_OK(put.status());
    EXPECT_GT(put->front().version, newest);
    EXPECT_OK(co_await Remove(t->store_->partition(id), kKeys.Stored("later")));
  }
  const Result<bool> same = co_await first->CheckSums(at, t->cut_version_);
  EXPECT_TRUE(same.ok() && *same) << "the claim is no record";
  EXPECT_OK(co_await first->CopyAll(at));  // it is still claimed
  EXPECT_EQ((co_await first->Seal(VersionAtMs(t->reactor_->WallMs() + 3'600'000), /*told=*/0)).code(),
            Code::kUnavailable);
  EXPECT_OK(co_await second->Claim("second"));
  EXPECT_EQ((co_await first->Seal(newest, /*told=*/0)).code(), Code::kAborted);
}

TEST(SplitFeed, SealedHalvesGoOnAboveTheWhole) {
  SplitWorld world(5);
  world.Run(SealHalves);
}

// LN1: what the whole has applied, no half applies again.
WriteOp Named(Reactor* reactor, uint64_t sequence) {
  WriteOp once;
  once.op = RecordOp::kOnce;
  once.key = kLaneKeys.Stored("client");
  once.sequence = sequence;
  once.first_sent_ms = reactor->WallMs();
  return once;
}

Task<Result<std::vector<OpResult>>> Send(Partition* to, WriteOp once, std::vector<WriteOp> ops) {
  ops.insert(ops.begin(), std::move(once));
  return to->Write(std::move(ops), WriteOptions());
}

Task<void> RepeatWrites(World* world) {
  auto* t = static_cast<SplitWorld*>(world);
  co_await t->CreateAll();
  const std::string key = SplitWorld::KeysOfWhole(1).front();
  const auto [first, last] = HashRangeOf(kLower, kRanges);
  const uint64_t hash = HashId(kKeys.KeyOf(key));
  const uint32_t half = first <= hash && hash <= last ? kLower : kUpper;
  const WriteOp once = Named(t->reactor_, 7);
  std::vector<WriteOp> one{IncrementOp(key, 5)}, two{IncrementOp(key, 1), IncrementOp(key, 2)};
  const auto done = co_await Send(t->store_->partition(kWhole), once, one);
  EXPECT_OK(done.status());
  std::unique_ptr<SplitFeed> feed = t->Feed();
  EXPECT_OK(co_await feed->Claim("claim"));
  SnapshotId at = co_await t->Cut();
  EXPECT_OK(co_await feed->CopyAll(at));
  const auto again = co_await Send(t->store_->partition(half), once, one);
  EXPECT_OK(again.status());
  if (done.ok() && again.ok()) {
    EXPECT_EQ((*again)[1].number, 5);
    EXPECT_EQ((*again)[1].version, (*done)[1].version);
  }
  // Two results: they could be of both halves.
  const WriteOp later = Named(t->reactor_, 8);
  EXPECT_OK((co_await Send(t->store_->partition(kWhole), later, two)).status());
  const SnapshotId next = co_await t->Cut();
  EXPECT_OK(co_await feed->CopyChanges(at, next));
  EXPECT_EQ((co_await Send(t->store_->partition(half), later, two)).code(), Code::kAborted);
  const Result<ReadResult> read = co_await t->store_->partition(half)->Get(key, kNewest, nullptr);
  EXPECT_TRUE(read.ok() && read->value == "8");
  // So many results that the whole has not kept them. A half is sent its part of the operations.
  const std::vector<WriteOp> many(30, IncrementOp(key, 1)), part(many.begin(), many.begin() + 10);
  WriteOp latest = Named(t->reactor_, 9);
  latest.key.resize(980, 'c');  // a long name leaves little room for results
  const auto applied = co_await Send(t->store_->partition(kWhole), latest, many);
  EXPECT_OK(applied.status());
  const SnapshotId end = co_await t->Cut();
  EXPECT_OK(co_await feed->CopyChanges(next, end));
  const auto sent_again = co_await Send(t->store_->partition(half), latest, part);
  EXPECT_EQ(sent_again.code(), Code::kAborted) << sent_again.status().ToString();
  for (const SnapshotId id : {at, next, end}) co_await t->Release(id);
}

TEST(SplitFeed, NoHalfAppliesAWriteAgainThatTheWholeHasApplied) {
  SplitWorld world(4);
  world.Run(RepeatWrites);
}

}  // namespace
}  // namespace pando::engine_test
