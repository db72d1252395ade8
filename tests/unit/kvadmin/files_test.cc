// The files that kvadmin writes: a file or directory with its final name is complete, and kvadmin
// never replaces a file that it did not create.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>

#include "src/base/hash.h"
#include "src/partition/store_reading.h"
#include "tests/support/seeds.h"
#include "tools/kvadmin/durable.h"
#include "tools/kvadmin/export_file.h"
#include "tools/kvadmin/file_writer.h"
#include "tools/kvadmin/input_file.h"
#include "tools/kvadmin/partial_directory.h"

namespace pando::admin {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FilesTest : public testing::Test {
 protected:
  FilesTest() { fs::create_directories(root_); }
  ~FilesTest() override { fs::remove_all(root_); }

  std::string In(const std::string& name) const { return (root_ / name).string(); }
  void Put(const std::string& name, const std::string& content) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(In(name)) << content;
  }
  std::string Get(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(In(name)).rdbuf();
    return out.str();
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(root_)) {
      names.push_back(fs::relative(entry.path(), root_).string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  const fs::path root_ = fs::temp_directory_path() / fmt::format("pando-files-{}", ::getpid());
};

bool IsPart(const std::string& name) { return name.starts_with("part"); }

// -- PartialDirectory

TEST_F(FilesTest, ADirectoryGetsItsNameWhenItIsWhole) {
  fs::create_directory(In("empty"));
  fs::create_directories(In("deep/er"));
  fs::create_directory(In("begun.partial"));  // left by a process killed before it created the marker
  for (const char* name : {"new", "empty", "begun", "deep/er/new", "slash/"}) {
    PartialDirectory directory(IsPart);
    ASSERT_TRUE(directory.Prepare(In(name)).ok());
    ASSERT_TRUE(directory.Create().ok());
    EXPECT_TRUE(fs::exists(directory.path() + "/" + kUnfinishedName));
    std::ofstream(directory.path() + "/part-1") << "x";
    Status committed = directory.Commit();
    ASSERT_TRUE(committed.ok()) << committed.ToString();
    EXPECT_FALSE(fs::exists(directory.path()));
    EXPECT_TRUE(fs::exists(In(name) + "/part-1"));
    EXPECT_FALSE(fs::exists(In(name) + "/" + kUnfinishedName));
  }
}

TEST_F(FilesTest, WithoutACommitNothingIsLeft) {
  {
    PartialDirectory directory(IsPart);
    ASSERT_TRUE(directory.Prepare(In("d")).ok());
    ASSERT_TRUE(directory.Create().ok());
    fs::create_directory(directory.path() + "/part-1");
    std::ofstream(directory.path() + "/part-1/data") << "x";
  }
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

TEST_F(FilesTest, WhatAKilledOneLeftIsCleared) {
  Put(std::string("d.partial/") + kUnfinishedName, "");
  Put("d.partial/part-1/data", "old");
  PartialDirectory directory(IsPart);
  ASSERT_TRUE(directory.Prepare(In("d")).ok());
  ASSERT_TRUE(directory.Create().ok());
  EXPECT_FALSE(fs::exists(In("d.partial/part-1")));
  ASSERT_TRUE(directory.Commit().ok());
  EXPECT_EQ(Names(), std::vector<std::string>{"d"});
}

TEST_F(FilesTest, SomebodyElsesFilesStay) {
  // A .partial directory that kvadmin did not create; one that it did, with a foreign file in it; a
  // file; a directory with contents; and a .partial that is a file.
  Put("a.partial/precious", "1");
  Put(std::string("b.partial/") + kUnfinishedName, "");
  Put("b.partial/part-1", "ours");
  Put("b.partial/precious", "2");
  Put("c", "3");
  Put("d/precious", "4");
  Put("e.partial", "5");
  const std::vector<std::string> before = Names();
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    PartialDirectory directory(IsPart);
    Status status = directory.Prepare(In(name));
    if (status.ok()) status = directory.Create();
    EXPECT_EQ(status.code(), Code::kAlreadyExists) << name << ": " << status.ToString();
    EXPECT_THAT(status.message(), HasSubstr(In(name)));
  }
  EXPECT_EQ(Names(), before);
  EXPECT_EQ(Get("c"), "3");
}

TEST_F(FilesTest, OneBuildsADirectoryAtATime) {
  PartialDirectory first(IsPart), second(IsPart);
  ASSERT_TRUE(first.Prepare(In("d")).ok());
  ASSERT_TRUE(second.Prepare(In("d")).ok());
  ASSERT_TRUE(first.Create().ok());
  Put("d.partial/part-1", "first");
  Status refused = second.Create();
  EXPECT_EQ(refused.code(), Code::kLocked);
  EXPECT_THAT(refused.message(), HasSubstr("another kvadmin"));
  EXPECT_EQ(Get("d.partial/part-1"), "first");
  ASSERT_TRUE(first.Commit().ok());
  // The second one has still prepared for a name that did not exist.
  EXPECT_EQ(second.Create().code(), Code::kAlreadyExists);
  EXPECT_EQ(Get("d/part-1"), "first");
}

TEST_F(FilesTest, ADirectoryThatWasReplacedIsNeitherRenamedNorRemoved) {
  for (const bool commit : {true, false}) {
    {
      PartialDirectory directory(IsPart);
      ASSERT_TRUE(directory.Prepare(In("d")).ok());
      ASSERT_TRUE(directory.Create().ok());
      fs::remove_all(In("d.partial"));
      Put(std::string("d.partial/") + kUnfinishedName, "");
      Put("d.partial/part-1", "another's");
      if (commit) {
        EXPECT_EQ(directory.Commit().code(), Code::kAborted);
      }
    }
    EXPECT_EQ(Get("d.partial/part-1"), "another's");
    EXPECT_FALSE(fs::exists(In("d")));
  }
}

TEST_F(FilesTest, NamesAreRelativeToTheWorkingDirectory) {
  const fs::path before = fs::current_path();
  fs::current_path(root_);
  fs::create_directory("a");
  for (const char* name : {"new", "a/b", "./c"}) {
    PartialDirectory directory(IsPart);
    ASSERT_TRUE(directory.Prepare(name).ok());
    Status created = directory.Create();
    EXPECT_TRUE(created.ok()) << created.ToString();
    EXPECT_TRUE(directory.Commit().ok());
    EXPECT_TRUE(fs::is_directory(In(name)));
  }
  PartialDirectory directory(IsPart);
  EXPECT_EQ(directory.Prepare("").code(), Code::kInvalidArgument);
  EXPECT_EQ(directory.Prepare("none/b").code(), Code::kNotFound) << "its file system may not be mounted";
  EXPECT_FALSE(fs::exists("none"));
  fs::create_symlink("nothing", "link");
  EXPECT_EQ(directory.Prepare("link").code(), Code::kAlreadyExists);
  fs::current_path(before);
}

// -- OpenAndLock

TEST_F(FilesTest, TheLockedFileIsTheOneWithTheName) {
  int holder = *OpenAndLock(In("f"));
  EXPECT_EQ(OpenAndLock(In("f")).code(), Code::kLocked);
  int calls = 0;
  Result<int> other = OpenAndLock(In("f"), [&] {
    if (++calls > 1) return;
    fs::rename(In("f"), In("final"));  // the holder ends between the opening and the locking
    ::close(holder);
  });
  ASSERT_TRUE(other.ok()) << other.status().ToString();
  EXPECT_EQ(calls, 2);
  ASSERT_EQ(::write(*other, "x", 1), 1);
  EXPECT_EQ(Get("f"), "x");
  EXPECT_EQ(Get("final"), "");
  ::close(*other);
}

// -- ExportFile

TEST_F(FilesTest, AnExportThatCannotBeResumedLeavesNothing) {
  ExportFile::Position position;
  {
    ExportFile file;
    ASSERT_TRUE(file.Open(In("x"), "all", /*resume=*/false, &position).ok());
    ASSERT_TRUE(file.Write("row\n").ok());
    EXPECT_TRUE(fs::exists(In("x.partial.state"))) << "a kill would leave a file that looks like somebody else's";
  }
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

TEST_F(FilesTest, AnExportLeavesSomebodyElsesPartialFileAlone) {
  Put("x.partial", "precious");
  for (const bool resume : {false, true}) {
    ExportFile::Position position;
    ExportFile file;
    Status status = file.Open(In("x"), "all", resume, &position);
    EXPECT_EQ(status.code(), Code::kAlreadyExists);
    EXPECT_THAT(status.message(), HasSubstr(In("x.partial")));
  }
  EXPECT_EQ(Get("x.partial"), "precious");
  EXPECT_EQ(Names(), std::vector<std::string>{"x.partial"});
}

TEST_F(FilesTest, AnExportToALinkWritesItsTarget) {
  Put("real/file", "old");
  fs::create_symlink(In("real/file"), In("link"));
  ExportFile::Position position;
  ExportFile file;
  ASSERT_TRUE(file.Open(In("link"), "all", false, &position).ok());
  ASSERT_TRUE(file.Write("new").ok());
  ASSERT_TRUE(file.Finish("{}").ok());
  EXPECT_TRUE(fs::is_symlink(In("link")));
  EXPECT_EQ(Get("real/file"), "new");
  fs::create_symlink(In("nothing"), In("dangling"));
  EXPECT_EQ(ExportFile().Open(In("dangling"), "all", false, &position).code(), Code::kInvalidArgument);
}

TEST_F(FilesTest, AnExportThatIsNotResumedForgetsTheStateOfTheOneBefore) {
  ExportFile::Position position;
  {
    ExportFile first;
    ASSERT_TRUE(first.Open(In("x"), "all", /*resume=*/false, &position).ok());
    ASSERT_TRUE(first.Write("old rows\n").ok());
    ASSERT_TRUE(first.Save({"next", "snapshot", 0, 1, ""}).ok());
    EXPECT_TRUE(first.resumable());
  }
  {
    ExportFile second;  // starts over, and is interrupted before it saves
    ASSERT_TRUE(second.Open(In("x"), "all", /*resume=*/false, &position).ok());
    EXPECT_EQ(position.bytes, 0u);
    EXPECT_EQ(second.discarded_snapshot(), "snapshot") << "nobody else knows it";
    ASSERT_TRUE(second.Write("newer rows, of another moment\n").ok());
    EXPECT_FALSE(second.resumable());
  }
  ExportFile third;
  ASSERT_TRUE(third.Open(In("x"), "all", /*resume=*/true, &position).ok());
  EXPECT_EQ(position.bytes, 0u) << "the file would mix two moments";
  EXPECT_EQ(position.next_key, "");
}

// Copies what a kill would leave behind, and puts it in the place of the file.
void Kill(const std::string& file, std::unique_ptr<ExportFile> killed) {
  for (const char* name : {".partial", ".partial.state"}) fs::copy_file(file + name, file + name + ".copy");
  killed.reset();
  for (const char* name : {".partial", ".partial.state"}) fs::rename(file + name + ".copy", file + name);
}

TEST_F(FilesTest, AnExportThatWasKilledEarlySaysWhichSnapshotItHadOpened) {
  ExportFile::Position position;
  for (const bool resume : {false, true}) {
    auto killed = std::make_unique<ExportFile>();
    ASSERT_TRUE(killed->Open(In("x"), "all", /*resume=*/false, &position).ok());
    EXPECT_FALSE(killed->has_discarded());
    ASSERT_TRUE(killed->Write("header\n").ok());
    ASSERT_TRUE(killed->NoteSnapshot("snapshot").ok());
    EXPECT_FALSE(killed->resumable());
    Kill(In("x"), std::move(killed));
    ExportFile next;
    ASSERT_TRUE(next.Open(In("x"), "all", resume, &position).ok());
    EXPECT_TRUE(next.has_discarded());
    EXPECT_EQ(next.discarded_snapshot(), "snapshot");
    EXPECT_EQ(position.bytes, 0u);
    EXPECT_EQ(position.snapshot, "") << "a new one is opened";
  }
  EXPECT_EQ(Names(), std::vector<std::string>{});
}

TEST_F(FilesTest, WhatAnExportHasWrittenMustBeThere) {
  ExportFile::Position position;
  auto killed = std::make_unique<ExportFile>();
  ASSERT_TRUE(killed->Open(In("x"), "all", /*resume=*/false, &position).ok());
  ASSERT_TRUE(killed->Write("1\n2\n").ok());
  ASSERT_TRUE(killed->Save({"next", "", 0, 2}).ok());
  Kill(In("x"), std::move(killed));
  Put("x.partial", "1\n");
  Status status = ExportFile().Open(In("x"), "all", /*resume=*/true, &position);
  EXPECT_EQ(status.code(), Code::kCorruption);
  EXPECT_THAT(status.message(), HasSubstr("x.partial: the file has 2 bytes, and had 4 bytes, as "));
  fs::remove(In("x.partial"));
  status = ExportFile().Open(In("x"), "all", /*resume=*/true, &position);
  EXPECT_EQ(status.code(), Code::kCorruption);
  EXPECT_THAT(status.message(), HasSubstr("x.partial: the file is gone, and had 4 bytes"));
  EXPECT_EQ(Names(), std::vector<std::string>{"x.partial.state"});
  EXPECT_TRUE(ExportFile().Open(In("x"), "all", /*resume=*/false, &position).ok());
}

TEST_F(FilesTest, ACompleteExportIsFound) {
  const auto found = [&](const char* identity) { return FindCompleteExport(In("x"), identity); };
  EXPECT_TRUE(found("csv prefix=61")->is_null());
  Put("x", "1\n");
  EXPECT_TRUE(found("csv prefix=61")->is_null()) << "it has no manifest";
  const std::string sums = fmt::format(R"("file_bytes": 2, "file_hash": "{:016x}")", Hash64("1\n"));
  Put("x.manifest", fmt::format(R"({{"pando_export": 1, "export": "csv prefix=61", {}}})", sums));
  EXPECT_EQ(found("csv prefix=61")->value("file_bytes", 0), 2);
  const Status other = found("jsonl prefix=6200").TakeStatus();
  EXPECT_EQ(other.code(), Code::kInvalidArgument);
  EXPECT_THAT(other.message(), HasSubstr("another export: csv and prefix=a there, and jsonl and prefix=b\\x00 here."));
  Put("x.partial.state", "{}");
  EXPECT_TRUE(found("csv prefix=61")->is_null()) << "a later one was interrupted";
  fs::remove(In("x.partial.state"));
  Put("x", "2\n");
  EXPECT_EQ(found("csv prefix=61").code(), Code::kCorruption);
  Put("x.manifest", fmt::format(R"({{"pando_export": 1, {}}})", sums));
  EXPECT_THAT(found("csv prefix=61").status().message(), HasSubstr("of an earlier version"));
}

// The server must not free the snapshot while what was written is read again.
TEST_F(FilesTest, AnExportThatIsResumedKeepsItsSnapshotMeanwhile) {
  ExportFile::Position position;
  {
    ExportFile first;
    ASSERT_TRUE(first.Open(In("x"), "all", /*resume=*/false, &position).ok());
    ASSERT_TRUE(first.Write(std::string(3 << 20, 'r')).ok());
    ASSERT_TRUE(first.Save({"next", "the snapshot", 0, 1, "sums", ""}).ok());
  }
  int kept = 0;
  const auto keep = [&](const std::string& snapshot) {
    EXPECT_EQ(snapshot, "the snapshot");
    return ++kept == 2 ? Error(Code::kSnapshotGone, "it is gone") : Status();
  };
  EXPECT_EQ(ExportFile().Open(In("x"), "all", /*resume=*/true, &position, keep).code(), Code::kSnapshotGone);
  EXPECT_EQ(kept, 2) << "before the file is read, and while it is";
  EXPECT_TRUE(ExportFile().Open(In("x"), "all", /*resume=*/true, &position, keep).ok());
  EXPECT_GE(kept, 5);
}

TEST_F(FilesTest, ADirectoryIsLockedByOne) {
  const int holder = *LockDirectory(root_.string());
  EXPECT_EQ(LockDirectory(root_.string()).code(), Code::kLocked);
  ::close(holder);
  const Result<int> next = LockDirectory(root_.string());
  ASSERT_TRUE(next.ok());
  ::close(*next);
}

TEST_F(FilesTest, AnExportGoesOnWhereItsStateSays) {
  ExportFile::Position position;
  {
    ExportFile first;
    ASSERT_TRUE(first.Open(In("x"), "all", /*resume=*/false, &position).ok());
    ASSERT_TRUE(first.Write("1\n").ok());
    ASSERT_TRUE(first.Save({"next", "snapshot", 0, 1, "sums", "PAR1\xff"}).ok());
    ASSERT_TRUE(first.Write("2\n").ok());
    ASSERT_TRUE(first.WriteOut().ok());
    // Only one writer at a time is allowed.
    ExportFile other;
    EXPECT_EQ(other.Open(In("x"), "all", /*resume=*/true, &position).code(), Code::kLocked);
  }
  {
    ExportFile wrong;
    EXPECT_EQ(wrong.Open(In("x"), "some", /*resume=*/true, &position).code(), Code::kInvalidArgument);
  }
  ASSERT_EQ(Get("x.partial"), "1\n2\n");
  Put("x.partial", "7\n2\n");  // of the same length
  {
    ExportFile changed;
    const Status status = changed.Open(In("x"), "all", /*resume=*/true, &position);
    EXPECT_EQ(status.code(), Code::kCorruption);
    EXPECT_THAT(status.message(), HasSubstr("x.partial: the first 2 bytes are not those that the export has written"));
    EXPECT_THAT(status.message(), HasSubstr("start over, without --resume"));
  }
  Put("x.partial", "1\n7\n");  // what came after the saved position is written again
  ExportFile second;
  ASSERT_TRUE(second.Open(In("x"), "all", /*resume=*/true, &position).ok());
  EXPECT_EQ(position.next_key, "next");
  EXPECT_EQ(position.snapshot, "snapshot");
  EXPECT_EQ(position.rows, 1u);
  EXPECT_EQ(position.sums, "sums");
  EXPECT_EQ(position.footer, "PAR1\xff");
  ASSERT_TRUE(second.Write("2, again\n").ok());
  EXPECT_EQ(second.hash(), fmt::format("{:016x}", Hash64("1\n2, again\n")));
  ASSERT_TRUE(second.Finish("{}").ok());
  EXPECT_EQ(Get("x"), "1\n2, again\n");
  EXPECT_EQ(Names(), (std::vector<std::string>{"x", "x.manifest"}));
}

// A job that is repeated with --resume must come to an end.
TEST_F(FilesTest, AnExportThatWasKilledBeforeItsManifestBeginsAnew) {
  ExportFile::Position position;
  {
    ExportFile killed;
    ASSERT_TRUE(killed.Open(In("x"), "all", /*resume=*/false, &position).ok());
    ASSERT_TRUE(killed.Write("1\n").ok());
    ASSERT_TRUE(killed.Save({"next", "snapshot", 0, 1, "", ""}).ok());
  }
  fs::rename(In("x.partial"), In("x"));
  {
    ExportFile again;
    ASSERT_TRUE(again.Open(In("x"), "all", /*resume=*/true, &position).ok());
    EXPECT_EQ(position.rows, 0u);
    EXPECT_EQ(position.next_key, "");
    ASSERT_TRUE(again.Write("2\n").ok());
    ASSERT_TRUE(again.Finish("{}").ok());
  }
  EXPECT_EQ(Get("x"), "2\n");
  EXPECT_EQ(Names(), (std::vector<std::string>{"x", "x.manifest"}));
}

TEST_F(FilesTest, AnExportSaysWhatDiffersFromTheOneToContinue) {
  ExportFile::Position position;
  {
    ExportFile first;
    ASSERT_TRUE(first.Open(In("x"), "node=router of cluster 1 csv start= prefix= latest", false, &position).ok());
    ASSERT_TRUE(first.Write("1\n").ok());
    ASSERT_TRUE(first.Save({"next", "", 0, 1, ""}).ok());
  }
  ExportFile second;
  const Status status = second.Open(In("x"), "node=router of cluster 2 csv start= prefix=42ff latest", true, &position);
  EXPECT_THAT(status.message(), HasSubstr("another export: node=router of cluster 1 and prefix= there, and node=router "
                                          "of cluster 2 and prefix=B\\xff here. Continue it"));
}

TEST_F(FilesTest, AnExportedFileIsComparedWithItsManifest) {
  Put("x", "1\n2\n");
  EXPECT_TRUE(CheckAgainstManifest(In("x")).ok());
  EXPECT_TRUE(CheckAgainstManifest("-").ok());
  const auto manifest = [](std::string_view bytes) {
    return fmt::format(R"({{"pando_export": 1, "file_bytes": {}, "file_hash": "{:016x}"}})", bytes.size(),
                       Hash64(bytes));
  };
  Put("x.manifest", manifest("1\n2\n"));
  EXPECT_TRUE(CheckAgainstManifest(In("x")).ok());
  for (const char* other : {"1\n3\n", "1\n2\n3\n", ""}) {
    Put("x", other);
    const Status status = CheckAgainstManifest(In("x"));
    EXPECT_EQ(status.code(), Code::kCorruption) << other;
    EXPECT_THAT(status.message(), HasSubstr("x: this is not the file that was exported: ")) << other;
    EXPECT_THAT(status.message(), HasSubstr("x.manifest, and load it then")) << other;
  }
  for (const char* older : {"{", "[]", R"({"pando_export": 1, "file_bytes": 4})", R"({"file_bytes": "x"})"}) {
    Put("x.manifest", older);
    EXPECT_TRUE(CheckAgainstManifest(In("x")).ok()) << older;
  }
}

TEST_F(FilesTest, AnExportRefusesAStateThatIsNone) {
  const std::string good = R"("export": "all", "next_key_b64": "", "snapshot_b64": "", "bytes": 0, "rows": 0)";
  for (const std::string damage : {R"("next_key_b64": 5)", R"("export": {})", R"("snapshot_b64": null)",
                                   R"("bytes": "many")", R"("bytes": -1)", R"("rows": [])", R"("rows": 1.5)"}) {
    Put("x.partial.state", "{" + good + ", " + damage + "}");  // the last of two members counts
    ExportFile file;
    ExportFile::Position position;
    Status status = file.Open(In("x"), "all", /*resume=*/true, &position);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << damage;
    EXPECT_THAT(status.message(), HasSubstr("is not the state of an export")) << damage;
  }
  for (const char* other : {"", "[]", "5", "{}", "{\"next_key_b64\": \"\"}"}) {
    Put("x.partial.state", other);
    ExportFile file;
    ExportFile::Position position;
    EXPECT_EQ(file.Open(In("x"), "all", /*resume=*/true, &position).code(), Code::kInvalidArgument) << other;
  }
  Put("x.partial.state", "{" + good + "}");
  ExportFile file;
  ExportFile::Position position;
  EXPECT_TRUE(file.Open(In("x"), "all", /*resume=*/true, &position).ok());
}

TEST_F(FilesTest, AnExportReplacesAFileButNoDirectoryOrDevice) {
  ExportFile::Position position;
  Put("file", "old");
  Put("file.manifest", "of the old file");
  {
    ExportFile file;
    ASSERT_TRUE(file.Open(In("file"), "all", false, &position).ok());
    ASSERT_TRUE(file.Write("new").ok());
    EXPECT_EQ(Get("file"), "old");
    EXPECT_EQ(Get("file.manifest"), "of the old file");
    ASSERT_TRUE(file.Finish("of the new file").ok());
    EXPECT_EQ(Get("file"), "new");
    EXPECT_EQ(Get("file.manifest"), "of the new file");
  }
  EXPECT_EQ(Names(), (std::vector<std::string>{"file", "file.manifest"}));
  ExportFile file;
  EXPECT_EQ(file.Open("/dev/null", "all", false, &position).code(), Code::kInvalidArgument);
  EXPECT_EQ(file.Open(root_.string(), "all", false, &position).code(), Code::kInvalidArgument);
  EXPECT_FALSE(fs::exists("/dev/null.partial"));
}

// -- FileWriter

// Whatever the sizes of what is written, and wherever the file is made durable or goes on.
TEST_F(FilesTest, AFileIsWrittenAsItWasAppended) {
  const uint64_t seed = Seeds(1).front();
  SCOPED_TRACE(Replay(seed));
  std::mt19937_64 random(seed);
  std::string all;
  const int fd = ::open(In("blocks").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  for (int round = 0; round < 6; ++round) {
    FileWriter writer;
    ASSERT_TRUE(writer.Open(fd, "blocks", all.size()).ok());
    for (int i = 0; i < 8; ++i) {
      const size_t most = std::array<size_t, 4>{10, 5000, 300'000, FileWriter::kBlockBytes + 9000}[random() % 4];
      std::string bytes(random() % most, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      if (i % 3 == 0) bytes.resize(bytes.size() / 4096 * 4096);
      ASSERT_TRUE(writer.Append(bytes).ok());
      all += bytes;
      if (random() % 3 != 0) continue;
      ASSERT_TRUE(writer.Flush().ok());
      ASSERT_EQ(Get("blocks"), all) << round;
    }
    ASSERT_TRUE(writer.Flush().ok());
  }
  ::close(fd);
  EXPECT_EQ(Get("blocks"), all);
}

TEST_F(FilesTest, AFileThatCannotBeWrittenIsAnError) {
  Put("blocks", "");
  const int fd = ::open(In("blocks").c_str(), O_RDONLY);
  ASSERT_GE(fd, 0);
  FileWriter writer;
  ASSERT_TRUE(writer.Open(fd, "blocks", 0).ok());
  EXPECT_TRUE(writer.Append("a").ok());
  EXPECT_THAT(writer.Flush().message(), HasSubstr("write blocks"));
  EXPECT_FALSE(writer.Append(std::string(FileWriter::kBlockBytes, 'x')).ok());
  ::close(fd);
}

// -- InputFile

TEST_F(FilesTest, InputIsReadWholeOrFails) {
  Put("in", std::string(3 << 20, 'x') + "end");
  Result<std::string> all = ReadInput(In("in"), 4 << 20);
  ASSERT_TRUE(all.ok()) << all.status().ToString();
  EXPECT_EQ(all->size(), (3u << 20) + 3);
  EXPECT_EQ(ReadInput(In("in"), 1 << 20).code(), Code::kInvalidArgument);
  EXPECT_EQ(ReadInput(In("none"), 1).code(), Code::kNotFound);
  EXPECT_EQ(ReadInput(root_.string(), 1).code(), Code::kInvalidArgument) << "a directory is not an empty file";
}

}  // namespace
}  // namespace pando::admin
