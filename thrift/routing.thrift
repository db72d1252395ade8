/**
 * What a router asks the nodes of a cluster: where the partitions are, and for the part of an answer that some
 * partitions give. Served on the same port as Kv.
 *
 * A request for partitions names them, each once, at most 8192, and the reply says which it covers, with their ranges of hashes and their
 * epochs. A router adds up these ranges. It answers its client only if they cover every hash once, so an answer is
 * never short. If this node cannot answer for one of the partitions, the whole request fails, with the error of that
 * partition (such as NOT_MASTER): the router looks at its map again.
 *
 * The rules of pando.thrift hold here too: no field is required, and no ID is used again.
 */
include "pando.thrift"

namespace cpp pando.api
namespace py pando_routing

// -- the map

struct RouteNode {
  1: i32 id
  /** host:port for clients; empty = it has not started yet. */
  2: string client_address
  3: string zone
  /** 0 = active, 1 = draining, 2 = removed. */
  4: i32 state
}

/** Where a partition is. */
struct Route {
  1: i32 partition
  /** Its range of hashes, both included; unsigned 64-bit numbers. */
  2: i64 first_hash
  3: i64 last_hash
  4: i64 lineage
  /** Of two routes with the same lineage, that with the higher epoch is newer. */
  5: i64 epoch
  /** The node of the master. */
  6: i32 master
  /** The nodes of the replicas in sync, with the master's: any may answer reads at BOUNDED and SESSION. */
  7: list<i32> in_sync
}

struct GetMapRequest {
  /** The version of the map that the caller has, of this cluster_id; 0 = none. */
  1: i64 known_version
  /** If there is nothing newer, wait so long for it; at most the request's budget. 0 = do not wait. */
  2: i32 wait_ms
  /** The cluster whose map the caller has; empty = none yet. Another cluster's node answers BAD_REQUEST. */
  3: string cluster_id
}

/**
 * Nodes that see the same topology answer with the same versions. A node that belongs to no cluster answers with a map
 * of itself: its store is the cluster, and it is node 1, without an address. The caller has reached it at one.
 */
struct MapReply {
  1: string cluster_id
  /**
   * As known_version: this node knows nothing newer. Lower: it knows less than the caller, for the moment, or because
   * the topology was put back, and the reply is its whole map.
   */
  2: i64 version
  /** The lists have everything. Otherwise they have what has changed since known_version. */
  3: bool whole
  4: list<RouteNode> nodes
  5: list<Route> routes
  15: optional pando.ReplyContext context
}

// -- parts of answers

/** A partition that an answer covers. */
struct Covered {
  1: i32 partition
  2: i64 first_hash
  3: i64 last_hash
  /** The epoch in which it was read; 0 = of a snapshot, or at a replica that need not be the master. */
  4: i64 epoch
}

/** The rows of some partitions, merged in key order. */
struct ScanPartitionsRequest {
  1: list<i32> partitions
  /** As in Kv.scan, without a cursor. */
  2: pando.ScanRequest scan
  /** Only keys after this one, in the direction of the scan; absent = from the first. */
  3: optional binary after_key
}

struct ScanPartitionsReply {
  1: list<pando.Row> rows
  /** There are no more rows in these partitions. Otherwise the rows are all that there are up to the last one. */
  2: bool exhausted
  3: list<Covered> covered
  /** With slices: not exhausted, and the rows are all that there are up to this key. Empty = up to the last row. */
  4: binary examined_to
  15: optional pando.ReplyContext context
}

struct AggregatePartitionsRequest {
  1: list<i32> partitions
  /** As in Kv.aggregate. */
  2: pando.AggregateRequest range
}

struct AggregatePartitionsReply {
  1: i64 count
  2: i64 bytes
  3: i64 content_hash
  4: list<Covered> covered
  15: optional pando.ReplyContext context
}

/** A sample of the keys of some partitions, to split a range evenly. */
struct SamplePartitionsRequest {
  1: list<i32> partitions
  2: pando.AggregateRequest range
  /** At most so many keys of each partition, at even distances by rank. At most 8192 for all partitions together. */
  3: i32 keys_per_partition
}

struct SampledKey {
  1: binary key
  /** The records of its partition after the key before it in the sample, up to this one. */
  2: i64 records
}

struct SamplePartitionsReply {
  /** Of all partitions, in key order. */
  1: list<SampledKey> keys
  2: list<Covered> covered
  /** All records of the range in these partitions. */
  3: i64 count
  15: optional pando.ReplyContext context
}

struct DeletePartitionsRequest {
  1: list<i32> partitions
  /** As in Kv.deleteRange, without a cursor. */
  2: pando.DeleteRangeRequest range
  /** Only keys after this one; absent = from the first. */
  3: optional binary after_key
}

struct DeletePartitionsReply {
  1: i64 removed
  /** Everything in these partitions was visited. Otherwise everything up to last_key was. */
  2: bool exhausted
  3: binary last_key
  4: list<Covered> covered
  15: optional pando.ReplyContext context
}

struct PartitionPosition {
  1: i32 partition
  /** Every change up to this version was received. */
  2: i64 version
}

struct WatchPartitionsRequest {
  /** With version = -1: from now on. Asked at masters, whatever the level. */
  1: list<PartitionPosition> positions
  2: binary prefix
  /** As in Kv.watch. */
  3: i32 wait_ms
  4: i32 limit_changes
}

struct WatchPartitionsReply {
  1: list<pando.Change> changes
  /** One for each of the request, in its order. */
  2: list<PartitionPosition> positions
  3: bool more
  4: list<Covered> covered
  15: optional pando.ReplyContext context
}

service Routing {
  /** Waits for a newer map than the caller's, and returns what has changed. */
  MapReply getMap(1: pando.Context context, 2: GetMapRequest request) throws (1: pando.KvError error)
  ScanPartitionsReply scanPartitions(1: pando.Context context, 2: ScanPartitionsRequest request)
      throws (1: pando.KvError error)
  AggregatePartitionsReply aggregatePartitions(1: pando.Context context, 2: AggregatePartitionsRequest request)
      throws (1: pando.KvError error)
  SamplePartitionsReply samplePartitions(1: pando.Context context, 2: SamplePartitionsRequest request)
      throws (1: pando.KvError error)
  DeletePartitionsReply deletePartitions(1: pando.Context context, 2: DeletePartitionsRequest request)
      throws (1: pando.KvError error)
  WatchPartitionsReply watchPartitions(1: pando.Context context, 2: WatchPartitionsRequest request)
      throws (1: pando.KvError error)
}
