// Changes of a node's partitions that meet a disk that fails, requests, a sender that is stuck, or the end of
// the node (NP2, NP3).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/sim/partitions_world.h"

namespace pando {
namespace {

using testing::HasSubstr;

constexpr uint32_t kVictim = 2;  // of reactor 0

std::unique_ptr<api::Kv_put_result> PutInto(World* world, uint32_t partition, int i) {
  api::Kv_put_args args;
  args.request.key = World::KeyOf(partition, i);
  args.request.value = "value";
  return world->Call<api::Kv_put_result>(0, "put", args);
}
bool Holds(World* world, uint32_t partition, int i) {
  api::Kv_get_args args;
  args.request.key = World::KeyOf(partition, i);
  return world->Call<api::Kv_get_result>(0, "get", args)->success.record.found;
}

struct Change {
  static Task<void> Drop(Change* change, World* world, uint32_t id) {
    change->code = (co_await world->partitions().Drop(id)).code();
    change->over = true;
  }
  static Task<void> Create(Change* change, World* world, uint32_t id) {
    change->code = (co_await world->partitions().Create(id)).code();
    change->over = true;
  }
  Code code = Code::kOk;
  bool over = false;
};

// -- a drop of which nobody knows whether it has happened (RO2, NP2)

TEST(PartitionChanges, NoWriteIsAcknowledgedAfterADropOfUnknownOutcome) {
  std::set<bool> found;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    World world(seed);
    EXPECT_TRUE(PutInto(&world, kVictim, 0)->success.applied);
    DiskFault fault;
    fault.kind = IoOp::Kind::kSync;
    fault.path = "/data";  // store.meta has its new content by then, but perhaps not after a power loss
    world.machine->AddFault(fault);
    Status dropped = world.OnNode(world.partitions().Drop(kVictim));
    EXPECT_EQ(world.machine->faults_struck(), 1u);
    world.machine->ClearFaults();
    EXPECT_EQ(dropped.code(), Code::kUnavailable);
    EXPECT_THAT(dropped.message(), HasSubstr("cannot be changed until the next start"));
    auto put = PutInto(&world, kVictim, 1);
    EXPECT_FALSE(put->__isset.success);
    EXPECT_THAT(put->error.message, HasSubstr("partition 2 is quarantined: it is unknown whether it was dropped"));
    EXPECT_EQ(put->error.applied, 1) << "APPLIED_NO";
    // The other partitions are not concerned, and are not changed either.
    for (const uint32_t other : {0u, 1u}) EXPECT_TRUE(PutInto(&world, other, 0)->success.applied);
    EXPECT_EQ(world.OnNode(world.partitions().Drop(0)).code(), Code::kUnavailable);
    EXPECT_TRUE(PutInto(&world, 0, 1)->success.applied);
    world.Stop(seed);
    world.Start();
    const bool here = world.partitions().store().Find(kVictim) != nullptr;
    found.insert(here);
    if (here) {
      EXPECT_TRUE(Holds(&world, kVictim, 0));
      EXPECT_TRUE(PutInto(&world, kVictim, 1)->success.applied);
    } else {
      EXPECT_FALSE(put->__isset.success) << "an acknowledged write is lost";
      ExpectNotHere(PutInto(&world, kVictim, 1)->error, "put");
    }
    for (const int i : {0, 1}) EXPECT_TRUE(Holds(&world, 0, i));
  }
  EXPECT_EQ(found.size(), 2u) << "the restarts did not find both";
}

// -- requests

// Other partitions are served while a drop takes long: here a cut holds it up.
TEST(PartitionChanges, ASnapshotDoesNotWaitForADrop) {
  World world(2);
  EXPECT_TRUE(PutInto(&world, 0, 0)->success.applied);
  Partition* victim = world.node->partition(kVictim);
  EXPECT_OK(world.OnNode(victim->PrepareCut()));
  Change drop;
  TaskGroup tasks;
  tasks.Spawn(Change::Drop(&drop, &world, kVictim));
  world.kernel.RunFor(200 * kMillisecond);
  EXPECT_FALSE(drop.over);
  for (size_t client = 0; client < world.clients.size(); ++client) {
    api::Kv_openSnapshot_args args;
    auto opened = world.Call<api::Kv_openSnapshot_result>(client, "openSnapshot", args);
    EXPECT_TRUE(opened->__isset.success) << opened->error.message;
    api::Kv_renewSnapshot_args renew;
    renew.request.snapshot = opened->success.snapshot;
    EXPECT_TRUE(world.Call<api::Kv_renewSnapshot_result>(client, "renewSnapshot", renew)->__isset.success);
  }
  ExpectNotHere(PutInto(&world, kVictim, 0)->error, "put");
  EXPECT_FALSE(drop.over);
  EXPECT_OK(world.OnNode(victim->AbandonCut()));
  world.kernel.RunFor(kSecond);
  EXPECT_TRUE(drop.over);
  EXPECT_EQ(drop.code, Code::kOk);
}

// -- the end of the node

// The node stops at any moment of a drop and of the creation that follows.
TEST(PartitionChanges, TheNodeStopsDuringAChange) {
  size_t refused = 0, dropped = 0, created = 0;
  for (int step = 0; step < 60; ++step) {
    SCOPED_TRACE(step);
    World world(static_cast<uint64_t>(step) + 1);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(PutInto(&world, kVictim, i)->success.applied);
    Change drop, create;
    TaskGroup tasks;
    tasks.Spawn(Change::Drop(&drop, &world, kVictim));
    tasks.Spawn(Change::Create(&create, &world, kVictim));
    world.kernel.RunFor(step * 50 * kMicrosecond);
    world.Stop(static_cast<uint64_t>(step));
    EXPECT_TRUE(drop.over && create.over);
    EXPECT_EQ(tasks.running(), 0u);
    for (const Change& change : {drop, create}) {
      EXPECT_TRUE(change.code == Code::kOk || change.code == Code::kUnavailable) << static_cast<int>(change.code);
      refused += change.code != Code::kOk;
    }
    dropped += drop.code == Code::kOk;
    created += create.code == Code::kOk;
    world.Start();
    EXPECT_EQ(world.partitions().store().Find(kVictim) != nullptr,
              (drop.code == Code::kOk) == (create.code == Code::kOk));
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(refused, 0u);
  EXPECT_GT(dropped, 0u);
  EXPECT_GT(created, 0u);
}

// -- a sender that is stuck

// Pages of which no more come: Next does not return, or returns nothing over and over.
class StuckPages final : public SnapshotPages {
 public:
  StuckPages(Reactor* reactor, bool empty) : reactor_(*reactor), empty_(empty), cancelled_(reactor_) {}
  Task<Result<PageBatch>> Next() override {
    if (empty_) {
      co_await Sleep(reactor_, kMillisecond);
      co_return PageBatch();
    }
    if (!over_) co_await cancelled_.Wait();
    co_return Error(Code::kUnavailable, "cancelled");
  }
  void Cancel() override {
    over_ = true;
    cancelled_.NotifyAll();
  }

 private:
  Reactor& reactor_;
  const bool empty_;
  bool over_ = false;
  WaitQueue cancelled_;
};

struct Installation {
  static Task<void> Run(Installation* out, World* world, bool empty) {
    StuckPages pages(world->machine->reactor(), empty);
    const InstallSource source = SourceFor(world);
    Result<PartitionInfo> installed = co_await world->partitions().Install(3, source, &pages);
    out->status = installed.status();
    out->over = true;
  }
  Status status;
  bool over = false;
};

class PartitionSenders : public testing::TestWithParam<bool> {};

TEST_P(PartitionSenders, AnInstallationEndsWhenTheNodeStops) {
  World world(4);
  EXPECT_OK(world.OnNode(world.partitions().Drop(3)));
  Installation installation;
  TaskGroup tasks;
  tasks.Spawn(Installation::Run(&installation, &world, GetParam()));
  world.kernel.RunFor(100 * kMillisecond);
  EXPECT_FALSE(installation.over);
  world.Stop();
  EXPECT_EQ(tasks.running(), 0u);
  EXPECT_EQ(installation.status.code(), Code::kUnavailable);
  EXPECT_THAT(installation.status.message(), HasSubstr("the node is closing"));
  world.Start();
  EXPECT_EQ(world.partitions().store().Find(3), nullptr);
}

TEST_P(PartitionSenders, OneThatIsStuckHoldsUpOtherChangesForALimitedTime) {
  World world(5);
  EXPECT_OK(world.OnNode(world.partitions().Drop(3)));
  Installation installation;
  Change drop;
  TaskGroup tasks;
  tasks.Spawn(Installation::Run(&installation, &world, GetParam()));
  tasks.Spawn(Change::Drop(&drop, &world, kVictim));
  world.kernel.RunFor(NodePartitions::kInstallPatience - kSecond);
  EXPECT_FALSE(installation.over || drop.over);
  world.kernel.RunFor(2 * kSecond);
  EXPECT_TRUE(installation.over && drop.over);
  EXPECT_EQ(installation.status.code(), Code::kUnavailable);
  EXPECT_THAT(installation.status.message(), HasSubstr("no page of the snapshot has come for 60 s"));
  EXPECT_EQ(drop.code, Code::kOk);
  EXPECT_OK(world.OnNode(world.partitions().Create(3)).status());
}

INSTANTIATE_TEST_SUITE_P(Kinds, PartitionSenders, testing::Bool());

}  // namespace
}  // namespace pando
