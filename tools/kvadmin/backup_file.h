// BackupFile: writes the file of one partition in a backup, and sees that it is complete while it does.
//
// Pages come parents before children. Each must be what a page before it named (or the root), with the bytes that its
// checksum promises; and what a page names must come in turn, or be in the base. So a finished file and its base have
// all that the root reaches: a base of another history, or a page left out, does not go unnoticed.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/partition/backup_format.h"
#include "src/partition/types.h"

namespace pando::admin {

// What the base has of the partition, by place and checksum.
class BaseIndex {
 public:
  // `files` as BackupReader takes them; none = no base.
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

  Status Open();  // makes the file anew
  // kCorruption: the bytes are not what the checksum says; kInvalidArgument: the base is of another history.
  Status Add(Extent location, uint64_t checksum, const std::string& image);
  // Writes index and trailer, and syncs.
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
    bool page = false;  // else an overflow value
  };
  std::map<uint64_t, Named> named_;  // by place: named, and yet to come
  bool expecting_values_ = false;
};

}  // namespace pando::admin
