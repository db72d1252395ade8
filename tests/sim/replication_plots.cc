// Plots: schedules that random faults meet rarely. Each of them tempts a cluster whose rules are whole into
// nothing, and one that lacks a certain rule into a violation.
//
// All begin with a master that is well, and end with a pause of its process, so that it cannot learn in time
// that it is not the master any more.
#include "tests/sim/replication_cluster.h"

namespace pando::replication {

void ReplicationCluster::Pause(SimNode& node, Nanos after, Nanos pause) {
  At(after, [this, &node, pause] {
    node.paused_until = std::max(node.paused_until, now_ + pause);
    Say("{} is paused for {} ms", node.name(), pause / kMillisecond);
  });
}

void ReplicationCluster::HandOver(SimNode& from, SimNode& to, Nanos after) {
  At(after, [this, &from, &to] {
    OnNode(from, 0, [this, &from, &to] {
      const Nanos now = Local(from);
      const bool begun = from.core->Handover(to.id, now, now + 500 * kMillisecond);
      Say("{} is asked to hand over to {}{}", from.name(), to.name(), begun ? "" : ", and cannot");
    });
  });
}

void ReplicationCluster::Isolate(SimNode& node, Nanos time) {
  for (auto& peer : nodes_) {
    cut_until_[static_cast<size_t>(node.index)][static_cast<size_t>(peer->index)] = now_ + time;
    cut_until_[static_cast<size_t>(peer->index)][static_cast<size_t>(node.index)] = now_ + time;
  }
}

void ReplicationCluster::Plot() {
  SimNode* found = FindNode(entry_.master);
  if (found == nullptr || !found->running || nodes_.size() < 3 || entry_.min_isr >= nodes_.size()) return;
  SimNode& master = *found;
  SimNode& other = *nodes_[(static_cast<size_t>(master.index) + 1) % nodes_.size()];
  outcome_.faults += 3;
  const ReplicaId id = master.id;
  const uint64_t plot = random_.Below(9);
  Say("plot {}", plot);
  switch (plot) {
    case 0: {
      // Acknowledgements of heartbeats come late, and then nothing comes any more. [sendTime]
      const Nanos late = Between(700 * kMillisecond, 950 * kMillisecond), until = now_ + 120 * kMillisecond;
      plot_delay_ = [this, id, late, until](const Message& m) -> std::optional<Nanos> {
        if (std::holds_alternative<HeartbeatAck>(m.body) && m.to == id && now_ < until) return late;
        if (now_ >= until && (m.to == id || m.from == id)) return std::nullopt;
        return 0;
      };
      master.no_topology_until = now_ + 3 * kSecond;
      break;
    }
    case 1: {
      // Nobody hears the master for a while. It is heard again between the promises and the CAS. [ackUntilPromise]
      const Nanos until = now_ + 1180 * kMillisecond;
      plot_delay_ = [this, id, until](const Message& m) -> std::optional<Nanos> {
        if (m.from == id && now_ < until) return std::nullopt;
        return 0;
      };
      plot_cas_ = [this, id](const PartitionEntry& desired, Nanos* there, bool*) {
        if (desired.master != id) *there = std::min<Nanos>(280 * kMillisecond, Between(150, 280) * kMillisecond);
      };
      master.no_topology_until = now_ + 3 * kSecond;
      Pause(master, 1180 * kMillisecond + Between(60, 260) * kMillisecond, kSecond);
      break;
    }
    case 2: {
      // The notice of a death comes when the next process leads. [noticeIncarnation]
      const Nanos late = Between(500, 1500) * kMillisecond;
      const DeathNotice notice{id, master.start_counter};
      Stop(master, true);
      At(5 * kMillisecond, [this, &master] {
        if (!master.running) Start(master, false);
      });
      for (auto& peer : nodes_) {
        if (peer.get() != &master) Deliver(Message{id, peer->id, notice}, late);
      }
      Pause(master, late - Between(1, 30) * kMillisecond, 900 * kMillisecond);
      break;
    }
    case 3: {
      // The resignation from one epoch comes when the same process leads a later one.
      const Nanos late = Between(500, 900) * kMillisecond, until = now_ + 100 * kMillisecond;
      plot_delay_ = [this, late, until](const Message& m) -> std::optional<Nanos> {
        return std::holds_alternative<Resign>(m.body) && now_ < until ? late : 0;
      };
      HandOver(master, other, 0);
      HandOver(other, master, 150 * kMillisecond);
      HandOver(other, master, 300 * kMillisecond);
      Pause(master, late - Between(1, 10) * kMillisecond, 900 * kMillisecond);
      break;
    }
    case 4: {
      // The old master stops right after the CAS of its handover. [giveUp]
      plot_cas_ = [this, id, &master](const PartitionEntry& desired, Nanos*, bool*) {
        if (desired.op_id.replica == id && desired.master != id) Pause(master, 0, 950 * kMillisecond);
      };
      HandOver(master, other, 0);
      break;
    }
    case 5: {
      // The CAS of a handover lands after the old master gave up waiting for an answer. [casUnknown]
      plot_cas_ = [this, id, &master](const PartitionEntry& desired, Nanos* there, bool*) {
        if (desired.op_id.replica != id || desired.master == id || *there > 300 * kMillisecond) return;
        *there = Between(320, 480) * kMillisecond;
        Pause(master, *there - Between(1, 10) * kMillisecond, 950 * kMillisecond);
      };
      HandOver(master, other, 0);
      break;
    }
    case 6: {
      // The target of a handover starts again, and first reads the topology as it was. [freshShortcut]
      stale_reads_ = true;
      HandOver(master, other, 0);
      for (int i = 1; i < 5; ++i) {
        At(i * Between(4, 9) * kMillisecond, [this, &other] {
          if (!other.running || entry_.master != other.id) return;
          Stop(other, false);
          At(kMillisecond, [this, &other] {
            if (!other.running) Start(other, false);
          });
        });
      }
      break;
    }
    case 7: {
      // A replica that was evicted follows again, and lacks the last record that the others have when the master
      // dies. The next master does not know that this record is committed. [joinStart]
      Isolate(other, 650 * kMillisecond);
      const Nanos dies = now_ + Between(720, 830) * kMillisecond, silent = dies - Between(1, 15) * kMillisecond;
      plot_delay_ = [this, id, lags = other.id, silent](const Message& m) -> std::optional<Nanos> {
        if (m.from == id && m.to == lags && now_ >= silent) return std::nullopt;
        return 0;
      };
      At(dies - now_, [this, &master, &other] {
        Stop(master, true);
        other.disk_slow = 40;
      });
      At(dies - now_ + 2 * kSecond, [this, &master] {
        if (!master.running) Start(master, false);
      });
      break;
    }
    case 8: {
      // The CAS that takes a replica in again lands after its answer was given up. [casUnknown]
      Isolate(other, 650 * kMillisecond);
      plot_cas_ = [this](const PartitionEntry& desired, Nanos* there, bool*) {
        if (desired.epoch == entry_.epoch) *there = Between(300'500, 325'000) * kMicrosecond;
      };
      break;
    }
  }
}

}  // namespace pando::replication
