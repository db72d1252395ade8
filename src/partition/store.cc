#include "src/partition/store.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/hash.h"
#include "src/buffer_pool/page.h"
#include "src/partition/partition_file.h"
#include "src/partition/store_reading.h"

namespace pando {
namespace {

// DIR/store.meta: one 4-KiB block (docs/FORMAT.md, "Store file").
constexpr uint64_t kStoreMagic = 0x31455453444e4150;  // "PANDSTE1"
constexpr uint32_t kStoreFormat = 2;
constexpr uint32_t kOldestStoreFormat = 1;  // without seal_bytes
constexpr Nanos kLockRetry = 20 * kMillisecond, kLockPatience = 3 * kSecond;

struct StoreFile {
  uint64_t magic = kStoreMagic;
  uint32_t format = kStoreFormat;
  uint32_t partitions = 0;
  uint32_t reactors = 0;
  uint32_t page_bytes = 0;
  Uuid node;
  Uuid partition_uuids[kMaxPartitions];
  uint32_t seal_bytes = 0;
  char reserved[4096 - 44 - 16 * kMaxPartitions - 8] = {};
  uint64_t checksum = 0;
};
static_assert(sizeof(StoreFile) == kBlockBytes);
static_assert(offsetof(StoreFile, node) == 24 && offsetof(StoreFile, partition_uuids) == 40);
static_assert(offsetof(StoreFile, seal_bytes) == 2088);

uint64_t ChecksumOf(const StoreFile& file) {
  return Hash64({reinterpret_cast<const char*>(&file), offsetof(StoreFile, checksum)});
}

std::string MetaPath(const std::string& dir) { return dir + "/store.meta"; }

Uuid NewUuid(Reactor& reactor) {
  Uuid uuid;
  reactor.FillRandom(std::as_writable_bytes(std::span(&uuid, 1)));
  uuid.hi = (uuid.hi & ~0xf000ull) | 0x4000;  // RFC 4122 version 4
  uuid.lo = (uuid.lo & ~(3ull << 62)) | (2ull << 62);
  return uuid;
}

StoreInfo InfoOf(const StoreFile& file, std::string data_dir) {
  StoreInfo info;
  info.data_dir = std::move(data_dir);
  info.node = file.node;
  info.reactors = file.reactors;
  info.page_bytes = file.page_bytes;
  info.seal_bytes = file.seal_bytes;
  unsigned bits = static_cast<unsigned>(std::countr_zero(file.partitions));
  for (uint32_t id = 0; id < file.partitions; ++id) {
    PartitionInfo p;
    p.id = id;
    p.uuid = file.partition_uuids[id];
    p.first_hash = bits == 0 ? 0 : uint64_t{id} << (64 - bits);
    p.last_hash = bits == 0 ? ~0ull : p.first_hash + (~0ull >> bits);
    info.partitions.push_back(p);
  }
  return info;
}

Task<Status> WriteStoreFile(Reactor& reactor, std::string data_dir, const StoreFile* contents) {
  const std::string temporary = MetaPath(data_dir) + ".tmp";
  AlignedBuffer block(kBlockBytes);
  std::memcpy(block.data(), contents, sizeof(*contents));
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(reactor, temporary, File::Mode::kCreate, /*direct=*/true));
  Status status = co_await file.Write(block.data(), block.size(), 0);
  if (status.ok()) status = co_await file.Sync(/*data_only=*/false);
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  CO_RETURN_IF_ERROR(co_await RenameFile(reactor, temporary, MetaPath(data_dir)));
  co_return co_await SyncDirectory(reactor, data_dir);
}

Status CheckOptions(const StoreOptions& o) {
  if (o.partitions == 0 || o.partitions > kMaxPartitions || !std::has_single_bit(o.partitions)) {
    return Error(Code::kInvalidArgument, "{} partitions are not possible: use a power of two up to {}", o.partitions,
                 kMaxPartitions);
  }
  if (o.reactors == 0) return Error(Code::kInvalidArgument, "a new store needs at least one reactor");
  uint32_t page = o.page_bytes ? o.page_bytes : kDefaultPageBytes;
  if (page < kMinPageBytes || page > kMaxPageBytes || !std::has_single_bit(page)) {
    return Error(Code::kInvalidArgument, "pages of {} bytes are not possible: use a power of two from {} to {}", page,
                 kMinPageBytes, kMaxPageBytes);
  }
  return Status();
}

Status CheckStoreFile(const StoreFile& file, const std::string& path) {
  if (file.magic != kStoreMagic) {
    return Error(Code::kCorruption, "{}: offset 0 holds no store header; restore it from a backup", path);
  }
  if (file.checksum != ChecksumOf(file)) {
    return Error(Code::kCorruption, "{}: the block at offset 0 fails its checksum; restore it from a backup", path);
  }
  const bool known_seal = file.seal_bytes == 0 || (file.format > 1 && file.seal_bytes == kSealBytes);
  if (file.format < kOldestStoreFormat || file.format > kStoreFormat || !known_seal) {
    return Error(Code::kVersion,
                 "{}: has store format {} with room for a seal of {} bytes, but this build reads formats {} to {} with "
                 "room for {}; use the version that wrote it",
                 path, file.format, file.seal_bytes, kOldestStoreFormat, kStoreFormat, kSealBytes);
  }
  StoreOptions as_options;
  as_options.partitions = file.partitions;
  as_options.reactors = file.reactors;
  as_options.page_bytes = file.page_bytes;
  if (Status status = CheckOptions(as_options); !status.ok() || file.page_bytes == 0) {
    return Error(Code::kCorruption,
                 "{}: the block at offset 0 describes an impossible store: {}; restore it from a backup", path,
                 status.ok() ? "pages of 0 bytes" : status.message());
  }
  return Status();
}

// Whether a partition's file has been checkpointed since its creation, so that it holds more than
// an empty tree.
Task<bool> HoldsData(Reactor& reactor, std::string path) {
  Result<File> file = co_await File::Open(reactor, path, File::Mode::kRead, /*direct=*/true);
  // A file that cannot be read is not overwritten.
  if (!file.ok()) co_return file.code() != Code::kNotFound;
  AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
  Result<uint64_t> bytes = file->Size();
  Status status = bytes.status();
  // A creation that was cut short leaves a file of any length.
  const bool whole = bytes.ok() && *bytes >= head.size();
  if (whole) status = co_await file->Read(head.data(), head.size(), 0);
  Status closed = co_await file->Close();
  if (!status.ok() || !closed.ok()) co_return true;
  Lsn older_lsn = 0;
  Result<Superblock> newest = ChooseSuperblock({head.data(), head.size()}, path, &older_lsn);
  co_return whole&& newest.ok() && newest->generation > 1;
}

// Refuses a directory without store.meta that was a store or is half of one. It must not become a
// new store.
Task<Status> CheckNothingIsLost(Reactor& reactor, std::string data_dir) {
  CO_ASSIGN_OR_RETURN(std::vector<std::string> entries, reactor.ListDirectory(data_dir));
  for (const std::string& name : entries) {
    // Logs are created only after store.meta.
    bool lost = name.starts_with("wal-");
    if (name.starts_with("partition-")) lost = co_await HoldsData(reactor, fmt::format("{}/{}/data", data_dir, name));
    if (!lost) continue;
    co_return Error(Code::kCorruption,
                    "{}: holds {} but no store.meta; restore store.meta from a backup, or use an empty directory",
                    data_dir, name);
  }
  co_return Status();
}

Task<Result<StoreInfo>> MakeStore(Reactor& reactor, StoreOptions options, std::vector<Uuid> partition_uuids,
                                  MakePartitionFile make_partition) {
  CO_RETURN_IF_ERROR(CheckOptions(options));
  CO_RETURN_IF_ERROR(co_await CheckNothingIsLost(reactor, options.data_dir));
  CHECK_EQ(partition_uuids.size(), options.partitions);
  StoreFile file;
  file.partitions = options.partitions;
  file.reactors = options.reactors;
  file.page_bytes = options.page_bytes ? options.page_bytes : kDefaultPageBytes;
  file.seal_bytes = options.seal_bytes;
  file.node = NewUuid(reactor);
  std::copy(partition_uuids.begin(), partition_uuids.end(), file.partition_uuids);
  file.checksum = ChecksumOf(file);
  StoreInfo info = InfoOf(file, options.data_dir);
  for (const PartitionInfo& p : info.partitions) {
    CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, info.PartitionDirectory(p.id)));
    PartitionFileOptions made{info.PartitionDirectory(p.id) + "/data", info.node, p.uuid, info.page_bytes,
                              info.seal_bytes};
    CO_RETURN_IF_ERROR(co_await make_partition(p.id, made));
    CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, info.PartitionDirectory(p.id)));
  }
  // The partitions must be durable before store.meta names them. Until then the directory is not a
  // store.
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, info.data_dir));
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, ParentDirectory(info.data_dir)));
  CO_RETURN_IF_ERROR(co_await WriteStoreFile(reactor, info.data_dir, &file));
  co_return info;
}

