/*
 * Pando's wire interface. Messages are framed. The server recognizes the binary and the compact protocol frame by
 * frame, on one port. A field that is left out has its default value: 0, false, or empty.
 *
 * A request that sets something this server cannot do (a level, a token, a namespace, a mode) is refused with an error
 * that names it. Nothing that a request asks for is silently ignored, except for fields that are newer than the server:
 * ask `hello` for its features before you rely on one.
 *
 * A method that fails throws KvError. A request that the server cannot decode, or a method that it does not have, gets
 * Thrift's own TApplicationException instead.
 *
 * If a key contains a {tag} (the text in the first pair of braces, if it is not empty), only the tag decides which
 * partition holds the key. So keys with the same {tag} share a partition; other keys may not.
 *
 * Evolution rules: field ids are never reused, nothing is `required`, there will only ever be one exception type, codes
 * are i32 constants (an unknown enum value would not decode in old clients), and no map has binary keys. Field 15 of
 * every reply is its ReplyContext.
 *
 * JavaScript: versions and HLC values are i64 above 2^53. Use the Int64 object that the Node library gives you and send
 * it back untouched; never turn it into a number.
 */
namespace c_glib Pando
namespace cpp pando.api
namespace d pando.api
namespace dart pando
namespace delphi Pando.Api
namespace erl pando
namespace go pando
namespace haxe pando.api
namespace java dev.pando.api
namespace javame dev.pando.api
namespace js pando
namespace kotlin dev.pando.api
namespace lua pando
namespace netstd Pando.Api
namespace ocaml Pando
namespace perl Pando
namespace php Pando
namespace py pando
namespace rb Pando
namespace rs pando
namespace st Pando
namespace swift Pando

/** Code values of KvError. */
const i32 BAD_REQUEST = 1
const i32 TOO_LARGE = 2
/** This server cannot verify the caller's identity. */
const i32 UNAUTHENTICATED = 3
const i32 DENIED = 4
const i32 NOT_MASTER = 5
const i32 STALE_MAP = 6
const i32 MOVING = 7
const i32 OVERLOADED = 8
const i32 DEADLINE = 9
const i32 UNAVAILABLE = 10
/** This replica does not have what a read at BOUNDED or SESSION asks for; `master` may, and others may soon. */
const i32 TOO_STALE = 11
/** The snapshot has expired, was released, or was lost in a restart: open another one. */
const i32 SNAPSHOT_GONE = 12
const i32 BAD_CURSOR = 13
/** The session token was not issued by this server or its cluster, or was altered. */
const i32 TOKEN_MISMATCH = 14
const i32 DISK_FULL = 15
const i32 CORRUPT = 16
const i32 INTERNAL = 17
/** This and the next are reserved. */
const i32 QUOTA_EXCEEDED = 18
const i32 CANCELLED = 19
/** The changes after this position are no longer kept: scan a new snapshot, and watch from its version. */
const i32 FEED_GONE = 20
/** What the session has seen was lost, or it is too old to tell: begin a new session, with an empty token. */
const i32 SESSION_LOST = 21

/** KvError.applied: was the write applied? UNKNOWN is 0, so that an error without this field promises nothing. */
const i32 APPLIED_UNKNOWN = 0
const i32 APPLIED_NO = 1
const i32 APPLIED_YES = 2

/**
 * Consistency levels, Context.level. 0 is QUORUM for writes and LINEARIZABLE for reads. What holds the only replica
 * does the same for all levels. A level that cannot be met is refused before anything is written (APPLIED_NO).
 */
const i32 LEVEL_DEFAULT = 0
/** On the master's disk. Seen later; may be lost. Only puts and removes without conditions; `existed` says nothing. */
const i32 LEVEL_ONE = 1
const i32 LEVEL_QUORUM = 2
/** On the disks of all replicas. UNKNOWN if one fails meanwhile; the write is then as one at QUORUM. */
const i32 LEVEL_ALL = 3
/** A read at the master: it sees every write that was acknowledged before the read began. */
const i32 LEVEL_LINEARIZABLE = 4
/** At any replica: it sees what was acknowledged max_staleness_ms before the read began. With 0, at the master. */
const i32 LEVEL_BOUNDED = 5
/** At any replica: it sees all that Context.session has seen (nothing, without one). */
const i32 LEVEL_SESSION = 6

