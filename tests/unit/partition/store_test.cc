#include "src/partition/store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "src/base/hash.h"
#include "src/partition/store_reading.h"
#include "src/partition/superblock.h"
#include "tests/support/hand_bytes.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

const char* const kMeta = "/data/store.meta";
constexpr uint64_t kHi = 0x0011223344556677, kLo = 0x8899aabbccddeeff;

struct MetaFields {
  uint64_t format = 2, partitions = 4, reactors = 2, page_bytes = 8192, seal_bytes = 40;
};

// Builds a store file by hand, after docs/FORMAT.md, "Store file".
struct TableMeta {
  uint64_t format = 4, ranges = 4, reactors = 2, page_bytes = 8192, layout = 3, seal_bytes = 40, features = 1;
  std::vector<std::pair<uint64_t, Uuid>> partitions{{1, {0xaa01, 0xbb01}}, {3, {0xaa03, 0xbb03}}};
  std::vector<StoreInfo::Dropped> dropped{{{0xaa02, 0xbb02}, 0x123456}};
  std::string Bytes() const {
    HandBytes table;
    for (const auto& [id, uuid] : partitions) table.Uuid(uuid.hi, uuid.lo).U64(id);
    for (const auto& [uuid, until] : dropped) table.Uuid(uuid.hi, uuid.lo).U64(until);
    const uint64_t table_checksum = Hash64(table.str());
    HandBytes b;
    b.Text("PANDSTE1").U32(format).U32(ranges).U32(reactors).U32(page_bytes).Uuid(kHi, kLo).U64(layout);
    b.U32(partitions.size()).U32(dropped.size()).U64(table_checksum).U32(seal_bytes).U32(features);
    b.PadTo(4088).Checksum();
    if (!table.str().empty()) table.PadTo((table.str().size() + 4095) / 4096 * 4096);
    return b.str() + table.str();
  }
};

// The same of formats 1 and 2.
std::string HandMeta(MetaFields f = {}) {
  HandBytes b;
  b.Text("PANDSTE1").U32(f.format).U32(f.partitions).U32(f.reactors).U32(f.page_bytes).Uuid(kHi, kLo);
  for (uint64_t i = 0; i < std::min<uint64_t>(f.partitions, 128); ++i) b.Uuid(0xaa00 + i, 0xbb00 + i);
  return b.PadTo(2088).U32(f.seal_bytes).PadTo(4088).Checksum().str();
}

class StoreTest : public testing::Test {
 protected:
  Result<StoreInfo> Load() { return *kernel_.RunTask(*reactor_, LoadStore(*reactor_, "/data")); }
  Result<StoreInfo> Open(uint32_t partitions, uint32_t reactors, uint32_t page_bytes = 0) {
    StoreOptions options{"/data", partitions, reactors, page_bytes};
    return *kernel_.RunTask(*reactor_, OpenStore(*reactor_, options));
  }
  void ExpectRefused(const std::string& contents, Code code, std::string_view why) {
    machine_->disk().WriteAll(kMeta, contents);
    Result<StoreInfo> loaded = Load();
    EXPECT_EQ(loaded.code(), code) << loaded.status().ToString();
    for (std::string_view part : {std::string_view(kMeta), why}) {
      EXPECT_NE(loaded.status().message().find(part), std::string::npos)
          << "'" << part << "' in " << loaded.status().ToString();
    }
    // It must not be mistaken for a new store.
    EXPECT_EQ(Open(4, 2).code(), code);
    EXPECT_EQ(machine_->disk().ReadAll(kMeta), contents);
  }

  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = machine_->Boot();
};

TEST_F(StoreTest, MayBeginEmpty) {
  StoreOptions options{"/data", 8, 2};
  options.empty = true;
  const Result<StoreInfo> made = *kernel_.RunTask(*reactor_, OpenStore(*reactor_, options));
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  EXPECT_EQ(made->ranges, 8u);
  EXPECT_TRUE(made->partitions.empty());
  EXPECT_EQ(machine_->disk().AllFiles(), std::vector<std::string>{kMeta});
  // It stays as it is, whatever is asked for.
  const Result<StoreInfo> found = Open(8, 2);
  ASSERT_TRUE(found.ok()) << found.status().ToString();
  EXPECT_TRUE(found->partitions.empty());
  EXPECT_EQ(found->node, made->node);
}

