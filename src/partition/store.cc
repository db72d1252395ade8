#include "src/partition/store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/buffer_pool/page.h"
#include "src/io/directory.h"
#include "src/io/replace_file.h"
#include "src/partition/partition_file.h"
#include "src/partition/store_reading.h"

namespace pando {
namespace {

// DIR/store.meta (docs/FORMAT.md, "Store file"): a header block, and since format 3 a table.
constexpr uint64_t kStoreMagic = 0x31455453444e4150;  // "PANDSTE1"
constexpr uint32_t kStoreFormat = 4;
constexpr uint32_t kOldestStoreFormat = 1;  // without seal_bytes, and without a table
constexpr uint32_t kTableFormat = 3;        // the first one with a table
constexpr uint32_t kFeaturesFormat = 4;     // the first one with features
constexpr uint32_t kMaxPartitionsWithoutTable = 128;
constexpr uint32_t kMaxDropped = 1u << 20;
constexpr Nanos kLockRetry = 20 * kMillisecond, kLockPatience = 3 * kSecond;
constexpr size_t kCreations = 32;  // of partition files at the same time

struct StoreHeader {
  uint64_t magic = kStoreMagic;
  uint32_t format = kStoreFormat;
  uint32_t ranges = 0;
  uint32_t reactors = 0;
  uint32_t page_bytes = 0;
  Uuid node;
  uint64_t layout = 0;
  uint32_t partitions = 0, dropped = 0;  // entries of the table
  uint64_t table_checksum = 0;           // XXH3-64 of the entries
  uint32_t seal_bytes = 0;
  uint32_t features = 0;
  char reserved[4096 - 72 - 8] = {};
  uint64_t checksum = 0;
};
static_assert(sizeof(StoreHeader) == kBlockBytes);
static_assert(offsetof(StoreHeader, node) == 24 && offsetof(StoreHeader, layout) == 40);
static_assert(offsetof(StoreHeader, table_checksum) == 56 && offsetof(StoreHeader, seal_bytes) == 64);
static_assert(offsetof(StoreHeader, features) == 68 && offsetof(StoreHeader, checksum) == 4088);

// Bits of StoreHeader::features. A build that does not know one of them must not open the store.
constexpr uint32_t kNamespaced = 1;  // stored keys begin with a namespace
constexpr uint32_t kHalves = 2;      // partitions may have IDs that are not below `ranges`
constexpr uint32_t kKnownFeatures = kNamespaced | kHalves;

// Without a table, the UUIDs of all partitions and the seal bytes are in the header.
constexpr size_t kUuidsWithoutTable = 40, kSealBytesWithoutTable = 2088;

struct StoreEntry {
  Uuid uuid;
  uint64_t value = 0;  // the ID; of a dropped partition StoreInfo::Dropped::until
};
static_assert(sizeof(StoreEntry) == 24);

uint64_t ChecksumOf(const StoreHeader& file) {
  return Hash64({reinterpret_cast<const char*>(&file), offsetof(StoreHeader, checksum)});
}

uint32_t SealBytesOf(const StoreHeader& header) {
  if (header.format >= kTableFormat) return header.seal_bytes;
  return LoadLE<uint32_t>(reinterpret_cast<const char*>(&header) + kSealBytesWithoutTable);
}

uint32_t FeaturesOf(const StoreHeader& header) { return header.format >= kFeaturesFormat ? header.features : 0; }

// IDs of partitions are below it.
uint32_t IdLimitOf(const StoreHeader& header) {
  return (FeaturesOf(header) & kHalves) != 0 ? kMaxPartitions : header.ranges;
}

uint64_t TableBytes(uint64_t entries) { return AlignUp(entries * sizeof(StoreEntry), kBlockBytes); }

constexpr char kMetaName[] = "store.meta", kTemporaryMetaName[] = "store.meta.tmp";
ReplacedFile MetaFile() { return {kMetaName, kTemporaryMetaName, /*direct=*/true}; }
std::string MetaPath(const std::string& dir) { return dir + "/" + kMetaName; }

AlignedBuffer EncodeStore(const StoreInfo& info) {
  std::vector<StoreEntry> entries;
  for (const PartitionInfo& p : info.partitions) entries.push_back({p.uuid, p.id});
  for (const StoreInfo::Dropped& d : info.dropped) entries.push_back({d.uuid, d.until});
  const size_t table_bytes = entries.size() * sizeof(StoreEntry);
  StoreHeader header;
  header.ranges = info.ranges;
  header.reactors = info.reactors;
  header.page_bytes = info.page_bytes;
  header.seal_bytes = info.seal_bytes;
  header.features = info.namespaced ? kNamespaced : 0;
  if (!info.partitions.empty() && info.partitions.back().id >= info.ranges) header.features |= kHalves;
  header.node = info.node;
  header.layout = info.layout;
  header.partitions = static_cast<uint32_t>(info.partitions.size());
  header.dropped = static_cast<uint32_t>(info.dropped.size());
  header.table_checksum = Hash64({reinterpret_cast<const char*>(entries.data()), table_bytes});
  header.checksum = ChecksumOf(header);
  AlignedBuffer bytes(kBlockBytes + TableBytes(entries.size()));
  std::memset(bytes.data(), 0, bytes.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (table_bytes > 0) std::memcpy(bytes.data() + kBlockBytes, entries.data(), table_bytes);
  return bytes;
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

Status CheckHeader(const StoreHeader& file, const std::string& path) {
  if (file.magic != kStoreMagic) {
    return Error(Code::kCorruption, "{}: offset 0 holds no store header; restore it from a backup", path);
  }
  if (file.checksum != ChecksumOf(file)) {
    return Error(Code::kCorruption, "{}: the block at offset 0 fails its checksum; restore it from a backup", path);
  }
  const uint32_t seal_bytes = SealBytesOf(file);
  const bool known_seal = seal_bytes == 0 || (file.format > 1 && seal_bytes == kSealBytes);
  if (file.format < kOldestStoreFormat || file.format > kStoreFormat || !known_seal) {
    return Error(Code::kVersion,
                 "{}: has store format {} with room for a seal of {} bytes, but this build reads formats {} to {} with "
                 "room for {}; use the version that wrote it",
                 path, file.format, seal_bytes, kOldestStoreFormat, kStoreFormat, kSealBytes);
  }
  if (const uint32_t unknown = FeaturesOf(file) & ~kKnownFeatures; unknown != 0) {
    return Error(Code::kVersion,
                 "{}: the store has features that this build does not know (bits {:#x}); use the version that wrote it",
                 path, unknown);
  }
  StoreOptions as_options;
  as_options.partitions = file.ranges;
  as_options.reactors = file.reactors;
  as_options.page_bytes = file.page_bytes;
  Status status = CheckOptions(as_options);
  if (status.ok() && file.page_bytes == 0) status = Error(Code::kCorruption, "pages of 0 bytes");
  if (status.ok() && file.format < kTableFormat && file.ranges > kMaxPartitionsWithoutTable) {
    status = Error(Code::kCorruption, "{} partitions in format {}", file.ranges, file.format);
  }
  if (status.ok() && file.format >= kTableFormat && (file.partitions > IdLimitOf(file) || file.dropped > kMaxDropped)) {
    status =
        Error(Code::kCorruption, "{} of {} partitions, and {} dropped", file.partitions, file.ranges, file.dropped);
  }
  if (status.ok()) return status;
  return Error(Code::kCorruption,
               "{}: the block at offset 0 describes an impossible store: {}; restore it from a backup", path,
               status.message());
}

StoreInfo InfoOf(const StoreHeader& header, std::string data_dir) {
  StoreInfo info;
  info.data_dir = std::move(data_dir);
  info.node = header.node;
  info.reactors = header.reactors;
  info.page_bytes = header.page_bytes;
  info.seal_bytes = SealBytesOf(header);
  info.namespaced = (FeaturesOf(header) & kNamespaced) != 0;
  info.ranges = header.ranges;
  return info;
}

StoreInfo InfoWithoutTable(const StoreHeader& header, std::string data_dir) {
  StoreInfo info = InfoOf(header, std::move(data_dir));
  for (uint32_t id = 0; id < header.ranges; ++id) {
    const char* at = reinterpret_cast<const char*>(&header) + kUuidsWithoutTable + id * sizeof(Uuid);
    info.partitions.push_back(info.InfoOf(id, LoadLE<Uuid>(at)));
  }
  return info;
}

// `table` holds the entries that the header counts.
Result<StoreInfo> InfoWithTable(const StoreHeader& header, const char* table, std::string data_dir,
                                const std::string& path) {
  const uint64_t entries = uint64_t{header.partitions} + header.dropped;
  if (header.table_checksum != Hash64({table, entries * sizeof(StoreEntry)})) {
    return Error(Code::kCorruption, "{}: the table at offset {} fails its checksum; restore it from a backup", path,
                 kBlockBytes);
  }
  StoreInfo info = InfoOf(header, std::move(data_dir));
  info.layout = header.layout;
  for (uint64_t i = 0; i < entries; ++i) {
    StoreEntry entry;
    std::memcpy(&entry, table + i * sizeof(entry), sizeof(entry));
    if (i >= header.partitions) {
      info.dropped.push_back({entry.uuid, entry.value});
      continue;
    }
    if (entry.value >= IdLimitOf(header) || (i > 0 && entry.value <= info.partitions.back().id)) {
      return Error(Code::kCorruption, "{}: entry {} of the table at offset {} has ID {}; restore it from a backup",
                   path, i, kBlockBytes, entry.value);
    }
    info.partitions.push_back(info.InfoOf(static_cast<uint32_t>(entry.value), entry.uuid));
  }
  return info;
}

Task<Result<StoreInfo>> ReadStoreFile(File* file, std::string data_dir) {
  const std::string& path = file->path();
  AlignedBuffer block(kBlockBytes);
  CO_RETURN_IF_ERROR(co_await file->Read(block.data(), block.size(), 0));
  StoreHeader header;
  std::memcpy(static_cast<void*>(&header), block.data(), sizeof(header));
  CO_RETURN_IF_ERROR(CheckHeader(header, path));
  if (header.format < kTableFormat) co_return InfoWithoutTable(header, std::move(data_dir));
  AlignedBuffer table(std::max<uint64_t>(TableBytes(uint64_t{header.partitions} + header.dropped), kBlockBytes));
  if (header.partitions + header.dropped > 0) {
    CO_RETURN_IF_ERROR(co_await file->Read(table.data(), table.size(), kBlockBytes));
  }
  co_return InfoWithTable(header, table.data(), std::move(data_dir), path);
}

// Creates the files of partitions, several at the same time.
struct Creations {
  Reactor& reactor;
  const StoreInfo& info;
  const MakePartitionFile& make;
  size_t next = 0;
  Status status;

  Task<Status> Make(PartitionInfo p) {
    const std::string directory = info.PartitionDirectory(p.id);
    CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, directory));
    PartitionFileOptions made{directory + "/data", info.node, p.uuid, info.page_bytes, info.seal_bytes};
    CO_RETURN_IF_ERROR(co_await make(p.id, std::move(made)));
    co_return co_await SyncDirectory(reactor, directory);
  }
  Task<void> Run() {
    while (next < info.partitions.size() && status.ok()) {
      Status made = co_await Make(info.partitions[next++]);
      if (status.ok()) status = std::move(made);
    }
  }
};

// What a file says that may be a partition's. None: it was never completed.
Task<Result<std::optional<Superblock>>> ReadNewest(File* file) {
  AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
  CO_ASSIGN_OR_RETURN(const uint64_t bytes, file->Size());
  // A creation that was cut short leaves a file of any length.
  if (bytes < head.size()) co_return std::optional<Superblock>();
  CO_RETURN_IF_ERROR(co_await file->Read(head.data(), head.size(), 0));
  Lsn older_lsn = 0;
  Result<Superblock> newest = ChooseSuperblock({head.data(), head.size()}, file->path(), &older_lsn);
  if (newest.code() == Code::kCorruption) co_return std::optional<Superblock>();
  CO_RETURN_IF_ERROR(newest.status());
  co_return std::optional(*newest);
}

// Whether a partition's file has been checkpointed since its creation, so that it holds more than
// an empty tree, and `info`, if there is a store, does not say that the partition was dropped.
Task<bool> HoldsData(Result<File> opened, const StoreInfo* info) {
  // A file that cannot be read is not overwritten, nor one that another version has written.
  if (!opened.ok()) co_return opened.code() != Code::kNotFound;
  File file = *std::move(opened);
  const Result<std::optional<Superblock>> newest = co_await ReadNewest(&file);
  Status closed = co_await file.Close();
  if (!newest.ok() || !closed.ok()) co_return true;
  if (!*newest || (*newest)->generation <= 1) co_return false;
  if (info == nullptr) co_return true;
  const Uuid& uuid = (*newest)->partition;
  const auto same = [&](const PartitionInfo& p) { return p.uuid == uuid; };
  const bool held = std::any_of(info->partitions.begin(), info->partitions.end(), same);
  co_return held || info->FindDropped(uuid) == nullptr;
}

// Refuses a directory without store.meta that was a store or is half of one. It must not become a
// new store.
Task<Status> CheckNothingIsLost(Reactor& reactor, std::string data_dir) {
  CO_ASSIGN_OR_RETURN(std::vector<std::string> entries, reactor.ListDirectory(data_dir));
  for (const std::string& name : entries) {
    // Logs are created only after store.meta.
    bool lost = name.starts_with("wal-");
    if (name.starts_with("partition-")) {
      const std::string path = fmt::format("{}/{}/{}", data_dir, name, kPartitionFileName);
      lost = co_await HoldsData(co_await File::Open(reactor, path, File::Mode::kRead, /*direct=*/true), nullptr);
    }
    if (!lost) continue;
    co_return Error(Code::kCorruption,
                    "{}: holds {} but no store.meta; restore store.meta from a backup, or use an empty directory",
                    data_dir, name);
  }
  co_return Status();
}

// `at_once`: how many partition files are created at the same time.
Task<Result<StoreInfo>> MakeStore(Reactor& reactor, StoreOptions options, std::vector<Uuid> partition_uuids,
                                  MakePartitionFile make_partition, size_t at_once) {
  CO_RETURN_IF_ERROR(CheckOptions(options));
  CO_RETURN_IF_ERROR(co_await CheckNothingIsLost(reactor, options.data_dir));
  CHECK_EQ(partition_uuids.size(), options.empty ? 0 : options.partitions);
  StoreInfo info;
  info.data_dir = options.data_dir;
  info.node = NewUuid(reactor);
  info.reactors = options.reactors;
  info.page_bytes = options.page_bytes ? options.page_bytes : kDefaultPageBytes;
  info.seal_bytes = options.seal_bytes;
  info.namespaced = options.namespaced;
  info.ranges = options.partitions;
  for (const Uuid& uuid : partition_uuids) {
    info.partitions.push_back(info.InfoOf(static_cast<uint32_t>(info.partitions.size()), uuid));
  }
  Creations creations{reactor, info, make_partition, 0, Status()};
  TaskGroup tasks;
  for (size_t i = 0; i < at_once; ++i) tasks.Spawn(creations.Run());
  co_await tasks.Drain();
  CO_RETURN_IF_ERROR(creations.status);
  // SM1: the partitions must be durable before store.meta names them. Until then the directory is
  // not a store.
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, info.data_dir));
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, ParentDirectory(info.data_dir)));
  CO_RETURN_IF_ERROR(co_await WriteStore(reactor, &info));
  co_return info;
}

