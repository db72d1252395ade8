#include "src/backup/backup_reader.h"

#include <algorithm>
#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {

constexpr uint64_t kIndexReadBytes = 1u << 20;

bool Before(const BackupEntry& a, const BackupEntry& b) { return a.location.packed < b.location.packed; }

}  // namespace

Task<Status> BackupReader::Load(Part* part) {
  CO_ASSIGN_OR_RETURN(uint64_t bytes, part->file.Size());
  AlignedBuffer block(kBlockBytes);
  if (bytes < 2 * kBlockBytes || bytes % kBlockBytes != 0) {
    co_return Error(Code::kCorruption, "{}: is {} bytes long, which no backup file can be; use another backup",
                    part->path, bytes);
  }
  CO_RETURN_IF_ERROR(co_await part->file.Read(block.data(), kBlockBytes, 0));
  CO_ASSIGN_OR_RETURN(part->header, ParseBackupHeader({block.data(), kBlockBytes}, part->path));
  CO_RETURN_IF_ERROR(co_await part->file.Read(block.data(), kBlockBytes, bytes - kBlockBytes));
  CO_ASSIGN_OR_RETURN(BackupTrailer trailer, ParseBackupTrailer({block.data(), kBlockBytes}, bytes, part->path));
  part->entries.resize(trailer.entries);
  char* to = reinterpret_cast<char*>(part->entries.data());
  uint64_t left = trailer.entries * sizeof(BackupEntry);
  AlignedBuffer piece(kIndexReadBytes);
  for (uint64_t at = trailer.index_offset_bytes; left > 0; at += kIndexReadBytes) {
    const uint64_t length = std::min(kIndexReadBytes, bytes - kBlockBytes - at);
    CO_RETURN_IF_ERROR(co_await part->file.Read(piece.data(), length, at));
    const uint64_t used = std::min(left, length);
    std::memcpy(to, piece.data(), used);
    to += used;
    left -= used;
  }
  if (trailer.generation != part->header.generation || BackupIndexChecksum(part->entries) != trailer.index_checksum) {
    co_return Error(Code::kCorruption, "{}: the index at offset {} fails its checksum; use another backup", part->path,
                    trailer.index_offset_bytes);
  }
  for (const BackupEntry& e : part->entries) {
    if (e.location.empty() || e.offset_bytes + e.location.size_bytes() > trailer.index_offset_bytes) {
      co_return Error(Code::kCorruption, "{}: its index names a page outside the file; use another backup", part->path);
    }
  }
  std::sort(part->entries.begin(), part->entries.end(), Before);
  co_return Status();
}

Task<Result<std::unique_ptr<BackupReader>>> BackupReader::Open(Reactor& reactor, std::vector<std::string> paths) {
  CHECK(!paths.empty());
  auto reader = std::make_unique<BackupReader>();
  Status status;
  for (const std::string& path : paths) {
    Result<File> file = co_await File::Open(reactor, path, File::Mode::kRead, /*direct=*/true);
    if (!file.ok()) {
      status = file.TakeStatus();
      break;
    }
    Part& part = reader->parts_.emplace_back();
    part.path = path;
    part.file = *std::move(file);
    status = co_await Load(&part);
    if (!status.ok()) break;
    if (reader->parts_.size() == 1) continue;
    const Part& newer = reader->parts_[reader->parts_.size() - 2];
    if (newer.header.partition != part.header.partition || newer.header.page_bytes != part.header.page_bytes ||
        newer.header.seal_bytes != part.header.seal_bytes || newer.header.since != part.header.generation) {
      status = Error(Code::kInvalidArgument, "{}: is based on generation {} of its partition, which {} does not hold",
                     newer.path, newer.header.since, part.path);
      break;
    }
  }
  if (status.ok() && reader->parts_.back().header.since != 0) {
    status = Error(Code::kInvalidArgument, "{}: is an incremental backup; the one it is based on is missing",
                   reader->parts_.back().path);
  }
  if (!status.ok()) {
    Status closed = co_await reader->Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return status;
  }
  co_return reader;
}

Task<Status> BackupReader::Close() {
  Status first;
  for (Part& part : parts_) {
    Status status = co_await part.file.Close();
    if (first.ok()) first = std::move(status);
  }
  co_return first;
}

// BK1: the page with this location and this checksum, or none.
BackupReader::Found BackupReader::Find(Extent location, uint64_t checksum) const {
  for (const Part& part : parts_) {
    const BackupEntry wanted{location, 0, 0};
    auto found = std::lower_bound(part.entries.begin(), part.entries.end(), wanted, Before);
    for (; found != part.entries.end() && found->location == location; ++found) {
      if (found->checksum == checksum) return {&part, &*found};
    }
  }
  return {};
}

Task<Status> BackupReader::Read(Extent extent, uint64_t checksum, char* bytes) {
  Found found = Find(extent, checksum);
  if (!found.entry) {
    co_return Error(Code::kCorruption, "it is in none of the backup's files");
  }
  co_return co_await const_cast<File&>(found.part->file).Read(bytes, extent.size_bytes(), found.entry->offset_bytes);
}

uint64_t BackupReader::pages() const {
  uint64_t pages = 0;
  for (const Part& part : parts_) pages += part.entries.size();
  return pages;
}

}  // namespace pando
