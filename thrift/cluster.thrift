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
  /**
   * What it lacks of the master's log: records, and for how long it has lacked some of them. -1 = unknown: it has not
   * told this master what it has, since the master was elected or the replica was added.
   */
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
  /** The epoch of the unit at last_lsn. */
  24: i64 last_epoch
  /** When the newest change that it has applied was written, by its master's clock, in ms since 1970; 0 = unknown. */
  25: i64 newest_change_ms
  /** The disk of its node lately had no room for a write of this partition. */
  26: bool disk_full
  /** Requests that it has answered since its node opened it: those that only grow. */
  27: i64 reads_total
  28: i64 writes_total
  29: i64 scans_total
  /** What it takes on the disk. */
  30: i64 used_bytes
  /** Why it could not be installed when that was last tried: a sentence. It is tried again. Empty = it could be. */
  31: string install_problem
}

/** What a node has done since it started: the difference of two of them is what it did meanwhile. */
struct NodeTraffic {
  /** Of a clock of the node that does not go back. */
  1: i64 clock_ms
  /** Time of processors that the process has used, and of how many its reactors can use all. */
  2: i64 cpu_us
  3: i32 processors
  /** Answered requests of clients, how long all of them have taken together, and the bytes of both directions. */
  4: i64 requests
  5: i64 latency_us
  6: i64 bytes
}

/** Whoever holds the topology's key `controller` gives the replicas of a node that stays away to other nodes. */
struct ControllerStatus {
  /** The node that holds the key, as far as this one knows; 0 = none. */
  1: i32 holder
  /** A node is replaced once it has been away for so long; 0 = none is. */
  2: i32 replace_after_s
  /** What the holder is about to do, or why it does nothing: a sentence each. Empty on other nodes. */
  3: list<string> plans
  /** How many nodes the traffic wants; 0 = unknown, or nobody measures it. */
  4: i32 wanted_nodes
}

/** A split that runs, as the node of the partition's master sees it (docs/SPLIT.md). */
struct SplitStatus {
  1: i32 partition
  /** preparing, copying, catching up, switching, or opening. */
  2: string phase
  /** The two partitions that its range is split into, the lower hashes first. */
  3: list<i32> halves
  /** Bytes of records that were copied, of how many about. */
  4: i64 copied_bytes
  5: i64 total_bytes
  /** What it waits for, as a sentence; empty = nothing. */
  6: string waits_for
  7: i32 rate_mb_s
}

/** The node goes on with what it knows, but no partition gets another master or other replicas in sync. */
struct TopologyTrouble {
  /** A sentence. */
  1: string problem
  /** For so long the node has not read the topology. */
  2: i64 silent_ms
  /** It answers, but with less than this node has seen: an older copy, or another one, was put in its place. */
  3: bool went_back
}

