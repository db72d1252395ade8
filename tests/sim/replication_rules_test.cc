// Rules of the replication core that a random world shows seldom, or not exactly enough: what happens to
// hung, slow, full and lost disks, how fast a master is replaced, what an operator may ask for, and what a
// replica says about the levels of writes and reads. Where a rule has a switch, the test shows that it fails
// without it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/sim/replication_trio.h"

namespace pando::replication {
namespace {

// How long after the fault another replica serves; -1: not within 3 s.
Nanos ReplacedAfter(Trio& trio) {
  const Nanos from = trio.now();
  if (!trio.RunUntil([&] { return trio.master() != 0 && trio.master() != trio.size(); }, 3 * kSecond)) return -1;
  return trio.now() - from;
}

Nanos HungDiskReplacedAfter(const Rules& rules) {
  Trio trio(3, 2, rules);
  EXPECT_TRUE(trio.Opens());
  trio.WriteEvery(5 * kMillisecond);
  trio.Run(200 * kMillisecond);
  trio[0].hangs = true;
  const Nanos after = ReplacedAfter(trio);
  EXPECT_EQ(trio.Wrong(), "");
  if (after < 0) return after;
  // It becomes a follower, leaves the ISR, and is in sync again once its disk answers.
  trio.Run(3 * kSecond);
  EXPECT_FALSE(trio.entry.isr.Contains(trio[0].id));
  EXPECT_NE(trio.master(), 0u);
  trio[0].hangs = false;
  EXPECT_TRUE(trio.RunUntil([&] { return trio.entry.isr.Contains(trio[0].id); }, 8 * kSecond));
  return after;
}

TEST(ReplicationRules, HungDiskEndsAMastership) {
  const Nanos after = HungDiskReplacedAfter(Rules());
  std::cout << "replaced after " << after / kMillisecond << " ms\n";
  EXPECT_GT(after, 900 * kMillisecond);
  EXPECT_LT(after, 1500 * kMillisecond);
  Rules rules;
  rules.stalled_disk_resigns = false;
  EXPECT_EQ(HungDiskReplacedAfter(rules), -1);
}

TEST(ReplicationRules, AloneAHungDiskKeepsItsMastership) {
  Trio trio(1, 1);
  ASSERT_TRUE(trio.Opens());
  trio[0].hangs = true;
  trio.Write(0);
  trio.Run(3 * kSecond);
  EXPECT_EQ(trio.master(), 0u);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()), WriteVerdict::kDiskStalled);
  trio[0].hangs = false;
  trio.Run(100 * kMillisecond);
  EXPECT_TRUE(trio.Write(0));
}

// An idle disk is not a hung one.
TEST(ReplicationRules, IdleMasterStays) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Run(5 * kSecond);
  EXPECT_EQ(trio.master(), 0u);
  EXPECT_EQ(trio.entry.epoch, 2u);
}

// Each acknowledgement wakes the master, so there is none that says nothing new.
TEST(ReplicationRules, AWriteIsAcknowledgedOnce) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Run(300 * kMillisecond);
  const size_t before = trio[1].acks_sent;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(trio.Write(0));
    trio.Run(5 * kMillisecond);
  }
  EXPECT_EQ(trio[1].acks_sent - before, 100u);
  EXPECT_EQ(trio.core(0).commit_lsn(), trio[0].log.end().lsn);
}

TEST(ReplicationRules, DeathNoticeFailsOverFast) {
  Nanos most = 0, sum = 0;
  constexpr uint64_t kSeeds = 100;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Trio trio(seed % 2 == 0 ? 3 : 5, seed % 2 == 0 ? 2 : 3, Rules(), seed);
    ASSERT_TRUE(trio.Opens());
    trio.WriteEvery(3 * kMillisecond);
    trio.Run(200 * kMillisecond + static_cast<Nanos>(seed) * 777 * kMicrosecond);
    const uint64_t incarnation = trio[0].incarnation;
    trio.Stop(0);
    trio.NoticeDeath(0, incarnation);
    const Nanos after = ReplacedAfter(trio);
    ASSERT_GT(after, 0) << seed;
    most = std::max(most, after);
    sum += after;
    EXPECT_EQ(trio.Wrong(), "");
  }
  std::cout << fmt::format("served again after {} ms on average, {} ms at most\n", sum / kSeeds / kMillisecond,
                           most / kMillisecond);
  EXPECT_LT(most, 150 * kMillisecond);
  EXPECT_LT(sum / kSeeds, 60 * kMillisecond);
}

