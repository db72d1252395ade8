// What the header comments promise about a partition at rest between two turns, checked. Tests call it
// after every step; it takes time proportional to the queue of writes.
#include <algorithm>

#include "src/partition/replica.h"

namespace pando {

void WritePipeline::CheckInvariants() const {
  CHECK_LE(state_.applied_lsn, state_.committed_lsn) << "P4: partition " << state_.id();
  CHECK_LE(state_.committed_lsn, state_.last_lsn) << "P4: partition " << state_.id();
  CHECK_LE(state_.durable_lsn, state_.last_lsn) << "P4: partition " << state_.id();
  if (state_.failed() || gave_up_) return;  // units were dropped from the middle
  CHECK_LE(state_.committed_lsn, state_.durable_lsn) << "P4: partition " << state_.id();
  Lsn last = state_.applied_lsn;
  uint64_t chain = state_.applied_chain, end_bytes = 0, promised = 0;
  Version version = state_.applied_version;
  for (const QueueEntry* entry : queue_) {
    CHECK(!entry->done) << "WQ1: an entry that has left the queue is in it";
    CHECK_GE(entry->end_bytes, end_bytes) << "WQ1: partition " << state_.id();
    end_bytes = entry->end_bytes;
    if (!entry->unit) {
      CHECK_EQ(entry->last_lsn, last) << "WQ1: a mark is between the wrong units of partition " << state_.id();
      continue;
    }
    const ApplyUnit& unit = *entry->unit;
    CHECK_EQ(unit.first_lsn, last + 1) << "WQ1: LSNs of partition " << state_.id() << " are missing in the queue";
    CHECK_EQ(unit.last_lsn(), entry->last_lsn) << "WQ1: partition " << state_.id();
    CHECK_GT(unit.records.front().record.version, version) << "P5: partition " << state_.id();
    last = entry->last_lsn;
    chain = unit.chain_after;
    version = unit.records.back().record.version;
    promised += static_cast<const LoggedUnit*>(entry)->blocks.blocks();
  }
  CHECK_EQ(last, state_.last_lsn) << "WQ1: partition " << state_.id();
  CHECK_EQ(chain, state_.last_chain) << "WU2: partition " << state_.id();
  const HistoryPoint& end = state_.history.end();
  CHECK(end.lsn == last && (last == 0 || end.chain == chain)) << "UH1: partition " << state_.id();
  CHECK(state_.history.At(state_.durable_lsn) && state_.history.At(state_.committed_lsn))
      << "UH1: partition " << state_.id();
  CHECK_GE(admission_.promised_blocks(), promised) << "P9: partition " << state_.id();
  CHECK(state_.phase() == Phase::kRecovering || version <= state_.clock.newest()) << "P5: partition " << state_.id();
  // Nobody else would apply it: a wake-up was lost.
  CHECK(applying_ != Applying::kAtOnce || !FrontIsCommitted())
      << "WQ1: partition " << state_.id() << " has committed units that nobody applies";
}

void Replica::CheckInvariants() const {
  pipeline_.CheckInvariants();
  if (out_of_service()) return;
  const Superblock& sb = state_.file->superblock();
  CHECK_LE(sb.checkpoint_lsn, state_.applied_lsn) << "P4: partition " << id();
  CHECK_LE(state_.file->older_checkpoint_lsn(), sb.checkpoint_lsn) << "P4: partition " << id();
  CHECK_LT(sb.generation, state_.tree->generation()) << "C3: partition " << id();
  CHECK_LE(state_.applied_epoch, state_.epoch) << "CG2: partition " << id();
  if (state_.phase() == Phase::kServing) {
    CHECK_LE(state_.changes.newest(), std::max(state_.applied_version, state_.changes.floor()))
        << "CT2: partition " << id();
  }
}

}  // namespace pando
