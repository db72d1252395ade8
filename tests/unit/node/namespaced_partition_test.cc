// A partition seen through its namespace: every method answers as a partition does that holds nothing
// but the namespace's records under their own keys.
#include "src/node/namespaced_partition.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "src/base/hash.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

Task<void> Write(Partition* partition, WriteOp op) {
  std::vector<WriteOp> ops;
  ops.push_back(std::move(op));
  auto outcome = co_await partition->Write(std::move(ops), WriteOptions());
  EXPECT_OK(outcome.status());
}

ScanSpec Range(std::string start, std::string end) {
  ScanSpec spec;
  spec.start = std::move(start);
  spec.end = std::move(end);
  return spec;
}

std::vector<ScanSpec> Specs() {
  std::vector<ScanSpec> specs{Range("", ""), Range("k3", ""), Range("", "k7"), Range("k2", "k5"), Range("z", "")};
  specs.push_back(Range("k3", "k8"));
  specs.back().start_exclusive = specs.back().end_inclusive = true;
  for (size_t i = 0, n = specs.size(); i < n; ++i) {
    ScanSpec reverse = specs[i];
    reverse.reverse = true;
    specs.push_back(reverse);
  }
  for (size_t i = 0, n = specs.size(); i < n; ++i) {
    ScanSpec few = specs[i];
    few.max_rows = 2;
    specs.push_back(few);
    few.max_rows = 100;
    few.hard_bytes = 9;  // a key and a value
    specs.push_back(few);
  }
  return specs;
}

Task<void> ExpectSameScan(Partition* seen, Partition* plain, ScanSpec spec) {
  auto a = co_await seen->Scan(spec);
  auto b = co_await plain->Scan(spec);
  EXPECT_OK(a.status());
  EXPECT_OK(b.status());
  if (!a.ok() || !b.ok()) co_return;
  const std::string what = spec.start + ".." + spec.end + (spec.reverse ? " reverse" : "");
  EXPECT_EQ(a->exhausted, b->exhausted) << what;
  EXPECT_EQ(a->rows.size(), b->rows.size()) << what;
  for (size_t i = 0; i < std::min(a->rows.size(), b->rows.size()); ++i) {
    EXPECT_EQ(a->rows[i].key, b->rows[i].key) << what;
    EXPECT_EQ(a->rows[i].value, b->rows[i].value) << what;
    EXPECT_EQ(a->rows[i].unread_bytes, b->rows[i].unread_bytes) << what;
  }
}

Task<void> ExpectSameAggregates(Partition* seen, Partition* plain, std::string start, std::string end) {
  auto a = co_await seen->Aggregate(start, end, kNewest);
  auto b = co_await plain->Aggregate(start, end, kNewest);
  EXPECT_EQ(a->count, b->count);
  EXPECT_EQ(a->bytes, b->bytes) << "the namespace counts for a record's size";
  std::vector<uint64_t> ranks{0, 2, 4, 50};
  auto c = co_await seen->KeysAtRanks(start, end, ranks, kNewest);
  auto d = co_await plain->KeysAtRanks(start, end, ranks, kNewest);
  EXPECT_EQ(*c, *d);
}

Task<void> ExpectSameChanges(Partition* seen, Partition* plain, std::string prefix) {
  auto a = co_await seen->Changes(1, prefix, 100, 1 << 20);
  auto b = co_await plain->Changes(1, prefix, 100, 1 << 20);
  EXPECT_EQ(a->gone, b->gone);
  EXPECT_EQ(a->changes.size(), b->changes.size()) << prefix;
  for (size_t i = 0; i < std::min(a->changes.size(), b->changes.size()); ++i) {
    EXPECT_EQ(a->changes[i].key, b->changes[i].key);
  }
}