TEST(ReplicationRules, SlowDiskIsNotChosen) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Trio trio(3, 2, Rules(), seed);
    ASSERT_TRUE(trio.Opens());
    trio[1].sync_ns = 350 * kMillisecond;
    trio.WriteEvery(40 * kMillisecond);
    trio.Run(1500 * kMillisecond);
    const bool in_sync = trio.entry.isr.Contains(trio[1].id);
    const uint64_t incarnation = trio[0].incarnation;
    trio.Stop(0);
    if (seed % 2 == 0) trio.NoticeDeath(0, incarnation);
    ASSERT_GT(ReplacedAfter(trio), 0) << seed << " " << in_sync;
    EXPECT_EQ(trio.master(), 2u) << seed;
  }
}

// -- lost disks

// The replica starts with a shorter log than it had acknowledged, under the same UUID. Returns whether it is
// out.
bool LosesItsTail(const Rules& rules, bool idle) {
  Trio trio(3, 2, rules);
  EXPECT_TRUE(trio.Opens());
  for (int i = 0; i < 5; ++i) trio.Write(0);
  trio.Run(300 * kMillisecond);
  std::vector<UnitPtr> units = trio[1].log.units();
  trio.Stop(1);
  units.pop_back();
  trio[1].log.PutDisk(units, 0);
  trio.Start(1);
  if (!idle) trio.WriteEvery(10 * kMillisecond);
  trio.Run(2 * kSecond);
  if (trio.Told<QuarantineReplica>(1) == nullptr) return false;
  EXPECT_NE(trio.Told<ReportLostReplica>(0), nullptr);
  EXPECT_TRUE(trio.core(1).quarantined());
  EXPECT_FALSE(trio.entry.isr.Contains(trio[1].id));
  EXPECT_FALSE(trio.entry.assigned.Contains(trio[1].id));
  EXPECT_EQ(trio.master(), 0u);
  EXPECT_TRUE(trio.Write(0));
  return true;
}

TEST(ReplicationRules, ReplicaThatLostItsTailIsOut) {
  EXPECT_TRUE(LosesItsTail(Rules(), false));
  EXPECT_TRUE(LosesItsTail(Rules(), true));
  Rules rules;
  rules.lost_disk_is_condemned = false;
  EXPECT_FALSE(LosesItsTail(rules, false));
  EXPECT_FALSE(LosesItsTail(rules, true));
}

// It cannot leave the ISR, which would be too small, but it must not become master either.
TEST(ReplicationRules, LostReplicaOfASmallIsrIsNotPromoted) {
  Trio trio(2, 2);
  ASSERT_TRUE(trio.Opens());
  trio.Write(0);
  trio.Run(300 * kMillisecond);
  trio.Stop(1);
  trio[1].log.PutDisk({}, 0);
  trio.Start(1);
  trio.Run(kSecond);
  EXPECT_TRUE(trio.core(1).quarantined());
  EXPECT_TRUE(trio.entry.isr.Contains(trio[1].id));
  trio.Stop(0);
  trio.Run(5 * kSecond);
  EXPECT_EQ(trio.master(), trio.size());
}

TEST(ReplicationRules, ReplicaThatContradictsACommitIsOut) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  for (int i = 0; i < 5; ++i) trio.Write(0);
  trio.Run(300 * kMillisecond);
  trio.Stop(1);
  // The same LSNs, with other bytes, and taken for committed.
  SimLog other;
  other.on_append = [](const SimUnit&) {};
  for (const UnitPtr& unit : trio[0].log.units()) other.AppendOwn(unit->epoch, 1, "y");
  trio[1].log.PutDisk(other.units(), other.end().lsn);
  trio.Start(1);
  trio.Run(kSecond);
  EXPECT_TRUE(trio.core(1).quarantined());
  ASSERT_NE(trio.Told<ReportLostReplica>(0), nullptr);
  EXPECT_NE(trio.Told<ReportLostReplica>(0)->why.find("committed another unit"), std::string::npos);
}

// -- handover

TEST(ReplicationRules, HandoverLosesNothing) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.WriteEvery(2 * kMillisecond);
  size_t from = 0;
  Nanos most = 0;
  for (int i = 0; i < 20; ++i) {
    trio.Run(50 * kMillisecond + i * 777 * kMicrosecond);
    const size_t to = (from + 1) % 3;
    trio[from].told.clear();
    const Nanos began = trio.now();
    const auto begin = [&](ReplicaCore& core) { return core.Handover(trio[to].id, trio.now(), trio.now() + kSecond); };
    ASSERT_TRUE(trio.Do(from, begin));
    EXPECT_EQ(trio.core(from).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()), WriteVerdict::kHandingOver);
    EXPECT_FALSE(trio.Do(from, begin)) << "two at once";
    ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == to; }, kSecond));
    most = std::max(most, trio.now() - began);
    ASSERT_NE(trio.Told<HandoverEnded>(from), nullptr);
    EXPECT_TRUE(trio.Told<HandoverEnded>(from)->done);
    const CloseMastership* closed = trio.Told<CloseMastership>(from);
    ASSERT_NE(closed, nullptr);
    EXPECT_EQ(closed->successor, trio[to].id);
    EXPECT_EQ(trio.entry.isr.size(), 3u);
    EXPECT_EQ(trio.Wrong(), "");
    from = to;
  }
  std::cout << "served again after " << most / kMicrosecond << " us at most\n";
  // A sync, two messages and their answers, a CAS, the promise, the alignment, a message and a sync on each side: no
  // step waits for a tick, which are 20 ms apart.
  EXPECT_LT(most, 12 * kMillisecond);
}

