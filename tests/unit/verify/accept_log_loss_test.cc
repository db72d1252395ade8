// AL3, AL4, LC1, LC2, L13: a store whose log is damaged as a whole starts again once an operator has
// accepted the loss. Each partition then holds a prefix of its history: what its checkpoint or the log
// before the damage holds, whichever goes further.
#include "src/verify/accept_log_loss.h"

#include "src/engine/log_layout.h"
#include "tests/support/log_loss_harness.h"

namespace pando::engine_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using From = PartitionLogLoss::From;

TEST_F(AcceptLogLossTest, ADamagedBatchHeader) {
  Fill();
  const std::string path = Middle();
  const uint64_t batch = MiddleBatch(path);
  Flip(path, batch + 40);
  const LogLossReport report = AcceptAndGoOn(fmt::format("{}: offset {}", path, batch));
  EXPECT_GT(report.cut.at, 0u);
  EXPECT_TRUE(report.content.copy_part);
  EXPECT_GT(report.batches_behind, 10u);
  for (const PartitionLogLoss& p : report.partitions) {
    EXPECT_EQ(p.known_lsn, p.keeps_lsn + p.readable_records + (p.known_lsn - p.keeps_lsn - p.readable_records));
    EXPECT_GT(p.readable_records, 0u);
  }
}

TEST_F(AcceptLogLossTest, ADamagedBatchBody) {
  Fill();
  const std::string path = Middle();
  Flip(path, MiddleBatch(path) + 300);
  AcceptAndGoOn(path + ": offset");
}

TEST_F(AcceptLogLossTest, ASectorThatCannotBeRead) {
  for (const bool header : {false, true}) {
    AcceptLogLossTest* t = this;
    if (header) machine_->ClearFaults();
    if (!header) Fill();
    disk() = killed_;
    const std::string path = t->Middle();
    const uint64_t batch = header ? 0 : MiddleBatch(path);
    const DiskFiles before = Files("/data/");
    FailReads(path, batch + 700);
    ExpectRefused("Input/output error");
    Result<LogLossReport> report = Report();
    PANDO_ASSERT_OK(report.status());
    EXPECT_THAT(report->damage, AllOf(HasSubstr(path), HasSubstr("Input/output error")));
    ExpectKeeps(*report);
    EXPECT_GT(report->batches_behind, 10u);
    EXPECT_OK(Accept());
    machine_->ClearFaults();
    ExpectKept(*report, before);
    const auto histories = std::vector<History>(histories_, histories_ + kLossPartitions);
    GoOn(*report);
    std::copy(histories.begin(), histories.end(), histories_);
  }
}

TEST_F(AcceptLogLossTest, ATruncatedSegment) {
  Fill();
  const std::string path = Middle();
  const uint64_t batch = MiddleBatch(path);
  // In the middle of a batch, and of a block.
  disk().WriteAll(path, disk().ReadAll(path).substr(0, batch + 100));
  const LogLossReport report = AcceptAndGoOn("it was truncated or extended");
  EXPECT_EQ(PositionSegment(report.cut.at), ParseSegmentFileName(path.substr(path.rfind('/') + 1)));
  EXPECT_GT(PositionOffset(report.cut.at), kFirstGroupOffset);
}

TEST_F(AcceptLogLossTest, ATinySegment) {
  Fill();
  disk().WriteAll(Middle(), "too short");
  AcceptAndGoOn("too few for a log segment");
}

TEST_F(AcceptLogLossTest, ASegmentIsMissing) {
  Fill();
  disk().RemoveTree(Middle());
  const LogLossReport report = AcceptAndGoOn("states that the data here was durable");
  EXPECT_FALSE(report.put_aside.empty());
}

TEST_F(AcceptLogLossTest, ADamagedSegmentHeader) {
  Fill();
  Flip(Middle(), 20);
  const LogLossReport report = AcceptAndGoOn("the segment header is damaged");
  EXPECT_FALSE(report.content.copy_part);
}

TEST_F(AcceptLogLossTest, NothingOfTheLogIsLeft) {
  Fill();
  Flip(Segments().front(), 20);
  const LogLossReport report = AcceptAndGoOn("the segment header is damaged");
  EXPECT_EQ(report.cut.at, 0u);
  for (const PartitionLogLoss& p : report.partitions) EXPECT_EQ(p.from, From::kCheckpoint);
}

TEST_F(AcceptLogLossTest, ALogOfAnotherName) {
  Fill();
  const std::vector<std::string> segments = Segments();
  disk().WriteAll(segments[2], disk().ReadAll(segments[3]));
  AcceptAndGoOn("the header is that of segment");
}

