"""The processes under the supervisor: one nursery, and workers forked from it, replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

from perdure.clock import Clock
from perdure.config.settings import Settings
from perdure.daemon.nursery_link import NurseryLink
from perdure.daemon.process_control import become_subreaper
from perdure.daemon.reaper import Exit, Reaper
from perdure.daemon.respawn import Respawn
from perdure.daemon.strays import LOOK_SECONDS, end_strays_of_worker, queue_mark
from perdure.daemon.worker.recorder import RecorderPage
from perdure.daemon.worker_link import WorkerLink
from perdure.errors import HandlersNotLoaded, PerdureError
from perdure.kinds import BUILTIN
from perdure.log import get_logger
from perdure.wire.data import KindSpec
from perdure.wire.dependencies import NEO4J, POSTGRES, QDRANT
from perdure.wire.work import Drain, WorkerConfig

log = get_logger()

#: The file that takes what workers print outside any job; it starts anew when it is larger than this.
OUTPUT_BYTES = 10 * 1024 * 1024

#: Importing handlers may take long (models, caches); a nursery that takes longer than this hangs.
LOAD_SECONDS = 600.0
#: How long a killed process may take to be gone; more means that it is stuck in the kernel.
END_SECONDS = 5.0


class FleetEvents(Protocol):
    """What the fleet tells its owner."""

    def worker_forked(self, link: WorkerLink) -> None:
        """A worker exists."""
        ...

    def isolation_failed(self) -> None:
        """The isolated worker that was asked for could not be forked."""
        ...

    def handlers_changed(self, kinds: list[KindSpec]) -> None:
        """A nursery had to be replaced; these are the handlers that the new one has."""
        ...

    def worker_said(self, link: WorkerLink, message: Any) -> None:
        """A worker sent a message."""
        ...

    def worker_gone(self, link: WorkerLink, ended: Exit) -> None:
        """A worker has ended, and all that it had said was told before."""
        ...


class Fleet:
    """Keeps `size` workers alive. Restarts wait as daemon/respawn.py says; a reload swaps nursery and workers."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        rng: random.Random,
        run_id: int,
        boot_id: str,
        store_id: str,
        events: FleetEvents,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._run_id = run_id
        self._boot_id = boot_id
        self._store_id = store_id
        self._queue_mark = queue_mark(store_id, settings.paths.db)
        self._dependencies = settings.dependencies()
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._folder: Path = settings.paths.recorder_dir
        self._respawn = Respawn(settings.workers.restart_backoff_base_ms, settings.workers.restart_backoff_cap_ms, rng)
        self._isolated = Respawn(settings.workers.restart_backoff_base_ms, settings.workers.restart_backoff_cap_ms, rng)
        self._output_fd = _open_output(settings.paths.logs_dir)
        self._next_id = 1
        self._nursery: NurseryLink | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.reaper = Reaper(self._loop)
        self.links: dict[int, WorkerLink] = {}
        #: One change to the set of processes at a time.
        self._changing = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._loading: set[NurseryLink] = set()
        self.size = settings.workers.effective_count
        self.stopping = False
        self._leave_evidence()
        become_subreaper()

    def _leave_evidence(self) -> None:
        """A page without jobs, for the whole run: recovery finds it even when no worker is left to tell anything."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = WorkerLink.page_path(self._folder, 0)
        RecorderPage.create(path, 1, run_id=self._run_id, boot_id=self._boot_id).close()

    # --- starting

    async def load(self) -> tuple[NurseryLink, list[KindSpec]]:
        """Start a nursery and have it import the handlers. It is for `adopt`, or to be ended."""
        path = [str(folder) for folder in self._settings.paths.import_path]
        handlers = self._settings.daemon.handlers
        nursery = NurseryLink.start(self.reaper, self._output_fd)
        self._loading.add(nursery)
        try:
            kinds = await nursery.load([*self._own_modules(), *handlers], path, LOAD_SECONDS)
        except BaseException:
            nursery.end()
            raise
        finally:
            self._loading.discard(nursery)
        log.info("handlers.loaded", modules=list(handlers), kinds=len(kinds), nursery=nursery.pid)
        return nursery, kinds

    def _own_modules(self) -> list[str]:
        """What is imported before the handlers: adapters with their drivers, so that workers share the memory of these,
        and the kinds of ours that the configuration asks for."""
        configured = self._dependencies
        named = ((POSTGRES, configured.postgres), (NEO4J, configured.neo4j), (QDRANT, configured.qdrant))
        adapters = [f"perdure.adapters.{name}" for name, options in named if options is not None]
        return adapters + [BUILTIN[kind] for kind in self._settings.daemon.builtin_kinds]

    def adopt(self, nursery: NurseryLink) -> None:
        """Fork from this nursery from now on."""
        former, self._nursery = self._nursery, nursery
        if former is not None:
            former.end()
        self._task(self._watch_nursery(nursery))

    async def start_workers(self) -> None:
        """Fork workers until the fleet has its size."""
        await self._replace(0)

    def fork_isolated(self) -> None:
        """Fork one worker more, for jobs that run alone. It is not replaced: the core asks for the next."""
        self._task(self._fork_isolated(self._isolated.next_wait()))

    async def _fork_isolated(self, wait_seconds: float) -> None:
        """One try: when it fails, the core asks again."""
        await asyncio.sleep(wait_seconds)
        try:
            async with self._changing:
                await self._fork(isolated=True)
        except (PerdureError, OSError) as error:
            self._isolated.died(lived_seconds=0, jobs_done=0, by_job=False)
            log.error("worker.not_started", reason=str(error), isolated=True)
            self._events.isolation_failed()

    async def _fork(self, *, isolated: bool = False) -> None:
        """One more worker. Raises when the nursery cannot; the caller tries again later."""
        if self._nursery is None or self._nursery.gone.done():
            raise HandlersNotLoaded("there is no nursery at the moment to fork from")
        worker_id, self._next_id = self._next_id, self._next_id + 1
        link = self._new_link(worker_id, isolated)
        self.links[worker_id] = link
        self._events.worker_forked(link)
        self.reaper.forget_unclaimed()
        try:
            pid = await self._nursery.fork(self._config(worker_id), link.worker_fds(self._output_fd))
        except BaseException:
            link.never_started()
            raise
        link.forked(pid)
        self.reaper.watch(pid, link.process_ended)
        log.info("worker.started", worker=worker_id, pid=pid)

    def _new_link(self, worker_id: int, isolated: bool) -> WorkerLink:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = WorkerLink.page_path(self._folder, worker_id)
        slots = self._settings.workers.async_slots
        page = RecorderPage.create(path, slots, run_id=self._run_id, boot_id=self._boot_id)
        now_ns = self._clock.monotonic_ns()
        try:
            return WorkerLink(
                worker_id, self._folder, page, now_ns, self._events.worker_said, self._gone, isolated=isolated
            )
        except OSError:
            page.close()
            path.unlink(missing_ok=True)
            raise

    def _config(self, worker_id: int) -> WorkerConfig:
        settings = self._settings
        return WorkerConfig(
            id=worker_id,
            supervisor_pid=os.getpid(),
            async_slots=settings.workers.async_slots,
            job_log_dir=str(settings.paths.logs_dir),
            job_log_bytes=settings.logs.job_bytes,
            result_bytes=settings.limits.result_bytes,
            log_level=settings.logs.level,
            store_id=self._store_id,
            dependencies=self._dependencies,
            spool_dir=str(settings.paths.spool_dir),
            blob_bytes=settings.limits.blob_bytes,
            owner=self._owner(worker_id),
            shell_allow=list(settings.shell.allow),
            command_grace=settings.workers.cancel_grace_ms / 2000,
            hard_grace=settings.workers.hard_grace_ms / 1000,
        )

    def _owner(self, worker_id: int) -> str:
        """What the commands of a worker are marked with."""
        return f"{self._queue_mark}/{self._run_id}/{worker_id}"

    # --- ending

    def stop_replacing(self) -> None:
        """From now on nothing is started: the nursery may end, and who waits for a fork is told so."""
        self.stopping = True
        if self._nursery is not None:
            self._nursery.close()

    def drain(self, worker_id: int) -> None:
        """Ask one worker to finish what runs and exit."""
        link = self.links[worker_id]
        link.asked_to_end = True
        link.send(Drain())

    def kill_all(self) -> None:
        """End every worker at once."""
        for link in self.links.values():
            link.asked_to_end = link.cut_short = True
            link.signal(signal.SIGKILL)

    async def close(self) -> None:
        """End everything that is left and free what belonged to it.

        What workers were executing then stays in the record as running, and their pages say that no job is to blame.
        """
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        self.kill_all()
        left = list(self.links.values())
        self.links.clear()
        for nursery in self._nurseries():
            nursery.end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(nursery.gone), END_SECONDS)
        for link in left:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.ended.wait(), END_SECONDS)
            await self._end_strays(link)
            link.page.acquit()
            link.close()
            link.remove_files(keep_page=True)
        self.reaper.sweep()
        self.reaper.close()
        os.close(self._output_fd)

    def _nurseries(self) -> list[NurseryLink]:
        return [*self._loading, *([self._nursery] if self._nursery else [])]

    # --- keeping

    def active(self) -> Iterator[WorkerLink]:
        """Workers that live and were not asked to end."""
        return (link for link in self.links.values() if not link.asked_to_end and not link.isolated and not link.dead)

    def autopsy(self, link: WorkerLink) -> None:
        """Have a hung worker say where it hangs, then kill it."""
        self._task(link.autopsy())

    async def _end_strays(self, link: WorkerLink) -> None:
        """End what commands of a dead worker left running, for the jobs that it was executing."""
        jobs = [(slot.job_id, slot.attempt) for slot in link.page.executing()]
        if not jobs or not link.pid:
            return
        family = {other.pid for other in self.links.values()} | {one.pid for one in self._nurseries()}
        try:
            looking = asyncio.to_thread(end_strays_of_worker, self._owner(link.id), jobs, family)
            ended = await asyncio.wait_for(looking, LOOK_SECONDS)
        except Exception as error:  # whatever it is: the jobs of this worker must go on
            log.error("strays.not_looked_for", worker=link.id, reason=str(error) or "it took too long")
            return
        if ended:
            log.warning("strays.ended", worker=link.id, processes=ended)

    def _gone(self, link: WorkerLink, ended: Exit) -> None:
        """A worker has ended: another may start at once, its jobs only when nothing of theirs runs any more."""
        if link.pid and link.id in self.links:
            self._succeed(link, ended)
        if link.pid and any(link.page.executing()):
            self._task(self._gone_with_commands(link, ended))
        else:
            self._bury(link, ended)

    async def _gone_with_commands(self, link: WorkerLink, ended: Exit) -> None:
        """Before its jobs may run elsewhere, their commands must have ended: none of them runs twice at a time."""
        await self._end_strays(link)
        self._bury(link, ended)

    def _bury(self, link: WorkerLink, ended: Exit) -> None:
        if self.links.pop(link.id, None) is None:
            return
        self._events.worker_gone(link, ended)
        link.close()
        self._task(asyncio.to_thread(link.remove_files))

    def _succeed(self, link: WorkerLink, ended: Exit) -> None:
        """Start another in its place, if there is to be one."""
        if link.isolated and ended.clean:
            self._isolated.recovered()
        if self.stopping or (link.asked_to_end and ended.clean):
            log.info("worker.ended", worker=link.id, pid=link.pid, how=str(ended))
            return
        executing = [slot.job_id for slot in link.page.executing()]
        lived = (self._clock.monotonic_ns() - link.started_ns) / 1e9
        respawn = self._isolated if link.isolated else self._respawn
        wait = 0.0  # a worker that the supervisor killed for an overrun was itself in order
        if not link.doomed:
            wait = respawn.died(lived_seconds=lived, jobs_done=link.jobs_done, by_job=bool(executing))
        log.warning(
            "worker.died",
            worker=link.id,
            pid=link.pid,
            how=str(ended),
            executing=executing,
            restart_in_s=round(wait, 3),
        )
        if not link.asked_to_end and not link.isolated:
            self._task(self._replace(wait))

    async def _replace(self, wait_seconds: float) -> None:
        """Bring the fleet back to its size. Never gives up, and never tries without waiting after it failed."""
        await asyncio.sleep(wait_seconds)
        while not self.stopping:
            try:
                await self._ensure_nursery()
                async with self._changing:
                    if sum(1 for _ in self.active()) >= self.size:
                        return
                    await self._fork()
            except (PerdureError, OSError) as error:
                wait = self._respawn.died(lived_seconds=0, jobs_done=0, by_job=False)
                log.error("worker.not_started", reason=str(error), next_try_in_s=round(wait, 3))
                await asyncio.sleep(max(wait, 0.05))

    async def _watch_nursery(self, nursery: NurseryLink) -> None:
        """Workers live on without their nursery; start a new one now, so that the next fork need not wait for it."""
        ended = await asyncio.shield(nursery.gone)
        if nursery is self._nursery and not self.stopping:
            log.warning("nursery.died", pid=nursery.pid, how=str(ended))
            self._task(self._new_nursery())

    async def _new_nursery(self) -> None:
        wait = 0.0
        while not self.stopping:
            await asyncio.sleep(wait)
            try:
                await self._ensure_nursery()
                self._task(self._replace(0))
                return
            except (PerdureError, OSError) as error:
                wait = max(0.05, self._respawn.died(lived_seconds=0, jobs_done=0, by_job=False))
                log.error("nursery.not_started", reason=str(error), next_try_in_s=round(wait, 3))

    async def _ensure_nursery(self) -> None:
        """Have a living nursery; only one of those who need it starts it."""
        async with self._renewing:
            if self._nursery is None or self._nursery.gone.done():
                nursery, kinds = await self.load()
                self.adopt(nursery)
                self._events.handlers_changed(kinds)

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("fleet.task_failed", exc_info=error)


def _open_output(logs_dir: Path) -> int:
    logs_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(logs_dir / "workers.log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_size > OUTPUT_BYTES:
        os.ftruncate(fd, 0)
    return fd
