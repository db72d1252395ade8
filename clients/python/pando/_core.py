"""What the two clients share and what does no I/O: addresses, names of writes, retries, and the state of scans.

`Core` and `AddressBook` may be used by several threads. An `Attempts` belongs to one call.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Set, Tuple, Union

from . import errors
from . import _requests as requests
from ._codec import kv_error
from ._generated import ttypes
from .errors import Applied, PandoError
from .types import Level, Page, ServerInfo

AVOID_FAILED_S = 1.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.01, 1.0
GRACE_S = 0.1  # so much longer than the budget a client waits for the answer that the time is over
LONGEST_CONNECTION_S = 3600.0  # then it is made anew, with another hello, because clocks drift
LARGEST_INT32 = 0x7FFFFFFF
LONGEST_CALL_MS = 24 * 3600 * 1000  # sockets take no timeout that is much longer

Address = Tuple[str, int]


def parse_addresses(addresses: Union[str, Sequence[str]]) -> List[Address]:
    """"host:port", several with commas between, or a list of them; IPv6 as in [::1]:7450."""
    parts = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    parsed = []
    for part in parts:
        host, colon, port = part.strip().rpartition(":")
        if not colon or not port.isdigit() or not host:
            raise ValueError(f"an address is host:port, not {part!r}")
        parsed.append((host[1:-1] if host.startswith("[") else host, int(port)))
    if not parsed:
        raise ValueError("give at least one address")
    return parsed


class AddressBook:
    """Which address to try first: the one that works; those that failed in the last second come last."""

    def __init__(self, addresses: Sequence[Address]):
        self._lock = threading.Lock()
        self._addresses = list(addresses)
        self._failed_at = dict.fromkeys(self._addresses, float("-inf"))
        self._current = random.randrange(len(self._addresses))

    def order(self) -> List[Address]:
        with self._lock:
            now = time.monotonic()
            turned = self._addresses[self._current:] + self._addresses[:self._current]
            return sorted(turned, key=lambda address: now - self._failed_at[address] < AVOID_FAILED_S)

    def avoids(self, address: Address) -> bool:
        """It failed lately, and another one may be better."""
        with self._lock:
            now = time.monotonic()
            failed = self._failed_at.get(address, float("-inf"))
            return now - failed < AVOID_FAILED_S and any(
                now - at >= AVOID_FAILED_S for other, at in self._failed_at.items() if other != address)

    def refer(self, asked: Address, named: str) -> Tuple[Optional[Address], bool]:
        """The server `asked` cannot serve a request, and names who can ("" = it does not know). Returns whom to ask next,
        None if there is no other, and whether that is the named one: it is if its address is one of these and did not
        fail lately. Otherwise it is the one after `asked`."""
        try:
            master = parse_addresses(named)[0]
        except ValueError:
            master = asked
        with self._lock:
            if asked not in self._failed_at or len(self._addresses) < 2:
                return None, False
            long_ago = time.monotonic() - AVOID_FAILED_S
            if master != asked and self._failed_at.get(master, float("inf")) <= long_ago:
                self._current = self._addresses.index(master)
                return master, True
            index = self._addresses.index(asked)
            after = (index + 1) % len(self._addresses)
            if self._current == index:
                self._current = after
            return self._addresses[after], False

    def worked(self, address: Address) -> None:
        with self._lock:
            if address in self._failed_at:
                self._failed_at[address] = float("-inf")
                self._current = self._addresses.index(address)

    def failed(self, address: Address) -> None:
        with self._lock:
            if address in self._failed_at:
                self._failed_at[address] = time.monotonic()
                if self._addresses[self._current] == address:
                    self._current = (self._current + 1) % len(self._addresses)


class Server:
    """What the hello of a connection said."""

    def __init__(self, reply: Any):
        self.info: ServerInfo = requests.server_info(reply)
        self.features = frozenset(self.info.features)
        self.accepted = frozenset(reply.accepted_features or ())
        self._now_ms = reply.now_ms or 0
        self._at = time.monotonic()

    def age_s(self) -> float:
        return time.monotonic() - self._at

    def now_ms(self) -> int:
        """By the server's clock; nobody sets the clock that tells how much time has passed."""
        return self._now_ms + int(self.age_s() * 1000)


class Lane:
    """A name for writes, with one in flight at a time."""

    def __init__(self) -> None:
        self.client_id = secrets.token_bytes(16)
        self.sequence = 0


