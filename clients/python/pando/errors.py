"""The exceptions of the client. All are PandoError, and each says whether the call took effect, and what to do."""

from __future__ import annotations

import enum
from typing import Optional

# The names of KvError.code in thrift/pando.thrift.
CODES = {
    1: "BAD_REQUEST", 2: "TOO_LARGE", 3: "UNAUTHENTICATED", 4: "DENIED", 5: "NOT_MASTER", 6: "STALE_MAP", 7: "MOVING",
    8: "OVERLOADED", 9: "DEADLINE", 10: "UNAVAILABLE", 11: "TOO_STALE", 12: "SNAPSHOT_GONE", 13: "BAD_CURSOR",
    14: "TOKEN_MISMATCH", 15: "DISK_FULL", 16: "CORRUPT", 17: "INTERNAL", 18: "QUOTA_EXCEEDED", 19: "CANCELLED",
    20: "FEED_GONE", 21: "SESSION_LOST",
}
# Codes of the client itself.
TRANSPORT, CLOSED, UNSUPPORTED = -1, -2, -3
CODES.update({TRANSPORT: "TRANSPORT", CLOSED: "CLOSED", UNSUPPORTED: "UNSUPPORTED"})
BAD_REQUEST, DEADLINE, INTERNAL = 1, 9, 17


class Applied(enum.IntEnum):
    """Whether a call took effect. For reads it is always NO."""

    UNKNOWN = 0
    NO = 1
    YES = 2


class PandoError(Exception):
    """Base of all errors of the client.

    code: the number in the IDL, or a negative one for errors of the client itself; unknown ones are possible.
    name: the name of the code, such as "OVERLOADED"; "CODE_99" if it has none here.
    applied: whether the call took effect.
    retryable: the same call may succeed later, and making it again does no harm. So it is false for a write of unknown
        outcome (but not for delete_range). The client has repeated the call already until its time was over.
    retry_after_ms: how long the server asked to wait; 0 = it did not.
    advice: one sentence: what to do.
    """

    advice = "Read the message."

    def __init__(self, code: int, message: str, *, applied: Applied = Applied.UNKNOWN, retryable: bool = False,
                 retry_after_ms: int = 0, master: str = ""):
        super().__init__(message)
        self.code = code
        self.name = CODES.get(code, f"CODE_{code}")
        self.message = message
        self.applied = applied
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.master = master  # the address of the node to ask instead

    def __str__(self) -> str:
        return f"{self.name}: {self.message} (applied: {self.applied.name}). {self.advice}"


class BadRequestError(PandoError):
    """BAD_REQUEST, TOO_LARGE, BAD_CURSOR, TOKEN_MISMATCH, UNSUPPORTED: the same call fails again."""

    advice = "Change the request; the same one fails again."


class UnavailableError(PandoError):
    """UNAVAILABLE, OVERLOADED, NOT_MASTER, STALE_MAP, MOVING, TOO_STALE: it may succeed later."""

    advice = "Try again later, or give the call more time."


class TransportError(UnavailableError):
    """A connection could not be made, or was lost. `sent`: the request may have left this process."""

    advice = "Look whether the routers run and can be reached; the outcome of a write that was sent is unknown."

    def __init__(self, message: str, *, sent: bool):
        super().__init__(TRANSPORT, message, applied=Applied.UNKNOWN if sent else Applied.NO, retryable=True)
        self.sent = sent


class ProtocolError(TransportError):
    """The peer answered with something that is no reply to the request."""

    advice = "Look whether the address is that of a router or a node, and whether both sides have usable versions."


class DeadlineError(PandoError):
    """The call's time is over. `cause` is the error of the last try, and `tries` their number."""

    advice = "Give the call more time, or look at the cause; if `applied` is UNKNOWN, read before you write again."

    def __init__(self, message: str, *, applied: Applied, cause: Optional[PandoError] = None, tries: int = 0):
        super().__init__(DEADLINE, message, applied=applied, retryable=True)
        self.cause = cause
        self.tries = tries


class SnapshotGoneError(PandoError):
    """The snapshot has expired, was released, or was lost."""

    advice = "Open another snapshot, and begin again."


class FeedGoneError(PandoError):
    """The changes after this position are no longer kept."""

    advice = "Open a snapshot, scan it, and watch from its version."


class SessionLostError(PandoError):
    """What the session has seen was lost, or it is too old to tell."""

    advice = "Begin a new session."


class DiskFullError(PandoError):
    """A disk of the cluster is full."""

    advice = "Remove records, or give the nodes more space."


class CorruptError(PandoError):
    """The server has found damaged data."""

    advice = "An operator must look at kvadmin status."


class InternalError(PandoError):
    """The server has met a bug."""

    advice = "Report the message to whoever maintains the server."


class ClosedError(PandoError):
    """The client, the snapshot or the watch was closed."""

    advice = "Make a new one."

    def __init__(self, what: str):
        super().__init__(CLOSED, f"the {what} is closed", applied=Applied.NO)


_CLASSES = {
    "BAD_REQUEST": BadRequestError, "TOO_LARGE": BadRequestError, "BAD_CURSOR": BadRequestError,
    "TOKEN_MISMATCH": BadRequestError, "UNSUPPORTED": BadRequestError, "UNAVAILABLE": UnavailableError,
    "OVERLOADED": UnavailableError, "NOT_MASTER": UnavailableError, "STALE_MAP": UnavailableError,
    "MOVING": UnavailableError, "TOO_STALE": UnavailableError, "SNAPSHOT_GONE": SnapshotGoneError,
    "FEED_GONE": FeedGoneError, "SESSION_LOST": SessionLostError, "DISK_FULL": DiskFullError, "CORRUPT": CorruptError,
    "INTERNAL": InternalError,
}


def server_error(code: int, message: str, *, applied: int = 0, retryable: bool = False, retry_after_ms: int = 0,
                 master: str = "") -> PandoError:
    """The exception for a KvError."""
    known = Applied(applied) if applied in (0, 1, 2) else Applied.UNKNOWN
    if code == DEADLINE:
        error: PandoError = DeadlineError(message, applied=known, tries=1)
        error.retryable = retryable
        return error
    kind = _CLASSES.get(CODES.get(code, ""), PandoError)
    return kind(code, message, applied=known, retryable=retryable, retry_after_ms=retry_after_ms, master=master)
