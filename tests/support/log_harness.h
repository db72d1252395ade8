// Helpers for tests of the log: a partition that appends numbered records and remembers which were
// announced as durable, and a sink that remembers and checks what recovery delivers.
//
// The text of a record names its partition and LSN, so that a test detects a record that is lost,
// duplicated, out of place, or of another partition.
//
// Threads: one reactor.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/base/codec.h"
#include "src/wal/log.h"
#include "tests/support/sim_kernel.h"

namespace pando::log_test {

inline constexpr Uuid kNode{0x1111, 0x2222};
inline Uuid PartitionUuid(uint64_t i) { return {0xabcd, i + 1}; }

inline std::string Body(const Uuid& partition, Lsn lsn, size_t filler_bytes) {
  std::string body = fmt::format("{:x}/{}:", partition.lo, lsn);
  for (size_t i = 0; i < filler_bytes; ++i) body.push_back(static_cast<char>('a' + (lsn * 7 + i) % 26));
  return body;
}

// A partition, as a Log sees it.
class Stream final : public LogConsumer {
 public:
  Stream(Log* log, const Uuid& partition, Lsn next_lsn = 1, Epoch epoch = 1)
      : log_(log),
        partition_(partition),
        next_lsn_(next_lsn),
        durable_(next_lsn - 1),
        handle_(log->AddStream(partition, epoch, next_lsn, this)) {}

  // Appends one record for each size in `fillers`, all as one unit. Returns the LSN of the last.
  Lsn Append(const std::vector<size_t>& fillers) {
    std::string unit;
    ByteWriter writer(&unit);
    const Lsn first = next_lsn_;
    for (size_t filler : fillers) {
      writer.LengthPrefixed(Body(partition_, next_lsn_, filler));
      ++next_lsn_;
    }
    const Lsn got = log_->Append(handle_, unit, static_cast<uint32_t>(fillers.size()));
    EXPECT_EQ(got, first);
    unit_ends_.push_back(next_lsn_ - 1);
    return next_lsn_ - 1;
  }
  Lsn Append(size_t filler = 20) { return Append(std::vector<size_t>{filler}); }
  void Release(Lsn lsn) {
    log_->Release(handle_, lsn);
    released_ = std::max(released_, lsn);
  }
  void SetCommit(Lsn lsn) { log_->SetCommit(handle_, lsn); }

  Task<void> UntilDurable(Reactor& reactor, Lsn lsn) {
    while (durable_ < lsn && failure_.ok()) co_await Sleep(reactor, 10 * kMicrosecond);
  }

  void OnDurable(Lsn up_to) override {
    EXPECT_TRUE(failure_.ok()) << "announced after the failure";
    EXPECT_GT(up_to, durable_) << "announced twice";
    EXPECT_LT(up_to, next_lsn_) << "announced before it was appended";
    durable_ = up_to;
    if (on_durable) on_durable(up_to);
  }
  void OnLogFailed(const Status& status) override {
    EXPECT_TRUE(failure_.ok()) << "told twice";
    failure_ = status;
  }

  const Uuid& partition() const { return partition_; }
  Lsn durable() const { return durable_; }
  Lsn last() const { return next_lsn_ - 1; }
  Lsn released() const { return released_; }
  const std::vector<Lsn>& unit_ends() const { return unit_ends_; }  // the last LSN of each Append
  const Status& failure() const { return failure_; }
  LogStream* handle() const { return handle_; }

  std::function<void(Lsn)> on_durable;

 private:
  Log* log_;
  Uuid partition_;
  Lsn next_lsn_;
  Lsn durable_;
  Lsn released_ = 0;
  std::vector<Lsn> unit_ends_;
  Status failure_;
  LogStream* handle_;
};

// What a recovery delivered.
struct Recovered final : LogReplaySink {
  struct Partition {
    Lsn first = 0, last = 0, commit = 0;
    Epoch epoch = 0;
    std::vector<Lsn> units;  // the last LSN of each batch
    bool operator==(const Partition&) const = default;
  };
  std::map<Uuid, Partition> partitions;
  std::string bad;  // the first problem with the records themselves

  Task<Status> OnBatch(const RecoveredBatch& batch) override {
    Partition& p = partitions[batch.partition];
    if (p.first == 0) {
      p.first = batch.first_lsn;
    } else if (batch.first_lsn != p.last + 1) {
      Note(fmt::format("LSN {} follows {}", batch.first_lsn, p.last));
    }
    ByteReader reader(batch.records);
    for (uint32_t i = 0; i < batch.record_count; ++i) {
      const std::string_view body = reader.LengthPrefixed();
      const Lsn lsn = batch.first_lsn + i;
      const size_t prefix = Body(batch.partition, lsn, 0).size();
      if (body.size() < prefix || body != Body(batch.partition, lsn, body.size() - prefix)) {
        Note(fmt::format("the record at LSN {} is not the one that was appended", lsn));
      }
    }
    if (!reader.ok() || reader.remaining() > 0) Note("a batch has more or fewer bytes than its records");
    p.last = batch.first_lsn + batch.record_count - 1;
    p.commit = batch.commit_lsn;
    p.epoch = batch.epoch;
    p.units.push_back(p.last);
    co_return Status();
  }
  Lsn last(const Uuid& partition) const {
    const auto at = partitions.find(partition);
    return at == partitions.end() ? 0 : at->second.last;
  }

 private:
  void Note(std::string what) {
    if (bad.empty()) bad = std::move(what);
  }
};

inline LogOptions SmallLog(std::string directory = "/wal") {
  LogOptions options;
  options.directory = std::move(directory);
  options.node = kNode;
  options.segment_bytes = 64u << 10;
  options.budget_bytes = 1u << 20;
  options.max_group_bytes = 32u << 10;
  options.sync_mode = LogOptions::SyncMode::kDataSyncWrite;
  return options;
}

// Opens and recovers a log. On failure, `*status` says why and the log is closed.
inline Task<std::unique_ptr<Log>> OpenLog(Reactor& reactor, LogOptions options, Recovered* recovered, Status* status) {
  auto opened = co_await Log::Open(reactor, std::move(options));
  if (!opened.ok()) {
    *status = opened.status();
    co_return nullptr;
  }
  std::unique_ptr<Log> log = *std::move(opened);
  *status = co_await log->Recover(recovered);
  if (!status->ok()) {
    Status ignored = co_await log->Close();
    co_return nullptr;
  }
  co_return std::move(log);
}

}  // namespace pando::log_test
