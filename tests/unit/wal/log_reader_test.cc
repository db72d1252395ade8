// How the reader treats damaged, foreign and unfinished logs: invariants L3 and V1 to V3.
#include "src/wal/log_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/base/hash.h"
#include "tests/support/log_harness.h"
#include "tests/support/old_log.h"

namespace pando {
namespace {

using log_test::kNode;
using log_test::OpenLog;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;
using testing::HasSubstr;

constexpr uint64_t kSegmentBytes = 64u << 10;

struct Reading {
  Status status;
  std::vector<LogEntry> entries;  // their views are no longer valid
  std::vector<LogSegmentInfo> segments;
  LogPosition end = 0, records_end = 0;
  bool torn = false;

  std::map<Uuid, Lsn> lasts;  // of each partition
  Lsn last(const Uuid& partition) const {
    const auto at = lasts.find(partition);
    return at == lasts.end() ? 0 : at->second;
  }
};

Task<Reading> ReadLog(Reactor* reactor, std::string directory, Uuid node) {
  Reading reading;
  LogReader::Options options;
  options.directory = std::move(directory);
  options.node = node;
  auto opened = co_await LogReader::Open(*reactor, std::move(options));
  if (!opened.ok()) {
    reading.status = opened.TakeStatus();
    co_return reading;
  }
  LogReader& reader = **opened;
  for (;;) {
    LogEntry entry;
    auto more = co_await reader.Next(&entry);
    if (!more.ok()) {
      reading.status = more.TakeStatus();
      break;
    }
    if (!*more) break;
    ForEachItem(
        entry.header, entry.payload,
        [&](const Uuid& partition, const WriteUnit& unit, uint16_t) {
          reading.lasts[partition] = unit.last_lsn();
          return true;
        },
        [](const StreamMark&) { return true; }, [](const StreamCut&) { return true; });
    entry.payload = {};
    entry.segment = nullptr;
    reading.entries.push_back(entry);
  }
  reading.segments = reader.segments();
  reading.end = reader.end();
  reading.records_end = reader.records_end();
  reading.torn = reader.torn();
  co_return reading;
}

class LogReaderTest : public testing::Test {
 protected:
  LogReaderTest() : machine_(kernel_.AddMachine()) { machine_->Boot(); }
  SimDisk& disk() { return machine_->disk(); }
  Reading Read(Uuid node = {}) {
    return *kernel_.RunTask(*machine_->reactor(), ReadLog(machine_->reactor(), "/wal", node));
  }
  static std::string PathOf(uint64_t segment) { return "/wal/" + SegmentFileName(segment); }