// The target needs time to store its promise, and the third replica to hear of the handover. Neither begins an election
// meanwhile, which would only fence the new master.
TEST(ReplicationRules, ASlowHandoverIsNotOverruled) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.WriteEvery(2 * kMillisecond);
  for (size_t i = 0; i < 3; ++i) trio[i].store_ns = 120 * kMillisecond;
  size_t from = 0;
  for (int round = 0; round < 20; ++round) {
    trio.Run(500 * kMillisecond + round * 777 * kMicrosecond);
    const size_t to = (from + 1) % 3;
    trio[to].news_ns = kMillisecond;
    trio[(from + 2) % 3].news_ns = 150 * kMillisecond;
    const Epoch epoch = trio.entry.epoch;
    ASSERT_TRUE(
        trio.Do(from, [&](ReplicaCore& core) { return core.Handover(trio[to].id, trio.now(), trio.now() + kSecond); }));
    ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == to; }, kSecond)) << "round " << round;
    EXPECT_EQ(trio.entry.epoch, epoch + 1) << "round " << round;
    EXPECT_EQ(trio.Wrong(), "");
    from = to;
  }
}

// A follower whose process is about to end is not waited for.
TEST(ReplicationRules, WhoLeavesIsNotWaitedFor) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.WriteEvery(2 * kMillisecond);
  for (int i = 0; i < 10; ++i) {
    trio.Run(300 * kMillisecond + i * 3777 * kMicrosecond);
    ASSERT_TRUE(trio.RunUntil([&] { return trio.entry.isr.size() == 3; }, 20 * kSecond));
    const Nanos began = trio.now();
    const auto set = [&](bool leaves) {
      trio.Do(1, [&](ReplicaCore& core) { core.OnRoom(UINT64_MAX, leaves, trio.now()); });
    };
    set(true);
    ASSERT_TRUE(trio.RunUntil([&] { return !trio.entry.isr.Contains(trio[1].id); }, kSecond));
    EXPECT_LT(trio.now() - began, 3 * kMillisecond);
    set(false);
  }
  // Two are needed, so the other one stays.
  trio.Do(1, [&](ReplicaCore& core) { core.OnRoom(UINT64_MAX, true, trio.now()); });
  trio.Run(100 * kMillisecond);
  trio.Do(2, [&](ReplicaCore& core) { core.OnRoom(UINT64_MAX, true, trio.now()); });
  trio.Run(kSecond);
  EXPECT_EQ(trio.entry.isr.size(), 2u);
  EXPECT_EQ(trio.Wrong(), "");
}

// It was named master, and did not campaign. If it resigns, it does not lead that epoch again.
TEST(ReplicationRules, NamedMasterThatResignsLeadsItsEpochOnce) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.WriteEvery(5 * kMillisecond);
  ASSERT_TRUE(
      trio.Do(0, [&](ReplicaCore& core) { return core.Handover(trio[1].id, trio.now(), trio.now() + kSecond); }));
  ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == 1; }, kSecond));
  const Epoch epoch = trio.entry.epoch;
  trio.Run(200 * kMillisecond);
  trio[1].hangs = true;
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() != 1 && trio.master() != trio.size(); }, 3 * kSecond));
  trio[1].hangs = false;
  trio.Run(3 * kSecond);
  EXPECT_EQ(trio.Wrong(), "");
  size_t begun = 0;
  for (const auto& unit : trio[1].log.units()) begun += unit->epoch == epoch && unit->records == "begin";
  EXPECT_EQ(begun, 1u);
}

TEST(ReplicationRules, HandoverToOneThatIsNotLevelEndsInTime) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio[1].hangs = true;
  trio.Write(0);
  const Nanos deadline = trio.now() + 200 * kMillisecond;
  ASSERT_TRUE(trio.Do(0, [&](ReplicaCore& core) { return core.Handover(trio[1].id, trio.now(), deadline); }));
  EXPECT_FALSE(trio.Write(0));
  trio.Run(250 * kMillisecond);
  ASSERT_NE(trio.Told<HandoverEnded>(0), nullptr);
  EXPECT_FALSE(trio.Told<HandoverEnded>(0)->done);
  EXPECT_EQ(trio.master(), 0u);
  EXPECT_TRUE(trio.Write(0));
  EXPECT_FALSE(trio.Do(0, [&](ReplicaCore& core) { return core.Handover(trio[0].id, trio.now(), deadline); }));
  EXPECT_FALSE(trio.Do(1, [&](ReplicaCore& core) { return core.Handover(trio[2].id, trio.now(), deadline); }));
}

