// Drive: the operations that every engine runs, and the record of their results. They are the same
// for all engines.
//
// Threads: all clients of a run share an OpSource or a LoadSource. An OpClient and a DriveTally
// belong to one thread each.
//
// An engine has one OpClient for each concurrent client. The client draws operations from the
// OpSource, runs them, and records each in a DriveTally. Closed loop: a client's next operation
// begins when its last one has ended. Open loop (rate > 0): operation i is due at start + i / rate,
// whatever the engine does. Its latency counts from then, so a stall is charged to every operation
// that it delayed (no coordinated omission).
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/metrics/histogram.h"
#include "tools/kvbench/protocol.h"
#include "tools/kvbench/workload.h"

namespace pando::bench {

int64_t MonotonicNs();

struct DriveSpec {
  Mix mix;
  RecordShape shape;
  uint64_t records = 0;  // in the store when the run begins
  uint32_t clients = 64;
  double seconds = 10;
  double rate = 0;  // > 0: open loop, operations per second over all clients
  // Get every record once, to warm the caches, and ignore `mix` and `seconds`.
  bool read_all_once = false;
  uint64_t seed = 1;
  uint32_t check_every = 64;  // compare one value out of this many byte for byte
};

struct LoadSpec {
  RecordShape shape;
  uint64_t records = 0;
  bool sorted = false;  // in key order; else in index order, which is all over the key space
  uint32_t batch_records = 100;
  uint32_t batches_in_flight = 32;
  uint64_t seed = 1;
};

// When operation i of an open loop is due. Each time is computed from i, so the times do not drift.
class OpenLoopSchedule {
 public:
  OpenLoopSchedule(double rate, int64_t start_ns, double seconds)
      : interval_ns_(1e9 / rate), start_ns_(start_ns), count_(static_cast<uint64_t>(rate * seconds)) {}
  uint64_t count() const { return count_; }  // operations due within the window
  int64_t DueNs(uint64_t i) const { return start_ns_ + static_cast<int64_t>(static_cast<double>(i) * interval_ns_); }

 private:
  double interval_ns_;
  int64_t start_ns_;
  uint64_t count_;
};

struct DriveTally {
  static constexpr int64_t kSliceNs = 100'000'000;  // the length of a slice of the timeline
  struct Slice {
    uint64_t ops = 0;
    int64_t max_ns = 0;
  };

  explicit DriveTally(int64_t begin = 0) : begin_ns(begin) {}
  void Done(int64_t from_ns, int64_t now_ns) {
    int64_t latency = now_ns - from_ns;
    ++ops;
    latency_ns.Record(static_cast<uint64_t>(latency > 0 ? latency : 0));
    auto slice = static_cast<size_t>((now_ns - begin_ns) / kSliceNs);
    if (slice >= timeline.size()) timeline.resize(slice + 1);
    ++timeline[slice].ops;
    if (latency > timeline[slice].max_ns) timeline[slice].max_ns = latency;
  }
  void Merge(const DriveTally& other);

  int64_t begin_ns;
  double seconds = 0;
  uint64_t ops = 0, rows = 0, not_found = 0, checked = 0, inserts = 0;
  uint64_t user_bytes_written = 0;  // keys and values of puts
  uint64_t scanned_bytes = 0;       // keys and values of the rows that scans returned
  Histogram latency_ns;
  std::vector<Slice> timeline;
};

// An operation to run. The views are valid until the client's next Draw.
struct DrawnOp {
  OpKind kind = OpKind::kGet;
  bool insert = false;
  uint32_t rows = 0;
  std::string_view key;
  int64_t from_ns = 0;  // when its latency begins
};

class OpSource {
 public:
  explicit OpSource(const DriveSpec& spec);
  // Sets the start of the run. Call it before the first Draw, and before other threads use this
  // object.
  void Start(int64_t begin_ns);

  const DriveSpec& spec() const { return spec_; }
  bool open_loop() const { return schedule_.has_value(); }
  int64_t begin_ns() const { return begin_ns_; }
  int64_t end_ns() const { return end_ns_; }
  // Open loop: when the next operation that no client has drawn is due. Nothing when all are drawn,
  // after Stop, and in a closed loop.
  std::optional<int64_t> NextDueNs() const;
  // Ends the run early: later Draws return null.
  void Stop() { stopped_.store(true, std::memory_order_relaxed); }

 private:
  friend class OpClient;
  const DriveSpec spec_;
  int64_t begin_ns_ = 0, end_ns_ = 0;
  std::optional<OpStream> stream_;  // the clients' own streams are copies of it
  std::optional<OpenLoopSchedule> schedule_;
  std::atomic<uint64_t> next_ticket_{0}, inserts_{0};
  std::atomic<bool> stopped_{false};
};

class OpClient {
 public:
  OpClient(OpSource* source, uint32_t index);

  // The next operation, or null when the run is over. In an open loop `from_ns` may be in the
  // future; the caller must wait until then.
  const DrawnOp* Draw(int64_t now_ns);
  // A new value for the key of the last operation. The view is valid until the next call.
  std::string_view NewValue();
  // Checks a value that was read for the last operation: always its size, and the contents of one
  // value out of check_every. kCorruption says what is wrong.
  Status Check(std::string_view value, DriveTally* tally);
  // Checks the result of a get. A record may be missing only if the mix has inserts: another client
  // may not have stored it yet.
  Status CheckFound(bool found, std::string_view value, DriveTally* tally);
  // Checks the number of rows of a scan in the same way. `last_key` is the key of the last of them. A scan-full must
  // return all records by the time it begins again.
  Status CheckRows(uint64_t rows, std::string_view last_key, DriveTally* tally);

 private:
  OpSource* const source_;
  std::optional<OpStream> stream_;
  uint64_t value_seed_;
  uint32_t until_check_;
  DrawnOp op_;
  std::string key_, value_;
  std::string scan_from_{'\0'};  // scan-full: where the next scan begins
  uint64_t scanned_ = 0;         // scan-full: rows since the first key
};

// Hands out the batches of a load to several clients. Next and Stop may be called on any thread.
class LoadSource {
 public:
  explicit LoadSource(const LoadSpec& spec);
  struct Batch {
    std::vector<std::string> keys, values;
    size_t count = 0, bytes = 0;
  };
  // Fills `batch` and reuses its memory. False when all records are handed out, or after Stop.
  bool Next(Batch* batch);
  void Stop() { next_.store(spec_.records); }

 private:
  const LoadSpec spec_;
  std::vector<uint64_t> order_;  // the order of the indexes; empty = ascending
  std::atomic<uint64_t> next_{0};
};

}  // namespace pando::bench
