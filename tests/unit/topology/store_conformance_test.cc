// One suite for every store of a topology. It checks what topology_store.h and topology.h promise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "src/topology/topology_watch.h"
#include "tests/unit/topology/etcd_world.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = CasOutcome::Kind;

constexpr Nanos kTimeout = 5 * kSecond;

template <typename World>
class StoreConformance : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = World::Missing(); !missing.empty()) GTEST_SKIP() << missing;
    world_ = std::make_unique<World>();
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(world_->reactor(), std::move(task));
  }
  std::unique_ptr<Topology> Client() {
    auto store = Run(world_->Open());
    CHECK(store.ok()) << store.status().ToString();
    return std::make_unique<Topology>(world_->reactor(), *std::move(store));
  }
  void Close(std::unique_ptr<Topology>& client) {
    EXPECT_OK(Run(client->Close()));
    client.reset();
  }
  std::unique_ptr<World> world_;
};

struct WorldNames {
  template <typename T>
  static std::string GetName(int) {
    if (std::is_same_v<T, SimWorld>) return "Memory";
    if (std::is_same_v<T, SimFileWorld>) return "SimulatedDirectory";
    if (std::is_same_v<T, FileWorld>) return "Directory";
    return std::is_same_v<T, Etcd34World> ? "EtcdOfDebian" : "EtcdOfGo";
  }
};
using Worlds = ::testing::Types<SimWorld, SimFileWorld, FileWorld, Etcd34World, Etcd36World>;
TYPED_TEST_SUITE(StoreConformance, Worlds, WorldNames);

Task<Revision> Store(Topology* t, std::string key, Revision expected, std::string value) {
  Result<CasOutcome> outcome = co_await t->CompareAndSwap(key, expected, std::move(value), kTimeout);
  EXPECT_OK(outcome.status());
  if (!outcome.ok()) co_return 0;
  EXPECT_EQ(outcome->kind, Kind::kStored) << key << " " << expected << " " << outcome->why.ToString();
  co_return outcome->revision;
}

Task<std::string> ValueOf(Topology* t, std::string key) {
  Result<TopologyEntry> entry = co_await t->Read(std::move(key), kTimeout);
  EXPECT_OK(entry.status());
  co_return entry.ok() ? entry->value : "?";
}

std::vector<std::string> KeysOf(const std::vector<TopologyEntry>& entries) {
  std::vector<std::string> keys;
  for (const TopologyEntry& entry : entries) keys.push_back(entry.key);
  return keys;
}

Task<void> OneKey(Topology* a, Topology* b) {
  Result<TopologyEntry> none = co_await a->Read("cluster", kTimeout);
  EXPECT_OK(none.status());
  EXPECT_EQ(none->revision, 0u);
  const Revision first = co_await Store(a, "cluster", 0, "one");
  EXPECT_GT(first, 0u);
  Result<CasOutcome> again = co_await b->CompareAndSwap("cluster", 0, "other", kTimeout);
  EXPECT_EQ(again->kind, Kind::kConflict);
  Result<TopologyEntry> read = co_await b->Read("cluster", kTimeout);
  EXPECT_EQ(*read, (TopologyEntry{"cluster", "one", first}));
  const Revision second = co_await Store(b, "cluster", first, "two");
  EXPECT_GT(second, first);
  Result<CasOutcome> late = co_await a->CompareAndSwap("cluster", first, "late", kTimeout);
  EXPECT_EQ(late->kind, Kind::kConflict);
  EXPECT_EQ(co_await ValueOf(a, "cluster"), "two");
  Result<CasOutcome> future = co_await a->CompareAndSwap("cluster", second + 1, "future", kTimeout);
  EXPECT_EQ(future->kind, Kind::kConflict);
  Result<CasOutcome> absent = co_await a->CompareAndSwap("node/1", second, "absent", kTimeout);
  EXPECT_EQ(absent->kind, Kind::kConflict);
  EXPECT_EQ((co_await a->Read("node/1", kTimeout))->revision, 0u);
}
TYPED_TEST(StoreConformance, ComparesAndSwaps) {
  auto a = this->Client(), b = this->Client();
  this->Run(OneKey(a.get(), b.get()));
  EXPECT_EQ(a->metrics().cas_stored.value(), 1u);
  EXPECT_EQ(a->metrics().cas_conflicts.value(), 3u);
  this->Close(a);
  this->Close(b);
}

