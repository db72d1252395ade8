// LR2: segments that are kept for readers only do not keep a log from being opened, however they are
// damaged. Segments that recovery needs do.
#include <gtest/gtest.h>

#include "tests/unit/wal/log_fixture.h"

namespace pando::log_test {
namespace {

constexpr Lsn kReleased = 40, kLast = 60;

// Both partitions write in turn. Everything up to kReleased is released.
struct Write {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
    for (Lsn lsn = 1; lsn <= kLast; ++lsn) {
      for (Stream* stream : {&a, &b}) {
        stream->Append(4000);
        co_await stream->UntilDurable(reactor, lsn);
        stream->SetCommit(lsn);
        if (lsn <= kReleased) stream->Release(lsn);
      }
    }
    EXPECT_GT(log.stats().retained_bytes, 3 * (64u << 10));
  }
};

// What was not released is there, and more can be written.
struct Continue {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered& recovered) {
    EXPECT_TRUE(recovered.broken.empty());
    for (int p = 0; p < 2; ++p) {
      const Uuid uuid = PartitionUuid(p);
      EXPECT_EQ(recovered.last(uuid), *last);
      for (Lsn lsn = kReleased + 1; lsn <= *last; ++lsn) {
        EXPECT_TRUE(recovered.partitions[uuid].found.contains(lsn)) << "LSN " << lsn << " of partition " << p;
      }
    }
    Stream a(&log, PartitionUuid(0), *last + 1, 1, recovered.chain(PartitionUuid(0)));
    Stream b(&log, PartitionUuid(1), *last + 1, 1, recovered.chain(PartitionUuid(1)));
    log.ReleaseUnknownStreams();
    ++*last;
    for (Stream* stream : {&a, &b}) {
      stream->Append(4000);
      co_await stream->UntilDurable(reactor, *last);
    }
  }
  Lsn* last;
};

class RetainedDamageTest : public LogTest {
 protected:
  RetainedDamageTest() {
    FLAGS_minloglevel = 3;
    options_.retained_bytes = 8 * options_.segment_bytes;
    EXPECT_TRUE(Use(options_, Write()).ok());
    Reboot(/*power_loss=*/false);
    for (const std::string& path : disk().AllFiles()) {
      if (path.starts_with("/wal/segment-")) segments_.push_back(path);
    }
    EXPECT_GE(segments_.size(), 6u);
    written_ = disk();
  }
  SimDisk& disk() { return machine_->disk(); }
  void Flip(size_t segment, size_t offset) {
    std::string bytes = disk().ReadAll(segments_[segment]);
    bytes[offset] ^= 1;
    disk().WriteAll(segments_[segment], bytes);
  }
  void ExpectOpens() {
    Lsn last = kLast;
    for (int start = 0; start < 3; ++start) {
      const Status status = Use(options_, Continue{&last});
      EXPECT_TRUE(status.ok()) << status.ToString();
      Reboot(/*power_loss=*/start == 1);
    }
    EXPECT_EQ(last, kLast + 3);
  }
  void ExpectRefused() {
    Lsn last = kLast;
    EXPECT_EQ(Use(options_, Continue{&last}).code(), Code::kCorruption);
    Reboot(/*power_loss=*/false);
  }

  LogOptions options_ = SmallLog();
  std::vector<std::string> segments_;  // sorted
  SimDisk written_;
};

TEST_F(RetainedDamageTest, Intact) { ExpectOpens(); }

