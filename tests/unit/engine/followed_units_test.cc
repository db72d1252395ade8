// A partition that follows: it is given the units of another replica.
#include <gtest/gtest.h>

#include "src/engine/snapshot_cut.h"
#include "src/model/record.h"
#include "tests/unit/engine/commit_gate_fixture.h"

namespace pando::engine_test {
namespace {

// The other replica: makes the units of one history.
class Master {
 public:
  explicit Master(Reactor* reactor) : version(VersionAtMs(reactor->WallMs())) {}
  // Goes on where the partition is.
  Master(Reactor* reactor, const HistoryPoint& end) : Master(reactor) {
    lsn = end.lsn;
    chain = end.chain;
    epoch = std::max(end.epoch, epoch);
  }

  LogRecord Put(std::string_view key, std::string_view value) {
    LogRecord record;
    record.key = key;
    record.value = value;
    return record;
  }
  // Valid until the next call.
  WriteUnit Unit(std::vector<LogRecord> all) {
    bytes_.clear();
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].version = ++version;
      all[i].continues = i + 1 < all.size();
      EncodeRecord(all[i], &bytes_);
    }
    WriteUnit unit{epoch, lsn + 1, static_cast<uint32_t>(all.size()), chain, 0, bytes_};
    unit.chain_after = UnitChain(unit);
    return unit;
  }
  void Took(const WriteUnit& unit) {
    lsn = unit.last_lsn();
    chain = unit.chain_after;
  }
  Status Give(GatedPartition* to, const WriteUnit& unit) {
    Status status = to->AppendUnit(unit);
    if (status.ok()) Took(unit);
    return status;
  }
  Status GivePut(GatedPartition* to, std::string_view key, std::string_view value) {
    return Give(to, Unit({Put(key, value)}));
  }

  Lsn lsn = 0;
  uint64_t chain = 0;
  Epoch epoch = 5;
  Version version;

 private:
  std::string bytes_;
};

class FollowedUnitsTest : public CommitGateTest {
 protected:
  FollowedUnitsTest() { leads_ = false; }
};
GatedPartition* Follow(CommitGateTest* t) {
  t->gate_->leads = false;
  return t->gate_->partition;
}
void Lead(CommitGateTest* t) {
  t->gate_->leads = t->gate_->commits = true;
  t->gate_->partition->BeginEpoch(t->gate_->partition->epoch() + 1, t->gate_->partition->end().lsn);
}

