#include "src/topology/node_identity.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/io/directory.h"
#include "src/io/replace_file.h"
#include "src/topology/recovery.h"

namespace pando {
namespace {

constexpr Nanos kCallTimeoutNs = 2 * kSecond;
constexpr Nanos kRetryNs = 50 * kMillisecond;
constexpr uint16_t kIdentityFormat = 1;
constexpr uint16_t kRenewFlag = 1;

// docs/FORMAT.md, "The identity of a node".
struct IdentityFile {
  char magic[8];
  uint16_t format;
  uint16_t flags;
  NodeId node;
  Uuid cluster_id;
  uint64_t start;
  Revision seen;
  Epoch epoch;
  uint64_t checksum;  // of all before
};
constexpr char kMagic[8] = {'P', 'A', 'N', 'D', 'O', 'C', 'L', 'U'};
static_assert(sizeof(IdentityFile) == 64 && std::is_trivially_copyable_v<IdentityFile>);
static_assert(offsetof(IdentityFile, node) == 12 && offsetof(IdentityFile, cluster_id) == 16 &&
              offsetof(IdentityFile, start) == 32 && offsetof(IdentityFile, seen) == 40 &&
              offsetof(IdentityFile, epoch) == 48 && offsetof(IdentityFile, checksum) == 56);

uint64_t ChecksumOf(const IdentityFile& file) {
  return Hash64({reinterpret_cast<const char*>(&file), offsetof(IdentityFile, checksum)});
}

Status Damaged(const std::string& path, const std::string& what) {
  return Error(Code::kCorruption,
               "{} {}. The node cannot tell from it whether its data is the newest. Put back the file; or remove it, "
               "and the node starts as with a disk that was restored: its replicas are made anew from those of other "
               "nodes, so there must be some",
               path, what);
}

ReplacedFile IdentityNames() { return {kIdentityName, kTemporaryIdentityName, /*direct=*/false}; }

Task<Status> WriteIdentity(const Directory* directory, std::string contents) {
  const ReplacedFile file = IdentityNames();
  CO_RETURN_IF_ERROR(co_await PrepareReplacement(directory, file, contents));
  co_return co_await PublishReplacement(directory, file);  // NI1
}

struct ReadMap {
  ClusterMap map;
  Revision revision = 0;
};

// Reads the whole topology, as often as it takes.
Task<Result<ReadMap>> ListMap(Topology& topology, Reactor& reactor, Nanos deadline_ns) {
  for (;;) {
    const Nanos left_ns = std::max<Nanos>(deadline_ns - reactor.NowNs(), kMillisecond);
    Result<TopologyListing> listing = co_await topology.List(std::min(left_ns, kCallTimeoutNs));
    if (listing.ok()) {
      ReadMap read;
      read.revision = listing->revision;
      for (const TopologyEntry& entry : listing->entries) CO_RETURN_IF_ERROR(read.map.Apply(entry));
      co_return read;
    }
    if (listing.code() == Code::kCorruption || listing.code() == Code::kAborted) co_return listing.TakeStatus();
    if (reactor.NowNs() >= deadline_ns) {
      co_return Error(Code::kUnavailable, "the cluster cannot be joined: {}", listing.status().message());
    }
    co_await Sleep(reactor, kRetryNs);
  }
}

// Whether the directory may be used with this topology by this node.
class Admission {
 public:
  Admission(const Topology& topology, const std::string& data_dir, NodeId node, const ReadMap& read,
            const std::optional<NodeIdentity>& stored)
      : topology_(topology), data_dir_(data_dir), node_(node), read_(read), stored_(stored) {}

  Status Check() const {
    RETURN_IF_ERROR(CheckCluster());
    if (stored_) RETURN_IF_ERROR(CheckGoesOn());
    return CheckNode();
  }