/** Every reply and every KvError carries it, unless it is empty. A field that is 0 or empty carries no information. */
struct ReplyContext {
  /** Opaque. Send the newest as Context.session, with all requests of a session. Empty: it saw 1024 partitions. */
  1: binary session
  /** No version that the reply tells of is higher. Send the highest that you have seen as Context.hlc. */
  2: i64 hlc
  /** The version of the partition map that the server acted on. */
  3: i64 map_version
}

/** The only exception. `code` is one of the constants above; clients must accept unknown ones. */
exception KvError {
  1: i32 code
  2: string message
  /** APPLIED_*: for writes, whether this request took effect. Always APPLIED_NO for reads. */
  3: i32 applied
  /** The same request may succeed later, and sending it again does no harm. */
  4: bool retryable
  5: i32 retry_after_ms
  /** Routing information with NOT_MASTER, STALE_MAP and TOO_STALE. */
  6: optional string master
  7: optional i64 epoch
  8: optional i64 map_version
  15: optional ReplyContext context
}

/** Sent with every request. All fields may be left out. */
struct Context {
  /** The time that the caller has left, in ms; 0 = the server's default. Once it has passed, the answer is DEADLINE. */
  1: i32 budget_ms
  /** LEVEL_*. A level for writes is refused with a read, and a level for reads with a write. */
  2: i32 level
  /** ReplyContext.session of an earlier reply. The reply's token covers it. LEVEL_SESSION reads nothing older. */
  3: binary session
  /**
   * Name of a write, so that it is applied once however often it is sent. client_id names a lane: 1 to 64 bytes that
   * nobody else uses or knows, such as a random UUID. A lane has one write in flight, and each new write has a higher
   * sequence (from 1). Of several in flight, those that are overtaken are not applied. A write that is sent again is
   * the same in all but the context, has its old sequence and first_sent_ms, and is answered as the first time, but
   * without `current` and `previous`. (Another write with an old sequence is refused.)
   * UNAVAILABLE with applied = UNKNOWN: it is not known any more what came of it, ten minutes after it was sent first,
   * or once a later write of its lane has been applied, or because a batch had more results than are kept.
   * OVERLOADED: the partition can remember no more lanes. On a full disk, removes that have a name are refused like
   * other writes. A server without the feature "idempotent_writes" refuses a write that has a name; so does
   * deleteRange, which does no harm when it is repeated. Reads ignore it.
   */
  4: binary client_id
  5: i64 sequence
  /** W3C trace context. It changes nothing about the reply. */
  6: string traceparent
  /** The namespace of the keys; empty = the default one. A namespace that this server does not have is refused. */
  7: string name_space
  /**
   * The highest ReplyContext.hlc that the caller has seen. The versions of its writes are higher, so a snapshot of the
   * cluster that has them has all that the caller had seen. Refused by a server without the feature "clocks". One
   * that is more than 5 seconds ahead of the server's time counts as 5 seconds ahead.
   */
  8: i64 hlc
  /** For LEVEL_BOUNDED only. */
  9: i32 max_staleness_ms
  /** On whose behalf a router sends this request. DENIED unless the connection has said hello as a router. */
  10: string principal
  /**
   * With client_id: when the write was sent for the first time, by the server's clock: HelloReply.now_ms and the time
   * that has passed since, by a clock of the caller that nobody sets. Say hello again every hour, because clocks drift.
   */
  11: i64 first_sent_ms
}

/** All parts that are set must hold. They are compared with the record as it is when the write is applied. */
struct Condition {
  /** Record.version; positive. For a key without a record, set `exists` to false instead. */
  1: optional i64 version
  2: optional binary value
  3: optional bool exists
}

/** A condition on the record of another key. */
struct KeyCondition {
  1: binary key
  /** At least one part must be set. */
  2: Condition condition
}

/** A record, or found = false if there is none. Not-found is a result, never an exception. */
struct Record {
  1: bool found
  2: binary value
  /** Hybrid logical clock version, with which Condition.version is compared. Every write gives a higher version. */
  3: i64 version
  /** Unix time in ms at which it expires; 0 = never. */
  4: i64 expires_at_ms
}