TEST_F(StoreTest, GoldenRead) {
  machine_->disk().WriteAll(kMeta, HandMeta());
  Result<StoreInfo> info = Load();
  ASSERT_TRUE(info.ok()) << info.status().ToString();
  EXPECT_EQ(info->node, (Uuid{kHi, kLo}));
  EXPECT_EQ(info->reactors, 2u);
  EXPECT_EQ(info->page_bytes, 8192u);
  EXPECT_EQ(info->seal_bytes, 40u);
  ASSERT_EQ(info->partitions.size(), 4u);
  EXPECT_EQ(info->partitions[3].uuid, (Uuid{0xaa03, 0xbb03}));
  EXPECT_EQ(info->partitions[3].first_hash, 0xc000000000000000);
  EXPECT_EQ(info->partitions[3].last_hash, ~0ull);
  EXPECT_EQ(info->partitions[0].first_hash, 0u);
  EXPECT_EQ(info->partitions[0].last_hash, 0x3fffffffffffffff);
  EXPECT_EQ(info->ReactorOf(3), 1u);
  EXPECT_EQ(info->PartitionDirectory(3), "/data/partition-00003");
  EXPECT_EQ(info->LogDirectory(1), "/data/wal-1");
}

TEST_F(StoreTest, StoresOfFormat1HaveNoRoomForASeal) {
  machine_->disk().WriteAll(kMeta, HandMeta({.format = 1, .seal_bytes = 0}));
  Result<StoreInfo> info = Load();
  ASSERT_TRUE(info.ok()) << info.status().ToString();
  EXPECT_EQ(info->page_bytes, 8192u);
  EXPECT_EQ(info->seal_bytes, 0u);
}

// A position is one in the log of the partition's reactor.
TEST(StoreInfoTest, WhatMeansNothingInALog) {
  using Expected = std::vector<std::pair<Uuid, LogPosition>>;
  StoreInfo store;
  store.ranges = 4;
  store.reactors = 2;
  const Uuid held{1, 1}, gone{2, 2};
  store.partitions = {store.InfoOf(0, {3, 3}), store.InfoOf(1, held)};
  store.dropped = {{held, 500}, {gone, 700}};
  EXPECT_EQ(store.DroppedInLog(0), (Expected{{held, StoreInfo::kAnyPosition}, {gone, StoreInfo::kAnyPosition}}));
  EXPECT_EQ(store.DroppedInLog(1), (Expected{{held, 500}, {gone, StoreInfo::kAnyPosition}}));
}

// HR1. A half has an ID that is not below the number of ranges, and a build that does not know that must not open the
// store.
TEST_F(StoreTest, GoldenReadWithHalves) {
  TableMeta halves;
  halves.features = 3;
  halves.partitions = {{1, {0xaa01, 0xbb01}}, {4, {0xaa04, 0xbb04}}, {11, {0xaa0b, 0xbb0b}}};
  machine_->disk().WriteAll(kMeta, halves.Bytes());
  Result<StoreInfo> info = Load();
  ASSERT_TRUE(info.ok()) << info.status().ToString();
  EXPECT_EQ(info->ranges, 4u);
  EXPECT_EQ(info->IdLimit(), 12u);
  ASSERT_EQ(info->partitions.size(), 3u);
  EXPECT_EQ(info->partitions[1].first_hash, 0u);
  EXPECT_EQ(info->partitions[1].last_hash, 0x1fffffffffffffffu);
  EXPECT_EQ(info->partitions[2].first_hash, 0xe000000000000000u);
  EXPECT_EQ(info->partitions[2].last_hash, UINT64_MAX);
  EXPECT_EQ(info->ReactorOf(11), 1u);
  // It is written so again, and without the feature once there are none.
  ASSERT_TRUE(kernel_.RunTask(*reactor_, WriteStore(*reactor_, &*info))->ok());
  EXPECT_EQ(FirstDifference(halves.Bytes(), machine_->disk().ReadAll(kMeta)), "");
  halves.features = 1;
  ExpectRefused(halves.Bytes(), Code::kCorruption, "has ID 4");
  halves.features = 3;
  halves.partitions.back().first = kMaxPartitions;
  ExpectRefused(halves.Bytes(), Code::kCorruption, "has ID 65536");
}

