// What the calls of the Pando client take and return. Plain data, owned by whoever holds it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pando/error.h"

namespace pando::client {

using std::chrono::milliseconds;
/// Unix time in ms.
using TimePoint = std::chrono::sys_time<milliseconds>;

/// How new a read must be. kDefault is Options::read_level; of a Session, it is kSession.
enum class ReadLevel : std::int32_t {
  kDefault = 0,
  kLinearizable = 4,  ///< At the master: sees every write that was acknowledged before the read began.
  kBounded = 5,       ///< At any replica: sees what was acknowledged max_staleness before the read began.
  kSession = 6,       ///< At any replica: sees all that the session has seen.
};

/// How safe a write is once it is acknowledged. kDefault is Options::write_level.
enum class WriteLevel : std::int32_t {
  kDefault = 0,
  kOne = 1,  ///< On the master's disk; may be lost. Only puts and removes without conditions.
  kQuorum = 2,
  kAll = 3,  ///< On the disks of all replicas.
};

/// Options of a Client.
struct Options {
  /// How long a call may take, all its tries together, unless the call says otherwise.
  milliseconds timeout{10'000};
  /// How long a connection may take to open, and the server to greet on it.
  milliseconds connect_timeout{2'000};
  /// The most connections that calls use at a time, and that are kept to each address. Each watch has one besides.
  std::size_t pool_size = 8;
  /// For the logs and metrics of the server.
  std::string client_name{};
  ReadLevel read_level = ReadLevel::kDefault;
  WriteLevel write_level = WriteLevel::kDefault;
  /// Of reads at kBounded that do not say it.
  milliseconds max_staleness{0};
};

/// A record as it was read.
struct Record {
  std::string value;
  /// Every write gives a higher version.
  std::int64_t version = 0;
  /// When it expires; nullopt = never.
  std::optional<TimePoint> expires_at;
};

/// When a record expires after a write.
struct Expiry {
  enum class Mode : std::int32_t { kKeep = 0, kAfter = 1, kNever = 2, kAt = 3 };
  Mode mode = Mode::kKeep;
  milliseconds ttl{0};
  TimePoint time{};

  /// An existing record keeps its expiry; a new one has none. The default.
  static Expiry keep() { return {}; }
  /// So long after the write; positive.
  static Expiry after(milliseconds ttl) { return {Mode::kAfter, ttl, {}}; }
  static Expiry at(TimePoint time) { return {Mode::kAt, milliseconds{0}, time}; }
  static Expiry never() { return {Mode::kNever, milliseconds{0}, {}}; }
};

/// What must hold of a record for a write to take effect. All parts that are set must hold.
struct Condition {
  /// Record::version; positive.
  std::optional<std::int64_t> version{};
  std::optional<std::string> value{};
  std::optional<bool> exists{};

  bool empty() const { return !version && !value && !exists; }
};

/// The record has this version.
inline Condition if_version(std::int64_t version) { return {.version = version}; }
/// The record has this value.
inline Condition if_value(std::string_view value) { return {.value = std::string(value)}; }
/// There is a record.
inline Condition if_exists() { return {.exists = true}; }
/// There is no record.
inline Condition if_absent() { return {.exists = false}; }

/// Options of reads. A timeout of nullopt is that of the client.
struct ReadOptions {
  ReadLevel level = ReadLevel::kDefault;
  /// For kBounded only.
  milliseconds max_staleness{0};
  std::optional<milliseconds> timeout{};
};

/// Options of calls that have no level.
struct CallOptions {
  std::optional<milliseconds> timeout{};
};

struct PutOptions {
  Condition condition{};
  Expiry expiry{};
  /// Return the record that was replaced, as WriteResult::previous.
  bool return_previous = false;
  WriteLevel level = WriteLevel::kDefault;
  std::optional<milliseconds> timeout{};
};

struct RemoveOptions {
  Condition condition{};
  /// Return the record that was removed, as WriteResult::previous.
  bool return_previous = false;
  WriteLevel level = WriteLevel::kDefault;
  std::optional<milliseconds> timeout{};
};

struct IncrementOptions {
  Expiry expiry{};
  WriteLevel level = WriteLevel::kDefault;
  std::optional<milliseconds> timeout{};
};

struct TouchOptions {
  Condition condition{};
  WriteLevel level = WriteLevel::kDefault;
  std::optional<milliseconds> timeout{};
};

struct BatchOptions {
  WriteLevel level = WriteLevel::kDefault;
  std::optional<milliseconds> timeout{};
};

/// What came of a write. A condition that does not hold is a result, not an error: `applied` is then false.
///
/// If an answer was lost and the client sent the write again, `current` and `previous` are missing.
struct WriteResult {
  bool applied = false;
  /// The version that the write gave the record.
  std::int64_t version = 0;
  /// There was a record before.
  bool existed = false;
  /// The record as it was when the condition did not hold; nullopt if there was none.
  std::optional<Record> current;
  /// The record before this write, if return_previous asked for it.
  std::optional<Record> previous;
  /// The value of `current` was left out, because the values in one reply to a batch are limited.
  bool current_omitted = false;
  /// The same of `previous`.
  bool previous_omitted = false;
};

/// What came of one op of a batch.
struct OpResult : WriteResult {
  /// Of an increment: the new number.
  std::optional<std::int64_t> number;
  /// Not applied, because another op of the batch or a condition of the batch failed.
  bool withheld = false;
  /// The op was refused or failed. It was not applied unless error->applied says so.
  std::optional<ErrorInfo> error;
};

/// A condition of a whole batch that did not hold.
struct FailedCondition {
  /// Which one, in the order of Batch::require.
  std::size_t index = 0;
  std::optional<Record> current;
  bool current_omitted = false;
};

struct BatchResult {
  /// One per op, in the order of the batch.
  std::vector<OpResult> results;
  /// If this is not empty, nothing was applied.
  std::vector<FailedCondition> failed_conditions;

  /// Every op took effect.
  bool all_applied() const {
    for (const OpResult& result : results) {
      if (!result.applied) return false;
    }
    return failed_conditions.empty();
  }
};

/// Several writes in one request. The ops on keys of one {tag} become visible together; others are independent.
class Batch {
 public:
  enum class Kind : std::int32_t { kPut = 1, kRemove = 2, kIncrement = 3, kTouch = 4 };
  struct Op {
    Kind kind = Kind::kPut;
    std::string key{};
    std::string value{};
    std::int64_t delta = 0;
    Condition condition{};
    Expiry expiry{};
    bool return_previous = false;
  };
  struct Requirement {
    std::string key;
    Condition condition;
  };
  /// Options of one op.
  struct OpOptions {
    Condition condition{};
    Expiry expiry{};
    bool return_previous = false;
  };

  // OpOptions cannot be a default argument: its initializers are not known before the end of Batch.
  Batch& put(std::string_view key, std::string_view value) { return put(key, value, OpOptions{}); }
  Batch& put(std::string_view key, std::string_view value, OpOptions options) {
    return add(Kind::kPut, key, value, 0, std::move(options));
  }
  Batch& remove(std::string_view key) { return remove(key, OpOptions{}); }
  Batch& remove(std::string_view key, OpOptions options) { return add(Kind::kRemove, key, {}, 0, std::move(options)); }
  Batch& increment(std::string_view key, std::int64_t delta = 1) { return increment(key, delta, OpOptions{}); }
  Batch& increment(std::string_view key, std::int64_t delta, OpOptions options) {
    return add(Kind::kIncrement, key, {}, delta, std::move(options));
  }
  /// Changes the expiry of a record.
  Batch& touch(std::string_view key, Expiry expiry, Condition condition = {}) {
    return add(Kind::kTouch, key, {}, 0, {.condition = std::move(condition), .expiry = expiry});
  }
  /// A condition of the whole batch: unless all of them hold, no op is applied. All keys must then have one {tag}.
  Batch& require(std::string_view key, Condition condition) {
    requirements_.push_back({std::string(key), std::move(condition)});
    return *this;
  }
  /// One refused op refuses all ops on its partition.
  Batch& all_or_nothing(bool on = true) {
    all_or_nothing_ = on;
    return *this;
  }

  const std::vector<Op>& ops() const { return ops_; }
  const std::vector<Requirement>& requirements() const { return requirements_; }
  bool is_all_or_nothing() const { return all_or_nothing_; }

 private:
  Batch& add(Kind kind, std::string_view key, std::string_view value, std::int64_t delta, OpOptions options) {
    ops_.push_back({kind, std::string(key), std::string(value), delta, std::move(options.condition), options.expiry,
                    options.return_previous});
    return *this;
  }

  std::vector<Op> ops_;
  std::vector<Requirement> requirements_;
  bool all_or_nothing_ = false;
};

/// Keys from `start` (inclusive) to `end` (exclusive; empty = no end), in byte order, narrowed to `prefix`.
struct Range {
  std::string start{};
  std::string end{};
  std::string prefix{};
};

/// Keys that begin with this.
inline Range with_prefix(std::string_view prefix) { return {.prefix = std::string(prefix)}; }

struct ScanOptions {
  std::string start{};
  std::string end{};
  std::string prefix{};
  bool reverse = false;
  /// Leave out the values.
  bool keys_only = false;
  /// Leave out the values, and set Row::value_bytes.
  bool sizes_only = false;
  /// The most rows in all; nullopt = no limit.
  std::optional<std::int64_t> limit{};
  /// The most rows in one reply of the server; 0 = the server's limit.
  std::int32_t page_rows = 0;
  /// Snapshot::token() of an older open snapshot: only what changed since then. Not with `reverse`.
  std::string since{};
  /// Only the rows of slice number `slice` of so many; 0 = all rows.
  std::int32_t slices = 0;
  std::int32_t slice = 0;
  /// Scan::cursor() of an earlier scan of the same range, direction, snapshots and slice: continue it.
  std::string cursor{};
  ReadLevel level = ReadLevel::kDefault;
  /// For kBounded only.
  milliseconds max_staleness{0};
  /// Of each page, not of the whole scan.
  std::optional<milliseconds> timeout{};
};

struct Row {
  std::string key;
  std::string value;
  std::int64_t version = 0;
  std::optional<TimePoint> expires_at;
  /// With ScanOptions::since: the record existed then, and does not exist now.
  bool removed = false;
  /// With ScanOptions::sizes_only.
  std::optional<std::int64_t> value_bytes;
};

struct ScanPage {
  std::vector<Row> rows;
  /// Continues after the last row; empty = the range is exhausted. It outlives this client, and the server.
  std::string cursor;
};

struct Aggregate {
  std::int64_t count = 0;
  /// The total size of keys and values.
  std::int64_t bytes = 0;
  /// The sum, modulo 2^64, of a hash of each record. Those of disjoint ranges add up.
  std::int64_t content_hash = 0;
};

/// One part of a range: [start, end).
struct RangePart {
  std::string start;
  std::string end;
  std::int64_t count = 0;
  std::int64_t bytes = 0;
};

struct DeleteRangeOptions {
  /// The most records that one request examines; 0 = the server's limit.
  std::int32_t page_rows = 0;
  /// Only records with at most this version, such as Snapshot::version(): what was written since survives. 0 = all.
  std::int64_t max_version = 0;
  WriteLevel level = WriteLevel::kDefault;
  /// Of each request, not of the whole call.
  std::optional<milliseconds> timeout{};
};

struct WatchOptions {
  /// Report the changes after this version, such as Snapshot::version(); 0 = from now on.
  std::int64_t after_version = 0;
  /// Watch::position() of an earlier watch of the same prefix: continue it.
  std::string position{};
  /// How long a request may take beyond the time that it waits for changes.
  std::optional<milliseconds> timeout{};
};

struct Change {
  std::string key;
  /// The version of the write.
  std::int64_t version = 0;
  /// The record was removed or has expired.
  bool removed = false;
};

struct SnapshotOptions {
  /// How long the server keeps it unless it is renewed.
  milliseconds ttl{60'000};
  /// Renew it in the background, every third of its ttl, until it is released.
  bool renew = true;
  std::optional<milliseconds> timeout{};
};

/// What the server says of itself. Limits are in bytes or in items; 0 = an older server did not say.
struct ServerInfo {
  std::string server_version;
  std::int32_t api_version = 0;
  std::string node_id;
  /// The UUID of the cluster or store.
  std::string cluster_id;
  std::vector<std::string> features;
  std::int32_t max_key_bytes = 0;
  std::int32_t max_value_bytes = 0;
  std::int32_t max_batch_ops = 0;
  std::int32_t max_batch_bytes = 0;
  std::int32_t max_multi_get_keys = 0;
  std::int32_t max_frame_bytes = 0;
  std::int32_t max_scan_rows = 0;
  std::int32_t max_scan_bytes = 0;
};

}  // namespace pando::client