Task<Result<StoreInfo>> CreateStore(Reactor& reactor, StoreOptions options) {
  std::vector<Uuid> uuids(options.empty ? 0 : options.partitions);
  for (Uuid& uuid : uuids) uuid = NewUuid(reactor);
  MakePartitionFile make = [&reactor](uint32_t, PartitionFileOptions made) {
    return CreatePartitionFile(reactor, std::move(made));
  };
  co_return co_await MakeStore(reactor, std::move(options), std::move(uuids), std::move(make), kCreations);
}

}  // namespace

uint32_t StoreInfo::PartitionOf(std::string_view key) const {
  const unsigned bits = static_cast<unsigned>(std::countr_zero(ranges));
  return bits == 0 ? 0 : static_cast<uint32_t>(HashId(key) >> (64 - bits));
}

const PartitionInfo* StoreInfo::Find(uint32_t id) const {
  // Mostly there is a partition for each range.
  if (id < partitions.size() && partitions[id].id == id) return &partitions[id];
  const auto found = std::lower_bound(partitions.begin(), partitions.end(), id,
                                      [](const PartitionInfo& p, uint32_t wanted) { return p.id < wanted; });
  return found != partitions.end() && found->id == id ? &*found : nullptr;
}

const StoreInfo::Dropped* StoreInfo::FindDropped(const Uuid& uuid) const {
  const auto at = std::find_if(dropped.begin(), dropped.end(), [&](const Dropped& d) { return d.uuid == uuid; });
  return at == dropped.end() ? nullptr : &*at;
}

