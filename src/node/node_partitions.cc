#include "src/node/node_partitions.h"

#include <algorithm>
#include <set>
#include <utility>

#include "src/io/call_on.h"
#include "src/partition/partition_file.h"

namespace pando {
namespace {

Task<Status> Both(Task<Status> first, Task<Status> second) {
  CO_RETURN_IF_ERROR(co_await first);
  co_return co_await second;
}

Task<Status> MakeNone() { co_return Status(); }

Task<Status> MakeFile(replication::ReplicaFile::Place place, replication::ReplicaState state) {
  CO_ASSIGN_OR_RETURN(auto file, co_await replication::ReplicaFile::Create(std::move(place), state));
  co_return co_await file->Close();
}

Status Closing() { return Error(Code::kUnavailable, "the node is closing"); }

// Pages that keep coming, or else end with an error (NP3).
class PagesInTime final : public SnapshotPages, private Timer {
 public:
  // A snapshot whose pages take at most `most_bytes`.
  PagesInTime(Reactor& reactor, SnapshotPages* pages, uint64_t most_bytes)
      : reactor_(reactor), pages_(*pages), bytes_left_(most_bytes) {
    on_fire = [](Timer* t) {
      static_cast<PagesInTime*>(t)->End(Error(Code::kUnavailable,
                                              "no page of the snapshot has come for {} s; begin the installation again",
                                              NodePartitions::kInstallPatience / kSecond));
    };
  }

  Task<Result<PageBatch>> Next() override {
    CO_RETURN_IF_ERROR(ended_);
    const Nanos began_ns = reactor_.NowNs();
    reactor_.ArmTimer(this, began_ns + patience_ns_);
    Result<PageBatch> batch = co_await pages_.Next();
    if (batch.ok() && batch->images.empty()) co_await Yield(reactor_);  // so that the timer can fire
    reactor_.CancelTimer(this);
    CO_RETURN_IF_ERROR(ended_);
    CO_RETURN_IF_ERROR(batch.status());
    // Batches without pages do not count.
    patience_ns_ = batch->images.empty() ? std::max<Nanos>(patience_ns_ - (reactor_.NowNs() - began_ns), 0)
                                         : NodePartitions::kInstallPatience;
    for (const PageImage& image : batch->images) {
      if (image.bytes.size() > bytes_left_) {
        co_return Error(Code::kCorruption, "more pages were sent than the snapshot has; the sender must be checked");
      }
      bytes_left_ -= image.bytes.size();
    }
    co_return batch;
  }
  Task<Result<std::optional<SnapshotRoot>>> Newer() override {
    CO_RETURN_IF_ERROR(ended_);
    Result<std::optional<SnapshotRoot>> newer = co_await pages_.Newer();
    CO_RETURN_IF_ERROR(ended_);
    if (newer.ok() && *newer) bytes_left_ = (*newer)->file_blocks * kBlockBytes;
    co_return std::move(newer);
  }
  void Cancel() override { End(Closing()); }

 private:
  void End(Status why) {
    if (ended_.ok()) ended_ = std::move(why);
    pages_.Cancel();
  }

  Reactor& reactor_;
  SnapshotPages& pages_;
  uint64_t bytes_left_;
  Nanos patience_ns_ = NodePartitions::kInstallPatience;
  Status ended_;
};

}  // namespace

NodePartitions::~NodePartitions() { CHECK(!open_) << "NodePartitions was destroyed before it was closed"; }

Task<Status> NodePartitions::Open() {
  if (parts_[0]->replica_host() != nullptr) roster_.AllowHalves();
  CO_RETURN_IF_ERROR(co_await roster_.Open());
  open_ = true;
  co_return Status();
}

Task<Status> NodePartitions::Close() {
  closing_ = true;
  if (installing_) installing_->Cancel();
  co_await turn_.Acquire();
  turn_.Release();
  open_ = false;
  co_return co_await roster_.Close();
}

// NP1. After OK, the caller releases the turn.
Task<Status> NodePartitions::TakeTurn() {
  co_await turn_.Acquire();
  if (open_ && !closing_) co_return Status();
  turn_.Release();
  co_return Closing();
}

// SM3: what no log holds any more is forgotten with the next change.
Task<void> NodePartitions::ForgetDropped() {
  std::set<Uuid> in_logs;
  for (size_t r = 0; r < parts_.size(); ++r) {
    auto ask = [part = parts_[r]](Reactor&) -> Task<std::vector<Uuid>> { co_return part->engine()->dropped_in_log(); };
    std::vector<Uuid> of_one = co_await CallOn(reactor_, static_cast<int>(r), std::move(ask));
    in_logs.insert(of_one.begin(), of_one.end());
  }
  roster_.ForgetDropped(in_logs);
}

Task<void> NodePartitions::Announce(uint32_t id, bool here) {
  for (size_t r = 0; r < parts_.size(); ++r) {
    auto tell = [part = parts_[r], id, here](Reactor&) -> Task<void> {
      part->SetHere(id, here);
      co_return;
    };
    co_await CallOn(reactor_, static_cast<int>(r), std::move(tell));
  }
}

Task<Result<PartitionInfo>> NodePartitions::Create(uint32_t id) {
  CO_RETURN_IF_ERROR(co_await TakeTurn());
  Result<PartitionInfo> created = co_await CreateInTurn(id, std::nullopt, std::nullopt);
  turn_.Release();
  co_return created;
}

Task<Result<PartitionInfo>> NodePartitions::CreateReplica(uint32_t id, Uuid uuid, replication::ReplicaState state) {
  CO_RETURN_IF_ERROR(co_await TakeTurn());
  Result<PartitionInfo> created = co_await CreateInTurn(id, uuid, state);
  turn_.Release();
  co_return created;
}

// Asked before anything is made (NP1: what it finds stays so).
Task<Status> NodePartitions::CheckMayOpen(uint32_t id) {
  CO_RETURN_IF_ERROR(roster_.CheckNew(id));
  co_await AddPlaces(reactor_, &parts_, id + 1);
  auto ask = [part = OwnerOf(id), id](Reactor&) -> Task<Status> { co_return part->engine()->CheckMayOpen(id); };
  co_return co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(id)), std::move(ask));
}

