// KvService: the calls for snapshots, and for copying the pages of a snapshot.
#include <utility>

#include "src/buffer_pool/page.h"
#include "src/kvapi/kv_requests.h"
#include "src/kvapi/page_cursor.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

// Bytes of page images in one reply. The last page or value may exceed this.
constexpr size_t kPageBatchBytes = 2u << 20;
constexpr size_t kMaxPageBatchBytes = kPageBatchBytes + kMaxValueBytes + kMaxPageBytes;

// Calls of one reactor that wait for a snapshot. Each snapshot costs a checkpoint of every partition.
constexpr size_t kMaxWaitingOpens = 16;
constexpr int32_t kOpenRetryMs = 1000;

template <typename Call>
void Answer(Call* call, const Result<OpenedSnapshot>& opened) {
  if (Failed(call, opened.status())) return;
  api::SnapshotReply& reply = call->reply.success;
  reply.snapshot = EncodeSnapshotToken(opened->token);
  reply.version = static_cast<int64_t>(opened->token.version);
  reply.expires_at_ms = opened->expires_at_ms;
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
  if (Refuse(call, CheckTtl(ttl_ms))) co_return;
  if (opens_.size() >= kMaxWaitingOpens) {
    SetError(
        &call->reply,
        MakeBusy(fmt::format("{} calls that open a snapshot wait here already, which is the limit; try again later",
                             opens_.size()),
                 kOpenRetryMs));
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
  Answer(call, opened);
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
  if (Refuse(call, CheckTtl(request.ttl_ms)) || Refuse(call, ToSnapshotToken(request.snapshot, &token))) co_return;
  Answer(call, co_await control_->RenewSnapshot(server_->reactor(), token, request.ttl_ms));
}

Task<void> KvService::ReleaseSnapshot(Call<api::Kv_releaseSnapshot_args, api::Kv_releaseSnapshot_result>* call) {
  SnapshotToken token;
  if (Refuse(call, ToSnapshotToken(call->args.request.snapshot, &token))) co_return;
  Result<bool> existed = co_await control_->ReleaseSnapshot(server_->reactor(), token);
  if (!Failed(call, existed.status())) call->reply.success.existed = *existed;
}

// -- copies of partitions

template <typename C>
Partition* KvService::SnapshotPartition(C* call, SnapshotId* snapshot) {
  const auto& request = call->args.request;
  SnapshotToken token;
  if (Refuse(call, ToSnapshotToken(request.snapshot, &token))) return nullptr;
  if (request.partition < 0 || static_cast<size_t>(request.partition) >= backend_->partitions.size()) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest, fmt::format("there is no partition {}; the store is divided into {}",
                                                         request.partition, backend_->partitions.size())));
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
  if (Failed(call, root.status())) co_return;
  api::PartitionSnapshot& to = call->reply.success;
  to.partition_uuid = root->partition.ToString();
  to.page_bytes = static_cast<int32_t>(backend_->store->page_bytes);
  to.seal_bytes = static_cast<int32_t>(backend_->store->seal_bytes);
  to.namespaced = backend_->store->namespaced;
  to.generation = static_cast<int64_t>(root->generation);
  to.epoch = static_cast<int64_t>(root->epoch);
  to.lsn = static_cast<int64_t>(root->lsn);
  to.chain = static_cast<int64_t>(root->chain);
  to.last_version = static_cast<int64_t>(root->last_version);
  to.next_page_id = static_cast<int64_t>(root->next_page_id);
  to.file_blocks = static_cast<int64_t>(root->file_blocks);
  to.root_level = root->root_level;
  to.root.assign(reinterpret_cast<const char*>(&root->root), sizeof(root->root));
  to.used_bytes = static_cast<int64_t>(root->used_blocks * kBlockBytes);
}

Task<void> KvService::ReadPages(Call<api::Admin_readPages_args, api::Admin_readPages_result>* call) {
  const api::ReadPagesRequest& request = call->args.request;
  SnapshotId snapshot = 0;
  Partition* partition = SnapshotPartition(call, &snapshot);
  if (!partition) co_return;
  PageCursor cursor;
  if (Refuse(call, ToPageCursor(request.cursor, &cursor))) co_return;
  if (request.since_generation < 0) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest, "since_generation is negative; it must be 0 (all pages) or more"));
    co_return;
  }
  // The batch exists twice: as fetched, and as encoded in the reply.
  if (Refuse(call, Reserve(call, 2 * kMaxPageBatchBytes))) co_return;
  Result<PageBatch> batch = co_await partition->ReadPages(snapshot, static_cast<Generation>(request.since_generation),
                                                          std::move(cursor), kPageBatchBytes);
  if (Failed(call, batch.status())) co_return;
  api::ReadPagesReply& reply = call->reply.success;
  if (!batch->exhausted) reply.cursor = EncodePageCursor(batch->next);
  for (PageImage& image : batch->images) {
    api::PageImage& to = reply.pages.emplace_back();
    to.location = static_cast<int64_t>(image.location.packed);
    to.checksum = static_cast<int64_t>(image.checksum);
    to.bytes = std::move(image.bytes);
  }
}

}  // namespace pando
