// SplitDriver: the steps that it takes: records and replicas of halves, the feed, and what operators order.
#include <algorithm>
#include <tuple>
#include <utility>

#include "src/base/counted.h"
#include "src/io/call_on.h"
#include "src/node/split_driver.h"
#include "src/replication/hosted_replica.h"
#include "src/replication/partition_record.h"
#include "src/replication/wire.h"

namespace pando {

namespace {

// A proposal that landed, or has to be made again.
Status Asked(const Result<bool>& done) { return done.status(); }

}  // namespace

// -- records of halves

// Nothing that others have begun before can land once this has (SD1): its revision is another one.
Task<Status> SplitDriver::WriteHalf(Active* active, uint32_t half) {
  const auto known = cluster_.newest().partitions.find(half);
  const bool is_new = known == cluster_.newest().partitions.end();
  const PartitionRecord* whole = RecordOf(active->task.whole);
  if (whole == nullptr) co_return Error(Code::kNotFound, "the topology has no partition {}", active->task.whole);
  const Uuid replica = NewUuid(reactor_);
  PartitionRecord record = NewHalfRecord(half, *whole, cluster_.ranges(), is_new ? nullptr : &known->second.record,
                                         cluster_.node(), replica);
  record.op_id = NewOpId(reactor_);
  const Revision expected = is_new ? 0 : known->second.revision;
  active->taken_over.erase(half);
  active->to_make[half] = replica;
  const replication::RecordCas cas = co_await access_.CompareAndSwap(std::move(record), expected);
  // If the outcome is not known, the map will show it.
  if (cas.kind == CasOutcome::Kind::kStored) active->taken_over.insert(half);
  if (cas.kind != CasOutcome::Kind::kUnknown) co_return Status();
  co_return Error(Code::kUnavailable, "partition {}: the topology does not answer", half);
}

Task<Status> SplitDriver::TakeOver(Active* active, uint32_t half) {
  CO_ASSIGN_OR_RETURN(Versioned<PartitionRecord> now, co_await access_.Read(half));
  const PartitionRecord* whole = RecordOf(active->task.whole);
  if (whole == nullptr || now.record.state != PartitionStage::kBuilding) co_return Status();  // look again
  now.record.replicas = whole->replicas;
  now.record.op_id = NewOpId(reactor_);
  const replication::RecordCas cas = co_await access_.CompareAndSwap(std::move(now.record), now.revision);
  if (cas.kind == CasOutcome::Kind::kStored) active->taken_over.insert(half);
  if (cas.kind != CasOutcome::Kind::kUnknown) co_return Status();
  co_return Error(Code::kUnavailable, "partition {}: the topology does not answer", half);
}

// -- replicas of halves

Task<Status> SplitDriver::MakeReplica(Active* active, uint32_t half, Uuid replica) {
  const PartitionRecord* record = RecordOf(half);
  replication::ReplicaState state;
  state.replica = replica;
  state.lineage = record == nullptr ? 0 : record->lineage;
  state.installed = true;
  const Result<PartitionInfo> made =
      co_await partitions_.CreateReplica(half, PartitionUuid(cluster_.cluster_id(), half), state);
  CO_RETURN_IF_ERROR(made.status());
  active->to_make.erase(half);
  co_await cluster_.TellRecord(half);
  co_return Status();
}

Task<Status> SplitDriver::AskForMastership(uint32_t half) {
  const PartitionRecord* record = RecordOf(half);
  if (record == nullptr) co_return Status();  // look again
  co_return co_await masters_.HandOver(half, cluster_.node(), record->epoch);
}

// Of the master here. What was not proposed is asked again.
Task<Status> SplitDriver::AskHere(uint32_t half, HalfStep step) {
  auto ask = [part = OwnerOf(half), half, step](Reactor&) -> Task<Status> {
    replication::ReplicaHost& host = *part->replica_host();
    if (step.kind == HalfStep::Kind::kAddReplica) co_return host.AddOn(half, step.node, /*replaces=*/true).status();
    if (step.kind == HalfStep::Kind::kRemoveReplica) {
      co_return Asked(host.RemoveOther(half, step.replica, replication::Removal::kForGood));
    }
    co_return Asked(host.SetMinIsr(half, step.min_isr));
  };
  co_return co_await CallOn(reactor_, static_cast<int>(half % parts_.size()), std::move(ask));
}

// No node of an earlier version could read what the feed writes. True: the cluster speaks a version that has it.
Task<Result<bool>> SplitDriver::RaiseProtocol() {
  if (!cluster_.newest().cluster) co_return Error(Code::kUnavailable, "the record of the cluster is not known");
  Versioned<ClusterRecord> cluster = *cluster_.newest().cluster;
  if (cluster.record.protocol >= replication::kProtocolWithFeeds) co_return true;
  CO_RETURN_IF_ERROR(CheckProtocol(cluster_.newest(), replication::kProtocolWithFeeds));
  cluster.record.protocol = replication::kProtocolWithFeeds;
  cluster.record.op_id = NewOpId(reactor_);
  CO_ASSIGN_OR_RETURN(std::string value, Encode(cluster.record));
  co_await cluster_.topology_calls()->Acquire();
  const Result<CasOutcome> outcome = co_await cluster_.topology()->CompareAndSwap(
      std::string(kClusterKey), cluster.revision, std::move(value), kTopologyNs);
  cluster_.topology_calls()->Release();
  CO_RETURN_IF_ERROR(outcome.status());
  LOG_IF(INFO, outcome->kind == CasOutcome::Kind::kStored)
      << "the cluster begins to speak version " << replication::kProtocolWithFeeds << " of the peer protocol";
  co_return false;  // the map does not show it yet
}

// -- the feed

// By stored keys, on its own reactor.
Task<Partition*> SplitDriver::PlaceOf(uint32_t id) {
  auto find = [part = OwnerOf(id), id](Reactor&) -> Task<Partition*> { co_return part->StoredPlaceOf(id); };
  co_return co_await CallOn(reactor_, static_cast<int>(id % parts_.size()), std::move(find));
}

// Where the partition is. Nothing of it outlives the call.
Task<void> SplitDriver::FeedOnReactor(Active* active, Feed* feed) {
  const uint32_t whole = active->task.whole;
  const std::string claim = fmt::format("{}/{}/{}", active->task.epoch, cluster_.node(), NewUuid(reactor_).ToString());
  SplitRun::Parts parts;
  parts.id = whole;
  parts.host = OwnerOf(whole)->replica_host();
  parts.whole = co_await PlaceOf(whole);
  std::array<Partition*, 2> places{};
  for (size_t i = 0; i < places.size(); ++i) {
    const uint32_t half = active->task.halves[i];
    places[i] = co_await PlaceOf(half);
    std::tie(parts.halves[i].first_hash, parts.halves[i].last_hash) = HashRangeOf(half, cluster_.ranges());
  }
  auto run = [this, parts, places, claim, active](Reactor& reactor) mutable -> Task<Status> {
    std::array<std::optional<RemotePartition>, 2> remote;
    for (size_t i = 0; i < places.size(); ++i) {
      const auto owner = static_cast<int>(active->task.halves[i] % parts_.size());
      if (owner == reactor.index()) {
        parts.halves[i].partition = places[i];
      } else {
        parts.halves[i].partition = &remote[i].emplace(reactor, owner, places[i]);
      }
    }
    SplitRun split(reactor, parts, &active->control);
    co_return co_await split.Run(claim);
  };
  feed->result = co_await CallOn(reactor_, static_cast<int>(whole % parts_.size()), std::move(run));
  feed->over = true;
}

// Meanwhile the halves get and keep their replicas.
Task<void> SplitDriver::Tend(Active* active) {
  using Step = HalfStep::Kind;
  const Result<Steps> steps = co_await Look(active);
  for (size_t i = 0; steps.ok() && i < steps->size(); ++i) {
    const HalfStep& step = (*steps)[i];
    const bool waits = step.kind == Step::kReady || (step.kind == Step::kWait && !step.for_other_node);
    const bool goes_on = step.kind == Step::kAddReplica || step.kind == Step::kRemoveReplica ||
                         step.kind == Step::kSetMinIsr || step.kind == Step::kTakeOver;
    if (!waits && !goes_on) active->control.restart = true;
    if (!goes_on) continue;
    const Status done = co_await Carry(active, active->task.halves[i], step);
    active->trouble = done.ok() ? "" : done.message();
  }
}

// OK once the partition is retired.
Task<Status> SplitDriver::RunFeed(Active* active) {
  if (!memory_->TryReserve(SplitFeed::kMemoryBytes)) {
    co_return Error(Code::kOverloaded, "there is no memory for a feed of {} bytes now", SplitFeed::kMemoryBytes);
  }
  const Status status = co_await RunReserved(active);
  memory_->Release(SplitFeed::kMemoryBytes);
  co_return status;
}

Task<Status> SplitDriver::RunReserved(Active* active) {
  Feed feed;
  TaskGroup running;
  active->control.restart = false;
  running.Spawn(FeedOnReactor(active, &feed));
  Nanos cancelled_ns = 0;
  while (!feed.over) {
    co_await Sleep(reactor_, kTickNs);
    if (feed.over) break;
    if (Wanted(*active)) {
      co_await Tend(active);
      continue;
    }
    if (cancelled_ns == 0) cancelled_ns = reactor_.NowNs();
    if (stopping_ || reactor_.NowNs() - cancelled_ns < kMaxPauseNs / 5) continue;
    // A write into a half may wait for its commit for ever. If the split was given up, it ends with the half.
    const Status given_up = co_await GiveUp(active);
    LOG_IF_EVERY_N(WARNING, !given_up.ok(), 100) << given_up.ToString();
  }
  co_await running.Drain();
  active->control.may_switch = false;
  active->control.waits_for = "";
  co_return feed.result;
}

// -- giving up

// The halves take space that clients want to write to. Once the order is out of the record, they are given up.
Task<void> SplitDriver::CallOff(Active* active, const Status& why) {
  LOG(WARNING) << "partition " << active->task.whole << " is not split, because there is no room for its halves. Make "
               << "room, and order the split again: " << why.ToString();
  const Result<bool> done = co_await SetOrder(active->task.whole, std::nullopt);
  LOG_IF(WARNING, !done.ok()) << done.status().ToString();
}

Task<Status> SplitDriver::GiveUp(Active* active) {
  for (const uint32_t half : active->task.halves) CO_RETURN_IF_ERROR(co_await GiveUpHalf(active->task.whole, half));
  co_return Status();
}

// SD2.
Task<Status> SplitDriver::GiveUpHalf(uint32_t whole, uint32_t half) {
  Result<Versioned<PartitionRecord>> now = co_await access_.Read(half);
  if (now.code() == Code::kNotFound) co_return Status();
  CO_RETURN_IF_ERROR(now.status());
  if (now->record.state != PartitionStage::kBuilding) co_return Status();
  CO_ASSIGN_OR_RETURN(const Versioned<PartitionRecord> of_whole, co_await access_.Read(whole));
  if (of_whole.record.state != PartitionStage::kServing || of_whole.record.split) co_return Status();
  if (replication::NodeOf(of_whole.record, of_whole.record.master) != cluster_.node()) co_return Status();
  now->record.state = PartitionStage::kRetired;
  now->record.op_id = NewOpId(reactor_);
  const replication::RecordCas cas = co_await access_.CompareAndSwap(std::move(now->record), now->revision);
  given_up_total_.Add(cas.kind == CasOutcome::Kind::kStored);
  if (cas.kind != CasOutcome::Kind::kUnknown) co_return Status();
  co_return Error(Code::kUnavailable, "partition {}: the topology does not answer", half);
}

// -- opening

Task<Status> SplitDriver::Open(Active* active) {
  for (const uint32_t half : active->task.halves) {
    const PartitionRecord* record = RecordOf(half);
    if (record == nullptr || record->state != PartitionStage::kBuilding) continue;
    if (replication::NodeOf(*record, record->master) != cluster_.node()) continue;
    CO_RETURN_IF_ERROR(co_await OpenHere(active, half));
  }
  co_return Status();
}

Task<Status> SplitDriver::Complete(Active* active) {
  for (const uint32_t half : active->task.halves) {
    const PartitionRecord* record = RecordOf(half);
    if (record == nullptr) continue;
    if (replication::NodeOf(*record, record->master) != cluster_.node()) continue;
    const std::optional<NodeId> lacking = LackingNode(cluster_.newest(), *record);
    if (!lacking || !parts_[0]->replica_host()->links().IsUp(*lacking, 0)) continue;
    HalfStep step;
    step.kind = HalfStep::Kind::kAddReplica;
    step.node = *lacking;
    CO_RETURN_IF_ERROR(co_await AskHere(half, std::move(step)));
    LOG(INFO) << "partition " << half << ", a half of " << active->task.whole << ", gets a replica on node " << *lacking
              << ", which was away during the split";
  }
  co_return Status();
}

Task<Status> SplitDriver::OpenHere(Active* active, uint32_t half) {
  const auto known = active->opened.find(half);
  const Lsn before = known == active->opened.end() ? 0 : known->second;
  auto open = [part = OwnerOf(half), half, before](Reactor&) -> Task<Result<Lsn>> {
    Lsn lsn = before;
    if (lsn == 0) {
      CO_ASSIGN_OR_RETURN(lsn, co_await OpenHalf(part->StoredPlaceOf(half)));
    }
    CO_RETURN_IF_ERROR(part->replica_host()->SetServing(half, lsn).status());
    co_return lsn;
  };
  const Result<Lsn> opened = co_await CallOn(reactor_, static_cast<int>(half % parts_.size()), std::move(open));
  active->opened.erase(half);
  CO_RETURN_IF_ERROR(opened.status());
  active->opened[half] = *opened;
  co_return Status();
}

// -- what operators order

Task<Result<bool>> SplitDriver::SetOrder(uint32_t partition, std::optional<SplitOrder> order) {
  auto set = [part = OwnerOf(partition), partition, order](Reactor&) -> Task<Result<bool>> {
    co_return part->replica_host()->SetSplit(partition, order);
  };
  co_return co_await CallOn(reactor_, static_cast<int>(partition % parts_.size()), std::move(set));
}

Task<Status> SplitDriver::CheckSnapshots(uint32_t partition) {
  auto ask = [part = OwnerOf(partition), partition](Reactor&) -> Task<std::pair<uint64_t, int64_t>> {
    const Partition* held = part->engine()->partition(partition);
    if (held == nullptr) co_return std::pair<uint64_t, int64_t>();
    const PartitionStats stats = held->stats();
    co_return std::pair(stats.cluster_snapshots, stats.cluster_snapshots_end_ms);
  };
  const auto [open, end_ms] = co_await CallOn(reactor_, static_cast<int>(partition % parts_.size()), std::move(ask));
  if (open == 0) co_return Status();
  co_return Error(
      Code::kInvalidArgument,
      "partition {}: {} of the cluster {} open, and would end with the split: release them, or wait. The last one "
      "expires in {} s, unless it is renewed",
      partition, Counted(open, "snapshot"), open == 1 ? "is" : "are",
      std::max<int64_t>(end_ms - reactor_.WallMs(), 0) / 1000 + 1);
}

Task<Result<api::SplitPartitionReply>> SplitDriver::Order(api::SplitPartitionRequest request) {
  const auto partition = static_cast<uint32_t>(request.partition);
  api::SplitPartitionReply reply;
  const PartitionRecord* record = RecordOf(partition);
  if (record == nullptr) co_return Error(Code::kInvalidArgument, "the topology has no partition {}", partition);
  if (record->state == PartitionStage::kRetired) {
    const auto halves = HalvesOf(partition, cluster_.ranges());
    const PartitionRecord* half = halves ? RecordOf((*halves)[0]) : nullptr;
    reply.is_split = reply.done = half != nullptr && half->state != PartitionStage::kRetired;
    if (reply.is_split) co_return reply;
    co_return Error(Code::kInvalidArgument, "partition {} does not serve", partition);
  }
  std::optional<SplitOrder> order;
  if (!request.abort) {
    order = record->split.value_or(SplitOrder());
    const bool begins = !record->split;
    if (begins) {
      if (!partitions_.store().namespaced) {
        co_return Error(Code::kInvalidArgument,
                        "the keys of this store have no namespaces, so its partitions cannot be split: export its "
                        "records, and load them into a new cluster");
      }
      CO_RETURN_IF_ERROR(CheckMaySplit(cluster_.newest(), partition, replication::kProtocolWithFeeds));
      CO_RETURN_IF_ERROR(co_await CheckSnapshots(partition));
    }
    order->rate_mb_s = static_cast<uint32_t>(request.rate_mb_s);
  }
  CO_ASSIGN_OR_RETURN(reply.done, co_await SetOrder(partition, std::move(order)));
  co_return reply;
}

}  // namespace pando