TEST_F(RetainedDamageTest, DamagedBatches) {
  for (const size_t segment : {0, 1, 2}) {
    for (const size_t offset : {size_t{5000}, size_t{30'000}}) {
      disk() = written_;
      Flip(segment, offset);
      ExpectOpens();
    }
  }
  disk() = written_;
  Flip(0, 5000);
  Flip(2, 20'000);
  ExpectOpens();
}

TEST_F(RetainedDamageTest, DamagedHeaders) {
  for (const size_t segment : {0, 2}) {
    disk() = written_;
    Flip(segment, 20);
    ExpectOpens();
  }
}

TEST_F(RetainedDamageTest, ATruncatedFile) {
  disk().WriteAll(segments_[1], disk().ReadAll(segments_[1]).substr(0, 20'480));
  ExpectOpens();
}

TEST_F(RetainedDamageTest, AMissingFile) {
  disk().RemoveTree(segments_[1]);
  ExpectOpens();
}

// The budget does not count here: what was not released must not be given up.
TEST_F(RetainedDamageTest, DamageInWhatIsNeeded) {
  int refused = 0;
  for (size_t segment = 0; segment + 1 < segments_.size(); ++segment) {
    disk() = written_;
    const std::string bytes = disk().ReadAll(segments_[segment]);
    Lsn last = kLast;
    Flip(segment, 5000);
    const Status status = Use(options_, Continue{&last});  // expects all that was not released
    EXPECT_TRUE(status.ok() || status.code() == Code::kCorruption) << status.ToString();
    refused += !status.ok();
    Reboot(/*power_loss=*/false);
  }
  EXPECT_GE(refused, 2);
  disk() = written_;
  Flip(segments_.size() - 3, 20);
  ExpectRefused();
}

// A segment begins while the last batch of the one before it is still on its way to the disk. What the marks in
// its first batch say must exist is then not all that was acknowledged later.
struct WriteAcrossSegments {
  Task<void> operator()(Reactor& reactor, Log& log, Recovered&) {
    Stream a(&log, PartitionUuid(0)), b(&log, PartitionUuid(1));
    Lsn lsn = 0;
    do {
      ++lsn;
      for (Stream* stream : {&a, &b}) {
        stream->Append(4000);
        co_await stream->UntilDurable(reactor, lsn);
        stream->SetCommit(lsn);
        stream->Release(lsn);
      }
      // Until the segment has room for a small unit, but for no large one.
    } while (lsn < 30 || PositionOffset(log.written_end()) < 36'000 || PositionOffset(log.written_end()) > 48'000);
    co_await Sleep(reactor, 100 * kMillisecond);  // the next segments are prepared, and the log is idle
    const uint64_t segment = PositionSegment(log.written_end());
    if (at_once) machine->HangDisk(SimMachine::DiskHang::kAll);
    a.Append(4000);
    if (at_once) {
      co_await Sleep(reactor, kMillisecond);
    } else {
      co_await a.UntilDurable(reactor, lsn + 1);
      a.SetCommit(lsn + 1);
      a.Release(lsn + 1);
    }
    b.on_durable = [this](Lsn) { *killed = machine->disk(); };
    b.Append(30'000);
    co_await Sleep(reactor, kMillisecond);
    EXPECT_EQ(PositionSegment(log.written_end()), segment + 1);
    if (at_once) machine->ReleaseDisk();
    co_await b.UntilDurable(reactor, lsn + 1);
    EXPECT_EQ(a.durable(), lsn + 1) << "it was acknowledged";
    *segment_of_a = segment;
  }
  SimMachine* machine;
  bool at_once;
  SimDisk* killed;
  uint64_t* segment_of_a;
};

struct Nothing {
  Task<void> operator()(Reactor&, Log&, Recovered&) { co_return; }
};

TEST_F(RetainedDamageTest, DamageBeforeASegmentThatBeganTooEarly) {
  for (const bool at_once : {false, true}) {
    disk().RemoveTree("/wal");
    SimDisk killed;
    uint64_t segment = 0;
    EXPECT_TRUE(Use(options_, WriteAcrossSegments{machine_, at_once, &killed, &segment}).ok());
    Reboot(/*power_loss=*/false);
    disk() = killed;
    const std::string path = "/wal/" + SegmentFileName(segment);
    std::string bytes = disk().ReadAll(path);
    bytes[20] ^= 1;
    disk().WriteAll(path, bytes);
    // With at_once, nothing behind the damage says that the last write of the first partition was there.
    EXPECT_EQ(Use(options_, Nothing()).code(), at_once ? Code::kCorruption : Code::kOk);
    Reboot(/*power_loss=*/false);
  }
}

}  // namespace
}  // namespace pando::log_test