// -- levels

TEST(ReplicationRules, LevelsThatCannotBeMetAreRefused) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Write(0);
  trio.Run(100 * kMillisecond);
  EXPECT_EQ(trio.core(0).all_lsn(), trio[0].log.end().lsn);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kAll, 1, trio.now()), WriteVerdict::kAccepted);
  trio[2].cut = true;
  trio.Run(kSecond);
  const Lsn all = trio.core(0).all_lsn();
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kAll, 1, trio.now()), WriteVerdict::kTooFewForAll);
  EXPECT_TRUE(trio.Write(0));
  trio.Run(100 * kMillisecond);
  EXPECT_EQ(trio.core(0).commit_lsn(), trio[0].log.end().lsn);
  EXPECT_EQ(trio.core(0).all_lsn(), all);
  trio[2].cut = false;
  EXPECT_TRUE(trio.RunUntil([&] { return trio.core(0).all_lsn() == trio[0].log.end().lsn; }, 3 * kSecond));
}

// LV5. A master that is cut off takes writes at ONE, but not of those who know better.
TEST(ReplicationRules, AReplacedMasterRefusesSessionsThatHaveSeenTheNextOne) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  const Epoch old = trio.core(0).leader().epoch();
  trio[0].cut = trio[0].cut_from_topology = true;
  ASSERT_TRUE(trio.RunUntil([&] { return trio.core(1).Serving() || trio.core(2).Serving(); }, 5 * kSecond));
  ASSERT_TRUE(trio.core(0).Serving()) << "it has heard of it";
  const auto verdict = [&](Epoch seen) { return trio.core(0).JudgeWrite(WriteLevel::kOne, 1, trio.now(), seen); };
  EXPECT_EQ(verdict(0), WriteVerdict::kAccepted);
  EXPECT_EQ(verdict(old), WriteVerdict::kAccepted);
  EXPECT_EQ(verdict(old + 1), WriteVerdict::kReplaced);
}

TEST(ReplicationRules, FrozenCommitRefusesAllButOne) {
  Trio trio(3, 3);
  ASSERT_TRUE(trio.Opens());
  trio[2].cut = true;
  trio.Run(2 * kSecond);
  EXPECT_TRUE(trio.core(0).frozen());
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()), WriteVerdict::kFrozen);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kAll, 1, trio.now()), WriteVerdict::kFrozen);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kOne, 1, trio.now()), WriteVerdict::kAccepted);
  trio[2].cut = false;
  EXPECT_TRUE(trio.RunUntil([&] { return !trio.core(0).frozen(); }, 5 * kSecond));
}

TEST(ReplicationRules, FullDisksAreNotWrittenTo) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  const auto room = [&](size_t i, uint64_t bytes, bool stalled) {
    trio.Do(i, [&](ReplicaCore& core) { core.OnRoom(bytes, stalled, trio.now()); });
    trio.Run(10 * kMillisecond);
  };
  const auto verdict = [&](uint64_t bytes) { return trio.core(0).JudgeWrite(WriteLevel::kQuorum, bytes, trio.now()); };
  EXPECT_EQ(verdict(1 << 30), WriteVerdict::kAccepted);
  room(1, 1000, false);
  room(2, 2000, false);
  EXPECT_EQ(verdict(1000), WriteVerdict::kAccepted);
  EXPECT_EQ(verdict(1001), WriteVerdict::kDiskFull);
  room(1, 0, false);
  EXPECT_EQ(verdict(1), WriteVerdict::kDiskFull);
  EXPECT_EQ(verdict(0), WriteVerdict::kAccepted);
  // It cannot even apply what is committed: nobody waits for it.
  room(1, 0, true);
  trio.Run(300 * kMillisecond);
  EXPECT_FALSE(trio.entry.isr.Contains(trio[1].id));
  EXPECT_EQ(verdict(2000), WriteVerdict::kAccepted);
  room(1, 1 << 20, false);
  EXPECT_TRUE(trio.RunUntil([&] { return trio.entry.isr.Contains(trio[1].id); }, 3 * kSecond));
}

// -- slow disks

