#include "src/topology/cluster_map.h"

#include <bit>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "src/base/address.h"
#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {
namespace {

using Json = nlohmann::json;  // keeps its fields in alphabetical order

constexpr uint64_t kMaxNumber = (1ull << 53) - 1;  // what every reader of JSON can represent
constexpr int kMaxDepth = 32;

std::string Hex(uint64_t number) { return fmt::format("{:016x}", number); }

// Whether the text is nested no deeper than code that recurses can bear.
bool IsShallow(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return false;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return true;
}

// Takes the known fields out of an object one by one; what is left is unknown. The first problem is
// kept, and everything after it is meaningless.
class Fields {
 public:
  Fields(Json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {
    if (!object_.is_object()) Fail("it is not an object");
  }

  uint64_t Number(const char* name, uint64_t max = kMaxNumber) {
    const Json field = Take(name);
    if (!failed_ && (!field.is_number_unsigned() || field.get<uint64_t>() > max)) {
      Fail(fmt::format("\"{}\" is not a number from 0 to {}", name, max));
    }
    return failed_ ? 0 : field.get<uint64_t>();
  }
  uint32_t Small(const char* name) { return static_cast<uint32_t>(Number(name, UINT32_MAX)); }
  // For a field that earlier versions did not write.
  uint32_t SmallOr(const char* name, uint32_t missing) {
    return failed_ || object_.contains(name) ? Small(name) : missing;
  }
  uint64_t NumberOr(const char* name, uint64_t missing) {
    return failed_ || object_.contains(name) ? Number(name) : missing;
  }
  std::string Text(const char* name) {
    const Json field = Take(name);
    if (!failed_ && !field.is_string()) Fail(fmt::format("\"{}\" is not a string", name));
    return failed_ ? "" : field.get<std::string>();
  }
  std::vector<std::string> Texts(const char* name) {
    const Json field = Take(name);
    if (!failed_ && !field.is_array()) Fail(fmt::format("\"{}\" is not an array", name));
    std::vector<std::string> texts;
    for (size_t i = 0; !failed_ && i < field.size(); ++i) {
      if (!field[i].is_string()) {
        Fail(fmt::format("{}[{}] is not a string", name, i));
      } else {
        texts.push_back(field[i].get<std::string>());
      }
    }
    return texts;
  }
  uint64_t HexNumber(const char* name) {
    const std::string text = Text(name);
    uint64_t number = 0;
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
    if (!failed_ && (error != std::errc() || text != Hex(number))) {
      Fail(fmt::format("\"{}\" is not a string of 16 hexadecimal digits", name));
    }
    return number;
  }
  Uuid Id(const char* name) {
    const std::optional<Uuid> uuid = Uuid::Parse(Text(name));
    if (!failed_ && !uuid) Fail(fmt::format("\"{}\" is not a UUID", name));
    return uuid.value_or(Uuid());
  }
  std::vector<ReplicaRecord> Replicas(const char* name) {
    const Json field = Take(name);
    if (!failed_ && !field.is_array()) Fail(fmt::format("\"{}\" is not an array", name));
    std::vector<ReplicaRecord> replicas;
    for (size_t i = 0; !failed_ && i < field.size(); ++i) {
      Fields entry(field[i], fmt::format("{}[{}]", name, i));
      ReplicaRecord replica;
      replica.node = entry.Small("node");
      replica.replica = entry.Id("replica");
      replica.unknown = entry.Rest();
      if (entry.failed_) Fail(fmt::format("in {}, {}", entry.where_, entry.problem_));
      replicas.push_back(std::move(replica));
    }
    return replicas;
  }
  // Not set: the field is missing.
  std::optional<SplitOrder> Split(const char* name) {
    if (failed_ || !object_.contains(name)) return std::nullopt;
    Fields order(Take(name), name);
    SplitOrder split;
    split.rate_mb_s = order.Small("rate_mb_s");
    split.unknown = order.Rest();
    if (order.failed_) Fail(fmt::format("in {}, {}", order.where_, order.problem_));
    return split;
  }
  void Fail(std::string problem) {
    if (!failed_) problem_ = std::move(problem);
    failed_ = true;
  }

  UnknownFields Rest() const { return failed_ || object_.empty() ? "" : object_.dump(); }
  Status status() const {
    if (!failed_) return Status();
    return Error(Code::kCorruption,
                 "the topology's value of {} is not valid: {}. It was written by something else than this version of "
                 "Pando, or changed by hand",
                 where_, problem_);
  }

 private:
  Json Take(const char* name) {
    if (failed_) return {};
    auto it = object_.find(name);
    if (it == object_.end()) {
      Fail(fmt::format("\"{}\" is missing", name));
      return {};
    }
    Json value = std::move(*it);
    object_.erase(it);
    return value;
  }

  Json object_;
  std::string where_;
  bool failed_ = false;
  std::string problem_;
};

struct Value {
  Fields fields;
  uint64_t format = 0;
};

// Parses a value as far as its format.
Result<Value> Parse(const TopologyEntry& entry) {
  Json object = IsShallow(entry.value) ? Json::parse(entry.value, nullptr, false) : Json();
  Fields fields(std::move(object), entry.key);
  const uint64_t format = fields.Number("format");
  RETURN_IF_ERROR(fields.status());
  if (format < 1 || format > kTopologyFormat) {
    return Error(Code::kVersion,
                 "the topology's value of {} has format {}, and this version of Pando knows the formats 1 to {}: use a "
                 "newer version",
                 entry.key, format, kTopologyFormat);
  }
  return Value{std::move(fields), format};
}

template <typename Record>
Result<Record> Finish(const Fields& fields, const TopologyEntry& entry, Record record) {
  record.unknown = fields.Rest();
  RETURN_IF_ERROR(fields.status());
  if (Status status = Check(record); !status.ok()) {
    return Error(Code::kCorruption, "the topology's value of {} is not valid: {}", entry.key, status.message());
  }
  return record;
}

// An object that already has the fields that this build does not know.
Json Start(const UnknownFields& unknown) { return unknown.empty() ? Json::object() : Json::parse(unknown); }

constexpr int kStatesFormat = 3;  // the first one with states of partitions
constexpr int kUsualFormat = 2;   // of values that builds before format 3 understand

Result<std::string> Finish(Json object, std::string key, int format = kUsualFormat) {
  object["format"] = format;
  std::string value = object.dump(-1, ' ', false, Json::error_handler_t::replace);
  RETURN_IF_ERROR(CheckTopologyValue(key, value));
  return value;
}

Json ToJson(const std::vector<ReplicaRecord>& replicas) {
  Json array = Json::array();
  for (const ReplicaRecord& replica : replicas) {
    Json object = Start(replica.unknown);
    object["node"] = replica.node;
    object["replica"] = replica.replica.ToString();
    array.push_back(std::move(object));
  }
  return array;
}

constexpr std::pair<NodeState, std::string_view> kNodeStates[] = {
    {NodeState::kActive, "active"}, {NodeState::kDraining, "draining"}, {NodeState::kRemoved, "removed"}};

constexpr std::pair<PartitionStage, std::string_view> kPartitionStates[] = {{PartitionStage::kServing, "serving"},
                                                                            {PartitionStage::kBuilding, "building"},
                                                                            {PartitionStage::kRetired, "retired"}};

constexpr std::pair<Replacing, std::string_view> kReplacing[] = {
    {Replacing::kAsStarted, "as-started"}, {Replacing::kOn, "on"}, {Replacing::kOff, "off"}};

// Returns the value that has this name in `names`.
template <typename T, size_t N>
T Named(const std::pair<T, std::string_view> (&names)[N], const std::string& name, const char* what, Fields* fields) {
  for (const auto& [value, known] : names) {
    if (known == name) return value;
  }
  fields->Fail(fmt::format("there is no {} \"{}\"", what, name));
  return names[0].first;
}

std::optional<uint32_t> NumberAfter(std::string_view prefix, std::string_view key) {
  if (!key.starts_with(prefix)) return std::nullopt;
  key.remove_prefix(prefix.size());
  uint32_t number = 0;
  auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), number);
  if (error != std::errc() || stop != key.data() + key.size()) return std::nullopt;
  return number;
}

