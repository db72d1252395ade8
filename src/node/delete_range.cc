#include "src/node/delete_range.h"

#include <algorithm>
#include <map>
#include <utility>

#include "src/kvapi/kv_errors.h"
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/model/remove_batch.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

// Removes per write. The number is small so that a buffer pool of any size admits the write and
// other writers of the partition get their turn.
constexpr size_t kRemovesPerWrite = 64;

WriteOp RemoveOf(const ScanRow& row) {
  WriteOp op;
  op.op = RecordOp::kRemove;
  op.key = row.key;
  op.condition.version = row.version;
  op.current_value_unwanted = true;
  return op;
}

bool OutcomeUnknown(const Status& failure) {
  return ToKvError(failure, /*is_write=*/true).applied == static_cast<int32_t>(ApiApplied::kUnknown);
}

// Removes the records of one partition, of which `rows` are the keys in ascending order.
// A change of the master in good order holds the removes, as all writes, at most until the deadline (LV4).
Task<void> RemoveKeys(Partition* partition, std::vector<const ScanRow*> rows, WriteOptions how, Nanos deadline_ns,
                      const bool* over, DeletedRange* out) {
  RemoveBatch batch(kRemovesPerWrite);
  size_t done = 0;
  while (done < rows.size() && !*over) {
    std::vector<WriteOp> ops(std::min(batch.size(), rows.size() - done));
    for (size_t i = 0; i < ops.size(); ++i) ops[i] = RemoveOf(*rows[done + i]);
    WriteControl control;
    control.deadline_ns = deadline_ns;
    WriteOptions options = how;
    options.control = &control;
    const Result<std::vector<OpResult>> results = co_await partition->Write(std::move(ops), options);
    if (batch.RetrySmaller(results.status())) continue;
    if (!results.ok()) {
      // Of several failures, one whose outcome is unknown is the answer.
      out->unknown |= OutcomeUnknown(results.status());
      if (out->failure.ok() || OutcomeUnknown(results.status())) out->failure = results.status();
      break;
    }
    for (const OpResult& result : *results) out->removed += result.outcome == OpOutcome::kApplied && result.existed;
    done += results->size();
  }
  if (done == rows.size()) co_return;
  out->exhausted = false;
  if (!out->first_left || rows[done]->key < *out->first_left) out->first_left = rows[done]->key;
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
                               Version max_version, Nanos deadline_ns, const bool* over, WriteOptions options,
                               const SessionCall* session) {
  DeletedRange out;
  if (range.start_exclusive) out.last_key = range.start;
  MergeScanSpec spec;
  spec.range = std::move(range);
  spec.keys_only = true;
  spec.max_rows = limit;
  spec.max_bytes = kDeleteKeyBytes;
  // Of what is reserved. With many partitions and long keys, their shares together would be more: the page is shorter.
  spec.held_bytes = 3 * kDeleteKeyBytes;
  Result<ScanPage> page = co_await MergeScan(SourcesOf(partitions), std::move(spec));
  if (!page.ok()) {
    out.failure = page.TakeStatus();
    co_return out;
  }
  out.exhausted = page->exhausted;
  std::map<uint32_t, std::vector<const ScanRow*>> by_partition;
  for (const ScanRow& row : page->rows) {
    if (max_version != 0 && row.version > max_version) continue;
    by_partition[backend->serving.PartitionOf(row.key)].push_back(&row);
  }
  TaskGroup removes;
  for (auto& [id, rows] : by_partition) {
    WriteOptions how = options;
    if (session != nullptr) how.seen_epoch = session->SeenEpoch(id);
    removes.Spawn(RemoveKeys(backend->partitions[id], std::move(rows), how, deadline_ns, over, &out));
  }
  // The removes run concurrently and write to `out`, so wait for all of them.
  co_await removes.Drain();
  for (const ScanRow& row : page->rows) {
    if (out.first_left && row.key >= *out.first_left) break;
    out.last_key = row.key;
  }
  co_return out;
}

namespace {

// `noted`: whether the session may see this. It is answered with an error only if nothing was removed, or nobody
// knows how much.
Status FailureOf(const DeletedRange& deleted, const Status& noted) {
  if (deleted.unknown || deleted.removed == 0) return deleted.failure.ok() ? noted : deleted.failure;
  return Status();
}

}  // namespace

