#include "src/node/merge_scan.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace pando {

namespace {

// What a row is taken for when bytes are shared out; larger rows only mean a second request.
constexpr size_t kTypicalRowBytes = 4096;

class Merger {
 public:
  Merger(std::vector<Partition*> partitions, MergeScanSpec spec) : spec_(std::move(spec)) {
    size_t count = partitions.size();
    sources_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      Source& s = sources_[i];
      s.partition = partitions[i];
      s.start = spec_.range.start;
      s.start_exclusive = spec_.range.start_exclusive;
      s.end = spec_.range.end;
      s.ask_rows = FirstShare(spec_.max_rows, count, 1);
      s.ask_bytes = FirstShare(spec_.max_bytes, count, kTypicalRowBytes);
    }
  }

  Task<Result<ScanPage>> Run() {
    ScanPage out;
    {
      TaskGroup fetches;
      for (Source& s : sources_) fetches.Spawn(Fetch(&s));
      co_await fetches.Drain();
    }
    if (!failure_.ok()) co_return failure_;
    for (Source& s : sources_) {
      if (!s.Dry()) heap_.push_back(&s);
    }
    auto later = [this](const Source* a, const Source* b) { return Before(b->Front(), a->Front()); };
    std::make_heap(heap_.begin(), heap_.end(), later);

    size_t bytes = 0;
    while (!heap_.empty() && out.rows.size() < spec_.max_rows && bytes < spec_.max_bytes) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      Source* s = heap_.back();
      bytes += s->Front().key.size() + s->Front().value.size();
      out.rows.push_back(std::move(s->page.rows[s->next++]));
      if (s->Dry() && !s->page.exhausted) {
        // Nothing behind this row may be given out before it is known what this partition has next.
        if (out.rows.size() == spec_.max_rows || bytes >= spec_.max_bytes) break;
        GoOnBehind(s, out.rows.back().key);
        co_await Fetch(s);
        if (!failure_.ok()) co_return failure_;
      }
      if (s->Dry()) {
        heap_.pop_back();
      } else {
        std::push_heap(heap_.begin(), heap_.end(), later);
      }
    }
    out.exhausted =
        std::all_of(sources_.begin(), sources_.end(), [](const Source& s) { return s.Dry() && s.page.exhausted; });
    co_return out;
  }

 private:
  struct Source {
    Partition* partition = nullptr;
    std::string start, end;
    bool start_exclusive = false;
    size_t ask_rows = 0, ask_bytes = 0;
    ScanPage page;
    size_t next = 0;
    bool Dry() const { return next == page.rows.size(); }
    const ScanRow& Front() const { return page.rows[next]; }
  };

  bool Before(const ScanRow& a, const ScanRow& b) const { return spec_.range.reverse ? b.key < a.key : a.key < b.key; }

  void GoOnBehind(Source* s, const std::string& key) {
    if (spec_.range.reverse) {
      s->end = key;
    } else {
      s->start = key;
      s->start_exclusive = true;
    }
    s->ask_rows = std::min(2 * s->ask_rows, spec_.max_rows);
    s->ask_bytes = std::min(2 * s->ask_bytes, spec_.max_bytes);
  }

  Task<void> Fetch(Source* s) {
    ScanSpec ask;
    ask.snapshot = spec_.snapshot;
    ask.since = spec_.since;
    ask.start = s->start;
    ask.start_exclusive = s->start_exclusive;
    ask.end = s->end;
    ask.reverse = spec_.range.reverse;
    ask.keys_only = spec_.keys_only;
    ask.max_rows = s->ask_rows;
    ask.max_bytes = s->ask_bytes;
    Result<ScanPage> page = co_await s->partition->Scan(std::move(ask));
    if (!page.ok()) {
      failure_ = page.TakeStatus();
      co_return;
    }
    s->page = *std::move(page);
    s->next = 0;
    CHECK(!s->page.rows.empty() || s->page.exhausted) << "partition " << s->partition->id() << " gave an empty page";
  }

  MergeScanSpec spec_;
  std::vector<Source> sources_;
  std::vector<Source*> heap_;
  Status failure_;
};

struct AggregateState {
  RangeAggregates total;
  Status failure;
};

Task<void> AggregateOne(Partition* partition, const ScanRange* range, SnapshotId snapshot, AggregateState* state) {
  Result<RangeAggregates> part = co_await partition->Aggregate(range->start, range->end, snapshot);
  if (part.ok()) {
    state->total.Add(*part);
  } else {
    state->failure = part.TakeStatus();
  }
}

}  // namespace

size_t FirstShare(size_t total, size_t partitions, size_t unit) {
  double mean = static_cast<double>(total) / static_cast<double>(std::max<size_t>(partitions, 1));
  double share = mean + 3 * std::sqrt(mean * static_cast<double>(unit));
  return std::clamp<size_t>(static_cast<size_t>(std::ceil(share)), 1, std::max<size_t>(total, 1));
}

Task<Result<ScanPage>> MergeScan(std::vector<Partition*> partitions, MergeScanSpec spec) {
  if (spec.range.empty) {
    ScanPage none;
    none.exhausted = true;
    co_return none;
  }
  Merger merger(std::move(partitions), std::move(spec));
  Task<Result<ScanPage>> run = merger.Run();
  co_return co_await run;
}

Task<Result<RangeAggregates>> MergeAggregates(std::vector<Partition*> partitions, ScanRange range,
                                              SnapshotId snapshot) {
  AggregateState state;
  if (range.empty) co_return state.total;
  TaskGroup parts;
  for (Partition* partition : partitions) parts.Spawn(AggregateOne(partition, &range, snapshot, &state));
  co_await parts.Drain();
  if (!state.failure.ok()) co_return state.failure;
  co_return state.total;
}

}  // namespace pando
