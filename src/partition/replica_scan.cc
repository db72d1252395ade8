// Replica: scans.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {
constexpr size_t kReadAheadPages = 8;
// Cost of a leaf, in units of the turn's budget, in addition to its records.
constexpr uint32_t kLeafUnits = 16;

// Estimates how many leaves after this one the scan will read, from what it still wants and from
// what this leaf holds.
size_t LeavesToCome(const ScanSpec& spec, const ScanPage& page, const Node& node, uint32_t page_bytes) {
  const size_t rows_left = spec.max_rows - page.rows.size();
  const size_t by_rows = (rows_left - 1) / std::max(1u, node.count());
  return std::min({kReadAheadPages, by_rows, spec.max_bytes / page_bytes + 1});
}

// Adds a row. Returns true if the page is now full.
bool PushRow(ScanRow row, ScanSpec* spec, ScanPage* page) {
  spec->hard_bytes -= std::min(spec->hard_bytes, row.bytes());
  spec->max_bytes -= std::min(spec->max_bytes, row.key.size() + row.value.size());
  page->rows.push_back(std::move(row));
  return page->rows.size() >= spec->max_rows || spec->max_bytes == 0;
}

}  // namespace

Replica::ScanStep Replica::AddRow(const Node& node, uint32_t slot, int64_t now_ms, ScanSpec* spec, ScanPage* page,
                                  UnreadRow* unread) {
  RecordView r = node.Record(slot);
  if (r.expires_at_ms != 0 && r.expires_at_ms <= now_ms) return ScanStep::kMore;
  ScanRow row;
  row.key = node.Key(slot);
  row.version = r.version;
  row.expires_at_ms = r.expires_at_ms;
  const bool with_value = !spec->keys_only && !spec->sizes_only;
  if (spec->sizes_only) row.value_bytes = r.overflow ? r.value_bytes : static_cast<uint32_t>(r.value.size());
  const size_t value_bytes = !with_value ? 0 : r.overflow ? r.value_bytes : r.value.size();
  if (row.key.size() + value_bytes > spec->hard_bytes) {
    if (!page->rows.empty()) return ScanStep::kOver;
    row.unread_bytes = static_cast<uint32_t>(value_bytes);
    PushRow(std::move(row), spec, page);
    return ScanStep::kOver;
  }
  if (with_value && r.overflow) {
    Frame* value = tree_->FindOverflow(r.overflow_ref);
    if (!value) {
      *unread = {std::move(row), r.overflow_ref, r.value_bytes};
      return ScanStep::kReadValue;
    }
    pool_.CopyOverflow(*value, &row.value);
  } else if (with_value) {
    row.value = r.value;
  }
  return PushRow(std::move(row), spec, page) ? ScanStep::kOver : ScanStep::kMore;
}

// Takes the rows of one leaf in [spec->start, spec->end) and advances spec->start: past the leaf,
// or to the row whose value must be read.
Replica::ScanStep Replica::ScanLeaf(const Node& node, int64_t now_ms, ScanSpec* spec, ScanPage* page,
                                    UnreadRow* unread) {
  bool exact = false;
  for (uint32_t slot = node.LowerBound(spec->start, &exact); slot < node.count(); ++slot) {
    if (!spec->end.empty() && node.Key(slot) >= spec->end) {
      page->exhausted = true;
      return ScanStep::kOver;
    }
    ScanStep step = AddRow(node, slot, now_ms, spec, page, unread);
    if (step == ScanStep::kReadValue) spec->start = unread->row.key;
    if (step != ScanStep::kMore) return step;
  }
  if (!node.has_upper() || (!spec->end.empty() && node.upper() >= spec->end)) {
    page->exhausted = true;
    return ScanStep::kOver;
  }
  spec->start = node.upper();
  return ScanStep::kMore;
}

// The same in descending order: takes rows below spec->end (empty = unbounded) down to spec->start.
Replica::ScanStep Replica::ScanLeafReverse(const Node& node, int64_t now_ms, ScanSpec* spec, ScanPage* page,
                                           UnreadRow* unread) {
  bool exact = false;
  bool whole = spec->end.empty() || (node.has_upper() && spec->end >= node.upper());
  uint32_t slot = whole ? node.count() : node.LowerBound(spec->end, &exact);
  while (slot > 0) {
    --slot;
    if (node.Key(slot) < spec->start) {
      page->exhausted = true;
      return ScanStep::kOver;
    }
    ScanStep step = AddRow(node, slot, now_ms, spec, page, unread);
    if (step == ScanStep::kReadValue) spec->end = unread->row.key + '\0';
    if (step != ScanStep::kMore) return step;
  }
  if (node.lower().empty() || node.lower() <= spec->start) {
    page->exhausted = true;
    return ScanStep::kOver;
  }
  spec->end = node.lower();
  return ScanStep::kMore;
}

