// Tests of a snapshot's pages as read for backups, of the backup file format, and of the errors for
// damaged or mixed-up backup files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "src/backup/backup_format.h"
#include "src/backup/backup_reader.h"
#include "src/backup/restore.h"
#include "src/base/hash.h"
#include "src/engine/snapshot_cut.h"
#include "tests/support/engine_harness.h"
#include "tests/support/hand_bytes.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_random.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;
using testing::Not;

// -- the format (docs/FORMAT.md, "Backup")

TEST(BackupFormat, GoldenBytes) {
  BackupHeader header;
  header.page_bytes = 8192;
  header.seal_bytes = 40;
  header.partition = {0x1122334455667788, 0x99aabbccddeeff00};
  header.generation = 7;
  header.since = 3;
  SealBackupHeader(&header);
  const std::string head = HandBytes()
                               .Text("PANDOBK1")
                               .U16(2)
                               .U16(40)
                               .U32(8192)
                               .Uuid(0x1122334455667788, 0x99aabbccddeeff00)
                               .U64(7)
                               .U64(3)
                               .str();
  const std::string header_want = HandBytes().Text(head).U64(Hash64(head)).str();
  EXPECT_EQ(FirstDifference(header_want, {reinterpret_cast<const char*>(&header), sizeof(header)}), "");

  std::vector<BackupEntry> entries{{Extent::Of(9, 2), 0xabcd, 4096}};
  const std::string index = HandBytes().U64(9 << 16 | 2).U64(0xabcd).U64(4096).str();
  EXPECT_EQ(FirstDifference(index, {reinterpret_cast<const char*>(entries.data()), sizeof(BackupEntry)}), "");
  BackupTrailer trailer;
  trailer.index_offset_bytes = 12288;
  trailer.entries = 1;
  trailer.index_checksum = BackupIndexChecksum(entries);
  trailer.generation = 7;
  SealBackupTrailer(&trailer);
  const std::string tail = HandBytes().Text("PANDOBK1").U64(12288).U64(1).U64(Hash64(index)).U64(7).str();
  const std::string trailer_want = HandBytes().Text(tail).U64(Hash64(tail)).str();
  EXPECT_EQ(FirstDifference(trailer_want, {reinterpret_cast<const char*>(&trailer), sizeof(trailer)}), "");

  ASSERT_TRUE(ParseBackupHeader(header_want, "f").ok());
  ASSERT_TRUE(ParseBackupTrailer(trailer_want, 12288 + 4096 + 4096, "f").ok());
  for (size_t bit = 0; bit < 8 * header_want.size(); ++bit) {
    std::string bad = header_want;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(ParseBackupHeader(bad, "f").code(), Code::kCorruption) << bit;
  }
  for (size_t bit = 0; bit < 8 * trailer_want.size(); ++bit) {
    std::string bad = trailer_want;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(ParseBackupTrailer(bad, 12288 + 4096 + 4096, "f").code(), Code::kCorruption) << bit;
  }
  EXPECT_EQ(ParseBackupTrailer(trailer_want, 12288 + 4096, "f").code(), Code::kCorruption) << "the file was truncated";
  HandBytes old;  // format 1: no room for a seal
  old.Text("PANDOBK1").U32(1).U32(8192).Uuid(0x1122334455667788, 0x99aabbccddeeff00).U64(7).U64(3);
  Result<BackupHeader> earlier = ParseBackupHeader(HandBytes().Text(old.str()).U64(Hash64(old.str())).str(), "f");
  ASSERT_TRUE(earlier.ok()) << earlier.status().ToString();
  EXPECT_EQ(earlier->seal_bytes, 0u);
  EXPECT_EQ(earlier->page_bytes, 8192u);
  header.seal_bytes = 41;
  SealBackupHeader(&header);
  EXPECT_EQ(ParseBackupHeader({reinterpret_cast<const char*>(&header), sizeof(header)}, "f").code(), Code::kVersion);
  header.seal_bytes = 40;
  header.format = 3;
  SealBackupHeader(&header);
  EXPECT_EQ(ParseBackupHeader({reinterpret_cast<const char*>(&header), sizeof(header)}, "f").code(), Code::kVersion);
}

// -- pages of snapshots: written to backups, read, and restored

