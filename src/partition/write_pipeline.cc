#include "src/partition/write_pipeline.h"

#include <algorithm>
#include <utility>

#include "src/model/key_space.h"
#include "src/partition/write_record.h"

namespace pando {
namespace {

// Writes pin the pages they will need in up to 1/8 of the pool.
constexpr uint64_t kPinnedShare = 8;
constexpr Nanos kFramesRetry = kMillisecond;
constexpr size_t kPrefetchAhead = 6;      // leaves of later writes, while a write is applied
constexpr uint32_t kUnitsPerRecord = 12;  // of applying it, in units of the turn's budget
constexpr uint32_t kUnitsPerAnswer = 8;   // of saying that it failed

}  // namespace

WritePipeline::~WritePipeline() {
  CHECK(unanswered_.empty()) << "P3: writes of partition " << state_.id() << " have no answer";
  for (QueueEntry* entry : queue_) {
    switch (entry->waits) {
      case QueueEntry::Waiter::kNobody: delete static_cast<LoggedUnit*>(entry); break;
      case QueueEntry::Waiter::kPoint: delete static_cast<PointUnit*>(entry); break;
      case QueueEntry::Waiter::kCoroutine: break;
    }
  }
}

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

void WritePipeline::AddCost(const WriteOp& op, OpCost* cost) const {
  const size_t key_bytes = op.key.size(), value_bytes = op.value.size();
  cost->encoded_bytes += kMaxRecordOverhead + key_bytes + value_bytes;
  if (op.condition.value) cost->encoded_bytes += op.condition.value->size();
  cost->frames += applier_.FramesFor(op.op, key_bytes, value_bytes);
  cost->blocks += admission_.BlocksFor(op.op, key_bytes, value_bytes);
}

Task<Status> WritePipeline::Admit(ClientWrite* write, LogSpace* log_space) {
  CHECK(!write->ops.empty() && write->ops.size() <= kMaxWriteOps);
  bool only_removes = true, checks_may_come = true;
  OpCost cost;
  const size_t max_key_bytes = state_.tree->max_key_bytes();
  for (const WriteOp& op : write->ops) {
    const size_t key_bytes = op.key.size(), value_bytes = op.value.size();
    CHECK((key_bytes > 0) != IsClusterMark(op.op) && value_bytes <= kMaxValueBytes);
    if (key_bytes > max_key_bytes) {
      co_return Error(Code::kInvalidArgument,
                      "the key has {} bytes with its namespace; the pages of this store take {} (see hello for "
                      "max_key_bytes)",
                      key_bytes, max_key_bytes);
    }
    CHECK(op.ttl_mode != TtlMode::kSet || (op.ttl_ms > 0) != (op.expires_at_ms > 0)) << "no expiry, or two";
    CHECK(op.op != RecordOp::kTouch || op.ttl_mode != TtlMode::kKeep) << "a touch that changes nothing";
    CHECK(!IsCheck(op.op) || (checks_may_come && !op.condition.empty())) << "an empty check, or a late one";
    CHECK(op.copied == 0 || (op.op == RecordOp::kPut && write->ops.front().op == RecordOp::kFeed)) << "a stray copy";
    const bool once = op.op == RecordOp::kOnce;
    CHECK(!once || (&op == write->ops.data() && write->ops.size() > 1 && op.sequence > 0))
        << "a kOnce that names nothing";
    checks_may_come &= IsCheck(op.op) || once;
    // A lane takes room, so a write that has a name cannot have what is held back for removes.
    only_removes &=
        op.op == RecordOp::kRemove || op.op == RecordOp::kExpire || IsCheck(op.op) || op.op == RecordOp::kLease;
    if (once && !MayBeSent(op)) co_return AheadOfTime(op);
    AddCost(op, &cost);
  }
  write->encoded_bytes = cost.encoded_bytes;
  CO_RETURN_IF_ERROR(CheckFits(write->ops.size(), cost.frames));
  if (!only_removes) CO_RETURN_IF_ERROR(CheckDisks(cost));
  const Nanos deadline_ns = write->options.control ? write->options.control->deadline_ns : 0;
  CO_ASSIGN_OR_RETURN(*log_space, co_await state_.log->WaitForSpace(state_.stream, write->encoded_bytes, deadline_ns));
  Status status = co_await admission_.Admit(cost.blocks, only_removes, &write->blocks);
  if (status.code() == Code::kDiskFull) {
    ++state_.stats.disk_full_total;
    state_.NoteDiskFull(cost.blocks);
    if (state_.works() && !std::exchange(growing_ahead_, true)) state_.tasks.Spawn(GrowAhead());
    co_return Error(Code::kDiskFull,
                    "partition {}: the disk of its master is full. Delete records, or make room there: {}", state_.id(),
                    status.message());
  } else if (status.ok() && !only_removes) {
    state_.NoteAdmitted(cost.blocks);
  }
  co_return status;
}

// Those of the other replicas; the own one is asked when the write is admitted.
Status WritePipeline::CheckDisks(const OpCost& cost) const {
  Status status = state_.gate->CheckDisks(cost.blocks * kBlockBytes);
  if (!status.ok()) ++state_.stats.disk_full_total;
  return status;
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
      const auto blocks = static_cast<uint32_t>(state_.pool.BlocksFor(op.value.size()));
      CO_ASSIGN_OR_RETURN(unit.records[i].extent, co_await state_.file->AllocateForWrite(blocks));
      write->blocks.Take(blocks);
    }
  }
  co_return Status();
}