void StoreInfo::BeginAnew(const Uuid& uuid, LogPosition at) {
  std::erase_if(dropped, [&](const Dropped& d) { return d.uuid == uuid; });
  dropped.push_back({uuid, at});
}

std::vector<std::pair<Uuid, LogPosition>> StoreInfo::DroppedInLog(uint32_t reactor) const {
  std::vector<std::pair<Uuid, LogPosition>> found;
  for (const Dropped& d : dropped) {
    const auto same = [&](const PartitionInfo& p) { return p.uuid == d.uuid && ReactorOf(p.id) == reactor; };
    found.emplace_back(d.uuid, std::any_of(partitions.begin(), partitions.end(), same) ? d.until : kAnyPosition);
  }
  return found;
}

PartitionInfo StoreInfo::InfoOf(uint32_t id, const Uuid& uuid) const {
  const auto [first, last] = HashRangeOf(id, ranges);
  return {id, uuid, first, last};
}

std::string StoreInfo::PartitionName(uint32_t partition) { return fmt::format("partition-{:05}", partition); }

std::string StoreInfo::PartitionDirectory(uint32_t partition) const {
  return fmt::format("{}/{}", data_dir, PartitionName(partition));
}

std::string StoreInfo::PartitionFilePath(uint32_t partition) const {
  return fmt::format("{}/{}", PartitionDirectory(partition), kPartitionFileName);
}

