// Failures of other systems that their users have reported, each as a schedule, by the number of its report. What
// needs real processes is in tests/integration/test_failure_reports.py; docs/TESTING.md lists all of them.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <string>

#include "tests/sim/replication_trio.h"
#include "tests/support/sim_random.h"

namespace pando::replication {
namespace {

using Chains = std::map<Lsn, uint64_t>;  // by the last LSN of a unit

// What the master has committed.
void NoteCommitted(Trio& trio, Chains* committed) {
  const size_t master = trio.master();
  if (master == trio.size()) return;
  for (const UnitPtr& unit : trio[master].log.units()) {
    if (unit->last_lsn() <= trio.core(master).commit_lsn()) (*committed)[unit->last_lsn()] = unit->chain_after;
  }
}

bool HasAll(Trio& trio, size_t i, const Chains& committed) {
  for (const auto& [lsn, chain] : committed) {
    const auto point = trio[i].log.PointAt(lsn);
    if (!point || point->chain != chain) return false;
  }
  return true;
}

bool AreEqual(Trio& trio, size_t a, size_t b) {
  return trio[a].log.end().lsn == trio[b].log.end().lsn && trio[a].log.end().chain == trio[b].log.end().chain;
}

// A power loss at a moment: the disk holds what was synced then.
void LosePower(Trio& trio, size_t i) {
  const std::vector<UnitPtr> disk = trio[i].log.disk();
  const Lsn mark = trio[i].log.mark();
  trio.Stop(i);
  trio[i].log.PutDisk(disk, mark);
}

// apache/incubator-pegasus#719: a learner counted before its data was complete. It acknowledges what is shipped to
// it, and is level, and is not in sync until its pages are complete too.
TEST(FailureReports, Pegasus719) {
  Trio trio(3, 2);
  ASSERT_TRUE(trio.Opens());
  const auto ask = [&](auto call) {
    ChangeResult result = ChangeResult::kLater;
    for (int i = 0; i < 50 && result != ChangeResult::kDone; ++i) {
      result = trio.Do(0, call);
      trio.Run(20 * kMillisecond);
    }
    return result;
  };
  const ReplicaId lost = trio[2].id, learner{33, 0};
  trio.Stop(2);
  ASSERT_TRUE(trio.RunUntil([&] { return !trio.entry.isr.Contains(lost); }, 3 * kSecond));
  ASSERT_EQ(ask([&](ReplicaCore& core) { return core.Assign(learner, lost, trio.now()); }), ChangeResult::kDone);
  trio[2].id = learner;
  trio[2].log.PutDisk({}, 0);
  trio[2].promise = trio[2].lineage = 0;
  trio[2].installed = false;
  trio.Start(2);
  trio.WriteEvery(5 * kMillisecond);
  trio.Run(5 * kSecond);
  EXPECT_TRUE(trio.entry.learners.Contains(learner));
  EXPECT_FALSE(trio.entry.isr.Contains(learner));
  trio[2].installed = true;
  trio.Do(2, [&](ReplicaCore& core) { core.OnInstalled(trio.now()); });
  EXPECT_TRUE(trio.RunUntil([&] { return trio.entry.isr.Contains(learner); }, 3 * kSecond));
  // The LSN that it has claimed is there after a crash.
  for (const Leader::Counted& counted : trio.core(0).leader().CountedAcks()) {
    if (counted.replica != learner) continue;
    LosePower(trio, 2);
    trio.Start(2);
    EXPECT_GE(trio[2].log.durable().lsn, counted.point.lsn);
  }
  EXPECT_EQ(trio.Wrong(), "");
}

// imzhenyu/rDSN#522: a follower holds a unit of an epoch at an LSN that the master lost in a restart. If the master
// went on in that epoch, there would be two units with that name. Returns whether all logs became equal.
bool RestartedMasterAgrees(const Rules& rules) {
  Trio trio(3, 2, rules);
  EXPECT_TRUE(trio.Opens());
  trio.Run(200 * kMillisecond);
  const Epoch epoch = trio.core(0).leader().epoch();
  trio[0].hangs = true;
  EXPECT_TRUE(trio.Write(0, "lost"));
  trio.Run(50 * kMillisecond);
  const HistoryPoint held = trio[1].log.durable();
  EXPECT_EQ(held.epoch, epoch);
  EXPECT_GT(held.lsn, trio[0].log.durable().lsn);
  LosePower(trio, 0);
  trio[0].hangs = false;
  trio.Start(0);
  if (!trio.RunUntil([&] { return trio.master() != trio.size(); }, 3 * kSecond)) return false;
  trio.Write(trio.master(), "new");
  trio.Run(3 * kSecond);
  // Whoever leads has begun another epoch.
  const size_t master = trio.master();
  if (master == trio.size() || trio.core(master).leader().epoch() <= epoch) return false;
  return trio.Wrong().empty() && AreEqual(trio, 0, 1) && AreEqual(trio, 0, 2);
}

TEST(FailureReports, RDsn522) {
  EXPECT_TRUE(RestartedMasterAgrees(Rules()));
  Rules rules;
  rules.start_ends_mastership = false;
  EXPECT_FALSE(RestartedMasterAgrees(rules));
}

// XiaoMi/rdsn#80: after all nodes were stopped one after the other, the order of their restarts, and one that stays
// away, must not matter.
TEST(FailureReports, RDsn80) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SimRandom random(seed);
    Trio trio(3, 2, Rules(), seed);
    ASSERT_TRUE(trio.Opens());
    trio.WriteEvery(5 * kMillisecond);
    const auto shuffled = [&] {
      std::array<size_t, 3> order{0, 1, 2};
      for (size_t i = 2; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
      return order;
    };
    Chains committed;
    const auto run = [&](Nanos time) {
      trio.RunUntil(
          [&] {
            NoteCommitted(trio, &committed);
            return false;
          },
          time);
    };
    for (const size_t i : shuffled()) {
      run(random.Between(0, 900 * kMillisecond));
      LosePower(trio, i);
    }
    trio.Run(500 * kMillisecond);
    const std::array<size_t, 3> starts = shuffled();
    for (size_t i = 0; i < 2; ++i) {
      trio.Start(starts[i]);
      trio.Run(random.Between(0, 900 * kMillisecond));
    }
    ASSERT_TRUE(trio.RunUntil([&] { return trio.master() != trio.size(); }, 5 * kSecond)) << seed;
    const size_t master = trio.master();
    EXPECT_TRUE(HasAll(trio, master, committed)) << seed;
    const Lsn before = trio.core(master).commit_lsn();
    trio.Run(3 * kSecond);
    ASSERT_EQ(trio.master(), master) << seed;
    EXPECT_TRUE(trio.core(master).AcceptsWrites(trio.now())) << seed;
    EXPECT_GT(trio.core(master).commit_lsn(), before + 100) << seed;
    EXPECT_EQ(trio.entry.isr.size(), 2u) << seed;
    EXPECT_EQ(trio.Wrong(), "") << seed;
  }
}

// apache/kvrocks#462: a deposed master and its successor have logs that are equally long, with other contents. The
// chain tells, and nothing of the former is merged into the latter.
TEST(FailureReports, Kvrocks462) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Write(0);
  trio.Run(200 * kMillisecond);
  trio[0].cut = true;
  trio[0].hears_topology = false;
  const Lsn common = trio[0].log.end().lsn;
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(trio.Write(0, "a"));
  ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == 1 || trio.master() == 2; }, 3 * kSecond));
  const size_t master = trio.master();
  while (trio[master].log.end().lsn < trio[0].log.end().lsn) ASSERT_TRUE(trio.Write(master, "b"));
  ASSERT_EQ(trio[master].log.end().lsn, trio[0].log.end().lsn);
  ASSERT_NE(trio[master].log.end().chain, trio[0].log.end().chain);
  trio.Run(300 * kMillisecond);
  trio[0].cut = false;
  trio[0].hears_topology = true;
  ASSERT_TRUE(trio.RunUntil([&] { return trio.entry.isr.Contains(trio[0].id); }, 5 * kSecond));
  trio.Run(500 * kMillisecond);
  EXPECT_TRUE(AreEqual(trio, 0, master));
  for (const UnitPtr& unit : trio[0].log.units()) {
    EXPECT_FALSE(unit->last_lsn() > common && unit->records == "a");
  }
  EXPECT_EQ(trio.Told<QuarantineReplica>(0), nullptr);
  EXPECT_EQ(trio.Wrong(), "");
}

