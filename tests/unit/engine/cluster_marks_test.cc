// Snapshots of a whole cluster, in one partition: their marks in the log, whoever has appended them.
#include "src/partition/cluster_marks.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>

#include "src/engine/snapshot_cut.h"
#include "src/model/record.h"
#include "tests/unit/engine/commit_gate_fixture.h"

namespace pando::engine_test {
namespace {

constexpr SnapshotId kId = 0x51;
constexpr int64_t kMinuteMs = 60'000;
constexpr Nanos kUntilDue = 21 * kMillisecond;  // until the mark at Ahead is appended

class ClusterMarksTest : public CommitGateTest {};

// Counts the warnings in the log that say this.
class Warnings final : public google::LogSink {
 public:
  explicit Warnings(std::string text) : text_(std::move(text)), level_(std::exchange(FLAGS_minloglevel, 0)) {
    google::AddLogSink(this);
  }
  ~Warnings() override {
    google::RemoveLogSink(this);
    FLAGS_minloglevel = level_;
  }
  int count() const { return count_; }
  void send(google::LogSeverity severity, const char*, const char*, int, const google::LogMessageTime&,
            const char* message, size_t length) override {
    count_ += severity == google::GLOG_WARNING && std::string(message, length).find(text_) != std::string::npos;
  }

 private:
  const std::string text_;
  const int level_;  // other tests log less
  int count_ = 0;
};

CloseMark MarkAt(CommitGateTest* t, SnapshotId id, Version version) {
  return {id, version, t->reactor_->WallMs() + kMinuteMs};
}

// A version that nobody has given, as a coordinator would choose it.
Task<Version> Ahead(Partition* p) {
  Result<Version> highest = co_await p->HighestVersion();
  EXPECT_OK(highest.status());
  co_return highest.ok() ? *highest + VersionAtMs(20) : 0;
}

Task<std::string> ValueIn(Partition* partition, SnapshotId snapshot, std::string key) {
  Result<ReadResult> got = co_await partition->Get(std::move(key), snapshot, nullptr);
  if (!got.ok()) co_return got.code() == Code::kSnapshotGone ? "gone" : got.status().ToString();
  co_return got->found ? got->value : "none";
}

Task<Version> VersionOf(Partition* partition, std::string key) {
  Result<ReadResult> got = co_await partition->Get(std::move(key), kNewest, nullptr);
  EXPECT_OK(got.status());
  co_return got.ok() ? got->version : 0;
}

struct Closing {
  std::optional<Result<SessionPoint>> point;
  Code code() const { return point ? point->code() : Code::kNotFound; }
};
Task<void> CloseLater(Partition* partition, CloseMark mark, Closing* closing) {
  Result<SessionPoint> point = co_await partition->CloseAt(mark);
  closing->point.emplace(std::move(point));
}
struct Cutting {
  std::optional<Status> status;
};
Task<void> CutLater(CommitGateTest* t, Cutting* cutting) {
  std::vector<Partition*> one{t->p_};
  Result<SnapshotInfo> cut = co_await CutSnapshot(*t->reactor_, std::move(one), t->reactor_->WallMs() + kMinuteMs);
  cutting->status = cut.status();
}

// CM1, CM2: what comes before the mark is in the snapshot, and nothing else, and no write waits for it.
TEST_F(ClusterMarksTest, ASnapshotEndsAtItsVersion) {
  gated_ = {0};
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->commits = true;
        EXPECT_OK(co_await Put(t->p_, "a", "1"));
        EXPECT_OK(co_await Put(t->p_, "large", std::string(20'000, 'l')));
        const Version version = co_await Ahead(t->p_);
        EXPECT_GT(version, co_await VersionOf(t->p_, "large"));
        const CloseMark mark = MarkAt(t, kId, version);
        Result<SessionPoint> point = co_await t->p_->CloseAt(mark);
        EXPECT_OK(point.status());
        EXPECT_EQ(point->lsn, t->p_->stats().last_lsn);
        EXPECT_EQ(point->epoch, t->p_->stats().epoch);
        EXPECT_OK(co_await Put(t->p_, "a", "2"));
        EXPECT_OK(co_await Put(t->p_, "b", "2"));
        EXPECT_OK(co_await Remove(t->p_, "large"));
        EXPECT_GT(co_await VersionOf(t->p_, "a"), version);
        EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
        EXPECT_EQ(co_await ValueIn(t->p_, kId, "b"), "none");
        EXPECT_EQ(co_await ValueIn(t->p_, kId, "large"), std::string(20'000, 'l'));
        EXPECT_EQ(co_await ValueOf(t->p_, "a"), "2");
        ScanSpec spec;
        spec.snapshot = kId;
        Result<ScanPage> page = co_await t->p_->Scan(spec);
        EXPECT_OK(page.status());
        EXPECT_EQ(page->rows.size(), 2u);
        Result<RangeAggregates> sums = co_await t->p_->Aggregate("", "", kId);
        EXPECT_OK(sums.status());
        EXPECT_EQ(sums->count, 2u);
        std::vector<uint64_t> ranks{1};
        auto keys = co_await t->p_->KeysAtRanks("", "", std::move(ranks), kId);
        EXPECT_OK(keys.status());
        EXPECT_EQ(keys->front(), "large");
        // It was asked for again, because the answer was lost.
        Result<SessionPoint> again = co_await t->p_->CloseAt(mark);
        EXPECT_OK(again.status());
        EXPECT_EQ(*again, *point);
        // A version that was given is refused, and so are the ID of another snapshot, and a time far ahead.
        EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId + 1, co_await VersionOf(t->p_, "b")))).code(),
                  Code::kSnapshotGone);
        EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId, co_await Ahead(t->p_)))).code(), Code::kInvalidArgument);
        const Version far = co_await Ahead(t->p_) + VersionAtMs(3'600'000);
        EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId + 1, far))).code(), Code::kInvalidArgument);
        EXPECT_EQ(t->p_->stats().cluster_snapshots, 1u);
        EXPECT_EQ(t->p_->stats().cluster_marks_total, 1u);
        t->engine_->CheckInvariants();
      },
      /*close=*/true);
  Run([](CommitGateTest* t) -> Task<void> { EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), ""); });
}

