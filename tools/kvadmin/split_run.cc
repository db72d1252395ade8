#include "tools/kvadmin/split_run.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>

#include "src/base/counted.h"
#include "src/base/hash_ranges.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/cluster_health.h"
#include "tools/kvadmin/patience.h"
#include "tools/kvadmin/plan_make.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/refusal.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPauseMs = 200;
constexpr int64_t kLookMs = 15'000;       // nodes may be away for so long
constexpr uint64_t kPartsOfSplit = 1000;  // of the progress of one
constexpr double kPartsOfCopying = 950;   // and of it, those of the copying

// A half that was given up counts as none: the next split of its whole makes it anew.
bool HasHalfInUse(const ClusterMap& map, uint32_t partition) {
  const auto halves = HalvesOf(map, partition);
  return halves && std::any_of(halves->begin(), halves->end(),
                               [&](uint32_t half) { return map.partitions.contains(half) && IsInUse(map, half); });
}

class SplitRunner {
 public:
  SplitRunner(const Globals& globals, const SplitOptions& options)
      : globals_(globals),
        o_(options),
        progress_(options.abort ? "giving up" : "splitting", "partitions", 0, globals.json) {}

  Result<ExitCode> Run();

 private:
  Status Look(int64_t patience_ms);
  Status Choose();
  Status CheckChosen(uint32_t partition) const;
  Result<ExitCode> ShowWhatIsLeft();

  Status Turn();
  Status Ask(uint32_t partition);
  void Settle(uint32_t partition);
  bool MayBegin(uint32_t partition) const;
  bool IsSettled(uint32_t partition) const;
  void Say(uint32_t partition, const std::string& why);
  void ShowProgress();
  Status TimeIsUp() const;
  ExitCode End();

  const Globals& globals_;
  const SplitOptions& o_;
  ClusterView view_;
  std::vector<uint32_t> chosen_;
  std::set<uint32_t> asked_;  // and the topology says so
  std::set<uint32_t> seen_running_, settled_, done_here_;
  std::map<uint32_t, uint64_t> copied_;   // bytes
  std::map<uint32_t, std::string> said_;  // what each waits for, as was said last
  std::string last_signs_;                // of progress
  Clock::time_point last_progress_ = Clock::now();
  Progress progress_;
};

// -- the beginning

Status SplitRunner::Look(int64_t patience_ms) {
  ASSIGN_OR_RETURN(view_, Patience(patience_ms)([&] { return LookAtCluster(globals_.target, o_.place); }));
  if (const std::string stale = view_.WhyStale(); !stale.empty()) {
    return Error(Code::kUnavailable, "the topology is not to be trusted, so nothing is split: {}", stale);
  }
  return Status();
}

Status SplitRunner::CheckChosen(uint32_t partition) const {
  if (!view_.map.partitions.contains(partition)) return CheckPartition(view_.map, partition);
  const SplitStage stage = StageOf(view_.map, partition);
  if (stage == SplitStage::kGivenUp) return CheckPartition(view_.map, partition);
  if (stage == SplitStage::kBuilding || stage == SplitStage::kOpening) {
    return Error(Code::kInvalidArgument,
                 "partition {} is a half that does not serve yet: wait until its own split has ended (kvadmin cluster "
                 "status)",
                 partition);
  }
  if (!HalvesOf(view_.map, partition)) {
    return Error(Code::kInvalidArgument, "partition {} cannot be split: its halves would have numbers above {}",
                 partition, kMaxPartitions - 1);
  }
  if (o_.abort && stage == SplitStage::kSplit) {
    return Error(Code::kUnavailable, "partition {} is split, so there is nothing to give up: the partitions {} serve",
                 partition, HalvesText(view_.map, partition));
  }
  return Status();
}

Status SplitRunner::Choose() {
  if (o_.all == !o_.partitions.empty()) {
    return Error(Code::kInvalidArgument, "say which partitions: their numbers, or --all");
  }
  if (o_.all && o_.abort) {
    for (const auto& [id, known] : view_.map.partitions) {
      if (known.record.split) chosen_.push_back(id);
    }
    return Status();
  }
  if (o_.all) {
    ASSIGN_OR_RETURN(chosen_, AllToSplit(view_.map, o_.to));
    return Status();
  }
  for (const std::string& text : o_.partitions) {
    const std::optional<uint32_t> id = tools::ParseNumber<uint32_t>(text);
    if (!id) return Error(Code::kInvalidArgument, "there is no partition {}: it is not a number", text);
    RETURN_IF_ERROR(CheckChosen(*id));
    if (std::find(chosen_.begin(), chosen_.end(), *id) == chosen_.end()) chosen_.push_back(*id);
  }
  return Status();
}