// redis/redis#6062: a manual failover loses writes. Returns whether every write that was accepted is committed, and
// there for the next master.
bool HandoversLoseNothing(const Rules& rules) {
  Trio trio(3, 2, rules);
  EXPECT_TRUE(trio.Opens());
  trio.WriteEvery(kMillisecond);
  for (int i = 0; i < 30; ++i) {
    trio.Run(37 * kMillisecond);
    const size_t from = trio.master(), to = (from + 1) % 3;
    trio[to].sync_ns = 10 * kMillisecond;  // it is always a little behind
    if (!trio.Do(from,
                 [&](ReplicaCore& core) { return core.Handover(trio[to].id, trio.now(), trio.now() + kSecond); })) {
      return false;
    }
    if (!trio.RunUntil([&] { return trio.master() == to; }, 2 * kSecond)) return false;
    trio[to].sync_ns = 500 * kMicrosecond;
    // Nobody is told "unknown": nothing was appended that the old master did not commit.
    Chains accepted;
    const Epoch epoch = trio.core(to).leader().epoch();
    for (const UnitPtr& unit : trio[from].log.units()) {
      if (unit->epoch < epoch) accepted[unit->last_lsn()] = unit->chain_after;
    }
    if (!HasAll(trio, to, accepted) || !trio.Wrong().empty()) return false;
  }
  return true;
}

