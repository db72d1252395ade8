// Nodes that are stopped in good order (SIGTERM), or killed and started again, in a small cluster (small_cluster.h) in
// which no guard says that a process has ended: what the others do not know by then, they notice after half a second.
// And what a master keeps for replicas that were away, or were to come.
#include <gtest/gtest.h>

#include "tests/sim/small_cluster.h"
#include "tests/support/child_process.h"

namespace pando {
namespace {

// Crashed nodes stay allocated, so each test has a process of its own.
void InCluster(void (*body)(SmallCluster*)) {
  EXPECT_TRUE(InChildProcess([body] {
    FLAGS_minloglevel = 3;
    SmallCluster cluster;
    if (!cluster.StartAll()) {
      ADD_FAILURE() << "the cluster does not become whole";
      return false;
    }
    body(&cluster);
    return !testing::Test::HasFailure();
  }));
}

// A write after the end of node `i`, as soon as one is acknowledged: how long that takes.
Nanos ServesAfterStopOf(SmallCluster* c, size_t i) {
  EXPECT_EQ(c->Put("before", "1"), Code::kOk);
  EXPECT_TRUE((c->Stop(i)).ok());
  EXPECT_FALSE(c->InSync(i));
  const Nanos began_ns = c->kernel().now_ns();
  EXPECT_TRUE(c->RunUntil([&] { return c->Put("after", "1") == Code::kOk; }, 5 * kSecond));
  return c->kernel().now_ns() - began_ns;
}

TEST(Restarts, NobodyWaitsForTheMasterThatHasLeft) {
  InCluster([](SmallCluster* c) { EXPECT_LT(ServesAfterStopOf(c, c->master()), 30 * kMillisecond); });
}

TEST(Restarts, NobodyWaitsForTheFollowerThatHasLeft) {
  InCluster([](SmallCluster* c) { EXPECT_LT(ServesAfterStopOf(c, (c->master() + 1) % 3), 30 * kMillisecond); });
}

// It is in sync again once it is back.
TEST(Restarts, ANodeThatHasLeftComesBack) {
  InCluster([](SmallCluster* c) {
    const size_t i = c->master();
    ServesAfterStopOf(c, i);
    EXPECT_TRUE((c->Start(i)).ok());
    EXPECT_TRUE(c->RunUntil([&] { return c->InSync(i); }, 5 * kSecond));
  });
}

// Where too few would be left, a node does not wait in vain.
TEST(Restarts, TheLastOnesEndAtOnce) {
  InCluster([](SmallCluster* c) {
    const size_t last = c->master();
    EXPECT_TRUE((c->Stop((last + 1) % 3)).ok());
    for (const size_t i : {(last + 2) % 3, last}) {
      const Nanos began_ns = c->kernel().now_ns();
      EXPECT_TRUE((c->Stop(i)).ok());
      EXPECT_LT(c->kernel().now_ns() - began_ns, 400 * kMillisecond);
    }
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) EXPECT_TRUE((c->Start(i)).ok());
    EXPECT_TRUE(
        c->RunUntil([&] { return c->record().isr.size() == 3 && c->Put("k", "1") == Code::kOk; }, 20 * kSecond));
  });
}

// The others have granted to the process that was killed, and therefore may promise to the one that follows it. Nobody
// waits longer for a link than it takes to come up.
TEST(Restarts, AKilledMasterServesSoonAfterItsStart) {
  InCluster([](SmallCluster* c) {
    for (int round = 0; round < 5; ++round) {
      EXPECT_EQ(c->Put("before", "1"), Code::kOk);
      const size_t i = c->master();
      c->Crash(i);
      c->Run(200 * kMillisecond + round * 13 * kMillisecond);
      const Nanos began_ns = c->kernel().now_ns();
      EXPECT_TRUE((c->Start(i)).ok());
      EXPECT_TRUE(c->RunUntil([&] { return c->Put("after", "1") == Code::kOk; }, 5 * kSecond));
      const Nanos took_ns = c->kernel().now_ns() - began_ns;
      std::cout << "served again " << took_ns / kMillisecond << " ms after the start\n";
      EXPECT_LT(took_ns, 120 * kMillisecond);
      EXPECT_EQ(c->master(), i);
      EXPECT_TRUE(c->RunUntil([&] { return c->record().isr.size() == 3; }, 20 * kSecond));
      c->Run(kSecond);
    }
  });
}

// -- the log that is kept for a follower

Task<void> PutLater(Partition* partition, std::string key) {
  (void)co_await SmallCluster::Write(partition, RecordOp::kPut, std::move(key), std::string(1000, 'v'));
}

// The master writes more than it keeps for itself, and then the one that is away starts: it must get log, and no copy.
void WriteAndComeBack(SmallCluster* c, size_t away) {
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(c->Put(fmt::format("key {}", i), std::string(1000, 'v')), Code::kOk);
    c->Run(3 * kMillisecond);
  }
  ASSERT_GT(c->member(c->master()).engine()->stats().log.retained_bytes, 256u << 10) << "nothing was kept for it alone";
  EXPECT_TRUE((c->Start(away)).ok());
  bool copied = false;
  const auto in_sync = [&] {
    copied |= c->replica(away) == nullptr || !c->replica(away)->state().installed;
    return c->InSync(away);
  };
  EXPECT_TRUE(c->RunUntil(in_sync, 30 * kSecond));
  EXPECT_FALSE(copied);
}