Task<void> ManyKeys(Topology* a, Topology* b) {
  Result<TopologyListing> empty = co_await a->List(kTimeout);
  EXPECT_OK(empty.status());
  EXPECT_TRUE(empty->entries.empty());
  const Revision before = empty->revision;
  std::string all_bytes;
  for (int c = 0; c < 256; ++c) all_bytes.push_back(static_cast<char>(c));
  const std::map<std::string, std::string> values = {{"cluster", ""},
                                                     {"node/1", all_bytes},
                                                     {"node/2", "{\"a\":\"\\u00e9\\n\"}\n"},
                                                     {"partition/00000", std::string(kMaxTopologyValueBytes, 'x')}};
  Revision newest = before;
  for (const auto& [key, value] : values) {
    const Revision revision = co_await Store(a, key, 0, value);
    newest = std::max(newest, revision);
  }
  Result<TopologyListing> listing = co_await b->List(kTimeout);
  EXPECT_OK(listing.status());
  EXPECT_THAT(KeysOf(listing->entries), ElementsAre("cluster", "node/1", "node/2", "partition/00000"));
  for (const TopologyEntry& entry : listing->entries) {
    EXPECT_TRUE(entry.value == values.at(entry.key)) << entry.key;
    EXPECT_LE(entry.revision, listing->revision);
    const std::string alone = co_await ValueOf(b, entry.key);
    EXPECT_TRUE(alone == entry.value) << entry.key;
  }
  EXPECT_GT(listing->revision, before);
  co_await Store(a, "node/1", listing->entries[1].revision, "short");
  Result<TopologyListing> later = co_await b->List(kTimeout);
  EXPECT_GT(later->revision, listing->revision);  // TS2

  Result<CasOutcome> big =
      co_await a->CompareAndSwap("node/3", 0, std::string(kMaxTopologyValueBytes + 1, 'x'), kTimeout);
  EXPECT_EQ(big.code(), Code::kInvalidArgument);
  for (const char* key : {"", "/a", "a/", "a//b", "A", "a b", "a.b"}) {
    EXPECT_EQ((co_await a->Read(key, kTimeout)).code(), Code::kInvalidArgument) << key;
  }
}
TYPED_TEST(StoreConformance, HoldsManyKeys) {
  auto a = this->Client(), b = this->Client();
  this->Run(ManyKeys(a.get(), b.get()));
  this->Close(a);
  this->Close(b);
}

// What has changed, and nothing else; or a gap.
Task<void> Changes(Topology* a, Topology* b) {
  std::map<std::string, Revision> revisions;
  for (const char* key : {"cluster", "node/1", "node/2", "node/3"}) revisions[key] = co_await Store(a, key, 0, "first");
  const Revision listed = (co_await b->List(kTimeout))->revision;
  Result<TopologyChanges> none = co_await b->ReadChanges(listed, kTimeout);
  EXPECT_OK(none.status());
  EXPECT_FALSE(none->gap);
  EXPECT_TRUE(none->entries.empty());
  EXPECT_EQ(none->revision, listed);
  const Revision second = co_await Store(a, "node/2", revisions["node/2"], "second");
  const Revision third = co_await Store(a, "node/4", 0, "third");
  Result<TopologyChanges> some = co_await b->ReadChanges(listed, kTimeout);
  EXPECT_OK(some.status());
  if (!some->gap) {
    EXPECT_THAT(some->entries,
                ElementsAre(TopologyEntry{"node/2", "second", second}, TopologyEntry{"node/4", "third", third}));
    EXPECT_EQ(some->keys, std::optional<size_t>(5));
    Result<TopologyChanges> rest = co_await b->ReadChanges(some->revision, kTimeout);
    EXPECT_TRUE(!rest->gap && rest->entries.empty());
  }
  Result<TopologyListing> listing = co_await b->List(kTimeout);
  EXPECT_EQ(listing->entries.size(), 5u);
  Result<TopologyChanges> again = co_await b->ReadChanges(listing->revision, kTimeout);
  EXPECT_TRUE(!again->gap && again->entries.empty());
}
TYPED_TEST(StoreConformance, ReadsChanges) {
  auto a = this->Client(), b = this->Client();
  this->Run(Changes(a.get(), b.get()));
  this->Close(a);
  this->Close(b);
}

