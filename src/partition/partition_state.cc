#include "src/partition/partition_state.h"

namespace pando {
namespace {

bool MayFollow(Phase from, Phase to) {
  switch (to) {
    case Phase::kRecovering: return false;
    case Phase::kServing: return from == Phase::kRecovering;
    case Phase::kDraining: return from == Phase::kRecovering || from == Phase::kServing;
    case Phase::kFailed:
    case Phase::kQuarantined: return from == Phase::kRecovering || from == Phase::kServing || from == Phase::kDraining;
    case Phase::kDropped:
      return from == Phase::kRecovering || from == Phase::kServing || from == Phase::kDraining ||
             from == Phase::kQuarantined;
    case Phase::kClosed:
      return from == Phase::kDraining || from == Phase::kFailed || from == Phase::kQuarantined ||
             from == Phase::kDropped;
  }
  return false;
}

}  // namespace

void PartitionState::Enter(Phase to) {
  CHECK(MayFollow(phase_, to)) << "PH1: partition " << id() << " goes from phase " << static_cast<int>(phase_) << " to "
                               << static_cast<int>(to);
  phase_ = to;
}

void PartitionState::Fail(const Status& status, Phase to) {
  if (failed() || phase_ == Phase::kClosed) return;
  failure_ = status;
  Enter(to);
}

void PartitionState::Drop() {
  if (phase_ == Phase::kFailed) return;
  failure_ = PartitionNotHere(id());
  Enter(Phase::kDropped);
}

Status PartitionState::Refusal() const {
  if (phase_ == Phase::kDropped) return failure_;
  if (quarantined()) {
    return Error(Code::kUnavailable, "partition {} is quarantined: {}", id(), failure_.message());
  }
  if (failed()) return Error(Code::kUnavailable, "partition {} stopped: {}", id(), failure_.message());
  if (phase_ == Phase::kDraining) return Error(Code::kUnavailable, "partition {} is closing", id());
  return Status();
}

}  // namespace pando
