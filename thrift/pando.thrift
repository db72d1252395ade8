/**
 * Pando's wire interface. Framed transport; binary and compact protocol are recognised per frame on one port.
 *
 * Evolution rules: field ids are never reused, nothing is `required`, there is one exception type for ever, codes are
 * i32 constants (an unknown enum value would not decode in old clients), and no map has binary keys.
 *
 * JavaScript: versions and HLC values are i64 above 2^53. Use the Int64 object the Node library gives you and echo it
 * back untouched; never turn it into a number.
 */
namespace cpp pando.api
namespace py pando
namespace java dev.pando.api
namespace go pando
namespace js pando

/** Code values of KvError. */
const i32 BAD_REQUEST = 1
const i32 TOO_LARGE = 2
const i32 UNAUTHENTICATED = 3
const i32 DENIED = 4
const i32 NOT_MASTER = 5
const i32 STALE_MAP = 6
const i32 MOVING = 7
const i32 OVERLOADED = 8
const i32 DEADLINE = 9
const i32 UNAVAILABLE = 10
const i32 TOO_STALE = 11
const i32 SNAPSHOT_GONE = 12
const i32 BAD_CURSOR = 13
const i32 TOKEN_MISMATCH = 14
const i32 DISK_FULL = 15
const i32 CORRUPT = 16
const i32 INTERNAL = 17

/** Values of KvError.applied: was the write carried out? */
const i32 APPLIED_NO = 0
const i32 APPLIED_YES = 1
const i32 APPLIED_UNKNOWN = 2

/** Consistency levels, Context.level. 0 = the default (writes QUORUM, reads LINEARIZABLE). */
const i32 LEVEL_DEFAULT = 0
const i32 LEVEL_ONE = 1
const i32 LEVEL_QUORUM = 2
const i32 LEVEL_ALL = 3
const i32 LEVEL_LINEARIZABLE = 4
const i32 LEVEL_BOUNDED = 5
const i32 LEVEL_SESSION = 6

/** The only exception. `code` is one of the constants above; clients must accept unknown ones. */
exception KvError {
  1: i32 code
  2: string message
  /** APPLIED_*: for writes, whether this request took effect. Always APPLIED_NO for reads. */
  3: i32 applied
  4: bool retryable
  5: i32 retry_after_ms
  /** Routing news with NOT_MASTER and STALE_MAP. */
  6: optional string master
  7: optional i64 epoch
  8: optional i64 map_version
}

/** Sent with every request. All fields may be left out. */
struct Context {
  /** Time the caller still has, in ms; 0 = the server's default. The server answers DEADLINE once it has passed. */
  1: i32 budget_ms
  2: i32 level
  /** Session token from an earlier reply, for LEVEL_SESSION. Opaque. */
  3: binary session
  /** Identity of a retried write: (client_id, sequence) is applied once. */
  4: binary client_id
  5: i64 sequence
  6: string traceparent
  7: binary auth
  /** Highest hybrid clock value the caller has seen. */
  8: i64 hlc
  9: i32 max_staleness_ms
}

/** All given parts must hold. Compared with the record as it is when the write is applied. */
struct Condition {
  1: optional i64 version
  2: optional binary value
  3: optional bool exists
}

/** A record, or the news that there is none (found = false). Not-found is a result, never an exception. */
struct Record {
  1: bool found
  2: binary value
  /** Hybrid logical clock version; what Condition.version compares. */
  3: i64 version
  /** Unix time in ms at which it expires; 0 = never. */
  4: i64 expires_at_ms
}

const i32 TTL_KEEP = 0
const i32 TTL_SET = 1
const i32 TTL_CLEAR = 2

/** Operation kinds of WriteOp.kind. */
const i32 OP_PUT = 1
const i32 OP_REMOVE = 2
const i32 OP_INCREMENT = 3

