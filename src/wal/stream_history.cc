#include "src/wal/stream_history.h"

#include <fmt/format.h>

#include <algorithm>

namespace pando {

StreamHistory::Verdict StreamHistory::Broken(const Uuid& partition, std::string what) {
  wrong_ = fmt::format("partition {}: {}", partition.ToString(), what);
  broken_.insert(partition);
  return Verdict::kBroken;
}

StreamHistory::Verdict StreamHistory::Accept(const Uuid& partition, const WriteUnit& unit, uint16_t flags,
                                             bool chained) {
  if (!broken_.empty() && broken(partition)) return Verdict::kIgnored;
  if (chained && UnitChain(unit) != unit.chain_after) {
    return Broken(partition, fmt::format("the chain of the unit at LSN {} does not match its records", unit.first_lsn));
  }
  const End end{unit.last_lsn(), unit.chain_after, unit.epoch, unit.first_lsn, unit.chain_before};
  auto [at, is_new] = streams_.try_emplace(partition);
  Stream& stream = at->second;
  if ((flags & kUnitStartsAnew) != 0 && !is_new) marks_.erase(partition);
  const auto mark = marks_.find(partition);
  const Lsn commit = mark == marks_.end() ? 0 : mark->second.commit_lsn;
  // What a mark of a lower epoch states above this unit is superseded, even if the segments that held
  // it are gone already.
  Verdict next = Verdict::kContinues;
  if (mark != marks_.end() && unit.epoch > mark->second.epoch && unit.first_lsn <= mark->second.durable_lsn) {
    const bool anew = (flags & kUnitStartsAnew) != 0;  // the next mark replaces this one
    if (end.first_lsn <= commit && !anew) return CommittedSuperseded(partition, end, commit);
    mark->second.durable_lsn = unit.first_lsn - 1;
    if (!anew) next = Verdict::kSupersedes;
  }
  if (is_new || (flags & kUnitStartsAnew) != 0) {
    stream.ends.assign(1, end);
    stream.last_gap = 0;
    return next;
  }
  const End last = stream.last();
  if (unit.first_lsn > last.lsn) {
    if (unit.epoch < last.epoch) {
      return Broken(partition, fmt::format("the unit at LSN {} has epoch {}, but the one before it has epoch {}",
                                           unit.first_lsn, unit.epoch, last.epoch));
    }
    if (unit.first_lsn == last.lsn + 1 && unit.chain_before != last.chain) {
      return Broken(partition,
                    fmt::format("the unit at LSN {} does not continue the chain of the one before it", unit.first_lsn));
    }
    stream.ends.push_back(end);
    if (!chained) PopFront(&stream);  // old batches have no marks: all of them are committed
    return next;
  }
  if ((flags & kUnitAgain) != 0) return AcceptInside(partition, &stream, end, commit);
  if (unit.epoch > last.epoch) return AcceptSuperseding(partition, &stream, end, commit);
  return Broken(partition, fmt::format("a unit starts at LSN {}, but the last LSN before it is {}, in the same epoch",
                                       unit.first_lsn, last.lsn));
}

StreamHistory::Verdict StreamHistory::CommittedSuperseded(const Uuid& partition, const End& end, Lsn commit) {
  return Broken(partition, fmt::format("the unit at LSN {} of epoch {} supersedes what was committed up to LSN {}",
                                       end.first_lsn, end.epoch, commit));
}

StreamHistory::Verdict StreamHistory::AcceptSuperseding(const Uuid& partition, Stream* stream, const End& end,
                                                        Lsn commit) {
  if (end.first_lsn <= commit) return CommittedSuperseded(partition, end, commit);
  const HistoryPoint before{0, end.first_lsn - 1, end.chain_before};
  if (CutAfter(partition, stream, before) == Verdict::kBroken) return Verdict::kBroken;
  stream->ends.push_back(end);
  return Verdict::kSupersedes;
}

StreamHistory::Verdict StreamHistory::Accept(const StreamCut& cut) {
  if (!broken_.empty() && broken(cut.partition)) return Verdict::kIgnored;
  const HistoryPoint& after = cut.after;
  const auto mark = marks_.find(cut.partition);
  if (mark != marks_.end() && mark->second.commit_lsn > after.lsn) {
    return Broken(cut.partition, fmt::format("it is cut after LSN {}, and was committed up to LSN {}", after.lsn,
                                             mark->second.commit_lsn));
  }
  const Verdict verdict = CutAfter(cut.partition, &streams_[cut.partition], after);
  if (mark != marks_.end() && verdict == Verdict::kSupersedes) {
    mark->second.durable_lsn = std::min(mark->second.durable_lsn, after.lsn);
  }
  return verdict;
}

// Removes what follows `after`, which is the end of a unit, as far as units are known there.
StreamHistory::Verdict StreamHistory::CutAfter(const Uuid& partition, Stream* stream, const HistoryPoint& after) {
  std::deque<End>& ends = stream->ends;
  const auto first = std::upper_bound(ends.begin(), ends.end(), after.lsn,
                                      [](Lsn lsn, const End& e) { return lsn < e.lsn; });  // the first to go
  if (first != ends.end() && first->first_lsn <= after.lsn) {
    return Broken(partition, fmt::format("it is cut after LSN {}, which is inside a unit", after.lsn));
  }
  // The unit before the oldest one in the log is in a checkpoint, whose chain the partition knows.
  const bool known = first != ends.begin() && (first - 1)->lsn == after.lsn;
  const bool meets = first == ends.end() || first->first_lsn > after.lsn + 1 || first->chain_before == after.chain;
  if (!meets || (known && (first - 1)->chain != after.chain)) {
    return Broken(partition, fmt::format("it is cut after LSN {} with a chain that it does not have there", after.lsn));
  }
  ends.erase(first, ends.end());
  if (!known) {
    End point{after.lsn, after.chain, after.epoch, after.lsn + 1, after.chain};
    point.is_unit = false;
    ends.push_back(point);
  }
  return Verdict::kSupersedes;
}

// The unit does not come after all that is known, and claims to be a part of it: it is known, or it
// lies in a gap.
StreamHistory::Verdict StreamHistory::AcceptInside(const Uuid& partition, Stream* stream, const End& end, Lsn commit) {
  std::deque<End>& ends = stream->ends;
  // L11 of log.h: a mark that covers the unit comes after its last place, so it is known.
  if (end.lsn <= commit) return Verdict::kRepeats;
  const auto next =
      std::lower_bound(ends.begin(), ends.end(), end.lsn, [](const End& e, Lsn lsn) { return e.lsn < lsn; });
  bool fits = next != ends.end();
  const bool same = fits && next->lsn == end.lsn && next->chain == end.chain;
  if (same && next->is_unit && next->epoch == end.epoch) return Verdict::kRepeats;
  const bool is_point = same && !next->is_unit;  // where the history was cut
  if (fits && !is_point) {
    const bool meets = end.lsn + 1 == next->first_lsn;
    const bool rises = end.epoch <= next->epoch || !next->is_unit;
    fits = end.lsn < next->first_lsn && rises && (!meets || end.chain == next->chain_before);
  }
  if (fits && next != ends.begin()) {
    const End& before = *(next - 1);
    const bool adjoins = before.lsn + 1 == end.first_lsn;
    fits = before.lsn < end.first_lsn && before.epoch <= end.epoch && (!adjoins || before.chain == end.chain_before);
  }
  if (!fits) {
    return Broken(partition,
                  fmt::format("a unit at LSN {} was appended again, but is not part of the history that ends "
                              "at LSN {}",
                              end.first_lsn, ends.back().lsn));
  }
  if (is_point) {
    *next = end;
  } else {
    ends.insert(next, end);
  }
  return Verdict::kFills;
}

// Forgets the first unit, but not that something is missing after it.
void StreamHistory::PopFront(Stream* stream) {
  const End popped = stream->ends.front();
  stream->ends.pop_front();
  const Lsn next = stream->ends.front().first_lsn;
  if (popped.lsn + 1 < next) stream->last_gap = next - 1;
}

bool StreamHistory::AcceptEnd(const Uuid& partition, Lsn checkpoint_lsn) {
  const auto at = streams_.find(partition);
  if (at == streams_.end()) return true;
  const auto mark = marks_.find(partition);
  if (mark == marks_.end()) return true;
  const Lsn required = std::max(mark->second.durable_lsn, mark->second.commit_lsn);
  // What is in the checkpoints may be gone. The end of the log may then hold only older units, which
  // were appended again before the checkpoints contained them.
  if (required <= std::max({at->second.last().lsn, mark->second.released_lsn, checkpoint_lsn})) return true;
  Broken(partition, fmt::format("the log holds it up to LSN {}, but it was durable up to LSN {}", at->second.last().lsn,
                                required));
  return false;
}

Lsn StreamHistory::LastGap(const Uuid& partition) const {
  const auto at = streams_.find(partition);
  if (at == streams_.end()) return 0;
  const std::deque<End>& ends = at->second.ends;  // empty if the first unit was broken
  for (size_t i = ends.size(); i > 1; --i) {
    if (ends[i - 2].lsn + 1 < ends[i - 1].first_lsn) return ends[i - 1].first_lsn - 1;
  }
  return at->second.last_gap;
}

std::vector<Uuid> StreamHistory::Partitions() const {
  std::vector<Uuid> partitions;
  for (const auto& [partition, stream] : streams_) {
    if (!broken(partition)) partitions.push_back(partition);
  }
  std::sort(partitions.begin(), partitions.end());
  return partitions;
}

bool StreamHistory::Accept(const StreamMark& mark) {
  StreamMark& last = marks_[mark.partition];
  if (!broken_.empty() && broken(mark.partition)) {
    last.partition = mark.partition;
    last.epoch = std::max(last.epoch, mark.epoch);
    last.commit_lsn = std::max(last.commit_lsn, mark.commit_lsn);
    last.durable_lsn = std::max(last.durable_lsn, mark.durable_lsn);
    last.released_lsn = std::max(last.released_lsn, mark.released_lsn);
    last.hlc = std::max(last.hlc, mark.hlc);
    return false;
  }
  last = mark;
  const auto at = streams_.find(mark.partition);
  if (at == streams_.end()) return true;
  Stream& stream = at->second;
  while (stream.ends.size() > 1 && stream.ends[1].lsn <= mark.commit_lsn) PopFront(&stream);
  return true;
}

const StreamHistory::Stream* StreamHistory::Find(const Uuid& partition) const {
  const auto at = streams_.find(partition);
  if (at == streams_.end() || at->second.ends.empty()) return nullptr;
  const std::deque<End>& ends = at->second.ends;
  return ends.size() == 1 && !ends.front().is_unit ? nullptr : &at->second;
}

}  // namespace pando
