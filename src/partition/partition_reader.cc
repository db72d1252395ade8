#include "src/partition/partition_reader.h"

#include "src/partition/resident_record.h"

namespace pando {

Task<Result<PagePin>> PartitionReader::FetchLeaf(ReadView view, std::string key, bool before) {
  if (view.generation != 0) co_return co_await state_.tree->FetchSnapshotLeaf(view.generation, std::move(key), before);
  if (before) co_return co_await state_.tree->FetchLeafBefore(std::move(key));
  co_return co_await state_.tree->FetchLeaf(std::move(key));
}

Task<Status> PartitionReader::ReadOverflow(SnapshotId snapshot, OverflowRef ref, uint32_t value_bytes,
                                           std::string* out) {
  Result<PagePin> value = co_await state_.tree->FetchOverflow(ref, value_bytes);
  // If the snapshot is gone, the bytes may be another value's.
  CO_RETURN_IF_ERROR(snapshots_.ViewOf(snapshot).status());
  if (!value.ok()) co_return value.TakeStatus();
  state_.pool.CopyOverflow(*value->frame(), out);
  co_return Status();
}

// Reserves room for the value that Get is about to copy. `taken_bytes` is what an earlier attempt
// of the same Get has reserved.
Status PartitionReader::TakeRoom(Frame* leaf, std::string_view key, int64_t now_ms, ValueRoom* room,
                                 size_t* taken_bytes) {
  const std::optional<FoundRecord> found = state_.tree->FindInLeaf(leaf, key);
  if (!found || HasExpired(found->record.expires_at_ms, now_ms)) return Status();
  const size_t bytes = ValueBytes(found->record);
  if (bytes <= *taken_bytes) return Status();
  const ValueRoom::Answer answer = room->TryTake(bytes - *taken_bytes);
  if (answer != ValueRoom::Answer::kTaken) return NoRoom(answer, *room, bytes);
  *taken_bytes = bytes;
  return Status();
}

Task<Result<ReadResult>> PartitionReader::Get(std::string key, SnapshotId snapshot, ValueRoom* room) {
  const ActiveCall call(&state_);
  ++state_.stats.reads_total;
  size_t taken_bytes = 0;
  for (;;) {
    if (state_.failed()) co_return state_.Refusal();
    CO_ASSIGN_OR_RETURN(ReadView view, snapshots_.ViewOf(snapshot));
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await FetchLeaf(view, key, /*before=*/false));
    if (!leaf) co_return snapshots_.Gone(snapshot);
    if (room) CO_RETURN_IF_ERROR(TakeRoom(leaf.frame(), key, view.now_ms, room, &taken_bytes));
    ReadResult result;
    RecordView unread;
    if (ReadResident(state_.tree.get(), leaf.frame(), key, view.now_ms, &result, &unread)) co_return result;
    leaf.Release();
    Status status = co_await ReadOverflow(snapshot, unread.overflow_ref, unread.value_bytes, &result.value);
    if (status.ok()) co_return result;
    if (status.code() != Code::kAborted) co_return status;  // else PR1: look the record up again
  }
}

Task<Result<ChangePage>> PartitionReader::Changes(Version after, std::string prefix, size_t max_changes,
                                                  size_t max_bytes) {
  if (state_.failed()) co_return state_.Refusal();
  co_return state_.changes.After(after, prefix, max_changes, max_bytes, state_.applied_version);
}

Task<Result<RangeAggregates>> PartitionReader::Aggregate(std::string start, std::string end, ReadPoint at) {
  if (state_.failed()) co_return state_.Refusal();
  const ActiveCall call(&state_);
  ++state_.stats.scans_total;
  CO_ASSIGN_OR_RETURN(ReadView view, snapshots_.ViewOf(at.snapshot));
  const int64_t now_ms = at.snapshot == kNewest && at.now_ms != 0 ? at.now_ms : view.now_ms;
  CO_ASSIGN_OR_RETURN(Aggregates sum, co_await state_.tree->Aggregate(view.generation, start, end, now_ms));
  co_return RangeAggregates{sum.count, sum.bytes, sum.content_hash};
}

Task<Result<std::vector<std::string>>> PartitionReader::KeysAtRanks(std::string start, std::string end,
                                                                    std::vector<uint64_t> ranks, SnapshotId snapshot) {
  if (state_.failed()) co_return state_.Refusal();
  const ActiveCall call(&state_);
  CO_ASSIGN_OR_RETURN(ReadView view, snapshots_.ViewOf(snapshot));
  co_return co_await state_.tree->KeysAtRanks(view.generation, std::move(start), std::move(end), std::move(ranks));
}

}  // namespace pando
