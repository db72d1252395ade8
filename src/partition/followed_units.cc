// WritePipeline: units that nobody in this process waits for. Another replica wrote them, or an earlier
// process.
#include <algorithm>
#include <utility>

#include "src/partition/write_pipeline.h"

namespace pando {
namespace {

constexpr size_t kFetchesAtOnce = 32;   // units whose pages are read before their turn
constexpr Nanos kPlaceRetry = kSecond;  // of what finds no room on a full disk
// Of a master's writes that are not committed. They are several times what a master lets wait (WQ2),
// because the limits of another node may be higher, and because there may also be what was on its way to
// its disk when it reached them. Nothing of it can be committed before a new master has all of it.
constexpr uint64_t kMaxTailBytes = 8 * UncommittedLimits().bytes;
constexpr uint64_t kMaxTailRecords = 16 * UncommittedLimits().records;

}  // namespace

// The last unit in the queue; null if there is none.
const LoggedUnit* WritePipeline::LastUnit() const {
  const auto last = std::find_if(queue_.rbegin(), queue_.rend(), [](const QueueEntry* entry) { return entry->unit; });
  return last == queue_.rend() ? nullptr : static_cast<const LoggedUnit*>(*last);
}

// WQ2, for units of another replica. Each check lets one more unit pass, whatever its size, so that none
// is refused for ever.
Status WritePipeline::CheckRoom() const {
  const uint64_t backlog_bytes = committed_bytes_ - applied_bytes_;
  const uint64_t backlog_records = state_.committed_lsn - state_.applied_lsn;
  const UncommittedLimits& limits = state_.uncommitted_limits;
  if (backlog_bytes > limits.bytes || backlog_records > limits.records) {
    return Error(Code::kOverloaded,
                 "partition {}: {} committed records ({} bytes) wait to be applied, because the disk "
                 "is slow or full; go on once some of them have been",
                 state_.id(), backlog_records, backlog_bytes);
  }
  const uint64_t tail_bytes = uncommitted_bytes(), tail_records = state_.last_lsn - state_.committed_lsn;
  if (tail_bytes <= kMaxTailBytes && tail_records <= kMaxTailRecords) return Status();
  return Error(Code::kOverloaded,
               "partition {}: {} records ({} bytes) of the master wait to be committed, and the "
               "limits are {} records and {} bytes",
               state_.id(), tail_records, tail_bytes, kMaxTailRecords, kMaxTailBytes);
}

// Copies the records. kCorruption: they are none that a write produces, or do not follow.
Status WritePipeline::DecodeUnit(const WriteUnit& unit, LoggedUnit* logged) const {
  logged->encoded = unit.records;
  ApplyUnit& content = logged->content;
  ByteReader reader(logged->encoded);
  Status status = content.Decode(&reader, state_.tree->max_key_bytes());
  if (status.ok() && (reader.remaining() > 0 || content.records.size() != unit.record_count)) {
    status = Error(Code::kCorruption, "it says that it has {} records, and has others", unit.record_count);
  }
  if (status.ok() && content.records.size() > kMaxWriteOps) {
    status = Error(Code::kCorruption, "a write of {} records", content.records.size());
  }
  for (const UnitRecord& r : content.records) {
    if (status.ok() && r.record.value.size() > kMaxValueBytes) {
      status = Error(Code::kCorruption, "a value of {} bytes", r.record.value.size());
    }
  }
  content.epoch = unit.epoch;
  content.first_lsn = unit.first_lsn;
  content.chain_after = unit.chain_after;
  const LoggedUnit* last = LastUnit();
  if (status.ok()) status = content.CheckFollows(state_.id(), last ? last->content.end() : state_.applied_end());
  if (status.ok()) return status;
  return Error(Code::kCorruption, "partition {}: the unit of epoch {} at LSN {} that came from another replica: {}",
               state_.id(), unit.epoch, unit.first_lsn, status.message());
}

Status WritePipeline::AppendUnit(const WriteUnit& unit) {
  RETURN_IF_ERROR(state_.Refusal());
  if (gave_up_) return Error(Code::kUnavailable, "partition {} is closing", state_.id());
  CHECK(unit.first_lsn == state_.last_lsn + 1 && unit.chain_before == state_.last_chain &&
        unit.epoch >= state_.history.end().epoch)
      << "CG3: partition " << state_.id() << " ends at LSN " << state_.last_lsn << ", and is given LSN "
      << unit.first_lsn << " of epoch " << unit.epoch;
  RETURN_IF_ERROR(CheckRoom());
  auto logged = std::make_unique<LoggedUnit>();
  RETURN_IF_ERROR(DecodeUnit(unit, logged.get()));
  WriteUnit copy = unit;
  copy.records = logged->encoded;
  RETURN_IF_ERROR(Restore(std::move(logged)));
  state_.NoteBusy();
  state_.epoch = std::max(state_.epoch, unit.epoch);
  state_.last_lsn = unit.last_lsn();
  state_.last_chain = unit.chain_after;
  state_.log->Append(state_.stream, copy);
  FetchSoon(LastUnit()->content);
  return Status();
}

// The pages of several units are read at once, as those of clients' writes are. When a unit's turn to be
// applied has come, nothing but its own pages and those of the next one is read.
void WritePipeline::FetchSoon(const ApplyUnit& unit) {
  if (fetches_ == kFetchesAtOnce || !MayPin()) return;
  std::vector<std::string> missing;
  ChildRef child;
  uint8_t level = 0;
  for (const UnitRecord& r : unit.records) {
    if (!state_.tree->FindLeaf(r.record.key, &child, &level)) missing.emplace_back(r.record.key);
  }
  if (missing.empty()) return;
  ++fetches_;
  state_.tasks.Spawn(FetchFollowed(std::move(missing)));
}

Task<void> WritePipeline::FetchFollowed(std::vector<std::string> keys) {
  co_await state_.tree->FetchAhead(std::move(keys));  // an error shows again when the unit is applied
  --fetches_;
}

// Applying it may need more room on the disk than there is now, in the file as it is. It then waits for it
// when its turn to be applied has come.
Status WritePipeline::Restore(std::unique_ptr<LoggedUnit> logged) {
  ApplyUnit& unit = logged->content;
  const size_t frames = applier_.FramesFor(unit), pool_frames = state_.pool.frame_count();
  // A quarter more than CheckFits grants a client: the pool of the node that took the write may have been larger,
  // because a node that has more partitions when it starts leaves more memory to them.
  if (unit.records.size() > pool_frames / Applier::kFramesPerRecord * 5 / 4 || frames > pool_frames / 4 * 5 / 4) {
    return Error(Code::kInvalidArgument,
                 "partition {}: a write of {} operations that is not committed yet needs {} pages of memory at once, "
                 "which are too many for the buffer pool of {} pages; raise --memory_limit_mb and start again, nothing "
                 "is lost",
                 state_.id(), unit.records.size(), frames, pool_frames);
  }
  state_.clock.Follow(std::max(state_.clock.newest(), unit.end().version));  // P5
  uint64_t blocks = 0;
  for (const UnitRecord& r : unit.records) {
    const size_t key_bytes = r.record.key.size(), value_bytes = r.record.value.size();
    blocks += admission_.BlocksFor(r.record.op, key_bytes, value_bytes);
    unit.unplaced |= r.record.op == RecordOp::kPut && state_.tree->NeedsOverflow(key_bytes, value_bytes);
  }
  // One that waits for room must not wait for what is promised to those behind it.
  const LoggedUnit* last = LastUnit();
  const bool waits = last != nullptr && last->wanted_blocks > 0;
  if (waits || !admission_.TryAdmit(blocks, /*only_removes=*/true, &logged->blocks)) logged->wanted_blocks = blocks;
  unit.unplaced |= logged->wanted_blocks > 0;
  logged->waits = QueueEntry::Waiter::kNobody;
  GrowSoon();
  Push(logged.release());
  return Status();
}

// P9: the units of a master are given what is held back for removes too, because they cannot be refused. So the file
// grows as soon as they begin to use that, and if it cannot, the master is told (Room) while there is still some left.
void WritePipeline::GrowSoon() {
  if (growing_ahead_ || state_.phase() != Phase::kServing) return;
  if (state_.file->allocator().free_blocks() >= admission_.BlocksToKeepFree()) return;
  growing_ahead_ = true;
  state_.tasks.Spawn(GrowAhead());
}

// Until there is room: for what a follower keeps free, and for a write that was refused. So the status says that the
// disk is full as long as it is for such a write, whether somebody writes or not, and for kDiskFullNotice after that.
Task<void> WritePipeline::GrowAhead() {
  while (true) {
    AdmittedBlocks none;
    const uint64_t blocks = state_.disk_full_blocks;
    // Waits for the checkpoints that free space, if that suffices.
    const Status admitted = co_await admission_.Admit(blocks, /*only_removes=*/false, &none);
    cannot_grow_ = admitted.code() == Code::kDiskFull && state_.works();
    if (!cannot_grow_) break;
    state_.NoteDiskFull(0);
    co_await Sleep(state_.reactor, kPlaceRetry);
    if (!state_.works()) break;
  }
  growing_ahead_ = false;
}

uint64_t WritePipeline::Room() const {
  if (!cannot_grow_ || !state_.works()) return UINT64_MAX;
  const uint64_t free = state_.file->allocator().free_blocks(), kept = admission_.BlocksToKeepFree();
  return free > kept ? (free - kept) * kBlockBytes : 0;
}

void WritePipeline::Supersede(const HistoryPoint& after) {
  if (state_.phase() != Phase::kServing || after.lsn == state_.last_lsn) return;
  const std::optional<HistoryPoint> known = state_.history.At(after.lsn);
  CHECK(known && known->chain == after.chain) << "CG2: partition " << state_.id() << " has no unit that ends at LSN "
                                              << after.lsn << " with chain " << after.chain;
  state_.log->Cut(state_.stream, *known);  // from here on it does not read the records any more
  DropAfter(after.lsn);
  ApplyCommitted();  // a mark may have moved to the commit LSN
}

// Finds room on the disk for the unit at the front. It is committed, so it cannot be refused: it waits
// until there is room, and stays in the log. But who waits behind it must be answered if the partition
// closes.
Task<Status> WritePipeline::PlaceFront(LoggedUnit* logged) {
  while (logged->wanted_blocks > 0) {
    const uint64_t blocks = logged->wanted_blocks;
    if (state_.failed()) co_return state_.failure();
    // Waits for the checkpoints that free space, if that suffices.
    Status admitted = co_await admission_.Admit(blocks, /*only_removes=*/true, &logged->blocks);
    if (admitted.ok()) {
      logged->wanted_blocks = 0;
      break;
    }
    if (admitted.code() != Code::kDiskFull || !state_.works()) co_return admitted;
    LOG(WARNING) << "partition " << state_.id() << ": a committed write waits for disk space, and so do all later "
                 << "writes: " << admitted.message();
    state_.NoteDiskFull(blocks);
    GrowSoon();
    co_await Sleep(state_.reactor, kPlaceRetry);
  }
  CO_RETURN_IF_ERROR(co_await PlaceValues(logged));
  logged->content.unplaced = false;
  co_return Status();
}

Task<Status> WritePipeline::PlaceValues(LoggedUnit* logged) {
  for (UnitRecord& r : logged->content.records) {
    const size_t value_bytes = r.record.value.size();
    if (r.record.op != RecordOp::kPut || !state_.tree->NeedsOverflow(r.record.key.size(), value_bytes)) continue;
    const auto blocks = static_cast<uint32_t>(state_.pool.BlocksFor(value_bytes));
    while (r.extent.empty()) {
      if (state_.failed()) co_return state_.failure();
      Result<Extent> extent = co_await state_.file->AllocateForWrite(blocks);
      if (extent.ok()) {
        r.extent = *extent;
        logged->blocks.Take(blocks);
        continue;
      }
      if (extent.code() != Code::kDiskFull || !state_.works()) co_return extent.TakeStatus();
      LOG(WARNING) << "partition " << state_.id() << ": a committed value of " << value_bytes
                   << " bytes waits for disk space, and so do all later writes: " << extent.status().message();
      state_.NoteDiskFull(blocks);
      co_await Sleep(state_.reactor, kPlaceRetry);
      AdmittedBlocks room;
      const Status admitted = co_await admission_.Admit(blocks, /*only_removes=*/true, &room);
      if (!admitted.ok() && admitted.code() != Code::kDiskFull) co_return admitted;
    }
  }
  co_return Status();
}

}  // namespace pando