Task<void> UntilApplied(CommitGateTest* t, Lsn lsn) {
  for (int i = 0; i < 10'000 && t->p_->stats().applied_lsn < lsn; ++i) co_await Sleep(*t->reactor_, kMillisecond);
  EXPECT_EQ(t->p_->stats().applied_lsn, lsn);
}

// P1: as its own writes, they are applied once they are committed, in batches or one by one.
TEST_F(FollowedUnitsTest, AreAppliedOnceTheyAreCommitted) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        EXPECT_EQ(p->end().lsn, 0u);
        EXPECT_EQ(p->PointAt(0)->chain, 0u);
        {
          auto room = co_await p->WaitForRoom(30'000, 0);
          EXPECT_OK(room.status());
          EXPECT_OK(master.GivePut(p, "a", "1"));
          LogRecord more = master.Put("b", "2"), number;
          number.op = RecordOp::kIncrement;
          number.key = "n";
          number.delta = 3;
          EXPECT_OK(master.Give(p, master.Unit({more, number})));
        }
        const HistoryPoint two = p->end();
        EXPECT_OK(master.GivePut(p, "large", std::string(20'000, 'l')));
        EXPECT_EQ(p->end().lsn, 4u);
        EXPECT_EQ(p->end().epoch, 5u);
        EXPECT_EQ(p->end().chain, master.chain);
        EXPECT_EQ(p->PointAt(3)->chain, two.chain);
        EXPECT_FALSE(p->PointAt(2));  // inside a unit
        EXPECT_EQ(p->EpochEnd(4).lsn, 0u);
        EXPECT_EQ(p->EpochEnd(5).lsn, 4u);
        EXPECT_EQ(p->epoch(), 5u);
        co_await UntilDurable(t->reactor_, t->p_);
        EXPECT_EQ(p->durable().lsn, 4u);
        EXPECT_EQ(t->gate_->durable_lsn, 4u);
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "none");
        p->Commit(1);
        co_await UntilApplied(t, 1);
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "none");
        p->Commit(4);
        co_await UntilApplied(t, 4);
        EXPECT_EQ(p->committed_lsn(), 4u);
        EXPECT_EQ(p->applied_lsn(), 4u);
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "2");
        EXPECT_EQ(co_await ValueOf(t->p_, "n"), "3");
        EXPECT_EQ(co_await ValueOf(t->p_, "large"), std::string(20'000, 'l'));
        EXPECT_EQ(t->gate_->appended, 0u);
        t->engine_->CheckInvariants();
      },
      /*close=*/true);
  Run(
      [](CommitGateTest* t) -> Task<void> {
        EXPECT_EQ(co_await ValueOf(t->p_, "large"), std::string(20'000, 'l'));
        EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
      },
      /*close=*/true);
}

// What a peer sends is not trusted, and what is refused leaves no trace.
TEST_F(FollowedUnitsTest, ThatNoWriteProducesAreRefused) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        EXPECT_OK(master.GivePut(p, "a", "1"));
        const HistoryPoint end = p->end();
        const WriteUnit good = master.Unit({master.Put("b", "2"), master.Put("c", "3")});
        const auto refused = [&](const WriteUnit& unit) {
          const Status status = p->AppendUnit(unit);
          EXPECT_EQ(status.code(), Code::kCorruption) << status.ToString();
          EXPECT_EQ(p->end().lsn, end.lsn);
          EXPECT_EQ(p->epoch(), end.epoch);
        };
        WriteUnit bad = good;
        bad.record_count = 3;
        refused(bad);
        bad = good;
        bad.records = good.records.substr(0, good.records.size() - 1);
        refused(bad);
        const std::string twice = std::string(good.records) + std::string(good.records);
        bad.records = twice;
        refused(bad);
        bad.records = "nonsense";
        refused(bad);
        const std::string long_key(5000, 'k');
        refused(master.Unit({master.Put(long_key, "")}));
        const std::string huge(kMaxValueBytes + 1, 'v');
        refused(master.Unit({master.Put("k", huge)}));
        master.version = VersionAtMs(t->reactor_->WallMs() - 1000);
        refused(master.Unit({master.Put("d", "4")}));
        master.version = VersionAtMs(t->reactor_->WallMs() + 1000);
        EXPECT_OK(master.GivePut(p, "e", "5"));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(2);
        co_await UntilApplied(t, 2);
        EXPECT_EQ(co_await ValueOf(t->p_, "e"), "5");
      },
      /*close=*/true);
}

TEST_F(FollowedUnitsTest, ThatDoNotContinueAreABug) {
  EXPECT_DEATH(Run([](CommitGateTest* t) -> Task<void> {
                 Master master(t->reactor_);
                 master.lsn = 1;
                 EXPECT_OK(master.GivePut(Follow(t), "a", "1"));
                 co_return;
               }),
               "CG3");
}

