// The file of one partition in a backup (docs/FORMAT.md, "Backup"): page images with the places they had in the
// partition's file, and an index of them.
//
//   | header block | images ... | index, padded to blocks | trailer block |
//
// Threads: values.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/buffer_pool/extent.h"

namespace pando {

inline constexpr uint64_t kBackupMagic = 0x314b424f444e4150;  // "PANDOBK1"
inline constexpr uint32_t kBackupFormat = 1;

struct BackupHeader {
  uint64_t magic = kBackupMagic;
  uint32_t format = kBackupFormat;
  uint32_t page_bytes = 0;
  Uuid partition;
  Generation generation = 0;
  Generation since = 0;   // pages made up to this generation are in the backups it is based on; 0 = it has all
  uint64_t checksum = 0;  // XXH3-64 of everything before it
};
static_assert(sizeof(BackupHeader) == 56 && offsetof(BackupHeader, checksum) == 48);

struct BackupEntry {
  Extent location;            // in the partition's file
  uint64_t checksum = 0;      // as in the reference to the page
  uint64_t offset_bytes = 0;  // in this file
};
static_assert(sizeof(BackupEntry) == 24);

struct BackupTrailer {
  uint64_t magic = kBackupMagic;
  uint64_t index_offset_bytes = 0;
  uint64_t entries = 0;
  uint64_t index_checksum = 0;  // XXH3-64 of the entries
  Generation generation = 0;    // the header's
  uint64_t checksum = 0;        // XXH3-64 of everything before it
};
static_assert(sizeof(BackupTrailer) == 48 && offsetof(BackupTrailer, checksum) == 40);

void SealBackupHeader(BackupHeader* header);
void SealBackupTrailer(BackupTrailer* trailer);
uint64_t BackupIndexChecksum(const std::vector<BackupEntry>& entries);

// `bytes` begin with it. kCorruption and kVersion name the file.
Result<BackupHeader> ParseBackupHeader(std::string_view bytes, std::string_view path);
// Also checks that index and trailer end the file of `file_bytes`.
Result<BackupTrailer> ParseBackupTrailer(std::string_view bytes, uint64_t file_bytes, std::string_view path);

// The bytes that `entries` take in the file.
uint64_t BackupIndexBytes(uint64_t entries);

}  // namespace pando
