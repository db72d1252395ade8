"""Connections for asyncio. Several calls share one: replies are matched by their sequence ID. One event loop uses them."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, Dict, List, Optional, Set, Tuple

from . import _codec as codec
from . import _requests as requests
from ._core import GRACE_S, LONGEST_CONNECTION_S, Address, AddressBook, Server
from ._generated import ttypes
from .errors import Applied, ClosedError, PandoError, ProtocolError, TransportError

OUT_OF_ORDER = "out_of_order_replies"
MAX_IN_FLIGHT = 128  # the server reads no more from a connection with so many
MAX_ABANDONED = 64  # a connection that owes so many replies that nobody waits for takes no more calls
BUSY = 32  # with so many, another connection is made


class AsyncConnection:
    """One connection. After its first error it takes no more calls, and all that wait for replies fail."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.address = address
        self.server: Server
        self.used = False  # it has carried a call
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._waiting: Dict[int, Tuple[str, "asyncio.Future[Any]"]] = {}
        self._abandoned: Set[int] = set()  # replies that nobody waits for any more
        self._error: Optional[TransportError] = None
        self._retired = False
        self._task: Optional["asyncio.Task[None]"] = None

    @classmethod
    async def connect(cls, address: Address, timeout_s: float, client_name: str, features: List[str]) -> "AsyncConnection":
        """A connection after its hello."""
        deadline = time.monotonic() + timeout_s
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*address, limit=1 << 20), timeout_s)
            # A peer that has reset the connection meanwhile has closed the socket: these fail then.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, asyncio.TimeoutError) as error:
            what = str(error) or "no answer in time"
            raise TransportError(f"cannot connect to {address[0]}:{address[1]}: {what}", sent=False) from error
        connection = cls(address, reader, writer)
        connection._task = asyncio.ensure_future(connection._receive_loop())
        left_s = max(deadline - time.monotonic(), GRACE_S)
        try:
            context = ttypes.Context(budget_ms=max(1, int(left_s * 1000)))
            connection.server = Server(await connection.call("hello", context, requests.hello(client_name, features),
                                                             left_s))
        except codec.ServerRefused as refused:
            connection.close()
            raise refused.to_error(Applied.NO) from None  # the hello, not the request
        except TransportError as error:
            connection.close()
            raise TransportError(f"no hello from {address[0]}:{address[1]}: {error.message}", sent=False) from error
        except PandoError as error:
            connection.close()
            error.applied = Applied.NO
            raise
        except BaseException:
            connection.close()
            raise
        connection.used = False
        return connection

    @property
    def in_flight(self) -> int:
        return len(self._waiting) + len(self._abandoned)

    def is_usable(self) -> bool:
        if self.server.age_s() > LONGEST_CONNECTION_S:
            self.retire()
        return not self._error and not self._retired and not self._writer.is_closing()

    async def call(self, method: str, context: Any, request: Any, timeout_s: float) -> Any:
        """The reply's struct. Raises ServerRefused, TransportError or ProtocolError. A cancelled call leaves the others
        of this connection as they are."""
        if self._error or self._writer.is_closing():
            raise TransportError(self._error.message if self._error else "the connection was lost", sent=False)
        self.used = True
        self._sequence = sequence = codec.next_sequence(self._sequence)
        frame = codec.encode(method, context, request, sequence)
        future: "asyncio.Future[Any]" = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = (method, future)
        try:
            self._writer.write(frame)
            return await asyncio.wait_for(self._answer(future), timeout_s)
        except asyncio.TimeoutError:
            self.retire()
            where = f"{self.address[0]}:{self.address[1]}"
            raise TransportError(f"{method} at {where}: no answer in time", sent=True) from None
        except OSError as error:
            raise TransportError(f"{method}: {error}", sent=True) from error
        finally:
            if self._waiting.pop(sequence, None) and not self._error:
                self._abandoned.add(sequence)
                if len(self._abandoned) >= MAX_ABANDONED:
                    self.retire()  # the replies may never come, and a full pool would wait for them without end
            self._close_if_retired()

    async def _answer(self, future: "asyncio.Future[Any]") -> Any:
        await self._writer.drain()
        return await future

    async def _receive_loop(self) -> None:
        try:
            while True:
                size = codec.frame_bytes(await self._reader.readexactly(4))
                self._take(codec.Reply(await self._reader.readexactly(size)))
        except asyncio.IncompleteReadError:
            self._fail(TransportError("the connection was closed", sent=True))
        except OSError as error:
            self._fail(TransportError(str(error), sent=True))
        except TransportError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(TransportError("the connection was closed", sent=True))
            raise

    def _take(self, reply: codec.Reply) -> None:
        if reply.sequence in self._abandoned:
            self._abandoned.discard(reply.sequence)
            self._close_if_retired()
            return
        if reply.sequence not in self._waiting:
            raise ProtocolError(f"a reply to {reply.method} has the sequence ID {reply.sequence}, which nobody waits for",
                                sent=True)
        method, future = self._waiting.pop(reply.sequence)
        try:
            result = reply.result(method)
        except ProtocolError as error:
            set_exception(future, error)
            raise
        except (codec.ServerRefused, PandoError) as error:
            set_exception(future, error)
        else:
            if not future.done():
                future.set_result(result)

    def _fail(self, error: TransportError) -> None:
        self._error = error
        waiting, self._waiting = self._waiting, {}
        self._abandoned.clear()
        for method, future in waiting.values():
            kind = type(error)
            set_exception(future, kind(f"{method} at {self.address[0]}:{self.address[1]}: {error.message}", sent=True))
        self._writer.close()

    def retire(self) -> None:
        """It takes no more calls, and is closed once those in flight have ended."""
        self._retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._retired and not self._waiting:
            self.close()

    def close(self) -> None:
        if self._task:
            self._task.cancel()
        if not self._error:
            self._error = TransportError("the connection was closed", sent=True)
        self._writer.close()

    def forget(self) -> None:
        """As close, by any thread: whoever had it has gone."""
        try:
            self._loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # the loop is closed, and so is the connection
            pass

    @property
    def is_closed(self) -> bool:
        return self._writer.is_closing()

    async def ended(self) -> None:
        """After close: waits until its task has ended."""
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)


