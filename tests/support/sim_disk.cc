#include "tests/support/sim_disk.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pando {

struct SimDisk::PageRecord {
  char bytes[kPageBytes];
};

namespace {
constexpr char kZeroPage[SimDisk::kPageBytes] = {};
constexpr size_t kSectorsPerPage = SimDisk::kPageBytes / SimDisk::kSectorBytes;

// How PowerLoss treats data that is not durable. The two extremes are modes of their own, because
// independent choices over many sectors practically never reach them.
enum Mode : int { kDropAll, kKeepAll, kIndependent };
}  // namespace

SimDisk::SimDisk() {
  InodeId root = NewInode(true, "/");
  inodes_.at(root).links = 1;
  current_names_["/"] = durable_names_["/"] = root;
}

std::string SimDisk::Normalize(const std::string& path) {
  std::string out;
  for (size_t i = 0; i < path.size();) {
    size_t end = std::min(path.find('/', i), path.size());
    std::string_view part(path.data() + i, end - i);
    if (!part.empty() && part != ".") out.append("/").append(part);
    i = end + 1;
  }
  return out.empty() ? "/" : out;
}

std::string SimDisk::Parent(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool SimDisk::HasParent(const std::string& path) const {
  auto it = current_names_.find(Parent(path));
  return it != current_names_.end() && inodes_.at(it->second).directory;
}

SimDisk::InodeId SimDisk::NewInode(bool directory, const std::string& path) {
  InodeId id = next_inode_++;
  Inode& inode = inodes_[id];
  inode.directory = directory;
  if (directory) inode.path = path;
  return id;
}

// -- names

int64_t SimDisk::Open(const std::string& raw_path, int flags) {
  const std::string path = Normalize(raw_path);
  auto it = current_names_.find(path);
  if (it == current_names_.end()) {
    if (!(flags & O_CREAT) || !HasParent(path)) return -ENOENT;
    InodeId id = NewInode(false, path);
    inodes_.at(id).links = 1;
    current_names_[path] = id;
    pending_.push_back({DirectoryOp::Kind::kLink, next_directory_sequence_++, path, "", id});
    ++inodes_.at(id).open_count;
    return id;
  }
  Inode& inode = inodes_.at(it->second);
  if ((flags & O_CREAT) && (flags & O_EXCL)) return -EEXIST;
  if (inode.directory && (flags & O_ACCMODE) != O_RDONLY) return -EISDIR;
  if (!inode.directory && (flags & O_DIRECTORY)) return -ENOTDIR;
  if (flags & O_TRUNC) Truncate(it->second, 0);
  ++inode.open_count;
  return it->second;
}

void SimDisk::CloseInode(InodeId id) {
  --inodes_.at(id).open_count;
  ReleaseIfUnused(id);
}

int SimDisk::MakeDirectory(const std::string& raw_path) {
  const std::string path = Normalize(raw_path);
  if (current_names_.contains(path)) return -EEXIST;
  if (!HasParent(path)) return -ENOENT;
  InodeId id = NewInode(true, path);
  inodes_.at(id).links = 1;
  current_names_[path] = id;
  pending_.push_back({DirectoryOp::Kind::kLink, next_directory_sequence_++, path, "", id});
  return 0;
}

int SimDisk::Rename(const std::string& raw_from, const std::string& raw_to) {
  const std::string from = Normalize(raw_from), to = Normalize(raw_to);
  auto it = current_names_.find(from);
  if (it == current_names_.end() || !HasParent(to)) return -ENOENT;
  const InodeId id = it->second;
  CHECK(!inodes_.at(id).directory && Parent(from) == Parent(to))
      << "the simulated disk renames files only within their directory: " << from << " to " << to;
  if (from == to) return 0;
  if (auto old = current_names_.find(to); old != current_names_.end()) {
    if (old->second == id) return 0;  // two names of one file: rename(2) does nothing
    if (inodes_.at(old->second).directory) return -EISDIR;
    DropName(to);
  }
  current_names_.erase(from);
  current_names_[to] = id;
  pending_.push_back({DirectoryOp::Kind::kRename, next_directory_sequence_++, from, to, id});
  return 0;
}

int SimDisk::Exchange(const std::string& raw_a, const std::string& raw_b) {
  const std::string a = Normalize(raw_a), b = Normalize(raw_b);
  const auto at_a = current_names_.find(a), at_b = current_names_.find(b);
  if (at_a == current_names_.end() || at_b == current_names_.end()) return -ENOENT;
  CHECK(!inodes_.at(at_a->second).directory && !inodes_.at(at_b->second).directory && Parent(a) == Parent(b))
      << "the simulated disk exchanges files only within their directory: " << a << " and " << b;
  pending_.push_back({DirectoryOp::Kind::kExchange, next_directory_sequence_++, a, b, at_a->second, at_b->second});
  std::swap(at_a->second, at_b->second);
  return 0;
}

int SimDisk::Link(const std::string& raw_from, const std::string& raw_to) {
  const std::string from = Normalize(raw_from), to = Normalize(raw_to);
  auto it = current_names_.find(from);
  if (it == current_names_.end() || !HasParent(to)) return -ENOENT;
  if (inodes_.at(it->second).directory) return -EPERM;
  if (current_names_.contains(to)) return -EEXIST;
  const InodeId id = it->second;
  ++inodes_.at(id).links;
  current_names_[to] = id;
  pending_.push_back({DirectoryOp::Kind::kLink, next_directory_sequence_++, to, "", id});
  return 0;
}

int SimDisk::Unlink(const std::string& raw_path) {
  const std::string path = Normalize(raw_path);
  auto it = current_names_.find(path);
  if (it == current_names_.end()) return -ENOENT;
  const InodeId id = it->second;
  if (inodes_.at(id).directory) return -EISDIR;
  pending_.push_back({DirectoryOp::Kind::kUnlink, next_directory_sequence_++, path, "", id});
  DropName(path);
  return 0;
}

void SimDisk::DropName(const std::string& path) {
  const InodeId id = current_names_.at(path);
  current_names_.erase(path);
  --inodes_.at(id).links;
  ReleaseIfUnused(id);
}

// Frees the space of a file that has no name and is not open. Its contents stay until the removal
// is durable, because a power loss may bring the file back.
void SimDisk::ReleaseIfUnused(InodeId id) {
  const Inode& inode = inodes_.at(id);
  if (inode.links > 0 || inode.open_count > 0 || inode.directory) return;
  for (const PagePtr& page : inode.current.pages) used_pages_ -= page != nullptr;
}

void SimDisk::ForgetRemovedFiles() {
  std::set<InodeId> needed;
  for (const auto& [path, id] : durable_names_) needed.insert(id);
  for (const DirectoryOp& op : pending_) {
    needed.insert(op.inode);
    needed.insert(op.other);
  }
  std::erase_if(inodes_, [&](const auto& entry) {
    return entry.second.links == 0 && entry.second.open_count == 0 && !needed.contains(entry.first);
  });
}

Result<std::vector<std::string>> SimDisk::List(const std::string& raw_path) const {
  const std::string path = Normalize(raw_path);
  auto it = current_names_.find(path);
  if (it == current_names_.end()) return ErrnoError(ENOENT, "list directory {}", raw_path);
  if (!inodes_.at(it->second).directory) return ErrnoError(ENOTDIR, "list directory {}", raw_path);
  const std::string prefix = path == "/" ? "/" : path + "/";
  std::vector<std::string> names;
  for (auto entry = current_names_.lower_bound(prefix); entry != current_names_.end(); ++entry) {
    const std::string& name = entry->first;
    if (!name.starts_with(prefix)) break;
    if (name.size() > prefix.size() && name.find('/', prefix.size()) == std::string::npos) {
      names.push_back(name.substr(prefix.size()));
    }
  }
  return names;
}

std::string SimDisk::DirectoryPath(InodeId id) const {
  auto it = inodes_.find(id);
  return it != inodes_.end() && it->second.directory && it->second.links > 0 ? it->second.path : "";
}

SimDisk::InodeId SimDisk::Find(const std::string& path) const {
  auto it = current_names_.find(Normalize(path));
  return it == current_names_.end() ? 0 : it->second;
}

// -- contents

const char* SimDisk::PageBytes(const FileState& file, uint64_t page) {
  return page < file.pages.size() && file.pages[page] ? file.pages[page]->bytes : kZeroPage;
}

bool SimDisk::IsHole(const FileState& file, uint64_t page) { return page >= file.pages.size() || !file.pages[page]; }

char* SimDisk::WritablePage(FileState& file, uint64_t page) {
  if (file.pages.size() <= page) file.pages.resize(page + 1);
  PagePtr& slot = file.pages[page];
  if (!slot || slot.use_count() > 1) {
    auto copy = std::make_shared<PageRecord>();
    std::memcpy(copy->bytes, slot ? slot->bytes : kZeroPage, kPageBytes);
    slot = std::move(copy);
  }
  return slot->bytes;
}

int64_t SimDisk::Read(InodeId id, char* data, size_t bytes, uint64_t offset) const {
  const Inode& inode = inodes_.at(id);
  if (inode.directory) return -EISDIR;
  if (offset >= inode.current.size) return 0;
  bytes = std::min<uint64_t>(bytes, inode.current.size - offset);
  for (size_t done = 0; done < bytes;) {
    const uint64_t at = offset + done;
    const size_t step = std::min<size_t>(bytes - done, kPageBytes - at % kPageBytes);
    std::memcpy(data + done, PageBytes(inode.current, at / kPageBytes) + at % kPageBytes, step);
    done += step;
  }
  return static_cast<int64_t>(bytes);
}

// Saves the contents of sectors that are not durable yet before they are overwritten (X2, "as
// written before that").
void SimDisk::NoteOverwrite(Inode& inode, uint64_t offset, size_t bytes) {
  const uint64_t first = offset / kSectorBytes, last = (offset + bytes - 1) / kSectorBytes;
  for (uint64_t sector = first; sector <= last; ++sector) {
    const uint64_t page = sector / kSectorsPerPage;
    if (!inode.dirty.contains(page)) continue;
    const size_t at = sector % kSectorsPerPage * kSectorBytes;
    const char* now = PageBytes(inode.current, page) + at;
    if (std::memcmp(now, PageBytes(inode.durable, page) + at, kSectorBytes) == 0) continue;
    std::memcpy(inode.previous[sector].data(), now, kSectorBytes);
  }
}

int64_t SimDisk::Write(InodeId id, const char* data, size_t bytes, uint64_t offset) {
  Inode& inode = inodes_.at(id);
  if (bytes == 0) return 0;
  NoteOverwrite(inode, offset, bytes);
  size_t done = 0;
  while (done < bytes) {
    const uint64_t at = offset + done, page = at / kPageBytes;
    const size_t step = std::min<size_t>(bytes - done, kPageBytes - at % kPageBytes);
    if (page >= inode.current.pages.size() || !inode.current.pages[page]) {
      if (used_pages_ >= capacity_pages_) break;
      ++used_pages_;
    }
    std::memcpy(WritablePage(inode.current, page) + at % kPageBytes, data + done, step);
    inode.dirty.insert(page);
    done += step;
  }
  inode.current.size = std::max<uint64_t>(inode.current.size, done > 0 ? offset + done : 0);
  return done > 0 ? static_cast<int64_t>(done) : -ENOSPC;
}

int SimDisk::Allocate(InodeId id, uint64_t offset, uint64_t bytes) {
  Inode& inode = inodes_.at(id);
  const uint64_t first = offset / kPageBytes, end = (offset + bytes + kPageBytes - 1) / kPageBytes;
  uint64_t needed = 0;
  for (uint64_t page = first; page < end; ++page) {
    needed += page >= inode.current.pages.size() || !inode.current.pages[page];
  }
  if (needed > capacity_pages_ - std::min(used_pages_, capacity_pages_)) return -ENOSPC;
  static const PagePtr zero = std::make_shared<PageRecord>();
  if (inode.current.pages.size() < end) inode.current.pages.resize(end);
  for (uint64_t page = first; page < end; ++page) {
    if (inode.current.pages[page]) continue;
    inode.current.pages[page] = zero;
    inode.dirty.insert(page);
  }
  used_pages_ += needed;
  inode.current.size = std::max(inode.current.size, offset + bytes);
  return 0;
}

int SimDisk::PunchHole(InodeId id, uint64_t offset, uint64_t bytes) {
  if (offset % kPageBytes != 0 || bytes == 0 || bytes % kPageBytes != 0) return -EINVAL;
  Inode& inode = inodes_.at(id);
  const uint64_t end = std::min<uint64_t>((offset + bytes) / kPageBytes, inode.current.pages.size());
  for (uint64_t page = offset / kPageBytes; page < end; ++page) {
    if (!inode.current.pages[page]) continue;
    NoteOverwrite(inode, page * kPageBytes, kPageBytes);
    --used_pages_;
    inode.current.pages[page] = nullptr;
    inode.dirty.insert(page);
  }
  return 0;
}

void SimDisk::DropPages(Inode& inode, uint64_t first_page) {
  for (uint64_t page = first_page; page < inode.current.pages.size(); ++page) {
    if (!inode.current.pages[page]) continue;
    --used_pages_;
    inode.current.pages[page] = nullptr;
    inode.dirty.insert(page);
  }
  inode.current.pages.resize(std::min<size_t>(inode.current.pages.size(), first_page));
}

int SimDisk::Truncate(InodeId id, uint64_t size) {
  Inode& inode = inodes_.at(id);
  if (size < inode.current.size) {
    DropPages(inode, (size + kPageBytes - 1) / kPageBytes);
    if (size % kPageBytes != 0 && PageBytes(inode.current, size / kPageBytes) != kZeroPage) {
      std::memset(WritablePage(inode.current, size / kPageBytes) + size % kPageBytes, 0,
                  kPageBytes - size % kPageBytes);
      inode.dirty.insert(size / kPageBytes);
    }
  }
  inode.current.size = size;
  return 0;
}

// -- durability

SimDisk::SyncPoint SimDisk::BeginSync(InodeId id) const {
  const Inode& inode = inodes_.at(id);
  SyncPoint point;
  point.size = inode.current.size;
  point.directory_sequence = next_directory_sequence_;
  for (uint64_t page : inode.dirty) {
    point.pages.emplace_back(page, page < inode.current.pages.size() ? inode.current.pages[page] : nullptr);
  }
  return point;
}

void SimDisk::SettlePage(Inode& inode, uint64_t page) {
  const char* now = PageBytes(inode.current, page);
  const char* safe = PageBytes(inode.durable, page);
  if (now != safe && std::memcmp(now, safe, kPageBytes) != 0) return;
  if (IsHole(inode.current, page) != IsHole(inode.durable, page)) return;
  inode.dirty.erase(page);
  for (uint64_t s = 0; s < kSectorsPerPage; ++s) inode.previous.erase(page * kSectorsPerPage + s);
}

void SimDisk::CompleteSync(InodeId id, const SyncPoint& point) {
  Inode& inode = inodes_.at(id);
  if (inode.directory) {
    std::vector<DirectoryOp> left;
    for (DirectoryOp& op : pending_) {
      const std::string& where = op.kind == DirectoryOp::Kind::kRename ? op.new_path : op.path;
      if (op.sequence < point.directory_sequence && Parent(where) == inode.path) {
        ApplyDurably(op);
      } else {
        left.push_back(std::move(op));
      }
    }
    pending_ = std::move(left);
    ForgetRemovedFiles();
    return;
  }
  for (const auto& [page, content] : point.pages) {
    if (inode.durable.pages.size() <= page) inode.durable.pages.resize(page + 1);
    inode.durable.pages[page] = content;
    SettlePage(inode, page);
  }
  inode.durable.size = point.size;
}

void SimDisk::FailSync(InodeId id, const SyncPoint& point) {
  Inode& inode = inodes_.at(id);
  for (const auto& [page, content] : point.pages) {
    inode.dirty.erase(page);
    for (uint64_t s = 0; s < kSectorsPerPage; ++s) inode.previous.erase(page * kSectorsPerPage + s);
  }
}

void SimDisk::MakeDurable(InodeId id, uint64_t offset, size_t bytes) {
  Inode& inode = inodes_.at(id);
  for (size_t done = 0; done < bytes;) {
    const uint64_t at = offset + done, page = at / kPageBytes;
    const size_t step = std::min<size_t>(bytes - done, kPageBytes - at % kPageBytes);
    if (step == kPageBytes) {
      if (inode.durable.pages.size() <= page) inode.durable.pages.resize(page + 1);
      inode.durable.pages[page] = inode.current.pages[page];
    } else {
      std::memcpy(WritablePage(inode.durable, page) + at % kPageBytes, PageBytes(inode.current, page) + at % kPageBytes,
                  step);
    }
    SettlePage(inode, page);
    done += step;
  }
  inode.durable.size = std::max<uint64_t>(inode.durable.size, offset + bytes);
}

void SimDisk::ApplyDurably(const DirectoryOp& op) {
  switch (op.kind) {
    case DirectoryOp::Kind::kLink: durable_names_[op.path] = op.inode; break;
    case DirectoryOp::Kind::kUnlink:
      if (auto it = durable_names_.find(op.path); it != durable_names_.end() && it->second == op.inode) {
        durable_names_.erase(it);
      }
      break;
    case DirectoryOp::Kind::kRename: {
      // The journal of a real file system writes the new name with the inode even if the old name
      // never reached the disk.
      if (auto it = durable_names_.find(op.path); it != durable_names_.end() && it->second == op.inode) {
        durable_names_.erase(it);
      }
      durable_names_[op.new_path] = op.inode;
      break;
    }
    case DirectoryOp::Kind::kExchange:
      durable_names_[op.path] = op.other;
      durable_names_[op.new_path] = op.inode;
      break;
  }
}

// -- crashes

void SimDisk::ResolveInFlight(SimRandom& random, bool power_loss) {
  std::vector<InFlight> ops = std::move(in_flight_);
  in_flight_.clear();
  for (size_t i = ops.size(); i > 1; --i) std::swap(ops[i - 1], ops[random.Below(i)]);
  for (InFlight& op : ops) {
    if (random.Chance(0.4)) continue;
    switch (op.kind) {
      case InFlight::Kind::kWrite: {
        if (!inodes_.contains(op.inode)) break;
        size_t bytes = op.data.size();
        if (random.Chance(0.5)) {  // a prefix: of sectors (power loss) or of pages (process crash)
          const size_t unit = power_loss ? kSectorBytes : kPageBytes;
          bytes = std::min<size_t>(bytes, random.Below(bytes / unit + 1) * unit);
        }
        if (bytes > 0) Write(op.inode, op.data.data(), bytes, op.offset);
        break;
      }
      case InFlight::Kind::kSync:
        if (inodes_.contains(op.inode)) CompleteSync(op.inode, op.sync);
        break;
      case InFlight::Kind::kAllocate:
        if (inodes_.contains(op.inode)) Allocate(op.inode, op.offset, op.bytes);
        break;
      case InFlight::Kind::kPunchHole:
        if (inodes_.contains(op.inode)) PunchHole(op.inode, op.offset, op.bytes);
        break;
      case InFlight::Kind::kTruncate:
        if (inodes_.contains(op.inode)) Truncate(op.inode, op.offset);
        break;
      case InFlight::Kind::kRename: Rename(op.path, op.new_path); break;
      case InFlight::Kind::kExchange: Exchange(op.path, op.new_path); break;
      case InFlight::Kind::kLink: Link(op.path, op.new_path); break;
      case InFlight::Kind::kUnlink: Unlink(op.path); break;
      case InFlight::Kind::kMakeDirectory: MakeDirectory(op.path); break;
      case InFlight::Kind::kCreate:
        if (int64_t id = Open(op.path, O_RDWR | O_CREAT); id >= 0) CloseInode(static_cast<InodeId>(id));
        break;
    }
  }
}

void SimDisk::ResolveNames(SimRandom& random, int mode) {
  const bool prefix = random.Chance(0.5);  // a journal keeps the order; other file systems may not
  const size_t cut = random.Below(pending_.size() + 1);
  for (size_t i = 0; i < pending_.size(); ++i) {
    const bool keep = mode == kKeepAll || (mode == kIndependent && (prefix ? i < cut : random.Chance(0.5)));
    if (!keep) continue;
    const DirectoryOp& op = pending_[i];
    // If the source was lost, the rename has no effect.
    if (op.kind == DirectoryOp::Kind::kRename && !durable_names_.contains(op.path)) continue;
    const bool both = durable_names_.contains(op.path) && durable_names_.contains(op.new_path);
    if (op.kind == DirectoryOp::Kind::kExchange && !both) continue;
    ApplyDurably(op);
  }
  pending_.clear();
  // A lost directory takes its contents with it. Parents sort before their children.
  std::erase_if(durable_names_, [this](const auto& entry) {
    return entry.first != "/" && !durable_names_.contains(Parent(entry.first));
  });
}

// Decides whether the page's space, if it changed without a sync, is reserved for the file. Returns
// true if the page became a hole.
bool SimDisk::ResolveSpace(Inode& inode, SimRandom& random, int mode, bool keep_size, uint64_t page) {
  const bool hole = IsHole(inode.current, page);
  if (hole == IsHole(inode.durable, page)) return false;
  const bool longer = !hole && page * kPageBytes >= inode.durable.size;
  const bool keep = mode == kKeepAll || (longer ? keep_size : random.Chance(0.5));
  if (!keep) return hole;
  if (hole) {
    inode.durable.pages[page] = nullptr;
  } else {
    WritablePage(inode.durable, page);
  }
  return hole;
}

void SimDisk::ResolveInode(Inode& inode, SimRandom& random, int mode) {
  const bool keep_size = mode == kKeepAll || (mode == kIndependent && random.Chance(0.5));
  const double keep = 0.1 + 0.8 * static_cast<double>(random.Below(100)) / 100;
  const uint64_t new_size = keep_size ? inode.current.size : inode.durable.size;
  for (uint64_t page : inode.dirty) {
    if (mode == kDropAll) break;
    // Beyond a truncation the old bytes are intact: a truncation that did not happen changed
    // nothing.
    if (page * kPageBytes >= inode.current.size) continue;
    if (ResolveSpace(inode, random, mode, keep_size, page)) continue;
    for (uint64_t s = 0; s < kSectorsPerPage; ++s) {
      const size_t at = s * kSectorBytes;
      const char* now = PageBytes(inode.current, page) + at;
      if (std::memcmp(now, PageBytes(inode.durable, page) + at, kSectorBytes) == 0) continue;
      auto previous = inode.previous.find(page * kSectorsPerPage + s);
      if (mode == kIndependent) {
        if (previous != inode.previous.end() && random.Chance(0.2)) {
          std::memcpy(WritablePage(inode.durable, page) + at, previous->second.data(), kSectorBytes);
          continue;
        }
        if (!random.Chance(keep)) continue;
      }
      // A sector is sometimes torn.
      const size_t bytes = mode == kIndependent && random.Chance(0.05) ? random.Below(kSectorBytes) : kSectorBytes;
      std::memcpy(WritablePage(inode.durable, page) + at, now, bytes);
    }
  }
  inode.durable.size = new_size;
  const uint64_t pages = (new_size + kPageBytes - 1) / kPageBytes;
  if (inode.durable.pages.size() > pages) inode.durable.pages.resize(pages);
  if (new_size % kPageBytes != 0 && PageBytes(inode.durable, new_size / kPageBytes) != kZeroPage) {
    std::memset(WritablePage(inode.durable, new_size / kPageBytes) + new_size % kPageBytes, 0,
                kPageBytes - new_size % kPageBytes);
  }
  inode.current = inode.durable;
  inode.dirty.clear();
  inode.previous.clear();
}

void SimDisk::PowerLoss(uint64_t seed) {
  SimRandom random(seed);
  ResolveInFlight(random, true);
  const uint64_t pick = random.Below(4);
  const int mode = pick == 0 ? kDropAll : pick == 1 ? kKeepAll : kIndependent;
  ResolveNames(random, mode);
  current_names_ = durable_names_;
  std::map<InodeId, uint32_t> names;
  for (const auto& [path, id] : durable_names_) ++names[id];
  std::erase_if(inodes_, [&](const auto& entry) { return !names.contains(entry.first); });
  for (auto& [id, inode] : inodes_) {
    inode.links = names.at(id);
    inode.open_count = 0;
    if (!inode.directory) ResolveInode(inode, random, mode);
  }
  CountPages();
}

void SimDisk::ProcessCrash(uint64_t seed) {
  SimRandom random(seed);
  ResolveInFlight(random, false);
  for (auto& [id, inode] : inodes_) inode.open_count = 0;
  CountPages();
}

void SimDisk::CountPages() {
  used_pages_ = 0;
  for (const auto& [id, inode] : inodes_) {
    if (inode.links == 0) continue;
    for (const PagePtr& page : inode.current.pages) used_pages_ += page != nullptr;
  }
}

// -- for tests

std::vector<std::string> SimDisk::AllFiles() const {
  std::vector<std::string> files;
  for (const auto& [path, id] : current_names_) {
    if (!inodes_.at(id).directory) files.push_back(path);
  }
  return files;
}

std::string SimDisk::ReadAll(const std::string& path) const {
  auto it = current_names_.find(Normalize(path));
  if (it == current_names_.end() || inodes_.at(it->second).directory) return "";
  std::string data(Size(it->second), '\0');
  Read(it->second, data.data(), data.size(), 0);
  return data;
}

void SimDisk::WriteAll(const std::string& raw_path, std::string_view data) {
  const std::string path = Normalize(raw_path);
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    const std::string directory = path.substr(0, slash);
    if (!Exists(directory)) {
      CHECK_EQ(MakeDirectory(directory), 0);
      durable_names_[directory] = current_names_.at(directory);
    }
  }
  const int64_t id = Open(path, O_RDWR | O_CREAT);
  CHECK_GE(id, 0) << path;
  const auto inode = static_cast<InodeId>(id);
  Truncate(inode, 0);
  CHECK_EQ(Write(inode, data.data(), data.size(), 0), static_cast<int64_t>(data.size())) << path;
  CompleteSync(inode, BeginSync(inode));
  durable_names_[path] = inode;
  CloseInode(inode);
}