// CM3: it is confirmed only once it is committed, while later writes are appended and have higher versions.
TEST_F(ClusterMarksTest, AMarkIsConfirmedOnceItIsCommitted) {
  Run([](CommitGateTest* t) -> Task<void> {
    static Closing closing;
    const Version version = co_await Ahead(t->p_);
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId, version), &closing));
    co_await Sleep(*t->reactor_, kUntilDue);
    t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
    co_await UntilDurable(t->reactor_, t->p_);
    EXPECT_EQ(t->p_->stats().last_lsn, 2u);
    EXPECT_EQ(t->gate_->durable_lsn, 2u);
    co_await Sleep(*t->reactor_, 10 * kSecond);
    EXPECT_FALSE(closing.point);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "gone");
    t->gate_->partition->Commit(2);
    co_await Sleep(*t->reactor_, 100 * kMillisecond);
    EXPECT_EQ(closing.code(), Code::kOk);
    EXPECT_EQ(t->a_.code, Code::kOk);
    EXPECT_GT(co_await VersionOf(t->p_, "a"), version);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "none");
    // One that is superseded is not confirmed.
    static Closing lost;
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId + 1, co_await Ahead(t->p_)), &lost));
    co_await Sleep(*t->reactor_, kUntilDue);
    co_await UntilDurable(t->reactor_, t->p_);
    t->gate_->partition->BeginEpoch(t->gate_->partition->epoch() + 1, 2);
    co_await Sleep(*t->reactor_, 100 * kMillisecond);
    EXPECT_EQ(lost.code(), Code::kAborted);
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "a"), "gone");
  });
}

