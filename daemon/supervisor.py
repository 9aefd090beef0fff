"""The supervisor: the only process that writes the queue. `supervise` is its main loop."""

from __future__ import annotations

import asyncio
import collections
import random
import signal
from collections.abc import Collection
from typing import Any

from perdure.backoff import full_jitter_ms
from perdure.clock import Clock
from perdure.config.settings import Settings
from perdure.daemon.actions import DrainWorker, ForkIsolated, Send, StopJobs, TakeBack
from perdure.daemon.around_hub import AroundHub
from perdure.daemon.breakers import Breakers
from perdure.daemon.commit import Committer
from perdure.daemon.dispatch import Dispatch
from perdure.daemon.duties.limits import HardLimits
from perdure.daemon.engine import DaemonEngine
from perdure.daemon.fleet import Fleet
from perdure.daemon.housekeeping import Housekeeping
from perdure.daemon.hub import Hub
from perdure.daemon.lag import LagMeter
from perdure.daemon.lag_log import log_blocked
from perdure.daemon.reaper import Exit
from perdure.daemon.service import Service
from perdure.daemon.switchboard import Switchboard
from perdure.daemon.systemd import Notifier
from perdure.daemon.throttle import Throttle
from perdure.daemon.turns import MOST, Turns
from perdure.daemon.waiters import Waiters
from perdure.daemon.worker_link import WorkerLink
from perdure.daemon.worker_state import DispatchLimits
from perdure.errors import DaemonStopping
from perdure.log import get_logger
from perdure.store.contract import Store
from perdure.store.models import Committed, RunInfo, Turn
from perdure.wire.data import KindSpec
from perdure.wire.work import Breakers as BreakersMessage
from perdure.wire.work import Done, Hello, LoopBlocked, Observed, PortOffered, Recall, Returned, Stop, Told

log = get_logger()