// CG3: it takes no writes, logs nothing of its own accord, and opens no snapshots.
TEST_F(FollowedUnitsTest, WhoFollowsWritesNothing) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        LogRecord brief = master.Put("brief", "1");
        brief.ttl_mode = TtlMode::kSet;
        brief.expires_at_ms = t->reactor_->WallMs() + 10;
        EXPECT_OK(master.Give(p, master.Unit({brief})));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(1);
        co_await UntilApplied(t, 1);
        EXPECT_EQ((co_await Put(t->p_, "a", "1")).code(), Code::kNotMaster);
        EXPECT_EQ((co_await WritePoint(t->engine_, t->p_, PutOp("a", "1"))).code(), Code::kNotMaster);
        std::vector<Partition*> all(t->engine_->partitions().begin(), t->engine_->partitions().end());
        const auto cut = co_await CutSnapshot(*t->reactor_, all, t->reactor_->WallMs() + 1000);
        EXPECT_EQ(cut.code(), Code::kNotMaster);
        co_await Sleep(*t->reactor_, 5 * kSecond);
        EXPECT_EQ(t->p_->stats().last_lsn, 1u);
        EXPECT_EQ(t->p_->stats().expired_total, 0u);
        EXPECT_EQ(t->gate_->appended, 0u);
        EXPECT_EQ(co_await ValueOf(t->p_, "brief"), "none");
        // It is still stored.
        const auto stored = co_await t->r_->tree().Aggregate(/*view=*/0, "", "", /*now_ms=*/0);
        EXPECT_TRUE(stored.ok() && stored->count == 1);
        // Then it leads.
        Lead(t);
        EXPECT_OK(co_await Put(t->p_, "a", "1"));
        EXPECT_OK((co_await WritePoint(t->engine_, t->p_, PutOp("b", "1"))).status());
        EXPECT_GE(t->gate_->appended, 2u);
        co_await Sleep(*t->reactor_, 5 * kSecond);
        EXPECT_EQ(t->p_->stats().expired_total, 1u);
        const auto later = co_await CutSnapshot(*t->reactor_, all, t->reactor_->WallMs() + 1000);
        EXPECT_OK(later.status());
      },
      /*close=*/true);
}

// P5: its clock rises with what it is given, so its own versions are higher later, also after a restart.
TEST_F(FollowedUnitsTest, RaiseTheClock) {
  static Version newest = 0;
  Run([](CommitGateTest* t) -> Task<void> {
    GatedPartition* p = Follow(t);
    Master master(t->reactor_);
    master.version = VersionAtMs(t->reactor_->WallMs() + 3'600'000);
    EXPECT_OK(master.GivePut(p, "a", "1"));
    newest = master.version;
    EXPECT_GE(t->r_->clock().newest(), newest);
    co_await UntilDurable(t->reactor_, t->p_);
  });
  Run(
      [](CommitGateTest* t) -> Task<void> {
        Lead(t);
        std::vector<WriteOp> ops;
        ops.push_back(PutOp("b", "2"));
        const auto results = co_await t->p_->Write(std::move(ops), WriteOptions());
        EXPECT_OK(results.status());
        EXPECT_GT(results->front().version, newest);
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "1");
      },
      /*close=*/true);
}

// A snapshot gives a version to its partition that no record has. Another master may give lower ones later.
TEST_F(FollowedUnitsTest, MayHaveLowerVersionsThanASnapshot) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        Lead(t);
        EXPECT_OK(co_await Put(t->p_, "a", "1"));
        std::vector<Partition*> one{t->p_};
        t->machine_->JumpWallClock(100'000);
        EXPECT_OK((co_await CutSnapshot(*t->reactor_, one, t->reactor_->WallMs() + 1000)).status());
        t->machine_->JumpWallClock(-100'000);
        while (t->p_->stats().checkpoint_lsn < 2) co_await Sleep(*t->reactor_, kMillisecond);
      },
      /*close=*/true);
  for (int restart = 0; restart < 2; ++restart) {
    Run(
        [](CommitGateTest* t) -> Task<void> {
          GatedPartition* p = Follow(t);
          Master master(t->reactor_, p->end());
          EXPECT_OK(master.GivePut(p, "b", "2"));
          co_await UntilDurable(t->reactor_, t->p_);
          p->Commit(master.lsn);
          co_await UntilApplied(t, master.lsn);
          EXPECT_OK(co_await t->p_->Checkpoint());
          t->engine_->CheckInvariants();
          EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
        },
        /*close=*/true);
  }
}