TEST(FailureReports, Redis6062) { EXPECT_TRUE(HandoversLoseNothing(Rules())); }

// patroni#3572: an error of the store demotes a healthy master. Here it does not, for minutes; and when a follower
// dies meanwhile, writes wait, and the mastership stays.
TEST(FailureReports, Patroni3572) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.WriteEvery(20 * kMillisecond);
  const Epoch epoch = trio.entry.epoch;
  trio.topology_down = true;
  for (int i = 0; i < 120; ++i) {
    const Lsn before = trio.core(0).commit_lsn();
    trio.Run(kSecond);
    ASSERT_EQ(trio.master(), 0u) << i;
    ASSERT_GT(trio.core(0).commit_lsn(), before + 40) << i;
  }
  trio.Stop(1);
  trio.Run(10 * kSecond);
  EXPECT_EQ(trio.core(0).leader().epoch(), epoch);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()), WriteVerdict::kFrozen);
  EXPECT_EQ(trio.Told<CloseMastership>(0), nullptr);
  trio.topology_down = false;
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 0 && trio.Write(0); }, 3 * kSecond));
  EXPECT_EQ(trio.core(0).leader().epoch(), epoch);
  EXPECT_EQ(trio.Told<CloseMastership>(0), nullptr);
  EXPECT_EQ(trio.Wrong(), "");
}

// etcd-io/etcd#20418: a read of the topology is stale. A started process that reads that it is still the master
// believes it only once a CAS at that revision has succeeded. Returns whether it led nothing.
bool StaleReadIsNotBelieved(const Rules& rules) {
  Trio trio(3, 2, rules);
  EXPECT_TRUE(trio.Opens());
  trio.Write(0);
  trio.Run(200 * kMillisecond);
  const PartitionEntry stale = trio.entry;
  EXPECT_EQ(stale.master, trio[0].id);
  EXPECT_TRUE(
      trio.Do(0, [&](ReplicaCore& core) { return core.Handover(trio[1].id, trio.now(), trio.now() + kSecond); }));
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 1; }, kSecond));
  trio.Stop(0);
  trio[0].log.PutDisk(trio[0].log.disk(), trio[0].log.mark());
  trio[0].hears_topology = false;
  trio.Start(0);
  trio.Do(0, [&](ReplicaCore& core) { core.OnTopology(stale, trio.now()); });
  bool led = false;
  trio.RunUntil(
      [&] {
        led = led || trio.core(0).leader().active();
        return false;
      },
      5 * kSecond);
  EXPECT_EQ(trio.master(), 1u);
  return !led;
}

TEST(FailureReports, Etcd20418) { EXPECT_TRUE(StaleReadIsNotBelieved(Rules())); }

}  // namespace
}  // namespace pando::replication