@dataclass
class Defaults:
    """Options of a client that its calls use."""

    timeout_ms: int = 10000
    read_level: Level = Level.DEFAULT
    write_level: Level = Level.DEFAULT
    max_staleness_ms: int = 0


class Core:
    """The state of a client apart from its connections."""

    def __init__(self, addresses: Sequence[Address], defaults: Defaults):
        self.defaults = defaults
        self.addresses = AddressBook(addresses)
        self._list = list(addresses)
        self._lock = threading.Lock()
        self._lanes: List[Lane] = []
        self.hlc = 0

    def after_fork(self) -> None:
        """In the child: a name of the parent must not be used here, and a lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        self._lanes = []
        self.addresses = AddressBook(self._list)

    def take_lane(self) -> Lane:
        with self._lock:
            return self._lanes.pop() if self._lanes else Lane()

    def return_lane(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.append(lane)

    def saw(self, context: Any) -> None:
        if context is not None and context.hlc:
            with self._lock:
                self.hlc = max(self.hlc, context.hlc)


class SessionState:
    """The newest token of a session. `overflowed`: it has seen more partitions than a token can tell of, so from now on
    only the masters show all that it has seen."""

    def __init__(self) -> None:
        self.token = b""
        self.overflowed = False

    def saw(self, call: requests.Call, context: Any) -> None:
        if context is not None and context.session:
            self.token = context.session
        elif self.token and tells_token(call):
            self.overflowed = True

    def read_level(self) -> Level:
        return Level.LINEARIZABLE if self.overflowed else Level.SESSION


def tells_token(call: requests.Call) -> bool:
    """Whether the reply to it always has a token, unless there is none any more."""
    return call.method in ("get", "put", "remove", "increment", "touch") and not requests.reads_snapshot(call)


class Attempts:
    """The tries of one call, until it is answered or its time is over. Whatever comes of it, `end` must be called."""

    def __init__(self, core: Core, call: requests.Call, timeout_ms: Optional[float], session: Optional[SessionState]):
        self.core = core
        self.call = call
        self.session = session
        self.timeout_ms = min(core.defaults.timeout_ms if timeout_ms is None else timeout_ms, LONGEST_CALL_MS)
        self.deadline = time.monotonic() + self.timeout_ms / 1000
        self.tries = 0
        self.prefer: Optional[Address] = None  # whom the last server has named, or the one after it
        self._at_once = False  # it was named, and not asked yet, so the next try need not wait
        self._asked: Set[Address] = set()
        self._lane: Optional[Lane] = None
        self._first_sent_ms = 0
        self._unknown = False
        self._last: Optional[PandoError] = None
        self._backoff_s = FIRST_BACKOFF_S
        self._answered = False
        self._op_failed: Optional[PandoError] = None  # the error of an op for which a batch is sent again

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def context(self, server: Server) -> Any:
        """The context of the next try, which goes to this server."""
        if self.call.needs and self.call.needs not in server.features:
            raise requests.unsupported(self.call.needs)
        named = self.call.kind == requests.WRITE and self.call.level != Level.ONE
        if named and not self._lane and "idempotent_writes" in server.features:
            self._lane = self.core.take_lane()
            self._lane.sequence += 1
            self._first_sent_ms = server.now_ms()
        context = ttypes.Context(budget_ms=max(1, min(int(self.remaining_s() * 1000), LARGEST_INT32)),
                                 level=self.call.level or None)
        if self.core.hlc and "clocks" in server.features:
            context.hlc = self.core.hlc
        if self.call.max_staleness_ms:
            context.max_staleness_ms = self.call.max_staleness_ms
        if self.session and self.session.token:
            context.session = self.session.token
        if self._lane:
            context.client_id = self._lane.client_id
            context.sequence = self._lane.sequence
            context.first_sent_ms = self._first_sent_ms
        return context

    def result(self, reply: Any) -> Any:
        """What the reply means. May raise a PandoError, which is to be given to `failed`."""
        self.core.saw(reply.context)
        if self.session:
            self.session.saw(self.call, reply.context)
        try:
            result = self.call.convert(reply)
        except (AttributeError, TypeError) as error:
            raise errors.ProtocolError(f"the reply to {self.call.method} lacks something: {error}", sent=True) from error
        batch = self.call.batch
        if batch:
            result = batch.add(result)
            self._op_failed = batch.reason_to_repeat(self._lane is not None)
            if self._op_failed:
                raise self._op_failed
            batch.final()
        self._answered = not batch or not batch.any_unknown()
        return result

    def refused(self, error: Any, asked: Address) -> PandoError:
        """The exception for a KvError, which may name the node to ask next."""
        self.core.saw(error.context)
        refused = kv_error(error)
        self.refer(refused, asked)
        return refused

    def refer(self, error: PandoError, asked: Address) -> None:
        """After an error of a server, or of an item of its reply: whom to ask next."""
        self._asked.add(asked)
        self.prefer, self._at_once = None, False
        cannot = error.name in ("NOT_MASTER", "UNAVAILABLE")  # another router may know more
        if cannot or (error.master and error.name in ("STALE_MAP", "TOO_STALE")):
            self.prefer, is_named = self.core.addresses.refer(asked, error.master)
            self._at_once = is_named and self.prefer not in self._asked

    def partial(self, error: PandoError) -> Any:
        """What is to be returned although the call ends with this error: the results of a batch of which a reply told.
        Raises the error if there are none."""
        # Another call would have another name, so a write that this one has made would be made twice.
        if self.call.kind == requests.WRITE and error.applied == Applied.UNKNOWN:
            error.retryable = False
        if self.call.batch:
            return self.call.batch.end(error)
        raise error

    def failed(self, error: PandoError, at_once: bool = False) -> float:
        """After a failed try: how long to wait before the next one, in seconds. Raises if there is none to be."""
        self.tries += 1
        if not self.call.changes():
            error.applied = Applied.NO
        if error.applied == Applied.UNKNOWN:
            self._unknown = True
            if self.call.batch and error is not self._op_failed:
                self.call.batch.lost = True
        if isinstance(error, errors.TransportError):
            self.prefer, self._at_once = None, False
        self._last = error
        # A write at level ONE has no name, as the server refuses one there.
        may_repeat = self.call.kind != requests.WRITE or self._lane is not None or error.applied == Applied.NO
        remaining = self.remaining_s()
        if isinstance(error, errors.DeadlineError) and (remaining < GRACE_S or not error.retryable):
            raise self.expired() from error
        if not error.retryable or not may_repeat:
            if self._unknown and error.applied == Applied.NO:
                error.applied = Applied.UNKNOWN  # an earlier try may have taken effect
            self._answered = error.applied != Applied.UNKNOWN
            raise error
        at_once = at_once or self._at_once
        if remaining <= 0 or (error.retry_after_ms / 1000 >= remaining and not at_once):
            raise self.expired() from error
        if at_once:
            return 0.0
        if error.retry_after_ms:
            return error.retry_after_ms / 1000
        wait = random.uniform(0, self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, LONGEST_BACKOFF_S)
        return min(wait, remaining / 2)

    def expired(self) -> errors.DeadlineError:
        """The error for a call whose time is over."""
        applied = Applied.UNKNOWN if self._unknown else Applied.NO
        self._answered = not self._unknown
        why = f"; the last error was: {self._last}" if self._last else ""
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        message = f"{self.call.method} did not succeed within {self.timeout_ms:g} ms, in {tries}{why}"
        return errors.DeadlineError(message, applied=applied, cause=self._last, tries=self.tries)

    def without_turn(self) -> errors.DeadlineError:
        """The error for a call of a session whose time is over while others were under way."""
        self._last = errors.TransportError("another call of the session was under way", sent=False)
        return self.expired()

    def end(self) -> None:
        """Returns the name to the pool, unless a try of the write may still come to take effect."""
        if self._lane and self._answered:
            self.core.return_lane(self._lane)
        self._lane = None


class ScanState:
    """Where a scan is."""

    def __init__(self, spec: requests.ScanSpec, cursor: bytes):
        self.spec = spec
        self.next_cursor = cursor  # of the next request
        self.rows_left = spec.limit
        self.pages = 0
        self.finished = spec.limit == 0

    def call(self) -> requests.Call:
        return requests.scan(self.spec, self.next_cursor, self.rows_left)

    def took(self, page: Page) -> None:
        self.pages += 1
        self.next_cursor = page.cursor
        if self.rows_left is not None:
            self.rows_left -= len(page.rows)
        self.finished = not page.cursor or self.rows_left == 0