Task<Result<StoreInfo>> CreateStore(Reactor& reactor, StoreOptions options) {
  std::vector<Uuid> uuids(options.partitions);
  for (Uuid& uuid : uuids) uuid = NewUuid(reactor);
  MakePartitionFile make = [&reactor](uint32_t, PartitionFileOptions made) {
    return CreatePartitionFile(reactor, std::move(made));
  };
  co_return co_await MakeStore(reactor, std::move(options), std::move(uuids), std::move(make));
}

}  // namespace

uint32_t StoreInfo::PartitionOf(std::string_view key) const {
  unsigned bits = static_cast<unsigned>(std::countr_zero(partitions.size()));
  return bits == 0 ? 0 : static_cast<uint32_t>(HashId(key) >> (64 - bits));
}

std::string StoreInfo::PartitionName(uint32_t partition) { return fmt::format("partition-{:05}", partition); }

std::string StoreInfo::PartitionDirectory(uint32_t partition) const {
  return fmt::format("{}/{}", data_dir, PartitionName(partition));
}

std::string StoreInfo::LogDirectory(uint32_t reactor) const { return fmt::format("{}/wal-{}", data_dir, reactor); }

Task<Result<StoreInfo>> LoadStore(Reactor& reactor, std::string data_dir) {
  const std::string path = MetaPath(data_dir);
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(reactor, path, File::Mode::kRead, /*direct=*/true));
  AlignedBuffer block(kBlockBytes);
  Status status = co_await file.Read(block.data(), block.size(), 0);
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  StoreFile contents;
  std::memcpy(static_cast<void*>(&contents), block.data(), sizeof(contents));
  CO_RETURN_IF_ERROR(CheckStoreFile(contents, path));
  co_return InfoOf(contents, std::move(data_dir));
}