 private:
  Status CheckCluster() const {
    if (!read_.map.cluster && stored_) {
      return Error(Code::kNotFound,
                   "the topology {} holds no cluster, and {} belongs to node {} of the cluster {}: correct --topology; "
                   "if the topology is lost, stop all nodes and make it anew with: kvadmin topology recover",
                   topology_.name(), data_dir_, stored_->node, stored_->cluster_id.ToString());
    }
    if (!read_.map.cluster) {
      return Error(Code::kNotFound,
                   "the topology {} holds no cluster: correct --topology, or create the cluster with: "
                   "kvadmin cluster init",
                   topology_.name());
    }
    const ClusterRecord& cluster = read_.map.cluster->record;
    if (stored_ && stored_->cluster_id != cluster.cluster_id) {
      return Error(Code::kInvalidArgument,
                   "{} belongs to node {} of the cluster {}, but the topology {} is that of the cluster {}: correct "
                   "--data_dir or --topology; a node that moves to another cluster needs an empty directory",
                   data_dir_, stored_->node, stored_->cluster_id.ToString(), topology_.name(),
                   cluster.cluster_id.ToString());
    }
    if (cluster.creating.empty()) return Status();
    if (cluster.creating == kRecoveringMap) {
      return Error(Code::kUnavailable,
                   "the map of the cluster {} in the topology {} has not been recovered completely: run kvadmin "
                   "topology recover again",
                   cluster.cluster_id.ToString(), topology_.name());
    }
    return Error(Code::kUnavailable,
                 "the cluster {} in the topology {} has not been created completely: run kvadmin cluster init again, "
                 "as it was run before",
                 cluster.cluster_id.ToString(), topology_.name());
  }
  Status CheckGoesOn() const {
    if (read_.revision < stored_->seen) return WentBack("its revision", read_.revision, stored_->seen);
    const Epoch epoch = HighestEpoch(read_.map);
    if (epoch < stored_->epoch) return WentBack("its highest epoch", epoch, stored_->epoch);
    return Status();
  }
  Status CheckNode() const {
    if (stored_ && stored_->node != node_) {
      return Error(
          Code::kInvalidArgument,
          "{} belongs to node {}, and not to node {}: correct the number of the node or --data_dir; a new node "
          "needs an empty directory",
          data_dir_, stored_->node, node_);
    }
    const auto found = read_.map.nodes.find(node_);
    if (found == read_.map.nodes.end()) {
      return Error(Code::kNotFound,
                   "the topology {} has no node {}: correct --node_id (kvadmin cluster show lists the nodes)",
                   topology_.name(), node_);
    }
    RETURN_IF_ERROR(CheckMayStart(found->second.record));
    const uint64_t start = stored_ ? stored_->start : 0;
    const NodeRecord& record = found->second.record;
    if (JudgeDirectory(start, record) != DirectoryHistory::kTopologyWentBack) return Status();
    return WentBack(fmt::format("the number of starts of node {}", node_), record.starts, start);
  }
  Status WentBack(const std::string& what, uint64_t now, uint64_t before) const {
    return Error(
        Code::kCorruption,
        "the topology {} has gone back: {} is {}, and {} has seen {}. Has an old copy of it been restored, or "
        "another one put in its place? Bring back the newest, or stop all nodes and make it anew with kvadmin topology "
        "recover; the node does not start before",
        topology_.name(), what, now, data_dir_, before);
  }