// WQ2: what waits to be committed is bounded, and so is what waits to be applied.
TEST_F(FollowedUnitsTest, AreRefusedWhileTooManyWait) {
  setup_.engine.log_budget_bytes = 256u << 20;
  setup_.engine.memory_bytes = 32u << 20;
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        const std::string value(1u << 20, 'v');
        Status status;
        for (int i = 0; i < 100 && status.ok(); ++i) status = master.GivePut(p, fmt::format("{}", i % 8), value);
        EXPECT_EQ(status.code(), Code::kOverloaded) << status.ToString();
        EXPECT_GE(master.lsn, 64u);
        EXPECT_LT(master.lsn, 70u);
        co_await UntilDurable(t->reactor_, t->p_);
        // Nothing that was committed is applied while the disk of this node hangs.
        t->machine_->HangDisk(SimMachine::DiskHang::kAll);
        p->Commit(40);
        EXPECT_EQ(master.GivePut(p, "x", value).code(), Code::kOverloaded);
        t->machine_->ReleaseDisk();
        co_await UntilApplied(t, 40);
        EXPECT_OK(master.GivePut(p, "x", value));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(master.lsn);
        co_await UntilApplied(t, master.lsn);
        EXPECT_EQ(co_await ValueOf(t->p_, "x"), value);
      },
      /*close=*/true);
}

// P9: a follower has not reserved any room. It waits until there is some, and keeps the unit in its log.
TEST_F(FollowedUnitsTest, WaitForRoomOnTheDisk) {
  setup_.engine.memory_bytes = 16u << 20;
  setup_.engine.log_budget_bytes = 64u << 20;
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        EXPECT_OK(master.GivePut(p, "first", "1"));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(1);
        co_await UntilApplied(t, 1);
        EXPECT_OK(co_await t->p_->Checkpoint());
        const std::string value(1u << 20, 'v');
        for (int i = 0; i < 6; ++i) EXPECT_OK(master.GivePut(p, fmt::format("large {}", i), value));
        EXPECT_OK(master.GivePut(p, "last", "1"));
        co_await UntilDurable(t->reactor_, t->p_);
        t->machine_->FillDisk();
        p->Commit(master.lsn);
        co_await Sleep(*t->reactor_, 10 * kSecond);
        EXPECT_LT(p->applied_lsn(), master.lsn);
        EXPECT_TRUE(t->p_->stats().disk_full);
        EXPECT_EQ(co_await ValueOf(t->p_, "last"), "none");
        EXPECT_EQ(co_await ValueOf(t->p_, "first"), "1");
        t->engine_->CheckInvariants();
        t->machine_->EmptyDisk();
        co_await UntilApplied(t, master.lsn);
        for (int i = 0; i < 6; ++i) EXPECT_EQ(co_await ValueOf(t->p_, fmt::format("large {}", i)), value);
      },
      /*close=*/true);
}

// Before it comes to that, it says so: there is still some room for what is on its way.
TEST_F(FollowedUnitsTest, TellOfTheirRoom) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        EXPECT_OK(master.GivePut(p, "first", "1"));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(1);
        co_await UntilApplied(t, 1);
        EXPECT_OK(co_await t->p_->Checkpoint());
        EXPECT_EQ(p->Room(), UINT64_MAX);
        t->machine_->FillDisk();
        // What lies in the log need not become larger: the file alone must not grow.
        int given = 0;
        while (p->Room() == UINT64_MAX && given < 500) {
          EXPECT_OK(master.GivePut(p, fmt::format("{}", ++given), std::string(3000, 'v')));
          co_await UntilDurable(t->reactor_, t->p_);
          p->Commit(master.lsn);
          co_await Sleep(*t->reactor_, 20 * kMillisecond);
        }
        EXPECT_LT(p->Room(), 1u << 20);
        EXPECT_EQ(p->applied_lsn(), master.lsn) << "it has told too late";
        EXPECT_TRUE(t->p_->stats().disk_full);
        t->machine_->EmptyDisk();
        co_await Sleep(*t->reactor_, 2 * kSecond);
        EXPECT_EQ(p->Room(), UINT64_MAX);
        EXPECT_TRUE(t->p_->stats().disk_full) << "the status changes after a minute, not at once";
        co_await Sleep(*t->reactor_, 60 * kSecond);
        EXPECT_FALSE(t->p_->stats().disk_full);
        EXPECT_OK(master.GivePut(p, "last", "1"));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(master.lsn);
        co_await UntilApplied(t, master.lsn);
      },
      /*close=*/true);
}

