// LogReader: reads a log directory from its oldest segment to its end, for recovery and for `kvadmin wal-dump`. It
// changes nothing in the directory.
//
// Threads: one reactor.
//
// Invariants
//   V1  What Next returns is intact: checksum, segment number, position, the chain of groups (previous_end) and each
//       partition's chain (dense LSNs, previous_checksum) were verified.
//   V2  Invariant L3 of wal/log.h is decided here and nowhere else: where the next batch is not intact, all later
//       4-KiB-aligned places are searched for an intact batch of its segment whose durable position is behind the
//       damage. If there is one, the damage is corruption; else the log ends there.
//   V3  A cut (kBatchCut) that an earlier recovery made is final: what lies between its previous_end and it is dead,
//       intact or not.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/io/directory.h"
#include "src/wal/batch_chain.h"
#include "src/wal/log_format.h"

namespace pando {

struct LogSegmentInfo {
  enum class Use : uint8_t {
    kUnread,  // Next has not come here yet
    kData,    // part of the log
    kSpare,   // behind the end, holds no intact batch of its number
    kDead,    // behind the end or a recovery's cut, with batches that are not part of the log
  };
  uint64_t number = 0;
  std::string path;
  uint64_t bytes = 0;
  Use use = Use::kUnread;
  std::optional<LogPosition> cut_at;   // its first group is a cut: where the log before it ends
  std::optional<LogPosition> ends_at;  // a later segment's cut: where this one's part of the log ends
  size_t continued_by = 0;             // with ends_at: index of that segment
};
const char* SegmentUseName(LogSegmentInfo::Use use);

// The error of a log that ends at `end` (0: there is nothing of it), where `required_by`, a file, says that it had come
// to `required_end`.
Status LostLog(std::string_view directory, LogPosition end, LogPosition required_end, std::string_view required_by);

// A batch; valid until the next call.
struct LogEntry {
  BatchHeader header{};
  std::string_view records;
  const LogSegmentInfo* segment = nullptr;
  uint64_t offset = 0;
  LogPosition end = 0;
};

class LogReader {
 public:
  struct Options {
    std::string directory;
    const Directory* open_directory = nullptr;  // the same, when it is open already; outlives the reader
    Uuid node;                                  // nil: any, but the same in all segments
    bool sync = false;  // fsync every segment and the directory first; opens the files for writing
  };
  // Lists the segments and reads their headers. kCorruption: a header is damaged, its file shorter than it says, or
  // the segment is another node's; kVersion: its format is not read by this build.
  static Task<Result<std::unique_ptr<LogReader>>> Open(Reactor& reactor, Options options);

  // The next batch in log order, also those that only carry positions. False at the end. kCorruption names file and
  // offset; what was returned before remains true.
  Task<Result<bool>> Next(LogEntry* entry);

  const Uuid& node() const { return node_; }                                 // nil when there is no segment
  const std::vector<LogSegmentInfo>& segments() const { return segments_; }  // by number; `use` is final at the end
  // Once Next has returned false:
  LogPosition end() const { return chain_.last_end(); }                  // of the last batch; 0: the log is empty
  LogPosition last_records_end() const { return chain_.records_end(); }  // of the last that has records; 0: none
  bool torn() const { return torn_; }                                    // something unfinished follows the end
  const std::string& end_reason() const { return end_reason_; }          // what was found there

 private:
  LogReader(Reactor& reactor, Options options) : reactor_(&reactor), options_(std::move(options)) {}
  Task<Status> ReadHeaders();
  Task<Result<File>> OpenSegment(const LogSegmentInfo& segment, File::Mode mode);
  Task<Status> ReadHeader(LogSegmentInfo* segment, char* blocks);
  Status JudgeHeader(LogSegmentInfo* segment, std::string_view blocks);
  void ApplyCuts();
  Task<Status> Load(size_t index);
  std::string_view image() const { return {buffer_.data(), segments_[loaded_].bytes}; }

  Task<Status> Enter(size_t index);
  Status Accept(const BatchView& batch, LogEntry* entry);
  Task<Status> PassGap(BatchState found);
  // Searches the loaded image from `offset`; kCorruption when a batch there states that `gap` was durable.
  Status SearchLater(uint64_t offset, LogPosition gap, BatchState found, bool* has_batches);
  Status Damaged(uint64_t offset, std::string_view what) const;

  Reactor* reactor_;
  Options options_;
  Uuid node_;
  uint64_t seed_ = 0;
  std::vector<LogSegmentInfo> segments_;
  AlignedBuffer buffer_;
  size_t loaded_ = SIZE_MAX;  // segment whose bytes are in buffer_

  size_t current_ = SIZE_MAX;
  uint64_t offset_ = 0;
  BatchChain chain_;
  bool done_ = false, torn_ = false;
  std::string end_reason_;
};

}  // namespace pando
