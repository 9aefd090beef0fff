"""What clients can ask of a running daemon (service.Engine): it goes through the core, so that nobody is overtaken."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.daemon.explain import Facts
from perdure.daemon.job_facts import job_facts
from perdure.daemon.status import daemon_status
from perdure.errors import DaemonStopping
from perdure.log import get_logger
from perdure.store.models import NewBatch
from perdure.wire.control import Status
from perdure.wire.data import BreakerInfo, Enqueued, JobView, KindSpec

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()

#: Jobs parked for a kind that has come back are released so many at a time.
UNPARK_BATCH = 5_000
#: How long `cancel` waits for a worker to give back what it has not begun, in seconds.
TAKE_BACK_SECONDS = 1.0


class DaemonEngine:
    """Requests that change what the supervisor holds in memory."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: Jobs sent ahead whose producers want them back; set True when a worker has given one back.
        self.being_cancelled: dict[int, asyncio.Future[bool]] = {}
        self._reloading: asyncio.Task[list[KindSpec]] | None = None

    def place(self, batch: NewBatch) -> asyncio.Future[list[Enqueued]]:
        """New jobs into the next turn; done when it is on disk."""
        supervisor = self._supervisor
        if supervisor.state == "stopping":
            refused: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()
            refused.set_exception(DaemonStopping())
            return refused
        future = supervisor.committer.expect(batch)
        if not future.done():
            supervisor.core.enqueue(batch)
            supervisor.pulse.set()
        return future

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
        """These jobs ended without a turn."""
        ended = list(ids)
        self._supervisor.waiters.ended(ended)
        self._supervisor.breakers.ended(ended)

    async def wait(self, ids: Sequence[int]) -> None:
        """Return when each of these has ended."""
        await self._supervisor.waiters.wait_ended(ids, self._supervisor.store)

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

    async def cancel_claimed(self, ids: Collection[int]) -> Collection[int]:
        """Cancel claimed jobs that have not begun: those here at once, those sent ahead if they are given back."""
        supervisor = self._supervisor
        taken, asked = supervisor.core.cancel(set(ids) - self._begun())
        loop = asyncio.get_running_loop()
        futures = {job_id: self.being_cancelled.setdefault(job_id, loop.create_future()) for job_id in asked}
        supervisor.act()
        supervisor.pulse.set()
        if futures:
            await asyncio.wait(futures.values(), timeout=TAKE_BACK_SECONDS)
            taken |= {job_id for job_id, future in futures.items() if future.done() and future.result()}
            for job_id in futures:
                self._settle(job_id, False)
        # Those taken first may be on disk by now: looked up, not only waited for.
        await supervisor.waiters.wait_ended(list(taken), supervisor.store)
        return taken

    async def in_transit(self, ids: Collection[int]) -> Collection[int]:
        """Those that no worker executes, once all that was under way is on disk."""
        left = set(ids) - self._begun()
        if left:
            await self._supervisor.committer.settled(lambda: self._supervisor.core.ledger.entries > 0)
        return left

    def _begun(self) -> set[int]:
        return {slot.job_id for link in self._supervisor.fleet.links.values() for slot in link.page.executing()}

    def given_back(self, ids: Iterable[int]) -> None:
        """A worker gave these back: those that were asked for are the producer's again."""
        if self.being_cancelled:
            for job_id in ids:
                self._settle(job_id, True)

    def forget_ended(self) -> None:
        """Jobs that ended before they could be taken back will not come."""
        if self.being_cancelled:
            there = self._supervisor.core.claimed(self.being_cancelled)
            for job_id in self.being_cancelled.keys() - there:
                self._settle(job_id, False)

    def _settle(self, job_id: int, given_back: bool) -> None:
        future = self.being_cancelled.pop(job_id, None)
        if future is not None and not future.done():
            future.set_result(given_back)

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