def set_exception(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # so that nobody is warned if the call was cancelled


class AsyncPool:
    """At most `size` connections, each shared by up to MAX_IN_FLIGHT calls."""

    def __init__(self, addresses: AddressBook, size: int, connect_timeout_s: float, client_name: str):
        self.addresses = addresses
        self._size = size
        self._connect_timeout_s = connect_timeout_s
        self._client_name = client_name
        self._connections: List[AsyncConnection] = []
        self._reserved: Dict[AsyncConnection, int] = {}
        self._made: Set[AsyncConnection] = set()  # that may be open, also those of watches
        self._connecting = 0
        self.closed = False
        self._waiters: List["asyncio.Future[None]"] = []

    async def acquire(self, deadline: float, prefer: Optional[Address] = None) -> AsyncConnection:
        """A connection with room for one more call. It must be given to `release`."""
        while True:
            if self.closed:
                raise ClosedError("client")
            connection = self._least_busy(prefer)
            may_open = len(self._connections) + self._connecting < self._size
            if connection and (self._reserved[connection] < BUSY or not may_open):
                self._reserved[connection] += 1
                return connection
            if not connection and not may_open and self._drop_another(prefer):
                may_open = True
            # One connection at a time is made: what comes meanwhile shares it.
            if may_open and not self._connecting:
                return await self._open(deadline, prefer)
            await self._wait(deadline)

    def _least_busy(self, prefer: Optional[Address]) -> Optional[AsyncConnection]:
        for connection in [c for c in self._connections if not c.is_usable()]:
            self._connections.remove(connection)
            self._forget_if_free(connection)
        usable = [c for c in self._connections if self._reserved[c] + len(c._abandoned) < MAX_IN_FLIGHT and (  # pylint: disable=protected-access
            c.address == prefer or (prefer is None and not self.addresses.avoids(c.address)))]
        return min(usable, key=lambda c: self._reserved[c]) if usable else None

    def _drop_another(self, prefer: Optional[Address]) -> bool:
        """Makes room for a connection to another address."""
        for connection in self._connections:
            if (prefer and connection.address != prefer) or self.addresses.avoids(connection.address):
                self._connections.remove(connection)
                self._forget_if_free(connection)
                connection.retire()
                return True
        return False

    async def _open(self, deadline: float, prefer: Optional[Address]) -> AsyncConnection:
        self._connecting += 1
        try:
            connection = await self.connect(deadline, prefer, [OUT_OF_ORDER])
        finally:
            self._connecting -= 1
            self._wake(len(self._waiters))
        if self.closed:
            connection.close()
            raise ClosedError("client")
        self._connections.append(connection)
        self._reserved[connection] = 1
        return connection

    async def _wait(self, deadline: float) -> None:
        future: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        try:
            await asyncio.wait_for(future, max(deadline - time.monotonic(), 0.001))
        except BaseException as error:
            if future in self._waiters:
                self._waiters.remove(future)
            else:
                self._wake(1)  # it was this one's turn, and it does not take it
            if isinstance(error, asyncio.TimeoutError):
                raise TransportError("all connections of the client are in use", sent=False) from None
            raise

    def _wake(self, number: int) -> None:
        """The next of those that wait."""
        waiters, self._waiters = self._waiters[:number], self._waiters[number:]
        for future in waiters:
            if not future.done():
                future.set_result(None)

    def release(self, connection: AsyncConnection) -> None:
        self._reserved[connection] -= 1
        self._forget_if_free(connection)
        self._wake(1)

    def _forget_if_free(self, connection: AsyncConnection) -> None:
        if connection not in self._connections and self._reserved.get(connection) == 0:
            del self._reserved[connection]

    async def connect(self, deadline: float, prefer: Optional[Address], features: List[str]) -> AsyncConnection:
        """A new connection, to the first address that answers. It is not counted in the pool."""
        last: Optional[PandoError] = None
        order = self.addresses.order()
        for address in ([prefer] if prefer else []) + [a for a in order if a != prefer]:
            timeout_s = min(self._connect_timeout_s, deadline - time.monotonic())
            if timeout_s <= 0 and last:
                break
            try:
                connection = await AsyncConnection.connect(address, max(timeout_s, GRACE_S), self._client_name, features)
            except PandoError as error:
                if not error.retryable:
                    raise
                self.addresses.failed(address)
                last = error
                continue
            if address != prefer:
                self.addresses.worked(address)
            self._made = {made for made in self._made if not made.is_closed} | {connection}
            return connection
        assert last
        raise last

    async def close(self) -> None:
        self.closed = True
        connections = list(self._made)
        for connection in connections:
            connection.close()
        self._connections.clear()
        self._wake(len(self._waiters))
        for connection in connections:
            await connection.ended()
