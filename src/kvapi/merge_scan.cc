#include "src/kvapi/merge_scan.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace pando {

namespace {

// The assumed row size when bytes are divided among partitions. Larger rows only cause a second
// request.
constexpr size_t kTypicalRowBytes = 4096;
// The shares of all partitions together, with their margins, are limited to this multiple of the
// page.
constexpr size_t kMaxSharesPerPage = 3;
// The overhead of a row beyond its bytes while it is held: in a vector that grows by doubling, and in a frame.
constexpr size_t kHeldRowBytes = 2 * sizeof(ScanRow) + kFrameRowBytes;

// One scan reserves at most 1/32 of the request memory, unless its page is already the shortest.
constexpr size_t kScansSharingMemory = 32;
// A scan's page never becomes shorter than this when memory is short.
constexpr size_t kMinScanBytes = 64u << 10, kMinScanRows = 64;
// A page with a small row limit reserves at most this much per row.
constexpr size_t kGenerousRowBytes = 4u << 10;
// The state that is kept for each partition during a scan.
constexpr size_t kSourceBytes = 384;

class Merger {
 public:
  Merger(const std::vector<MergeSource>& from, MergeScanSpec spec) : spec_(std::move(spec)) {
    size_t all = 0, filtered = 0;
    for (const MergeSource& source : from) {
      all += source.partitions;
      filtered += source.filtered ? 1 : 0;
    }
    sources_.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) {
      Source& s = sources_[i];
      s.reads = from[i].reads;
      const size_t own = from[i].partitions;
      s.start = spec_.range.start;
      s.start_exclusive = spec_.range.start_exclusive;
      s.end = spec_.range.end;
      s.ask_rows = FirstShare(spec_.max_rows, all, 1, own);
      s.ask_bytes = FirstShare(spec_.max_bytes, all, kTypicalRowBytes, own);
      s.hard_bytes = spec_.held_bytes / all * own;
      s.filtered = from[i].filtered;
      s.ask_examined = s.filtered ? std::max<size_t>(1, spec_.max_examined / filtered) : SIZE_MAX;
    }
  }

