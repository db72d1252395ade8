"""From arguments to requests, and from replies to results. Shared by the synchronous and the asyncio client."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Union

from . import types
from ._batch import BatchOutcome
from ._codec import kv_error
from ._generated import constants, ttypes
from .errors import UNSUPPORTED, Applied, BadRequestError, ProtocolError
from .types import BatchResult, Increment, Level, Op, Put, Record, Remove, Row, Touch, WriteResult

READ, WRITE, PLAIN = "read", "write", "plain"  # PLAIN: no level, and no name

Token = Union[bytes, bytearray, memoryview]


class Call(NamedTuple):
    """One request. `convert` turns the reply's struct into the result; it may raise a PandoError, which is as if the
    server had answered so."""

    method: str
    request: Any
    convert: Callable[[Any], Any]
    kind: str = READ
    level: int = 0
    max_staleness_ms: int = 0
    needs: str = ""  # a feature of the server
    batch: Optional[BatchOutcome] = None  # of a writeBatch

    def changes(self) -> bool:
        """It may change records, so it matters whether it took effect."""
        return self.kind == WRITE or self.method == "deleteRange"


def to_bytes(what: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} must be bytes, not {type(value).__name__}; encode text with .encode()")


def snapshot_token(snapshot: Any) -> bytes:
    """The token of a snapshot object, or the token itself; None = the newest state."""
    if snapshot is None:
        return b""
    token = getattr(snapshot, "token", snapshot)
    return to_bytes("snapshot", token)


def refuse(message: str) -> BadRequestError:
    return BadRequestError(constants.BAD_REQUEST, message, applied=Applied.NO)


def unsupported(feature: str) -> BadRequestError:
    return BadRequestError(UNSUPPORTED, f"the server does not have the feature {feature!r}", applied=Applied.NO)


def condition(op: Any) -> Any:
    if op.if_version is None and op.if_value is None and op.if_exists is None:
        return None
    value = None if op.if_value is None else to_bytes("if_value", op.if_value)
    return ttypes.Condition(version=op.if_version, value=value, exists=op.if_exists)


def expiry(op: Any) -> Dict[str, int]:
    """The ttl fields of a request."""
    if op.ttl_ms is not None and op.expires_at_ms is not None:
        raise refuse("give ttl_ms or expires_at_ms, not both")
    if op.ttl_ms is not None:
        return {"ttl_mode": constants.TTL_SET, "ttl_ms": op.ttl_ms}
    if op.expires_at_ms is not None:
        return {"ttl_mode": constants.TTL_SET_ABSOLUTE, "expires_at_ms": op.expires_at_ms}
    if op.ttl not in ("keep", "clear"):
        raise refuse(f"ttl is 'keep' or 'clear', not {op.ttl!r}")
    return {"ttl_mode": constants.TTL_CLEAR if op.ttl == "clear" else constants.TTL_KEEP}


def record(found: Any) -> Optional[Record]:
    if found is None or not found.found:
        return None
    return Record(found.value or b"", found.version or 0, found.expires_at_ms or 0)


def write_result(reply: Any) -> WriteResult:
    return WriteResult(bool(reply.applied), reply.version or 0, bool(reply.existed), record(reply.current), reply.number,
                       record(reply.previous), bool(reply.previous_value_omitted), bool(reply.current_value_omitted),
                       bool(reply.withheld), kv_error(reply.error) if reply.error is not None else None)


# -- single records ----------------------------------------------------------------------------------------------------


def get(key: bytes, snapshot: Any) -> Call:
    request = ttypes.GetRequest(to_bytes("key", key), snapshot_token(snapshot))
    return Call("get", request, lambda reply: record(reply.record))


def put(op: Put) -> Call:
    request = ttypes.PutRequest(to_bytes("key", op.key), to_bytes("value", op.value), condition(op),
                                return_previous=op.return_previous, **expiry(op))
    return Call("put", request, write_result, WRITE)


def remove(op: Remove) -> Call:
    request = ttypes.RemoveRequest(to_bytes("key", op.key), condition(op), op.return_previous)
    return Call("remove", request, write_result, WRITE)


def increment(op: Increment) -> Call:
    request = ttypes.IncrementRequest(to_bytes("key", op.key), op.delta, condition(op), **expiry(op))
    return Call("increment", request, lambda reply: reply.number, WRITE)


def touch(op: Touch) -> Call:
    request = ttypes.TouchRequest(to_bytes("key", op.key), condition(op), **expiry(op))
    return Call("touch", request, write_result, WRITE)


# -- several records ---------------------------------------------------------------------------------------------------


def multi_get(keys: Iterable[bytes], snapshot: Any) -> Call:
    """Keys that cannot be read now are asked for again, and the others are not."""
    request = ttypes.MultiGetRequest([to_bytes("key", key) for key in keys], snapshot_token(snapshot))
    asked = list(request.keys)
    records: List[Optional[Record]] = [None] * len(asked)
    missing = list(range(len(asked)))  # indexes of the keys that were not read yet

    def convert(reply: Any) -> List[Optional[Record]]:
        check_length("keys", len(missing), reply.items)
        failed = []
        for index, item in zip(missing, reply.items):
            if item.error is None:
                records[index] = record(item.record)
            else:
                failed.append((index, kv_error(item.error)))
        missing[:] = [index for index, _ in failed]
        request.keys = [asked[index] for index in missing]
        if failed:
            # One that will not pass, or one that names a server, or any.
            raise min((error for _, error in failed), key=lambda error: (error.retryable, not error.master))
        return records

    return Call("multiGet", request, convert)


def check_length(what: str, asked: int, answered: Sequence[Any]) -> None:
    if len(answered) != asked:
        raise ProtocolError(f"the reply has {len(answered)} results for {asked} {what}", sent=True)


def write_op(op: Op) -> Any:
    if isinstance(op, Put):
        return ttypes.WriteOp(constants.OP_PUT, to_bytes("key", op.key), to_bytes("value", op.value),
                              condition=condition(op), return_previous=op.return_previous, **expiry(op))
    if isinstance(op, Remove):
        return ttypes.WriteOp(constants.OP_REMOVE, to_bytes("key", op.key), condition=condition(op),
                              return_previous=op.return_previous)
    if isinstance(op, Increment):
        return ttypes.WriteOp(constants.OP_INCREMENT, to_bytes("key", op.key), delta=op.delta, condition=condition(op),
                              **expiry(op))
    if isinstance(op, Touch):
        return ttypes.WriteOp(constants.OP_TOUCH, to_bytes("key", op.key), condition=condition(op), **expiry(op))
    raise TypeError(f"an op of a batch is a Put, Remove, Increment or Touch, not {type(op).__name__}")


def write_batch(ops: Sequence[Op], all_or_nothing: bool, conditions: Sequence[types.Condition]) -> Call:
    request = ttypes.WriteBatchRequest([write_op(op) for op in ops], all_or_nothing,
                                       [ttypes.KeyCondition(to_bytes("key", c.key), condition(c)) for c in conditions])

    def convert(reply: Any) -> BatchResult:
        failed = [types.FailedCondition(f.index or 0, record(f.current), bool(f.current_value_omitted))
                  for f in reply.failed_conditions or ()]
        if not failed:
            check_length("ops", len(request.ops), reply.results)
        return BatchResult([write_result(result) for result in reply.results], failed)

    return Call("writeBatch", request, convert, WRITE, batch=BatchOutcome())


# -- ranges ------------------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """Keys from start (inclusive) to end (exclusive), narrowed to the prefix."""

    start: bytes = b""
    end: bytes = b""
    prefix: bytes = b""

    @classmethod
    def of(cls, start: bytes, end: bytes, prefix: bytes) -> "Range":
        return cls(to_bytes("start", start), to_bytes("end", end), to_bytes("prefix", prefix))


class ScanSpec(NamedTuple):
    """What a scan reads, apart from where it continues."""

    range: Range
    reverse: bool = False
    keys_only: bool = False
    sizes_only: bool = False
    limit: Optional[int] = None
    page_rows: int = 0
    page_bytes: int = 0
    snapshot: bytes = b""
    since: bytes = b""
    slices: int = 0
    slice: int = 0


def row(found: Any) -> Row:
    return Row(found.key or b"", found.value or b"", found.version or 0, found.expires_at_ms or 0, bool(found.removed),
               found.value_bytes)


def scan(spec: ScanSpec, cursor: bytes, rows_left: Optional[int]) -> Call:
    """One page. `rows_left`: of the scan's limit."""
    limit_rows = spec.page_rows
    if rows_left is not None and (limit_rows == 0 or rows_left < limit_rows):
        limit_rows = min(rows_left, 0x7FFFFFFF)
    request = ttypes.ScanRequest(*spec.range, spec.reverse, spec.keys_only, limit_rows, spec.page_bytes, cursor,
                                 spec.snapshot, spec.since, spec.sizes_only, spec.slices, spec.slice)
    return Call("scan", request, lambda reply: types.Page([row(r) for r in reply.rows], reply.cursor or b""),
                needs="slices" if spec.slices else "")