Result<ExitCode> SplitRunner::ShowWhatIsLeft() {
  ASSIGN_OR_RETURN(const auto sizes, SizesOf(globals_, view_));
  for (const uint32_t partition : chosen_) {
    const SplitState state = SplitStateOf(view_.map, partition);
    const auto size = sizes.find(partition);
    const uint64_t bytes = size == sizes.end() ? 0 : size->second;
    const NodeId node = view_.MasterOf(partition).node;
    const std::string_view what = o_.abort                     ? "would be given up"
                                  : state == SplitState::kLeft ? "would begin"
                                  : state == SplitState::kDone ? "is done"
                                                               : "runs";
    if (globals_.json) {
      PrintJson(Json{{"split", Json{{"partition", partition},
                                    {"halves", HalvesOf(view_.map, partition).value_or(std::array<uint32_t, 2>{})},
                                    {"node", node},
                                    {"bytes", bytes},
                                    {"state", what}}}});
    } else {
      tools::Print("partition {} into {}: {}; node {} leads it, with {}\n", partition, HalvesText(view_.map, partition),
                   what, node == 0 ? "-" : view_.NameOf(node), tools::HumanBytes(static_cast<double>(bytes)));
    }
  }
  if (!globals_.json) tools::Print("nothing was changed\n");
  return kExitOk;
}

// -- one turn

bool SplitRunner::IsSettled(uint32_t partition) const {
  if (o_.abort) {
    return SplitStateOf(view_.map, partition) == SplitState::kLeft && !HasHalfInUse(view_.map, partition);
  }
  if (o_.no_wait && asked_.contains(partition)) return true;
  if (o_.no_wait && !o_.has_rate && SplitStateOf(view_.map, partition) != SplitState::kLeft) return true;
  return SplitStateOf(view_.map, partition) == SplitState::kDone;
}

// One after the other for each node that leads, so that it does not copy several at a time.
bool SplitRunner::MayBegin(uint32_t partition) const {
  if (o_.no_wait) return true;
  const NodeId node = view_.MasterOf(partition).node;
  for (const auto& [id, known] : view_.map.partitions) {
    if (id != partition && known.record.split && view_.MasterOf(id).node == node) return false;
  }
  for (const uint32_t other : asked_) {
    const SplitState state = SplitStateOf(view_.map, other);
    if (state != SplitState::kDone && view_.MasterOf(other).node == node) return false;
  }
  return true;
}

void SplitRunner::Say(uint32_t partition, const std::string& why) {
  if (std::exchange(said_[partition], why) == why || why.empty()) return;
  progress_.Clear();
  const std::string note = fmt::format("partition {} is waited for: {}", partition, why);
  tools::PrintNote("{}\n",
                   globals_.json ? JsonText(Json{{"note", note}}) : "note: " + Printable(note, Encoding::kText));
}

// What may pass is said, and tried again with the next look.
Status SplitRunner::Ask(uint32_t partition) {
  const ClusterView::Master master = view_.MasterOf(partition);
  if (master.node == 0) {
    Say(partition, "it has no master");
    return Status();
  }
  const api::ReplicasReply& said = view_.nodes.at(master.node).reply;
  if (said.__isset.topology_trouble) {
    Say(partition, fmt::format("node {}, its master, cannot reach the topology, without which nothing is split: {}",
                               view_.NameOf(master.node), said.topology_trouble.problem));
    return Status();
  }
  Client client({view_.map.nodes.at(master.node).record.client_address, globals_.target.timeout_ms});
  api::SplitPartitionRequest request;
  request.partition = static_cast<int32_t>(partition);
  request.rate_mb_s = static_cast<int32_t>(o_.mb_per_s);
  request.abort = o_.abort;
  const Result<api::SplitPartitionReply> reply =
      client.Call(Client::Repeat::kSafe, &api::ClusterIf::splitPartition, request);
  RETURN_IF_ERROR(tools::Interrupts::Check());
  if (reply.code() == Code::kUnsupported) {
    return Error(Code::kUnsupported,
                 "partition {}: node {}, its master, runs a version that cannot split partitions. Bring all nodes to a "
                 "newer one",
                 partition, view_.NameOf(master.node));
  }
  if (reply.code() == Code::kInvalidArgument) {
    return Error(Code::kUnavailable, "{} partition {} is not possible now: {}",
                 o_.abort ? "giving up the split of" : "a split of", partition, RefusalOf(reply.status()).message());
  }
  if (!reply.ok()) {
    Say(partition, reply.status().message());
  } else if (reply->is_split && o_.abort) {
    return Error(Code::kUnavailable, "partition {} is split, so there is nothing to give up: the partitions {} serve",
                 partition, HalvesText(view_.map, partition));
  } else if (reply->done || reply->is_split) {
    asked_.insert(partition);
  }
  return Status();
}

