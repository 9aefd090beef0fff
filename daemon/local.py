"""The queue without a daemon: the same verbs as the control socket, on the file, under the same lock."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import perdure
from perdure.clock import Clock, SystemClock
from perdure.config.settings import Settings
from perdure.daemon.explain import Facts
from perdure.daemon.opening import open_store
from perdure.daemon.pressure import Pressure, unique_keys
from perdure.daemon.service import Service
from perdure.errors import DaemonUnreachable, QueueFull
from perdure.store.contract import Store
from perdure.store.models import NewBatch, SavedBreaker, Shed, Turn
from perdure.wire.control import Status, Subscribe, Subscribed
from perdure.wire.data import BreakerEvent, BreakerInfo, Enqueued, JobView, KindSpec, Verdict
from perdure.wire.envelope import WithDescriptors
from perdure.wire.packet import close_all
from perdure.wire.peer import Peer

_NO_DAEMON = "no daemon is running here, so no job will end. Start it with `perdure run`"


_CLOSED = "closed"
#: How the park reasons of jobs begin that wait for a breaker.
_PARKED = "breaker:"


class LocalEngine:
    """What a daemon would do, as far as it can be done without one (service.Engine)."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock

    async def place(self, batch: NewBatch, patience_ms: int | None) -> list[Enqueued]:
        """Commit a batch by itself. To wait for room would be in vain: nobody runs the jobs of a full queue."""
        turn = Turn(self._clock.now_ms(), batches=[batch])
        limits = self._settings.queue_limits()
        pressure = Pressure(limits) if limits.any else None
        if pressure is not None:
            turn.shed = await self._admit(batch, pressure, turn.now)
        result = await self._store.commit(turn)
        places = result.placed[0]
        if isinstance(places, Exception):
            raise places
        if pressure is None:
            return [Enqueued(place.id, place.duplicate) for place in places]
        pressure.committed(turn, result)
        return pressure.answers(batch, places, turn.now)

    async def _admit(self, batch: NewBatch, pressure: Pressure, now: int) -> list[Shed]:
        """What must be shed for a batch. Raises QueueFull."""
        needs = pressure.needs(batch, now)
        if not needs:
            return []
        pressure.counted(await self._store.depths(pressure.bounds(needs)))
        if not pressure.fits(needs, now) and (keys := unique_keys(batch, needs)):
            needs = pressure.needs(batch, now, await self._store.keys_held(keys))
        sheds = pressure.admit(batch, needs, now)
        if sheds is None:
            raise QueueFull(f"{pressure.message(list(needs), needs, now)}, or start the daemon with `perdure run`")
        return pressure.shed(sheds, now)

    async def placed(self) -> None:
        """Whatever was on its way to the writer is on disk when that answers."""
        await self._store.next_due()

    def queues_filled(self, names: Iterable[str]) -> None:
        """The next daemon looks for itself."""

    def queue_paused(self, name: str, paused: bool) -> None:
        """The next daemon reads it from the store."""

    def jobs_ended(self, ids: Iterable[int]) -> None:
        """Nobody can be waiting."""

    def jobs_revived(self, ids: Iterable[int]) -> None:
        """Nobody can be listening."""

    async def follow(self, request: Subscribe, peer: Peer | None) -> Subscribed:
        """Nothing will happen."""
        raise DaemonUnreachable("no daemon is running here, so there is nothing to follow. Start it with `perdure run`")

    def unfollow(self, subscription: int, peer: Peer | None) -> None:
        """There are no subscriptions."""

    async def cancel_claimed(self, ids: Collection[int], who: str) -> dict[int, Verdict]:
        """Nobody alive executes anything: what a killed daemon has left as running is cancelled like the others."""
        verdicts = await self._store.cancel(list(ids), self._clock.now_ms(), abandoned=True)
        return {verdict.id: verdict for verdict in verdicts}

    async def in_transit(self, ids: Collection[int]) -> Collection[int]:
        """Nothing moves."""
        return ()

    async def wait(self, ids: Sequence[int]) -> None:
        """Fine for what has ended already; otherwise there is nothing to wait for."""
        for job_id in ids:
            job = await self._store.get(job_id)
            if job is not None and job.finalized_at is None:
                raise DaemonUnreachable(_NO_DAEMON)

    async def attach(self, job_id: int) -> WithDescriptors:
        """Nobody runs the job."""
        raise DaemonUnreachable(f"no daemon is running here, so job {job_id} has no port. Start it with `perdure run`")

    # --- breakers: as they were saved; the next daemon begins with them

    async def breakers(self, events: int) -> list[BreakerInfo]:
        """Those that the configuration knows, and others that are not closed or that jobs wait for."""
        saved = {one.name: one for one in await self._store.breakers()}
        counts = await self._store.parked_counts(_PARKED)
        parked = {reason.removeprefix(_PARKED): count for reason, count in counts.items()}
        policies = self._settings.dependencies().policies
        names = {*policies, *parked, *(name for name, one in saved.items() if one.state != _CLOSED)}
        infos = {name: _info(name, saved.get(name), parked.get(name, 0)) for name in sorted(names)}
        for event in await self._store.breaker_events(events) if events else ():
            if event.name in infos:
                infos[event.name].events.append(event)
        return list(infos.values())

    async def open_breaker(self, name: str, who: str, reason: str, for_ms: int | None) -> None:
        """Save it as open."""
        now = self._clock.now_ms()
        await self._save(name, "open", who, reason, None if for_ms is None else now + for_ms)

    async def close_breaker(self, name: str, who: str, reason: str) -> None:
        """Save it as closed; the next daemon releases the jobs that wait for it."""
        await self._save(name, _CLOSED, who, reason, None)

    async def _save(self, name: str, state: str, who: str, reason: str, until: int | None) -> None:
        now = self._clock.now_ms()
        former = next((one for one in await self._store.breakers() if one.name == name), None)
        was = former.state if former else _CLOSED
        break_ms = self._settings.dependencies().policies[name].break_ms
        saved = SavedBreaker(name, state, now, who, reason, until, break_ms)
        await self._store.save_breakers([saved], [BreakerEvent(name, now, was, state, reason, who)])

    async def facts(self, job: JobView) -> Facts:
        """No daemon runs; what else would keep the job waiting."""
        kinds = {spec.name: spec for spec in await self._store.kinds()}
        known = self._settings.dependencies().policies
        return Facts(
            daemon=False,
            kind_known=job.kind in kinds,
            needs=kinds[job.kind].needs if job.kind in kinds else (),
            breakers={info.name: info for info in await self.breakers(0) if info.name in known},
        )

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
            breakers_open=[info.name for info in await self.breakers(0) if info.state != _CLOSED],
        )

    async def reload(self) -> list[KindSpec]:
        """There is nothing to reload."""
        raise DaemonUnreachable("no daemon is running here, so there is nothing to reload")


