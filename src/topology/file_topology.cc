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

bool FileTopology::IsRevisionName(const std::string& name) { return ParseName(name).has_value(); }

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
    : reactor_(reactor), path_(std::move(path)), name_("file:" + path_), opening_(reactor, 1), listing_(reactor, 1) {}

Task<Result<std::unique_ptr<TopologyStore>>> FileTopology::Open(Reactor& reactor, std::string path) {
  std::unique_ptr<FileTopology> store(new FileTopology(reactor, std::move(path)));
  Result<Used> used = co_await store->UseDirectory();
  if (!used.ok()) co_return used.TakeStatus();
  co_return std::unique_ptr<TopologyStore>(std::move(store));
}

Task<Status> FileTopology::Close() {
  co_await CloseReplaced();
  if (!opened_) co_return Status();
  Status closed = co_await opened_->directory.Close();
  opened_.reset();
  co_return closed;
}

Status FileTopology::Late(const char* what) const {
  return Error(Code::kDeadline, "{}: {} was not done in time; is the disk slow?", name_, what);
}

Status FileTopology::CannotBeWritten(const Status& why) const {
  return Error(why.code(),
               "nothing can be written to the topology {}: {}. Give every process of the cluster the right to write to "
               "this directory, on a disk that is mounted for writing and has room",
               name_, why.message());
}

// -- the directory

Result<FileIdentity> FileTopology::IdentifyPath() {
  Result<FileIdentity> now = reactor_.Identify(kNoFile, path_ + "/.", path_);
  if (now.ok()) return now;
  const Code code = now.code() == Code::kNotFound ? Code::kNotFound : Code::kUnavailable;
  // Another one in its place, and be it empty, is how the map of a cluster is lost.
  if (opened_) {
    return Error(code,
                 "the directory of the topology cannot be used any more: {}. Bring it back as it was: is its disk "
                 "mounted? Do not put a new one in its place",
                 now.status().message());
  }
  return Error(code,
               "the directory of the topology cannot be used: {}. If it has held a cluster, bring it back. Create it, "
               "with access for every process of the cluster, only for a new cluster; or correct --topology",
               now.status().message());
}

// Opens the directory that the path leads to now, unless it is the one that is open.
Task<Result<FileTopology::Used>> FileTopology::UseDirectory() {
  Result<FileIdentity> now = IdentifyPath();
  if (!now.ok()) co_return now.TakeStatus();
  if (opened_ && *now == opened_->identity) co_return opened_;
  co_await opening_.Acquire();
  now = IdentifyPath();  // another call may have opened it meanwhile
  Status status = now.status();
  if (status.ok() && !(opened_ && *now == opened_->identity)) status = co_await OpenDirectory();
  opening_.Release();
  CO_RETURN_IF_ERROR(status);
  co_return opened_;
}

Task<Status> FileTopology::OpenDirectory() {
  std::string path = path_;
  Result<Directory> opened = co_await Directory::Open(reactor_, std::move(path));
  if (!opened.ok()) co_return opened.TakeStatus();
  auto next = std::make_shared<Opened>();
  next->directory = *std::move(opened);
  Result<FileIdentity> identity = next->directory.Identify("");
  if (!identity.ok()) {
    (void)co_await next->directory.Close();
    co_return identity.TakeStatus();
  }
  next->identity = *identity;
  if (opened_) replaced_.push_back(std::move(opened_));
  opened_ = std::move(next);
  co_await CloseReplaced();
  co_return Status();
}

// Those that no call uses any more.
Task<void> FileTopology::CloseReplaced() {
  std::vector<Used> unused;
  for (Used& replaced : replaced_) {
    if (replaced.use_count() == 1) unused.push_back(std::move(replaced));
  }
  std::erase(replaced_, nullptr);
  for (const Used& replaced : unused) {
    const Status closed = co_await replaced->directory.Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  }
}

Result<std::optional<FileIdentity>> FileTopology::IdentifyNewest(const Opened& in) {
  Result<FileIdentity> newest = in.directory.Identify(std::string(kNewest));
  if (newest.ok()) return std::optional(*newest);
  if (newest.code() == Code::kNotFound) return std::optional<FileIdentity>();
  return newest.TakeStatus();
}

Revision FileTopology::Names::NewestOf(const std::string& key) const {
  auto it = revisions.find(key);
  return it == revisions.end() ? 0 : it->second.back();
}

