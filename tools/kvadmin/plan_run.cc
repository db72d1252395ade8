#include "tools/kvadmin/plan_run.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "src/base/counted.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/hand_over.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/replica_change.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;
using State = PlanProgress::State;
using Step = ReplicaChange::Step;

constexpr int64_t kPauseMs = 200;
constexpr int64_t kLeastStepMs = 500;
constexpr size_t kMaxRefusals = 30;  // of the step of a partition, one after the other
constexpr std::chrono::seconds kTryAgainAfter{3};
// What somebody who was killed has asked a master for appears in the topology within this time, or not at all. (If the
// topology hangs for longer, kvadmin cluster show lists a learner, and the abort is repeated.)
constexpr std::chrono::seconds kQuiet{3};
constexpr int kBalanceTries = 3;

Json ToJson(const ReplicaMove& move) {
  return Json{{"partition", move.partition}, {"from", move.from}, {"to", move.to}, {"bytes", move.bytes}};
}

class PlanRunner {
 public:
  PlanRunner(const Globals& globals, const RunOptions& options, PlanVerb verb, PlanFile plan)
      : globals_(globals),
        for_steps_(globals),
        o_(options),
        verb_(verb),
        plan_(std::move(plan)),
        progress_(verb == PlanVerb::kAbort ? "taking back" : "moving", "replicas", 0, globals.json) {
    for (const ReplicaMove& move : plan_.moves) moves_[move.partition].push_back(move);
    // The steps of a turn come one after the other, and a master may have no answer for any. A step is asked again.
    const int64_t share_ms = o_.timeout_s * 1000 / (4 * std::max<int64_t>(1, static_cast<int64_t>(o_.parallel)));
    for_steps_.target.timeout_ms = std::min(globals.target.timeout_ms, std::max(kLeastStepMs, share_ms));
  }

  Result<ExitCode> Run();

 private:
  Result<ExitCode> TakeTurns();
  Status Interrupted(const Status& why) const;
  Status Look();
  Status Begin();
  Status LockPlan();
  Result<ExitCode> ShowWhatIsLeft();

  Status Turn();
  Status Advance(uint32_t partition);
  ReplicaRequest RequestFor(const ReplicaMove& move) const;
  void StartMore();
  void Settle(uint32_t partition, const PlanProgress& before);
  void Refused(uint32_t partition, const Status& why);
  void Say(uint32_t partition, const std::string& why);
  void Note(const std::string& text);
  void ShowProgress();
  bool IsOver();

  const ReplicaMove& MoveOf(uint32_t partition) const { return moves_.at(partition)[judged_.at(partition).done]; }
  size_t Count(State state) const {
    return static_cast<size_t>(
        std::count_if(judged_.begin(), judged_.end(), [&](const auto& p) { return p.second.state == state; }));
  }
  size_t MovesDone() const;
  Status TimeIsUp() const;
  Result<ExitCode> End();
  Status Balance();
  Result<ExitCode> EndOfRun();

  const Globals& globals_;
  Globals for_steps_;
  const RunOptions& o_;
  const PlanVerb verb_;
  const PlanFile plan_;
  PlanLock lock_;
  std::map<uint32_t, std::vector<ReplicaMove>> moves_;  // by partition, in their order
  ClusterView view_;
  Wanted wanted_ = Wanted::kRun;
  std::map<uint32_t, PlanProgress> judged_;
  std::set<uint32_t> under_way_;
  std::map<uint32_t, std::string> failed_;  // given up in this run, and why
  std::map<uint32_t, std::string> said_;    // what each waits for, as was said last
  std::map<uint32_t, size_t> refusals_;
  std::map<uint32_t, Clock::time_point> later_;  // when those that could not begin are tried again
  size_t done_here_ = 0;                         // moves
  std::string last_signs_;                       // of progress
  Clock::time_point last_progress_ = Clock::now(), last_begun_ = Clock::now();
  Progress progress_;
};

// -- the beginning

Status PlanRunner::Look() {
  ASSIGN_OR_RETURN(view_, LookAtCluster(globals_.target, o_.place));
  const Uuid& here = view_.map.cluster->record.cluster_id;
  if (here != plan_.cluster_id) {
    return Error(Code::kInvalidArgument,
                 "{} is a plan for the cluster {}, and this is the cluster {}; nothing was changed", o_.path,
                 plan_.cluster_id.ToString(), here.ToString());
  }
  if (const std::string stale = view_.WhyStale(); !stale.empty()) {
    return Error(Code::kUnavailable, "the topology is not to be trusted, so nothing moves: {}", stale);
  }
  for (const auto& [partition, moves] : moves_) {
    judged_[partition] = JudgePlanned(plan_.partitions.at(partition), moves, view_.map);
  }
  return Status();
}