// The master had sent more than has arrived, so it goes back to what the follower has; and what it has kept for the
// follower is longer than what it needs itself.
TEST(Restarts, AFollowerThatWasAwayFollowsTheLogThatWasKept) {
  InCluster([](SmallCluster* c) {
    const size_t master = c->master(), away = (master + 1) % 3;
    c->kernel().network().SetLatency(c->machine(master).host(), c->machine(away).host(), 200 * kMillisecond,
                                     200 * kMillisecond);
    for (int i = 0; i < 50; ++i) {
      c->member(master).calls().Spawn(PutLater(c->place(master), fmt::format("sent {}", i)));
    }
    c->Run(20 * kMillisecond);
    c->Crash(away);
    c->kernel().network().HealAll();
    ASSERT_TRUE(c->RunUntil([&] { return !c->InSync(away); }, 5 * kSecond));
    WriteAndComeBack(c, away);
  });
}

// What the topology has not taken does not count against what is asked later.
TEST(Restarts, LearnersThatNeverCameLeaveNothing) {
  InCluster([](SmallCluster* c) {
    const size_t master = c->master();
    for (uint64_t i = 1; i <= 70; ++i) {
      c->topology_faults(master).error_probability = 1;
      const Result<bool> asked = c->member(master).host()->Replace(0, Uuid{99, i}, 1, std::nullopt);
      ASSERT_TRUE(asked.ok()) << i << ": " << asked.status().ToString();
      c->Run(50 * kMillisecond);
      c->topology_faults(master).error_probability = 0;
      c->Run(kSecond);
    }
    EXPECT_TRUE(c->record().learners.empty());
    EXPECT_EQ(c->Put("a", "1"), Code::kOk);
  });
}

// Nobody had a reader for the one that is away when its master changed.
TEST(Restarts, ANewMasterKeepsItsLogForAFollowerThatIsAway) {
  InCluster([](SmallCluster* c) {
    const size_t first = c->master(), away = (first + 1) % 3, second = 3 - first - away;
    c->Crash(away);
    ASSERT_TRUE(c->RunUntil([&] { return !c->InSync(away); }, 5 * kSecond));
    const auto to = static_cast<NodeId>(second + 1);
    EXPECT_TRUE(c->On(first, c->member(first).host()->HandOver(0, to, 0, kSecond)).ok());
    ASSERT_TRUE(c->RunUntil([&] { return c->master() == second; }, 10 * kSecond));
    WriteAndComeBack(c, away);
  });
}

}  // namespace
}  // namespace pando
