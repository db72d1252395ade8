// LMDB, set up as its documentation advises: one environment, and one read transaction for each
// client, which is reset and renewed. Writes run in one transaction at a time, and every commit is
// synced.
//
// LMDB allows one write transaction at a time, and a commit costs two syncs whatever its size.
// RocksDB and Pando let concurrent writes share a sync; LMDB does not. So the clients queue their
// puts for a committer thread. It takes all waiting puts, commits them in one transaction, and
// wakes their clients.
#include "tools/kvbench/engines/blocking_engine.h"

#ifdef PANDO_BENCH_LMDB
#include <fmt/format.h>
#include <lmdb.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <semaphore>
#include <thread>
#endif

namespace pando::bench {

#ifdef PANDO_BENCH_LMDB

namespace {

constexpr size_t kMapBytes = size_t{1} << 40;  // address space only

Status ToStatus(int rc, const char* what) {
  if (rc == MDB_SUCCESS) return Status();
  return Error(rc == MDB_CORRUPTED ? Code::kCorruption : Code::kIoError, "lmdb: {}: {}", what, mdb_strerror(rc));
}

MDB_val ToVal(std::string_view bytes) { return {bytes.size(), const_cast<char*>(bytes.data())}; }
std::string_view ToView(const MDB_val& v) { return {static_cast<const char*>(v.mv_data), v.mv_size}; }

// Group commit on top of LMDB's single writer.
class Committer {
 public:
  Committer(MDB_env* env, MDB_dbi dbi) : env_(env), dbi_(dbi), thread_([this] { Loop(); }) {}
  ~Committer() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    more_.notify_one();
    thread_.join();
  }

  Status Put(std::string_view key, std::string_view value) {
    Request request{key, value, Status(), std::binary_semaphore(0)};
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(&request);
    }
    more_.notify_one();
    request.done.acquire();
    return std::move(request.status);
  }

  // Runs on the caller's thread. mdb_txn_begin waits until the current writer is done.
  Status PutAll(const LoadSource::Batch& batch) {
    MDB_txn* txn = nullptr;
    RETURN_IF_ERROR(ToStatus(mdb_txn_begin(env_, nullptr, 0, &txn), "begin"));
    for (size_t i = 0; i < batch.count; ++i) {
      Status status = PutOne(txn, batch.keys[i], batch.values[i]);
      if (status.ok()) continue;
      mdb_txn_abort(txn);
      return status;
    }
    return ToStatus(mdb_txn_commit(txn), "commit");
  }

  uint64_t commits() const { return commits_; }
  uint64_t puts() const { return puts_; }

 private:
  struct Request {
    std::string_view key, value;
    Status status;
    std::binary_semaphore done;
  };

  Status PutOne(MDB_txn* txn, std::string_view key, std::string_view value) {
    MDB_val k = ToVal(key), v = ToVal(value);
    return ToStatus(mdb_put(txn, dbi_, &k, &v, 0), "put");
  }

  Status CommitGroup(const std::vector<Request*>& group) {
    MDB_txn* txn = nullptr;
    RETURN_IF_ERROR(ToStatus(mdb_txn_begin(env_, nullptr, 0, &txn), "begin"));
    for (const Request* request : group) {
      Status status = PutOne(txn, request->key, request->value);
      if (status.ok()) continue;
      mdb_txn_abort(txn);
      return status;
    }
    return ToStatus(mdb_txn_commit(txn), "commit");
  }

  void Loop() {
    std::vector<Request*> group;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        more_.wait(lock, [this] { return !queue_.empty() || closing_; });
        if (queue_.empty()) return;
        group.swap(queue_);
      }
      Status status = CommitGroup(group);
      ++commits_;
      puts_ += group.size();
      for (Request* request : group) {
        request->status = status;
        request->done.release();
      }
      group.clear();
    }
  }

  MDB_env* const env_;
  const MDB_dbi dbi_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::vector<Request*> queue_;
  bool closing_ = false;
  std::atomic<uint64_t> commits_{0}, puts_{0};
  std::thread thread_;  // last member: the thread uses the others
};

class LmdbSession final : public Session {
 public:
  LmdbSession(Committer* committer, MDB_txn* reader, MDB_dbi dbi) : committer_(*committer), txn_(reader), dbi_(dbi) {
    mdb_txn_reset(txn_);
  }
  LmdbSession(const LmdbSession&) = delete;
  LmdbSession& operator=(const LmdbSession&) = delete;
  ~LmdbSession() override {
    if (cursor_ != nullptr) mdb_cursor_close(cursor_);
    mdb_txn_abort(txn_);
  }