template <typename... Args>
Status Broken(fmt::format_string<Args...> format, Args&&... args) {
  return Error(Code::kInvalidArgument, format, std::forward<Args>(args)...);
}

}  // namespace

std::string NodeKey(NodeId id) { return fmt::format("node/{}", id); }
std::string PartitionKey(uint32_t id) { return fmt::format("partition/{:05}", id); }

std::optional<NodeId> NodeOfKey(std::string_view key) {
  const std::optional<uint32_t> id = NumberAfter("node/", key);
  return id && *id > 0 && NodeKey(*id) == key ? id : std::nullopt;
}

std::optional<uint32_t> PartitionOfKey(std::string_view key) {
  const std::optional<uint32_t> id = NumberAfter("partition/", key);
  return id && PartitionKey(*id) == key ? id : std::nullopt;
}

Uuid PartitionUuid(const Uuid& cluster_id, uint32_t id) {
  std::string bytes;
  ByteWriter writer(&bytes);
  writer.Fixed(cluster_id.hi);
  writer.Fixed(cluster_id.lo);
  writer.Fixed(id);
  return HashUuid(bytes);
}

namespace {

Status CheckOpId(const std::string& op_id) {
  if (op_id.size() <= kMaxOpIdBytes) return Status();
  return Broken("an op_id of {} bytes: it must have at most {}", op_id.size(), kMaxOpIdBytes);
}

Status CheckAddresses(const NodeRecord& r) {
  if (r.client_address.empty() && r.peer_addresses.empty()) {
    if (r.opened == 0) return Status();
    return Broken("node {} has been started, and has no address", r.id);
  }
  RETURN_IF_ERROR(ParseHostPort(r.client_address).status());
  if (r.peer_addresses.empty() || r.peer_addresses.size() > kMaxPeerAddresses) {
    return Broken("node {} has {} addresses for other nodes: it must have 1 to {}", r.id, r.peer_addresses.size(),
                  kMaxPeerAddresses);
  }
  for (const std::string& address : r.peer_addresses) RETURN_IF_ERROR(ParseHostPort(address).status());
  return Status();
}

}  // namespace