// Each commit would wait for it, although it never lags for long.
TEST(ReplicationRules, AMemberWhoseDiskIsMerelySlowLeaves) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.WriteEvery(kMillisecond);
  trio.Run(2 * kSecond);
  EXPECT_EQ(trio.entry.isr.size(), 3u);
  trio[2].sync_ns = 5 * kMillisecond;
  EXPECT_TRUE(trio.RunUntil([&] { return !trio.entry.isr.Contains(trio[2].id); }, 2 * kSecond));
  trio.Run(5 * kSecond);
  EXPECT_EQ(trio.entry.isr.size(), 2u);
  trio[2].sync_ns = 500 * kMicrosecond;
  EXPECT_TRUE(trio.RunUntil([&] { return trio.entry.isr.size() == 3; }, 6 * kSecond));
  // If all are slow, none is to blame.
  for (size_t i = 1; i < 3; ++i) trio[i].sync_ns = 5 * kMillisecond;
  trio.Run(4 * kSecond);
  EXPECT_EQ(trio.entry.isr.size(), 3u);
  EXPECT_EQ(trio.Wrong(), "");
}

// The message that says so is lost, and nobody writes.
TEST(ReplicationRules, RoomThatIsBackIsHeardOf) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  const auto room = [&](uint64_t bytes) {
    trio.Do(1, [&](ReplicaCore& core) { core.OnRoom(bytes, false, trio.now()); });
    trio.Run(10 * kMillisecond);
  };
  const auto verdict = [&] { return trio.core(0).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()); };
  room(0);
  EXPECT_EQ(verdict(), WriteVerdict::kDiskFull);
  trio[1].cut = true;
  room(1 << 30);
  trio[1].cut = false;
  EXPECT_EQ(verdict(), WriteVerdict::kDiskFull);
  trio.Run(200 * kMillisecond);
  EXPECT_EQ(verdict(), WriteVerdict::kAccepted);
}

// It would commit, and never open.
TEST(ReplicationRules, AReplicaThatCannotApplyIsNotElected) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Trio trio(3, 2, {}, seed);
    ASSERT_TRUE(trio.Opens());
    trio[1].log.on_commit = [](Lsn) {};
    trio.Do(1, [&](ReplicaCore& core) { core.OnRoom(0, true, trio.now()); });
    trio.Stop(0);
    bool led = false;
    EXPECT_TRUE(trio.RunUntil(
        [&] {
          led |= trio.core(1).leader().active();
          return trio.master() == 2;
        },
        5 * kSecond));
    EXPECT_FALSE(led);
    EXPECT_TRUE(trio.RunUntil([&] { return !trio.entry.isr.Contains(trio[1].id); }, 2 * kSecond) ||
                trio.entry.isr.size() == trio.entry.min_isr);
    EXPECT_EQ(trio.Wrong(), "");
  }
}

TEST(ReplicationRules, AMasterThatCannotApplyResignsBeforeItOpens) {
  int won = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Trio trio(3, 2, {}, seed);
    ASSERT_TRUE(trio.Opens());
    trio[1].log.on_commit = [](Lsn) {};
    trio.Stop(0);
    trio.RunUntil([&] { return trio.core(1).leader().active() || trio.core(2).leader().active(); }, 5 * kSecond);
    if (!trio.core(1).leader().active()) continue;
    ++won;
    trio.Do(1, [&](ReplicaCore& core) { core.OnRoom(0, true, trio.now()); });
    EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 2; }, 5 * kSecond));
    EXPECT_FALSE(trio.core(1).leader().active());
  }
  EXPECT_GT(won, 0);
}

// -- the topology

// It cannot take the dead member out of the ISR, but another one can.
TEST(ReplicationRules, AMasterCutOffFromTheTopologyGivesWay) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Trio trio(3, 2, {}, seed);
    ASSERT_TRUE(trio.Opens());
    trio.WriteEvery(20 * kMillisecond);
    trio[0].cut_from_topology = true;
    for (int i = 0; i < 30; ++i) {
      const Lsn before = trio.core(0).commit_lsn();
      trio.Run(kSecond);
      ASSERT_EQ(trio.master(), 0u) << i;  // nobody is in need of the topology
      ASSERT_GT(trio.core(0).commit_lsn(), before + 40) << i;
    }
    trio.Stop(1 + seed % 2);
    const size_t other = 2 - seed % 2;
    EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == other; }, 4 * kSecond));
    EXPECT_TRUE(trio.Write(other));
    const Epoch epoch = trio.entry.epoch;
    // It is in sync, and stays a follower.
    trio.Run(10 * kSecond);
    EXPECT_EQ(trio.entry.epoch, epoch);
    EXPECT_TRUE(trio.entry.isr.Contains(trio[0].id));
    EXPECT_EQ(trio.Wrong(), "");
  }
}

