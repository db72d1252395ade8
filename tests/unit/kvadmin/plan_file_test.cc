// Plans of moves as files, and how far the topology says that one has come.
#include "tools/kvadmin/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace pando::admin {
namespace {

using ::testing::HasSubstr;
using State = PlanProgress::State;

class TempDir {
 public:
  TempDir() { std::filesystem::create_directories(path_); }
  ~TempDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_ =
      (std::filesystem::temp_directory_path() / fmt::format("pando-plan-{}", ::getpid())).string();
};

PlanFile Plan() {
  PlanFile plan;
  plan.kind = "rebalance";
  plan.cluster_id = {1, 2};
  plan.revision = 17;
  plan.made_at_ms = 1767225600000;
  plan.mb_per_s = 100;
  plan.eta_s = 3;
  plan.nodes[1] = {"a", 1, {10, 20, 10, 2, 1}};
  plan.nodes[4] = {"", 2, {10, 0, 10, 0, 1}};
  plan.partitions[3] = {1, 9, {1, 2, 3}};
  plan.moves = {{3, 1, 4, 10}, {3, 2, 5, 10}};
  return plan;
}

TEST(PlanFile, SurvivesAsBytes) {
  PlanFile plan = Plan();
  const std::string bytes = EncodePlan(&plan);
  const PlanFile read = *DecodePlan(bytes, "p");
  EXPECT_EQ(read.kind, plan.kind);
  EXPECT_EQ(read.cluster_id, plan.cluster_id);
  EXPECT_EQ(read.revision, plan.revision);
  EXPECT_EQ(read.partitions, plan.partitions);
  EXPECT_EQ(read.moves, plan.moves);
  EXPECT_EQ(read.nodes.at(4).weight, 2u);
  EXPECT_EQ(read.nodes.at(1).load.before, 20u);
  EXPECT_EQ(read.checksum, plan.checksum);
  PlanFile again = read;
  EXPECT_EQ(EncodePlan(&again), bytes);
}

// docs/FORMAT.md. Versions that read it compute the same checksum.
TEST(PlanFile, GoldenBytes) {
  PlanFile plan = Plan();
  plan.nodes.clear();
  plan.moves.pop_back();
  EXPECT_EQ(EncodePlan(&plan), R"({
 "checksum": "c89adaa9bfe21525",
 "cluster_id": "00000000-0000-0001-0000-000000000002",
 "eta_s": 3,
 "kind": "rebalance",
 "made_at_ms": 1767225600000,
 "mb_per_s": 100,
 "moves": [
  {
   "bytes": 10,
   "from": 1,
   "partition": 3,
   "to": 4
  }
 ],
 "nodes": [],
 "pando_plan": 1,
 "partitions": [
  {
   "epoch": 9,
   "id": 3,
   "lineage": 1,
   "nodes": [
    1,
    2,
    3
   ]
  }
 ],
 "topology_revision": 17
}
)");
}

TEST(PlanFile, RefusesWhatIsNotOne) {
  PlanFile plan = Plan();
  const std::string bytes = EncodePlan(&plan);
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    if (changed[i] == ' ' || changed[i] == '\n') continue;
    changed[i] = changed[i] == '1' ? '2' : '1';
    EXPECT_FALSE(DecodePlan(changed, "p").ok()) << i;
  }
  EXPECT_EQ(DecodePlan("", "p").code(), Code::kCorruption);
  EXPECT_EQ(DecodePlan("{}", "p").code(), Code::kCorruption);
  EXPECT_EQ(DecodePlan(bytes.substr(0, bytes.size() / 2), "p").code(), Code::kCorruption);
  std::string newer = bytes;
  newer.replace(newer.find("\"pando_plan\": 1"), 15, "\"pando_plan\": 2");
  EXPECT_EQ(DecodePlan(newer, "p").code(), Code::kVersion);
}

TEST(PlanFile, IsNeverOverwrittenAndHasOneHolder) {
  const TempDir dir;
  const std::string path = dir.path() + "/a.plan";
  EXPECT_EQ(ReadPlan(path).code(), Code::kNotFound);
  PlanFile plan = Plan();
  EXPECT_TRUE(WritePlan(path, &plan).ok());
  EXPECT_EQ(WritePlan(path, &plan).code(), Code::kAlreadyExists);
  EXPECT_EQ(ReadPlan(path)->moves, plan.moves);
  {
    PlanLock one, two;
    EXPECT_TRUE(one.TryLock(path).ok());
    EXPECT_EQ(two.TryLock(path).code(), Code::kLocked);
  }
  PlanLock three;
  EXPECT_TRUE(three.TryLock(path).ok());
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir.path())) ++files;
  EXPECT_EQ(files, 1u);  // nothing temporary is left
}

