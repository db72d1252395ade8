// kvadmin's backups: the text of the manifest, and the pages that BackupFile refuses.
#include "tools/kvadmin/backup_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "src/base/hash.h"
#include "src/btree/tree_node.h"
#include "tools/kvadmin/backup_manifest.h"

namespace pando::admin {
namespace {

using testing::HasSubstr;

// docs/FORMAT.md, "Backup".
TEST(BackupManifest, GoldenText) {
  BackupManifest manifest;
  manifest.id = "aa";
  manifest.base = "../sunday";
  manifest.base_id = "bb";
  manifest.node = "n";
  manifest.server_version = "0.1.0";
  manifest.page_bytes = 8192;
  manifest.seal_bytes = 40;
  manifest.namespaced = true;
  manifest.reactors = 2;
  manifest.snapshot_version = 77;
  manifest.taken_at_ms = 5;
  const std::string body =
      "{\n \"format\": 2,\n \"id\": \"aa\",\n \"base\": \"../sunday\",\n \"base_id\": \"bb\",\n \"node\": \"n\",\n"
      " \"server_version\": \"0.1.0\",\n \"page_bytes\": 8192,\n \"seal_bytes\": 40,\n"
      " \"namespaced\": true,\n \"reactors\": 2,\n "
      "\"snapshot_version\": \"77\",\n"
      " \"taken_at_ms\": 5,\n \"partitions\": []\n}";
  const std::string want = body + fmt::format("\n{:016x}\n", Hash64(body));
  EXPECT_EQ(EncodeManifest(manifest), want);
  EXPECT_EQ(DecodeManifest(want, "f")->base, "../sunday");
  EXPECT_EQ(DecodeManifest(want, "f")->seal_bytes, 40u);
  EXPECT_TRUE(DecodeManifest(want, "f")->namespaced);
  manifest.namespaced = false;
  EXPECT_EQ(EncodeManifest(manifest).substr(0, 15), "{\n \"format\": 1,") << "an older kvadmin may restore it";
  std::string earlier = body;
  earlier.replace(earlier.find("2,"), 1, "1");
  for (std::string_view line : {" \"seal_bytes\": 40,\n", " \"namespaced\": true,\n"}) {
    earlier.erase(earlier.find(line), line.size());
  }
  Result<BackupManifest> of_earlier = DecodeManifest(earlier + fmt::format("\n{:016x}\n", Hash64(earlier)), "f");
  EXPECT_EQ(of_earlier->seal_bytes, 0u);
  EXPECT_FALSE(of_earlier->namespaced);
  for (size_t i = 0; i < want.size(); ++i) {
    std::string bad = want;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    EXPECT_EQ(DecodeManifest(bad, "f").code(), Code::kCorruption) << i;
  }
  // Builds before the format was raised wrote backups with namespaces in format 1.
  std::string of_format_1 = body;
  of_format_1.replace(of_format_1.find("2,"), 1, "1");
  EXPECT_TRUE(DecodeManifest(of_format_1 + fmt::format("\n{:016x}\n", Hash64(of_format_1)), "f")->namespaced);
  std::string later = body;
  later.replace(later.find("2,"), 1, "3");
  EXPECT_EQ(DecodeManifest(later + fmt::format("\n{:016x}\n", Hash64(later)), "f").code(), Code::kVersion);
}

TEST(BackupManifest, KeepsPartitions) {
  BackupManifest manifest;
  BackupPartition p;
  p.uuid = {0x1122334455667788, 0x99aabbccddeeff00};
  p.file = "partition-00000.pages";
  p.since = 3;
  p.root.generation = 9;
  p.root.last_version = UINT64_MAX;
  p.root.root_level = 2;
  p.root.root.location = Extent::Of(1ull << 40, 2);
  p.root.root.count = 1ull << 60;
  manifest.partitions.push_back(p);
  Result<BackupManifest> decoded = DecodeManifest(EncodeManifest(manifest), "f");
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  const BackupPartition& got = decoded->partitions.at(0);
  EXPECT_EQ(got.uuid, p.uuid);
  EXPECT_EQ(got.since, 3u);
  EXPECT_EQ(got.root.last_version, UINT64_MAX);
  EXPECT_EQ(got.root.root.location, p.root.root.location);
  EXPECT_EQ(decoded->records(), 1ull << 60);
}

// -- a partition of one leaf

constexpr uint32_t kPageBytes = 4096;
constexpr Uuid kPartition{1, 2};

class BackupFileTest : public testing::Test {
 protected:
  BackupFileTest() {
    std::vector<char> page(kPageBytes), scratch(kPageBytes);
    image_.resize(kPageBytes);
    TreeNode::Format(page.data(), kPageBytes, 0, {}, nullptr, /*page_id=*/1, /*birth=*/5);
    EncodePageImage(page.data(), kPageBytes, Compression::kNone, image_.data(), scratch.data());
    root_.generation = 6;
    root_.root.location = Extent::Of(9, 1);
    root_.root.birth = 5;
    root_.root.checksum = Hash64(image_, ChecksumSeed(kPartition, 9));
  }
  ~BackupFileTest() override { std::filesystem::remove(path_); }

  BackupHeader Header(Generation since) const {
    BackupHeader header;
    header.page_bytes = kPageBytes;
    header.partition = kPartition;
    header.generation = root_.generation;
    header.since = since;
    return header;
  }

  const std::string path_ =
      (std::filesystem::temp_directory_path() / fmt::format("pando-backup-{}", ::getpid())).string();
  std::string image_;
  SnapshotRoot root_;
};

TEST_F(BackupFileTest, TakesWhatIsNamedOnceAndIntact) {
  BackupFile file(path_, Header(0), root_, BaseIndex());
  ASSERT_TRUE(file.Open().ok());
  EXPECT_THAT(file.Add(Extent::Of(8, 1), root_.root.checksum, image_).message(), HasSubstr("no other page refers to"));
  EXPECT_THAT(file.Add(Extent::Of(9, 1), root_.root.checksum + 1, image_).message(),
              HasSubstr("no other page refers to"));
  ASSERT_TRUE(file.Add(Extent::Of(9, 1), root_.root.checksum, image_).ok());
  EXPECT_EQ(file.Add(Extent::Of(9, 1), root_.root.checksum, image_).code(), Code::kCorruption) << "twice";
  EXPECT_TRUE(file.Finish().ok());
  EXPECT_EQ(file.pages(), 1u);
}

TEST_F(BackupFileTest, RefusesDamagedBytes) {
  BackupFile file(path_, Header(0), root_, BaseIndex());
  ASSERT_TRUE(file.Open().ok());
  image_[100] = static_cast<char>(image_[100] ^ 1);
  EXPECT_THAT(file.Add(Extent::Of(9, 1), root_.root.checksum, image_).message(), HasSubstr("damaged"));
}

TEST_F(BackupFileTest, IsNotFinishedWithoutAPageThatIsNamed) {
  BackupFile file(path_, Header(0), root_, BaseIndex());
  ASSERT_TRUE(file.Open().ok());
  EXPECT_THAT(file.Finish().message(), HasSubstr("did not send 1 pages that other pages refer to"));
}

TEST_F(BackupFileTest, RefusesABaseOfAnotherHistory) {
  BackupFile file(path_, Header(/*since=*/5), root_, BaseIndex());
  EXPECT_THAT(file.Open().message(), HasSubstr("another history"));
}

}  // namespace
}  // namespace pando::admin