// CM7: the partition goes on below the version until its time comes, or somebody has seen a higher one.
TEST_F(ClusterMarksTest, AMarkIsAppendedNoEarlierThanItMust) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    static Closing timed, second, early, again, refused;
    const Version version = co_await Ahead(t->p_);
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId, version), &timed));
    co_await Sleep(*t->reactor_, 10 * kMillisecond);
    EXPECT_OK(co_await Put(t->p_, "a", "1"));
    EXPECT_LT(co_await VersionOf(t->p_, "a"), version);
    EXPECT_FALSE(timed.point);
    co_await Sleep(*t->reactor_, kUntilDue);
    EXPECT_EQ(timed.code(), Code::kOk);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
    // Two wait, and a third one that is not due. The second is asked for twice.
    const Version base = co_await Ahead(t->p_) + VersionAtMs(1000);
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId + 3, base + VersionAtMs(3000)), &refused));
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId + 2, base + 1000), &second));
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId + 1, base), &early));
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId + 2, base + 1000), &again));
    for (const Version seen : {base - 1, base + 1000}) {
      WriteOptions options;
      options.seen_version = seen;
      std::vector<WriteOp> ops{PutOp("a", seen < base ? "2" : "3")};
      Result<std::vector<OpResult>> done = co_await t->p_->Write(std::move(ops), options);
      EXPECT_OK(done.status());
      EXPECT_GT(done->front().version, seen);
    }
    co_await Sleep(*t->reactor_, kMillisecond);
    EXPECT_EQ(early.code(), Code::kOk);
    EXPECT_EQ(second.code(), Code::kOk);
    EXPECT_EQ(again.code(), Code::kOk);
    EXPECT_FALSE(refused.point);
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "a"), "1");
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 2, "a"), "2");
    // A write without a coroutine gives way, too.
    AwaitedWrite write(*t->reactor_);
    write.partition = t->p_;
    write.op = PutOp("a", "4");
    write.seen_version = base + VersionAtMs(3000);
    PointWrite* const batch[] = {&write};
    t->engine_->BatchWrite(batch);
    EXPECT_TRUE(write.begun);
    while (!write.over) co_await write.done.Wait();
    EXPECT_GT(write.result.version, write.seen_version);
    co_await Sleep(*t->reactor_, kMillisecond);
    EXPECT_EQ(refused.code(), Code::kOk);
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 3, "a"), "3");
    t->engine_->CheckInvariants();
  });
}

// Whoever waits for the time of a mark does not keep the partition from closing.
TEST_F(ClusterMarksTest, APartitionClosesWhileAMarkWaits) {
  static Closing closing;
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->commits = true;
        const Version version = co_await Ahead(t->p_) + VersionAtMs(9000);
        t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId, version), &closing));
        co_await Sleep(*t->reactor_, 10 * kMillisecond);
      },
      /*close=*/true);
  EXPECT_TRUE(closing.point);
}

// A checkpoint would keep the mark, and all writes behind it, waiting.
TEST_F(ClusterMarksTest, NoCheckpointIsInTheWay) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    EXPECT_OK(co_await Put(t->p_, "a", "1"));
    static std::optional<Status> written;
    t->tasks_->Spawn([](Partition* p) -> Task<void> { written = co_await p->Checkpoint(); }(t->p_));
    EXPECT_FALSE(written);
    const Version version = co_await Ahead(t->p_);
    EXPECT_TRUE(written);
    t->tasks_->Spawn([](Partition* p) -> Task<void> { EXPECT_OK(co_await p->Checkpoint()); }(t->p_));
    EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId, version))).code(), Code::kSnapshotGone);
    EXPECT_OK((co_await t->p_->CloseAt(MarkAt(t, kId + 1, co_await Ahead(t->p_)))).status());
    co_await t->tasks_->Drain();
  });
}

// Not every replica could read it.
TEST_F(ClusterMarksTest, ThereAreNoneThatNotAllReplicasUnderstand) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    t->gate_->may_mark = Error(Code::kUnsupported, "an old build");
    EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId, co_await Ahead(t->p_)))).code(), Code::kUnsupported);
    EXPECT_EQ(t->p_->stats().last_lsn, 0u);
  });
}

