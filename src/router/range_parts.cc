#include "src/router/range_parts.h"

#include <algorithm>
#include <utility>

#include "src/base/hash.h"

namespace pando {

namespace {

// What a reply to a scan has besides its rows: a cursor, and a token with 1024 partitions at most.
constexpr size_t kMostOfRest = 128u << 10;

bool SameCovered(const api::Covered& a, const api::Covered& b) {
  return a.partition == b.partition && a.first_hash == b.first_hash && a.last_hash == b.last_hash;
}

bool IsInRange(const ScanSpec& spec, std::string_view key) {
  return (spec.start_exclusive ? key > spec.start : key >= spec.start) && (spec.end.empty() || key < spec.end);
}

}  // namespace

RangeAsk::RangeAsk(RangeNodes* nodes, const api::Context* context, CallTerms terms, std::string snapshot,
                   std::string since)
    : nodes_(*nodes), context_(*context), terms_(terms), snapshot_(std::move(snapshot)), since_(std::move(since)) {
  session_.cluster = nodes_.map().cluster_id();
  NoteSession(context_.session);
}

// A node says what is wrong with the client's token.
void RangeAsk::NoteSession(const std::string& token) {
  Result<SessionToken> decoded = DecodeSessionToken(session_.cluster, token);
  if (!decoded.ok()) return;
  for (const auto& [partition, point] : decoded->points) session_.Raise(partition, point);
}

void RangeAsk::Fail(const api::KvError& error, RetryCause cause) {
  // What is final for one part is final for the request.
  if (!failure_ || (cause_ != RetryCause::kNone && cause == RetryCause::kNone)) {
    failure_ = error;
    cause_ = cause;
  } else if (cause_ != RetryCause::kNone) {
    cause_ = std::max(cause_, cause);
  }
}

void RangeAsk::FailGarbled(const Status& why) {
  const Status error = Error(Code::kUnavailable, "the parts of the answer do not fit together: {}", why.message());
  Fail(ToKvError(error, false), RetryCause::kMisrouted);
}

std::string RangeAsk::Describe(const NodeShare& share) {
  constexpr size_t kMostNamed = 3;
  const std::vector<int32_t>& all = share.partitions;
  std::string text = all.size() == 1 ? "partition " : "partitions ";
  for (size_t i = 0; i < std::min(kMostNamed, all.size()); ++i) text += (i == 0 ? "" : ", ") + std::to_string(all[i]);
  if (all.size() > kMostNamed) text += fmt::format(" and {} more", all.size() - kMostNamed);
  return text + ": ";
}

RetryCause RangeAsk::CauseOfLoss(const NodeAnswer& answer) {
  switch (answer.status.code()) {
    case Code::kDeadline: return RetryCause::kNone;
    case Code::kOverloaded: return RetryCause::kBusy;
    default: return answer.sent ? RetryCause::kBroken : RetryCause::kDown;
  }
}

Status NodePart::NoteCovered(std::vector<api::Covered> covered) {
  if (covered_.empty()) {
    covered_ = std::move(covered);
    return Status();
  }
  if (std::equal(covered.begin(), covered.end(), covered_.begin(), covered_.end(), SameCovered)) return Status();
  return Error(Code::kCorruption, "node {} says something else of the ranges of its partitions than before",
               share_.node);
}

bool NodePart::Holds(uint64_t hash) const {
  return std::any_of(covered_.begin(), covered_.end(), [hash](const api::Covered& c) {
    return static_cast<uint64_t>(c.first_hash) <= hash && hash <= static_cast<uint64_t>(c.last_hash);
  });
}

Status NodePart::CheckRows(const ScanSpec& spec, const ScanAnswer& answer) const {
  if (answer.row_count > spec.max_rows) {
    return Error(Code::kCorruption, "node {} sent {} rows of at most {}", share_.node, answer.row_count, spec.max_rows);
  }
  RowWalk walk(answer.rows());
  RowView row, before;
  uint32_t count = 0;
  for (; walk.Next(&row); ++count) {
    const bool in_range = !row.key.empty() && row.key.size() <= kMaxKeyBytes && IsInRange(spec, row.key);
    const bool in_order = count == 0 || (spec.reverse ? row.key < before.key : row.key > before.key);
    const uint64_t hash = HashId(row.key);
    if (!in_range || !in_order || !Holds(hash) || !spec.slice.Has(hash)) {
      return Error(Code::kCorruption, "node {} sent a row that is {}", share_.node,
                   !in_range   ? "not in the range"
                   : !in_order ? "out of order"
                               : "of another partition or slice");
    }
    before = row;
  }
  if (count != answer.row_count) {
    return Error(Code::kCorruption, "node {} sent {} rows that can be read, and says that it has sent {}", share_.node,
                 count, answer.row_count);
  }
  return CheckEnd(spec, answer, count == 0 ? nullptr : &before);
}

Status NodePart::CheckEnd(const ScanSpec& spec, const ScanAnswer& answer, const RowView* last) const {
  const std::string& key = answer.success.examined_to;
  if (answer.success.exhausted || (key.empty() && last != nullptr)) return Status();
  if (key.empty()) return Error(Code::kCorruption, "node {} sent no row, and says that there are more", share_.node);
  const bool in_order = last == nullptr || (spec.reverse ? key <= last->key : key >= last->key);
  const bool may_be = key.size() <= kMaxKeyBytes && in_order && IsInRange(spec, key);
  if (!spec.slice.all() && may_be) return Status();
  return Error(Code::kCorruption, "node {} says that it has read up to a key that was not next", share_.node);
}

Task<Result<NodeAnswer>> NodePart::Ask(ScanSpec spec, ScanAnswer* reply) {
  CHECK(!spec.end_inclusive) << "only rows without their values are read again";
  api::Routing_scanPartitions_args args;
  args.context = ask_.ContextOfPart();
  args.request.partitions = share_.partitions;
  api::ScanRequest& scan = args.request.scan;
  scan.start_key = spec.start;
  scan.end_key = spec.end;
  if (spec.start_exclusive) args.request.__set_after_key(spec.start);
  scan.reverse = spec.reverse;
  scan.keys_only = spec.keys_only;
  scan.sizes_only = spec.sizes_only;
  scan.limit_rows = static_cast<int32_t>(spec.max_rows);
  scan.limit_bytes = static_cast<int32_t>(std::max<size_t>(std::min(spec.max_bytes, spec.hard_bytes), 1));
  scan.snapshot = ask_.snapshot();
  scan.since = ask_.since();
  ask_.FillSlice(&scan);
  NodeAnswer answer = co_await ask_.nodes().Scan(share_.node, &args, reply, ask_.terms());
  CO_RETURN_IF_ERROR(ask_.Take(share_, answer, reply));
  Status fits = NoteCovered(std::move(reply->success.covered));
  if (fits.ok()) fits = CheckRows(spec, *reply);
  if (!fits.ok()) {
    ask_.FailGarbled(fits);
    co_return RangeAsk::PartFailed();
  }
  co_return answer;
}

Task<Result<ScanPage>> NodePart::Scan(ScanSpec spec) {
  ScanAnswer reply;
  CO_RETURN_IF_ERROR((co_await Ask(std::move(spec), &reply)).status());
  ScanPage page;
  page.exhausted = reply.success.exhausted;
  if (!page.exhausted) page.examined_to = std::move(reply.success.examined_to);
  page.rows.reserve(reply.row_count);
  RowWalk walk(reply.rows());
  size_t bytes = 0;
  for (RowView from; walk.Next(&from); bytes += from.bytes()) {
    ScanRow& row = page.rows.emplace_back();
    row.key = from.key;
    row.value = from.value;
    row.version = static_cast<Version>(from.version);
    row.expires_at_ms = from.expires_at_ms;
    row.removed = from.removed;
    row.value_bytes = static_cast<uint32_t>(from.value_bytes);
  }
  // The rows stay where they are, unless the frame has more than what is reserved for rows: that is not kept.
  if (page.rows.empty()) co_return page;
  if (reply.frame.capacity() <= Arena::MostAllocated(bytes) + page.rows.size() * kFrameRowBytes) {
    page.bytes.Adopt(std::move(reply.frame));
  } else {
    for (ScanRow& row : page.rows) {
      row.key = page.bytes.Copy(row.key);
      row.value = page.bytes.Copy(row.value);
    }
  }
  co_return page;
}

Task<Result<EncodedPage>> NodePart::ScanEncoded(ScanSpec spec) {
  const size_t max_bytes = spec.max_bytes;
  ScanAnswer reply;
  Result<NodeAnswer> answer = co_await Ask(std::move(spec), &reply);
  CO_RETURN_IF_ERROR(answer.status());
  EncodedPage page;
  RowWalk walk(reply.rows());
  RowView row, last;
  for (size_t bytes = 0; walk.Next(&row); ++page.row_count) {
    bytes += row.bytes();
    if (page.row_count > 0 && bytes > max_bytes) break;  // only a page of one row may have more
    last = row;
    page.rows_bytes = walk.at();
  }
  if (page.rows_bytes > kMaxFrameBytes - kMostOfRest) {
    ask_.FailGarbled(Error(Code::kCorruption, "node {} sent rows of {} bytes", share_.node, page.rows_bytes));
    co_return RangeAsk::PartFailed();
  }
  const bool whole = page.row_count == reply.row_count;
  if (whole && !reply.success.exhausted && !reply.success.examined_to.empty()) {
    page.read_to = std::move(reply.success.examined_to);
  } else if (!whole || (!reply.success.exhausted && page.row_count > 0)) {
    page.read_to = std::string(last.key);
  }
  page.frame = std::move(reply.frame);
  page.rows_begin = reply.rows_begin;
  page.memory = std::move(answer->memory);
  co_return page;
}

Task<Result<RangeAggregates>> NodePart::Aggregate(std::string start, std::string end, ReadPoint) {
  api::Routing_aggregatePartitions_args args;
  api::Routing_aggregatePartitions_result reply;
  args.context = ask_.ContextOfPart();
  args.request.partitions = share_.partitions;
  args.request.range.start_key = std::move(start);
  args.request.range.end_key = std::move(end);
  args.request.range.snapshot = ask_.snapshot();
  const NodeAnswer answer = co_await ask_.nodes().Aggregate(share_.node, &args, &reply, ask_.terms());
  CO_RETURN_IF_ERROR(ask_.Take(share_, answer, &reply));
  if (Status fits = NoteCovered(std::move(reply.success.covered)); !fits.ok()) {
    ask_.FailGarbled(fits);
    co_return RangeAsk::PartFailed();
  }
  RangeAggregates sums;
  sums.count = static_cast<uint64_t>(reply.success.count);
  sums.bytes = static_cast<uint64_t>(reply.success.bytes);
  sums.content_hash = static_cast<uint64_t>(reply.success.content_hash);
  co_return sums;
}

Task<Result<RangeSample>> NodePart::Sample(ScanRange range, size_t keys_per_partition) {
  api::Routing_samplePartitions_args args;
  api::Routing_samplePartitions_result reply;
  args.context = ask_.ContextOfPart();
  args.request.partitions = share_.partitions;
  args.request.range.start_key = range.start;
  args.request.range.end_key = range.end;
  args.request.range.snapshot = ask_.snapshot();
  args.request.keys_per_partition = static_cast<int32_t>(keys_per_partition);
  NodeAnswer answer = co_await ask_.nodes().Sample(share_.node, &args, &reply, ask_.terms());
  CO_RETURN_IF_ERROR(ask_.Take(share_, answer, &reply));
  sample_memory_ = std::move(answer.memory);
  Status fits = NoteCovered(std::move(reply.success.covered));
  RangeSample sample;
  sample.count = static_cast<uint64_t>(reply.success.count);
  for (api::SampledKey& key : reply.success.keys) {
    const bool in_range =
        key.key >= range.start && (range.end.empty() || key.key < range.end) && Holds(HashId(key.key));
    const bool in_order = sample.keys.empty() || sample.keys.back().key < key.key;
    if (fits.ok() && (!in_range || !in_order)) {
      fits = Error(Code::kCorruption, "node {} sent a key that is not in its part of the range", share_.node);
    }
    sample.keys.push_back({std::move(key.key), static_cast<uint64_t>(key.records)});
  }
  if (!fits.ok()) {
    ask_.FailGarbled(fits);
    co_return RangeAsk::PartFailed();
  }
  co_return sample;
}

}  // namespace pando
