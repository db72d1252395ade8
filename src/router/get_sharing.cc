#include "src/router/get_sharing.h"

#include <utility>

#include "src/base/hash.h"

namespace pando {

bool GetSharing::Join(std::unique_ptr<PointCall>* call) {
  PointCall* joining = call->get();
  if (!joining->shareable) return false;
  PointCall*& slot = on_their_way_[Hash64(joining->key) % on_their_way_.size()];
  if (slot == nullptr) {
    slot = joining;
    joining->slot = &slot;
    return false;
  }
  if (slot->key != joining->key) return false;
  joining->on_fire = [](Timer* t) { static_cast<PointCall*>(t)->AnswerLate(); };
  joining->server->reactor().ArmTimer(joining, joining->deadline_ns);
  slot->waiting.push_back(std::move(*call));
  return true;
}

std::unique_ptr<PointCall> GetSharing::Leave(PointCall* call) {
  if (call->slot == nullptr) return nullptr;
  PointCall** slot = std::exchange(call->slot, nullptr);
  *slot = nullptr;
  Calls waiting = std::move(call->waiting);
  std::unique_ptr<PointCall> next;
  for (std::unique_ptr<PointCall>& waits : waiting) {
    // One whose budget is over shares too, so that it ends with the others.
    if (next == nullptr && !waits->answered) {
      waits->server->reactor().CancelTimer(waits.get());
      next = std::move(waits);
    }
  }
  if (next == nullptr) {
    call->sharers.insert(call->sharers.end(), std::make_move_iterator(waiting.begin()),
                         std::make_move_iterator(waiting.end()));
    return nullptr;
  }
  std::erase(waiting, nullptr);
  next->sharers = std::move(waiting);
  next->slot = slot;
  *slot = next.get();
  return next;
}

}  // namespace pando