TEST_F(AcceptLogLossTest, TheDirectoryIsMissing) {
  Fill();
  disk().RemoveTree("/data/wal-0");
  const LogLossReport report =
      AcceptAndGoOn("a part of the log is lost: it is missing, or no segment in it has records");
  EXPECT_TRUE(report.put_aside.empty());
}

TEST_F(AcceptLogLossTest, TheEndIsMissing) {
  Fill();
  RunOk([](LogLossTest* t) -> Task<void> {
    for (uint32_t p = 0; p < kLossPartitions; ++p) co_await Checkpoint(t, p);
  });
  const DiskFiles log = Files("/data/wal-0/");
  writes_in_a_run_ = 400;
  EXPECT_OK(Run(Work));
  RunOk([](LogLossTest* t) -> Task<void> {
    for (uint32_t p = 0; p < 2; ++p) co_await Checkpoint(t, p);
    co_await Work(t);
  });
  disk().RemoveTree("/data/wal-0");
  for (const auto& [path, bytes] : log) disk().WriteAll(path, bytes);
  AcceptAndGoOn("a part of the log is lost: it ends in segment-");
}

// What an epoch has superseded behind the damage is not taken for the end of a partition's history; what is
// known of epochs and versions counts, also if the clock is set back.
TEST_F(AcceptLogLossTest, VersionsAndEpochsRise) {
  Fill();
  const std::string path = Segments()[1];
  Flip(path, MiddleBatch(path) + 40);
  const Result<LogLossReport> report = Report();
  PANDO_ASSERT_OK(report.status());
  EXPECT_OK(Accept());
  machine_->JumpWallClock(-3'600'000);
  GoOn(*report);
}

TEST_F(AcceptLogLossTest, ASoundLogIsLeftAlone) {
  Fill();
  const Status refused = Report().status();
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("a node starts on this log"));
  // What a command that was cut short may have left is removed, as nothing was decided.
  for (const char* name : {"part.tmp", "preparing.tmp"}) disk().WriteAll(std::string("/data/wal-0/") + name, "x");
  EXPECT_OK(Run(TakePrefixes));
  EXPECT_FALSE(disk().Exists("/data/wal-0/part.tmp"));
}

TEST_F(AcceptLogLossTest, ItCanHappenAgain) {
  Fill();
  std::string path = Middle();
  Flip(path, MiddleBatch(path) + 40);
  AcceptAndGoOn(path);
  EXPECT_OK(Run(Work));
  RunOk([](LogLossTest* t) -> Task<void> {
    co_await Work(t);
    co_await NoteEnds(t);
  });
  path = Segments().back();
  for (const std::string& segment : Segments()) {
    if (Batches(segment).size() > 5) path = segment;
  }
  Flip(path, MiddleBatch(path) + 40);
  AcceptAndGoOn(path);
}

// L8: the next start needs no disk space.
TEST_F(AcceptLogLossTest, OnAFullDisk) {
  Fill();
  const std::string path = Middle();
  Flip(path, MiddleBatch(path) + 40);
  const Result<LogLossReport> report = Report();
  PANDO_ASSERT_OK(report.status());
  EXPECT_OK(Accept());
  machine_->FillDisk();
  for (int start = 0; start < 2; ++start) {
    EXPECT_OK(Run(TakePrefixes));
    for (const PartitionLogLoss& p : report->partitions) EXPECT_EQ(kept_[p.info.id], p.keeps_lsn);
  }
  machine_->EmptyDisk();
  EXPECT_OK(Run(Continue));
}

// A partition whose file is damaged stays quarantined. It is not served later from less than is known.
TEST_F(AcceptLogLossTest, OnePartitionIsDamagedByItself) {
  Fill();
  const std::string data = "/data/partition-00002/data", sound = disk().ReadAll(data);
  std::string damaged = sound;
  for (size_t copy = 0; copy < 4; ++copy) damaged[copy * kBlockBytes + 1000] ^= 1;
  disk().WriteAll(data, damaged);
  const std::string path = Middle();
  Flip(path, MiddleBatch(path) + 40);
  const Result<LogLossReport> report = Report();
  PANDO_ASSERT_OK(report.status());
  EXPECT_EQ(report->partitions[2].from, From::kQuarantined);
  EXPECT_THAT(report->partitions[2].why, HasSubstr("no valid superblock"));
  EXPECT_GT(report->partitions[2].known_lsn, histories_[2].checkpoint_lsn);
  EXPECT_OK(Accept());
  RunOk([](LogLossTest* t) -> Task<void> {
    EXPECT_THAT(t->quarantined_, HasSubstr("partition 2"));
    EXPECT_OK(co_await Put(t->engine_->partition(1), "more", "value"));
  });
  disk().WriteAll(data, sound);
  RunOk([](LogLossTest* t) -> Task<void> {
    EXPECT_THAT(t->quarantined_, AllOf(HasSubstr("partition 2"), HasSubstr("older copy")));
    co_return;
  });
}

