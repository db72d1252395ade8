// Checks requests and converts them to the types of the partitions; converts results and failures to
// replies. Every refusal names the rule and its limit. What handlers share is here: a handler decodes
// its tokens and cursors with a To function, and leaves at the first Refuse or Failed that is true.
//
// Threads: pure functions.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/base/hash_ranges.h"
#include "src/kvapi/kv_errors.h"
#include "src/kvapi/scan_range.h"
#include "src/kvapi/session_token.h"
#include "src/kvapi/snapshot_token.h"
#include "src/kvapi/split_range.h"
#include "src/kvapi/watch_position.h"
#include "src/model/types.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

using Refusal = std::optional<api::KvError>;

// Puts the refusal, if there is one, into the reply of `call`. Returns whether there is one.
template <typename Call>
bool Refuse(Call* call, const Refusal& refusal) {
  if (refusal) SetError(&call->reply, *refusal);
  return refusal.has_value();
}
// The same for what a partition or the node answered. `is_write` says that it may have been applied.
template <typename Call>
bool Failed(Call* call, const Status& status, bool is_write = false) {
  if (!status.ok()) SetError(&call->reply, ToKvError(status, is_write));
  return !status.ok();
}

Refusal CheckKey(std::string_view key);
// These refuse, rather than ignore, fields that a single node cannot honor, such as a namespace or
// a session.
Refusal CheckReadContext(const api::Context& context);
Refusal CheckWriteContext(const api::Context& context);
// The same on a node of a cluster, which issues session tokens. ToSession checks them.
Refusal CheckReadContextInCluster(const api::Context& context);
Refusal CheckWriteContextInCluster(const api::Context& context);
Refusal ToSession(const api::Context& context, const Uuid& cluster, SessionToken* session);
enum class ReadLevel : uint8_t { kLinearizable, kBounded, kSession };
// Of a context that was checked.
ReadLevel ToReadLevel(const api::Context& context);
WriteLevel ToWriteLevel(const api::Context& context);
// The name of a write, if its context has one: a kOnce whose key is the client ID. Without one, and if
// it is refused, once->sequence is 0. `remembers`: whether this server remembers names.
Refusal ToOnce(const api::Context& context, bool remembers, WriteOp* once);
// For writes that cannot have a name.
Refusal CheckUnnamed(const api::Context& context);
// A quick check for the fast path: true means that CheckReadContext would refuse nothing and
// GetPath may answer. A read in a cluster may carry an hlc, which says nothing to it.
bool IsPlainRead(const api::Context& context, bool in_cluster = false);
// Clears the fields that IsPlainRead examines, so that `context` can be reused for decoding without
// an allocation.
void ResetForPlainRead(api::Context* context);
// Frees what the strings of reused arguments hold. (Thrift gives them no assignment.)
template <typename Args>
void Renew(Args* args) {
  std::destroy_at(args);
  std::construct_at(args);
}
// Refuses every client that is not anonymous with UNAUTHENTICATED, because a node cannot verify
// identities.
Refusal CheckHello(const api::HelloRequest& request);

// Each overload moves the bytes of its request into `op`.
Refusal ToWriteOp(api::PutRequest& request, WriteOp* op);
Refusal ToWriteOp(api::RemoveRequest& request, WriteOp* op);
Refusal ToWriteOp(api::IncrementRequest& request, WriteOp* op);
Refusal ToWriteOp(api::TouchRequest& request, WriteOp* op);
Refusal ToWriteOp(api::WriteOp& request, WriteOp* op);
struct BatchOfWrites {
  std::vector<WriteOp> ops;
  size_t checks = 0;  // the first `checks` ops are the conditions of the whole batch
  WriteOptions options;
};
// If the batch has conditions, all of its keys must have the same tag or be the same key, so that
// one partition holds them.
Refusal ToWriteBatch(api::WriteBatchRequest& request, BatchOfWrites* batch);
// Checks and combines the bounds of a range. A bound must not be longer than the longest key.
Refusal ToScanRange(std::string_view start, std::string_view end, std::string_view prefix, ScanRange* range);
// The same, after the cursor of the request if it has one.
// `cluster`: as in EncodeCursor.
Refusal ToScanRange(const api::ScanRequest& request, ScanRange* range, const Uuid& cluster = {});
Refusal ToScanRange(const api::DeleteRangeRequest& request, ScanRange* range, const Uuid& cluster = {});
// The same for a request for some partitions, after this key if it is not null. It has no cursor.
Refusal ToScanRange(const api::ScanRequest& request, const std::string* after_key, ScanRange* range);
Refusal ToScanRange(const api::DeleteRangeRequest& request, const std::string* after_key, ScanRange* range);
// Whether the partition serves its range. STALE_MAP, on a node of a cluster: as far as this node knows, it does not,
// because it was split, or is a half and has not begun. BAD_REQUEST: there cannot be such a partition.
Refusal CheckServing(int32_t partition, const RangeTable& serving, bool of_cluster);
// The partitions that a request names: at least one, at most kMaxNamedPartitions, each once, and all of them serve.
inline constexpr size_t kMaxNamedPartitions = 8192;
Refusal ToPartitions(const std::vector<int32_t>& named, const RangeTable& serving, bool of_cluster,
                     std::vector<uint32_t>* ids);
// Decodes the snapshot that a request names. An empty token gives 0, the newest state.
Refusal ToSnapshotId(std::string_view token, SnapshotId* id);
// Decodes a token that must not be empty.
Refusal ToSnapshotToken(std::string_view bytes, SnapshotToken* token);
Refusal ToPageCursor(std::string_view bytes, PageCursor* cursor);
// Of a snapshot. It is kept open longer by renewing it: whoever is gone keeps nothing for long.
inline constexpr int32_t kMaxSnapshotTtlMs = 600'000;
Refusal CheckTtl(int32_t ttl_ms);
Refusal CheckMultiGet(const api::MultiGetRequest& request);
Refusal CheckWatch(const api::WatchRequest& request);
Refusal CheckWatch(std::string_view prefix, int32_t wait_ms);
// FEED_GONE if it is of another store, else BAD_CURSOR.
Refusal ToWatchPosition(std::string_view bytes, const WatchBinding& binding, WatchPosition* position);
// FEED_GONE, and what to do.
api::KvError FeedGone(std::string why);
// When a call answers that wants to wait so long, and finds nothing: before its deadline.
Nanos EndOfWait(const RpcCallBase& call, int32_t wait_ms);
Refusal CheckSplitParts(int32_t parts);
Refusal CheckMaxVersion(int64_t max_version);
// Sets *limit to the limit that a request asks for: 0 means the server's limit `most`, and a larger
// value is lowered to it.
Refusal SetLimit(const char* name, int32_t asked, size_t most, size_t* limit);

// Converts the result of one operation. Returns an error for an increment that was impossible (not
// a number, or an overflow). Reads only the fields of `op` that KeepShape keeps.
Refusal ToWriteResult(const WriteOp& op, OpResult& from, api::WriteResult* to);
// Copies an operation without its key and value. ToWriteResult needs the rest after the partition
// has consumed the operation.
WriteOp KeepShape(const WriteOp& op);
void ToRecord(ReadResult& from, api::Record* to);                         // moves the value
void ToChanges(std::vector<Change>& from, std::vector<api::Change>* to);  // moves the keys
void ToRangePart(RangePart& from, api::RangePart* to);                    // the same

}  // namespace pando