TEST_F(StoreTest, GoldenReadWithTable) {
  machine_->disk().WriteAll(kMeta, TableMeta().Bytes());
  Result<StoreInfo> info = Load();
  ASSERT_TRUE(info.ok()) << info.status().ToString();
  EXPECT_EQ(info->node, (Uuid{kHi, kLo}));
  EXPECT_EQ(info->reactors, 2u);
  EXPECT_EQ(info->seal_bytes, 40u);
  EXPECT_TRUE(info->namespaced);
  EXPECT_EQ(info->ranges, 4u);
  EXPECT_EQ(info->layout, 3u);
  EXPECT_EQ(info->LogDirectory(1), "/data/wal-3-1");
  ASSERT_EQ(info->partitions.size(), 2u);
  EXPECT_EQ(info->partitions[1].id, 3u);
  EXPECT_EQ(info->partitions[1].uuid, (Uuid{0xaa03, 0xbb03}));
  EXPECT_EQ(info->partitions[1].first_hash, 0xc000000000000000);
  EXPECT_EQ(info->partitions[1].last_hash, ~0ull);
  ASSERT_EQ(info->dropped.size(), 1u);
  EXPECT_EQ(info->dropped[0].uuid, (Uuid{0xaa02, 0xbb02}));
  EXPECT_EQ(info->dropped[0].until, 0x123456u);
  EXPECT_EQ(info->FindDropped({0xaa02, 0xbb02}), &info->dropped[0]);
  EXPECT_EQ(info->FindDropped({0xaa03, 0xbb03}), nullptr);
  EXPECT_EQ(info->Find(0), nullptr);
  EXPECT_EQ(info->Find(1), &info->partitions[0]);
  EXPECT_EQ(info->Find(2), nullptr);
  EXPECT_EQ(info->Find(3), &info->partitions[1]);
  // Written again, it is the same.
  EXPECT_TRUE(kernel_.RunTask(*reactor_, WriteStore(*reactor_, &*info))->ok());
  EXPECT_EQ(FirstDifference(TableMeta().Bytes(), machine_->disk().ReadAll(kMeta)), "");
}

TEST_F(StoreTest, EarlierStoresHaveKeysWithoutNamespaces) {
  for (const std::string& contents : {HandMeta(), TableMeta{.format = 3, .features = 0}.Bytes()}) {
    machine_->disk().WriteAll(kMeta, contents);
    Result<StoreInfo> info = Load();
    ASSERT_TRUE(info.ok()) << info.status().ToString();
    EXPECT_FALSE(info->namespaced);
    // It stays so when the file is written again.
    EXPECT_TRUE(kernel_.RunTask(*reactor_, WriteStore(*reactor_, &*info))->ok());
    EXPECT_FALSE(Load()->namespaced);
  }
}

TEST_F(StoreTest, UnknownFeaturesAreRefused) {
  ExpectRefused(TableMeta{.features = 5}.Bytes(), Code::kVersion, "features that this build does not know (bits 0x4)");
}

TEST_F(StoreTest, GoldenWritten) {
  for (uint32_t partitions : {1u, 8u, 128u, 1024u}) {
    machine_->PowerLoss(1);
    machine_->disk() = SimDisk();
    reactor_ = machine_->Boot();
    Result<StoreInfo> info = Open(partitions, 3, 16384);
    ASSERT_TRUE(info.ok()) << info.status().ToString();
    HandBytes head, table;
    std::set<Uuid> uuids{info->node};
    for (const PartitionInfo& p : info->partitions) {
      table.Uuid(p.uuid.hi, p.uuid.lo).U64(p.id);
      uuids.insert(p.uuid);
    }
    EXPECT_EQ(uuids.size(), partitions + 1) << "UUIDs repeat";
    head.Text("PANDSTE1").U32(4).U32(partitions).U32(3).U32(16384).Uuid(info->node.hi, info->node.lo).U64(0);
    head.U32(partitions).U32(0).U64(Hash64(table.str())).U32(40).U32(1).PadTo(4088).Checksum();
    table.PadTo((table.str().size() + 4095) / 4096 * 4096);
    EXPECT_EQ(FirstDifference(head.str() + table.str(), machine_->disk().ReadAll(kMeta)), "");
    EXPECT_FALSE(machine_->disk().Exists(std::string(kMeta) + ".tmp"));
    // The file is durable.
    machine_->PowerLoss(7);
    reactor_ = machine_->Boot();
    EXPECT_TRUE(Load().ok());
  }
}