// The older superblock of a partition whose newest one lies behind the cut is not taken for all of it.
TEST_F(AcceptLogLossTest, AnOlderSuperblockIsNotEnough) {
  Fill();
  RunOk([](LogLossTest* t) -> Task<void> {
    co_await Checkpoint(t, 1);
    for (int i = 0; i < 20; ++i) co_await WriteOne(t, 1);
    co_await Checkpoint(t, 1);
  });
  Flip(Segments().front(), 20);
  EXPECT_OK(Accept());
  const std::string data = "/data/partition-00001/data";
  std::string bytes = disk().ReadAll(data);
  const auto generation = [&](size_t slot) {
    Generation found;
    std::memcpy(&found, bytes.data() + slot * 2 * kBlockBytes + 56, sizeof(found));
    return found;
  };
  const size_t newest = generation(1) > generation(0) ? 1 : 0;
  for (size_t copy = 0; copy < 2; ++copy) bytes[(newest * 2 + copy) * kBlockBytes + 1000] ^= 1;
  disk().WriteAll(data, bytes);
  RunOk([](LogLossTest* t) -> Task<void> {
    EXPECT_THAT(t->quarantined_, AllOf(HasSubstr("partition 1"), HasSubstr("older copy")));
    co_return;
  });
}

// The logs that replace it hold nothing of the histories that ended, and what was put aside stays.
TEST_F(AcceptLogLossTest, AndTheNumberOfReactorsChanges) {
  Fill();
  const std::string path = Middle();
  Flip(path, MiddleBatch(path) + 40);
  AcceptAndGoOn(path);
  const DiskFiles aside = Aside();
  EXPECT_FALSE(aside.empty());
  struct Change {
    static Task<Status> Run(Reactor* reactor, EngineOptions options) {
      CO_ASSIGN_OR_RETURN(options.store, co_await LoadStore(*reactor, "/data"));
      StoreInfo now = options.store;
      CO_RETURN_IF_ERROR(co_await ChangeReactors(*reactor, options, 2, &now));
      EXPECT_TRUE(now.dropped.empty());
      options.store = now;
      co_return co_await ChangeReactors(*reactor, options, 1, &now);
    }
  };
  reactor_ = machine_->Boot();
  const Status changed = *kernel_.RunTask(*reactor_, Change::Run(reactor_, setup_.engine));
  EXPECT_OK(changed);
  machine_->PowerLoss(1);
  EXPECT_TRUE(Aside() == aside);
  EXPECT_OK(Run(Continue));
}

// An I/O error is an error of the command, which can be repeated.
TEST_F(AcceptLogLossTest, AnErrorAtEachWrite) {
  writes_in_a_run_ = 60;
  Fill(/*runs=*/1);
  const std::string path = Middle();
  Flip(path, MiddleBatch(path) + 40);
  const SimDisk before = disk();
  const DiskFiles files = Files("/data/");
  const Result<LogLossReport> shown = Report();
  PANDO_ASSERT_OK(shown.status());
  const auto histories = std::vector<History>(histories_, histories_ + kLossPartitions);
  int struck = 0, cut_short = 0;
  for (const IoOp::Kind kind : {IoOp::Kind::kWrite, IoOp::Kind::kSync, IoOp::Kind::kRename, IoOp::Kind::kAllocate}) {
    for (uint64_t skip = 0;; ++skip) {
      disk() = before;
      std::copy(histories.begin(), histories.end(), histories_);
      DiskFault fault;
      fault.kind = kind;
      fault.skip = skip;
      machine_->AddFault(fault);
      const uint64_t struck_before = machine_->faults_struck();
      const Status status = Accept();
      machine_->ClearFaults();
      if (machine_->faults_struck() == struck_before) {
        EXPECT_OK(status);
        break;
      }
      ++struck;
      EXPECT_FALSE(status.ok());
      const Status start = Run(nullptr);
      EXPECT_TRUE(start.ok() || start.message().find(kLossCommand) != std::string::npos) << start.ToString();
      cut_short += start.message().find("accept-loss was cut short") != std::string::npos;
      const Status again = start.ok() ? Status() : Accept();
      EXPECT_TRUE(again.ok() || again.code() == Code::kInvalidArgument) << again.ToString();  // it was done
      ExpectKept(*shown, files);
      EXPECT_EQ(Check(), "");
      EXPECT_OK(Run(TakePrefixes));
      for (const PartitionLogLoss& p : shown->partitions) EXPECT_EQ(kept_[p.info.id], p.keeps_lsn);
      ASSERT_FALSE(HasFailure()) << "write error " << skip;
    }
  }
  EXPECT_GT(struck, 10);
  EXPECT_GT(cut_short, 5);
}

