// The durability rules of the simulated disk (sim_disk.h X1-X6). Synced data never vanishes,
// unsynced data may, and every outcome that the contract permits does occur.
#include "tests/support/sim_disk.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace pando {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;

constexpr int kSeeds = 200;

struct DiskTest : ::testing::Test {
  SimDisk disk;
  SimDisk::InodeId file = 0;

  SimDisk::InodeId Open(const std::string& path) {
    const int64_t id = disk.Open(path, O_RDWR | O_CREAT);
    CHECK_GE(id, 0);
    return static_cast<SimDisk::InodeId>(id);
  }
  void Write(uint64_t offset, std::string_view data) {
    ASSERT_EQ(disk.Write(file, data.data(), data.size(), offset), static_cast<int64_t>(data.size()));
  }
  void Sync(SimDisk::InodeId id) { disk.CompleteSync(id, disk.BeginSync(id)); }
  void SyncDirectory(const std::string& path) {
    const int64_t id = disk.Open(path, O_RDONLY | O_DIRECTORY);
    CHECK_GE(id, 0);
    Sync(static_cast<SimDisk::InodeId>(id));
    disk.CloseInode(static_cast<SimDisk::InodeId>(id));
  }
  // Creates /f, durable and empty, and opens it as `file`.
  void MakeFile() {
    disk.WriteAll("/f", "");
    file = Open("/f");
  }
  SimDisk AfterPowerLoss(uint64_t seed) const {
    SimDisk copy = disk;
    copy.PowerLoss(seed);
    return copy;
  }
  template <typename Fn>
  std::set<std::string> Outcomes(Fn look) const {
    std::set<std::string> seen;
    for (int seed = 0; seed < kSeeds; ++seed) seen.insert(look(AfterPowerLoss(seed)));
    return seen;
  }
};

TEST_F(DiskTest, SyncedBytesSurviveUnsyncedOnesMayNot) {
  MakeFile();
  Write(0, std::string(1024, 'a'));
  Sync(file);
  Write(0, std::string(512, 'b'));
  Write(4096, std::string(512, 'c'));
  bool kept = false, dropped = false, torn = false;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const std::string data = AfterPowerLoss(seed).ReadAll("/f");
    ASSERT_GE(data.size(), 1024u) << seed;
    ASSERT_EQ(data.substr(512, 512), std::string(512, 'a')) << "a synced sector changed, seed " << seed;
    const size_t bs = data.substr(0, 512).find_first_not_of('b');
    ASSERT_EQ(data.substr(0, 512).substr(bs == std::string::npos ? 512 : bs).find_first_not_of('a'), std::string::npos);
    kept |= bs == std::string::npos;
    dropped |= bs == 0;
    torn |= bs != std::string::npos && bs > 0;
    ASSERT_TRUE(data.size() == 1024 || data.size() == 4608) << data.size();
  }
  EXPECT_TRUE(kept && dropped && torn) << kept << dropped << torn;
}

TEST_F(DiskTest, SectorsOfOneWriteAreIndependent) {
  MakeFile();
  Write(0, std::string(4096, 'a'));
  Sync(file);
  Write(0, std::string(4096, 'b'));
  const auto seen = Outcomes([](const SimDisk& d) {
    std::string pattern;
    for (int s = 0; s < 8; ++s) pattern += d.ReadAll("/f")[s * 512];
    return pattern;
  });
  EXPECT_GT(seen.size(), 30u);
  EXPECT_THAT(seen, Contains("aaaaaaaa"));
  EXPECT_THAT(seen, Contains("bbbbbbbb"));
}

TEST_F(DiskTest, AnOverwriteMayLeaveWhatWasThereInBetween) {
  MakeFile();
  Write(0, std::string(512, 'a'));
  Sync(file);
  Write(0, std::string(512, 'b'));
  Write(0, std::string(512, 'c'));
  const auto seen = Outcomes([](const SimDisk& d) { return d.ReadAll("/f").substr(511, 1); });
  EXPECT_THAT(seen, ElementsAre("a", "b", "c"));
}

TEST_F(DiskTest, DataSyncWriteMakesItsOwnBytesAndSizeDurable) {
  MakeFile();
  Write(0, std::string(512, 'x'));  // not durable
  Write(1024, std::string(512, 'y'));
  disk.MakeDurable(file, 1024, 512);
  const auto seen = Outcomes([](const SimDisk& d) {
    const std::string data = d.ReadAll("/f");
    EXPECT_EQ(data.size(), 1536u);
    EXPECT_EQ(data.substr(1024), std::string(512, 'y'));
    return std::string(1, data[0] ? data[0] : '0');
  });
  EXPECT_THAT(seen, ElementsAre("0", "x"));
}