  // Writes a log with the real Log: `appends` groups of two partitions each.
  void WriteLog(int appends, size_t filler = 100) {
    Status status = *kernel_.RunTask(*machine_->reactor(), Write(machine_->reactor(), appends, filler));
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  static Task<Status> Write(Reactor* reactor, int appends, size_t filler) {
    Recovered recovered;
    Status status;
    auto log = co_await OpenLog(*reactor, SmallLog(), &recovered, &status);
    if (!log) co_return status;
    Stream a(log.get(), PartitionUuid(0), recovered.last(PartitionUuid(0)) + 1);
    Stream b(log.get(), PartitionUuid(1), recovered.last(PartitionUuid(1)) + 1);
    for (int i = 0; i < appends; ++i) {
      a.Append({filler, 3});
      b.Append(filler);
      co_await a.UntilDurable(*reactor, a.last());
      co_await b.UntilDurable(*reactor, b.last());
    }
    co_return co_await log->Close();
  }

  // -- hand-made logs: segment images in which the test controls every group
  void StartSegment(uint64_t number) {
    number_ = number;
    image_.assign(kSegmentBytes, '\0');
    EncodeSegmentHeader(kNode, number, kSegmentBytes, image_.data());
    offset_ = kFirstGroupOffset;
  }
  struct Given {
    LogPosition durable = 0;
    int partition = 0;
    Lsn lsn = 0;  // 0 = no records
    uint32_t flags = 0;
    size_t bytes = 50;
    LogPosition previous_end = 0;  // 0: the end of the previous batch
    bool lost = false;             // never reached the disk
  };
  // Puts a batch with one unit. Returns its position and sets `end_` to its end.
  LogPosition Put(Given g) {
    BatchHeader h = HeaderOf(g);
    const std::string records(g.bytes, 'r');
    std::string payload(g.lsn > 0 ? UnitBytes(records.size()) : 0, '\0');
    if (g.lsn > 0) {
      WriteUnit unit{1, g.lsn, 1, 0, 0, records};
      unit.chain_after = UnitChain(unit);
      EncodeUnit(PartitionUuid(g.partition), unit, 0, payload.data());
      h.record_count = 1;
    }
    std::string bytes(BatchBytes(payload.size()), '\0');
    bytes.replace(kBatchOverhead, payload.size(), payload);
    h.previous_checksum = (g.flags & kBatchCut) != 0 ? 0 : checksum_;
    checksum_ = SealBatch(h, LogChecksumSeed(kNode), payload.size(), bytes.data());
    return Place(g, h, bytes, /*ends_group=*/true);
  }
  // The same in format 2. `more`: another batch of the group follows.
  LogPosition PutOld(Given g, bool more = false) {
    BatchHeader h = HeaderOf(g);
    if (more) h.flags &= ~kBatchEndsGroup;
    std::string records;
    if (g.lsn > 0) {
      h.partition = PartitionUuid(g.partition);
      h.record_count = 1;
      h.first_lsn = g.lsn;
      records = std::string(g.bytes, 'r');
    }
    const std::string bytes = log_test::EncodeOldBatch(h, LogChecksumSeed(kNode), records);
    checksum_ = 0;
    return Place(g, h, bytes, !more);
  }
  BatchHeader HeaderOf(const Given& g) const {
    BatchHeader h{};
    h.flags = g.flags | kBatchEndsGroup;
    h.segment_number = number_;
    h.position = MakePosition(number_, offset_);
    h.previous_end = g.previous_end != 0 ? g.previous_end : end_;
    h.durable_position = g.durable;
    return h;
  }
  LogPosition Place(const Given& g, const BatchHeader& h, const std::string& bytes, bool ends_group) {
    if (!g.lost) image_.replace(offset_, bytes.size(), bytes);
    offset_ += bytes.size();
    if (ends_group) {
      end_ = h.position + bytes.size();
      offset_ = AlignUp(offset_, kBlockBytes);
    }
    return h.position;
  }
  void FinishSegment() { disk().WriteAll(PathOf(number_), image_); }

  SimKernel kernel_{5};
  SimMachine* machine_;
  uint64_t number_ = 0, offset_ = 0;
  std::string image_;
  LogPosition end_ = 0;
  uint64_t checksum_ = 0;  // of the last batch
};

TEST_F(LogReaderTest, ReadsWhatWasWritten) {
  WriteLog(30);
  Reading r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 60u);
  EXPECT_EQ(r.last(PartitionUuid(1)), 30u);
  EXPECT_FALSE(r.torn);
  EXPECT_GT(r.end, r.records_end) << "the closing position";
  EXPECT_GT(PositionSegment(r.end), 1u) << "the test must cross segments";
}

TEST_F(LogReaderTest, AnEmptyDirectoryIsAnEmptyLog) {
  kernel_.RunTask(*machine_->reactor(), MakeDirectory(*machine_->reactor(), "/wal"));
  Reading r = Read();
  EXPECT_TRUE(r.status.ok());
  EXPECT_EQ(r.end, 0u);
}

TEST_F(LogReaderTest, AMissingDirectoryIsAnError) { EXPECT_FALSE(Read().status.ok()); }

TEST_F(LogReaderTest, AnotherNodesSegmentIsRefused) {
  WriteLog(3);
  EXPECT_TRUE(Read(kNode).status.ok());
  Reading r = Read(Uuid{9, 9});
  EXPECT_EQ(r.status.code(), Code::kCorruption);
  EXPECT_THAT(r.status.message(), HasSubstr("belongs to node"));
  EXPECT_THAT(r.status.message(), HasSubstr(SegmentFileName(1)));
}

// Flips every bit that was ever written. Either the log is refused with the name of the file, or
// all of it is read.
TEST_F(LogReaderTest, AFlippedBitAnywhereIsSeenOrHarmless) {
  WriteLog(12, 30);
  const Reading whole = Read();
  ASSERT_TRUE(whole.status.ok());
  ASSERT_EQ(PositionSegment(whole.records_end), 1u);
  const SimDisk image = disk();
  const std::string before = disk().ReadAll(PathOf(1));
  // The bytes that carry data: the header block, and each batch up to the end of its payload.
  std::vector<bool> covered(before.size());
  std::fill(covered.begin(), covered.begin() + kBlockBytes, true);
  for (const LogEntry& e : whole.entries) {
    if (e.header.segment_number != 1) continue;
    const auto from = covered.begin() + static_cast<ptrdiff_t>(e.offset);
    std::fill(from, from + static_cast<ptrdiff_t>(BatchOverhead(e.header) + e.header.payload_bytes), true);
  }
  const uint64_t closing = whole.entries.back().offset;
  const uint64_t used = PositionOffset(whole.end);
  int refused = 0;
  for (uint64_t byte = 0; byte < used; byte += byte % 64 < 8 ? 1 : 7) {
    disk() = image;
    disk().FlipBit(PathOf(1), byte, byte % 8);
    Reading r = Read();
    if (!r.status.ok()) {
      ++refused;
      EXPECT_EQ(r.status.code(), Code::kCorruption);
      EXPECT_TRUE(covered[byte]) << byte;
      EXPECT_THAT(r.status.message(), HasSubstr(SegmentFileName(1)));
      EXPECT_THAT(r.status.message(), HasSubstr("offset"));
    } else {
      EXPECT_TRUE(!covered[byte] || byte >= closing) << "byte " << byte << " was flipped and not detected";
      EXPECT_EQ(r.last(PartitionUuid(0)), 24u);
      EXPECT_EQ(r.last(PartitionUuid(1)), 12u);
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(LogReaderTest, DamageInAnEarlierSegmentIsCorruption) {
  WriteLog(30);
  disk().FlipBit(PathOf(1), kFirstGroupOffset + 2 * kBlockBytes + 40);
  Reading r = Read();
  EXPECT_EQ(r.status.code(), Code::kCorruption);
  EXPECT_THAT(r.status.message(), HasSubstr(SegmentFileName(1)));
  EXPECT_THAT(r.status.message(), HasSubstr(fmt::format("offset {}", kFirstGroupOffset + 2 * kBlockBytes)));
}

TEST_F(LogReaderTest, ATruncatedSegmentIsCorruption) {
  for (uint64_t bytes : {uint64_t{0}, uint64_t{100}, uint64_t{8192}, kSegmentBytes - 4096}) {
    SCOPED_TRACE(bytes);
    WriteLog(30);
    const SimDisk image = disk();
    for (uint64_t segment : {1, 2}) {
      disk().WriteAll(PathOf(segment), disk().ReadAll(PathOf(segment)).substr(0, bytes));
      Reading r = Read();
      EXPECT_EQ(r.status.code(), Code::kCorruption) << r.status.ToString();
      EXPECT_THAT(r.status.message(), HasSubstr(SegmentFileName(segment)));
      disk() = image;
    }
  }
}

TEST_F(LogReaderTest, AMissingSegmentInTheMiddleIsCorruption) {
  WriteLog(60);
  const Reading whole = Read();
  ASSERT_GE(PositionSegment(whole.records_end), 3u);
  const std::string path = PathOf(2);
  kernel_.RunTask(*machine_->reactor(), RemoveFile(*machine_->reactor(), path));
  Reading r = Read();
  EXPECT_EQ(r.status.code(), Code::kCorruption);
  EXPECT_THAT(r.status.message(), HasSubstr(SegmentFileName(1)));
}

TEST_F(LogReaderTest, ARenamedSegmentIsCorruption) {
  WriteLog(60);
  std::string from = PathOf(2), to = PathOf(99);
  kernel_.RunTask(*machine_->reactor(), RenameFile(*machine_->reactor(), from, to));
  EXPECT_EQ(Read().status.code(), Code::kCorruption);
}

TEST_F(LogReaderTest, ATornTailIsCutAndALaterDurablePositionMakesItCorruption) {
  for (bool stated : {false, true}) {
    StartSegment(1);
    end_ = 0;
    checksum_ = 0;
    Put({.lsn = 1});
    const LogPosition first_end = end_;
    Put({.durable = first_end, .lsn = 2, .lost = true});
    // Submitted while the lost batch was in flight or, when `stated`, after it was announced.
    Put({.durable = stated ? end_ : first_end, .lsn = 3});
    FinishSegment();
    Reading r = Read();
    if (stated) {
      EXPECT_EQ(r.status.code(), Code::kCorruption);
    } else {
      EXPECT_TRUE(r.status.ok()) << r.status.ToString();
      EXPECT_TRUE(r.torn);
      EXPECT_EQ(r.end, first_end);
      EXPECT_EQ(r.last(PartitionUuid(0)), 1u);
    }
  }
}

// V2: all that follows decides between torn tail and corruption, also what is in later segments.
TEST_F(LogReaderTest, TheNextSegmentCanProveDamageAtTheEndOfThisOne) {
  StartSegment(1);
  Put({.lsn = 1});
  const LogPosition first_end = end_;
  Put({.durable = first_end, .lsn = 2, .lost = true});
  FinishSegment();
  const LogPosition lost_end = end_;
  for (bool stated : {false, true}) {
    end_ = lost_end;
    StartSegment(2);
    Put({.durable = first_end, .partition = 1, .lsn = 1});
    Put({.durable = stated ? lost_end : first_end, .partition = 1, .lsn = 2});
    FinishSegment();
    Reading r = Read();
    EXPECT_EQ(r.status.code(), stated ? Code::kCorruption : Code::kOk) << r.status.ToString();
    if (!stated) {
      EXPECT_EQ(r.end, first_end);
      EXPECT_EQ(r.segments[1].use, LogSegmentInfo::Use::kDead);
    }
  }
}

// A batch after the cut is intact, and would fit the chains around it. It must stay dead forever.
TEST_F(LogReaderTest, WhatARecoveryCutNeverComesBack) {
  StartSegment(1);
  Put({.lsn = 1});
  const LogPosition first_end = end_;
  Put({.durable = first_end, .lsn = 2, .bytes = 3000, .lost = true});
  Put({.durable = first_end, .partition = 1, .lsn = 1});
  FinishSegment();
  EXPECT_EQ(Read().end, first_end);

  WriteLog(2);  // recovers first
  Reading r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 5u);
  EXPECT_EQ(r.last(PartitionUuid(1)), 2u);
  EXPECT_EQ(r.segments[0].ends_at, first_end);

  // It stays dead even when the lost group before it looks intact again.
  std::string segment = disk().ReadAll(PathOf(1));
  checksum_ = 0;
  end_ = first_end;
  image_ = segment;
  number_ = 1;
  offset_ = kFirstGroupOffset + kBlockBytes;
  Put({.durable = first_end, .lsn = 2, .bytes = 3000});
  FinishSegment();
  r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 5u);

  // Damage before the cut is corruption, since the cut states that everything before it was intact.
  disk().FlipBit(PathOf(1), kFirstGroupOffset + 30);
  EXPECT_EQ(Read().status.code(), Code::kCorruption);
}

TEST_F(LogReaderTest, SegmentsBetweenACutAndItsPlaceAreDead) {
  StartSegment(1);
  Put({.lsn = 1});
  const LogPosition first_end = end_;
  Put({.durable = first_end, .lsn = 2, .lost = true});
  FinishSegment();
  StartSegment(2);
  Put({.durable = first_end, .partition = 1, .lsn = 1});
  FinishSegment();
  StartSegment(3);
  Put({.durable = first_end, .flags = kBatchCut, .previous_end = first_end});
  const LogPosition cut_end = end_;
  Put({.durable = cut_end, .partition = 2, .lsn = 1});
  FinishSegment();
  Reading r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 1u);
  EXPECT_EQ(r.last(PartitionUuid(1)), 0u);
  EXPECT_EQ(r.last(PartitionUuid(2)), 1u);
  EXPECT_EQ(r.segments[1].use, LogSegmentInfo::Use::kDead);

  // V3: they need not be readable, and neither need what is behind the place of the cut.
  disk().FlipBit(PathOf(2), 20);
  disk().WriteAll(PathOf(1), disk().ReadAll(PathOf(1)).substr(0, AlignUp(PositionOffset(first_end), kBlockBytes)));
  r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 1u);
  EXPECT_EQ(r.last(PartitionUuid(2)), 1u);
  // What is before it must be.
  disk().WriteAll(PathOf(1), disk().ReadAll(PathOf(1)).substr(0, 2 * kBlockBytes - 1));
  EXPECT_EQ(Read().status.code(), Code::kCorruption);
}

// The group in the second segment says that the log begins with it. Only a cut may say so.
TEST_F(LogReaderTest, NothingFollowsAFirstSegmentWithoutABatch) {
  StartSegment(2);
  FinishSegment();
  StartSegment(3);
  Put({.lsn = 1});
  FinishSegment();
  Reading r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 0u);
  EXPECT_TRUE(r.torn);
  EXPECT_EQ(r.segments[1].use, LogSegmentInfo::Use::kDead);