template <typename C>
Task<std::optional<DeletedRange>> KvService::DeletedOf(C* call, const api::DeleteRangeRequest* request, ScanRange range,
                                                       Asked asked) {
  Reactor& reactor = server_->reactor();
  const api::Context& context = call->args.context;
  size_t limit = 0;
  if (Refuse(call, CheckUnnamed(context))) co_return std::nullopt;
  if (Refuse(call, SetLimit("limit_rows", request->limit_rows, kMaxBatchOps, &limit))) co_return std::nullopt;
  if (Refuse(call, CheckMaxVersion(request->max_version))) co_return std::nullopt;
  if (Refuse(call,
             Reserve(call, kDeleteReserveBytes + asked.ids.size() * Arena::kLeastBlockBytes + CoveredBytes(asked))))
    co_return std::nullopt;
  SessionCall session(backend_, &reactor);
  if (Refuse(call, session.Begin(context))) co_return std::nullopt;
  std::vector<Partition*> partitions;
  for (uint32_t id : asked.ids) partitions.push_back(backend_->partitions[id]);
  std::vector<Mastership> in;
  if (asked.covered != nullptr) {
    Result<std::vector<Mastership>> before = co_await CheckLeases(backend_, &reactor, asked.ids);
    if (Failed(call, before.status())) co_return std::nullopt;
    in = *std::move(before);
  }
  BegunDelete begun;
  call->withdrawable = &begun;
  WriteOptions options;
  options.level = ToWriteLevel(context);
  options.seen_version = static_cast<Version>(context.hlc);
  DeletedRange deleted = co_await pando::DeleteRange(backend_, std::move(partitions), std::move(range), limit,
                                                     static_cast<Version>(request->max_version), call->deadline_ns,
                                                     &begun.over, options, &session);
  call->withdrawable = nullptr;
  const Status noted = co_await NoteRead(&session, asked.ids);
  // What a partition has refused is still there. If others have removed something, the answer says how much, and the
  // next call comes to the refusal.
  if (const Status failure = FailureOf(deleted, noted); !failure.ok()) {
    api::KvError error = ToKvError(failure, /*is_write=*/false);  // it is safe to repeat the call in any case
    if (deleted.unknown) {
      error.applied = static_cast<int32_t>(ApiApplied::kUnknown);
      if (deleted.removed > 0) error.message += fmt::format("; this call removed {} records before", deleted.removed);
    }
    SetError(&call->reply, error);
    co_return std::nullopt;
  }
  session.Fill(&call->reply.success);
  SetCovered(asked, in);
  co_return deleted;
}

Task<void> KvService::DeleteRange(Call<api::Kv_deleteRange_args, api::Kv_deleteRange_result>* call) {
  const api::DeleteRangeRequest& request = call->args.request;
  ScanRange range;
  if (Refuse(call, ToScanRange(request, &range))) co_return;
  const uint64_t scan_id = ScanIdOf(range, server_->reactor());
  Asked asked{IdsOf(range)};
  std::optional<DeletedRange> deleted = co_await DeletedOf(call, &request, std::move(range), std::move(asked));
  if (!deleted) co_return;
  call->reply.success.removed = static_cast<int64_t>(deleted->removed);
  if (!deleted->exhausted) call->reply.success.cursor = EncodeCursor(request, {scan_id, std::move(deleted->last_key)});
}

Task<void> KvService::DeletePartitions(
    Call<api::Routing_deletePartitions_args, api::Routing_deletePartitions_result>* call) {
  const api::DeletePartitionsRequest& request = call->args.request;
  api::DeletePartitionsReply& reply = call->reply.success;
  Asked asked{{}, &reply.covered};
  ScanRange range;
  const std::string* after_key = request.__isset.after_key ? &request.after_key : nullptr;
  if (Refuse(call, backend_->ToPartitions(request.partitions, &asked.ids))) co_return;
  if (Refuse(call, ToScanRange(request.range, after_key, &range))) co_return;
  std::optional<DeletedRange> deleted = co_await DeletedOf(call, &request.range, std::move(range), std::move(asked));
  if (!deleted) co_return;
  reply.removed = static_cast<int64_t>(deleted->removed);
  reply.exhausted = deleted->exhausted;
  reply.last_key = std::move(deleted->last_key);
}

}  // namespace pando