// X1: a sync makes durable what had been written when it was submitted, and nothing later.
TEST_F(DiskTest, ASyncCoversWhatWasThereWhenItWasSubmitted) {
  MakeFile();
  Write(0, std::string(512, 'a'));
  const SimDisk::SyncPoint point = disk.BeginSync(file);
  Write(0, std::string(512, 'b'));  // completes while the sync is running
  Write(512, std::string(512, 'n'));
  disk.CompleteSync(file, point);
  const auto seen = Outcomes([](const SimDisk& d) {
    const std::string data = d.ReadAll("/f");
    return data.substr(511, 1) + (data.size() > 512 && data[1023] ? "n" : "-");
  });
  EXPECT_THAT(seen, Contains("a-"));
  EXPECT_THAT(seen, Contains("bn"));
  EXPECT_THAT(seen, ::testing::Not(Contains(::testing::StartsWith(std::string(1, '\0')))));
}

// X6: what a failed sync covered stays visible, but a later sync does not make it durable.
TEST_F(DiskTest, AFailedSyncLosesWhatItCovered) {
  MakeFile();
  Write(0, std::string(512, 'a'));
  Sync(file);
  Write(0, std::string(512, 'b'));
  disk.FailSync(file, disk.BeginSync(file));
  EXPECT_EQ(disk.ReadAll("/f")[0], 'b');
  Sync(file);  // succeeds, but makes nothing durable
  EXPECT_THAT(Outcomes([](const SimDisk& d) { return d.ReadAll("/f").substr(0, 1); }), ElementsAre("a"));
}

// X3: a new name may be lost until its directory is synced, and its directory with it.
TEST_F(DiskTest, CreationsNeedTheirDirectorySynced) {
  disk.MakeDirectory("/d");
  file = Open("/d/f");
  Write(0, "data");
  Sync(file);
  auto look = [](const SimDisk& d) {
    if (!d.Exists("/d")) return std::string("nothing");
    return std::string(d.Exists("/d/f") ? d.ReadAll("/d/f") : "empty");
  };
  EXPECT_THAT(Outcomes(look), ElementsAre("data", "empty", "nothing"));
  SyncDirectory("/d");
  EXPECT_THAT(Outcomes(look), ElementsAre("data", "nothing"));  // the entry of /d itself is in "/", which is not synced
  SyncDirectory("/");
  EXPECT_THAT(Outcomes(look), ElementsAre("data"));
}

TEST_F(DiskTest, RenameReplacesWhollyOrNotAtAll) {
  disk.WriteAll("/d/current", "old");
  file = Open("/d/next");
  Write(0, "new");
  Sync(file);
  ASSERT_EQ(disk.Rename("/d/next", "/d/current"), 0);
  auto look = [](const SimDisk& d) { return d.ReadAll("/d/current") + (d.Exists("/d/next") ? "+next" : ""); };
  EXPECT_THAT(Outcomes(look), ElementsAre("new", "old", "old+next"));
  SyncDirectory("/d");
  EXPECT_THAT(Outcomes(look), ElementsAre("new"));
}

TEST_F(DiskTest, RenameWithoutSyncOfTheDataCanLeaveAnEmptyFile) {
  disk.WriteAll("/d/current", "old");
  file = Open("/d/next");
  Write(0, std::string(512, 'n'));
  ASSERT_EQ(disk.Rename("/d/next", "/d/current"), 0);
  SyncDirectory("/d");
  EXPECT_THAT(Outcomes([](const SimDisk& d) { return std::to_string(d.ReadAll("/d/current").size()); }),
              ElementsAre("0", "512"));
}

TEST_F(DiskTest, ExchangeSwapsWhollyOrNotAtAll) {
  disk.WriteAll("/d/current", "old");
  disk.WriteAll("/d/next", "new");
  EXPECT_EQ(disk.Exchange("/d/next", "/d/none"), -ENOENT);
  ASSERT_EQ(disk.Exchange("/d/next", "/d/current"), 0);
  auto look = [](const SimDisk& d) { return d.ReadAll("/d/current") + "+" + d.ReadAll("/d/next"); };
  EXPECT_EQ(look(disk), "new+old");
  EXPECT_THAT(Outcomes(look), ElementsAre("new+old", "old+new"));
  SyncDirectory("/d");
  EXPECT_THAT(Outcomes(look), ElementsAre("new+old"));
}

TEST_F(DiskTest, RemovalIsVolatileToo) {
  disk.WriteAll("/d/f", "data");
  ASSERT_EQ(disk.Unlink("/d/f"), 0);
  EXPECT_FALSE(disk.Exists("/d/f"));
  auto look = [](const SimDisk& d) { return d.Exists("/d/f") ? d.ReadAll("/d/f") : "gone"; };
  EXPECT_THAT(Outcomes(look), ElementsAre("data", "gone"));
  SyncDirectory("/d");
  EXPECT_THAT(Outcomes(look), ElementsAre("gone"));
}

TEST_F(DiskTest, TruncationAndAllocationAreVolatile) {
  disk.WriteAll("/f", std::string(8192, 'a'));
  file = Open("/f");
  ASSERT_EQ(disk.Truncate(file, 4096), 0);
  EXPECT_EQ(disk.Size(file), 4096u);
  const auto seen = Outcomes([](const SimDisk& d) {
    EXPECT_EQ(d.ReadAll("/f").find_first_not_of('a'), std::string::npos);
    return std::to_string(d.ReadAll("/f").size());
  });
  EXPECT_THAT(seen, ElementsAre("4096", "8192"));
  Sync(file);
  ASSERT_EQ(disk.Allocate(file, 0, 16384), 0);
  EXPECT_THAT(Outcomes([](const SimDisk& d) { return std::to_string(d.ReadAll("/f").size()); }),
              ElementsAre("16384", "4096"));
}

