// The file of one partition in a backup (docs/FORMAT.md, "Backup"). It holds page images, each with
// its location in the partition's file, and an index of them.
//
//  | header block | images ... | index, padded to blocks | trailer block |
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
inline constexpr uint16_t kBackupFormat = 2;
inline constexpr uint16_t kOldestBackupFormat = 1;  // the same with seal_bytes 0

struct BackupHeader {
  uint64_t magic = kBackupMagic;
  uint16_t format = kBackupFormat;
  uint16_t seal_bytes = 0;  // left free at the end of every extent (page.h)
  uint32_t page_bytes = 0;
  Uuid partition;
  Generation generation = 0;
  // Pages created up to this generation are in the base backups; 0 = full backup.
  Generation since = 0;
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
  Generation generation = 0;    // same as in the header
  uint64_t checksum = 0;        // XXH3-64 of everything before it
};
static_assert(sizeof(BackupTrailer) == 48 && offsetof(BackupTrailer, checksum) == 40);

void SealBackupHeader(BackupHeader* header);
void SealBackupTrailer(BackupTrailer* trailer);
uint64_t BackupIndexChecksum(const std::vector<BackupEntry>& entries);

// `bytes` begin with the header. kCorruption and kVersion name the file.
Result<BackupHeader> ParseBackupHeader(std::string_view bytes, std::string_view path);
// Also checks that the index and the trailer end the file, which has `file_bytes` bytes.
Result<BackupTrailer> ParseBackupTrailer(std::string_view bytes, uint64_t file_bytes, std::string_view path);

// The bytes that `entries` entries take in the file.
uint64_t BackupIndexBytes(uint64_t entries);

}  // namespace pando
