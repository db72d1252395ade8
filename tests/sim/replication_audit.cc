// What ReplicationCluster checks after every step: the invariants of docs/INVARIANTS.md, "Replication".
#include <fmt/format.h>

#include "tests/sim/replication_cluster.h"

namespace pando::replication {

void ReplicationCluster::Audit(SimNode* touched) {
  if (touched != nullptr && touched->running) AuditNode(*touched);
  if (touched != nullptr && touched->running && outcome_.events % 8 == 0) AuditReads(*touched);
  AuditIsr();
  AuditLeases();
}

void ReplicationCluster::AuditNode(SimNode& node) {
  const ReplicaCore& core = *node.core;
  if (std::string wrong = core.CheckInvariants(); !wrong.empty()) {
    const size_t colon = wrong.find(':');
    Violated(fmt::format("{}: {}{}", wrong.substr(0, colon), node.name(), wrong.substr(colon)));
  }
  if (node.checkpoint_lsn > committed_.lsn) {
    Violated(fmt::format("I6: {} has a checkpoint at LSN {}, and LSN {} is committed", node.name(), node.checkpoint_lsn,
                         committed_.lsn));
  }
  if (!core.leader().active()) return;
  const Epoch epoch = core.leader().epoch();
  const auto [at, is_new] = master_of_.try_emplace(epoch, node.id, node.boot);
  if (at->second != std::make_pair(node.id, node.boot)) {
    Violated(fmt::format("I1: {} (process {}) leads epoch {}, which was won by {} (boot {})", node.name(), node.boot,
                         epoch, NameOf(at->second.first), at->second.second));
  }
  if (epoch != entry_.epoch) return;
  for (const Leader::Counted& ack : core.leader().CountedAcks()) {
    const SimNode* peer = FindNode(ack.replica);
    if (peer == nullptr || peer->tainted || !peer->running || peer->core->promised() > epoch) continue;
    const auto point = peer->log.PointAt(ack.point.lsn);
    if (!point || point->chain != ack.point.chain || peer->log.durable().lsn < ack.point.lsn) {
      Violated(fmt::format("I8: {} counts that {} has LSN {}, which it has not durably", node.name(), peer->name(),
                           ack.point.lsn));
    }
  }
}

void ReplicationCluster::AuditIsr() {
  for (const ReplicaId& id : entry_.isr) {
    const SimNode* node = FindNode(id);
    if (node == nullptr) continue;  // its disk is gone
    if (node->tainted && node->running) {
      Violated(
          fmt::format("I9: {} is in the ISR as {}, but its disk was emptied or put back", node->name(), NameOf(id)));
    }
    if (node->tainted) continue;
    const auto& units = node->running ? node->log.units() : node->log.disk();
    const auto point = SimLog::PointIn(units, committed_.lsn);
    const bool durable = !node->running || node->log.durable().lsn >= committed_.lsn;
    if (!point || point->chain != committed_.chain || !durable) {
      Violated(fmt::format("I3: {}:{} is committed, and {}, a member of the ISR, has it not", committed_.epoch,
                           committed_.lsn, node->name()));
    }
  }
  const SimNode* master = FindNode(entry_.master);
  if (master == nullptr || !master->running || master->core->leader().epoch() != entry_.epoch) return;
  if (!entry_.isr.IsSubsetOf(master->core->leader().WaitSet())) {
    Violated(fmt::format("I2: {} does not wait for all of the topology's ISR ({})", master->name(), EntryText(entry_)));
  }
}

void ReplicationCluster::AuditLeases() {
  const SimNode* holder = nullptr;
  for (auto& node : nodes_) {
    if (!node->running) continue;
    const auto mastership = node->core->Serving();
    if (!mastership || !node->core->LeaseHolds(*mastership, Local(*node))) continue;
    if (entry_.retired()) {
      Violated(fmt::format("RC11: {} (epoch {}) has a lease, and the partition is retired", node->name(),
                           mastership->epoch));
    }
    if (holder != nullptr) {
      Violated(fmt::format("I7: {} (epoch {}) and {} (epoch {}) both have a lease", holder->name(),
                           holder->core->leader().epoch(), node->name(), mastership->epoch));
    }
    holder = node.get();
  }
}

// What replicas say about how much of the history they have.
void ReplicationCluster::AuditReads(SimNode& node) {
  for (const Token& token : tokens_) {
    if (token.point.lsn == 0) continue;
    const SessionState state = node.core->SessionCovers(token.point.epoch, token.point.lsn);
    const auto at = node.log.PointAt(token.point.lsn);
    const bool has = at && at->chain == token.point.chain && node.state.applied.lsn >= token.point.lsn;
    ++outcome_.sessions;
    if ((state == SessionState::kCovered) != has || (state == SessionState::kLost && token.acknowledged)) {
      Violated(fmt::format("RC7: {} says {} of a session that has seen {}:{}", node.name(), static_cast<int>(state),
                           token.point.epoch, token.point.lsn));
    }
  }
  const std::optional<Nanos> as_of = node.core->FreshAsOf();
  if (!as_of) return;
  ++outcome_.fresh;
  const auto known = node.fresh.find(*as_of);
  if (known == node.fresh.end() || known->second > node.state.applied.lsn) {
    Violated(fmt::format("RC6: {} calls itself fresh as of {}, when LSN {} was committed, and has applied LSN {}",
                         node.name(), *as_of, known == node.fresh.end() ? 0 : known->second, node.state.applied.lsn));
  }
  node.fresh.erase(node.fresh.begin(), known);
}

void ReplicationCluster::NoteFreshness(SimNode& node, Nanos local) { node.fresh[local] = committed_.lsn; }

void ReplicationCluster::AuditHandover(SimNode& node, const PartitionEntry& desired) {
  const ReplicaCore& core = *node.core;
  if (desired.master == node.id || desired.epoch <= core.leader().epoch() || !core.leader().active()) return;
  const HistoryPoint end = node.log.end();
  const SimNode* target = FindNode(desired.master);
  if (target == nullptr || target->tainted) return;
  const auto& units = target->running ? target->log.units() : target->log.disk();
  const auto point = SimLog::PointIn(units, end.lsn);
  const bool applied = target->boot > 1 || target->state.applied.lsn >= end.lsn;
  if (!point || point->chain != end.chain || core.commit_lsn() != end.lsn || !applied) {
    Violated(fmt::format("RC5: {} hands over at LSN {}, which {} does not have, or has not applied", node.name(),
                         end.lsn, target->name()));
  }
}

void ReplicationCluster::AuditAppend(SimNode& node, const SimUnit& unit) {
  const auto [at, is_new] = chain_of_.emplace(std::make_pair(unit.epoch, unit.last_lsn()), unit.chain_after);
  if (is_new && entry_.retired() && unit.epoch >= entry_.epoch) {
    Violated(
        fmt::format("RC11: {} appends {}:{}, and the partition is retired", node.name(), unit.epoch, unit.last_lsn()));
  }
  if (!is_new && at->second != unit.chain_after) {
    Violated(fmt::format("I4: {} appends another unit {}:{} than there was", node.name(), unit.epoch, unit.last_lsn()));
  }
}

void ReplicationCluster::AuditCommit(SimNode& node, Lsn up_to) {
  const auto point = node.log.PointAt(up_to);
  if (!point) {
    Violated(fmt::format("I5: {} commits LSN {}, which ends no unit", node.name(), up_to));
    return;
  }
  if (node.running && node.core != nullptr && node.core->leader().active()) {
    // A master decides. What it commits must continue what was committed before.
    const auto before = node.log.PointAt(committed_.lsn);
    const bool continues = up_to <= committed_.lsn || (before && before->chain == committed_.chain);
    if (!continues) {
      Violated(fmt::format("I5: {} commits {}:{} without {}:{}, which was committed before", node.name(), point->epoch,
                           up_to, committed_.epoch, committed_.lsn));
    }
    if (up_to > committed_.lsn) {
      for (size_t i = node.log.IndexAfter(committed_.lsn); i < node.log.units().size(); ++i) {
        const SimUnit& unit = *node.log.units()[i];
        if (unit.last_lsn() > up_to) break;
        committed_chains_[unit.last_lsn()] = unit.chain_after;
      }
      committed_ = *point;
    }
  }
  const auto at = committed_chains_.find(up_to);
  if (at == committed_chains_.end() || at->second != point->chain) {
    Violated(fmt::format("I5: {} takes {}:{} for committed, which no master has committed", node.name(), point->epoch,
                         up_to));
  }
}

void ReplicationCluster::AuditSend(SimNode& node, const Message& message) {
  if (const auto* ack = std::get_if<AppendAck>(&message.body)) {
    Epoch& told = told_promise_[node.id];
    told = std::max(told, ack->epoch);
    const auto point = node.log.PointAt(ack->durable.lsn);
    // Effects that were held up by a pause may be about a log that has changed since.
    if (node.core->follower().matched_epoch() == ack->epoch &&
        (!point || point->chain != ack->durable.chain || node.log.durable().lsn < ack->durable.lsn)) {
      Violated(fmt::format("I8: {} acknowledges LSN {} before it is durable", node.name(), ack->durable.lsn));
    }
  } else if (const auto* reply = std::get_if<PromiseReply>(&message.body); reply != nullptr && reply->promised) {
    Epoch& told = told_promise_[node.id];
    told = std::max(told, reply->epoch);
  }
}

void ReplicationCluster::AuditStart(SimNode& node) {
  const auto told = told_promise_.find(node.id);
  if (told != told_promise_.end() && node.core->promised() < told->second && !node.tainted) {
    Violated(fmt::format("I1: {} starts with promise {}, and had told others {}", node.name(), node.core->promised(),
                         told->second));
  }
}

void ReplicationCluster::AuditLanding(const PartitionEntry& before, const PartitionEntry& after) {
  if (after.isr.size() < after.min_isr) {
    Violated(fmt::format("I10: the ISR is smaller than min_isr: {}", EntryText(after)));
  }
  AuditLineage(before, after);
  AuditSplit(before, after);
  if (after.epoch == before.epoch || after.lineage != before.lineage) return;
  if (!before.isr.Contains(after.master)) {
    Violated(fmt::format("RC4: {} is promoted without being in the ISR", NameOf(after.master)));
  }
  // The old master itself hands over: it gave up its lease, and has nothing that is not committed.
  if (after.op_id.replica == before.master && after.master != before.master) return;
  size_t promises = 0;
  for (const ReplicaId& id : before.assigned) {
    const SimNode* node = FindNode(id);
    if (node == nullptr || node->tainted || node->stored_promise >= after.epoch ||
        (node->running && node->core->promised() >= after.epoch)) {
      ++promises;
    }
  }
  if (promises < before.min_isr) {
    Violated(fmt::format("RC4: epoch {} was won with {} promises of {}", after.epoch, promises, before.min_isr));
  }
}

}  // namespace pando::replication
