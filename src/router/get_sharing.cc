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
  joining->lead = slot;
  slot->waiting.push_back(std::move(*call));
  return true;
}

std::unique_ptr<PointCall> GetSharing::Leave(PointCall* call) {
  if (call->slot == nullptr) return nullptr;
  PointCall** slot = std::exchange(call->slot, nullptr);
  *slot = nullptr;
  Calls waiting = std::move(call->waiting);
  if (waiting.empty()) return nullptr;
  std::unique_ptr<PointCall> next = std::move(waiting.front());
  waiting.erase(waiting.begin());
  next->server->reactor().CancelTimer(next.get());
  next->lead = nullptr;
  for (std::unique_ptr<PointCall>& sharer : waiting) sharer->lead = next.get();
  next->sharers = std::move(waiting);
  next->slot = slot;
  *slot = next.get();
  return next;
}

}  // namespace pando
