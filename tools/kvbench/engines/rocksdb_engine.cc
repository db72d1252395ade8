// RocksDB, set up as its wiki advises for a memory limit and a fast disk ("Setup Options and Basic
// Tuning", "Direct-IO", "Partitioned Index Filters", "Memory usage in RocksDB").
#include "tools/kvbench/engines/blocking_engine.h"

#ifdef PANDO_BENCH_ROCKSDB
#include <fmt/format.h>
#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>

#include <algorithm>
#include <thread>
#endif

namespace pando::bench {

#ifdef PANDO_BENCH_ROCKSDB

namespace {

// A scan of so many rows reads ahead by more than RocksDB does by itself, and leaves the block cache alone.
constexpr uint32_t kLongScanRows = 1000;
constexpr size_t kReadAheadBytes = 2 << 20;

rocksdb::Slice ToSlice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }

Status ToStatus(const rocksdb::Status& status) {
  if (status.ok()) return Status();
  return Error(status.IsCorruption() ? Code::kCorruption : Code::kIoError, "rocksdb: {}", status.ToString());
}

class RocksDbSession final : public Session {
 public:
  explicit RocksDbSession(rocksdb::DB* db) : db_(*db) { durable_.sync = true; }

  Result<bool> Get(std::string_view key, std::string* value) override {
    rocksdb::Status status = db_.Get(rocksdb::ReadOptions(), ToSlice(key), value);
    if (status.IsNotFound()) return false;
    RETURN_IF_ERROR(ToStatus(status));
    return true;
  }
  Status Put(std::string_view key, std::string_view value) override {
    return ToStatus(db_.Put(durable_, ToSlice(key), ToSlice(value)));
  }
  Result<uint32_t> Scan(std::string_view from, uint32_t rows, std::string* out) override {
    out->clear();
    uint32_t count = 0;
    rocksdb::ReadOptions options;
    if (rows >= kLongScanRows) {
      options.readahead_size = kReadAheadBytes;
      options.fill_cache = false;
    }
    std::unique_ptr<rocksdb::Iterator> it(db_.NewIterator(options));
    for (it->Seek(ToSlice(from)); count < rows && it->Valid(); ++count) {
      out->append(it->key().data(), it->key().size());
      out->append(it->value().data(), it->value().size());
      if (count + 1 < rows) it->Next();
    }
    RETURN_IF_ERROR(ToStatus(it->status()));
    return count;
  }
  Status PutBatch(const LoadSource::Batch& batch) override {
    rocksdb::WriteBatch writes;
    for (size_t i = 0; i < batch.count; ++i) {
      RETURN_IF_ERROR(ToStatus(writes.Put(ToSlice(batch.keys[i]), ToSlice(batch.values[i]))));
    }
    return ToStatus(db_.Write(durable_, &writes));
  }

 private:
  rocksdb::DB& db_;
  rocksdb::WriteOptions durable_;
};

class RocksDbEngine final : public BlockingEngine {
 public:
  Status Open(const EngineSettings& settings) override {
    rocksdb::DB* db = nullptr;
    RETURN_IF_ERROR(ToStatus(rocksdb::DB::Open(MakeOptions(settings), settings.dir, &db)));
    db_.reset(db);
    return Status();
  }

  Status Checkpoint() override {
    RETURN_IF_ERROR(ToStatus(db_->Flush(rocksdb::FlushOptions())));
    // Deferred compactions would otherwise be charged to the next measurement.
    const int64_t give_up_ns = MonotonicNs() + kSettleNs;
    while (MonotonicNs() < give_up_ns &&
           (Property("rocksdb.compaction-pending") > 0 || Property("rocksdb.num-running-compactions") > 0 ||
            Property("rocksdb.num-running-flushes") > 0)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return Status();
  }

  Status Close() override {
    Status status = ToStatus(db_->Close());
    db_.reset();
    return status;
  }

  std::string Stats() override {
    std::string levels;
    for (int level = 0; level < 7; ++level) {
      std::string files;
      db_->GetProperty(rocksdb::DB::Properties::kNumFilesAtLevelPrefix + std::to_string(level), &files);
      levels += (level > 0 ? "/" : "") + files;
    }
    return fmt::format("files by level {}, pending compaction {} MiB, write stops {}, delayed rate {}", levels,
                       Property("rocksdb.estimate-pending-compaction-bytes") >> 20,
                       Property("rocksdb.is-write-stopped"), Property("rocksdb.actual-delayed-write-rate"));
  }

 protected:
  Result<std::unique_ptr<Session>> NewSession() override {
    return std::unique_ptr<Session>(std::make_unique<RocksDbSession>(db_.get()));
  }

 private:
  static constexpr int64_t kSettleNs = 120'000'000'000;

  static rocksdb::Options MakeOptions(const EngineSettings& settings) {
    rocksdb::Options options;
    options.create_if_missing = true;
    // Memory: a quarter for the four write buffers (each at least 4 MiB and at most 64 MiB), the
    // rest for one cache of blocks, indexes and filters.
    const uint64_t buffer_bytes = std::clamp<uint64_t>(settings.memory_bytes / 16, 4u << 20, 64u << 20);
    options.write_buffer_size = buffer_bytes;
    options.max_write_buffer_number = 4;
    options.min_write_buffer_number_to_merge = 1;
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(settings.memory_bytes - 4 * buffer_bytes);
    table.cache_index_and_filter_blocks = true;
    table.cache_index_and_filter_blocks_with_high_priority = true;
    table.pin_l0_filter_and_index_blocks_in_cache = true;
    table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
    table.partition_filters = true;
    table.pin_top_level_index_and_filter = true;
    table.metadata_block_size = 4096;
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
    table.format_version = 5;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    // Disk: direct I/O. The page cache would hold data beyond the memory limit.
    options.use_direct_reads = true;
    options.use_direct_io_for_flush_and_compaction = true;
    options.compaction_readahead_size = 2u << 20;
    options.compression =
        settings.compression == BenchCompression::kLz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
    // Shape: the base level is about as large as level 0 when its compaction starts. The other
    // levels are sized from the last level upwards.
    options.level_compaction_dynamic_level_bytes = true;
    options.target_file_size_base = buffer_bytes;
    options.max_bytes_for_level_base = 4 * buffer_bytes;
    options.max_background_jobs = static_cast<int>(std::max(2u, settings.background_jobs));
    options.max_open_files = -1;
    // Log: reuse files, so that a sync does not have to write metadata.
    options.recycle_log_file_num = 4;
    if (settings.log_bytes > 0) options.max_total_wal_size = settings.log_bytes;
    return options;
  }

  uint64_t Property(const std::string& name) {
    uint64_t value = 0;
    db_->GetIntProperty(name, &value);
    return value;
  }

  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

#endif

EngineInfo RocksDbEngineInfo() {
  EngineInfo info;
  info.name = "rocksdb";
  info.package = "librocksdb-dev";
#ifdef PANDO_BENCH_ROCKSDB
  info.version = fmt::format("{}.{}.{}", ROCKSDB_MAJOR, ROCKSDB_MINOR, ROCKSDB_PATCH);
  info.make = [] { return std::make_unique<RocksDbEngine>(); };
#endif
  return info;
}

}  // namespace pando::bench