Status Check(const ClusterRecord& r) {
  if (r.cluster_id.IsNil()) return Broken("the cluster has no ID");
  if (r.protocol == 0) return Broken("the protocol version is 0");
  if (!std::has_single_bit(r.partitions) || r.partitions > kMaxPartitions) {
    return Broken("{} partitions: it must be a power of two, up to {}", r.partitions, kMaxPartitions);
  }
  if (r.replicas == 0 || r.replicas > kMaxReplicas) {
    return Broken("{} replicas: it must be 1 to {}", r.replicas, kMaxReplicas);
  }
  if (r.min_isr == 0 || r.min_isr > r.replicas) {
    return Broken("min_isr is {}: it must be 1 to {}, the number of replicas", r.min_isr, r.replicas);
  }
  return CheckOpId(r.op_id);
}

Status Check(const NodeRecord& r) {
  if (r.id == 0) return Broken("the node has no ID");
  RETURN_IF_ERROR(CheckAddresses(r));
  if (r.protocol_min == 0 || r.protocol_min > r.protocol_max) {
    return Broken("node {} cannot speak the protocol versions {} to {}", r.id, r.protocol_min, r.protocol_max);
  }
  if (r.weight == 0 || r.weight > kMaxNodeWeight) {
    return Broken("the weight of node {} is {}: it must be 1 to {}", r.id, r.weight, kMaxNodeWeight);
  }
  if (r.opened > r.starts) return Broken("node {} has opened start {} of {}", r.id, r.opened, r.starts);
  return CheckOpId(r.op_id);
}

