// SimDisk: the file system of one simulated machine. It guarantees no more durability than a real
// disk must, and never reports a durability that it does not have.
//
// Threads: one. A SimDisk is a value: copy it to take an image of the whole disk, assign it to
// restore one. Both are cheap, because pages are shared.
//
// Invariants (the contract of permitted faults)
//   X1  Every later read sees a completed write. The write is durable only after a sync of its file
//       that was submitted after the write completed. A data_sync write is durable at once (its own
//       bytes, and the size that covers them).
//   X2  After a PowerLoss, each 512-byte sector that was not durable is, independently, as it was
//       at the last sync, as written last, as written before that, or torn in the middle. A size
//       that was not synced is the old or the new one. Space that was allocated or punched and not
//       synced is either reserved for the file or not. (If an allocation extended the file, its
//       space comes with the new size.)
//   X3  Creations, renames, exchanges, and removals are durable after a sync of their directory. PowerLoss
//       keeps or drops the others, either a prefix of them or each independently. A file in a lost
//       directory is lost.
//   X4  After a ProcessCrash, completed operations stay visible, but are no more durable than
//       before.
//   X5  Operations in flight at a crash happened wholly, partly, or not at all.
//   X6  A failed sync leaves the data visible but not durable, and a later sync does not repair
//       that: the data that was not durable at that time becomes durable only if it is written
//       again.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "tests/support/sim_random.h"

namespace pando {

class SimDisk {
 public:
  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kSectorBytes = 512;
  using InodeId = uint32_t;

  SimDisk();

  // -- operations as the kernel performs them; a negative result is -errno
  int64_t Open(const std::string& path, int flags);  // returns the inode
  void CloseInode(InodeId id);
  int64_t Read(InodeId id, char* data, size_t bytes, uint64_t offset) const;
  int64_t Write(InodeId id, const char* data, size_t bytes, uint64_t offset);
  int Allocate(InodeId id, uint64_t offset, uint64_t bytes);
  int PunchHole(InodeId id, uint64_t offset, uint64_t bytes);  // whole pages; the size stays
  int Truncate(InodeId id, uint64_t size);
  int Rename(const std::string& from, const std::string& to);
  int Exchange(const std::string& a, const std::string& b);
  int Link(const std::string& from, const std::string& to);
  int Unlink(const std::string& path);
  int MakeDirectory(const std::string& path);
  uint64_t Size(InodeId inode) const { return inodes_.at(inode).current.size; }
  // The current path of an open directory; "" if it was removed.
  std::string DirectoryPath(InodeId id) const;
  // The inode with this name; 0 if there is none.
  InodeId Find(const std::string& path) const;
  bool IsDirectory(InodeId inode) const { return inodes_.at(inode).directory; }
  Result<std::vector<std::string>> List(const std::string& path) const;

  // What a sync covers, which is fixed when the sync is submitted.
  struct PageRecord;
  using PagePtr = std::shared_ptr<PageRecord>;  // null: a hole
  struct SyncPoint {
    uint64_t size = 0;
    std::vector<std::pair<uint64_t, PagePtr>> pages;
    uint64_t directory_sequence = 0;
  };
  SyncPoint BeginSync(InodeId id) const;
  void CompleteSync(InodeId id, const SyncPoint& point);
  void FailSync(InodeId id, const SyncPoint& point);
  void MakeDurable(InodeId id, uint64_t offset, size_t bytes);  // of a data_sync write

  // -- crashes
  struct InFlight {
    enum class Kind {
      kWrite,
      kSync,
      kAllocate,
      kPunchHole,
      kTruncate,
      kRename,
      kExchange,
      kLink,
      kUnlink,
      kMakeDirectory,
      kCreate
    };
    Kind kind;
    InodeId inode = 0;
    uint64_t offset = 0, bytes = 0;
    std::string data;  // kWrite
    SyncPoint sync;
    std::string path, new_path;
  };
  void AddInFlight(InFlight op) { in_flight_.push_back(std::move(op)); }
  void PowerLoss(uint64_t seed);
  void ProcessCrash(uint64_t seed);

  // -- for tests
  void SetCapacity(uint64_t bytes) { capacity_pages_ = bytes / kPageBytes; }
  uint64_t used_bytes() const { return used_pages_ * kPageBytes; }
  bool Exists(const std::string& path) const { return current_names_.contains(Normalize(path)); }
  // Paths of files (not directories), sorted.
  std::vector<std::string> AllFiles() const;
  std::string ReadAll(const std::string& path) const;  // "" if the file is missing
  // Durable at once; creates the parents.
  void WriteAll(const std::string& path, std::string_view data);
  // Damages data at rest: the flipped bit is durable and visible.
  void FlipBit(const std::string& path, uint64_t byte_offset, unsigned bit = 0);
  // Actions of an operator, durable at once: `rm -r`, and `mv` of a directory. Open files stay
  // open.
  void RemoveTree(const std::string& path);
  void MoveDirectory(const std::string& from, const std::string& to);
  uint64_t dirty_pages() const;
  static std::string Normalize(const std::string& path);

 private:
  struct FileState {
    uint64_t size = 0;
    std::vector<PagePtr> pages;
  };
  struct Inode {
    bool directory = false;
    std::string path;  // of a directory
    FileState current, durable;
    std::set<uint64_t> dirty;  // pages that may differ between the states; a sync writes them
    // Sector -> the bytes that an unsynced overwrite replaced.
    std::map<uint64_t, std::array<char, kSectorBytes>> previous;
    uint32_t open_count = 0;
    uint32_t links = 0;  // names
  };
  struct DirectoryOp {
    enum class Kind { kLink, kRename, kExchange, kUnlink } kind;
    uint64_t sequence;
    std::string path, new_path;
    InodeId inode;
    InodeId other = 0;  // kExchange: the file that had the name new_path
  };

  static std::string Parent(const std::string& path);
  static bool IsWithin(const std::string& path, const std::string& directory);
  bool HasParent(const std::string& path) const;
  InodeId NewInode(bool directory, const std::string& path);
  static const char* PageBytes(const FileState& file, uint64_t page);
  static bool IsHole(const FileState& file, uint64_t page);
  char* WritablePage(FileState& file, uint64_t page);
  void NoteOverwrite(Inode& inode, uint64_t offset, size_t bytes);
  void SettlePage(Inode& inode, uint64_t page);  // removes it from `dirty` if both states agree
  void DropPages(Inode& inode, uint64_t first_page);
  void ReleaseIfUnused(InodeId id);
  void DropName(const std::string& path);
  void ForgetRemovedFiles();
  void ApplyDurably(const DirectoryOp& op);
  void ResolveInFlight(SimRandom& random, bool power_loss);
  void ResolveNames(SimRandom& random, int mode);
  bool ResolveSpace(Inode& inode, SimRandom& random, int mode, bool keep_size, uint64_t page);
  void ResolveInode(Inode& inode, SimRandom& random, int mode);
  void CountPages();

  std::map<InodeId, Inode> inodes_;
  InodeId next_inode_ = 1;
  std::map<std::string, InodeId> current_names_, durable_names_;
  std::vector<DirectoryOp> pending_;
  uint64_t next_directory_sequence_ = 1;
  std::vector<InFlight> in_flight_;
  uint64_t capacity_pages_ = UINT64_MAX;
  uint64_t used_pages_ = 0;
};

}  // namespace pando