std::string StoreInfo::LogDirectory(uint32_t reactor) const {
  return layout == 0 ? fmt::format("{}/wal-{}", data_dir, reactor)
                     : fmt::format("{}/wal-{}-{}", data_dir, layout, reactor);
}

std::string LogLossAdvice(const StoreInfo& info, uint32_t reactor) {
  return fmt::format("To continue without what is lost, see: kvadmin accept-loss {} --log {}", info.data_dir, reactor);
}

Uuid NewUuid(Reactor& reactor) {
  Uuid uuid;
  reactor.FillRandom(std::as_writable_bytes(std::span(&uuid, 1)));
  uuid.hi = (uuid.hi & ~0xf000ull) | 0x4000;  // RFC 4122 version 4
  uuid.lo = (uuid.lo & ~(3ull << 62)) | (2ull << 62);
  return uuid;
}

Status PartitionNotHere(uint32_t id) {
  return Error(Code::kUnavailable, "partition {} is not on this node; ask the node that has it", id);
}

Task<Status> PrepareStore(const Directory* directory, const StoreInfo* info) {
  const AlignedBuffer contents = EncodeStore(*info);
  ReplacedFile file = MetaFile();
  const std::string_view bytes(contents.data(), contents.size());
  co_return co_await PrepareReplacement(directory, std::move(file), bytes);
}

