#include "src/backup/backup_format.h"

#include <cstring>

#include "src/base/hash.h"
#include "src/buffer_pool/page.h"

namespace pando {
namespace {

template <typename T>
uint64_t ChecksumOf(const T& value) {
  return Hash64({reinterpret_cast<const char*>(&value), offsetof(T, checksum)});
}

}  // namespace

void SealBackupHeader(BackupHeader* header) { header->checksum = ChecksumOf(*header); }
void SealBackupTrailer(BackupTrailer* trailer) { trailer->checksum = ChecksumOf(*trailer); }

uint64_t BackupIndexChecksum(const std::vector<BackupEntry>& entries) {
  return Hash64({reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(BackupEntry)});
}

uint64_t BackupIndexBytes(uint64_t entries) {
  return (entries * sizeof(BackupEntry) + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

Result<BackupHeader> ParseBackupHeader(std::string_view bytes, std::string_view path) {
  BackupHeader header;
  if (bytes.size() >= sizeof(header)) std::memcpy(static_cast<void*>(&header), bytes.data(), sizeof(header));
  if (bytes.size() < sizeof(header) || header.magic != kBackupMagic || header.checksum != ChecksumOf(header)) {
    return Error(Code::kCorruption, "{}: does not begin with a backup header; use another backup", path);
  }
  const bool known_seal = header.seal_bytes == 0 || (header.format > 1 && header.seal_bytes == kSealBytes);
  if (header.format < kOldestBackupFormat || header.format > kBackupFormat || !known_seal) {
    return Error(Code::kVersion,
                 "{}: has backup format {} with room for a seal of {} bytes, but this build reads formats {} to {} "
                 "with room for {}; use the version that wrote it",
                 path, header.format, header.seal_bytes, kOldestBackupFormat, kBackupFormat, kSealBytes);
  }
  return header;
}

Result<BackupTrailer> ParseBackupTrailer(std::string_view bytes, uint64_t file_bytes, std::string_view path) {
  BackupTrailer trailer;
  if (bytes.size() >= sizeof(trailer)) std::memcpy(static_cast<void*>(&trailer), bytes.data(), sizeof(trailer));
  if (bytes.size() < sizeof(trailer) || trailer.magic != kBackupMagic || trailer.checksum != ChecksumOf(trailer)) {
    return Error(Code::kCorruption,
                 "{}: its last block is not a backup trailer: the file was truncated or damaged; use another backup",
                 path);
  }
  const uint64_t most = file_bytes / sizeof(BackupEntry);
  if (trailer.entries > most ||
      trailer.index_offset_bytes + BackupIndexBytes(trailer.entries) + kBlockBytes != file_bytes) {
    return Error(Code::kCorruption, "{}: is {} bytes long, but its trailer says otherwise; use another backup", path,
                 file_bytes);
  }
  return trailer;
}

}  // namespace pando