void SplitRunner::Settle(uint32_t partition) {
  settled_.insert(partition);
  const bool here = asked_.contains(partition) || seen_running_.contains(partition);
  if (here) done_here_.insert(partition);
  progress_.Clear();
  const auto halves = HalvesOf(view_.map, partition).value_or(std::array<uint32_t, 2>{});
  if (globals_.json) {
    Json line{{"partition", partition}, {"halves", halves}};
    line["state"] = o_.abort ? "given up" : o_.no_wait && here ? "begun" : "split";
    line["changed"] = here;
    return PrintJson(Json{{"split", line}});
  }
  if (o_.abort) {
    tools::Print("partition {}: {}\n", partition,
                 here ? fmt::format("its split is given up; what was copied into {} is dropped",
                                    HalvesText(view_.map, partition))
                      : "it is not being split");
  } else if (o_.no_wait && here) {
    tools::Print("partition {}: its split into {} has begun; kvadmin cluster status shows how far it is\n", partition,
                 HalvesText(view_.map, partition));
  } else {
    tools::Print("partition {}: {}; the partitions {} serve\n", partition, here ? "split" : "it was split before",
                 HalvesText(view_.map, partition));
  }
}

Status SplitRunner::Turn() {
  for (const uint32_t partition : chosen_) {
    if (settled_.contains(partition)) continue;
    const SplitState state = SplitStateOf(view_.map, partition);
    if (state == SplitState::kRunning) seen_running_.insert(partition);
    if (state == SplitState::kLeft && seen_running_.contains(partition) && !o_.abort) {
      return Error(Code::kUnavailable, "the split of partition {} was given up meanwhile", partition);
    }
    const bool ask = (state == SplitState::kRunning && (o_.has_rate || o_.abort)) ||
                     (state == SplitState::kLeft && !o_.abort && MayBegin(partition));
    if (ask && !asked_.contains(partition)) RETURN_IF_ERROR(Ask(partition));
    if (IsSettled(partition)) {
      Settle(partition);
    } else if (state != SplitState::kLeft) {
      Say(partition, o_.abort ? "" : JudgeSplit(view_, partition).waits_for);
    }
  }
  ShowProgress();
  return Status();
}

void SplitRunner::ShowProgress() {
  uint64_t done = 0, bytes = 0;
  std::string signs, phases;
  for (const uint32_t partition : chosen_) {
    const SplitState state = SplitStateOf(view_.map, partition);
    const SplitHealth health = JudgeSplit(view_, partition);
    uint64_t& copied = copied_[partition];
    copied = std::max(copied, health.copied_bytes);
    bytes += copied;
    if (settled_.contains(partition)) {
      done += kPartsOfSplit;
    } else if (state != SplitState::kLeft) {
      const double part =
          health.total_bytes == 0 ? 0 : static_cast<double>(copied) / static_cast<double>(health.total_bytes);
      done += static_cast<uint64_t>(std::min(part, 1.0) * kPartsOfCopying);
      if (!health.phase.empty() && phases.size() < 60) {
        phases += fmt::format("{}{}: {}", phases.empty() ? "" : ", ", partition, health.phase);
      }
    }
    signs += fmt::format("{}/{}/{}/{} ", static_cast<int>(state), health.phase, health.copied_bytes,
                         view_.map.partitions.at(partition).revision);
    for (const uint32_t half : health.halves) {
      const auto at = view_.map.partitions.find(half);
      if (at != view_.map.partitions.end()) signs += fmt::format("{} ", at->second.revision);
    }
  }
  progress_.SetTotal(chosen_.size() * kPartsOfSplit);
  progress_.SetVerb(o_.abort ? "giving up" : phases.empty() ? "splitting" : fmt::format("splitting ({})", phases));
  progress_.Update(settled_.size(), bytes, done);
  if (std::exchange(last_signs_, signs) != signs) last_progress_ = Clock::now();
}