TEST_F(DiskTest, HolesGiveSpaceBackAndAreVolatile) {
  disk.WriteAll("/f", std::string(4 * 4096, 'a'));
  file = Open("/f");
  const uint64_t used = disk.used_bytes();
  EXPECT_EQ(disk.PunchHole(file, 100, 4096), -EINVAL);
  ASSERT_EQ(disk.PunchHole(file, 4096, 2 * 4096), 0);
  EXPECT_EQ(disk.used_bytes(), used - 2 * 4096);
  EXPECT_EQ(disk.ReadAll("/f"), std::string(4096, 'a') + std::string(2 * 4096, '\0') + std::string(4096, 'a'));
  const auto space = [](const SimDisk& d) { return std::to_string(d.used_bytes() / 4096); };
  EXPECT_THAT(Outcomes(space), ElementsAre("2", "3", "4")) << "each block is either returned or not";
  Sync(file);
  EXPECT_THAT(Outcomes(space), ElementsAre("2"));
  // The same for allocating the space again.
  ASSERT_EQ(disk.Allocate(file, 4096, 2 * 4096), 0);
  EXPECT_THAT(Outcomes(space), ElementsAre("2", "3", "4"));
  Sync(file);
  EXPECT_THAT(Outcomes(space), ElementsAre("4"));
  EXPECT_EQ(disk.PunchHole(file, 3 * 4096, 100 * 4096), 0) << "the range may extend past the end";
  EXPECT_EQ(disk.Size(file), 4u * 4096);
}

// X4: what completed survives a crash of the process, but not always a power loss after it.
TEST_F(DiskTest, ProcessCrashKeepsWhatCompletedButMakesNothingDurable) {
  MakeFile();
  Write(0, std::string(512, 'a'));
  disk.ProcessCrash(1);
  EXPECT_EQ(disk.ReadAll("/f"), std::string(512, 'a'));
  EXPECT_THAT(Outcomes([](const SimDisk& d) { return std::to_string(d.ReadAll("/f").size()); }),
              ElementsAre("0", "512"));
}

// X5: a write in flight at a crash leaves all of its pages, some of them, or none.
TEST_F(DiskTest, OperationsInFlightHappenWhollyPartlyOrNotAtAll) {
  MakeFile();
  SimDisk::InFlight write{};
  write.kind = SimDisk::InFlight::Kind::kWrite;
  write.inode = file;
  write.data = std::string(2 * 4096, 'w');
  disk.AddInFlight(write);
  std::set<size_t> sizes;
  for (int seed = 0; seed < kSeeds; ++seed) {
    SimDisk copy = disk;
    copy.ProcessCrash(seed);
    sizes.insert(copy.ReadAll("/f").size());
  }
  EXPECT_THAT(sizes, ElementsAre(0, 4096, 8192));
  EXPECT_GT(Outcomes([](const SimDisk& d) { return d.ReadAll("/f"); }).size(), 10u);
}

TEST_F(DiskTest, CapacityIsGivenBackByRemoval) {
  disk.SetCapacity(8 * 4096);
  file = Open("/f");
  Write(0, std::string(8 * 4096, 'a'));
  const SimDisk::InodeId other = Open("/g");
  EXPECT_EQ(disk.Write(other, "x", 1, 0), -ENOSPC);
  EXPECT_EQ(disk.Allocate(other, 0, 1), -ENOSPC);
  Write(0, std::string(4096, 'b'));  // an overwrite in place needs no space
  ASSERT_EQ(disk.Unlink("/f"), 0);
  EXPECT_EQ(disk.Write(other, "x", 1, 0), -ENOSPC) << "the file is still open";
  disk.CloseInode(file);
  EXPECT_EQ(disk.Write(other, "x", 1, 0), 1);
  EXPECT_EQ(disk.used_bytes(), 4096u);
}

TEST_F(DiskTest, FlippedBitsStay) {
  disk.WriteAll("/f", std::string(10000, 'a'));
  disk.FlipBit("/f", 5000, 3);
  EXPECT_EQ(disk.ReadAll("/f")[5000], 'a' ^ 8);
  EXPECT_EQ(AfterPowerLoss(3).ReadAll("/f")[5000], 'a' ^ 8);
  EXPECT_EQ(disk.ReadAll("/f")[4999], 'a');
}

TEST_F(DiskTest, ImagesAreIndependent) {
  disk.WriteAll("/f", "one");
  const SimDisk image = disk;
  file = Open("/f");
  Write(0, "two");
  Sync(file);
  disk.Unlink("/f");
  EXPECT_EQ(image.ReadAll("/f"), "one");
  disk = image;
  EXPECT_EQ(disk.ReadAll("/f"), "one");
  EXPECT_THAT(disk.AllFiles(), ElementsAre("/f"));
}

}  // namespace
}  // namespace pando
