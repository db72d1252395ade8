/**
 * Snapshots of a whole cluster, for whoever coordinates them: a router asks the masters of all partitions. Served on the
 * same port as Kv and Admin. The rules of pando.thrift hold here too.
 *
 * A snapshot has a version T: it is the records of all partitions up to version T, and no others. To take one:
 *
 *   1. `clock` of all partitions; T = the highest version of all of them, and 20 ms more (a version is ms since 1970 in its
 *      upper 48 bits, and a counter in the lower 16). In these 20 ms, `prepare` has to reach all masters. If one was late,
 *      take more the next time.
 *   2. `prepare` of all partitions, with T and an ID: 64 random bits that are used for this T only.
 *   3. If all have confirmed, the snapshot exists. Any replica of a partition that has it reads it, under the token that
 *      every reply of `prepare` has. If one has not, `release`, and begin again, with another ID and a higher T.
 *
 * `prepare`, `renew` and `release` may be sent again. Each answers for every partition whether it has done it, or why not.
 * NOT_MASTER names the node to ask instead.
 *
 * A snapshot that has a write has every write that its writer knew of, if the writer has sent the highest
 * ReplyContext.hlc that it had seen as Context.hlc. Who passes requests on for others, as a router does, sends the highest
 * that it has seen in any reply.
 */
include "pando.thrift"

namespace cpp pando.api
namespace py pando_snapshots

struct ClockRequest {
  1: list<i32> partitions
}

struct PartitionHighest {
  1: i32 partition
  /** No version above it was given so far, and it is not below the time there. */
  2: i64 version
  /** Why it cannot tell; then the version is 0. */
  3: optional pando.KvError error
}

struct ClockReply {
  1: list<PartitionHighest> partitions
  /** The highest of those that could tell. */
  2: i64 highest
  15: optional pando.ReplyContext context
}

struct PrepareRequest {
  1: list<i32> partitions
  /**
   * T. At most 10 seconds ahead of the nodes' time. A node answers once its time has come to T, or a write has to be given
   * a version above T.
   */
  2: i64 version
  /** Not 0. */
  3: i64 id
  /** How long the snapshot lives unless it is renewed; 0 = a minute. */
  4: i32 ttl_ms
}

/** What came of it in one partition. */
struct PartitionMark {
  1: i32 partition
  /** It is committed and applied, so it outlives the master. */
  2: bool confirmed
  /** Where the snapshot of the partition ends: prepare only. */
  3: i64 epoch
  4: i64 lsn
  /**
   * Why it was not confirmed. SNAPSHOT_GONE: of `prepare`, the partition has given a version above T already, or a
   * checkpoint was in the way, or it could not keep the snapshot: take another one. NOT_MASTER. OVERLOADED: too many
   * snapshots are open.
   */
  5: optional pando.KvError error
}

struct PrepareReply {
  1: list<PartitionMark> partitions
  /** For reads, and for renew and release. It is the same for all partitions. */
  2: binary snapshot
  /** The time of this node, in ms since 1970, until which the snapshot lives. */
  3: i64 expires_at_ms
  15: optional pando.ReplyContext context
}

struct RenewRequest {
  1: list<i32> partitions
  2: binary snapshot
  /** From now on; 0 = a minute. It never lives for a shorter time than before. */
  3: i32 ttl_ms
}

struct RenewReply {
  1: list<PartitionMark> partitions
  3: i64 expires_at_ms
  15: optional pando.ReplyContext context
}

struct ReleaseRequest {
  1: list<i32> partitions
  2: binary snapshot
}

struct ReleaseReply {
  1: list<PartitionMark> partitions
  15: optional pando.ReplyContext context
}

service ClusterSnapshots {
  /**
   * Answers once no partition has a checkpoint under way. None begins in the next five seconds without need: `prepare`
   * should come by then.
   */
  ClockReply clock(1: pando.Context context, 2: ClockRequest request) throws (1: pando.KvError error)
  PrepareReply prepare(1: pando.Context context, 2: PrepareRequest request) throws (1: pando.KvError error)
  RenewReply renew(1: pando.Context context, 2: RenewRequest request) throws (1: pando.KvError error)
  ReleaseReply release(1: pando.Context context, 2: ReleaseRequest request) throws (1: pando.KvError error)
}
