"""The client for asyncio. All objects belong to one event loop; many calls may run at once, and share connections."""

from __future__ import annotations

import asyncio
import collections
import weakref
from types import TracebackType
from typing import Any, AsyncIterator, Deque, Iterable, List, Optional, Sequence, Type, Union

from . import _codec as codec
from . import _requests as requests
from . import types
from ._async_connection import OUT_OF_ORDER, AsyncConnection, AsyncPool
from ._core import GRACE_S, Attempts, Core, Defaults, ScanState, SessionState, parse_addresses
from .client import DEFAULT_WAIT_MS, Batch
from .errors import ClosedError, PandoError, ProtocolError, SnapshotGoneError, TransportError
from .types import Level, Record, Row, WriteResult

AsyncSnapshotLike = Union["AsyncSnapshot", bytes, None]


class _AsyncReads:
    """The reads of an AsyncClient, an AsyncSession and an AsyncSnapshot. See the methods of Client."""

    async def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        raise NotImplementedError

    def _defaults(self) -> Defaults:
        raise NotImplementedError

    def _at(self, snapshot: AsyncSnapshotLike) -> bytes:
        return requests.snapshot_token(snapshot)

    async def _read(self, call: requests.Call, level: Optional[Level], max_staleness_ms: Optional[int],
                    timeout_ms: Optional[float]) -> Any:
        return await self._run(requests.with_level(call, level, max_staleness_ms, self._defaults()), timeout_ms)

    async def get(self, key: bytes, *, snapshot: AsyncSnapshotLike = None, level: Optional[Level] = None,
                  max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> Optional[Record]:
        """As Client.get."""
        return await self._read(requests.get(key, self._at(snapshot)), level, max_staleness_ms, timeout_ms)

    async def multi_get(self, keys: Iterable[bytes], *, snapshot: AsyncSnapshotLike = None,
                        level: Optional[Level] = None, max_staleness_ms: Optional[int] = None,
                        timeout_ms: Optional[float] = None) -> List[Optional[Record]]:
        """As Client.multi_get."""
        call = requests.multi_get(keys, self._at(snapshot))
        return await self._read(call, level, max_staleness_ms, timeout_ms)

    def scan(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"", reverse: bool = False,
             keys_only: bool = False, sizes_only: bool = False, limit: Optional[int] = None, page_rows: int = 0,
             page_bytes: int = 0, snapshot: AsyncSnapshotLike = None, since: AsyncSnapshotLike = None, slices: int = 0,
             slice: int = 0, cursor: bytes = b"", level: Optional[Level] = None,  # pylint: disable=redefined-builtin
             max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> "AsyncScan":
        """As Client.scan, for `async for`."""
        spec = requests.ScanSpec(requests.Range.of(start, end, prefix), reverse, keys_only, sizes_only, limit, page_rows,
                                 page_bytes, self._at(snapshot), requests.snapshot_token(since), slices, slice)
        return AsyncScan(lambda call: self._read(call, level, max_staleness_ms, timeout_ms),
                         ScanState(spec, requests.to_bytes("cursor", cursor)))

    async def count(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"",
                    snapshot: AsyncSnapshotLike = None, level: Optional[Level] = None,
                    max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> int:
        """As Client.count."""
        call = requests.count(requests.Range.of(start, end, prefix), self._at(snapshot))
        return await self._read(call, level, max_staleness_ms, timeout_ms)

    async def aggregate(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"",
                        snapshot: AsyncSnapshotLike = None, level: Optional[Level] = None,
                        max_staleness_ms: Optional[int] = None, timeout_ms: Optional[float] = None) -> types.Aggregate:
        """As Client.aggregate."""
        call = requests.aggregate(requests.Range.of(start, end, prefix), self._at(snapshot))
        return await self._read(call, level, max_staleness_ms, timeout_ms)

    async def split_range(self, parts: int, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"",
                          snapshot: AsyncSnapshotLike = None, level: Optional[Level] = None,
                          max_staleness_ms: Optional[int] = None,
                          timeout_ms: Optional[float] = None) -> List[types.RangePart]:
        """As Client.split_range."""
        call = requests.split_range(requests.Range.of(start, end, prefix), parts, self._at(snapshot))
        return await self._read(call, level, max_staleness_ms, timeout_ms)


class _AsyncWrites:
    """The writes of an AsyncClient and an AsyncSession. See the methods of Client."""

    async def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        raise NotImplementedError

    def _defaults(self) -> Defaults:
        raise NotImplementedError

    async def _write(self, call: requests.Call, level: Optional[Level], timeout_ms: Optional[float]) -> Any:
        return await self._run(requests.with_level(call, level, None, self._defaults()), timeout_ms)

    async def put(self, key: bytes, value: bytes, *, ttl_ms: Optional[int] = None, expires_at_ms: Optional[int] = None,
                  ttl: str = "keep", if_version: Optional[int] = None, if_value: Optional[bytes] = None,
                  if_exists: Optional[bool] = None, return_previous: bool = False, level: Optional[Level] = None,
                  timeout_ms: Optional[float] = None) -> WriteResult:
        """As Client.put."""
        op = types.Put(key, value, ttl_ms, expires_at_ms, ttl, if_version, if_value, if_exists, return_previous)
        return await self._write(requests.put(op), level, timeout_ms)

    async def remove(self, key: bytes, *, if_version: Optional[int] = None, if_value: Optional[bytes] = None,
                     if_exists: Optional[bool] = None, return_previous: bool = False, level: Optional[Level] = None,
                     timeout_ms: Optional[float] = None) -> WriteResult:
        """As Client.remove."""
        op = types.Remove(key, if_version, if_value, if_exists, return_previous)
        return await self._write(requests.remove(op), level, timeout_ms)

    async def increment(self, key: bytes, delta: int = 1, *, ttl_ms: Optional[int] = None,
                        expires_at_ms: Optional[int] = None, ttl: str = "keep", level: Optional[Level] = None,
                        timeout_ms: Optional[float] = None) -> int:
        """As Client.increment."""
        op = types.Increment(key, delta, ttl_ms, expires_at_ms, ttl)
        return await self._write(requests.increment(op), level, timeout_ms)

    async def touch(self, key: bytes, *, ttl_ms: Optional[int] = None, expires_at_ms: Optional[int] = None,
                    ttl: str = "clear", if_version: Optional[int] = None, if_value: Optional[bytes] = None,
                    if_exists: Optional[bool] = None, level: Optional[Level] = None,
                    timeout_ms: Optional[float] = None) -> WriteResult:
        """As Client.touch."""
        op = types.Touch(key, ttl_ms, expires_at_ms, ttl, if_version, if_value, if_exists)
        return await self._write(requests.touch(op), level, timeout_ms)

    async def write_batch(self, ops: Sequence[types.Op], *, all_or_nothing: bool = False,
                          conditions: Sequence[types.Condition] = (), level: Optional[Level] = None,
                          timeout_ms: Optional[float] = None) -> types.BatchResult:
        """As Client.write_batch."""
        return await self._write(requests.write_batch(ops, all_or_nothing, conditions), level, timeout_ms)

    def batch(self, *, all_or_nothing: bool = False) -> Batch:
        """As Client.batch; await its `write`."""
        return Batch(self.write_batch, all_or_nothing)

    async def delete_range(self, *, prefix: bytes = b"", start: bytes = b"", end: bytes = b"", page_rows: int = 0,
                           max_version: int = 0, timeout_ms: Optional[float] = None) -> int:
        """As Client.delete_range."""
        where = requests.Range.of(start, end, prefix)
        removed, cursor = 0, b""
        while True:
            page = await self._run(requests.delete_range(where, page_rows, max_version, cursor), timeout_ms)
            removed, cursor = removed + page.removed, page.cursor
            if not cursor:
                return removed


class AsyncClient(_AsyncReads, _AsyncWrites):
    """A client of a cluster, or of one node, for asyncio. The arguments are those of Client.

    Up to 128 calls share a connection. A call that is cancelled leaves the others as they are; whether a cancelled write
    took effect is unknown. Make it where its event loop runs.
    """

    def __init__(self, addresses: Union[str, Sequence[str]] = "127.0.0.1:7450", *, timeout_ms: int = 10000,
                 pool_size: int = 8, connect_timeout_ms: int = 2000, client_name: str = "",
                 read_level: Level = Level.DEFAULT, write_level: Level = Level.DEFAULT, max_staleness_ms: int = 0):
        if pool_size < 1:
            raise ValueError("pool_size must be at least 1")
        defaults = Defaults(timeout_ms, Level(read_level), Level(write_level), max_staleness_ms)
        self._core = Core(parse_addresses(addresses), defaults)
        self._pool = AsyncPool(self._core.addresses, pool_size, connect_timeout_ms / 1000, client_name)
        self._watches: "weakref.WeakSet[AsyncWatch]" = weakref.WeakSet()

    def _defaults(self) -> Defaults:
        return self._core.defaults

    async def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        return await self._execute(Attempts(self._core, call, timeout_ms, None))

    async def _execute(self, attempts: Attempts) -> Any:
        try:
            while True:
                again = False
                try:
                    connection = await self._pool.acquire(attempts.deadline, attempts.prefer)
                    again = connection.used
                    return await self._try(attempts, connection)
                except PandoError as error:
                    # What fails on a connection that was idle is repeated at once: the server may have closed it.
                    try:
                        wait_s = attempts.failed(error, again and isinstance(error, TransportError)
                                                 and attempts.tries == 0)
                    except PandoError as final:
                        return attempts.partial(final)
                await asyncio.sleep(wait_s)
        finally:
            attempts.end()

    async def _try(self, attempts: Attempts, connection: AsyncConnection) -> Any:
        call = attempts.call
        try:
            context = attempts.context(connection.server)
            timeout_s = max(attempts.remaining_s(), 0) + GRACE_S
            return attempts.result(await connection.call(call.method, context, call.request, timeout_s))
        except codec.ServerRefused as refused:
            raise attempts.refused(refused.error, connection.address) from None
        except TransportError as error:
            self._pool.addresses.failed(connection.address)
            if isinstance(error, ProtocolError):
                connection.retire()
            raise
        except PandoError as error:
            attempts.refer(error, connection.address)
            raise
        finally:
            self._pool.release(connection)

    async def server_info(self, *, timeout_ms: Optional[float] = None) -> types.ServerInfo:
        """As Client.server_info."""
        request = requests.hello("", [OUT_OF_ORDER])
        return await self._run(requests.Call("hello", request, requests.server_info, requests.PLAIN), timeout_ms)

    def session(self) -> "AsyncSession":
        """As Client.session."""
        return AsyncSession(self)

    async def snapshot(self, ttl_ms: int = 60000, *, renew: bool = True,
                       timeout_ms: Optional[float] = None) -> "AsyncSnapshot":
        """As Client.snapshot: `async with await client.snapshot() as snapshot:`. A task renews it."""
        info = await self._run(requests.open_snapshot(ttl_ms), timeout_ms)
        return AsyncSnapshot(self, info, ttl_ms, renew)

    async def watch(self, prefix: bytes = b"", *, after_version: int = 0, position: bytes = b"",
                    timeout_ms: Optional[float] = None) -> "AsyncWatch":
        """As Client.watch: `async for change in await client.watch(b"fruit/"):`."""
        watch = AsyncWatch(self, prefix, after_version, position, timeout_ms)
        await watch._begin()  # pylint: disable=protected-access
        return watch

    async def close(self) -> None:
        """Closes all connections and watches; calls that run fail."""
        await self._pool.close()
        for watch in list(self._watches):
            await watch.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()


class _Turns:
    """Whose turn it is in a session: the calls' in the order in which they came."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: "Deque[asyncio.Future[None]]" = collections.deque()  # done: has its turn, or does not wait any more

    async def take(self, attempts: Attempts) -> None:
        """Waits until those before have given theirs back. Raises DeadlineError when the call's time is over."""
        if not self._taken:
            self._taken = True
            return
        turn: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait([turn], timeout=max(attempts.remaining_s(), 0))
        except BaseException:
            if turn.done():
                self.give_back()
            turn.cancel()
            raise
        if not turn.done():
            turn.cancel()
            raise attempts.without_turn()

    def give_back(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False


class AsyncSession(_AsyncReads, _AsyncWrites):
    """As Session: the calls of a client, whose reads see all that the session has seen. One call at a time: others wait, no
    longer than their timeout."""

    def __init__(self, client: AsyncClient):
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

    async def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        attempts = Attempts(self._client._core, call, timeout_ms, self._state)  # pylint: disable=protected-access
        await self._turns.take(attempts)
        try:
            return await self._client._execute(attempts)  # pylint: disable=protected-access
        finally:
            self._turns.give_back()


class AsyncSnapshot(_AsyncReads):
    """As Snapshot. `release` it, or use it in an `async with` block."""

    def __init__(self, client: AsyncClient, info: types.SnapshotInfo, ttl_ms: int, renew: bool):
        self._client = client
        self._ttl_ms = ttl_ms
        self.token = info.token
        self.version = info.version
        self.expires_at_ms = info.expires_at_ms
        self._task = asyncio.ensure_future(_renew_loop(weakref.ref(self), ttl_ms)) if renew else None

    def _defaults(self) -> Defaults:
        return Defaults(self._client._core.defaults.timeout_ms)  # pylint: disable=protected-access

    async def _run(self, call: requests.Call, timeout_ms: Optional[float]) -> Any:
        return await self._client._run(call, timeout_ms)  # pylint: disable=protected-access

    def _at(self, snapshot: AsyncSnapshotLike) -> bytes:
        if snapshot is not None:
            raise requests.refuse("this is a snapshot already")
        return self.token

    async def renew(self, ttl_ms: int = 0, *, timeout_ms: Optional[float] = None) -> types.SnapshotInfo:
        """As Snapshot.renew."""
        info = await self._run(requests.renew_snapshot(self.token, ttl_ms or self._ttl_ms), timeout_ms)
        self.expires_at_ms = info.expires_at_ms
        return info

    async def release(self, *, timeout_ms: Optional[float] = None) -> bool:
        """As Snapshot.release."""
        if self._task:
            self._task.cancel()
        return await self._run(requests.release_snapshot(self.token), timeout_ms)

    async def __aenter__(self) -> "AsyncSnapshot":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        try:
            await self.release()
        except PandoError:
            if kind is None:
                raise


async def _renew_loop(snapshot_ref: "weakref.ref[AsyncSnapshot]", ttl_ms: int) -> None:
    """Renews a snapshot until it is released, or nobody has it any more."""
    while True:
        await asyncio.sleep(ttl_ms / 3000)
        snapshot = snapshot_ref()
        if not snapshot:
            return
        try:
            await snapshot.renew(timeout_ms=ttl_ms / 3)
        except (SnapshotGoneError, ClosedError):
            return  # the next read says so
        except PandoError:
            continue
        finally:
            del snapshot


class AsyncScan:
    """As Scan: iterates over the rows, and `pages` over the pages. `cursor` continues after what was given out."""

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

    async def pages(self) -> AsyncIterator[types.Page]:
        """The pages, as the server sends them. `cursor` is after the page that was given out last."""
        while not self._state.finished:
            page = await self._read(self._state.call())
            self._state.took(page)
            self.cursor = page.cursor
            yield page

    async def _iterate(self) -> AsyncIterator[Row]:
        while not self._state.finished:
            page = await self._read(self._state.call())
            self._state.took(page)
            for row in page.rows:
                yield row
            self.cursor = page.cursor

    def __aiter__(self) -> AsyncIterator[Row]:
        return self._rows


class AsyncWatch:
    """As Watch: changes as they happen, on a connection of its own, for `async for` or `poll`. `close` it."""

    def __init__(self, client: AsyncClient, prefix: bytes, after_version: int, position: bytes,
                 timeout_ms: Optional[float]):
        self._client = client
        self._prefix = requests.to_bytes("prefix", prefix)
        self._after_version = after_version
        self._timeout_ms = client._core.defaults.timeout_ms if timeout_ms is None else timeout_ms  # pylint: disable=protected-access
        self._connection: Optional[AsyncConnection] = None
        self._closed = False
        self.position = requests.to_bytes("position", position)
        client._watches.add(self)  # pylint: disable=protected-access

    async def _begin(self) -> None:
        if not self.position and not self._after_version:
            self.position = (await self._request(0, 0)).position

    async def poll(self, wait_ms: int = DEFAULT_WAIT_MS, limit: int = 0) -> List[types.Change]:
        """As Watch.poll."""
        reply = await self._request(wait_ms, limit)
        self.position = reply.position
        return reply.changes

    async def __aiter__(self) -> AsyncIterator[types.Change]:
        while True:
            reply = await self._request(DEFAULT_WAIT_MS, 0)
            for change in reply.changes:
                yield change
            self.position = reply.position

    async def _request(self, wait_ms: int, limit: int) -> types.Changes:
        call = requests.watch(self._prefix, self.position, 0 if self.position else self._after_version, wait_ms, limit)
        core = self._client._core  # pylint: disable=protected-access
        attempts = Attempts(core, call, wait_ms + self._timeout_ms, None)
        while True:
            if self._closed or self._client._pool.closed:  # pylint: disable=protected-access
                raise ClosedError("watch")
            try:
                return await self._try(attempts)
            except PandoError as error:
                wait_s = attempts.failed(error)
            await asyncio.sleep(wait_s)

    async def _try(self, attempts: Attempts) -> types.Changes:
        pool = self._client._pool  # pylint: disable=protected-access
        if not self._connection:
            self._connection = await pool.connect(attempts.deadline, attempts.prefer, [])
        connection = self._connection
        try:
            context = attempts.context(connection.server)
            return attempts.result(await connection.call("watch", context, attempts.call.request,
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

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection:
            connection.forget()

    async def close(self) -> None:
        """Closes its connection; a call that waits ends with ClosedError."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection:
            connection.close()
            await connection.ended()

    async def __aenter__(self) -> "AsyncWatch":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()


__all__ = ["AsyncClient", "AsyncScan", "AsyncSession", "AsyncSnapshot", "AsyncWatch"]
