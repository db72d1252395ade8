// BackupReader: the pages of one partition in a backup: of an incremental one and those it is based on, together.
//
// Threads: one reactor. Memory: 24 bytes for each page.
//
// Invariants
//   BK1  A page is found by its place and its checksum, so that what the reader returns is what a reference names, or
//        nothing; whoever reads compares the bytes with the checksum.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/io/file.h"
#include "src/partition/backup_format.h"
#include "src/partition/tree_check.h"

namespace pando {

class BackupReader final : public PageSource {
 public:
  // `paths`: the newest backup's file first, then those it is based on. kInvalidArgument when they do not follow each
  // other; kCorruption names the file.
  static Task<Result<std::unique_ptr<BackupReader>>> Open(Reactor& reactor, std::vector<std::string> paths);
  Task<Status> Close();

  Task<Status> Read(Extent extent, uint64_t checksum, char* bytes) override;

  bool Has(Extent location, uint64_t checksum) const { return Find(location, checksum).entry != nullptr; }
  const BackupHeader& header() const { return parts_.front().header; }  // the newest's
  uint64_t pages() const;
  // Of all files, the newest's first.
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
    std::vector<BackupEntry> entries;  // by location
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