Result<FileTopology::Names> FileTopology::ListNames(const Opened& in) {
  Names names;
  ASSIGN_OR_RETURN(std::vector<std::string> all, in.directory.List());
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
void FileTopology::Keep(Opened* in, TopologyEntry entry) {
  const auto bytes_of = [](const TopologyEntry& e) {
    return TopologySize::kEntryBytes + e.key.size() + e.value.size();
  };
  const auto found = in->cache.find(entry.key);
  if (memory_ != nullptr) {
    if (!in->cache_memory.TryGrow(bytes_of(entry))) return;
    if (found != in->cache.end()) in->cache_memory.Shrink(bytes_of(found->second));
  }
  std::string key = entry.key;
  in->cache[std::move(key)] = std::move(entry);
}

// Reads a revision whose name is durable.
Task<Result<TopologyEntry>> FileTopology::Load(Used in, std::string key, Revision revision) {
  const std::string name = FileName(key, revision);
  Result<File> opened = co_await in->directory.OpenFile(name, File::Mode::kRead, /*direct=*/false);
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
                    in->directory.PathOf(name));
  }
  co_return entry;
}

Task<Result<TopologyEntry>> FileTopology::Read(std::string key, Nanos deadline_ns) {
  while (reactor_.NowNs() < deadline_ns) {
    CO_ASSIGN_OR_RETURN(const Used in, co_await UseDirectory());
    Result<Names> names = ListNames(*in);
    if (!names.ok()) co_return names.TakeStatus();
    const Revision newest = names->NewestOf(key);
    if (newest == 0) co_return TopologyEntry{key, "", 0};
    if (auto it = in->cache.find(key); it != in->cache.end() && it->second.revision == newest) co_return it->second;
    CO_RETURN_IF_ERROR(co_await in->directory.Sync());  // TF3
    Result<TopologyEntry> entry = co_await Load(in, key, newest);
    if (entry.ok()) Keep(in.get(), *entry);
    if (entry.code() != Code::kNotFound) co_return entry;
    co_await Sleep(reactor_, kRetryNs);  // newer ones have pushed it out
  }
  co_return Late("a read");
}

Task<Result<TopologyListing>> FileTopology::List(Nanos deadline_ns) {
  co_await listing_.Acquire();
  Result<TopologyListing> listing = co_await ListAlone(deadline_ns);
  listing_.Release();
  co_return listing;
}

Task<Result<TopologyListing>> FileTopology::ListAlone(Nanos deadline_ns) {
  while (reactor_.NowNs() < deadline_ns) {
    Result<Used> in = co_await UseDirectory();
    if (!in.ok()) co_return in.TakeStatus();
    Result<TopologyListing> listing = co_await ListOnce(*in);
    if (listing.code() != Code::kNotFound) co_return listing;
    co_await Sleep(reactor_, kRetryNs);
  }
  co_return Late("a listing");
}