TEST_F(StoreTest, PartitionsCoverTheHashSpaceInOrder) {
  for (uint32_t partitions = 1; partitions <= 128; partitions *= 2) {
    machine_->disk().WriteAll(kMeta, HandMeta({.partitions = partitions}));
    Result<StoreInfo> info = Load();
    ASSERT_TRUE(info.ok());
    uint64_t next = 0;
    for (const PartitionInfo& p : info->partitions) {
      EXPECT_EQ(p.first_hash, next);
      next = p.last_hash + 1;
    }
    EXPECT_EQ(next, 0u);
    for (int i = 0; i < 200; ++i) {
      const std::string key = fmt::format("key {}", i);
      const PartitionInfo& p = info->partitions[info->PartitionOf(key)];
      EXPECT_TRUE(p.first_hash <= HashId(key) && HashId(key) <= p.last_hash);
    }
  }
}

TEST_F(StoreTest, WithoutAFileThereIsNoStore) {
  EXPECT_EQ(Load().code(), Code::kNotFound);
  machine_->disk().WriteAll("/data/something", "else");
  EXPECT_EQ(Load().code(), Code::kNotFound);
}

// RP3: so partitions can be dropped, which makes room.
TEST_F(StoreTest, IsChangedOnAFullDisk) {
  Result<StoreInfo> info = Open(4, 2);
  ASSERT_TRUE(info.ok()) << info.status().ToString();
  ASSERT_TRUE(kernel_.RunTask(*reactor_, WriteStore(*reactor_, &*info))->ok());
  machine_->disk().SetCapacity(machine_->disk().used_bytes());
  for (; !info->partitions.empty(); info->partitions.pop_back()) {
    StoreInfo::Dropped dropped;
    dropped.uuid = info->partitions.back().uuid;
    info->dropped.push_back(dropped);
    const Status written = *kernel_.RunTask(*reactor_, WriteStore(*reactor_, &*info));
    EXPECT_TRUE(written.ok()) << written.ToString();
    EXPECT_EQ(Load()->dropped.size(), info->dropped.size());
  }
}

TEST_F(StoreTest, TruncatedFilesAreDamage) {
  for (size_t bytes : {0u, 1u, 512u, 4095u}) ExpectRefused(HandMeta().substr(0, bytes), Code::kCorruption, "");
  for (size_t bytes : {4096u, 8191u}) ExpectRefused(TableMeta().Bytes().substr(0, bytes), Code::kCorruption, "");
}

TEST_F(StoreTest, AnotherVersionIsRefusedAsSuch) {
  ExpectRefused(TableMeta{.format = 5}.Bytes(), Code::kVersion, "store format 5 with room for a seal of 40 bytes");
  ExpectRefused(TableMeta{.seal_bytes = 41}.Bytes(), Code::kVersion, "with room for a seal of 41 bytes");
  ExpectRefused(HandMeta({.format = 0, .seal_bytes = 0}), Code::kVersion, "store format 0");
  ExpectRefused(HandMeta({.seal_bytes = 41}), Code::kVersion, "with room for a seal of 41 bytes");
  ExpectRefused(HandMeta({.format = 1}), Code::kVersion, "store format 1 with room for a seal of 40 bytes");
}