Status PlanRunner::LockPlan() {
  const Clock::time_point until = Clock::now() + std::chrono::seconds(o_.timeout_s);
  bool said = false;
  while (true) {
    const Status locked = lock_.TryLock(o_.path);
    if (locked.code() != Code::kLocked) return locked;
    if (verb_ == PlanVerb::kApply || Clock::now() >= until) {
      return Error(Code::kLocked, "{}; kvadmin rebalance pause, resume and abort tell it what to do", locked.message());
    }
    if (!std::exchange(said, true)) Note(locked.message() + ", and was told; this one waits until it ends");
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

Status PlanRunner::Begin() {
  ASSIGN_OR_RETURN(wanted_, ReadWanted(o_.path, plan_));
  if (verb_ != PlanVerb::kAbort && wanted_ == Wanted::kAbort) {
    return Error(Code::kUnavailable, "the plan {} was aborted; make a new one with kvadmin rebalance plan", o_.path);
  }
  if (verb_ == PlanVerb::kApply && wanted_ == Wanted::kPause) {
    return Error(Code::kUnavailable, "the plan {} was paused; kvadmin rebalance resume {} goes on with it", o_.path,
                 o_.path);
  }
  if (o_.dry_run) return Status();
  if (verb_ != PlanVerb::kApply) {
    RETURN_IF_ERROR(WriteWanted(o_.path, plan_, verb_ == PlanVerb::kAbort ? Wanted::kAbort : Wanted::kRun));
  }
  return LockPlan();
}

Result<ExitCode> PlanRunner::ShowWhatIsLeft() {
  for (const auto& [partition, moves] : moves_) {
    const PlanProgress& p = judged_.at(partition);
    for (size_t i = 0; i < moves.size(); ++i) {
      const bool next = i == p.done;
      std::string state = i < p.done ? "done" : "left";
      if (p.state == State::kStale) state = "skipped: " + p.why;
      if (p.state == State::kBegun && next) state = "begun";
      if (globals_.json) {
        Json line = ToJson(moves[i]);
        line["state"] = state;
        PrintJson(Json{{"move", line}});
      } else {
        tools::Print("partition {}: from node {} to node {}: {}\n", partition, moves[i].from, moves[i].to, state);
      }
    }
  }
  if (!globals_.json) tools::Print("nothing was changed\n");
  return kExitOk;
}

// -- one turn

// Forward, except that an abort takes a new replica that is not in sync away again.
ReplicaRequest PlanRunner::RequestFor(const ReplicaMove& move) const {
  if (wanted_ == Wanted::kAbort) {
    const std::optional<Situation> now = SituationOf(view_, move.partition);
    const Situation::Member* added = now ? now->On(move.to) : nullptr;
    if (added == nullptr || !added->in_sync) return {move.partition, 0, move.to, false};
  }
  return {move.partition, move.to, move.from, false};
}

void PlanRunner::Note(const std::string& text) {
  progress_.Clear();
  tools::PrintNote("{}\n",
                   globals_.json ? JsonText(Json{{"note", text}}) : "note: " + Printable(text, Encoding::kText));
}

void PlanRunner::Say(uint32_t partition, const std::string& why) {
  if (why.empty() || SaysTheSame(std::exchange(said_[partition], why), why)) return;
  Note(fmt::format("partition {} is waited for: {}", partition, why));
}

// What is refused may pass: a master that has changed between the look and the request is the next one's to ask.
void PlanRunner::Refused(uint32_t partition, const Status& why) {
  if (++refusals_[partition] < kMaxRefusals) return;
  failed_[partition] = why.message();
  under_way_.erase(partition);
  Note(fmt::format("partition {} is given up for now: {}", partition, why.message()));
}

Status PlanRunner::Advance(uint32_t partition) {
  ReplicaChange change(for_steps_, RequestFor(MoveOf(partition)));
  ASSIGN_OR_RETURN(const bool led, change.Observe(view_));
  if (!led) {
    Say(partition, "it has no master");
    return Status();
  }
  if (judged_.at(partition).state == State::kLeft) {
    if (const Status possible = change.CheckBegin(); !possible.ok()) {
      under_way_.erase(partition);
      later_[partition] = Clock::now() + kTryAgainAfter;  // others come first
      Say(partition, possible.message());
      return Status();
    }
  }
  const Step step = change.Next();
  if (step != Step::kDone && step != Step::kWait) {
    const Status carried = change.Carry(step);
    RETURN_IF_ERROR(tools::Interrupts::Check());
    if (!carried.ok()) {
      Refused(partition, carried);
      return Status();
    }
    if (change.WhyNotDone().empty()) refusals_.erase(partition);
  }
  Say(partition, change.WhyNotDone().find("the replica of node") == 0 ? "" : change.WhyNotDone());
  return Status();
}

// The next partition is one whose target has the least to do, because a node installs one replica after the other.
void PlanRunner::StartMore() {
  while (wanted_ == Wanted::kRun && under_way_.size() < o_.parallel) {
    std::map<NodeId, size_t> busy;
    for (const uint32_t partition : under_way_) ++busy[MoveOf(partition).to];
    std::optional<uint32_t> best;
    for (const auto& [partition, p] : judged_) {
      if (p.state != State::kLeft || under_way_.contains(partition) || failed_.contains(partition)) continue;
      if (later_.contains(partition) && Clock::now() < later_.at(partition)) continue;
      if (!view_.IsReachable(MoveOf(partition).to)) {
        Say(partition, fmt::format("node {} does not answer", view_.NameOf(MoveOf(partition).to)));
        continue;
      }
      if (!best || busy[MoveOf(partition).to] < busy[MoveOf(*best).to]) best = partition;
    }
    if (!best) return;
    under_way_.insert(*best);
  }
}

// Says what has been done since the last look.
void PlanRunner::Settle(uint32_t partition, const PlanProgress& before) {
  const PlanProgress& now = judged_.at(partition);
  for (size_t i = before.done; i < now.done && now.state != State::kStale; ++i) {
    ++done_here_;
    progress_.Clear();
    const ReplicaMove& move = moves_.at(partition)[i];
    if (globals_.json) {
      PrintJson(Json{{"moved", ToJson(move)}});
    } else {
      tools::Print("partition {}: moved from node {} to node {}\n", partition, move.from, move.to);
    }
  }
  if (now.done != before.done) said_.erase(partition);
  if (now.state == State::kBegun && !failed_.contains(partition)) under_way_.insert(partition);
  const bool goes_on =
      now.state == State::kBegun || (now.state == State::kLeft && now.done == before.done && wanted_ == Wanted::kRun);
  if (!goes_on) under_way_.erase(partition);
}

Status PlanRunner::Turn() {
  ASSIGN_OR_RETURN(wanted_, ReadWanted(o_.path, plan_));
  const std::map<uint32_t, PlanProgress> before = judged_;
  RETURN_IF_ERROR(Look());
  for (const auto& [partition, p] : judged_) Settle(partition, before.at(partition));
  StartMore();
  const std::set<uint32_t> now = under_way_;
  for (const uint32_t partition : now) RETURN_IF_ERROR(Advance(partition));
  ShowProgress();
  return Status();
}

void PlanRunner::ShowProgress() {
  uint64_t total = 0, bytes = 0;
  std::string signs;
  for (const auto& [partition, moves] : moves_) {
    const PlanProgress& p = judged_.at(partition);
    for (size_t i = 0; i < moves.size(); ++i) {
      total += moves[i].bytes;
      if (i < p.done) bytes += moves[i].bytes;
    }
    signs += fmt::format("{}/{}/{} ", static_cast<int>(p.state), p.done, view_.map.partitions.at(partition).revision);
    if (p.state != State::kBegun) continue;
    const api::ReplicaStatus* replica = view_.ReplicaOn(MoveOf(partition).to, partition);
    if (replica == nullptr) continue;
    bytes += std::min(moves[p.done].bytes, static_cast<uint64_t>(std::max<int64_t>(0, replica->installed_bytes)));
    signs += fmt::format("{}/{} ", replica->role, replica->installed_bytes);
  }
  progress_.SetTotal(total);
  progress_.Update(MovesDone(), bytes, bytes);
  const bool first = last_signs_.empty();
  if (std::exchange(last_signs_, signs) != signs && !first) last_progress_ = Clock::now();
}

// -- the end

size_t PlanRunner::MovesDone() const {
  size_t done = 0;
  for (const auto& [partition, p] : judged_) done += p.done;
  return done;
}

bool PlanRunner::IsOver() {
  for (const auto& [partition, p] : judged_) {
    if (failed_.contains(partition)) continue;
    if (p.state == State::kBegun) last_begun_ = Clock::now();
    if (p.state == State::kBegun || (p.state == State::kLeft && wanted_ == Wanted::kRun)) return false;
  }
  return wanted_ != Wanted::kAbort || Clock::now() - last_begun_ >= kQuiet;
}

Status PlanRunner::TimeIsUp() const {
  std::string waits;
  for (const auto& [partition, why] : said_) {
    if (!why.empty() && waits.empty()) waits = fmt::format(" Partition {}: {}.", partition, why);
  }
  return Error(
      Code::kDeadline,
      "nothing has moved on for {} s; {} of {} are done.{} What has begun goes on; kvadmin rebalance resume {} "
      "waits for it and takes the steps that are left",
      o_.timeout_s, MovesDone(), Counted(plan_.moves.size(), "move"), waits, o_.path);
}

Result<ExitCode> PlanRunner::End() {
  progress_.Clear();
  const size_t moves = plan_.moves.size(), done = MovesDone();
  if (!failed_.empty()) {
    return Error(Code::kUnavailable,
                 "{} of {} are done; partition {}: {}. kvadmin rebalance resume {} tries again, and abort takes back "
                 "what has begun",
                 done, Counted(moves, "move"), failed_.begin()->first, failed_.begin()->second, o_.path);
  }
  if (wanted_ == Wanted::kRun) return EndOfRun();
  const bool aborted = wanted_ == Wanted::kAbort;
  if (globals_.json) {
    PrintJson(Json{{aborted ? "aborted" : "paused", o_.path}, {"done", done}, {"left", moves - done}});
  } else if (aborted) {
    tools::Print("the plan {} is aborted: {} of {} were done, and nothing of the others is left over\n", o_.path, done,
                 Counted(moves, "move"));
  } else {
    tools::Print("the plan {} is paused: {} of {} are done; kvadmin rebalance resume {} goes on\n", o_.path, done,
                 Counted(moves, "move"), o_.path);
  }
  return aborted && verb_ == PlanVerb::kAbort ? kExitOk : kExitNo;
}

// A master that has changed since the look ends the handovers; the next look knows it.
Status PlanRunner::Balance() {
  for (int i = 1;; ++i) {
    const Status balanced = BalanceMasters(globals_, view_, /*dry_run=*/false).TakeStatus();
    if (balanced.ok() || i == kBalanceTries) return balanced;
    if (!tools::Interrupts::Sleep(5 * kPauseMs)) return tools::Interrupts::Check();
    RETURN_IF_ERROR(Look());
  }
}

Result<ExitCode> PlanRunner::EndOfRun() {
  size_t skipped = 0;
  for (const auto& [partition, p] : judged_) {
    if (p.state != State::kStale) continue;
    skipped += moves_.at(partition).size() - p.done;
    Note(fmt::format("partition {} is skipped: {}", partition, p.why));
  }
  if (plan_.kind == "rebalance") {
    RETURN_IF_ERROR(Balance());
  }
  if (globals_.json) {
    PrintJson(Json{{"applied", o_.path},
                   {"moved", done_here_},
                   {"done", MovesDone()},
                   {"skipped", skipped},
                   {"moves", plan_.moves.size()}});
  } else if (done_here_ == 0 && skipped == 0) {
    tools::Print("nothing was left to move: all {} are done\n", Counted(plan_.moves.size(), "move"));
  } else {
    tools::Print("{} moved, {} skipped; {} of {} are done{}\n", done_here_, skipped, MovesDone(),
                 Counted(plan_.moves.size(), "move"), skipped > 0 ? ". Make a new plan for what was skipped" : "");
  }
  return skipped > 0 ? kExitNo : kExitOk;
}

Result<ExitCode> PlanRunner::Run() {
  tools::Interrupts::Install();
  RETURN_IF_ERROR(Look());
  RETURN_IF_ERROR(Begin());
  if (o_.dry_run) return ShowWhatIsLeft();
  Result<ExitCode> over = TakeTurns();
  if (over.ok() || tools::Interrupts::Received() == 0) return over;
  return Interrupted(over.status());
}

Status PlanRunner::Interrupted(const Status& why) const {
  const size_t begun = Count(State::kBegun);
  const std::string copies =
      begun == 0 ? ""
                 : fmt::format(", and {} {} begun: the copying goes on by itself", begun, begun == 1 ? "has" : "have");
  const std::string_view verb = verb_ == PlanVerb::kAbort ? "abort" : "resume";
  return Error(Code::kAborted, "{}; {} of {} are done{}. kvadmin rebalance {} {} goes on", why.message(), MovesDone(),
               Counted(plan_.moves.size(), "move"), copies, verb, o_.path);
}

Result<ExitCode> PlanRunner::TakeTurns() {
  last_progress_ = Clock::now();
  while (true) {
    RETURN_IF_ERROR(Turn());
    if (IsOver()) return End();
    if (Clock::now() - last_progress_ >= std::chrono::seconds(o_.timeout_s)) return TimeIsUp();
    if (!tools::Interrupts::Sleep(kPauseMs)) return tools::Interrupts::Check();
  }
}

}  // namespace

Result<ExitCode> RunPlan(const Globals& globals, const RunOptions& options, PlanVerb verb) {
  ASSIGN_OR_RETURN(PlanFile plan, ReadPlan(options.path));
  return PlanRunner(globals, options, verb, std::move(plan)).Run();
}

}  // namespace pando::admin
