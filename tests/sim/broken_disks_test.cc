// A cluster in which the disk of one node is full, or fails (small_cluster.h).
#include <gtest/gtest.h>

#include "src/verify/accept_log_loss.h"
#include "tests/sim/small_cluster.h"
#include "tests/support/child_process.h"

namespace pando {
namespace {

using Body = void (*)(SmallCluster* cluster);

// Crashed nodes stay allocated, so each test has a process of its own.
void InCluster(Body body, uint32_t min_isr = 2, uint64_t seed = 1) {
  EXPECT_TRUE(InChildProcess([body, min_isr, seed] {
    FLAGS_minloglevel = 3;
    SmallCluster cluster(seed, min_isr);
    if (!cluster.StartAll()) {
      ADD_FAILURE() << "the cluster does not become whole";
      return false;
    }
    body(&cluster);
    return !testing::Test::HasFailure();
  }));
}

std::string Value(int i) { return std::string(3000, static_cast<char>('a' + i % 26)); }

// Writes new keys until one is refused, and returns how many were not; `most` if none was.
int Fill(SmallCluster* cluster, int most, Code* refusal) {
  for (int i = 0; i < most; ++i) {
    *refusal = cluster->Put(fmt::format("fill {}", i), Value(i));
    if (*refusal != Code::kOk) return i;
    cluster->Run(5 * kMillisecond);  // the news of the others need a moment
  }
  return most;
}

TEST(BrokenDisks, WhatAFollowerHasNoRoomForIsRefusedBeforeTheAppend) {
  InCluster([](SmallCluster* c) {
    const size_t master = c->master(), full = (master + 1) % 3;
    EXPECT_EQ(c->Put("old", "1"), Code::kOk);
    c->Run(kSecond);
    c->machine(full).FillDisk();
    Code refusal = Code::kOk;
    const int written = Fill(c, 3000, &refusal);
    EXPECT_LT(written, 3000);
    EXPECT_EQ(refusal, Code::kDiskFull);
    const Lsn end = c->stats(master).last_lsn;
    EXPECT_EQ(c->Put("more", Value(0)), Code::kDiskFull);
    EXPECT_EQ(c->stats(master).last_lsn, end);
    // It has told in time: it holds all that was acknowledged, and nobody waits for it.
    EXPECT_TRUE(c->InSync(full));
    EXPECT_TRUE(c->RunUntil([&] { return c->stats(full).applied_lsn == end; }, 2 * kSecond));
    // How a full disk is emptied.
    EXPECT_EQ(c->Remove("old"), Code::kOk);
    for (int i = 0; i < written; ++i) EXPECT_EQ(c->Remove(fmt::format("fill {}", i)), Code::kOk);
    EXPECT_TRUE(c->RunUntil([&] { return c->Put("after", Value(0)) == Code::kOk; }, 30 * kSecond));
    c->machine(full).EmptyDisk();
    EXPECT_TRUE(c->RunUntil([&] { return c->Put("more", Value(0)) == Code::kOk; }, 5 * kSecond));
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE((c->Stop(i)).ok());
  });
}

TEST(BrokenDisks, AMasterWithAFullDiskRefusesAndGoesOn) {
  InCluster([](SmallCluster* c) {
    const size_t master = c->master();
    EXPECT_EQ(c->Put("old", "1"), Code::kOk);
    c->Run(kSecond);
    c->machine(master).FillDisk();
    Code refusal = Code::kOk;
    const int written = Fill(c, 3000, &refusal);
    EXPECT_LT(written, 3000);
    EXPECT_EQ(refusal, Code::kDiskFull);
    EXPECT_EQ(c->master(), master);
    EXPECT_EQ(c->record().isr.size(), 3u);
    EXPECT_EQ(c->Remove("old"), Code::kOk);
    c->machine(master).EmptyDisk();
    EXPECT_EQ(c->Put("more", Value(0)), Code::kOk);
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE((c->Stop(i)).ok());
  });
}

// From the moment that a failure of the log is known, its node promises and acknowledges nothing.
TEST(BrokenDisks, ANodeWhoseLogHasFailedTakesNoPart) {
  InCluster([](SmallCluster* c) {
    const size_t master = c->master();
    for (const size_t fails : {(master + 1) % 3, master}) {
      DiskFault fault = SyncFault(0, UINT64_MAX);
      fault.path_contains = "/wal-";
      c->machine(fails).AddFault(fault);
      ClusterMember& writes = c->member(c->master());
      auto write = [](ClusterMember* member) -> Task<void> {
        (void)co_await SmallCluster::Write(member->place(0), RecordOp::kPut, "a", Value(0));
      };
      writes.calls().Spawn(write(&writes));
      const auto stopped =
          c->kernel().RunUntil([&] { return !c->member(fails).failure().ok(); }, c->kernel().now_ns() + 5 * kSecond);
      ASSERT_EQ(stopped, SimKernel::Stopped::kPredicate);
      EXPECT_EQ(c->core(fails), nullptr);
      c->Run(3 * kSecond);
      EXPECT_EQ(c->core(fails), nullptr);
      EXPECT_NE(c->master(), fails);
      EXPECT_LT(c->master(), 3u);
      EXPECT_FALSE(c->InSync(fails));
      c->machine(fails).ClearFaults();
      c->Crash(fails);
      EXPECT_TRUE((c->Start(fails)).ok());
      EXPECT_TRUE(c->RunUntil([&] { return c->record().isr.size() == 3; }, 20 * kSecond));
    }
  });
}

// -- data that cannot be used any more, and data that only cannot be read now

Uuid ReplicaOf(const SmallCluster& c, size_t i) {
  const PartitionRecord record = c.record();
  for (const auto* replicas : {&record.isr, &record.evicted, &record.learners}) {
    for (const ReplicaRecord& r : *replicas) {
      if (r.node == i + 1) return r.replica;
    }
  }
  return {};
}

std::string DataFile(SmallCluster* c, size_t i) {
  for (const std::string& path : c->machine(i).disk().AllFiles()) {
    if (path.ends_with("/data")) return path;
  }
  return "";
}

bool IsWhole(SmallCluster* c) {
  const PartitionRecord record = c->record();
  return record.isr.size() == 3 && record.evicted.empty() && record.learners.empty() && c->master() < 3;
}

void Damage(SmallCluster* c, bool missing) {
  const size_t i = (c->master() + 1) % 3;
  EXPECT_EQ(c->Put("a", "1"), Code::kOk);
  const Uuid before = ReplicaOf(*c, i);
  EXPECT_TRUE((c->Stop(i)).ok());
  const std::string path = DataFile(c, i);
  ASSERT_NE(path, "");
  if (missing) {
    c->machine(i).disk().RemoveTree(path);
  } else {
    c->machine(i).disk().WriteAll(path, std::string(100'000, 'x'));
  }
  EXPECT_TRUE((c->Start(i)).ok());
  EXPECT_FALSE(c->member(i).quarantine().ok());
  EXPECT_TRUE(c->RunUntil([&] { return ReplicaOf(*c, i) != before && IsWhole(c); }, 30 * kSecond));
  EXPECT_EQ(c->Put("b", "1"), Code::kOk);
}

TEST(BrokenDisks, AReplicaWhoseFileIsDamagedIsReplaced) {
  for (const bool missing : {false, true}) {
    InCluster(missing ? [](SmallCluster* c) { Damage(c, true); } : [](SmallCluster* c) { Damage(c, false); });
  }
}

// There is no master that goes on without them, so an operator may put the files back.
TEST(BrokenDisks, NobodyIsReplacedIfAllFilesAreDamaged) {
  InCluster([](SmallCluster* c) {
    EXPECT_EQ(c->Put("a", "1"), Code::kOk);
    const PartitionRecord before = c->record();
    std::vector<SimDisk> good;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(c->Stop(i).ok());
      good.push_back(c->machine(i).disk());
      c->machine(i).disk().WriteAll(DataFile(c, i), std::string(100'000, 'x'));
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(c->Start(i).ok());
    c->Run(10 * kSecond);
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(c->Stop(i).ok());
    for (size_t i = 0; i < 3; ++i) {
      const std::string file = DataFile(c, i);
      c->machine(i).disk().WriteAll(file, good[i].ReadAll(file));
      EXPECT_TRUE(c->Start(i).ok());
    }
    EXPECT_TRUE(c->RunUntil([&] { return IsWhole(c); }, 20 * kSecond));
    for (const ReplicaRecord& replica : before.isr) EXPECT_EQ(ReplicaOf(*c, replica.node - 1), replica.replica);
    EXPECT_EQ(c->Put("b", "1"), Code::kOk);
  });
}

TEST(BrokenDisks, AReplicaWhoseDiskDoesNotAnswerIsNotReplaced) {
  InCluster([](SmallCluster* c) {
    const size_t i = (c->master() + 1) % 3;
    EXPECT_EQ(c->Put("a", "1"), Code::kOk);
    const Uuid before = ReplicaOf(*c, i);
    EXPECT_TRUE((c->Stop(i)).ok());
    DiskFault fault;
    fault.kind = IoOp::Kind::kRead;
    fault.path = DataFile(c, i);
    fault.count = UINT64_MAX;
    fault.error_number = 24;  // EMFILE
    c->machine(i).AddFault(fault);
    EXPECT_TRUE((c->Start(i)).ok());
    EXPECT_EQ(c->member(i).quarantine().code(), Code::kIoError);
    c->Run(10 * kSecond);
    EXPECT_EQ(ReplicaOf(*c, i), before);
    EXPECT_FALSE(c->InSync(i));
    c->machine(i).ClearFaults();
    EXPECT_TRUE((c->Stop(i)).ok());
    EXPECT_TRUE((c->Start(i)).ok());
    EXPECT_TRUE(c->RunUntil([&] { return IsWhole(c); }, 20 * kSecond));
    EXPECT_EQ(ReplicaOf(*c, i), before);
  });
}

// -- logs that are damaged as a whole

// As an operator does it, with kvadmin accept-loss --log.
Task<Status> AcceptIt(Reactor* reactor) {
  CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, "/data"));
  CO_ASSIGN_OR_RETURN(const LogLossReport report, co_await ExamineLogLoss(*reactor, std::move(store), 0));
  co_return co_await AcceptLogLoss(*reactor, &report, 1);
}

// Changes a byte of the batch that lies at this part of the log.
void DamageLog(SimDisk* disk, double part) {
  constexpr size_t kBlock = 4096;
  std::vector<std::pair<std::string, size_t>> batches;
  for (const std::string& path : disk->AllFiles()) {
    if (path.find("/wal-0/") == std::string::npos) continue;
    const std::string image = disk->ReadAll(path);
    for (size_t at = kBlock; at + kBlock <= image.size(); at += kBlock) {
      if (image.compare(at + 8, 8, "PANDOBAT") == 0) batches.emplace_back(path, at);
    }
  }
  ASSERT_GT(batches.size(), 20u);
  const auto& [path, at] = batches[static_cast<size_t>(part * static_cast<double>(batches.size()))];
  std::string image = disk->ReadAll(path);
  image[at + 40] = static_cast<char>(~image[at + 40]);
  disk->WriteAll(path, image);
}

// All lose the ends of their logs, at different places (RH6). What was committed and not yet checkpointed is lost, and
// nothing else.
// With about one seed in thirty, the log of the new master does not reach back to what both followers lack. It cannot
// open without them, and gives no copies before it has opened: then the partition waits for failover --force.
constexpr uint64_t kSeedWithLog = 2;
TEST(BrokenDisks, ThreeLogsThatEndBeforeTheirDamageGoOn) {
  InCluster(
      [](SmallCluster* c) {
        for (int i = 0; i < 30; ++i) EXPECT_EQ(c->Put(fmt::format("early {}", i), Value(i)), Code::kOk);
        c->Run(2 * kSecond);  // until they are in a checkpoint
        for (int i = 0; i < 60; ++i) EXPECT_EQ(c->Put(fmt::format("late {}", i), "1"), Code::kOk);
        for (size_t i = 0; i < 3; ++i) c->Crash(i);
        for (size_t i = 0; i < 3; ++i) {
          SimMachine& machine = c->machine(i);
          DamageLog(&machine.disk(), 0.7 + 0.1 * static_cast<double>(i));
          SimReactor& reactor = *machine.Boot();
          const Status accepted = *c->kernel().RunTask(reactor, AcceptIt(&reactor));
          EXPECT_TRUE(accepted.ok()) << accepted.ToString();
          machine.ProcessCrash(1);
        }
        for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(c->Start(i).ok());
        EXPECT_TRUE(c->RunUntil([&] { return IsWhole(c); }, 60 * kSecond));
        EXPECT_EQ(c->Put("new", "1"), Code::kOk);
        const size_t master = c->master();
        const Lsn end = c->stats(master).last_lsn;
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_TRUE(c->RunUntil([&] { return c->stats(i).applied_lsn == end; }, 5 * kSecond)) << i;
        }
        for (int i = 0; i < 30; ++i) {
          const auto got = c->On(master, c->place(master)->Get(fmt::format("early {}", i), kNewest, nullptr));
          EXPECT_TRUE(got.ok() && got->found) << i;
        }
      },
      /*min_isr=*/2, kSeedWithLog);
}

// -- empty disks

Task<void> PutLater(Partition* partition, std::string key, Code* code) {
  *code = (co_await SmallCluster::Write(partition, RecordOp::kPut, std::move(key), "1")).code();
}

// The disks of `lost` followers are empty, and those that are left are too few for the ISR to do without them. So the
// master has no lease and commits nothing until it has given copies. It has a write that is not committed.
void LoseFollowers(SmallCluster* c, size_t lost) {
  const size_t master = c->master();
  EXPECT_EQ(c->Put("old", Value(0)), Code::kOk);
  for (size_t i = 0; i < lost; ++i) {
    const size_t follower = (master + 1 + i) % SmallCluster::kNodes;
    c->Crash(follower);
    c->machine(follower).disk() = SimDisk();
  }
  static Code late = Code::kOk;
  late = Code::kUnavailable;
  c->member(master).calls().Spawn(PutLater(c->place(master), "late", &late));
  c->Run(2 * kSecond);
  EXPECT_EQ(c->master(), SmallCluster::kNodes);
  EXPECT_TRUE(c->Leads(master));
  for (size_t i = 0; i < lost; ++i) EXPECT_TRUE(c->Start((master + 1 + i) % SmallCluster::kNodes).ok());
  EXPECT_TRUE(c->RunUntil([&] { return IsWhole(c); }, 60 * kSecond));
  EXPECT_EQ(c->master(), master);
  EXPECT_EQ(late, Code::kOk);
  EXPECT_EQ(c->Put("new", "1"), Code::kOk);
  const Lsn end = c->stats(master).last_lsn;
  for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
    EXPECT_TRUE(c->RunUntil([&] { return c->stats(i).applied_lsn == end; }, 5 * kSecond));
  }
}

// Its data count, so nothing may replace them.
TEST(BrokenDisks, AReplicaThatIsInSyncGetsNoCopy) {
  InCluster([](SmallCluster* c) {
    const size_t master = c->master();
    ClusterMember& member = c->member(master);
    const auto open = [&](const Uuid& replica) {
      return member.host()->KeepLogFor(0, replica, c->kernel().now_ns() + kSecond, /*anew=*/true).code();
    };
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) EXPECT_EQ(open(ReplicaOf(*c, i)), Code::kInvalidArgument) << i;
    const size_t other = (master + 1) % SmallCluster::kNodes;
    c->Crash(other);
    EXPECT_TRUE(c->RunUntil([&] { return !c->InSync(other); }, 5 * kSecond));
    EXPECT_EQ(open(ReplicaOf(*c, other)), Code::kOk);
  });
}

TEST(BrokenDisks, AMasterThatIsLeftWithTheDataGivesCopies) {
  InCluster([](SmallCluster* c) { LoseFollowers(c, 2); });
}

TEST(BrokenDisks, AMasterWhoseIsrIsAsSmallAsItMayBeGivesCopies) {
  InCluster([](SmallCluster* c) { LoseFollowers(c, 1); }, 3);
}

}  // namespace
}  // namespace pando