  Task<Result<ScanPage>> Run() {
    {
      TaskGroup fetches;
      for (size_t i = 0; i < std::min(kFanOutCalls, sources_.size()); ++i) fetches.Spawn(FetchFirst());
      // The merge cannot start before the first rows of every source are known.
      co_await fetches.Drain();
    }
    if (!failure_.ok()) co_return failure_;
    for (Source& s : sources_) {
      if (!s.Dry()) heap_.push_back(&s);
    }
    auto later = [this](const Source* a, const Source* b) { return Before(b->Position(), a->Position()); };
    std::make_heap(heap_.begin(), heap_.end(), later);

    size_t bytes = 0;
    while (!heap_.empty() && out_.rows.size() < spec_.max_rows) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      Source* s = heap_.back();
      if (!s->HasRow()) {  // all rows up to here are in the page
        if (examined_ >= spec_.max_examined || !MayFetchMore()) {
          out_.examined_to = s->page.examined_to;
          break;
        }
        std::string key = std::move(s->page.examined_to);
        co_await GoOnAfter(s, std::move(key));
        if (!failure_.ok()) co_return failure_;
        PutBack(s, later);
        continue;
      }
      const size_t row_bytes = s->Front().bytes() + s->Front().unread_bytes;
      if (!out_.rows.empty() && bytes + row_bytes > spec_.max_bytes) break;
      if (s->Front().unread_bytes > 0) {
        if (!MakeRoom(s, row_bytes, out_.rows.empty())) {
          if (out_.rows.empty()) co_return NoMemory(row_bytes);
          break;  // the next page begins with this row
        }
        co_await Fetch(s);  // the row's turn has come: read its value
        if (!failure_.ok()) co_return failure_;
      } else {
        bytes += row_bytes;
        out_.rows.push_back(s->page.rows[s->next++]);
        if (s->Dry() && !s->page.exhausted) {
          // No row after this one may be returned until the next row of this source is known.
          if (out_.rows.size() == spec_.max_rows || bytes >= spec_.max_bytes || !MayFetchMore()) break;
          s->ask_rows *= 2;
          s->ask_bytes *= 2;
          co_await GoOnAfter(s, std::string(out_.rows.back().key));
          if (!failure_.ok()) co_return failure_;
        }
      }
      PutBack(s, later);
    }
    out_.exhausted =
        std::all_of(sources_.begin(), sources_.end(), [](const Source& s) { return s.Dry() && s.page.exhausted; });
    for (Source& s : sources_) out_.bytes.Adopt(std::move(s.page.bytes));
    co_return std::move(out_);
  }

 private:
  struct Source {
    RangeReads* reads = nullptr;
    std::string start, end;
    bool start_exclusive = false, end_inclusive = false;
    bool filtered = false;
    size_t ask_rows = 0, ask_bytes = 0, hard_bytes = 0, ask_examined = 0;
    ScanPage page;
    size_t next = 0;
    bool HasRow() const { return next < page.rows.size(); }
    // Nothing is known of it that has not been taken.
    bool Dry() const { return !HasRow() && page.examined_to.empty(); }
    const ScanRow& Front() const { return page.rows[next]; }
    // The key of its next row, or up to where it has none.
    std::string_view Position() const { return HasRow() ? Front().key : page.examined_to; }
  };

  bool Before(std::string_view a, std::string_view b) const { return spec_.range.reverse ? b < a : a < b; }

  // Puts the source that was popped back into the heap, unless nothing is left of it.
  template <typename Later>
  void PutBack(Source* s, Later later) {
    if (s->Dry()) {
      heap_.pop_back();
    } else {
      std::push_heap(heap_.begin(), heap_.end(), later);
    }
  }

  // Whether there is memory for another page of a source: for its rows, and for their arena, because CostOfScan counts
  // one for each source. Without it, the page ends here.
  bool MayFetchMore() { return held_bytes_ < spec_.held_bytes && TakeArena(); }
  bool TakeArena() { return spec_.memory == nullptr || spec_.memory->TryGrow(Arena::kLeastBlockBytes); }

  // Fetches more rows of the source after this key, but no more than the page can still take.
  Task<void> GoOnAfter(Source* s, std::string key) {
    if (spec_.range.reverse) {
      s->end = std::move(key);
      s->end_inclusive = false;
    } else {
      s->start = std::move(key);
      s->start_exclusive = true;
    }
    s->ask_rows = std::min(s->ask_rows, spec_.max_rows - out_.rows.size());
    s->ask_bytes = std::min(s->ask_bytes, spec_.max_bytes);
    s->hard_bytes = spec_.held_bytes - std::min(spec_.held_bytes, held_bytes_);
    return Fetch(s);
  }

  // Prepares the source to fetch its front row again, with its value. Returns false if there is no
  // memory for it. The first row of the page may exceed held_bytes, because every page must have a
  // row.
  bool MakeRoom(Source* s, size_t row_bytes, bool first) {
    if (!TakeArena()) return false;
    size_t left = spec_.held_bytes - std::min(spec_.held_bytes, held_bytes_);
    if (left < row_bytes) {
      if (!first) return false;
      // The row exists twice: as fetched, and as encoded.
      if (spec_.memory != nullptr && !spec_.memory->TryGrow(2 * row_bytes)) return false;
      spec_.held_bytes += row_bytes;
      left += row_bytes;
    }
    const std::string_view key = s->Front().key;
    if (spec_.range.reverse) {
      s->end = key;
      s->end_inclusive = true;
    } else {
      s->start = key;
      s->start_exclusive = false;
    }
    s->hard_bytes = left;
    return true;
  }

  static Status NoMemory(size_t row_bytes) {
    return Error(Code::kOverloaded, "the node has no free memory for a row of {} bytes; try again", row_bytes);
  }

  Task<void> FetchFirst() {
    while (next_source_ < sources_.size() && failure_.ok()) co_await Fetch(&sources_[next_source_++]);
  }

  Task<void> Fetch(Source* s) {
    ScanSpec ask = spec_.ForSource();
    ask.start = s->start;
    ask.start_exclusive = s->start_exclusive;
    ask.end = s->end;
    ask.end_inclusive = s->end_inclusive;
    ask.max_rows = s->ask_rows;
    ask.max_bytes = s->ask_bytes;
    ask.hard_bytes = s->hard_bytes;
    if (s->filtered) {
      ask.max_examined = s->ask_examined;
    } else {
      ask.slice = {};
    }
    Result<ScanPage> page = co_await s->reads->Scan(std::move(ask));
    if (!page.ok()) {
      failure_ = page.TakeStatus();
      co_return;
    }
    out_.bytes.Adopt(std::move(s->page.bytes));  // rows in the page lie there
    s->page = *std::move(page);
    s->next = 0;
    examined_ += s->page.examined;
    if (s->page.exhausted) s->page.examined_to.clear();
    for (const ScanRow& row : s->page.rows) held_bytes_ += row.bytes();
    // Rows that came without their values may exceed what was reserved.
    if (held_bytes_ > spec_.held_bytes && spec_.memory != nullptr) {
      const size_t more = held_bytes_ - spec_.held_bytes;
      if (!spec_.memory->TryGrow(2 * more)) failure_ = NoMemory(more);
      spec_.held_bytes = held_bytes_;
    }
    CHECK(!s->Dry() || s->page.exhausted) << "a source returned an empty page that is not the last";
  }

  static_assert(sizeof(Source) <= kSourceBytes);
  MergeScanSpec spec_;
  std::vector<Source> sources_;
  std::vector<Source*> heap_;
  ScanPage out_;
  size_t next_source_ = 0;  // the next one for FetchFirst
  size_t held_bytes_ = 0;   // keys and values that the sources have returned
  size_t examined_ = 0;     // records, by filtered sources
  Status failure_;
};

