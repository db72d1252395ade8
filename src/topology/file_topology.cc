#include "src/topology/file_topology.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "src/base/hash.h"

namespace pando {
namespace {

constexpr std::string_view kNewest = "newest";
constexpr Nanos kRetryNs = kMillisecond;
constexpr std::string_view kTemporaryPrefix = "tmp-";
constexpr std::string_view kHeader = "pando-topology 1 ";
constexpr size_t kHeaderBytes = kHeader.size() + 16 + 1;  // the checksum, and a line feed

struct ParsedName {
  std::string key;
  Revision revision = 0;
};

std::optional<ParsedName> ParseName(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return std::nullopt;
  ParsedName parsed{name.substr(0, dot), 0};
  std::replace(parsed.key.begin(), parsed.key.end(), '.', '/');
  const char* end = name.data() + name.size();
  auto [stop, error] = std::from_chars(name.data() + dot + 1, end, parsed.revision);
  if (error != std::errc() || stop != end || !CheckTopologyKey(parsed.key).ok()) return std::nullopt;
  if (parsed.revision == 0 || FileTopology::FileName(parsed.key, parsed.revision) != name) return std::nullopt;
  return parsed;
}

}  // namespace

std::string FileTopology::FileName(const std::string& key, Revision revision) {
  std::string name = fmt::format("{}.{:012}", key, revision);
  std::replace(name.begin(), name.end(), '/', '.');
  return name;
}

std::string FileTopology::FileContents(const std::string& key, Revision revision, const std::string& value) {
  const uint64_t checksum = Hash64(fmt::format("{}\n{}\n{}", key, revision, value));
  return fmt::format("{}{:016x}\n{}", kHeader, checksum, value);
}

FileTopology::FileTopology(Reactor& reactor, std::string path)
    : reactor_(reactor), path_(std::move(path)), name_("file:" + path_), one_at_a_time_(reactor, 1) {}

Task<Result<std::unique_ptr<TopologyStore>>> FileTopology::Open(Reactor& reactor, std::string path) {
  std::unique_ptr<FileTopology> store(new FileTopology(reactor, std::move(path)));
  CO_RETURN_IF_ERROR(co_await store->UseDirectory());
  co_return std::unique_ptr<TopologyStore>(std::move(store));
}

Task<Status> FileTopology::Close() { co_return co_await directory_.Close(); }

Status FileTopology::Late(const char* what) const {
  return Error(Code::kDeadline, "{}: {} was not done in time; is the disk slow?", name_, what);
}

// -- the directory

Result<FileIdentity> FileTopology::IdentifyPath() {
  Result<FileIdentity> now = reactor_.Identify(kNoFile, path_ + "/.", path_);
  if (now.ok()) return now;
  return Error(now.code() == Code::kNotFound ? Code::kNotFound : Code::kUnavailable,
               "the directory of the topology cannot be used: {}. Create it, with access for every process of the "
               "cluster, or correct --topology",
               now.status().message());
}

// Opens the directory that the path leads to now, unless it is the one that is open.
Task<Status> FileTopology::UseDirectory() {
  Result<FileIdentity> now = IdentifyPath();
  if (!now.ok()) co_return now.TakeStatus();
  if (directory_.is_open() && *now == identity_) co_return Status();
  cache_.clear();
  cache_memory_.ReleaseAll();
  listed_ = false;
  CO_RETURN_IF_ERROR(co_await directory_.Close());
  std::string path = path_;
  Result<Directory> opened = co_await Directory::Open(reactor_, std::move(path));
  if (!opened.ok()) co_return opened.TakeStatus();
  directory_ = *std::move(opened);
  Result<FileIdentity> identity = directory_.Identify("");
  if (!identity.ok()) co_return identity.TakeStatus();
  identity_ = *identity;
  co_return Status();
}

Result<std::optional<FileIdentity>> FileTopology::IdentifyNewest() {
  Result<FileIdentity> newest = directory_.Identify(std::string(kNewest));
  if (newest.ok()) return std::optional(*newest);
  if (newest.code() == Code::kNotFound) return std::optional<FileIdentity>();
  return newest.TakeStatus();
}

Revision FileTopology::Names::NewestOf(const std::string& key) const {
  auto it = revisions.find(key);
  return it == revisions.end() ? 0 : it->second.back();
}

Result<FileTopology::Names> FileTopology::ListNames() {
  Names names;
  ASSIGN_OR_RETURN(std::vector<std::string> all, directory_.List());
  for (const std::string& name : all) {  // sorted, so the revisions of a key rise up to twelve digits
    if (name.starts_with(kTemporaryPrefix)) {
      names.temporaries.push_back(name);
    } else if (std::optional<ParsedName> parsed = ParseName(name)) {
      names.revisions[parsed->key].push_back(parsed->revision);
    }
  }
  for (auto& [key, revisions] : names.revisions) std::sort(revisions.begin(), revisions.end());
  return names;
}

// -- reading

// Puts an entry into the cache if there is memory for it.
void FileTopology::Keep(TopologyEntry entry) {
  const auto bytes_of = [](const TopologyEntry& e) {
    return TopologySize::kEntryBytes + e.key.size() + e.value.size();
  };
  const auto found = cache_.find(entry.key);
  if (memory_ != nullptr) {
    if (!cache_memory_.TryGrow(bytes_of(entry))) return;
    if (found != cache_.end()) cache_memory_.Shrink(bytes_of(found->second));
  }
  std::string key = entry.key;
  cache_[std::move(key)] = std::move(entry);
}

// Reads a revision whose name is durable.
Task<Result<TopologyEntry>> FileTopology::Load(std::string key, Revision revision) {
  const std::string name = FileName(key, revision);
  Result<File> opened = co_await directory_.OpenFile(name, File::Mode::kRead, /*direct=*/false);
  if (!opened.ok()) co_return opened.TakeStatus();
  File file = *std::move(opened);
  std::string contents;
  Status status;
  Result<uint64_t> size = file.Size();
  if (!size.ok()) {
    status = size.TakeStatus();
  } else if (*size < kHeaderBytes || *size > kHeaderBytes + kMaxTopologyValueBytes) {
    status = Error(Code::kCorruption, "{} has {} bytes, which no file of a topology has", file.path(), *size);
  } else {
    contents.resize(*size);
    status = co_await file.Read(contents.data(), contents.size(), 0);
  }
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  TopologyEntry entry{key, contents.substr(kHeaderBytes), revision};
  if (contents != FileContents(key, revision, entry.value)) {
    co_return Error(Code::kCorruption,
                    "{} is damaged, or was renamed or written by something else. Restore it, or remove it if the "
                    "revision before it is to be in force again; Pando then asks for a recovery of the topology",
                    directory_.PathOf(name));
  }
  co_return entry;
}

Task<Result<TopologyEntry>> FileTopology::Read(std::string key, Nanos deadline_ns) {
  co_await one_at_a_time_.Acquire();
  Result<TopologyEntry> entry = co_await ReadLocked(std::move(key), deadline_ns);
  one_at_a_time_.Release();
  co_return entry;
}

Task<Result<TopologyEntry>> FileTopology::ReadLocked(std::string key, Nanos deadline_ns) {
  while (reactor_.NowNs() < deadline_ns) {
    CO_RETURN_IF_ERROR(co_await UseDirectory());
    Result<Names> names = ListNames();
    if (!names.ok()) co_return names.TakeStatus();
    const Revision newest = names->NewestOf(key);
    if (newest == 0) co_return TopologyEntry{key, "", 0};
    if (auto it = cache_.find(key); it != cache_.end() && it->second.revision == newest) co_return it->second;
    CO_RETURN_IF_ERROR(co_await directory_.Sync());  // TF3
    Result<TopologyEntry> entry = co_await Load(key, newest);
    if (entry.ok()) Keep(*entry);
    if (entry.code() != Code::kNotFound) co_return entry;
    co_await Sleep(reactor_, kRetryNs);  // newer ones have pushed it out
  }
  co_return Late("a read");
}

Task<Result<TopologyListing>> FileTopology::List(Nanos deadline_ns) {
  co_await one_at_a_time_.Acquire();
  Result<TopologyListing> listing = co_await ListLocked(deadline_ns);
  one_at_a_time_.Release();
  co_return listing;
}

Task<Result<TopologyListing>> FileTopology::ListLocked(Nanos deadline_ns) {
  while (reactor_.NowNs() < deadline_ns) {
    CO_RETURN_IF_ERROR(co_await UseDirectory());
    Result<TopologyListing> listing = co_await ListOnce();
    if (listing.code() != Code::kNotFound) co_return listing;
    co_await Sleep(reactor_, kRetryNs);
  }
  co_return Late("a listing");
}

// Returns kNotFound if a revision has been pushed out by newer ones meanwhile.
Task<Result<TopologyListing>> FileTopology::ListOnce() {
  Result<std::optional<FileIdentity>> newest = IdentifyNewest();  // before the names
  if (!newest.ok()) co_return newest.TakeStatus();
  Result<Names> names = ListNames();
  if (!names.ok()) co_return names.TakeStatus();
  co_await RemoveStaleTemporaries(std::move(names->temporaries));
  std::map<std::string, TopologyEntry> entries;
  TopologySize size(memory_), cache_size(memory_);
  TopologyListing listing;
  bool synced = false;
  for (const auto& [key, revisions] : names->revisions) {
    const Revision revision = revisions.back();
    auto cached = cache_.find(key);
    TopologyEntry entry;
    if (cached != cache_.end() && cached->second.revision == revision) {
      entry = cached->second;
    } else {
      if (!synced) CO_RETURN_IF_ERROR(co_await directory_.Sync());  // TF3
      synced = true;
      Result<TopologyEntry> loaded = co_await Load(key, revision);
      if (!loaded.ok()) co_return loaded.TakeStatus();
      entry = *std::move(loaded);
    }
    CO_RETURN_IF_ERROR(size.Add(key, entry.value.size()));
    CO_RETURN_IF_ERROR(cache_size.Add(key, entry.value.size()));
    listing.revision += revision;
    listing.entries.push_back(entry);
    entries[key] = std::move(entry);
  }
  listing.memory = size.TakeMemory();
  cache_ = std::move(entries);
  cache_memory_ = cache_size.TakeMemory();
  listed_ = true;
  listed_newest_ = *newest;
  listed_revision_ = listing.revision;
  co_return listing;
}

Task<Result<TopologyChanges>> FileTopology::WaitForChange(Revision after, Nanos deadline_ns) {
  TopologyChanges gap;
  gap.gap = true;
  for (;;) {
    if (ending_) co_return Error(Code::kAborted, "{} is being closed", name_);
    if (!listed_ || listed_revision_ > after) co_return gap;
    Result<FileIdentity> path = IdentifyPath();
    if (!path.ok()) co_return path.TakeStatus();
    if (!directory_.is_open() || *path != identity_) co_return gap;
    Result<std::optional<FileIdentity>> newest = IdentifyNewest();
    if (!newest.ok()) co_return newest.TakeStatus();
    if (*newest != listed_newest_) co_return gap;
    const Nanos left_ns = deadline_ns - reactor_.NowNs();
    if (left_ns <= 0) break;
    co_await Sleep(reactor_, std::min(left_ns, kPollNs));
  }
  TopologyChanges none;
  none.revision = after;
  co_return none;
}

// -- writing

Task<Result<CasOutcome>> FileTopology::CompareAndSwap(std::string key, Revision expected, std::string value,
                                                      Nanos deadline_ns) {
  co_await one_at_a_time_.Acquire();
  Result<CasOutcome> outcome = co_await SwapLocked(std::move(key), expected, std::move(value), deadline_ns);
  one_at_a_time_.Release();
  co_return outcome;
}

Task<Result<CasOutcome>> FileTopology::SwapLocked(std::string key, Revision expected, std::string value,
                                                  Nanos deadline_ns) {
  CO_RETURN_IF_ERROR(co_await UseDirectory());
  Result<Names> names = ListNames();
  if (!names.ok()) co_return names.TakeStatus();
  if (names->NewestOf(key) != expected) co_return CasOutcome::Conflict();
  const Revision revision = expected + 1;
  const std::string temporary = fmt::format("{}{:016x}", kTemporaryPrefix, RandomId(reactor_));
  const std::string contents = FileContents(key, revision, value);
  Status status = co_await WriteTemporary(temporary, contents);
  if (status.ok() && reactor_.NowNs() >= deadline_ns) status = Late("a change");
  if (status.ok()) {
    Result<FileIdentity> path = IdentifyPath();
    if (!path.ok()) {
      status = path.TakeStatus();
    } else if (*path != identity_) {
      status = Error(Code::kUnavailable, "{} was replaced by another directory just now; try again", path_);
    }
  }
  if (!status.ok()) {
    (void)co_await directory_.Remove(temporary);  // else it is removed when it is stale
    co_return status;
  }
  co_return co_await Publish(temporary, std::move(key), revision, std::move(value));
}

Task<Status> FileTopology::WriteTemporary(const std::string& name, const std::string& contents) {
  Result<File> opened = co_await directory_.OpenFile(name, File::Mode::kCreate, /*direct=*/false);
  if (!opened.ok()) co_return opened.TakeStatus();
  File file = *std::move(opened);
  Status status = co_await file.Write(contents.data(), contents.size(), 0);
  if (status.ok()) status = co_await file.Sync(/*data_only=*/false);
  Status closed = co_await file.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

// Gives the complete temporary file the name of its revision. From here on an error may mean either.
Task<Result<CasOutcome>> FileTopology::Publish(std::string temporary, std::string key, Revision revision,
                                               std::string value) {
  const std::string name = FileName(key, revision);
  Status linked = co_await directory_.Link(temporary, name);
  if (!linked.ok()) {
    (void)co_await directory_.Remove(temporary);
    if (linked.code() == Code::kAlreadyExists) co_return CasOutcome::Conflict();
    // No such file (the temporary one is gone), and no space: the kernel says so before it acts.
    if (linked.code() == Code::kNotFound || linked.code() == Code::kDiskFull) co_return linked;
    co_return CasOutcome::Unknown(std::move(linked));
  }
  if (Status synced = co_await directory_.Sync(); !synced.ok()) {
    (void)co_await directory_.Remove(temporary);
    co_return CasOutcome::Unknown(std::move(synced));
  }
  if (!(co_await directory_.Rename(temporary, std::string(kNewest))).ok()) {
    (void)co_await directory_.Remove(temporary);  // the others notice at their next listing
  }
  Result<Names> names = ListNames();
  if (!names.ok()) co_return CasOutcome::Unknown(names.TakeStatus());
  const Revision newest = names->NewestOf(key);
  if (newest >= revision + kKeptVersions) {  // TF2
    co_return CasOutcome::Unknown(Error(Code::kAborted, "{}: {} went on to revision {} while revision {} was written",
                                        name_, key, newest, revision));
  }
  Keep({key, std::move(value), revision});
  co_await RemoveOldVersions(key, std::move(names->revisions[key]), newest);
  co_return CasOutcome::Stored(revision);
}

// What cannot be removed now is removed by a later change.
Task<void> FileTopology::RemoveOldVersions(std::string key, std::vector<Revision> revisions, Revision newest) {
  for (const Revision revision : revisions) {
    if (revision + kKeptVersions > newest) co_return;
    Status removed = co_await directory_.Remove(FileName(key, revision));
    if (!removed.ok() && removed.code() != Code::kNotFound) co_return;
  }
}

Task<void> FileTopology::RemoveStaleTemporaries(std::vector<std::string> temporaries) {
  const Nanos now_ns = reactor_.NowNs();
  std::map<std::string, Nanos> seen;
  for (std::string& name : temporaries) {
    auto it = temporaries_.find(name);
    const Nanos first_ns = it == temporaries_.end() ? now_ns : it->second;
    if (now_ns - first_ns >= kTemporaryAgeNs) {
      (void)co_await directory_.Remove(name);
    } else if (seen.size() < kMaxTemporaries) {
      seen.emplace(std::move(name), first_ns);
    }
  }
  temporaries_ = std::move(seen);
}

}  // namespace pando
