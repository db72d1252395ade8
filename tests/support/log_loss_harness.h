// Fixtures for tests of logs that are damaged as a whole: a store of four partitions on one reactor, and
// how far its log had come with each write, so that it is known what each partition must keep.
//
// Threads: those of the simulation.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "src/verify/accept_log_loss.h"
#include "tests/support/engine_harness.h"
#include "tests/support/late_gate.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"

#define PANDO_ASSERT_OK(expr)                                        \
  do {                                                               \
    const ::pando::Status& pando_expected_ = (expr);                 \
    ASSERT_TRUE(pando_expected_.ok()) << pando_expected_.ToString(); \
  } while (0)

namespace pando::engine_test {

inline constexpr uint32_t kLossPartitions = 4;
using DiskFiles = std::map<std::string, std::string>;

class LogLossTest : public testing::Test {
 public:
  explicit LogLossTest(uint64_t seed = 1) : random_(seed), kernel_(seed) {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = kLossPartitions;
    setup_.engine.log_segment_bytes = 64u << 10;
    setup_.engine.log_budget_bytes = 4u << 20;
    setup_.engine.checkpoint_interval_ns = 3600 * kSecond;
  }

  // A write, and where the log ended before and after it.
  struct Written {
    LogPosition before = 0, after = 0;
  };
  struct History {
    std::vector<Written> writes;  // write i is Key(i) with Value(i)
    Lsn checkpoint_lsn = 0;
  };
  static std::string Key(uint32_t partition, size_t i) { return fmt::format("p{}-{:05}", partition, i); }
  static std::string Value(size_t i) { return fmt::format("value {} ", i) + std::string(i % 7 * 150, 'v'); }

