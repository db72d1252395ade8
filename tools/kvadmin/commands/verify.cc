// kvadmin verify: compares the contents of the replicas of partitions, at equal LSNs.
//
// Threads: one.
#include <algorithm>
#include <memory>

#include "src/base/counted.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/replica_compare.h"
#include "tools/kvadmin/split_stage.h"

namespace pando::admin {

namespace {

struct VerifyOptions {
  std::string place;
  std::vector<std::string> partitions;
  int64_t timeout_s = 30;
};

enum class Verdict { kEqual, kDiffer, kUnknown };

std::string_view NameOfVerdict(Verdict verdict) {
  switch (verdict) {
    case Verdict::kEqual: return "equal";
    case Verdict::kDiffer: return "differ";
    case Verdict::kUnknown: return "unknown";
  }
  return "?";
}

// Stored keys begin with 4 bytes of their namespace, which is 0 for those of clients.
struct ShownKey {
  std::string key;
  std::string of;  // "" or what other namespace it is in
};
ShownKey ShowKey(const std::string& stored, bool namespaced) {
  constexpr size_t kPrefix = 4;
  if (!namespaced || stored.size() < kPrefix) return {stored, ""};
  const std::string prefix = stored.substr(0, kPrefix);
  const std::string key = stored.substr(kPrefix);
  if (prefix == std::string(kPrefix, '\0')) return {key, ""};
  if (prefix == "\xff\xff\xff\xff") return {key, "what the store remembers of a client"};
  return {key, "namespace " + HexEncode(prefix)};
}

std::string RecordText(const api::StoredRecord* record) {
  if (record == nullptr) return "no such record";
  return fmt::format("version {}, {} bytes, hash {:016x}{}", VersionText(record->version), record->value_bytes,
                     static_cast<uint64_t>(record->value_hash),
                     record->expires_at_ms == 0 ? "" : ", expires " + TimeText(record->expires_at_ms));
}

Json StoredRecordJson(const api::StoredRecord* record) {
  if (record == nullptr) return nullptr;
  return Json{{"version", VersionText(record->version)},
              {"expires_at_ms", record->expires_at_ms},
              {"bytes", record->value_bytes},
              {"value_hash", fmt::format("{:016x}", static_cast<uint64_t>(record->value_hash))}};
}

class Verifier {
 public:
  Verifier(const Globals& globals, const VerifyOptions& options, const ClusterView& view)
      : globals_(globals), o_(options), view_(view) {}
  Result<Verdict> Verify(uint32_t partition);

 private:
  struct Holder {
    NodeId node = 0;
    std::unique_ptr<Client> client;
  };
  // The replicas in sync; the others are named.
  std::vector<Holder> HoldersOf(uint32_t partition);
  Result<Verdict> ComparePair(uint32_t partition, Holder* a, Holder* b);
  Status ShowDifference(uint32_t partition, const Holder& a, const Holder& b, const EqualPoint& at,
                        ReplicaComparer* comparer);
  void Say(uint32_t partition, Verdict verdict, std::string text, Json json);