// The log goes on from a checkpoint, and the file is that of another history, which has as many records.
TEST_F(FollowedUnitsTest, ContinueTheHistoryOfTheCheckpoint) {
  static std::string value;
  Run([](CommitGateTest*) -> Task<void> { co_return; }, /*close=*/true);
  const SimDisk empty = machine_->disk();
  std::string path, files[2];
  for (const std::string& found : empty.AllFiles()) {
    if (found.find("partition-00000") != std::string::npos && found.ends_with("/data")) path = found;
  }
  ASSERT_NE(path, "");
  for (const int history : {0, 1}) {
    machine_->disk() = empty;
    value = fmt::format("{}", history);
    Run([](CommitGateTest* t) -> Task<void> {
      GatedPartition* p = Follow(t);
      Master master(t->reactor_);
      for (int i = 0; i < 5; ++i) EXPECT_OK(master.GivePut(p, "a", value));
      co_await UntilDurable(t->reactor_, t->p_);
      p->Commit(5);
      co_await UntilApplied(t, 5);
      EXPECT_OK(co_await t->p_->Checkpoint());
      EXPECT_OK(co_await t->p_->Checkpoint());
      EXPECT_OK(master.GivePut(p, "b", value));
      co_await UntilDurable(t->reactor_, t->p_);
    });
    files[history] = machine_->disk().ReadAll(path);
  }
  machine_->disk().WriteAll(path, files[1]);
  Run([](CommitGateTest* t) -> Task<void> {
    EXPECT_FALSE(t->engine_->quarantine(0).has_value());
    EXPECT_EQ(t->gate_->recovered.durable_lsn, 6u);
    co_return;
  });
  machine_->disk().WriteAll(path, files[0]);
  Run([](CommitGateTest* t) -> Task<void> {
    const auto quarantined = t->engine_->quarantine(0);
    EXPECT_TRUE(quarantined.has_value());
    EXPECT_TRUE(quarantined && quarantined->ToString().find("another history") != std::string::npos);
    co_return;
  });
}

// What waits for room does not keep the partition from closing.
TEST_F(FollowedUnitsTest, DoNotHoldUpClosing) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = Follow(t);
        Master master(t->reactor_);
        for (int i = 0; i < 5; ++i) EXPECT_OK(master.GivePut(p, fmt::format("{}", i), std::string(500'000, 'v')));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(2);
      },
      /*close=*/true);
}

// The tail of a follower is found again after a restart, and goes on.
TEST_F(FollowedUnitsTest, OutliveARestart) {
  power_loss_ = true;
  static Lsn last = 0;
  last = 0;
  for (int restart = 0; restart < 4; ++restart) {
    Run([](CommitGateTest* t) -> Task<void> {
      GatedPartition* p = Follow(t);
      EXPECT_EQ(p->end().lsn, last);
      EXPECT_EQ(p->durable().lsn, last);
      EXPECT_EQ(p->end().epoch, last > 0 ? 5u : 0u);
      Master master(t->reactor_, p->end());
      for (int i = 0; i < 5; ++i) EXPECT_OK(master.GivePut(p, fmt::format("{}", i), fmt::format("{}", master.lsn)));
      co_await UntilDurable(t->reactor_, t->p_);
      last = master.lsn;
      p->Commit(last - 3);
      co_await UntilApplied(t, last - 3);
      for (Lsn lsn = last - 3; lsn <= last; ++lsn) EXPECT_TRUE(p->PointAt(lsn));
      t->engine_->CheckInvariants();
    });
  }
}

