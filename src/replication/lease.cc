#include "src/replication/lease.h"

#include <algorithm>

namespace pando::replication {

void Grant::Give(const ReplicaId& master, uint64_t incarnation, Epoch epoch, Nanos now_ns) {
  epoch_ = std::max(epoch_, epoch);
  to_ = master;
  incarnation_ = incarnation;
  until_ns_ = std::max(until_ns_, now_ns + times_.grant_ns());
}

bool Grant::OnDeath(const ReplicaId& master, uint64_t incarnation, Epoch highest_seen, Nanos now_ns) {
  gone_ = {master, incarnation, std::max(epoch_, highest_seen)};
  if (to_ != master) return false;
  if (rules_.notice_names_incarnation && incarnation != incarnation_) return false;
  until_ns_ = std::min(until_ns_, now_ns);
  return true;
}

bool Grant::OnResign(const ReplicaId& master, uint64_t incarnation, Epoch epoch, Nanos now_ns) {
  if (gone_.master != master || gone_.incarnation != incarnation || gone_.epoch < epoch) {
    gone_ = {master, incarnation, epoch};
  }
  if (to_ != master || incarnation != incarnation_) return false;
  if (rules_.resign_names_epoch && epoch < epoch_) return false;
  until_ns_ = std::min(until_ns_, now_ns);
  return true;
}

}  // namespace pando::replication