// Partition 0 is seen through the namespace 0, with neighbors before, in and after it. Partition 1 holds
// the same records under their own keys.
Task<void> CompareWithPlain(Reactor* reactor) {
  auto opened = co_await OpenEngine(*reactor, Setup());
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Engine* engine = opened->get();
  Partition* stored = engine->partition(0);
  Partition* plain = engine->partition(1);
  NamespacedPartition seen(KeySpace(kDefaultNamespace), stored);
  for (int i = 0; i < 10; ++i) {
    const std::string key = "k" + std::to_string(i);
    co_await Write(&seen, PutOp(key, "value" + std::to_string(i)));
    co_await Write(plain, PutOp(key, "value" + std::to_string(i)));
    co_await Write(stored, PutOp(KeySpace(1).Stored(key), "of another namespace"));
    WriteOp once;
    once.op = RecordOp::kOnce;
    once.key = "k" + std::to_string(i);
    once.sequence = 1;
    once.first_sent_ms = reactor->WallMs();
    std::vector<WriteOp> named;
    named.push_back(once);
    named.push_back(RemoveOp("none"));
    auto outcome = co_await seen.Write(std::move(named), WriteOptions());
    EXPECT_OK(outcome.status());
    co_await Write(plain, RemoveOp("none"));
  }
  co_await Write(&seen, RemoveOp("k5"));
  co_await Write(plain, RemoveOp("k5"));
  auto lane = co_await stored->Get(KeySpace(kReservedNamespace).Stored("k3"), kNewest, nullptr);
  EXPECT_TRUE(lane.ok() && lane->found) << "what is remembered of a client is among the records of requests";
  auto found = co_await seen.Get("k3", kNewest, nullptr);
  EXPECT_EQ(found->value, "value3");
  auto missing = co_await seen.Get("k5", kNewest, nullptr);
  EXPECT_FALSE(missing->found);
  for (const ScanSpec& spec : Specs()) co_await ExpectSameScan(&seen, plain, spec);
  co_await ExpectSameAggregates(&seen, plain, "", "");
  co_await ExpectSameAggregates(&seen, plain, "k2", "k7");
  co_await ExpectSameChanges(&seen, plain, "");
  co_await ExpectSameChanges(&seen, plain, "k3");
  EXPECT_OK(co_await engine->Close(/*checkpoint=*/true));
}

TEST(NamespacedPartition, AnswersAsIfThereWereNothingElse) {
  SimKernel kernel{1};
  SimReactor* reactor = kernel.AddMachine()->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, CompareWithPlain(reactor)));
}

// Reads one slice, in pages that look at few records.
Task<void> WalkSlice(Partition* seen, HashSlice slice, bool reverse, std::vector<std::string>* keys) {
  ScanSpec spec;
  spec.slice = slice;
  spec.reverse = reverse;
  spec.max_examined = 7;
  spec.max_rows = 5;
  const size_t before = keys->size();
  for (;;) {
    auto page = co_await seen->Scan(spec);
    EXPECT_OK(page.status());
    if (!page.ok()) co_return;
    EXPECT_LE(page->examined, slice.all() ? 0u : 8u);
    for (const ScanRow& row : page->rows) {
      EXPECT_TRUE(slice.Has(HashId(row.key)));
      EXPECT_EQ(row.value, row.key.ends_with("0") ? std::string(20'000, 'v') : std::string(row.key));
      const bool in_order = keys->size() == before || (keys->back() < row.key) != reverse;
      EXPECT_TRUE(in_order) << row.key;
      keys->emplace_back(row.key);
    }
    const auto read_to = page->read_to();
    if (!read_to) co_return;
    (reverse ? spec.end : spec.start) = *read_to;
    spec.start_exclusive = !reverse;
  }
}

// Among records of another namespace, some of them with values of their own.
Task<void> ReadSlices(Reactor* reactor) {
  Setup setup;
  setup.store.namespaced = true;
  auto opened = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(opened.status());
  if (!opened.ok()) co_return;
  Partition* stored = (*opened)->partition(0);
  NamespacedPartition seen(KeySpace(kDefaultNamespace), stored);
  std::set<std::string> all;
  for (int i = 0; i < 150; ++i) {
    const std::string key = fmt::format("k{:03}", i);
    const std::string value = i % 10 == 0 ? std::string(20'000, 'v') : key;
    co_await Write(&seen, PutOp(key, value));
    co_await Write(stored, PutOp(KeySpace(1).Stored(key), "of another namespace"));
    all.insert(key);
  }
  for (const uint32_t slices : {1u, 3u, 16u}) {
    for (const bool reverse : {false, true}) {
      std::vector<std::string> keys;
      for (uint32_t slice = 0; slice < slices; ++slice) {
        co_await WalkSlice(&seen, HashSlice::Of(slices, slice), reverse, &keys);
      }
      EXPECT_EQ(keys.size(), all.size());
      EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()), all);
    }
  }
  EXPECT_OK(co_await (*opened)->Close(/*checkpoint=*/true));
}

TEST(NamespacedPartition, SlicesHaveEachRowOnce) {
  SimKernel kernel{1};
  SimReactor* reactor = kernel.AddMachine()->Boot();
  ASSERT_TRUE(kernel.RunTask(*reactor, ReadSlices(reactor)));
}

}  // namespace
}  // namespace pando::engine_test