// What has been superseded is not there any more, and units of a lower epoch may follow.
TEST_F(FollowedUnitsTest, AreSuperseded) {
  power_loss_ = true;
  Run([](CommitGateTest* t) -> Task<void> {
    GatedPartition* p = Follow(t);
    Master master(t->reactor_);
    for (int i = 0; i < 3; ++i) EXPECT_OK(master.GivePut(p, fmt::format("{}", i), "old"));
    co_await UntilDurable(t->reactor_, t->p_);
    p->Commit(1);
    const HistoryPoint two = *p->PointAt(2);
    Master other = master;  // it has the unit of LSN 3 too
    master.epoch = 6;
    master.lsn = two.lsn;
    master.chain = two.chain;
    p->Supersede(two);
    EXPECT_EQ(p->end().lsn, 2u);
    EXPECT_FALSE(p->PointAt(3));
    EXPECT_OK(master.GivePut(p, "3", "of epoch 6"));
    EXPECT_OK(master.GivePut(p, "4", std::string(20'000, '6')));
    EXPECT_EQ(p->EpochEnd(5).lsn, 2u);
    p->Supersede(two);  // some of it is on its way to the disk
    EXPECT_EQ(p->durable().lsn, 2u);
    other.lsn = two.lsn;
    other.chain = two.chain;
    EXPECT_OK(other.GivePut(p, "3", "of epoch 5"));
    EXPECT_EQ(p->end().epoch, 5u);
    EXPECT_EQ(p->epoch(), 6u);
    co_await UntilDurable(t->reactor_, t->p_);
    EXPECT_EQ(p->durable().lsn, 3u);
    t->engine_->CheckInvariants();
  });
  Run(
      [](CommitGateTest* t) -> Task<void> {
        GatedPartition* p = t->gate_->partition;
        EXPECT_EQ(p->end().lsn, 3u);
        EXPECT_EQ(p->end().epoch, 5u);
        EXPECT_GE(t->gate_->recovered.epoch, 6u);
        Lead(t);
        co_await UntilDurable(t->reactor_, t->p_);
        co_await UntilApplied(t, 4);
        EXPECT_EQ(co_await ValueOf(t->p_, "2"), "none");
        EXPECT_EQ(co_await ValueOf(t->p_, "1"), "old");
        EXPECT_EQ(co_await ValueOf(t->p_, "3"), "of epoch 5");
        EXPECT_EQ(co_await ValueOf(t->p_, "4"), "none");
      },
      /*close=*/true);
}

// A client's write that is superseded has an unknown outcome, and one that is kept goes on.
TEST_F(FollowedUnitsTest, SupersedeOwnWrites) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->leads = true;
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);
        t->tasks_->Spawn(PutLater(t->p_, "b", "2", &t->b_));
        co_await UntilDurable(t->reactor_, t->p_);
        GatedPartition* p = Follow(t);
        p->Supersede(*p->PointAt(1));
        co_await Sleep(*t->reactor_, kMillisecond);
        EXPECT_TRUE(t->b_.done && t->b_.code == Code::kAborted);
        EXPECT_FALSE(t->a_.done);
        Master master(t->reactor_, p->end());
        EXPECT_OK(master.GivePut(p, "c", "3"));
        co_await UntilDurable(t->reactor_, t->p_);
        p->Commit(2);
        co_await t->tasks_->Drain();
        EXPECT_EQ(t->a_.code, Code::kOk);
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "none");
        EXPECT_EQ(co_await ValueOf(t->p_, "c"), "3");
      },
      /*close=*/true);
}

}  // namespace
}  // namespace pando::engine_test
