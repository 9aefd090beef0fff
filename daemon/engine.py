"""What clients can ask of a running daemon (service.Engine): it goes through the core, so that nobody is overtaken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.daemon.explain import Facts
from perdure.daemon.job_facts import job_facts
from perdure.daemon.status import daemon_status
from perdure.daemon.wishes import Wish
from perdure.errors import DaemonStopping
from perdure.log import get_logger
from perdure.store.models import NewBatch
from perdure.store.states import AVAILABLE, CANCELLED
from perdure.wire.control import Status, Subscribe, Subscribed
from perdure.wire.data import BreakerInfo, Enqueued, ErrorData, JobView, KindSpec, Verdict
from perdure.wire.envelope import WithDescriptors
from perdure.wire.peer import Peer

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()

#: Jobs parked for a kind that has come back are released so many at a time.
UNPARK_BATCH = 5_000
#: What a cancelled job may take on top of the grace until its end is decided: its worker is asked for stacks, killed.
DECIDED_SECONDS = 10.0


class DaemonEngine:
    """Requests that change what the supervisor holds in memory."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._reloading: asyncio.Task[list[KindSpec]] | None = None

    def place(self, batch: NewBatch, patience_ms: int | None = None) -> asyncio.Future[list[Enqueued]]:
        """New jobs into the next turn; done when it is on disk. A full queue may refuse them, or let them wait."""
        supervisor = self._supervisor
        if supervisor.state == "stopping":
            refused: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()
            refused.set_exception(DaemonStopping())
            return refused
        if supervisor.throttle is not None:
            return supervisor.throttle.place(batch, patience_ms)
        future = supervisor.committer.expect(batch)
        if not future.done():
            supervisor.core.enqueue(batch)
            supervisor.pulse.set()
        return future

    async def placed(self) -> None:
        """Return when all new jobs on their way are on disk, or refused."""
        await self._supervisor.committer.placed()

    def queues_filled(self, names: Iterable[str]) -> None:
        """These queues got available jobs."""
        for name in names:
            self._supervisor.core.queues.fill(name)
        self._supervisor.pulse.set()

    def queue_paused(self, name: str, paused: bool) -> None:
        """A queue was paused or resumed."""
        queues = self._supervisor.core.queues
        if paused:
            queues.pause(name)
        else:
            queues.resume(name)
        self._supervisor.pulse.set()

    def jobs_ended(self, ids: Iterable[int]) -> None:
        """These jobs were cancelled, without a turn."""
        ended = list(ids)
        self._supervisor.hub.changed(ended, CANCELLED)
        self._supervisor.waiters.ended(ended)
        self._supervisor.breakers.ended(ended)
        if ended and self._supervisor.throttle is not None:
            self._supervisor.throttle.doubt()

    def jobs_revived(self, ids: Iterable[int]) -> None:
        """These jobs are available again, by request."""
        self._supervisor.hub.changed(ids, AVAILABLE)
        if self._supervisor.throttle is not None:
            self._supervisor.throttle.doubt()

    async def follow(self, request: Subscribe, peer: Peer | None) -> Subscribed:
        """Tell a client of jobs from now on."""
        assert peer is not None
        return await self._supervisor.hub.subscribe(request, peer)

    def unfollow(self, subscription: int, peer: Peer | None) -> None:
        """Tell it no more."""
        assert peer is not None
        self._supervisor.hub.unsubscribe(subscription, peer)

    async def wait(self, ids: Sequence[int]) -> None:
        """Return when each of these has ended."""
        await self._supervisor.waiters.wait_ended(ids, self._supervisor.store)

    async def attach(self, job_id: int) -> WithDescriptors:
        """The client's end of a job's port, when there is one."""
        return await self._supervisor.switchboard.attach(job_id, self.wait([job_id]))

    async def status(self) -> Status:
        """The daemon at a glance."""
        return await daemon_status(self._supervisor)

    # --- the breakers

    async def breakers(self, events: int) -> list[BreakerInfo]:
        """All breakers, with up to `events` changes of each."""
        return await self._supervisor.breakers.infos(events)

    async def open_breaker(self, name: str, who: str, reason: str, for_ms: int | None) -> None:
        """Open one by hand. Raises UnknownDependency."""
        await self._supervisor.breakers.open(name, who, reason, for_ms)

    async def close_breaker(self, name: str, who: str, reason: str) -> None:
        """Close one by hand. Raises UnknownDependency."""
        await self._supervisor.breakers.close_breaker(name, who, reason)

    async def facts(self, job: JobView) -> Facts:
        """Where a job is, and what it waits for."""
        return await job_facts(self._supervisor, job)

    # --- cancelling

    async def cancel_claimed(self, ids: Collection[int], who: str) -> dict[int, Verdict]:
        """Cancel claimed jobs, also those that workers execute; what became of each, once that is on disk."""
        supervisor = self._supervisor
        clock, waiters, store = supervisor.clock, supervisor.waiters, supervisor.store
        taken, wishes = supervisor.core.cancel(set(ids), Wish(who, clock.now_ms(), clock.monotonic_ns()))
        supervisor.act()
        supervisor.pulse.set()
        patience = supervisor.settings.workers.cancel_grace_ms / 1000 + DECIDED_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await waiters.wait_ended(list(wishes), store)
        # What is decided may still wait for the disk; and those taken at once may be on it by now.
        decided = [job_id for job_id, wish in wishes.items() if wish.outcome is not None]
        await waiters.wait_ended([*taken, *decided], store)
        return {job_id: Verdict(job_id) for job_id in taken} | {
            job_id: Verdict(job_id, _why_not(job_id, wish, patience)) for job_id, wish in wishes.items()
        }

    async def in_transit(self, ids: Collection[int]) -> Collection[int]:
        """All of them, once what was under way is on disk; if nothing was, those that have arrived here meanwhile."""
        core = self._supervisor.core
        moved = await self._supervisor.committer.settled(lambda: core.ledger.entries > 0)
        return ids if moved else core.claimed(ids)

    # --- handlers

    async def reload(self) -> list[KindSpec]:
        """New nursery, new workers with the new code; the old workers finish what they run."""
        supervisor = self._supervisor
        if supervisor.state != "running":
            raise DaemonStopping(f"the daemon is {supervisor.state}; it cannot reload now")
        if self._reloading is None or self._reloading.done():
            self._reloading = supervisor.task(self._reload())
        return await asyncio.shield(self._reloading)

    async def _reload(self) -> list[KindSpec]:
        supervisor = self._supervisor
        fleet = supervisor.fleet
        log.info("reload.begun")
        supervisor.notifier.reloading(supervisor.clock.monotonic_ns() // 1000)
        try:
            nursery, kinds = await fleet.load()
            try:
                await supervisor.store.save_kinds(kinds, supervisor.clock.now_ms())
            except BaseException:
                nursery.end()
                raise
            fleet.adopt(nursery)
            former = self.replace_workers(kinds)
            await fleet.start_workers()
            log.info("reload.done", kinds=len(kinds), replaced=former)
        except Exception as error:
            log.error("reload.failed", reason=str(error), advice="the old handlers stay in use")
            raise
        finally:
            if supervisor.state == "running":
                supervisor.notifier.ready(supervisor.housekeeping.status_line())
            supervisor.pulse.set()
        await self.unpark_known()
        return kinds

    def replace_workers(self, kinds: list[KindSpec]) -> list[int]:
        """Work with these handlers from now on: the present workers do not know them, and get nothing more."""
        supervisor = self._supervisor
        former = [link.id for link in supervisor.fleet.links.values() if not link.asked_to_end]
        for worker in former:
            supervisor.core.drain_worker(worker)
        self.take_kinds(kinds)
        supervisor.act()
        return former

    def take_kinds(self, kinds: list[KindSpec]) -> None:
        """Check and dispatch by these from now on."""
        for spec in kinds:
            unknown = [name for name in spec.needs if not self._supervisor.breakers.knows(name)]
            if unknown:
                advice = f"its jobs wait until the configuration has [{unknown[0]}] or [dependencies.{unknown[0]}]"
                log.warning("needs.unknown", kind=spec.name, needs=unknown, advice=advice)
        self._supervisor.core.kinds_loaded(kinds)
        self._supervisor.service.kinds_loaded(kinds)

    async def unpark_known(self) -> None:
        """Let go of jobs that waited for handlers, or for settings, which are there now."""
        supervisor = self._supervisor
        reasons = [f"kind:{name}" for name in supervisor.core.kinds] + await supervisor.breakers.settled_needs()
        count = UNPARK_BATCH
        while reasons and count == UNPARK_BATCH:
            count, names = await supervisor.store.unpark(reasons, UNPARK_BATCH, supervisor.clock.now_ms())
            self.queues_filled(names)
            if count:
                log.info("jobs.unparked", count=count, queues=names)


def _why_not(job_id: int, wish: Wish, patience: float) -> ErrorData | None:
    """Why a job that was to be stopped is not cancelled; None: it is."""
    if wish.outcome == "cancelled":
        return None
    if wish.outcome == "completed":
        return ErrorData("WrongState", f"job {job_id} completed before it could be stopped", False)
    text = f"job {job_id} was told to stop, and has not ended within {patience:g} s; it is cancelled as soon as it does"
    return ErrorData("CallTimeout", f"{text}. `perdure explain {job_id}` says where it is", True)