  WriteLog(2);  // recovers first
  r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.last(PartitionUuid(0)), 4u);
}

// F1: a segment number is used once, so what a recycled file held under its old number is no data.
TEST_F(LogReaderTest, AStaleBatchOfARecycledSegmentIsNoData) {
  StartSegment(1);
  Put({.lsn = 1});
  const std::string old = image_;
  const LogPosition durable = end_;
  end_ = 0;
  StartSegment(7);
  image_.replace(kBlockBytes, old.size() - kBlockBytes, old, kBlockBytes, old.size() - kBlockBytes);
  FinishSegment();
  Reading r = Read();
  EXPECT_TRUE(r.status.ok());
  EXPECT_TRUE(r.entries.empty());
  EXPECT_FALSE(r.torn) << "a stale batch is not a sign of a torn write";
  EXPECT_LT(durable, MakePosition(7, 0));
}

TEST_F(LogReaderTest, BrokenChainsAreCorruption) {
  auto status_of = [&](auto put) {
    end_ = 0;
    checksum_ = 0;
    StartSegment(1);
    Put({.lsn = 1});
    put();
    FinishSegment();
    return Read().status;
  };
  EXPECT_TRUE(status_of([&] { Put({.durable = end_, .lsn = 2}); }).ok());
  EXPECT_THAT(status_of([&] {
                checksum_ ^= 1;
                Put({.durable = end_, .lsn = 2});
              }).message(),
              HasSubstr("does not match the checksum"));
  EXPECT_THAT(status_of([&] { Put({.lsn = 2, .previous_end = end_ - 8}); }).message(), HasSubstr("ends at"));
}

