// What there is to do about splits (SD1, SD2): from single maps, and whether the steps lead from any state to two
// halves that can be filled.
#include "src/node/split_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/base/hash_ranges.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Step = HalfStep::Kind;
using Kind = SplitTask::Kind;

constexpr uint32_t kBase = 4, kWhole = 1, kLower = 6, kUpper = 7;
constexpr NodeId kSelf = 1;

// A cluster of nodes 1 to 3 whose partition kWhole is led by node 1.
struct World {
  ClusterMap map;
  uint64_t uuids = 0;
  HalfInput input;

  World() {
    map.cluster.emplace();
    map.cluster->record.partitions = kBase;
    for (NodeId id = 1; id <= 3; ++id) map.nodes[id].record.id = id;
    for (uint32_t id = 0; id < kBase; ++id) {
      PartitionRecord& record = map.partitions[id].record;
      record.id = id;
      std::tie(record.first_hash, record.last_hash) = HashRangeOf(id, kBase);
      record.replicas = 3;
      record.min_isr = 2;
      for (NodeId node = 1; node <= 3; ++node) record.isr.push_back(NewReplica(node));
      record.master = record.isr[id % 3 == 1 ? 0 : 1].replica;
    }
    input.self = kSelf;
    input.whole = &Whole();
    input.reached = {1, 2, 3};
    input.taken_over = true;
  }
  ReplicaRecord NewReplica(NodeId node) { return {node, Uuid{1, ++uuids}, {}}; }
  PartitionRecord& Whole() { return map.partitions.at(kWhole).record; }
  PartitionRecord& Half() { return map.partitions.at(kLower).record; }
  void Order(uint32_t rate = 0) {
    Whole().split.emplace();
    Whole().split->rate_mb_s = rate;
  }
  // A half that is as far as its record, its replica here included.
  void Build(uint32_t id = kLower) {
    PartitionRecord& half = map.partitions[id].record;
    half = NewHalfRecord(id, Whole(), kBase, nullptr, kSelf, NewReplica(kSelf).replica);
    input.half = &half;
    input.held = HeldHalf{half.master, true};
  }
  // A half that has all of its replicas.
  void Finish(uint32_t id = kLower) {
    Build(id);
    PartitionRecord& half = map.partitions.at(id).record;
    for (NodeId node = 2; node <= 3; ++node) half.isr.push_back(NewReplica(node));
    half.min_isr = 2;
  }
  HalfStep Next() const { return NextStepForHalf(input); }
  std::vector<SplitTask> Tasks(NodeId self = kSelf) const { return SplitTasksOf(map, self); }
};

// -- tasks

TEST(SplitTasks, TheMasterOfThePartitionSplitsIt) {
  World world;
  EXPECT_TRUE(world.Tasks().empty());
  world.Order(/*rate=*/7);
  ASSERT_EQ(world.Tasks().size(), 1u);
  const SplitTask task = world.Tasks().front();
  EXPECT_EQ(task.kind, Kind::kSplit);
  EXPECT_EQ(task.whole, kWhole);
  EXPECT_THAT(task.halves, ElementsAre(kLower, kUpper));
  EXPECT_EQ(task.rate_mb_s, 7u);
  EXPECT_EQ(task.epoch, world.Whole().epoch);
  EXPECT_TRUE(world.Tasks(2).empty());
  world.Whole().master = world.Whole().isr[1].replica;
  EXPECT_TRUE(world.Tasks().empty());
  EXPECT_EQ(world.Tasks(2).size(), 1u);
}

// A node has memory for the halves of one split at a time.
TEST(SplitTasks, SplitsOnTheSameNodesFollowEachOther) {
  World world;
  const auto order = [&](uint32_t id) { world.map.partitions.at(id).record.split.emplace(); };
  EXPECT_TRUE(SplitsThatMayRun(world.map).empty());
  for (const uint32_t id : {2u, 1u, 3u}) order(id);
  EXPECT_THAT(SplitsThatMayRun(world.map), ElementsAre(1));
  // One that has begun goes on, also if another one with a lower number is ordered then.
  world.Build();
  order(0);
  EXPECT_THAT(SplitsThatMayRun(world.map), ElementsAre(kWhole));
  // Another one has no node in common with it. That of partition 2 waits for that of partition 0, and it for this one.
  PartitionRecord& other = world.map.partitions.at(3).record;
  for (ReplicaRecord& r : other.isr) r.node += 10;
  EXPECT_THAT(SplitsThatMayRun(world.map), ElementsAre(kWhole, 3));
  world.Whole().state = PartitionStage::kRetired;
  world.Whole().split.reset();
  EXPECT_THAT(SplitsThatMayRun(world.map), ElementsAre(3)) << "its halves are not open yet";
  world.Half().state = PartitionStage::kServing;
  EXPECT_THAT(SplitsThatMayRun(world.map), ElementsAre(0, 3));
}