struct ReplicasReply {
  /** The ID of this node in its cluster. */
  1: i32 node
  2: string cluster_id
  3: i64 incarnation
  4: list<ReplicaStatus> replicas
  5: optional ControllerStatus controller
  /** Why this node cannot follow the topology; absent = it can. */
  6: optional TopologyTrouble topology_trouble
  /** The newest revision of the topology that this node has seen. */
  7: i64 topology_revision
  /** Of nodes with --auto_balance=log or on, unless they start or stop. */
  8: optional NodeTraffic traffic
  /** Those of the partitions whose masters are here. */
  9: list<SplitStatus> splits
  /** The clock of this node when it answered, in ms since 1970; 0 = unknown. */
  10: i64 clock_ms
  /** The time, in the same form, of the highest version that its partitions would give now. It runs ahead of the clock
   *  if the clock was set back, or if versions of a node whose clock is ahead have come here. */
  11: i64 versions_ms
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

struct ForceFailoverRequest {
  1: i32 partition
  /** As the caller saw them in the topology. If the partition has others by now, nothing is done. */
  2: i64 epoch
  3: i64 lineage
  /** The replica may lack what was acknowledged. Without it, only one that is in sync takes over. */
  4: bool accept_loss
  /** 0 = 10 seconds. */
  5: i32 timeout_ms
}

struct ForceFailoverReply {
  /** Of the partition from now on. */
  1: i64 epoch
  2: i64 lineage
  /** The replica was in sync, so it has all that was acknowledged. */
  3: bool nothing_lost
  /** It serves. Otherwise it has been named, and serves as soon as it has applied its log. */
  4: bool open
  15: optional pando.ReplyContext context
}

struct SetMinIsrRequest {
  1: i32 partition
  /** So many replicas must be in sync for a write to be committed. */
  2: i32 min_isr
}

struct SetMinIsrReply {
  /** The topology says so already. Otherwise the change is under way, or another one was: ask again. */
  1: bool done
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

struct AddReplicaRequest {
  1: i32 partition
  /** The ID of the node that is to hold it. */
  2: i32 node
  /**
   * Another replica is to leave once this one is in sync, so how many there should be stays as it is. Otherwise it is
   * raised to how many there are then.
   */
  3: bool replaces
}

struct AddReplicaReply {
  /** The UUID of the replica of that node: the new one, or that which it has already. */
  1: string replica
  /** The topology says so already. Otherwise the change is under way, or another one was: ask again. */
  2: bool done
}

struct RemoveReplicaRequest {
  1: i32 partition
  /** Its UUID. If the partition has no such replica, it is done. */
  2: string replica
  /**
   * Another one has come for it: refused (BAD_REQUEST) if the partition would have fewer than it should have, because
   * somebody else has had one removed for the same one. Otherwise it should have no more than are left, from then on.
   */
  3: bool replaced
}

struct RemoveReplicaReply {
  /** As in AddReplicaReply. */
  1: bool done
}

/** Of the records that one replica holds in a range of keys. Keys are as they are stored. */
struct AggregateReplicaRequest {
  1: i32 partition
  /** From here, up to but without the end; an empty end = none. */
  2: binary start_key
  3: binary end_key
  /** Also the key that has half of the range's records before it. */
  4: bool middle
  /** Also the first records of the range, at most so many; at most 64. */
  5: i32 records
}

struct StoredRecord {
  1: binary key
  2: i64 version
  3: i64 expires_at_ms
  4: i64 value_bytes
  /** XXH3-64 of the value. */
  5: i64 value_hash
}

struct AggregateReplicaReply {
  /** Which replica it is. */
  1: string replica
  /** What it had applied: the end of the last unit, before and after the range was read. */
  2: i64 epoch
  3: i64 lsn
  4: i64 chain
  /** Writes were applied meanwhile, so the sums are of no certain moment: ask again. */
  5: bool moved
  /** As in AggregateReply, but with records that have expired and are still there. */
  6: i64 count
  7: i64 bytes
  8: i64 content_hash
  /** Absent if the range has fewer than two records. */
  9: optional binary middle_key
  10: list<StoredRecord> records
  /** Whether keys begin with the 4 bytes of their namespace. */
  11: bool namespaced
  15: optional pando.ReplyContext context
}

struct SplitPartitionRequest {
  1: i32 partition
  /** At most so much is copied in a second, in MB; 0 = no limit. A split that runs takes the new rate. */
  2: i32 rate_mb_s
  /** Give the split up, and what was copied. */
  3: bool abort
}

struct SplitPartitionReply {
  /** The topology says so already. Otherwise the change is under way, or another one was: ask again. */
  1: bool done
  /** The partition was split, so its halves serve and there is nothing to abort. */
  2: bool is_split
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
   * When too few replicas are left to promote one: makes the replica of this node the master of a new lineage, alone in
   * sync, and with min_isr 1. The others are installed anew. BAD_REQUEST: the partition is served, or has changed, or the
   * replica cannot be used, or may lack what was acknowledged while the request accepts no loss.
   */
  ForceFailoverReply forceFailover(1: pando.Context context, 2: ForceFailoverRequest request)
      throws (1: pando.KvError error)
  /** Only the master can do that. At most as many as are in sync. */
  SetMinIsrReply setMinIsr(1: pando.Context context, 2: SetMinIsrRequest request) throws (1: pando.KvError error)
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
  /**
   * Operators ask these of the master. A new replica is a learner: its node installs it, and it comes to be in sync by
   * itself. One that is removed is not counted any more, and its node drops it. Only a follower can be, and only while
   * enough are left.
   */
  AddReplicaReply addReplica(1: pando.Context context, 2: AddReplicaRequest request) throws (1: pando.KvError error)
  RemoveReplicaReply removeReplica(1: pando.Context context, 2: RemoveReplicaRequest request)
      throws (1: pando.KvError error)
  /** What the replica that this node holds has applied, whatever its role: no lease is needed, and nothing proven. */
  AggregateReplicaReply aggregateReplica(1: pando.Context context, 2: AggregateReplicaRequest request)
      throws (1: pando.KvError error)
  /**
   * Begins to split a partition into two while it serves, or gives up a split that has not ended. Only the master can
   * do that. The split goes on by itself, also under another master: see ReplicasReply.splits. BAD_REQUEST: a node of
   * the cluster cannot hold halves, or snapshots of the cluster are open.
   */
  SplitPartitionReply splitPartition(1: pando.Context context, 2: SplitPartitionRequest request)
      throws (1: pando.KvError error)
}
