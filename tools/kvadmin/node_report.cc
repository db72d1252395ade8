#include "tools/kvadmin/node_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/io/file.h"
#include "src/partition/store.h"
#include "src/replication/replica_file.h"
#include "src/topology/node_identity.h"
#include "src/verify/check.h"

namespace pando::admin {

namespace {

Task<Result<replication::ReplicaSlot>> ReadSlot(Reactor* reactor, std::string path, Uuid partition) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(*reactor, path, File::Mode::kRead, /*direct=*/false));
  std::string blocks(2 * replication::kReplicaSlotBytes, '\0');
  Status status = co_await file.Read(blocks.data(), blocks.size(), 0);
  Status closed = co_await file.Close();
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  co_return replication::ChooseReplicaSlot(blocks, path, partition);
}

// The first thing that is wrong with the partition or with its log.
std::string ProblemOf(const CheckReport& found, uint32_t partition) {
  for (const CheckProblem& problem : found.problems) {
    if (!problem.partition || *problem.partition == partition) return fmt::format("{}: {}", problem.file, problem.what);
  }
  const auto& damaged = found.damaged_partitions;
  const bool is_damaged = std::find(damaged.begin(), damaged.end(), partition) != damaged.end();
  return is_damaged || found.whole_logs_damaged ? "it is damaged; see kvadmin check" : "";
}

void NoteEnd(const CheckReport& found, const PartitionInfo& info, ReplicaReport* report) {
  for (const PartitionCheck& file : found.partitions) {
    if (file.id != info.id) continue;
    report->last_epoch = file.checkpoint_epoch;
    report->last_lsn = file.checkpoint_lsn;
    report->chain = file.checkpoint_chain;
  }
  for (const LogCheck& log : found.logs) {
    const auto logged = log.logged.find(info.uuid);
    if (logged == log.logged.end() || !logged->second.end || logged->second.end->lsn < report->last_lsn) continue;
    report->last_epoch = logged->second.end->epoch;
    report->last_lsn = logged->second.end->lsn;
    report->chain = logged->second.end->chain;
  }
}

}  // namespace

Task<Result<NodeReport>> ReadNodeReport(Reactor& reactor, std::string data_dir) {
  CO_ASSIGN_OR_RETURN(const std::optional<NodeIdentity> identity, co_await LoadIdentity(reactor, data_dir));
  if (!identity) {
    co_return Error(Code::kInvalidArgument, "{} is not the directory of a node of a cluster: it has no file {}",
                    data_dir, kIdentityName);
  }
  CheckOptions options;
  options.without_trees = true;
  CO_ASSIGN_OR_RETURN(const CheckReport found, co_await CheckStore(reactor, data_dir, std::move(options)));
  NodeReport report;
  report.data_dir = data_dir;
  report.cluster_id = identity->cluster_id;
  report.node = identity->node;
  report.start = identity->start;
  report.epoch = identity->epoch;
  report.renew = identity->renew;
  report.partitions = found.store.ranges;
  for (const PartitionInfo& info : found.store.partitions) {
    ReplicaReport replica;
    replica.partition = info.id;
    replica.problem = ProblemOf(found, info.id);
    Result<replication::ReplicaSlot> slot = co_await ReadSlot(
        &reactor, fmt::format("{}/{}", found.store.PartitionDirectory(info.id), kReplicaFileName), info.uuid);
    if (slot.ok()) {
      replica.replica = slot->replica;
      replica.promised = slot->promised;
      replica.lineage = slot->lineage;
      replica.installed = (slot->flags & replication::kReplicaInstalled) != 0;
    } else if (replica.problem.empty()) {
      replica.problem = slot.status().message();
    }
    if (info.uuid != PartitionUuid(identity->cluster_id, info.id)) {
      replica.problem = fmt::format("{} belongs to another cluster", found.store.PartitionFilePath(info.id));
    }
    NoteEnd(found, info, &replica);
    report.replicas.push_back(std::move(replica));
  }
  co_return report;
}

}  // namespace pando::admin