// TS1: each success is one step of the counter.
Task<void> Count(Topology* t, std::string key, int successes, int* stored, std::set<Revision>* revisions) {
  while (successes > 0) {
    Result<TopologyEntry> now = co_await t->Read(key, kTimeout);
    EXPECT_OK(now.status());
    if (!now.ok()) co_return;
    const int count = now->revision == 0 ? 0 : std::stoi(now->value);
    Result<CasOutcome> outcome = co_await t->CompareAndSwap(key, now->revision, std::to_string(count + 1), kTimeout);
    EXPECT_OK(outcome.status());
    EXPECT_NE(outcome->kind, Kind::kUnknown) << outcome->why.ToString();
    if (outcome->kind != Kind::kStored) continue;
    EXPECT_TRUE(revisions->insert(outcome->revision).second) << "two winners of revision " << outcome->revision;
    ++*stored;
    --successes;
  }
}
TYPED_TEST(StoreConformance, OneOfManyWins) {
  std::vector<std::unique_ptr<Topology>> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(this->Client());
  int stored = 0;
  std::set<Revision> revisions;
  struct Race {
    static Task<void> Run(std::vector<std::unique_ptr<Topology>>* all, int* stored_sum, std::set<Revision>* seen) {
      Together together;
      for (auto& client : *all) together.Add(Count(client.get(), "partition/00007", 25, stored_sum, seen));
      co_await together.Wait();
    }
  };
  this->Run(Race::Run(&clients, &stored, &revisions));
  EXPECT_EQ(stored, 100);
  EXPECT_EQ(this->Run(ValueOf(clients[0].get(), "partition/00007")), "100");
  uint64_t conflicts = 0;
  for (auto& client : clients) {
    conflicts += client->metrics().cas_conflicts.value();
    this->Close(client);
  }
  EXPECT_GT(conflicts, 0u) << "nobody has raced";
}

Task<void> Churn(Topology* t, std::string key, int changes) {
  Revision revision = 0;
  for (int i = 1; i <= changes; ++i) {
    const std::string value = fmt::format("{} of {}", i, changes);
    revision = co_await Store(t, key, revision, value);
    co_await Sleep(t->reactor(), static_cast<Nanos>(t->reactor().Random() % (2 * kMillisecond)));
  }
}

// TW1, TW2: takes what is new until every key has its last value.
Task<void> Consume(TopologyWatch* watch, std::map<std::string, TopologyEntry>* seen, std::set<std::string> keys,
                   std::string last) {
  Reactor& reactor = watch->reactor();
  const Nanos limit = reactor.NowNs() + 30 * kSecond;
  for (;;) {
    size_t done = 0;
    for (const std::string& key : keys) done += seen->contains(key) && (*seen)[key].value == last;
    if (done == keys.size()) co_return;
    EXPECT_LT(reactor.NowNs(), limit);
    if (reactor.NowNs() >= limit) co_return;
    Result<std::vector<TopologyEntry>> news = co_await watch->Next(kSecond);
    if (!news.ok()) {
      EXPECT_EQ(news.code(), Code::kDeadline);
      continue;
    }
    EXPECT_FALSE(news->empty());
    for (TopologyEntry& entry : *news) {
      EXPECT_GT(entry.revision, (*seen)[entry.key].revision) << entry.key;
      (*seen)[entry.key] = entry;
    }
    co_await Sleep(reactor, static_cast<Nanos>(reactor.Random() % (20 * kMillisecond)));  // slower than the writers
  }
}

Task<void> WatchChurn(Topology* watched, std::vector<Topology*> writers) {
  TopologyWatch watch(watched);
  std::map<std::string, TopologyEntry> seen;
  std::set<std::string> keys;
  Together together;
  for (size_t i = 0; i < writers.size(); ++i) {
    const std::string key = fmt::format("node/{}", i + 1);
    keys.insert(key);
    together.Add(Churn(writers[i], key, 40));
  }
  together.Add(Consume(&watch, &seen, keys, "40 of 40"));
  co_await together.Wait();
  EXPECT_EQ(watch.newest(), seen);
  Result<TopologyListing> listing = co_await watched->List(kTimeout);
  EXPECT_EQ(listing->entries.size(), seen.size());
  for (const TopologyEntry& entry : listing->entries) EXPECT_EQ(entry, seen[entry.key]);
  watched->EndWaits();
  co_await watch.Stop();
}
TYPED_TEST(StoreConformance, WatchNeverLosesTheLastState) {
  auto a = this->Client(), b = this->Client(), c = this->Client();
  this->Run(WatchChurn(a.get(), {b.get(), c.get()}));
  this->Close(a);
  this->Close(b);
  this->Close(c);
}