// The topology goes away for everybody, and comes back to one after the other: no mastership ends for that.
TEST(ReplicationRules, ATopologyThatIsBackForOthersFirstEndsNoMastership) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Stop(2);
  trio.topology_down = true;
  trio.Run(20 * kSecond);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()), WriteVerdict::kFrozen);
  trio[0].cut_from_topology = true;
  trio.topology_down = false;
  trio.Run(4 * kSecond);
  EXPECT_EQ(trio.Told<CloseMastership>(0), nullptr);
  trio[0].cut_from_topology = false;
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 0 && trio.Write(0); }, 3 * kSecond));
  EXPECT_EQ(trio.Told<CloseMastership>(0), nullptr);
}

// Nobody could do without the dead one, whoever is master.
TEST(ReplicationRules, AMasterCutOffWithTheSmallestIsrStays) {
  Trio trio(3, 3);
  ASSERT_TRUE(trio.Opens());
  trio[0].cut_from_topology = true;
  trio.Stop(2);
  trio.Run(20 * kSecond);
  EXPECT_EQ(trio.Told<CloseMastership>(0), nullptr);
}

// -- what an operator asks for

TEST(ReplicationRules, MembershipFollowsTheOperator) {
  Trio trio(4, 2);
  ASSERT_TRUE(trio.Opens());
  const auto ask = [&](auto call) {
    ChangeResult result = ChangeResult::kLater;
    for (int i = 0; i < 100 && (result == ChangeResult::kLater || result == ChangeResult::kProposed); ++i) {
      result = trio.Do(0, [&](ReplicaCore& core) { return call(core, trio.now()); });
      trio.Run(20 * kMillisecond);
    }
    return result;
  };
  const auto min_isr = [&](uint32_t n) {
    return ask([n](ReplicaCore& core, Nanos now) { return core.SetMinIsr(n, now); });
  };
  const auto remove = [&](size_t i) {
    return ask([id = trio[i].id](ReplicaCore& core, Nanos now) { return core.Remove(id, Removal::kForGood, now); });
  };
  EXPECT_EQ(min_isr(4), ChangeResult::kDone);
  EXPECT_EQ(trio.entry.min_isr, 4u);
  EXPECT_EQ(min_isr(5), ChangeResult::kNotAllowed);
  EXPECT_EQ(remove(3), ChangeResult::kNotAllowed);
  EXPECT_EQ(min_isr(2), ChangeResult::kDone);
  EXPECT_EQ(trio.entry.replicas, 4u);
  EXPECT_EQ(remove(3), ChangeResult::kDone);
  EXPECT_EQ(trio.entry.replicas, 3u);  // as many as there are
  EXPECT_EQ(remove(0), ChangeResult::kNotAllowed);
  EXPECT_FALSE(trio.entry.assigned.Contains(trio[3].id));
  EXPECT_NE(trio.Told<DiscardReplica>(3), nullptr);
  EXPECT_EQ(ask([](ReplicaCore& core, Nanos now) { return core.SetReplicas(3, now); }), ChangeResult::kDone);
  EXPECT_EQ(ask([](ReplicaCore& core, Nanos now) { return core.SetReplicas(1, now); }), ChangeResult::kNotAllowed);
  EXPECT_EQ(trio.Do(1, [&](ReplicaCore& core) { return core.SetMinIsr(1, trio.now()); }), ChangeResult::kNotMaster);
  // One that comes in addition is counted at once, one in the place of another is not. Who is in sync does not leave
  // yet.
  const ReplicaId fifth{9, 9}, member = trio[2].id;
  EXPECT_EQ(ask([&](ReplicaCore& core, Nanos now) { return core.Assign(fifth, member, now); }), ChangeResult::kDone);
  EXPECT_TRUE(trio.entry.learners.Contains(fifth));
  EXPECT_TRUE(trio.entry.isr.Contains(member) && trio.entry.assigned.Contains(member));
  EXPECT_EQ(trio.entry.replicas, 3u);
  EXPECT_EQ(ask([&](ReplicaCore& core, Nanos now) { return core.Remove(fifth, Removal::kForGood, now); }),
            ChangeResult::kDone);
  EXPECT_EQ(trio.entry.replicas, 3u);
  EXPECT_EQ(ask([&](ReplicaCore& core, Nanos now) { return core.Add(fifth, now); }), ChangeResult::kDone);
  EXPECT_TRUE(trio.entry.learners.Contains(fifth));
  EXPECT_EQ(trio.entry.replicas, 4u);
  EXPECT_EQ(ask([&](ReplicaCore& core, Nanos now) { return core.Remove(fifth, Removal::kForGood, now); }),
            ChangeResult::kDone);
  EXPECT_EQ(trio.entry.replicas, 3u);
  // Two who each replace another one by the same newcomer: the second must not have the partition lose a replica.
  EXPECT_EQ(ask([&](ReplicaCore& core, Nanos now) { return core.Remove(trio[2].id, Removal::kReplaced, now); }),
            ChangeResult::kNotAllowed);
  EXPECT_EQ(trio.entry.replicas, 3u);
  EXPECT_TRUE(trio.entry.isr.Contains(member));
  // Evicted ones cannot be counted for a larger min_isr.
  trio[2].cut = true;
  trio.Run(2 * kSecond);
  EXPECT_EQ(min_isr(3), ChangeResult::kNotAllowed);
  EXPECT_EQ(remove(2), ChangeResult::kDone);
  EXPECT_EQ(trio.master(), 0u);
  EXPECT_TRUE(trio.Write(0));
}

