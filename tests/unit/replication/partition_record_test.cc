// The record of a partition and the entry of the core hold the same, and neither loses anything.
#include "src/replication/partition_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pando::replication {
namespace {

using ::testing::ElementsAre;

ReplicaRecord Replica(uint64_t i) { return {static_cast<NodeId>(i), {7, i}, i == 3 ? R"({"rack":"b"})" : ""}; }
ReplicaId Id(uint64_t i) { return {7, i}; }
const OpId kOp = {{7, 2}, 41, 9};

PartitionRecord Record() {
  PartitionRecord r;
  r.id = 12;
  std::tie(r.first_hash, r.last_hash) = HashRangeOf(12, 64);
  r.lineage = 2;
  r.epoch = 9;
  r.master = Id(2);
  r.isr = {Replica(2), Replica(1)};
  r.evicted = {Replica(3)};
  r.learners = {Replica(4)};
  r.replicas = 3;
  r.min_isr = 2;
  r.op_id = "00000000-0000-0007-0000-000000000002/41/9";
  r.unknown = R"({"compaction":true})";
  return r;
}

TEST(PartitionRecord, OpIdsAreText) {
  EXPECT_EQ(ToText(kOp), Record().op_id);
  EXPECT_EQ(OpIdFromText(Record().op_id), kOp);
  const OpId largest = {{~0ull, ~0ull}, ~0ull, ~0ull};
  EXPECT_EQ(OpIdFromText(ToText(largest)), largest);
  EXPECT_LE(ToText(largest).size(), kMaxOpIdBytes);
  const std::string good = ToText(kOp);
  for (const std::string& other :
       {std::string(), std::string("00000000000000ab"), good + "0x", good + "/", good + " ", "0" + good,
        good.substr(0, 38), good.substr(0, 36), std::string("00000000-0000-0007-0000-000000000002/041/9"),
        std::string("00000000-0000-0007-0000-000000000002/-1/9"),
        std::string("00000000-0000-0007-0000-000000000002/41/99999999999999999999")}) {
    EXPECT_EQ(OpIdFromText(other), OpId()) << other;
  }
}

TEST(PartitionRecord, ThereAndBack) {
  const PartitionRecord record = Record();
  const PartitionEntry entry = EntryOf({record, 77});
  EXPECT_EQ(entry.lineage, 2u);
  EXPECT_EQ(entry.epoch, 9u);
  EXPECT_EQ(entry.master, Id(2));
  EXPECT_EQ(entry.isr, (ReplicaSet{Id(1), Id(2)}));
  EXPECT_EQ(entry.assigned, (ReplicaSet{Id(1), Id(2), Id(3)}));
  EXPECT_EQ(entry.learners, ReplicaSet{Id(4)});
  EXPECT_EQ(entry.replicas, 3u);
  EXPECT_EQ(entry.min_isr, 2u);
  EXPECT_EQ(entry.op_id, kOp);
  EXPECT_EQ(entry.revision, 77u);
  EXPECT_EQ(RecordOf(entry, record), record);
}

TEST(PartitionRecord, WhatItSaysOfSplits) {
  PartitionRecord record = Record();
  record.split = SplitOrder{64, R"({"hurry":true})"};
  record.opened_lsn = 4711;
  PartitionEntry entry = EntryOf({record, 77});
  EXPECT_EQ(entry.stage, PartitionStage::kServing);
  EXPECT_EQ(entry.split, record.split);
  EXPECT_EQ(entry.opened_lsn, 4711u);
  EXPECT_EQ(RecordOf(entry, record), record);
  entry.stage = PartitionStage::kRetired;
  entry.split.reset();
  const PartitionRecord retired = RecordOf(entry, record);
  EXPECT_EQ(retired.state, PartitionStage::kRetired);
  EXPECT_FALSE(retired.split.has_value());
  EXPECT_EQ(retired.opened_lsn, 4711u);
  EXPECT_TRUE(EntryOf({retired, 78}).retired());
}

TEST(PartitionRecord, KeepsWhatTheCoreDoesNotKnow) {
  const PartitionRecord before = Record();
  PartitionEntry desired = EntryOf({before, 77});
  desired.epoch = 10;
  desired.lineage = 3;
  desired.master = Id(3);
  desired.isr = {Id(3), Id(4)};  // a member is evicted, another forgotten, one comes back, a learner joins
  desired.assigned = {Id(1), Id(3), Id(4)};
  desired.learners = {};
  desired.min_isr = 1;
  desired.replicas = 2;
  desired.op_id = {Id(3), 5, 6};
  const PartitionRecord record = RecordOf(desired, before);
  EXPECT_THAT(record.isr, ElementsAre(Replica(3), Replica(4)));
  EXPECT_THAT(record.evicted, ElementsAre(Replica(1)));
  EXPECT_THAT(record.learners, ElementsAre());
  EXPECT_EQ(record.unknown, before.unknown);
  EXPECT_EQ(record.id, 12u);
  EXPECT_EQ(record.first_hash, before.first_hash);
  EXPECT_EQ(record.last_hash, before.last_hash);
  const PartitionEntry again = EntryOf({record, 77});
  EXPECT_EQ(again.lineage, 3u);
  EXPECT_EQ(again.epoch, 10u);
  EXPECT_EQ(again.master, Id(3));
  EXPECT_EQ(again.isr, desired.isr);
  EXPECT_EQ(again.assigned, desired.assigned);
  EXPECT_EQ(again.learners, desired.learners);
  EXPECT_EQ(again.replicas, 2u);
  EXPECT_EQ(again.min_isr, 1u);
  EXPECT_EQ(again.op_id, desired.op_id);
  EXPECT_TRUE(Check(record).ok());
}

// As many as a record may have: the core has room for all.
TEST(PartitionRecord, TheMostReplicas) {
  PartitionRecord record = Record();
  record.isr.clear();
  record.evicted.clear();
  record.learners.clear();
  for (uint64_t i = 1; i <= kMaxReplicas; ++i) (i % 3 == 0 ? record.learners : record.isr).push_back(Replica(i));
  ASSERT_TRUE(Check(record).ok());
  const PartitionEntry entry = EntryOf({record, 1});
  EXPECT_EQ(entry.isr.Union(entry.learners).size(), kMaxReplicas);
  EXPECT_EQ(RecordOf(entry, record).isr, record.isr);
  record.isr.push_back(Replica(kMaxReplicas + 1));
  EXPECT_FALSE(Check(record).ok());
}

TEST(PartitionRecordDeathTest, AProposalOfStrangers) {
  PartitionEntry desired = EntryOf({Record(), 77});
  desired.learners.Insert(Id(9));
  EXPECT_DEATH((void)RecordOf(desired, Record()), "a replica that its record does not have");
}

}  // namespace
}  // namespace pando::replication
