// WritePipeline: a client's write as a coroutine, and what its level asks for.
#include <algorithm>
#include <utility>

#include "src/io/timed_wait.h"
#include "src/partition/write_pipeline.h"

namespace pando {
namespace {

constexpr uint32_t kUnitsPerFetched = 8;   // of finding its leaf, in units of the turn's budget
constexpr uint32_t kUnitsPerAppended = 4;  // of encoding it
// A mark waits no longer for its time: whoever wants the snapshot waits too.
constexpr int64_t kMostAheadMs = 500;

}  // namespace

Task<Result<std::vector<OpResult>>> WritePipeline::Write(std::vector<WriteOp> ops, WriteOptions options) {
  if (options.level == WriteLevel::kAll) return WriteToAll(this, std::move(ops), options);
  return WriteHere(std::move(ops), options, nullptr);
}

// While it waits for the other replicas it is no call of the partition, which may come to its end meanwhile.
Task<Result<std::vector<OpResult>>> WritePipeline::WriteToAll(WritePipeline* pipeline, std::vector<WriteOp> ops,
                                                              WriteOptions options) {
  CommitGate* const gate = pipeline->state_.gate.get();
  SessionPoint end;
  Result<std::vector<OpResult>> done = co_await pipeline->WriteHere(std::move(ops), options, &end);
  if (!done.ok()) co_return done;
  Task<Status> on_all = gate->UntilOnAll(end.lsn, options.control ? options.control->deadline_ns : 0);
  CO_RETURN_IF_ERROR(co_await on_all);
  co_return done;
}

// What is acknowledged before it is applied cannot say what came of it.
Status WritePipeline::CheckOne(const std::vector<WriteOp>& ops) const {
  for (const WriteOp& op : ops) {
    const bool known = op.op == RecordOp::kPut || op.op == RecordOp::kRemove;
    if (known && op.condition.empty() && !op.return_previous) continue;
    return Error(Code::kInvalidArgument,
                 "partition {}: a write at level ONE is acknowledged before it is applied, so it must be a put or a "
                 "remove without a condition, without return_previous, and without a client_id; use QUORUM",
                 state_.id());
  }
  return Status();
}

// Half of the log is left to the others while nothing of this partition is committed.
Status WritePipeline::MayAppend(const WriteOptions& options) const {
  CommitGate& gate = *state_.gate;
  Status may = options.of_split ? gate.MayFeed(options.level, options.seen_epoch)
                                : gate.MayWrite(options.level, options.seen_epoch);
  RETURN_IF_ERROR(std::move(may));
  if (options.level != WriteLevel::kOne || !state_.gate->HasFollowers() || !state_.gate->frozen()) return Status();
  if (!state_.log->HalfUsed()) return Status();
  return Error(Code::kOverloaded,
               "partition {}: too few replicas are in sync, so nothing is committed, and half of the log is used; "
               "nothing was changed, try again later",
               state_.id());
}

// Brings the write to the point right before its append, unless it is refused.
Task<Status> WritePipeline::Prepare(ClientWrite* write, LogSpace* log_space) {
  const WriteOptions& options = write->options;
  const Nanos deadline_ns = options.control ? options.control->deadline_ns : 0;
  Status status = MayAppend(options);  // before it waits for anything
  if (!status.ok() && deadline_ns != 0 && state_.gate->HoldsWrites()) {
    status = co_await state_.gate->UntilMayWrite(options.level, options.seen_epoch, deadline_ns);
    CO_RETURN_IF_ERROR(state_.Refusal());
  }
  // Both calls may wait for a long time. BeginAppend checks whether the partition has stopped or
  // the write was withdrawn meanwhile.
  if (status.ok()) status = co_await Admit(write, log_space);
  // What many writers waited for (that the file grows, a page) may have come for all of them in one turn.
  while (status.ok() && append_slice_.Spend(0)) co_await Yield(state_.reactor);
  if (status.ok()) {
    append_slice_.Spend(kUnitsPerFetched * static_cast<uint32_t>(write->ops.size()));
    status = co_await Fetch(write);
  }
  if (status.ok() && write->ops.front().op == RecordOp::kOnce) status = co_await CheckLane(&write->ops.front());
  while (status.ok() && append_slice_.Spend(0)) co_await Yield(state_.reactor);
  if (status.ok() && write->ops.front().op == RecordOp::kClose) {
    co_await UntilDue(write);
    if (write->appended) co_return Status();
  }
  // A snapshot is being cut: no write may be appended meanwhile.
  while (status.ok() && writes_held_ && !state_.failed()) co_await writes_resumed_.Wait();
  if (status.ok()) status = BeginAppend(*write);
  co_return status;
}

// CM7. Where clocks differ by more than kMostAheadMs, it is appended before its time. Whoever comes to a version at or
// above that of the mark takes it off the list, and appends it if nothing is against that.
Task<void> WritePipeline::UntilDue(ClientWrite* mark) {
  const Version version = mark->ops.front().version;
  const auto behind =
      std::upper_bound(waiting_marks_.begin(), waiting_marks_.end(), version,
                       [](Version v, const ClientWrite* waiting) { return v < waiting->ops.front().version; });
  waiting_marks_.insert(behind, mark);
  const int64_t ahead_ms = std::clamp<int64_t>(VersionMs(version) - state_.clock.NowMs(), 0, kMostAheadMs);
  const auto taken = [this, mark] {
    return state_.phase() != Phase::kServing ||
           std::find(waiting_marks_.begin(), waiting_marks_.end(), mark) == waiting_marks_.end();
  };
  Task<bool> due = WaitUntil(state_.reactor, marks_due_, state_.reactor.NowNs() + ahead_ms * kMillisecond, taken);
  co_await due;
  std::erase(waiting_marks_, mark);
}

void WritePipeline::AppendMarksUpTo(Version version) {
  while (!waiting_marks_.empty() && FirstMark() <= version) AppendFirstMark();
}

void WritePipeline::AppendFirstMark() {
  ClientWrite* const mark = waiting_marks_.front();
  waiting_marks_.erase(waiting_marks_.begin());
  if (BeginAppend(*mark).ok()) {
    Encode(mark);
    Append(mark);
    mark->appended = true;
  }
  marks_due_.NotifyAll();  // its call answers, and says why if it was refused
}

// P3: returns once the write has been applied or has failed.
Task<Status> WritePipeline::AppendAndApply(ClientWrite* write, LogSpace* log_space) {
  if (!write->appended) {
    const WriteOp& first = write->ops.front();
    if (first.op == RecordOp::kClose) {
      AppendMarksUpTo(first.version - 1);
    } else {
      AppendMarksBefore(write->options.seen_version, write->ops.size());
    }
    Encode(write);
    Append(write);
  }
  state_.gate->OnAppended();
  log_space->Drop();  // from here on its records count themselves
  co_await QueueEntry::Left{write};
  co_return write->status.ok() ? std::move(write->reply.status) : std::move(write->status);
}

// LV3, level ONE. The unit belongs to the queue, because it may be applied after the call has ended.
Task<Status> WritePipeline::AppendAndSync(ClientWrite* write, LogSpace* log_space) {
  AppendMarksBefore(write->options.seen_version, write->ops.size());
  Encode(write);
  auto unit = std::make_unique<LoggedUnit>();
  unit->waits = QueueEntry::Waiter::kNobody;
  unit->encoded = std::move(write->encoded);
  unit->content.records = std::move(write->content.records);
  unit->content.pins = std::move(write->content.pins);
  DecodeOwn(unit.get());
  write->blocks.MoveTo(&unit->blocks);
  for (const UnitRecord& record : unit->content.records) {
    OpResult& result = write->reply.results.emplace_back();
    result.version = record.record.version;
  }
  LoggedUnit* const appended = unit.release();
  Append(appended);
  write->content.epoch = appended->content.epoch;
  DurableWait wait;
  wait.lsn = appended->content.last_lsn();
  write->last_lsn = wait.lsn;
  durable_waits_.push_back(&wait);
  state_.gate->OnAppended();
  log_space->Drop();
  co_await wait;
  co_return std::move(wait.status);
}

Task<Result<std::vector<OpResult>>> WritePipeline::WriteHere(std::vector<WriteOp> ops, WriteOptions options,
                                                             SessionPoint* end) {
  CO_RETURN_IF_ERROR(state_.Refusal());
  const bool early = options.level == WriteLevel::kOne && state_.gate->HasFollowers();
  if (early) CO_RETURN_IF_ERROR(CheckOne(ops));
  const ActiveCall call(&state_);
  ++state_.stats.writes_total;
  ClientWrite write;
  write.ops = std::move(ops);
  write.options = options;
  write.reply.room = options.control ? options.control->values : nullptr;
  write.content.reply = &write.reply;
  LogSpace log_space;
  Status status;
  for (bool again = true; again;) {
    status = co_await Prepare(&write, &log_space);
    if (status.ok()) break;
    FreeValues(&write.content);
    write.content.records.clear();
    write.content.pins.clear();
    write.blocks.Drop();
    log_space.Drop();  // for other writes that wait
    // LV4. The mastership has begun to change while it was prepared. Meanwhile it holds nothing but its request.
    again = options.control && options.control->deadline_ns > state_.reactor.NowNs() && !state_.failed() &&
            status.code() == Code::kNotMaster && state_.gate->HoldsWrites();
  }
  if (!status.ok()) co_return status;
  append_slice_.Spend(kUnitsPerAppended * static_cast<uint32_t>(write.ops.size()));
  if (early) {
    status = co_await AppendAndSync(&write, &log_space);
  } else {
    status = co_await AppendAndApply(&write, &log_space);
  }
  write.content.pins.clear();
  write.blocks.Drop();  // what it changed counts as dirty now
  if (!status.ok()) co_return status;
  const SessionPoint at{write.content.epoch, write.last_lsn};
  if (options.control) options.control->end = at;
  if (end) *end = at;
  co_return std::move(write.reply.results);
}

void WritePipeline::EndDurableWaits() {
  while (!durable_waits_.empty() && durable_waits_.front()->lsn <= state_.durable_lsn) {
    DurableWait* wait = durable_waits_.front();
    durable_waits_.pop_front();
    wait->done = true;
    if (wait->waiter) state_.reactor.Schedule(wait->waiter);
  }
}

void WritePipeline::FailDurableWaits(Lsn lsn) {
  while (!durable_waits_.empty() && durable_waits_.back()->lsn > lsn) {
    DurableWait* wait = durable_waits_.back();
    durable_waits_.pop_back();
    wait->status = Error(Code::kAborted,
                         "partition {}: the master changed, or the partition stopped, before the write was durable "
                         "here; whether it takes effect is unknown",
                         state_.id());
    wait->done = true;
    if (wait->waiter) state_.reactor.Schedule(wait->waiter);
  }
}

}  // namespace pando
