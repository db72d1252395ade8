// What the replicas of one partition say to each other. These are plain structs; how they are
// encoded, and that heartbeats of many partitions share one frame, is a matter of the shell.
//
// Any message may be lost, delayed, repeated, or overtaken by others. None is trusted for more than
// its own epoch, and none is forged: the shell authenticates the connection and rejects a message
// whose addressee (`to`) is not this replica's UUID.
//
// Threads: plain values.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "src/io/reactor.h"
#include "src/replication/replica_set.h"
#include "src/wal/write_unit.h"

namespace pando::replication {

// A follower names so many ends of epochs at most, the newest first.
inline constexpr size_t kMaxNamedEnds = 32;

// -- leases (lease.h)
struct Heartbeat {
  Epoch epoch = 0;           // the sender is master of it
  uint64_t incarnation = 0;  // of the sender's process
  Nanos sent_ns = 0;         // by the sender's clock; only the sender understands it
  Lsn commit_lsn = 0;        // everything up to it is committed
  // HeartbeatAck::own_ns and process of the receiver, if the sender had a lease after it had received
  // that; else 0.
  Nanos echo_ns = 0;
  uint64_t echo_process = 0;
};
struct HeartbeatAck {
  Epoch epoch = 0;
  uint64_t incarnation = 0;     // both as in the heartbeat
  Nanos sent_ns = 0;            // of the heartbeat
  uint64_t process = 0;         // the incarnation of the follower's process
  Nanos own_ns = 0;             // by the follower's clock; only the follower understands it
  bool hears_topology = false;  // lately
};
// The sender uses no lease of this epoch any more, or of an older one: the receiver's grant to it ends.
struct Resign {
  Epoch epoch = 0;
  uint64_t incarnation = 0;  // of the sender's process
  uint64_t revision = 0;     // of the newest entry that the sender knows
};

// -- the log
// The master asks where the histories may part.
struct AlignRequest {
  Epoch epoch = 0;
  uint64_t number = 0;  // rises with every request to this follower; at least 1
};
// Ends of epochs in the follower's log, the newest first. Also the answer to an Append whose `after` is
// not in the follower's log; then all ends are below it.
struct AlignReply {
  Epoch epoch = 0;
  uint64_t number = 0;             // of the AlignRequest; 0 for an Append
  uint64_t incarnation = 0;        // of the follower's process
  std::vector<HistoryPoint> ends;  // at most kMaxNamedEnds
  bool more = false;               // there are older ends
  HistoryPoint log_end;            // whatever `ends` is limited to
  HistoryPoint committed;          // up to here it has committed; zeros: nothing, or the chain is not known
  std::optional<Lsn> refused;      // of an Append: the LSN of its `after`
};
struct Append {
  Epoch epoch = 0;
  HistoryPoint after;  // the point in the master's log that the units continue
  std::string units;   // as in the payload of a batch (write_unit.h); may be empty
  Lsn commit_lsn = 0;
};
struct AppendAck {
  Epoch epoch = 0;
  uint64_t incarnation = 0;  // of the follower's process
  // Up to here the follower's log is the master's, and durable.
  HistoryPoint durable;
  Lsn applied_lsn = 0;
  bool installed = false;  // it has all that lies before its log (its checkpoint is durable)
  // So many bytes of records the follower's disk can take for this partition, beyond the largest
  // uncommitted tail that there may be. 0: full.
  uint64_t room = std::numeric_limits<uint64_t>::max();
  bool apply_stalled = false;  // it cannot apply what is committed, and therefore must not be waited for
};
// The master has proof that the follower has lost what it had acknowledged or committed.
struct Condemn {
  Epoch epoch = 0;
  Lsn lsn = 0;  // which had been acknowledged, or is committed
};
// The master's log does not hold what the follower misses: it is to fetch a copy of the pages.
struct InstallOffer {
  Epoch epoch = 0;
  Lsn acked_lsn = 0;  // what the master has counted of the follower in this epoch
};
// A message of an epoch below the promised one was refused.
struct Fenced {
  Epoch epoch = 0;  // of that message
  Epoch promised = 0;
};

// -- promotion
struct PromiseRequest {
  Epoch epoch = 0;
  uint64_t revision = 0;  // of the entry that the candidate's CAS will compare
};
struct PromiseReply {
  Epoch epoch = 0;
  bool promised = false;
  Epoch highest = 0;         // the highest epoch promised
  uint64_t revision = 0;     // of the newest entry known
  HistoryPoint end;          // of the durable log
  bool stands_back = false;  // another one should rather be master
};
// To one whose log is longer than the candidate's: campaign yourself.
struct CampaignNow {
  Epoch epoch = 0;  // of the candidate
};
// From a guard process that has seen a process exit.
struct DeathNotice {
  ReplicaId replica;
  uint64_t incarnation = 0;
};

struct Message {
  ReplicaId from, to;
  std::variant<Heartbeat, HeartbeatAck, AlignRequest, AlignReply, Append, AppendAck, Fenced, PromiseRequest,
               PromiseReply, CampaignNow, DeathNotice, Resign, Condemn, InstallOffer>
      body;
};

// "a follows b: ..." without addresses, for logs and stories.
std::string ToString(const Message& message);

}  // namespace pando::replication
