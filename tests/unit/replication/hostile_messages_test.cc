// Messages that no honest replica sends, or that are not true. They must not end a replica's life, nor that of
// the topology, and their effect must pass.
#include <gtest/gtest.h>

#include <limits>

#include "tests/sim/replication_trio.h"

namespace pando::replication {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

class HostileMessages : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(trio_.Opens());
    trio_.WriteEvery(5 * kMillisecond);
    trio_.Run(200 * kMillisecond);
  }
  // Each replica gets it from each other one.
  template <typename Body>
  void Everywhere(const Body& body) {
    for (size_t to = 0; to < trio_.size(); ++to) {
      for (size_t from = 0; from < trio_.size(); ++from) {
        if (from != to) Send(from, to, body);
      }
    }
  }
  template <typename Body>
  void Send(size_t from, size_t to, const Body& body) {
    trio_.Do(to, [&](ReplicaCore& core) { core.Step({trio_[from].id, trio_[to].id, body}, trio_.now()); });
  }
  // Serves, also through the death of the master, and all are in sync in the end.
  void ExpectWell() {
    const auto whole = [this] { return trio_.master() < 3 && trio_.entry.isr.size() == 3; };
    EXPECT_TRUE(trio_.RunUntil(whole, 10 * kSecond));
    const size_t master = trio_.master();
    ASSERT_LT(master, 3u);
    trio_.Stop(master);
    EXPECT_TRUE(trio_.RunUntil([&] { return trio_.master() < 3 && trio_.master() != master; }, 5 * kSecond));
    trio_.Start(master);
    EXPECT_TRUE(trio_.RunUntil(whole, 10 * kSecond));
    EXPECT_EQ(trio_.Wrong(), "");
    for (size_t i = 0; i < 3; ++i) EXPECT_LT(trio_.core(i).promised(), Epoch{1} << 20);
  }

  Trio trio_;
};

// The highest epochs that there are would be promised for good, and the topology could not hold them.
TEST_F(HostileMessages, EpochsOutOfReachAreIgnored) {
  for (const Epoch epoch : {kMax, kMax - 1, Epoch{1} << 53}) {
    Everywhere(Fenced{1, epoch});
    PromiseReply reply;
    reply.epoch = 1;
    reply.highest = epoch;
    Everywhere(reply);
    Everywhere(PromiseRequest{epoch, kMax});
    Everywhere(Heartbeat{epoch, 1, 1, 0, 0, 0});
    Everywhere(AlignRequest{epoch, 1});
    Everywhere(Append{epoch, {}, "", 0});
    Everywhere(InstallOffer{epoch, kMax});
  }
  ExpectWell();
}

// Who is condemned gives up its data, so only the master that the topology names may do it.
TEST_F(HostileMessages, OnlyTheMasterCondemns) {
  Everywhere(Condemn{kMax, 5});
  const Epoch epoch = trio_.entry.epoch;
  Send(1, 0, Condemn{epoch, 5});
  Send(2, 1, Condemn{epoch, 5});
  Send(0, 1, Condemn{epoch + 1, 5});
  for (size_t i = 0; i < 3; ++i) EXPECT_FALSE(trio_.core(i).quarantined()) << i;
  ExpectWell();
  const size_t master = trio_.master(), other = (master + 1) % 3;
  Send(master, other, Condemn{trio_.entry.epoch, 5});
  EXPECT_TRUE(trio_.core(other).quarantined());
}

// An epoch has one history. Somebody sends units of the master's epoch that are not the master's: before the true ones,
// or in the place of those that were acknowledged.
TEST_F(HostileMessages, AnotherAppendOfTheSameEpochPasses) {
  for (const bool in_place : {false, true}) {
    const size_t master = trio_.master(), other = (master + 1) % 3;
    const auto& units = trio_[other].log.units();
    SimLog forged;
    forged.on_append = [](const SimUnit&) {};
    const size_t keep = units.size() - (in_place ? 1 : 0);
    for (size_t i = 0; i < keep; ++i) forged.Append(units[i]->View());
    const HistoryPoint after = forged.end();
    Append append{trio_.entry.epoch, after, "", 0};
    for (int i = 0; i < 3; ++i) {
      const UnitPtr unit = forged.AppendOwn(trio_.entry.epoch, 1, "forged");
      const size_t before = append.units.size();
      append.units.resize(before + UnitBytes(unit->records.size()));
      EncodeUnit(Uuid{7, 7}, unit->View(), 0, append.units.data() + before);
    }
    const Lsn committed = trio_.core(other).commit_lsn();
    Send(master, other, append);
    EXPECT_EQ(trio_.Wrong(), "");
    trio_.Run(kSecond);
    EXPECT_EQ(trio_.Wrong(), "");
    EXPECT_GT(trio_.core(other).commit_lsn(), committed);
    EXPECT_FALSE(trio_.core(other).quarantined());
    for (const UnitPtr& unit : trio_[other].log.units()) EXPECT_NE(unit->records, "forged");
    ExpectWell();
  }
}

// A process that lives answers heartbeats, and leads later epochs.
TEST_F(HostileMessages, AWrongDeathNoticePasses) {
  for (size_t i = 0; i < 3; ++i) {
    trio_.NoticeDeath(i, trio_[i].incarnation);
    ExpectWell();
    trio_.NoticeDeath(i, kMax);
    ExpectWell();
  }
}

// Both times are those of the receiver's own clock, so they cannot lie in its future.
TEST_F(HostileMessages, TimesThatAreYetToComeCountForNothing) {
  const size_t master = trio_.master(), other = (master + 1) % 3;
  const Nanos never = std::numeric_limits<Nanos>::max();
  const Epoch epoch = trio_.entry.epoch;
  for (size_t from = 0; from < 3; ++from) {
    if (from != master) Send(from, master, HeartbeatAck{epoch, trio_[master].incarnation, never, 1, 1});
  }
  EXPECT_LE(trio_.core(master).leader().LeaseEnd(), trio_.now() + 2 * kSecond);
  Send(master, other, Heartbeat{epoch, trio_[master].incarnation, 1, 0, never, trio_[other].incarnation});
  EXPECT_LE(trio_.core(other).FreshAsOf().value_or(0), trio_.now());
  ExpectWell();
}

}  // namespace
}  // namespace pando::replication
