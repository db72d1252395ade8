// KvService: the calls for snapshots, for splitting ranges, and for copying the pages of a
// snapshot.
#include <utility>

#include "src/buffer_pool/page.h"
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/page_cursor.h"
#include "src/kvapi/split_range.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

// Bytes of page images in one reply. The last page or value may exceed this.
constexpr size_t kPageBatchBytes = 2u << 20;
constexpr size_t kMaxPageBatchBytes = kPageBatchBytes + kMaxValueBytes + kMaxPageBytes;

// Calls of one reactor that wait for a snapshot. Each snapshot costs a checkpoint of every partition.
constexpr size_t kMaxWaitingOpens = 16;
constexpr int32_t kOpenRetryMs = 1000;

// For calls that require a token. (ToSnapshotId treats an empty token as the newest state.)
Refusal ToToken(const std::string& bytes, SnapshotToken* token) {
  Result<SnapshotToken> decoded = DecodeSnapshotToken(bytes);
  if (!decoded.ok()) return MakeError(ApiCode::kBadRequest, decoded.status().message());
  *token = *decoded;
  return {};
}

template <typename Reply>
void Answer(Result<OpenedSnapshot> opened, Reply* reply) {
  if (!opened.ok()) return SetError(reply, ToKvError(opened.status(), /*is_write=*/false));
  reply->success.snapshot = EncodeSnapshotToken(opened->token);
  reply->success.version = static_cast<int64_t>(opened->token.version);
  reply->success.expires_at_ms = opened->expires_at_ms;
  reply->__isset.success = true;
}

}  // namespace

// A call that waits for a snapshot. After its deadline the snapshot is not opened, or is released.
struct KvService::SnapshotOpen final : Withdrawable {
  explicit SnapshotOpen(const RequestId& request) : id(request) {}
  bool Withdraw() override {
    unwanted->store(true, std::memory_order_relaxed);
    return true;
  }
  const RequestId id;
  UnwantedFlag unwanted = std::make_shared<std::atomic<bool>>(false);
};

Task<void> KvService::OpenSnapshot(Call<api::Kv_openSnapshot_args, api::Kv_openSnapshot_result>* call) {
  const int32_t ttl_ms = call->args.request.ttl_ms;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = CheckTtl(ttl_ms);
  if (!refusal && opens_.size() >= kMaxWaitingOpens) {
    refusal =
        MakeError(ApiCode::kOverloaded,
                  fmt::format("{} calls that open a snapshot wait here already, which is the limit; try again later",
                              opens_.size()));
    refusal->retryable = true;
    refusal->retry_after_ms = kOpenRetryMs;
  }
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  SnapshotOpen waiting(call->id);
  opens_.push_back(&waiting);
  call->withdrawable = &waiting;
  Result<OpenedSnapshot> opened = co_await control_->OpenSnapshot(server_->reactor(), ttl_ms, waiting.unwanted);
  call->withdrawable = nullptr;
  std::erase(opens_, &waiting);
  if (opened.ok() && (call->answered || server_->IsClosed(call->id))) {
    // Nobody will ever learn its token.
    Result<bool> released = co_await control_->ReleaseSnapshot(server_->reactor(), opened->token);
    LOG_IF(WARNING, !released.ok()) << "cannot release a snapshot that nobody waits for: "
                                    << released.status().ToString();
    co_return;
  }
  Answer(std::move(opened), &call->reply);
}

// Calls whose clients are gone must not keep others from opening snapshots.
void KvService::ForgetClosedOpens() {
  for (SnapshotOpen* open : opens_) {
    if (server_->IsClosed(open->id)) open->unwanted->store(true, std::memory_order_relaxed);
  }
}

Task<void> KvService::RenewSnapshot(Call<api::Kv_renewSnapshot_args, api::Kv_renewSnapshot_result>* call) {
  const api::RenewSnapshotRequest& request = call->args.request;
  SnapshotToken token;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = CheckTtl(request.ttl_ms);
  if (!refusal) refusal = ToToken(request.snapshot, &token);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Answer(co_await control_->RenewSnapshot(server_->reactor(), token, request.ttl_ms), &call->reply);
}

Task<void> KvService::ReleaseSnapshot(Call<api::Kv_releaseSnapshot_args, api::Kv_releaseSnapshot_result>* call) {
  SnapshotToken token;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = ToToken(call->args.request.snapshot, &token);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Result<bool> existed = co_await control_->ReleaseSnapshot(server_->reactor(), token);
  if (!existed.ok()) {
    SetError(&call->reply, ToKvError(existed.status(), /*is_write=*/false));
    co_return;
  }
  call->reply.success.existed = *existed;
  call->reply.__isset.success = true;
}

