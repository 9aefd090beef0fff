"""Who wants a job to be stopped that a worker has, and since when. Pure, a part of the dispatch core."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from perdure.daemon.ledger import Death, Held, Ledger
from perdure.wire.data import ErrorData
from perdure.wire.work import Failed

#: The types with which a handler ends that does nothing about its cancellation.
ENDED_BY_IT = frozenset({"CancelledError", "JobCancelled"})


@dataclass(slots=True)
class Wish:
    """That a job be stopped, from when it was told to its worker until the job is in nobody's hands any more.

    `at` (epoch milliseconds) is for people, `since_ns` (monotonic) for the grace. `outcome` is set when all is decided:
    whoever made the wish keeps it until then.
    """

    who: str
    at: int
    since_ns: int
    outcome: Literal["cancelled", "completed"] | None = None


class Wishes:
    """One wish a job at most. Every wish belongs to a job that a worker holds, and ends with that."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[int, Wish] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._open

    def get(self, job_id: int) -> Wish | None:
        """The wish for a job, if it has one."""
        return self._open.get(job_id)

    def make(self, job_id: int, wish: Wish) -> tuple[Wish, bool]:
        """The wish that holds from now on, and whether it is new: the worker is told once."""
        is_new = job_id not in self._open
        return self._open.setdefault(job_id, replace(wish)), is_new

    def completed(self, ids: Collection[int]) -> None:
        """These were faster."""
        for job_id in self._open.keys() & ids:
            self._open.pop(job_id).outcome = "completed"

    def unbegun(self, held: Held) -> bool:
        """The job was given back, and had not begun. True: that is its end; False: nobody had wished for it."""
        if self._close(held) is None:
            return False
        self._ledger.cancelled(held)
        return True

    def failed(self, held: Held, failure: Failed, now: int, worker: int) -> bool:
        """The handler raised: whatever that was, there is no next attempt. False: nobody had wished for it."""
        wish = self._close(held)
        if wish is None:
            return False
        error = failure.error
        story = f"; it ended with {error.type}: {error.message}" if error.type not in ENDED_BY_IT else ""
        said = ErrorData("JobCancelled", _message(wish, now) + story, None, error.traceback, error.cause)
        self._ledger.stopped(held, said, now, worker)
        return True

    def died(self, held: Held, death: Death, now: int, worker: int, *, killed: bool = False) -> bool:
        """Its worker died while it executed the job; `killed`: for this job. False: nobody had wished for it."""
        wish = self._close(held)
        if wish is None:
            return False
        story = "it did not end, so its worker was killed" if killed else death.message
        said = ErrorData("JobCancelled", f"{_message(wish, now)}; {story}")
        self._ledger.stopped(held, said, now, worker, death)
        return True

    def _close(self, held: Held) -> Wish | None:
        wish = self._open.pop(held.job.id, None)
        if wish is not None:
            wish.outcome = "cancelled"
        return wish


def _message(wish: Wish, now: int) -> str:
    """What the record says: by whom, and how long the job took to end."""
    return f"cancelled by {wish.who or 'someone'}, ended after {max(0, now - wish.at) / 1000:.1f} s"
