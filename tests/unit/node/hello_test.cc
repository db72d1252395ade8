// Tests what a node says about itself: hello, over the wire protocol, with fake partitions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/partition/partition_clock.h"
#include "tests/support/fake_node.h"

namespace pando {
namespace {

class HelloTest : public FakeNodeTest {};
INSTANTIATE_TEST_SUITE_P(Wire, HelloTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

TEST_P(HelloTest, HelloPublishesLimits) {
  auto hello = CallFor<api::Kv_hello_result>("hello", api::Kv_hello_args())->success;
  EXPECT_EQ(hello.partitions, static_cast<int32_t>(kPartitions));
  EXPECT_EQ(hello.limits.max_key_bytes, 2048);
  EXPECT_EQ(hello.limits.max_frame_bytes, 4 << 20);
  EXPECT_EQ(hello.node_id, "00000000-0000-0007-0000-000000000008");
  EXPECT_EQ(hello.cluster_id, hello.node_id) << "it is in no cluster";
  EXPECT_EQ(CallFor<api::Admin_status_result>("status", api::Admin_status_args())->success.verdict, "ok");
  EXPECT_EQ(CallFor<api::Admin_checkpoint_result>("checkpoint", api::Admin_checkpoint_args())->success.partitions,
            static_cast<int32_t>(kPartitions));
}

// The time that clients go by is that of the partition that is furthest ahead (LN1).
TEST_P(HelloTest, HelloAnswersTheTimeOfThePartitions) {
  const auto clock = std::make_shared<StoreClock>();
  node_->backends[0].clock = clock;
  const int64_t wall_ms = server_reactor_->WallMs();
  PartitionClock partition(*server_reactor_, clock);
  EXPECT_EQ(CallFor<api::Kv_hello_result>("hello", api::Kv_hello_args())->success.now_ms / 1000, wall_ms / 1000);
  partition.Follow(VersionAtMs(wall_ms + 3'600'000));
  EXPECT_EQ(CallFor<api::Kv_hello_result>("hello", api::Kv_hello_args())->success.now_ms / 1000,
            (wall_ms + 3'600'000) / 1000);
}

TEST_P(HelloTest, HelloAgreesOnFeatures) {
  api::Kv_hello_args args;
  args.request.features = {"time_travel"};
  auto hello = CallFor<api::Kv_hello_result>("hello", args)->success;
  EXPECT_THAT(hello.accepted_features, testing::IsEmpty());
  EXPECT_THAT(hello.features, testing::IsSupersetOf({"out_of_order_replies", "slices"}));
  args.request.features = {"time_travel", "out_of_order_replies"};
  hello = CallFor<api::Kv_hello_result>("hello", args)->success;
  EXPECT_THAT(hello.accepted_features, testing::ElementsAre("out_of_order_replies"));
}

}  // namespace
}  // namespace pando
