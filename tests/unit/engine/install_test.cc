// Partitions that are installed from the pages of a snapshot (IN1, RO1).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "src/base/hash.h"
#include "src/partition/replica.h"
#include "tests/support/roster_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;

constexpr uint32_t kRanges = 4, kInstalled = 2;
constexpr int kRecords = 600;

std::string Key(int i) { return KeyIn(kRanges, kInstalled, fmt::format("key-{:05}", i)); }
std::string MoreKey(int i) { return KeyIn(kRanges, kInstalled, fmt::format("more-{}", i)); }
// Some are stored in extents of their own.
std::string Value(int i) { return fmt::format("{} ", i) + std::string(i % 50 == 7 ? 30'000 : 150, 'v'); }
std::string DataPath(uint32_t partition) { return fmt::format("/data/partition-{:05}/", partition); }

// The node whose partition is sent, and the node that installs it.
struct World {
  using Body = Task<void> (*)(World* t);
  explicit World(uint32_t reactors = 1) : kernel_(5, SharedReactor()) {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = kRanges;
    setup_.store.reactors = reactors;
    setup_.engine.log_segment_bytes = 256u << 10;
    SimReactor* reactor = sender_->Boot();
    kernel_.RunTask(*reactor, Prepare(this, reactor));
    sender_->PowerLoss(1);
    Run([](World* t) { return t->DropOne(); });
  }
  static Task<void> Prepare(World* t, SimReactor* reactor) {
    OpenedStore store;
    EXPECT_OK(co_await OpenedStore::Open(reactor, t->setup_, &store));
    Partition* p = store.partition(kInstalled);
    for (int i = 0; i < kRecords; ++i) EXPECT_OK(co_await Put(p, Key(i), Value(i)));
    for (int i = 0; i < kRecords; i += 3) EXPECT_OK(co_await Put(p, Key(i), Value(i)));
    auto read = co_await ReadSnapshotOf(reactor, p, 40'000);
    EXPECT_OK(read.status());
    t->snapshot_ = *std::move(read);
    EXPECT_EQ(t->snapshot_.count, uint64_t{kRecords});
    EXPECT_GT(t->snapshot_.batches.size(), 5u);
    EXPECT_EQ(t->snapshot_.root.lsn, uint64_t{kRecords + kRecords / 3});
    EXPECT_NE(t->snapshot_.root.chain, 0u);
    EXPECT_OK(co_await store.Close(false));
  }
  Task<void> DropOne() { EXPECT_OK(co_await store_->Drop(kInstalled)); }

  // Runs `body` with the open store of the second node, which then loses power.
  void Run(Body body) {
    reactor_ = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor_, WithStore(this, body)).has_value());
    machine_->PowerLoss(7);
    reactor_ = machine_->Boot();
    std::optional<std::string> problem = kernel_.RunTask(*reactor_, Audit(*reactor_, "/data"));
    machine_->PowerLoss(8);
    EXPECT_EQ(*problem, "");
  }
  static Task<void> WithStore(World* t, Body body) {
    OpenedStore store;
    EXPECT_OK(co_await OpenedStore::Open(t->reactor_, t->setup_, &store));
    t->store_ = &store;
    co_await body(t);
    EXPECT_OK(co_await store.Close(/*checkpoint=*/false));
    EXPECT_EQ(t->reactor_->open_files(), 0u);
  }

  Task<Status> Install() {
    SentPages pages(&snapshot_);
    Result<Partition*> installed = co_await store_->Install(kInstalled, snapshot_.root, &pages);
    co_return installed.status();
  }
  // What the snapshot has, and `more` records that were written after it.
  Task<void> ExpectInstalled(int more) {
    Partition* p = store_->partition(kInstalled);
    EXPECT_NE(p, nullptr);
    if (p == nullptr) co_return;
    EXPECT_EQ(p->uuid(), snapshot_.root.partition);
    EXPECT_EQ(p->stats().applied_lsn, snapshot_.root.lsn + static_cast<uint64_t>(more));
    Result<RangeAggregates> sums = co_await p->Aggregate("key-", "key.", kNewest);
    EXPECT_OK(sums.status());
    EXPECT_EQ(sums->content_hash, snapshot_.content_hash);
    EXPECT_EQ(sums->count, snapshot_.count);
    for (int i = 0; i < kRecords; i += 13) {
      Result<ReadResult> read = co_await p->Get(Key(i), kNewest, nullptr);
      EXPECT_TRUE(read.ok() && read->found && read->value == Value(i)) << i;
    }
    Result<RangeAggregates> all = co_await p->Aggregate("", "", kNewest);
    EXPECT_EQ(all->count, snapshot_.count + static_cast<uint64_t>(more));
    for (int i = 0; i < more; ++i) {
      Result<ReadResult> read = co_await p->Get(MoreKey(i), kNewest, nullptr);
      EXPECT_TRUE(read.ok() && read->found) << i;
    }
  }
  Task<void> WriteMore(int from, int to) {
    for (int i = from; i < to; ++i) {
      EXPECT_OK(co_await Put(store_->partition(kInstalled), MoreKey(i), "value"));
    }
  }
  void ExpectNothing() {
    EXPECT_EQ(store_->partition(kInstalled), nullptr);
    EXPECT_EQ(store_->store().Find(kInstalled), nullptr);
    for (const std::string& path : machine_->disk().AllFiles()) EXPECT_FALSE(path.starts_with(DataPath(kInstalled)));
  }

  Setup setup_;
  SimKernel kernel_;
  SimMachine* sender_ = kernel_.AddMachine("10.0.0.1");
  SimMachine* machine_ = kernel_.AddMachine("10.0.0.2");
  SimReactor* reactor_ = nullptr;
  OpenedStore* store_ = nullptr;
  ReadSnapshot snapshot_;
};

// Its log continues where the snapshot ends.
Task<void> InstallAndWrite(World* t) {
  EXPECT_OK(co_await t->Install());
  co_await t->ExpectInstalled(0);
  const auto* replica = static_cast<Replica*>(t->store_->partition(kInstalled));
  const Superblock& sb = replica->partition_file().superblock();
  EXPECT_EQ(sb.chain, t->snapshot_.root.chain);
  EXPECT_EQ(sb.checkpoint_lsn, t->snapshot_.root.lsn);
  EXPECT_EQ(sb.epoch, t->snapshot_.root.epoch);
  EXPECT_GE(sb.last_version, t->snapshot_.root.last_version);
  EXPECT_EQ((co_await t->Install()).code(), Code::kAlreadyExists);
  co_await t->WriteMore(0, 20);
  co_await t->ExpectInstalled(20);
}
Task<void> ExpectTwentyMore(World* t) {
  co_await t->ExpectInstalled(20);
  EXPECT_OK(co_await t->store_->engine_of(kInstalled).CheckpointAll());
}

class InstallOnReactors : public testing::TestWithParam<uint32_t> {};

TEST_P(InstallOnReactors, IsEqualAndGoesOn) {
  World world(GetParam());
  world.Run(InstallAndWrite);
  world.Run(ExpectTwentyMore);
  world.Run(ExpectTwentyMore);
}
INSTANTIATE_TEST_SUITE_P(Reactors, InstallOnReactors, testing::Values(1, 2));

Task<void> JustInstall(World* t) { EXPECT_OK(co_await t->Install()); }
Task<void> ExpectJustInstalled(World* t) { co_await t->ExpectInstalled(0); }
TEST(Install, SurvivesARestartBeforeItsFirstWrite) {
  World world;
  world.Run(JustInstall);
  world.Run(ExpectJustInstalled);
}

// -- the same partition again: the log holds records of the one that was dropped, beyond the snapshot

Task<void> InstallTwice(World* t) {
  co_await InstallAndWrite(t);
  co_await t->WriteMore(20, 60);
  EXPECT_OK(co_await t->store_->Drop(kInstalled));
  t->ExpectNothing();
  EXPECT_OK(co_await t->Install());
  co_await t->ExpectInstalled(0);
  co_await t->WriteMore(0, 5);
}
Task<void> ExpectFiveMore(World* t) { co_await t->ExpectInstalled(5); }
Task<void> DropAndInstall(World* t) {
  EXPECT_OK(co_await t->store_->Drop(kInstalled));
  EXPECT_OK(co_await t->Install());
  co_await t->WriteMore(0, 5);
}
Task<void> Drop(World* t) { EXPECT_OK(co_await t->store_->Drop(kInstalled)); }
Task<void> InstallAndWriteFive(World* t) {
  EXPECT_OK(co_await t->Install());
  co_await t->WriteMore(0, 5);
}

TEST(Install, OfAPartitionThatWasDroppedBefore) {
  World world;
  world.Run(InstallTwice);
  world.Run(ExpectFiveMore);
  world.Run(DropAndInstall);
  world.Run(ExpectFiveMore);
  world.Run(Drop);
  world.Run(InstallAndWriteFive);
  world.Run(ExpectFiveMore);
}

// -- what is refused

struct Change {
  const char* name;
  void (*apply)(ReadSnapshot*);
  const char* says;
};
PageImage* AnImage(ReadSnapshot* s) { return &s->batches[s->batches.size() / 2].images.back(); }
const Change kChanges[] = {
    {"a flipped bit", [](ReadSnapshot* s) { AnImage(s)->bytes[100] ^= 1; }, "fails its checksum"},
    {"another page with a right checksum",
     [](ReadSnapshot* s) {
       PageImage* image = AnImage(s);
       image->bytes[100] ^= 1;
       image->checksum = Hash64(image->bytes, ChecksumSeed(s->root.partition, image->location.block()));
     },
     "checksum"},
    {"a missing page", [](ReadSnapshot* s) { s->batches[1].images.pop_back(); }, "checksum"},
    {"a page outside the file", [](ReadSnapshot* s) { AnImage(s)->location = Extent::Of(s->root.file_blocks, 1); },
     "does not fit there"},
    {"a page in the superblocks", [](ReadSnapshot* s) { AnImage(s)->location = Extent::Of(1, 1); },
     "does not fit there"},
    {"half a page", [](ReadSnapshot* s) { AnImage(s)->bytes.resize(100); }, "does not fit there"},
    {"pages of another partition", [](ReadSnapshot* s) { ++s->root.partition.lo; }, "fails its checksum"},
    {"another root", [](ReadSnapshot* s) { ++s->root.root.checksum; }, "checksum"},
    {"a page twice", [](ReadSnapshot* s) { s->batches[1].Add(*AnImage(s)); }, "second time"},
    {"a page that is not in the tree",
     [](ReadSnapshot* s) {
       PageImage extra;
       extra.location = Extent::Of(s->root.file_blocks++, 1);
       extra.bytes = std::string(kBlockBytes, 'x');
       extra.checksum = Hash64(extra.bytes, ChecksumSeed(s->root.partition, extra.location.block()));
       s->batches[1].Add(std::move(extra));
     },
     "blocks were sent"},
    {"no epoch", [](ReadSnapshot* s) { s->root.epoch = 0; }, "epoch"},
    {"a huge epoch", [](ReadSnapshot* s) { s->root.epoch = UINT64_MAX; }, "epoch"},
    {"no LSN", [](ReadSnapshot* s) { s->root.lsn = 0; }, "LSN 0"},
    {"a huge LSN", [](ReadSnapshot* s) { s->root.lsn = UINT64_MAX - 1; }, "LSN"},
    {"no generation", [](ReadSnapshot* s) { s->root.generation = 0; }, "generation"},
    {"a huge generation", [](ReadSnapshot* s) { s->root.generation = UINT64_MAX; }, "generation"},
    {"a huge page number", [](ReadSnapshot* s) { s->root.next_page_id = UINT64_MAX; }, "next page"},
    {"pages with higher numbers", [](ReadSnapshot* s) { s->root.next_page_id = 2; }, "the next new page gets number 2"},
    {"many levels", [](ReadSnapshot* s) { s->root.root_level = 255; }, "255 levels"},
    {"a huge version", [](ReadSnapshot* s) { s->root.last_version = UINT64_MAX; }, "version"},
    {"newer records", [](ReadSnapshot* s) { --s->root.last_version; }, "newer than the newest record"},
    {"a huge file", [](ReadSnapshot* s) { s->root.file_blocks = UINT64_MAX / 8192; }, "blocks"},
    {"an empty file", [](ReadSnapshot* s) { s->root.file_blocks = 0; }, "blocks"},
};

Task<void> RefuseAll(World* t) {
  const ReadSnapshot sound = t->snapshot_;
  MemoryBudget memory(16 << 20);
  t->store_->memory = &memory;
  for (const Change& change : kChanges) {
    t->snapshot_ = sound;
    change.apply(&t->snapshot_);
    const Status refused = co_await t->Install();
    EXPECT_EQ(refused.code(), Code::kCorruption) << change.name << ": " << refused.ToString();
    EXPECT_THAT(refused.message(), HasSubstr(change.says)) << change.name;
    EXPECT_EQ(memory.used_bytes(), 0) << change.name;
    t->ExpectNothing();
  }
  t->snapshot_ = sound;
  t->snapshot_.root.partition = Uuid();
  EXPECT_EQ((co_await t->Install()).code(), Code::kInvalidArgument);
  t->ExpectNothing();
  // What the sender says about its file must not take memory.
  t->snapshot_ = sound;
  t->snapshot_.root.file_blocks = 1u << 30;
  EXPECT_EQ((co_await t->Install()).code(), Code::kOverloaded);
  t->ExpectNothing();
  // All of its keys belong into another partition.
  t->snapshot_ = sound;
  EXPECT_OK(co_await t->store_->Drop(1));
  SentPages pages(&t->snapshot_);
  const Status elsewhere = (co_await t->store_->Install(1, t->snapshot_.root, &pages)).status();
  EXPECT_EQ(elsewhere.code(), Code::kCorruption) << elsewhere.ToString();
  EXPECT_THAT(elsewhere.message(), HasSubstr("does not belong into this partition"));
  EXPECT_OK((co_await t->store_->Create(1)).status());
  t->snapshot_.batches.resize(3);  // the sender dies
  t->snapshot_.batches.back().exhausted = false;
  EXPECT_EQ((co_await t->Install()).code(), Code::kUnavailable);
  t->ExpectNothing();
  t->snapshot_ = sound;
  t->machine_->FillDisk();
  EXPECT_EQ((co_await t->Install()).code(), Code::kDiskFull);
  t->machine_->EmptyDisk();
  t->ExpectNothing();
  t->store_->Forget();
  EXPECT_LE(t->store_->store().dropped.size(), 1u) << "an installation that failed leaves nothing to remember";
  EXPECT_OK(co_await t->Install());
  t->store_->memory = nullptr;
  co_await t->ExpectInstalled(0);
}

TEST(Install, WhatIsNotTheSnapshotIsRefusedAndLeavesNothing) {
  World world;
  world.Run(RefuseAll);
  world.Run(ExpectJustInstalled);
}

// A partition that is there under another ID has the UUID already.
Task<void> InstallUnderAnotherId(World* t) {
  EXPECT_OK(co_await t->Install());
  EXPECT_OK(co_await t->store_->Drop(1));
  SentPages pages(&t->snapshot_);
  Result<Partition*> second = co_await t->store_->Install(1, t->snapshot_.root, &pages);
  EXPECT_EQ(second.code(), Code::kAlreadyExists) << second.status().ToString();
}
TEST(Install, AUuidIsHeldOnce) {
  World world;
  world.Run(InstallUnderAnotherId);
}

// -- keys

const std::string kNamespace(4, '\0'), kClients = "\xff\xff\xff\xff";

// The stored keys of the only partition of a store with namespaces.
Task<Status> InstallWithKeys(World* t, std::vector<std::string> stored) {
  OpenedStore& store = *t->store_;
  for (const std::string& key : stored) EXPECT_OK(co_await Put(store.partition(0), key, "value"));
  CO_ASSIGN_OR_RETURN(const ReadSnapshot snapshot, co_await ReadSnapshotOf(t->reactor_, store.partition(0), 40'000));
  EXPECT_OK(co_await store.Drop(0));
  SentPages pages(&snapshot);
  Result<Partition*> installed = co_await store.Install(0, snapshot.root, &pages);
  if (installed.ok()) EXPECT_OK(co_await store.Drop(0));
  EXPECT_OK((co_await store.Create(0)).status());
  co_return installed.status();
}
Task<void> InstallKeys(World* t) {
  std::vector<std::string> keys{kNamespace + "k", kNamespace + std::string(1024, 'k'), kClients + "client"};
  EXPECT_OK(co_await InstallWithKeys(t, keys));
  const std::vector<std::string> bad{kNamespace, std::string(3, '\0') + "\7key", "key",
                                     kClients + std::string(kMaxClientIdBytes + 1, 'c')};
  for (const std::string& key : bad) {
    keys.push_back(key);
    EXPECT_EQ((co_await InstallWithKeys(t, keys)).code(), Code::kCorruption) << key;
    keys.pop_back();
  }
}
TEST(Install, KeysThatNobodyCanHaveWrittenAreRefused) {
  World world;
  world.setup_.store = {.data_dir = "/data", .partitions = 1, .reactors = 1, .page_bytes = 4096, .namespaced = true};
  world.machine_->disk().RemoveTree("/data");
  world.Run(InstallKeys);
}

// -- logs

// The UUID of an empty partition, whose records are in the log of one reactor, comes back on another one. The
// position in the log of the one says nothing about the log of the other.
Task<void> MoveToAnotherReactor(World* t) {
  OpenedStore& store = *t->store_;
  Result<ReadSnapshot> empty = co_await ReadSnapshotOf(t->reactor_, store.partition(0), 40'000);
  EXPECT_OK(empty.status());
  EXPECT_OK(co_await store.Drop(1));
  for (int i = 0; i < 50; ++i) EXPECT_OK(co_await Put(store.partition(0), Key(i), std::string(2000, 'v')));
  EXPECT_GT(store.engine_of(0).log_end(), store.engine_of(1).log_end());
  EXPECT_OK(co_await store.Drop(0));
  SentPages pages(&*empty);
  EXPECT_OK((co_await store.Install(1, empty->root, &pages)).status());
  for (int i = 0; i < 5; ++i) EXPECT_OK(co_await Put(store.partition(1), Key(i), "value"));
}
Task<void> ExpectMoved(World* t) {
  EXPECT_EQ(t->store_->partition(0), nullptr);
  Result<RangeAggregates> sums = co_await t->store_->partition(1)->Aggregate("", "", kNewest);
  EXPECT_EQ(sums->count, 5u);
}
TEST(Install, AUuidMayComeToAnotherReactor) {
  World world(2);
  world.Run(MoveToAnotherReactor);
  world.Run(ExpectMoved);
  world.Run(ExpectMoved);
}

// -- files

constexpr char kFile[] = "/data/partition-00002/data";

// A file of the same partition that nobody says may go.
Task<void> InstallOverAFile(World* t) {
  const std::string file = t->sender_->disk().ReadAll(kFile);
  t->machine_->disk().WriteAll(kFile, file);
  EXPECT_EQ((co_await t->Install()).code(), Code::kAlreadyExists);
  EXPECT_EQ((co_await t->store_->Create(kInstalled)).code(), Code::kAlreadyExists);
  EXPECT_EQ(t->machine_->disk().ReadAll(kFile), file);
  EXPECT_EQ(t->store_->store().FindDropped(t->snapshot_.root.partition), nullptr);
}
Task<void> ExpectTheFileAndInstall(World* t) {
  EXPECT_EQ(t->machine_->disk().ReadAll(kFile), t->sender_->disk().ReadAll(kFile));
  t->machine_->disk().RemoveTree(kFile);
  EXPECT_OK(co_await t->Install());
}
TEST(Install, DoesNotReplaceAFileThatMayBeNeeded) {
  World world;
  world.Run(InstallOverAFile);
  world.Run(ExpectTheFileAndInstall);
  world.Run(ExpectJustInstalled);
}

// Nor one that another version has written.
Task<void> CreateOverANewerFile(World* t) {
  std::string file = t->sender_->disk().ReadAll(kFile);
  Superblock sb;
  std::memcpy(static_cast<void*>(&sb), file.data(), sizeof(sb));
  sb.format = kPartitionFormat + 1;
  for (size_t copy = 0; copy < kSuperblockBlocks; ++copy) EncodeSuperblock(sb, &file[copy * kBlockBytes]);
  t->machine_->disk().WriteAll(kFile, file);
  EXPECT_EQ((co_await t->store_->Create(kInstalled)).code(), Code::kAlreadyExists);
  EXPECT_EQ((co_await t->Install()).code(), Code::kAlreadyExists);
  EXPECT_EQ(t->machine_->disk().ReadAll(kFile), file);
}
Task<void> ExpectAFile(World* t) {
  EXPECT_TRUE(t->machine_->disk().Exists(kFile));
  co_return;
}
TEST(Install, DoesNotReplaceAFileOfAnotherVersion) {
  World world;
  world.Run(CreateOverANewerFile);
  world.Run(ExpectAFile);
}

// What is beside the file that an installation makes stays as it is when it fails.
Task<void> FailBesideAFile(World* t) {
  const std::string other = "nobody's file, which nobody needs";
  t->machine_->disk().WriteAll(kFile, other);
  ++t->snapshot_.root.root.checksum;
  EXPECT_EQ((co_await t->Install()).code(), Code::kCorruption);
  EXPECT_EQ(t->machine_->disk().ReadAll(kFile), other);
  --t->snapshot_.root.root.checksum;
  // Once it has the name it is removed again.
  DiskFault fault;
  fault.kind = IoOp::Kind::kOpen;
  fault.path_contains = "store.meta.tmp";
  fault.skip = 1;  // the one that says that the file may be removed
  fault.error_number = EIO;
  t->machine_->AddFault(fault);
  EXPECT_EQ((co_await t->Install()).code(), Code::kIoError);
  t->ExpectNothing();
  EXPECT_OK(co_await t->Install());
}
TEST(Install, RemovesOnlyWhatItHasMade) {
  World world;
  world.Run(FailBesideAFile);
  world.Run(ExpectJustInstalled);
}

// The store is looked into where it is, and not where it was when it was opened.
Task<void> CreateInAMovedStore(World* t) {
  t->machine_->disk().MoveDirectory("/data", "/moved");
  const std::string file = t->sender_->disk().ReadAll(kFile);
  t->machine_->disk().WriteAll("/moved/partition-00002/data", file);
  EXPECT_EQ((co_await t->store_->Create(kInstalled)).code(), Code::kAlreadyExists);
  EXPECT_EQ((co_await t->Install()).code(), Code::kAlreadyExists);
  t->machine_->disk().MoveDirectory("/moved", "/data");
  EXPECT_EQ(t->machine_->disk().ReadAll(kFile), file);
}
TEST(Install, LooksForFilesInAStoreThatWasMoved) { World().Run(CreateInAMovedStore); }

// kvadmin accept-loss has put it there.
Task<void> DropBesideADamagedFile(World* t) {
  t->machine_->disk().WriteAll("/data/partition-00001/data.damaged-1", "evidence");
  t->machine_->disk().WriteAll("/data/partition-00001/data.new", "half a file");
  EXPECT_OK(co_await t->store_->Drop(1));
}
Task<void> ExpectTheDamagedFile(World* t) {
  EXPECT_EQ(t->machine_->disk().ReadAll("/data/partition-00001/data.damaged-1"), "evidence");
  EXPECT_FALSE(t->machine_->disk().Exists("/data/partition-00001/data.new"));
  EXPECT_FALSE(t->machine_->disk().Exists("/data/partition-00001/data"));
  co_return;
}
TEST(Install, LeavesWhatWasPutAside) {
  World world;
  world.Run(DropBesideADamagedFile);
  world.Run(ExpectTheDamagedFile);
  world.Run(ExpectTheDamagedFile);
}

// SM3: as long as a file may be there, its UUID is remembered as dropped.
Task<void> FailToRemove(World* t) {
  EXPECT_OK(co_await t->Install());
  DiskFault fault;
  fault.kind = IoOp::Kind::kUnlink;
  fault.path_contains = "partition-00002";
  fault.error_number = EIO;
  fault.count = UINT64_MAX;
  t->machine_->AddFault(fault);
  EXPECT_EQ((co_await t->store_->Drop(kInstalled)).code(), Code::kIoError);
  const Uuid uuid = t->snapshot_.root.partition;
  auto remembers = [t, uuid] {
    t->store_->roster().ForgetDropped({});
    return t->store_->store().FindDropped(uuid) != nullptr;
  };
  EXPECT_TRUE(remembers());
  t->snapshot_.batches.back().exhausted = false;
  EXPECT_EQ((co_await t->Install()).code(), Code::kUnavailable);
  EXPECT_TRUE(remembers());
  t->machine_->ClearFaults();
  EXPECT_EQ((co_await t->Install()).code(), Code::kUnavailable);
  EXPECT_TRUE(remembers()) << "the first file is still there";
  t->snapshot_.batches.back().exhausted = true;
  EXPECT_OK(co_await t->Install());
  EXPECT_FALSE(remembers()) << "it was replaced";
}
TEST(Install, AFileThatCannotBeRemovedIsRemembered) {
  World world;
  world.Run(FailToRemove);
  world.Run(ExpectJustInstalled);
}

}  // namespace
}  // namespace pando::engine_test
