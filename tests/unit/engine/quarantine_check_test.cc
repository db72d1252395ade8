// `kvadmin check` of a store with a quarantined partition names what is damaged, once, and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/log_damage.h"
#include "tests/unit/engine/quarantine_fixture.h"

namespace pando::engine_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class QuarantineCheckTest : public QuarantineTest {
 protected:
  // The check finds this, in partition 0, and nothing besides.
  void ExpectOnly(const std::string& says) {
    const std::string found = Problems();
    EXPECT_EQ(std::count(found.begin(), found.end(), '\n'), 1) << found;
    EXPECT_THAT(found, AllOf(testing::StartsWith("[0] "), HasSubstr(says)));
  }
};

TEST_F(QuarantineCheckTest, AnUnreadableFile) {
  Run(Fill);
  DamageSuperblocks();
  ExpectOnly("no valid superblock");
  Run(ExpectQuarantine);
  ExpectOnly("no valid superblock");
  Run(FillTheLog);
  ExpectOnly("no valid superblock");
}

TEST_F(QuarantineCheckTest, AMissingFile) {
  Run(Fill);
  machine_->disk().RemoveTree(DataPath(0));
  ExpectOnly(DataPath(0));
}

TEST_F(QuarantineCheckTest, ADamagedRoot) {
  Run(Fill);
  DamageRoot();
  ExpectOnly("checksum");
  Run(ExpectQuarantine);
  ExpectOnly("checksum");
}

TEST_F(QuarantineCheckTest, UnitsThatTheLogDropped) {
  Run(Fill);
  const std::string sound = DamageSuperblocks();
  Run(FillTheLog);
  machine_->disk().WriteAll(DataPath(0), sound);
  ExpectOnly("quarantined until the log needed the room");
}

TEST_F(QuarantineCheckTest, UnitsThatBreak) {
  Run(Fill);
  const StoreInfo store = Info();
  ASSERT_TRUE(BreakUnit(&machine_->disk(), "/data/wal-0", store.node, store.partitions[0].uuid, kRecords / 2 - 20));
  for (int start = 0; start < 3; ++start) {
    ExpectOnly("the chain of the unit");
    says_ = "the chain of the unit";
    Run(ExpectQuarantine);
  }
}

// A write error leaves no damage on the disk.
TEST_F(QuarantineCheckTest, AFileThatFailsWhileItServes) {
  Run(Fill);
  says_ = DataPath(0);
  Run([](QuarantineTest* t) -> Task<void> {
    for (int i = 0; i < kRecords; i += 2) EXPECT_OK(co_await Put(t->engine_->partition(0), Key(i), Value(i)));
    t->FailWrites();
    EXPECT_FALSE((co_await t->engine_->partition(0)->Checkpoint()).ok());
    co_await ExpectQuarantine(t);
  });
  machine_->ClearFaults();
  EXPECT_EQ(Problems(), "");
}

// Where the log cannot be read on, nothing is known about what follows, and the partitions are not to
// blame.
TEST_F(QuarantineCheckTest, ADamagedLog) {
  Run(Fill);
  // A byte in a batch in the middle of the log.
  std::string path;
  for (const std::string& file : machine_->disk().AllFiles()) {
    if (!file.starts_with("/data/wal-0/segment-")) continue;
    path = file;
    break;
  }
  std::string image = machine_->disk().ReadAll(path);
  image[image.size() / 2] ^= 1;
  machine_->disk().WriteAll(path, image);
  const std::string found = Problems();
  EXPECT_EQ(std::count(found.begin(), found.end(), '\n'), 1) << found;
  EXPECT_THAT(found, AllOf(HasSubstr(path + ": offset"), Not(HasSubstr("[")))) << found;
}

}  // namespace
}  // namespace pando::engine_test
