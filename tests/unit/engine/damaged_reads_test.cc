// Reads that fail because of damage or a device error are counted, and the error names file and offset.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/engine/quarantine_fixture.h"

namespace pando::engine_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class DamagedReadsTest : public QuarantineTest {
 public:
  DamagedReadsTest() {
    setup_.engine.compression = Compression::kNone;
    checkpoint_ = true;
    Run(Fill);
    checkpoint_ = false;
  }
  // Reads all records of partition 0, and returns how many reads failed.
  static Task<uint64_t> ReadAll(QuarantineTest* t, Code code) {
    uint64_t failed = 0;
    for (int i = 0; i < kRecords; i += 2) {
      Result<ReadResult> got = co_await t->engine_->partition(0)->Get(Key(i), kNewest, nullptr);
      if (got.ok()) continue;
      ++failed;
      EXPECT_EQ(got.code(), code) << got.status().ToString();
      EXPECT_THAT(got.status().message(), AllOf(HasSubstr(DataPath(0)), HasSubstr("offset")));
    }
    co_return failed;
  }
};

TEST_F(DamagedReadsTest, ADamagedLeaf) {
  std::string bytes = machine_->disk().ReadAll(DataPath(0));
  const size_t at = bytes.find(Value(100));
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  machine_->disk().WriteAll(DataPath(0), bytes);
  Run([](QuarantineTest* t) -> Task<void> {
    EXPECT_EQ(t->engine_->stats().damaged_reads_total, 0u);
    const uint64_t failed = co_await ReadAll(t, Code::kCorruption);
    EXPECT_GT(failed, 0u);
    EXPECT_LT(failed, 50u);
    EXPECT_EQ(t->engine_->stats().damaged_reads_total, failed);
    ScanSpec spec;
    spec.max_rows = 1000;
    EXPECT_EQ((co_await t->engine_->partition(0)->Scan(spec)).code(), Code::kCorruption);
    EXPECT_GT(t->engine_->stats().damaged_reads_total, failed);
    EXPECT_EQ(t->quarantined_, 0);
    // A write that needs the page is refused before it is logged.
    const Lsn last_lsn = t->engine_->partition(0)->stats().last_lsn;
    EXPECT_EQ((co_await Put(t->engine_->partition(0), Key(100), "new")).code(), Code::kCorruption);
    EXPECT_EQ((co_await Remove(t->engine_->partition(0), Key(100))).code(), Code::kCorruption);
    EXPECT_EQ(t->engine_->partition(0)->stats().last_lsn, last_lsn);
  });
}

TEST_F(DamagedReadsTest, ADeviceThatFails) {
  Run([](QuarantineTest* t) -> Task<void> {
    DiskFault fault;
    fault.kind = IoOp::Kind::kRead;
    fault.path_contains = DataPath(0);
    fault.count = 3;
    t->machine_->AddFault(fault);
    EXPECT_EQ(co_await ReadAll(t, Code::kIoError), 3u);
    EXPECT_EQ(t->engine_->stats().damaged_reads_total, 3u);
  });
}

}  // namespace
}  // namespace pando::engine_test
