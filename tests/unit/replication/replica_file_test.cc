// The replica file: its bytes, what damage of it means, and what a crash leaves.
#include "src/replication/replica_file.h"

#include <gtest/gtest.h>

#include "tests/support/hand_bytes.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::replication {
namespace {

constexpr Uuid kPartition{0x0123456789abcdef, 0xfedcba9876543210};
constexpr Uuid kReplica{0x0011223344556677, 0x8899aabbccddeeff};
const std::string kZeros(4096, '\0');
const char* const kPath = "/data/partition-00003/replica";

// A slot by hand, after docs/FORMAT.md, "Replica file".
std::string HandSlot(uint64_t sequence, uint64_t promised, uint32_t flags = 1, uint32_t format = 1) {
  HandBytes b;
  b.Text("PPREPL01").U32(format).U32(flags);
  b.Uuid(kPartition.hi, kPartition.lo).Uuid(kReplica.hi, kReplica.lo);
  b.U64(promised).U64(7).U64(sequence);
  EXPECT_EQ(b.size(), 72u);
  return b.PadTo(4088).Checksum().str();
}
std::string Damaged(std::string block) {
  block[50] ^= 1;
  return block;
}
ReplicaState State(Epoch promised, bool installed = true) { return {kReplica, promised, 7, installed}; }

TEST(ReplicaSlots, GoldenBytes) {
  ReplicaSlot slot;
  slot.flags = kReplicaInstalled;
  slot.partition = kPartition;
  slot.replica = kReplica;
  slot.promised = 5;
  slot.lineage = 7;
  slot.sequence = 9;
  std::string block(4096, 'x');
  EncodeReplicaSlot(slot, block.data());
  EXPECT_EQ(block, HandSlot(9, 5));
}

TEST(ReplicaSlots, TheNewestValidOneCounts) {
  const auto chosen = [](const std::string& blocks) {
    Result<ReplicaSlot> slot = ChooseReplicaSlot(blocks, kPath, kPartition);
    return slot.ok() ? slot->promised : 0;
  };
  EXPECT_EQ(chosen(HandSlot(4, 10) + HandSlot(5, 11)), 11u);
  EXPECT_EQ(chosen(HandSlot(6, 12) + HandSlot(5, 11)), 12u);
  EXPECT_EQ(chosen(kZeros + HandSlot(1, 3)), 3u);
  EXPECT_EQ(chosen(Damaged(HandSlot(6, 12)) + HandSlot(5, 11)), 11u);
  EXPECT_EQ(chosen(HandSlot(4, 10) + Damaged(HandSlot(5, 11))), 10u);
}

TEST(ReplicaSlots, WhatCannotBeUsedIsNamed) {
  const auto refusal = [](const std::string& blocks, const Uuid& partition = kPartition) {
    return ChooseReplicaSlot(blocks, kPath, partition).TakeStatus();
  };
  Status status = refusal(Damaged(HandSlot(4, 10)) + Damaged(HandSlot(5, 11)));
  EXPECT_EQ(status.code(), Code::kCorruption);
  EXPECT_NE(status.message().find(kPath), std::string::npos);
  EXPECT_NE(status.message().find("install it anew"), std::string::npos);
  EXPECT_EQ(refusal(kZeros + kZeros).code(), Code::kCorruption);
  EXPECT_EQ(refusal(HandSlot(4, 10) + kZeros, Uuid{1, 2}).code(), Code::kCorruption);
  EXPECT_EQ(refusal(HandSlot(4, 10, 1, 2) + HandSlot(5, 11)).code(), Code::kVersion);
  EXPECT_EQ(refusal(HandSlot(4, 10, 2) + HandSlot(5, 11)).code(), Code::kVersion);
}

class ReplicaFileTest : public ::testing::Test {
 protected:
  ReplicaFileTest() { machine_->disk().WriteAll("/data/partition-00003/.keep", ""); }
  static Task<ReplicaFile::Place> PlaceIn(Reactor* reactor, Directory* directory) {
    Result<Directory> opened = co_await Directory::Open(*reactor, "/data");
    CHECK(opened.ok()) << opened.status().ToString();
    *directory = *std::move(opened);
    ReplicaFile::Place place{directory, "partition-00003/replica", kPartition};
    co_return place;
  }
  // Runs in a process of its own; false: it has crashed.
  template <typename... Args>
  bool Run(Task<void> (*body)(Reactor*, Args...), Args... args) {
    SimReactor* reactor = machine_->Boot();
    const bool ended = kernel_.RunTask(*reactor, body(reactor, args...)).has_value();
    if (ended) machine_->ProcessCrash(1);
    return ended;
  }

