#include "tools/kvbench/failover_load.h"

#include <algorithm>
#include <bit>

#include "src/base/check.h"
#include "src/base/hash_ranges.h"
#include "tools/kvbench/data.h"

namespace pando::bench {

namespace {

constexpr int64_t kAttemptMs = 2000;
constexpr int64_t kPauseMs = 3;  // between two rounds of attempts
constexpr int64_t kReadBackMs = 30'000;
constexpr unsigned kWriterBits = 32;  // a writer has so many bits of the index for its own records
constexpr uint32_t kReadBackThreads = 8;

}  // namespace

uint32_t PartitionOf(std::string_view key, uint32_t partitions) {
  return RangeTable::Equal(partitions).PartitionOf(key);
}

FailoverLoad::FailoverLoad(const Protocol& protocol, LoadOptions options)
    : protocol_(protocol), options_(std::move(options)) {
  CHECK(std::has_single_bit(options_.partitions)) << options_.partitions;
  for (uint32_t p = 0; p < options_.partitions; ++p) partitions_.push_back(std::make_unique<Partition>());
  for (uint32_t p = 0; p < options_.partitions; ++p) {
    for (uint32_t w = 0; w < options_.writers_per_partition; ++w) {
      threads_.emplace_back(&FailoverLoad::Write, this, p, p * options_.writers_per_partition + w);
    }
    if (options_.readers) threads_.emplace_back(&FailoverLoad::Read, this, p);
  }
}

FailoverLoad::~FailoverLoad() { Stop(); }

void FailoverLoad::Stop() {
  stopping_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

// Waits for the time of the next request. What was missed is not made up for.
void FailoverLoad::Pace(int64_t* due, double per_s) const {
  *due = std::max(*due + static_cast<int64_t>(1e9 / per_s), MonotonicNs());
  const int64_t wait = *due - MonotonicNs();
  if (wait > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(wait));
}

void FailoverLoad::Write(uint32_t partition, uint32_t writer) {
  BlockingClient client(protocol_, options_.shape, options_.ports, partition, kAttemptMs);
  const double per_s = options_.rate / (options_.partitions * options_.writers_per_partition);
  Partition& mine = *partitions_[partition];
  int64_t due = MonotonicNs();
  for (uint64_t index = options_.first_index + (uint64_t{writer} << kWriterBits); !stopping_; ++index) {
    if (PartitionOf(MakeKey(index, options_.shape.key_bytes), options_.partitions) != partition) continue;
    Pace(&due, per_s);
    while (!stopping_ && !client.Put(index).ok()) {
      if (client.TriedAll()) SleepMs(kPauseMs);
    }
    if (stopping_) return;  // it may not have been acknowledged
    std::lock_guard lock(mine.mutex);
    mine.records.push_back(index);
    mine.writes.push_back(MonotonicNs());
  }
}

void FailoverLoad::Read(uint32_t partition) {
  BlockingClient client(protocol_, options_.shape, options_.ports, partition, kAttemptMs);
  Partition& mine = *partitions_[partition];
  Random random(options_.first_index + partition);
  int64_t due = MonotonicNs();
  while (!stopping_) {
    Pace(&due, options_.rate / options_.partitions);
    uint64_t index = 0;
    {
      std::lock_guard lock(mine.mutex);
      if (mine.records.empty()) continue;
      // Mostly one of the newest: those are the ones that a new master may lack.
      const size_t newest = std::min<size_t>(mine.records.size(), random.Below(4) > 0 ? 16 : SIZE_MAX);
      index = mine.records[mine.records.size() - 1 - random.Below(newest)];
    }
    Status status;
    while (!stopping_) {
      status = client.Get(index);
      if (status.ok() || status.code() == Code::kNotFound || status.code() == Code::kCorruption) break;
      if (client.TriedAll()) SleepMs(kPauseMs);
    }
    if (stopping_) return;
    if (!status.ok() && wrong_reads_++ == 0) {
      std::lock_guard lock(wrong_mutex_);
      first_wrong_ = status.message();
    }
    std::lock_guard lock(mine.mutex);
    mine.reads.push_back(MonotonicNs());
  }
}

bool FailoverLoad::AllServedSince(int64_t when, const std::vector<uint32_t>& partitions) const {
  return std::all_of(partitions.begin(), partitions.end(), [&](uint32_t p) {
    const Partition& partition = *partitions_[p];
    std::lock_guard lock(partition.mutex);
    const bool written = !partition.writes.empty() && partition.writes.back() > when;
    return written && (!options_.readers || (!partition.reads.empty() && partition.reads.back() > when));
  });
}

std::vector<int64_t> FailoverLoad::WritesOf(uint32_t partition) const { return partitions_[partition]->writes; }
std::vector<int64_t> FailoverLoad::ReadsOf(uint32_t partition) const { return partitions_[partition]->reads; }

std::vector<uint64_t> FailoverLoad::Acknowledged() const {
  std::vector<uint64_t> all;
  for (const auto& partition : partitions_) {
    all.insert(all.end(), partition->records.begin(), partition->records.end());
  }
  return all;
}

Result<ReadBackResult> ReadBack(const Protocol& protocol, const LoadOptions& options,
                                const std::vector<uint64_t>& records, bool write_first) {
  std::vector<std::vector<uint64_t>> by_partition(options.partitions);
  for (uint64_t index : records) {
    by_partition[PartitionOf(MakeKey(index, options.shape.key_bytes), options.partitions)].push_back(index);
  }
  std::mutex mutex;  // of the following two
  ReadBackResult result;
  Status failed;
  auto try_for_long = [](BlockingClient& client, auto attempt) {
    const int64_t deadline = MonotonicNs() + kReadBackMs * 1'000'000;
    while (true) {
      Status status = attempt(client);
      if (status.ok() || status.code() == Code::kNotFound || status.code() == Code::kCorruption) return status;
      if (MonotonicNs() > deadline) return Error(Code::kDeadline, "not within 30 s: {}", status.message());
      if (client.TriedAll()) SleepMs(kPauseMs);
    }
  };
  auto read = [&](uint32_t thread, uint32_t threads) {
    for (uint32_t p = 0; p < options.partitions; ++p) {
      BlockingClient client(protocol, options.shape, options.ports, p, kAttemptMs);
      if (write_first) (void)try_for_long(client, [&](BlockingClient& c) { return c.Put(UINT64_MAX - thread); });
      for (size_t i = thread; i < by_partition[p].size(); i += threads) {
        const uint64_t index = by_partition[p][i];
        Status status = try_for_long(client, [&](BlockingClient& c) { return c.Get(index); });
        std::lock_guard lock(mutex);
        ++result.read;
        if (status.code() == Code::kDeadline && failed.ok()) failed = std::move(status);
        if (!failed.ok()) return;
        if (!status.ok() && result.lost++ == 0) result.first_lost = status.message();
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kReadBackThreads; ++t) threads.emplace_back(read, t, kReadBackThreads);
  for (std::thread& thread : threads) thread.join();
  if (!failed.ok()) return failed;
  return Result<ReadBackResult>(std::move(result));
}

}  // namespace pando::bench