  const Globals& globals_;
  const VerifyOptions& o_;
  const ClusterView& view_;
  std::vector<NodeId> left_out_;
  std::optional<api::AggregateReplicaReply> last_;
};

void Verifier::Say(uint32_t partition, Verdict verdict, std::string text, Json json) {
  if (globals_.json) {
    Json line{{"partition", partition}, {"verdict", NameOfVerdict(verdict)}};
    line.update(json);
    return PrintJson(line);
  }
  tools::Print("partition {}: {}\n", partition, Printable(text, Encoding::kText));
}

std::vector<Verifier::Holder> Verifier::HoldersOf(uint32_t partition) {
  std::vector<Holder> holders;
  left_out_.clear();
  const PartitionRecord& record = view_.map.partitions.at(partition).record;
  std::map<NodeId, bool> in_sync;
  for (const auto* others : {&record.evicted, &record.learners}) {
    for (const ReplicaRecord& r : *others) in_sync[r.node] = false;
  }
  for (const ReplicaRecord& r : record.isr) in_sync[r.node] = true;
  if (const ClusterView::Master master = view_.MasterOf(partition); master.status != nullptr) {
    in_sync = {{master.node, true}};
    for (const api::FollowerStatus& f : master.status->followers) in_sync[static_cast<NodeId>(f.node)] = f.in_sync;
  }
  for (const auto& [node, counts] : in_sync) {
    if (!counts || !view_.IsReachable(node)) {
      left_out_.push_back(node);
      continue;
    }
    holders.push_back({node, std::make_unique<Client>(
                                 Target{view_.map.nodes.at(node).record.client_address, globals_.target.timeout_ms})});
  }
  return holders;
}

Status Verifier::ShowDifference(uint32_t partition, const Holder& a, const Holder& b, const EqualPoint& at,
                                ReplicaComparer* comparer) {
  Json json{{"nodes", {a.node, b.node}}, {"lsn", at.first.lsn}, {"same_history", at.same_history()}};
  std::string text = fmt::format(
      "the replicas of the nodes {} and {} differ at LSN {}: {} and {} records, {} and {} "
      "bytes, content hash {:016x} and {:016x}",
      a.node, b.node, at.first.lsn, at.first.count, at.second.count, at.first.bytes, at.second.bytes,
      static_cast<uint64_t>(at.first.content_hash), static_cast<uint64_t>(at.second.content_hash));
  if (!at.same_history()) text += "; they have applied different logs";
  if (at.same_content()) {
    Say(partition, Verdict::kDiffer, std::move(text), std::move(json));
    return Status();
  }
  Result<std::optional<Difference>> located = comparer->Locate();
  if (located.code() == Code::kAborted) return located.TakeStatus();
  if (!located.ok()) {
    json["not_located"] = located.status().message();
    text += fmt::format("; where was not found: {}", located.status().message());
  } else if (!*located) {
    text += "; the records that differed have been written again since";
  } else if ((*located)->key.empty()) {
    text += "; only records differ that have expired";
  } else {
    const Difference& d = **located;
    const ShownKey key = ShowKey(d.key, d.at.first.namespaced);
    Json first;
    SetBytes(&first, "key", key.key);
    if (!key.of.empty()) first["of"] = key.of;
    first[std::to_string(a.node)] = StoredRecordJson(d.first);
    first[std::to_string(b.node)] = StoredRecordJson(d.second);
    json["first"] = first;
    text += fmt::format("; the first that differs is {}{} (node {}: {}; node {}: {})",
                        Printable(key.key, Encoding::kText), key.of.empty() ? "" : " (" + key.of + ")", a.node,
                        RecordText(d.first), b.node, RecordText(d.second));
  }
  json["requests"] = comparer->requests();
  Say(partition, Verdict::kDiffer, std::move(text), std::move(json));
  return Status();
}

Result<Verdict> Verifier::ComparePair(uint32_t partition, Holder* a, Holder* b) {
  auto ask = [](Client* client) {
    return [client](const api::AggregateReplicaRequest& request) {
      return client->Call(Client::Repeat::kSafe, &api::ClusterIf::aggregateReplica, request);
    };
  };
  ReplicaComparer comparer(partition, ask(a->client.get()), ask(b->client.get()),
                           ReplicaComparer::Clock::now() + std::chrono::seconds(o_.timeout_s));
  Result<EqualPoint> at = comparer.Compare({});
  if (at.code() == Code::kAborted) return at.TakeStatus();
  if (!at.ok()) {
    Say(partition, Verdict::kUnknown,
        fmt::format("the replicas of the nodes {} and {} were not compared: {}", a->node, b->node,
                    at.status().message()),
        Json{{"nodes", {a->node, b->node}}, {"why", at.status().message()}});
    return Verdict::kUnknown;
  }
  last_ = at->first;
  if (at->same_history() && at->same_content()) return Verdict::kEqual;
  RETURN_IF_ERROR(ShowDifference(partition, *a, *b, *at, &comparer));
  return Verdict::kDiffer;
}

Result<Verdict> Verifier::Verify(uint32_t partition) {
  std::vector<Holder> holders = HoldersOf(partition);
  std::vector<NodeId> compared;
  for (const Holder& holder : holders) compared.push_back(holder.node);
  if (holders.size() < 2) {
    Say(partition, Verdict::kUnknown,
        fmt::format("there are not two replicas that are in sync and answer; left out: {}", NodesText(left_out_)),
        Json{{"nodes", compared}, {"left_out", left_out_}});
    return Verdict::kUnknown;
  }
  Verdict verdict = Verdict::kEqual;
  for (size_t i = 1; i < holders.size(); ++i) {
    ASSIGN_OR_RETURN(const Verdict of_pair, ComparePair(partition, &holders[0], &holders[i]));
    if (of_pair == Verdict::kDiffer || verdict == Verdict::kEqual) verdict = of_pair;
  }
  if (verdict != Verdict::kEqual) return verdict;
  const std::string hash = fmt::format("{:016x}", static_cast<uint64_t>(last_->content_hash));
  Say(partition, verdict,
      fmt::format("the {} replicas of the nodes {} are equal at LSN {}: {} records, {}, content hash {}{}",
                  compared.size(), NodesText(compared), last_->lsn, last_->count,
                  tools::HumanBytes(static_cast<double>(last_->bytes)), hash,
                  left_out_.empty() ? "" : fmt::format("; left out, not in sync: {}", NodesText(left_out_))),
      Json{{"nodes", compared},
           {"left_out", left_out_},
           {"epoch", last_->epoch},
           {"lsn", last_->lsn},
           {"count", last_->count},
           {"bytes", last_->bytes},
           {"content_hash", hash}});
  return verdict;
}

Result<std::vector<uint32_t>> Chosen(const ClusterView& view, const std::vector<std::string>& named) {
  std::vector<uint32_t> chosen;
  for (const std::string& text : named) {
    const std::optional<uint32_t> id = tools::ParseNumber<uint32_t>(text);
    if (!id) return Error(Code::kInvalidArgument, "there is no partition {}: it is not a number", text);
    RETURN_IF_ERROR(CheckPartition(view.map, *id));
    chosen.push_back(*id);
  }
  if (!named.empty()) return chosen;
  for (const auto& [id, record] : view.map.partitions) {
    if (IsInUse(view.map, id)) chosen.push_back(id);
  }
  return chosen;
}

Result<ExitCode> RunVerify(const Globals& globals, const VerifyOptions& options) {
  tools::Interrupts::Install();
  ASSIGN_OR_RETURN(const ClusterView view, LookAtCluster(globals.target, options.place));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> chosen, Chosen(view, options.partitions));
  Verifier verifier(globals, options, view);
  size_t count[3] = {};
  for (const uint32_t partition : chosen) {
    ASSIGN_OR_RETURN(const Verdict verdict, verifier.Verify(partition));
    ++count[static_cast<int>(verdict)];
  }
  const size_t equal = count[0], differ = count[1], unknown = count[2];
  if (globals.json) {
    PrintJson(Json{{"equal", equal}, {"differ", differ}, {"unknown", unknown}});
  } else {
    tools::Print("{} {} equal on all replicas, {} {}, {} not compared\n", Counted(equal, "partition"),
                 equal == 1 ? "is" : "are", differ, differ == 1 ? "differs" : "differ", unknown);
  }
  if (differ != 0) return kExitNo;
  return unknown == 0 ? kExitOk : kExitFailed;
}

}  // namespace

void AddVerifyCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<VerifyOptions>();
  tools::Command command = app.Add("verify", "Compare the replicas of partitions with each other");
  command.Texts("partition", &o->partitions, "Their numbers (default: all)");
  command.Number("--timeout-s", &o->timeout_s, "For two replicas of a partition", 1, 24LL * 3600).ShowDefault();
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Footer(
      "Compares the number, the bytes and the content hash of all records, at an equal LSN, which takes O(log n). The\n"
      "replicas are asked until two have been seen at the same LSN; while clients write much, that may take long, or\n"
      "fail. Where replicas differ, the first record that does is found by halving the range of keys. Replicas that\n"
      "are not in sync are left out.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 verify\n"
      "  kvadmin verify 3 5 --topology file:/var/lib/pando/topology\n"
      "Exit codes: 0 all are equal; 1 some differ; 2 there is no such partition; 3 some could not be compared.");
  OnChosen(command, globals, [=] { return RunVerify(*globals, *o); });
}

}  // namespace pando::admin