Task<Result<StoreInfo>> OpenStore(Reactor& reactor, StoreOptions options) {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, options.data_dir));
  CO_ASSIGN_OR_RETURN(std::vector<std::string> entries, reactor.ListDirectory(options.data_dir));
  // Also when there is a store: kvadmin restore still owns the directory, and its next run would
  // remove what a node writes there.
  if (std::find(entries.begin(), entries.end(), kUnfinishedName) != entries.end()) {
    co_return Error(Code::kCorruption,
                    "{}: a restore into this directory was not completed (it contains {}): run kvadmin restore again, "
                    "or use an empty directory",
                    options.data_dir, kUnfinishedName);
  }
  Result<StoreInfo> existing = co_await LoadStore(reactor, options.data_dir);
  if (existing.code() == Code::kNotFound) co_return co_await CreateStore(reactor, options);
  if (!existing.ok()) co_return existing.TakeStatus();
  auto differs = [&](std::string_view flag, uint32_t wanted, uint32_t has) {
    return Error(Code::kInvalidArgument, "{}: the store was created with {} {}, not {}; leave the flag out",
                 options.data_dir, has, flag, wanted);
  };
  uint32_t partitions = static_cast<uint32_t>(existing->partitions.size());
  if (options.partitions && options.partitions != partitions)
    co_return differs("--partitions", options.partitions, partitions);
  if (options.reactors && options.reactors != existing->reactors)
    co_return differs("--reactors", options.reactors, existing->reactors);
  if (options.page_bytes && options.page_bytes != existing->page_bytes) {
    co_return differs("--page_bytes", options.page_bytes, existing->page_bytes);
  }
  // The process that created the store may have ended before it synced the directory. A failure of
  // the machine must not leave a log but lose the name of store.meta.
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, options.data_dir));
  co_return *std::move(existing);
}

Task<Result<StoreInfo>> CreateStoreOf(Reactor& reactor, StoreOptions options, std::vector<Uuid> partition_uuids,
                                      MakePartitionFile make_partition) {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, options.data_dir));
  Result<StoreInfo> existing = co_await LoadStore(reactor, options.data_dir);
  if (existing.ok()) {
    co_return Error(Code::kAlreadyExists, "{}: already holds a store; choose an empty directory", options.data_dir);
  }
  if (existing.code() != Code::kNotFound) co_return existing.TakeStatus();
  options.partitions = static_cast<uint32_t>(partition_uuids.size());
  co_return co_await MakeStore(reactor, std::move(options), std::move(partition_uuids), std::move(make_partition));
}

namespace {

Task<Result<File>> TakeLock(Reactor& reactor, std::string data_dir, File::Mode mode) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(reactor, data_dir + "/" + kLockName, mode, /*direct=*/false));
  Status locked = file.Lock();
  // A killed process is gone before the kernel has torn down its io_uring, which still holds its
  // files open.
  for (Nanos waited = 0; locked.code() == Code::kLocked && waited < kLockPatience; waited += kLockRetry) {
    co_await Sleep(reactor, kLockRetry);
    locked = file.Lock();
  }
  if (!locked.ok()) {
    Status closed = co_await file.Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return locked;
  }
  co_return file;
}

}  // namespace

Task<Result<File>> LockStore(Reactor& reactor, std::string data_dir) {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, data_dir));
  co_return co_await TakeLock(reactor, std::move(data_dir), File::Mode::kCreate);
}

Task<Result<File>> LockStoreForReading(Reactor& reactor, std::string data_dir) {
  Result<File> file = co_await TakeLock(reactor, data_dir, File::Mode::kRead);
  if (file.code() != Code::kNotFound) co_return file;
  // Every node creates the lock file, so no node has the store open now. A node that starts now
  // must find it locked.
  file = co_await TakeLock(reactor, std::move(data_dir), File::Mode::kCreate);
  if (file.code() == Code::kIoError) co_return File();  // read-only media, where no node can run
  co_return file;
}

}  // namespace pando
