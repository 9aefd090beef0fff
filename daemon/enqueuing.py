"""New jobs of clients: each is checked, then all of a request go to the engine, which commits them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from perdure.clock import Clock
from perdure.config.settings import Settings
from perdure.duration import MAX_DURATION_MS
from perdure.errors import InvalidOption
from perdure.store.intake import Intake, intake_defaults
from perdure.store.models import NewBatch, NewJob
from perdure.wire.control import Enqueue, EnqueueAlike
from perdure.wire.data import Enqueued, KindSpec

#: A request is checked in slices of this many jobs (about 2 ms), so that others get a turn in between.
SLICE_JOBS = 500
ALIKE_SLICE_JOBS = 2_000


class Committing(Protocol):
    """The part of service.Engine that matters here."""

    def place(self, batch: NewBatch, patience_ms: int | None) -> Awaitable[list[Enqueued]]:
        """Commit a batch of new jobs; done when they are on disk."""
        ...


class Enqueuing:
    """Knows what the kinds that are declared now allow."""

    def __init__(self, settings: Settings, clock: Clock, engine: Committing) -> None:
        self._most_jobs = settings.limits.batch
        self._clock = clock
        self._engine = engine
        self._defaults = intake_defaults(settings)
        self.intake = Intake([], self._defaults)

    def kinds_loaded(self, kinds: Sequence[KindSpec]) -> None:
        """Check arguments against these from now on."""
        self.intake = Intake(kinds, self._defaults)

    def enqueue(self, request: Enqueue) -> Awaitable[list[Enqueued]]:
        """Check every job, then commit all or none. Raises InvalidArguments, InvalidOption."""
        return self._enqueue(request, request.jobs, SLICE_JOBS, self.intake.resolve_many)

    def enqueue_alike(self, request: EnqueueAlike) -> Awaitable[list[Enqueued]]:
        """The same for jobs that differ only in their arguments."""
        if request.job.blob is not None or request.job.blob_fd is not None:
            raise InvalidOption("jobs with payloads cannot go as `args` of one `job`; send them as Enqueue")
        return self._enqueue(request, request.args, ALIKE_SLICE_JOBS, partial(self.intake.resolve_alike, request.job))

    def check(self, request: Enqueue) -> None:
        """Refuse at once what `enqueue` would refuse after large files have been copied."""
        self._check_request(len(request.jobs), request.patience_ms)
        if len(request.jobs) <= SLICE_JOBS:
            self.intake.resolve_many(request.jobs, self._clock.now_ms())

    def _enqueue(
        self, request: Enqueue | EnqueueAlike, jobs: Sequence[object], most: int, resolve: Callable[..., list[NewJob]]
    ) -> Awaitable[list[Enqueued]]:
        self._check_request(len(jobs), request.patience_ms)
        if len(jobs) > most:
            return self._in_slices(request, jobs, most, resolve)
        rows = resolve(jobs, self._clock.now_ms())
        return self._engine.place(NewBatch(rows, request.strict), request.patience_ms)

    async def _in_slices(
        self, request: Enqueue | EnqueueAlike, jobs: Sequence[object], most: int, resolve: Callable[..., list[NewJob]]
    ) -> list[Enqueued]:
        now, total = self._clock.now_ms(), len(jobs)
        rows: list[NewJob] = []
        for first in range(0, total, most):
            rows += resolve(jobs[first : first + most], now, first, total)
            await asyncio.sleep(0)
        return await self._engine.place(NewBatch(rows, request.strict), request.patience_ms)

    def _check_request(self, jobs: int, patience_ms: int | None) -> None:
        if jobs > self._most_jobs:
            limit = f"{jobs} jobs in one request; the most is {self._most_jobs} (limits.batch)"
            raise InvalidOption(f"{limit}. Send several requests.")
        if patience_ms is not None and not 0 <= patience_ms <= MAX_DURATION_MS:
            raise InvalidOption(f"patience: {patience_ms} ms is not from 0 to a hundred years")
