// A router and nodes of another cluster than its own.
#include "src/router/followed_cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/router_harness.h"

namespace pando {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr Uuid kOther{9, 9};

// UP4.
TEST_F(RouterTest, ANodeThatAnotherClusterHasReplacedIsSentNothing) {
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  ScriptedNode& taken = node(1);  // not one of the seeds
  taken.Replace(kOther);
  kernel_.RunFor(100 * kMillisecond);  // until its connections have ended
  const int before = taken.requests, maps_before = taken.maps_asked;
  const api::Kv_put_result result = Put(KeyIn(0), "w", Budget(500));
  EXPECT_EQ(result.error.code, api::g_pando_constants.UNAVAILABLE);
  EXPECT_EQ(result.error.applied, api::g_pando_constants.APPLIED_NO);
  EXPECT_THAT(result.error.message,
              AllOf(HasSubstr("node 1 at 10.0.0.1:7420 belongs to the cluster " + kOther.ToString()),
                    HasSubstr("follows the cluster " + kScriptedCluster.ToString()), HasSubstr("restart the router")));
  kernel_.RunFor(3 * kSecond);
  EXPECT_EQ(taken.requests, before);
  EXPECT_EQ(taken.maps_asked, maps_before);
  EXPECT_EQ(cluster_.records[KeyIn(0)], "v");
  EXPECT_TRUE(Put(KeyIn(1), "v").success.applied) << "the others serve";
  EXPECT_EQ(keeper_->WhyNotReady(), "");
  // It is the cluster's again.
  taken.Replace(kScriptedCluster);
  EXPECT_TRUE(Put(KeyIn(0), "w").success.applied);
  EXPECT_TRUE(followed_->foreign().empty());
}

TEST_F(RouterTest, ARouterWithoutANodeOfItsClusterIsNotReady) {
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  EXPECT_EQ(keeper_->WhyNotReady(), "");
  for (const NodeId id : {1, 3}) node(id).Replace(kOther);
  kernel_.RunFor(kSecond);
  EXPECT_EQ(keeper_->WhyNotReady(), "");
  node(2).Replace(kOther);
  kernel_.RunFor(kSecond);
  EXPECT_THAT(keeper_->WhyNotReady(), AllOf(HasSubstr(kOther.ToString()), HasSubstr(kScriptedCluster.ToString())));
}

// Whoever wrote a wrong address into --nodes wrote it for all routers: none may leave its load balancer for that.
TEST_F(RouterTest, ARouterThatServesStaysReadyWithAWrongAddressInNodes) {
  EXPECT_TRUE(Put(KeyIn(0), "v").success.applied);
  node(3).Replace(kOther);
  RouteKeeperOptions options;
  options.seeds = {"10.0.0.3:7420", "10.0.0.2:7420"};
  options.cluster = followed_;
  RouteKeeper second(*at_router_, options);
  second.Start();
  kernel_.RunFor(2 * kSecond);
  EXPECT_TRUE(second.ready());
  EXPECT_EQ(second.WhyNotReady(), "");
  EXPECT_FALSE(second.ForeignNodes().ok()) << "a router that starts like that ends";
  ASSERT_EQ(second.foreign().size(), 1u);
  EXPECT_THAT(second.foreign().at("10.0.0.3:7420"), HasSubstr(kOther.ToString()));
  EXPECT_EQ(followed_->foreign_count().value(), 1);
  node(3).Replace(kScriptedCluster);
  kernel_.RunFor(3 * kSecond);
  EXPECT_EQ(followed_->foreign_count().value(), 0);
  kernel_.RunTask(*at_router_, second.Stop());
}

// FC1, RK2: another reactor of the router, which happens to reach a node of another cluster only.
TEST_F(RouterTest, AllReactorsFollowOneCluster) {
  Get(KeyIn(0));
  ASSERT_EQ(followed_->id(), kScriptedCluster);
  for (const bool old : {true, false}) {
    ScriptedNode& foreign = node(3);
    foreign.manners.old_hello = old;
    foreign.Replace(kOther);
    const int requests_before = foreign.requests, maps_before = foreign.maps_asked;
    RouteKeeperOptions options;
    options.seeds = {"10.0.0.3:7420"};
    options.cluster = followed_;
    RouteKeeper second(*at_router_, options);
    second.Start();
    kernel_.RunFor(2 * kSecond);
    EXPECT_FALSE(second.ready());
    EXPECT_EQ(foreign.requests, requests_before);
    if (old) {
      EXPECT_THAT(second.WhyNotReady(), HasSubstr("another cluster"));
    } else {
      EXPECT_EQ(foreign.maps_asked, maps_before) << "a node that says its cluster is not asked";
      EXPECT_THAT(second.WhyNotReady(), HasSubstr("10.0.0.3:7420 belongs to the cluster " + kOther.ToString()));
      EXPECT_FALSE(second.ForeignNodes().ok());
    }
    kernel_.RunTask(*at_router_, second.Stop());
  }
}

// Two routers that name each other would wait for each other, with messages that grow.
TEST_F(RouterTest, ARouterThatIsNamedInsteadOfANodeSaysSo) {
  RouteKeeperOptions options;
  options.seeds = {std::string(kRouterHost) + ":7430"};
  RouteKeeper second(*at_client_, options);
  second.Start();
  kernel_.RunFor(kSecond);
  EXPECT_TRUE(second.seeds_tried());
  EXPECT_THAT(second.WhyNotReady(), AllOf(HasSubstr("no map of the cluster: 10.0.1.1:7430: it refuses this router: "),
                                          HasSubstr("--nodes must name nodes")));
  kernel_.RunTask(*at_client_, second.Stop());
}

TEST_F(RouterTest, WhyThereIsNoMapDoesNotSpeakOfTheClientsCall) {
  RouteKeeperOptions options;
  options.seeds = {"10.0.0.1:7421", "10.0.0.1:7422"};  // nobody
  RouteKeeper second(*at_client_, options);
  second.Start();
  kernel_.RunFor(kSecond);
  EXPECT_THAT(second.WhyNotReady(),
              AllOf(HasSubstr("10.0.0.1:7421"), HasSubstr("10.0.0.1:7422"), Not(HasSubstr("carried out"))));
  kernel_.RunTask(*at_client_, second.Stop());
}

}  // namespace
}  // namespace pando