/** An existing record keeps its expiry; a new one has none. */
const i32 TTL_KEEP = 0
/** Expires ttl_ms after the write; ttl_ms must be positive. */
const i32 TTL_SET = 1
/** Never expires. */
const i32 TTL_CLEAR = 2
/** Expires at expires_at_ms, in Unix time; positive. If it is past, the record is written, but no read finds it. */
const i32 TTL_SET_ABSOLUTE = 3

/** Operation kinds of WriteOp.kind. */
const i32 OP_PUT = 1
const i32 OP_REMOVE = 2
const i32 OP_INCREMENT = 3
/** See Kv.touch. */
const i32 OP_TOUCH = 4

struct WriteOp {
  /** OP_* */
  1: i32 kind
  2: binary key
  /** OP_PUT only. */
  3: binary value
  /** OP_INCREMENT only. A missing record counts as 0. Values are decimal ASCII integers (64-bit signed). */
  4: i64 delta
  5: optional Condition condition
  /** TTL_*, with ttl_ms or expires_at_ms. Not with OP_REMOVE; OP_TOUCH needs one other than TTL_KEEP. */
  6: i32 ttl_mode
  7: i64 ttl_ms
  8: i64 expires_at_ms
  /** OP_PUT and OP_REMOVE: return WriteResult.previous. */
  9: bool return_previous
}

/** The outcome of one write. */
struct WriteResult {
  /** It took effect. If not, its condition did not hold (`current`), or it was `withheld`, or it failed (`error`). */
  1: bool applied
  /** The version that the write gave the record. */
  2: i64 version
  /** The record as it was when the condition did not hold. */
  3: optional Record current
  /** OP_INCREMENT: the new number. */
  4: optional i64 number
  /** Whether there was a record. */
  5: bool existed
  /** In writeBatch: this op was refused or failed. It was not applied unless error.applied says so. */
  6: optional KvError error
  /** current.value was left out: the values in one reply to writeBatch are limited (see WriteBatchReply). */
  7: bool current_value_omitted
  /** The record before this write, when return_previous asked for it and the write took effect. */
  8: optional Record previous
  /** previous.value was left out, as with current_value_omitted. */
  9: bool previous_value_omitted
  /** Valid, but not applied: another op of an all_or_nothing batch was refused, or a condition of the batch failed. */
  10: bool withheld
  /** Not set in the results of writeBatch, whose reply has one context for all of them. */
  15: optional ReplyContext context
}

struct HelloRequest {
  /** For logs and metrics. */
  1: string client_name
  /** The version of this interface for which the client was built. The server never refuses a higher one. */
  2: i32 api_version
  /** Who the caller is, and the proof; empty = anonymous. A server that cannot verify them answers UNAUTHENTICATED. */
  3: string identity
  4: binary credential
  /**
   * Optional features that the client supports. With "out_of_order_replies", if the server accepts it, replies on this
   * connection may overtake each other and are matched by sequence id. Names that the server does not know are ignored.
   */
  5: list<string> features
}

struct Limits {
  1: i32 max_key_bytes
  2: i32 max_value_bytes
  3: i32 max_batch_ops
  /** The total of keys, values, and the values of conditions. */
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
  /** That this node holds. */
  5: i32 partitions
  /** Of this server ("conditions", "snapshots", and so on), and of the client, in force from the next request on. */
  6: list<string> features
  7: list<string> accepted_features
  /** The identity of this connection; empty = anonymous. */
  8: string identity
  /** The clock by which the server judges the age of writes, as Unix time in ms, for Context.first_sent_ms. */
  9: i64 now_ms
  /** The UUID of the cluster, or of the store of a node that is in none; empty = the server is older than this field. */
  10: string cluster_id
  15: optional ReplyContext context
}

struct GetRequest {
  1: binary key
  /** Token of an open snapshot; empty = the newest state. SNAPSHOT_GONE after it has expired or was released. */
  2: binary snapshot
}

struct GetReply {
  1: Record record
  15: optional ReplyContext context
}

/** Creates or replaces the record. */
struct PutRequest {
  1: binary key
  2: binary value
  3: optional Condition condition
  /** TTL_*, with ttl_ms or expires_at_ms. */
  4: i32 ttl_mode
  5: i64 ttl_ms
  6: i64 expires_at_ms
  /** Return WriteResult.previous. */
  7: bool return_previous
}