// A split copies the replicas of the whole, so a move must have ended.
TEST(CheckMaySplit, NotWhileAReplicaMoves) {
  World world;
  for (NodeId node = 1; node <= 3; ++node) world.map.nodes[node].record.protocol_max = 3;
  EXPECT_TRUE(CheckMaySplit(world.map, kWhole, 3).ok());
  world.Whole().learners.push_back(world.NewReplica(4));
  EXPECT_EQ(CheckMaySplit(world.map, kWhole, 3).code(), Code::kUnavailable);
  world.Whole().isr.push_back(world.Whole().learners.front());
  world.Whole().learners.clear();
  EXPECT_EQ(CheckMaySplit(world.map, kWhole, 3).code(), Code::kUnavailable);
  world.Whole().isr.pop_back();
  EXPECT_TRUE(CheckMaySplit(world.map, kWhole, 3).ok());
}

// SD2.
TEST(SplitTasks, HalvesThatNobodyWantsAreGivenUpByTheMaster) {
  World world;
  world.Build();
  ASSERT_EQ(world.Tasks().size(), 1u);
  EXPECT_EQ(world.Tasks().front().kind, Kind::kGiveUp);
  EXPECT_TRUE(world.Tasks(2).empty());
  world.Half().state = PartitionStage::kRetired;
  EXPECT_TRUE(world.Tasks().empty());
}

TEST(SplitTasks, HalvesAreOpenedByTheirMasters) {
  World world;
  world.Finish(kLower);
  world.Finish(kUpper);
  world.map.partitions.at(kUpper).record.master = world.map.partitions.at(kUpper).record.isr[1].replica;
  world.Whole().state = PartitionStage::kRetired;
  for (const NodeId node : {1u, 2u}) {
    ASSERT_EQ(world.Tasks(node).size(), 1u);
    EXPECT_EQ(world.Tasks(node).front().kind, Kind::kOpen);
  }
  EXPECT_TRUE(world.Tasks(3).empty());
  world.Half().state = PartitionStage::kServing;
  EXPECT_TRUE(world.Tasks(1).empty());
  EXPECT_EQ(world.Tasks(2).size(), 1u);
}

// A node that was away during the split gets its replicas when it is back.
TEST(SplitTasks, AHalfThatLacksAReplicaIsCompleted) {
  World world;
  world.Finish(kLower);
  world.Half().isr.pop_back();
  world.Half().state = PartitionStage::kServing;
  world.Finish(kUpper);
  world.map.partitions.at(kUpper).record.state = PartitionStage::kServing;
  EXPECT_TRUE(world.Tasks().empty());
  world.Whole().state = PartitionStage::kRetired;
  ASSERT_EQ(world.Tasks().size(), 1u);
  EXPECT_EQ(world.Tasks().front().kind, Kind::kComplete);
  EXPECT_EQ(LackingNode(world.map, world.Half()), 3u);
  world.map.nodes.at(3).record.state = NodeState::kDraining;
  EXPECT_TRUE(world.Tasks().empty());
  world.map.nodes.at(3).record.state = NodeState::kActive;
  world.Half().learners.push_back(world.NewReplica(3));
  EXPECT_TRUE(world.Tasks().empty());
  world.Half().learners.clear();
  world.Half().replicas = 2;  // an operator wants no more
  EXPECT_TRUE(world.Tasks().empty());
}

// -- orders

TEST(CheckMaySplit, NamesWhatIsInTheWay) {
  World world;
  EXPECT_TRUE(CheckMaySplit(world.map, kWhole, 3).ok());
  EXPECT_EQ(CheckMaySplit(world.map, 99, 3).code(), Code::kInvalidArgument);
  world.map.nodes.at(2).record.protocol_max = 2;
  EXPECT_THAT(CheckMaySplit(world.map, kWhole, 3).message(), HasSubstr("node 2"));
  world.map.nodes.at(2).record.state = NodeState::kRemoved;
  EXPECT_TRUE(CheckMaySplit(world.map, kWhole, 3).ok());
  world.Build();
  EXPECT_THAT(CheckMaySplit(world.map, kLower, 3).message(), HasSubstr("does not serve"));
  world.Whole().state = PartitionStage::kRetired;
  EXPECT_EQ(CheckMaySplit(world.map, kLower, 3).code(), Code::kUnavailable) << "it is being opened";
  EXPECT_EQ(CheckMaySplit(world.map, kWhole, 3).code(), Code::kInvalidArgument);
}

