"""The synchronous client. `Client` may be used by several threads; `Session`, `Scan` and `Watch` by one at a time."""

from __future__ import annotations

import os
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Iterable, Iterator, List, Optional, Sequence, Type, Union

from . import _codec as codec
from . import _requests as requests
from . import types
from ._connection import LONGEST_WAIT_S, Connection, Pool
from ._core import GRACE_S, Attempts, Core, Defaults, ScanState, SessionState, parse_addresses
from .errors import ClosedError, PandoError, SnapshotGoneError, TransportError
from .types import Level, Record, Row, WriteResult

SnapshotLike = Union["Snapshot", bytes, None]
DEFAULT_WAIT_MS = 10000  # of one request of a watch


class _Reads:
    """The reads of a Client, a Session and a Snapshot.

    All raise PandoError. `timeout_ms` is the time of the whole call with its retries; without it, the client's.
    `level` and `max_staleness_ms`: see Level; without them, the client's. `snapshot`: a Snapshot or its token.
    """

    def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        raise NotImplementedError

    def _at(self, snapshot: SnapshotLike) -> bytes:
        return requests.snapshot_token(snapshot)

    def _read(self, call: requests.Call, level: Optional[Level], max_staleness_ms: Optional[int],
              timeout_ms: Optional[float]) -> Any:
        return self._run(requests.with_level(call, level, max_staleness_ms, self._defaults()), timeout_ms)

    def _defaults(self) -> Defaults:
        raise NotImplementedError

    def get(self, key: bytes, *, snapshot: SnapshotLike = None, level: Optional[Level] = None,
            max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> Optional[Record]:
        """The record of a key, or None if there is none."""
        return self._read(requests.get(key, self._at(snapshot)), level, max_staleness_ms, timeout_ms)

    def multi_get(self, keys: Iterable[bytes], *, snapshot: SnapshotLike = None, level: Optional[Level] = None,
                  max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> List[Optional[Record]]:
        """The records of several keys, in their order. Without a snapshot, each is read at a moment of its own."""
        call = requests.multi_get(keys, self._at(snapshot))
        return self._read(call, level, max_staleness_ms, timeout_ms)

    def scan(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"", reverse: bool = False,
             keys_only: bool = False, sizes_only: bool = False, limit: Optional[int] = None, page_rows: int = 0,
             page_bytes: int = 0, snapshot: SnapshotLike = None, since: SnapshotLike = None, slices: int = 0,
             slice: int = 0, cursor: bytes = b"", level: Optional[Level] = None,  # pylint: disable=redefined-builtin
             max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> "Scan":
        """The rows of a range in key order, page by page as they are needed.

        start is inclusive, end exclusive, b"" = no bound; prefix narrows them. limit: rows in all. page_rows and
        page_bytes: of one request; 0 = the server's limits. since: an older snapshot; only the changes since then.
        slices and slice: only the rows of one of so many slices, for parallel jobs. cursor: continue another scan of
        the same range. timeout_ms is the time of each page.
        """
        spec = requests.ScanSpec(requests.Range.of(start, end, prefix), reverse, keys_only, sizes_only, limit, page_rows,
                                 page_bytes, self._at(snapshot), requests.snapshot_token(since), slices, slice)
        return Scan(lambda call: self._read(call, level, max_staleness_ms, timeout_ms),
                    ScanState(spec, requests.to_bytes("cursor", cursor)))

    def count(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"", snapshot: SnapshotLike = None,
              level: Optional[Level] = None, max_staleness_ms: Optional[int] = None,
              timeout_ms: Optional[float] = None) -> int:
        """The number of records in a range. It takes O(log n)."""
        call = requests.count(requests.Range.of(start, end, prefix), self._at(snapshot))
        return self._read(call, level, max_staleness_ms, timeout_ms)

    def aggregate(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"", snapshot: SnapshotLike = None,
                  level: Optional[Level] = None, max_staleness_ms: Optional[int] = None,
                  timeout_ms: Optional[float] = None) -> types.Aggregate:
        """Records, bytes and content hash of a range. It takes O(log n)."""
        call = requests.aggregate(requests.Range.of(start, end, prefix), self._at(snapshot))
        return self._read(call, level, max_staleness_ms, timeout_ms)

    def split_range(self, parts: int, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"",
                    snapshot: SnapshotLike = None, level: Optional[Level] = None,
                    max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> List[types.RangePart]:
        """Divides a range into at most `parts` (2 to 256) parts with about equally many records."""
        call = requests.split_range(requests.Range.of(start, end, prefix), parts, self._at(snapshot))
        return self._read(call, level, max_staleness_ms, timeout_ms)


class _Writes:
    """The writes of a Client and a Session.

    A write returns once it is on the disks that its level asks for. It is repeated until its time is over, and counts
    once however often it was sent. A condition (if_version, if_value, if_exists) that does not hold is a result, not
    an exception. Expiry: ttl_ms from the write on, or expires_at_ms, or ttl="keep" (an existing record keeps what it
    has; a new one never expires) or "clear". After a PandoError, `applied` says whether the write took effect.
    """

    def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        raise NotImplementedError

    def _defaults(self) -> Defaults:
        raise NotImplementedError

    def _write(self, call: requests.Call, level: Optional[Level], timeout_ms: Optional[float]) -> Any:
        return self._run(requests.with_level(call, level, None, self._defaults()), timeout_ms)

    def put(self, key: bytes, value: bytes, *, ttl_ms: Optional[int] = None, expires_at_ms: Optional[int] = None,
            ttl: str = "keep", if_version: Optional[int] = None, if_value: Optional[bytes] = None,
            if_exists: Optional[bool] = None, return_previous: bool = False, level: Optional[Level] = None,
            timeout_ms: Optional[float] = None) -> WriteResult:
        """Creates or replaces a record."""
        op = types.Put(key, value, ttl_ms, expires_at_ms, ttl, if_version, if_value, if_exists, return_previous)
        return self._write(requests.put(op), level, timeout_ms)

    def remove(self, key: bytes, *, if_version: Optional[int] = None, if_value: Optional[bytes] = None,
               if_exists: Optional[bool] = None, return_previous: bool = False, level: Optional[Level] = None,
               timeout_ms: Optional[float] = None) -> WriteResult:
        """Removes a record. If there is none, `applied` is true and `existed` is false."""
        op = types.Remove(key, if_version, if_value, if_exists, return_previous)
        return self._write(requests.remove(op), level, timeout_ms)

    def increment(self, key: bytes, delta: int = 1, *, ttl_ms: Optional[int] = None,
                  expires_at_ms: Optional[int] = None, ttl: str = "keep", level: Optional[Level] = None,
                  timeout_ms: Optional[float] = None) -> int:
        """Adds to a decimal number (signed, 64 bits; a missing record counts as 0), and returns the sum.

        A batch takes increments with conditions.
        """
        op = types.Increment(key, delta, ttl_ms, expires_at_ms, ttl)
        return self._write(requests.increment(op), level, timeout_ms)

    def touch(self, key: bytes, *, ttl_ms: Optional[int] = None, expires_at_ms: Optional[int] = None, ttl: str = "clear",
              if_version: Optional[int] = None, if_value: Optional[bytes] = None, if_exists: Optional[bool] = None,
              level: Optional[Level] = None, timeout_ms: Optional[float] = None) -> WriteResult:
        """Changes when a record expires, and leaves its value as it is. Without a record, `applied` is false."""
        op = types.Touch(key, ttl_ms, expires_at_ms, ttl, if_version, if_value, if_exists)
        return self._write(requests.touch(op), level, timeout_ms)

    def write_batch(self, ops: Sequence[types.Op], *, all_or_nothing: bool = False,
                    conditions: Sequence[types.Condition] = (), level: Optional[Level] = None,
                    timeout_ms: Optional[float] = None) -> types.BatchResult:
        """Several writes in one request, with a result for each. Ops on keys of one {tag} become visible together.

        While ops fail in a way that may pass, the batch is sent again, under the same name. When its time is over, it
        returns what is known, and the results of those ops have their errors.

        all_or_nothing: one refused op refuses all ops of its partition. conditions: all must hold, or no op is applied;
        all keys must then have one {tag}.
        """
        return self._write(requests.write_batch(ops, all_or_nothing, conditions), level, timeout_ms)

    def batch(self, *, all_or_nothing: bool = False) -> "Batch":
        """A builder for write_batch: client.batch().put(b"a", b"1").increment(b"n").write()."""
        return Batch(self.write_batch, all_or_nothing)

    def delete_range(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"", page_rows: int = 0,
                     max_version: int = 0, timeout_ms: Optional[float] = None) -> int:
        """Removes the records of a range, and returns how many. Without bounds, that is all records.

        max_version: only those with at most this version, such as a snapshot's; 0 = all. page_rows: how many records
        one request examines; timeout_ms is its time. Readers see some records removed before others. After a lost
        answer a request is repeated, and what it had removed is not counted.
        """
        where = requests.Range.of(start, end, prefix)
        removed, cursor = 0, b""
        while True:
            page = self._run(requests.delete_range(where, page_rows, max_version, cursor), timeout_ms)
            removed, cursor = removed + page.removed, page.cursor
            if not cursor:
                return removed


class Batch:
    """Collects the ops of a write_batch. `write` sends them."""

    def __init__(self, write_batch: Any, all_or_nothing: bool):
        self._write_batch = write_batch
        self._all_or_nothing = all_or_nothing
        self.ops: List[types.Op] = []
        self.conditions: List[types.Condition] = []

    def put(self, key: bytes, value: bytes, **options: Any) -> "Batch":
        self.ops.append(types.Put(key, value, **options))
        return self

    def remove(self, key: bytes, **options: Any) -> "Batch":
        self.ops.append(types.Remove(key, **options))
        return self

    def increment(self, key: bytes, delta: int = 1, **options: Any) -> "Batch":
        self.ops.append(types.Increment(key, delta, **options))
        return self

    def touch(self, key: bytes, **options: Any) -> "Batch":
        self.ops.append(types.Touch(key, **options))
        return self

    def require(self, key: bytes, **condition: Any) -> "Batch":
        """A condition of the whole batch: if_version, if_value or if_exists."""
        self.conditions.append(types.Condition(key, **condition))
        return self

    def write(self, *, level: Optional[Level] = None, timeout_ms: Optional[float] = None) -> Any:
        """Sends the batch; with an AsyncClient, returns an awaitable."""
        return self._write_batch(self.ops, all_or_nothing=self._all_or_nothing, conditions=self.conditions, level=level,
                                 timeout_ms=timeout_ms)

    def __len__(self) -> int:
        return len(self.ops)


class Client(_Reads, _Writes):
    """A client of a cluster, or of one node.

    addresses: "host:port" of one or several routers (or nodes); a call that one of them does not answer goes to the next.
    Calls that name their keys may be given all nodes of a cluster instead: they go to the master that a node names, if that
    is one of these addresses. pool_size: the most calls at once, and the most connections to each address (of an
    AsyncClient, in all); a Watch has one of its own. Connections are made when they are needed. After a fork, the child makes its own. read_level, write_level, max_staleness_ms: what calls use
    that name none.
    """

    def __init__(self, addresses: Union[str, Sequence[str]] = "127.0.0.1:7450", *, timeout_ms: int = 10000,
                 pool_size: int = 8, connect_timeout_ms: int = 2000, client_name: str = "",
                 read_level: Level = Level.DEFAULT, write_level: Level = Level.DEFAULT, max_staleness_ms: int = 0):
        if pool_size < 1:
            raise ValueError("pool_size must be at least 1")
        defaults = Defaults(timeout_ms, Level(read_level), Level(write_level), max_staleness_ms)
        self._core = Core(parse_addresses(addresses), defaults)
        self._pool = Pool(self._core.addresses, pool_size, connect_timeout_ms / 1000, client_name)
        self._closed = False
        self._watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()
        _clients.add(self)

    def _after_fork(self) -> None:
        self._core.after_fork()
        self._pool.after_fork(self._core.addresses)
        for watch in list(self._watches):
            watch._after_fork()  # pylint: disable=protected-access

    def _defaults(self) -> Defaults:
        return self._core.defaults

    def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        return self._execute(Attempts(self._core, call, timeout_ms, None))

    def _execute(self, attempts: Attempts) -> Any:
        try:
            while True:
                again = False
                try:
                    connection = self._pool.acquire(attempts.deadline, attempts.prefer)
                    again = connection.used
                    return self._try(attempts, connection)
                except PandoError as error:
                    # What fails on a connection that was idle is repeated at once: the server may have closed it.
                    try:
                        wait_s = attempts.failed(error, again and isinstance(error, TransportError))
                    except PandoError as final:
                        return attempts.partial(final)
                if wait_s:
                    time.sleep(wait_s)
        finally:
            attempts.end()

    def _try(self, attempts: Attempts, connection: Connection) -> Any:
        call = attempts.call
        healthy = False  # also after an exception that comes from outside
        try:
            context = attempts.context(connection.server)
            timeout_s = max(attempts.remaining_s(), 0) + GRACE_S
            reply = connection.call(call.method, context, call.request, timeout_s)
            healthy = True
            return attempts.result(reply)
        except codec.ServerRefused as refused:
            healthy = True
            raise attempts.refused(refused.error, connection.address) from None
        except TransportError:
            healthy = False
            self._pool.addresses.failed(connection.address)
            raise
        except PandoError as error:
            healthy = True
            attempts.refer(error, connection.address)
            raise
        finally:
            if healthy:
                self._pool.release(connection)
            else:
                self._pool.discard(connection)

    def server_info(self, *, timeout_ms: Optional[float] = None) -> types.ServerInfo:
        """Version, features and limits of the server."""
        call = requests.Call("hello", requests.hello("", ()), requests.server_info, requests.PLAIN)
        return self._run(call, timeout_ms)

    def session(self) -> "Session":
        """A session: its reads see all that it has written and read, at any replica."""
        return Session(self)

    def snapshot(self, ttl_ms: int = 60000, *, renew: bool = True, timeout_ms: Optional[float] = None) -> "Snapshot":
        """Opens a snapshot of everything. Use it in a `with` block, which releases it.

        It lives for ttl_ms, and with `renew` a thread renews it at a third of that until it is released.
        """
        info = self._run(requests.open_snapshot(ttl_ms), timeout_ms)
        return Snapshot(self, info, ttl_ms, renew)

    def watch(self, prefix: bytes = b"", *, after_version: int = 0, position: bytes = b"",
              timeout_ms: Optional[float] = None) -> "Watch":
        """Changes of the records whose keys begin with the prefix.

        It begins at the position of an earlier watch, or after a version, such as a snapshot's; without either, now:
        whatever changes after this call has returned is reported. timeout_ms is the time of each request beyond what it
        waits for changes.
        """
        return Watch(self, prefix, after_version, position, timeout_ms)

    def close(self) -> None:
        """Closes all connections and watches. Calls that run may still end."""
        self._closed = True
        self._pool.close()
        for watch in list(self._watches):
            watch.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()  # pylint: disable=protected-access


os.register_at_fork(after_in_child=_after_fork)


class _Turns:
    """Whose turn it is in a session. May be used by several threads. As with the slots of a Pool, a turn also ends when
    nobody refers to its call any more, because a KeyboardInterrupt may come at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._taken: "weakref.WeakSet[Attempts]" = weakref.WeakSet()  # none or one

    def take(self, attempts: Attempts) -> None:
        """Waits until the others have given theirs back. Raises DeadlineError when the call's time is over."""
        with self._lock:
            while len(self._taken) > 0:
                left_s = attempts.remaining_s()
                if left_s <= 0:
                    raise attempts.without_turn()
                self._changed.wait(min(left_s, LONGEST_WAIT_S))
            self._taken.add(attempts)

    def give_back(self, attempts: Attempts) -> None:
        """Also if it has none."""
        with self._lock:
            self._taken.discard(attempts)
            self._changed.notify()


class Session(_Reads, _Writes):
    """The calls of a client, whose reads see all that the session has seen. One call at a time: others wait, no longer than
    their timeout.

    `token` may be carried to another process: client.session() there, and set it.
    """

    def __init__(self, client: Client):
        self._client = client
        self._state = SessionState()
        self._turns = _Turns()

    @property
    def token(self) -> bytes:
        """What the session has seen, so far."""
        return self._state.token

    @token.setter
    def token(self, token: bytes) -> None:
        self._state.token = requests.to_bytes("token", token)

    def _defaults(self) -> Defaults:
        defaults = self._client._core.defaults  # pylint: disable=protected-access
        return Defaults(defaults.timeout_ms, self._state.read_level(), defaults.write_level)

    def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        attempts = Attempts(self._client._core, call, timeout_ms, self._state)  # pylint: disable=protected-access
        try:
            self._turns.take(attempts)
            return self._client._execute(attempts)  # pylint: disable=protected-access
        finally:
            self._turns.give_back(attempts)


class Snapshot(_Reads):
    """An open snapshot: its reads see everything at one moment. `release` it, or use it in a `with` block.

    token: names it in other processes. version: it has all writes up to this one, and a watch may begin after it.
    """

    def __init__(self, client: Client, info: types.SnapshotInfo, ttl_ms: int, renew: bool):
        self._client = client
        self._ttl_ms = ttl_ms
        self.token = info.token
        self.version = info.version
        self.expires_at_ms = info.expires_at_ms
        self._ended = threading.Event()
        if renew:
            threading.Thread(target=_renew_loop, args=(weakref.ref(self), self._ended, ttl_ms), name="pando-snapshot",
                             daemon=True).start()

    def _defaults(self) -> Defaults:
        defaults = self._client._core.defaults  # pylint: disable=protected-access
        return Defaults(defaults.timeout_ms)

    def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        return self._client._run(call, timeout_ms)  # pylint: disable=protected-access

    def _at(self, snapshot: SnapshotLike) -> bytes:
        if snapshot is not None:
            raise requests.refuse("this is a snapshot already")
        return self.token

    def renew(self, ttl_ms: int = 0, *, timeout_ms: Optional[float] = None) -> types.SnapshotInfo:
        """Makes it live for ttl_ms from now on (0 = as long as it was opened for)."""
        info = self._run(requests.renew_snapshot(self.token, ttl_ms or self._ttl_ms), timeout_ms)
        self.expires_at_ms = info.expires_at_ms
        return info

    def release(self, *, timeout_ms: Optional[float] = None) -> bool:
        """Ends it, and lets the server reuse its space. False: it was gone already."""
        self._ended.set()
        return self._run(requests.release_snapshot(self.token), timeout_ms)

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        try:
            self.release()
        except PandoError:
            if kind is None:
                raise


def _renew_loop(snapshot_ref: "weakref.ref[Snapshot]", ended: threading.Event, ttl_ms: int) -> None:
    """Renews a snapshot until it is released, or nobody has it any more."""
    while not ended.wait(ttl_ms / 3000):
        snapshot = snapshot_ref()
        if not snapshot:
            return
        try:
            snapshot.renew(timeout_ms=ttl_ms / 3)
        except (SnapshotGoneError, ClosedError):
            return  # the next read says so
        except PandoError:
            continue
        finally:
            del snapshot


class Scan:
    """Iterates over the rows of a scan; `pages` over its pages.

    `cursor` continues after the last page whose rows were all given out: another scan of the same range takes it, also
    in another process. b"" after the end; `finished` tells that from the beginning.
    """

    def __init__(self, read: Any, state: ScanState):
        self._read = read
        self._state = state
        self.cursor = state.next_cursor
        self._rows = self._iterate()

    @property
    def finished(self) -> bool:
        """There are no more pages to read."""
        return self._state.finished

    @property
    def pages_read(self) -> int:
        return self._state.pages

    def pages(self) -> Iterator[types.Page]:
        """The pages, as the server sends them. `cursor` is after the page that was given out last."""
        while not self._state.finished:
            page = self._read(self._state.call())
            self._state.took(page)
            self.cursor = page.cursor
            yield page

    def _iterate(self) -> Iterator[Row]:
        while not self._state.finished:
            page = self._read(self._state.call())
            self._state.took(page)
            yield from page.rows
            self.cursor = page.cursor

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __next__(self) -> Row:
        return next(self._rows)


class Watch:
    """Changes as they happen, on a connection of its own. It never ends by itself: `close` it.

    Iterating waits for changes without end. `poll` waits for a limited time. `position` continues after all changes
    that were given out, also in another process; it is safe to store it with what was made of them. FeedGoneError: it
    fell too far behind; open a snapshot, scan it, and watch from its version.
    """

    def __init__(self, client: Client, prefix: bytes, after_version: int, position: bytes, timeout_ms: Optional[float]):
        self._client = client
        self._prefix = requests.to_bytes("prefix", prefix)
        self._after_version = after_version
        self._timeout_ms = client._core.defaults.timeout_ms if timeout_ms is None else timeout_ms  # pylint: disable=protected-access
        self._connection: Optional[Connection] = None
        self._closed = False
        self.position = requests.to_bytes("position", position)
        client._watches.add(self)  # pylint: disable=protected-access
        if not self.position and not after_version:
            self.position = self._request(0, 0).position

    def poll(self, wait_ms: int = DEFAULT_WAIT_MS, limit: int = 0) -> List[types.Change]:
        """The next changes, at most `limit` (0 = the server's limit); [] if there is none within wait_ms."""
        reply = self._request(wait_ms, limit)
        self.position = reply.position
        return reply.changes

    def __iter__(self) -> Iterator[types.Change]:
        while True:
            reply = self._request(DEFAULT_WAIT_MS, 0)
            yield from reply.changes
            self.position = reply.position

    def _request(self, wait_ms: int, limit: int) -> types.Changes:
        call = requests.watch(self._prefix, self.position, 0 if self.position else self._after_version, wait_ms, limit)
        core = self._client._core  # pylint: disable=protected-access
        attempts = Attempts(core, call, wait_ms + self._timeout_ms, None)
        while True:
            if self._closed or self._client._closed:  # pylint: disable=protected-access
                raise ClosedError("watch")
            try:
                return self._try(attempts)
            except PandoError as error:
                wait_s = attempts.failed(error)
            time.sleep(wait_s)

    def _try(self, attempts: Attempts) -> types.Changes:
        pool = self._client._pool  # pylint: disable=protected-access
        if not self._connection:
            self._connection = pool.connect(attempts.deadline, attempts.prefer)
        connection = self._connection
        try:
            context = attempts.context(connection.server)
            return attempts.result(connection.call("watch", context, attempts.call.request,
                                                   max(attempts.remaining_s(), 0) + GRACE_S))
        except codec.ServerRefused as refused:
            refusal = attempts.refused(refused.error, connection.address)
            if attempts.prefer:
                connection.close()
                self._connection = None
            raise refusal from None
        except BaseException as error:
            connection.close()
            self._connection = None
            if isinstance(error, TransportError):
                pool.addresses.failed(connection.address)
                if self._closed:
                    raise ClosedError("watch") from error
            raise

    def _after_fork(self) -> None:
        """In the child: the socket belongs to the parent."""
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def close(self) -> None:
        """Closes its connection. Another thread may call it; an iteration that waits ends with ClosedError."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection:
            connection.abort()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


__all__ = ["Batch", "Client", "Scan", "Session", "Snapshot", "Watch"]