/** Removing a record that does not exist succeeds and changes nothing; WriteResult.existed is then false. */
struct RemoveRequest {
  1: binary key
  2: optional Condition condition
  /** Return WriteResult.previous. */
  3: bool return_previous
}

/** Adds to a decimal ASCII integer (64-bit signed). A missing record counts as 0. */
struct IncrementRequest {
  1: binary key
  2: i64 delta
  3: optional Condition condition
  /** TTL_*: changes the expiry together with the number. */
  4: i32 ttl_mode
  5: i64 ttl_ms
  6: i64 expires_at_ms
}

/**
 * Changes the expiry of a record and leaves its value as it is. The record gets a new version. If there is no record,
 * nothing happens: applied = false, and current.found = false.
 */
struct TouchRequest {
  1: binary key
  2: optional Condition condition
  /** TTL_SET, TTL_CLEAR or TTL_SET_ABSOLUTE. */
  3: i32 ttl_mode
  4: i64 ttl_ms
  5: i64 expires_at_ms
}

/** Without a snapshot, each key is read on its own, so the records may belong to different moments. */
struct MultiGetRequest {
  1: list<binary> keys
  /** As in GetRequest. All keys are then read at the snapshot's moment. */
  2: binary snapshot
}

struct MultiGetItem {
  1: Record record
  /** Set when this key could not be read; the others still were. */
  2: optional KvError error
}

/** One per key, in the order of the request. */
struct MultiGetReply {
  1: list<MultiGetItem> items
  15: optional ReplyContext context
}

/**
 * Several writes in one request.
 *
 * The ops on keys of one partition are isolated: no reader sees only some of them, and a crash keeps all or none. They
 * are applied in the order of the request, and each sees the effects of the preceding ones. The ops on different
 * partitions are applied independently of each other.
 *
 * - By default each op is judged alone: an op whose condition does not hold is skipped, and the others take effect.
 * - With `all_or_nothing`, one refused op refuses all ops on its partition: none of that partition's ops is applied.
 *   With a condition on each op, this is compare-and-swap over several keys of one {tag}. It is transactional only
 *   within one {tag}: ops on another partition of the same batch may still be applied.
 * - With `conditions`, all of them must hold, or no op is applied. They are judged and the ops applied at one moment.
 *   They may name keys that the batch depends on but does not write. All keys of conditions and ops must have the same
 *   {tag} (or be the same key); otherwise the batch is refused with BAD_REQUEST.
 */
struct WriteBatchRequest {
  1: list<WriteOp> ops
  2: bool all_or_nothing
  /** Judged on the records as they are before the first op. They count toward max_batch_ops and max_batch_bytes. */
  3: list<KeyCondition> conditions
}

/** A condition of the whole batch that did not hold. */
struct FailedCondition {
  /** Its index in WriteBatchRequest.conditions. */
  1: i32 index
  2: Record current
  /** current.value was left out (see WriteBatchReply). */
  3: bool current_value_omitted
}

/** One reply holds up to 2 MiB of values of current and previous records. Further values are marked as omitted. */
struct WriteBatchReply {
  /** One per op, in the order of the request. */
  1: list<WriteResult> results
  /** When this is not empty, nothing was applied. */
  2: list<FailedCondition> failed_conditions
  15: optional ReplyContext context
}

/**
 * Reads keys in byte order from `start_key` (inclusive) to `end_key` (exclusive, empty = no end), narrowed to `prefix`
 * when it is not empty. With `reverse` the same range is read from its end. `cursor` from an earlier reply continues
 * after that reply's last row; it is bound to the same range, direction, snapshots and slice (BAD_CURSOR otherwise).
 *
 * Without a snapshot, each page shows its own moment: a record that exists during the whole scan is returned exactly
 * once, and a record that is written meanwhile may be missed or seen.
 */