// The cut of a snapshot of this node gives way (CM6), and does not keep the writes waiting.
TEST_F(ClusterMarksTest, ACutOfTheNodeGivesWay) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        static Closing closing;
        static Cutting cutting;
        t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId, co_await Ahead(t->p_)), &closing));
        co_await Sleep(*t->reactor_, kUntilDue);
        co_await UntilDurable(t->reactor_, t->p_);
        EXPECT_EQ(t->p_->stats().last_lsn, 1u);
        t->tasks_->Spawn(CutLater(t, &cutting));
        co_await Sleep(*t->reactor_, 100 * kMillisecond);
        t->tasks_->Spawn(PutLater(t->p_, "a", "1", &t->a_));
        co_await UntilDurable(t->reactor_, t->p_);
        EXPECT_FALSE(cutting.status);
        t->gate_->commits = true;
        t->gate_->partition->Commit(2);
        co_await Sleep(*t->reactor_, 100 * kMillisecond);
        EXPECT_EQ(closing.code(), Code::kOk);
        EXPECT_EQ(t->a_.code, Code::kOk);
        EXPECT_TRUE(cutting.status);
        if (cutting.status) {
          EXPECT_EQ(cutting.status->code(), Code::kUnavailable);
        }
        std::vector<Partition*> one{t->p_};
        EXPECT_OK((co_await CutSnapshot(*t->reactor_, std::move(one), t->reactor_->WallMs() + kMinuteMs)).status());
        EXPECT_OK(co_await t->p_->Checkpoint());
        co_await t->tasks_->Drain();
      },
      /*close=*/true);
}

// Marks among writes and checkpoints: each snapshot is what had been written.
TEST_F(ClusterMarksTest, ComeAtAnyMoment) {
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->commits = true;
        for (int i = 0; i < 60; ++i) {
          for (int k = 0; k < 20; ++k) {
            EXPECT_OK(co_await Put(t->p_, "k" + std::to_string(k * 7 % 20), std::to_string(i)));
          }
          static Pending ignored;
          if (i % 3 == 0)
            t->tasks_->Spawn([](Partition* p) -> Task<void> { EXPECT_OK(co_await p->Checkpoint()); }(t->p_));
          EXPECT_OK((co_await t->p_->CloseAt(MarkAt(t, kId + i, co_await Ahead(t->p_)))).status());
          EXPECT_OK(co_await Put(t->p_, "k3", "later"));
          if (i >= 5) {
            for (int k = 0; k < 20; ++k) {
              EXPECT_EQ(co_await ValueIn(t->p_, kId + i - 5, "k" + std::to_string(k)), std::to_string(i - 5));
            }
            EXPECT_OK(co_await t->p_->ReleaseSnapshot(kId + i - 5));
            EXPECT_EQ(co_await ValueIn(t->p_, kId + i - 5, "k1"), "gone");
          }
        }
        co_await t->tasks_->Drain();
        t->engine_->CheckInvariants();
      },
      /*close=*/true);
  Run([](CommitGateTest* t) -> Task<void> { EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), ""); });
}

// The log says how long a snapshot lives.
TEST_F(ClusterMarksTest, LivesAsLongAsTheLogSays) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    const Lsn before = t->p_->stats().last_lsn;
    EXPECT_OK((co_await t->p_->CloseAt(MarkAt(t, kId, co_await Ahead(t->p_)))).status());
    co_await Sleep(*t->reactor_, 50 * kSecond);
    EXPECT_OK(co_await t->p_->RenewSnapshot(kId, t->reactor_->WallMs() + kMinuteMs));
    EXPECT_EQ(t->p_->stats().last_lsn, before + 2);
    co_await Sleep(*t->reactor_, 50 * kSecond);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "none");
    EXPECT_OK((co_await t->p_->CloseAt(MarkAt(t, kId + 1, co_await Ahead(t->p_)))).status());
    EXPECT_OK(co_await t->p_->ReleaseSnapshot(kId + 1));
    EXPECT_EQ(t->p_->stats().last_lsn, before + 4);
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "a"), "gone");
    EXPECT_EQ((co_await t->p_->RenewSnapshot(kId + 1, t->reactor_->WallMs() + kMinuteMs)).code(), Code::kSnapshotGone);
    EXPECT_EQ((co_await t->p_->ReleaseSnapshot(kId + 1)).code(), Code::kSnapshotGone);
    co_await Sleep(*t->reactor_, 20 * kSecond);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "gone");
    EXPECT_EQ(t->p_->stats().cluster_snapshots, 0u);
    EXPECT_EQ(t->p_->stats().cluster_marks_total, 4u);
    // One that is over when its mark is applied.
    CloseMark late = MarkAt(t, kId + 2, co_await Ahead(t->p_));
    late.expires_at_ms = t->reactor_->WallMs();
    EXPECT_EQ((co_await t->p_->CloseAt(late)).code(), Code::kSnapshotGone);
    EXPECT_OK(co_await t->p_->Checkpoint());
  });
}

