// Pando as an embedded engine. As in a node, one reactor drives all clients; it runs on the calling
// thread. Also as in a node, one Engine::BatchGet answers the gets that are ready in a turn. Gets
// of pages that are not in memory, writes and scans run as coroutines.
#include <fmt/format.h>

#include <algorithm>

#include "src/engine/engine.h"
#include "src/io/call_on.h"
#include "src/io/sync.h"
#include "src/io/uring_reactor.h"
#include "tools/kvbench/engines/engine.h"

namespace pando::bench {

namespace {

constexpr uint32_t kGetsPerTurn = 64;  // then Run yields to other work on the reactor

// One run: the clients of a DriveSpec on one reactor.
class PandoDrive {
 public:
  PandoDrive(Reactor* reactor, Engine* engine, const StoreInfo* store, const DriveSpec& spec, DriveTally* tally)
      : reactor_(*reactor), engine_(*engine), store_(*store), source_(spec), tally_(*tally), wake_(*reactor) {
    for (uint32_t i = 0; i < spec.clients; ++i) {
      clients_.push_back(std::make_unique<Client>(&source_, i));
      idle_.push_back(clients_.back().get());
    }
    std::reverse(idle_.begin(), idle_.end());
    timer_.drive = this;
    timer_.on_fire = [](Timer* t) { static_cast<DueTimer*>(t)->drive->wake_.NotifyOne(); };
  }

  Task<Status> Run() {
    source_.Start(MonotonicNs());
    tally_.begin_ns = source_.begin_ns();
    while (true) {
      uint32_t gets = 0;
      while (StartOps() && gets < kGetsPerTurn) {
        gets += static_cast<uint32_t>(gets_.size());
        AnswerGets();
      }
      if (over_ && idle_.size() == clients_.size()) break;
      if (!gets_.empty() || CanStart()) {
        // There is more to start, but completions and other coroutines need their turn.
        co_await Yield(reactor_);
      } else {
        ArmDueTimer();
        // Suspends until an operation ends or, in an open loop, the next operation is due.
        co_await wake_.Wait();
      }
    }
    reactor_.CancelTimer(&timer_);
    co_await tasks_.Drain();
    tally_.seconds = static_cast<double>(MonotonicNs() - source_.begin_ns()) * 1e-9;
    co_return failure_;
  }

 private:
  struct Client {
    Client(OpSource* source, uint32_t index) : ops(source, index) {}
    OpClient ops;
    DrawnOp op;
    std::string value;  // receives the value that a get reads
  };
  struct DueTimer : Timer {
    PandoDrive* drive = nullptr;
  };

  Partition* PartitionOf(std::string_view key) { return engine_.partition(store_.PartitionOf(key)); }

  // Whether a client is idle and the next operation is due.
  bool CanStart() const {
    if (idle_.empty() || over_) return false;
    std::optional<int64_t> due_ns = source_.NextDueNs();
    return !due_ns || *due_ns <= MonotonicNs();
  }

  // Open loop: arms the timer that wakes Run when the next operation is due.
  void ArmDueTimer() {
    std::optional<int64_t> due_ns = source_.NextDueNs();
    if (!due_ns || idle_.empty()) return;
    reactor_.CancelTimer(&timer_);
    // NowNs() is another clock and was read when the turn began, so convert the time that is left.
    reactor_.ArmTimer(&timer_, reactor_.NowNs() + std::max<int64_t>(*due_ns - MonotonicNs(), 0));
  }

  // Gives idle clients their next operations, while operations are due and there are fewer than
  // kGetsPerTurn gets. True when there are gets to answer.
  bool StartOps() {
    while (CanStart()) {
      Client* client = idle_.back();
      const DrawnOp* op = client->ops.Draw(MonotonicNs());
      if (op == nullptr) {
        over_ = true;
        break;
      }
      idle_.pop_back();
      client->op = *op;
      if (op->kind == OpKind::kGet || op->kind == OpKind::kReadModifyWrite) {
        gets_.push_back(client);
      } else if (op->kind == OpKind::kPut) {
        tasks_.Spawn(Put(client));
      } else {
        tasks_.Spawn(Scan(client));
      }
      if (gets_.size() >= kGetsPerTurn) break;
    }
    return !gets_.empty();
  }

