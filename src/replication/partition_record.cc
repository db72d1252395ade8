#include "src/replication/partition_record.h"

#include <fmt/format.h>

#include <charconv>
#include <vector>

namespace pando::replication {
namespace {

ReplicaSet SetOf(const std::vector<ReplicaRecord>& records) {
  ReplicaSet set;
  for (const ReplicaRecord& record : records) set.Insert(record.replica);
  return set;
}

// The first replica of the record of which `is` is true; null: there is none.
template <typename Is>
const ReplicaRecord* FindReplica(const PartitionRecord& record, Is is) {
  for (const auto* replicas : {&record.isr, &record.evicted, &record.learners}) {
    for (const ReplicaRecord& r : *replicas) {
      if (is(r)) return &r;
    }
  }
  return nullptr;
}

}  // namespace

std::optional<NodeId> NodeOf(const PartitionRecord& record, const Uuid& replica) {
  const ReplicaRecord* found = FindReplica(record, [&](const ReplicaRecord& r) { return r.replica == replica; });
  return found == nullptr ? std::nullopt : std::optional<NodeId>(found->node);
}

const ReplicaRecord* ReplicaOn(const PartitionRecord& record, NodeId node) {
  return FindReplica(record, [node](const ReplicaRecord& r) { return r.node == node; });
}

std::string ToText(const OpId& op) { return fmt::format("{}/{}/{}", op.replica.ToString(), op.incarnation, op.number); }

OpId OpIdFromText(std::string_view text) {
  OpId op;
  const size_t first = text.find('/'), second = text.find('/', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos) return OpId();
  const std::optional<Uuid> replica = Uuid::Parse(text.substr(0, first));
  if (!replica) return OpId();
  op.replica = *replica;
  std::from_chars(text.data() + first + 1, text.data() + second, op.incarnation);
  std::from_chars(text.data() + second + 1, text.data() + text.size(), op.number);
  return ToText(op) == text ? op : OpId();  // so no two texts are the same OpId
}

PartitionEntry EntryOf(const Versioned<PartitionRecord>& known) {
  const PartitionRecord& record = known.record;
  PartitionEntry entry;
  entry.lineage = record.lineage;
  entry.epoch = record.epoch;
  entry.master = record.master;
  entry.isr = SetOf(record.isr);
  entry.assigned = entry.isr.Union(SetOf(record.evicted));
  entry.learners = SetOf(record.learners);
  entry.replicas = record.replicas;
  entry.min_isr = record.min_isr;
  entry.stage = record.state;
  entry.split = record.split;
  entry.opened_lsn = record.opened_lsn;
  entry.op_id = OpIdFromText(record.op_id);
  entry.revision = known.revision;
  return entry;
}

PartitionRecord RecordOf(const PartitionEntry& desired, const PartitionRecord& before) {
  PartitionRecord record = before;
  record.lineage = desired.lineage;
  record.epoch = desired.epoch;
  record.master = desired.master;
  record.replicas = desired.replicas;
  record.min_isr = desired.min_isr;
  record.state = desired.stage;
  record.split = desired.split;
  record.opened_lsn = desired.opened_lsn;
  record.op_id = ToText(desired.op_id);
  record.isr.clear();
  record.evicted.clear();
  record.learners.clear();
  for (const auto* list : {&before.isr, &before.evicted, &before.learners}) {
    for (const ReplicaRecord& replica : *list) {
      if (desired.isr.Contains(replica.replica)) {
        record.isr.push_back(replica);
      } else if (desired.assigned.Contains(replica.replica)) {
        record.evicted.push_back(replica);
      } else if (desired.learners.Contains(replica.replica)) {
        record.learners.push_back(replica);
      }
    }
  }
  const size_t found = record.isr.size() + record.evicted.size() + record.learners.size();
  CHECK_EQ(found, desired.assigned.Union(desired.isr).Union(desired.learners).size())
      << "partition " << before.id << ": a proposal has a replica that its record does not have";
  return record;
}

}  // namespace pando::replication