// A replica that is installed in the place of another one may be in sync before the other one has left the ISR.
TEST(ReplicationRules, WhoseReplacementIsInSyncLeaves) {
  Trio trio(4, 2);
  ASSERT_TRUE(trio.Opens());
  trio.Stop(3);
  trio.Run(3 * kSecond);
  EXPECT_FALSE(trio.entry.isr.Contains(trio[3].id));
  EXPECT_TRUE(trio.entry.assigned.Contains(trio[3].id));  // nobody has its place yet
  PartitionEntry entry = trio.entry;
  entry.replicas = 3;
  trio.Land(entry);
  EXPECT_TRUE(trio.RunUntil([&] { return !trio.entry.assigned.Contains(trio[3].id); }, kSecond));
  EXPECT_EQ(trio.entry.isr.size(), 3u);
  EXPECT_EQ(trio.Wrong(), "");
}

// -- lineage

bool AcceptedLossDiscards(const Rules& rules) {
  Trio trio(3, 2, rules);
  EXPECT_TRUE(trio.Opens());
  trio.Write(0);
  trio.Run(200 * kMillisecond);
  trio.Stop(0);
  trio.Run(200 * kMillisecond);
  // An operator makes the third replica the only one.
  PartitionEntry forced = trio.entry;
  ++forced.lineage;
  ++forced.epoch;
  forced.op_id = OpId();
  forced.master = trio[2].id;
  forced.isr = forced.assigned = ReplicaSet{trio[2].id};
  forced.min_isr = 1;
  trio.Land(forced);
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 2; }, 3 * kSecond));
  trio.Start(0);
  trio.Run(kSecond);
  EXPECT_EQ(trio.master(), 2u);
  const bool both =
      trio[2].lineage == 2 && trio.Told<DiscardReplica>(0) != nullptr && trio.Told<DiscardReplica>(1) != nullptr;
  // The one that goes on still knows its lineage after a start.
  trio.Stop(2);
  trio.Start(2);
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 2; }, 3 * kSecond));
  EXPECT_EQ(trio.Told<DiscardReplica>(2), nullptr);
  return both;
}

TEST(ReplicationRules, ReplicasOfAnotherLineageAreDiscarded) {
  EXPECT_TRUE(AcceptedLossDiscards(Rules()));
  Rules rules;
  rules.lineage_is_checked = false;
  EXPECT_FALSE(AcceptedLossDiscards(rules));
}

// -- forced failover

ForceVerdict AskToForce(Trio& trio, size_t i, bool accept_loss) {
  return trio.Do(i, [&](ReplicaCore& core) { return core.Force({}, accept_loss, trio.now()); });
}

// Two of three are lost for good. The third one has all that was acknowledged.
TEST(ReplicationRules, ForcedMemberLosesNothing) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  for (int i = 0; i < 5; ++i) trio.Write(0);
  trio.Run(200 * kMillisecond);
  const Lsn committed = trio.core(0).commit_lsn();
  trio.Stop(0);
  trio.Stop(1);
  EXPECT_EQ(AskToForce(trio, 2, false), ForceVerdict::kHearsMaster);
  trio.Run(2 * kSecond);
  EXPECT_EQ(trio.master(), trio.size());
  EXPECT_EQ(AskToForce(trio, 2, false), ForceVerdict::kProposed);
  ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == 2; }, kSecond));
  EXPECT_EQ(trio.entry.lineage, 2u);
  EXPECT_EQ(trio.entry.min_isr, 1u);
  EXPECT_EQ(trio.entry.isr, ReplicaSet{trio[2].id});
  EXPECT_GT(trio.core(2).commit_lsn(), committed);
  EXPECT_TRUE(trio.Write(2));
  trio.Run(100 * kMillisecond);
  EXPECT_EQ(trio.core(2).commit_lsn(), trio[2].log.end().lsn);
  // Those that come back take no part.
  trio.Start(0);
  trio.Start(1);
  trio.Run(2 * kSecond);
  EXPECT_NE(trio.Told<DiscardReplica>(0), nullptr);
  EXPECT_NE(trio.Told<DiscardReplica>(1), nullptr);
  EXPECT_EQ(trio.master(), 2u);
  EXPECT_EQ(trio.Wrong(), "");
}

