#include "src/node/node_partitions.h"

#include <set>
#include <utility>

#include "src/io/call_on.h"

namespace pando {
namespace {

// Ends an installation when the node closes.
class UntilClosing final : public SnapshotPages {
 public:
  UntilClosing(SnapshotPages* pages, const bool* closing) : pages_(pages), closing_(*closing) {}
  Task<Result<PageBatch>> Next() override {
    if (closing_) co_return Error(Code::kUnavailable, "the node is closing");
    co_return co_await pages_->Next();
  }

 private:
  SnapshotPages* const pages_;
  const bool& closing_;
};

}  // namespace

NodePartitions::~NodePartitions() { CHECK(!open_) << "NodePartitions was destroyed before it was closed"; }

Task<Status> NodePartitions::Open() {
  CO_RETURN_IF_ERROR(co_await roster_.Open());
  open_ = true;
  co_return Status();
}

Task<Status> NodePartitions::Close() {
  closing_ = true;
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
  co_return Error(Code::kUnavailable, "the node is closing");
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
  Result<PartitionInfo> created = co_await CreateInTurn(id);
  turn_.Release();
  co_return created;
}

Task<Result<PartitionInfo>> NodePartitions::CreateInTurn(uint32_t id) {
  co_await ForgetDropped();
  CO_ASSIGN_OR_RETURN(PartitionInfo info, co_await roster_.Create(id));
  co_return co_await Serve(info);
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
  Result<PartitionInfo> installed = co_await InstallInTurn(id, std::move(source), pages);
  turn_.Release();
  co_return installed;
}

Task<Result<PartitionInfo>> NodePartitions::InstallInTurn(uint32_t id, InstallSource source, SnapshotPages* pages) {
  CO_RETURN_IF_ERROR(CheckForm(source));
  if (id >= store().ranges) co_return Error(Code::kInvalidArgument, "there is no partition {}", id);
  co_await ForgetDropped();
  // What the log holds of an earlier partition with this UUID lies before its end.
  auto ask = [part = OwnerOf(id)](Reactor&) -> Task<LogPosition> { co_return part->engine()->log_end(); };
  const LogPosition until = co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(id)), std::move(ask));
  UntilClosing until_closing(pages, &closing_);
  const SnapshotRoot& root = source.root;
  StoreRoster::MakeFile make = [this, &until_closing, &root](PartitionFileOptions options) {
    return InstallPartitionFile(reactor_, &until_closing, root, std::move(options));
  };
  CO_ASSIGN_OR_RETURN(PartitionInfo info, co_await roster_.Install(id, root.partition, until, std::move(make)));
  co_return co_await Serve(info);
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

Task<Status> NodePartitions::DropInTurn(uint32_t id) {
  co_await ForgetDropped();
  CO_ASSIGN_OR_RETURN(PartitionInfo info, co_await roster_.Drop(id));
  auto drop = [part = OwnerOf(id), id](Reactor&) { return part->DropPartition(id); };
  Status dropped = co_await CallOn(reactor_, static_cast<int>(store().ReactorOf(id)), std::move(drop));
  co_await Announce(id, /*here=*/false);
  snapshots_.Forget(parts_[0]->place(id));
  CO_RETURN_IF_ERROR(dropped);  // the file is still open
  Status removed = co_await roster_.RemoveFiles(info);
  LOG_IF(WARNING, !removed.ok()) << "the files of partition " << id
                                 << ", which was dropped, take space until the next start: " << removed.ToString();
  co_return Status();
}

}  // namespace pando