TEST_F(StoreTest, FlippedBitsAreDamage) {
  ExpectRefused("QANDSTE1" + HandMeta().substr(8), Code::kCorruption, "offset 0 holds no store header");
  for (size_t byte = 8; byte < 4096; byte += byte < 64 || byte >= 4080 ? 1 : 97) {
    std::string contents = HandMeta();
    contents[byte] ^= static_cast<char>(1 << byte % 8);
    ExpectRefused(contents, Code::kCorruption, "the block at offset 0 fails its checksum");
  }
}

TEST_F(StoreTest, FlippedBitsOfTheTableAreDamage) {
  for (size_t byte = 4096; byte < 4096 + 3 * 24; ++byte) {
    std::string contents = TableMeta().Bytes();
    contents[byte] ^= static_cast<char>(1 << byte % 8);
    ExpectRefused(contents, Code::kCorruption, "the table at offset 4096 fails its checksum");
  }
}

TEST_F(StoreTest, TablesThatNoBuildWrote) {
  TableMeta too_large, twice, out_of_order;
  too_large.partitions[1].first = 4;
  twice.partitions[1].first = 1;
  out_of_order.partitions[0].first = 3;
  out_of_order.partitions[1].first = 1;
  for (const TableMeta& meta : {too_large, twice, out_of_order})
    ExpectRefused(meta.Bytes(), Code::kCorruption, "entry 1");
  TableMeta too_many;
  too_many.ranges = 1;
  ExpectRefused(too_many.Bytes(), Code::kCorruption, "2 of 1 partitions");
}

TEST_F(StoreTest, NumbersThatNoBuildWrote) {
  for (MetaFields f :
       {MetaFields{.partitions = 0}, MetaFields{.partitions = 3}, MetaFields{.partitions = 256},
        MetaFields{.partitions = 0xffffffff}, MetaFields{.reactors = 0}, MetaFields{.page_bytes = 0},
        MetaFields{.page_bytes = 2048}, MetaFields{.page_bytes = 10000}, MetaFields{.page_bytes = 131072}}) {
    ExpectRefused(HandMeta(f), Code::kCorruption, "offset 0");
  }
}

TEST_F(StoreTest, ALogWithoutItsStoreFileIsNotReplaced) {
  machine_->disk().WriteAll("/data/wal-0/segment-00000000000000000001.wal", "a log");
  Result<StoreInfo> opened = Open(4, 1);
  EXPECT_EQ(opened.code(), Code::kCorruption);
  EXPECT_NE(opened.status().message().find("wal-0"), std::string::npos) << opened.status().ToString();
}

TEST_F(StoreTest, PartitionsWithoutTheirStoreFileAreNotReplaced) {
  ASSERT_TRUE(Open(2, 1).ok());
  EXPECT_EQ(machine_->disk().Unlink(kMeta), 0);
  // The next creation completes one that was cut short.
  ASSERT_TRUE(Open(2, 1).ok());
  EXPECT_EQ(machine_->disk().Unlink(kMeta), 0);
  // The file as it is after its second checkpoint.
  const std::string path = "/data/partition-00001/data";
  std::string contents = machine_->disk().ReadAll(path);
  Superblock sb;
  ASSERT_TRUE(ParseSuperblock(std::string_view(contents).substr(2 * kBlockBytes, kBlockBytes), &sb).ok());
  ASSERT_EQ(sb.generation, 1u);
  sb.generation = 2;
  EncodeSuperblock(sb, contents.data());
  machine_->disk().WriteAll(path, contents);
  Result<StoreInfo> opened = Open(2, 1);
  EXPECT_EQ(opened.code(), Code::kCorruption);
  EXPECT_NE(opened.status().message().find("partition-00001"), std::string::npos) << opened.status().ToString();
  EXPECT_EQ(machine_->disk().ReadAll(path), contents);
}

TEST_F(StoreTest, WhatARestoreLeftUnfinishedIsNoNewStore) {
  machine_->disk().WriteAll(std::string("/data/") + kUnfinishedName, "");
  Result<StoreInfo> opened = Open(2, 1);
  EXPECT_EQ(opened.code(), Code::kCorruption);
  EXPECT_NE(opened.status().message().find("restore"), std::string::npos) << opened.status().ToString();
  EXPECT_FALSE(machine_->disk().Exists(kMeta));
}