def count(where: Range, snapshot: Any) -> Call:
    return Call("count", ttypes.CountRequest(*where, snapshot_token(snapshot)), lambda reply: reply.count or 0)


def aggregate(where: Range, snapshot: Any) -> Call:
    return Call("aggregate", ttypes.AggregateRequest(*where, snapshot_token(snapshot)),
                lambda reply: types.Aggregate(reply.count or 0, reply.bytes or 0, reply.content_hash or 0))


def split_range(where: Range, parts: int, snapshot: Any) -> Call:
    request = ttypes.SplitRangeRequest(*where, parts, snapshot_token(snapshot))
    return Call("splitRange", request, lambda reply: [
        types.RangePart(p.start_key or b"", p.end_key or b"", p.count or 0, p.bytes or 0) for p in reply.parts])


def delete_range(where: Range, page_rows: int, max_version: int, cursor: bytes) -> Call:
    request = ttypes.DeleteRangeRequest(*where, page_rows, cursor, max_version)
    return Call("deleteRange", request, lambda reply: types.DeletePage(reply.removed or 0, reply.cursor or b""), PLAIN)


# -- watches and snapshots ---------------------------------------------------------------------------------------------


def watch(prefix: bytes, position: bytes, after_version: int, wait_ms: int, limit_changes: int) -> Call:
    request = ttypes.WatchRequest(prefix, position, after_version, wait_ms, limit_changes)
    return Call("watch", request, lambda reply: types.Changes(
        [types.Change(c.key or b"", c.version or 0, bool(c.removed)) for c in reply.changes or ()],
        reply.position or b"", bool(reply.more)), PLAIN)