def _info(name: str, saved: SavedBreaker | None, parked: int) -> BreakerInfo:
    """A breaker of which nobody has ever heard is closed."""
    if saved is None:
        return BreakerInfo(name, _CLOSED, parked=parked)
    return BreakerInfo(
        name,
        saved.state,
        saved.reason,
        saved.changed_at,
        saved.changed_by,
        saved.until,
        saved.break_ms,
        parked=parked,
    )


class LocalQueue:
    """A blocking facade over store and service, with a loop of its own. `close` gives the lock back."""

    def __init__(self, runner: asyncio.Runner, store: Store, service: Service) -> None:
        self._runner = runner
        self._store = store
        self._service = service

    def request(self, request: Any, fds: Sequence[int] = ()) -> Any:
        """The answer, as the daemon would give it. Copies of `fds` go with the request. Raises perdure.errors."""
        answer, received = self.request_with_fds(request, fds)
        close_all(received)
        return answer

    def request_with_fds(self, request: Any, fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """The answer, and the descriptors that come with it, which the caller closes."""
        answer = self._runner.run(self._answer(request, fds))
        if isinstance(answer, WithDescriptors):
            return answer.body, list(answer.fds)
        return answer, []

    async def _answer(self, request: Any, fds: Sequence[int]) -> Any:
        if fds:
            self._service.clients = _Sender(fds)
        return await self._service.handle(request, Peer(os.getpid(), os.geteuid(), os.getegid()) if fds else None)

    def close(self) -> None:
        """Close the store."""
        with contextlib.closing(self._runner):
            self._service.spool.close()
            self._runner.run(self._store.close())


class _Sender:
    """The one client of a queue without a daemon: this process."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = [os.dup(fd) for fd in fds]

    def send(self, peer: Peer, message: object) -> bool:
        """It does not listen."""
        return False

    def take_fds(self, peer: Peer) -> list[int]:
        """Copies of what it has sent."""
        fds, self._fds = self._fds, []
        return fds


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