struct ScanRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  4: bool reverse
  /** Leave out the values. */
  5: bool keys_only
  /** 0 = the server's limit; see Limits. A reply may hold fewer rows than requested although there are more. */
  6: i32 limit_rows
  7: i32 limit_bytes
  8: binary cursor
  /** Token of an open snapshot to read, as in GetRequest. A cursor continues only in the same snapshot. */
  9: binary snapshot
  /**
   * Token of an older open snapshot: only the changes since then are returned, in time proportional to their number.
   * Not with `reverse`. A record that merely expired counts as removed once the server has swept it.
   */
  10: binary since
  /** Leave out the values and send their sizes: Row.value_bytes. Large values are not read from disk. */
  11: bool sizes_only
  /**
   * Only the rows of one slice of the keys, number `slice` of `slices`: keys are dealt out to slices by their hash, so
   * all slices have about as many rows, and together they have each row once. 0 = all rows. At most 65536. A slice is
   * read from few partitions, so jobs that do not need one order for all rows read several slices side by side. Not
   * with `since`. Needs the feature "slices": a server without it returns the rows of all slices.
   */
  12: i32 slices
  13: i32 slice
}

struct Row {
  1: binary key
  2: binary value
  3: i64 version
  4: i64 expires_at_ms
  /** With ScanRequest.since: the record existed then, and does not exist now. */
  5: bool removed
  /** With ScanRequest.sizes_only. */
  6: optional i64 value_bytes
}

struct ScanReply {
  /** May be empty although there is a cursor: with slices, a page ends after so many rows of others. */
  1: list<Row> rows
  /** Opaque, checksummed; empty when the range is exhausted. Valid after a restart: the server keeps no scan state. */
  2: binary cursor
  15: optional ReplyContext context
}

struct CountRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** As in GetRequest. */
  4: binary snapshot
}

struct CountReply {
  1: i64 count
  15: optional ReplyContext context
}

/** The same range as CountRequest. Takes O(log n), whatever the size of the range. */
struct AggregateRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** As in GetRequest. */
  4: binary snapshot
}

struct AggregateReply {
  1: i64 count
  /** The total size of keys and values. */
  2: i64 bytes
  /** The sum, modulo 2^64, of a hash of each record with its version and expiry. Those of disjoint ranges add up. */
  3: i64 content_hash
  15: optional ReplyContext context
}

/** Splits the range into `parts` parts with about equally many records, for parallel jobs. */
struct SplitRangeRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** 2 to 256. */
  4: i32 parts
  /** As in GetRequest. Without a snapshot, the counts show a moment that has passed. */
  5: binary snapshot
}

struct RangePart {
  1: binary start_key
  2: binary end_key
  /** Exact at the moment of the call or of the snapshot. */
  3: i64 count
  4: i64 bytes
}

/** In key order, without gaps. There are fewer parts than requested when there are few records. */
struct SplitRangeReply {
  1: list<RangePart> parts
  15: optional ReplyContext context
}

/** A snapshot shows everything at one moment. If it holds a write, it holds all writes acknowledged before that one. */
struct OpenSnapshotRequest {
  /**
   * Its lifetime unless it is renewed, ten minutes at most; 0 = a minute. A snapshot keeps replaced pages on disk, so
   * release it.
   */
  1: i32 ttl_ms
}

struct RenewSnapshotRequest {
  1: binary snapshot
  /** Counted from now, ten minutes at most; 0 = a minute. No snapshot outlives the server's age limit. */
  2: i32 ttl_ms
}

struct ReleaseSnapshotRequest { 1: binary snapshot }

struct SnapshotReply {
  /** Opaque. Names the snapshot in GetRequest, ScanRequest, and so on. */
  1: binary snapshot
  /** No write in the snapshot has a higher version, no later one a lower. */
  2: i64 version
  /** Unix time in ms. */
  3: i64 expires_at_ms
  15: optional ReplyContext context
}

struct ReleaseSnapshotReply {
  /** False when the snapshot was already gone. */
  1: bool existed
  15: optional ReplyContext context
}

/**
 * Removes records of a range, a bounded number with each call. Call again with the reply's cursor until it is empty.
 *
 * Once the cursor is empty, every record that was in the range when the first call began, and was not written since, is
 * gone. Each call removes only records that it found in the range and that nobody changed between its read and its
 * removal. A record that is written between the calls may be removed by a later call, or survive; set `max_version` to
 * be sure that it survives. A call is not atomic: readers see some of its records removed before others. An error with
 * applied = NO has removed nothing; after UNKNOWN, any part of the call may have been executed. Calling again is safe.
 */