struct WriteOp {
  /** OP_* */
  1: i32 kind
  2: binary key
  /** OP_PUT only. */
  3: binary value
  /** OP_INCREMENT only. A missing record counts as 0. Values are decimal ASCII integers (64-bit signed). */
  4: i64 delta
  5: optional Condition condition
  /** TTL_KEEP: an existing record keeps its expiry, a new one has none. TTL_SET needs ttl_ms > 0. */
  6: i32 ttl_mode
  7: i64 ttl_ms
}

struct WriteResult {
  /** False when the condition did not hold: then `current` is the record as it was found. */
  1: bool applied
  2: i64 version
  3: optional Record current
  /** OP_INCREMENT: the new number. */
  4: optional i64 number
  /** OP_REMOVE: whether there was a record. */
  5: bool existed
  /** In writeBatch: set when this op's partition refused the ops; nothing of this op was applied. */
  6: optional KvError error
  /** current.value was left out: what a batch's refused ops found is sent up to 2 MiB of values a partition. */
  7: bool current_value_omitted
}

struct HelloRequest {
  1: string client_name
  2: i32 api_version
}

struct Limits {
  1: i32 max_key_bytes
  2: i32 max_value_bytes
  3: i32 max_batch_ops
  4: i32 max_batch_bytes
  5: i32 max_multi_get_keys
  6: i32 max_frame_bytes
  7: i32 max_scan_rows
  8: i32 max_scan_bytes
}

struct HelloReply {
  1: string server_version
  2: i32 api_version
  3: Limits limits
  4: string node_id
  5: i32 partitions
  6: list<string> features
}

struct GetRequest {
  1: binary key
  /** Token of an open snapshot; empty = the newest state. SNAPSHOT_GONE once it has expired or was released. */
  2: binary snapshot
}

struct PutRequest {
  1: binary key
  2: binary value
  3: optional Condition condition
  4: i32 ttl_mode
  5: i64 ttl_ms
}

struct RemoveRequest {
  1: binary key
  2: optional Condition condition
}

struct IncrementRequest {
  1: binary key
  2: i64 delta
  3: optional Condition condition
}

struct MultiGetRequest { 1: list<binary> keys }

struct MultiGetItem {
  1: Record record
  /** Set when this key could not be read; the others still were. */
  2: optional KvError error
}

/** One per key, in the order of the request. */
struct MultiGetReply { 1: list<MultiGetItem> items }

/** Ops on keys of one partition (for example one {tag}) are applied atomically; across partitions they are not. */
struct WriteBatchRequest { 1: list<WriteOp> ops }

struct WriteBatchReply { 1: list<WriteResult> results }

/**
 * Keys in byte order from `start_key` (inclusive) to `end_key` (exclusive, empty = no end), narrowed to `prefix` when it is
 * not empty. With `reverse` the same range is walked from its end. `cursor` from an earlier reply goes on behind its
 * last row; it is bound to the same range and direction (BAD_CURSOR otherwise).
 */
struct ScanRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  4: bool reverse
  5: bool keys_only
  /** 0 = the server's limit; see Limits. A reply may hold fewer rows than asked for although there are more. */
  6: i32 limit_rows
  7: i32 limit_bytes
  8: binary cursor
  /** Token of an open snapshot to read, as in GetRequest. A cursor goes on in the same snapshot only. */
  9: binary snapshot
  /**
   * Token of an older open snapshot: only what changed since is returned, in time proportional to that. Forwards only.
   * A record that merely expired counts as removed once the server has swept it.
   */
  10: binary since
}

struct Row {
  1: binary key
  2: binary value
  3: i64 version
  4: i64 expires_at_ms
  /** With ScanRequest.since: there was such a record then, and now there is none. */
  5: bool removed
}

struct ScanReply {
  1: list<Row> rows
  /** Opaque, checksummed; empty when the range is exhausted. Survives restarts: the server keeps no scan state. */
  2: binary cursor
}

struct CountRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** As in GetRequest. */
  4: binary snapshot
}

struct CountReply { 1: i64 count }

