#include "src/engine/memory_shares.h"

#include <algorithm>

#include "src/wal/write_unit.h"

namespace pando {
namespace {

// The log's group buffers, which count towards the engine's memory.
constexpr uint64_t kLogBufferBytes = 6u << 20;
// Memory for the changes kept for watchers, over all partitions: at most this share of the engine's
// memory. The same for the ends of units that replicas remember.
constexpr uint64_t kChangeTailShare = 64;
constexpr uint64_t kMaxChangeTailBytes = 32u << 20;
// The ends of units of one partition.
constexpr size_t kMinHistoryPoints = 256, kMaxHistoryPoints = 4096;
// Memory for the lists of extents that died: this share of the engine's memory. While a checkpoint
// lists an extent, it takes up to this many bytes: its entry, a copy, and one in the encoded list.
constexpr uint64_t kListShare = 16;
constexpr uint64_t kListedExtentBytes = 64;
// What an open partition takes of memory besides its pages and its changes: its objects, its
// bitmaps, its stream of the log, and the proxies of the other reactors.
constexpr uint64_t kPartitionBytes = 20u << 10;
// What a range takes of each reactor's memory, whether there is a partition for it or not: its places and
// proxies in the tables by ID.
constexpr uint64_t kRangeBytes = 192;
// So many partitions are counted for in the pool's smallest size (BufferPool::kMinFrames).
constexpr uint64_t kFewPartitions = 64;
// The marks of all partitions at the beginning of each segment take at most this share of it.
constexpr uint64_t kMarksShare = 4;
// Partitions that may come get at most this share of the memory that those that are there do not need.
constexpr uint64_t kSpareShare = 4;
constexpr uint64_t kHalves = 2;  // of one partition
// The ring of those who read the running log takes at most this share.
constexpr uint64_t kRingShare = 32;
constexpr uint64_t kReaderSegments = 2;  // that those who lag have in memory at a time (LR3)

bool Replicated(const EngineOptions& options) { return options.make_gate != nullptr; }

uint64_t RangesBytes(uint64_t ranges) { return kRangeBytes * (ranges - std::min(ranges, kFewPartitions)); }

// Of one partition, at least.
uint64_t PartitionBytes(bool replicated) {
  return kPartitionBytes + (replicated ? UnitHistory::BytesFor(kMinHistoryPoints) : 0);
}

// The pool that the engine needs at least: each partition keeps the root of its tree in memory.
uint64_t MinPoolBytes(uint32_t page_bytes, uint64_t partitions) {
  return BufferPool::MinMemoryBytes(page_bytes, BufferPoolOptions().write_buffers) +
         (partitions - std::min(partitions, kFewPartitions)) * BufferPool::FrameBytes(page_bytes);
}

// For how many more than `held` there is memory, if they get a part of what these do not need at least.
uint64_t SparePartitions(const EngineOptions& options, uint64_t held) {
  const uint32_t page_bytes = options.store.page_bytes;
  const bool replicated = Replicated(options);
  const uint64_t least = Engine::MinMemoryBytes(page_bytes, held, options.store.IdLimit(), replicated);
  const uint64_t many = std::max(held, kFewPartitions);  // from there on each needs the same
  const uint64_t each = Engine::MinMemoryBytes(page_bytes, many + 1, 0, replicated) -
                        Engine::MinMemoryBytes(page_bytes, many, 0, replicated);
  return (options.memory_bytes - std::min(least, options.memory_bytes)) / kSpareShare / each;
}

// So many marks fit into the first batch of a segment.
uint64_t MostMarks(const EngineOptions& options) { return options.log_segment_bytes / kMarksShare / kMarkBytes; }

// For all partitions together, unless these are very many.
uint64_t ChangeTailShare(const EngineOptions& options) {
  return std::min(options.memory_bytes / kChangeTailShare, kMaxChangeTailBytes);
}

}  // namespace

// E2: the pool leaves out what the rest of the engine needs: up to a quarter of the memory, and what many
// partitions need beyond that.
BufferPoolOptions PoolOptionsOf(const EngineOptions& options) {
  BufferPoolOptions pool;
  pool.page_bytes = options.store.page_bytes;
  pool.seal_bytes = options.store.seal_bytes;
  pool.compression = options.compression;
  const uint64_t most = MaxPartitions(options);
  const uint64_t tails = ChangeTailBytes(options) * most, tails_share = ChangeTailShare(options);
  uint64_t others =
      kLogBufferBytes + kScrubBufferBytes + std::min(tails, tails_share) + options.memory_bytes / kListShare;
  if (Replicated(options)) {
    others += (HistoryPoints(options) - kMinHistoryPoints) * sizeof(HistoryPoint) * most;
    others += ReaderRingBytes(options) + kReaderSegments * options.log_segment_bytes;
  }
  const uint64_t partitions = PartitionBytes(Replicated(options)) * most +
                              (tails > tails_share ? tails - tails_share : 0) + RangesBytes(options.store.IdLimit());
  const uint64_t taken = std::min(others, options.memory_bytes / 4) + partitions;
  pool.memory_bytes = options.memory_bytes - std::min(taken, options.memory_bytes);
  return pool;
}

uint64_t MaxPartitions(const EngineOptions& options) {
  const StoreInfo& store = options.store;
  const auto mine = [&](const PartitionInfo& p) { return store.ReactorOf(p.id) == options.reactor_index; };
  const auto held = static_cast<uint64_t>(std::count_if(store.partitions.begin(), store.partitions.end(), mine));
  const uint32_t ids = store.IdLimit();
  const uint64_t of_reactor =
      (uint64_t{ids} + store.reactors - 1 - std::min(options.reactor_index, ids)) / store.reactors;
  // Of a cluster, as many halves of its partitions may come (docs/SPLIT.md), one split after the other.
  const bool halves = Replicated(options) && store.namespaced;
  const uint64_t most = std::min(halves ? 2 * of_reactor + kHalves : of_reactor, MostMarks(options));
  const uint64_t spare = std::min(options.spare_partitions, SparePartitions(options, held));
  return std::max(held, std::min(held + spare, most));
}

uint64_t ChangeTailBytes(const EngineOptions& options) {
  return std::max<uint64_t>(ChangeTailShare(options) / std::max<uint64_t>(MaxPartitions(options), 1),
                            ChangeTail::kMinBytes);
}

size_t HistoryPoints(const EngineOptions& options) {
  if (!Replicated(options)) return 1;
  const uint64_t each = ChangeTailShare(options) / std::max<uint64_t>(MaxPartitions(options), 1);
  return std::clamp<size_t>(each / sizeof(HistoryPoint), kMinHistoryPoints, kMaxHistoryPoints);
}

uint64_t ReaderRingBytes(const EngineOptions& options) {
  return std::min(LogOptions().reader_ring_bytes, options.memory_bytes / kRingShare);
}

UncommittedLimits UncommittedLimitsOf(const EngineOptions& options) {
  const uint64_t tails = 4 * std::max<uint64_t>(MaxPartitions(options), 1);
  UncommittedLimits limits;
  limits.bytes = std::min(limits.bytes, options.log_budget_bytes / tails);
  limits.records = std::min(limits.records, options.log_budget_records / tails);
  return limits;
}

uint64_t MaxListedExtents(const EngineOptions& options) {
  return options.memory_bytes / kListShare / kListedExtentBytes;
}

Status CheckMemory(const EngineOptions& options) {
  const BufferPoolOptions pool = PoolOptionsOf(options);
  const uint64_t partitions = MaxPartitions(options);
  if (pool.memory_bytes < MinPoolBytes(pool.page_bytes, partitions)) {
    return Error(Code::kInvalidArgument,
                 "one reactor's engine has {} bytes of memory; with {} partitions and pages of {} bytes it needs at "
                 "least {} bytes: raise --memory_limit_mb",
                 options.memory_bytes, partitions, pool.page_bytes,
                 Engine::MinMemoryBytes(pool.page_bytes, partitions, options.store.IdLimit(), Replicated(options)));
  }
  const uint64_t most = MostMarks(options);
  if (partitions <= most) return Status();
  return Error(Code::kInvalidArgument,
               "{} partitions on one reactor are too many, because its log states the position of each of them in "
               "every segment: at most {} are possible; raise --reactors",
               partitions, most);
}

uint64_t Engine::MinMemoryBytes(uint32_t page_bytes, uint64_t partitions, uint64_t ranges, bool replicated) {
  // A quarter may go to what does not depend on their number (PoolOptionsOf).
  const uint64_t needed = MinPoolBytes(page_bytes, partitions) +
                          partitions * (PartitionBytes(replicated) + ChangeTail::kMinBytes) + RangesBytes(ranges);
  return needed / 3 * 4 + 4;
}

}  // namespace pando
