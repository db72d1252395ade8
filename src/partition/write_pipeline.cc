#include "src/partition/write_pipeline.h"

#include <algorithm>
#include <utility>

namespace pando {
namespace {

// Writes pin the pages they will need in up to 1/8 of the pool.
constexpr uint64_t kPinnedShare = 8;
constexpr Nanos kFramesRetry = kMillisecond;
constexpr uint32_t kUnitsPerRecord = 12;  // of applying it, in units of the turn's budget
constexpr size_t kRecordBytes = 64;       // the most that a record takes besides its key and values

WantedRecord WantedBy(const WriteOp& op) {
  if (op.return_previous) return WantedRecord::kAlways;
  return op.current_value_unwanted ? WantedRecord::kNothing : WantedRecord::kIfRefused;
}

}  // namespace

// -- admission

// A write is applied without suspending. All of its leaves must be in memory, and each may be
// cloned together with its ancestors.
Status WritePipeline::CheckFits(size_t ops, size_t frames) const {
  const size_t pool_frames = state_.pool.frame_count();
  if (ops <= pool_frames / Applier::kFramesPerRecord && frames <= pool_frames / 4) return Status();
  // The batch will never fit, so the error is not kOverloaded.
  return Error(Code::kInvalidArgument,
               "a batch of {} operations may change {} pages and add {} new ones; with {} pages of memory a batch "
               "may change at most {} and add at most {}: send smaller batches or raise --memory_limit_mb",
               ops, 2 * ops, frames, pool_frames, pool_frames / 8, pool_frames / 4);
}

Task<Status> WritePipeline::Admit(ClientWrite* write, LogSpace* log_space) {
  CHECK(!write->ops.empty() && write->ops.size() <= kMaxBatchOps);
  bool only_removes = true, checks_may_come = true;
  uint64_t blocks = 0;
  size_t frames = kFramesPerUpdate;
  const size_t max_key_bytes = MaxKeyBytes(state_.pool.page_bytes());
  for (const WriteOp& op : write->ops) {
    const size_t key_bytes = op.key.size(), value_bytes = op.value.size();
    CHECK(key_bytes > 0 && key_bytes <= max_key_bytes && value_bytes <= kMaxValueBytes);
    CHECK(op.ttl_mode != TtlMode::kSet || (op.ttl_ms > 0) != (op.expires_at_ms > 0)) << "no expiry, or two";
    CHECK(op.op != RecordOp::kTouch || op.ttl_mode != TtlMode::kKeep) << "a touch that changes nothing";
    CHECK(op.op != RecordOp::kCheck || (checks_may_come && !op.condition.empty())) << "an empty check, or a late one";
    checks_may_come &= op.op == RecordOp::kCheck;
    only_removes &= op.op == RecordOp::kRemove || op.op == RecordOp::kExpire || op.op == RecordOp::kCheck;
    write->encoded_bytes += key_bytes + value_bytes + (op.condition.value ? op.condition.value->size() : 0);
    blocks += admission_.BlocksFor(op.op, key_bytes, value_bytes);
    frames += applier_.FramesFor(op.op, key_bytes, value_bytes);
  }
  write->encoded_bytes += kRecordBytes * write->ops.size();
  CO_RETURN_IF_ERROR(CheckFits(write->ops.size(), frames));
  const Nanos deadline_ns = write->options.control ? write->options.control->deadline_ns : 0;
  CO_ASSIGN_OR_RETURN(*log_space, co_await state_.log->WaitForSpace(state_.stream, write->encoded_bytes, deadline_ns));
  Status status = co_await admission_.Admit(blocks, only_removes, &write->blocks);
  if (status.code() == Code::kDiskFull) {
    ++state_.stats.disk_full_total;
    state_.disk_full_ns = state_.reactor.NowNs();
  } else if (status.ok() && !only_removes) {
    state_.disk_full_ns = 0;
  }
  co_return status;
}

bool WritePipeline::MayPin() const { return state_.pool.pinned_frames() < state_.pool.frame_count() / kPinnedShare; }

// Loads the pages that the write touches and pins them as far as the pool allows. Allocates extents
// for large values.
Task<Status> WritePipeline::Fetch(ClientWrite* write) {
  const std::vector<WriteOp>& ops = write->ops;
  ApplyUnit& unit = write->content;
  unit.records.resize(ops.size());
  // Pages that cannot be pinned would be evicted again before they are needed. MakeReady reads them
  // then.
  if (ops.size() > 1 && MayPin()) co_await state_.tree->FetchAhead(KeysOf(ops));
  for (size_t i = 0; i < ops.size(); ++i) {
    const WriteOp& op = ops[i];
    if (ops.size() == 1 || MayPin()) {
      CO_ASSIGN_OR_RETURN(PagePin pin, co_await state_.tree->FetchLeaf(op.key));
      if (MayPin()) unit.pins.push_back(std::move(pin));
    }
    if (op.op == RecordOp::kPut && state_.tree->NeedsOverflow(op.key.size(), op.value.size())) {
      const auto blocks = static_cast<uint32_t>(BlockAdmission::BlocksOfValue(op.value.size()));
      CO_ASSIGN_OR_RETURN(unit.records[i].extent, co_await state_.file->AllocateForWrite(blocks));
      write->blocks.Take(blocks);
    }
  }
  co_return Status();
}

// The last point at which a write can be withdrawn (P7).
Status WritePipeline::BeginAppend(WriteControl* control) const {
  if (state_.failed()) return state_.Refusal();
  if (!control) return Status();
  const bool late = control->deadline_ns != 0 && state_.reactor.NowNs() >= control->deadline_ns;
  if ((late && control->Withdraw()) || !control->BeginAppend()) {
    return Error(Code::kDeadline, "the deadline passed while the write waited for admission; nothing was changed");
  }
  return Status();
}

// Gives the records their versions and encodes them. From here on the encoded bytes are the write,
// and the operations are no longer needed.
void WritePipeline::Encode(ClientWrite* write) {
  write->encoded.reserve(write->encoded_bytes);
  for (size_t i = 0; i < write->ops.size(); ++i) {
    const WriteOp& op = write->ops[i];
    LogRecord record;
    record.op = op.op;
    record.continues = i + 1 < write->ops.size();
    record.all_or_nothing = write->options.all_or_nothing;
    record.version = state_.clock.Give();
    record.ttl_mode = op.ttl_mode;
    const bool relative = op.ttl_mode == TtlMode::kSet && op.ttl_ms > 0;
    record.expires_at_ms = relative ? VersionMs(record.version) + op.ttl_ms : op.expires_at_ms;
    record.delta = op.delta;
    record.key = op.key;
    record.value = op.value;
    record.condition.version = op.condition.version;
    record.condition.exists = op.condition.exists;
    if (op.condition.value) record.condition.value = *op.condition.value;
    EncodeRecord(record, &write->encoded);
    write->content.records[i].wanted = WantedBy(op);
  }
  ByteReader reader(write->encoded);
  const Status decoded = write->content.Decode(&reader, MaxKeyBytes(state_.pool.page_bytes()));
  CHECK(decoded.ok() && reader.remaining() == 0) << "AU1: " << decoded.ToString();
  std::vector<WriteOp>().swap(write->ops);
}

// Appends the unit to the log and to the queue.
void WritePipeline::Append(ClientWrite* write) {
  ApplyUnit& unit = write->content;
  WriteUnit logged{state_.epoch,      state_.last_lsn + 1, static_cast<uint32_t>(unit.records.size()),
                   state_.last_chain, /*chain_after=*/0,   write->encoded};
  logged.chain_after = UnitChain(logged);
  state_.log->Append(state_.stream, logged);
  unit.first_lsn = logged.first_lsn;
  unit.chain_after = state_.last_chain = logged.chain_after;
  write->unit = &unit;
  write->last_lsn = state_.last_lsn = unit.last_lsn();
  queue_.push_back(write);
}

Task<Result<std::vector<OpResult>>> WritePipeline::Write(std::vector<WriteOp> ops, WriteOptions options) {
  CO_RETURN_IF_ERROR(state_.Refusal());
  const ActiveCall call(&state_);
  ++state_.stats.writes_total;
  ClientWrite write;
  write.ops = std::move(ops);
  write.options = options;
  write.reply.room = options.control ? options.control->values : nullptr;
  write.content.reply = &write.reply;
  LogSpace log_space;
  // Both calls may wait for a long time. BeginAppend checks whether the partition has stopped or
  // the write was withdrawn meanwhile.
  Status status = co_await Admit(&write, &log_space);
  if (status.ok()) status = co_await Fetch(&write);
  // A snapshot is being cut: no write may be appended meanwhile.
  while (status.ok() && writes_held_ && !state_.failed()) co_await writes_resumed_.Wait();
  if (status.ok()) status = BeginAppend(options.control);
  if (status.ok()) {
    Encode(&write);
    Append(&write);
    log_space.Drop();  // from here on its records count themselves
    // P3: resumes once the write has been applied or has failed.
    co_await QueueEntry::Left{&write};
    status = std::move(write.status);
  } else {
    for (const UnitRecord& r : write.content.records) {
      if (!r.extent.empty()) state_.file->FreeNow(r.extent);
    }
    log_space.Drop();  // for other writes that wait
  }
  write.content.pins.clear();
  write.blocks.Drop();  // what it changed counts as dirty now
  if (!status.ok()) co_return status;
  co_return std::move(write.reply.results);
}

// -- the queue

void WritePipeline::HoldWrites() {
  CHECK(!writes_held_) << "writes are held once";
  writes_held_ = true;
}

void WritePipeline::ResumeWrites() {
  CHECK(writes_held_) << "a cut without HoldWrites";
  writes_held_ = false;
  writes_resumed_.NotifyAll();
}

void WritePipeline::Enqueue(QueueMark* mark) {
  mark->last_lsn = state_.last_lsn;
  queue_.push_back(mark);
  ApplyCommitted();
}

void WritePipeline::Withdraw(QueueMark* mark, Status status) {
  CHECK_EQ(std::erase(queue_, mark), 1u) << "WQ1: a mark was withdrawn that is not in the queue";
  Leave(mark, std::move(status));
}

void WritePipeline::Leave(QueueEntry* entry, Status status) {
  entry->status = std::move(status);
  entry->done = true;
  if (entry->waiter) state_.reactor.Schedule(entry->waiter);
}

void WritePipeline::LeaveFailed(QueueEntry* entry) {
  Leave(entry, Error(Code::kAborted,
                     "partition {} stopped before the write was acknowledged; whether it took "
                     "effect is unknown: {}",
                     state_.id(), state_.failure().message()));
}

void WritePipeline::Fail(const Status& status) {
  state_.Fail(status);
  std::deque<QueueEntry*> failed = std::exchange(queue_, {});
  // ApplyInTask reads the write at the front and answers it.
  if (applying_ == Applying::kPreparing) {
    queue_.push_back(failed.front());
    failed.pop_front();
  }
  for (QueueEntry* entry : failed) LeaveFailed(entry);
}

void WritePipeline::OnDurable(Lsn up_to) {
  CHECK(up_to >= state_.durable_lsn && up_to <= state_.last_lsn)
      << "P4: LSN " << up_to << " became durable after " << state_.durable_lsn << ", but the last one is "
      << state_.last_lsn;
  state_.durable_lsn = up_to;
  Commit(up_to);
}

void WritePipeline::Commit(Lsn up_to) {
  CHECK(up_to >= state_.committed_lsn && up_to <= state_.durable_lsn)
      << "P4: LSN " << up_to << " was committed after " << state_.committed_lsn << ", but the last durable one is "
      << state_.durable_lsn;
  state_.committed_lsn = up_to;
  ApplyCommitted();
}

// Applies committed units in order. Continues in a task of its own if a page must be waited for or
// if this turn has done enough work.
void WritePipeline::ApplyCommitted() {
  while (applying_ == Applying::kAtOnce && FrontIsCommitted()) {
    if (apply_slice_.Spend(0) || !FrontIsReady()) {
      applying_ = Applying::kInTask;
      state_.tasks.Spawn(ApplyInTask());
      return;
    }
    ApplyFront();
  }
}

bool WritePipeline::FrontIsReady() {
  const ApplyUnit* unit = queue_.front()->unit;
  return !unit || applier_.Ready(*unit, unit->whole());
}

void WritePipeline::ApplyFront() {
  QueueEntry* entry = queue_.front();
  queue_.pop_front();
  if (entry->unit) {
    CHECK_LE(entry->unit->last_lsn(), state_.committed_lsn) << "P1: a write was applied before it was committed";
    apply_slice_.Spend(kUnitsPerRecord * static_cast<uint32_t>(entry->unit->records.size()));
    applier_.Apply(entry->unit);
    state_.log->SetCommit(state_.stream, state_.applied_lsn, state_.applied_version);
  } else {
    apply_slice_.Spend(kUnitsPerRecord);
    static_cast<QueueMark*>(entry)->OnReached();
  }
  Leave(entry, Status());
}

Task<void> WritePipeline::ApplyInTask() {
  while (FrontIsCommitted()) {
    if (apply_slice_.Spend(0)) {
      co_await Yield(state_.reactor);
      continue;  // the partition may have stopped meanwhile
    }
    if (FrontIsReady()) {
      ApplyFront();
      continue;
    }
    const bool prepared = co_await PrepareFront();
    if (!prepared) break;
    if (FrontIsReady()) {
      ApplyFront();
      continue;
    }
    // Half of the pool is free, and the write needs more than that, because it would clone many
    // pages that the running checkpoint has not written yet. Their number falls as the checkpoint
    // writes them, and nothing else makes them dirty meanwhile. The pins are released because other
    // partitions may wait in the same way.
    queue_.front()->unit->pins.clear();
    co_await Sleep(state_.reactor, kFramesRetry);
  }
  applying_ = Applying::kAtOnce;
}

// Brings into memory what the write at the front needs. False: the partition has failed.
Task<bool> WritePipeline::PrepareFront() {
  applying_ = Applying::kPreparing;
  QueueEntry* entry = queue_.front();
  // Two writes that both gather pins and wait for frames could deadlock.
  co_await state_.pool.gather_turn().Acquire();
  ApplyUnit* unit = entry->unit;
  unit->pins.clear();
  if (unit->records.size() > 1) co_await state_.tree->FetchAhead(KeysOf(*unit, unit->whole()));
  FetchForNext();
  Status status = co_await applier_.MakeReady(unit, unit->whole());
  applying_ = Applying::kInTask;
  // The next task resumes from the event loop, after the code below.
  state_.pool.gather_turn().Release();
  if (!status.ok() && !state_.failed()) {
    Fail(status);
    if (state_.on_failure) state_.on_failure(status);
    co_return false;
  }
  if (!state_.failed()) co_return true;
  CHECK(queue_.front() == entry && queue_.size() == 1) << "WQ1: a write left the queue while it was prepared";
  queue_.pop_front();
  LeaveFailed(entry);
  co_return false;
}

// Reads the leaves of the second write in the queue while the first one is made ready and applied.
// It reads ahead for only one write: in a small pool the leaves of several writes would evict each
// other before they are used.
void WritePipeline::FetchForNext() {
  if (fetching_ahead_ || queue_.size() < 2) return;
  const ApplyUnit* next = queue_[1]->unit;
  if (!next || next->pins.size() == next->records.size()) return;
  fetching_ahead_ = true;
  state_.tasks.Spawn(FetchAhead(KeysOf(*next, next->whole())));
}

Task<void> WritePipeline::FetchAhead(std::vector<std::string> keys) {
  co_await state_.tree->FetchAhead(std::move(keys));
  fetching_ahead_ = false;
}

}  // namespace pando