/** The same range as CountRequest. Takes O(log n), whatever the range holds. */
struct AggregateRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** As in GetRequest. */
  4: binary snapshot
}

struct AggregateReply {
  1: i64 count
  /** Of keys and values. */
  2: i64 bytes
  /**
   * The sum, modulo 2^64, of a hash of every record's key, value, version and expiry: equal for equal content, in
   * whatever order it was written. Those of disjoint ranges add up.
   */
  3: i64 content_hash
}

/** Cuts the range into `parts` with about equally many records; for parallel jobs. */
struct SplitRangeRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** 2 to 256. */
  4: i32 parts
  /** As in GetRequest. Without one, the counts are of a moment that has passed. */
  5: binary snapshot
}

struct RangePart {
  1: binary start_key
  2: binary end_key
  /** Exact, at the time of the call or of the snapshot. */
  3: i64 count
  4: i64 bytes
}

/** In key order, without gaps; fewer parts than asked for when there are few records. */
struct SplitRangeReply { 1: list<RangePart> parts }

/** A snapshot of everything, at one moment: with a write in it is every write that was acknowledged before that one. */
struct OpenSnapshotRequest {
  /** How long it lives unless it is renewed; 0 = a minute. It keeps replaced pages on disk: release it. */
  1: i32 ttl_ms
}

struct RenewSnapshotRequest {
  1: binary snapshot
  /** From now on; 0 = a minute. No snapshot outlives the server's age limit. */
  2: i32 ttl_ms
}

struct ReleaseSnapshotRequest { 1: binary snapshot }

struct SnapshotReply {
  /** Opaque. Names the snapshot in GetRequest, ScanRequest and so on. */
  1: binary snapshot
  /** No write in the snapshot has a higher version, no later one a lower. */
  2: i64 version
  /** Unix time in ms. */
  3: i64 expires_at_ms
}

struct ReleaseSnapshotReply {
  /** False when it was gone already. */
  1: bool existed
}

service Kv {
  HelloReply hello(1: HelloRequest request) throws (1: KvError error)
  Record get(1: Context context, 2: GetRequest request) throws (1: KvError error)
  WriteResult put(1: Context context, 2: PutRequest request) throws (1: KvError error)
  WriteResult remove(1: Context context, 2: RemoveRequest request) throws (1: KvError error)
  WriteResult increment(1: Context context, 2: IncrementRequest request) throws (1: KvError error)
  MultiGetReply multiGet(1: Context context, 2: MultiGetRequest request) throws (1: KvError error)
  WriteBatchReply writeBatch(1: Context context, 2: WriteBatchRequest request) throws (1: KvError error)
  ScanReply scan(1: Context context, 2: ScanRequest request) throws (1: KvError error)
  CountReply count(1: Context context, 2: CountRequest request) throws (1: KvError error)
  AggregateReply aggregate(1: Context context, 2: AggregateRequest request) throws (1: KvError error)
  SplitRangeReply splitRange(1: Context context, 2: SplitRangeRequest request) throws (1: KvError error)
  SnapshotReply openSnapshot(1: Context context, 2: OpenSnapshotRequest request) throws (1: KvError error)
  SnapshotReply renewSnapshot(1: Context context, 2: RenewSnapshotRequest request) throws (1: KvError error)
  ReleaseSnapshotReply releaseSnapshot(1: Context context, 2: ReleaseSnapshotRequest request) throws (1: KvError error)
}

struct PartitionStatus {
  1: i32 id
  2: string uuid
  3: i32 reactor
  4: i64 generation
  5: i64 last_lsn
  6: i64 applied_lsn
  7: i64 checkpoint_lsn
  8: i64 file_bytes
  9: i64 used_bytes
  10: i64 dirty_pages
  11: bool checkpoint_running
  12: i32 snapshots
  /** Of replaced pages that only snapshots hold. */
  13: i64 snapshot_pinned_bytes
}