def snapshot_info(reply: Any) -> types.SnapshotInfo:
    return types.SnapshotInfo(reply.snapshot or b"", reply.version or 0, reply.expires_at_ms or 0)


def open_snapshot(ttl_ms: int) -> Call:
    return Call("openSnapshot", ttypes.OpenSnapshotRequest(ttl_ms), snapshot_info, PLAIN)


def renew_snapshot(token: bytes, ttl_ms: int) -> Call:
    return Call("renewSnapshot", ttypes.RenewSnapshotRequest(token, ttl_ms), snapshot_info, PLAIN)


def release_snapshot(token: bytes) -> Call:
    return Call("releaseSnapshot", ttypes.ReleaseSnapshotRequest(token), lambda reply: bool(reply.existed), PLAIN)


# -- hello -------------------------------------------------------------------------------------------------------------

API_VERSION = 2
LIMITS = ("max_key_bytes", "max_value_bytes", "max_batch_ops", "max_batch_bytes", "max_multi_get_keys",
          "max_frame_bytes", "max_scan_rows", "max_scan_bytes")


def hello(client_name: str, features: Sequence[str]) -> Any:
    return ttypes.HelloRequest(client_name=client_name, api_version=API_VERSION, features=list(features))


def server_info(reply: Any) -> types.ServerInfo:
    limits = {name: getattr(reply.limits, name, None) or 0 for name in LIMITS}
    return types.ServerInfo(reply.server_version or "", reply.api_version or 0, reply.cluster_id or "",
                            tuple(reply.features or ()), limits)


def reads_snapshot(call: Call) -> bool:
    return bool(getattr(call.request, "snapshot", None) or getattr(call.request, "since", None))


def with_level(call: Call, level: Optional[int], max_staleness_ms: Optional[int], defaults: Any) -> Call:
    """The call at a level; without one, at the client's."""
    if call.kind == READ:
        # Another replica than the master may not have the snapshot.
        chosen = (Level.DEFAULT if reads_snapshot(call) else defaults.read_level) if level is None else Level(level)
        staleness = defaults.max_staleness_ms if max_staleness_ms is None else max_staleness_ms
        return call._replace(level=int(chosen), max_staleness_ms=staleness if chosen == Level.BOUNDED else 0)
    chosen = defaults.write_level if level is None else Level(level)
    return call._replace(level=int(chosen))
