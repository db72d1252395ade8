#include "src/wal/log_suffix.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "src/wal/stream_history.h"

namespace pando {
namespace {

// What a part of the log holds.
class SuffixContent {
 public:
  explicit SuffixContent(const std::function<bool(const Uuid&, const LogEntry&)>& means_nothing)
      : means_nothing_(means_nothing) {}

  void Add(const LogEntry& entry) {
    // The marks in the first batch say what was durable when it was submitted. If that was not yet all
    // that came before it, units may be missing of which no mark says that they exist.
    if (std::exchange(empty_, false)) whole_before_ = entry.header.durable_position >= entry.header.previous_end;
    old_format_ |= !HasUnits(entry.header);
    ForEachItem(
        entry.header, entry.payload,
        [&](const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
          if (means_nothing_(partition, entry)) return true;
          const auto lowest = first_lsn_.try_emplace(partition, unit.first_lsn).first;
          lowest->second = std::min(lowest->second, unit.first_lsn);
          history_.Accept(partition, unit, flags, HasUnits(entry.header));
          return true;
        },
        [&](const StreamMark& mark) {
          if (!means_nothing_(mark.partition, entry)) history_.Accept(mark);
          return true;
        },
        [&](const StreamCut& cut) {
          if (!means_nothing_(cut.partition, entry)) history_.Accept(cut);
          return true;
        });
  }

  bool Suffices() {
    if (!whole_before_ || old_format_ || history_.marks().empty()) return false;
    for (const auto& [partition, first] : first_lsn_) {
      if (history_.broken(partition) || !history_.marks().contains(partition)) return false;
    }
    for (const auto& [partition, mark] : history_.marks()) {
      if (std::max(mark.durable_lsn, mark.commit_lsn) <= mark.released_lsn) continue;
      const auto first = first_lsn_.find(partition);
      if (first == first_lsn_.end() || first->second > mark.released_lsn + 1) return false;
      if (history_.LastGap(partition) > mark.released_lsn || !history_.AcceptEnd(partition)) return false;
    }
    return true;
  }

 private:
  const std::function<bool(const Uuid&, const LogEntry&)>& means_nothing_;
  std::unordered_map<Uuid, Lsn, UuidHash> first_lsn_;  // the lowest
  StreamHistory history_;
  bool empty_ = true, whole_before_ = false;
  bool old_format_ = false;  // has no marks
};

// Reads on from options->first_segment. On damage, *damaged is the number of the segment.
Task<Status> ReadSuffix(Reactor* reactor, const LogReader::Options* options, SuffixContent* content) {
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<LogReader> reader, co_await LogReader::Open(*reactor, *options));
  LogEntry entry;
  for (;;) {
    CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
    if (!more) co_return Status();
    content->Add(entry);
  }
}

}  // namespace

Task<Result<uint64_t>> FindSufficientSuffix(Reactor& reactor, LogReader::Options options, Status damage,
                                            std::function<bool(const Uuid&, const LogEntry&)> means_nothing) {
  options.sync = false;  // it was done
  for (;;) {
    SuffixContent content(means_nothing);
    uint64_t damaged = 0;
    options.damaged_segment = &damaged;
    const Status read = co_await ReadSuffix(&reactor, &options, &content);
    if (read.ok()) {
      if (options.first_segment == 0 || !content.Suffices()) co_return damage;
      co_return options.first_segment;
    }
    if (read.code() != Code::kCorruption || damaged < options.first_segment) co_return damage;
    options.first_segment = damaged + 1;
  }
}

}  // namespace pando