// Without a UUID: a new one.
Task<Result<PartitionInfo>> NodePartitions::CreateInTurn(uint32_t id, std::optional<Uuid> uuid,
                                                         std::optional<replication::ReplicaState> replica) {
  CO_RETURN_IF_ERROR(co_await CheckMayOpen(id));
  co_await ForgetDropped();
  if (!uuid) {
    CO_ASSIGN_OR_RETURN(const PartitionInfo info, co_await roster_.Create(id));
    co_return co_await Serve(info);
  }
  const LogPosition until = co_await LogEnd(id);
  StoreRoster::MakeFile make = [this, id, &replica](PartitionFileOptions options) {
    Task<Status> beside = MakeReplicaFile(id, options, replica);
    return Both(std::move(beside), CreatePartitionFile(reactor_, std::move(options)));
  };
  CO_ASSIGN_OR_RETURN(const PartitionInfo info, co_await roster_.Install(id, *uuid, until, std::move(make)));
  co_return co_await Serve(info);
}

// Both files are complete before store.meta names the partition (SM1).
Task<Status> NodePartitions::MakeReplicaFile(uint32_t id, const PartitionFileOptions& beside,
                                             std::optional<replication::ReplicaState> state) {
  if (!state) return MakeNone();
  return MakeFile({beside.store, StoreInfo::PartitionName(id) + "/" + kReplicaFileName, beside.partition}, *state);
}

// What the log holds of an earlier partition with the same UUID lies before its end.
Task<LogPosition> NodePartitions::LogEnd(uint32_t id) {
  auto ask = [part = OwnerOf(id)](Reactor&) -> Task<LogPosition> { co_return part->engine()->log_end(); };
  co_return co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(id)), std::move(ask));
}

Status NodePartitions::CheckForm(const InstallSource& source) const {
  const StoreInfo& ours = store();
  if (source.ranges == ours.ranges && source.page_bytes == ours.page_bytes && source.seal_bytes == ours.seal_bytes &&
      source.namespaced == ours.namespaced) {
    return Status();
  }
  return Error(Code::kInvalidArgument,
               "the partition comes from a store of {} ranges with pages of {} bytes, room for a seal of {}, and keys "
               "{} namespaces; this store has {} ranges, pages of {} bytes, room for {}, and keys {} namespaces",
               source.ranges, source.page_bytes, source.seal_bytes, source.namespaced ? "with" : "without", ours.ranges,
               ours.page_bytes, ours.seal_bytes, ours.namespaced ? "with" : "without");
}

Task<Result<PartitionInfo>> NodePartitions::Install(uint32_t id, InstallSource source, SnapshotPages* pages) {
  CO_RETURN_IF_ERROR(co_await TakeTurn());
  Result<PartitionInfo> installed = co_await InstallInTurn(id, std::move(source), pages, std::nullopt);
  turn_.Release();
  co_return installed;
}

Task<Result<PartitionInfo>> NodePartitions::Reinstall(uint32_t id, InstallSource source, SnapshotPages* pages,
                                                      replication::ReplicaState* state) {
  CO_RETURN_IF_ERROR(co_await TakeTurn());
  Result<PartitionInfo> installed = co_await ReinstallInTurn(id, std::move(source), pages, state);
  turn_.Release();
  co_return installed;
}