// CM4
TEST_F(ClusterMarksTest, AreLimited) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    for (size_t i = 0; i < ClusterMarks::kMaxSnapshots; ++i) {
      EXPECT_OK((co_await t->p_->CloseAt(MarkAt(t, kId + i, co_await Ahead(t->p_)))).status());
    }
    const CloseMark more = MarkAt(t, kId + 100, co_await Ahead(t->p_));
    EXPECT_EQ((co_await t->p_->CloseAt(more)).code(), Code::kOverloaded);
    EXPECT_OK(co_await t->p_->ReleaseSnapshot(kId + 7));
    EXPECT_OK((co_await t->p_->CloseAt(MarkAt(t, kId + 100, co_await Ahead(t->p_)))).status());
    EXPECT_EQ(t->p_->stats().cluster_snapshots, ClusterMarks::kMaxSnapshots);
  });
}

// CM5
TEST_F(ClusterMarksTest, WritesAreNewerThanWhatTheirWritersHaveSeen) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    EXPECT_OK(co_await Put(t->p_, "a", "1"));
    const Version seen = co_await VersionOf(t->p_, "a") + VersionAtMs(3000);
    for (const bool point : {false, true}) {
      const Version carried = seen + point * VersionAtMs(500);
      if (point) {
        AwaitedWrite write(*t->reactor_);
        write.partition = t->p_;
        write.op = PutOp("a", "3");
        write.seen_version = carried;
        PointWrite* const batch[] = {&write};
        t->engine_->BatchWrite(batch);
        EXPECT_TRUE(write.begun);
        while (!write.over) co_await write.done.Wait();
        EXPECT_GT(write.result.version, carried);
      } else {
        WriteOptions options;
        options.seen_version = carried;
        std::vector<WriteOp> ops{PutOp("a", "2")};
        Result<std::vector<OpResult>> done = co_await t->p_->Write(std::move(ops), options);
        EXPECT_OK(done.status());
        EXPECT_GT(done->front().version, carried);
      }
      EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId, carried))).code(), Code::kSnapshotGone);
    }
    // Nobody can set the time of a partition far ahead, however often it is tried.
    EXPECT_EQ(t->p_->stats().clocks_ahead_total, 0u);
    const Warnings warnings("ms ahead of the clock here");
    for (int i = 0; i < 3; ++i) {
      WriteOptions options;
      options.seen_version = co_await VersionOf(t->p_, "a") + VersionAtMs(3'600'000);
      std::vector<WriteOp> ops{PutOp("a", "4")};
      EXPECT_OK((co_await t->p_->Write(std::move(ops), options)).status());
      EXPECT_LE(VersionMs(co_await VersionOf(t->p_, "a")), t->reactor_->WallMs() + PartitionClock::kMaxLeadMs);
    }
    EXPECT_EQ(t->p_->stats().clocks_ahead_total, 3u);
    EXPECT_EQ(warnings.count(), 1) << "at the first one";
  });
}

// Gives a follower the units of a master.
struct Units {
  explicit Units(GatedPartition* p) : to(p), chain(p->end().chain), lsn(p->end().lsn), epoch(p->end().epoch + 4) {}
  void Give(LogRecord record) {
    std::string bytes;
    EncodeRecord(record, &bytes);
    WriteUnit unit{epoch, lsn + 1, 1, chain, 0, bytes};
    unit.chain_after = UnitChain(unit);
    EXPECT_OK(to->AppendUnit(unit));
    chain = unit.chain_after;
    ++lsn;
  }
  void Put(Version version, std::string_view key, std::string_view value) {
    LogRecord record;
    record.version = version;
    record.key = key;
    record.value = value;
    Give(record);
  }
  void Mark(RecordOp op, Version version, SnapshotId id, int64_t expires_at_ms) {
    LogRecord record;
    record.op = op;
    record.version = version;
    record.snapshot = id;
    record.ttl_mode = expires_at_ms == 0 ? TtlMode::kClear : TtlMode::kSet;
    record.expires_at_ms = expires_at_ms;
    Give(record);
  }
  GatedPartition* const to;
  uint64_t chain;
  Lsn lsn;
  Epoch epoch;
};

