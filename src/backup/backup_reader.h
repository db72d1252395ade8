// BackupReader: reads the pages of one partition from a backup. For an incremental backup it
// combines the files of that backup and of the backups it is based on.
//
// Threads: one reactor. Memory: 24 bytes per page.
//
// Invariants
//   BK1  A page is looked up by its location and its checksum. The reader therefore returns the
//        page that a reference names or nothing. The caller compares the bytes with the checksum.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/backup/backup_format.h"
#include "src/io/file.h"
#include "src/verify/tree_check.h"

namespace pando {

class BackupReader final : public PageSource {
 public:
  // `paths`: the newest backup's file first, then the files of the backups it is based on, newest
  // first. kInvalidArgument: one is not based on the next. kCorruption names the file.
  static Task<Result<std::unique_ptr<BackupReader>>> Open(Reactor& reactor, std::vector<std::string> paths);
  Task<Status> Close();

  Task<Status> Read(Extent extent, uint64_t checksum, char* bytes) override;

  bool Has(Extent location, uint64_t checksum) const { return Find(location, checksum).entry != nullptr; }
  const BackupHeader& header() const { return parts_.front().header; }  // of the newest backup
  uint64_t pages() const;
  // Calls `fn` for the entries of all files, the newest file first.
  template <typename Fn>
  void ForEach(Fn fn) const {
    for (const Part& part : parts_) {
      for (const BackupEntry& e : part.entries) fn(e);
    }
  }

 private:
  struct Part {
    std::string path;
    File file;
    BackupHeader header;
    std::vector<BackupEntry> entries;  // sorted by location
  };
  struct Found {
    const Part* part = nullptr;
    const BackupEntry* entry = nullptr;
  };
  static Task<Status> Load(Part* part);
  Found Find(Extent location, uint64_t checksum) const;

  std::vector<Part> parts_;
};

}  // namespace pando
