#include "src/node/namespaced_partition.h"

#include <algorithm>

namespace pando {

Task<Result<std::vector<OpResult>>> NamespacedPartition::Write(std::vector<WriteOp> ops, WriteOptions options) {
  for (WriteOp& op : ops) {
    if (op.op == RecordOp::kOnce) {
      kLaneKeys.Store(&op.key);
    } else {
      keys_.Store(&op.key);
    }
  }
  return target_.Write(std::move(ops), options);
}

Task<Result<ScanPage>> NamespacedPartition::Scan(ScanSpec spec) {
  // A first row that fits without its namespace must fit with it, or it would never come with its value.
  spec.hard_bytes += std::min(SIZE_MAX - spec.hard_bytes, keys_.prefix().size());
  keys_.Store(&spec.start);
  if (spec.end.empty()) spec.end_inclusive = false;
  spec.end = keys_.StoredEnd(spec.end);
  Task<Result<ScanPage>> scan = target_.Scan(std::move(spec));
  Result<ScanPage> page = co_await scan;
  if (!page.ok()) co_return page;
  for (ScanRow& row : page->rows) row.key = keys_.KeyOf(row.key);
  if (!page->examined_to.empty()) keys_.Restore(&page->examined_to);
  co_return page;
}

Task<Result<RangeAggregates>> NamespacedPartition::Aggregate(std::string start, std::string end, ReadPoint at) {
  keys_.Store(&start);
  Task<Result<RangeAggregates>> aggregate = target_.Aggregate(std::move(start), keys_.StoredEnd(end), at);
  Result<RangeAggregates> sums = co_await aggregate;
  if (sums.ok()) sums->bytes -= sums->count * keys_.prefix().size();
  co_return sums;
}

Task<Result<std::vector<std::string>>> NamespacedPartition::KeysAtRanks(std::string start, std::string end,
                                                                        std::vector<uint64_t> ranks,
                                                                        SnapshotId snapshot) {
  keys_.Store(&start);
  auto call = target_.KeysAtRanks(std::move(start), keys_.StoredEnd(end), std::move(ranks), snapshot);
  Result<std::vector<std::string>> found = co_await call;
  if (!found.ok()) co_return found;
  for (std::string& key : *found) keys_.Restore(&key);
  co_return found;
}

Task<Result<ChangePage>> NamespacedPartition::Changes(Version after, std::string prefix, size_t max_changes,
                                                      size_t max_bytes) {
  keys_.Store(&prefix);
  Task<Result<ChangePage>> call = target_.Changes(after, std::move(prefix), max_changes, max_bytes);
  Result<ChangePage> page = co_await call;
  if (!page.ok()) co_return page;
  for (Change& change : page->changes) keys_.Restore(&change.key);
  co_return page;
}

}  // namespace pando