// -- steps

TEST(NextStepForHalf, BeginsWithARecordAndThenTheReplica) {
  World world;
  EXPECT_EQ(world.Next().kind, Step::kMakeRecord);
  world.Build();
  world.input.held.reset();
  world.input.to_make = world.Half().master;
  EXPECT_EQ(world.Next().kind, Step::kMakeReplica);
  EXPECT_EQ(world.Next().replica, world.Half().master);
  world.input.held = HeldHalf{Uuid{9, 9}, false};  // of an earlier lineage
  EXPECT_EQ(world.Next().kind, Step::kDrop);
}

// Of a split that was given up: the replicas that there were must not take part any more.
TEST(NextStepForHalf, ARetiredHalfIsMadeAnewInTheNextLineage) {
  World world;
  world.Finish();
  world.Half().state = PartitionStage::kRetired;
  world.Half().lineage = 4;
  world.Half().epoch = 9;
  EXPECT_EQ(world.Next().kind, Step::kMakeRecord);
  const PartitionRecord next =
      NewHalfRecord(kLower, world.Whole(), kBase, &world.Half(), kSelf, world.NewReplica(kSelf).replica);
  EXPECT_EQ(next.lineage, 5u);
  EXPECT_EQ(next.epoch, 10u);
  EXPECT_EQ(next.state, PartitionStage::kBuilding);
  EXPECT_EQ(next.isr.size(), 1u);
  EXPECT_EQ(next.min_isr, 1u);
  EXPECT_EQ(next.replicas, 3u);
  EXPECT_TRUE(Check(next).ok());
  EXPECT_EQ(std::pair(next.first_hash, next.last_hash), HashRangeOf(kLower, kBase));
}

// A process that ended between the record and the replica, or that has lost its disk.
TEST(NextStepForHalf, AHalfWhoseOnlyReplicaIsLostIsMadeAnew) {
  World world;
  world.Build();
  world.input.held.reset();
  EXPECT_EQ(world.Next().kind, Step::kMakeRecord);
  world.Build();
  world.Half().isr.front().node = 2;  // a master that did not get further
  EXPECT_EQ(world.Next().kind, Step::kMakeRecord);
  world.Finish();
  world.input.held.reset();  // others have it
  EXPECT_EQ(world.Next().kind, Step::kWait);
  EXPECT_TRUE(world.Next().for_other_node);
  world.input.patience_over = true;
  EXPECT_EQ(world.Next().kind, Step::kMakeRecord);
}

// SD1.
TEST(NextStepForHalf, TakesAHalfOverBeforeItIsUsed) {
  World world;
  world.Finish();
  world.input.taken_over = false;
  EXPECT_EQ(world.Next().kind, Step::kTakeOver);
  world.input.taken_over = true;
  EXPECT_EQ(world.Next().kind, Step::kReady);
}

TEST(NextStepForHalf, AsksForTheMastership) {
  World world;
  world.Finish();
  world.Half().master = world.Half().isr[2].replica;
  EXPECT_EQ(world.Next().kind, Step::kBecomeMaster);
  EXPECT_EQ(world.Next().node, 3u);
  world.input.patience_over = true;
  EXPECT_EQ(world.Next().kind, Step::kMakeRecord);
  world.Half().master = world.Half().isr[0].replica;
  world.input.held->serves = false;
  EXPECT_EQ(world.Next().kind, Step::kWait);
}

TEST(NextStepForHalf, ReplicasComeOneByOneAndMinIsrLast) {
  World world;
  world.Build();
  EXPECT_EQ(world.Next().kind, Step::kAddReplica);
  EXPECT_EQ(world.Next().node, 2u);
  world.Half().learners.push_back(world.NewReplica(2));
  EXPECT_EQ(world.Next().kind, Step::kWait);
  world.Half().isr.push_back(world.Half().learners.front());
  world.Half().learners.clear();
  EXPECT_EQ(world.Next().node, 3u);
  world.Half().isr.push_back(world.NewReplica(3));
  EXPECT_EQ(world.Next().kind, Step::kSetMinIsr);
  EXPECT_EQ(world.Next().min_isr, 2u);
  world.Half().min_isr = 2;
  EXPECT_EQ(world.Next().kind, Step::kReady);
}