/** Admin.scrub: the node verifies what it has on disk while it serves. */
struct ScrubRequest {
  /** true: begin a pass now; one that is under way is given up for it. false: only report. */
  1: bool start
  /** MiB/s of the pass begun, all reactors together; 0 = as --scrub_mb_per_s says (8 when that is 0). */
  2: i32 mb_per_s
}

struct ScrubFinding {
  1: string file
  2: i64 offset
  /** What is wrong, and what it means. */
  3: string what
  /** What to do about it. */
  4: string advice
  5: i64 first_seen_ms
}

/** Sums over the reactors: of the pass under way, or of the last one. */
struct ScrubReply {
  1: bool running
  2: i64 bytes
  3: i64 expected_bytes
  4: i64 rate_bytes_per_s
  5: i64 pages
  6: i64 values
  7: i64 log_batches
  /** What the last complete pass found and this one has found so far; at most 100 a reactor. */
  8: list<ScrubFinding> findings
  /** Passes that every reactor has finished since the start, and when (Unix time); 0 = none. */
  9: i64 passes_finished
  10: i64 last_finished_ms
  /** Partitions whose bitmaps were left out, because checkpoints followed each other too closely. */
  11: i32 skipped_partitions
}

struct NodeStatus {
  1: string node_id
  2: string server_version
  3: i64 uptime_ms
  4: string data_dir
  5: i32 page_bytes
  6: i64 memory_limit_bytes
  7: i64 resident_bytes
  8: i64 pool_pages
  9: i64 pool_free_pages
  10: i64 log_bytes
  11: i64 log_budget_bytes
  12: i32 connections
  13: list<PartitionStatus> partitions
  /** "ok", or what is wrong; with the next command to run in `advice`. */
  14: string verdict
  15: string advice
  16: i32 http_port
  17: i32 reactors
  30: ScrubReply scrub
}

struct CheckpointReply { 1: i32 partitions }

struct DescribeSnapshotRequest {
  1: binary snapshot
  2: i32 partition
}

/** What a copy of a partition needs beside its pages. */
struct PartitionSnapshot {
  1: string partition_uuid
  2: i32 page_bytes
  3: i64 generation
  4: i64 epoch
  5: i64 lsn
  6: i64 last_version
  7: i64 next_page_id
  8: i64 file_blocks
  9: i32 root_level
  /** The reference of the root page, as in docs/FORMAT.md. */
  10: binary root
  /** In use on disk, for progress. */
  11: i64 used_bytes
}

/** Pages of a partition's snapshot as they are on disk, parents before children. */
struct ReadPagesRequest {
  1: binary snapshot
  2: i32 partition
  /** Only pages made after this generation; 0 = all. */
  3: i64 since_generation
  /** From an earlier reply; empty = from the first page. */
  4: binary cursor
}

struct PageImage {
  /** First block times 65536, plus the number of blocks. */
  1: i64 location
  /** As in the page's reference. */
  2: i64 checksum
  3: binary bytes
}

struct ReadPagesReply {
  1: list<PageImage> pages
  /** Opaque; empty behind the last page. */
  2: binary cursor
}

/** For operators; served on the same port. */
service Admin {
  NodeStatus status(1: Context context) throws (1: KvError error)
  /** Checkpoints every partition and returns when all are durable. */
  CheckpointReply checkpoint(1: Context context) throws (1: KvError error)
  /** Of a snapshot from Kv.openSnapshot; waits until it is on disk. */
  PartitionSnapshot describeSnapshot(1: Context context, 2: DescribeSnapshotRequest request) throws (1: KvError error)
  /** About two MiB of pages at a time, for backups. */
  ReadPagesReply readPages(1: Context context, 2: ReadPagesRequest request) throws (1: KvError error)
  /** Starts a pass that verifies everything on disk, or reports on it. Returns at once: ask again until !running. */
  ScrubReply scrub(1: Context context, 2: ScrubRequest request) throws (1: KvError error)
}
