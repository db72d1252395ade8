#include "src/node/split_range.h"

#include <algorithm>
#include <utility>

#include "src/node/merge_scan.h"

namespace pando {
namespace {

constexpr size_t kSamplesPerPart = 4;  // of each partition, when there are several
constexpr size_t kCountsInFlight = 8;

struct Sample {
  std::string key;
  double records = 0;  // that it stands for: those of its partition from the sample before it up to it
};

struct Sampling {
  ScanRange range;
  SnapshotId snapshot = 0;
  size_t samples = 0;  // of each partition
  std::vector<Sample> found;
  uint64_t total = 0;
  Status failure;
};

Task<Status> SampleOne(Partition* partition, Sampling* s) {
  CO_ASSIGN_OR_RETURN(RangeAggregates sum, co_await partition->Aggregate(s->range.start, s->range.end, s->snapshot));
  if (sum.count == 0) co_return Status();
  s->total += sum.count;
  const uint64_t samples = std::min<uint64_t>(s->samples, sum.count);
  std::vector<uint64_t> ranks(samples);
  for (uint64_t i = 0; i < samples; ++i) ranks[i] = (i * sum.count + samples - 1) / samples;
  CO_ASSIGN_OR_RETURN(std::vector<std::string> keys,
                      co_await partition->KeysAtRanks(s->range.start, s->range.end, ranks, s->snapshot));
  for (size_t i = 0; i < keys.size(); ++i) {
    const uint64_t before = i == 0 ? 0 : ranks[i] - ranks[i - 1];
    s->found.push_back({std::move(keys[i]), static_cast<double>(before)});
  }
  co_return Status();
}

Task<void> SampleInto(Partition* partition, Sampling* s) {
  Status status = co_await SampleOne(partition, s);
  if (!status.ok()) s->failure = std::move(status);
}

// Keys at which a new part begins.
std::vector<std::string> Cuts(Sampling* s, size_t parts) {
  std::sort(s->found.begin(), s->found.end(), [](const Sample& a, const Sample& b) { return a.key < b.key; });
  std::vector<std::string> cuts;
  double before = 0;  // records below the sample at hand
  for (Sample& sample : s->found) {
    before += sample.records;
    const double share = static_cast<double>(s->total) * static_cast<double>(cuts.size() + 1);
    if (cuts.size() + 1 == parts) break;
    if (before * static_cast<double>(parts) >= share && sample.key > s->range.start) {
      cuts.push_back(std::move(sample.key));
    }
  }
  return cuts;
}

Task<void> CountParts(const std::vector<Partition*>* partitions, std::vector<RangePart>* parts, size_t* next,
                      SnapshotId snapshot, Status* failure) {
  while (*next < parts->size() && failure->ok()) {
    RangePart& part = (*parts)[(*next)++];
    ScanRange range;
    range.start = part.start;
    range.end = part.end;
    Result<RangeAggregates> sums = co_await MergeAggregates(*partitions, range, snapshot);
    if (sums.ok()) {
      part.sums = *sums;
    } else {
      *failure = sums.TakeStatus();
    }
  }
}

}  // namespace

Task<Result<std::vector<RangePart>>> SplitRangeEvenly(std::vector<Partition*> partitions, ScanRange range, size_t parts,
                                                      SnapshotId snapshot) {
  std::vector<RangePart> result;
  if (range.empty) {
    result.push_back({range.start, range.end, {}});
    co_return result;
  }
  Sampling sampling;
  sampling.range = range;
  sampling.snapshot = snapshot;
  sampling.samples = partitions.size() == 1 ? parts : kSamplesPerPart * parts;
  TaskGroup samplers;
  for (Partition* p : partitions) samplers.Spawn(SampleInto(p, &sampling));
  co_await samplers.Drain();
  CO_RETURN_IF_ERROR(sampling.failure);
  result.push_back({range.start, range.end, {}});
  for (std::string& cut : Cuts(&sampling, parts)) {
    result.back().end = cut;
    result.push_back({std::move(cut), range.end, {}});
  }
  size_t next = 0;
  Status failure;
  TaskGroup counters;
  for (size_t i = 0; i < std::min(kCountsInFlight, result.size()); ++i) {
    counters.Spawn(CountParts(&partitions, &result, &next, snapshot, &failure));
  }
  co_await counters.Drain();
  CO_RETURN_IF_ERROR(failure);
  co_return result;
}

}  // namespace pando