// Only what is in sync with the whole is waited for.
TEST(NextStepForHalf, ANodeThatIsAwayHoldsNothingUp) {
  World world;
  world.Build();
  world.Half().learners.push_back(world.NewReplica(3));
  world.Whole().evicted.push_back(world.Whole().isr.back());
  world.Whole().isr.pop_back();
  world.input.reached = {1, 2};
  EXPECT_EQ(world.Next().kind, Step::kRemoveReplica);
  EXPECT_EQ(world.Next().node, 3u);
  world.Half().learners.clear();
  world.Half().replicas = 1;  // the removal has left so many
  EXPECT_EQ(world.Next().node, 2u);
  world.Half().isr.push_back(world.NewReplica(2));
  EXPECT_EQ(world.Next().kind, Step::kTakeOver) << "as many replicas as the whole is to have";
  world.Half().replicas = 3;
  world.Half().min_isr = 2;
  EXPECT_EQ(world.Next().kind, Step::kReady);
  world.input.reached.insert(3);
  EXPECT_EQ(world.Next().kind, Step::kAddReplica) << "it is back";
}

// -- all together

// Carries a step out, as the topology and the masters would.
void Carry(World* world, const HalfStep& step) {
  HalfInput& in = world->input;
  PartitionRecord* half = in.half == nullptr ? nullptr : &world->Half();
  switch (step.kind) {
    case Step::kMakeRecord: {
      PartitionRecord next =
          NewHalfRecord(kLower, world->Whole(), kBase, half, kSelf, world->NewReplica(kSelf).replica);
      world->map.partitions[kLower].record = next;
      in.half = &world->Half();
      in.to_make = next.master;
      in.taken_over = true;
      in.patience_over = false;
      return;
    }
    case Step::kTakeOver:
      in.taken_over = true;
      half->replicas = world->Whole().replicas;
      return;
    case Step::kDrop: in.held.reset(); return;
    case Step::kMakeReplica:
      in.held = HeldHalf{step.replica, false};
      in.to_make.reset();
      return;
    case Step::kBecomeMaster: half->master = in.held->replica; return;
    case Step::kAddReplica: half->learners.push_back(world->NewReplica(step.node)); return;
    case Step::kRemoveReplica:
      std::erase_if(half->learners, [&](const auto& r) { return r.replica == step.replica; });
      half->replicas = std::min<uint32_t>(half->replicas, half->isr.size() + half->evicted.size());
      return;
    case Step::kSetMinIsr: half->min_isr = step.min_isr; return;
    case Step::kWait:
      if (in.held && half->master == in.held->replica) in.held->serves = true;
      while (!half->learners.empty()) {
        half->isr.push_back(half->learners.back());
        half->learners.pop_back();
      }
      while (!half->evicted.empty()) {
        half->isr.push_back(half->evicted.back());
        half->evicted.pop_back();
      }
      in.patience_over = step.for_other_node;
      return;
    case Step::kReady: return;
  }
}

// Something that may happen meanwhile: crashes, elections, evictions, lost disks.
void Disturb(World* world, SimRandom* random) {
  HalfInput& in = world->input;
  if (in.half == nullptr) return;
  PartitionRecord& half = world->Half();
  switch (random->Below(6)) {
    case 0:  // the process starts again
      in.to_make.reset();
      in.taken_over = false;
      if (in.held) in.held->serves = false;
      return;
    case 1: in.held.reset(); return;
    case 2: half.master = half.isr[random->Below(half.isr.size())].replica; return;
    case 3:
      if (half.isr.size() <= half.min_isr || half.isr.back().replica == half.master) return;
      half.evicted.push_back(half.isr.back());
      half.isr.pop_back();
      return;
    case 4: half.state = PartitionStage::kRetired; return;
    default: return;
  }
}

TEST(NextStepForHalf, LeadsToAHalfThatCanBeFilledFromAnyState) {
  for (const uint64_t seed : Seeds(200)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    World world;
    for (uint64_t i = random.Below(40); i > 0; --i) {
      Carry(&world, world.Next());
      if (random.Chance(0.3)) Disturb(&world, &random);
    }
    for (int i = 0; i < 40 && world.Next().kind != Step::kReady; ++i) Carry(&world, world.Next());
    EXPECT_EQ(world.Next().kind, Step::kReady) << world.Next().why;
    EXPECT_TRUE(Check(world.Half()).ok()) << Check(world.Half()).ToString();
    EXPECT_EQ(world.Half().isr.size(), 3u);
  }
}

}  // namespace
}  // namespace pando