std::string ValueOf(SimRandom* random) {
  const uint64_t size = random->Chance(0.05) ? random->Below(60'000) : random->Below(400);
  return std::string(size, static_cast<char>('a' + random->Below(26)));
}

Task<void> ChangeSome(Partition* p, SimRandom* random, int changes, uint64_t keys) {
  for (int i = 0; i < changes; ++i) {
    const std::string key = "key" + std::to_string(random->Below(keys));
    if (random->Chance(0.2)) {
      EXPECT_OK(co_await Remove(p, key));
    } else {
      EXPECT_OK(co_await Put(p, key, ValueOf(random)));
    }
  }
}

// Reads all pages in batches of random sizes, down to one page.
Task<Result<std::vector<PageImage>>> ReadAll(Partition* p, SnapshotId id, Generation since, SimRandom* random) {
  std::vector<PageImage> images;
  PageCursor at;
  for (bool over = false; !over;) {
    const size_t most = random->Chance(0.5) ? 1 : 1 + random->Below(200'000);
    CO_ASSIGN_OR_RETURN(PageBatch batch, co_await p->ReadPages(id, since, at, most));
    size_t bytes = 0;
    for (PageImage& image : batch.images) {
      EXPECT_LT(bytes, most) << "the batch has a page after the one that filled it";
      bytes += image.bytes.size();
      images.push_back(std::move(image));
    }
    EXPECT_TRUE(batch.exhausted || !batch.images.empty()) << "an empty batch that is not the last";
    over = batch.exhausted;
    at = batch.next;
  }
  co_return images;
}

Task<Status> WriteBackup(Reactor* reactor, const std::string* path, BackupHeader header,
                         const std::vector<PageImage>* images) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(*reactor, *path, File::Mode::kCreate, /*direct=*/true));
  SealBackupHeader(&header);
  AlignedBuffer block(kBlockBytes);
  std::memcpy(block.data(), &header, sizeof(header));
  CO_RETURN_IF_ERROR(co_await file.Write(block.data(), kBlockBytes, 0));
  uint64_t at = kBlockBytes;
  std::vector<BackupEntry> entries;
  for (const PageImage& image : *images) {
    AlignedBuffer bytes(image.bytes.size());
    std::memcpy(bytes.data(), image.bytes.data(), image.bytes.size());
    CO_RETURN_IF_ERROR(co_await file.Write(bytes.data(), image.bytes.size(), at));
    entries.push_back({image.location, image.checksum, at});
    at += image.bytes.size();
  }
  BackupTrailer trailer;
  trailer.index_offset_bytes = at;
  trailer.entries = entries.size();
  trailer.index_checksum = BackupIndexChecksum(entries);
  trailer.generation = header.generation;
  SealBackupTrailer(&trailer);
  const uint64_t index_bytes = BackupIndexBytes(entries.size());
  AlignedBuffer tail(index_bytes + kBlockBytes);
  if (!entries.empty()) std::memcpy(tail.data(), entries.data(), entries.size() * sizeof(BackupEntry));
  std::memcpy(tail.data() + index_bytes, &trailer, sizeof(trailer));
  CO_RETURN_IF_ERROR(co_await file.Write(tail.data(), tail.size(), at));
  CO_RETURN_IF_ERROR(co_await file.Sync(false));
  co_return co_await file.Close();
}

struct Row {
  std::string key, value;
  Version version = 0;
};

Task<Result<std::vector<Row>>> Rows(Partition* p, SnapshotId snapshot) {
  std::vector<Row> rows;
  ScanSpec spec;
  spec.snapshot = snapshot;
  for (bool over = false; !over;) {
    CO_ASSIGN_OR_RETURN(const ScanPage page, co_await p->Scan(spec));
    over = page.exhausted;
    for (const ScanRow& row : page.rows) rows.push_back({std::string(row.key), std::string(row.value), row.version});
    if (!rows.empty()) spec.start = rows.back().key;
    spec.start_exclusive = true;
  }
  co_return rows;
}

struct Taken {
  SnapshotRoot root;
  std::vector<Row> rows;
  std::vector<std::string> paths;  // newest first
};

