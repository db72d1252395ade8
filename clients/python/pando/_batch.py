"""What came of a batch, over all its tries. No I/O here; an object belongs to one call.

While an op fails in a way that may pass, the whole batch is sent again under its name: each partition that has carried
out its ops answers as the first time. Three rules make one result of the replies:

- An op that is decided (it was applied, or its condition did not hold) keeps its first result: later ones lack `current`
  and `previous`.
- Of an op that failed the last error counts, since each try judges it anew. It says NO only if no try can have applied
  the op.
- Without a name, the batch is sent again only if no op can have been applied.
"""

from __future__ import annotations

from typing import List, Optional

from .errors import Applied, ClosedError, DeadlineError, PandoError, TransportError, server_error
from .types import BatchResult, WriteResult


def copy_of(error: PandoError) -> PandoError:
    return server_error(error.code, error.message, applied=error.applied, retryable=error.retryable,
                        retry_after_ms=error.retry_after_ms, master=error.master)


def is_decided(result: WriteResult) -> bool:
    return result.error is None or result.error.applied == Applied.YES


class BatchOutcome:
    """`lost`: a try may have been carried out without an answer that says what came of each op."""

    def __init__(self) -> None:
        self.result: Optional[BatchResult] = None  # None: no try was answered
        self.lost = False

    def add(self, answer: BatchResult) -> BatchResult:
        """Takes one reply, and returns what all of them say."""
        before = self.result.results if self.result and not answer.failed_conditions else []
        merged: List[WriteResult] = []
        for index, result in enumerate(answer.results):
            earlier = before[index] if index < len(before) else None
            if earlier and is_decided(earlier):
                result = earlier
            elif result.error and not is_decided(result):
                was_unknown = earlier and earlier.error and earlier.error.applied == Applied.UNKNOWN
                if self.lost or was_unknown:
                    result.error.applied = Applied.UNKNOWN
            merged.append(result)
        self.result = BatchResult(merged, answer.failed_conditions)
        return self.result

    def any_unknown(self) -> bool:
        results = self.result.results if self.result else []
        return any(r.error is not None and r.error.applied == Applied.UNKNOWN for r in results)

    def reason_to_repeat(self, named: bool) -> Optional[PandoError]:
        """The error of an op for which the batch is sent again, as a copy. One that names a server comes first: so all
        masters are asked, although one of them may be gone."""
        results = self.result.results if self.result else []
        if not named and any(r.error is None or r.error.applied != Applied.NO for r in results):
            return None
        passing = [r.error for r in results if r.error is not None and r.error.retryable]
        if not passing:
            return None
        reason = copy_of(next((error for error in passing if error.master), passing[0]))
        reason.applied = Applied.UNKNOWN if self.any_unknown() else Applied.NO
        return reason

    def final(self) -> Optional[BatchResult]:
        """What the call returns. Another call with the same ops would have another name, so ops of unknown outcome are not
        retryable any more."""
        for result in self.result.results if self.result else []:
            if result.error is not None and result.error.applied == Applied.UNKNOWN:
                result.error.retryable = False
        return self.result

    def end(self, error: PandoError) -> BatchResult:
        """There will be no more tries, because of this error. It is raised if no try was answered."""
        if self.result is None:
            raise error
        of_server = not isinstance(error, (DeadlineError, TransportError, ClosedError))
        results = self.result.results
        for index, result in enumerate(results):
            if result.error is None or is_decided(result):
                continue
            unknown = self.lost or result.error.applied == Applied.UNKNOWN
            if of_server:
                results[index] = result = result._replace(error=copy_of(error))
            assert result.error is not None
            result.error.applied = Applied.UNKNOWN if unknown else Applied.NO
        self.final()
        return self.result
