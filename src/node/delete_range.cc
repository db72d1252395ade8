#include "src/node/delete_range.h"

#include <algorithm>
#include <map>
#include <utility>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

// Operations per write. The number is small so that a buffer pool of any size admits the write and
// other writers of the partition get their turn.
constexpr size_t kOpsPerWrite = 64;

Task<void> RemoveKeys(Partition* partition, std::vector<WriteOp> ops, const bool* over, DeletedRange* out) {
  for (size_t first = 0; first < ops.size() && !*over; first += kOpsPerWrite) {
    auto begin = ops.begin() + static_cast<ptrdiff_t>(first);
    auto end = ops.begin() + static_cast<ptrdiff_t>(std::min(first + kOpsPerWrite, ops.size()));
    std::vector<WriteOp> some(std::make_move_iterator(begin), std::make_move_iterator(end));
    out->wrote = true;
    Result<std::vector<OpResult>> results = co_await partition->Write(std::move(some), WriteOptions());
    if (!results.ok()) {
      out->failure = results.TakeStatus();
      co_return;
    }
    for (const OpResult& result : *results) out->removed += result.outcome == OpOutcome::kApplied && result.existed;
  }
}

// A deleteRange cannot be withdrawn: some of its removes may have been applied when the deadline
// passes. The DEADLINE error therefore says applied = UNKNOWN.
struct BegunDelete final : Withdrawable {
  bool over = false;  // nobody waits for the rest
  bool Withdraw() override {
    over = true;
    return false;
  }
};

}  // namespace

Task<DeletedRange> DeleteRange(KvBackend* backend, std::vector<Partition*> partitions, ScanRange range, size_t limit,
                               Version max_version, const bool* over) {
  DeletedRange out;
  MergeScanSpec spec;
  spec.range = std::move(range);
  spec.keys_only = true;
  spec.max_rows = limit;
  spec.max_bytes = kDeleteKeyBytes;
  Result<ScanPage> page = co_await MergeScan(std::move(partitions), std::move(spec));
  if (!page.ok()) {
    out.failure = page.TakeStatus();
    co_return out;
  }
  out.exhausted = page->exhausted;
  if (!page->rows.empty()) out.last_key = page->rows.back().key;
  std::map<uint32_t, std::vector<WriteOp>> by_partition;
  for (ScanRow& row : page->rows) {
    if (max_version != 0 && row.version > max_version) continue;
    WriteOp& op = by_partition[backend->store->PartitionOf(row.key)].emplace_back();
    op.op = RecordOp::kRemove;
    op.key = std::move(row.key);
    op.condition.version = row.version;
    op.current_value_unwanted = true;
  }
  TaskGroup removes;
  for (auto& [id, ops] : by_partition) removes.Spawn(RemoveKeys(backend->partitions[id], std::move(ops), over, &out));
  // The removes run concurrently and write to `out`, so wait for all of them.
  co_await removes.Drain();
  co_return out;
}

Task<void> KvService::DeleteRange(Call<api::Kv_deleteRange_args, api::Kv_deleteRange_result>* call) {
  const api::DeleteRangeRequest& request = call->args.request;
  size_t limit = 0;
  if (Refuse(call, CheckUnnamed(call->args.context))) co_return;
  if (Refuse(call, SetLimit("limit_rows", request.limit_rows, kMaxBatchOps, &limit))) co_return;
  if (request.max_version < 0) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest,
                       fmt::format("max_version is {}; it must be 0 (no limit) or more", request.max_version)));
    co_return;
  }
  ScanRange range;
  if (Refuse(call, ToScanRange(request, &range))) co_return;
  if (Refuse(call, Reserve(call, kDeleteReserveBytes))) co_return;
  BegunDelete begun;
  call->withdrawable = &begun;
  const uint64_t scan_id = ScanIdOf(range, server_->reactor());
  DeletedRange deleted = co_await pando::DeleteRange(backend_, PartitionsOf(range), range, limit,
                                                     static_cast<Version>(request.max_version), &begun.over);
  call->withdrawable = nullptr;
  if (!deleted.failure.ok()) {
    api::KvError error = ToKvError(deleted.failure, /*is_write=*/false);
    // Some records may have been removed before the failure. It is safe to repeat the call in any
    // case.
    if (deleted.wrote) error.applied = static_cast<int32_t>(ApiApplied::kUnknown);
    SetError(&call->reply, error);
    co_return;
  }
  call->reply.success.removed = static_cast<int64_t>(deleted.removed);
  if (!deleted.exhausted) call->reply.success.cursor = EncodeCursor(request, {scan_id, std::move(deleted.last_key)});
}

}  // namespace pando