// Takes backups of one partition, each based on the previous one, while writes continue after every
// snapshot.
Task<void> TakeBackups(Reactor* reactor, engine_test::Setup setup, uint64_t seed, std::vector<Taken>* taken) {
  SimRandom random(seed);
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  Partition* p = (*engine)->partitions()[0];
  const uint64_t keys = 50 + random.Below(1500);
  std::vector<Partition*> partitions{p};
  for (int round = 0; round < 4; ++round) {
    co_await ChangeSome(p, &random, round == 0 ? 800 : static_cast<int>(random.Below(40)), keys);
    Result<SnapshotInfo> cut = co_await CutSnapshot(*reactor, partitions, reactor->WallMs() + 3'600'000);
    EXPECT_OK(cut.status());
    TaskGroup writing;
    writing.Spawn(ChangeSome(p, &random, 100, keys));
    Taken now;
    Result<SnapshotRoot> root = co_await p->DescribeSnapshot(cut->id);
    EXPECT_OK(root.status());
    now.root = *root;
    BackupHeader header;
    header.page_bytes = setup.store.page_bytes;
    header.seal_bytes = static_cast<uint16_t>(setup.store.seal_bytes);
    header.partition = p->uuid();
    header.generation = root->generation;
    if (round > 0) header.since = taken->back().root.generation;
    Result<std::vector<PageImage>> images = co_await ReadAll(p, cut->id, header.since, &random);
    EXPECT_OK(images.status());
    std::set<uint64_t> places;
    for (const PageImage& image : *images) {
      EXPECT_TRUE(places.insert(image.location.packed).second) << "a page was returned twice";
    }
    now.paths.push_back(fmt::format("/backup-{}", round));
    EXPECT_OK(co_await WriteBackup(reactor, &now.paths[0], header, &*images));
    if (round > 0) now.paths.insert(now.paths.end(), taken->back().paths.begin(), taken->back().paths.end());
    Result<std::vector<Row>> rows = co_await Rows(p, cut->id);
    EXPECT_OK(rows.status());
    now.rows = *std::move(rows);
    co_await writing.Drain();
    EXPECT_OK(co_await ReleaseSnapshot(partitions, cut->id));
    PageCursor start;
    EXPECT_EQ((co_await p->ReadPages(cut->id, 0, start, 1)).code(), Code::kSnapshotGone);
    EXPECT_EQ((co_await p->DescribeSnapshot(cut->id)).code(), Code::kSnapshotGone);
    taken->push_back(std::move(now));
  }
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/true));
}

// Finds the smallest file that the backup's pages fit into: one with no spare block at its end.
Task<SnapshotRoot> Tightest(Reactor* reactor, BackupReader* backup, SnapshotRoot root) {
  uint64_t too_small = 0;
  for (uint64_t enough = root.file_blocks; too_small + 1 < enough;) {
    root.file_blocks = (too_small + enough) / 2;
    bool fits = true;
    Result<TreeCheckCounts> walked = co_await CheckBackup(
        *reactor, backup, root, "backup", [&](const CheckProblem&) { fits = false; }, nullptr);
    EXPECT_OK(walked.status());
    (fits ? enough : too_small) = root.file_blocks;
    root.file_blocks = enough;
  }
  co_return root;
}

Task<void> CheckAndRestore(Reactor* reactor, engine_test::Setup setup, Uuid uuid, const Taken* taken, int round) {
  auto reader = co_await BackupReader::Open(*reactor, taken->paths);
  EXPECT_OK(reader.status());
  if (!reader.ok()) co_return;
  std::vector<std::string> problems;
  Result<TreeCheckCounts> counts = co_await CheckBackup(
      *reactor, reader->get(), taken->root, "backup", [&](const CheckProblem& p) { problems.push_back(p.what); },
      nullptr);
  EXPECT_OK(counts.status());
  EXPECT_TRUE(problems.empty()) << problems[0];
  EXPECT_EQ(counts->records, taken->rows.size());

  setup.store.data_dir = fmt::format("/restored-{}", round);
  std::vector<Uuid> uuids{uuid};
  SnapshotRoot root = taken->root;
  if (round % 2 == 1) root = co_await Tightest(reactor, reader->get(), root);
  MakePartitionFile make = [&](uint32_t, PartitionFileOptions made) {
    return RestorePartitionFile(*reactor, reader->get(), root, std::move(made), nullptr);
  };
  Result<StoreInfo> store = co_await CreateStoreOf(*reactor, setup.store, uuids, make);
  EXPECT_OK(store.status());
  EXPECT_EQ((co_await CreateStoreOf(*reactor, setup.store, uuids, make)).code(), Code::kAlreadyExists);
  EXPECT_OK(co_await (*reader)->Close());
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "");
  Result<CheckReport> report = co_await CheckStore(*reactor, setup.store.data_dir);
  EXPECT_OK(report.status());
  EXPECT_TRUE(report->notes.empty()) << report->notes[0].what;
}

// A restored store opens, contains what the snapshot contained, and works.
Task<void> OpenRestored(Reactor* reactor, engine_test::Setup setup, const Taken* taken, int round) {
  setup.store.data_dir = fmt::format("/restored-{}", round);
  auto engine = co_await OpenEngine(*reactor, setup);
  EXPECT_OK(engine.status());
  Partition* p = (*engine)->partitions()[0];
  Result<std::vector<Row>> rows = co_await Rows(p, 0);
  EXPECT_EQ(rows->size(), taken->rows.size());
  for (size_t i = 0; i < std::min(rows->size(), taken->rows.size()); ++i) {
    const Row &got = (*rows)[i], &want = taken->rows[i];
    EXPECT_TRUE(got.key == want.key && got.value == want.value && got.version == want.version) << want.key;
  }
  SimRandom random(static_cast<uint64_t>(round));
  co_await ChangeSome(p, &random, 300, 1000);
  EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/random.Chance(0.5)));
  EXPECT_EQ(co_await Audit(*reactor, setup.store.data_dir), "") << "after further use";
}

