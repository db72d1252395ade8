#include "src/node/copied_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "gen-cpp/Admin.h"
#include "gen-cpp/Cluster.h"
#include "gen-cpp/Kv.h"

namespace pando {
namespace {

constexpr Nanos kConnectNs = 5 * kSecond;
constexpr Nanos kReleaseNs = kSecond;

// What a reply without a result says.
template <typename Reply>
Status ErrorOf(const Reply& reply) {
  if (reply.__isset.success) return Status();
  return Error(Code::kUnavailable, "{}", reply.__isset.error ? reply.error.message : "the answer has no result");
}

Result<InstallSource> SourceOf(const api::PartitionSnapshot& from, const Uuid& uuid, uint32_t ranges) {
  InstallSource source;
  SnapshotRoot& root = source.root;
  if (from.partition_uuid != uuid.ToString() || from.root.size() != sizeof(root.root)) {
    return Error(Code::kCorruption, "the master describes the partition {}, and {} was asked for", from.partition_uuid,
                 uuid.ToString());
  }
  root.partition = uuid;
  root.generation = static_cast<Generation>(from.generation);
  root.epoch = static_cast<Epoch>(from.epoch);
  root.lsn = static_cast<Lsn>(from.lsn);
  root.chain = static_cast<uint64_t>(from.chain);
  root.last_version = static_cast<Version>(from.last_version);
  root.next_page_id = static_cast<uint64_t>(from.next_page_id);
  root.file_blocks = static_cast<uint64_t>(from.file_blocks);
  root.used_blocks = static_cast<uint64_t>(from.used_bytes) / kBlockBytes;
  root.root_level = static_cast<uint8_t>(from.root_level);
  std::memcpy(static_cast<void*>(&root.root), from.root.data(), sizeof(root.root));
  source.ranges = ranges;
  source.page_bytes = static_cast<uint32_t>(from.page_bytes);
  source.seal_bytes = static_cast<uint32_t>(from.seal_bytes);
  source.namespaced = from.namespaced;
  return source;
}

}  // namespace

CopiedPages::~CopiedPages() { CHECK(closing_) << "CopiedPages were destroyed before they were closed"; }

Task<Status> CopiedPages::Connect(std::string host, uint16_t port) {
  return client_.Connect(std::move(host), port, kConnectNs);
}

Task<Result<bool>> CopiedPages::Replace(uint32_t node, Uuid leaves) {
  api::Cluster_replaceReplica_args args;
  api::Cluster_replaceReplica_result reply;
  args.request.partition = static_cast<int32_t>(partition_);
  args.request.replica = replica_;
  args.request.node = static_cast<int32_t>(node);
  if (!leaves.IsNil()) args.request.leaves = leaves.ToString();
  CO_RETURN_IF_ERROR(co_await client_.Call("replaceReplica", &args, &reply, kCallNs));
  CO_RETURN_IF_ERROR(ErrorOf(reply));
  co_return reply.success.done;
}

Task<Result<InstallSource>> CopiedPages::Open(Uuid uuid, uint32_t ranges) {
  uuid_ = uuid;
  ranges_ = ranges;
  CO_ASSIGN_OR_RETURN(InstallSource source, co_await OpenNext());
  tasks_.Spawn(KeepRenewing());
  co_return std::move(source);
}

Task<Result<InstallSource>> CopiedPages::OpenNext() {
  api::Cluster_openCopy_args open;
  api::Cluster_openCopy_result opened;
  open.request.partition = static_cast<int32_t>(partition_);
  open.request.replica = replica_;
  CO_RETURN_IF_ERROR(co_await client_.Call("openCopy", &open, &opened, kCallNs));
  CO_RETURN_IF_ERROR(ErrorOf(opened));
  std::string last = std::exchange(snapshot_, opened.success.snapshot);
  log_suffices_ = true;
  if (!last.empty()) co_await Release(std::move(last));
  api::Admin_describeSnapshot_args describe;
  api::Admin_describeSnapshot_result described;
  describe.request.snapshot = snapshot_;
  describe.request.partition = static_cast<int32_t>(partition_);
  describe.context.budget_ms = kDescribeMs;
  CO_RETURN_IF_ERROR(co_await client_.Call("describeSnapshot", &describe, &described, kDescribeMs * kMillisecond));
  CO_RETURN_IF_ERROR(ErrorOf(described));
  CO_ASSIGN_OR_RETURN(InstallSource source, SourceOf(described.success, uuid_, ranges_));
  if (copies_++ == 0) progress_.of_bytes = source.root.used_blocks * kBlockBytes;
  have_ = generation_;
  generation_ = source.root.generation;
  cursor_.clear();
  co_return std::move(source);
}

// CP2. A follower of the last copy could not be fed, or hardly, once its file is verified.
Task<Result<std::optional<SnapshotRoot>>> CopiedPages::Newer() {
  CO_RETURN_IF_ERROR(ended_);
  CO_RETURN_IF_ERROR(co_await Renew());
  if (log_suffices_ || copies_ >= kMaxRounds) co_return std::optional<SnapshotRoot>();
  CO_ASSIGN_OR_RETURN(InstallSource source, co_await OpenNext());
  LOG(INFO) << "partition " << partition_
            << ": more was written while its pages came than the master keeps of its log; "
            << "copy " << copies_ << " has what was written since, up to LSN " << source.root.lsn;
  co_return std::optional<SnapshotRoot>(std::move(source.root));
}

Task<Status> CopiedPages::Renew() {
  const std::string snapshot = snapshot_;
  api::Cluster_renewCopy_args args;
  api::Cluster_renewCopy_result reply;
  args.request.partition = static_cast<int32_t>(partition_);
  args.request.replica = replica_;
  args.request.snapshot = snapshot;
  CO_RETURN_IF_ERROR(co_await client_.Call("renewCopy", &args, &reply, kCallNs));
  if (snapshot != snapshot_) co_return Status();  // another one was opened meanwhile, and this one released
  CO_RETURN_IF_ERROR(ErrorOf(reply));
  const api::CopyReply& copy = reply.success;
  log_suffices_ = !copy.log_incomplete && 2 * copy.log_bytes <= copy.log_limit_bytes;
  co_return Status();
}

// CP1.
Task<void> CopiedPages::KeepRenewing() {
  Nanos next_ns = reactor_.NowNs() + kRenewNs;
  while (!closing_ && ended_.ok()) {
    co_await Sleep(reactor_, kPollNs);
    if (closing_ || reactor_.NowNs() < next_ns) continue;
    Status renewed = co_await Renew();
    next_ns = reactor_.NowNs() + kRenewNs;
    if (!renewed.ok() && !closing_) End(std::move(renewed));
  }
}

void CopiedPages::End(Status why) {
  if (ended_.ok()) ended_ = std::move(why);
  if (!std::exchange(connection_ended_, true)) tasks_.Spawn(client_.Close());
}

void CopiedPages::Cancel() { End(Error(Code::kAborted, "the copy was given up")); }

Task<void> CopiedPages::KeepPace() {
  while (ended_.ok() && !closing_ && reactor_.NowNs() < pace_.due_ns()) {
    co_await Sleep(reactor_, std::min(kPollNs, pace_.due_ns() - reactor_.NowNs()));
  }
}

Task<Result<PageBatch>> CopiedPages::Next() {
  co_await KeepPace();
  CO_RETURN_IF_ERROR(ended_);
  api::Admin_readPages_args args;
  api::Admin_readPages_result reply;
  args.request.snapshot = snapshot_;
  args.request.partition = static_cast<int32_t>(partition_);
  args.request.since_generation = static_cast<int64_t>(have_);
  args.request.cursor = cursor_;
  Status called = co_await client_.Call("readPages", &args, &reply, kCallNs);
  CO_RETURN_IF_ERROR(ended_);
  CO_RETURN_IF_ERROR(called);
  CO_RETURN_IF_ERROR(ErrorOf(reply));
  PageBatch batch;
  for (api::PageImage& page : reply.success.pages) {
    batch.Add(
        {Extent{static_cast<uint64_t>(page.location)}, static_cast<uint64_t>(page.checksum), std::move(page.bytes)});
  }
  cursor_ = reply.success.cursor;
  batch.exhausted = cursor_.empty();
  progress_.bytes += batch.bytes;
  pace_.Took(batch.bytes, reactor_.NowNs());
  came_.Add(batch.bytes);
  co_return batch;
}

// It would expire anyway.
Task<void> CopiedPages::Release(std::string snapshot) {
  api::Kv_releaseSnapshot_args args;
  api::Kv_releaseSnapshot_result reply;
  args.request.snapshot = std::move(snapshot);
  const Status released = co_await client_.Call("releaseSnapshot", &args, &reply, kReleaseNs);
  LOG_IF(INFO, !released.ok()) << "a copy of partition " << partition_
                               << " was not released, and expires: " << released.ToString();
}

Task<void> CopiedPages::Close() {
  if (!snapshot_.empty() && ended_.ok() && client_.connected()) co_await Release(snapshot_);
  closing_ = true;
  End(Error(Code::kAborted, "the copy was closed"));
  co_await tasks_.Drain();
}

}  // namespace pando
