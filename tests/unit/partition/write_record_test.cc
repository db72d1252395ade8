// The digest by which a write that is sent again is known.
#include "src/partition/write_record.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace pando {
namespace {

WriteOp Put() {
  WriteOp op;
  op.op = RecordOp::kPut;
  op.key = "k";
  op.value = "v";
  return op;
}
WriteOp Expiring(int64_t ttl_ms, int64_t expires_at_ms) {
  WriteOp op = Put();
  op.ttl_mode = TtlMode::kSet;
  op.ttl_ms = ttl_ms;
  op.expires_at_ms = expires_at_ms;
  return op;
}
uint64_t Digest(const std::vector<WriteOp>& ops, bool all_or_nothing = false) {
  std::string scratch;
  return DigestOf(ops, all_or_nothing, &scratch);
}

// Golden: a write that was sent before an upgrade must be known after it.
TEST(WriteRecord, DigestsStayWhatTheyAre) {
  EXPECT_EQ(Digest({Put()}), 0x4e0109824d7e67f0u);
  EXPECT_EQ(Digest({Put(), Expiring(10'000, 0)}, true), 0x7a9e38afd59eee29u);
}

TEST(WriteRecord, EverythingThatIsAskedForCounts) {
  std::vector<WriteOp> all(12, Put());
  all[1].key = "l";
  all[2].value = "w";
  all[3].op = RecordOp::kRemove;
  all[4].condition.exists = false;
  all[5].condition.version = 7;
  all[6].condition.value = "v";
  all[7].ttl_mode = TtlMode::kClear;
  all[8] = Expiring(10'000, 0);
  all[9] = Expiring(3'600'000, 0);
  all[10] = Expiring(0, 10'000);
  all[11] = Expiring(0, 3'600'000);
  std::set<uint64_t> digests;
  for (const WriteOp& op : all) digests.insert(Digest({op}));
  EXPECT_EQ(digests.size(), all.size());
  for (const WriteOp& op : all) digests.insert(Digest({Put(), op}));
  EXPECT_EQ(digests.size(), 2 * all.size());
  digests.insert(Digest({all[1], all[0]}));
  digests.insert(Digest({all[0]}, /*all_or_nothing=*/true));
  EXPECT_EQ(digests.size(), 2 * all.size() + 2);
  EXPECT_EQ(Digest({all[8]}), Digest({Expiring(10'000, 0)}));
}

TEST(WriteRecord, ATtlCountsFromTheVersion) {
  const Version version = VersionAtMs(5'000) + 3;
  EXPECT_EQ(RecordOf(Expiring(10'000, 0), version).expires_at_ms, 15'000);
  EXPECT_EQ(RecordOf(Expiring(0, 10'000), version).expires_at_ms, 10'000);
}

}  // namespace
}  // namespace pando
