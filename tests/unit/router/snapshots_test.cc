// Snapshots through a router: what is refused before any node is asked, and what one client may keep open.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/router/snapshot_shares.h"
#include "tests/support/router_harness.h"

namespace pando {
namespace {

using testing::HasSubstr;

const auto& kConst = api::g_pando_constants;

// RS3.
TEST(SnapshotSharesTest, AClientLeavesRoomForOthers) {
  SnapshotShares shares;
  std::vector<uint64_t> mine;
  while (const uint64_t place = shares.Take(7, 1000)) mine.push_back(place);
  EXPECT_GT(mine.size(), 40u);
  EXPECT_LT(mine.size(), 45u);
  EXPECT_NE(shares.Take(8, 1000), 0u) << "there is room for another one";
  shares.Drop(mine[0]);
  shares.Drop(mine[1]);
  SnapshotId id = 100;
  for (size_t i = 2; i < mine.size(); ++i) shares.Keep(mine[i], id++, 5000);
  EXPECT_NE(shares.Take(7, 2000), 0u) << "some were not opened";
  EXPECT_EQ(shares.Take(7, 2000), 0u);
  shares.NoteReleased(100);
  EXPECT_NE(shares.Take(7, 2000), 0u);
  EXPECT_EQ(shares.Take(7, 2000), 0u);
  shares.NoteRenewed(101, 9000);
  size_t again = 0;
  while (shares.Take(7, 5000) != 0) ++again;
  EXPECT_GT(again, mine.size() - 6) << "the others have expired";
}

class SnapshotsTest : public RouterTest {
 protected:
  template <typename Args, typename Result>
  Result Ask(const std::string& method, const Args& args) {
    struct Body {
      static Task<void> Run(RpcClient* client, std::string method, const Args* args, Result* result) {
        const Status called = co_await client->Call(method, args, result, 10 * kSecond);
        CHECK(called.ok()) << called.message();
      }
    };
    Result result;
    kernel_.RunTask(*at_client_, Body::Run(client_.get(), method, &args, &result));
    return result;
  }
};

TEST_F(SnapshotsTest, LastTenMinutesUnlessRenewed) {
  api::Kv_openSnapshot_args open;
  open.request.ttl_ms = 600'001;
  const auto opened = Ask<api::Kv_openSnapshot_args, api::Kv_openSnapshot_result>("openSnapshot", open);
  EXPECT_EQ(opened.error.code, kConst.BAD_REQUEST);
  EXPECT_THAT(opened.error.message, HasSubstr("renew the snapshot to keep it open longer"));
  api::Kv_renewSnapshot_args renew;
  renew.request.ttl_ms = 86'400'000;
  const auto renewed = Ask<api::Kv_renewSnapshot_args, api::Kv_renewSnapshot_result>("renewSnapshot", renew);
  EXPECT_EQ(renewed.error.code, kConst.BAD_REQUEST);
}

TEST_F(SnapshotsTest, TheContextIsLookedAt) {
  api::Kv_openSnapshot_args open;
  open.context.principal = "root";
  const auto opened = Ask<api::Kv_openSnapshot_args, api::Kv_openSnapshot_result>("openSnapshot", open);
  EXPECT_EQ(opened.error.code, kConst.DENIED);
  api::Kv_renewSnapshot_args renew;
  renew.context.name_space = "x";
  const auto renewed = Ask<api::Kv_renewSnapshot_args, api::Kv_renewSnapshot_result>("renewSnapshot", renew);
  EXPECT_EQ(renewed.error.code, kConst.BAD_REQUEST);
  EXPECT_THAT(renewed.error.message, HasSubstr("name_space"));
  api::Kv_releaseSnapshot_args release;
  release.context.principal = "root";
  const auto released = Ask<api::Kv_releaseSnapshot_args, api::Kv_releaseSnapshot_result>("releaseSnapshot", release);
  EXPECT_EQ(released.error.code, kConst.DENIED);
}

}  // namespace
}  // namespace pando