Status Check(const PartitionRecord& r) {
  if (r.id >= kMaxPartitions) return Broken("there cannot be a partition {}", r.id);
  if (r.first_hash > r.last_hash) return Broken("partition {} ends before it begins", r.id);
  if (r.lineage == 0 || r.epoch == 0) return Broken("partition {} has lineage or epoch 0", r.id);
  if (r.lineage > kMaxNumber || r.epoch > kMaxNumber) {
    return Broken("partition {} has lineage {} and epoch {}: no reader of JSON takes more than {}", r.id, r.lineage,
                  r.epoch, kMaxNumber);
  }
  if (r.split && r.state != PartitionStage::kServing) {
    return Broken("partition {} is being split, and does not serve", r.id);
  }
  if (r.opened_lsn > kMaxNumber || (r.opened_lsn != 0 && r.state == PartitionStage::kBuilding)) {
    return Broken("partition {} cannot have been opened at LSN {}", r.id, r.opened_lsn);
  }
  if (r.replicas == 0 || r.replicas > kMaxReplicas) {
    return Broken("partition {} should have {} replicas: it must be 1 to {}", r.id, r.replicas, kMaxReplicas);
  }
  if (r.min_isr == 0 || r.isr.size() < r.min_isr) {
    return Broken("partition {} has an ISR of {}, and min_isr is {}: the ISR may not have fewer, nor min_isr be 0",
                  r.id, r.isr.size(), r.min_isr);
  }
  std::set<Uuid> uuids;
  std::set<NodeId> isr_nodes;
  bool has_master = false;
  for (const auto* list : {&r.isr, &r.evicted, &r.learners}) {
    for (const ReplicaRecord& replica : *list) {
      if (replica.node == 0 || replica.replica.IsNil()) return Broken("partition {} has a replica without an ID", r.id);
      if (!uuids.insert(replica.replica).second) {
        return Broken("partition {} names replica {} twice", r.id, replica.replica.ToString());
      }
      if (list != &r.isr) continue;
      has_master |= replica.replica == r.master;
      if (!isr_nodes.insert(replica.node).second) {
        return Broken("partition {} has two members of its ISR on node {}", r.id, replica.node);
      }
    }
  }
  if (!has_master) return Broken("partition {}: its master {} is not in the ISR", r.id, r.master.ToString());
  if (uuids.size() > kMaxReplicas) return Broken("partition {} has {} replicas", r.id, uuids.size());
  return CheckOpId(r.op_id);
}

Status Check(const ControllerRecord& r) {
  if (r.holder == 0 && r.incarnation != 0) return Broken("the controller has a process, and no node");
  return CheckOpId(r.op_id);
}

Result<std::string> Encode(const ClusterRecord& r) {
  RETURN_IF_ERROR(Check(r));
  Json object = Start(r.unknown);
  object["cluster_id"] = r.cluster_id.ToString();
  object["creating"] = r.creating;
  object["min_isr"] = r.min_isr;
  object["op_id"] = r.op_id;
  object["partitions"] = r.partitions;
  object["protocol"] = r.protocol;
  object["replicas"] = r.replicas;
  return Finish(std::move(object), std::string(kClusterKey));
}

Result<std::string> Encode(const NodeRecord& r) {
  RETURN_IF_ERROR(Check(r));
  Json object = Start(r.unknown);
  object["client_address"] = r.client_address;
  object["op_id"] = r.op_id;
  object["opened"] = r.opened;
  object["peer_addresses"] = r.peer_addresses;
  object["protocol_max"] = r.protocol_max;
  object["protocol_min"] = r.protocol_min;
  object["starts"] = r.starts;
  object["state"] = kNodeStates[static_cast<size_t>(r.state)].second;
  object["weight"] = r.weight;
  object["zone"] = r.zone;
  return Finish(std::move(object), NodeKey(r.id));
}

Result<std::string> Encode(const PartitionRecord& r) {
  RETURN_IF_ERROR(Check(r));
  Json object = Start(r.unknown);
  object["epoch"] = r.epoch;
  object["evicted"] = ToJson(r.evicted);
  object["first_hash"] = Hex(r.first_hash);
  object["isr"] = ToJson(r.isr);
  object["last_hash"] = Hex(r.last_hash);
  object["learners"] = ToJson(r.learners);
  object["lineage"] = r.lineage;
  object["master"] = r.master.ToString();
  object["min_isr"] = r.min_isr;
  object["op_id"] = r.op_id;
  object["replicas"] = r.replicas;
  if (r.state == PartitionStage::kServing && !r.split && r.opened_lsn == 0) {
    return Finish(std::move(object), PartitionKey(r.id));
  }
  if (r.opened_lsn != 0) object["opened_lsn"] = r.opened_lsn;
  object["state"] = kPartitionStates[static_cast<size_t>(r.state)].second;
  if (r.split) {
    Json split = Start(r.split->unknown);
    split["rate_mb_s"] = r.split->rate_mb_s;
    object["split"] = std::move(split);
  }
  return Finish(std::move(object), PartitionKey(r.id), kTopologyFormat);
}

