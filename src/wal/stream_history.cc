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
  const End end{unit.last_lsn(), unit.chain_after, unit.epoch};
  auto [at, is_new] = streams_.try_emplace(partition);
  Stream& stream = at->second;
  if (is_new || (flags & kUnitStartsAnew) != 0) {
    if (!is_new) marks_.erase(partition);
    stream.ends.assign(1, end);
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
    const auto same = std::find_if(stream.ends.begin(), stream.ends.end(),
                                   [&](const End& e) { return e.lsn == end.lsn && e.epoch == end.epoch; });
    const bool known = end.lsn <= commit || (same != stream.ends.end() && same->chain == end.chain);
    if ((flags & kUnitAgain) != 0 && known) return Verdict::kRepeats;
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
  stream.ends.push_back(end);
  return Verdict::kSupersedes;
}

bool StreamHistory::Accept(const StreamMark& mark) {
  marks_[mark.partition] = mark;
  const auto at = streams_.find(mark.partition);
  if (at == streams_.end()) return true;
  Stream& stream = at->second;
  stream.mark = mark;
  if (mark.durable_lsn > stream.last().lsn || mark.commit_lsn > stream.last().lsn) {
    Broken(mark.partition, fmt::format("the log holds it up to LSN {}, but it was durable up to LSN {}",
                                       stream.last().lsn, std::max(mark.durable_lsn, mark.commit_lsn)));
    return false;
  }
  ForgetCommitted(&stream);
  return true;
}

void StreamHistory::ForgetCommitted(Stream* stream) {
  while (stream->ends.size() > 1 && stream->ends[1].lsn <= stream->mark.commit_lsn) stream->ends.pop_front();
}

const StreamHistory::Stream* StreamHistory::Find(const Uuid& partition) const {
  const auto at = streams_.find(partition);
  return at == streams_.end() ? nullptr : &at->second;
}

}  // namespace pando
