#include "tools/kvadmin/capacity.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "src/base/check.h"
#include "src/base/counted.h"
#include "src/base/limits.h"
#include "src/btree/tree_node.h"
#include "src/topology/replacement.h"
#include "src/topology/topology_store.h"
#include "src/wal/log_format.h"
#include "src/wal/write_unit.h"
#include "tools/common/table.h"

namespace pando::admin {

namespace {

// What docs/CAPACITY.md derives or measures.
constexpr double kPageBytes = kDefaultPageBytes, kBlock = 4096, kSealBytes = 40;
constexpr double kFill = 0.69;            // ln 2: how full the pages of a tree are that grows at random
constexpr double kSeparatorBytes = 3;     // of a child in an inner page, after the common prefix
constexpr double kInnerDiskBytes = 4096;  // of an inner page, which compresses
constexpr double kLeafRecordBytes = 20;   // slot and header
constexpr double kOverflowRefBytes = 32;
constexpr double kUnitHeaderBytes = 64, kRecordHeaderBytes = 13;
// Of the used space: free for the next checkpoints and for removes; and waiting for them, unless the pool is larger,
// but not more for each reactor than the last.
constexpr double kFreeShare = 0.17, kWaitingShare = 0.125, kMostWaitingBytes = 8.0 * (1u << 30);
constexpr double kDeviceWriteS = 1e-3;  // writes that come meanwhile share the next batch of the log
constexpr double kCheckpointS = 60;
constexpr double kLogRecordsPerPoolPage = 4;
constexpr double kMiB = 1 << 20;
constexpr double kSegmentBytes = 8 * kMiB, kSegmentsAhead = 6, kKeptForFollowersBytes = 64 * kMiB;
constexpr double kReplayedRecordsPerS = 8'500;                 // by each reactor; each record reads its page
constexpr double kHeartbeatsPerS = 10, kHeartbeatBytes = 112;  // with the frame
constexpr double kRequestBytes = 64, kReplyBytes = 64;         // around keys and values
constexpr double kPartitionRecordBytes = 480, kNodeRecordBytes = 300;

// What may be used of each.
constexpr double kMemoryForNode = 7.0 / 8, kDiskShare = 0.85, kRateShare = 0.7, kInnerShare = 0.75;
constexpr double kWantedPartitionBytes = 16.0 * (1u << 30);
constexpr double kMastersPerNode = 8;
constexpr uint32_t kMinPartitions = 16, kMaxNodes = 4096, kMaxPlannedReplicas = 7;

std::string Number(double value) {
  if (value >= 1e15) return fmt::format("{:.4g}", value);
  if (value == std::floor(value)) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

// What follows from the inputs, for a number of nodes.
struct Figures {
  double nodes = 0, partitions = 0;
  double survivors_load = 1, survivors_data = 1;  // how much more each of the others has after the loss of a node
  // -- pages
  bool is_inline = true;
  double record_bytes = 0, records_per_page = 0, records_per_leaf = 0, second_block_share = 0, leaf_disk_bytes = 0;
  double overflow_bytes = 0, fanout = 0, inner_bytes_per_record = 0, tree_bytes_per_record = 0;
  double data_bytes = 0;  // of all replicas
  // -- of a node
  double records = 0, replicas = 0, log_disk_bytes = 0, disk_bytes = 0, disk_bytes_after = 0, usable_disk_bytes = 0;
  double limit_bytes = 0, fixed_bytes = 0, pool_bytes = 0, inner_bytes = 0, inner_bytes_after = 0, leaf_miss = 1;
  double partition_bytes = 0;
  // -- writes
  double applied_per_s = 0, batch_writes = 1, unit_bytes = 0, log_bytes_per_write = 0, log_bytes_per_s = 0;
  double replay_records = 0, recovery_s = 0;
  double checkpoint_s = kCheckpointS, page_bytes_per_write = 0, write_amplification = 0;
  double disk_bytes_per_s = 0, disk_bytes_per_s_after = 0;
  double out_bytes_per_s = 0, in_bytes_per_s = 0, heartbeat_bytes_per_s = 0, out_after = 0, in_after = 0;
  double rebuild_s = 0, topology_bytes = 0;
};

uint32_t MostPartitions(double nodes) {
  const double keys = static_cast<double>(kMaxTopologyKeys) - nodes - 2;
  const double by_bytes = static_cast<double>(kMaxTopologyBytes) / (kPartitionRecordBytes + 16);
  return std::bit_floor(static_cast<uint32_t>(std::min(keys, by_bytes)));
}

void SizePages(const CapacityInputs& in, Figures* f) {
  f->is_inline = in.value_bytes <= 32 || in.key_bytes + in.value_bytes <= kPageBytes / 4;
  const double key_bytes = in.key_bytes + kNamespaceBytes;
  f->record_bytes = kLeafRecordBytes + key_bytes + (f->is_inline ? in.value_bytes : kOverflowRefBytes);
  f->overflow_bytes = f->is_inline ? 0 : kBlock * std::ceil((in.value_bytes + kSealBytes) / kBlock);
  const double room = kPageBytes - kSealBytes - kPageHeaderBytes;
  f->records_per_page = std::floor((room - 2 * key_bytes) / f->record_bytes);
  f->records_per_leaf = std::max(1.0, kFill * f->records_per_page);
  // Leaves are between half full and full, the fuller the fewer. Those that are fuller than this take two blocks.
  const double fits = (kBlock - kPageHeaderBytes - kSealBytes) * in.compression_ratio;
  const double fullness = std::clamp(fits / (f->records_per_page * f->record_bytes), 0.5, 1.0);
  f->second_block_share = 1 / fullness - 1;
  f->leaf_disk_bytes = kBlock * (1 + f->second_block_share);
  f->fanout = kFill * room / TreeNode::ChildSpace(static_cast<size_t>(std::min(kSeparatorBytes, in.key_bytes)));
  const double inner_pages_per_record = 1 / f->records_per_leaf / (f->fanout - 1);
  f->inner_bytes_per_record = kPageBytes * inner_pages_per_record;
  f->tree_bytes_per_record =
      f->leaf_disk_bytes / f->records_per_leaf + f->overflow_bytes + kInnerDiskBytes * inner_pages_per_record;
  f->data_bytes = in.records * in.replicas * f->tree_bytes_per_record;
}

void SizeMemory(const CapacityInputs& in, Figures* f) {
  f->limit_bytes = in.node_memory_bytes * kMemoryForNode;
  const double requests = std::clamp(f->limit_bytes / 8, 8 * kMiB, 512 * kMiB);
  // The process, 20,000 connections, requests; of each reactor its stack and rings, log buffers and scrub; partitions.
  f->fixed_bytes = 24 * kMiB + 7.7e6 + requests + in.reactors * 18 * kMiB + f->replicas * (28 << 10);
  f->pool_bytes = (f->limit_bytes - f->fixed_bytes) * (1 - 1.0 / 16 - 1.0 / 32 - 1.0 / 32);
  f->inner_bytes = f->inner_bytes_per_record * f->records;
  f->inner_bytes_after = f->inner_bytes * f->survivors_data;
  const double leaves = f->records / f->records_per_leaf;
  f->leaf_miss = std::clamp(1 - (f->pool_bytes - f->inner_bytes) / kPageBytes / leaves, 0.0, 1.0);
}

void SizeDisk(const CapacityInputs& in, Figures* f) {
  f->log_disk_bytes =
      1.25 * in.log_budget_bytes + in.reactors * (kSegmentsAhead * kSegmentBytes + kKeptForFollowersBytes);
  const double data = f->data_bytes / f->nodes;
  const auto disk = [&in, f](double used) {
    const double waiting = std::max(used * kWaitingShare, f->pool_bytes);
    return used * (1 + kFreeShare) + std::min(waiting, kMostWaitingBytes * in.reactors) + f->log_disk_bytes;
  };
  f->disk_bytes = disk(data);
  f->disk_bytes_after = disk(data * f->survivors_data);
  f->usable_disk_bytes = in.node_disk_bytes * kDiskShare;
  // The lost replicas are made anew a few at a time, each on another node.
  const double at_once = std::min(f->nodes - 1, static_cast<double>(ReplacementInput().moves_at_once));
  f->rebuild_s = f->survivors_data > 1 ? data / at_once / in.install_bytes_per_s : 0;
  f->partition_bytes = f->data_bytes / in.replicas / f->partitions;
}

void SizeWrites(const CapacityInputs& in, Figures* f) {
  f->applied_per_s = in.writes_per_s * in.replicas / f->nodes;
  const double record = kRecordHeaderBytes + kNamespaceBytes + in.key_bytes + in.value_bytes;
  f->unit_bytes = 8 * std::ceil((kUnitHeaderBytes + record) / 8);
  f->batch_writes = std::max(1.0, f->applied_per_s / in.reactors * kDeviceWriteS);
  // A batch has a header, a mark for each partition that has come further, and zeros up to a block.
  const double batch = kBatchOverhead + f->batch_writes * (f->unit_bytes + kMarkBytes);
  f->log_bytes_per_write =
      (f->batch_writes == 1 ? kBlock * std::ceil(batch / kBlock) : std::max(kBlock, batch + kBlock / 2)) /
      f->batch_writes;
  f->log_bytes_per_s = f->applied_per_s * f->log_bytes_per_write;
  const double log_share = in.log_budget_bytes / f->log_bytes_per_write;
  f->replay_records = std::min({log_share, 4e6, kLogRecordsPerPoolPage * std::max(f->pool_bytes, 0.0) / kPageBytes});
  f->recovery_s = f->replay_records / (kReplayedRecordsPerS * in.reactors);
  if (f->applied_per_s == 0) return;
  // The log goes back over two checkpoints of each partition.
  const double pool_pages = std::max(f->pool_bytes, kPageBytes) / kPageBytes;
  const double records = std::min(log_share / 2, kLogRecordsPerPoolPage * pool_pages);
  f->checkpoint_s = std::min(kCheckpointS, records / 2 / f->applied_per_s);
  // Of `pages`, so many change between two checkpoints.
  const double writes = f->applied_per_s * f->checkpoint_s;
  const auto changed = [writes](double pages) { return pages * -std::expm1(-writes / pages); };
  double pages = std::max(1.0, f->records / f->records_per_leaf);
  double bytes = changed(pages) * f->leaf_disk_bytes + writes * f->overflow_bytes;
  while (pages > f->replicas && pages > 1) {
    pages = std::max(1.0, pages / f->fanout);
    bytes += changed(pages) * kInnerDiskBytes;
  }
  f->page_bytes_per_write = bytes / writes;
  f->write_amplification = (f->page_bytes_per_write + f->log_bytes_per_write) / (in.key_bytes + in.value_bytes);
}

void SizeTraffic(const CapacityInputs& in, Figures* f) {
  const double reads = in.reads_per_s / f->nodes, writes = in.writes_per_s / f->nodes;
  const double leaf_read = f->leaf_disk_bytes * f->leaf_miss;
  f->disk_bytes_per_s = reads * (leaf_read + f->overflow_bytes) +
                        f->applied_per_s * (leaf_read + f->page_bytes_per_write + f->log_bytes_per_write);
  const double more = f->survivors_data > 1 ? in.install_bytes_per_s : 0;
  f->disk_bytes_per_s_after = f->disk_bytes_per_s * f->survivors_load + 2 * more;
  const double followers = in.replicas - 1;
  f->heartbeat_bytes_per_s = 2 * f->partitions * followers / f->nodes * kHeartbeatsPerS * kHeartbeatBytes;
  const double shipped = writes * followers * (f->unit_bytes + kHeartbeatBytes) + f->heartbeat_bytes_per_s;
  f->out_bytes_per_s = reads * (in.value_bytes + kReplyBytes) + writes * kReplyBytes + shipped;
  f->in_bytes_per_s =
      reads * (in.key_bytes + kRequestBytes) + writes * (in.key_bytes + in.value_bytes + kRequestBytes) + shipped;
  f->out_after = f->out_bytes_per_s * f->survivors_load + more;
  f->in_after = f->in_bytes_per_s * f->survivors_load + more;
  f->topology_bytes = f->partitions * kPartitionRecordBytes + f->nodes * kNodeRecordBytes;
}

Figures FiguresFor(const CapacityInputs& in, uint32_t nodes) {
  Figures f;
  f.nodes = nodes;
  const bool survives = in.replicas > 1 && nodes > 1;
  f.survivors_load = survives ? f.nodes / (f.nodes - 1) : 1;
  f.survivors_data = survives && nodes > in.replicas ? f.survivors_load : 1;
  SizePages(in, &f);
  const double wanted =
      std::max({f.data_bytes / in.replicas / kWantedPartitionBytes, kMastersPerNode * nodes, 1.0 * kMinPartitions});
  const double most = MostPartitions(nodes);
  f.partitions = in.partitions != 0 ? in.partitions : std::bit_ceil(static_cast<uint64_t>(std::min(wanted, most)));
  f.replicas = std::ceil(f.partitions * in.replicas / f.nodes);
  f.records = in.records * in.replicas / f.nodes;
  SizeMemory(in, &f);
  SizeDisk(in, &f);
  SizeWrites(in, &f);
  SizeTraffic(in, &f);
  return f;
}

std::string Bytes(double bytes) { return tools::HumanBytes(bytes); }

// What these nodes have too little of; nothing if they suffice.
std::optional<std::string> Lacks(const CapacityInputs& in, const Figures& f) {
  if (f.pool_bytes < f.inner_bytes_after / kInnerShare || f.pool_bytes < kPageBytes * f.replicas) {
    return fmt::format(
        "--node-memory {} is too small: of it, {} are left for pages after the fixed costs of kvnode, and the inner "
        "pages take {} with one node lost, for which the pages need at least {}",
        Bytes(in.node_memory_bytes), Bytes(std::max(f.pool_bytes, 0.0)), Bytes(f.inner_bytes_after),
        Bytes(std::max(f.inner_bytes_after / kInnerShare, kPageBytes * f.replicas)));
  }
  if (f.disk_bytes_after > f.usable_disk_bytes) {
    return fmt::format(
        "--node-disk {} is too small: each node would hold {} with one node lost, and {:.0f} % of a disk "
        "are to be used",
        Bytes(in.node_disk_bytes), Bytes(f.disk_bytes_after), 100 * kDiskShare);
  }
  if (f.disk_bytes_per_s_after > kRateShare * in.node_disk_bytes_per_s) {
    return fmt::format(
        "--node-disk-bytes-per-s {} is too little: each node would move {} a second with one node lost, "
        "and {:.0f} % are to be used",
        Number(in.node_disk_bytes_per_s), Bytes(f.disk_bytes_per_s_after), 100 * kRateShare);
  }
  const double network = std::max(f.in_after, f.out_after);
  if (network > kRateShare * in.node_network_bytes_per_s) {
    return fmt::format(
        "--node-network-bytes-per-s {} is too little: each node would move {} a second in one direction "
        "with one node lost, and {:.0f} % are to be used",
        Number(in.node_network_bytes_per_s), Bytes(network), 100 * kRateShare);
  }
  return std::nullopt;
}

Status Invalid(std::string what) { return {Code::kInvalidArgument, std::move(what)}; }

Status CheckInputs(const CapacityInputs& in) {
  if (in.records < 1) return Invalid("--records must be at least 1: there is nothing to plan for");
  if (in.key_bytes < 1 || in.key_bytes > kMaxKeyBytes) {
    return Invalid(
        fmt::format("--key-bytes {} is not possible: a key has 1 to {} bytes", Number(in.key_bytes), kMaxKeyBytes));
  }
  if (in.value_bytes > kMaxValueBytes) {
    return Invalid(fmt::format("--value-bytes {} is not possible: a value has at most {} bytes", Number(in.value_bytes),
                               kMaxValueBytes));
  }
  if (in.compression_ratio < 1) {
    return Invalid("--compression-ratio must be at least 1: a page that does not shrink is stored as it is");
  }
  if (in.replicas < 1 || in.replicas > kMaxPlannedReplicas) {
    return Invalid(fmt::format("--replicas must be from 1 to {}", kMaxPlannedReplicas));
  }
  if (in.nodes != 0 && in.replicas > in.nodes) {
    return Invalid(
        fmt::format("--replicas {} needs at least {} nodes, and --nodes is {}: the replicas of a partition "
                    "are on different nodes",
                    in.replicas, in.replicas, in.nodes));
  }
  if (in.nodes > kMaxNodes) return Invalid(fmt::format("--nodes must be at most {}", kMaxNodes));
  if (in.zones != 0 && in.nodes != 0 && in.zones > in.nodes) {
    return Invalid(fmt::format("--zones {} needs at least as many nodes, and --nodes is {}", in.zones, in.nodes));
  }
  if (in.partitions != 0 && !std::has_single_bit(in.partitions)) {
    return Invalid(fmt::format("--partitions {} is not a power of two", in.partitions));
  }
  if (in.partitions > MostPartitions(std::max(in.nodes, in.replicas))) {
    return Invalid(fmt::format("--partitions {} is more than the {} of which a topology can hold the records",
                               in.partitions, MostPartitions(std::max(in.nodes, in.replicas))));
  }
  if (in.node_disk_bytes <= 0 || in.node_memory_bytes <= 0) return Invalid("--node-disk and --node-memory are needed");
  if (in.node_network_bytes_per_s <= 0 || in.node_disk_bytes_per_s <= 0 || in.install_bytes_per_s <= 0) {
    return Invalid("--node-network-bytes-per-s, --node-disk-bytes-per-s and --install-bytes-per-s must not be 0");
  }
  if (in.reactors < 1) return Invalid("--reactors must be at least 1");
  if (in.log_budget_bytes < in.reactors * kSegmentBytes) {
    return Invalid(fmt::format("--log-budget {} is too small: each of the {} needs {}", Bytes(in.log_budget_bytes),
                               Counted(in.reactors, "reactor"), Bytes(kSegmentBytes)));
  }
  return {};
}

// The fewest nodes that lack nothing, and what fewer lack. An error says what even the most lack.
Result<uint32_t> FewestNodes(const CapacityInputs& in, std::string* bound_by) {
  const uint32_t step = in.zones > 1 ? in.zones : 1;  // as many in each zone
  const uint32_t first = (std::max(in.replicas, in.zones) + step - 1) / step * step;
  std::string lacks;
  for (uint32_t nodes = first; nodes <= kMaxNodes; nodes += step) {
    std::optional<std::string> what = Lacks(in, FiguresFor(in, nodes));
    if (!what) {
      *bound_by = lacks;
      return nodes;
    }
    lacks = *std::move(what);
  }
  return Invalid(fmt::format("no cluster of up to {} nodes suffices: {}", kMaxNodes, lacks));
}

// Collects the rows.
class Sheet {
 public:
  explicit Sheet(CapacityPlan* plan) : plan_(plan) {}
  template <typename... Args>
  void Add(std::string name, CapacityUnit unit, double value, std::string formula, fmt::format_string<Args...> numbers,
           Args&&... args) {
    plan_->rows.push_back(
        {std::move(name), unit, value, std::move(formula), fmt::format(numbers, std::forward<Args>(args)...)});
  }

 private:
  CapacityPlan* const plan_;
};

void AddDiskRows(const CapacityInputs& in, const Figures& f, Sheet* sheet) {
  sheet->Add("records_per_leaf", CapacityUnit::kRatio, f.records_per_leaf,
             "0.69 * floor((page - 96 - 2 * stored key) / (20 + stored key + value in the leaf))",
             "0.69 * floor(({} - 96 - 2 * {}) / {})", Number(kPageBytes), Number(in.key_bytes + kNamespaceBytes),
             Number(f.record_bytes));
  sheet->Add("leaf_disk_bytes", CapacityUnit::kBytes, f.leaf_disk_bytes,
             "block * (1 + share of leaves that do not compress into one block)", "{} * (1 + {:.2f})", Number(kBlock),
             f.second_block_share);
  sheet->Add("tree_bytes_per_record", CapacityUnit::kBytes, f.tree_bytes_per_record,
             "leaf / records per leaf + value of its own + inner pages", "{} / {:.2f} + {} + {:.2f}",
             Number(f.leaf_disk_bytes), f.records_per_leaf, Number(f.overflow_bytes),
             f.inner_bytes_per_record * kInnerDiskBytes / kPageBytes);
  sheet->Add("data_bytes", CapacityUnit::kBytes, f.data_bytes, "records * replicas * tree bytes per record",
             "{} * {} * {:.0f}", Number(in.records), in.replicas, f.tree_bytes_per_record);
  sheet->Add("disk_bytes_per_node", CapacityUnit::kBytes, f.disk_bytes,
             "data / nodes * 1.17 + min(max(data / nodes / 8, pool), 8 GiB * reactors) + log files",
             "{} / {} * 1.17 + min(max({}, {}), {}) + {}", Bytes(f.data_bytes), Number(f.nodes),
             Bytes(f.data_bytes / f.nodes / 8), Bytes(f.pool_bytes), Bytes(kMostWaitingBytes * in.reactors),
             Bytes(f.log_disk_bytes));
  sheet->Add("disk_bytes_per_node_after_loss", CapacityUnit::kBytes, f.disk_bytes_after,
             "the same with data / nodes * nodes / (nodes - 1); at most 85 % of a disk", "factor {:.4f}; at most {}",
             f.survivors_data, Bytes(f.usable_disk_bytes));
  sheet->Add("replicas_per_node", CapacityUnit::kCount, f.replicas, "partitions * replicas / nodes", "{} * {} / {}",
             Number(f.partitions), in.replicas, Number(f.nodes));
  sheet->Add("partition_bytes", CapacityUnit::kBytes, f.partition_bytes, "data / replicas / partitions", "{} / {} / {}",
             Bytes(f.data_bytes), in.replicas, Number(f.partitions));
  sheet->Add("partition_copy_seconds", CapacityUnit::kSeconds, f.partition_bytes / in.install_bytes_per_s,
             "partition bytes / install rate", "{} / {}/s", Bytes(f.partition_bytes), Bytes(in.install_bytes_per_s));
}

void AddMemoryRows(const CapacityInputs& in, const Figures& f, Sheet* sheet) {
  sheet->Add("memory_limit_bytes", CapacityUnit::kBytes, f.limit_bytes, "7/8 of a node's memory; --memory_limit_mb",
             "0.875 * {}", Bytes(in.node_memory_bytes));
  sheet->Add("pool_bytes_per_node", CapacityUnit::kBytes, f.pool_bytes,
             "0.875 * (memory limit - fixed costs of the process, its reactors and its replicas)", "0.875 * ({} - {})",
             Bytes(f.limit_bytes), Bytes(f.fixed_bytes));
  sheet->Add("inner_bytes_per_record", CapacityUnit::kBytes, f.inner_bytes_per_record,
             "page / records per leaf / (children per inner page - 1)", "{} / {:.2f} / ({:.1f} - 1)",
             Number(kPageBytes), f.records_per_leaf, f.fanout);
  sheet->Add("inner_bytes_per_node", CapacityUnit::kBytes, f.inner_bytes,
             "records * replicas / nodes * inner bytes per record", "{} * {} / {} * {:.2f}", Number(in.records),
             in.replicas, Number(f.nodes), f.inner_bytes_per_record);
  sheet->Add("inner_bytes_per_node_after_loss", CapacityUnit::kBytes, f.inner_bytes_after,
             "inner bytes * nodes / (nodes - 1); at most 75 % of the pool", "{} * {:.4f}; at most {}",
             Bytes(f.inner_bytes), f.survivors_data, Bytes(f.pool_bytes * kInnerShare));
  sheet->Add("leaf_reads_per_get", CapacityUnit::kRatio, f.leaf_miss,
             "1 - (pool - inner bytes) / page / leaves of the node, keys uniform", "1 - ({} - {}) / {} / {}",
             Bytes(f.pool_bytes), Bytes(f.inner_bytes), Number(kPageBytes),
             Number(std::round(f.records / f.records_per_leaf)));
}

void AddWriteRows(const CapacityInputs& in, const Figures& f, Sheet* sheet) {
  sheet->Add("writes_per_node_per_second", CapacityUnit::kCount, f.applied_per_s, "writes * replicas / nodes",
             "{} * {} / {}", Number(in.writes_per_s), in.replicas, Number(f.nodes));
  sheet->Add("log_bytes_per_write", CapacityUnit::kBytes, f.log_bytes_per_write,
             "(160 + writes in a batch * (unit + 72), to whole blocks) / writes in a batch",
             "unit {}, {:.2f} in a batch", Number(f.unit_bytes), f.batch_writes);
  sheet->Add("log_bytes_per_second_per_node", CapacityUnit::kBytesPerSecond, f.log_bytes_per_s,
             "writes per node * log bytes per write", "{} * {:.0f}", Number(f.applied_per_s), f.log_bytes_per_write);
  sheet->Add("log_disk_bytes_per_node", CapacityUnit::kBytes, f.log_disk_bytes,
             "1.25 * log budget + reactors * (6 * 8 MiB + 64 MiB for followers)", "1.25 * {} + {} * 112 MiB",
             Bytes(in.log_budget_bytes), in.reactors);
  sheet->Add("recovery_seconds_at_most", CapacityUnit::kSeconds, f.recovery_s,
             "min(log budget / log bytes per write, 4e6, 4 * pages of the pool) / 8500 a second for each reactor",
             "{} / ({} * {})", Number(std::round(f.replay_records)), Number(kReplayedRecordsPerS), in.reactors);
  sheet->Add(
      "checkpoint_seconds", CapacityUnit::kSeconds, f.checkpoint_s,
      "min(60, half of the time in which half of the log budget, or 4 records for each page of the pool, are written)",
      "at {} writes a second", Number(f.applied_per_s));
  sheet->Add("page_bytes_per_write", CapacityUnit::kBytes, f.page_bytes_per_write,
             "leaves and inner pages that change between two checkpoints / writes between them",
             "{} writes in {} leaves", Number(std::round(f.applied_per_s * f.checkpoint_s)),
             Number(std::round(f.records / f.records_per_leaf)));
  sheet->Add("write_amplification", CapacityUnit::kRatio, f.write_amplification,
             "(page bytes + log bytes per write) / (key + value), on each replica", "({:.0f} + {:.0f}) / {}",
             f.page_bytes_per_write, f.log_bytes_per_write, Number(in.key_bytes + in.value_bytes));
}

void AddTrafficRows(const CapacityInputs& in, const Figures& f, Sheet* sheet) {
  const double reads = in.reads_per_s / f.nodes;
  const double install = f.survivors_data > 1 ? in.install_bytes_per_s : 0;
  sheet->Add("disk_bytes_per_second_per_node", CapacityUnit::kBytesPerSecond, f.disk_bytes_per_s,
             "reads * (leaf * leaf reads per get + value of its own) + writes per node * (leaf read + pages + log)",
             "{} * {:.0f} + {} * {:.0f}", Number(reads), f.leaf_disk_bytes * f.leaf_miss + f.overflow_bytes,
             Number(f.applied_per_s), f.leaf_disk_bytes * f.leaf_miss + f.page_bytes_per_write + f.log_bytes_per_write);
  sheet->Add("disk_bytes_per_second_per_node_after_loss", CapacityUnit::kBytesPerSecond, f.disk_bytes_per_s_after,
             "the same * nodes / (nodes - 1) + 2 * install rate; at most 70 % of a disk",
             "{} * {:.4f} + 2 * {}; at most {}", Bytes(f.disk_bytes_per_s), f.survivors_load, Bytes(install),
             Bytes(kRateShare * in.node_disk_bytes_per_s));
  sheet->Add("heartbeat_bytes_per_second_per_node", CapacityUnit::kBytesPerSecond, f.heartbeat_bytes_per_s,
             "partitions * (replicas - 1) / nodes * 2 * 10 * 112, in each direction", "{} * {} / {} * 2 * 10 * 112",
             Number(f.partitions), in.replicas - 1, Number(f.nodes));
  sheet->Add("network_out_bytes_per_second_per_node", CapacityUnit::kBytesPerSecond, f.out_bytes_per_s,
             "reads * (value + 64) + writes * (64 + (replicas - 1) * (unit + 112)) + heartbeats",
             "{} * {} + {} * (64 + {} * {}) + {}", Number(reads), Number(in.value_bytes + kReplyBytes),
             Number(in.writes_per_s / f.nodes), in.replicas - 1, Number(f.unit_bytes + kHeartbeatBytes),
             Number(f.heartbeat_bytes_per_s));
  sheet->Add("network_in_bytes_per_second_per_node", CapacityUnit::kBytesPerSecond, f.in_bytes_per_s,
             "reads * (key + 64) + writes * (key + value + 64 + (replicas - 1) * (unit + 112)) + heartbeats",
             "{} * {} + {} * ({} + {} * {}) + {}", Number(reads), Number(in.key_bytes + kRequestBytes),
             Number(in.writes_per_s / f.nodes), Number(in.key_bytes + in.value_bytes + kRequestBytes), in.replicas - 1,
             Number(f.unit_bytes + kHeartbeatBytes), Number(f.heartbeat_bytes_per_s));
  sheet->Add("network_bytes_per_second_per_node_after_loss", CapacityUnit::kBytesPerSecond,
             std::max(f.out_after, f.in_after),
             "max(in, out) * nodes / (nodes - 1) + install rate; at most 70 % of one direction",
             "{} * {:.4f} + {}; at most {}", Bytes(std::max(f.out_bytes_per_s, f.in_bytes_per_s)), f.survivors_load,
             Bytes(install), Bytes(kRateShare * in.node_network_bytes_per_s));
  sheet->Add("replicas_made_anew_seconds", CapacityUnit::kSeconds, f.rebuild_s,
             "data of the lost node / partitions at once / install rate", "{} / {} / {}/s",
             Bytes(f.data_bytes / f.nodes),
             Number(std::min(f.nodes - 1, static_cast<double>(ReplacementInput().moves_at_once))),
             Bytes(in.install_bytes_per_s));
  sheet->Add("topology_bytes", CapacityUnit::kBytes, f.topology_bytes, "partitions * 480 + nodes * 300",
             "{} * 480 + {} * 300", Number(f.partitions), Number(f.nodes));
  sheet->Add("topology_writes_after_loss", CapacityUnit::kCount, f.replicas,
             "one for each replica of the lost node: another master, or an in-sync set without it", "{}",
             Number(f.replicas));
}

void AddNotes(const CapacityInputs& in, const Figures& f, CapacityPlan* plan) {
  if (f.partition_bytes > kWantedPartitionBytes) {
    plan->notes.push_back(
        fmt::format("A partition has {}, more than the {} that can be copied in a few minutes: the topology holds the "
                    "records of {} "
                    "partitions at most.",
                    Bytes(f.partition_bytes), Bytes(kWantedPartitionBytes), MostPartitions(f.nodes)));
  }
  if (in.replicas == 1) plan->notes.push_back("With one replica, the loss of a node loses its data.");
  if (in.replicas > 1 && f.nodes <= in.replicas) {
    plan->notes.push_back("With no more nodes than replicas, nobody can take the replicas of a node that stays away.");
  }
  if (in.zones != 0 && in.zones < in.replicas) {
    plan->notes.push_back(fmt::format("{} replicas in {}: the loss of one zone may take the majority of a partition.",
                                      in.replicas, Counted(in.zones, "zone")));
  }
  if (f.pool_bytes < f.inner_bytes * 1.5) {
    plan->notes.push_back("Inner pages take most of the pool; larger values or more memory leave more for leaves.");
  }
}

}  // namespace

const CapacityRow& CapacityPlan::Row(std::string_view name) const {
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const CapacityRow& r) { return r.name == name; });
  CHECK(row != rows.end()) << "the plan has no row " << name;
  return *row;
}