Result<std::string> Encode(const ControllerRecord& r) {
  RETURN_IF_ERROR(Check(r));
  Json object = Start(r.unknown);
  object["holder"] = r.holder;
  object["incarnation"] = r.incarnation;
  object["op_id"] = r.op_id;
  object["renewed"] = r.renewed;
  object["replacing"] = kReplacing[static_cast<size_t>(r.replacing)].second;
  return Finish(std::move(object), std::string(kControllerKey));
}

Result<ClusterRecord> DecodeCluster(const TopologyEntry& entry) {
  ASSIGN_OR_RETURN(Value value, Parse(entry));
  Fields& fields = value.fields;
  ClusterRecord r;
  r.cluster_id = fields.Id("cluster_id");
  if (value.format > 1) r.creating = fields.Text("creating");
  r.min_isr = fields.Small("min_isr");
  r.op_id = fields.Text("op_id");
  r.partitions = fields.Small("partitions");
  r.protocol = fields.Small("protocol");
  r.replicas = fields.Small("replicas");
  return Finish(fields, entry, std::move(r));
}

Result<NodeRecord> DecodeNode(const TopologyEntry& entry) {
  ASSIGN_OR_RETURN(Value value, Parse(entry));
  Fields& fields = value.fields;
  NodeRecord r;
  r.id = NodeOfKey(entry.key).value_or(0);
  r.client_address = fields.Text("client_address");
  r.op_id = fields.Text("op_id");
  r.opened = fields.Number("opened");
  if (value.format == 1) {  // one address, whatever the number of reactors
    r.peer_addresses.push_back(fields.Text("peer_address"));
  } else {
    r.peer_addresses = fields.Texts("peer_addresses");
  }
  r.protocol_max = fields.Small("protocol_max");
  r.protocol_min = fields.Small("protocol_min");
  r.starts = fields.Number("starts");
  r.state = Named(kNodeStates, fields.Text("state"), "state", &fields);
  r.weight = fields.SmallOr("weight", 1);
  r.zone = fields.Text("zone");
  return Finish(fields, entry, std::move(r));
}

Result<PartitionRecord> DecodePartition(const TopologyEntry& entry) {
  ASSIGN_OR_RETURN(Value value, Parse(entry));
  Fields& fields = value.fields;
  PartitionRecord r;
  const std::optional<uint32_t> id = PartitionOfKey(entry.key);
  if (!id) fields.Fail("this is not the key of a partition");
  r.id = id.value_or(0);
  r.epoch = fields.Number("epoch");
  r.evicted = fields.Replicas("evicted");
  r.first_hash = fields.HexNumber("first_hash");
  r.isr = fields.Replicas("isr");
  r.last_hash = fields.HexNumber("last_hash");
  r.learners = fields.Replicas("learners");
  r.lineage = fields.Number("lineage");
  r.master = fields.Id("master");
  r.min_isr = fields.Small("min_isr");
  r.op_id = fields.Text("op_id");
  r.replicas = fields.Small("replicas");
  if (value.format >= kStatesFormat) {
    r.state = Named(kPartitionStates, fields.Text("state"), "state", &fields);
    r.split = fields.Split("split");
    r.opened_lsn = fields.NumberOr("opened_lsn", 0);
  }
  return Finish(fields, entry, std::move(r));
}

Result<ControllerRecord> DecodeController(const TopologyEntry& entry) {
  ASSIGN_OR_RETURN(Value value, Parse(entry));
  Fields& fields = value.fields;
  ControllerRecord r;
  r.holder = fields.Small("holder");
  r.incarnation = fields.Number("incarnation");
  r.op_id = fields.Text("op_id");
  r.renewed = fields.Number("renewed");
  r.replacing = Named(kReplacing, fields.Text("replacing"), "way of replacing", &fields);
  return Finish(fields, entry, std::move(r));
}