// Random histories and damage, of all kinds, several at a time.
class RandomDamage {
 public:
  RandomDamage(AcceptLogLossTest* test, uint64_t seed) : t_(*test), random_(seed) {}
  void Once() {
    const std::vector<std::string> segments = t_.Segments();
    const std::string path = segments[random_.Below(segments.size())];
    const uint64_t bytes = t_.disk().ReadAll(path).size();
    const std::vector<uint64_t> batches = t_.Batches(path);
    const uint64_t batch = batches.empty() ? random_.Below(bytes) : batches[random_.Below(batches.size())];
    switch (random_.Below(6)) {
      case 0: return t_.Flip(path, std::min(batch + random_.Below(160), bytes - 1));
      case 1: return t_.Flip(path, random_.Below(bytes));
      case 2: return t_.FailReads(path, random_.Chance(0.5) ? batch : random_.Below(bytes));
      case 3: return t_.disk().WriteAll(path, t_.disk().ReadAll(path).substr(0, random_.Below(bytes)));
      case 4: return t_.disk().RemoveTree(path);
      default: return t_.Flip(path, random_.Below(56));
    }
  }

 private:
  AcceptLogLossTest& t_;
  SimRandom random_;
};

void OneRandomLoss(AcceptLogLossTest* t, uint64_t seed, int* accepted) {
  t->writes_in_a_run_ = static_cast<int>(50 + t->random_.Below(100));
  t->Fill(static_cast<int>(t->random_.Below(3)));
  RandomDamage damage(t, seed);
  for (uint64_t i = 0; i <= t->random_.Below(2); ++i) damage.Once();
  const DiskFiles before = t->Files("/data/");
  const Status start = t->Run(nullptr);
  t->disk() = t->killed_;
  for (const auto& [path, bytes] : t->Files("/data/")) {
    if (!before.contains(path)) t->disk().RemoveTree(path);
  }
  for (const auto& [path, bytes] : before) t->disk().WriteAll(path, bytes);
  const Result<LogLossReport> report = t->Report();
  if (start.ok()) {
    EXPECT_EQ(report.code(), Code::kInvalidArgument);
    return;
  }
  ++*accepted;
  EXPECT_THAT(std::string(start.message()), HasSubstr(kLossCommand));
  EXPECT_OK(report.status());
  if (!report.ok()) return;
  t->ExpectKeeps(*report);
  EXPECT_OK(t->Accept());
  t->machine_->ClearFaults();
  t->ExpectKept(*report, before);
  t->GoOn(*report);
}

struct Case : AcceptLogLossTest {
  using AcceptLogLossTest::AcceptLogLossTest;
  void TestBody() override {}
};

// An epoch has superseded what the log holds before the damage, and the checkpoint is of that epoch. Or the log ends
// between units that were appended again. Such a partition continues from its checkpoint, and is not quarantined.
TEST(AcceptLogLoss, LateGatesAndRandomDamage) {
  size_t accepted = 0, from_log = 0, from_checkpoint = 0;
  for (const uint64_t seed : Seeds(60)) {
    SCOPED_TRACE(Replay(seed));
    Case test(seed);
    test.late_gates_ = true;
    for (int run = 0; run < 3; ++run) test.RunOk(LogLossTest::WorkLate);
    test.disk() = test.killed_;
    RandomDamage damage(&test, seed);
    damage.Once();
    if (!test.Report().ok()) continue;
    ++accepted;
    const Result<LogLossReport> report = test.Report();
    for (const PartitionLogLoss& p : report->partitions) {
      EXPECT_EQ(p.why, "");
      EXPECT_GE(p.keeps_lsn, p.checkpoint_lsn);
      from_log += p.from == From::kLog;
      from_checkpoint += p.from == From::kCheckpoint;
    }
    EXPECT_OK(test.Accept());
    test.machine_->ClearFaults();
    for (GateMemory& gate : test.gates_) gate = GateMemory();  // what was committed may be lost
    EXPECT_EQ(test.Check(), "");
    for (int start = 0; start < 3; ++start) {
      test.late_gates_ = start == 0;
      test.RunOk(start == 0 ? LogLossTest::WorkLate : LogLossTest::Continue);
      EXPECT_EQ(test.quarantined_, "");
      EXPECT_EQ(test.Check(), "");
    }
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(accepted, 20u);
  EXPECT_GT(from_log, 20u);
  EXPECT_GT(from_checkpoint, 20u);
}

TEST(AcceptLogLoss, RandomDamage) {
  int accepted = 0;
  for (const uint64_t seed : Seeds(60)) {
    SCOPED_TRACE(Replay(seed));
    Case test(seed);
    OneRandomLoss(&test, seed, &accepted);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(accepted, Seeds(60).size() / 3);
}

}  // namespace
}  // namespace pando::engine_test