Result<CapacityPlan> PlanCapacity(const CapacityInputs& inputs) {
  RETURN_IF_ERROR(CheckInputs(inputs));
  CapacityPlan plan;
  if (inputs.nodes != 0) {
    plan.nodes = inputs.nodes;
    if (const std::optional<std::string> lacks = Lacks(inputs, FiguresFor(inputs, inputs.nodes))) {
      const Result<uint32_t> fewest = FewestNodes(inputs, &plan.bound_by);
      return Invalid(fmt::format("--nodes {} is not enough: {}. {}", inputs.nodes, *lacks,
                                 fewest.ok() ? fmt::format("{} nodes suffice", *fewest) : fewest.status().message()));
    }
  } else {
    ASSIGN_OR_RETURN(plan.nodes, FewestNodes(inputs, &plan.bound_by));
  }
  const Figures f = FiguresFor(inputs, plan.nodes);
  plan.partitions = static_cast<uint32_t>(f.partitions);
  Sheet sheet(&plan);
  AddDiskRows(inputs, f, &sheet);
  AddMemoryRows(inputs, f, &sheet);
  AddWriteRows(inputs, f, &sheet);
  AddTrafficRows(inputs, f, &sheet);
  AddNotes(inputs, f, &plan);
  return plan;
}

}  // namespace pando::admin