// PF1.
TEST(PlanFile, KeepsWhatIsWanted) {
  const TempDir dir;
  const std::string path = dir.path() + "/a.plan";
  PlanFile plan = Plan();
  EXPECT_TRUE(WritePlan(path, &plan).ok());
  EXPECT_EQ(*ReadWanted(path, plan), Wanted::kRun);
  for (const Wanted wanted : {Wanted::kPause, Wanted::kRun, Wanted::kAbort}) {
    EXPECT_TRUE(WriteWanted(path, plan, wanted).ok());
    EXPECT_EQ(*ReadWanted(path, plan), wanted);
  }
  PlanFile other = Plan();
  other.revision = 18;
  (void)EncodePlan(&other);
  EXPECT_EQ(*ReadWanted(path, other), Wanted::kRun);
  std::ofstream(path + ".state") << "damaged";
  EXPECT_EQ(ReadWanted(path, plan).code(), Code::kCorruption);
}

// -- how far it has come

ReplicaRecord On(NodeId node) { return {node, {node, node}, ""}; }

ClusterMap MapOf(const std::vector<NodeId>& isr, const std::vector<NodeId>& evicted = {},
                 const std::vector<NodeId>& learners = {}, uint64_t lineage = 1) {
  ClusterMap map;
  PartitionRecord record;
  record.id = 3;
  record.lineage = lineage;
  for (const NodeId node : isr) record.isr.push_back(On(node));
  for (const NodeId node : evicted) record.evicted.push_back(On(node));
  for (const NodeId node : learners) record.learners.push_back({node, {node, 99}, ""});
  map.partitions[3] = {record, 1};
  for (NodeId id = 1; id <= 5; ++id) {
    map.nodes[id].record.id = id;
  }
  return map;
}

PlanProgress Judge(const ClusterMap& map) {
  const PlanFile plan = Plan();
  return JudgePlanned(plan.partitions.at(3), plan.moves, map);
}

void ExpectProgress(const ClusterMap& map, State state, size_t done) {
  const PlanProgress progress = Judge(map);
  EXPECT_EQ(progress.state, state) << progress.why;
  EXPECT_EQ(progress.done, done);
}

TEST(PlanProgress, FollowsEveryStepOfTheMoves) {
  ExpectProgress(MapOf({1, 2, 3}), State::kLeft, 0);
  ExpectProgress(MapOf({3, 1}, {2}), State::kLeft, 0);       // one that has left the ISR is still its
  ExpectProgress(MapOf({1, 2}, {3}, {3}), State::kLeft, 0);  // and one that is installed anew
  ExpectProgress(MapOf({1, 2, 3}, {}, {4}), State::kBegun, 0);
  ExpectProgress(MapOf({1, 2, 3, 4}), State::kBegun, 0);
  ExpectProgress(MapOf({2, 3, 4}, {1}), State::kBegun, 0);
  ExpectProgress(MapOf({2, 3, 4}), State::kLeft, 1);
  ExpectProgress(MapOf({2, 3, 4}, {}, {5}), State::kBegun, 1);
  ExpectProgress(MapOf({3, 4, 5}), State::kDone, 2);
  ExpectProgress(MapOf({3, 4, 5}, {}, {}, 7), State::kDone, 2);
}

TEST(PlanProgress, KnowsThatAPartitionHasChanged) {
  for (const ClusterMap& map : {MapOf({1, 2, 5}), MapOf({1, 2}), MapOf({1, 2, 3}, {}, {5}), MapOf({2, 3, 4, 1, 5})}) {
    const PlanProgress progress = Judge(map);
    EXPECT_EQ(progress.state, State::kStale);
    EXPECT_THAT(progress.why, HasSubstr("were on the nodes 1,2,3 when the plan was made"));
  }
  EXPECT_THAT(Judge(MapOf({1, 2, 3}, {}, {}, 2)).why, HasSubstr("a failover of it was forced"));
  EXPECT_THAT(Judge(ClusterMap()).why, HasSubstr("no partition 3"));
  ClusterMap map = MapOf({1, 2, 3});
  map.nodes[4].record.state = NodeState::kDraining;
  EXPECT_THAT(Judge(map).why, HasSubstr("node 4 takes no replicas any more"));
}

}  // namespace
}  // namespace pando::admin
