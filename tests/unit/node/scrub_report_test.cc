// Tests the report of damage of a reactor, and the sum of those of a node.
#include "src/node/scrub_report.h"

#include <gtest/gtest.h>

namespace pando {
namespace {

std::vector<QuarantinedPartition> Quarantined(uint32_t count) {
  std::vector<QuarantinedPartition> all(count);
  for (uint32_t id = 0; id < count; ++id) {
    all[id].id = id;
    all[id].why = Error(Code::kCorruption, "block 9 is damaged");
  }
  return all;
}

// However many partitions are quarantined, a report stays small and says how many there are.
TEST(DamageReport, HasRoomForAFewFindings) {
  StoreInfo store;
  store.data_dir = "/data";
  constexpr uint32_t kMany = 3 * DamageReport::kMaxFindings;
  for (const uint32_t scrubbed : {0u, 1u, 99u, 100u}) {
    ScrubReport scrub;
    scrub.findings.resize(scrubbed);
    DamageReport report{scrub};
    report.Add(store, Quarantined(kMany), kMany);
    EXPECT_EQ(report.scrub.findings.size(), DamageReport::kMaxFindings);
    EXPECT_EQ(report.findings_total, scrubbed + kMany);
    api::ScrubReply sum;
    AddReport(report, /*first=*/true, &sum);
    AddReport(report, /*first=*/false, &sum);
    EXPECT_EQ(sum.findings.size(), 2 * DamageReport::kMaxFindings);
    EXPECT_EQ(sum.findings_total, 2 * (scrubbed + kMany));
  }
}

TEST(DamageReport, NamesTheFileOfAQuarantinedPartition) {
  StoreInfo store;
  store.data_dir = "/data";
  ScrubReport scrub;
  scrub.findings.resize(1);
  DamageReport report{scrub};
  report.Add(store, Quarantined(2), 2);
  ASSERT_EQ(report.scrub.findings.size(), 3u);
  EXPECT_EQ(report.findings_total, 3u);
  EXPECT_EQ(report.scrub.findings[2].problem.file, "/data/partition-00001/data");
  EXPECT_NE(report.scrub.findings[2].problem.what.find("block 9 is damaged"), std::string::npos);
}

}  // namespace
}  // namespace pando
