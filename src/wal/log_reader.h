// LogReader: reads a log directory from its oldest segment to the end of the log, for recovery and
// for `kvadmin wal-dump`. It changes nothing in the directory.
//
// Threads: one reactor.
//
// Invariants
//   V1  What Next returns is intact: checksum, segment number, position, and the chain of batches
//       (previous_end, previous_checksum) have been verified. Whether the units in it continue
//       their partitions is for StreamHistory to say.
//   V2  Invariant L3 of wal/log.h is decided here and nowhere else. Where the next batch is not
//       intact, the reader searches all later 4-KiB-aligned offsets for an intact batch whose
//       durable position lies after the damage. If there is one, the damage is corruption.
//       Otherwise the log ends there.
//   V3  A cut (kBatchCut) made by an earlier recovery, or by accept-loss, is final: everything between its
//       previous_end and the cut is dead, intact or not, readable or not.
#pragma once

#include <map>
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
    kUnread,  // Next has not reached it yet
    kData,    // part of the log
    kSpare,   // after the end, without an intact batch of its own number
    kDead,    // after the end or cut off, with batches that are not part of the log
  };
  uint64_t number = 0;
  std::string path;
  uint64_t bytes = 0;
  Use use = Use::kUnread;
  std::optional<LogPosition> cut_at;   // if its first group is a cut: where the log before it ends
  std::optional<LogPosition> ends_at;  // where the cut of a later segment ends this one
  size_t continued_by = 0;             // with ends_at: index of the later segment
  bool cut_off = false;                // between a cut and the position where it ends the log
  bool readable = true;                // its header; if it is not, the file is cut off, or Options::salvage is set
  std::string damage;                  // what is wrong with the file as a whole
};
const char* SegmentUseName(LogSegmentInfo::Use use);

// The error for a log that ends at `end` (0 = nothing is left of it), although the file
// `required_by` states that it had reached `required_end`.
Status LostLog(std::string_view directory, LogPosition end, LogPosition required_end, std::string_view required_by);

// Where the log cannot be read any further (Options::salvage).
struct LogDamage {
  uint64_t segment = 0, offset = 0;
  std::string what;  // names the file
};

// A batch; valid until the next call.
struct LogEntry {
  BatchHeader header{};
  std::string_view payload;
  const LogSegmentInfo* segment = nullptr;
  uint64_t offset = 0;
  LogPosition end = 0;
};

class LogReader {
 public:
  struct Options {
    std::string directory;
    const Directory* open_directory = nullptr;  // the same, if already open; outlives the reader
    Uuid node;                                  // nil = any, but the same in all segments
    // First fsyncs every segment and the directory; opens the files for writing.
    bool sync = false;
    // Segments before this one are not read, and count as dead (log_suffix.h).
    uint64_t first_segment = 0;
    // If not null: an error because of the bytes of a segment sets it to the number of that segment.
    uint64_t* damaged_segment = nullptr;
    // Damage, also a sector that cannot be read, is no error but ends the log: Next returns false, damage()
    // says where, and NextBehind reads what is left. For those who look at a log, never for recovery.
    bool salvage = false;
  };
  // Lists the segments and reads their headers. kCorruption: of a segment that no cut has ended, the
  // header is damaged, the file does not have the size that it states, or it belongs to another node. kVersion: this
  // build does not read the format of a segment.
  static Task<Result<std::unique_ptr<LogReader>>> Open(Reactor& reactor, Options options);

  // Reads the next batch in log order, including batches that only carry positions. Returns false
  // at the end. kCorruption names the file and the offset. Batches returned before remain valid
  // parts of the log.
  Task<Result<bool>> Next(LogEntry* entry);

  // With Options::salvage. Set once Next has returned false because of damage.
  const std::optional<LogDamage>& damage() const { return damage_; }
  // The next batch after the end of the log that is intact by itself, in the order of the files. What is
  // between it and the one before it is not known. An earlier recovery has not cut it off.
  Task<Result<bool>> NextBehind(LogEntry* entry);

  const Uuid& node() const { return node_; }  // nil when there is no segment
  // By number. `use` is final once Next has returned false.
  const std::vector<LogSegmentInfo>& segments() const { return segments_; }
  // Valid once Next has returned false:
  // The end of the last batch; 0 = the log is empty.
  LogPosition end() const { return chain_.last_end(); }
  // The end of the last batch that has records; 0 = none.
  LogPosition records_end() const { return chain_.records_end(); }
  uint64_t last_checksum() const { return chain_.last_checksum(); }  // of the last batch
  // Unfinished data follows the end.
  bool torn() const { return torn_; }
  const std::string& end_reason() const { return end_reason_; }  // what was found at the end

 private:
  LogReader(Reactor& reactor, Options options) : reactor_(&reactor), options_(std::move(options)) {}
  Task<Status> ReadHeaders();
  Task<Result<File>> OpenSegment(const LogSegmentInfo& segment, File::Mode mode);
  Task<Status> ReadHeader(LogSegmentInfo* segment, char* blocks);
  Status JudgeNames(const std::vector<std::string>& names) const;
  Status JudgeUnreadable();
  void JudgeSize(LogSegmentInfo* segment, uint64_t stated_bytes);
  static uint64_t BytesOfLongCut(std::string_view head, const LogSegmentInfo& segment);
  Status JudgeHeader(LogSegmentInfo* segment, std::string_view blocks);
  void ApplyCuts();
  Task<Status> ReadBytes(File* file, char* out, uint64_t bytes, uint64_t offset);
  Task<Status> Load(size_t index);
  std::string_view image() const { return {buffer_.data(), loaded_bytes_}; }

  Task<Result<bool>> ReadNext(LogEntry* entry);
  Task<Status> Enter(size_t index);
  Status Accept(const BatchView& batch, LogEntry* entry);
  Task<Status> PassGap(BatchState found);
  // Searches the loaded image from `offset` on. kCorruption when a batch there states that data at
  // `gap` was durable.
  Status SearchLater(uint64_t offset, LogPosition gap, BatchState found, bool* has_batches);
  Status Damaged(uint64_t offset, std::string_view what) const;
  void NoteDamaged(const Status& status, const LogSegmentInfo& segment) const;
  void EndAtDamage(size_t index, uint64_t offset, std::string what);
  bool EndsAtBadFile(size_t index, uint64_t from);

  Reactor* reactor_;
  Options options_;
  Uuid node_;
  uint64_t seed_ = 0;
  std::vector<LogSegmentInfo> segments_;
  std::map<uint64_t, Status> header_errors_;  // of the segments with damage
  AlignedBuffer buffer_;
  size_t loaded_ = SIZE_MAX;  // index of the segment whose bytes are in buffer_
  uint64_t loaded_bytes_ = 0;
  std::map<uint64_t, std::string> unreadable_;  // salvage: blocks of it that are zeros here, and why

  size_t current_ = SIZE_MAX;
  uint64_t offset_ = 0;
  BatchChain chain_;
  bool done_ = false, torn_ = false;
  std::string end_reason_;
  std::optional<LogDamage> damage_;
  size_t behind_ = SIZE_MAX;  // NextBehind: index of the segment that it searches
  uint64_t behind_offset_ = 0;
};

}  // namespace pando
