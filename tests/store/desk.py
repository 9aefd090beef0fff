"""Drives a store in tests: builds jobs and turns, and keeps the time and the leases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from perdure.store.contract import Store
from perdure.store.models import (
    Buried,
    Claim,
    ClaimedJob,
    Committed,
    Interrupted,
    NewBatch,
    NewJob,
    Parked,
    Postponed,
    Released,
    Retried,
    Turn,
)
from perdure.wire.data import Enqueued

START_MS = 1_700_000_000_000

DEFAULTS = NewJob(
    kind="noop",
    queue="default",
    priority=0,
    args="{}",
    max_attempts=3,
    max_interruptions=2,
    timeout_ms=None,
    scheduled_at=None,
    unique_key=None,
    tags_json=None,
)


def new_job(**fields: Any) -> NewJob:
    """A job with the defaults of these tests."""
    return replace(DEFAULTS, **fields)


def error_json(attempt: int, message: str = "boom") -> str:
    """One entry of a job's errors."""
    return json.dumps({"attempt": attempt, "at": START_MS, "type": "ValueError", "message": message})


class Desk:
    """One store, one clock; every claim has a lease of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = START_MS
        self.lease = 0

    async def turn(self, **fields: Any) -> Committed:
        """Commit a turn a millisecond after the one before."""
        self.now += 1
        return await self.store.commit(Turn(now=self.now, **fields))

    async def enqueue(self, *jobs: NewJob, strict: bool = False) -> list[Enqueued]:
        """One batch, which must go in."""
        (placed,) = (await self.turn(batches=[NewBatch(list(jobs), strict)])).placed
        assert not isinstance(placed, Exception), placed
        return placed

    async def claim(self, queue: str = "default", limit: int = 100) -> list[ClaimedJob]:
        """Claim under the next lease."""
        self.lease += 1
        return (await self.turn(lease=self.lease, claims=[Claim(queue, limit)], claim_total=limit)).claimed

    async def running(self, **fields: Any) -> ClaimedJob:
        """A new job that runs under `self.lease`."""
        (placed,) = await self.enqueue(new_job(**fields))
        (job,) = [job for job in await self.claim(fields.get("queue", "default")) if job.id == placed.id]
        return job

    async def complete(self, *jobs: ClaimedJob) -> Committed:
        """They returned None."""
        return await self.turn(completed={self.lease: [job.id for job in jobs]})

    async def fail(self, job: ClaimedJob, wait_ms: int = 1000) -> Committed:
        """It raised, and may try again."""
        error = error_json(job.attempt)
        return await self.turn(retried=[Retried(job.id, self.lease, self.now + wait_ms, error)])

    async def postpone(self, job: ClaimedJob, wait_ms: int = 1000) -> Committed:
        """A dependency failed it."""
        error = error_json(job.attempt)
        return await self.turn(postponed=[Postponed(job.id, self.lease, self.now + wait_ms, error)])

    async def park(self, reason: str, *jobs: NewJob) -> list[int]:
        """New jobs that wait for something, claimed queue by queue; their ids."""
        ids = [placed.id for placed in await self.enqueue(*jobs)]
        for queue in sorted({job.queue for job in jobs}):
            claimed = await self.claim(queue, len(jobs))
            await self.turn(parked=[Parked(job.id, self.lease, reason) for job in claimed])
        return ids

    async def interrupt(self, job: ClaimedJob) -> Committed:
        """Its worker died."""
        return await self.turn(interrupted=[Interrupted(job.id, self.lease, error_json(job.attempt, "died"))])

    async def release(self, *jobs: ClaimedJob) -> Committed:
        """They had not begun."""
        return await self.turn(released=[Released(job.id, self.lease) for job in jobs])

    async def bury(self, job: ClaimedJob, reason: str = "permanent", interrupted: bool = False) -> Committed:
        """It is dead."""
        grave = Buried(job.id, self.lease, reason, error_json(job.attempt), "fp", interrupted)
        return await self.turn(buried=[grave])

    async def dead(self, **fields: Any) -> int:
        """A new job that died."""
        job = await self.running(**fields)
        assert not (await self.bury(job)).stale
        return job.id

    async def state(self, job_id: int) -> str | None:
        """Its state; None: not in the table of jobs."""
        job = await self.store.get(job_id)
        return job.state if job else None

    async def states(self, ids: Sequence[int]) -> list[str | None]:
        """The states of several."""
        return [await self.state(job_id) for job_id in ids]
