#include "tools/kvadmin/plan_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "src/base/hash.h"
#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/durable.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

using Json = nlohmann::json;  // keeps its fields in alphabetical order

constexpr int kPlanFormat = 1;
constexpr size_t kMaxPlanBytes = 64 << 20;
constexpr std::pair<Wanted, std::string_view> kWanted[] = {
    {Wanted::kRun, "run"}, {Wanted::kPause, "pause"}, {Wanted::kAbort, "abort"}};

// Of the object without its checksum. How the file is indented does not matter.
std::string ChecksumOf(Json object) {
  object.erase("checksum");
  return fmt::format("{:016x}", Hash64(object.dump()));
}

Json ToJson(const PlanFile& plan) {
  Json nodes = Json::array(), partitions = Json::array(), moves = Json::array();
  for (const auto& [id, node] : plan.nodes) {
    nodes.push_back(Json{{"id", id},
                         {"zone", node.zone},
                         {"weight", node.weight},
                         {"share_bytes", node.load.share},
                         {"bytes_before", node.load.before},
                         {"bytes_after", node.load.after},
                         {"replicas_before", node.load.replicas_before},
                         {"replicas_after", node.load.replicas_after}});
  }
  for (const auto& [id, p] : plan.partitions) {
    partitions.push_back(Json{{"id", id}, {"epoch", p.epoch}, {"lineage", p.lineage}, {"nodes", p.nodes}});
  }
  for (const ReplicaMove& move : plan.moves) {
    moves.push_back(Json{{"partition", move.partition}, {"from", move.from}, {"to", move.to}, {"bytes", move.bytes}});
  }
  return Json{{"pando_plan", kPlanFormat},
              {"kind", plan.kind},
              {"cluster_id", plan.cluster_id.ToString()},
              {"topology_revision", plan.revision},
              {"made_at_ms", plan.made_at_ms},
              {"mb_per_s", plan.mb_per_s},
              {"eta_s", plan.eta_s},
              {"nodes", nodes},
              {"partitions", partitions},
              {"moves", moves}};
}

PlanFile FromJson(const Json& object) {
  PlanFile plan;
  plan.kind = object.at("kind").get<std::string>();
  plan.cluster_id = Uuid::Parse(object.at("cluster_id").get<std::string>()).value_or(Uuid());
  plan.revision = object.at("topology_revision").get<Revision>();
  plan.made_at_ms = object.at("made_at_ms").get<int64_t>();
  plan.mb_per_s = object.at("mb_per_s").get<uint64_t>();
  plan.eta_s = object.at("eta_s").get<uint64_t>();
  for (const Json& j : object.at("nodes")) {
    PlannedNode& node = plan.nodes[j.at("id").get<NodeId>()];
    node.zone = j.at("zone").get<std::string>();
    node.weight = j.at("weight").get<uint32_t>();
    node.load = {j.at("share_bytes").get<uint64_t>(), j.at("bytes_before").get<uint64_t>(),
                 j.at("bytes_after").get<uint64_t>(), j.at("replicas_before").get<size_t>(),
                 j.at("replicas_after").get<size_t>()};
  }
  for (const Json& j : object.at("partitions")) {
    plan.partitions[j.at("id").get<uint32_t>()] = {j.at("lineage").get<uint64_t>(), j.at("epoch").get<Epoch>(),
                                                   j.at("nodes").get<std::vector<NodeId>>()};
  }
  for (const Json& j : object.at("moves")) {
    plan.moves.push_back({j.at("partition").get<uint32_t>(), j.at("from").get<NodeId>(), j.at("to").get<NodeId>(),
                          j.at("bytes").get<uint64_t>()});
    (void)plan.partitions.at(plan.moves.back().partition);
  }
  plan.checksum = object.at("checksum").get<std::string>();
  return plan;
}

Status Damaged(const std::string& path, const std::string& what) {
  return Error(
      Code::kCorruption,
      "{} {}: it is no plan of kvadmin rebalance plan or node drain, or was changed since. Make a new one; what "
      "it has begun, kvadmin cluster show lists as learners",
      path, what);
}

Status DamagedState(const std::string& state, const std::string& what) {
  return Error(
      Code::kCorruption,
      "{} {}. It says only whether the plan is to run, to pause or to be aborted; how far it has come is read from "
      "the topology. Remove the file, and say again what is wanted",
      state, what);
}

Result<std::string> ReadAll(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    if (errno == ENOENT) return Error(Code::kNotFound, "there is no file {}", path);
    return ErrnoError(errno, "open {}", path);
  }
  std::string bytes;
  char piece[65536];
  ssize_t got = 0;
  while (bytes.size() <= kMaxPlanBytes && (got = ::read(descriptor, piece, sizeof piece)) > 0) {
    bytes.append(piece, static_cast<size_t>(got));
  }
  const int error = errno;
  ::close(descriptor);
  if (got < 0) return ErrnoError(error, "read {}", path);
  return bytes;
}

