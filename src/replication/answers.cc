#include "src/replication/answers.h"

namespace pando::replication {

std::string_view ToString(WriteVerdict verdict) {
  switch (verdict) {
    case WriteVerdict::kAccepted: return "accepted";
    case WriteVerdict::kRetired: return "the partition is retired";
    case WriteVerdict::kNotOpen: return "the half of a partition does not serve yet";
    case WriteVerdict::kNotMaster: return "this replica is not the master";
    case WriteVerdict::kReplaced: return "the session has seen a later master";
    case WriteVerdict::kOpening: return "the new master is not open yet";
    case WriteVerdict::kHandingOver: return "the mastership is being handed over";
    case WriteVerdict::kFrozen: return "too few replicas are in sync to commit";
    case WriteVerdict::kTooFewForAll: return "level ALL needs all replicas in sync";
    case WriteVerdict::kDiskFull: return "the disk of a replica is full";
    case WriteVerdict::kDiskStalled: return "the disk does not answer";
    case WriteVerdict::kOutOfService: return "this replica is out of service";
  }
  return "unknown";
}

std::string_view ToString(ForceVerdict verdict) {
  switch (verdict) {
    case ForceVerdict::kProposed: return "proposed";
    case ForceVerdict::kServes: return "this replica is the master, and serves";
    case ForceVerdict::kHearsMaster: return "this replica hears a master";
    case ForceVerdict::kNotAssigned: return "this replica does not count";
    case ForceVerdict::kRetired: return "the partition is retired";
    case ForceVerdict::kMayLose: return "this replica is not in sync, and no loss is accepted";
    case ForceVerdict::kOutOfService: return "this replica is out of service";
  }
  return "unknown";
}

std::string_view ToString(ChangeResult result) {
  switch (result) {
    case ChangeResult::kDone: return "done";
    case ChangeResult::kProposed: return "proposed";
    case ChangeResult::kLater: return "another change is under way";
    case ChangeResult::kNotMaster: return "this replica is not the master";
    case ChangeResult::kNotAllowed: return "not allowed";
  }
  return "unknown";
}

}  // namespace pando::replication