// A disk that is too small is no damage of the backup, wherever it becomes full. The same holds for
// a signal.
Task<void> RestoreToAFullDisk(SimMachine* machine, Reactor* reactor, engine_test::Setup setup, Uuid uuid,
                              const Taken* taken) {
  auto reader = co_await BackupReader::Open(*reactor, taken->paths);
  EXPECT_OK(reader.status());
  BackupProgress progress;
  MakePartitionFile make = [&](uint32_t, PartitionFileOptions made) {
    return RestorePartitionFile(*reactor, reader->get(), taken->root, std::move(made), progress);
  };
  std::vector<Uuid> uuids{uuid};
  auto restore_to = [&](std::string name) {
    setup.store.data_dir = std::move(name);
    return CreateStoreOf(*reactor, setup.store, uuids, make);
  };
  const uint64_t before = machine->disk().used_bytes();
  EXPECT_OK((co_await restore_to("/roomy")).status());
  const uint64_t needed = machine->disk().used_bytes() - before;
  for (uint64_t eighths = 1; eighths < 8; ++eighths) {
    machine->disk().SetCapacity(machine->disk().used_bytes() + needed * eighths / 8);
    Result<StoreInfo> store = co_await restore_to(fmt::format("/full-{}", eighths));
    EXPECT_EQ(store.code(), Code::kDiskFull) << store.status().ToString();
    EXPECT_THAT(store.status().message(), Not(HasSubstr("lost")));
  }
  machine->disk().SetCapacity(1ull << 40);
  progress = [](uint64_t) { return Status(Code::kAborted, "interrupted"); };
  Result<StoreInfo> store = co_await restore_to("/interrupted");
  EXPECT_EQ(store.code(), Code::kAborted) << store.status().ToString();
  Result<TreeCheckCounts> walked = co_await CheckBackup(
      *reactor, reader->get(), taken->root, "backup", [](const CheckProblem&) {}, progress);
  EXPECT_EQ(walked.code(), Code::kAborted);
  EXPECT_OK(co_await (*reader)->Close());
}

// BK1: each reference of a tree finds its own page in a chain of backups.
TEST(Backup, RestoresWhatTheSnapshotHeld) {
  for (uint64_t seed : Seeds(6)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    engine_test::Setup setup;
    setup.store.partitions = 1;
    setup.store.page_bytes = 4096u << random.Below(3);
    setup.store.seal_bytes = static_cast<uint32_t>(random.Below(2)) * kSealBytes;
    setup.engine.memory_bytes = 8u << 20;
    setup.engine.compression = static_cast<Compression>(random.Below(3));
    SimKernel kernel(seed);
    SimMachine* machine = kernel.AddMachine();
    SimReactor* reactor = nullptr;
    auto boot = [&] {
      if (machine->running()) machine->ProcessCrash(seed);
      reactor = machine->Boot();
    };
    std::vector<Taken> taken;
    boot();
    ASSERT_TRUE(kernel.RunTask(*reactor, TakeBackups(reactor, setup, seed, &taken)));
    boot();
    auto store = kernel.RunTask(*reactor, LoadStore(*reactor, setup.store.data_dir));
    ASSERT_TRUE(store && store->ok());
    const Uuid uuid = (*store)->partitions[0].uuid;
    for (int i = 0; i < static_cast<int>(taken.size()) && !HasFailure(); ++i) {
      const Taken* t = &taken[static_cast<size_t>(i)];
      boot();
      ASSERT_TRUE(kernel.RunTask(*reactor, CheckAndRestore(reactor, setup, uuid, t, i)));
      boot();
      ASSERT_TRUE(kernel.RunTask(*reactor, OpenRestored(reactor, setup, t, i)));
    }
    if (HasFailure()) return;
    boot();
    ASSERT_TRUE(kernel.RunTask(*reactor, RestoreToAFullDisk(machine, reactor, setup, uuid, &taken[0])));
    if (HasFailure()) return;
    // These files are not based on each other.
    boot();
    auto open = [&](std::vector<std::string> paths) {
      auto opened = kernel.RunTask(*reactor, BackupReader::Open(*reactor, std::move(paths)));
      return opened->status();
    };
    const std::vector<std::string>& all = taken[3].paths;
    EXPECT_THAT(open({all[0]}).message(), HasSubstr("the one it is based on is missing"));
    EXPECT_THAT(open({all[0], all[2], all[3]}).message(), HasSubstr("does not hold"));
    EXPECT_EQ(open({all[0], "/nothing"}).code(), Code::kNotFound);
  }
}

}  // namespace
}  // namespace pando::engine_test
