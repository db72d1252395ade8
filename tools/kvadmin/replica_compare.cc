#include "tools/kvadmin/replica_compare.h"

#include <algorithm>

#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {

constexpr int64_t kFirstPauseMs = 1, kMaxPauseMs = 20;
constexpr size_t kMaxSeen = 4096;  // answers of one replica that may still meet one of the other
constexpr int64_t kFewRecords = 16;
constexpr int32_t kShownRecords = 64;

bool SameRecord(const api::StoredRecord& a, const api::StoredRecord& b) {
  return a.key == b.key && a.version == b.version && a.expires_at_ms == b.expires_at_ms &&
         a.value_bytes == b.value_bytes && a.value_hash == b.value_hash;
}

}  // namespace

void FindFirstDifference(Difference* d) {
  const std::vector<api::StoredRecord>& a = d->at.first.records;
  const std::vector<api::StoredRecord>& b = d->at.second.records;
  size_t i = 0;
  while (i < a.size() && i < b.size() && SameRecord(a[i], b[i])) ++i;
  const api::StoredRecord* first = i < a.size() ? &a[i] : nullptr;
  const api::StoredRecord* second = i < b.size() ? &b[i] : nullptr;
  if (first == nullptr && second == nullptr) return;
  d->key = first == nullptr ? second->key : second == nullptr ? first->key : std::min(first->key, second->key);
  d->first = first != nullptr && first->key == d->key ? first : nullptr;
  d->second = second != nullptr && second->key == d->key ? second : nullptr;
}

Result<EqualPoint> ReplicaComparer::Compare(const KeyRange& range, bool middle, int32_t records) {
  api::AggregateReplicaRequest request;
  request.partition = static_cast<int32_t>(partition_);
  request.start_key = range.start;
  request.end_key = range.end;
  request.middle = middle;
  request.records = records;
  std::map<int64_t, api::AggregateReplicaReply> seen[2];
  for (int64_t pause_ms = kFirstPauseMs;; pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
    for (int i = 0; i < 2; ++i) {
      ++requests_;
      ASSIGN_OR_RETURN(api::AggregateReplicaReply reply, ask_[i](request));
      if (reply.moved) continue;
      const auto other = seen[1 - i].find(reply.lsn);
      if (other == seen[1 - i].end()) {
        if (seen[i].size() == kMaxSeen) seen[i].erase(seen[i].begin());
        seen[i][reply.lsn] = std::move(reply);
        continue;
      }
      return i == 0 ? EqualPoint{std::move(reply), std::move(other->second)}
                    : EqualPoint{std::move(other->second), std::move(reply)};
    }
    if (Clock::now() >= until_) {
      const bool any = !seen[0].empty() && !seen[1].empty();
      return Error(
          Code::kDeadline,
          "they were not seen at the same LSN in time{}; pause the clients that write, or give it more time "
          "(--timeout-s)",
          any ? fmt::format(" (the last were {} and {})", seen[0].rbegin()->first, seen[1].rbegin()->first) : "");
    }
    if (!tools::Interrupts::Sleep(pause_ms)) return tools::Interrupts::Check();
  }
}

Result<std::optional<Difference>> ReplicaComparer::Locate() {
  Difference d;
  while (true) {
    ASSIGN_OR_RETURN(const EqualPoint whole, Compare(d.range, /*middle=*/true));
    if (whole.same_content()) return std::optional<Difference>();
    const api::AggregateReplicaReply& more = whole.first.count >= whole.second.count ? whole.first : whole.second;
    if (more.count <= kFewRecords || !more.__isset.middle_key) break;
    const KeyRange left{d.range.start, more.middle_key};
    ASSIGN_OR_RETURN(const EqualPoint half, Compare(left));
    d.range = half.same_content() ? KeyRange{more.middle_key, d.range.end} : left;
  }
  ASSIGN_OR_RETURN(d.at, Compare(d.range, /*middle=*/false, kShownRecords));
  std::optional<Difference> found(std::move(d));
  FindFirstDifference(&*found);
  return Result<std::optional<Difference>>(std::move(found));
}

}  // namespace pando::admin
