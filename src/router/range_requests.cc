#include "src/router/range_requests.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/rows_reply.h"
#include "src/kvapi/split_range.h"
#include "src/router/range_tries.h"

namespace pando {

namespace {

// -- scan

// Reserves a page and its plan in the memory of the call, and admits them. False: an error is set in its reply.
bool ReservePageOf(ScanCall* call, LongWork* work, const RouteMap& map, MergeScanSpec* spec, LongWork::Ticket* ticket) {
  const uint64_t client = CallTerms(*call).client;
  const auto all_bytes = static_cast<size_t>(call->server->memory_limit_bytes());
  const size_t limit_bytes = work == nullptr ? all_bytes : work->limit_bytes();
  const size_t most_bytes =
      work == nullptr ? SIZE_MAX : std::min(work->MostFor(client), LongWork::RoomIn(call->server->account()));
  const size_t before = call->memory.bytes(), plan_bytes = PlanCost(map, spec->range);
  std::optional<size_t> missing = plan_bytes;
  if (plan_bytes <= most_bytes && call->memory.TryGrow(plan_bytes)) {
    missing = ReservePage(spec, MostSharesOf(map), limit_bytes, &call->memory, most_bytes - plan_bytes);
    if (missing) *missing += plan_bytes;
  }
  if (!missing && (work == nullptr || work->Admit(client, call->memory.bytes() - before, ticket))) return true;
  if (!missing || *missing > most_bytes) {
    SetError(&call->reply, work->Refuse(client));
  } else {
    call->server->metrics().overloaded_total.Add();
    SetError(&call->reply, call->server->OverloadedError(*missing));
  }
  return false;
}

// A page of a scan. If one node has it, its rows may stay encoded.
struct ReadRows {
  ScanPage merged;
  std::optional<EncodedPage> encoded;
  std::optional<std::string_view> read_to() const { return encoded ? encoded->read_to : merged.read_to(); }
};

Task<Status> ReadEncoded(const RangeParts* parts, const MergeScanSpec* spec, MemoryGrant* more, ReadRows* rows) {
  CO_ASSIGN_OR_RETURN(rows->encoded, co_await parts->nodes[0]->ScanEncoded(spec->ForSource()));
  if (!parts->CheckCovered().ok()) {  // as the caller will find: nothing is kept while it waits for another try (LW1)
    rows->encoded.reset();
    co_return Status();
  }
  // A large row alone may take more than what was reserved for the reply.
  const size_t bytes = rows->encoded->rows_bytes;
  if (bytes > spec->held_bytes && !more->TryGrow(bytes - spec->held_bytes)) {
    co_return Error(Code::kOverloaded, "the router has no free memory for rows of {} bytes; try again", bytes);
  }
  co_return Status();
}

// `more`: what the page takes beyond its reservation. `may_pass`: rows may stay encoded in the binary protocol.
Task<Status> ReadPage(const RangeParts* parts, const MergeScanSpec* spec, bool may_pass, MemoryGrant* more,
                      ReadRows* rows) {
  more->ReleaseAll();  // of a try that has failed
  rows->encoded.reset();
  rows->merged = ScanPage();
  if (may_pass && parts->nodes.size() == 1) co_return co_await ReadEncoded(parts, spec, more, rows);
  MergeScanSpec of_try = *spec;
  of_try.memory = more;
  CO_ASSIGN_OR_RETURN(rows->merged, co_await MergeScan(parts->Sources(), std::move(of_try)));
  co_return Status();
}

// -- aggregates

Task<Status> ReadSums(const RangeParts* parts, const ScanRange* range, RangeAggregates* sums) {
  CO_ASSIGN_OR_RETURN(*sums, co_await MergeAggregates(parts->Sources(), *range, kNewest));
  co_return Status();
}

// The sums of the range that `call` names. False: an error is set in its reply.
template <typename Call>
Task<bool> SumsOf(RangeNodes* nodes, Call* call, RangeAggregates* sums) {
  const auto& request = call->args.request;
  ScanRange range;
  if (Refuse(call, ToScanRange(request.start_key, request.end_key, request.prefix, &range))) co_return false;
  const Status complete = co_await nodes->UntilComplete(call->deadline_ns);
  if (Failed(call, complete)) co_return false;
  const RouteMap& map = nodes->map();
  const CallTerms terms(*call);
  LongWork::Ticket ticket;
  const size_t bytes = FanOutCost(MostSharesOf(map)) + PlanCost(map, range);
  if (!ReserveLong(nodes->long_work(), terms.client, call, bytes, &ticket)) co_return false;
  RangeAsk ask(nodes, &call->args.context, terms, request.snapshot);
  if (!range.empty) {
    RangeTries tries(&ask, call, IsForMasters(call->args.context));
    auto attempt = [&range, sums](RangeParts* parts) { return ReadSums(parts, &range, sums); };
    const Refusal refusal = co_await tries.UntilCovered(range, attempt);
    if (call->answered || Refuse(call, refusal)) co_return false;
  }
  ask.FillSession(&call->reply.success);
  co_return true;
}

// -- splitRange

Task<void> SampleNode(NodePart* part, const ScanRange* range, size_t keys, Result<RangeSample>* sample) {
  *sample = co_await part->Sample(*range, keys);
}

// A part of a range, while it is sampled and counted.
struct Splitting {
  ScanRange range;
  size_t parts = 0;
  BudgetAccount* account = nullptr;  // for the sample
  std::vector<RangePart> result;
};

// So many of each partition that no node is asked for more than it gives.
size_t KeysPerPartition(const RangePlan& plan, size_t parts) {
  if (plan.hash) return parts;
  size_t most = 1;
  for (const NodeShare& share : plan.shares) most = std::max(most, share.partitions.size());
  // Their reply must fit into a frame, however long the keys are.
  constexpr size_t kMostKeys = std::min(kMaxNamedPartitions, kMaxFrameBytes / (kMaxKeyBytes + 64));
  return std::min(kSamplesPerPart * parts, std::max<size_t>(1, kMostKeys / most));
}

Task<Status> SplitOnce(const RangeParts* parts, Splitting* splitting) {
  const size_t keys = KeysPerPartition(parts->plan, splitting->parts);
  std::vector<Result<RangeSample>> samples(parts->nodes.size(), RangeSample());
  TaskGroup sampling;
  for (size_t i = 0; i < samples.size(); ++i) {
    sampling.Spawn(SampleNode(parts->nodes[i].get(), &splitting->range, keys, &samples[i]));
  }
  co_await sampling.Drain();
  RangeSample all;
  MemoryGrant memory(splitting->account);
  for (Result<RangeSample>& sample : samples) {
    CO_RETURN_IF_ERROR(sample.status());
    all.count += sample->count;
    for (SampledKey& key : sample->keys) {
      if (!memory.TryGrow(2 * (sizeof(SampledKey) + key.key.size()))) {
        co_return Error(Code::kOverloaded, "the router has no free memory to sample the range; try again");
      }
      all.keys.push_back(std::move(key));
    }
  }
  std::sort(all.keys.begin(), all.keys.end(), [](const SampledKey& a, const SampledKey& b) { return a.key < b.key; });
  CO_ASSIGN_OR_RETURN(splitting->result, co_await SplitBySample(parts->Sources(), splitting->range, splitting->parts,
                                                                std::move(all), kNewest));
  co_return Status();
}

}  // namespace

Task<void> RouteScan(RangeNodes* nodes, ScanCall* call) {
  const api::ScanRequest& request = call->args.request;
  MergeScanSpec spec;
  spec.keys_only = request.keys_only;
  spec.sizes_only = request.sizes_only;
  if (Refuse(call, SetLimit("limit_rows", request.limit_rows, kMaxScanRows, &spec.max_rows))) co_return;
  if (Refuse(call, SetLimit("limit_bytes", request.limit_bytes, kMaxScanBytes, &spec.max_bytes))) co_return;
  const Status complete = co_await nodes->UntilComplete(call->deadline_ns);
  if (Failed(call, complete)) co_return;
  const Uuid cluster = nodes->map().cluster_id();
  if (Refuse(call, ToScanRange(request, &spec.range, cluster))) co_return;
  const uint64_t scan_id = ScanIdOf(spec.range, call->server->reactor());
  LongWork::Ticket ticket;
  if (!ReservePageOf(call, nodes->long_work(), nodes->map(), &spec, &ticket)) co_return;
  RangeAsk ask(nodes, &call->args.context, CallTerms(*call), request.snapshot, request.since);
  ask.SetSlice(request.slices, request.slice);
  MemoryGrant more(&call->server->account());
  ReadRows rows;
  rows.merged.exhausted = true;
  if (!spec.range.empty) {
    RangeTries tries(&ask, call, IsForMasters(call->args.context));
    const bool may_pass = call->id.protocol != WireProtocol::kCompact;
    auto attempt = [&](RangeParts* parts) { return ReadPage(parts, &spec, may_pass, &more, &rows); };
    const Refusal refusal = co_await tries.UntilCovered(spec.range, attempt);
    if (call->answered || Refuse(call, refusal)) co_return;
  }
  api::ScanReply& reply = call->reply.success;
  if (const auto key = rows.read_to()) reply.cursor = EncodeCursor(request, {scan_id, std::string(*key)}, cluster);
  ask.FillSession(&reply);
  if (rows.encoded) {
    ReplyRows(call, rows.encoded->rows(), rows.encoded->row_count);
  } else {
    ReplyRows(call, rows.merged, request.sizes_only);
  }
}

Task<void> RouteCount(RangeNodes* nodes, CountCall* call) {
  RangeAggregates sums;
  const bool known = co_await SumsOf(nodes, call, &sums);
  if (known) call->reply.success.count = static_cast<int64_t>(sums.count);
}

Task<void> RouteAggregate(RangeNodes* nodes, AggregateCall* call) {
  RangeAggregates sums;
  const bool known = co_await SumsOf(nodes, call, &sums);
  if (!known) co_return;
  call->reply.success.count = static_cast<int64_t>(sums.count);
  call->reply.success.bytes = static_cast<int64_t>(sums.bytes);
  call->reply.success.content_hash = static_cast<int64_t>(sums.content_hash);
}

Task<void> RouteSplitRange(RangeNodes* nodes, SplitRangeCall* call) {
  const api::SplitRangeRequest& request = call->args.request;
  Splitting splitting;
  if (Refuse(call, ToScanRange(request.start_key, request.end_key, request.prefix, &splitting.range))) co_return;
  if (Refuse(call, CheckSplitParts(request.parts))) co_return;
  splitting.parts = static_cast<size_t>(request.parts);
  splitting.account = &call->server->account();
  const Status complete = co_await nodes->UntilComplete(call->deadline_ns);
  if (Failed(call, complete)) co_return;
  const RouteMap& map = nodes->map();
  const size_t bytes = kCountsInFlight * (FanOutCost(MostSharesOf(map)) + PlanCost(map, splitting.range)) +
                       2 * splitting.parts * 2 * kMaxKeyBytes;
  const CallTerms terms(*call);
  LongWork::Ticket ticket;
  if (!ReserveLong(nodes->long_work(), terms.client, call, bytes, &ticket)) co_return;
  RangeAsk ask(nodes, &call->args.context, terms, request.snapshot);
  if (splitting.range.empty) {
    splitting.result.push_back({splitting.range.start, splitting.range.end, {}});
  } else {
    RangeTries tries(&ask, call, IsForMasters(call->args.context));
    auto attempt = [&splitting](RangeParts* parts) { return SplitOnce(parts, &splitting); };
    const Refusal refusal = co_await tries.UntilCovered(splitting.range, attempt);
    if (call->answered || Refuse(call, refusal)) co_return;
  }
  for (RangePart& part : splitting.result) ToRangePart(part, &call->reply.success.parts.emplace_back());
  ask.FillSession(&call->reply.success);
}

}  // namespace pando
