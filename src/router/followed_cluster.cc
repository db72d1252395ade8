#include "src/router/followed_cluster.h"

#include <utility>

#include "src/base/check.h"

namespace pando {

Status FollowedCluster::Admit(const std::string& address, const std::string& node, const Uuid& cluster) {
  const std::lock_guard lock(mutex_);
  if (id_.IsNil()) {
    id_ = cluster;
    first_ = address;
    LOG(INFO) << "this router follows the cluster " << id_.ToString() << ", that of " << address;
  }
  const auto known = foreign_.find(address);
  if (cluster == id_) {
    if (known != foreign_.end()) {
      LOG(INFO) << node << " belongs to the cluster of this router again";
      foreign_.erase(known);
      CountForeign();
    }
    return {};
  }
  Status refused = Error(Code::kUnavailable,
                         "{} belongs to the cluster {}, and this router follows the cluster {}, to which {} belonged "
                         "when it started. Nothing is sent there. Name only nodes of one cluster in --nodes; if the "
                         "followed cluster is gone, restart the router",
                         node, cluster.ToString(), id_.ToString(), first_);
  if (known == foreign_.end() || known->second != refused.message()) {
    LOG(WARNING) << refused.message();
    foreign_[address] = refused.message();
    CountForeign();
  }
  return refused;
}

void FollowedCluster::Forget(const std::string& address) {
  const std::lock_guard lock(mutex_);
  foreign_.erase(address);
  CountForeign();
}

Uuid FollowedCluster::id() const {
  const std::lock_guard lock(mutex_);
  return id_;
}

std::map<std::string, std::string> FollowedCluster::foreign() const {
  const std::lock_guard lock(mutex_);
  return foreign_;
}

}  // namespace pando