// A change is noticed by itself, not only at the next listing; and a wait ends when it is told to.
Task<void> WatchIsQuick(Topology* watched, Topology* writer) {
  TopologyWatch watch(watched);
  Revision revision = co_await Store(writer, "cluster", 0, "0");
  EXPECT_OK((co_await watch.Next(kTimeout)).status());
  Nanos total = 0;
  constexpr int kChanges = 5;
  for (int i = 0; i < kChanges; ++i) {
    co_await Sleep(writer->reactor(), 50 * kMillisecond);
    const std::string value = std::to_string(i + 1);
    revision = co_await Store(writer, "cluster", revision, value);
    const Nanos begin = writer->reactor().NowNs();
    auto news = co_await watch.Next(kTimeout);
    EXPECT_OK(news.status());
    if (news.ok()) {
      EXPECT_EQ(news->front().value, value);
    }
    total += writer->reactor().NowNs() - begin;
  }
  EXPECT_LT(total / kChanges, TopologyWatch::kCheckNs / 4);
  EXPECT_EQ((co_await watch.Next(20 * kMillisecond)).code(), Code::kDeadline);
  const Nanos begin = writer->reactor().NowNs();
  watched->EndWaits();
  co_await watch.Stop();
  EXPECT_LT(writer->reactor().NowNs() - begin, kSecond / 2);
}
TYPED_TEST(StoreConformance, WatchIsQuickAndEnds) {
  auto a = this->Client(), b = this->Client();
  this->Run(WatchIsQuick(a.get(), b.get()));
  this->Close(a);
  this->Close(b);
}

Task<void> Fill(Topology* t) {
  Revision revision = 0;
  for (int i = 0; i < 3; ++i) revision = co_await Store(t, "partition/00000", revision, std::to_string(i));
  co_await Store(t, "node/1", 0, "a");
}
Task<void> SeesThatItWentBack(Topology* t) {
  Result<TopologyEntry> read = co_await t->Read("partition/00000", kTimeout);
  EXPECT_EQ(read.code(), Code::kCorruption) << (read.ok() ? read->value : read.status().ToString());
  EXPECT_THAT(read.status().message(), HasSubstr("has gone back"));
  EXPECT_THAT(read.status().message(), HasSubstr("partition/00000"));
  EXPECT_FALSE(t->went_back().ok());
  Result<TopologyListing> listing = co_await t->List(kTimeout);
  EXPECT_EQ(listing.code(), Code::kCorruption);
  EXPECT_GE(t->metrics().went_back.value(), 2u);
  Result<TopologyChanges> changes = co_await t->ReadChanges(t->seen(), kTimeout);
  EXPECT_TRUE(changes.code() == Code::kCorruption || changes->gap);
}
// A process that starts knows only what its node has kept.
Task<void> SeesThatTheStoreIsOlder(Topology* t, Revision kept) {
  t->NoteSeen(kept);
  Result<TopologyListing> listing = co_await t->List(kTimeout);
  EXPECT_EQ(listing.code(), Code::kCorruption);
  EXPECT_THAT(listing.status().message(), HasSubstr("has gone back"));
}
TYPED_TEST(StoreConformance, NoticesARestoredBackup) {
  auto a = this->Client();
  this->Run(Fill(a.get()));
  if (!this->world_->Backup()) {
    this->Close(a);
    GTEST_SKIP() << "the test cannot restore this store; the fake gateway stands in for it";
  }
  Result<TopologyEntry> now = this->Run(a->Read("partition/00000", kTimeout));
  this->Run(Store(a.get(), "partition/00000", now->revision, "newest"));
  EXPECT_OK(this->Run(a->List(kTimeout)).status());
  const Revision kept = a->seen();
  this->world_->Restore();
  this->Run(SeesThatItWentBack(a.get()));
  auto b = this->Client();
  this->Run(SeesThatTheStoreIsOlder(b.get(), kept));
  auto c = this->Client();  // knows nothing of the past
  EXPECT_OK(this->Run(c->List(kTimeout)).status());
  EXPECT_OK(c->went_back());
  this->Close(a);
  this->Close(b);
  this->Close(c);
}

}  // namespace
}  // namespace pando::topology_test
