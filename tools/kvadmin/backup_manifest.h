// BackupManifest: the contents of BACKUP.json, which describes a backup: the node it comes from,
// the backup it is based on, and the root of each partition's tree. kvadmin writes the file last,
// so a directory without it is not a backup. Format: docs/FORMAT.md, "Backup".
//
// Threads: values and pure functions. LoadBackupChain reads files and blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/model/types.h"

namespace pando::admin {

struct BackupPartition {
  uint32_t id = 0;
  Uuid uuid;
  std::string file;      // its name in the backup's directory
  Generation since = 0;  // the base holds the pages born in this generation or earlier
  SnapshotRoot root;
  uint64_t pages = 0, bytes = 0;  // of `file`
};

struct BackupManifest {
  std::string id;    // random
  std::string base;  // the base backup's directory, relative to this one's; empty = no base
  std::string base_id;
  std::string node, server_version;
  uint32_t page_bytes = 0, seal_bytes = 0, reactors = 0;
  bool namespaced = false;  // StoreInfo::namespaced
  int64_t snapshot_version = 0, taken_at_ms = 0;
  std::vector<BackupPartition> partitions;  // by id

  uint64_t records() const;
};

inline constexpr char kManifestName[] = "BACKUP.json";

Result<Uuid> ParseUuid(const std::string& text);
std::string EncodeManifest(const BackupManifest& manifest);
// The errors are kCorruption and kVersion. `path` is used in their messages only.
Result<BackupManifest> DecodeManifest(const std::string& text, const std::string& path);

// A backup and the backups it is based on, newest first. LoadBackupChain checks that the id of each
// base is the one that the newer backup names.
struct BackupChain {
  std::vector<std::string> directories;
  std::vector<BackupManifest> manifests;
  const BackupManifest& newest() const { return manifests.front(); }
  // The files of one partition, in the order that BackupReader takes them.
  std::vector<std::string> Files(uint32_t partition) const;
};
Result<BackupChain> LoadBackupChain(const std::string& directory);

}  // namespace pando::admin
