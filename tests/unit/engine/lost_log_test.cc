// A log that is lost completely or in part. A start refuses it and says what is missing, and so
// does the checker. Nothing is created in its place.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "src/partition/superblock.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Files = std::map<std::string, std::string>;

std::string Key(int i) { return fmt::format("key-{:05}", i); }

class LostLogTest : public testing::Test {
 public:
  LostLogTest() {
    FLAGS_minloglevel = 3;
    setup_.engine.log_segment_bytes = 128u << 10;
    setup_.engine.log_budget_bytes = 2u << 20;
  }
  SimDisk& disk() { return machine_->disk(); }
  void Run(Task<void> task) {
    if (machine_->running()) machine_->ProcessCrash(1);
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, std::move(task)));
  }

  Files LogFiles() {
    Files files;
    for (const std::string& path : disk().AllFiles()) {
      if (path.starts_with("/data/wal-0/segment-")) files[path] = disk().ReadAll(path);
    }
    return files;
  }
  void PutBack(const Files& files) {
    disk().RemoveTree("/data/wal-0");
    for (const auto& [path, bytes] : files) disk().WriteAll(path, bytes);
  }

  // Writes records [from, to) and then kills the process or closes the engine cleanly.
  enum class End { kKilled, kClosed };
  void WriteRecords(int from, int to, End end);
  // Starts the engine. If that succeeds, exactly the first `records` records must be there.
  Status Start(int records);
  std::string Check();
  void ExpectRefused(std::string_view what);

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  SimDisk killed_;
  int step_ = 1;  // 2: records of one partition only
  Status status_;
  std::string problem_;
};

Task<void> WriteBody(LostLogTest* t, int from, int to) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  for (int i = from; i < to; i += t->step_) {
    EXPECT_OK(co_await Put((*engine)->partition(static_cast<uint32_t>(i) % 2), Key(i), std::string(500, 'v')));
  }
  t->killed_ = t->disk();
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

void LostLogTest::WriteRecords(int from, int to, End end) {
  Run(WriteBody(this, from, to));
  if (end == End::kKilled) disk() = killed_;
}

