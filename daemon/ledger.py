"""What the next group commit will carry: outcomes, judged against the job's budgets, until a turn takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from perdure.fingerprint import fingerprint
from perdure.store.models import Buried, ClaimedJob, Interrupted, Parked, Postponed, Released, Retried, Stopped, Turn
from perdure.wire.data import ErrorData, Lane
from perdure.wire.work import Failed

#: Full-jitter delay in milliseconds before the next attempt, given how often the job has failed.
Backoff = Callable[[int], int]


class Held(msgspec.Struct, gc=False):
    """A job that this daemon has claimed: the row, its lease, how long it is expected to run, and where."""

    job: ClaimedJob
    lease: int
    estimate_ns: float = 0.0
    lane: Lane = "sync"


class AttemptError(msgspec.Struct, omit_defaults=True):
    """One entry of a job's `errors`: what went wrong in which attempt. `stacks` is what a kill found."""

    attempt: int
    at: int
    type: str
    message: str
    retryable: bool | None = None
    traceback: str | None = None
    cause: ErrorData | None = None
    worker: int | None = None
    stacks: str | None = None
    exit: dict[str, int | float | str] | None = None


class Death(msgspec.Struct, omit_defaults=True):
    """How a worker ended, as data: kept with every job that it took along.

    `exit` holds signal or status, and the resource use of the process (seconds, bytes).
    """

    message: str
    exit: dict[str, int | float | str]
    stacks: str | None = None


@dataclass(slots=True)
class Ledger:
    """Gathers outcomes. `now` is handed in with each, in epoch milliseconds."""

    backoff: Backoff
    turn: Turn
    entries: int = 0

    def take(self, now: int) -> Turn:
        """Everything gathered, as a turn of its own; the ledger is empty afterwards."""
        taken, self.turn, self.entries = self.turn, Turn(now), 0
        taken.now = now
        return taken

    def completed(self, jobs: Sequence[Held]) -> None:
        """The handlers returned None."""
        by_lease = self.turn.completed
        for held in jobs:
            ids = by_lease.get(held.lease)
            if ids is None:
                by_lease[held.lease] = [held.job.id]
            else:
                ids.append(held.job.id)
        self.entries += len(jobs)

    def result(self, held: Held, result_json: str) -> None:
        """The handler returned a value."""
        self.turn.results.append((held.job.id, held.lease, result_json))
        self.entries += 1

    def spooled(self, held: Held, blob_json: str) -> None:
        """The handler's result lies in the spool."""
        self.turn.spooled.append((held.job.id, held.lease, blob_json))
        self.entries += 1

    def released(self, held: Held) -> None:
        """Given back without a charge."""
        self.turn.released.append(Released(held.job.id, held.lease))
        self.entries += 1

    def cancelled(self, held: Held) -> None:
        """Taken back by its producer before it began."""
        self.turn.cancelled.append(Released(held.job.id, held.lease))
        self.entries += 1

    def stopped(self, held: Held, error: ErrorData, now: int, worker: int, death: Death | None = None) -> None:
        """Cancelled while it executed. `death`: its worker ended before it did."""
        stacks, exit = (death.stacks, death.exit) if death is not None else (None, None)
        entry = AttemptError(
            held.job.attempt, now, error.type, error.message, None, error.traceback, error.cause, worker, stacks, exit
        )
        self.turn.stopped.append(Stopped(held.job.id, held.lease, msgspec.json.encode(entry).decode()))
        self.entries += 1

    def parked(self, held: Held, reason: str) -> None:
        """Put aside without a charge."""
        self.turn.parked.append(Parked(held.job.id, held.lease, reason))
        self.entries += 1

    def failed(self, held: Held, failure: Failed, now: int, worker: int, stacks: str | None = None) -> None:
        """The handler raised: another attempt while there is budget, else the dead letters."""
        job, error = held.job, failure.error
        error_json = _entry(job, failure, now, worker, stacks)
        failures = job.attempt - job.interruptions
        self.entries += 1
        if failure.retryable and failures < job.max_attempts:
            wait_ms = failure.retry_after_ms if failure.retry_after_ms is not None else self.backoff(failures)
            self.turn.retried.append(Retried(job.id, held.lease, now + wait_ms, error_json))
        else:
            reason = "attempts" if failure.retryable else "permanent"
            self.turn.buried.append(Buried(job.id, held.lease, reason, error_json, fingerprint(error), False))

    def postponed(self, held: Held, failure: Failed, now: int, worker: int, times: int = 1) -> None:
        """The handler raised, and a dependency is to blame: another attempt without a charge, the `times`-th."""
        error_json = _entry(held.job, failure, now, worker)
        wait_ms = failure.retry_after_ms if failure.retry_after_ms is not None else self.backoff(times)
        self.turn.postponed.append(Postponed(held.job.id, held.lease, now + wait_ms, error_json))
        self.entries += 1

    def interrupted(self, held: Held, death: Death, now: int, worker: int) -> None:
        """The worker died while it executed the job: charged to the smaller budget."""
        job = held.job
        error = ErrorData("JobInterrupted", death.message, True)
        entry = AttemptError(
            job.attempt, now, error.type, error.message, True, worker=worker, stacks=death.stacks, exit=death.exit
        )
        error_json = msgspec.json.encode(entry).decode()
        self.entries += 1
        if job.interruptions + 1 < job.max_interruptions:
            self.turn.interrupted.append(Interrupted(job.id, held.lease, error_json))
        else:
            buried = Buried(job.id, held.lease, "interruptions", error_json, fingerprint(error), True)
            self.turn.buried.append(buried)


def _entry(job: ClaimedJob, failure: Failed, now: int, worker: int, stacks: str | None = None) -> str:
    """What a job's `errors` get for this failure, as JSON."""
    error = failure.error
    entry = AttemptError(
        job.attempt, now, error.type, error.message, failure.retryable, error.traceback, error.cause, worker, stacks
    )
    return msgspec.json.encode(entry).decode()
