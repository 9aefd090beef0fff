"""The queue without a daemon: the same verbs as the control socket, on the file, under the same lock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import perdure
from perdure.clock import Clock, SystemClock
from perdure.config.settings import Settings
from perdure.daemon.opening import open_store
from perdure.daemon.service import Service
from perdure.errors import DaemonUnreachable
from perdure.store.contract import Store
from perdure.store.models import NewBatch, Turn
from perdure.wire.control import Status
from perdure.wire.data import Enqueued, KindSpec

_NO_DAEMON = "no daemon is running here, so no job will end. Start it with `perdure run`"


class LocalEngine:
    """What a daemon would do, as far as it can be done without one (service.Engine)."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    async def place(self, batch: NewBatch) -> list[Enqueued]:
        """Commit a batch by itself."""
        turn = Turn(self._clock.now_ms(), batches=[batch])
        places = (await self._store.commit(turn)).placed[0]
        if isinstance(places, Exception):
            raise places
        return [Enqueued(place.id, place.duplicate) for place in places]

    def queues_filled(self, names: Iterable[str]) -> None:
        """The next daemon looks for itself."""

    def queue_paused(self, name: str, paused: bool) -> None:
        """The next daemon reads it from the store."""

    def jobs_ended(self, ids: Iterable[int]) -> None:
        """Nobody can be waiting."""

    async def cancel_claimed(self, ids: Collection[int]) -> Collection[int]:
        """Nothing is claimed by anyone alive."""
        return ()

    async def in_transit(self, ids: Collection[int]) -> Collection[int]:
        """Nothing moves."""
        return ()

    async def wait(self, ids: Sequence[int]) -> None:
        """Fine for what has ended already; otherwise there is nothing to wait for."""
        for job_id in ids:
            job = await self._store.get(job_id)
            if job is not None and job.finalized_at is None:
                raise DaemonUnreachable(_NO_DAEMON)

    async def status(self) -> Status:
        """The counts; no daemon."""
        counts = await self._store.count()
        dead = counts.pop("dead", 0)
        return Status(
            version=perdure.__version__,
            pid=0,
            state="not running",
            uptime_seconds=0.0,
            store=self._store.location,
            durability=self._settings.store.durability,
            counts=counts,
            dead=dead,
            queues_paused=await self._store.paused_queues(),
        )

    async def reload(self) -> list[KindSpec]:
        """There is nothing to reload."""
        raise DaemonUnreachable("no daemon is running here, so there is nothing to reload")


class LocalQueue:
    """A blocking facade over store and service, with a loop of its own. `close` gives the lock back."""

    def __init__(self, runner: asyncio.Runner, store: Store, service: Service) -> None:
        self._runner = runner
        self._store = store
        self._service = service

    def request(self, request: Any) -> Any:
        """The answer, as the daemon would give it. Raises perdure.errors."""
        return self._runner.run(self._answer(request))

    async def _answer(self, request: Any) -> Any:
        return await self._service.handle(request)

    def close(self) -> None:
        """Close the store."""
        with contextlib.closing(self._runner):
            self._runner.run(self._store.close())


def open_local(settings: Settings) -> LocalQueue:
    """Open the queue's file under its lock. Raises StoreLocked and the other errors of the store."""
    runner = asyncio.Runner()
    try:
        store, service = runner.run(_open(settings))
    except BaseException:
        runner.close()
        raise
    return LocalQueue(runner, store, service)


async def _open(settings: Settings) -> tuple[Store, Service]:
    clock = SystemClock()
    store = await open_store(settings, "cli")
    service = Service(store, settings, clock, LocalEngine(store, settings, clock))
    service.kinds_loaded(await store.kinds())
    return store, service
