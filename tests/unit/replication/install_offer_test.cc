// Who offers a copy of the pages, and who takes it (RC8).
#include <gtest/gtest.h>

#include "src/replication/replica_core.h"
#include "tests/sim/replication_sim_log.h"

namespace pando::replication {
namespace {

const ReplicaId kSelf{1, 1}, kMaster{2, 2}, kThird{3, 3};
const Uuid kPartition{9, 9};
constexpr Epoch kEpoch = 3;

template <typename T>
std::vector<T> Only(std::vector<Effect> effects) {
  std::vector<T> found;
  for (Effect& effect : effects) {
    if (auto* e = std::get_if<T>(&effect)) found.push_back(std::move(*e));
  }
  return found;
}

template <typename Body>
std::vector<Message> Sent(std::vector<Effect> effects) {
  std::vector<Message> found;
  for (SendMessage& send : Only<SendMessage>(std::move(effects))) {
    if (std::holds_alternative<Body>(send.message.body)) found.push_back(std::move(send.message));
  }
  return found;
}

class InstallOfferTest : public testing::Test {
 protected:
  InstallOfferTest() {
    log_.on_append = [](const SimUnit&) {};
    log_.on_commit = [](Lsn) {};
    entry_.lineage = 1;
    entry_.epoch = kEpoch;
    entry_.master = kMaster;
    entry_.isr = {kMaster, kThird};
    entry_.assigned = {kSelf, kMaster, kThird};
    entry_.replicas = 3;
    entry_.min_isr = 1;
    entry_.revision = 7;
  }

  void Start() {
    CoreConfig config;
    config.partition = kPartition;
    config.self = kSelf;
    config.incarnation = 1;
    RecoveredReplica found;
    found.lineage = 1;
    core_ = std::make_unique<ReplicaCore>(config, found, log_, now_ns_);
    core_->OnTopology(entry_, now_ns_);
    core_->TakeEffects();
  }
  std::vector<FetchPages> Offer(ReplicaId from, Epoch epoch, Lsn acked_lsn) {
    core_->Step({from, kSelf, InstallOffer{epoch, acked_lsn}}, now_ns_);
    effects_ = core_->TakeEffects();
    return Only<FetchPages>(effects_);
  }
  // The master's log as far as the first unit, which the follower acknowledges.
  void FollowOneUnit() {
    SimLog master;
    master.on_append = [](const SimUnit&) {};
    const UnitPtr unit = master.AppendOwn(kEpoch, 1, "record");
    std::string units(UnitBytes(unit->records.size()), '\0');
    EncodeUnit(kPartition, unit->View(), 0, units.data());
    core_->Step({kMaster, kSelf, Append{kEpoch, {}, units, 0}}, now_ns_);
    log_.EndSync(log_.BeginSync());
    core_->OnPromiseStored(kEpoch, now_ns_);
    core_->OnDurable(now_ns_);
    ASSERT_FALSE(Sent<AppendAck>(core_->TakeEffects()).empty());
  }
  bool Acknowledges() {
    core_->Step({kMaster, kSelf, Append{kEpoch, log_.end(), "", 0}}, now_ns_);
    return !Sent<AppendAck>(core_->TakeEffects()).empty();
  }
  // This replica leads, with kThird in sync and kMaster not.
  void Lead() {
    entry_.epoch = kEpoch - 1;
    entry_.isr = {kSelf, kMaster, kThird};
    Start();
    entry_.epoch = kEpoch;
    entry_.master = kSelf;
    entry_.isr = {kSelf, kThird};
    ++entry_.revision;
    core_->OnTopology(entry_, now_ns_);
    core_->OnPromiseStored(kEpoch, now_ns_);
    now_ns_ += 2 * kSecond;  // its own grant has run out
    core_->Tick(now_ns_);
    core_->TakeEffects();
    ASSERT_EQ(core_->leader().epoch(), kEpoch);
  }
  std::vector<Message> ShipFailsFor(ReplicaId follower) {
    core_->OnShipFailed(follower, kEpoch, now_ns_);
    effects_ = core_->TakeEffects();
    EXPECT_EQ(Only<InstallReplica>(effects_).size(), 1u);
    return Sent<InstallOffer>(effects_);
  }