Task<Result<PartitionInfo>> NodePartitions::ReinstallInTurn(uint32_t id, InstallSource source, SnapshotPages* pages,
                                                            replication::ReplicaState* state) {
  CO_RETURN_IF_ERROR(CheckForm(source));
  if (store().Find(id) != nullptr) {
    std::optional<replication::ReplicaState> last;
    CO_RETURN_IF_ERROR(co_await DropInTurn(id, &last));
    // It may have promised until it was gone.
    if (last && last->replica == state->replica) {
      state->promised = std::max(state->promised, last->promised);
      state->lineage = std::max(state->lineage, last->lineage);
    }
  }
  replication::ReplicaState installed = *state;
  installed.installed = true;
  co_return co_await InstallInTurn(id, std::move(source), pages, installed);
}

Task<Result<PartitionInfo>> NodePartitions::InstallInTurn(uint32_t id, InstallSource source, SnapshotPages* pages,
                                                          std::optional<replication::ReplicaState> replica) {
  CO_RETURN_IF_ERROR(CheckForm(source));
  CO_RETURN_IF_ERROR(co_await CheckMayOpen(id));
  co_await ForgetDropped();
  const LogPosition until = co_await LogEnd(id);
  if (closing_) co_return Closing();
  PagesInTime in_time(reactor_, pages, source.root.file_blocks * kBlockBytes);
  const SnapshotRoot& root = source.root;
  const TreeForm form = FormOf(store(), store().InfoOf(id, root.partition));
  StoreRoster::MakeFile make = [this, id, &replica, &in_time, &root, form](PartitionFileOptions options) {
    Task<Status> beside = MakeReplicaFile(id, options, replica);
    return Both(std::move(beside), InstallPartitionFile(reactor_, &in_time, root, form, memory_, std::move(options)));
  };
  installing_ = &in_time;
  Result<PartitionInfo> info = co_await roster_.Install(id, root.partition, until, std::move(make));
  installing_ = nullptr;
  CO_RETURN_IF_ERROR(info.status());
  co_return co_await Serve(*info);
}

// Begins the service of a partition that store.meta names since a moment ago (NP2).
Task<Result<PartitionInfo>> NodePartitions::Serve(PartitionInfo info) {
  auto open = [part = OwnerOf(info.id), info](Reactor&) { return part->OpenPartition(info); };
  Status opened = co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(info.id)), std::move(open));
  if (!opened.ok()) {
    Result<PartitionInfo> dropped = co_await roster_.Drop(info.id);
    Status undone = dropped.status();
    if (undone.ok()) undone = co_await roster_.RemoveFiles(info);
    LOG_IF(WARNING, !undone.ok()) << "partition " << info.id << " could not be opened, and stays in the store until it "
                                  << "is dropped: " << undone.ToString();
    co_return opened;
  }
  co_await Announce(info.id, /*here=*/true);
  co_return info;
}

Task<Status> NodePartitions::Drop(uint32_t id) {
  CO_RETURN_IF_ERROR(co_await TakeTurn());
  Status dropped = co_await DropInTurn(id);
  turn_.Release();
  co_return dropped;
}

Task<Status> NodePartitions::DropInTurn(uint32_t id, std::optional<replication::ReplicaState>* last) {
  co_await ForgetDropped();
  const bool was_certain = roster_.certain();
  Result<PartitionInfo> info = co_await roster_.Drop(id);
  if (was_certain && !roster_.certain()) co_await TakeOutOfService(id, info.status());
  CO_RETURN_IF_ERROR(info.status());
  // Before the slow part: requests for all partitions, such as a snapshot, need not fail meanwhile.
  co_await Announce(id, /*here=*/false);
  snapshots_.Forget(parts_[0]->place(id));
  auto drop = [part = OwnerOf(id), id, last](Reactor&) { return part->DropPartition(id, last); };
  Status dropped = co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(id)), std::move(drop));
  CO_RETURN_IF_ERROR(dropped);  // the file is still open
  Status removed = co_await roster_.RemoveFiles(*info);
  LOG_IF(WARNING, !removed.ok()) << "the files of partition " << id
                                 << ", which was dropped, take space until the next start: " << removed.ToString();
  co_return Status();
}

// NP2: what is acknowledged from here on would be lost if the next start does not find the partition.
Task<void> NodePartitions::TakeOutOfService(uint32_t id, Status why) {
  auto quarantine = [part = OwnerOf(id), id, why](Reactor&) -> Task<void> {
    part->engine()->Quarantine(
        id, Error(Code::kUnavailable, "it is unknown whether it was dropped, until the next start: {}", why.message()));
    co_return;
  };
  co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(id)), std::move(quarantine));
}

}  // namespace pando