// A follower has the snapshots of its master, and still has them when it leads; then its versions are above them.
TEST_F(ClusterMarksTest, FollowersHaveThemToo) {
  leads_ = false;
  Run([](CommitGateTest* t) -> Task<void> {
    Units units(t->gate_->partition);
    const Version begin = VersionAtMs(t->reactor_->WallMs());
    const Version ahead = begin + VersionAtMs(1000);
    const int64_t expires_ms = t->reactor_->WallMs() + kMinuteMs;
    units.Put(begin, "a", "1");
    units.Mark(RecordOp::kClose, ahead, kId, expires_ms);
    units.Put(ahead + 1, "a", "2");
    units.Mark(RecordOp::kClose, ahead + 2, kId + 1, expires_ms);
    units.Mark(RecordOp::kClose, ahead + 3, kId + 1, expires_ms);  // which no master does
    units.Mark(RecordOp::kClose, ahead + 4, kId + 2, expires_ms);
    units.Mark(RecordOp::kLease, ahead + 5, kId + 2, 0);
    units.Mark(RecordOp::kLease, ahead + 6, kId, expires_ms + kMinuteMs);
    co_await UntilDurable(t->reactor_, t->p_);
    EXPECT_EQ((co_await t->p_->HighestVersion()).code(), Code::kNotMaster);
    EXPECT_EQ((co_await t->p_->CloseAt(MarkAt(t, kId + 9, ahead + 9))).code(), Code::kNotMaster);
    t->gate_->partition->Commit(2);
    co_await Sleep(*t->reactor_, 100 * kMillisecond);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "a"), "gone");
    EXPECT_EQ((co_await t->p_->RenewSnapshot(kId, expires_ms)).code(), Code::kNotMaster);
    EXPECT_EQ((co_await t->p_->ReleaseSnapshot(kId)).code(), Code::kNotMaster);
    t->gate_->partition->Commit(8);
    co_await Sleep(*t->reactor_, 100 * kMillisecond);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "a"), "2");
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 2, "a"), "gone");
    co_await Sleep(*t->reactor_, 70 * kSecond);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
    EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "a"), "gone");
  });
}

TEST_F(ClusterMarksTest, ANewMastersClockIsAboveTheMarksInItsLog) {
  leads_ = false;
  Run([](CommitGateTest* t) -> Task<void> {
    Units units(t->gate_->partition);
    const Version ahead = VersionAtMs(t->reactor_->WallMs()) + VersionAtMs(4000);
    units.Put(VersionAtMs(t->reactor_->WallMs()), "a", "1");
    units.Mark(RecordOp::kClose, ahead, kId, t->reactor_->WallMs() + kMinuteMs);
    co_await UntilDurable(t->reactor_, t->p_);
    t->gate_->leads = t->gate_->commits = true;  // the mark is not committed yet
    t->gate_->partition->BeginEpoch(t->gate_->partition->epoch() + 1, t->gate_->partition->end().lsn);
    EXPECT_OK(co_await Put(t->p_, "a", "2"));
    EXPECT_GT(co_await VersionOf(t->p_, "a"), ahead);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
    // Whether the mark was confirmed is asked again.
    EXPECT_OK((co_await t->p_->CloseAt({kId, ahead, t->reactor_->WallMs() + kMinuteMs})).status());
    EXPECT_OK(co_await t->p_->RenewSnapshot(kId, t->reactor_->WallMs() + 2 * kMinuteMs));
  });
}

