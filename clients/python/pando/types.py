"""What goes into calls and comes out of them. Keys, values, cursors and tokens are bytes; times are in ms."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence, Union

from .errors import PandoError


class Level(enum.IntEnum):
    """Consistency levels: LEVEL_* in thrift/pando.thrift. Writes take the first group, reads the second."""

    DEFAULT = 0
    """QUORUM for writes, LINEARIZABLE for reads."""
    ONE = 1
    """On the master's disk. Seen later; may be lost in a failover. Only puts and removes without conditions. The client
    does not repeat such a write if its answer is lost: TransportError."""
    QUORUM = 2
    ALL = 3
    """On the disks of all replicas."""
    LINEARIZABLE = 4
    """A read sees every write that was acknowledged before it began."""
    BOUNDED = 5
    """A read at any replica that sees what was acknowledged max_staleness_ms before it began."""
    SESSION = 6
    """A read at any replica that sees all that the session has seen. A Session sets it by itself."""


class Record(NamedTuple):
    """A record. `version` grows with each write and is what if_version compares; expires_at_ms 0 = never."""

    value: bytes
    version: int
    expires_at_ms: int = 0


class WriteResult(NamedTuple):
    """The outcome of one write.

    applied: it took effect. If not, its condition did not hold, and `current` is the record that it met (None = none).
    version: the version that it gave the record. existed: whether there was a record. number: of an increment.
    previous: the record before the write, if return_previous asked for it; previous_omitted, current_omitted: its value
    was left out, because the values in one reply are limited. A write that was repeated after a lost answer is answered
    as the first time, but without `current` and `previous` (previous_omitted is then true).
    withheld, error: in batches only. withheld: valid, but another op of an all_or_nothing batch was refused, or a condition
    of the batch did not hold. error: this op failed.
    """

    applied: bool
    version: int = 0
    existed: bool = False
    current: Optional[Record] = None
    number: Optional[int] = None
    previous: Optional[Record] = None
    previous_omitted: bool = False
    current_omitted: bool = False
    withheld: bool = False
    error: Optional[PandoError] = None


@dataclass(frozen=True)
class FailedCondition:
    """A condition of the whole batch that did not hold: its index, and the record that it met (None = none).

    current_omitted: the value of `current` was left out, because the batch was sent again after a lost answer. Then the
    empty value says nothing; the version is that of the record. Read the record before you write what follows from it.
    """

    index: int
    current: Optional[Record]
    current_omitted: bool = False


class BatchResult(NamedTuple):
    """One result per op, in their order. If there are failed conditions, nothing was applied."""

    results: List[WriteResult]
    failed_conditions: List[FailedCondition]

    @property
    def applied(self) -> bool:
        """All ops took effect."""
        return all(result.applied for result in self.results)


class Row(NamedTuple):
    """A row of a scan. removed: with `since`, it does not exist any more. value_bytes: with sizes_only."""

    key: bytes
    value: bytes
    version: int
    expires_at_ms: int = 0
    removed: bool = False
    value_bytes: Optional[int] = None


class Page(NamedTuple):
    """The rows of one request, and the cursor after them; empty = the range is exhausted."""

    rows: List[Row]
    cursor: bytes


@dataclass(frozen=True)
class Aggregate:
    """bytes: of keys and values. content_hash: those of disjoint ranges add up, modulo 2^64."""

    count: int
    bytes: int
    content_hash: int


@dataclass(frozen=True)
class RangePart:
    """A part of a range: start inclusive, end exclusive, b"" = no end."""

    start: bytes
    end: bytes
    count: int
    bytes: int


class DeletePage(NamedTuple):
    """What one request of delete_range removed, and where to continue."""

    removed: int
    cursor: bytes


class Change(NamedTuple):
    """A change of a record; its value is not sent. `removed`: it was removed or has expired."""

    key: bytes
    version: int
    removed: bool


class Changes(NamedTuple):
    """What one request of a watch returned; `more`: there are more already."""

    changes: List[Change]
    position: bytes
    more: bool


class SnapshotInfo(NamedTuple):
    """A snapshot's token, the version up to which it has all writes, and when it ends unless it is renewed."""

    token: bytes
    version: int
    expires_at_ms: int


class ServerInfo(NamedTuple):
    """What hello said. limits: by the names of the IDL, such as max_key_bytes."""

    server_version: str
    api_version: int
    cluster_id: str
    features: Sequence[str]
    limits: Dict[str, int]


@dataclass(frozen=True)
class Put:
    """An op of a batch; the arguments are those of Client.put."""

    key: bytes
    value: bytes
    ttl_ms: Optional[int] = None
    expires_at_ms: Optional[int] = None
    ttl: str = "keep"
    if_version: Optional[int] = None
    if_value: Optional[bytes] = None
    if_exists: Optional[bool] = None
    return_previous: bool = False


@dataclass(frozen=True)
class Remove:
    """An op of a batch; the arguments are those of Client.remove."""

    key: bytes
    if_version: Optional[int] = None
    if_value: Optional[bytes] = None
    if_exists: Optional[bool] = None
    return_previous: bool = False


@dataclass(frozen=True)
class Increment:
    """An op of a batch; the arguments are those of Client.increment."""

    key: bytes
    delta: int = 1
    ttl_ms: Optional[int] = None
    expires_at_ms: Optional[int] = None
    ttl: str = "keep"
    if_version: Optional[int] = None
    if_value: Optional[bytes] = None
    if_exists: Optional[bool] = None


@dataclass(frozen=True)
class Touch:
    """An op of a batch; the arguments are those of Client.touch."""

    key: bytes
    ttl_ms: Optional[int] = None
    expires_at_ms: Optional[int] = None
    ttl: str = "keep"
    if_version: Optional[int] = None
    if_value: Optional[bytes] = None
    if_exists: Optional[bool] = None


Op = Union[Put, Remove, Increment, Touch]


@dataclass(frozen=True)
class Condition:
    """A condition of a whole batch, on a key that the batch need not write. At least one part must be set."""

    key: bytes
    if_version: Optional[int] = None
    if_value: Optional[bytes] = None
    if_exists: Optional[bool] = None
