#include "tools/kvbench/engines/drive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace pando::bench {
namespace {

DriveSpec SpecOf(const std::string& workload, uint64_t records) {
  WorkloadOptions options;
  options.name = workload;
  options.keys = records;
  DriveSpec spec;
  spec.mix = *MixOf(options);
  spec.records = records;
  spec.seconds = 1;
  return spec;
}

TEST(OpenLoop, OperationsAreDueAtFixedTimesHoweverManyThereWere) {
  OpenLoopSchedule schedule(/*rate=*/3000, /*start_ns=*/1000, /*seconds=*/2);
  EXPECT_EQ(schedule.count(), 6000u);
  EXPECT_EQ(schedule.DueNs(0), 1000);
  EXPECT_EQ(schedule.DueNs(1), 1000 + 333'333);
  EXPECT_EQ(schedule.DueNs(3), 1000 + 1'000'000);
  EXPECT_EQ(schedule.DueNs(3'000'000'000), 1000 + 1'000'000'000'000'000) << "no drift after 11 days";
}

TEST(OpenLoop, LatencyBeginsWhenAnOperationWasDueNotWhenItWasDrawn) {
  DriveSpec spec = SpecOf("get", 100);
  spec.rate = 1000;
  spec.seconds = 0.005;
  OpSource source(spec);
  source.Start(/*begin_ns=*/5'000'000);
  OpClient client(&source, 0);
  const int64_t late_ns = 900'000'000;  // the engine was stalled until then
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(source.NextDueNs(), 5'000'000 + i * 1'000'000);
    const DrawnOp* op = client.Draw(late_ns);
    ASSERT_NE(op, nullptr) << "every operation that was due within the window must be drawn, however late";
    EXPECT_EQ(op->from_ns, 5'000'000 + i * 1'000'000);
  }
  EXPECT_EQ(source.NextDueNs(), std::nullopt);
  EXPECT_EQ(client.Draw(late_ns), nullptr);
}

TEST(ClosedLoop, EndsWithItsWindow) {
  OpSource source(SpecOf("get", 100));
  source.Start(0);
  OpClient client(&source, 0);
  const DrawnOp* op = client.Draw(999'999'999);
  ASSERT_NE(op, nullptr);
  EXPECT_EQ(op->from_ns, 999'999'999);
  EXPECT_EQ(client.Draw(1'000'000'000), nullptr);
}

TEST(OpSource, ReadsEveryRecordOnceOverAllClients) {
  DriveSpec spec = SpecOf("get", 1000);
  spec.read_all_once = true;
  OpSource source(spec);
  source.Start(0);
  OpClient one(&source, 0), two(&source, 1);
  std::multiset<std::string> keys;
  for (OpClient* client = &one; const DrawnOp* op = client->Draw(0); client = client == &one ? &two : &one) {
    keys.emplace(op->key);
  }
  EXPECT_EQ(keys.size(), 1000u);
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(keys.count(MakeKey(i, 16)), 1u);
}

TEST(OpSource, ClientsNumberTheirInsertsTogether) {
  OpSource source(SpecOf("ycsb-d", 100));
  source.Start(0);
  OpClient one(&source, 0), two(&source, 1);
  std::set<std::string> inserted;
  uint64_t inserts = 0;
  for (int i = 0; i < 4000; ++i) {
    const DrawnOp* op = (i % 2 == 0 ? one : two).Draw(0);
    if (!op->insert) continue;
    inserted.emplace(op->key);
    ++inserts;
  }
  EXPECT_GT(inserts, 100u);
  EXPECT_EQ(inserted.size(), inserts) << "two clients inserted the same record";
  EXPECT_TRUE(inserted.contains(MakeKey(100, 16)));
  EXPECT_TRUE(inserted.contains(MakeKey(100 + inserts - 1, 16)));
}

TEST(OpSource, StreamsOfClientsDifferButDoNotDependOnEachOther) {
  OpSource source(SpecOf("put", 1'000'000));
  source.Start(0);
  OpClient one(&source, 0), two(&source, 1);
  OpSource again(SpecOf("put", 1'000'000));
  again.Start(0);
  OpClient alone(&again, 0);
  for (int i = 0; i < 100; ++i) {
    std::string first(one.Draw(0)->key);
    EXPECT_NE(first, two.Draw(0)->key);
    EXPECT_EQ(first, alone.Draw(0)->key);
  }
}

TEST(OpClient, ChecksWhatIsRead) {
  DriveSpec spec = SpecOf("get", 10);
  spec.check_every = 1;
  OpSource source(spec);
  source.Start(0);
  OpClient client(&source, 0);
  DriveTally tally;
  ASSERT_NE(client.Draw(0), nullptr);
  std::string value(client.NewValue());
  EXPECT_TRUE(client.CheckFound(true, value, &tally).ok());
  EXPECT_EQ(tally.checked, 1u);
  EXPECT_EQ(client.CheckFound(true, value.substr(1), &tally).code(), Code::kCorruption);
  value[100] = static_cast<char>(value[100] ^ 1);
  EXPECT_EQ(client.CheckFound(true, value, &tally).code(), Code::kCorruption);
  EXPECT_EQ(client.CheckFound(false, "", &tally).code(), Code::kCorruption) << "no client removes records";
}

TEST(OpClient, ScansEverythingInSteps) {
  OpSource source(SpecOf("scan-full", 5000));
  source.Start(0);
  OpClient client(&source, 0);
  DriveTally tally;
  const DrawnOp* op = client.Draw(0);
  const std::string first(1, '\0');
  EXPECT_EQ(op->key, first);
  const uint32_t step = op->rows;
  ASSERT_LT(step, 5000u);
  EXPECT_TRUE(client.CheckRows(step, "k1", &tally).ok());
  EXPECT_EQ(client.Draw(0)->key, std::string("k1") + '\0');
  EXPECT_TRUE(client.CheckRows(5000 - step, "k2", &tally).ok());
  EXPECT_EQ(client.Draw(0)->key, first) << "it begins again";
  EXPECT_EQ(tally.rows, 5000u);
  EXPECT_EQ(client.CheckRows(step - 1, "k1", &tally).code(), Code::kCorruption) << "the scan lost records";
}

TEST(DriveTally, KeepsTheWorstLatencyOfEverySlice) {
  DriveTally tally(/*begin=*/1'000), other(/*begin=*/1'000);
  tally.Done(1'000, 51'000);
  tally.Done(1'000, 21'000);
  other.Done(1'000, 250'001'000);
  tally.Merge(other);
  ASSERT_EQ(tally.timeline.size(), 3u);
  EXPECT_EQ(tally.timeline[0].ops, 2u);
  EXPECT_EQ(tally.timeline[0].max_ns, 50'000);
  EXPECT_EQ(tally.timeline[1].ops, 0u);
  EXPECT_EQ(tally.timeline[2].max_ns, 250'000'000);
  EXPECT_EQ(tally.ops, 3u);
  EXPECT_EQ(tally.latency_ns.max(), 250'000'000u);
}

TEST(LoadSource, HandsOutEveryRecordOnceAndSortedWhenAsked) {
  for (bool sorted : {false, true}) {
    LoadSpec spec;
    spec.records = 1001;
    spec.sorted = sorted;
    spec.batch_records = 100;
    LoadSource source(spec);
    LoadSource::Batch batch;
    std::vector<std::string> keys;
    while (source.Next(&batch)) {
      EXPECT_EQ(batch.count, keys.size() == 1000 ? 1u : 100u);
      for (size_t i = 0; i < batch.count; ++i) {
        EXPECT_TRUE(CheckValue(batch.keys[i], batch.values[i], 1000));
        keys.push_back(std::move(batch.keys[i]));  // an engine may move the strings out
      }
    }
    EXPECT_EQ(std::is_sorted(keys.begin(), keys.end()), sorted);
    EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(), 1001u);
  }
}

}  // namespace
}  // namespace pando::bench