#: Leases of a run are `run id * 2**32 + n`: they never repeat, whatever became of earlier runs.
LEASES_PER_RUN = 2**32
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Supervisor:
    """Claims, dispatches, collects and commits until it is told to stop."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, rng: random.Random, notifier: Notifier) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.notifier = notifier
        self.pulse = asyncio.Event()
        self._told = asyncio.Event()
        self.signals: collections.deque[signal.Signals] = collections.deque()
        self.state = "starting"
        self.started_ns = clock.monotonic_ns()
        self.jobs_done = 0
        self.waiters = Waiters()
        self.lag = LagMeter(asyncio.get_running_loop(), log_blocked)
        limits = settings.queue_limits()
        #: None without any limit: then producers pay nothing for it.
        self.throttle = Throttle(self, limits) if limits.any else None
        self.engine = DaemonEngine(self)
        self.service = Service(store, settings, clock, self.engine)
        self.hub = Hub(AroundHub(self))
        self.switchboard = Switchboard()
        self.breakers: Breakers
        self.core: Dispatch
        self.fleet: Fleet
        self.committer: Committer
        self.turns: Turns
        self.housekeeping: Housekeeping
        self.stop_deadline_ns: int | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def supervise(self) -> None:
        """The main loop: begin a turn with what waits, and sleep until something happens."""
        self.lag.start()
        while not self.finished():
            self.pulse.clear()
            self.handle_signals()
            if self.housekeeping.due():
                await self.turns.settle()
                await self.housekeeping.run_due()
            self.turns.begin()
            self.act()
            await self.pulse.wait()

    def hand_out(self, turn: Turn, result: Committed) -> None:
        """A turn is on disk: what it claimed goes to workers, and its news to those who listen."""
        if self.hub.awake:
            self.hub.committed(turn, result)
        self.core.take_over(turn, result)
        if turn.spooled:
            self._remove_files(self.service.spool.committed(turn, result))
        self.act()

    def act(self) -> None:
        """Carry out what the core has decided."""
        for action in self.core.take_actions():
            if isinstance(action, ForkIsolated):
                self.fleet.fork_isolated()
                continue
            link = self.fleet.links.get(action.worker)
            if link is None:
                continue
            match action:
                case Send(worker, jobs):
                    if self.hub.followed:
                        self.hub.sending(worker, jobs)
                    link.run(jobs)
                case TakeBack(_, count, ids):
                    link.send(Recall(count, ids))
                case StopJobs(_, ids):
                    link.page.mark_unwanted(ids)
                    link.send(Stop(ids))
                case DrainWorker(worker):
                    self.fleet.drain(worker)

    # --- starting

    async def prepare(self, run: RunInfo, boot_id: str) -> None:
        """Everything that a request may ask about, from a queue that is open and recovered already."""
        settings = self.settings
        jobs, workers = settings.jobs, settings.workers
        limits = DispatchLimits(workers.prefetch_ms * 1e6, workers.prefetch_jobs, workers.async_slots)
        self.breakers = Breakers(self, settings.dependencies().policies, await self.store.breakers())
        self.core = Dispatch(
            limits,
            lambda failures: full_jitter_ms(failures, jobs.backoff_base_ms, jobs.backoff_cap_ms, self.rng),
            run.id * LEASES_PER_RUN,
            self.breakers,
        )
        store_id = await self.store.store_id()
        self.fleet = Fleet(settings, self.clock, self.rng, run.id, boot_id, store_id, self)
        self.committer = Committer(
            self.store, settings, self.waiters, self.keep_waiting, self.core.drop_batches, self.throttle
        )
        # Limits of queues are judged by what is on disk.
        most = MOST if self.throttle is None else 1
        self.turns = Turns(self.core, self.committer, self.clock, self.hand_out, self.pulse.set, most)
        self.housekeeping = Housekeeping(self)
        for name in await self.store.paused_queues():
            self.core.queues.pause(name)
        for name in await self.store.available_queues():
            self.core.queues.fill(name)
        self.core.next_due = await self.store.next_due()

    async def start(self) -> None:
        """Load the handlers and fork workers."""
        nursery, kinds = await self.fleet.load()
        if not kinds:
            log.warning("handlers.none", modules=list(self.settings.daemon.handlers), advice="jobs wait for some")
        await self.store.save_kinds(kinds, self.clock.now_ms())
        self.fleet.adopt(nursery)
        self.engine.take_kinds(kinds)
        await self.engine.unpark_known()
        await self.breakers.look()
        await self.fleet.start_workers()
        self.state = "running"

    # --- signals and the end

    def signalled(self, number: signal.Signals) -> None:
        """A signal came in."""
        self.signals.append(number)
        self._told.set()
        self.pulse.set()

    async def told_to_stop(self) -> None:
        """Return when a signal says to stop; for use before the main loop runs."""
        while not any(number in STOP_SIGNALS for number in self.signals):
            self._told.clear()
            await self._told.wait()

    def handle_signals(self) -> None:
        """Signal handlers only queue; here is where they act."""
        while self.signals:
            number = self.signals.popleft()
            if number in STOP_SIGNALS:
                self.stop()
            elif number == signal.SIGHUP:
                self.task(self.engine.reload())
            elif number == signal.SIGUSR1:
                log.info("state", **self.housekeeping.figures())

    def stop(self) -> None:
        """Begin to stop; the second time: hurry."""
        if self.state == "stopping":
            log.warning("stop.hurried")
            self.cut_short()
            return
        drain_ms = self.settings.daemon.drain_limit_ms
        log.info("stop.begun", drain_limit_s=drain_ms / 1000)
        self.state = "stopping"
        self.notifier.stopping()
        self.stop_deadline_ns = self.clock.monotonic_ns() + drain_ms * 1_000_000
        self._drain_timer = asyncio.get_running_loop().call_later(drain_ms / 1000, self.cut_short)
        self.fleet.stop_replacing()
        self.core.stop()
        if self.throttle is not None:
            self.throttle.close(DaemonStopping())

    def cut_short(self) -> None:
        """Wait for nothing any more. What still runs is ended, and is released without a charge."""
        self.stop_deadline_ns = self.clock.monotonic_ns()
        running = sum(len(state.held) for state in self.core.workers.values())
        if running:
            log.warning("stop.cut_short", jobs=running, advice="they run again after the next start")
        self.fleet.kill_all()
        self.pulse.set()

    def hurried(self) -> bool:
        """Whether to give up waiting for anything."""
        return self.stop_deadline_ns is not None and self.clock.monotonic_ns() >= self.stop_deadline_ns

    async def keep_waiting(self) -> bool:
        """What must go on while the disk is full: signals, hard limits, and telling that this is no hang."""
        self.handle_signals()
        self.notifier.watchdog()
        await HardLimits().run(self)
        return not self.hurried()

    def finished(self) -> bool:
        """Whether everything has come to its end after a stop."""
        return self.state == "stopping" and not self.fleet.links and self.core.idle and not self.turns.under_way

    async def close(self) -> None:
        """End all processes. If the main loop did not end well, their jobs are still leased, and recovery finds in the
        recorder pages that the daemon itself ended them: nobody is charged."""
        for task in list(self._tasks):
            task.cancel()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self.lag.close()
        self.hub.close()
        self.switchboard.close()
        self.service.spool.close()
        if hasattr(self, "breakers"):
            self.breakers.close()
        if hasattr(self, "turns"):
            self.turns.close()
        if hasattr(self, "housekeeping"):
            self.housekeeping.close()
        if hasattr(self, "fleet"):
            await self.fleet.close()

    # --- what the fleet tells

    def worker_forked(self, link: WorkerLink) -> None:
        """A worker was started."""
        self.core.worker_started(link.id, isolated=link.isolated)

    def isolation_failed(self) -> None:
        """The isolated worker could not be forked."""
        self.core.isolation_failed()
        self.pulse.set()

    def handlers_changed(self, kinds: list[KindSpec]) -> None:
        """A nursery that had to be replaced found other handlers than the one before: as after a reload."""
        if kinds != list(self.core.kinds.values()):
            log.warning("handlers.changed", advice="they were changed on disk without a reload; the new ones are used")
            self.engine.replace_workers(kinds)
            self.task(self.store.save_kinds(kinds, self.clock.now_ms()))

    def worker_said(self, link: WorkerLink, message: Any) -> None:
        """A message of a worker."""
        self.lag.busy()
        match message:
            case Done():
                stale = self.core.done(link.id, message, self.clock.now_ms())
                done = len(message.completed) + len(message.results) + len(message.spooled)
                if message.spooled:
                    self._remove_files(self.service.spool.told(message.spooled, stale))
                link.jobs_done += done
                self.jobs_done += done
                if stale:
                    log.warning("outcome.refused", worker=link.id, jobs=stale, reason="the worker does not hold them")
            case Returned(ids):
                self.core.returned(link.id, ids)
                self.hub.returned(ids)
            case Observed():
                self.breakers.observed(link.id, message)
            case Hello():
                # Before any job: what is away for all is away for the new one.
                link.send(BreakersMessage(self.breakers.states(link.id)))
                self.core.worker_ready(link.id)
                self.hub.worker_ready(link.id)
            case Told():
                self.hub.told(link.id, message)
                return
            case PortOffered():
                self.switchboard.offered(message.id, link)
            case LoopBlocked():
                log_blocked(message, worker=link.id)
        self.act()
        self.pulse.set()

    def worker_gone(self, link: WorkerLink, ended: Exit) -> None:
        """A worker has ended: its jobs go on elsewhere, or are charged."""
        executing = {slot.job_id for slot in link.page.executing()}
        finished = set(link.page.finished_unsent())
        unwanted = {job_id for job_id in link.doomed if job_id in self.core.wishes}
        charged = self.core.worker_died(
            link.id,
            link.death(executing),
            self.clock.now_ms(),
            executing=executing - finished,
            finished=finished,
            timed_out=link.doomed,
            charge=not link.cut_short,
        )
        self.breakers.worker_gone(link.id)
        self.hub.worker_gone(link.id)
        if executing:  # only those write into the spool
            self.task(self.service.spool.writer_died(link.pid))
        if charged:
            log.warning("jobs.interrupted", worker=link.id, jobs=charged, how=str(ended))
        if unwanted:
            log.warning("jobs.stopped_by_force", worker=link.id, jobs=sorted(unwanted))
        if link.doomed - unwanted:
            log.warning("jobs.timed_out", worker=link.id, jobs=sorted(link.doomed - unwanted))
        self.pulse.set()

    def _remove_files(self, names: Collection[str]) -> None:
        """Results that came too late."""
        if names:
            self.task(self.service.spool.remove(names))

    def task(self, work: Any) -> asyncio.Task[Any]:
        """Run something beside the main loop; it is cancelled at the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
