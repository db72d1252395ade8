// WiredTiger: one row-store table, a session and a cursor for each client, direct I/O for data, and
// a checkpoint every minute. Each commit syncs the log; WiredTiger's own group commit lets
// concurrent commits share a sync.
#include "tools/kvbench/engines/blocking_engine.h"

#ifdef PANDO_BENCH_WIREDTIGER
#include <fmt/format.h>
#include <wiredtiger.h>

#include <algorithm>
#endif

namespace pando::bench {

#ifdef PANDO_BENCH_WIREDTIGER

namespace {

constexpr const char* kTable = "table:kv";

Status ToStatus(int rc, const char* what) {
  if (rc == 0) return Status();
  return Error(Code::kIoError, "wiredtiger: {}: {}", what, wiredtiger_strerror(rc));
}

WT_ITEM ToItem(std::string_view bytes) {
  WT_ITEM item{};
  item.data = bytes.data();
  item.size = bytes.size();
  return item;
}
std::string_view ToView(const WT_ITEM& item) { return {static_cast<const char*>(item.data), item.size}; }

class WiredTigerSession final : public Session {
 public:
  WiredTigerSession(WT_SESSION* session, WT_CURSOR* cursor) : session_(session), cursor_(cursor) {}
  WiredTigerSession(const WiredTigerSession&) = delete;
  WiredTigerSession& operator=(const WiredTigerSession&) = delete;
  ~WiredTigerSession() override { session_->close(session_, nullptr); }

  Result<bool> Get(std::string_view key, std::string* value) override {
    SetKey(key);
    int rc = cursor_->search(cursor_);
    if (rc == WT_NOTFOUND) return false;
    RETURN_IF_ERROR(ToStatus(rc, "search"));
    WT_ITEM item{};
    RETURN_IF_ERROR(ToStatus(cursor_->get_value(cursor_, &item), "value"));
    value->assign(ToView(item));
    RETURN_IF_ERROR(ToStatus(cursor_->reset(cursor_), "reset"));
    return true;
  }
  // An implicit transaction. It is retried after a conflict with another client's put of the same
  // key.
  Status Put(std::string_view key, std::string_view value) override {
    while (true) {
      SetKey(key);
      WT_ITEM item = ToItem(value);
      cursor_->set_value(cursor_, &item);
      int rc = cursor_->insert(cursor_);  // overwrites an existing record
      if (rc == WT_ROLLBACK) continue;
      return ToStatus(rc, "insert");
    }
  }
  Result<uint32_t> Scan(std::string_view from, uint32_t rows, std::string* out) override {
    out->clear();
    uint32_t count = 0;
    int position = 0;
    SetKey(from);
    int rc = cursor_->search_near(cursor_, &position);
    if (rc == 0 && position < 0) rc = cursor_->next(cursor_);
    while (rc == 0) {
      WT_ITEM key{}, value{};
      RETURN_IF_ERROR(ToStatus(cursor_->get_key(cursor_, &key), "key"));
      RETURN_IF_ERROR(ToStatus(cursor_->get_value(cursor_, &value), "value"));
      out->append(ToView(key));
      out->append(ToView(value));
      if (++count == rows) break;
      rc = cursor_->next(cursor_);
    }
    if (rc != WT_NOTFOUND) RETURN_IF_ERROR(ToStatus(rc, "scan"));
    RETURN_IF_ERROR(ToStatus(cursor_->reset(cursor_), "reset"));
    return count;
  }
  Status PutBatch(const LoadSource::Batch& batch) override {
    while (true) {
      RETURN_IF_ERROR(ToStatus(session_->begin_transaction(session_, nullptr), "begin"));
      int rc = 0;
      for (size_t i = 0; i < batch.count && rc == 0; ++i) {
        SetKey(batch.keys[i]);
        WT_ITEM item = ToItem(batch.values[i]);
        cursor_->set_value(cursor_, &item);
        rc = cursor_->insert(cursor_);
      }
      if (rc == 0) return ToStatus(session_->commit_transaction(session_, nullptr), "commit");
      RETURN_IF_ERROR(ToStatus(session_->rollback_transaction(session_, nullptr), "rollback"));
      if (rc != WT_ROLLBACK) return ToStatus(rc, "insert");  // rolled back because the cache is full: retry
    }
  }

 private:
  void SetKey(std::string_view key) {
    WT_ITEM item = ToItem(key);
    cursor_->set_key(cursor_, &item);
  }
  WT_SESSION* const session_;
  WT_CURSOR* const cursor_;
};

class WiredTigerEngine final : public BlockingEngine {
 public:
  Status Open(const EngineSettings& settings) override {
    // Debian's build has snappy and zlib. Snappy is the closer one to LZ4.
    const bool compressed = settings.compression != BenchCompression::kNone;
    const std::string config = fmt::format(
        "create,cache_size={},direct_io=[data],buffer_alignment=4KB,mmap=false,session_max={},"
        "log=(enabled=true,file_max=64MB,prealloc=true),transaction_sync=(enabled=true,method=fsync),"
        "checkpoint=(wait=60,log_size={}),eviction=(threads_min=1,threads_max={}),"
        "extensions=[{}]",
        settings.memory_bytes, settings.clients + 32, settings.log_bytes > 0 ? settings.log_bytes : 512u << 20,
        std::clamp(settings.background_jobs, 1u, 20u), compressed ? "libwiredtiger_snappy.so" : "");
    RETURN_IF_ERROR(ToStatus(wiredtiger_open(settings.dir.c_str(), nullptr, config.c_str(), &connection_), "open"));
    RETURN_IF_ERROR(ToStatus(connection_->open_session(connection_, nullptr, nullptr, &session_), "session"));
    const std::string table =
        std::string("key_format=u,value_format=u") + (compressed ? ",block_compressor=snappy" : "");
    return ToStatus(session_->create(session_, kTable, table.c_str()), "create the table");
  }
  Status Checkpoint() override { return ToStatus(session_->checkpoint(session_, nullptr), "checkpoint"); }
  Status Close() override {
    WT_CONNECTION* connection = std::exchange(connection_, nullptr);
    return ToStatus(connection->close(connection, nullptr), "close");
  }
  std::string Stats() override { return ""; }

 protected:
  Result<std::unique_ptr<Session>> NewSession() override {
    WT_SESSION* session = nullptr;
    RETURN_IF_ERROR(ToStatus(connection_->open_session(connection_, nullptr, nullptr, &session), "session"));
    WT_CURSOR* cursor = nullptr;
    RETURN_IF_ERROR(ToStatus(session->open_cursor(session, kTable, nullptr, nullptr, &cursor), "cursor"));
    return std::unique_ptr<Session>(std::make_unique<WiredTigerSession>(session, cursor));
  }

 private:
  WT_CONNECTION* connection_ = nullptr;
  WT_SESSION* session_ = nullptr;
};

}  // namespace

#endif

EngineInfo WiredTigerEngineInfo() {
  EngineInfo info;
  info.name = "wiredtiger";
  info.package = "libwiredtiger-dev";
  info.log_names = {"WiredTigerLog", "WiredTigerPreplog"};
#ifdef PANDO_BENCH_WIREDTIGER
  info.version = fmt::format("{}.{}.{}", WIREDTIGER_VERSION_MAJOR, WIREDTIGER_VERSION_MINOR, WIREDTIGER_VERSION_PATCH);
  info.make = [] { return std::make_unique<WiredTigerEngine>(); };
#endif
  return info;
}

}  // namespace pando::bench
