// Requests checked and turned into what partitions understand. Every refusal names the rule and its limit.
//
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/node/kv_errors.h"
#include "src/partition/types.h"

namespace pando {

using Refusal = std::optional<api::KvError>;

// Puts a refusal into the reply of `call`. False when there is none.
template <typename Call>
bool Refuse(Call* call, const Refusal& refusal) {
  if (refusal) SetError(&call->reply, *refusal);
  return refusal.has_value();
}

Refusal CheckKey(std::string_view key);
// What a single node cannot honour (a namespace, a session of elsewhere, ...) is refused, not ignored.
Refusal CheckReadContext(const api::Context& context);
Refusal CheckWriteContext(const api::Context& context);
// True when CheckReadContext has nothing to refuse, and the hot path may answer: its quick look.
bool IsPlainRead(const api::Context& context);
// Clears what IsPlainRead looks at, so that `context` can be decoded into again without an allocation.
void ResetForPlainRead(api::Context* context);
// Whoever is not anonymous is UNAUTHENTICATED: there is nothing here to verify an identity with.
Refusal CheckHello(const api::HelloRequest& request);

// Each moves the bytes out of its request into `op`.
Refusal ToWriteOp(api::PutRequest& request, WriteOp* op);
Refusal ToWriteOp(api::RemoveRequest& request, WriteOp* op);
Refusal ToWriteOp(api::IncrementRequest& request, WriteOp* op);
Refusal ToWriteOp(api::TouchRequest& request, WriteOp* op);
Refusal ToWriteOp(api::WriteOp& request, WriteOp* op);
struct BatchOfWrites {
  std::vector<WriteOp> ops;
  size_t checks = 0;  // so many of them are the conditions of the whole batch; they come first
  WriteOptions options;
};
// With conditions, all keys are of one partition.
Refusal ToWriteBatch(api::WriteBatchRequest& request, BatchOfWrites* batch);
// The bounds of a range may be longer than any key, but not without end.
Refusal CheckBounds(std::string_view start, std::string_view end, std::string_view prefix);
// The snapshot that a request names; 0 for an empty token.
Refusal ToSnapshotId(std::string_view token, SnapshotId* id);
Refusal CheckTtl(int32_t ttl_ms);  // of a snapshot
Refusal CheckMultiGet(const api::MultiGetRequest& request);
Refusal CheckWatch(const api::WatchRequest& request);
// A limit of a request: 0 means the server's, more than that is cut to it.
Refusal SetLimit(const char* name, int32_t asked, size_t most, size_t* limit);

// The result of one operation; the error of one that could not be carried out (not a number, overflow). Of `op` only
// what KeepShape keeps is looked at.
Refusal ToWriteResult(const WriteOp& op, OpResult& from, api::WriteResult* to);
// An operation without its key and value: what its result is told by once the partition has taken it.
WriteOp KeepShape(const WriteOp& op);
void ToRecord(ReadResult& from, api::Record* to);  // moves the value

}  // namespace pando