  SimLog log_;
  PartitionEntry entry_;
  std::unique_ptr<ReplicaCore> core_;
  std::vector<Effect> effects_;
  Nanos now_ns_ = 10 * kSecond;
};

TEST_F(InstallOfferTest, OneThatIsNotInSyncTakesItOnce) {
  Start();
  const std::vector<FetchPages> taken = Offer(kMaster, kEpoch, 0);
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken[0].epoch, kEpoch);
  EXPECT_EQ(taken[0].master, kMaster);
  EXPECT_TRUE(Offer(kMaster, kEpoch, 0).empty());
  core_->OnInstalled(now_ns_);
  EXPECT_EQ(Offer(kMaster, kEpoch, 0).size(), 1u);
}

TEST_F(InstallOfferTest, AMemberOfTheIsrDoesNot) {
  entry_.isr.Insert(kSelf);
  Start();
  EXPECT_TRUE(Offer(kMaster, kEpoch, 0).empty());
}

TEST_F(InstallOfferTest, OnlyTheMasterOfTheNewestEntryCounts) {
  Start();
  EXPECT_TRUE(Offer(kThird, kEpoch, 0).empty());
  EXPECT_TRUE(Offer(kMaster, kEpoch - 1, 0).empty());
  EXPECT_TRUE(Offer(kMaster, kEpoch + 1, 0).empty());
  EXPECT_EQ(Only<ReadTopology>(effects_).size(), 1u);
}

// The offer was sent before the acknowledgement came, which may be enough to join. Or that was lost, and the next
// offer must not miss it too.
TEST_F(InstallOfferTest, NotAfterAnAcknowledgementThatTheMasterDidNotKnow) {
  Start();
  FollowOneUnit();
  EXPECT_TRUE(Offer(kMaster, kEpoch, 0).empty());
  const std::vector<Message> again = Sent<AppendAck>(effects_);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(std::get<AppendAck>(again[0].body).durable.lsn, 1u);
  EXPECT_TRUE(Acknowledges());
  EXPECT_EQ(Offer(kMaster, kEpoch, 1).size(), 1u);
  EXPECT_FALSE(Acknowledges());
  core_->OnInstalled(now_ns_);
  EXPECT_TRUE(Acknowledges());
}

TEST_F(InstallOfferTest, AMasterOffersToWhoIsNotInSync) {
  Lead();
  const std::vector<Message> offers = ShipFailsFor(kMaster);
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].to, kMaster);
  EXPECT_EQ(std::get<InstallOffer>(offers[0].body).epoch, kEpoch);
  EXPECT_TRUE(ShipFailsFor(kThird).empty());
}

// What a replica has committed is in the master's log, even if the master does not remember the point.
TEST_F(InstallOfferTest, AnInstalledReplicaIsFoundByItsCommitPoint) {
  Lead();
  for (int i = 0; i < 3; ++i) log_.AppendOwn(kEpoch, 2, "records");
  log_.EndSync(log_.BeginSync());
  core_->OnDurable(now_ns_);
  core_->TakeEffects();
  core_->Step({kThird, kSelf, AppendAck{kEpoch, 1, log_.end(), 0, true}}, now_ns_);
  core_->TakeEffects();
  ASSERT_EQ(core_->commit_lsn(), log_.end().lsn);
  const HistoryPoint forgotten{kEpoch, 2, 77};  // within a unit, as this log knows it
  AlignReply reply;
  reply.epoch = kEpoch;
  reply.number = 1;
  reply.incarnation = 1;
  reply.ends = {forgotten};
  reply.log_end = reply.committed = forgotten;
  core_->Step({kMaster, kSelf, reply}, now_ns_);
  const std::vector<ShipUnits> ships = Only<ShipUnits>(core_->TakeEffects());
  ASSERT_EQ(ships.size(), 1u);
  EXPECT_EQ(ships[0].after.lsn, forgotten.lsn);
  EXPECT_EQ(ships[0].after.chain, forgotten.chain);
}

}  // namespace
}  // namespace pando::replication
