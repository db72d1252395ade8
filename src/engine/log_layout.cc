#include "src/engine/log_layout.h"

#include <algorithm>
#include <deque>
#include <map>
#include <unordered_map>

#include "src/partition/replica.h"

namespace pando {
namespace {

struct OwnedUnit {
  WriteUnit unit;
  std::string records;
};

// What a new log must hold of a partition.
struct PartitionTail {
  uint32_t id = 0;
  Uuid uuid;
  Lsn checkpoint_lsn = 0;
  uint64_t chain = 0;  // after checkpoint_lsn
  Epoch epoch = 0;     // of the record at checkpoint_lsn
  Version hlc = 0;
  LogPosition log_end = 0;      // that the superblock states
  std::deque<OwnedUnit> units;  // above checkpoint_lsn; none of them is committed
};

// Collects the units of a log that its partitions' checkpoints do not contain.
class TailCollector final : public LogReplaySink {
 public:
  explicit TailCollector(std::vector<PartitionTail>* tails) {
    for (PartitionTail& tail : *tails) by_uuid_[tail.uuid] = &tail;
  }

  Task<Status> OnUnits(const RecoveredUnits& found) override {
    const auto at = by_uuid_.find(found.partition);
    if (at == by_uuid_.end()) co_return Status();  // a dropped partition
    std::deque<OwnedUnit>& units = at->second->units;
    if (found.starts_anew) RemoveAfter(&units, found.units.front().first_lsn - 1);
    for (const WriteUnit& unit : found.units) {
      if (unit.last_lsn() > at->second->checkpoint_lsn) Add(&units, unit);
    }
    co_return Status();
  }
  Task<Status> OnCut(const RecoveredCut& cut) override {
    const auto at = by_uuid_.find(cut.partition);
    if (at != by_uuid_.end()) RemoveAfter(&at->second->units, cut.after.lsn);
    co_return Status();
  }
  Task<Status> OnMark(const StreamMark& mark) override {
    const auto at = by_uuid_.find(mark.partition);
    if (at != by_uuid_.end()) at->second->hlc = std::max(at->second->hlc, mark.hlc);
    co_return Status();
  }
  void OnBroken(const Uuid&, const Status& why) override { broken_ = why; }
  const Status& broken() const { return broken_; }

 private:
  static void RemoveAfter(std::deque<OwnedUnit>* units, Lsn lsn) {
    while (!units->empty() && units->back().unit.last_lsn() > lsn) units->pop_back();
  }
  // Units that were appended again may come after those that follow them (WU4).
  static void Add(std::deque<OwnedUnit>* units, const WriteUnit& unit) {
    const auto next = std::find_if(units->begin(), units->end(),
                                   [&](const OwnedUnit& u) { return u.unit.first_lsn > unit.first_lsn; });
    units->insert(next, OwnedUnit{unit, std::string(unit.records)});
  }

  std::unordered_map<Uuid, PartitionTail*, UuidHash> by_uuid_;
  Status broken_;
};

class NoConsumer final : public LogConsumer {
 public:
  void OnDurable(Lsn) override {}
  void OnLogFailed(const Status&) override {}  // Close returns the error
};

class EmptyLog final : public LogReplaySink {
 public:
  Task<Status> OnUnits(const RecoveredUnits& found) override {
    co_return Error(Code::kCorruption, "{}: a new log holds records", found.file);
  }
  Task<Status> OnCut(const RecoveredCut&) override { co_return Status(); }
  Task<Status> OnMark(const StreamMark&) override { co_return Status(); }
  void OnBroken(const Uuid&, const Status&) override {}
};

class ReactorChange {
 public:
  ReactorChange(Reactor& reactor, EngineOptions options, uint32_t reactors, StoreInfo* store)
      : reactor_(reactor), options_(std::move(options)), store_(*store), new_(*store) {
    new_.reactors = reactors;
    ++new_.layout;
    new_.dropped.clear();  // the new logs hold nothing of them
  }

  Task<Status> Run() {
    CO_RETURN_IF_ERROR(co_await RemoveLeftovers(reactor_, &store_));
    for (uint32_t r = 0; r < store_.reactors; ++r) {
      CO_RETURN_IF_ERROR(co_await Checkpoint(r));
      CO_RETURN_IF_ERROR(co_await Collect(r));
    }
    for (const PartitionTail& tail : tails_) begin_ = std::max(begin_, tail.log_end);
    for (uint32_t r = 0; r < new_.reactors; ++r) CO_RETURN_IF_ERROR(co_await WriteLog(r));
    CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor_, new_.data_dir));
    CO_RETURN_IF_ERROR(co_await WriteStore(reactor_, &new_));  // LL1
    store_ = new_;
    Status removed = co_await RemoveLeftovers(reactor_, &store_);
    LOG_IF(WARNING, !removed.ok()) << "the old logs take space until the next start: " << removed.ToString();
    co_return Status();
  }

