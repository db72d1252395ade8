// KvService: reads of ranges, for clients (Kv), and of the partitions that a router names (Routing).
#include <algorithm>
#include <utility>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/rows_reply.h"
#include "src/kvapi/split_range.h"
#include "src/node/kv_service.h"

namespace pando {

namespace {

// Of a partition that a reply covers: as a struct in a vector that grows, and encoded.
constexpr size_t kCoveredBytes = 2 * sizeof(api::Covered) + 64;

template <typename Reply>
void SetSums(const RangeAggregates& sums, Reply* reply) {
  reply->count = static_cast<int64_t>(sums.count);
  reply->bytes = static_cast<int64_t>(sums.bytes);
  reply->content_hash = static_cast<int64_t>(sums.content_hash);
}

// The places of these partitions. Those that have other hashes than the slice are read with a filter.
std::vector<MergeSource> SourcesOfSlice(const std::vector<Partition*>& places, const std::vector<uint32_t>& ids,
                                        uint32_t base, const HashSlice& slice) {
  std::vector<MergeSource> sources = SourcesOf(places);
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto [first, last] = HashRangeOf(ids[i], base);
    sources[i].filtered = !slice.HasAll(first, last);
  }
  return sources;
}

// Null: the request does not set it.
template <typename Request>
const std::string* AfterKeyOf(const Request& request) {
  return request.__isset.after_key ? &request.after_key : nullptr;
}

}  // namespace

size_t KvService::CoveredBytes(const Asked& asked) {
  return asked.covered == nullptr ? 0 : asked.ids.size() * kCoveredBytes;
}

void KvService::SetCovered(const Asked& asked, const std::vector<Mastership>& in) const {
  if (asked.covered == nullptr) return;
  for (size_t i = 0; i < asked.ids.size(); ++i) {
    const PartitionInfo info = backend_->store->InfoOf(asked.ids[i], Uuid());
    api::Covered& covered = asked.covered->emplace_back();
    covered.partition = static_cast<int32_t>(info.id);
    covered.first_hash = static_cast<int64_t>(info.first_hash);
    covered.last_hash = static_cast<int64_t>(info.last_hash);
    covered.epoch = in.empty() ? 0 : static_cast<int64_t>(in[i].epoch);
  }
}

// Calls `read` with the places of the partitions, which returns a Task<Result<T>>.
template <typename T, typename C, typename Read>
Task<std::optional<T>> KvService::ReadAsked(C* call, Asked asked, bool of_snapshot, Read read) {
  Reactor& reactor = server_->reactor();
  SessionCall session(backend_, &reactor);
  if (Refuse(call, session.Begin(call->args.context, of_snapshot))) co_return std::nullopt;
  Result<std::vector<Partition*>> places = co_await PlacesFor(&session, asked.ids, call->deadline_ns);
  if (Failed(call, places.status())) co_return std::nullopt;
  const bool in_epochs = asked.covered != nullptr && !of_snapshot && !session.any_replica();
  std::vector<Mastership> in;
  if (in_epochs) {
    Result<std::vector<Mastership>> before = co_await CheckLeases(backend_, &reactor, asked.ids);
    if (Failed(call, before.status())) co_return std::nullopt;
    in = *std::move(before);
  }
  Task<Result<T>> reading = read(*std::move(places));
  Result<T> result = co_await reading;
  if (Failed(call, result.status())) co_return std::nullopt;
  if (!of_snapshot) {
    const Status noted = co_await NoteRead(&session, asked.ids);
    if (Failed(call, noted)) co_return std::nullopt;
  }
  if (in_epochs) {
    const Result<std::vector<Mastership>> after = co_await CheckLeases(backend_, &reactor, asked.ids);
    if (Failed(call, after.status())) co_return std::nullopt;
    if (*after != in) {
      Failed(call, Error(Code::kNotMaster, "a partition got another master while it was read; try again"));
      co_return std::nullopt;
    }
  }
  session.Fill(&call->reply.success);
  SetCovered(asked, in);
  co_return *std::move(result);
}

// -- scans