struct AggregateState {
  RangeAggregates total;
  size_t next = 0;  // the next source to call
  Status failure;
};

Task<void> AggregateSome(const std::vector<MergeSource>* sources, const ScanRange* range, SnapshotId snapshot,
                         AggregateState* state) {
  while (state->next < sources->size() && state->failure.ok()) {
    RangeReads* reads = (*sources)[state->next++].reads;
    Result<RangeAggregates> part = co_await reads->Aggregate(range->start, range->end, snapshot);
    if (part.ok()) {
      state->total.Add(*part);
    } else {
      state->failure = part.TakeStatus();
    }
  }
}

}  // namespace

ScanSpec MergeScanSpec::ForSource() const {
  ScanSpec ask;
  ask.snapshot = snapshot;
  ask.since = since;
  ask.start = range.start;
  ask.start_exclusive = range.start_exclusive;
  ask.end = range.end;
  ask.reverse = range.reverse;
  ask.keys_only = keys_only;
  ask.sizes_only = sizes_only;
  ask.slice = range.slice;
  ask.max_rows = max_rows;
  ask.max_bytes = max_bytes;
  ask.hard_bytes = held_bytes;
  return ask;
}

std::vector<MergeSource> SourcesOf(const std::vector<Partition*>& partitions) {
  std::vector<MergeSource> sources;
  sources.reserve(partitions.size());
  for (Partition* partition : partitions) sources.push_back({partition, 1});
  return sources;
}

size_t FirstShare(size_t total, size_t partitions, size_t unit, size_t own) {
  double mean =
      static_cast<double>(total) * static_cast<double>(own) / static_cast<double>(std::max<size_t>(partitions, 1));
  double share = mean + 3 * std::sqrt(mean * static_cast<double>(unit));
  return std::clamp<size_t>(static_cast<size_t>(std::ceil(share)), 1, std::max<size_t>(total, 1));
}

size_t FanOutCost(size_t sources) { return std::min(sources, kFanOutCalls) * kFanOutBytes + sources * kSourceBytes; }

// The shares of sources with the same number of partitions add up to the most.
ScanCost CostOfScan(size_t sources, size_t max_rows, size_t max_bytes) {
  ScanCost cost;
  const size_t shares = sources * FirstShare(max_bytes, sources, kTypicalRowBytes);
  cost.held_bytes = std::min(std::max(shares, max_bytes), kMaxSharesPerPage * max_bytes);
  const size_t held_rows = max_rows + sources * FirstShare(max_rows, sources, 1);
  // Each call may return one key beyond its share, before memory for it is reserved.
  cost.total_bytes = Arena::MostAllocated(cost.held_bytes, sources) + max_bytes + held_rows * kHeldRowBytes +
                     max_rows * kFrameRowBytes + FanOutCost(sources) + std::min(sources, kFanOutCalls) * kMaxKeyBytes;
  return cost;
}

std::optional<size_t> ReservePage(MergeScanSpec* spec, size_t sources, size_t limit_bytes, MemoryGrant* memory,
                                  size_t most_bytes) {
  const size_t share = limit_bytes / kScansSharingMemory;
  spec->max_bytes = std::min(spec->max_bytes, std::max(kMinScanBytes, spec->max_rows * kGenerousRowBytes));
  spec->memory = memory;
  for (;;) {
    const ScanCost cost = CostOfScan(sources, spec->max_rows, spec->max_bytes);
    const bool shortest = spec->max_bytes <= kMinScanBytes && spec->max_rows <= kMinScanRows;
    const bool fits = cost.total_bytes <= most_bytes && (shortest || cost.total_bytes <= share);
    if (fits && memory->TryGrow(cost.total_bytes)) {
      spec->held_bytes = cost.held_bytes;
      return std::nullopt;
    }
    if (shortest) return cost.total_bytes;
    spec->max_bytes = std::min(spec->max_bytes, std::max(kMinScanBytes, spec->max_bytes / 2));
    spec->max_rows = std::min(spec->max_rows, std::max(kMinScanRows, spec->max_rows / 2));
  }
}

Task<Result<ScanPage>> MergeScan(std::vector<MergeSource> sources, MergeScanSpec spec) {
  if (spec.range.empty) {
    ScanPage none;
    none.exhausted = true;
    co_return none;
  }
  Merger merger(sources, std::move(spec));
  Task<Result<ScanPage>> run = merger.Run();
  co_return co_await run;
}

Task<Result<RangeAggregates>> MergeAggregates(std::vector<MergeSource> sources, ScanRange range, SnapshotId snapshot) {
  AggregateState state;
  if (range.empty) co_return state.total;
  TaskGroup parts;
  for (size_t i = 0; i < std::min(kFanOutCalls, sources.size()); ++i) {
    parts.Spawn(AggregateSome(&sources, &range, snapshot, &state));
  }
  co_await parts.Drain();
  if (!state.failure.ok()) co_return state.failure;
  co_return state.total;
}

}  // namespace pando
