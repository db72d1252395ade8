// Partitions that are installed from a snapshot and newer ones, of which only the pages come that were written since.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "src/base/hash.h"
#include "src/partition/replica.h"
#include "tests/support/roster_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;

constexpr uint32_t kRanges = 4, kInstalled = 2;
constexpr int kRecords = 2000;
constexpr size_t kBatchBytes = 40'000;

std::string Key(int i) { return KeyIn(kRanges, kInstalled, fmt::format("key-{:05}", i)); }
// Some are stored in extents of their own.
std::string Value(int i, int round) {
  return fmt::format("{} of {} ", i, round) + std::string((i + round) % 50 == 7 ? 30'000 : 150, 'v');
}

// The sender's partition, and what it sends.
struct World {
  using Body = Task<void> (*)(World* t);
  World() : kernel_(5, SharedReactor()) {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = kRanges;
    setup_.engine.log_segment_bytes = 256u << 10;
    SimReactor* reactor = sender_->Boot();
    kernel_.RunTask(*reactor, Prepare(this, reactor));
    sender_->PowerLoss(1);
  }
  static Task<void> Prepare(World* t, SimReactor* reactor) {
    OpenedStore store;
    EXPECT_OK(co_await OpenedStore::Open(reactor, t->setup_, &store));
    Partition* p = store.partition(kInstalled);
    for (int i = 0; i < kRecords; ++i) EXPECT_OK(co_await Put(p, Key(i), Value(i, 0)));
    co_await t->Send(reactor, p);
    // Most of the pages have no successor, so their blocks are free, or are used by other pages.
    for (int i = 0; i < kRecords; ++i) {
      if (i % 500 > 50) EXPECT_OK(co_await Remove(p, Key(i)));
    }
    EXPECT_OK(co_await store.engine_of(kInstalled).CheckpointAll());
    EXPECT_OK(co_await store.engine_of(kInstalled).CheckpointAll());
    for (int i = 0; i < kRecords; i += 7) EXPECT_OK(co_await Put(p, Key(i), Value(i, 1)));
    co_await t->Send(reactor, p);
    for (int i = 0; i < kRecords; i += 100) EXPECT_OK(co_await Put(p, Key(i), Value(i, 2)));
    co_await t->Send(reactor, p);
    EXPECT_OK(co_await store.Close(false));
  }
  Task<void> Send(SimReactor* reactor, Partition* p) {
    const Generation since = sent_.empty() ? 0 : sent_.back().root.generation;
    Result<ReadSnapshot> read = co_await ReadSnapshotOf(reactor, p, kBatchBytes, since);
    EXPECT_OK(read.status());
    sent_.push_back(*std::move(read));
  }

  // Runs `body` with the open store of the second node, which then loses power.
  void Run(Body body) {
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, WithStore(this, body)).has_value());
    machine_->PowerLoss(7);
    reactor_ = machine_->Boot();
    std::optional<std::string> problem = kernel_.RunTask(*reactor_, Audit(*reactor_, "/data"));
    machine_->PowerLoss(8);
    EXPECT_EQ(*problem, "");
  }
  static Task<void> WithStore(World* t, Body body) {
    OpenedStore store;
    EXPECT_OK(co_await OpenedStore::Open(t->reactor_, t->setup_, &store));
    t->store_ = &store;
    co_await body(t);
    EXPECT_OK(co_await store.Close(/*checkpoint=*/false));
    EXPECT_EQ(t->reactor_->open_files(), 0u);
  }

  Task<Status> Install(const std::vector<ReadSnapshot>* sent) {
    SentPages pages(sent);
    Result<Partition*> installed = co_await store_->Install(kInstalled, sent->front().root, &pages);
    co_return installed.status();
  }
  Task<void> ExpectInstalled() {
    Partition* p = store_->partition(kInstalled);
    EXPECT_NE(p, nullptr);
    if (p == nullptr) co_return;
    const ReadSnapshot& newest = sent_.back();
    EXPECT_EQ(p->stats().applied_lsn, newest.root.lsn);
    Result<RangeAggregates> sums = co_await p->Aggregate("", "", kNewest);
    EXPECT_OK(sums.status());
    EXPECT_EQ(sums->content_hash, newest.content_hash);
    EXPECT_EQ(sums->count, newest.count);
    for (int i = 0; i < kRecords; i += 25) {
      Result<ReadResult> read = co_await p->Get(Key(i), kNewest, nullptr);
      EXPECT_OK(read.status());
      const int round = i % 100 == 0 ? 2 : i % 7 == 0 ? 1 : 0;
      const bool expected = round > 0 || i % 500 <= 50;
      EXPECT_EQ(read->found, expected) << i;
      EXPECT_EQ(read->value, expected ? Value(i, round) : "") << i;
    }
  }

  Setup setup_;
  SimKernel kernel_;
  SimMachine* sender_ = kernel_.AddMachine("10.0.0.1");
  SimMachine* machine_ = kernel_.AddMachine("10.0.0.2");
  SimReactor* reactor_ = nullptr;
  OpenedStore* store_ = nullptr;
  std::vector<ReadSnapshot> sent_;
};

