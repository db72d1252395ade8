#include "src/topology/start_counter.h"

#include <algorithm>
#include <utility>

namespace pando {
namespace {

constexpr Nanos kCallTimeoutNs = 2 * kSecond;
constexpr Nanos kRetryNs = 20 * kMillisecond;

Status Raise(NodeRecord& record) {
  RETURN_IF_ERROR(CheckMayStart(record));
  ++record.starts;
  return Status();
}

// One attempt. kUnavailable: try again.
Task<Result<Versioned<NodeRecord>>> ChangeOnce(Topology& topology, NodeId id,
                                               const std::function<Status(NodeRecord&)>& change, Nanos timeout_ns) {
  Result<TopologyEntry> entry = co_await topology.Read(NodeKey(id), timeout_ns);
  if (!entry.ok()) co_return Error(Code::kUnavailable, "{}", entry.status().message());
  if (entry->revision == 0) {
    co_return Error(Code::kNotFound,
                    "the topology {} has no node {}: correct --node_id (kvadmin cluster show lists the nodes)",
                    topology.name(), id);
  }
  Result<NodeRecord> record = DecodeNode(*entry);
  if (!record.ok()) co_return record.TakeStatus();
  CO_RETURN_IF_ERROR(change(*record));
  record->op_id = NewOpId(topology.reactor());
  Result<std::string> value = Encode(*record);
  if (!value.ok()) co_return value.TakeStatus();
  const std::string op_id = record->op_id;
  Result<std::optional<Revision>> written =
      co_await SwapUntilKnown(topology, NodeKey(id), entry->revision, *std::move(value), op_id, timeout_ns);
  if (!written.ok()) co_return written.TakeStatus();
  if (*written) co_return Versioned<NodeRecord>{*std::move(record), **written};
  co_return Error(Code::kUnavailable, "others change node {} of the topology {} all the time", id, topology.name());
}

}  // namespace

Status CheckMayStart(const NodeRecord& record) {
  if (record.state != NodeState::kRemoved) return Status();
  return Error(Code::kInvalidArgument,
               "node {} has been removed from the cluster, and its number is not used again: a new node needs a number "
               "of its own and an empty directory",
               record.id);
}

DirectoryHistory JudgeDirectory(uint64_t stored, const NodeRecord& record) {
  if (stored > record.starts) return DirectoryHistory::kTopologyWentBack;
  if (stored < record.opened) return DirectoryHistory::kRestored;
  return DirectoryHistory::kContinued;
}

Task<Result<Versioned<NodeRecord>>> ChangeNode(Topology& topology, NodeId id, std::function<Status(NodeRecord&)> change,
                                               Nanos timeout_ns) {
  Reactor& reactor = topology.reactor();
  const Nanos deadline_ns = reactor.NowNs() + timeout_ns;
  for (;;) {
    const Nanos left_ns = std::max<Nanos>(deadline_ns - reactor.NowNs(), kMillisecond);
    Result<Versioned<NodeRecord>> changed =
        co_await ChangeOnce(topology, id, change, std::min(left_ns, kCallTimeoutNs));
    if (changed.code() != Code::kUnavailable) co_return changed;
    if (reactor.NowNs() >= deadline_ns) co_return changed;
    co_await Sleep(reactor, kRetryNs + static_cast<Nanos>(reactor.Random() % kRetryNs));
  }
}

Task<Result<uint64_t>> RaiseStarts(Topology& topology, NodeId id, Nanos timeout_ns) {
  Result<Versioned<NodeRecord>> raised = co_await ChangeNode(topology, id, Raise, timeout_ns);
  if (!raised.ok()) co_return raised.TakeStatus();
  co_return raised->record.starts;
}

Task<Status> FinishStart(Topology& topology, NodeId id, uint64_t start, std::string client_address,
                         std::vector<std::string> peer_addresses, Nanos timeout_ns) {
  auto open = [&](NodeRecord& record) {
    if (record.starts != start) {  // NS1
      return Error(Code::kAborted,
                   "node {} was started again, as number {}, while start {} was not ready. Do two processes run as the "
                   "same node?",
                   id, record.starts, start);
    }
    record.opened = start;
    record.client_address = client_address;
    record.peer_addresses = peer_addresses;
    record.protocol_min = kSpokenProtocolMin;
    record.protocol_max = kSpokenProtocolMax;
    return Status();
  };
  Result<Versioned<NodeRecord>> opened = co_await ChangeNode(topology, id, open, timeout_ns);
  co_return opened.TakeStatus();
}

}  // namespace pando