// A lane that is far ahead would be remembered for too long.
bool WritePipeline::MayBeSent(const WriteOp& once) const {
  return once.first_sent_ms <= state_.clock.store().NowMs(state_.reactor) + kMaxAheadMs;
}

Status WritePipeline::AheadOfTime(const WriteOp& once) const {
  const int64_t now_ms = state_.clock.store().NowMs(state_.reactor);
  return Error(
      Code::kInvalidArgument,
      "the write says that it was first sent at {} (Unix time in ms), but it is {} here; take the time from the "
      "reply to hello",
      once.first_sent_ms, now_ms);
}

// Whether there is room for one more lane, as far as is known.
bool WritePipeline::MayTakeLane() const { return lanes_at_most_ && *lanes_at_most_ < state_.max_lanes; }

bool WritePipeline::TakeLane() {
  if (!MayTakeLane()) return false;
  ++*lanes_at_most_;
  return true;
}

// LN2: whether the write may begin a lane, if it does. Lanes that have expired count until they are swept.
Task<Status> WritePipeline::CheckLane(const WriteOp* once) {
  CO_ASSIGN_OR_RETURN(PagePin leaf, co_await state_.tree->FetchLeaf(once->key));
  if (state_.tree->FindInLeaf(leaf.frame(), once->key) || TakeLane()) co_return Status();
  leaf = PagePin();  // the count may need frames
  const std::string first = kLaneKeys.Stored("");
  CO_ASSIGN_OR_RETURN(const Aggregates lanes,
                      co_await state_.tree->Aggregate(/*view=*/0, first, /*end=*/"", /*now_ms=*/0));
  lanes_at_most_ = lanes.count;
  if (TakeLane()) co_return Status();
  ++state_.stats.lanes_refused_total;
  co_return Error(Code::kOverloaded,
                  "partition {}: it remembers the last writes of {} clients, and can take no further client until some "
                  "have been silent for {} minutes; nothing was changed, try again later, or without naming the write",
                  state_.id(), lanes.count, kLaneRetentionMs / 60'000);
}

// The bytes of the log and the records that are durable and not committed.
WritePipeline::Uncommitted WritePipeline::DurableUncommitted() const {
  if (state_.durable_lsn == state_.committed_lsn) return {};
  const auto after = EntryAfter(state_.durable_lsn);
  const uint64_t bytes = after == queue_.begin() ? 0 : (*(after - 1))->end_bytes - committed_bytes_;
  return {bytes, state_.durable_lsn - state_.committed_lsn};
}

// WQ2. If the gate commits what is durable, nothing is refused: writes wait for the disk. What is not
// durable yet does not count: it has not kept the gate waiting.
bool WritePipeline::UncommittedFits(size_t encoded_bytes, size_t ops) const {
  if (state_.durable_lsn == state_.committed_lsn) return true;
  const auto [bytes, records] = DurableUncommitted();
  const UncommittedLimits& limits = state_.uncommitted_limits;
  return bytes + UnitBytes(encoded_bytes) <= limits.bytes && records + ops <= limits.records;
}

Status WritePipeline::CheckUncommitted(const ClientWrite& write) const {
  if (UncommittedFits(write.encoded_bytes, write.ops.size())) return Status();
  const auto [bytes, records] = DurableUncommitted();
  const UncommittedLimits& limits = state_.uncommitted_limits;
  ++state_.stats.uncommitted_refused_total;
  return Error(Code::kOverloaded,
               "partition {}: {} records ({} bytes) wait to be committed, and the limits are {} records and {} bytes: "
               "too few replicas acknowledge them; nothing was changed, try again later",
               state_.id(), records, bytes, limits.records, limits.bytes);
}

// CM1: whether the partition may go on above the version of the mark.
Status WritePipeline::CheckClose(const WriteOp& op) const {
  if (op.op != RecordOp::kClose || op.version > state_.clock.newest()) return Status();
  return Error(Code::kSnapshotGone,
               "partition {}: version {} was given already, and the snapshot of the cluster was to end at {}; take "
               "another snapshot, with a higher version",
               state_.id(), state_.clock.newest(), op.version);
}

// A copy has a version that is not above that of its record in the log, which the clock here must be able to give.
Status WritePipeline::CheckFeed(const ClientWrite& write) const {
  const Version seen = write.options.seen_version;
  if (write.ops.front().op != RecordOp::kFeed || seen <= state_.clock.newest() || state_.clock.MayFollow(seen)) {
    return Status();
  }
  return Error(Code::kUnavailable,
               "partition {}: records are copied here whose versions are too far ahead of the clock of this node; set "
               "the clocks",
               state_.id());
}

// The last point at which a write can be withdrawn (P7).
Status WritePipeline::BeginAppend(const ClientWrite& write) const {
  WriteControl* control = write.options.control;
  if (state_.failed()) return state_.Refusal();
  if (gave_up_) return Error(Code::kUnavailable, "partition {} is closing", state_.id());
  RETURN_IF_ERROR(MayAppend(write.options));  // CG3
  RETURN_IF_ERROR(CheckUncommitted(write));
  RETURN_IF_ERROR(CheckClose(write.ops.front()));
  RETURN_IF_ERROR(CheckFeed(write));
  if (!control) return Status();
  const bool late = control->deadline_ns != 0 && state_.reactor.NowNs() >= control->deadline_ns;
  if ((late && control->Withdraw()) || !control->BeginAppend()) {
    return Error(Code::kDeadline, "the deadline passed while the write waited for admission; nothing was changed");
  }
  return Status();
}

// What a write's client has seen is older than the write. Clocks that differ are told now and then, and not for each
// write.
void WritePipeline::See(Version seen) {
  if (state_.clock.See(seen)) return;
  constexpr uint64_t kLogEvery = 10'000;
  LOG_IF(WARNING, state_.stats.clocks_ahead_total % kLogEvery == 0)
      << "partition " << state_.id() << ": a write is to follow version " << seen << ", which is "
      << VersionMs(seen) - state_.reactor.WallMs()
      << " ms ahead of the clock here: the clock of a node is wrong, or was. The write gets a version at most "
      << PartitionClock::kMaxLeadMs
      << " ms ahead; kvadmin cluster status says which clock. More such writes are counted "
         "(kv_partition_clocks_ahead_total), and not logged";
  ++state_.stats.clocks_ahead_total;
}

// Gives the records their versions and encodes them. From here on the encoded bytes are the write,
// and the operations are no longer needed.
void WritePipeline::Encode(ClientWrite* write) {
  See(write->options.seen_version);
  write->encoded.reserve(write->encoded_bytes);
  uint64_t digest = 0;
  if (write->ops.front().op == RecordOp::kOnce) {
    digest = DigestOf(std::span(write->ops).subspan(1), write->options.all_or_nothing, &write->encoded);
  }
  for (size_t i = 0; i < write->ops.size(); ++i) {
    const bool closes = write->ops[i].op == RecordOp::kClose;
    LogRecord record =
        RecordOf(write->ops[i], closes ? state_.clock.GiveThis(write->ops[i].version) : state_.clock.Give());
    if (record.op == RecordOp::kOnce) record.digest = digest;
    record.continues = i + 1 < write->ops.size();
    record.all_or_nothing = write->options.all_or_nothing;
    EncodeRecord(record, &write->encoded);
    write->content.records[i].wanted = WantedBy(write->ops[i]);
  }
  DecodeOwn(write);
  std::vector<WriteOp>().swap(write->ops);
}

// Makes the unit point into the encoded records.
void WritePipeline::DecodeOwn(LoggedUnit* unit) {
  ByteReader reader(unit->encoded);
  const Status decoded = unit->content.Decode(&reader, state_.tree->max_key_bytes());
  CHECK(decoded.ok() && reader.remaining() == 0) << "AU1: " << decoded.ToString();
}

// Appends the unit to the log and to the queue.
void WritePipeline::Append(LoggedUnit* entry) {
  ApplyUnit& unit = entry->content;
  WriteUnit logged{state_.epoch,      state_.last_lsn + 1, static_cast<uint32_t>(unit.records.size()),
                   state_.last_chain, /*chain_after=*/0,   entry->encoded};
  logged.chain_after = UnitChain(logged);
  state_.log->Append(state_.stream, logged);
  unit.epoch = logged.epoch;
  unit.first_lsn = logged.first_lsn;
  unit.chain_after = state_.last_chain = logged.chain_after;
  state_.last_lsn = unit.last_lsn();
  Push(entry);
}

void WritePipeline::Push(LoggedUnit* entry) {
  entry->unit = &entry->content;
  entry->last_lsn = entry->content.last_lsn();
  entry->end_bytes = appended_bytes_ += UnitBytes(entry->encoded.size());
  state_.history.Add({entry->content.epoch, entry->last_lsn, entry->content.chain_after});
  queue_.push_back(entry);
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
  mark->end_bytes = appended_bytes_;
  if (gave_up_ && mark->last_lsn > state_.committed_lsn) {  // WQ3
    return Leave(mark,
                 Error(Code::kAborted, "partition {} is closing, and some writes are not committed", state_.id()));
  }
  queue_.push_back(mark);
  ApplyCommitted();
}

void WritePipeline::Withdraw(QueueMark* mark, Status status) {
  CHECK_EQ(std::erase(queue_, mark), 1u) << "WQ1: a mark was withdrawn that is not in the queue";
  Leave(mark, std::move(status));
}

void WritePipeline::Leave(QueueEntry* entry, Status status) {
  switch (entry->waits) {
    case QueueEntry::Waiter::kNobody: delete static_cast<LoggedUnit*>(entry); return;
    case QueueEntry::Waiter::kPoint: FinishPoint(static_cast<PointUnit*>(entry), std::move(status)); return;
    case QueueEntry::Waiter::kCoroutine: break;
  }
  entry->status = std::move(status);
  entry->done = true;
  if (entry->waiter) state_.reactor.Schedule(entry->waiter);
}

void WritePipeline::FreeValues(ApplyUnit* unit) {
  for (UnitRecord& r : unit->records) {
    if (!r.extent.empty()) state_.file->FreeNow(std::exchange(r.extent, Extent()));
  }
}

void WritePipeline::LeaveUnapplied(QueueEntry* entry, Status status) {
  if (entry->unit) FreeValues(entry->unit);
  Leave(entry, std::move(status));
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
  FailDurableWaits(0);
  WakeWriters();
}

void WritePipeline::OnOutOfService() {
  FailDurableWaits(0);
  WakeWriters();
  // ApplyInTask reads the write at the front and answers it.
  const size_t kept = applying_ == Applying::kPreparing ? 1 : 0;
  // Of a dropped partition, the log reads nothing any more.
  const Lsn up_to = state_.phase() == Phase::kDropped ? state_.last_lsn : state_.durable_lsn;
  const auto first = queue_.begin() + static_cast<ptrdiff_t>(kept), end = EntryAfter(up_to);
  if (end <= first) return;
  const std::vector<QueueEntry*> dropped(first, end);
  queue_.erase(first, end);
  for (QueueEntry* entry : dropped) {
    if (entry->unit) {
      unanswered_.push_back(entry);
    } else {
      LeaveFailed(entry);  // a mark may be withdrawn as long as it waits
    }
  }
  AnswerFailed();
}

// There may be as many of them as the log has staged. A task answers those for which this turn has no time.
void WritePipeline::AnswerFailed() {
  while (!unanswered_.empty()) {
    if (answer_slice_.Spend(kUnitsPerAnswer)) {
      if (!std::exchange(answering_, true)) state_.tasks.Spawn(AnswerInTask());
      return;
    }
    QueueEntry* entry = unanswered_.front();
    unanswered_.pop_front();
    LeaveFailed(entry);
  }
}

Task<void> WritePipeline::AnswerInTask() {
  while (!unanswered_.empty()) {
    co_await Yield(state_.reactor);
    AnswerFailed();
  }
  answering_ = false;
}

// -- durable, committed, superseded

void WritePipeline::OnDurable(Lsn up_to) {
  CHECK(up_to >= state_.durable_lsn && up_to <= state_.last_lsn)
      << "P4: LSN " << up_to << " became durable after " << state_.durable_lsn << ", but the last one is "
      << state_.last_lsn;
  state_.durable_lsn = up_to;
  if (state_.out_of_service()) return OnOutOfService();
  EndDurableWaits();
  if (!gate_closed_) state_.gate->OnDurable(up_to);
  if (state_.phase() == Phase::kDraining) GiveUpUncommitted();
}

void WritePipeline::Commit(Lsn up_to) {
  if (gave_up_ || state_.failed()) return;
  CHECK_LE(up_to, state_.durable_lsn) << "P4: what is not durable was committed";
  const auto after = EntryAfter(up_to);
  if (after == queue_.begin()) return;
  const QueueEntry* last = *(after - 1);
  if (last->last_lsn <= state_.committed_lsn) return;
  state_.committed_lsn = last->last_lsn;
  state_.history.Trim(state_.committed_lsn);
  committed_bytes_ = last->end_bytes;
  state_.log->SetCommit(state_.stream, state_.committed_lsn, state_.clock.newest());
  ApplyCommitted();
}

Lsn WritePipeline::UnitEndBefore(Lsn lsn) const {
  const auto after = EntryAfter(lsn);
  return after == queue_.begin() ? state_.applied_lsn : (*(after - 1))->last_lsn;
}

// The first entry that ends above `lsn`.
std::deque<QueueEntry*>::iterator WritePipeline::EntryAfter(Lsn lsn) {
  return queue_.begin() + (std::as_const(*this).EntryAfter(lsn) - queue_.cbegin());
}

std::deque<QueueEntry*>::const_iterator WritePipeline::EntryAfter(Lsn lsn) const {
  return std::upper_bound(queue_.cbegin(), queue_.cend(), lsn,
                          [](Lsn l, const QueueEntry* entry) { return l < entry->last_lsn; });
}

void WritePipeline::BeginEpoch(Epoch epoch, Lsn after) {
  CHECK_GT(epoch, state_.epoch) << "CG2: epochs rise";
  // While the partition drains, the log may be closed already.
  if (state_.phase() != Phase::kServing) return;
  // The log stops reading what is superseded with the append below. Nobody suspends meanwhile.
  if (after < state_.last_lsn) DropAfter(after);
  state_.epoch = epoch;
  auto unit = std::make_unique<LoggedUnit>();
  LogRecord record;
  record.op = RecordOp::kEpochStart;
  record.version = state_.clock.Give();
  EncodeRecord(record, &unit->encoded);
  DecodeOwn(unit.get());
  unit->waits = QueueEntry::Waiter::kNobody;
  Append(unit.release());
  ApplyCommitted();  // a mark may have moved to the commit LSN
}

// Drops what was appended after `lsn`, as if it had never been.
void WritePipeline::DropAfter(Lsn lsn) {
  CHECK_GE(lsn, state_.committed_lsn) << "CG1: committed units would be superseded";
  CHECK_EQ(UnitEndBefore(lsn), lsn) << "CG2: a part of a unit would be superseded";
  const auto first = EntryAfter(lsn);
  const std::vector<QueueEntry*> dropped(first, queue_.end());
  queue_.erase(first, queue_.end());
  const LoggedUnit* last = LastUnit();
  state_.last_lsn = lsn;
  state_.last_chain = last ? last->content.chain_after : state_.applied_chain;
  state_.history.CutAfter(lsn);
  appended_bytes_ = last ? last->end_bytes : committed_bytes_;
  state_.durable_lsn = std::min(state_.durable_lsn, lsn);
  appended_again_ = 0;  // some of them may be superseded, and are not announced then
  ++again_round_;
  FailDurableWaits(lsn);
  for (QueueEntry* entry : dropped) {
    if (entry->unit) {
      LeaveUnapplied(entry, Error(Code::kAborted,
                                  "partition {}: the write was superseded in a change of master; whether it took "
                                  "effect there is unknown",
                                  state_.id()));
      continue;
    }
    entry->last_lsn = lsn;
    entry->end_bytes = appended_bytes_;
    queue_.push_back(entry);
  }
}

void WritePipeline::AppendTailAgain() {
  if (appended_again_ > 0 || state_.failed()) return;
  uint64_t chain = state_.applied_chain;
  for (const QueueEntry* entry : queue_) {
    if (!entry->unit) continue;
    const uint64_t before = std::exchange(chain, entry->unit->chain_after);
    if (entry->last_lsn <= state_.committed_lsn) continue;
    if (entry->last_lsn > state_.durable_lsn) break;
    const auto* logged = static_cast<const LoggedUnit*>(entry);
    const ApplyUnit& unit = logged->content;
    ++appended_again_;
    state_.log->AppendAgain(state_.stream,
                            WriteUnit{unit.epoch, unit.first_lsn, static_cast<uint32_t>(unit.records.size()), before,
                                      unit.chain_after, logged->encoded},
                            [this, round = again_round_] { appended_again_ -= round == again_round_; });
  }
}

void WritePipeline::GiveUpUncommitted() {
  WakeWriters();
  if (state_.failed()) return;
  // What is not durable yet is still read by the log.
  const auto first = EntryAfter(state_.committed_lsn), end = EntryAfter(state_.durable_lsn);
  const std::vector<QueueEntry*> dropped(first, end);
  queue_.erase(first, end);
  gave_up_ |= !dropped.empty();  // nothing that follows can be applied any more
  for (QueueEntry* entry : dropped) {
    LeaveUnapplied(
        entry,
        Error(Code::kAborted, "partition {} closed before the write was committed; whether it takes effect is unknown",
              state_.id()));
  }
}

void WritePipeline::CloseGate() {
  if (std::exchange(gate_closed_, true)) return;
  // An epoch start may still be on its way to the disk. It must not be applied now: the tasks that
  // would do it have been drained.
  gave_up_ = true;
  state_.gate->OnClosed();
}

// Applies committed units in order. Continues in a task of its own if a page must be waited for or
// if this turn has done enough work.
void WritePipeline::ApplyCommitted() {
  for (size_t i = 0; i < kPrefetchAhead && FrontIsCommitted(); ++i) PrefetchLeaf(i);
  while (applying_ == Applying::kAtOnce && FrontIsCommitted()) {
    PrefetchLeaf(kPrefetchAhead);
    PrefetchRecord(kPrefetchAhead / 2);
    if (apply_slice_.Spend(0) || !FrontIsReady()) {
      applying_ = Applying::kInTask;
      state_.tasks.Spawn(ApplyInTask());
      return;
    }
    ApplyFront();
  }
}

// The leaf of a write was last used when the write was admitted, so it has left the processor's cache.
// It is brought back in two steps, because the second needs what the first brings.
const ApplyUnit* WritePipeline::PinnedUnit(size_t index) const {
  const ApplyUnit* unit = index < queue_.size() ? queue_[index]->unit : nullptr;
  return unit && !unit->pins.empty() ? unit : nullptr;
}

void WritePipeline::PrefetchLeaf(size_t index) const {
  if (const ApplyUnit* unit = PinnedUnit(index)) state_.tree->Prefetch(*unit->pins.back().frame());
}

void WritePipeline::PrefetchRecord(size_t index) const {
  const ApplyUnit* unit = PinnedUnit(index);
  if (unit) state_.tree->PrefetchRecord(*unit->pins.back().frame(), unit->records.back().record.key);
}

bool WritePipeline::FrontIsReady() {
  const ApplyUnit* unit = queue_.front()->unit;
  return !unit || (!unit->unplaced && applier_.MarkReady(*unit) && applier_.Ready(*unit, unit->whole()));
}

void WritePipeline::ApplyFront() {
  QueueEntry* entry = queue_.front();
  queue_.pop_front();
  applied_bytes_ = entry->end_bytes;
  if (entry->unit) {
    CHECK_LE(entry->unit->last_lsn(), state_.committed_lsn) << "P1: a write was applied before it was committed";
    apply_slice_.Spend(kUnitsPerRecord * static_cast<uint32_t>(entry->unit->records.size()));
    // Admitting a point write does not look at the page.
    if (entry->waits == QueueEntry::Waiter::kPoint) {
      for (const PagePin& pin : entry->unit->pins) state_.pool.Touch(pin.frame());
    }
    applier_.Apply(entry->unit);
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
  applier_.ForgetMark();  // the partition has stopped before its mark was applied
  applying_ = Applying::kAtOnce;
}

// Brings into memory what the write at the front needs. False: the partition has failed.
Task<bool> WritePipeline::PrepareFront() {
  applying_ = Applying::kPreparing;
  QueueEntry* entry = queue_.front();
  Status status;
  if (entry->unit->unplaced) status = co_await PlaceFront(static_cast<LoggedUnit*>(entry));
  if (status.ok()) co_await applier_.PrepareMark(entry->unit);
  // Two writes that both gather pins and wait for frames could deadlock.
  co_await state_.pool.gather_turn().Acquire();
  ApplyUnit* unit = entry->unit;
  unit->pins.clear();
  if (unit->records.size() > 1) co_await state_.tree->FetchAhead(KeysOf(*unit, unit->whole()));
  FetchForNext();
  if (status.ok()) status = co_await applier_.MakeReady(unit, unit->whole());
  applying_ = Applying::kInTask;
  // The next task resumes from the event loop, after the code below.
  state_.pool.gather_turn().Release();
  const bool damaged = status.code() == Code::kCorruption || status.code() == Code::kIoError;
  if (!status.ok() && !state_.failed() && damaged && state_.on_damage) {
    state_.on_damage(status);
    co_return false;
  }
  if (!status.ok() && !state_.failed()) {
    Fail(status);
    if (state_.on_failure) state_.on_failure(status);
    co_return false;
  }
  if (!state_.failed()) co_return true;
  CHECK(queue_.front() == entry) << "WQ1: a write left the queue while it was prepared";
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