// Returns kNotFound if a revision has been pushed out by newer ones meanwhile.
Task<Result<TopologyListing>> FileTopology::ListOnce(Used in) {
  Result<std::optional<FileIdentity>> newest = IdentifyNewest(*in);  // before the names
  if (!newest.ok()) co_return newest.TakeStatus();
  Result<Names> names = ListNames(*in);
  if (!names.ok()) co_return names.TakeStatus();
  co_await RemoveStaleTemporaries(in, std::move(names->temporaries));
  std::map<std::string, TopologyEntry> entries;
  TopologySize size(memory_), cache_size(memory_);
  TopologyListing listing;
  bool synced = false;
  for (const auto& [key, revisions] : names->revisions) {
    const Revision revision = revisions.back();
    auto cached = in->cache.find(key);
    TopologyEntry entry;
    if (cached != in->cache.end() && cached->second.revision == revision) {
      entry = cached->second;
    } else {
      if (!synced) CO_RETURN_IF_ERROR(co_await in->directory.Sync());  // TF3
      synced = true;
      Result<TopologyEntry> loaded = co_await Load(in, key, revision);
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
  in->cache = std::move(entries);
  in->cache_memory = cache_size.TakeMemory();
  in->listed = true;
  in->listed_newest = *newest;
  in->listed_revision = listing.revision;
  co_return listing;
}

// Keys only go forward, so the sum of their revisions is the same only if all of them are.
Task<Result<TopologyChanges>> FileTopology::ReadChanges(Revision after, Nanos) {
  CO_ASSIGN_OR_RETURN(const Used in, co_await UseDirectory());
  Result<Names> names = ListNames(*in);
  if (!names.ok()) co_return names.TakeStatus();
  Revision sum = 0;
  for (const auto& [key, revisions] : names->revisions) sum += revisions.back();
  TopologyChanges changes;
  changes.revision = after;
  changes.gap = !in->listed || in->listed_revision != after || sum != after;
  co_return changes;
}

Task<Result<TopologyChanges>> FileTopology::WaitForChange(Revision after, Nanos deadline_ns) {
  TopologyChanges gap;
  gap.gap = true;
  for (;;) {
    if (ending_) co_return Error(Code::kAborted, "{} is being closed", name_);
    if (!opened_ || !opened_->listed || opened_->listed_revision > after) co_return gap;
    Result<FileIdentity> path = IdentifyPath();
    if (!path.ok()) co_return path.TakeStatus();
    if (*path != opened_->identity) co_return gap;
    Result<std::optional<FileIdentity>> newest = IdentifyNewest(*opened_);
    if (!newest.ok()) co_return newest.TakeStatus();
    if (*newest != opened_->listed_newest) co_return gap;
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
  CO_ASSIGN_OR_RETURN(const Used in, co_await UseDirectory());
  Result<Names> names = ListNames(*in);
  if (!names.ok()) co_return names.TakeStatus();
  if (names->NewestOf(key) != expected) co_return CasOutcome::Conflict();
  const Revision revision = expected + 1;
  const std::string temporary = fmt::format("{}{:016x}", kTemporaryPrefix, RandomId(reactor_));
  const std::string contents = FileContents(key, revision, value);
  Status status = co_await WriteTemporary(in, temporary, contents);
  if (status.ok() && reactor_.NowNs() >= deadline_ns) status = Late("a change");
  if (status.ok()) {
    Result<FileIdentity> path = IdentifyPath();
    if (!path.ok()) {
      status = path.TakeStatus();
    } else if (*path != in->identity) {
      status = Error(Code::kUnavailable, "{} was replaced by another directory just now; try again", path_);
    }
  }
  if (!status.ok()) {
    (void)co_await in->directory.Remove(temporary);  // else it is removed when it is stale
    co_return status;
  }
  co_return co_await Publish(in, temporary, std::move(key), revision, std::move(value));
}

Task<Status> FileTopology::WriteTemporary(Used in, std::string name, std::string contents) {
  Result<File> opened = co_await in->directory.OpenFile(name, File::Mode::kCreate, /*direct=*/false);
  if (!opened.ok()) co_return CannotBeWritten(opened.status());
  File file = *std::move(opened);
  Status status = co_await file.Write(contents.data(), contents.size(), 0);
  if (status.ok()) status = co_await file.Sync(/*data_only=*/false);
  Status closed = co_await file.Close();
  if (status.ok()) status = std::move(closed);
  co_return status.ok() ? std::move(status) : CannotBeWritten(status);
}

// Gives the complete temporary file the name of its revision. From here on an error may mean either.
Task<Result<CasOutcome>> FileTopology::Publish(Used in, std::string temporary, std::string key, Revision revision,
                                               std::string value) {
  const std::string name = FileName(key, revision);
  Status linked = co_await in->directory.Link(temporary, name);
  if (!linked.ok()) {
    (void)co_await in->directory.Remove(temporary);
    if (linked.code() == Code::kAlreadyExists) co_return CasOutcome::Conflict();
    // No such file (the temporary one is gone), and no space: the kernel says so before it acts.
    if (linked.code() == Code::kNotFound || linked.code() == Code::kDiskFull) co_return linked;
    co_return CasOutcome::Unknown(std::move(linked));
  }
  if (Status synced = co_await in->directory.Sync(); !synced.ok()) {
    (void)co_await in->directory.Remove(temporary);
    co_return CasOutcome::Unknown(std::move(synced));
  }
  if (!(co_await in->directory.Rename(temporary, std::string(kNewest))).ok()) {
    (void)co_await in->directory.Remove(temporary);  // the others notice at their next listing
  }
  Result<Names> names = ListNames(*in);
  if (!names.ok()) co_return CasOutcome::Unknown(names.TakeStatus());
  const Revision newest = names->NewestOf(key);
  if (newest >= revision + kKeptVersions) {  // TF2
    co_return CasOutcome::Unknown(Error(Code::kAborted, "{}: {} went on to revision {} while revision {} was written",
                                        name_, key, newest, revision));
  }
  Keep(in.get(), {key, std::move(value), revision});
  co_await RemoveOldVersions(in, key, std::move(names->revisions[key]), newest);
  co_return CasOutcome::Stored(revision);
}

// What cannot be removed now is removed by a later change.
Task<void> FileTopology::RemoveOldVersions(Used in, std::string key, std::vector<Revision> revisions, Revision newest) {
  for (const Revision revision : revisions) {
    if (revision + kKeptVersions > newest) co_return;
    Status removed = co_await in->directory.Remove(FileName(key, revision));
    if (!removed.ok() && removed.code() != Code::kNotFound) co_return;
  }
}

Task<void> FileTopology::RemoveStaleTemporaries(Used in, std::vector<std::string> temporaries) {
  const Nanos now_ns = reactor_.NowNs();
  std::map<std::string, Nanos> seen;
  for (std::string& name : temporaries) {
    auto it = in->temporaries.find(name);
    const Nanos first_ns = it == in->temporaries.end() ? now_ns : it->second;
    if (now_ns - first_ns >= kTemporaryAgeNs) {
      (void)co_await in->directory.Remove(name);
    } else if (seen.size() < kMaxTemporaries) {
      seen.emplace(std::move(name), first_ns);
    }
  }
  in->temporaries = std::move(seen);
}

}  // namespace pando