void SimDisk::FlipBit(const std::string& path, uint64_t byte_offset, unsigned bit) {
  Inode& inode = inodes_.at(current_names_.at(Normalize(path)));
  CHECK_LT(byte_offset, inode.current.size) << path;
  for (FileState* state : {&inode.current, &inode.durable}) {
    if (byte_offset >= state->size) continue;
    WritablePage(*state, byte_offset / kPageBytes)[byte_offset % kPageBytes] ^= static_cast<char>(1u << bit);
  }
}

bool SimDisk::IsWithin(const std::string& path, const std::string& directory) {
  return path == directory || path.starts_with(directory + "/");
}

void SimDisk::RemoveTree(const std::string& raw_path) {
  const std::string path = Normalize(raw_path);
  std::erase_if(current_names_, [&](const auto& entry) {
    if (!IsWithin(entry.first, path)) return false;
    --inodes_.at(entry.second).links;
    ReleaseIfUnused(entry.second);
    return true;
  });
  std::erase_if(durable_names_, [&](const auto& entry) { return IsWithin(entry.first, path); });
  std::erase_if(pending_, [&](const DirectoryOp& op) { return IsWithin(op.path, path); });
  ForgetRemovedFiles();
}

void SimDisk::MoveDirectory(const std::string& raw_from, const std::string& raw_to) {
  const std::string from = Normalize(raw_from), to = Normalize(raw_to);
  CHECK(!current_names_.contains(to)) << to << " exists";
  auto moved = [&](const std::string& path) { return IsWithin(path, from) ? to + path.substr(from.size()) : path; };
  for (auto* names : {&current_names_, &durable_names_}) {
    std::map<std::string, InodeId> renamed;
    for (const auto& [path, id] : *names) renamed[moved(path)] = id;
    *names = std::move(renamed);
  }
  for (DirectoryOp& op : pending_) {
    op.path = moved(op.path);
    op.new_path = moved(op.new_path);
  }
  for (auto& [id, inode] : inodes_) {
    if (inode.directory) inode.path = moved(inode.path);
  }
}

uint64_t SimDisk::dirty_pages() const {
  uint64_t total = 0;
  for (const auto& [id, inode] : inodes_) total += inode.dirty.size();
  return total;
}

}  // namespace pando