template <typename C>
Task<std::optional<ScanPage>> KvService::PageOf(C* call, const api::ScanRequest* request, ScanRange range,
                                                Asked asked) {
  MergeScanSpec spec;
  spec.keys_only = request->keys_only;
  spec.sizes_only = request->sizes_only;
  if (Refuse(call, SetLimit("limit_rows", request->limit_rows, kMaxScanRows, &spec.max_rows))) co_return std::nullopt;
  if (Refuse(call, SetLimit("limit_bytes", request->limit_bytes, kMaxScanBytes, &spec.max_bytes)))
    co_return std::nullopt;
  if (Refuse(call, ToSnapshotId(request->snapshot, &spec.snapshot))) co_return std::nullopt;
  if (Refuse(call, ToSnapshotId(request->since, &spec.since))) co_return std::nullopt;
  if (spec.since != 0 && request->reverse) {
    SetError(&call->reply,
             MakeError(ApiCode::kBadRequest,
                       "reverse and since are both set, but changes since a snapshot can only be scanned forward"));
    co_return std::nullopt;
  }
  spec.range = std::move(range);
  if (Refuse(call, Reserve(call, CoveredBytes(asked)))) co_return std::nullopt;
  const auto limit_bytes = static_cast<size_t>(server_->memory_limit_bytes());
  if (const auto missing = ReservePage(&spec, asked.ids.size(), limit_bytes, &call->memory)) {
    Refuse(call, Overloaded(*missing));
    co_return std::nullopt;
  }
  const bool of_snapshot = spec.snapshot != 0;
  spec.max_examined = kMaxExaminedRecords;
  auto read = [spec = std::move(spec), ids = asked.ids,
               base = backend_->serving.base()](std::vector<Partition*> places) {
    return MergeScan(SourcesOfSlice(places, ids, base, spec.range.slice), spec);
  };
  co_return co_await ReadAsked<ScanPage>(call, std::move(asked), of_snapshot, std::move(read));
}

Task<void> KvService::Scan(Call<api::Kv_scan_args, api::Kv_scan_result>* call) {
  const api::ScanRequest& request = call->args.request;
  ScanRange range;
  if (Refuse(call, ToScanRange(request, &range))) co_return;
  const uint64_t scan_id = ScanIdOf(range, server_->reactor());
  Asked asked{IdsOf(range)};
  std::optional<ScanPage> page = co_await PageOf(call, &request, std::move(range), std::move(asked));
  if (!page) co_return;
  api::ScanReply& reply = call->reply.success;
  if (const auto key = page->read_to()) reply.cursor = EncodeCursor(request, {scan_id, std::string(*key)});
  ReplyRows(call, *page, request.sizes_only);
}

Task<void> KvService::ScanPartitions(Call<api::Routing_scanPartitions_args, api::Routing_scanPartitions_result>* call) {
  const api::ScanPartitionsRequest& request = call->args.request;
  api::ScanPartitionsReply& reply = call->reply.success;
  Asked asked{{}, &reply.covered};
  ScanRange range;
  if (Refuse(call, backend_->ToPartitions(request.partitions, &asked.ids))) co_return;
  if (Refuse(call, ToScanRange(request.scan, AfterKeyOf(request), &range))) co_return;
  std::optional<ScanPage> page = co_await PageOf(call, &request.scan, std::move(range), std::move(asked));
  if (!page) co_return;
  reply.exhausted = page->exhausted;
  reply.examined_to = std::move(page->examined_to);
  call->likely_reply_bytes = reply.covered.size() * kCoveredBytes;
  ReplyRows(call, *page, request.scan.sizes_only);
}

// -- aggregates

template <typename C, typename Request>
Task<std::optional<RangeAggregates>> KvService::AggregatesOf(C* call, const Request* request, Asked asked) {
  ScanRange range;
  SnapshotId snapshot = 0;
  if (Refuse(call, ToScanRange(request->start_key, request->end_key, request->prefix, &range))) co_return std::nullopt;
  if (Refuse(call, ToSnapshotId(request->snapshot, &snapshot))) co_return std::nullopt;
  if (asked.covered == nullptr) asked.ids = IdsOf(range);
  const size_t bytes = FanOutCost(asked.ids.size()) + CoveredBytes(asked);
  if (Refuse(call, Reserve(call, bytes))) co_return std::nullopt;
  auto read = [range = std::move(range), snapshot](std::vector<Partition*> places) {
    return MergeAggregates(SourcesOf(places), range, snapshot);
  };
  co_return co_await ReadAsked<RangeAggregates>(call, std::move(asked), snapshot != 0, std::move(read));
}

Task<void> KvService::Count(Call<api::Kv_count_args, api::Kv_count_result>* call) {
  Asked asked;
  std::optional<RangeAggregates> sum = co_await AggregatesOf(call, &call->args.request, std::move(asked));
  if (sum) call->reply.success.count = static_cast<int64_t>(sum->count);
}

