/**
 * What an operator asks a node about the replicas that it holds, and asks it to do with them. Served on the same port
 * as Kv and Admin, by nodes of a cluster.
 *
 * The rules of pando.thrift hold here too: no field is required, and no ID is used again.
 */
include "pando.thrift"

namespace cpp pando.api
namespace py pando_cluster

/** Another replica of a partition, as its master knows it. */
struct FollowerStatus {
  /** Its UUID, and the ID of its node; 0 = unknown. */
  1: string replica
  2: i32 node
  3: bool in_sync
  /** It is being installed and does not count yet. */
  4: bool learner
  /** Everything up to this LSN is on its disk, as far as it has said so. */
  5: i64 durable_lsn
  /** What it lacks of the master's log: records, and for how long it has lacked some of them. */
  6: i64 behind_records
  7: i64 behind_ms
  /** Since when the master has not heard it. */
  8: i64 silent_ms
}

/** A replica that the node holds. */
struct ReplicaStatus {
  1: i32 partition
  2: string replica
  /** master, new master, candidate, follower, joining, installing, quarantined, or discarded. */
  3: string role
  4: i64 epoch
  /** It acknowledges nothing of a lower epoch any more. */
  5: i64 promised
  6: i64 last_lsn
  7: i64 durable_lsn
  8: i64 commit_lsn
  9: i64 applied_lsn
  /** What the topology says: how many replicas are in sync, how many there should be, and how many must be. */
  10: i32 in_sync
  11: i32 replicas
  12: i32 min_isr
  /** As master: it may answer reads now. */
  13: bool leased
  /** The ID of the master's node; 0 = unknown. */
  14: i32 master_node
  /** As master only. */
  15: list<FollowerStatus> followers
  /** While it is installed: bytes of pages that have come, of how many about; 0 of 0 = it waits for its turn. */
  16: i64 installed_bytes
  17: i64 install_bytes
}

struct ReplicasReply {
  /** The ID of this node in its cluster. */
  1: i32 node
  2: string cluster_id
  3: i64 incarnation
  4: list<ReplicaStatus> replicas
  15: optional pando.ReplyContext context
}

/** One key of the topology. */
struct TopologyKey {
  1: string key
  2: i64 revision
  3: binary value
}

struct TopologyReply {
  1: list<TopologyKey> keys
  15: optional pando.ReplyContext context
}

struct HandoverRequest {
  1: i32 partition
  /** The node whose replica is to be master; 0 = one of those that are in sync. */
  2: i32 node
  /** Given up if the new master is not level after this time; 0 = 3 seconds. */
  3: i32 timeout_ms
  /** Only if the partition still has this epoch, so that of two requests only one changes the master; 0 = any. */
  4: i64 epoch
}

struct HandoverReply {
  /** The node of the new master. */
  1: i32 node
  /** For how long the partition accepted no writes, as far as the old master knows. */
  2: i64 pause_ms
  15: optional pando.ReplyContext context
}

struct OpenCopyRequest {
  1: i32 partition
  /** The UUID of the replica that is to get it. */
  2: string replica
}

/** A copy of a partition for one replica. */
struct CopyReply {
  /** For describeSnapshot and readPages of Admin, and releaseSnapshot of Kv. */
  1: binary snapshot
  /** The master's clock, in ms since 1970. Until then the snapshot and the log after it are kept. */
  2: i64 expires_at_ms
  /** Log that the master does not need for itself any more and keeps for copies and slow replicas, and how much it keeps. */
  3: i64 log_bytes
  4: i64 log_limit_bytes
  /** The log after the snapshot was more than that: a replica with these pages alone could not be fed any more. */
  5: bool log_incomplete
  15: optional pando.ReplyContext context
}

struct RenewCopyRequest {
  1: i32 partition
  2: string replica
  3: binary snapshot
}

struct ReplaceReplicaRequest {
  1: i32 partition
  /** The UUID of the new replica, and the ID of its node. */
  2: string replica
  3: i32 node
  /** The UUID of the one that leaves for it. It leaves at once if it is not in sync; empty = none. */
  4: string leaves
}

struct ReplaceReplicaReply {
  /** The topology says so already. Otherwise the change is under way, or another one was: ask again. */
  1: bool done
  15: optional pando.ReplyContext context
}

/** For operators of a cluster. A node that belongs to none answers BAD_REQUEST. */
service Cluster {
  /** The replicas that this node holds. */
  ReplicasReply replicas(1: pando.Context context) throws (1: pando.KvError error)
  /** The topology, as far as this node knows it: it may be older than what the topology says itself. */
  TopologyReply topology(1: pando.Context context) throws (1: pando.KvError error)
  /**
   * Makes another node master of a partition, without losing anything. Only the master can do that: others answer
   * NOT_MASTER. After an error this node goes on as master, unless it says otherwise.
   */
  HandoverReply handover(1: pando.Context context, 2: HandoverRequest request) throws (1: pando.KvError error)
  /**
   * Nodes ask this of the master of a partition, to install a replica: a snapshot of the partition, and that the log
   * after it is kept, for half a minute. renewCopy makes it half a minute from then on, as often as is necessary.
   * SNAPSHOT_GONE: begin again. The log is kept for the newest copy of a replica only.
   */
  CopyReply openCopy(1: pando.Context context, 2: OpenCopyRequest request) throws (1: pando.KvError error)
  CopyReply renewCopy(1: pando.Context context, 2: RenewCopyRequest request) throws (1: pando.KvError error)
  /** Nodes ask this of the master, for a replica whose disk was lost: makes another one a learner in its place. */
  ReplaceReplicaReply replaceReplica(1: pando.Context context, 2: ReplaceReplicaRequest request)
      throws (1: pando.KvError error)
}