// F2: groups of several batches, as format 2 has them, and batches of this format after them.
TEST_F(LogReaderTest, GroupsOfAnOldFormatAreRead) {
  StartSegment(1);
  PutOld({.lsn = 1, .flags = kBatchStartsStream}, /*more=*/true);
  PutOld({.partition = 1, .lsn = 1, .flags = kBatchStartsStream});
  PutOld({.durable = end_, .lsn = 2}, /*more=*/true);
  PutOld({.durable = end_, .partition = 1, .lsn = 2});
  Put({.durable = end_, .partition = 1, .lsn = 3});
  FinishSegment();
  Reading r = Read();
  ASSERT_TRUE(r.status.ok()) << r.status.ToString();
  EXPECT_EQ(r.entries.size(), 5u);
  EXPECT_EQ(r.last(PartitionUuid(0)), 2u);
  EXPECT_EQ(r.last(PartitionUuid(1)), 3u);
  EXPECT_EQ(r.end, end_);
}

TEST_F(LogReaderTest, ALaterFormatVersionIsNamed) {
  StartSegment(1);
  FinishSegment();
  EXPECT_TRUE(Read().status.ok());
  StoreLE<uint16_t>(image_.data() + offsetof(SegmentHeader, format_version), 9);
  StoreLE(image_.data(), Hash64(std::string_view(image_).substr(8, kBlockBytes - 8)));
  FinishSegment();
  Reading r = Read();
  EXPECT_EQ(r.status.code(), Code::kVersion);
  EXPECT_THAT(r.status.message(), HasSubstr("version 9"));
}

TEST_F(LogReaderTest, AFailedReadIsNoTornTail) {
  WriteLog(30);
  DiskFault fault;
  fault.kind = IoOp::Kind::kRead;
  fault.path_contains = SegmentFileName(2);
  fault.first_byte = kFirstGroupOffset + 20000;
  fault.last_byte = fault.first_byte;
  machine_->AddFault(fault);
  EXPECT_EQ(Read().status.code(), Code::kIoError);
}

}  // namespace
}  // namespace pando
