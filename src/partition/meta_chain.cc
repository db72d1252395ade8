#include "src/partition/meta_chain.h"

#include <algorithm>
#include <cstring>

#include "src/base/check.h"
#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/buffer_pool/page.h"

namespace pando {

uint64_t MetaChecksum(const Uuid& partition, Extent at, const char* bytes) {
  return Hash64({bytes, at.size_bytes()}, ChecksumSeed(partition, at.block()));
}

namespace {

// As many of the `count` entries as fit, *taken of them. The piece refers to no successor yet.
MetaWrite EncodePiece(Extent at, const void* entries, uint64_t count, uint64_t* taken) {
  MetaPieceHeader header;
  header.entries = *taken = std::min(count, EntriesInPiece(at.blocks()));
  AlignedBuffer bytes(at.size_bytes());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), entries, header.entries * kMetaEntryBytes);
  return {at, std::move(bytes)};
}

// Makes `piece` refer to *next, its successor or nothing, and then sets *next to refer to `piece`.
void LinkPiece(const Uuid& partition, MetaWrite* piece, MetaRef* next) {
  StoreLE(piece->bytes.data() + offsetof(MetaPieceHeader, next), next->location.packed);
  StoreLE(piece->bytes.data() + offsetof(MetaPieceHeader, next_checksum), next->checksum);
  next->location = piece->location;
  next->checksum = MetaChecksum(partition, piece->location, piece->bytes.data());
}

}  // namespace

Task<MetaRef> EncodeMetaChain(Reactor& reactor, TurnBudget& turn, const Uuid& partition, const void* entries,
                              uint64_t count, std::span<const Extent> pieces, std::vector<MetaWrite>* writes) {
  const char* from = static_cast<const char*>(entries);
  const size_t first_write = writes->size();
  TurnSlice slice(turn);
  size_t used = 0;
  for (uint64_t left = count, taken = 0; left > 0; left -= taken, from += taken * kMetaEntryBytes, ++used) {
    CHECK_LT(used, pieces.size()) << "a metadata chain has room for fewer than its " << count << " entries";
    writes->push_back(EncodePiece(pieces[used], from, left, &taken));
    if (slice.Spend(kTurnUnitsPerMetaBlock * pieces[used].blocks())) co_await Yield(reactor);
  }
  // Each piece holds the checksum of the next one, so this goes from the last to the first.
  MetaRef next;
  for (size_t i = writes->size(); i > first_write; --i) {
    MetaWrite& piece = (*writes)[i - 1];
    LinkPiece(partition, &piece, &next);
    if (slice.Spend(kTurnUnitsPerMetaBlock * piece.location.blocks())) co_await Yield(reactor);
  }
  next.entries = count;
  co_return next;
}

namespace {

constexpr size_t kWritesInFlight = 32;

// One of several tasks that share *next.
Task<void> WriteSome(File* file, const std::vector<MetaWrite>* writes, size_t* next, Status* first_error) {
  while (*next < writes->size() && first_error->ok()) {
    const MetaWrite& w = (*writes)[(*next)++];
    Status status = co_await file->Write(w.bytes.data(), w.location.size_bytes(), w.location.offset_bytes());
    if (!status.ok() && first_error->ok()) *first_error = std::move(status);
  }
}

}  // namespace

Task<Status> WriteMetadata(File* file, std::vector<MetaWrite> writes) {
  TaskGroup writers;
  size_t next = 0;
  Status first_error;
  for (size_t i = 0; i < std::min(kWritesInFlight, writes.size()); ++i) {
    writers.Spawn(WriteSome(file, &writes, &next, &first_error));
  }
  co_await writers.Drain();
  co_return first_error;
}

Task<Result<AlignedBuffer>> MetaChainReader::ReadExtent(Extent location, uint64_t checksum, std::string_view what) {
  if (location.blocks() == 0 || location.block() + location.blocks() > file_blocks_) {
    co_return Error(Code::kCorruption, "{}: the {} at offset {} lies outside the file; restore it from a backup",
                    file_->path(), what, location.offset_bytes());
  }
  AlignedBuffer bytes(location.size_bytes());
  CO_RETURN_IF_ERROR(co_await file_->Read(bytes.data(), bytes.size(), location.offset_bytes()));
  if (MetaChecksum(partition_, location, bytes.data()) != checksum) {
    co_return Error(Code::kCorruption,
                    "{}: {} at offset {} fails its checksum; restore the partition from a backup or a replica",
                    file_->path(), what, location.offset_bytes());
  }
  co_return bytes;
}

// Format 1: one extent without a header, which exists even if there are no entries.
Task<Status> MetaChainReader::ReadWhole(MetaRef ref, std::string_view what, std::vector<char>* entries) {
  CO_ASSIGN_OR_RETURN(AlignedBuffer bytes, co_await ReadExtent(ref.location, ref.checksum, what));
  if (ref.entries > bytes.size() / kMetaEntryBytes) {
    co_return Error(Code::kCorruption,
                    "{}: the {} at offset {} has room for {} entries, but the superblock says {}; restore the "
                    "partition from a backup or a replica",
                    file_->path(), what, ref.location.offset_bytes(), bytes.size() / kMetaEntryBytes, ref.entries);
  }
  entries->assign(bytes.data(), bytes.data() + ref.entries * kMetaEntryBytes);
  co_return Status();
}

Task<Result<std::vector<char>>> MetaChainReader::Read(MetaRef ref, uint64_t max_entries, std::string_view what,
                                                      std::vector<Extent>* pieces, uint64_t* damaged_at) {
  *damaged_at = ref.location.offset_bytes();
  if (ref.entries > max_entries) {
    co_return Error(Code::kCorruption,
                    "{}: the {} at offset {} has {} entries, but at most {} are possible; restore the partition from a "
                    "backup or a replica",
                    file_->path(), what, ref.location.offset_bytes(), ref.entries, max_entries);
  }
  std::vector<char> entries;
  entries.reserve(ref.entries * kMetaEntryBytes);
  if (format_ == 1) {
    CO_RETURN_IF_ERROR(co_await ReadWhole(ref, what, &entries));
    pieces->push_back(ref.location);
    co_return entries;
  }
  Extent at = ref.location;
  uint64_t checksum = ref.checksum;
  // Every piece has at least one entry, so even a cyclic chain ends.
  for (uint64_t left = ref.entries; left > 0;) {
    *damaged_at = at.offset_bytes();
    CO_ASSIGN_OR_RETURN(AlignedBuffer bytes, co_await ReadExtent(at, checksum, what));
    MetaPieceHeader header;
    std::memcpy(static_cast<void*>(&header), bytes.data(), sizeof(header));
    const uint64_t room = EntriesInPiece(at.blocks());
    const bool last = header.next.empty();
    if (header.entries == 0 || header.entries > std::min(room, left) || (header.entries < left) == last) {
      co_return Error(Code::kCorruption,
                      "{}: {} at offset {} has {} entries in a piece with room for {}, and {} entries are still "
                      "missing; restore the partition from a backup or a replica",
                      file_->path(), what, at.offset_bytes(), header.entries, room, left);
    }
    const char* first = bytes.data() + sizeof(header);
    entries.insert(entries.end(), first, first + header.entries * kMetaEntryBytes);
    pieces->push_back(at);
    left -= header.entries;
    at = header.next;
    checksum = header.next_checksum;
  }
  co_return entries;
}

}  // namespace pando