  SimKernel kernel_{3};
  SimMachine* machine_ = kernel_.AddMachine();
};

Task<void> StoreOne(ReplicaFile* file, Epoch promised, int* stored) {
  const Status status = co_await file->Store(State(promised));
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_GE(file->state().promised, promised);
  *stored += 1;
}

TEST_F(ReplicaFileTest, WritesThatComeMeanwhileAreWrittenTogether) {
  Run(+[](Reactor* reactor) -> Task<void> {
    Directory directory;
    ReplicaFile::Place place = co_await PlaceIn(reactor, &directory);
    auto file = co_await ReplicaFile::Create(place, State(1, false));
    EXPECT_TRUE(file.ok()) << file.status().ToString();
    int stored = 0;
    TaskGroup tasks;
    for (Epoch promised = 2; promised < 10; ++promised) tasks.Spawn(StoreOne(file->get(), promised, &stored));
    co_await tasks.Drain();
    EXPECT_EQ(stored, 8);
    EXPECT_EQ((*file)->state(), State(9));
    EXPECT_TRUE((co_await (*file)->Close()).ok());
    EXPECT_TRUE((co_await directory.Close()).ok());
  });
  // Create has written both slots, and the eight were two.
  const std::string bytes = machine_->disk().ReadAll("/data/partition-00003/replica");
  EXPECT_EQ(bytes, HandSlot(6, 9) + HandSlot(5, 9));
}

// RF3: whichever slot is damaged, the promise does not fall, and the next one is written over the damage.
TEST_F(ReplicaFileTest, DamageOfASlotLosesNoPromise) {
  constexpr char kFile[] = "/data/partition-00003/replica";
  Run(+[](Reactor* reactor) -> Task<void> {
    Directory directory;
    ReplicaFile::Place place = co_await PlaceIn(reactor, &directory);
    auto file = co_await ReplicaFile::Create(place, State(1));
    EXPECT_TRUE((co_await (*file)->Store(State(2))).ok());
    EXPECT_TRUE((co_await (*file)->Close()).ok());
    EXPECT_TRUE((co_await directory.Close()).ok());
  });
  for (const Epoch promised : {2, 3, 4, 5}) {
    machine_->disk().FlipBit(kFile, promised % 2 * 4096 + 60);
    Run(
        +[](Reactor* reactor, Epoch expected) -> Task<void> {
          Directory directory;
          ReplicaFile::Place place = co_await PlaceIn(reactor, &directory);
          auto file = co_await ReplicaFile::Open(place);
          EXPECT_TRUE(file.ok()) << file.status().ToString();
          EXPECT_EQ((*file)->state(), State(expected));
          EXPECT_TRUE((co_await (*file)->Store(State(expected + 1))).ok());
          EXPECT_TRUE((co_await (*file)->Close()).ok());
          EXPECT_TRUE((co_await directory.Close()).ok());
        },
        promised);
  }
}

TEST_F(ReplicaFileTest, AMissingFileIsNotFound) {
  Run(+[](Reactor* reactor) -> Task<void> {
    Directory directory;
    ReplicaFile::Place place = co_await PlaceIn(reactor, &directory);
    EXPECT_EQ((co_await ReplicaFile::Open(place)).code(), Code::kNotFound);
    EXPECT_TRUE((co_await directory.Close()).ok());
  });
}

// RF2.
TEST_F(ReplicaFileTest, NothingIsStoredAfterAFailedWrite) {
  Run(+[](Reactor* reactor) -> Task<void> {
    Directory directory;
    ReplicaFile::Place place = co_await PlaceIn(reactor, &directory);
    auto file = co_await ReplicaFile::Create(place, State(1));
    static_cast<SimReactor*>(reactor)->machine().AddFault(SyncFault(0, 1));
    EXPECT_EQ((co_await (*file)->Store(State(2))).code(), Code::kIoError);
    EXPECT_EQ((co_await (*file)->Store(State(3))).code(), Code::kIoError);
    EXPECT_EQ((*file)->state(), State(1));
    EXPECT_TRUE((co_await (*file)->Close()).ok());
    EXPECT_TRUE((co_await directory.Close()).ok());
  });
}

struct Seen {
  Epoch stored = 0, tried = 0;
  bool created = false;
};

// Goes on from what is there, and stores ever higher promises.
Task<void> Work(Reactor* reactor, Seen* seen) {
  Result<Directory> directory = co_await Directory::Open(*reactor, "/data");
  CHECK(directory.ok());
  ReplicaFile::Place place{&*directory, "partition-00003/replica", kPartition};
  auto file = co_await ReplicaFile::Open(place);
  if (file.code() == Code::kNotFound && !seen->created) file = co_await ReplicaFile::Create(place, State(1));
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  if (file.ok()) {
    seen->created = true;
    const Epoch found = (*file)->state().promised;
    EXPECT_GE(found, seen->stored) << "RF1: a promise was forgotten";
    EXPECT_LE(found, std::max<Epoch>(seen->tried, 1));
    for (int i = 1; i <= 4; ++i) {
      seen->tried = found + i;
      const Status status = co_await (*file)->Store(State(found + i));
      EXPECT_TRUE(status.ok()) << status.ToString();
      seen->stored = found + i;
    }
    EXPECT_TRUE((co_await (*file)->Close()).ok());
  }
  EXPECT_TRUE((co_await directory->Close()).ok());
}

// RF1: at whatever operation of the disk the machine loses its power.
TEST(ReplicaFileCrash, APromiseThatIsStoredIsNeverForgotten) {
  for (uint64_t at = 1; at < 60; ++at) {
    SCOPED_TRACE(at);
    SimKernel kernel(at);
    SimMachine* machine = kernel.AddMachine();
    machine->disk().WriteAll("/data/partition-00003/.keep", "");
    auto seen = std::make_unique<Seen>();
    SimRandom random(at);
    machine->CrashAtDiskOp(at);
    for (int boot = 0; boot < 6; ++boot) {
      SimReactor* reactor = machine->Boot();
      const bool ended = kernel.RunTask(*reactor, Work(reactor, seen.get())).has_value();
      machine->PowerLoss(random.Next());
      machine->CrashAtDiskOp(ended ? UINT64_MAX : machine->disk_ops() + 1 + random.Below(12));
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace pando::replication