Task<void> StartBody(LostLogTest* t, int records) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  t->status_ = engine.status();
  if (!engine.ok()) co_return;
  for (int i = 0; i < records + 10; ++i) {
    Result<ReadResult> got = co_await (*engine)->partition(static_cast<uint32_t>(i) % 2)->Get(Key(i), kNewest, nullptr);
    EXPECT_OK(got.status());
    if (!got.ok()) continue;
    EXPECT_EQ(got->found, i < records) << Key(i);
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

// The other partition goes on.
Task<void> StartWithAnOlderCopy(LostLogTest* t) {
  auto engine = co_await OpenEngine(*t->reactor_, t->setup_);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  t->status_ = (co_await (*engine)->partition(0)->Get(Key(0), kNewest, nullptr)).status();
  EXPECT_OK((co_await (*engine)->partition(1)->Get(Key(1), kNewest, nullptr)).status());
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
}

Task<void> AcceptBody(LostLogTest* t) { EXPECT_OK(co_await AcceptLossOfLog(t->reactor_, "/data")); }

Status LostLogTest::Start(int records) {
  Run(StartBody(this, records));
  return status_;
}

Task<void> CheckBody(LostLogTest* t) { t->problem_ = co_await Audit(*t->reactor_, "/data"); }

std::string LostLogTest::Check() {
  Run(CheckBody(this));
  return problem_;
}

void LostLogTest::ExpectRefused(std::string_view what) {
  const Files before = LogFiles();
  const auto says = AllOf(HasSubstr("/data/wal-0"), HasSubstr("lost"), HasSubstr(std::string(what)),
                          HasSubstr("/data/partition-0000"), HasSubstr("restore"));
  EXPECT_THAT(Check(), says);
  Status refused = Start(0);
  EXPECT_EQ(refused.code(), Code::kCorruption) << refused.ToString();
  EXPECT_THAT(std::string(refused.message()), AllOf(says, HasSubstr("kvadmin accept-loss /data --log 0")));
  EXPECT_TRUE(LogFiles() == before) << "the remaining segments were changed";
}

TEST_F(LostLogTest, OfAKilledProcessThatWasNeverCheckpointed) {
  WriteRecords(0, 20, End::kKilled);
  const Files log = LogFiles();
  disk().RemoveTree("/data/wal-0");
  ExpectRefused("no segment in it has records");
  EXPECT_FALSE(disk().Exists("/data/wal-0"));
  EXPECT_EQ(disk().MakeDirectory("/data/wal-0"), 0);  // an empty directory is not a log either
  ExpectRefused("no segment in it has records");
  PutBack(log);
  EXPECT_EQ(Check(), "");
  EXPECT_OK(Start(20));
}

TEST_F(LostLogTest, AfterAProperStop) {
  WriteRecords(0, 20, End::kClosed);
  disk().RemoveTree("/data/wal-0");
  ExpectRefused("no segment in it has records");
}

TEST_F(LostLogTest, TheSegmentsWithRecordsAreGoneAndSparesAreLeft) {
  WriteRecords(0, 20, End::kKilled);
  disk().RemoveTree("/data/wal-0/segment-00000000000000000001.wal");
  ASSERT_FALSE(LogFiles().empty());
  ExpectRefused("no segment in it has records");
}

// L6: the end of the log only moves forward, so a log that ends earlier is not the whole log.
TEST_F(LostLogTest, AnOlderCopyWasPutBack) {
  WriteRecords(0, 20, End::kClosed);
  const Files older = LogFiles();
  WriteRecords(20, 1000, End::kClosed);
  PutBack(older);
  ExpectRefused("it ends in segment-");
}

// L9: the log holds no record of the partition any more, but it states how far the partition was
// checkpointed.
TEST_F(LostLogTest, AnOlderCopyOfAPartitionWasPutBack) {
  const std::string path = "/data/partition-00000/data";
  WriteRecords(0, 20, End::kClosed);
  const std::string older = disk().ReadAll(path);
  WriteRecords(20, 40, End::kClosed);
  step_ = 2;
  for (const End end : {End::kClosed, End::kKilled}) {
    WriteRecords(41, 2041, end);
    const std::string newest = disk().ReadAll(path);
    disk().WriteAll(path, older);
    const auto says = AllOf(HasSubstr("LSN 10"), HasSubstr("LSN 20"), HasSubstr("older copy"));
    EXPECT_THAT(Check(), says);
    Run(StartWithAnOlderCopy(this));
    EXPECT_EQ(status_.code(), Code::kUnavailable);
    EXPECT_THAT(std::string(status_.message()), AllOf(HasSubstr("quarantined"), HasSubstr(path), says));
    disk().WriteAll(path, newest);
    EXPECT_EQ(Check(), "");
  }
}

// Clears log_end in all copies, as a version without the field wrote them.
void ForgetLogEnd(SimDisk* disk, const std::string& path) {
  std::string bytes = disk->ReadAll(path);
  for (uint32_t copy = 0; copy < kSuperblockBlocks; ++copy) {
    Superblock sb;
    char* block = bytes.data() + copy * kBlockBytes;
    if (!ParseSuperblock({block, kBlockBytes}, &sb).ok()) continue;
    sb.log_end = 0;
    EncodeSuperblock(sb, block);
  }
  disk->WriteAll(path, bytes);
}

TEST_F(LostLogTest, AStoreOfAVersionThatDidNotSaySoOpensAndSaysSoFromThenOn) {
  WriteRecords(0, 20, End::kClosed);
  for (int p = 0; p < 2; ++p) ForgetLogEnd(&disk(), fmt::format("/data/partition-{:05}/data", p));
  const SimDisk old = disk();
  EXPECT_EQ(Check(), "");
  EXPECT_OK(Start(20));
  disk().RemoveTree("/data/wal-0");
  ExpectRefused("no segment in it has records");
  disk() = old;
  disk().RemoveTree("/data/wal-0");
  EXPECT_EQ(Check(), "") << "the end of the log is unknown, so nothing is missing";
  EXPECT_OK(Start(20));
}

TEST_F(LostLogTest, AnOperatorMayGoOnWithoutIt) {
  WriteRecords(0, 20, End::kClosed);
  WriteRecords(20, 40, End::kKilled);
  disk().RemoveTree("/data/wal-0");
  ExpectRefused("no segment in it has records");
  Run(AcceptBody(this));
  EXPECT_OK(Start(20));
  EXPECT_EQ(Check(), "");
  WriteRecords(20, 30, End::kKilled);
  EXPECT_OK(Start(30));
  disk().RemoveTree("/data/wal-0");
  ExpectRefused("no segment in it has records");
}

}  // namespace
}  // namespace pando::engine_test
