// BackupFile: writes one partition's file of a backup and verifies that the file is complete.
//
// Threads: one.
//
// Pages arrive parents first. Each page must be the root or a page that an earlier page refers to,
// and its bytes must match the checksum in that reference. Everything that a page refers to must
// arrive later or be in the base backup. A finished file and its base therefore hold everything
// reachable from the root: BackupFile detects a missing page, and a base that belongs to another
// history of the partition.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/backup/backup_format.h"
#include "src/model/types.h"

namespace pando::admin {

// The pages and values that the base backup holds of the partition, by location and checksum.
class BaseIndex {
 public:
  // `files` are in the order that BackupReader takes them. Empty means that there is no base.
  static Result<BaseIndex> Load(const std::vector<std::string>& files);
  bool Has(Extent location, uint64_t checksum) const;

 private:
  std::vector<std::pair<uint64_t, uint64_t>> pages_;  // sorted
};

class BackupFile {
 public:
  BackupFile(std::string path, BackupHeader header, SnapshotRoot root, BaseIndex base);
  BackupFile(const BackupFile&) = delete;
  BackupFile& operator=(const BackupFile&) = delete;
  ~BackupFile();

  Status Open();  // creates the file, or truncates an existing one
  // kCorruption: nothing refers to the page, or its size or bytes do not match the reference.
  // kInvalidArgument: the base belongs to another history of the partition.
  Status Add(Extent location, uint64_t checksum, const std::string& image);
  // Writes the index and the trailer, and syncs. kCorruption when a page is still missing.
  Status Finish();
  uint64_t pages() const { return entries_.size(); }
  uint64_t bytes() const { return offset_bytes_; }

 private:
  Status Expect(Extent location, uint64_t checksum, Generation birth);
  Status AddReferences(const std::string& image, uint32_t blocks);
  Status Write(const void* data, size_t bytes);

  const std::string path_;
  BackupHeader header_;
  const SnapshotRoot root_;
  const BaseIndex base_;
  std::FILE* file_ = nullptr;
  uint64_t offset_bytes_ = 0;
  std::vector<BackupEntry> entries_;
  struct Named {
    uint64_t checksum = 0;
    bool page = false;  // false: an overflow value
  };
  std::map<uint64_t, Named> named_;  // by location: referred to, but not yet added
  bool expecting_values_ = false;
};

}  // namespace pando::admin
