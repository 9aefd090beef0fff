"""The store as a contract: documented verbs that every backend implements, and tests/store/ verifies for each.

All verbs are safe to cancel: a transaction that has begun is carried through, or rolled back whole, whatever happens
to the coroutine that awaits it. Every write about a running job names its lease and is refused if the lease is not held
any more. Errors: StoreFull, StoreReadOnly, StoreCorrupt, SchemaTooNew, StoreLocked (perdure.errors); after any of them
nothing of the verb has happened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from perdure.store.models import Committed, Depth, ParkedJob, Pruned, Recovered, RunInfo, SavedBreaker, Turn
from perdure.wire.data import BreakerEvent, DeadFilter, DeadView, JobFilter, JobView, KindSpec, QueueView, Verdict


class Store(Protocol):
    """A durable queue."""

    @property
    def location(self) -> str:
        """Where the queue is, for people: a path or an address without secrets."""
        ...

    async def close(self) -> None:
        """Finish what has begun, give the lock back. Safe to call twice."""
        ...

    async def begin_run(self, pid: int, boot_id: str, now: int) -> RunInfo:
        """Record a start of the daemon."""
        ...

    async def end_run(self, run_id: int, now: int) -> None:
        """Record its clean end."""
        ...

    async def recover(
        self, executing: Collection[tuple[int, int]] | None, now: int, unwanted: Collection[tuple[int, int]] = ()
    ) -> Recovered:
        """Put every running job of former runs back, in one transaction.

        `executing`: (id, attempt) of the jobs known to have been executing; these are charged an interruption (and
        buried when that was their last), the others are released. None: nothing is known, so all are charged. Those of
        `unwanted` were being cancelled: they are.
        """
        ...

    async def commit(self, turn: Turn) -> Committed:
        """The group commit: all of the turn in one transaction, durable when this returns.

        A batch that breaks a rule (strict and a taken unique key, a failed CHECK) is refused alone, and its
        neighbours go in.
        `shed` takes available jobs, those of the turn's batches included, and fewer where a batch is refused.
        `claimed` is in the order of the turn's claims, and for each of these by priority and age. The file of a
        spooled result whose outcome is in `stale` is nobody's: the caller removes it.
        """
        ...

    async def depths(self, queues: Mapping[str, int]) -> dict[str, Depth]:
        """How full these queues are, each counted up to the number beside its name.

        Between two turns: every turn that was given to `commit` before is in it, none that comes after; and the answers
        are in the order of the calls.
        """
        ...

    async def keys_held(self, keys: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (kind, unique key) that an unfinished job has: a new job with one would be a duplicate."""
        ...

    async def available_queues(self) -> list[str]:
        """Queues that have available jobs, paused or not."""
        ...

    async def next_due(self) -> int | None:
        """The earliest scheduled_at of a scheduled or retryable job."""
        ...

    async def unpark(self, reasons: Sequence[str], limit: int, now: int) -> tuple[int, list[str]]:
        """Make up to `limit` jobs parked for one of `reasons` available: (how many, their queues)."""
        ...

    async def unpark_next(self, reason: str, after: ParkedJob | None) -> ParkedJob | None:
        """Make one job parked for `reason` available: the next one after `after` in its line that is in no paused
        queue, or the first one when the line ends there (or `after` is None). None: no job waits that is in no paused
        queue. The time it takes depends on how many queues wait, not on how many jobs."""
        ...

    async def parked_reasons(self, prefix: str) -> list[str]:
        """The different reasons beginning with `prefix` for which jobs are parked; the time it takes does not depend on
        how many jobs these are."""
        ...

    async def parked_counts(self, prefix: str) -> dict[str, int]:
        """How many jobs are parked for each reason that begins with `prefix`."""
        ...

    async def save_breakers(self, breakers: Sequence[SavedBreaker], events: Sequence[BreakerEvent]) -> None:
        """Record what these breakers are now, and the changes that led there. Old events make way."""
        ...

    async def breakers(self) -> list[SavedBreaker]:
        """Every breaker that was ever recorded, by name."""
        ...

    async def breaker_events(self, limit: int) -> list[BreakerEvent]:
        """Up to `limit` changes of each breaker, newest first."""
        ...

    async def store_id(self) -> str:
        """A name for this queue that no other has: 32 hexadecimal digits, made with it."""
        ...

    async def ahead(self, job_id: int, limit: int) -> int:
        """How many available jobs of its queue come before an available job, counted up to `limit`."""
        ...

    async def cancel(self, ids: Sequence[int], now: int, *, abandoned: bool = False) -> list[Verdict]:
        """Cancel jobs that are not running. Verdict errors: NotFound, WrongState.

        `abandoned`: also those that are on record as running, because the daemon that ran them was killed.
        """
        ...

    async def retry(self, ids: Sequence[int], now: int) -> tuple[list[Verdict], list[str]]:
        """Make scheduled, retryable, cancelled or completed jobs available with a fresh budget; and their queues.

        Verdict errors: NotFound, WrongState, Duplicate.
        """
        ...

    async def replay(
        self, ids: Sequence[int], set_args: str | None, who: str, now: int
    ) -> tuple[list[Verdict], list[str]]:
        """Give dead jobs another life under their old id; and the queues that got them.

        Failures start anew. Interruptions do not: a job that has used them up gets one more, so a poison pill stays
        capped. The members of `set_args` (a JSON object) are put over those of the last arguments; the original ones
        stay on record. Raises InvalidArguments when it is no object. Verdict errors: NotFound, WrongState, Duplicate.
        """
        ...

    async def discard(self, ids: Sequence[int], who: str, now: int) -> list[Verdict]:
        """Mark dead letters as needing nothing more. Verdict errors: NotFound, WrongState."""
        ...

    async def prune(self, now: int, max_age_ms: int, keep: int, batch: int) -> Pruned:
        """Delete up to `batch` finished jobs older than `max_age_ms` or beyond the newest `keep`, and resolved dead
        letters of that age: the ids that are gone, and the files of the spool that nobody names any more. Fewer ids
        than `batch`: nothing is left to prune."""
        ...

    async def unneeded_files(self, names: Collection[str]) -> list[str]:
        """Those files of the spool that no job and no dead letter names."""
        ...

    async def result_files(self, ids: Sequence[int]) -> list[str]:
        """The files of the spool that are the results of these jobs."""
        ...

    async def checkpoint(self) -> int:
        """Bound the write-ahead log; returns its size in bytes afterwards (0 where there is none)."""
        ...

    async def save_kinds(self, kinds: Sequence[KindSpec], now: int) -> None:
        """Replace what the loaded handlers declare."""
        ...

    async def kinds(self) -> list[KindSpec]:
        """What the handlers loaded last declare."""
        ...

    async def pause(self, queue: str, who: str, now: int) -> None:
        """Record that a queue is paused."""
        ...

    async def resume(self, queue: str) -> None:
        """Record that a queue is not paused any more."""
        ...

    async def paused_queues(self) -> list[str]:
        """Queues that are paused."""
        ...

    async def queues(self) -> list[QueueView]:
        """Every queue that has jobs or a setting, with its counts per state."""
        ...

    async def get(self, job_id: int) -> JobView | None:
        """One job that is not dead."""
        ...

    async def count(self) -> dict[str, int]:
        """Jobs per state, and open dead letters under 'dead'."""
        ...

    async def get_dead(self, job_id: int) -> DeadView | None:
        """One dead letter."""
        ...

    async def list_dead(self, which: DeadFilter) -> list[DeadView]:
        """A page of dead letters, newest death first; `after` is the id of the last one of the page before."""
        ...

    # The last one: below it, `list` would be this method in annotations.
    async def list(self, which: JobFilter) -> list[JobView]:
        """A page of jobs, newest first."""
        ...
