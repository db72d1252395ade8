// A store whose partitions come and go, for tests: its roster and the engines of all its reactors, all of
// them on one reactor of the simulated kernel.
//
// Threads: that of the given reactor.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "src/backup/install.h"
#include "src/engine/snapshot_cut.h"
#include "src/partition/store_roster.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {

// Several engines share a reactor, which can register the memory of one pool only.
inline SimOptions SharedReactor() {
  SimOptions options;
  options.refuse_locked_memory = true;
  return options;
}

class OpenedStore {
 public:
  // Creates the store if it does not exist, and opens all of it. Close it, also after an error.
  static Task<Status> Open(Reactor* reactor, Setup setup, OpenedStore* out) {
    CO_ASSIGN_OR_RETURN(StoreInfo store, co_await OpenStore(*reactor, setup.store));
    CO_RETURN_IF_ERROR(co_await RemoveLeftovers(*reactor, &store));
    setup.engine.store = store;
    for (uint32_t r = 0; r < store.reactors; ++r) {
      setup.engine.reactor_index = r;
      CO_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, co_await Engine::Open(*reactor, setup.engine));
      out->engines_.push_back(std::move(engine));
    }
    out->roster_ = std::make_unique<StoreRoster>(*reactor, std::move(store));
    co_return co_await out->roster_->Open();
  }
  Task<Status> Close(bool checkpoint) {
    Status status;
    for (auto& engine : engines_) {
      Status closed = co_await engine->Close(checkpoint);
      if (status.ok()) status = std::move(closed);
    }
    engines_.clear();
    if (roster_) {
      Status closed = co_await roster_->Close();
      if (status.ok()) status = std::move(closed);
    }
    co_return status;
  }

  // -- as NodePartitions does it
  Task<Result<Partition*>> Create(uint32_t id) {
    CO_RETURN_IF_ERROR(CheckMayOpen(id));
    Forget();
    CO_ASSIGN_OR_RETURN(PartitionInfo info, co_await roster_->Create(id));
    co_return co_await engine_of(id).OpenPartition(info);
  }
  Task<Result<Partition*>> CreateReplica(uint32_t id, Uuid uuid) {
    CO_RETURN_IF_ERROR(CheckMayOpen(id));
    Forget();
    CO_ASSIGN_OR_RETURN(PartitionInfo info, co_await roster_->CreateReplica(id, uuid, engine_of(id).log_end()));
    co_return co_await engine_of(id).OpenPartition(info);
  }
  Task<Status> Drop(uint32_t id) {
    Forget();
    CO_ASSIGN_OR_RETURN(PartitionInfo info, co_await roster_->Drop(id));
    CO_RETURN_IF_ERROR(co_await engine_of(id).DropPartition(id));
    co_return co_await roster_->RemoveFiles(info);
  }
  // Installs the snapshot's partition under this ID.
  Task<Result<Partition*>> Install(uint32_t id, SnapshotRoot root, SnapshotPages* pages) {
    CO_RETURN_IF_ERROR(CheckMayOpen(id));
    Forget();
    Reactor& reactor = engine_of(id).reactor();
    const TreeForm form = FormOf(store(), store().InfoOf(id, root.partition));
    StoreRoster::MakeFile make = [this, &reactor, root, form, pages](PartitionFileOptions options) {
      Task<Status> first = beside ? beside(options) : Nothing();
      return InOrder(std::move(first), InstallPartitionFile(reactor, pages, root, form, memory, std::move(options)));
    };
    CO_ASSIGN_OR_RETURN(PartitionInfo info,
                        co_await roster_->Install(id, root.partition, engine_of(id).log_end(), make));
    co_return co_await engine_of(id).OpenPartition(info);
  }
  Status CheckMayOpen(uint32_t id) {
    RETURN_IF_ERROR(roster_->CheckNew(id));
    return engine_of(id).CheckMayOpen(id);
  }
  void Forget() {
    std::set<Uuid> in_logs;
    for (auto& engine : engines_) {
      for (const Uuid& uuid : engine->dropped_in_log()) in_logs.insert(uuid);
    }
    roster_->ForgetDropped(in_logs);
  }

  StoreRoster& roster() { return *roster_; }
  const StoreInfo& store() const { return roster_->store(); }
  Engine& engine_of(uint32_t id) { return *engines_[store().ReactorOf(id)]; }
  Partition* partition(uint32_t id) { return engine_of(id).partition(id); }
  MemoryBudget* memory = nullptr;  // for installations
  // Makes what lies beside the file of an installed partition, before that.
  std::function<Task<Status>(const PartitionFileOptions&)> beside;

 private:
  static Task<Status> Nothing() { co_return Status(); }
  static Task<Status> InOrder(Task<Status> first, Task<Status> second) {
    CO_RETURN_IF_ERROR(co_await first);
    co_return co_await second;
  }

  std::vector<std::unique_ptr<Engine>> engines_;
  std::unique_ptr<StoreRoster> roster_;
};

