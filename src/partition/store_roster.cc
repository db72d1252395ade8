#include "src/partition/store_roster.h"

#include <algorithm>

#include "src/partition/partition_file.h"

namespace pando {

Task<Status> StoreRoster::Open() {
  CO_ASSIGN_OR_RETURN(directory_, co_await Directory::Open(reactor_, store_.data_dir));
  co_return Status();
}

Task<Status> StoreRoster::Close() { return directory_.Close(); }

Status StoreRoster::StillOurs() const {
  if (!lock_) return Status();
  Result<FileIdentity> now = directory_.Identify(kLockName);
  if (now.ok() && *now == *lock_) return Status();
  return Error(Code::kLocked, "{}: the lock file was removed or replaced, so another process may have opened the store",
               store_.data_dir);
}

Status StoreRoster::CheckNew(uint32_t id) const {
  RETURN_IF_ERROR(failure_);
  if (id >= id_limit_) {
    return Error(Code::kInvalidArgument, "there is no partition {}: the store is divided into {} ranges", id,
                 store_.ranges);
  }
  if (store_.Find(id) == nullptr) return Status();
  return Error(Code::kAlreadyExists, "partition {} is in this store already", id);
}

Status StoreRoster::NoteDropped(const Uuid& uuid, LogPosition until, StoreInfo* store) const {
  const auto known = std::find_if(store->dropped.begin(), store->dropped.end(),
                                  [&](const StoreInfo::Dropped& d) { return d.uuid == uuid; });
  if (known != store->dropped.end()) {
    known->until = until;
    return Status();
  }
  if (store->dropped.size() >= kMaxDropped) {
    return Error(Code::kOverloaded,
                 "the logs still hold records of {} dropped partitions, which is the limit; they are forgotten as the "
                 "logs are recycled: try again later",
                 store->dropped.size());
  }
  store->dropped.push_back({uuid, until});
  return Status();
}

Task<Status> StoreRoster::Write(StoreInfo store) {
  CO_RETURN_IF_ERROR(failure_);
  CO_RETURN_IF_ERROR(StillOurs());
  CO_RETURN_IF_ERROR(co_await PrepareStore(&directory_, &store));
  Status published = co_await PublishStore(&directory_);
  if (!published.ok()) {
    failure_ = Error(Code::kUnavailable,
                     "{}: store.meta could not be replaced, so the partitions of this store cannot be changed until "
                     "the next start, which finds the old or the new ones: {}",
                     store_.data_dir, published.message());
    co_return failure_;
  }
  store_ = std::move(store);
  co_return Status();
}

// Of the file before it gets its name.
PartitionFileOptions StoreRoster::FileOptions(const PartitionInfo& info) const {
  PartitionFileOptions options{fmt::format("{}/{}", store_.PartitionDirectory(info.id), kInstallingName), store_.node,
                               info.uuid, store_.page_bytes, store_.seal_bytes};
  options.store = &directory_;
  options.name = fmt::format("{}/{}", StoreInfo::PartitionName(info.id), kInstallingName);
  return options;
}

// Makes the names of the partition's file and of its directory durable.
Task<Status> StoreRoster::SyncNames(uint32_t id) {
  CO_ASSIGN_OR_RETURN(Directory files, co_await directory_.OpenDirectory(StoreInfo::PartitionName(id)));
  Status status = co_await files.Sync();
  Status closed = co_await files.Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  co_return co_await directory_.Sync();
}

// SM1: the file is complete and durable under its final name before store.meta names it. *in_place: it has that
// name.
Task<Status> StoreRoster::MakeAndName(PartitionInfo info, const MakeFile* make, bool* in_place) {
  const std::string directory = StoreInfo::PartitionName(info.id);
  CO_RETURN_IF_ERROR(co_await directory_.MakeDirectory(directory));
  PartitionFileOptions options = FileOptions(info);
  const std::string made = options.name;
  CO_RETURN_IF_ERROR(co_await (*make)(std::move(options)));
  CO_RETURN_IF_ERROR(StillOurs());
  CO_RETURN_IF_ERROR(co_await directory_.Rename(made, fmt::format("{}/{}", directory, kPartitionFileName)));
  *in_place = true;
  CO_RETURN_IF_ERROR(co_await SyncNames(info.id));
  StoreInfo next = store_;
  const auto before = [](const PartitionInfo& a, const PartitionInfo& b) { return a.id < b.id; };
  next.partitions.insert(std::upper_bound(next.partitions.begin(), next.partitions.end(), info, before), info);
  co_return co_await Write(std::move(next));
}

// After an error, what this has made is gone, and nothing else.
Task<Status> StoreRoster::AddPartition(PartitionInfo info, const MakeFile* make) {
  bool in_place = false;
  Status status = co_await MakeAndName(info, make, &in_place);
  // RO2: the next start may find it named.
  if (status.ok() || !failure_.ok()) co_return status;
  std::vector<const char*> names{kInstallingName};
  if (in_place) names.push_back(kPartitionFileName);
  Status removed = StillOurs();
  if (removed.ok()) removed = co_await RemovePartitionFiles(&directory_, info.id, std::move(names));
  if (!removed.ok()) {
    with_files_.insert({info.uuid, info.id});
    LOG(WARNING) << "what is left of partition " << info.id
                 << " takes space until the next start: " << removed.ToString();
  }
  co_return status;
}

Task<Status> StoreRoster::CheckNothingIsThere(uint32_t id) const {
  const bool needed = co_await MayBeNeeded(&store_, &directory_, id);
  if (!needed) co_return Status();
  co_return Error(Code::kAlreadyExists,
                  "{}: holds a file that the store does not know, and that may be needed; move it away",
                  store_.PartitionDirectory(id));
}

Task<Result<PartitionInfo>> StoreRoster::Create(uint32_t id) {
  CO_RETURN_IF_ERROR(CheckNew(id));
  CO_RETURN_IF_ERROR(StillOurs());
  CO_RETURN_IF_ERROR(co_await CheckNothingIsThere(id));
  const PartitionInfo info = store_.InfoOf(id, NewUuid(reactor_));
  // Watchers of a partition that had this ID before must not take its versions for this one's.
  MakeFile make = [this](PartitionFileOptions options) {
    return CreatePartitionFile(reactor_, std::move(options), VersionAtMs(reactor_.WallMs()));
  };
  CO_RETURN_IF_ERROR(co_await AddPartition(info, &make));
  co_return info;
}

Task<Result<PartitionInfo>> StoreRoster::CreateReplica(uint32_t id, Uuid uuid, LogPosition until) {
  // All replicas of the partition begin alike: no version has been given.
  MakeFile make = [this](PartitionFileOptions options) { return CreatePartitionFile(reactor_, std::move(options)); };
  co_return co_await Install(id, uuid, until, std::move(make));
}

Task<Result<PartitionInfo>> StoreRoster::Install(uint32_t id, Uuid uuid, LogPosition until, MakeFile make) {
  CO_RETURN_IF_ERROR(CheckNew(id));
  CO_RETURN_IF_ERROR(StillOurs());
  if (uuid.IsNil()) co_return Error(Code::kInvalidArgument, "partition {} cannot be installed without a UUID", id);
  for (const PartitionInfo& p : store_.partitions) {
    if (p.uuid != uuid) continue;
    co_return Error(Code::kAlreadyExists, "partition {} of this store has the UUID {} already", p.id, uuid.ToString());
  }
  // Judged by what was dropped until now: not even a file with this UUID may be replaced otherwise.
  CO_RETURN_IF_ERROR(co_await CheckNothingIsThere(id));
  const PartitionInfo info = store_.InfoOf(id, uuid);
  StoreInfo next = store_;
  CO_RETURN_IF_ERROR(NoteDropped(uuid, until, &next));
  // RO1: until store.meta names the partition, it says that a file with this UUID may be removed.
  CO_RETURN_IF_ERROR(co_await Write(std::move(next)));
  CO_RETURN_IF_ERROR(co_await AddPartition(info, &make));
  with_files_.erase({uuid, id});
  co_return info;
}

Task<Result<PartitionInfo>> StoreRoster::Drop(uint32_t id) {
  const PartitionInfo* found = store_.Find(id);
  if (found == nullptr) co_return PartitionNotHere(id);
  const PartitionInfo info = *found;
  StoreInfo next = store_;
  std::erase_if(next.partitions, [id](const PartitionInfo& p) { return p.id == id; });
  CO_RETURN_IF_ERROR(NoteDropped(info.uuid, StoreInfo::kAnyPosition, &next));
  CO_RETURN_IF_ERROR(co_await Write(std::move(next)));
  with_files_.insert({info.uuid, info.id});
  co_return info;
}

Task<Status> StoreRoster::RemoveFiles(PartitionInfo dropped) {
  CO_RETURN_IF_ERROR(StillOurs());
  std::vector<const char*> names{kPartitionFileName, kInstallingName, kReplacingName, kReplicaFileName,
                                 kNewReplicaFileName};
  CO_RETURN_IF_ERROR(co_await RemovePartitionFiles(&directory_, dropped.id, std::move(names)));
  with_files_.erase({dropped.uuid, dropped.id});
  co_return Status();
}

void StoreRoster::ForgetDropped(const std::set<Uuid>& in_logs) {
  std::erase_if(store_.dropped, [&](const StoreInfo::Dropped& d) {
    const auto file = with_files_.lower_bound({d.uuid, 0});
    const bool has_file = file != with_files_.end() && file->first == d.uuid;
    return !has_file && !in_logs.contains(d.uuid);
  });
}

}  // namespace pando
