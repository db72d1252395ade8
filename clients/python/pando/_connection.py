"""Blocking connections to routers, and a pool of them. A connection carries one call at a time."""

from __future__ import annotations

import select
import socket
import threading
import time
import weakref
from typing import Any, List, Optional

from . import _codec as codec
from . import _requests as requests
from .errors import Applied, ClosedError, PandoError, ProtocolError, TransportError
from ._core import GRACE_S, LONGEST_CONNECTION_S, Address, AddressBook, Server
from ._generated import ttypes

RECEIVE_BYTES = 1 << 20
LONGEST_WAIT_S = 1.0  # of one wait for a connection: nobody tells of one that was forgotten


class Connection:
    """One connection, after its hello. After any exception that is no ServerRefused it must be closed."""

    def __init__(self, address: Address, timeout_s: float, client_name: str):
        self.address = address
        self.used = False  # it has carried a call
        self.slot: Any = None  # of the pool, while it is lent
        self._sequence = 0
        try:
            self._socket = socket.create_connection(address, timeout=max(timeout_s, 0.001))
            self._set_options()
        except OSError as error:
            raise TransportError(f"cannot connect to {address[0]}:{address[1]}: {error}", sent=False) from error
        try:
            budget_ms = max(1, int(timeout_s * 1000))
            self.server = Server(self.call("hello", ttypes.Context(budget_ms=budget_ms),
                                           requests.hello(client_name, ()), timeout_s))
        except codec.ServerRefused as refused:
            self.close()
            raise refused.to_error(Applied.NO) from None  # the hello, not the request
        except TransportError as error:
            self.close()
            raise TransportError(f"no hello from {address[0]}:{address[1]}: {error.message}", sent=False) from error
        except PandoError as error:
            self.close()
            error.applied = Applied.NO
            raise
        except BaseException:
            self.close()
            raise
        self.used = False

    def _set_options(self) -> None:
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:  # on some systems these fail once the peer has reset the connection
            self._socket.close()
            raise

    def call(self, method: str, context: Any, request: Any, timeout_s: float) -> Any:
        """The reply's struct. Raises ServerRefused, TransportError or ProtocolError."""
        self.used = True
        self._sequence = codec.next_sequence(self._sequence)
        frame = codec.encode(method, context, request, self._sequence)
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(max(timeout_s, 0.001))
            self._socket.sendall(frame)
            body = self._receive(codec.frame_bytes(self._receive(4, deadline)), deadline)
        except OSError as error:
            where = f"{self.address[0]}:{self.address[1]}"
            what = "no answer in time" if isinstance(error, socket.timeout) else str(error)
            raise TransportError(f"{method} at {where}: {what}", sent=True) from error
        reply = codec.Reply(body)
        if reply.sequence != self._sequence:
            raise ProtocolError(f"the reply to {method} has the sequence ID {reply.sequence}, not {self._sequence}",
                                sent=True)
        return reply.result(method)

    def _receive(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            more = self._socket.recv(min(size - len(data), RECEIVE_BYTES))
            if not more:
                raise ConnectionResetError("the connection was closed")
            data += more
        return bytes(data)

    def is_usable(self) -> bool:
        """The server has neither closed it nor sent what nobody asked for, and its hello is not too old."""
        if self.server.age_s() > LONGEST_CONNECTION_S:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Closes it while another thread waits for a reply."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.close()


class _Slot:  # pylint: disable=too-few-public-methods
    """The right to one connection. It ends when nobody refers to it any more: a KeyboardInterrupt may come at any moment,
    also between two lines that belong together."""


class Pool:
    """At most `size` connections are lent, to one caller each, and no more are kept to each address. May be used by
    several threads."""

    def __init__(self, addresses: AddressBook, size: int, connect_timeout_s: float, client_name: str):
        self.addresses = addresses
        self._size = size
        self._connect_timeout_s = connect_timeout_s
        self._client_name = client_name
        self._closed = False
        self._idle: List[Connection] = []
        self._begin()

    def _begin(self) -> None:
        # `with` takes a lock itself without a moment at which it is taken and would not be given back. A Condition has one.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._slots: "weakref.WeakSet[_Slot]" = weakref.WeakSet()  # of connections that are lent, or being made

    @property
    def lent(self) -> int:
        return len(self._slots)

    def after_fork(self, addresses: AddressBook) -> None:
        """In the child: the sockets belong to the parent, so they are closed here without a word to the server."""
        self.addresses = addresses
        self._begin()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def acquire(self, deadline: float, prefer: Optional[Address] = None) -> Connection:
        """A connection, before the deadline (of time.monotonic). It must be given to release or discard."""
        slot = _Slot()
        connection = self._take(slot, deadline, prefer)
        if connection:
            return connection
        try:
            connection = self.connect(deadline, prefer)
        except BaseException:
            self._end(slot)
            raise
        connection.slot = slot
        return connection

    def _take(self, slot: _Slot, deadline: float, prefer: Optional[Address]) -> Optional[Connection]:
        """An idle connection, or None: a new one may be made."""
        with self._lock:
            while True:
                if self._closed:
                    raise ClosedError("client")
                if len(self._slots) < self._size:
                    connection = self._take_idle(prefer)
                    self._slots.add(slot)
                    if connection:
                        connection.slot = slot
                    return connection
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TransportError(f"all {self._size} connections of the client are in use", sent=False)
                self._changed.wait(min(left_s, LONGEST_WAIT_S))

    def _take_idle(self, prefer: Optional[Address]) -> Optional[Connection]:
        for i in range(len(self._idle) - 1, -1, -1):
            connection = self._idle[i]
            if not connection.is_usable():
                self._idle.pop(i).close()
            elif connection.address == prefer or (prefer is None and not self.addresses.avoids(connection.address)):
                return self._idle.pop(i)
        return None

    def connect(self, deadline: float, prefer: Optional[Address] = None) -> Connection:
        """A new connection, to the first address that answers. It is not counted in the pool."""
        last: Optional[PandoError] = None
        order = self.addresses.order()
        for address in ([prefer] if prefer else []) + [a for a in order if a != prefer]:
            timeout_s = min(self._connect_timeout_s, deadline - time.monotonic())
            if timeout_s <= 0 and last:
                break
            try:
                connection = Connection(address, max(timeout_s, GRACE_S), self._client_name)
            except PandoError as error:
                if not error.retryable:
                    raise
                self.addresses.failed(address)
                last = error
                continue
            if address != prefer:
                self.addresses.worked(address)
            return connection
        assert last
        raise last

    def release(self, connection: Connection) -> None:
        slot, connection.slot = connection.slot, None
        with self._lock:
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)
                # Those to an address that is not used any more would stay although the server has closed them.
                if len(self._idle) > self._size and not self._idle[0].is_usable():
                    self._idle.pop(0).close()
        self._end(slot)

    def discard(self, connection: Connection) -> None:
        slot, connection.slot = connection.slot, None
        connection.close()
        self._end(slot)

    def _end(self, slot: Any) -> None:
        with self._lock:
            self._slots.discard(slot)
            self._changed.notify()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle = []
            self._changed.notify_all()