uint64_t BytesOf(const ReadSnapshot& snapshot) {
  uint64_t bytes = 0;
  for (const PageBatch& batch : snapshot.batches) bytes += batch.bytes;
  return bytes;
}

Task<void> InstallAll(World* t) {
  EXPECT_OK(co_await t->store_->Drop(kInstalled));
  EXPECT_OK(co_await t->Install(&t->sent_));
  co_await t->ExpectInstalled();
  const auto* replica = static_cast<Replica*>(t->store_->partition(kInstalled));
  EXPECT_EQ(replica->partition_file().superblock().chain, t->sent_.back().root.chain);
}
Task<void> ExpectAllAndWrite(World* t) {
  co_await t->ExpectInstalled();
  for (int i = 0; i < 100; ++i) EXPECT_OK(co_await Put(t->store_->partition(kInstalled), Key(i), "later"));
  EXPECT_OK(co_await t->store_->engine_of(kInstalled).CheckpointAll());
}

TEST(InstallNewer, IsEqualToTheNewest) {
  World world;
  ASSERT_EQ(world.sent_.size(), 3u);
  EXPECT_LT(BytesOf(world.sent_[2]), BytesOf(world.sent_[1]));
  EXPECT_LT(BytesOf(world.sent_[1]), BytesOf(world.sent_[0]));
  EXPECT_LT(world.sent_[1].count, world.sent_[0].count / 2);
  world.Run(InstallAll);
  world.Run(ExpectAllAndWrite);
}

struct Change {
  const char* name;
  void (*apply)(std::vector<ReadSnapshot>*);
  const char* says;
};
const Change kChanges[] = {
    {"the snapshot between is missing", [](auto* s) { s->erase(s->begin() + 1); }, ""},
    {"a page is missing", [](auto* s) { s->at(1).batches[0].images.pop_back(); }, ""},
    {"a page comes twice", [](auto* s) { s->at(1).batches[0].Add(s->at(1).batches[0].images[0]); }, "second time"},
    {"an older one", [](auto* s) { std::swap(s->at(1), s->at(2)); }, "newer than"},
    {"the same", [](auto* s) { s->at(2) = s->at(1); }, "newer than"},
    {"an older LSN", [](auto* s) { s->at(2).root.lsn = s->at(1).root.lsn - 1; }, "newer than"},
    {"another partition", [](auto* s) { ++s->at(2).root.partition.lo; }, "newer than"},
    {"a smaller file", [](auto* s) { --s->at(2).root.file_blocks; }, "newer than"},
    {"a huge LSN", [](auto* s) { s->at(2).root.lsn = UINT64_MAX - 1; }, "LSN"},
};
Task<void> RefuseAll(World* t) {
  EXPECT_OK(co_await t->store_->Drop(kInstalled));
  MemoryBudget memory(16 << 20);
  t->store_->memory = &memory;
  for (const Change& change : kChanges) {
    std::vector<ReadSnapshot> sent = t->sent_;
    change.apply(&sent);
    const Status refused = co_await t->Install(&sent);
    EXPECT_EQ(refused.code(), Code::kCorruption) << change.name << ": " << refused.ToString();
    EXPECT_THAT(refused.message(), HasSubstr(change.says)) << change.name;
    EXPECT_EQ(memory.used_bytes(), 0) << change.name;
    EXPECT_EQ(t->store_->partition(kInstalled), nullptr);
  }
  // A newer snapshot may be larger than there is memory for.
  std::vector<ReadSnapshot> large = t->sent_;
  large[2].root.file_blocks = 1u << 30;
  EXPECT_EQ((co_await t->Install(&large)).code(), Code::kOverloaded);
  EXPECT_EQ(memory.used_bytes(), 0);
  EXPECT_OK(co_await t->Install(&t->sent_));
  t->store_->memory = nullptr;
  co_await t->ExpectInstalled();
}
TEST(InstallNewer, WhatIsNotNewerIsRefused) {
  World world;
  world.Run(RefuseAll);
  world.Run(ExpectAllAndWrite);
}

}  // namespace
}  // namespace pando::engine_test
