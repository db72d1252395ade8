#include "src/partition/split_feed.h"

#include <algorithm>
#include <utility>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/base/limits.h"
#include "src/model/key_space.h"
#include "src/partition/lane.h"

namespace pando {

namespace {

// What one write of the feed takes at most: little enough for a small pool, and for other writes to come between.
constexpr size_t kOpsPerWrite = 32;
constexpr size_t kBytesPerWrite = 256u << 10;
// So many are under way at once, so that the feed does not wait for each commit; fewer, if they are long.
constexpr size_t kWritesAtOnce = 8, kBytesAtOnce = 1u << 20;
constexpr size_t kPageRows = 512, kPageBytes = 256u << 10;

Status ClaimedByAnother() { return Error(Code::kAborted, "another feed has claimed the halves of the partition"); }

bool IsLane(std::string_view stored) { return stored.starts_with(kLaneKeys.prefix()); }

// The lane for a half. One of several results would answer for operations of the other half. A lane without results
// loses its digest, too: that of the whole write would refuse a part of it, and say that it was not applied.
Result<std::string> LaneForHalf(std::string_view value) {
  ASSIGN_OR_RETURN(const Lane lane, DecodeLane(value));
  if (lane.results.size() == 1) return std::string(value);
  return LaneEncoder(lane.sequence, lane.version, std::nullopt).Finish(value.size());
}

// The rows behind `after` in a snapshot. `since`: only what has changed since that one; 0: all.
Task<Result<ScanPage>> ReadPage(RangeReads* whole, std::string after, SnapshotId snapshot, SnapshotId since) {
  ScanSpec spec;
  spec.start_exclusive = !after.empty();
  spec.start = std::move(after);
  spec.snapshot = snapshot;
  spec.since = since;
  spec.max_rows = kPageRows;
  spec.max_bytes = kPageBytes;
  Result<ScanPage> page = co_await whole->Scan(std::move(spec));
  CHECK(!page.ok() || page->exhausted || !page->rows.empty())
      << "a page of a scan has no rows, and is not the last one";
  co_return page;
}

}  // namespace

SplitFeed::SplitFeed(Reactor& reactor, RangeReads* whole, std::array<Half, 2> halves, uint64_t bytes_per_s)
    : reactor_(reactor), whole_(*whole), pace_(bytes_per_s), room_(reactor) {
  for (size_t i = 0; i < halves.size(); ++i) halves_[i].half = halves[i];
}

std::string SplitFeed::ClaimKey() { return kLaneKeys.Stored(""); }

std::string SplitFeed::ClaimValue(std::string_view claim, Version told) {
  std::string value;
  ByteWriter(&value).Fixed(told);
  value += claim;
  return value;
}

Version SplitFeed::ToldBefore(std::string_view value) {
  return value.size() < sizeof(Version) ? 0 : LoadLE<Version>(value.data());
}

bool SplitFeed::Wants(const HalfState& half, std::string_view key) const {
  if (key == ClaimKey()) return false;
  if (IsLane(key)) return true;
  const SplitKey split = SplitStoredKey(key, /*namespaced=*/true);
  const uint64_t hash = HashId(split.key, split.namespace_id);
  return half.half.first_hash <= hash && hash <= half.half.last_hash;
}

Task<Status> SplitFeed::Claim(std::string claim) {
  claim_ = claim;
  for (HalfState& half : halves_) {
    half.ops.clear();
    half.bytes = 0;
    WriteOp op;
    op.key = ClaimKey();
    op.value = ClaimValue(claim, /*told=*/0);
    std::vector<WriteOp> ops;
    ops.push_back(std::move(op));
    WriteOptions options;
    options.of_split = true;
    CO_ASSIGN_OR_RETURN(const std::vector<OpResult> results,
                        co_await half.half.partition->Write(std::move(ops), options));
    half.claim = results.front().version;
  }
  co_return Status();
}

WriteOp SplitFeed::IfClaimed(const HalfState& half) const {
  WriteOp feed;
  feed.op = RecordOp::kFeed;
  feed.key = ClaimKey();
  feed.condition.version = half.claim;
  feed.current_value_unwanted = true;
  return feed;
}

// Writes what is to be written to the half. An error is that of any write that has ended. No two writes of one pass
// have the same key, so their order does not matter.
Task<Status> SplitFeed::Flush(HalfState* half) {
  CHECK_NE(half->claim, 0u) << "SF1: a half is fed that was not claimed";
  if (half->ops.empty()) co_return Status();
  std::vector<WriteOp> ops;
  ops.reserve(half->ops.size() + 1);
  ops.push_back(IfClaimed(*half));
  for (WriteOp& op : half->ops) ops.push_back(std::move(op));
  WriteOptions options;
  options.of_split = true;
  options.seen_version = half->newest;
  const size_t bytes = std::exchange(half->bytes, 0);
  half->ops.clear();
  half->newest = 0;
  const auto has_room = [&] { return writes_.running() < kWritesAtOnce && bytes_in_flight_ + bytes <= kBytesAtOnce; };
  while (writes_.running() > 0 && !has_room()) co_await room_.Wait();
  if (!failure_.ok()) co_return failure_;
  bytes_in_flight_ += bytes;
  writes_.Spawn(WriteOne(half->half.partition, std::move(ops), options, bytes));
  co_return failure_;
}

// SF1.
Task<void> SplitFeed::WriteOne(PartitionRecords* half, std::vector<WriteOp> ops, WriteOptions options, size_t bytes) {
  const Result<std::vector<OpResult>> results = co_await half->Write(std::move(ops), options);
  Status status = results.status();
  if (status.ok() && results->front().outcome != OpOutcome::kApplied) status = ClaimedByAnother();
  if (failure_.ok()) failure_ = std::move(status);
  pace_.Took(bytes, reactor_.NowNs());
  const Nanos wait_ns = pace_.due_ns() - reactor_.NowNs();
  if (wait_ns > 0) co_await Sleep(reactor_, wait_ns);
  bytes_in_flight_ -= bytes;
  room_.NotifyAll();
}

// The end of a pass. After an error, what was not sent is not.
Task<Status> SplitFeed::EndPass(Status status) {
  for (HalfState& half : halves_) {
    if (status.ok()) status = co_await Flush(&half);
    half.ops.clear();
    half.bytes = 0;
    half.newest = 0;
  }
  co_await writes_.Drain();
  const Status failure = std::exchange(failure_, Status());
  co_return status.ok() ? failure : status;
}

Task<Status> SplitFeed::Add(HalfState* half, WriteOp op) {
  const size_t bytes = op.key.size() + op.value.size();
  const bool full = half->ops.size() >= kOpsPerWrite || half->bytes + bytes > kBytesPerWrite;
  if (full) CO_RETURN_IF_ERROR(co_await Flush(half));
  half->newest = std::max(half->newest, op.copied);
  half->ops.push_back(std::move(op));
  half->bytes += bytes;
  co_return Status();
}

Task<Status> SplitFeed::Copy(HalfState* half, const ScanRow* row) {
  WriteOp op;
  op.key = row->key;
  op.value = row->value;
  if (IsLane(row->key)) {
    CO_ASSIGN_OR_RETURN(op.value, LaneForHalf(row->value));
  }
  op.copied = row->version;
  op.ttl_mode = row->expires_at_ms == 0 ? TtlMode::kClear : TtlMode::kSet;
  op.expires_at_ms = row->expires_at_ms;
  ++stats_.copied_records;
  stats_.copied_bytes += op.key.size() + op.value.size();
  co_return co_await Add(half, std::move(op));
}

Task<Status> SplitFeed::RemoveFrom(HalfState* half, std::string key) {
  WriteOp op;
  op.op = RecordOp::kRemove;
  op.key = std::move(key);
  ++stats_.removed_records;
  co_return co_await Add(half, std::move(op));
}

// Makes the half have `rows`, those of the whole after `after` and up to `last` (empty: to the end), as far as it wants
// them, and nothing else there.
Task<Status> SplitFeed::Compare(HalfState* half, const std::vector<ScanRow>* rows, std::string after,
                                std::string last) {
  auto wanted = rows->begin();
  const auto skip = [&] {
    while (wanted != rows->end() && !Wants(*half, wanted->key)) ++wanted;
  };
  for (bool exhausted = false; !exhausted;) {
    ScanSpec spec;
    spec.start = after;
    spec.start_exclusive = !after.empty();
    spec.end = last;
    spec.end_inclusive = !last.empty();
    spec.keys_only = true;
    spec.max_rows = kPageRows;
    CO_ASSIGN_OR_RETURN(const ScanPage page, co_await half->half.partition->Scan(std::move(spec)));
    exhausted = page.exhausted;
    for (const ScanRow& held : page.rows) {
      if (held.key == ClaimKey()) continue;
      for (skip(); wanted != rows->end() && wanted->key < held.key; ++wanted, skip()) {
        CO_RETURN_IF_ERROR(co_await Copy(half, &*wanted));
      }
      if (wanted == rows->end() || wanted->key != held.key) {
        CO_RETURN_IF_ERROR(co_await RemoveFrom(half, std::string(held.key)));
        continue;
      }
      const bool same = wanted->version == held.version && wanted->expires_at_ms == held.expires_at_ms;
      if (!same) CO_RETURN_IF_ERROR(co_await Copy(half, &*wanted));
      ++wanted;
    }
    if (!page.rows.empty()) after = page.rows.back().key;
  }
  for (skip(); wanted != rows->end(); ++wanted, skip()) CO_RETURN_IF_ERROR(co_await Copy(half, &*wanted));
  co_return Status();
}

Task<Status> SplitFeed::CopyAll(SnapshotId snapshot) {
  Status compared = co_await CompareAll(snapshot);
  co_return co_await EndPass(std::move(compared));
}

Task<Status> SplitFeed::CompareAll(SnapshotId snapshot) {
  std::string after;
  for (bool exhausted = false; !exhausted;) {
    Task<Result<ScanPage>> read = ReadPage(&whole_, after, snapshot, /*since=*/0);
    CO_ASSIGN_OR_RETURN(const ScanPage page, co_await read);
    exhausted = page.exhausted;
    stats_.examined_records += page.rows.size();
    const std::string last(exhausted ? std::string_view() : page.rows.back().key);
    for (HalfState& half : halves_) CO_RETURN_IF_ERROR(co_await Compare(&half, &page.rows, after, last));
    after = last;
  }
  co_return Status();
}

Task<Status> SplitFeed::CopyChanges(SnapshotId since, SnapshotId snapshot) {
  Status compared = co_await CompareSince(since, snapshot);
  co_return co_await EndPass(std::move(compared));
}

Task<Status> SplitFeed::CompareSince(SnapshotId since, SnapshotId snapshot) {
  std::string after;
  for (bool exhausted = false; !exhausted;) {
    Task<Result<ScanPage>> read = ReadPage(&whole_, after, snapshot, since);
    CO_ASSIGN_OR_RETURN(const ScanPage page, co_await read);
    exhausted = page.exhausted;
    stats_.examined_records += page.rows.size();
    for (const ScanRow& row : page.rows) {
      for (HalfState& half : halves_) {
        if (!Wants(half, row.key)) continue;
        Task<Status> change = row.removed ? RemoveFrom(&half, std::string(row.key)) : Copy(&half, &row);
        CO_RETURN_IF_ERROR(co_await change);
      }
    }
    if (!page.rows.empty()) after = page.rows.back().key;
  }
  co_return Status();
}

// The claim is written once more, by a writer that has seen that version.
Task<Status> SplitFeed::Seal(Version newest, Version told) {
  for (HalfState& half : halves_) {
    CHECK(half.ops.empty()) << "a half is sealed before all was written to it";
    std::vector<WriteOp> ops;
    ops.push_back(IfClaimed(half));
    WriteOp& claim = ops.emplace_back();
    claim.key = ClaimKey();
    claim.value = ClaimValue(claim_, told);
    WriteOptions options;
    options.of_split = true;
    options.seen_version = newest;
    CO_ASSIGN_OR_RETURN(const std::vector<OpResult> results,
                        co_await half.half.partition->Write(std::move(ops), options));
    if (results.front().outcome != OpOutcome::kApplied) co_return ClaimedByAnother();
    half.claim = results.back().version;
    if (half.claim > newest) continue;
    co_return Error(Code::kUnavailable, "a half is behind the clock of its partition; set the clocks of the nodes");
  }
  co_return Status();
}

// Lanes are not counted: both halves have them, and not all of them as the whole does.
Task<Result<bool>> SplitFeed::CheckSums(SnapshotId snapshot, Version version) {
  std::string end(kLaneKeys.prefix());
  CO_ASSIGN_OR_RETURN(const RangeAggregates whole, co_await whole_.Aggregate("", end, snapshot));
  RangeAggregates sum;
  for (const HalfState& half : halves_) {
    const ReadPoint at(kNewest, VersionMs(version));
    CO_ASSIGN_OR_RETURN(const RangeAggregates part, co_await half.half.partition->Aggregate("", end, at));
    sum.Add(part);
  }
  co_return sum == whole;
}

}  // namespace pando
