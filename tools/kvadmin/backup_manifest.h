// BackupManifest: BACKUP.json, which describes a backup: where it comes from, what it is based on, and what each
// partition's tree starts from. Written last: a directory without it is no backup. docs/FORMAT.md, "Backup".
//
// Threads: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/partition/types.h"

namespace pando::admin {

struct BackupPartition {
  uint32_t id = 0;
  Uuid uuid;
  std::string file;      // in the backup's directory
  Generation since = 0;  // pages made up to here are in the base
  SnapshotRoot root;
  uint64_t pages = 0, bytes = 0;  // in `file`
};

struct BackupManifest {
  std::string id;    // random
  std::string base;  // the backup this one is based on: its directory, relative to this one's; empty = none
  std::string base_id;
  std::string node, server_version;
  uint32_t page_bytes = 0, reactors = 0;
  int64_t snapshot_version = 0, taken_at_ms = 0;
  std::vector<BackupPartition> partitions;  // by id

  uint64_t records() const;
};

inline constexpr char kManifestName[] = "BACKUP.json";

Result<Uuid> ParseUuid(const std::string& text);
std::string EncodeManifest(const BackupManifest& manifest);
// kCorruption and kVersion name `path`.
Result<BackupManifest> DecodeManifest(const std::string& text, const std::string& path);

// A backup with those it is based on, the newest first; every base's id is checked.
struct BackupChain {
  std::vector<std::string> directories;
  std::vector<BackupManifest> manifests;
  const BackupManifest& newest() const { return manifests.front(); }
  // Of a partition, for BackupReader.
  std::vector<std::string> Files(uint32_t partition) const;
};
Result<BackupChain> LoadBackupChain(const std::string& directory);

}  // namespace pando::admin
