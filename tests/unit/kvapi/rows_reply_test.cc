// A RowsReply must be what the generated struct with the same rows would be, byte for byte.
#include "src/kvapi/rows_reply.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "gen-cpp/Kv.h"
#include "gen-cpp/Routing.h"
#include "tests/support/copy_rows.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using apache::thrift::protocol::T_REPLY;

constexpr WireProtocol kProtocols[] = {WireProtocol::kBinary, WireProtocol::kOldBinary, WireProtocol::kCompact};

ScanPage RandomPage(SimRandom* random) {
  ScanPage page;
  // The compact protocol has another form for lists of less than 15 entries.
  const uint64_t count = random->Below(random->Chance(0.5) ? 3 : 40);
  for (uint64_t i = 0; i < count; ++i) {
    ScanRow& row = page.rows.emplace_back();
    row.key = page.bytes.Copy(std::string(1 + random->Below(200), static_cast<char>(random->Next())));
    row.removed = random->Chance(0.2);
    if (row.removed) continue;
    row.value = page.bytes.Copy(std::string(random->Chance(0.3) ? 0 : random->Below(20'000), '\0'));
    row.version = random->Next() >> 1;
    row.expires_at_ms = random->Chance(0.5) ? 0 : static_cast<int64_t>(random->Next() >> 8);
    row.value_bytes = static_cast<uint32_t>(random->Next());
  }
  return page;
}

template <typename Body>
std::string Encoded(WireProtocol protocol, const Body& body) {
  ThriftCodec codec;
  std::string frame = "before";
  codec.Write({protocol, T_REPLY, 7, "scan"}, body, &frame);
  return frame;
}

// `fill` sets all but the rows. (Thrift lets no result be copied.)
template <typename Result, typename Fill>
void ExpectSameBytes(const Fill& fill, const ScanPage& page, bool sizes_only) {
  Result result, whole;
  for (Result* each : {&result, &whole}) {
    fill(&each->success);
    each->__isset.success = true;
  }
  CopyRows(page, sizes_only, &whole.success.rows);
  for (const WireProtocol protocol : kProtocols) {
    SCOPED_TRACE(static_cast<int>(protocol));
    const std::string want = Encoded(protocol, whole);
    const RowsReply reply(result, page, sizes_only);
    EXPECT_EQ(Encoded(protocol, reply), want);
    EXPECT_GE(reply.likely_bytes(), want.size()) << "the reply was not allocated at once";
  }
  // Rows that are encoded already: those of the binary protocol without what is around them.
  std::string rows, all, none;
  ThriftCodec codec;
  codec.WriteStruct(whole.success, &all);
  codec.WriteStruct(result.success, &none);
  constexpr size_t kHeadBytes = 3 + 5;  // of the field, and of the list
  rows = all.substr(kHeadBytes, all.size() - none.size());
  const RowsReply passed(result, rows, static_cast<uint32_t>(page.rows.size()));
  EXPECT_EQ(Encoded(WireProtocol::kBinary, passed), Encoded(WireProtocol::kBinary, whole));
}

TEST(RowsReply, IsByteForByteWhatTheGeneratedStructIs) {
  for (const uint64_t seed : Seeds(200)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    const ScanPage page = RandomPage(&random);
    const bool sizes_only = random.Chance(0.5);
    const std::string cursor(random.Below(100), 'c'), read_to = random.Chance(0.5) ? "key" : "";
    const bool with_context = random.Chance(0.5), exhausted = random.Chance(0.5);
    const size_t covered = random.Below(3);
    const auto fill_scan = [&](api::ScanReply* reply) {
      reply->cursor = cursor;
      if (!with_context) return;
      reply->context.__set_session(std::string(20'000, 's'));  // as of a thousand partitions
      reply->__isset.context = true;
    };
    ExpectSameBytes<api::Kv_scan_result>(fill_scan, page, sizes_only);
    const auto fill_partitions = [&](api::ScanPartitionsReply* reply) {
      reply->exhausted = exhausted;
      reply->examined_to = read_to;
      reply->covered.resize(covered);
    };
    ExpectSameBytes<api::Routing_scanPartitions_result>(fill_partitions, page, sizes_only);
  }
}

TEST(RowsReplyDeathTest, TheResultHasNoRowsOfItsOwn) {
  api::Kv_scan_result result;
  result.success.rows.emplace_back();
  const ScanPage page;
  EXPECT_DEATH(Encoded(WireProtocol::kBinary, RowsReply(result, page, false)), "rows are not the first field");
}

}  // namespace
}  // namespace pando