  void AnswerGets() {
    reads_.resize(gets_.size());
    for (size_t i = 0; i < gets_.size(); ++i) {
      reads_[i] = PointRead{};
      reads_[i].partition = PartitionOf(gets_[i]->op.key);
      reads_[i].key = gets_[i]->op.key;
      reads_[i].value = &gets_[i]->value;
    }
    engine_.BatchGet(reads_);
    const int64_t now_ns = MonotonicNs();
    // Swap first, because a coroutine that starts below may add gets to the next batch.
    answering_.swap(gets_);
    for (size_t i = 0; i < answering_.size(); ++i) {
      Client* client = answering_[i];
      if (reads_[i].outcome == PointRead::Outcome::kMiss) {
        tasks_.Spawn(GetFromDisk(client));
      } else {
        Got(client, reads_[i].outcome == PointRead::Outcome::kFound, now_ns);
      }
    }
    answering_.clear();
  }

  void Got(Client* client, bool found, int64_t now_ns) {
    Status status = client->ops.CheckFound(found, client->value, &tally_);
    if (!status.ok()) return Finish(client, now_ns, std::move(status));
    if (client->op.kind == OpKind::kReadModifyWrite) {
      tasks_.Spawn(Put(client));
    } else {
      Finish(client, now_ns, Status());
    }
  }

  Task<void> GetFromDisk(Client* client) {
    // Suspends while the disk reads. `client` stays valid: it is not idle, so nothing else uses it.
    Result<ReadResult> read = co_await PartitionOf(client->op.key)->Get(std::string(client->op.key), kNewest, nullptr);
    if (!read.ok()) {
      Finish(client, MonotonicNs(), read.TakeStatus());
    } else {
      client->value.swap(read->value);
      Got(client, read->found, MonotonicNs());
    }
    // Start the next operation now. Waiting until all completions of this turn are handled would
    // leave the disk idle.
    if (answering_.empty() && gets_.empty() && StartOps()) AnswerGets();
    wake_.NotifyOne();
  }

  Task<void> Put(Client* client) {
    std::string_view value = client->ops.NewValue();
    std::vector<WriteOp> ops(1);
    ops[0].key = client->op.key;
    ops[0].value = value;
    tally_.user_bytes_written += client->op.key.size() + value.size();
    tally_.inserts += client->op.insert ? 1 : 0;
    // Suspends until the put is on disk. Puts of other clients share the log write.
    Result<std::vector<OpResult>> done = co_await PartitionOf(client->op.key)->Write(std::move(ops), WriteOptions());
    Finish(client, MonotonicNs(), done.ok() ? Status() : done.TakeStatus());
    wake_.NotifyOne();
  }

  Task<void> Scan(Client* client) {
    ScanSpec spec;
    spec.start = client->op.key;
    spec.max_rows = client->op.rows;
    spec.max_bytes = SIZE_MAX;
    // Suspends while the disk reads pages that are not in memory.
    Result<ScanPage> page = co_await PartitionOf(client->op.key)->Scan(std::move(spec));
    Status status;
    if (page.ok()) {
      const std::vector<ScanRow>& rows = page->rows;
      status = client->ops.CheckRows(rows.size(), rows.empty() ? std::string_view() : rows.back().key, &tally_);
    } else {
      status = page.TakeStatus();
    }
    Finish(client, MonotonicNs(), std::move(status));
    wake_.NotifyOne();
  }

  void Finish(Client* client, int64_t now_ns, Status status) {
    idle_.push_back(client);
    if (status.ok()) {
      tally_.Done(client->op.from_ns, now_ns);
      return;
    }
    if (failure_.ok()) failure_ = std::move(status);
    source_.Stop();
  }

  Reactor& reactor_;
  Engine& engine_;
  const StoreInfo& store_;
  OpSource source_;
  DriveTally& tally_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<Client*> idle_, gets_, answering_;
  std::vector<PointRead> reads_;
  WaitQueue wake_;  // Run waits here
  DueTimer timer_;
  bool over_ = false;
  Status failure_;
  TaskGroup tasks_;
};

class PandoEngine final : public EngineUnderTest {
 public:
  Status Open(const EngineSettings& settings) override {
    ASSIGN_OR_RETURN(reactor_, MakeUringReactor(UringOptions{}));
    return RunBlocking(*reactor_, OpenAll(settings));
  }

  Status Load(const LoadSpec& spec, DriveTally* tally) override {
    LoadSource source(spec);
    return RunBlocking(*reactor_, LoadAll(spec.batches_in_flight, &source, tally));
  }

  Status Run(const DriveSpec& spec, DriveTally* tally) override {
    if (spec.mix.scan > 0 && store_.partitions.size() != 1) {
      return Error(Code::kUnsupported, "a scan reads one tree only; use --partitions=1");
    }
    PandoDrive drive(reactor_.get(), engine_.get(), &store_, spec, tally);
    return RunBlocking(*reactor_, drive.Run());
  }