TEST_F(StoreTest, AWholeStoreThatStillBelongsToARestoreIsNotOpened) {
  ASSERT_TRUE(Open(2, 1).ok());
  machine_->disk().WriteAll(std::string("/data/") + kUnfinishedName, "");
  EXPECT_EQ(Open(2, 1).code(), Code::kCorruption);
}

TEST_F(StoreTest, OptionsThatDifferAreRefusedZerosAreNot) {
  ASSERT_TRUE(Open(4, 2, 4096).ok());
  const std::string before = machine_->disk().ReadAll(kMeta);
  EXPECT_TRUE(Open(0, 0, 0).ok());
  EXPECT_TRUE(Open(4, 2, 4096).ok());
  Status s = Open(8, 2).TakeStatus();
  EXPECT_EQ(s.code(), Code::kInvalidArgument);
  EXPECT_NE(s.message().find("--partitions=4, not 8"), std::string::npos) << s.ToString();
  EXPECT_TRUE(Open(4, 1).ok()) << "another number of reactors is no difference";
  EXPECT_EQ(Open(4, 2, 8192).code(), Code::kInvalidArgument);
  EXPECT_EQ(machine_->disk().ReadAll(kMeta), before);
}

TEST_F(StoreTest, OptionsThatMakeNoStore) {
  const uint32_t cases[][3] = {{0, 1, 0},     {3, 1, 0},      {131072, 1, 0}, {16, 0, 0},
                               {16, 1, 2048}, {16, 1, 12288}, {16, 1, 131072}};
  for (const auto& [partitions, reactors, page_bytes] : cases) {
    EXPECT_EQ(Open(partitions, reactors, page_bytes).code(), Code::kInvalidArgument);
    EXPECT_FALSE(machine_->disk().Exists(kMeta));
  }
}

// A crash at any operation of the creation leaves no store or a complete one.
TEST_F(StoreTest, ACrashWhileItIsMadeLeavesNoneOrAll) {
  for (uint64_t op = 1;; ++op) {
    SimKernel kernel(op);
    SimMachine* machine = kernel.AddMachine();
    machine->CrashAtDiskOp(op);
    SimReactor* reactor = machine->Boot();
    StoreOptions options{.data_dir = "/data", .partitions = 2, .reactors = 1};
    const bool over = kernel.RunTask(*reactor, OpenStore(*reactor, options)).has_value();
    machine->CrashAtDiskOp(0);
    machine->PowerLoss(op);
    reactor = machine->Boot();
    Result<StoreInfo> first = *kernel.RunTask(*reactor, OpenStore(*reactor, options));
    ASSERT_TRUE(first.ok()) << "after a crash at operation " << op << ": " << first.status().ToString();
    machine->PowerLoss(op + 1);
    reactor = machine->Boot();
    Result<StoreInfo> second = *kernel.RunTask(*reactor, LoadStore(*reactor, "/data"));
    ASSERT_TRUE(second.ok()) << second.status().ToString();
    EXPECT_EQ(first->node, second->node);
    for (const PartitionInfo& p : second->partitions) {
      EXPECT_EQ(machine->disk().ReadAll(second->PartitionDirectory(p.id) + "/data").size(), 256u << 10);
    }
    if (over) break;
  }
}

TEST_F(StoreTest, OneProcessAtATime) {
  struct Body {
    static Task<void> Run(Reactor* reactor) {
      Result<File> lock = co_await LockStore(*reactor, "/data");
      EXPECT_TRUE(lock.ok()) << lock.status().ToString();
      Result<File> second = co_await LockStore(*reactor, "/data");
      EXPECT_EQ(second.code(), Code::kLocked) << second.status().ToString();
      EXPECT_NE(second.status().message().find("/data"), std::string::npos);
      EXPECT_TRUE((co_await lock->Close()).ok());
      Result<File> third = co_await LockStore(*reactor, "/data");
      EXPECT_TRUE(third.ok()) << third.status().ToString();
      EXPECT_TRUE((co_await third->Close()).ok());
    }
  };
  EXPECT_TRUE(kernel_.RunTask(*reactor_, Body::Run(reactor_)));
}

}  // namespace
}  // namespace pando