  Result<bool> Get(std::string_view key, std::string* value) override {
    RETURN_IF_ERROR(ToStatus(mdb_txn_renew(txn_), "renew"));
    MDB_val k = ToVal(key), v{};
    int rc = mdb_get(txn_, dbi_, &k, &v);
    if (rc == MDB_SUCCESS) value->assign(ToView(v));
    mdb_txn_reset(txn_);
    if (rc == MDB_NOTFOUND) return false;
    RETURN_IF_ERROR(ToStatus(rc, "get"));
    return true;
  }
  Status Put(std::string_view key, std::string_view value) override { return committer_.Put(key, value); }
  Result<uint32_t> Scan(std::string_view from, uint32_t rows, std::string* out) override {
    RETURN_IF_ERROR(ToStatus(mdb_txn_renew(txn_), "renew"));
    int rc = cursor_ == nullptr ? mdb_cursor_open(txn_, dbi_, &cursor_) : mdb_cursor_renew(txn_, cursor_);
    RETURN_IF_ERROR(ToStatus(rc, "cursor"));
    out->clear();
    uint32_t count = 0;
    MDB_val k = ToVal(from), v{};
    rc = mdb_cursor_get(cursor_, &k, &v, MDB_SET_RANGE);
    while (rc == MDB_SUCCESS) {
      out->append(ToView(k));
      out->append(ToView(v));
      if (++count == rows) break;
      rc = mdb_cursor_get(cursor_, &k, &v, MDB_NEXT);
    }
    mdb_txn_reset(txn_);
    if (rc != MDB_NOTFOUND) RETURN_IF_ERROR(ToStatus(rc, "scan"));
    return count;
  }
  Status PutBatch(const LoadSource::Batch& batch) override { return committer_.PutAll(batch); }

 private:
  Committer& committer_;
  MDB_txn* txn_;
  const MDB_dbi dbi_;
  MDB_cursor* cursor_ = nullptr;
};

class LmdbEngine final : public BlockingEngine {
 public:
  ~LmdbEngine() override {
    committer_.reset();
    if (env_ != nullptr) mdb_env_close(env_);
  }

  Status Open(const EngineSettings& settings) override {
    RETURN_IF_ERROR(ToStatus(mdb_env_create(&env_), "create"));
    RETURN_IF_ERROR(ToStatus(mdb_env_set_mapsize(env_, kMapBytes), "set the map size"));
    RETURN_IF_ERROR(ToStatus(mdb_env_set_maxreaders(env_, settings.clients + 16), "set the number of readers"));
    // MDB_NORDAHEAD: the reads are random and the data is larger than memory, so read-ahead would
    // hurt. MDB_NOTLS: a read transaction belongs to its session, not to its thread.
    RETURN_IF_ERROR(ToStatus(mdb_env_open(env_, settings.dir.c_str(), MDB_NORDAHEAD | MDB_NOTLS, 0644), "open"));
    MDB_txn* txn = nullptr;
    RETURN_IF_ERROR(ToStatus(mdb_txn_begin(env_, nullptr, 0, &txn), "begin"));
    RETURN_IF_ERROR(ToStatus(mdb_dbi_open(txn, nullptr, 0, &dbi_), "open the database"));
    RETURN_IF_ERROR(ToStatus(mdb_txn_commit(txn), "commit"));
    committer_ = std::make_unique<Committer>(env_, dbi_);
    return Status();
  }

  // Every commit is synced already.
  Status Checkpoint() override { return ToStatus(mdb_env_sync(env_, 1), "sync"); }
  Status Close() override {
    committer_.reset();
    mdb_env_close(env_);
    env_ = nullptr;
    return Status();
  }
  std::string Stats() override {
    uint64_t commits = committer_->commits(), puts = committer_->puts();
    return fmt::format("{} commits, {:.1f} puts in each", commits,
                       static_cast<double>(puts) / static_cast<double>(std::max<uint64_t>(commits, 1)));
  }

 protected:
  Result<std::unique_ptr<Session>> NewSession() override {
    MDB_txn* reader = nullptr;
    RETURN_IF_ERROR(ToStatus(mdb_txn_begin(env_, nullptr, MDB_RDONLY, &reader), "begin reading"));
    return std::unique_ptr<Session>(std::make_unique<LmdbSession>(committer_.get(), reader, dbi_));
  }

 private:
  MDB_env* env_ = nullptr;
  MDB_dbi dbi_ = 0;
  std::unique_ptr<Committer> committer_;
};

}  // namespace

#endif

EngineInfo LmdbEngineInfo() {
  EngineInfo info;
  info.name = "lmdb";
  info.package = "liblmdb-dev";
  info.uses_page_cache = true;
#ifdef PANDO_BENCH_LMDB
  info.version = fmt::format("{}.{}.{}", MDB_VERSION_MAJOR, MDB_VERSION_MINOR, MDB_VERSION_PATCH);
  info.make = [] { return std::make_unique<LmdbEngine>(); };
#endif
  return info;
}

}  // namespace pando::bench