  const Topology& topology_;
  const std::string& data_dir_;
  const NodeId node_;
  const ReadMap& read_;
  const std::optional<NodeIdentity>& stored_;
};

}  // namespace

Epoch HighestEpoch(const ClusterMap& map) {
  Epoch highest = 0;
  for (const auto& [id, partition] : map.partitions) highest = std::max(highest, partition.record.epoch);
  return highest;
}

std::string EncodeIdentity(const NodeIdentity& identity) {
  IdentityFile file = {};
  std::memcpy(file.magic, kMagic, sizeof kMagic);
  file.format = kIdentityFormat;
  file.flags = identity.renew ? kRenewFlag : 0;
  file.node = identity.node;
  file.cluster_id = identity.cluster_id;
  file.start = identity.start;
  file.seen = identity.seen;
  file.epoch = identity.epoch;
  file.checksum = ChecksumOf(file);
  return {reinterpret_cast<const char*>(&file), sizeof file};
}

Result<NodeIdentity> DecodeIdentity(std::string_view bytes, const std::string& path) {
  if (bytes.size() < sizeof(IdentityFile)) return Damaged(path, fmt::format("has only {} bytes", bytes.size()));
  const auto file = LoadLE<IdentityFile>(bytes.data());
  if (std::memcmp(file.magic, kMagic, sizeof kMagic) != 0) return Damaged(path, "does not begin with PANDOCLU");
  if (file.format > kIdentityFormat) {
    return Error(Code::kVersion, "{} has format {}, and this version of Pando knows format {}: use a newer version",
                 path, file.format, kIdentityFormat);
  }
  if (bytes.size() > sizeof(IdentityFile)) return Damaged(path, fmt::format("has {} bytes", bytes.size()));
  if (file.checksum != ChecksumOf(file)) return Damaged(path, "does not match its checksum");
  if (file.format == 0 || file.flags > kRenewFlag || file.node == 0 || file.start == 0 || file.cluster_id.IsNil()) {
    return Damaged(path, "has values that no node writes");
  }
  return NodeIdentity{file.cluster_id, file.node, file.start, file.seen, file.epoch, file.flags == kRenewFlag};
}

Task<Result<std::optional<NodeIdentity>>> LoadIdentity(Reactor& reactor, std::string data_dir) {
  const std::string path = data_dir + "/" + kIdentityName;
  Result<File> opened = co_await File::Open(reactor, path, File::Mode::kRead, /*direct=*/false);
  if (opened.code() == Code::kNotFound) co_return std::optional<NodeIdentity>();
  if (!opened.ok()) co_return opened.TakeStatus();
  File file = *std::move(opened);
  std::string bytes;
  Status status;
  Result<uint64_t> size = file.Size();
  if (size.ok()) {
    bytes.resize(std::min<uint64_t>(*size, sizeof(IdentityFile) + 1));
    status = co_await file.Read(bytes.data(), bytes.size(), 0);
  } else {
    status = size.TakeStatus();
  }
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  Result<NodeIdentity> identity = DecodeIdentity(bytes, path);
  if (!identity.ok()) co_return identity.TakeStatus();
  co_return std::optional(*std::move(identity));
}

Task<Status> StoreIdentity(Reactor& reactor, std::string data_dir, NodeIdentity identity) {
  CHECK(identity.node != 0 && identity.start != 0 && !identity.cluster_id.IsNil()) << data_dir;
  CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, data_dir));
  // Also if the directory was there: a process may have died before it synced the name.
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, ParentDirectory(data_dir)));
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(reactor, std::move(data_dir)));
  const std::string contents = EncodeIdentity(identity);
  Status status = co_await WriteIdentity(&directory, contents);
  ReplacedFile file = IdentityNames();
  if (status.ok()) co_await KeepSpare(&directory, std::move(file), contents);  // RP3: a start needs no room
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

Task<Status> StoreIdentityIn(const Directory* directory, NodeIdentity identity) {
  return WriteIdentity(directory, EncodeIdentity(identity));
}

Task<Result<JoinedStart>> BeginStart(Topology& topology, Reactor& reactor, std::string data_dir, NodeId node,
                                     Nanos timeout_ns, StartCheck check) {
  const Nanos deadline_ns = reactor.NowNs() + timeout_ns;
  Result<std::optional<NodeIdentity>> stored = co_await LoadIdentity(reactor, data_dir);
  if (!stored.ok()) co_return stored.TakeStatus();
  Result<ReadMap> read = co_await ListMap(topology, reactor, deadline_ns);
  if (!read.ok()) co_return read.TakeStatus();
  CO_RETURN_IF_ERROR(Admission(topology, data_dir, node, *read, *stored).Check());  // NI3
  const NodeIdentity before = stored->value_or(NodeIdentity());
  topology.NoteSeen(before.seen);
  JoinedStart joined;
  joined.map = std::move(read->map);
  joined.history =
      before.renew ? DirectoryHistory::kRestored : JudgeDirectory(before.start, joined.map.nodes.at(node).record);
  if (check) {
    CO_RETURN_IF_ERROR(co_await check(joined.map.cluster->record.cluster_id, joined.map.nodes.at(node).record));
  }
  const Nanos left_ns = std::max<Nanos>(deadline_ns - reactor.NowNs(), kMillisecond);
  Result<uint64_t> start = co_await RaiseStarts(topology, node, left_ns);
  if (!start.ok()) co_return start.TakeStatus();
  joined.incarnation = *start;
  joined.identity = {joined.map.cluster->record.cluster_id,
                     node,
                     *start,
                     std::max(before.seen, topology.seen()),
                     std::max(before.epoch, HighestEpoch(joined.map)),
                     joined.history == DirectoryHistory::kRestored};  // NI2
  CO_RETURN_IF_ERROR(co_await StoreIdentity(reactor, data_dir, joined.identity));
  co_return joined;
}

}  // namespace pando