// A replica whose clock is late keeps what others have released.
TEST_F(ClusterMarksTest, AFollowerReleasesTheOldestBeyondTheLimit) {
  leads_ = false;
  Run([](CommitGateTest* t) -> Task<void> {
    Units units(t->gate_->partition);
    const Version begin = VersionAtMs(t->reactor_->WallMs());
    for (size_t i = 0; i <= ClusterMarks::kMaxSnapshots; ++i) {
      units.Mark(RecordOp::kClose, begin + i, kId + i, t->reactor_->WallMs() + kMinuteMs);
    }
    co_await UntilDurable(t->reactor_, t->p_);
    t->gate_->partition->Commit(ClusterMarks::kMaxSnapshots + 1);
    co_await Sleep(*t->reactor_, kSecond);
    EXPECT_EQ(t->p_->stats().cluster_snapshots, ClusterMarks::kMaxSnapshots);
    EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "gone");
    EXPECT_EQ(co_await ValueIn(t->p_, kId + ClusterMarks::kMaxSnapshots, "a"), "none");
  });
}

// What has to be replayed makes its snapshots again, unless they are over.
TEST_F(ClusterMarksTest, AreMadeAgainAfterACrash) {
  Run([](CommitGateTest* t) -> Task<void> {
    t->gate_->commits = true;
    EXPECT_OK(co_await Put(t->p_, "a", "1"));
    EXPECT_OK(co_await t->p_->Checkpoint());
    EXPECT_OK(co_await Put(t->p_, "b", "1"));
    CloseMark over = MarkAt(t, kId + 1, co_await Ahead(t->p_));
    over.expires_at_ms = t->reactor_->WallMs() + 1000;
    // As on a follower that has not applied it: committed, and not in a checkpoint.
    t->gate_->commits = false;
    static Closing closing, closing_over;
    t->tasks_->Spawn(CloseLater(t->p_, MarkAt(t, kId, co_await Ahead(t->p_)), &closing));
    co_await Sleep(*t->reactor_, kUntilDue);
    co_await UntilDurable(t->reactor_, t->p_);
    over.version = co_await Ahead(t->p_);
    t->tasks_->Spawn(CloseLater(t->p_, over, &closing_over));
    co_await Sleep(*t->reactor_, kUntilDue);
    t->tasks_->Spawn(PutLater(t->p_, "b", "2", &t->a_));
    co_await UntilDurable(t->reactor_, t->p_);
    co_await Sleep(*t->reactor_, 2 * kSecond);
  });
  Run(
      [](CommitGateTest* t) -> Task<void> {
        t->gate_->commits = true;
        t->gate_->partition->Commit(t->gate_->recovered.durable_lsn);
        co_await Sleep(*t->reactor_, kSecond);
        EXPECT_EQ(co_await ValueIn(t->p_, kId, "b"), "1");
        EXPECT_EQ(co_await ValueIn(t->p_, kId + 1, "b"), "gone");
        EXPECT_EQ(co_await ValueOf(t->p_, "b"), "2");
        EXPECT_EQ(co_await ValueIn(t->p_, kId, "a"), "1");
      },
      /*close=*/true);
}

// The same without a gate, so that recovery itself applies the marks.
TEST_F(ClusterMarksTest, AreMadeAgainByRecovery) {
  gated_ = {1};
  Run([](CommitGateTest* t) -> Task<void> {
    Partition* p = t->engine_->partition(0);
    for (int i = 0; i < 300; ++i) EXPECT_OK(co_await Put(p, "k" + std::to_string(i), "1"));
    EXPECT_OK((co_await p->CloseAt(MarkAt(t, kId, co_await Ahead(p)))).status());
    EXPECT_OK(co_await Put(p, "k7", "2"));
    EXPECT_EQ(co_await ValueIn(p, kId, "k7"), "1");
  });
  for (int round = 0; round < 2; ++round) {
    Run([](CommitGateTest* t) -> Task<void> {
      Partition* p = t->engine_->partition(0);
      EXPECT_EQ(co_await ValueOf(p, "k7"), "2");
      // The checkpoint of the snapshot may be what the process has started from.
      const std::string seen = co_await ValueIn(p, kId, "k7");
      EXPECT_TRUE(seen == "1" || seen == "gone") << seen;
      EXPECT_OK((co_await p->CloseAt(MarkAt(t, kId + 1, co_await Ahead(p)))).status());
      EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
    });
  }
}

}  // namespace
}  // namespace pando::engine_test
