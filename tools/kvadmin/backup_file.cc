#include "tools/kvadmin/backup_file.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "src/backup/backup_reader.h"
#include "src/base/hash.h"
#include "src/btree/tree_node.h"
#include "tools/kvadmin/offline.h"

namespace pando::admin {

namespace {

Task<Result<ExitCode>> LoadBase(Reactor* reactor, const std::vector<std::string>* files,
                                std::vector<std::pair<uint64_t, uint64_t>>* pages) {
  CO_ASSIGN_OR_RETURN(std::unique_ptr<BackupReader> reader, co_await BackupReader::Open(*reactor, *files));
  reader->ForEach([pages](const BackupEntry& e) { pages->emplace_back(e.location.packed, e.checksum); });
  CO_RETURN_IF_ERROR(co_await reader->Close());
  co_return kExitOk;
}

}  // namespace

Result<BaseIndex> BaseIndex::Load(const std::vector<std::string>& files) {
  BaseIndex index;
  if (files.empty()) return Result<BaseIndex>(std::move(index));
  Result<ExitCode> loaded = RunOffline([&](Reactor& reactor) { return LoadBase(&reactor, &files, &index.pages_); });
  if (!loaded.ok()) return loaded.TakeStatus();
  std::sort(index.pages_.begin(), index.pages_.end());
  return Result<BaseIndex>(std::move(index));
}

bool BaseIndex::Has(Extent location, uint64_t checksum) const {
  return std::binary_search(pages_.begin(), pages_.end(), std::pair(location.packed, checksum));
}

BackupFile::BackupFile(std::string path, BackupHeader header, SnapshotRoot root, BaseIndex base)
    : path_(std::move(path)), header_(header), root_(root), base_(std::move(base)) {}

BackupFile::~BackupFile() {
  if (file_) std::fclose(file_);
}

Status BackupFile::Write(const void* data, size_t bytes) {
  // An incremental backup may have no pages, and thus an empty index.
  if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes) return ErrnoError(errno, "write {}", path_);
  offset_bytes_ += bytes;
  return Status();
}

Status BackupFile::Open() {
  file_ = std::fopen(path_.c_str(), "wb");
  if (!file_) return ErrnoError(errno, "create {}", path_);
  SealBackupHeader(&header_);
  std::string block(kBlockBytes, '\0');
  std::memcpy(block.data(), &header_, sizeof(header_));
  RETURN_IF_ERROR(Write(block.data(), block.size()));
  return Expect(root_.root.location, root_.root.checksum, root_.root.birth);
}

// Records a reference. A page or value born after the base's generation must still be added; an
// older one must be in the base.
Status BackupFile::Expect(Extent location, uint64_t checksum, Generation birth) {
  if (birth > header_.since) {
    named_[location.packed] = {checksum, !expecting_values_};
  } else if (!base_.Has(location, checksum)) {
    return Error(Code::kInvalidArgument,
                 "{}: the base backup lacks the page at offset {}, so it comes from another history of the partition; "
                 "make a backup without --base",
                 path_, location.offset_bytes());
  }
  return Status();
}

Status BackupFile::AddReferences(const std::string& image, uint32_t blocks) {
  const uint32_t usable_bytes = UsablePageBytes(header_.page_bytes, header_.seal_bytes);
  std::vector<char> page(std::max<size_t>(image.size(), header_.page_bytes)), scratch(usable_bytes);
  std::memcpy(page.data(), image.data(), image.size());
  RETURN_IF_ERROR(DecodePageImage(page.data(), usable_bytes, blocks, scratch.data()));
  RETURN_IF_ERROR(TreeNode::Validate(page.data(), usable_bytes));
  const TreeNode node(page.data(), usable_bytes);
  expecting_values_ = node.leaf();
  Status status;
  for (uint32_t i = 0; i < node.count() && status.ok(); ++i) {
    if (!node.leaf()) {
      const ChildRef child = node.LoadChild(i);
      status = Expect(child.location, child.checksum, child.birth);
    } else if (const RecordView record = node.Record(i); record.overflow) {
      const OverflowRef& value = record.overflow_ref;
      status = Expect(value.location, value.checksum, value.birth);
    }
  }
  expecting_values_ = false;
  return status;
}

Status BackupFile::Add(Extent location, uint64_t checksum, const std::string& image) {
  auto wrong = [&](std::string_view what) {
    return Error(Code::kCorruption, "the server sent {} (offset {} of partition {}); run kvadmin check --online", what,
                 location.offset_bytes(), header_.partition.ToString());
  };
  auto named = named_.find(location.packed);
  if (named == named_.end() || named->second.checksum != checksum) return wrong("a page that no other page refers to");
  const bool is_page = named->second.page;
  named_.erase(named);
  if (image.size() != location.size_bytes()) return wrong("a page of the wrong size");
  if (Hash64(image, ChecksumSeed(header_.partition, location.block())) != checksum) return wrong("a damaged page");
  if (is_page) RETURN_IF_ERROR(AddReferences(image, location.blocks()));
  entries_.push_back({location, checksum, offset_bytes_});
  return Write(image.data(), image.size());
}

Status BackupFile::Finish() {
  if (!named_.empty()) {
    return Error(Code::kCorruption,
                 "{}: the server did not send {} pages that other pages refer to, the first at offset {}; run kvadmin "
                 "check --online",
                 path_, named_.size(), Extent{named_.begin()->first}.offset_bytes());
  }
  BackupTrailer trailer;
  trailer.index_offset_bytes = offset_bytes_;
  trailer.entries = entries_.size();
  trailer.index_checksum = BackupIndexChecksum(entries_);
  trailer.generation = header_.generation;
  SealBackupTrailer(&trailer);
  const uint64_t index_bytes = entries_.size() * sizeof(BackupEntry);
  RETURN_IF_ERROR(Write(entries_.data(), index_bytes));
  std::string padding(BackupIndexBytes(entries_.size()) - index_bytes + kBlockBytes, '\0');
  std::memcpy(padding.data() + padding.size() - kBlockBytes, &trailer, sizeof(trailer));
  RETURN_IF_ERROR(Write(padding.data(), padding.size()));
  if (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0) return ErrnoError(errno, "sync {}", path_);
  if (std::fclose(std::exchange(file_, nullptr)) != 0) return ErrnoError(errno, "close {}", path_);
  return Status();
}

}  // namespace pando::admin
