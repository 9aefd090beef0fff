"""The breakers in a running daemon: between the pure board, the core that asks, the workers that report, and the store.

Everything here happens on the supervisor's loop. `Breakers` is the core's gate (daemon/gate.py). Between events it
sleeps: the timer runs only while a breaker is not closed, or a backlog is being released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from perdure.daemon.board import Board
from perdure.daemon.gate import BREAKER_REASON, NEEDS_REASON
from perdure.daemon.ramp import Ramp
from perdure.errors import PerdureError
from perdure.log import get_logger
from perdure.store.models import ParkedJob, SavedBreaker
from perdure.wire.data import BreakerEvent, BreakerInfo
from perdure.wire.dependencies import ANY_JOB, BreakerState, Policy
from perdure.wire.work import Breakers as BreakersMessage
from perdure.wire.work import Observed

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()

#: How often a half-open breaker without a probe, and a ramp, are looked at, in seconds.
STEP_SECONDS = 0.1


class Breakers:
    """Keeps the board, tells everyone who must know what changed, and lets parked jobs go."""

    def __init__(self, supervisor: Supervisor, policies: Mapping[str, Policy], saved: Iterable[SavedBreaker]) -> None:
        self._supervisor = supervisor
        self._policies = policies
        clock = supervisor.clock
        self.board = Board(policies, saved, clock.now_ms(), clock.monotonic_ns())
        self.ramps: dict[str, Ramp] = {}
        #: Where in its line the last probe of a breaker stood: the next probe is another job, if there is one.
        self._last_probes: dict[str, ParkedJob] = {}
        self._probes: set[int] = set()
        #: The worker in which a call was refused by a half-open breaker without a probe: nobody may be parked for it,
        #: because whoever falls back on something else does not wait. And the worker that was let probe therefore.
        self._callers: dict[str, int] = {}
        self._chosen: dict[str, int] = {}
        #: Half-open breakers that found nobody to probe: not asked for again before a call is refused, or `look` comes.
        self._lonely: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stepping: asyncio.Task[None] | None = None
        self._unsaved: list[tuple[list[SavedBreaker], list[BreakerEvent]]] = []
        self._saving: asyncio.Task[None] | None = None

    # --- the core's gate

    def parks(self, needs: Sequence[str], job_id: int) -> str | None:
        """The park reason of a job that cannot run now. The first that half-open breakers keep becomes their probe."""
        reason = self._keeps(needs, job_id)
        if reason is not None:
            self.ended((job_id,))  # a probe that another of its dependencies keeps from running
        return reason

    def _keeps(self, needs: Sequence[str], job_id: int) -> str | None:
        for need in needs:
            if need not in self.board.known:
                return NEEDS_REASON + need
        shut = self.board.blocks(needs, job_id)
        wanting = self.board.wants_probe() if shut else []
        for name in shut:
            if name not in wanting:
                return BREAKER_REASON + name
        # All of them or none: where each job needs two, a probe of one would wait for the other for ever.
        for name in shut:
            self._make_probe(name, job_id)
        return None

    def knows(self, name: str) -> bool:
        """Whether the configuration has this dependency."""
        return name in self.board.known

    def is_closed(self, name: str) -> bool:
        """Whether calls to it are let through."""
        return self.board.is_closed(name)

    def in_trouble(self, name: str) -> bool:
        """Whether a failure of it is no job's fault."""
        return self.board.in_trouble(name, self._supervisor.clock.monotonic_ns())

    def ended(self, ids: Iterable[int]) -> None:
        """A probe that ended without a verdict gives way to another."""
        if not self._probes:
            return
        for job_id in self._probes.intersection(ids):
            self._probes.discard(job_id)
            self.board.probe_ended(job_id)
            self._changed()

    # --- events

    def observed(self, worker: int, message: Observed) -> None:
        """What a worker's calls came to."""
        if not (message.ok or message.failed):
            self._callers[message.name] = worker
            self._lonely.discard(message.name)
        clock = self._supervisor.clock
        self.board.observed(message, clock.now_ms(), clock.monotonic_ns())
        ramp = self.ramps.get(message.name)
        if ramp is not None and message.failed:
            ramp.failed(message.failed)
        self._changed()

    async def open(self, name: str, who: str, reason: str, for_ms: int | None) -> None:
        """By hand. Done when it is on disk. Raises UnknownDependency."""
        clock = self._supervisor.clock
        self.board.open(name, who, reason, for_ms, clock.now_ms(), clock.monotonic_ns())
        self._changed()
        await self.saved()

    async def close_breaker(self, name: str, who: str, reason: str) -> None:
        """By hand. Done when it is on disk. Raises UnknownDependency."""
        clock = self._supervisor.clock
        self.board.close(name, who, reason, clock.now_ms(), clock.monotonic_ns())
        self._changed()
        await self.saved()

    def states(self, worker: int = 0) -> list[BreakerState]:
        """All that are not closed, as a worker must know them."""
        return [self._for_worker(state, worker) for state in self.board.states()]

    def _for_worker(self, state: BreakerState, worker: int) -> BreakerState:
        """Any job may probe in one worker only."""
        if state.probe_job == ANY_JOB and self._chosen.get(state.name) != worker:
            return BreakerState(state.name, state.state, state.until_ns)
        return state

    def worker_gone(self, worker: int) -> None:
        """A worker that was to make a probe, whichever of its jobs would call first, will not."""
        for name, chosen in list(self._chosen.items()):
            if chosen == worker:
                del self._chosen[name]
                if self.board.state(name).probe_job == ANY_JOB:
                    self.board.probe_ended(ANY_JOB)
                    self._changed()

    async def infos(self, events: int) -> list[BreakerInfo]:
        """All breakers as people see them, with their last changes."""
        store, clock = self._supervisor.store, self._supervisor.clock
        parked = await store.parked_counts(BREAKER_REASON)
        infos = self.board.infos(clock.now_ms(), clock.monotonic_ns())
        history = await store.breaker_events(events) if events else []
        for info in infos:
            info.parked = parked.get(BREAKER_REASON + info.name, 0)
            ramp = self.ramps.get(info.name)
            info.ramp = ramp.rate if ramp is not None else 0.0
            info.events = [event for event in history if event.name == info.name]
        return infos

    # --- what a change leads to

    def _changed(self) -> None:
        """Tell workers, core, log and store what has changed; go on with what follows."""
        saved, events, states = self.board.take_changes()
        if states:
            for link in self._supervisor.fleet.links.values():
                link.send(BreakersMessage([self._for_worker(state, link.id) for state in states]))
        for event in events:
            write = log.warning if event.now == "open" else log.info
            write(f"breaker.{event.now}", name=event.name, was=event.was, reason=event.reason, by=event.who or None)
            self._lonely.discard(event.name)
            if event.now != "half_open":
                self._callers.pop(event.name, None)
            if event.now == "closed":
                self._start_ramp(event.name)
            else:
                self.ramps.pop(event.name, None)
            if event.now == "open":
                self._supervisor.core.breaker_opened(event.name)
        if saved or events:
            self._unsaved.append((saved, events))
            self._save()
        if events:
            self._supervisor.act()
            self._supervisor.pulse.set()
        self._arm()

    def _make_probe(self, name: str, job_id: int) -> bool:
        if not self.board.assign_probe(name, job_id, self._supervisor.clock.monotonic_ns()):
            return False
        if job_id != ANY_JOB:
            self._probes.add(job_id)
        log.info("breaker.probe", name=name, job=job_id if job_id != ANY_JOB else "any")
        self._changed()
        return True

    def _start_ramp(self, name: str) -> None:
        policy = self._policies.get(name, Policy())
        self.ramps[name] = Ramp(policy.ramp_start, self._supervisor.clock.monotonic_ns())

    def _save(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = self._supervisor.task(self._save_all())

    async def _save_all(self) -> None:
        while self._unsaved:
            try:
                await self._supervisor.store.save_breakers(*self._unsaved[0])
            except PerdureError as error:
                # The state in memory holds, and the next look tries again.
                log.error("breaker.not_saved", reason=str(error))
                raise
            self._unsaved.pop(0)

    async def saved(self) -> None:
        """Return when all changes so far are on disk. Raises the store's error when they are not."""
        if self._saving is not None:
            await asyncio.shield(self._saving)

    # --- time passes

    def _arm(self) -> None:
        """Set the alarm for what comes next, if anything does.

        One that rings before that stays as it is: put off with each event, it would never ring while calls are made.
        """
        wait = self._next_wait()
        loop = asyncio.get_running_loop()
        if wait is not None and self._timer is not None and self._timer.when() <= loop.time() + wait:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if wait is None else loop.call_later(wait, self._alarm)

    def _next_wait(self) -> float | None:
        waits = [STEP_SECONDS] if self.ramps or self._asking() else []
        next_ns = self.board.next_event_ns()
        if next_ns is not None:
            waits.append(max(0.0, (next_ns - self._supervisor.clock.monotonic_ns()) / 1e9))
        return min(waits, default=None)

    def _asking(self) -> list[str]:
        """Half-open breakers for which a probe is to be found."""
        return [name for name in self.board.wants_probe() if name not in self._lonely]

    def _alarm(self) -> None:
        self._timer = None
        if self._supervisor.core.stopping:
            return
        if self._stepping is None or self._stepping.done():
            self._stepping = self._supervisor.task(self._step())

    async def _step(self) -> None:
        """Breaks that are over, a probe for who wants one, and the next piece of each backlog."""
        clock = self._supervisor.clock
        self.board.tick(clock.now_ms(), clock.monotonic_ns())
        self._changed()
        try:
            for name in self._asking():
                await self._find_probe(name)
            for name, ramp in list(self.ramps.items()):
                await self._release(name, ramp)
        except PerdureError as error:
            log.error("breaker.step_failed", reason=str(error))
            # Not ten times a second: the next look begins anew.
            self._lonely.update(self.board.wants_probe())
            self.ramps.clear()
        finally:
            self._arm()

    async def _find_probe(self, name: str) -> None:
        job = await self._supervisor.store.unpark_next(BREAKER_REASON + name, self._last_probes.get(name))
        if job is None:
            self._last_probes.pop(name, None)
            if name in self._callers:
                # Asked anew each time: the next call may be made in another worker.
                self._chosen[name] = self._callers.pop(name)
                self._make_probe(name, ANY_JOB)
            else:
                self._lonely.add(name)
            return
        self._last_probes[name] = job
        self._make_probe(name, job.id)
        self._supervisor.engine.queues_filled([job.queue])

    async def _release(self, name: str, ramp: Ramp) -> None:
        """The next piece of a backlog. The ramp is over when nothing is left."""
        clock = self._supervisor.clock
        due = ramp.due(clock.monotonic_ns())
        if due <= 0:
            return
        count, queues = await self._supervisor.store.unpark([BREAKER_REASON + name], due, clock.now_ms())
        ramp.released(count)
        self._supervisor.engine.queues_filled(queues)
        if count < due and self.ramps.get(name) is ramp:
            del self.ramps[name]
            log.info("breaker.backlog_released", name=name, jobs=ramp.total)

    async def look(self) -> None:
        """Jobs may be parked for a breaker that is closed by now, or for one that nobody knows any more: let them go.

        Asked now and then, and at the start: a job that was parked in the moment in which its breaker closed is found.
        """
        for reason in await self._supervisor.store.parked_reasons(BREAKER_REASON):
            name = reason.removeprefix(BREAKER_REASON)
            if self.board.is_closed(name) and name not in self.ramps:
                self._start_ramp(name)
        self._lonely.clear()
        if self._unsaved:
            self._save()
        self._arm()

    async def settled_needs(self) -> list[str]:
        """The park reasons of jobs that waited for a dependency which the configuration names now, or which no handler
        asks for any more: its name may have been a mistake."""
        needed = {need for spec in self._supervisor.core.kinds.values() for need in spec.needs}
        missing = {NEEDS_REASON + name for name in needed - self.board.known}
        return [one for one in await self._supervisor.store.parked_reasons(NEEDS_REASON) if one not in missing]

    def close(self) -> None:
        """No more alarms."""
        if self._timer is not None:
            self._timer.cancel()