// Replaces the file as a whole, durably; or creates it, and fails if it is there.
Status WriteAll(const std::string& path, const std::string& bytes, bool replace) {
  Status status = WriteDurably(path, bytes, replace);
  if (status.code() != Code::kAlreadyExists) return status;
  return Error(Code::kAlreadyExists,
               "{} is there already. If it is a plan that was not finished, kvadmin rebalance resume {} goes on with "
               "it; otherwise remove it, or name another file with -o",
               path, path);
}

}  // namespace

std::string EncodePlan(PlanFile* plan) {
  Json object = ToJson(*plan);
  plan->checksum = ChecksumOf(object);
  object["checksum"] = plan->checksum;
  return object.dump(1) + "\n";
}

Result<PlanFile> DecodePlan(std::string_view bytes, const std::string& path) {
  const Json object = Json::parse(bytes, nullptr, false);
  if (!object.is_object() || !object.contains("pando_plan")) return Damaged(path, "is not a plan");
  const Json& format = object["pando_plan"];
  if (format.is_number_unsigned() && format.get<uint64_t>() > kPlanFormat) {
    return Error(Code::kVersion, "{} is a plan of format {}, and this version of Pando knows format {}", path,
                 format.get<uint64_t>(), kPlanFormat);
  }
  if (object.value("checksum", Json()) != Json(ChecksumOf(object))) return Damaged(path, "does not match its checksum");
  try {
    return FromJson(object);
  } catch (const std::exception& e) {
    return Damaged(path, fmt::format("lacks something ({})", e.what()));
  }
}

Status WritePlan(const std::string& path, PlanFile* plan) { return WriteAll(path, EncodePlan(plan), false); }

Result<PlanFile> ReadPlan(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadAll(path));
  return DecodePlan(bytes, path);
}

Result<Wanted> ReadWanted(const std::string& path, const PlanFile& plan) {
  const std::string state = path + ".state";
  Result<std::string> bytes = ReadAll(state);
  if (bytes.code() == Code::kNotFound) return Wanted::kRun;
  RETURN_IF_ERROR(bytes.status());
  const Json object = Json::parse(*bytes, nullptr, false);
  if (!object.is_object()) return DamagedState(state, "is not the state of a plan");
  if (object.value("plan", Json()) != Json(plan.checksum)) return Wanted::kRun;  // PF1
  for (const auto& [wanted, name] : kWanted) {
    if (object.value("wanted", Json()) == Json(name)) return wanted;
  }
  return DamagedState(state, "says neither run, pause nor abort");
}

Status WriteWanted(const std::string& path, const PlanFile& plan, Wanted wanted) {
  const Json object{{"pando_plan_state", kPlanFormat},
                    {"plan", plan.checksum},
                    {"wanted", kWanted[static_cast<size_t>(wanted)].second}};
  return WriteAll(path + ".state", object.dump() + "\n", true);
}

PlanLock::~PlanLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status PlanLock::TryLock(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoError(errno, "open {}", path);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
    descriptor_ = descriptor;
    return Status();
  }
  const int error = errno;
  ::close(descriptor);
  if (error != EWOULDBLOCK) return ErrnoError(error, "lock {}", path);
  return Error(Code::kLocked, "another kvadmin carries the plan {} out", path);
}

PlanProgress JudgePlanned(const PlannedPartition& planned, const std::vector<ReplicaMove>& moves,
                          const ClusterMap& map) {
  using State = PlanProgress::State;
  const uint32_t id = moves.front().partition;
  const auto known = map.partitions.find(id);
  if (known == map.partitions.end()) {
    return {State::kStale, 0, fmt::format("the cluster has no partition {}", id)};
  }
  const PartitionRecord& record = known->second.record;
  if (!IsInUse(map, id)) return {State::kStale, 0, CheckPartition(map, id).message()};
  std::set<NodeId> now, stage(planned.nodes.begin(), planned.nodes.end());
  for (const auto* list : {&record.isr, &record.evicted, &record.learners}) {
    for (const ReplicaRecord& replica : *list) now.insert(replica.node);
  }
  for (size_t done = 0; done <= moves.size(); ++done) {
    if (now == stage && done == moves.size()) return {State::kDone, done, ""};
    if (now == stage && record.lineage != planned.lineage) {
      return {State::kStale, done, "a failover of it was forced since the plan was made"};
    }
    if (now == stage && record.split) return {State::kStale, done, "it is being split"};
    if (now == stage) {
      const auto to = map.nodes.find(moves[done].to);
      const bool active = to != map.nodes.end() && to->second.record.state == NodeState::kActive;
      if (active) return {State::kLeft, done, ""};
      return {State::kStale, done, fmt::format("node {} takes no replicas any more", moves[done].to)};
    }
    if (done == moves.size()) break;
    stage.insert(moves[done].to);
    if (now == stage) return {State::kBegun, done, ""};
    stage.erase(moves[done].from);
  }
  return {State::kStale, 0,
          fmt::format("its replicas are on {} now, and were on {} when the plan was made",
                      NamedNodes({now.begin(), now.end()}), NamedNodes(planned.nodes))};
}

}  // namespace pando::admin