Task<void> KvService::Aggregate(Call<api::Kv_aggregate_args, api::Kv_aggregate_result>* call) {
  Asked asked;
  std::optional<RangeAggregates> sum = co_await AggregatesOf(call, &call->args.request, std::move(asked));
  if (sum) SetSums(*sum, &call->reply.success);
}

Task<void> KvService::AggregatePartitions(
    Call<api::Routing_aggregatePartitions_args, api::Routing_aggregatePartitions_result>* call) {
  const api::AggregatePartitionsRequest& request = call->args.request;
  Asked asked{{}, &call->reply.success.covered};
  if (Refuse(call, backend_->ToPartitions(request.partitions, &asked.ids))) co_return;
  std::optional<RangeAggregates> sum = co_await AggregatesOf(call, &request.range, std::move(asked));
  if (sum) SetSums(*sum, &call->reply.success);
}

// -- parts of a range

Task<void> KvService::SplitRange(Call<api::Kv_splitRange_args, api::Kv_splitRange_result>* call) {
  const api::SplitRangeRequest& request = call->args.request;
  ScanRange range;
  SnapshotId snapshot = 0;
  if (Refuse(call, ToScanRange(request.start_key, request.end_key, request.prefix, &range))) co_return;
  if (Refuse(call, ToSnapshotId(request.snapshot, &snapshot))) co_return;
  if (Refuse(call, CheckSplitParts(request.parts))) co_return;
  Asked asked{IdsOf(range)};
  const auto wanted = static_cast<size_t>(request.parts);
  // Several parts are counted at once. The bounds exist twice: in the result and in the reply.
  const size_t bytes = kCountsInFlight * FanOutCost(asked.ids.size()) + 2 * wanted * 2 * kMaxKeyBytes;
  if (Refuse(call, Reserve(call, bytes))) co_return;
  auto read = [range = std::move(range), wanted, snapshot, memory = &call->memory](std::vector<Partition*> places) {
    return SplitRangeEvenly(std::move(places), range, wanted, snapshot, memory);
  };
  std::optional<std::vector<RangePart>> parts =
      co_await ReadAsked<std::vector<RangePart>>(call, std::move(asked), snapshot != 0, std::move(read));
  if (!parts) co_return;
  for (RangePart& part : *parts) ToRangePart(part, &call->reply.success.parts.emplace_back());
}

Task<void> KvService::SamplePartitions(
    Call<api::Routing_samplePartitions_args, api::Routing_samplePartitions_result>* call) {
  const api::SamplePartitionsRequest& request = call->args.request;
  api::SamplePartitionsReply& reply = call->reply.success;
  Asked asked{{}, &reply.covered};
  ScanRange range;
  SnapshotId snapshot = 0;
  if (Refuse(call, backend_->ToPartitions(request.partitions, &asked.ids))) co_return;
  if (Refuse(call, ToScanRange(request.range.start_key, request.range.end_key, request.range.prefix, &range)))
    co_return;
  if (Refuse(call, ToSnapshotId(request.range.snapshot, &snapshot))) co_return;
  const auto keys = static_cast<size_t>(std::max(request.keys_per_partition, 0));
  if (keys == 0 || keys * asked.ids.size() > kMaxNamedPartitions) {
    SetError(&call->reply, MakeError(ApiCode::kBadRequest,
                                     fmt::format("keys_per_partition is {}; it must be from 1 to {} for {} partitions",
                                                 request.keys_per_partition, kMaxNamedPartitions / asked.ids.size(),
                                                 asked.ids.size())));
    co_return;
  }
  if (Refuse(call, Reserve(call, FanOutCost(asked.ids.size()) + CoveredBytes(asked)))) co_return;
  auto read = [range = std::move(range), keys, snapshot, memory = &call->memory](std::vector<Partition*> places) {
    return SampleRange(std::move(places), range, keys, snapshot, memory);
  };
  std::optional<RangeSample> sample =
      co_await ReadAsked<RangeSample>(call, std::move(asked), snapshot != 0, std::move(read));
  if (!sample) co_return;
  // The keys move into the reply, and are encoded there.
  if (Refuse(call, Reserve(call, call->memory.bytes()))) co_return;
  reply.count = static_cast<int64_t>(sample->count);
  for (SampledKey& key : sample->keys) {
    api::SampledKey& to = reply.keys.emplace_back();
    to.key = std::move(key.key);
    to.records = static_cast<int64_t>(key.records);
  }
}

}  // namespace pando
