#include "src/kvapi/split_range.h"

#include <algorithm>
#include <utility>

namespace pando {
namespace {

constexpr size_t kSamplersInFlight = 8;
// Keys per call of a sampler, which first reserves the most they may take.
constexpr size_t kKeysAtOnce = 32;

// The overhead of a key beyond its bytes: in a vector that grows by doubling, and as its partition
// returns it.
constexpr size_t kSampleBytes = 2 * sizeof(SampledKey) + sizeof(std::string);

struct Sampling {
  ScanRange range;
  MemoryGrant* memory = nullptr;
  const std::vector<Partition*>* partitions = nullptr;
  size_t next = 0;  // the next partition to sample
  SnapshotId snapshot = 0;
  size_t samples = 0;  // per partition
  RangeSample found;
  Status failure;
};

Task<Status> SampleOne(Partition* partition, Sampling* s) {
  CO_ASSIGN_OR_RETURN(RangeAggregates sum, co_await partition->Aggregate(s->range.start, s->range.end, s->snapshot));
  if (sum.count == 0) co_return Status();
  s->found.count += sum.count;
  const uint64_t samples = std::min<uint64_t>(s->samples, sum.count);
  constexpr size_t kReserved = kKeysAtOnce * (kMaxKeyBytes + kSampleBytes);
  uint64_t last_rank = 0;
  for (uint64_t first = 0; first < samples; first += kKeysAtOnce) {
    if (!s->memory->TryGrow(kReserved))
      co_return Error(Code::kOverloaded, "the node has no free memory to sample the range; try again");
    std::vector<uint64_t> ranks;
    for (uint64_t i = first; i < std::min<uint64_t>(samples, first + kKeysAtOnce); ++i) {
      ranks.push_back((i * sum.count + samples - 1) / samples);
    }
    CO_ASSIGN_OR_RETURN(std::vector<std::string> keys,
                        co_await partition->KeysAtRanks(s->range.start, s->range.end, ranks, s->snapshot));
    size_t bytes = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      bytes += keys[i].size() + kSampleBytes;
      s->found.keys.push_back({std::move(keys[i]), ranks[i] - last_rank});
      last_rank = ranks[i];
    }
    s->memory->Shrink(kReserved - std::min(kReserved, bytes));
    if (keys.size() < ranks.size()) break;
  }
  co_return Status();
}

Task<void> SampleAll(Sampling* s) {
  while (s->next < s->partitions->size() && s->failure.ok()) {
    Status status = co_await SampleOne((*s->partitions)[s->next++], s);
    if (!status.ok()) s->failure = std::move(status);
  }
}

// Returns the keys at which a new part begins.
std::vector<std::string> Cuts(RangeSample sample, const ScanRange& range, size_t parts) {
  std::vector<std::string> cuts;
  double before = 0;  // records up to this sample
  for (SampledKey& sampled : sample.keys) {
    before += static_cast<double>(sampled.records);
    const double share = static_cast<double>(sample.count) * static_cast<double>(cuts.size() + 1);
    if (cuts.size() + 1 == parts) break;
    const bool later = sampled.key > (cuts.empty() ? range.start : cuts.back());
    if (before * static_cast<double>(parts) >= share && later) cuts.push_back(std::move(sampled.key));
  }
  return cuts;
}

Task<void> CountParts(const std::vector<MergeSource>* sources, std::vector<RangePart>* parts, size_t* next,
                      SnapshotId snapshot, Status* failure) {
  while (*next < parts->size() && failure->ok()) {
    RangePart& part = (*parts)[(*next)++];
    ScanRange range;
    range.start = part.start;
    range.end = part.end;
    Result<RangeAggregates> sums = co_await MergeAggregates(*sources, range, snapshot);
    if (sums.ok()) {
      part.sums = *sums;
    } else {
      *failure = sums.TakeStatus();
    }
  }
}

}  // namespace

Task<Result<RangeSample>> SampleRange(std::vector<Partition*> partitions, ScanRange range, size_t keys_per_partition,
                                      SnapshotId snapshot, MemoryGrant* memory) {
  if (range.empty) co_return RangeSample();
  Sampling sampling;
  sampling.range = std::move(range);
  sampling.memory = memory;
  sampling.partitions = &partitions;
  sampling.snapshot = snapshot;
  sampling.samples = keys_per_partition;
  TaskGroup samplers;
  for (size_t i = 0; i < std::min(kSamplersInFlight, partitions.size()); ++i) samplers.Spawn(SampleAll(&sampling));
  co_await samplers.Drain();
  CO_RETURN_IF_ERROR(sampling.failure);
  std::vector<SampledKey>& keys = sampling.found.keys;
  std::sort(keys.begin(), keys.end(), [](const SampledKey& a, const SampledKey& b) { return a.key < b.key; });
  co_return std::move(sampling.found);
}

Task<Result<std::vector<RangePart>>> SplitBySample(std::vector<MergeSource> sources, ScanRange range, size_t parts,
                                                   RangeSample sample, SnapshotId snapshot) {
  std::vector<RangePart> result;
  result.push_back({range.start, range.end, {}});
  for (std::string& cut : Cuts(std::move(sample), range, parts)) {
    result.back().end = cut;
    result.push_back({std::move(cut), range.end, {}});
  }
  size_t next = 0;
  Status failure;
  TaskGroup counters;
  for (size_t i = 0; i < std::min(kCountsInFlight, result.size()); ++i) {
    counters.Spawn(CountParts(&sources, &result, &next, snapshot, &failure));
  }
  co_await counters.Drain();
  CO_RETURN_IF_ERROR(failure);
  co_return result;
}

Task<Result<std::vector<RangePart>>> SplitRangeEvenly(std::vector<Partition*> partitions, ScanRange range, size_t parts,
                                                      SnapshotId snapshot, MemoryGrant* memory) {
  if (range.empty) {
    std::vector<RangePart> none;
    none.push_back({range.start, range.end, {}});
    co_return none;
  }
  const size_t keys = partitions.size() == 1 ? parts : kSamplesPerPart * parts;
  CO_ASSIGN_OR_RETURN(RangeSample sample, co_await SampleRange(partitions, range, keys, snapshot, memory));
  std::vector<MergeSource> sources = SourcesOf(partitions);
  co_return co_await SplitBySample(std::move(sources), std::move(range), parts, std::move(sample), snapshot);
}

}  // namespace pando