// SM2: the new one is complete and durable before it gets the name.
Task<Status> PublishStore(const Directory* directory) { return PublishReplacement(directory, MetaFile()); }

Task<Status> WriteStore(Reactor& reactor, const StoreInfo* info) {
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(reactor, info->data_dir));
  Status status = co_await PrepareStore(&directory, info);
  if (status.ok()) status = co_await PublishStore(&directory);
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

Task<Result<StoreInfo>> LoadStore(Reactor& reactor, std::string data_dir) {
  const std::string path = MetaPath(data_dir);
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(reactor, path, File::Mode::kRead, /*direct=*/true));
  Result<StoreInfo> info = co_await ReadStoreFile(&file, std::move(data_dir));
  Status closed = co_await file.Close();
  if (info.ok()) CO_RETURN_IF_ERROR(closed);
  co_return info;
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
    return Error(Code::kInvalidArgument, "{}: the store was created with {}={}, not {}; leave the flag out",
                 options.data_dir, flag, has, wanted);
  };
  if (options.partitions && options.partitions != existing->ranges)
    co_return differs("--partitions", options.partitions, existing->ranges);
  if (options.page_bytes && options.page_bytes != existing->page_bytes) {
    co_return differs("--page_bytes", options.page_bytes, existing->page_bytes);
  }
  // The process that created the store may have ended before it synced the directory. A failure of
  // the machine must not leave a log but lose the name of store.meta.
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, options.data_dir));
  co_return *std::move(existing);
}

