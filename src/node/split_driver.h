// SplitDriver splits the partitions whose masters are on this node and that their records say are to be split
// (docs/SPLIT.md): it makes the halves, runs the feed and the switch, opens the halves, and gives up those that nobody
// wants any more.
//
// What to do is read from the topology and from what the node holds, again and again (split_plan.h), so a split goes on
// after any crash, here or on another node. One split at a time; the others wait.
//
// Threads: reactor 0. The feed runs on the reactor of the partition.
//
// Invariants
//   SD3  A split ends as soon as this node learns that it is not the master any more, or that the split was given up:
//        nothing is switched after that.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "gen-cpp/cluster_types.h"
#include "src/base/memory_budget.h"
#include "src/metrics/registry.h"
#include "src/node/master_calls.h"
#include "src/node/node_cluster.h"
#include "src/node/node_partitions.h"
#include "src/node/reactor_part.h"
#include "src/node/split_plan.h"
#include "src/node/split_run.h"

namespace pando {

class SplitDriver {
 public:
  // All pointers outlive this object. `self`: this node.
  SplitDriver(Reactor& reactor, NodeCluster* cluster, NodePartitions* partitions,
              const std::vector<ReactorPart*>* parts, NodeControl* self, MemoryBudget* memory, Registry* registry);
  ~SplitDriver();  // REQUIRES: Drain has returned

  // Once the node has joined.
  void Start();
  // Calls all splits off, and waits a moment, so that no writes are held when the node hands over its masterships.
  Task<void> Stop();
  // Waits for what Stop has called off: it may have to wait for writes that are not committed.
  Task<void> Drain();

  // What an operator asks for: begins a split, changes its rate, or gives it up. On any node; kNotMaster: it is not
  // that of the master. kInvalidArgument: it cannot be split.
  Task<Result<api::SplitPartitionReply>> Order(api::SplitPartitionRequest request);
  std::vector<api::SplitStatus> status() const;

 private:
  // A task that is under way.
  struct Active {
    SplitTask task;
    SplitControl control;
    bool over = false;
    // -- of the halves
    std::set<uint32_t> taken_over;
    std::map<uint32_t, Uuid> to_make;
    std::map<uint32_t, Nanos> waits_since_ns;  // for other nodes
    std::map<uint32_t, Lsn> opened;            // by this task
    std::string trouble;                       // why the last step failed
    std::string waits_for;
    Nanos pause_ns = 0;
    uint64_t counted_bytes = 0;  // of control.written_bytes
  };
  // The feed of an attempt, as its owner sees it.
  struct Feed {
    bool over = false;
    Status result;
  };
  using Steps = std::array<HalfStep, 2>;

  static constexpr Nanos kTickNs = 25 * kMillisecond;
  static constexpr Nanos kMinPauseNs = 200 * kMillisecond, kMaxPauseNs = 10 * kSecond;
  static constexpr Nanos kCompleteNs = 2 * kSecond;
  static constexpr Nanos kPatienceNs = 30 * kSecond;  // for other nodes, before a half is rather made anew
  static constexpr Nanos kStopNs = 2 * kSecond;
  static constexpr Nanos kTopologyNs = 2 * kSecond;
  // Of those that open halves there are as many as there is to do: hash ranges serve nobody until they are done.
  static constexpr size_t kSplitsAtOnce = 1, kCompletesAtOnce = 8;

  Task<void> Loop();
  void Scan();
  void TellNews();
  void Begin(const SplitTask& task);
  void BeginCompletes(const std::vector<SplitTask>& tasks);
  size_t CountActive(SplitTask::Kind kind) const;
  void Publish();
  Task<void> RunTask(Active* active);
  bool Wanted(const Active& active) const { return !active.control.cancelled; }
  Task<void> Pause(Active* active, const Status& why);

  // -- kSplit
  Task<void> Split(Active* active);
  Task<Status> Prepare(Active* active);
  Task<Status> RunFeed(Active* active);
  Task<Status> RunReserved(Active* active);
  Task<void> FeedOnReactor(Active* active, Feed* feed);
  Task<Result<bool>> RaiseProtocol();
  Task<Partition*> PlaceOf(uint32_t id);
  Task<void> Tend(Active* active);
  Task<Result<Steps>> Look(Active* active);
  Task<Result<HalfInput>> InputFor(Active* active, uint32_t half);
  Task<std::optional<HeldHalf>> Held(uint32_t half);
  void NoteWaits(Active* active, uint32_t half, const HalfStep& step);
  Task<Status> Carry(Active* active, uint32_t half, HalfStep step);
  Task<Status> WriteHalf(Active* active, uint32_t half);
  Task<Status> TakeOver(Active* active, uint32_t half);
  Task<Status> MakeReplica(Active* active, uint32_t half, Uuid replica);
  Task<Status> AskForMastership(uint32_t half);
  Task<Status> AskHere(uint32_t half, HalfStep step);
  // -- kGiveUp, kOpen, kComplete
  Task<void> CallOff(Active* active, const Status& why);
  Task<Status> GiveUp(Active* active);
  Task<Status> GiveUpHalf(uint32_t whole, uint32_t half);
  Task<Status> Open(Active* active);
  Task<Status> Complete(Active* active);
  Task<Status> OpenHere(Active* active, uint32_t half);

  Task<Result<bool>> SetOrder(uint32_t partition, std::optional<SplitOrder> order);
  Task<Status> CheckSnapshots(uint32_t partition);
  ReactorPart* OwnerOf(uint32_t id) const { return parts_[id % parts_.size()]; }
  const PartitionRecord* RecordOf(uint32_t id) const;

  Reactor& reactor_;
  NodeCluster& cluster_;
  NodePartitions& partitions_;
  const std::vector<ReactorPart*>& parts_;
  MemoryBudget* const memory_;
  Registry* const registry_;
  TopologyAccess access_;
  MasterCalls masters_;
  std::map<uint32_t, std::unique_ptr<Active>> active_;  // by the partition that is split
  std::vector<SplitTask> queued_;
  std::set<uint32_t> may_run_;                 // as of the last scan
  std::map<uint32_t, PartitionStage> stages_;  // as they were told last
  uint64_t scanned_news_ = 0;
  uint32_t last_complete_ = 0;  // the whole of the kComplete task that was begun last
  bool task_ended_ = false;     // since the last scan
  bool stopping_ = false, drained_ = true;
  Gauge running_, queued_count_;
  Counter done_total_, failed_total_, given_up_total_, copied_bytes_total_;
  TaskGroup tasks_;
};

}  // namespace pando