 private:
  // Recovers an old log, and makes checkpoints of everything that is committed.
  Task<Status> Checkpoint(uint32_t index) {
    EngineOptions options = options_;
    options.store = store_;
    options.reactor_index = index;
    std::vector<uint32_t> quarantined;
    options.on_quarantine = [&quarantined](const QuarantinedPartition& q) { quarantined.push_back(q.id); };
    CO_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, co_await Engine::Open(reactor_, std::move(options)));
    CO_RETURN_IF_ERROR(co_await engine->Close(/*checkpoint=*/true));
    if (!quarantined.empty()) {
      // The old log may be all that is left to repair it with.
      const uint32_t id = quarantined.front();
      co_return Error(Code::kUnavailable, "partition {} is quarantined, and needs its old log: {}", id,
                      static_cast<Replica*>(engine->partition(id))->failure().message());
    }
    for (Partition* partition : engine->partitions()) {
      const PartitionFile& file = static_cast<Replica*>(partition)->partition_file();
      const Superblock& sb = file.superblock();
      CHECK_EQ(file.older_checkpoint_lsn(), sb.checkpoint_lsn) << "LL1: the older superblock needs the old log";
      PartitionTail& tail = tails_.emplace_back();
      tail.id = partition->id();
      tail.uuid = partition->uuid();
      tail.checkpoint_lsn = sb.checkpoint_lsn;
      tail.chain = sb.chain;
      tail.epoch = sb.epoch;
      tail.hlc = sb.last_version;
      tail.log_end = sb.log_end;
    }
    co_return Status();
  }

  Task<Status> Collect(uint32_t index) {
    LogOptions options = NewLogOptions(store_.LogDirectory(index));
    options.read_only = true;
    options.dropped = store_.DroppedInLog(index);
    CO_ASSIGN_OR_RETURN(std::unique_ptr<Log> log, co_await Log::Open(reactor_, std::move(options)));
    TailCollector collector(&tails_);
    Status status = co_await log->Recover(&collector);
    Status closed = co_await log->Close();
    CO_RETURN_IF_ERROR(status);
    CO_RETURN_IF_ERROR(closed);
    co_return collector.broken();
  }

  LogOptions NewLogOptions(std::string directory) const {
    LogOptions options;
    options.directory = std::move(directory);
    options.node = store_.node;
    options.segment_bytes = options_.log_segment_bytes;
    options.budget_bytes = options_.log_budget_bytes;
    options.budget_records = options_.log_budget_records;
    options.begin_after = begin_;  // LL2
    return options;
  }

  Task<Status> WriteLog(uint32_t index) {
    CO_ASSIGN_OR_RETURN(std::unique_ptr<Log> log,
                        co_await Log::Open(reactor_, NewLogOptions(new_.LogDirectory(index))));
    EmptyLog empty;
    NoConsumer consumer;
    Status status = co_await log->Recover(&empty);
    for (const PartitionTail& tail : tails_) {
      if (status.ok() && new_.ReactorOf(tail.id) == index) AppendTail(log.get(), tail, &consumer);
    }
    Status closed = co_await log->Close();
    co_return status.ok() ? std::move(closed) : std::move(status);
  }

  static void AppendTail(Log* log, const PartitionTail& tail, LogConsumer* consumer) {
    LogStream* stream = log->AddStream(tail.uuid, tail.epoch, tail.checkpoint_lsn + 1, tail.chain, consumer);
    log->SetCommit(stream, tail.checkpoint_lsn, tail.hlc);
    log->Release(stream, tail.checkpoint_lsn);
    for (const OwnedUnit& owned : tail.units) {
      WriteUnit unit = owned.unit;
      unit.records = owned.records;  // they stay until the log is closed
      log->Append(stream, unit);
    }
  }

  Reactor& reactor_;
  const EngineOptions options_;
  StoreInfo& store_;
  StoreInfo new_;
  std::vector<PartitionTail> tails_;
  LogPosition begin_ = 0;
};

}  // namespace

Task<Status> ChangeReactors(Reactor& reactor, EngineOptions options, uint32_t reactors, StoreInfo* store) {
  const uint32_t before = store->reactors;
  ReactorChange change(reactor, std::move(options), reactors, store);
  Status status = co_await change.Run();
  if (status.ok()) {
    LOG(INFO) << store->data_dir << ": the store of " << before << " reactors was given to " << reactors;
    co_return Status();
  }
  co_return Error(status.code(), "{}: the store of {} reactors could not be given to {}; --reactors={} opens it: {}",
                  store->data_dir, before, reactors, before, status.message());
}

}  // namespace pando
