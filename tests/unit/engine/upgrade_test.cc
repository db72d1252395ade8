// Stores written by earlier versions. They open and pass the check, and after the next checkpoints
// they are in the newest format.
#include <gtest/gtest.h>
#include <zstd.h>

#include <fstream>
#include <sstream>

#include "src/base/codec.h"
#include "src/partition/superblock.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

const char* const kData = "/data/partition-00000/data";

// A fixture is a sequence of files, compressed with zstd: {path length in bytes u64, path, file
// length in bytes u64, number of non-zero blocks u64, {block number u64, its 4096 bytes}...}.
void LoadFixture(const std::string& name, SimDisk* disk) {
  std::ifstream in(std::string(PANDO_FIXTURE_DIR) + "/" + name, std::ios::binary);
  ASSERT_TRUE(in) << name;
  std::stringstream packed;
  packed << in.rdbuf();
  const std::string bytes = packed.str();
  std::string content(ZSTD_getFrameContentSize(bytes.data(), bytes.size()), '\0');
  ASSERT_EQ(ZSTD_decompress(content.data(), content.size(), bytes.data(), bytes.size()), content.size());
  ByteReader reader(content);
  while (reader.ok() && reader.remaining() > 0) {
    const std::string path(reader.Bytes(reader.Fixed<uint64_t>()));
    std::string data(reader.Fixed<uint64_t>(), '\0');
    for (uint64_t left = reader.Fixed<uint64_t>(); left > 0 && reader.ok(); --left) {
      const uint64_t at = reader.Fixed<uint64_t>() * kBlockBytes;
      const std::string_view block = reader.Bytes(kBlockBytes);
      data.replace(at, std::min(block.size(), data.size() - at), block.substr(0, data.size() - at));
    }
    disk->WriteAll(path, data);
  }
  ASSERT_TRUE(reader.ok());
}

// Three rounds of puts of 60 keys, of which a third are removed, with a checkpoint after each
// round. Then one put that is only in the log.
Task<void> ExpectRecords(Partition* p) {
  for (int i = 0; i < 60; ++i) {
    Result<ReadResult> got = co_await p->Get(fmt::format("key-{:03}", i), 0, nullptr);
    EXPECT_OK(got.status());
    if (!got.ok()) co_return;
    EXPECT_EQ(got->found, i % 3 != 0) << i;
    if (!got->found) continue;
    EXPECT_EQ(got->value.substr(0, 7), fmt::format("value {}", i).substr(0, 7));
    EXPECT_EQ(got->value.size() == 6000, i % 20 == 7);
  }
  Result<ReadResult> got = co_await p->Get("in-the-log", 0, nullptr);
  EXPECT_OK(got.status());
  EXPECT_TRUE(got.ok() && got->found && got->value == "only");
}

Task<void> UseStore(Reactor* reactor, Setup setup, int checkpoints) {
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await ExpectRecords((*engine)->partition(0));
  for (int i = 0; i < checkpoints; ++i) {
    EXPECT_OK(co_await (*engine)->CheckpointAll());
    EXPECT_OK(co_await Put((*engine)->partition(0), "more", "since the upgrade"));
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
}

class UpgradeTest : public testing::Test {
 public:
  UpgradeTest() {
    setup_.store.partitions = 1;
    setup_.engine.log_segment_bytes = 64u << 10;
    setup_.engine.log_budget_bytes = 320u << 10;
  }
  uint32_t FormatOf(uint64_t slot) { return LoadLE<uint32_t>(&machine_->disk().ReadAll(kData)[slot * 8192 + 8]); }
  void Use(int checkpoints) {
    SimReactor* reactor = machine_->Boot();
    EXPECT_TRUE(kernel_.RunTask(*reactor, UseStore(reactor, setup_, checkpoints)));
    machine_->PowerLoss(1);
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
};

TEST_F(UpgradeTest, PartitionFilesOfFormat1) {
  LoadFixture("store-format-1.blocks.zst", &machine_->disk());
  ASSERT_EQ(FormatOf(0), 1u);
  ASSERT_EQ(FormatOf(1), 1u);
  SimReactor* reactor = machine_->Boot();
  EXPECT_EQ(*kernel_.RunTask(*reactor, Audit(*reactor, "/data")), "");
  machine_->PowerLoss(1);
  Use(0);
  EXPECT_EQ(FormatOf(0) + FormatOf(1), 3u) << "the first open takes a checkpoint, which says where the log ends";
  Use(0);
  EXPECT_EQ(FormatOf(0) + FormatOf(1), 3u) << "another open changes nothing";
  Use(1);
  EXPECT_EQ(FormatOf(0) + FormatOf(1), 4u);
  Use(0);
}

// A store of the last version whose pages had no room for a seal. It stays as it is.
TEST_F(UpgradeTest, StoresWithoutRoomForASeal) {
  LoadFixture("store-no-seal.blocks.zst", &machine_->disk());
  setup_.store.page_bytes = 0;
  setup_.engine.memory_bytes = 16u << 20;
  auto expect_no_seal = [this] {
    const std::string store = machine_->disk().ReadAll("/data/store.meta"), data = machine_->disk().ReadAll(kData);
    EXPECT_EQ(LoadLE<uint32_t>(&store[2088]), 0u);
    for (uint64_t copy = 0; copy < 4; ++copy) {
      EXPECT_EQ(LoadLE<uint64_t>(&data[copy * kBlockBytes + 16]), 0u) << "feature bits";
      EXPECT_EQ(LoadLE<uint32_t>(&data[copy * kBlockBytes + 232]), 0u);
    }
  };
  expect_no_seal();
  SimReactor* reactor = machine_->Boot();
  EXPECT_EQ(*kernel_.RunTask(*reactor, Audit(*reactor, "/data")), "");
  machine_->PowerLoss(1);
  Use(0);
  Use(2);
  Use(1);
  expect_no_seal();
}

// Power fails at each operation of the first checkpoints, which upgrade the file.
TEST_F(UpgradeTest, APowerFailureMeanwhile) {
  FLAGS_minloglevel = 3;
  LoadFixture("store-format-1.blocks.zst", &machine_->disk());
  const SimDisk image = machine_->disk();
  uint64_t mixed = 0;
  for (uint64_t op = 1; op < 400 && !HasFailure(); op += 3) {
    machine_->disk() = image;
    machine_->CrashAtDiskOp(machine_->disk_ops() + op);
    SimReactor* reactor = machine_->Boot();
    const bool ended = kernel_.RunTask(*reactor, UseStore(reactor, setup_, 2)).has_value();
    machine_->PowerLoss(op);
    machine_->CrashAtDiskOp(0);
    mixed += FormatOf(0) != FormatOf(1);
    Use(1);
    if (ended) break;
  }
  EXPECT_GT(mixed, 0u);
}

}  // namespace
}  // namespace pando::engine_test
