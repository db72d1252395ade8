#include "src/wal/stream_history.h"

#include <fmt/format.h>

#include <algorithm>

namespace pando {

StreamHistory::Verdict StreamHistory::Broken(const Uuid& partition, std::string what) {
  wrong_ = fmt::format("partition {}: {}", partition.ToString(), what);
  return Verdict::kBroken;
}

StreamHistory::Verdict StreamHistory::Accept(const Uuid& partition, const WriteUnit& unit, uint16_t flags,
                                             bool chained) {
  if (chained && UnitChain(unit) != unit.chain_after) {
    return Broken(partition, fmt::format("the chain of the unit at LSN {} does not match its records", unit.first_lsn));
  }
  const End end{unit.last_lsn(), unit.chain_after, unit.epoch, unit.first_lsn, unit.chain_before};
  auto [at, is_new] = streams_.try_emplace(partition);
  Stream& stream = at->second;
  if (is_new || (flags & kUnitStartsAnew) != 0) {
    if (!is_new) marks_.erase(partition);
    stream.ends.assign(1, end);
    stream.fills = 0;
    return Verdict::kContinues;
  }
  const End last = stream.last();
  if (unit.first_lsn == last.lsn + 1) {
    if (unit.epoch < last.epoch) {
      return Broken(partition, fmt::format("the unit at LSN {} has epoch {}, but the one before it has epoch {}",
                                           unit.first_lsn, unit.epoch, last.epoch));
    }
    if (unit.chain_before != last.chain) {
      return Broken(partition,
                    fmt::format("the unit at LSN {} does not continue the chain of the one before it", unit.first_lsn));
    }
    stream.ends.push_back(end);
    if (!chained) stream.ends.pop_front();  // old batches have no marks: all of them are committed
    return Verdict::kContinues;
  }
  if (unit.first_lsn > last.lsn) {
    return Broken(partition,
                  fmt::format("a unit starts at LSN {}, but the last LSN before it is {}", unit.first_lsn, last.lsn));
  }
  const auto mark = marks_.find(partition);
  const Lsn commit = mark == marks_.end() ? 0 : mark->second.commit_lsn;
  if (unit.epoch <= last.epoch) {
    if ((flags & kUnitAgain) != 0) return AcceptAgain(partition, &stream, end, commit);
    return Broken(partition, fmt::format("a unit starts at LSN {}, but the last LSN before it is {}, in the same epoch",
                                         unit.first_lsn, last.lsn));
  }
  if (unit.first_lsn <= commit) {
    return Broken(partition, fmt::format("the unit at LSN {} of epoch {} supersedes what was committed up to LSN {}",
                                         unit.first_lsn, unit.epoch, commit));
  }
  const auto base =
      std::find_if(stream.ends.begin(), stream.ends.end(), [&](const End& e) { return e.lsn == unit.first_lsn - 1; });
  // The unit before the oldest one in the log is in a checkpoint, whose chain the partition knows.
  if (base == stream.ends.end() && stream.ends.front().lsn < unit.first_lsn) {
    return Broken(partition, fmt::format("the unit at LSN {} begins inside another one", unit.first_lsn));
  }
  if (base != stream.ends.end() && base->chain != unit.chain_before) {
    return Broken(partition,
                  fmt::format("the unit at LSN {} does not continue the chain of the one before it", unit.first_lsn));
  }
  if (mark != marks_.end()) mark->second.durable_lsn = std::min(mark->second.durable_lsn, unit.first_lsn - 1);
  stream.ends.erase(base == stream.ends.end() ? stream.ends.begin() : base + 1, stream.ends.end());
  stream.fills = std::min(stream.fills, stream.ends.size());
  stream.ends.push_back(end);
  return Verdict::kSupersedes;
}

// The unit does not come after all that is known, and claims to be a part of it.
StreamHistory::Verdict StreamHistory::AcceptAgain(const Uuid& partition, Stream* stream, const End& end, Lsn commit) {
  std::deque<End>& ends = stream->ends;
  const auto same =
      std::find_if(ends.begin(), ends.end(), [&](const End& e) { return e.lsn == end.lsn && e.epoch == end.epoch; });
  if (end.lsn <= commit || (same != ends.end() && same->chain == end.chain)) return Verdict::kRepeats;
  // Those that fill ascend without gaps; the last one may meet the unit that was known first.
  const auto next = ends.begin() + static_cast<ptrdiff_t>(stream->fills);
  const bool follows =
      stream->fills == 0 || ((next - 1)->lsn + 1 == end.first_lsn && (next - 1)->chain == end.chain_before);
  const bool meets =
      end.lsn + 1 < next->first_lsn || (end.lsn + 1 == next->first_lsn && end.chain == next->chain_before);
  if (same != ends.end() || !follows || !meets || end.epoch > next->epoch) {
    return Broken(partition,
                  fmt::format("a unit at LSN {} was appended again, but is not part of the history that ends "
                              "at LSN {}",
                              end.first_lsn, ends.back().lsn));
  }
  ends.insert(next, end);
  ++stream->fills;
  return Verdict::kFills;
}

bool StreamHistory::AcceptEnd(const Uuid& partition) {
  const auto at = streams_.find(partition);
  if (at == streams_.end()) return true;
  const Stream& stream = at->second;
  const auto mark = marks_.find(partition);
  const Lsn required = mark == marks_.end() ? 0 : std::max(mark->second.durable_lsn, mark->second.commit_lsn);
  if (required > stream.last().lsn) {
    Broken(partition,
           fmt::format("the log holds it up to LSN {}, but it was durable up to LSN {}", stream.last().lsn, required));
    return false;
  }
  const auto next = stream.ends.begin() + static_cast<ptrdiff_t>(stream.fills);
  if (stream.fills == 0 || next == stream.ends.end() || (next - 1)->lsn + 1 == next->first_lsn) return true;
  Broken(partition, fmt::format("units are missing between LSN {} and LSN {}", (next - 1)->lsn, next->first_lsn));
  return false;
}

std::vector<Uuid> StreamHistory::Partitions() const {
  std::vector<Uuid> partitions;
  for (const auto& [partition, stream] : streams_) partitions.push_back(partition);
  return partitions;
}

void StreamHistory::Accept(const StreamMark& mark) {
  marks_[mark.partition] = mark;
  const auto at = streams_.find(mark.partition);
  if (at == streams_.end()) return;
  Stream& stream = at->second;
  while (stream.ends.size() > 1 && stream.ends[1].lsn <= mark.commit_lsn) {  // forgets what is committed
    stream.ends.pop_front();
    stream.fills -= stream.fills > 0;
  }
}

const StreamHistory::Stream* StreamHistory::Find(const Uuid& partition) const {
  const auto at = streams_.find(partition);
  return at == streams_.end() ? nullptr : &at->second;
}

}  // namespace pando
