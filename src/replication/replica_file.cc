#include "src/replication/replica_file.h"

#include <cstring>
#include <optional>
#include <utility>

#include "src/base/check.h"
#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando::replication {
namespace {

// Of a slot that is not valid, why.
Result<ReplicaSlot> ParseSlot(std::string_view block) {
  ReplicaSlot slot;
  std::memcpy(static_cast<void*>(&slot), block.data(), sizeof(slot));
  if (slot.magic != kReplicaFileMagic) return Error(Code::kCorruption, "no slot (magic {:016x})", slot.magic);
  if (Hash64(block.substr(0, kReplicaSlotChecksum)) != LoadLE<uint64_t>(block.data() + kReplicaSlotChecksum)) {
    return Error(Code::kCorruption, "checksum mismatch");
  }
  if (slot.format != kReplicaFormat || (slot.flags & ~kReplicaInstalled) != 0) {
    return Error(Code::kVersion,
                 "format {} with flags {:x}; this build reads format {} with flags {:x}; use the "
                 "version that wrote it",
                 slot.format, slot.flags, kReplicaFormat, kReplicaInstalled);
  }
  return slot;
}

ReplicaState StateOf(const ReplicaSlot& slot) {
  return {slot.replica, slot.promised, slot.lineage, (slot.flags & kReplicaInstalled) != 0};
}

// `directory/name`: the directory of a file.
std::string FolderOf(const std::string& name) {
  const size_t slash = name.rfind('/');
  return slash == std::string::npos ? "" : name.substr(0, slash);
}

Task<Status> SyncFolder(const Directory* store, std::string name) {
  const std::string folder = FolderOf(name);
  if (folder.empty()) co_return co_await store->Sync();
  CO_ASSIGN_OR_RETURN(Directory directory, co_await store->OpenDirectory(folder));
  Status status = co_await directory.Sync();
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace

void EncodeReplicaSlot(const ReplicaSlot& slot, char* block) {
  std::memset(block, 0, kReplicaSlotBytes);
  std::memcpy(block, &slot, sizeof(slot));
  StoreLE(block + kReplicaSlotChecksum, Hash64({block, kReplicaSlotChecksum}));
}

Result<ReplicaSlot> ChooseReplicaSlot(std::string_view blocks, std::string_view path, const Uuid& partition) {
  std::optional<ReplicaSlot> newest;
  std::string faults;
  for (size_t at = 0; at < 2 * kReplicaSlotBytes; at += kReplicaSlotBytes) {
    const std::string_view block = blocks.substr(at, kReplicaSlotBytes);
    // A slot that was never written.
    if (block.find_first_not_of('\0') == std::string_view::npos) continue;
    Result<ReplicaSlot> slot = ParseSlot(block);
    if (slot.code() == Code::kVersion) {
      return Error(Code::kVersion, "{}: slot at offset {}: {}", path, at, slot.status().message());
    }
    if (slot.ok() && slot->partition != partition) {
      return Error(Code::kCorruption, "{}: belongs to partition {}, not to {}: put back the file of this partition",
                   path, slot->partition.ToString(), partition.ToString());
    }
    if (!slot.ok()) {
      faults += fmt::format("{}offset {}: {}", faults.empty() ? "" : "; ", at, slot.status().message());
    } else if (!newest || slot->sequence > newest->sequence) {
      newest = *slot;
    }
  }
  if (!newest) {
    return Error(Code::kCorruption,
                 "{}: both slots are damaged ({}), so it is not known what this replica has promised. Drop the replica "
                 "and install it anew, as another one",
                 path, faults.empty() ? "all zeros" : faults);
  }
  LOG_IF(WARNING, !faults.empty()) << path << ": a damaged slot: " << faults
                                   << "; a power failure may have torn its last write";
  return *newest;
}

ReplicaFile::~ReplicaFile() { CHECK(!writing_) << "RF1: " << place_.name << " is destroyed while it is written"; }

ReplicaSlot ReplicaFile::NextSlot(const ReplicaState& state) const {
  ReplicaSlot slot;
  slot.flags = state.installed ? kReplicaInstalled : 0;
  slot.partition = place_.partition;
  slot.replica = state.replica;
  slot.promised = state.promised;
  slot.lineage = state.lineage;
  slot.sequence = sequence_ + 1;
  return slot;
}

Task<Status> ReplicaFile::WriteNext(ReplicaState state) {
  const ReplicaSlot slot = NextSlot(state);
  EncodeReplicaSlot(slot, block_.data());
  const uint64_t offset = slot.sequence % 2 * kReplicaSlotBytes;
  CO_RETURN_IF_ERROR(co_await file_.Write(block_.data(), kReplicaSlotBytes, offset, kNoBuffer, /*data_sync=*/true));
  ++sequence_;
  stored_ = state;
  co_return Status();
}

Task<Result<std::unique_ptr<ReplicaFile>>> ReplicaFile::Create(Place place, ReplicaState state) {
  const Directory* directory = place.directory;
  std::unique_ptr<ReplicaFile> self(new ReplicaFile(directory->reactor(), std::move(place)));
  const std::string name = self->place_.name, made = name + kNewReplicaSuffix;
  CO_ASSIGN_OR_RETURN(self->file_, co_await directory->OpenFile(made, File::Mode::kCreate, /*direct=*/true));
  // A crash may have left one.
  Status status = co_await self->file_.Truncate(0);
  if (status.ok()) status = co_await self->file_.Truncate(2 * kReplicaSlotBytes);
  // Both slots, so that no later promise needs room on the disk.
  if (status.ok()) status = co_await self->WriteNext(state);
  if (status.ok()) status = co_await self->WriteNext(state);
  if (status.ok()) status = co_await self->file_.Sync(/*data_only=*/false);
  if (status.ok()) status = co_await directory->Rename(made, name);
  if (status.ok()) status = co_await SyncFolder(directory, name);
  self->wanted_ = state;
  self->file_.NoteRenamed(directory->PathOf(name));
  if (status.ok()) co_return self;
  Status closed = co_await self->Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  co_return status;
}

Task<Result<std::unique_ptr<ReplicaFile>>> ReplicaFile::Open(Place place) {
  const Directory* directory = place.directory;
  std::unique_ptr<ReplicaFile> self(new ReplicaFile(directory->reactor(), std::move(place)));
  CO_ASSIGN_OR_RETURN(self->file_,
                      co_await directory->OpenFile(self->place_.name, File::Mode::kReadWrite, /*direct=*/true));
  AlignedBuffer blocks(2 * kReplicaSlotBytes);
  // RF1: what is read may have been written by a process that ended before it was durable.
  Status status = co_await self->file_.Sync();
  if (status.ok()) status = co_await self->file_.Read(blocks.data(), blocks.size(), 0);
  if (status.ok()) {
    Result<ReplicaSlot> slot =
        ChooseReplicaSlot({blocks.data(), blocks.size()}, self->file_.path(), self->place_.partition);
    status = slot.ok() ? Status() : slot.TakeStatus();
    if (status.ok()) {
      self->stored_ = self->wanted_ = StateOf(*slot);
      self->sequence_ = slot->sequence;
      co_return self;
    }
  }
  Status closed = co_await self->Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  co_return status;
}

Task<Status> ReplicaFile::Store(ReplicaState state) {
  const bool same = state.replica == wanted_.replica;
  CHECK(!same || (state.promised >= wanted_.promised && state.lineage >= wanted_.lineage))
      << "RF1, I1: the promise of a replica falls from epoch " << wanted_.promised << " to " << state.promised;
  wanted_ = state;
  const uint64_t number = ++wanted_number_;
  while (failure_.ok() && stored_number_ < number) {
    if (writing_) {
      co_await changed_.Wait();
      continue;
    }
    writing_ = true;
    const uint64_t last = wanted_number_;
    const ReplicaState both = wanted_;
    Status status = co_await WriteNext(both);
    if (status.ok()) status = co_await WriteNext(both);  // RF3
    writing_ = false;
    if (status.ok()) {
      stored_number_ = last;
    } else {
      failure_ = std::move(status);  // RF2
    }
    changed_.NotifyAll();
  }
  if (stored_number_ >= number) co_return Status();
  co_return failure_;
}

Task<Status> ReplicaFile::Close() {
  while (writing_) co_await changed_.Wait();
  co_return co_await file_.Close();
}

}  // namespace pando::replication