// The master itself is left, and cannot commit, because min_isr lets nobody leave.
TEST(ReplicationRules, ForcedMasterThatIsLeftAlone) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Write(0);
  EXPECT_EQ(AskToForce(trio, 0, true), ForceVerdict::kServes);
  trio.Run(200 * kMillisecond);
  trio.Stop(1);
  trio.Stop(2);
  trio.Write(0);
  trio.Run(3 * kSecond);
  EXPECT_EQ(trio.master(), trio.size());
  EXPECT_LT(trio.core(0).commit_lsn(), trio[0].log.end().lsn);
  EXPECT_EQ(AskToForce(trio, 0, false), ForceVerdict::kProposed);
  ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == 0; }, 2 * kSecond));
  EXPECT_EQ(trio.entry.lineage, 2u);
  EXPECT_TRUE(trio.Write(0));
  trio.Run(100 * kMillisecond);
  EXPECT_EQ(trio.core(0).commit_lsn(), trio[0].log.end().lsn);
  EXPECT_EQ(trio.Wrong(), "");
}

// The gentler way, if the master itself is left: nothing is forced, and the others may come back as they are.
TEST(ReplicationRules, LoweringMinIsrFreesAMasterThatIsLeftAlone) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio.Stop(1);
  trio.Stop(2);
  trio.Write(0);
  trio.Run(3 * kSecond);
  EXPECT_EQ(trio.core(0).JudgeWrite(WriteLevel::kQuorum, 1, trio.now()), WriteVerdict::kFrozen);
  EXPECT_EQ(trio.Do(0, [&](ReplicaCore& core) { return core.SetMinIsr(1, trio.now()); }), ChangeResult::kProposed);
  EXPECT_TRUE(trio.RunUntil([&] { return trio.master() == 0 && trio.Write(0); }, 2 * kSecond));
  EXPECT_EQ(trio.entry.lineage, 1u);
  trio.Start(1);
  EXPECT_TRUE(trio.RunUntil([&] { return trio.entry.isr.Contains(trio[1].id); }, 5 * kSecond));
  EXPECT_EQ(trio.Wrong(), "");
}

// One that was evicted lacks what was committed since. It takes over only if the loss is accepted.
TEST(ReplicationRules, ForcedReplicaThatLagsNeedsConsent) {
  Trio trio;
  ASSERT_TRUE(trio.Opens());
  trio[2].cut = true;
  ASSERT_TRUE(trio.RunUntil([&] { return !trio.entry.isr.Contains(trio[2].id); }, 2 * kSecond));
  for (int i = 0; i < 5; ++i) trio.Write(0);
  trio.Run(300 * kMillisecond);
  trio.Stop(0);
  trio.Stop(1);
  trio[2].cut = false;
  trio.Run(2 * kSecond);
  EXPECT_EQ(AskToForce(trio, 2, false), ForceVerdict::kMayLose);
  trio.Run(100 * kMillisecond);
  EXPECT_EQ(trio.entry.lineage, 1u);
  EXPECT_EQ(AskToForce(trio, 2, true), ForceVerdict::kProposed);
  ASSERT_TRUE(trio.RunUntil([&] { return trio.master() == 2; }, kSecond));
  // The others have committed more, and do not become part of the new lineage.
  trio.Start(0);
  trio.Run(kSecond);
  EXPECT_NE(trio.Told<DiscardReplica>(0), nullptr);
  EXPECT_EQ(trio.Told<QuarantineReplica>(0), nullptr);
  EXPECT_EQ(trio.Wrong(), "");
}

// Two members are forced at once: the revision lets one of them win.
TEST(ReplicationRules, OfTwoForcedFailoversOneWins) {
  Trio trio(5, 3);
  ASSERT_TRUE(trio.Opens());
  for (const size_t i : {0, 1, 2}) trio.Stop(i);
  trio.Run(2 * kSecond);
  EXPECT_EQ(AskToForce(trio, 3, false), ForceVerdict::kProposed);
  EXPECT_EQ(AskToForce(trio, 4, false), ForceVerdict::kProposed);
  ASSERT_TRUE(trio.RunUntil([&] { return trio.master() != trio.size(); }, kSecond));
  const size_t winner = trio.master(), loser = 7 - winner;
  trio.Run(2 * kSecond);
  EXPECT_EQ(trio.master(), winner);
  EXPECT_EQ(trio.entry.lineage, 2u);
  EXPECT_NE(trio.Told<DiscardReplica>(loser), nullptr);
  EXPECT_EQ(AskToForce(trio, loser, true), ForceVerdict::kOutOfService);
}

}  // namespace
}  // namespace pando::replication
