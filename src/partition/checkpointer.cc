#include "src/partition/checkpointer.h"

#include <algorithm>

#include "src/partition/upkeep.h"

namespace pando {
namespace {

constexpr size_t kPageWrites = 32;  // in flight

bool MayFollow(CheckpointPhase from, CheckpointPhase to) {
  switch (to) {
    case CheckpointPhase::kNone: return from == CheckpointPhase::kReserved;
    case CheckpointPhase::kReserved: return from == CheckpointPhase::kNone || from == CheckpointPhase::kWriting;
    case CheckpointPhase::kFrozen: return from == CheckpointPhase::kReserved;
    case CheckpointPhase::kWriting: return from == CheckpointPhase::kFrozen || from == CheckpointPhase::kStalled;
    case CheckpointPhase::kStalled: return from == CheckpointPhase::kWriting;
  }
  return false;
}

}  // namespace

void Checkpointer::Enter(CheckpointPhase to) {
  CHECK(MayFollow(phase_, to)) << "PH2: partition " << state_.id() << ": a checkpoint goes from phase "
                               << static_cast<int>(phase_) << " to " << static_cast<int>(to);
  phase_ = to;
  if (!running()) ended_.NotifyAll();
}

bool Checkpointer::Needed() const {
  return state_.applied_lsn > state_.file->older_checkpoint_lsn() || to_free_ > 0 || !KnowsLog();
}

Task<Status> Checkpointer::Reserve() {
  while (running()) co_await ended_.Wait();
  if (state_.failed()) co_return state_.Refusal();
  if (phase_ == CheckpointPhase::kStalled) co_return co_await Finish();
  Enter(CheckpointPhase::kReserved);
  co_return Status();
}

void Checkpointer::Begin() {
  Enter(CheckpointPhase::kFrozen);
  frozen_ = Superblock{};
  frozen_.generation = state_.tree->generation();
  frozen_.epoch = state_.applied_epoch;
  frozen_.checkpoint_lsn = state_.applied_lsn;
  frozen_.chain = state_.applied_chain;
  // Later writes have higher versions than an opened snapshot, also after a restart.
  frozen_.last_version = std::max(state_.applied_version, state_.floor_version);
  state_.tree->EndGeneration();
  state_.file->EndGeneration(frozen_.generation);
  if (to_free_ > 0) --to_free_;
  upkeep_.MergeOldSoon();
}

Task<Status> Checkpointer::Finish() {
  Enter(CheckpointPhase::kWriting);
  Status status = co_await WriteGeneration();
  Enter(status.ok() ? CheckpointPhase::kReserved : CheckpointPhase::kStalled);
  co_return status;
}

Task<Status> Checkpointer::WriteGeneration() {
  // Reads and writes continue meanwhile. Writes belong to the next generation and leave the frozen
  // pages as they are.
  CO_ASSIGN_OR_RETURN(FrozenRoot root, co_await state_.tree->WriteFrozen(kPageWrites, nullptr));
  Superblock content = frozen_;
  CHECK_EQ(content.generation, root.generation);
  content.next_page_id = state_.tree->next_page_id();
  content.root = root.ref;
  content.root_level = root.level;
  content.log_end = state_.log ? state_.log->durable_end() : state_.file->superblock().log_end;
  CO_RETURN_IF_ERROR(co_await state_.file->Commit(content));
  co_await state_.tree->FinishCheckpoint();
  if (state_.log) state_.log->Release(state_.stream, state_.file->older_checkpoint_lsn());
  last_ns_ = state_.reactor.NowNs();
  ++state_.stats.checkpoints_total;
  upkeep_.MergeOldSoon();
  co_return Status();
}

void Checkpointer::End() {
  if (phase_ != CheckpointPhase::kStalled) Enter(CheckpointPhase::kNone);
}

Task<Status> Checkpointer::Checkpoint() {
  CO_RETURN_IF_ERROR(co_await Reserve());
  Status status;
  if (Needed()) {
    Begin();
    status = co_await Finish();
  }
  End();
  co_return status;
}

Task<Status> Checkpointer::CheckpointOrJoin() {
  if (!running()) co_return co_await Checkpoint();
  co_await ended_.Wait();
  co_return Status();
}

}  // namespace pando
