"""Client of Pando, a replicated, ordered key-value store.

    with pando.Client("127.0.0.1:7450") as client:
        client.put(b"fruit/apple", b"red")
        print(client.get(b"fruit/apple").value)
        for row in client.scan(prefix=b"fruit/"):
            print(row.key, row.value)

`Client` is for threads, `AsyncClient` for asyncio. README.md has more.
"""

from .aio import (AsyncClient, AsyncScan, AsyncSession, AsyncSnapshot, AsyncWatch)
from .client import Batch, Client, Scan, Session, Snapshot, Watch
from .errors import (Applied, BadRequestError, ClosedError, CorruptError, DeadlineError, DiskFullError, FeedGoneError,
                     InternalError, PandoError, ProtocolError, SessionLostError, SnapshotGoneError, TransportError,
                     UnavailableError)
from .types import (Aggregate, BatchResult, Change, Condition, FailedCondition, Increment, Level, Op, Page, Put, RangePart,
                    Record, Remove, Row, ServerInfo, SnapshotInfo, Touch, WriteResult)

__version__ = "0.1.0"

__all__ = [
    "Aggregate", "Applied", "AsyncClient", "AsyncScan", "AsyncSession", "AsyncSnapshot", "AsyncWatch", "BadRequestError",
    "Batch", "BatchResult", "Change", "Client", "ClosedError", "Condition", "CorruptError", "DeadlineError",
    "DiskFullError", "FailedCondition", "FeedGoneError", "Increment", "InternalError", "Level", "Op", "Page",
    "PandoError", "ProtocolError", "Put", "RangePart", "Record", "Remove", "Row", "Scan", "ServerInfo", "Session",
    "SessionLostError", "Snapshot", "SnapshotGoneError", "SnapshotInfo", "Touch", "TransportError", "UnavailableError",
    "Watch", "WriteResult",
]
