// CoreContext: what the parts of a replication core share: configuration, log, effects, and the facts
// that all of them rely on.
//
// Threads: that of the partition.
//
// Invariants
//   I1  a replica's promised epoch never falls, and an epoch has one master. The promise is durable
//       before anybody is told of it; a process follows or leads no epoch below its promise.
//   I5  the commit LSN never moves back, and nothing at or below it is ever superseded.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "src/replication/disk_watch.h"
#include "src/replication/effects.h"
#include "src/replication/lease.h"
#include "src/replication/replica_log.h"
#include "src/replication/rules.h"

namespace pando::replication {

struct Timing {
  LeaseTimes lease;
  DiskTimes disk;
  Nanos heartbeat_ns = 100 * kMillisecond;
  Nanos evict_after_ns = 500 * kMillisecond;        // a member that lags so long leaves the ISR
  Nanos evict_slow_after_ns = 1500 * kMillisecond;  // a member whose disk is far slower than those of the others
  Nanos resend_after_ns = 150 * kMillisecond;       // without progress, a follower is aligned again
  Nanos cas_retry_ns = 200 * kMillisecond;          // after an unknown outcome
  Nanos refuse_writes_after_ns = kSecond;           // of waiting for a member that cannot be evicted
  Nanos rejoin_after_ns = 200 * kMillisecond;       // doubled each time that a member comes back too soon
  Nanos max_rejoin_ns = 5 * kSecond;
  Nanos calm_after_ns = 10 * kSecond;            // in the ISR for so long: it did not come back too soon
  Nanos vote_wait_ns = 100 * kMillisecond;       // for members that have not answered a candidate
  Nanos better_wait_ns = 400 * kMillisecond;     // for a better candidate to campaign
  Nanos slow_disk_wait_ns = 300 * kMillisecond;  // before a campaign
  Nanos campaign_ns = 600 * kMillisecond;        // then the campaign is given up
  Nanos max_backoff_ns = 300 * kMillisecond;
  // Every two seconds a node asks the topology whether it has missed anything (TopologyWatch). A node that has lately
  // heard it says so; one that has not heard it for long is cut off from it. When the topology answers nobody, all have
  // ceased to say so before any is cut off; and when it is back, all hear it before one that has heard it for a while
  // makes a master give way.
  Nanos hears_topology_ns = 4 * kSecond, cut_off_ns = 8 * kSecond, give_way_ns = 5 * kSecond;
};

struct CoreConfig {
  Uuid partition;
  ReplicaId self;
  uint64_t incarnation = 0;  // of this process; rises with every start
  uint64_t seed = 0;         // for random back-offs
  Timing timing;
  Rules rules;  // production never changes them
};

// What a started process has found on its disk.
struct RecoveredReplica {
  Epoch promised = 0;
  Lsn committed_lsn = 0;  // what marks and checkpoint prove
  bool installed = true;  // false: it is a learner whose pages are not complete
  uint64_t lineage = 0;   // as stored with the promise (StorePromise); 0: an empty replica, of none yet
};

struct CoreContext {
  CoreContext(const CoreConfig& config_in, ReplicaLog& log_in, const RecoveredReplica& found)
      : config(config_in),
        log(log_in),
        promised(found.promised),
        stored_promise(found.promised),
        highest_seen(found.promised),
        commit_lsn(found.committed_lsn),
        installed(found.installed),
        lineage(found.lineage),
        disk(config_in.timing.disk),
        random_state(config_in.seed) {}

  const CoreConfig config;
  ReplicaLog& log;
  Effects out;

  Epoch promised;        // nothing of a lower epoch is accepted any more
  Epoch stored_promise;  // the highest that is durable
  Epoch highest_seen;    // of all epochs and promises heard of
  Lsn commit_lsn;        // as given to the log
  bool installed;
  uint64_t lineage;  // 0: none yet
  DiskWatch disk;
  uint64_t room = std::numeric_limits<uint64_t>::max();  // AppendAck::room
  bool apply_stalled = false;
  bool hears_topology = true;  // lately
  bool cut_off = false;        // from the topology, for long
  PartitionEntry entry;        // the newest one known
  uint64_t next_op = 1;

  const Rules& rules() const { return config.rules; }
  const Timing& timing() const { return config.timing; }
  const ReplicaId& self() const { return config.self; }

  // A master with such a disk would serve nobody. While no other replica is in sync, nobody could do better.
  bool CannotServe() const { return disk.stalled() || (apply_stalled && entry.isr.size() > 1); }
  // Another replica should rather be master.
  bool StandsBack() const { return disk.slow() || apply_stalled || cut_off; }

  template <typename Body>
  void Send(const ReplicaId& to, Body body) {
    out.Add(SendMessage{Message{config.self, to, std::move(body)}});
  }
  void NoteEpoch(Epoch epoch) { highest_seen = std::max(highest_seen, epoch); }
  // Fences everything below `epoch` at once. It may be told to others once stored_promise has it.
  void Promise(Epoch epoch, bool store);
  void Commit(Lsn up_to) {
    if (up_to <= commit_lsn) return;
    commit_lsn = up_to;
    log.Commit(up_to);
  }
  OpId NewOp() { return {config.self, config.incarnation, next_op++}; }
  bool IsMine(const OpId& op) const { return op.replica == config.self && op.incarnation == config.incarnation; }
  // In [0, limit).
  Nanos RandomBelow(Nanos limit);

 private:
  uint64_t random_state;
};

inline void CoreContext::Promise(Epoch epoch, bool store) {
  if (epoch <= promised) return;
  promised = epoch;
  NoteEpoch(epoch);
  if (!store) {
    stored_promise = epoch;  // a rule is off
  } else {
    out.Add(StorePromise{epoch, lineage});
  }
}

inline Nanos CoreContext::RandomBelow(Nanos limit) {
  // splitmix64; the state is the seed, so that a run can be repeated.
  uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return limit <= 0 ? 0 : static_cast<Nanos>((z ^ (z >> 31)) % static_cast<uint64_t>(limit));
}

}  // namespace pando::replication