std::optional<std::string> OpIdOf(const std::string& value) {
  if (!IsShallow(value)) return std::nullopt;
  const Json object = Json::parse(value, nullptr, false);
  if (!object.is_object()) return std::nullopt;
  Fields fields(object, "");
  std::string op_id = fields.Text("op_id");
  return fields.status().ok() ? std::optional(std::move(op_id)) : std::nullopt;
}

Status ClusterMap::Apply(const TopologyEntry& entry) {
  if (entry.key == kClusterKey) {
    ASSIGN_OR_RETURN(ClusterRecord record, DecodeCluster(entry));
    cluster = {std::move(record), entry.revision};
  } else if (const std::optional<NodeId> node = NodeOfKey(entry.key)) {
    ASSIGN_OR_RETURN(NodeRecord record, DecodeNode(entry));
    nodes[*node] = {std::move(record), entry.revision};
  } else if (const std::optional<uint32_t> id = PartitionOfKey(entry.key)) {
    ASSIGN_OR_RETURN(PartitionRecord record, DecodePartition(entry));
    partitions[*id] = {std::move(record), entry.revision};
  } else if (entry.key == kControllerKey) {
    ASSIGN_OR_RETURN(ControllerRecord record, DecodeController(entry));
    controller = {std::move(record), entry.revision};
  }
  return Status();
}

bool ClusterMap::Serves(uint32_t id) const {
  const auto at = partitions.find(id);
  if (at == partitions.end()) return false;
  std::optional<PartitionStage> of_whole;
  const std::optional<uint32_t> whole = cluster ? WholeOf(id, cluster->record.partitions) : std::nullopt;
  const auto found = whole ? partitions.find(*whole) : partitions.end();
  if (found != partitions.end()) of_whole = found->second.record.state;
  return ServesIn(at->second.record.state, of_whole);
}

std::vector<uint32_t> ClusterMap::Serving() const {
  std::vector<uint32_t> serving;
  for (const auto& [id, partition] : partitions) {
    if (Serves(id)) serving.push_back(id);
  }
  return serving;
}

std::vector<std::string> ClusterMap::Problems() const {
  std::vector<std::string> problems;
  if (!cluster) problems.push_back("there is no cluster record: the cluster has not been created");
  if (cluster && !cluster->record.creating.empty()) {
    problems.push_back("the cluster has not been created completely: run kvadmin cluster init again, as before");
  }
  std::map<uint64_t, const PartitionRecord*> by_hash;
  for (const auto& [id, partition] : partitions) {
    const PartitionRecord& r = partition.record;
    if (!Serves(id)) continue;
    if (auto [it, fresh] = by_hash.emplace(r.first_hash, &r); !fresh) {
      problems.push_back(fmt::format("partitions {} and {} begin at the same hash", it->second->id, id));
    }
    for (const auto* list : {&r.isr, &r.evicted, &r.learners}) {
      for (const ReplicaRecord& replica : *list) {
        auto node = nodes.find(replica.node);
        if (node != nodes.end() && node->second.record.state != NodeState::kRemoved) continue;
        problems.push_back(fmt::format("partition {} has a replica on node {}, which is not there", id, replica.node));
      }
    }
  }
  uint64_t next = 0;
  bool covered = false;  // up to the last hash
  for (const auto& [first, r] : by_hash) {
    if (covered || first < next) {
      problems.push_back(fmt::format("the hash range of partition {} overlaps that of another", r->id));
    } else if (first > next) {
      problems.push_back(fmt::format("no partition has the hashes {} to {}", Hex(next), Hex(first - 1)));
    }
    covered |= r->last_hash == UINT64_MAX;
    next = r->last_hash + 1;
  }
  if (!covered) problems.push_back(fmt::format("no partition has the hashes {} to {}", Hex(next), Hex(UINT64_MAX)));
  if (!problems.empty()) return problems;
  for (const auto& [id, partition] : partitions) {
    const PartitionRecord& r = partition.record;
    if (std::pair(r.first_hash, r.last_hash) == HashRangeOf(id, cluster->record.partitions)) continue;
    problems.push_back(fmt::format("the record of partition {} has a range that is not the one of this number", id));
  }
  return problems;
}

}  // namespace pando