struct DeleteRangeRequest {
  1: binary start_key
  2: binary end_key
  3: binary prefix
  /** The maximum number of records that this call examines; 0 = the server's limit (Limits.max_batch_ops). */
  4: i32 limit_rows
  /** From an earlier reply; bound to the same range and max_version (BAD_CURSOR otherwise). */
  5: binary cursor
  /** Only records with at most this version; 0 = all. SnapshotReply.version: what was not written since. */
  6: i64 max_version
}

struct DeleteRangeReply {
  /** The number of records that this call removed. It may be less than requested, even 0, although there are more. */
  1: i64 removed
  /** Opaque, checksummed, as in ScanReply; empty when the whole range was visited. */
  2: binary cursor
  15: optional ReplyContext context
}

/**
 * Waits for changes of the records whose keys begin with `prefix`, and returns them.
 *
 * A watcher that calls again with each reply's position receives every change after its starting point, or FEED_GONE;
 * it never misses a change silently. The changes of keys with the same {tag}, and so those of one key, come in the
 * order of their versions. There is no order between keys of different partitions, and the changes of one batch may
 * come in two replies. After a lost reply, calling again with the previous position returns the same changes once more.
 * Values are not sent: read the record, which may have changed again meanwhile. A removal may be reported for a key
 * that had no record. The expiry of a record is reported when the server sweeps it.
 *
 * The server keeps a limited number of recent changes in memory, and none across a restart. A watcher that falls too
 * far behind gets FEED_GONE. It then opens a snapshot, scans it, and watches from the snapshot's version.
 *
 * A waiting call keeps its place among the replies of its connection: unless the server accepted
 * "out_of_order_replies", use a separate connection, or the call ends without changes as soon as another reply waits
 * behind it. A limited number of watchers may wait; further ones get OVERLOADED.
 */
struct WatchRequest {
  1: binary prefix
  /** From an earlier reply; bound to the same prefix (BAD_CURSOR otherwise). */
  2: binary position
  /**
   * Without a position: return the changes after this version, as in SnapshotReply.version; 0 = from now on. With
   * neither a position nor a version, and wait_ms = 0, the reply is the current position.
   */
  3: i64 after_version
  /** How long to wait if there is no change; 0 = do not wait. At most the request's budget. */
  4: i32 wait_ms
  /** 0 = the server's limit (Limits.max_scan_rows). */
  5: i32 limit_changes
}

struct Change {
  1: binary key
  /** The version of the write, which is the record's version until it changes again. */
  2: i64 version
  /** The record was removed or has expired. */
  3: bool removed
}

struct WatchReply {
  /** Empty when nothing changed within wait_ms. */
  1: list<Change> changes
  /** Where to continue; never empty. Opaque, checksummed. The server keeps no state for a watcher between calls. */
  2: binary position
  /** More changes are available already: call again at once. */
  3: bool more
  15: optional ReplyContext context
}

service Kv {
  /** Authenticates the connection and negotiates features. An anonymous client may skip it. */
  HelloReply hello(1: Context context, 2: HelloRequest request) throws (1: KvError error)
  GetReply get(1: Context context, 2: GetRequest request) throws (1: KvError error)
  WriteResult put(1: Context context, 2: PutRequest request) throws (1: KvError error)
  WriteResult remove(1: Context context, 2: RemoveRequest request) throws (1: KvError error)
  WriteResult increment(1: Context context, 2: IncrementRequest request) throws (1: KvError error)
  WriteResult touch(1: Context context, 2: TouchRequest request) throws (1: KvError error)
  MultiGetReply multiGet(1: Context context, 2: MultiGetRequest request) throws (1: KvError error)
  WriteBatchReply writeBatch(1: Context context, 2: WriteBatchRequest request) throws (1: KvError error)
  ScanReply scan(1: Context context, 2: ScanRequest request) throws (1: KvError error)
  CountReply count(1: Context context, 2: CountRequest request) throws (1: KvError error)
  AggregateReply aggregate(1: Context context, 2: AggregateRequest request) throws (1: KvError error)
  SplitRangeReply splitRange(1: Context context, 2: SplitRangeRequest request) throws (1: KvError error)
  SnapshotReply openSnapshot(1: Context context, 2: OpenSnapshotRequest request) throws (1: KvError error)
  SnapshotReply renewSnapshot(1: Context context, 2: RenewSnapshotRequest request) throws (1: KvError error)
  ReleaseSnapshotReply releaseSnapshot(1: Context context, 2: ReleaseSnapshotRequest request) throws (1: KvError error)
  DeleteRangeReply deleteRange(1: Context context, 2: DeleteRangeRequest request) throws (1: KvError error)
  WatchReply watch(1: Context context, 2: WatchRequest request) throws (1: KvError error)
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
  /** Bytes of replaced pages that only snapshots still use. */
  13: i64 snapshot_pinned_bytes
  /** Set if the partition is quarantined and refuses every request: since when, why, and what to do. */
  14: optional string quarantine
}