// -- the end

Status SplitRunner::TimeIsUp() const {
  std::string waits;
  for (const auto& [partition, why] : said_) {
    if (!why.empty() && waits.empty()) waits = fmt::format(" Partition {}: {}.", partition, why);
  }
  return Error(Code::kDeadline,
               "nothing has moved on for {} s; {} of {} are done.{} What has begun goes on; run the same command again "
               "to wait for it and for what is left",
               o_.timeout_s, settled_.size(), Counted(chosen_.size(), "partition"), waits);
}

ExitCode SplitRunner::End() {
  progress_.Clear();
  const size_t serving = view_.map.Serving().size();
  if (globals_.json) {
    PrintJson(Json{{"done", settled_.size()}, {"changed", done_here_.size()}, {"serving", serving}});
  } else if (chosen_.empty()) {
    tools::Print("nothing is left to do: {}\n",
                 o_.abort ? "no partition is being split" : fmt::format("{} serve", Counted(serving, "partition")));
  } else if (!o_.abort && !o_.no_wait) {
    tools::Print("{} serve now\n", Counted(serving, "partition"));
  }
  return kExitOk;
}

Result<ExitCode> SplitRunner::Run() {
  tools::Interrupts::Install();
  RETURN_IF_ERROR(Look(0));
  RETURN_IF_ERROR(Choose());
  if (o_.dry_run) return ShowWhatIsLeft();
  while (true) {
    RETURN_IF_ERROR(Turn());
    if (settled_.size() == chosen_.size()) return End();
    if (Clock::now() - last_progress_ >= std::chrono::seconds(o_.timeout_s)) return TimeIsUp();
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
    RETURN_IF_ERROR(Look(kLookMs));
  }
}

}  // namespace

Result<std::vector<uint32_t>> AllToSplit(const ClusterMap& map, uint32_t to) {
  std::vector<uint32_t> chosen;
  std::map<uint64_t, std::vector<uint32_t>, std::greater<>> by_width;  // those that could begin
  size_t after = 0;                                                    // so many serve if nothing more begins
  for (const uint32_t id : map.Serving()) {
    const PartitionRecord& record = map.partitions.at(id).record;
    const SplitStage stage = StageOf(map, id);
    after += stage == SplitStage::kSplitting ? 2 : 1;
    if (stage == SplitStage::kSplitting) chosen.push_back(id);
    if (stage == SplitStage::kSplitting || stage == SplitStage::kServing) {
      by_width[record.last_hash - record.first_hash].push_back(id);
    }
  }
  if (by_width.empty() || (to != 0 && after >= to)) return chosen;
  std::vector<uint32_t> widest;
  for (const uint32_t id : by_width.begin()->second) {
    if (StageOf(map, id) == SplitStage::kServing && HalvesOf(map, id)) widest.push_back(id);
  }
  const size_t wanted = to == 0 ? widest.size() : to - after;
  if (wanted > widest.size()) {
    return Error(Code::kInvalidArgument,
                 "--to {} is more than the {} that there will be if each of the partitions with the widest ranges is "
                 "split once. Split those first",
                 to, after + widest.size());
  }
  chosen.insert(chosen.end(), widest.begin(), widest.begin() + static_cast<ptrdiff_t>(wanted));
  return chosen;
}

SplitState SplitStateOf(const ClusterMap& map, uint32_t partition) {
  const PartitionRecord& record = map.partitions.at(partition).record;
  if (record.state != PartitionStage::kRetired) return record.split ? SplitState::kRunning : SplitState::kLeft;
  for (const uint32_t half : HalvesOf(map, partition).value_or(std::array<uint32_t, 2>{})) {
    if (map.partitions.contains(half) && StageOf(map, half) == SplitStage::kOpening) return SplitState::kOpening;
  }
  return SplitState::kDone;
}

Result<ExitCode> RunSplit(const Globals& globals, const SplitOptions& options) {
  return SplitRunner(globals, options).Run();
}

}  // namespace pando::admin
