// Replica: scans.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {
constexpr size_t kReadAheadPages = 8;
}  // namespace

// Adds the record in `slot` to the page. False when its overflow value must be fetched first (*overflow).
bool Replica::AddRow(const Node& node, uint32_t slot, const ScanSpec& spec, int64_t now_ms, ScanPage* page,
                     size_t* bytes, RecordView* overflow) {
  RecordView r = node.Record(slot);
  if (r.expires_at_ms != 0 && r.expires_at_ms <= now_ms) return true;
  ScanRow row;
  if (!spec.keys_only) {
    if (r.overflow) {
      Frame* value = tree_->FindOverflow(r.overflow_ref);
      if (!value) {
        *overflow = r;
        return false;
      }
      pool_.CopyOverflow(*value, &row.value);
    } else {
      row.value = r.value;
    }
  }
  row.key = node.Key(slot);
  row.version = r.version;
  row.expires_at_ms = r.expires_at_ms;
  *bytes += row.key.size() + row.value.size();
  page->rows.push_back(std::move(row));
  return true;
}

// Takes the rows of one leaf in [spec->start, spec->end) and moves spec->start on. True when the scan is over.
Task<Result<bool>> Replica::ScanLeaf(ScanSpec* spec, PagePin pin, ScanPage* page) {
  PagePin value_pin;
  size_t bytes = 0;
  RecordView overflow;
  {
    Node node = tree_->NodeOf(pin.frame());
    int64_t now_ms = ScanTimeMs(*spec);
    bool exact = false;
    for (uint32_t slot = node.LowerBound(spec->start, &exact); slot < node.count(); ++slot) {
      if (!spec->end.empty() && node.Key(slot) >= spec->end) {
        page->exhausted = true;
        co_return true;
      }
      size_t before = page->rows.size();
      if (!AddRow(node, slot, *spec, now_ms, page, &bytes, &overflow)) {
        spec->start = node.Key(slot);
        break;
      }
      if (page->rows.size() == before) continue;
      spec->max_bytes -= std::min(spec->max_bytes, bytes);
      bytes = 0;
      if (page->rows.size() >= spec->max_rows || spec->max_bytes == 0) co_return true;
    }
    if (!overflow.overflow) {
      if (!node.has_upper() || (!spec->end.empty() && node.upper() >= spec->end)) {
        page->exhausted = true;
        co_return true;
      }
      spec->start = node.upper();
      co_return false;
    }
  }
  pin = PagePin();
  Result<PagePin> value = co_await tree_->FetchOverflow(overflow.overflow_ref, overflow.value_bytes);
  if (!value.ok() && value.code() != Code::kAborted) co_return value.TakeStatus();
  // The value may leave memory again before the leaf is looked at: then it is fetched again.
  co_return false;
}

// The same from the end: takes rows below spec->end (empty = none above) down to spec->start.
Task<Result<bool>> Replica::ScanLeafReverse(ScanSpec* spec, PagePin pin, ScanPage* page) {
  size_t bytes = 0;
  RecordView overflow;
  {
    Node node = tree_->NodeOf(pin.frame());
    int64_t now_ms = ScanTimeMs(*spec);
    bool exact = false;
    bool whole = spec->end.empty() || (node.has_upper() && spec->end >= node.upper());
    uint32_t slot = whole ? node.count() : node.LowerBound(spec->end, &exact);
    while (slot > 0) {
      --slot;
      std::string key = node.Key(slot);
      if (key < spec->start) {
        page->exhausted = true;
        co_return true;
      }
      size_t before = page->rows.size();
      if (!AddRow(node, slot, *spec, now_ms, page, &bytes, &overflow)) {
        spec->end = key + '\0';
        break;
      }
      if (page->rows.size() == before) continue;
      spec->max_bytes -= std::min(spec->max_bytes, bytes);
      bytes = 0;
      if (page->rows.size() >= spec->max_rows || spec->max_bytes == 0) co_return true;
    }
    if (!overflow.overflow) {
      if (node.lower().empty() || node.lower() <= spec->start) {
        page->exhausted = true;
        co_return true;
      }
      spec->end = node.lower();
      co_return false;
    }
  }
  pin = PagePin();
  Result<PagePin> value = co_await tree_->FetchOverflow(overflow.overflow_ref, overflow.value_bytes);
  if (!value.ok() && value.code() != Code::kAborted) co_return value.TakeStatus();
  co_return false;
}

Task<Result<PagePin>> Replica::FetchScanLeaf(const ScanSpec& spec) {
  if (spec.snapshot == 0) {
    if (spec.reverse) co_return co_await tree_->FetchLeafBefore(spec.end);
    co_return co_await tree_->FetchLeaf(spec.start);
  }
  Result<PagePin> pin = co_await tree_->FetchSnapshotLeaf(spec.snapshot, spec.reverse ? spec.end : spec.start, spec.reverse);
  if (pin.ok() && !*pin) {
    co_return Error(Code::kNotFound, "partition {}: snapshot {} has expired or was released", id(), spec.snapshot);
  }
  co_return pin;
}

// What has expired is left out: as of now, or as of the snapshot's last write.
int64_t Replica::ScanTimeMs(const ScanSpec& spec) const {
  auto snapshot = snapshots_.find(spec.snapshot);
  return snapshot == snapshots_.end() ? reactor_.WallMs() : VersionMs(snapshot->second.version);
}

Task<Result<ScanPage>> Replica::Scan(ScanSpec spec) {
  ++stats_.scans_total;
  ScanPage page;
  if (spec.start_exclusive) spec.start.push_back('\0');  // the least key behind it
  if (spec.end_inclusive) spec.end.push_back('\0');
  if (spec.max_rows == 0 || (!spec.end.empty() && spec.start >= spec.end)) {
    page.exhausted = spec.max_rows != 0;
    co_return page;
  }
  spec.max_bytes = std::max<size_t>(spec.max_bytes, 1);
  for (bool over = false; !over;) {
    if (!failure_.ok()) co_return Refusal();
    Result<PagePin> leaf = co_await FetchScanLeaf(spec);
    if (!leaf.ok()) co_return leaf.TakeStatus();
    Node node = tree_->NodeOf(leaf->frame());
    // Read ahead only when the scan will go on behind this leaf.
    if (spec.snapshot == 0 && spec.max_rows - page.rows.size() > node.count()) {
      tree_->ReadAhead(node.lower(), spec.reverse, kReadAheadPages, &tasks_);
    }
    Result<bool> step = spec.reverse ? co_await ScanLeafReverse(&spec, *std::move(leaf), &page)
                                     : co_await ScanLeaf(&spec, *std::move(leaf), &page);
    if (!step.ok()) co_return step.TakeStatus();
    over = *step;
  }
  co_return page;
}

}  // namespace pando