  // What an operator does: looks, and accepts what was shown.
  static Task<Result<LogLossReport>> Examine(Reactor* reactor) {
    CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, "/data"));
    CO_ASSIGN_OR_RETURN(const std::optional<LogCut> begun, co_await FindBegunLogLoss(*reactor, &store, 0));
    if (begun) co_return Error(Code::kAborted, "accept-loss was cut short");
    co_return co_await ExamineLogLoss(*reactor, std::move(store), 0);
  }
  static constexpr uint32_t kCode = 0x1f2e3d4c;
  static Task<Status> AcceptIt(Reactor* reactor) {
    CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, "/data"));
    CO_ASSIGN_OR_RETURN(const std::optional<LogCut> begun, co_await FindBegunLogLoss(*reactor, &store, 0));
    if (begun) {
      EXPECT_EQ(begun->code, kCode);
      co_return co_await FinishLogLoss(*reactor, std::move(store), 0, *begun);
    }
    CO_ASSIGN_OR_RETURN(const LogLossReport report, co_await ExamineLogLoss(*reactor, std::move(store), 0));
    co_return co_await AcceptLogLoss(*reactor, &report, kCode);
  }
  Result<LogLossReport> Report() {
    reactor_ = machine_->Boot();
    Result<LogLossReport> report = *kernel_.RunTask(*reactor_, Examine(reactor_));
    machine_->PowerLoss(1);
    return report;
  }
  Status Accept() {
    reactor_ = machine_->Boot();
    const Status status = *kernel_.RunTask(*reactor_, AcceptIt(reactor_));
    machine_->PowerLoss(1);
    return status;
  }
  std::string Check() {
    reactor_ = machine_->Boot();
    const std::string problem = *kernel_.RunTask(*reactor_, Audit(*reactor_, "/data"));
    machine_->PowerLoss(1);
    return problem;
  }

  // Runs `body` with an open engine.
  using Body = Task<void> (*)(LogLossTest* t);
  static Task<Status> WithEngine(LogLossTest* t, Body body) {
    engine_test::Setup setup = t->setup_;
    if (t->late_gates_) {
      setup.engine.make_gate = [t](uint32_t p) {
        LateGate::Options late;
        late.epoch_chance = 0.15;
        return std::make_unique<LateGate>(*t->reactor_, &t->gates_[p], t->random_.Next(), late);
      };
    }
    setup.engine.on_quarantine = [t](const QuarantinedPartition& q) { t->quarantined_ += q.ToString() + "\n"; };
    auto engine = co_await OpenEngine(*t->reactor_, setup);
    if (!engine.ok()) co_return engine.TakeStatus();
    t->engine_ = engine->get();
    if (body != nullptr) co_await body(t);
    co_return co_await (*engine)->Close(t->checkpoint_at_close_);
  }
  Status Run(Body body) {
    quarantined_.clear();
    reactor_ = machine_->Boot();
    const Status status = *kernel_.RunTask(*reactor_, WithEngine(this, body));
    if (random_.Chance(0.5)) {
      machine_->PowerLoss(random_.Below(1000));
    } else {
      machine_->ProcessCrash(random_.Below(1000));
    }
    return status;
  }

  void RunOk(Body body) {
    const Status status = Run(body);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }

  static Task<void> WriteOne(LogLossTest* t, uint32_t partition) {
    History& history = t->histories_[partition];
    const size_t i = history.writes.size();
    const LogPosition before = t->engine_->log_end();
    EXPECT_OK(co_await Put(t->engine_->partition(partition), Key(partition, i), Value(i)));
    history.writes.push_back({before, t->engine_->log_end()});
  }
  static Task<void> Checkpoint(LogLossTest* t, uint32_t partition) {
    EXPECT_OK(co_await t->engine_->partition(partition)->Checkpoint());
    t->histories_[partition].checkpoint_lsn = t->histories_[partition].writes.size();
  }
  // Random writes; each partition is checkpointed now and then.
  static Task<void> Work(LogLossTest* t) {
    for (int i = 0; i < t->writes_in_a_run_; ++i) {
      co_await WriteOne(t, static_cast<uint32_t>(t->random_.Below(kLossPartitions)));
      if (t->random_.Chance(0.01)) co_await Checkpoint(t, static_cast<uint32_t>(t->random_.Below(kLossPartitions)));
    }
  }
  // With late gates: writes of which some are superseded.
  static Task<void> WorkLate(LogLossTest* t) {
    TaskGroup tasks;
    for (int i = 0; i < t->writes_in_a_run_; ++i) {
      const auto p = static_cast<uint32_t>(t->random_.Below(kLossPartitions));
      tasks.Spawn(WriteLate(t, p, i));
      if (t->random_.Chance(0.3)) co_await Sleep(*t->reactor_, t->random_.Between(0, 3 * kMillisecond));
      if (t->random_.Chance(0.05)) EXPECT_OK(co_await t->engine_->partition(p)->Checkpoint());
    }
    t->killed_ = t->disk();
    co_await tasks.Drain();
  }
  static Task<void> WriteLate(LogLossTest* t, uint32_t partition, int i) {
    Status ignored = co_await Put(t->engine_->partition(partition), fmt::format("late-{}", i % 20), Value(i));
  }

  // How many of its writes each partition holds: they are a prefix of its history. Forgets the others.
  static Task<void> TakePrefixes(LogLossTest* t) {
    EXPECT_EQ(t->quarantined_, "");
    for (uint32_t p = 0; p < kLossPartitions; ++p) {
      std::vector<Written>& writes = t->histories_[p].writes;
      size_t kept = 0;
      for (size_t i = 0; i < writes.size(); ++i) {
        Result<ReadResult> got = co_await t->engine_->partition(p)->Get(Key(p, i), kNewest, nullptr);
        EXPECT_OK(got.status());
        if (!got.ok() || !got->found) continue;
        EXPECT_EQ(kept, i) << "partition " << p << " lacks a write between others";
        EXPECT_EQ(got->value, Value(i));
        kept = i + 1;
      }
      writes.resize(kept);
      t->kept_[p] = kept;
    }
  }
  // All is there. Writes more, with versions and epochs above all that were given before.
  static Task<void> Continue(LogLossTest* t) {
    EXPECT_EQ(t->quarantined_, "");
    for (uint32_t p = 0; p < kLossPartitions; ++p) {
      Partition* partition = t->engine_->partition(p);
      for (size_t i = 0; i < t->histories_[p].writes.size(); ++i) {
        Result<ReadResult> got = co_await partition->Get(Key(p, i), kNewest, nullptr);
        EXPECT_TRUE(got.ok() && got->found && got->value == Value(i)) << Key(p, i) << " is lost";
      }
      EXPECT_GT(partition->stats().epoch, t->epoch_before_[p]) << "an epoch comes again";
      for (int i = 0; i < 10; ++i) co_await WriteOne(t, p);
      const size_t last = t->histories_[p].writes.size() - 1;
      Result<ReadResult> got = co_await partition->Get(Key(p, last), kNewest, nullptr);
      EXPECT_GT(got->version, t->last_version_) << "a version comes again";
    }
  }
  // The highest epochs, and a version above those of all writes before.
  static Task<void> NoteEnds(LogLossTest* t) {
    for (uint32_t p = 0; p < kLossPartitions; ++p) t->epoch_before_[p] = t->engine_->partition(p)->stats().epoch;
    co_await WriteOne(t, 0);
    const size_t last = t->histories_[0].writes.size() - 1;
    Result<ReadResult> got = co_await t->engine_->partition(0)->Get(Key(0, last), kNewest, nullptr);
    t->last_version_ = got->version;
  }

  DiskFiles Files(std::string_view prefix) {
    DiskFiles files;
    for (const std::string& path : disk().AllFiles()) {
      if (path.starts_with(prefix)) files[path] = disk().ReadAll(path);
    }
    return files;
  }
  std::vector<std::string> Segments() {
    std::vector<std::string> paths;
    for (const std::string& path : disk().AllFiles()) {
      if (path.starts_with("/data/wal-0/segment-") && path.ends_with(".wal")) paths.push_back(path);
    }
    return paths;
  }
  // Where the batches of a segment begin.
  std::vector<uint64_t> Batches(const std::string& path) {
    const std::string image = disk().ReadAll(path);
    SegmentHeader header;
    std::vector<uint64_t> offsets;
    if (DecodeSegmentHeader(image, &header) != HeaderState::kValid) return offsets;
    for (uint64_t at = kFirstGroupOffset; at < image.size(); at += kBlockBytes) {
      BatchView batch;
      const uint64_t seed = LogChecksumSeed(header.node);
      if (DecodeBatch(image, header.segment_number, at, seed, &batch) == BatchState::kValid) offsets.push_back(at);
    }
    return offsets;
  }
  void Flip(const std::string& path, uint64_t offset) {
    std::string bytes = disk().ReadAll(path);
    bytes[offset] ^= 1;
    disk().WriteAll(path, bytes);
  }
  // Faults go by the name, so those outside of the header must not be in the copy that takes the place of the file.
  void FailReads(const std::string& path, uint64_t offset) {
    if (offset >= kBlockBytes) offset = std::max(offset, kMinSegmentBytes);
    for (const IoOp::Kind kind : {IoOp::Kind::kRead, IoOp::Kind::kReadv}) {
      DiskFault fault;
      fault.kind = kind;
      fault.path_contains = path;
      fault.first_byte = fault.last_byte = offset;
      fault.count = UINT64_MAX;
      machine_->AddFault(fault);
    }
  }
  SimDisk& disk() { return machine_->disk(); }

  engine_test::Setup setup_;
  SimRandom random_;
  SimKernel kernel_;
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  Engine* engine_ = nullptr;
  History histories_[kLossPartitions];
  size_t kept_[kLossPartitions] = {};
  Epoch epoch_before_[kLossPartitions] = {};
  Version last_version_ = 0;  // at NoteEnds
  std::string quarantined_;
  SimDisk killed_;  // as it was when the last run was killed
  int writes_in_a_run_ = 150;
  bool late_gates_ = false;  // writes are committed late, in part, or superseded
  GateMemory gates_[kLossPartitions];
  bool checkpoint_at_close_ = false;
};

