// Tests the snapshots of a node with fake partitions.
#include "src/node/snapshots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_partition.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

using testing::HasSubstr;

class SnapshotsTest : public testing::Test {
 protected:
  SnapshotsTest() : kernel_(1), reactor_(kernel_.AddMachine()->Boot()) {
    for (uint32_t i = 0; i < 4; ++i) {
      fakes_.push_back(std::make_unique<FakePartition>(i, reactor_, kMillisecond));
      partitions_.push_back(fakes_.back().get());
    }
    snapshots_ = std::make_unique<Snapshots>(*reactor_, &partitions_, /*max_age_ms=*/100'000);
  }
  template <typename T>
  T Await(Task<T> task) {
    auto result = kernel_.RunTask(*reactor_, std::move(task));
    CHECK(result.has_value());
    return *std::move(result);
  }
  void Pass(int64_t ms) {
    auto done = kernel_.RunTask(
        *reactor_, [](Reactor* r, int64_t t) -> Task<void> { co_await Sleep(*r, t * kMillisecond); }(reactor_, ms));
    CHECK(done);
  }

  SimKernel kernel_;
  SimReactor* reactor_;
  std::vector<std::unique_ptr<FakePartition>> fakes_;
  std::vector<Partition*> partitions_;
  std::unique_ptr<Snapshots> snapshots_;
};

// SN2: no renewal lets a snapshot outlive the age limit.
TEST_F(SnapshotsTest, LiveAsLongAsAskedWithinTheAgeLimit) {
  const int64_t start_ms = reactor_->WallMs();
  OpenedSnapshot by_default = *Await(snapshots_->Open(0));
  EXPECT_NEAR(by_default.expires_at_ms - start_ms, kDefaultSnapshotTtlMs, 50);
  OpenedSnapshot longest = *Await(snapshots_->Open(INT32_MAX));
  EXPECT_NEAR(longest.expires_at_ms - start_ms, 100'000, 100);
  EXPECT_NE(longest.token.id, by_default.token.id);
  EXPECT_GT(longest.token.version, by_default.token.version);
  Pass(50'000);
  OpenedSnapshot renewed = *Await(snapshots_->Renew(by_default.token, 40'000));
  EXPECT_NEAR(renewed.expires_at_ms - start_ms, 90'000, 100);
  renewed = *Await(snapshots_->Renew(by_default.token, 1));
  EXPECT_NEAR(renewed.expires_at_ms - start_ms, 90'000, 100) << "a renewal never shortens the life of a snapshot";
  renewed = *Await(snapshots_->Renew(by_default.token, 80'000));
  EXPECT_NEAR(renewed.expires_at_ms - start_ms, 100'000, 100) << "no renewal exceeds the age limit";
}

TEST_F(SnapshotsTest, AreReleasedEverywhereAndOnce) {
  SnapshotToken token = Await(snapshots_->Open(0))->token;
  for (auto& fake : fakes_) EXPECT_TRUE(fake->snapshots.contains(token.id));
  EXPECT_TRUE(*Await(snapshots_->Release(token)));
  for (auto& fake : fakes_) EXPECT_TRUE(fake->snapshots.empty());
  EXPECT_FALSE(*Await(snapshots_->Release(token)));
  EXPECT_EQ(Await(snapshots_->Renew(token, 0)).code(), Code::kSnapshotGone);
}

// SN1: at most kMaxSnapshots are open.
TEST_F(SnapshotsTest, AreLimitedInNumber) {
  std::vector<SnapshotToken> open;
  for (size_t i = 0; i < kMaxSnapshots; ++i) open.push_back(Await(snapshots_->Open(90'000))->token);
  Result<OpenedSnapshot> one_more = Await(snapshots_->Open(0));
  EXPECT_EQ(one_more.code(), Code::kOverloaded);
  EXPECT_THAT(one_more.status().message(), HasSubstr("64 snapshots are open"));
  EXPECT_TRUE(*Await(snapshots_->Release(open[7])));
  EXPECT_TRUE(Await(snapshots_->Open(0)).ok());
  EXPECT_EQ(Await(snapshots_->Open(0)).code(), Code::kOverloaded);
  Pass(91'000);
  EXPECT_TRUE(Await(snapshots_->Open(0)).ok()) << "expired snapshots do not count";
}

// SN2: one of another replica takes as long as its pages take, and is gone soon after nobody renews it.
TEST_F(SnapshotsTest, ACopyIsOfOnePartitionAndLivesAsLongAsItIsRenewed) {
  const OpenedSnapshot copy = *Await(snapshots_->OpenCopy(partitions_[2], 30'000));
  for (size_t i = 0; i < fakes_.size(); ++i) EXPECT_EQ(fakes_[i]->snapshots.contains(copy.token.id), i == 2) << i;
  for (int i = 0; i < 10; ++i) {
    Pass(20'000);
    const OpenedSnapshot renewed = *Await(snapshots_->Renew(copy.token, 30'000));
    EXPECT_NEAR(renewed.expires_at_ms, reactor_->WallMs() + 30'000, 100);
  }
  EXPECT_TRUE(*Await(snapshots_->Release(copy.token)));
  EXPECT_TRUE(fakes_[2]->snapshots.empty());
}

// SN1.
TEST_F(SnapshotsTest, CopiesAreLimitedBesides) {
  for (size_t i = 0; i < kMaxCopies; ++i) EXPECT_TRUE(Await(snapshots_->OpenCopy(partitions_[0], 30'000)).ok());
  EXPECT_EQ(Await(snapshots_->OpenCopy(partitions_[1], 30'000)).code(), Code::kOverloaded);
  EXPECT_TRUE(Await(snapshots_->Open(0)).ok());
}

// A token's seal keeps mistakes out, not forgers.
TEST_F(SnapshotsTest, AForgedVersionRenewsNothing) {
  const SnapshotToken token = Await(snapshots_->Open(1000))->token;
  EXPECT_EQ(Await(snapshots_->Renew({token.id, UINT64_MAX}, 50'000)).code(), Code::kSnapshotGone);
  EXPECT_EQ(Await(snapshots_->Renew({token.id, token.version + 1}, 50'000)).code(), Code::kSnapshotGone);
  EXPECT_TRUE(Await(snapshots_->Renew(token, 50'000)).ok());
}

TEST_F(SnapshotsTest, WhatNobodyWaitsForIsNotOpened) {
  auto unwanted = std::make_shared<std::atomic<bool>>(true);
  EXPECT_EQ(Await(snapshots_->Open(0, unwanted)).code(), Code::kDeadline);
  for (auto& fake : fakes_) EXPECT_TRUE(fake->snapshots.empty());
  unwanted->store(false);
  EXPECT_TRUE(Await(snapshots_->Open(0, unwanted)).ok()) << "the turn was given back";
}

TEST_F(SnapshotsTest, AFailedOneIsNowhere) {
  fakes_[2]->failure = Status(Code::kUnavailable, "closing");
  EXPECT_EQ(Await(snapshots_->Open(0)).code(), Code::kUnavailable);
  for (auto& fake : fakes_) {
    EXPECT_TRUE(fake->snapshots.empty());
    EXPECT_FALSE(fake->holding_writes);
  }
}

}  // namespace
}  // namespace pando
