#include "src/node/split_driver.h"

#include <algorithm>
#include <utility>

#include "src/io/call_on.h"
#include "src/replication/hosted_replica.h"
#include "src/replication/partition_record.h"

namespace pando {

namespace {

using Kind = SplitTask::Kind;

}  // namespace

SplitDriver::SplitDriver(Reactor& reactor, NodeCluster* cluster, NodePartitions* partitions,
                         const std::vector<ReactorPart*>* parts, NodeControl* self, MemoryBudget* memory,
                         Registry* registry)
    : reactor_(reactor),
      cluster_(*cluster),
      partitions_(*partitions),
      parts_(*parts),
      memory_(memory),
      registry_(registry),
      access_(reactor, cluster->topology(), cluster->topology_calls()),
      masters_(reactor, cluster, &(*parts)[0]->replica_host()->links(), self) {
  auto add = [this](std::string name, std::string help, const auto* metric) {
    registry_->Add(this, std::move(name), std::move(help), {}, metric);
  };
  add("kv_splits_running_count", "Splits of partitions that this node runs.", &running_);
  add("kv_splits_queued_count", "Splits of partitions that wait until this node has ended another one.",
      &queued_count_);
  add("kv_splits_done_total", "Partitions that this node has split.", &done_total_);
  add("kv_splits_failed_total", "Attempts to fill the halves of a partition that failed; they are repeated.",
      &failed_total_);
  add("kv_splits_given_up_total", "Halves of partitions that were given up.", &given_up_total_);
  add("kv_splits_copied_bytes_total", "Bytes of records that were written into halves.", &copied_bytes_total_);
}

SplitDriver::~SplitDriver() {
  CHECK(drained_) << "a SplitDriver was destroyed before it was drained";
  registry_->Remove(this);
}

void SplitDriver::Start() {
  drained_ = false;
  tasks_.Spawn(Loop());
}

Task<void> SplitDriver::Stop() {
  stopping_ = true;
  for (const auto& [whole, active] : active_) active->control.cancelled = active->control.stopping = true;
  const Nanos until_ns = reactor_.NowNs() + kStopNs;
  while (tasks_.running() > 0 && reactor_.NowNs() < until_ns) co_await Sleep(reactor_, kTickNs / 10);
}

Task<void> SplitDriver::Drain() {
  stopping_ = true;
  co_await tasks_.Drain();
  active_.clear();
  drained_ = true;
}

const PartitionRecord* SplitDriver::RecordOf(uint32_t id) const {
  const auto at = cluster_.newest().partitions.find(id);
  return at == cluster_.newest().partitions.end() ? nullptr : &at->second.record;
}

// -- what there is to do

Task<void> SplitDriver::Loop() {
  while (!stopping_) {
    // What there is to do follows from the map and from what goes on.
    const uint64_t news = cluster_.news_count();
    const bool ended = std::exchange(task_ended_, false);
    if (std::exchange(scanned_news_, news) != news || ended) Scan();
    Publish();
    co_await Sleep(reactor_, kTickNs);
  }
}

// SD3.
void SplitDriver::Scan() {
  TellNews();
  std::erase_if(active_, [](const auto& active) { return active.second->over; });
  const std::vector<SplitTask> tasks = SplitTasksOf(cluster_.newest(), cluster_.node());
  for (const auto& [whole, active] : active_) {
    const auto same = [&](const SplitTask& task) {
      return task.whole == active->task.whole && task.kind == active->task.kind && task.epoch == active->task.epoch;
    };
    const auto at = std::find_if(tasks.begin(), tasks.end(), same);
    if (at == tasks.end()) {
      active->control.cancelled = true;
    } else {
      active->control.rate_mb_s = active->task.rate_mb_s = at->rate_mb_s;
    }
  }
  queued_.clear();
  may_run_ = SplitsThatMayRun(cluster_.newest());
  for (const SplitTask& task : tasks) {
    if (task.kind != Kind::kComplete) Begin(task);
  }
  BeginCompletes(tasks);
}

size_t SplitDriver::CountActive(Kind kind) const {
  return static_cast<size_t>(std::count_if(active_.begin(), active_.end(),
                                           [=](const auto& active) { return active.second->task.kind == kind; }));
}

// In turn, because those that wait for a node that is away end without having done anything.
void SplitDriver::BeginCompletes(const std::vector<SplitTask>& tasks) {
  const auto first = std::upper_bound(tasks.begin(), tasks.end(), last_complete_,
                                      [](uint32_t whole, const SplitTask& task) { return whole < task.whole; });
  const auto begin = [this](const SplitTask& task) {
    if (task.kind == Kind::kComplete) Begin(task);
  };
  std::for_each(first, tasks.end(), begin);
  std::for_each(tasks.begin(), first, begin);
}

void SplitDriver::Begin(const SplitTask& task) {
  if (active_.contains(task.whole)) return;
  if (task.kind == Kind::kSplit && (CountActive(Kind::kSplit) >= kSplitsAtOnce || !may_run_.contains(task.whole))) {
    return queued_.push_back(task);
  }
  if (task.kind == Kind::kComplete) {
    if (CountActive(Kind::kComplete) >= kCompletesAtOnce) return;
    last_complete_ = task.whole;
  }
  auto active = std::make_unique<Active>();
  active->task = task;
  active->control.rate_mb_s = task.rate_mb_s;
  Active* raw = active.get();
  active_[task.whole] = std::move(active);
  tasks_.Spawn(RunTask(raw));
}

// Operators look for these lines when the topology is lost (kvadmin topology recover).
void SplitDriver::TellNews() {
  const ClusterMap& map = cluster_.newest();
  const uint32_t base = map.cluster->record.partitions;
  for (const auto& [id, known] : map.partitions) {
    const PartitionRecord& record = known.record;
    const auto [at, is_new] = stages_.emplace(id, record.state);
    const PartitionStage before = std::exchange(at->second, record.state);
    if (is_new || before == record.state || replication::ReplicaOn(record, cluster_.node()) == nullptr) continue;
    const std::optional<std::array<uint32_t, 2>> halves = HalvesOf(id, base);
    const std::optional<uint32_t> whole = WholeOf(id, base);
    LOG_IF(INFO, before == PartitionStage::kServing && record.state == PartitionStage::kRetired && halves)
        << "partition " << id << " was split into " << (*halves)[0] << " and " << (*halves)[1];
    LOG_IF(INFO, before == PartitionStage::kBuilding && record.state == PartitionStage::kServing && whole)
        << "partition " << id << ", a half of " << *whole << ", serves";
    LOG_IF(INFO, before == PartitionStage::kBuilding && record.state == PartitionStage::kRetired && whole)
        << "partition " << id << ", a half of " << *whole << ", was given up";
  }
}

void SplitDriver::Publish() {
  int64_t running = 0;
  for (const auto& [whole, active] : active_) {
    running += active->task.kind == Kind::kSplit && !active->over;
    const uint64_t written = active->control.written_bytes;
    copied_bytes_total_.Add(written - std::exchange(active->counted_bytes, written));
  }
  running_.Set(running);
  queued_count_.Set(static_cast<int64_t>(queued_.size()));
}

std::vector<api::SplitStatus> SplitDriver::status() const {
  std::vector<api::SplitStatus> all;
  const auto add = [&](const SplitTask& task) -> api::SplitStatus& {
    api::SplitStatus& status = all.emplace_back();
    status.partition = static_cast<int32_t>(task.whole);
    status.halves = {static_cast<int32_t>(task.halves[0]), static_cast<int32_t>(task.halves[1])};
    status.rate_mb_s = static_cast<int32_t>(task.rate_mb_s);
    return status;
  };
  std::string first;
  for (const auto& [whole, active] : active_) {
    if (active->task.kind == Kind::kSplit) first = std::to_string(whole);
    if (active->over || active->task.kind == Kind::kComplete) continue;
    api::SplitStatus& status = add(active->task);
    const SplitControl& control = active->control;
    status.phase = NameOf(control.phase.load());
    status.total_bytes = static_cast<int64_t>(control.total_bytes);
    status.copied_bytes = std::min(static_cast<int64_t>(control.copied_bytes), status.total_bytes);
    status.waits_for = active->trouble.empty() ? active->waits_for : active->trouble;
    if (status.waits_for.empty()) status.waits_for = control.waits_for.load();
  }
  for (const SplitTask& task : queued_) {
    api::SplitStatus& status = add(task);
    status.phase = NameOf(SplitPhase::kPreparing);
    status.waits_for = first.empty() ? "a split of a partition with a replica on one of its nodes comes first"
                                     : fmt::format("the split of partition {} comes first", first);
  }
  return all;
}

// -- tasks

Task<void> SplitDriver::Pause(Active* active, const Status& why) {
  LOG_IF_EVERY_N(WARNING, !why.ok() && Wanted(*active) && why.message() != active->trouble, 5)
      << "the split of partition " << active->task.whole << " goes on later: " << why.ToString();
  active->trouble = why.ok() ? "" : why.message();
  const Nanos least_ns = active->task.kind == Kind::kComplete ? kCompleteNs : kMinPauseNs;
  active->pause_ns = why.ok() ? least_ns : std::clamp(2 * active->pause_ns, least_ns, kMaxPauseNs);
  const Nanos until_ns = reactor_.NowNs() + active->pause_ns;
  while (Wanted(*active) && reactor_.NowNs() < until_ns) co_await Sleep(reactor_, kTickNs);
}

Task<void> SplitDriver::RunTask(Active* active) {
  while (Wanted(*active)) {
    Status status;
    if (active->task.kind == Kind::kSplit) {
      co_await Split(active);
      break;
    }
    if (active->task.kind == Kind::kOpen) {
      active->control.phase = SplitPhase::kOpening;
      status = co_await Open(active);
    } else if (active->task.kind == Kind::kGiveUp) {
      active->control.phase = SplitPhase::kGivingUp;
      status = co_await GiveUp(active);
    } else {
      status = co_await Complete(active);
    }
    co_await Pause(active, status);
    if (active->task.kind == Kind::kComplete) break;  // another one may have its place
  }
  active->over = task_ended_ = true;
}

// Until the topology shows that the partition is split, which ends the task.
Task<void> SplitDriver::Split(Active* active) {
  LOG(INFO) << "partition " << active->task.whole << " is being split into " << active->task.halves[0] << " and "
            << active->task.halves[1];
  bool retired = false;
  while (Wanted(*active)) {
    if (!retired) {
      active->control.phase = SplitPhase::kPreparing;
      Status status = co_await Prepare(active);
      if (status.ok()) status = co_await RunFeed(active);
      retired = status.ok();
      done_total_.Add(retired);
      failed_total_.Add(!retired && Wanted(*active));
      if (status.code() == Code::kDiskFull) co_await CallOff(active, status);
      co_await Pause(active, status);
    } else {
      active->control.phase = SplitPhase::kOpening;
      co_await Sleep(reactor_, kTickNs);
    }
  }
}

// -- the halves

Task<std::optional<HeldHalf>> SplitDriver::Held(uint32_t half) {
  if (partitions_.store().Find(half) == nullptr) co_return std::nullopt;
  auto ask = [part = OwnerOf(half), half](Reactor&) -> Task<HeldHalf> {
    HeldHalf held;
    const replication::HostedReplica* replica = part->replica_host()->Find(half);
    if (replica == nullptr) co_return held;
    held.replica = replica->replica();
    held.serves = replica->core() != nullptr && replica->core()->Serving().has_value();
    co_return held;
  };
  const HeldHalf held = co_await CallOn(reactor_, static_cast<int>(half % parts_.size()), std::move(ask));
  co_return held;
}

Task<Result<HalfInput>> SplitDriver::InputFor(Active* active, uint32_t half) {
  HalfInput input;
  input.held = co_await Held(half);
  input.self = cluster_.node();
  input.whole = RecordOf(active->task.whole);
  input.half = RecordOf(half);
  if (input.whole == nullptr || !Wanted(*active)) {
    co_return Error(Code::kUnavailable, "the split of partition {} was called off", active->task.whole);
  }
  input.reached.insert(cluster_.node());
  for (const auto& [id, node] : cluster_.newest().nodes) {
    if (parts_[0]->replica_host()->links().IsUp(id, 0)) input.reached.insert(id);
  }
  if (const auto at = active->to_make.find(half); at != active->to_make.end()) input.to_make = at->second;
  input.taken_over = active->taken_over.contains(half);
  const auto since = active->waits_since_ns.find(half);
  input.patience_over = since != active->waits_since_ns.end() && reactor_.NowNs() - since->second >= kPatienceNs;
  co_return input;
}

Task<Result<SplitDriver::Steps>> SplitDriver::Look(Active* active) {
  Steps steps;
  bool ready = true;
  active->waits_for.clear();
  for (size_t i = 0; i < steps.size(); ++i) {
    const uint32_t half = active->task.halves[i];
    CO_ASSIGN_OR_RETURN(const HalfInput input, co_await InputFor(active, half));
    // The map does not change between the input and here.
    steps[i] = NextStepForHalf(input);
    NoteWaits(active, half, steps[i]);
    ready = ready && steps[i].kind == HalfStep::Kind::kReady;
  }
  active->control.may_switch = ready;
  co_return steps;
}

void SplitDriver::NoteWaits(Active* active, uint32_t half, const HalfStep& step) {
  const bool waits =
      (step.kind == HalfStep::Kind::kWait && step.for_other_node) || step.kind == HalfStep::Kind::kBecomeMaster;
  if (waits) {
    active->waits_since_ns.emplace(half, reactor_.NowNs());
  } else {
    active->waits_since_ns.erase(half);
  }
  if (step.kind == HalfStep::Kind::kWait) active->waits_for = step.why;
}

// OK once both halves can be filled here.
Task<Status> SplitDriver::Prepare(Active* active) {
  for (;;) {
    CO_ASSIGN_OR_RETURN(const bool speaks, co_await RaiseProtocol());
    if (!speaks) {
      co_await Sleep(reactor_, kTickNs);
      continue;
    }
    CO_ASSIGN_OR_RETURN(const Steps steps, co_await Look(active));
    if (active->control.may_switch) break;
    for (size_t i = 0; i < steps.size(); ++i) {
      CO_RETURN_IF_ERROR(co_await Carry(active, active->task.halves[i], steps[i]));
    }
    active->trouble.clear();
    co_await Sleep(reactor_, kTickNs);
  }
  active->pause_ns = 0;
  co_return Status();
}

Task<Status> SplitDriver::Carry(Active* active, uint32_t half, HalfStep step) {
  using Step = HalfStep::Kind;
  switch (step.kind) {
    case Step::kWait:
    case Step::kReady: co_return Status();
    case Step::kMakeRecord: co_return co_await WriteHalf(active, half);
    case Step::kTakeOver: co_return co_await TakeOver(active, half);
    case Step::kDrop: co_return co_await partitions_.Drop(half);
    case Step::kMakeReplica: co_return co_await MakeReplica(active, half, step.replica);
    case Step::kBecomeMaster: co_return co_await AskForMastership(half);
    case Step::kAddReplica:
    case Step::kRemoveReplica:
    case Step::kSetMinIsr: co_return co_await AskHere(half, std::move(step));
  }
  co_return Status();
}

}  // namespace pando