  Status Checkpoint() override { return RunBlocking(*reactor_, engine_->CheckpointAll()); }

  Status Close() override {
    Status status = RunBlocking(*reactor_, CloseAll());
    engine_.reset();
    reactor_.reset();
    return status;
  }

  std::string Stats() override {
    EngineStats s = engine_->stats();
    uint64_t file_bytes = 0, used_bytes = 0, pending_bytes = 0;
    for (Partition* partition : engine_->partitions()) {
      PartitionStats p = partition->stats();
      file_bytes += p.file_bytes;
      used_bytes += p.used_bytes;
      pending_bytes += p.pending_free_bytes;
    }
    return fmt::format("file of {} MiB, {} MiB used, {} MiB freed but not reusable yet; ", file_bytes >> 20,
                       used_bytes >> 20, pending_bytes >> 20) +
           fmt::format("{} pages read ahead in {} reads; ", s.ahead_pages_total, s.ahead_reads_total) +
           fmt::format("{} checkpoints, {} waits for the log, {} bytes per log write with {}, {} evictions",
                       s.checkpoints_total, s.log.append_waits_total,
                       s.log.device_bytes_total / std::max<uint64_t>(s.log.device_writes_total, 1),
                       s.log.data_sync_writes ? "RWF_DSYNC" : "fdatasync", s.pool_evictions_total);
  }

 private:
  Task<Status> OpenAll(EngineSettings settings) {
    StoreOptions store;
    store.data_dir = settings.dir + "/store";
    store.partitions = settings.partitions;
    store.page_bytes = settings.page_bytes;
    CO_ASSIGN_OR_RETURN(store_, co_await OpenStore(*reactor_, store));
    EngineOptions options;
    options.store = store_;
    options.memory_bytes = settings.memory_bytes;
    options.compression = settings.compression == BenchCompression::kLz4 ? Compression::kLz4 : Compression::kNone;
    if (settings.log_bytes > 0) options.log_budget_bytes = settings.log_bytes;
    CO_ASSIGN_OR_RETURN(engine_, co_await Engine::Open(*reactor_, options));
    co_return Status();
  }

  Task<Status> CloseAll() { co_return co_await engine_->Close(/*checkpoint=*/true); }

  Task<Status> LoadAll(uint32_t batches_in_flight, LoadSource* source, DriveTally* tally) {
    const int64_t begin_ns = tally->begin_ns = MonotonicNs();
    Status failure;
    TaskGroup loaders;
    for (uint32_t i = 0; i < batches_in_flight; ++i) loaders.Spawn(LoadSome(source, tally, &failure));
    co_await loaders.Drain();
    tally->ops = tally->rows;
    tally->seconds = static_cast<double>(MonotonicNs() - begin_ns) * 1e-9;
    co_return failure;
  }

  Task<void> LoadSome(LoadSource* source, DriveTally* tally, Status* failure) {
    LoadSource::Batch batch;
    while (source->Next(&batch)) {
      const int64_t from_ns = MonotonicNs();
      std::vector<std::vector<WriteOp>> parts(store_.partitions.size());
      for (size_t i = 0; i < batch.count; ++i) {
        WriteOp& op = parts[store_.PartitionOf(batch.keys[i])].emplace_back();
        op.key.swap(batch.keys[i]);
        op.value.swap(batch.values[i]);
      }
      for (size_t p = 0; p < parts.size(); ++p) {
        if (parts[p].empty()) continue;
        // Suspends until this part of the batch is on disk. The parts are written one after the
        // other.
        Result<std::vector<OpResult>> done =
            co_await engine_->partition(static_cast<uint32_t>(p))->Write(std::move(parts[p]), WriteOptions());
        if (done.ok()) continue;
        if (failure->ok()) *failure = done.TakeStatus();
        source->Stop();
        co_return;
      }
      tally->Done(from_ns, MonotonicNs());
      tally->rows += batch.count;
      tally->user_bytes_written += batch.bytes;
    }
  }

  std::unique_ptr<Reactor> reactor_;
  StoreInfo store_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

EngineInfo PandoEngineInfo(std::string name, uint32_t page_bytes) {
  EngineInfo info;
  info.name = std::move(name);
  info.role = "pando";
  info.page_bytes = page_bytes;
  info.version = "this build";
  info.blocking = false;
  info.log_names = {"wal-"};
  info.make = [] { return std::make_unique<PandoEngine>(); };
  return info;
}

}  // namespace pando::bench