/** Admin.scrub: the node verifies its data on disk while it serves. */
struct ScrubRequest {
  /** true: begin a pass now, and abandon one that is running. false: only report. */
  1: bool start
  /** MiB/s of the new pass, for all reactors together; 0 = the value of --scrub_mb_per_s (8 when that is 0). */
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

/** Sums over the reactors, of the running pass or of the last one. */
struct ScrubReply {
  1: bool running
  2: i64 bytes
  3: i64 expected_bytes
  4: i64 rate_bytes_per_s
  5: i64 pages
  6: i64 values
  7: i64 log_batches
  /** What the last complete pass found, and what this pass has found so far; at most 100 for each reactor. */
  8: list<ScrubFinding> findings
  /** The number of passes that every reactor has finished since the start, and the Unix time of the last; 0 = none. */
  9: i64 passes_finished
  10: i64 last_finished_ms
  /** Partitions whose bitmaps could not be verified because checkpoints followed each other too closely. */
  11: i32 skipped_partitions
  /** All known damaged places, of which `findings` may lack some. */
  12: i64 findings_total
  15: optional ReplyContext context
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
  /** Those that the node holds; there may be gaps. */
  13: list<PartitionStatus> partitions
  /** "ok", or what is wrong; `advice` then has the next command to run. */
  14: string verdict
  15: optional ReplyContext context
  16: i32 http_port
  17: i32 reactors
  18: string advice
  /** The parts into which the hash space is divided. A node may hold a partition of each, or of some. */
  19: i32 ranges
  /** Its number in its cluster; 0 = it belongs to none. */
  20: i32 cluster_node
  30: ScrubReply scrub
}

struct CheckpointReply {
  1: i32 partitions
  15: optional ReplyContext context
}

struct DescribeSnapshotRequest {
  1: binary snapshot
  2: i32 partition
}

/** What a copy of a partition needs besides its pages. */
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
  /** Bytes in use on disk, for progress reports. */
  11: i64 used_bytes
  /** What every extent of a page or value leaves free at its end, as in docs/FORMAT.md. */
  12: i32 seal_bytes
  /** Stored keys begin with a namespace, as in docs/FORMAT.md. */
  13: bool namespaced
  /** The chain of the partition's log after `lsn`, as in docs/FORMAT.md; 0 = unknown, or no records. */
  14: i64 chain
  15: optional ReplyContext context
}

/** Returns the pages of a partition's snapshot as they are on disk, parents before children. */
struct ReadPagesRequest {
  1: binary snapshot
  2: i32 partition
  /** Only pages written after this generation; 0 = all. */
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
  /** Opaque; empty after the last page. */
  2: binary cursor
  15: optional ReplyContext context
}

/** For operators; served on the same port. */
service Admin {
  NodeStatus status(1: Context context) throws (1: KvError error)
  /** Checkpoints every partition, and returns when all checkpoints are durable. */
  CheckpointReply checkpoint(1: Context context) throws (1: KvError error)
  /** Describes a snapshot from Kv.openSnapshot. Waits until it is on disk. */
  PartitionSnapshot describeSnapshot(1: Context context, 2: DescribeSnapshotRequest request) throws (1: KvError error)
  /** Returns about two MiB of pages at a time, for backups. */
  ReadPagesReply readPages(1: Context context, 2: ReadPagesRequest request) throws (1: KvError error)
  /** Starts a pass that verifies everything on disk, or reports on it. Returns at once; call again until !running. */
  ScrubReply scrub(1: Context context, 2: ScrubRequest request) throws (1: KvError error)
}