inline constexpr char kLossCommand[] = "kvadmin accept-loss /data --log 0";

// What an operator does about it.
class AcceptLogLossTest : public LogLossTest {
 public:
  explicit AcceptLogLossTest(uint64_t seed = 1) : LogLossTest(seed) {}

  // Several runs, of which the last is killed.
  void Fill(int runs = 2) {
    for (int run = 0; run < runs; ++run) EXPECT_OK(Run(Work));
    RunOk([](LogLossTest* t) -> Task<void> {
      co_await Work(t);
      co_await NoteEnds(t);
      t->killed_ = t->disk();
    });
    disk() = killed_;
  }
  void ExpectRefused(std::string_view what) {
    const Status refused = Run(nullptr);
    EXPECT_THAT(std::string(refused.message()),
                testing::AllOf(testing::HasSubstr(std::string(what)), testing::HasSubstr(kLossCommand)));
    reactor_ = machine_->Boot();
    Result<CheckReport> report = *kernel_.RunTask(*reactor_, CheckStore(*reactor_, "/data"));
    machine_->PowerLoss(1);
    PANDO_ASSERT_OK(report.status());
    EXPECT_TRUE(report->whole_logs_damaged);
    ASSERT_FALSE(report->problems.empty());
    EXPECT_THAT(report->problems.front().what, testing::HasSubstr(std::string(what)));
    EXPECT_THAT(report->problems.front().advice, testing::HasSubstr(kLossCommand));
  }
  // The least and the most that each partition can keep if its log ends there.
  void ExpectKeeps(const LogLossReport& report) {
    ASSERT_EQ(report.partitions.size(), kLossPartitions);
    for (const PartitionLogLoss& p : report.partitions) {
      const History& history = histories_[p.info.id];
      const LogPosition end = report.cut.at;
      const auto within = std::count_if(history.writes.begin(), history.writes.end(),
                                        [end](const Written& w) { return w.after <= end; });
      const auto before = std::count_if(history.writes.begin(), history.writes.end(),
                                        [end](const Written& w) { return w.before < end; });
      SCOPED_TRACE(fmt::format("partition {}", p.info.id));
      EXPECT_EQ(p.why, "");
      // The engine makes checkpoints of its own, too.
      EXPECT_GE(p.checkpoint_lsn, history.checkpoint_lsn);
      EXPECT_GE(p.keeps_lsn, std::max(p.checkpoint_lsn, static_cast<Lsn>(within)));
      EXPECT_LE(p.keeps_lsn, std::max(p.checkpoint_lsn, static_cast<Lsn>(before)));
      EXPECT_EQ(p.from,
                p.keeps_lsn > p.checkpoint_lsn ? PartitionLogLoss::From::kLog : PartitionLogLoss::From::kCheckpoint);
      EXPECT_GE(p.known_lsn, p.keeps_lsn);
      EXPECT_LE(p.known_lsn, history.writes.size());
      EXPECT_LE(p.readable_records, history.writes.size() - p.keeps_lsn);
    }
  }
  // From the refusal to a store that serves again. Returns what was shown.
  LogLossReport AcceptAndGoOn(std::string_view what) {
    ExpectRefused(what);
    const DiskFiles before = Files("/data/");
    Result<LogLossReport> report = Report();
    EXPECT_OK(report.status());
    if (!report.ok()) return {};
    EXPECT_THAT(report->damage, testing::HasSubstr(std::string(what)));
    EXPECT_TRUE(Files("/data/") == before) << "to look changes nothing";
    ExpectKeeps(*report);
    EXPECT_OK(Accept());
    machine_->ClearFaults();  // they were in the old file
    ExpectKept(*report, before);
    GoOn(*report);
    return *std::move(report);
  }
  // LC2: under other names, or under their own.
  void ExpectKept(const LogLossReport& report, const DiskFiles& before) {
    const DiskFiles after = Files("/data/wal-0/");
    for (const auto& [path, bytes] : before) {
      if (!path.starts_with("/data/wal-0/segment-")) continue;
      const std::string name = path.substr(path.rfind('/') + 1);
      const bool aside = std::count(report.put_aside.begin(), report.put_aside.end(), name) > 0;
      const std::string now = aside ? "/data/wal-0/" + AsideName({}, name) : path;
      EXPECT_TRUE(after.contains(now) && after.at(now) == bytes) << now;
    }
    for (const auto& [path, bytes] : after) EXPECT_FALSE(path.ends_with(".tmp") || path.find("accepted") != path.npos);
  }
  void GoOn(const LogLossReport& report) {
    EXPECT_EQ(Check(), "");
    EXPECT_EQ(Report().code(), Code::kInvalidArgument);
    const DiskFiles aside = Aside();
    EXPECT_OK(Run(TakePrefixes));
    for (const PartitionLogLoss& p : report.partitions) {
      EXPECT_EQ(kept_[p.info.id], p.keeps_lsn) << "partition " << p.info.id;
      histories_[p.info.id].checkpoint_lsn = std::min(histories_[p.info.id].checkpoint_lsn, p.keeps_lsn);
    }
    for (int start = 0; start < 3; ++start) {
      checkpoint_at_close_ = start == 1;
      EXPECT_OK(Run(Continue));
      EXPECT_EQ(Check(), "");
    }
    checkpoint_at_close_ = false;
    EXPECT_TRUE(Aside() == aside) << "what was put aside has changed";
  }
  DiskFiles Aside() {
    DiskFiles files = Files("/data/");
    std::erase_if(files, [](const auto& f) { return f.first.find(".damaged-") == std::string::npos; });
    return files;
  }
  // A segment in the middle, and a batch in the middle of it.
  std::string Middle() { return Segments()[Segments().size() / 2]; }
  uint64_t MiddleBatch(const std::string& path) { return Batches(path)[Batches(path).size() / 2]; }
};

}  // namespace pando::engine_test
