// FailoverLoad: clients that write and read while servers die, and that know when each partition answered. Each
// writer stores new records of one partition, each once, and tries until it is acknowledged. Each reader reads
// acknowledged records of one partition: one that is not there was lost.
//
// Threads: the object belongs to the main thread; writers and readers have a thread each. An AckedRecords is shared.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tools/kvbench/blocking_client.h"
#include "tools/kvbench/engines/drive.h"

namespace pando::bench {

struct LoadOptions {
  std::vector<uint16_t> ports;
  uint32_t partitions = 1;
  uint32_t writers_per_partition = 2;
  bool readers = true;       // one per partition
  double rate = 2000;        // of writes to all partitions, as long as they are acknowledged; as many reads
  uint64_t first_index = 0;  // of the records that are written; 2^40 of them belong to this load
  RecordShape shape;
};

// The partition that a key belongs to, in a cluster that was created with so many, a power of two, and whose partitions
// were not split: kvbench creates its own ones.
uint32_t PartitionOf(std::string_view key, uint32_t partitions);

class FailoverLoad {
 public:
  // `protocol` outlives the object.
  FailoverLoad(const Protocol& protocol, LoadOptions options);
  ~FailoverLoad();

  void Stop();  // returns when all threads have ended
  // True if each of the partitions has had a write acknowledged since then, and a read answered.
  bool AllServedSince(int64_t when, const std::vector<uint32_t>& partitions) const;

  // After Stop. Times in ascending order.
  std::vector<int64_t> WritesOf(uint32_t partition) const;
  std::vector<int64_t> ReadsOf(uint32_t partition) const;
  std::vector<uint64_t> Acknowledged() const;  // the records
  uint64_t wrong_reads() const { return wrong_reads_; }
  std::string first_wrong() const { return first_wrong_; }

 private:
  struct Partition {
    mutable std::mutex mutex;
    std::vector<uint64_t> records;
    std::vector<int64_t> writes, reads;
  };
  void Write(uint32_t partition, uint32_t writer);
  void Read(uint32_t partition);
  void Pace(int64_t* due, double per_s) const;

  const Protocol& protocol_;
  const LoadOptions options_;
  std::vector<std::unique_ptr<Partition>> partitions_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> wrong_reads_{0};
  std::mutex wrong_mutex_;
  std::string first_wrong_;
  std::vector<std::thread> threads_;
};

struct ReadBackResult {
  uint64_t read = 0, lost = 0;
  std::string first_lost;
};
// Reads all of the records, each from the server that is master of it now. At a server that takes reads without being
// master (`write_first`), a write finds the master first. kDeadline: a record could not be read within 30 s.
Result<ReadBackResult> ReadBack(const Protocol& protocol, const LoadOptions& options,
                                const std::vector<uint64_t>& records, bool write_first);

}  // namespace pando::bench