Task<Result<ScanPage>> Replica::Scan(ScanSpec spec) {
  ++stats_.scans_total;
  ScanPage page;
  if (spec.start_exclusive) spec.start.push_back('\0');  // the next key after it
  if (spec.end_inclusive) spec.end.push_back('\0');
  if (spec.max_rows == 0 || (!spec.end.empty() && spec.start >= spec.end)) {
    page.exhausted = spec.max_rows != 0;
    co_return page;
  }
  spec.max_bytes = std::max<size_t>(spec.max_bytes, 1);
  TurnSlice slice(pool_.turn());
  if (spec.since != 0) co_return co_await ScanChanges(std::move(spec));
  for (ScanStep step = ScanStep::kMore; step != ScanStep::kOver;) {
    if (!failure_.ok()) co_return Refusal();
    CO_ASSIGN_OR_RETURN(View view, ViewOf(spec.snapshot));
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await FetchLeafIn(view, spec.reverse ? spec.end : spec.start, spec.reverse));
    if (!leaf) co_return SnapshotGone();
    Node node = tree_->NodeOf(leaf.frame());
    // Read ahead only if the scan will continue after this leaf.
    if (size_t leaves = LeavesToCome(spec, page, node, pool_.page_bytes()); leaves > 0) {
      tree_->ReadAhead(view.generation, node.lower(), spec.reverse, leaves, &tasks_);
    }
    UnreadRow unread;
    step = spec.reverse ? ScanLeafReverse(node, view.now_ms, &spec, &page, &unread)
                        : ScanLeaf(node, view.now_ms, &spec, &page, &unread);
    const uint32_t work = kLeafUnits + node.count();
    leaf.Release();
    // The scan's position is spec.start or spec.end, so it can yield here. Leaves full of expired
    // records and long pages of rows must not occupy the reactor.
    if (step == ScanStep::kMore && slice.Spend(work)) co_await Yield(reactor_);
    if (step != ScanStep::kReadValue) continue;
    Status status = co_await ReadOverflow(spec.snapshot, unread.ref, unread.value_bytes, &unread.row.value);
    if (status.code() == Code::kAborted) continue;  // the scan is still at this row
    CO_RETURN_IF_ERROR(status);
    if (spec.reverse) {
      spec.end = unread.row.key;
    } else {
      spec.start = unread.row.key + '\0';
    }
    if (PushRow(std::move(unread.row), &spec, &page)) step = ScanStep::kOver;
  }
  co_return page;
}

// -- changes since an older snapshot

// Collects the rows of one page. An overflow value that is not resident ends the walk. It is then
// read, and the walk continues.
class Replica::ChangeGatherer final : public DiffVisitor {
 public:
  ChangeGatherer(Replica* replica, int64_t now_ms, ScanSpec* spec, ScanPage* page)
      : replica_(*replica), now_ms_(now_ms), spec_(*spec), page_(*page) {}

  bool OnChange(const Node* older, uint32_t older_slot, const Node* newer, uint32_t newer_slot) override {
    const size_t rows = page_.rows.size();
    step = newer ? replica_.AddRow(*newer, newer_slot, now_ms_, &spec_, &page_, &unread) : ScanStep::kMore;
    if (step == ScanStep::kReadValue) {
      spec_.start = unread.row.key;
      return true;
    }
    // The record was removed or has expired, which is the same to the reader.
    if (step == ScanStep::kMore && page_.rows.size() == rows && older) {
      ScanRow removed;
      removed.key = older->Key(older_slot);
      removed.removed = true;
      if (PushRow(std::move(removed), &spec_, &page_)) step = ScanStep::kOver;
    }
    return step == ScanStep::kOver;
  }

  ScanStep step = ScanStep::kMore;
  UnreadRow unread;

 private:
  Replica& replica_;
  const int64_t now_ms_;
  ScanSpec& spec_;
  ScanPage& page_;
};

Task<Result<ScanPage>> Replica::ScanChanges(ScanSpec spec) {
  CHECK(!spec.reverse) << "changes are scanned forwards";
  ScanPage page;
  for (;;) {
    if (!failure_.ok()) co_return Refusal();
    CO_ASSIGN_OR_RETURN(View older, ViewOf(spec.since));
    CO_ASSIGN_OR_RETURN(View newer, ViewOf(spec.snapshot));
    if (newer.generation != 0 && newer.generation < older.generation) {
      co_return Error(Code::kInvalidArgument, "the snapshot to compare with is younger than the one to read");
    }
    ChangeGatherer gatherer(this, newer.now_ms, &spec, &page);
    CO_RETURN_IF_ERROR(co_await tree_->Diff(older.generation, newer.generation, spec.start, spec.end, &gatherer));
    if (gatherer.step == ScanStep::kOver) co_return page;
    if (gatherer.step == ScanStep::kMore) {
      page.exhausted = true;
      co_return page;
    }
    UnreadRow unread = std::move(gatherer.unread);
    Status status = co_await ReadOverflow(spec.snapshot, unread.ref, unread.value_bytes, &unread.row.value);
    if (status.code() == Code::kAborted) continue;  // the walk is still at this row
    CO_RETURN_IF_ERROR(status);
    spec.start = unread.row.key + '\0';
    if (PushRow(std::move(unread.row), &spec, &page)) co_return page;
  }
}

}  // namespace pando