namespace {

Task<bool> MayBeNeededIn(const StoreInfo* info, const Directory* directory, std::string partition) {
  const std::string name = fmt::format("{}/{}", partition, kPartitionFileName);
  co_return co_await HoldsData(co_await directory->OpenFile(name, File::Mode::kRead, /*direct=*/true), info);
}

Task<Status> RemoveFilesIn(const Directory* directory, std::string partition, std::vector<const char*> names) {
  Result<Directory> opened = co_await directory->OpenDirectory(std::move(partition));
  if (opened.code() == Code::kNotFound) co_return Status();
  if (!opened.ok()) co_return opened.TakeStatus();
  Directory files = *std::move(opened);
  Status status;
  for (const char* name : names) {
    Status removed = co_await files.Remove(name);
    if (status.ok() && removed.code() != Code::kNotFound) status = std::move(removed);
  }
  if (status.ok()) status = co_await files.Sync();
  Status closed = co_await files.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

// Removes all files in DIR/name, which then stays as an empty directory. What an operator had replaced,
// because it was damaged, stays.
Task<Status> EmptyDirectory(Reactor& reactor, std::string path) {
  CO_ASSIGN_OR_RETURN(std::vector<std::string> entries, reactor.ListDirectory(path));
  std::erase_if(entries, [](const std::string& entry) { return entry.find(kDamagedInfix) != std::string::npos; });
  for (const std::string& entry : entries) CO_RETURN_IF_ERROR(co_await RemoveFile(reactor, path + "/" + entry));
  if (entries.empty()) co_return Status();
  co_return co_await SyncDirectory(reactor, path);
}

// Of a partition that the store does not name.
Task<Status> RemoveLeftoversOf(const StoreInfo* info, const Directory* directory, std::string partition) {
  const std::string path = directory->PathOf(partition);
  std::vector<const char*> names{kInstallingName, kReplacingName, kNewReplicaFileName};
  const bool needed = co_await MayBeNeededIn(info, directory, partition);
  if (needed) {
    LOG(WARNING) << path << ": the store does not know this partition, and leaves it. Remove it if nobody needs it";
  } else {
    names.insert(names.end(), {kPartitionFileName, kReplicaFileName});
  }
  CO_RETURN_IF_ERROR(co_await RemoveFilesIn(directory, std::move(partition), std::move(names)));
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> left, directory->reactor().ListDirectory(path));
  for (const std::string& name : left) {
    if (name == kPartitionFileName) continue;
    LOG(WARNING) << path << "/" << name
                 << ": is not of the store any more, which leaves it. Remove it if nobody needs it";
  }
  co_return Status();
}

}  // namespace

Task<bool> MayBeNeeded(const StoreInfo* info, const Directory* directory, uint32_t partition) {
  return MayBeNeededIn(info, directory, StoreInfo::PartitionName(partition));
}

Task<Status> RemovePartitionFiles(const Directory* directory, uint32_t partition, std::vector<const char*> names) {
  return RemoveFilesIn(directory, StoreInfo::PartitionName(partition), std::move(names));
}

Task<Status> RemoveLeftovers(Reactor& reactor, const StoreInfo* info) {
  CO_ASSIGN_OR_RETURN(std::vector<std::string> entries, reactor.ListDirectory(info->data_dir));
  std::unordered_set<std::string> named;
  for (uint32_t r = 0; r < info->reactors; ++r) named.insert(info->LogDirectory(r));
  for (const PartitionInfo& p : info->partitions) named.insert(info->PartitionDirectory(p.id));
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(reactor, info->data_dir));
  Status status;
  for (const std::string& entry : entries) {
    const std::string path = info->data_dir + "/" + entry;
    if (named.contains(path) || !status.ok()) continue;
    if (entry.starts_with("partition-")) status = co_await RemoveLeftoversOf(info, &directory, entry);
    if (entry.starts_with("wal-")) status = co_await EmptyDirectory(reactor, path);
  }
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
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
  co_return co_await MakeStore(reactor, std::move(options), std::move(partition_uuids), std::move(make_partition),
                               /*at_once=*/1);
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