// A key that begins with `stem` and belongs into the partition, of a store without namespaces.
inline std::string KeyIn(uint32_t ranges, uint32_t partition, std::string stem) {
  StoreInfo store;
  store.ranges = ranges;
  for (int i = 0; store.PartitionOf(stem) != partition; ++i) stem += static_cast<char>('a' + i % 26);
  return stem;
}

// A snapshot that was read, and that is sent as often as a test wants.
struct ReadSnapshot {
  SnapshotRoot root;
  std::vector<PageBatch> batches;
  uint64_t content_hash = 0, count = 0;
};

class SentPages final : public SnapshotPages {
 public:
  explicit SentPages(const ReadSnapshot* snapshot) : snapshot_(snapshot) {}
  // Then the newer ones.
  explicit SentPages(const std::vector<ReadSnapshot>* all) : snapshot_(all->data()), last_(&all->back()) {}
  Task<Result<PageBatch>> Next() override {
    if (next_ == snapshot_->batches.size()) co_return Error(Code::kUnavailable, "the sender is gone");
    PageBatch batch = snapshot_->batches[next_++];
    co_return batch;
  }
  Task<Result<std::optional<SnapshotRoot>>> Newer() override {
    if (last_ == nullptr || snapshot_ == last_) co_return std::optional<SnapshotRoot>();
    next_ = 0;
    co_return std::optional<SnapshotRoot>((++snapshot_)->root);
  }
  void Cancel() override {}  // Next never waits

 private:
  const ReadSnapshot* snapshot_;
  const ReadSnapshot* last_ = nullptr;
  size_t next_ = 0;
};

// Opens a snapshot of the partition, reads the pages that were written after generation `since`, and releases it.
inline Task<Result<ReadSnapshot>> ReadSnapshotOf(Reactor* reactor, Partition* partition, size_t batch_bytes,
                                                 Generation since = 0) {
  std::vector<Partition*> one(1, partition);
  CO_ASSIGN_OR_RETURN(SnapshotInfo info, co_await CutSnapshot(*reactor, one, INT64_MAX));
  ReadSnapshot snapshot;
  CO_ASSIGN_OR_RETURN(snapshot.root, co_await partition->DescribeSnapshot(info.id));
  CO_ASSIGN_OR_RETURN(RangeAggregates sums, co_await partition->Aggregate("", "", info.id));
  snapshot.content_hash = sums.content_hash;
  snapshot.count = sums.count;
  PageCursor from;
  for (bool exhausted = false; !exhausted;) {
    CO_ASSIGN_OR_RETURN(PageBatch batch, co_await partition->ReadPages(info.id, since, from, batch_bytes));
    from = batch.next;
    exhausted = batch.exhausted;
    snapshot.batches.push_back(std::move(batch));
  }
  CO_RETURN_IF_ERROR(co_await ReleaseSnapshot(one, info.id));
  co_return snapshot;
}

}  // namespace pando::engine_test