Task<void> KvService::SplitRange(Call<api::Kv_splitRange_args, api::Kv_splitRange_result>* call) {
  const api::SplitRangeRequest& request = call->args.request;
  SnapshotId snapshot = 0;
  Refusal refusal = CheckReadContext(call->args.context);
  if (!refusal) refusal = CheckBounds(request.start_key, request.end_key, request.prefix);
  if (!refusal) refusal = ToSnapshotId(request.snapshot, &snapshot);
  if (!refusal && (request.parts < 2 || request.parts > static_cast<int32_t>(kMaxSplitParts))) {
    refusal = MakeError(ApiCode::kBadRequest,
                        fmt::format("parts is {}; it must be from 2 to {}", request.parts, kMaxSplitParts));
  }
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  ScanRange range = ScanRange::Of(request.start_key, request.end_key, request.prefix, /*reverse=*/false);
  std::vector<Partition*> partitions = PartitionsOf(range);
  const auto wanted = static_cast<size_t>(request.parts);
  // Several parts are counted at once. The bounds exist twice: in the result and in the reply.
  refusal = Reserve(call, kCountsInFlight * FanOutCost(partitions.size()) + 2 * wanted * 2 * kMaxKeyBytes);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Result<std::vector<RangePart>> parts =
      co_await SplitRangeEvenly(std::move(partitions), std::move(range), wanted, snapshot, &call->memory);
  if (!parts.ok()) {
    SetError(&call->reply, ToKvError(parts.status(), /*is_write=*/false));
    co_return;
  }
  for (RangePart& part : *parts) {
    api::RangePart& to = call->reply.success.parts.emplace_back();
    to.start_key = std::move(part.start);
    to.end_key = std::move(part.end);
    to.count = static_cast<int64_t>(part.sums.count);
    to.bytes = static_cast<int64_t>(part.sums.bytes);
  }
  call->reply.__isset.success = true;
}

// -- copies of partitions

template <typename C>
Partition* KvService::SnapshotPartition(C* call, SnapshotId* snapshot) {
  const auto& request = call->args.request;
  Refusal refusal = CheckReadContext(call->args.context);
  SnapshotToken token;
  if (!refusal) refusal = ToToken(request.snapshot, &token);
  if (!refusal && (request.partition < 0 || static_cast<size_t>(request.partition) >= backend_->partitions.size())) {
    refusal = MakeError(ApiCode::kBadRequest, fmt::format("there is no partition {}; this node has {}",
                                                          request.partition, backend_->partitions.size()));
  }
  if (refusal) {
    SetError(&call->reply, *refusal);
    return nullptr;
  }
  *snapshot = token.id;
  return backend_->partitions[static_cast<size_t>(request.partition)];
}

Task<void> KvService::DescribeSnapshot(
    Call<api::Admin_describeSnapshot_args, api::Admin_describeSnapshot_result>* call) {
  SnapshotId snapshot = 0;
  Partition* partition = SnapshotPartition(call, &snapshot);
  if (!partition) co_return;
  Result<SnapshotRoot> root = co_await partition->DescribeSnapshot(snapshot);
  if (!root.ok()) {
    SetError(&call->reply, ToKvError(root.status(), /*is_write=*/false));
    co_return;
  }
  api::PartitionSnapshot& to = call->reply.success;
  to.partition_uuid = partition->uuid().ToString();
  to.page_bytes = static_cast<int32_t>(backend_->store->page_bytes);
  to.generation = static_cast<int64_t>(root->generation);
  to.epoch = static_cast<int64_t>(root->epoch);
  to.lsn = static_cast<int64_t>(root->lsn);
  to.last_version = static_cast<int64_t>(root->last_version);
  to.next_page_id = static_cast<int64_t>(root->next_page_id);
  to.file_blocks = static_cast<int64_t>(root->file_blocks);
  to.root_level = root->root_level;
  to.root.assign(reinterpret_cast<const char*>(&root->root), sizeof(root->root));
  to.used_bytes = static_cast<int64_t>(root->used_blocks * kBlockBytes);
  call->reply.__isset.success = true;
}

Task<void> KvService::ReadPages(Call<api::Admin_readPages_args, api::Admin_readPages_result>* call) {
  const api::ReadPagesRequest& request = call->args.request;
  SnapshotId snapshot = 0;
  Partition* partition = SnapshotPartition(call, &snapshot);
  if (!partition) co_return;
  Refusal refusal;
  Result<PageCursor> cursor = DecodePageCursor(request.cursor);
  if (!cursor.ok()) refusal = MakeError(ApiCode::kBadCursor, cursor.status().message());
  if (!refusal && request.since_generation < 0) {
    refusal = MakeError(ApiCode::kBadRequest, "since_generation is negative; it must be 0 (all pages) or more");
  }
  // The batch exists twice: as fetched, and as encoded in the reply.
  if (!refusal) refusal = Reserve(call, 2 * kMaxPageBatchBytes);
  if (refusal) {
    SetError(&call->reply, *refusal);
    co_return;
  }
  Result<PageBatch> batch = co_await partition->ReadPages(snapshot, static_cast<Generation>(request.since_generation),
                                                          *std::move(cursor), kPageBatchBytes);
  if (!batch.ok()) {
    SetError(&call->reply, ToKvError(batch.status(), /*is_write=*/false));
    co_return;
  }
  api::ReadPagesReply& reply = call->reply.success;
  if (!batch->exhausted) reply.cursor = EncodePageCursor(batch->next);
  for (PageImage& image : batch->images) {
    api::PageImage& to = reply.pages.emplace_back();
    to.location = static_cast<int64_t>(image.location.packed);
    to.checksum = static_cast<int64_t>(image.checksum);
    to.bytes = std::move(image.bytes);
  }
  call->reply.__isset.success = true;
}

}  // namespace pando
