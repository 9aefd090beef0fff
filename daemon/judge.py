"""What becomes of a job when its attempt is over. Pure, a part of the dispatch core."""

from __future__ import annotations

from collections.abc import Collection

from perdure.daemon.doubts import DOUBTS, TROUBLES, Doubts
from perdure.daemon.gate import BREAKER_REASON, Gate
from perdure.daemon.ledger import Death, Held, Ledger
from perdure.daemon.wishes import Wishes
from perdure.wire.data import ErrorData
from perdure.wire.work import Failed

UNKNOWN_KIND = "UnknownKind"


class Judge:
    """Decides who is to blame, and has the ledger write it down. The gate is told by whoever asks."""

    def __init__(self, ledger: Ledger, gate: Gate) -> None:
        self._ledger = ledger
        self._gate = gate
        self._doubts = Doubts()
        #: Jobs with workers that are to be stopped: but for success, that is what becomes of them.
        self.wishes = Wishes(ledger)
        #: Kinds for which jobs were parked in this run: if workers know them by now, the jobs must come back.
        self.kinds_parked: set[str] = set()

    def completed(self, ids: Collection[int]) -> None:
        """These have ended well, and are in the ledger."""
        if self.wishes:
            self.wishes.completed(ids)

    def failed(self, held: Held, failure: Failed, now: int, worker: int) -> None:
        """The handler raised, or the worker would not even begin."""
        name = failure.dependency
        if self.wishes and self.wishes.failed(held, failure, now, worker):
            return
        if failure.error.type == UNKNOWN_KIND:
            self.park_kind(held)
        elif name is not None and failure.retryable and self._gate.knows(name):
            self._dependency_failed(held, failure, name, now, worker)
        else:
            self._ledger.failed(held, failure, now, worker)

    def unbegun(self, held: Held) -> bool:
        """A worker has given it back. True: it is cancelled; False: somebody else is to run it."""
        return bool(self.wishes) and self.wishes.unbegun(held)

    def killed_for(self, held: Held, death: Death, now: int, worker: int) -> None:
        """It did not end in time, neither by its own limit nor when it was told to; so its worker was killed."""
        if self.wishes.died(held, death, now, worker, killed=True):
            return
        limit = f"no end within its limit of {(held.job.timeout_ms or 0) / 1000:g} s; its worker was killed"
        failure = Failed(held.job.id, ErrorData("JobTimeout", limit, True), True)
        self._ledger.failed(held, failure, now, worker, death.stacks)

    def park_kind(self, held: Held) -> None:
        """No worker has a handler for it."""
        self._ledger.parked(held, f"kind:{held.job.kind}")
        self._gate.ended((held.job.id,))
        self.kinds_parked.add(held.job.kind)

    def _dependency_failed(self, held: Held, failure: Failed, name: str, now: int, worker: int) -> None:
        """A call to a dependency failed, or was refused: no attempt is used while that is not the job's own fault."""
        if not self._gate.is_closed(name):
            self._ledger.parked(held, BREAKER_REASON + name)
        elif failure.refused:
            self._ledger.postponed(held, failure, now, worker)
        elif times := self._doubts.give(held.job.id, self._grace(failure, name)):
            self._ledger.postponed(held, failure, now, worker, times)
        else:
            self._ledger.failed(held, failure, now, worker)

    def _grace(self, failure: Failed, name: str) -> int:
        """How often such a failure costs nothing."""
        return TROUBLES if failure.busy or self._gate.in_trouble(name) else DOUBTS
