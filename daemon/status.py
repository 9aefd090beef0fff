"""`perdure status`: the daemon at a glance."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import perdure
from perdure.daemon.process_control import resident_bytes
from perdure.daemon.worker_link import WorkerLink
from perdure.wire.control import Status, WorkerView

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

#: Below this much free disk the status warns.
LOW_DISK_BYTES = 512 * 1024 * 1024


async def daemon_status(supervisor: Supervisor) -> Status:
    """Everything that is known, with the counts of the moment."""
    settings = supervisor.settings
    counts = await supervisor.store.count()
    uptime = (supervisor.clock.monotonic_ns() - supervisor.started_ns) / 1e9
    disk = os.statvfs(settings.paths.db.parent)
    free = disk.f_bavail * disk.f_frsize
    cpu = os.times()
    longest, p999 = supervisor.lag.figures()
    return Status(
        version=perdure.__version__,
        pid=os.getpid(),
        state=supervisor.state,
        uptime_seconds=round(uptime, 3),
        store=supervisor.store.location,
        durability=settings.store.durability,
        dead=counts.pop("dead", 0),
        counts=counts,
        workers=[_worker(supervisor, link) for link in supervisor.fleet.links.values()],
        kinds=len(supervisor.core.kinds),
        queues_paused=sorted(supervisor.core.queues.paused),
        jobs_done=supervisor.jobs_done,
        jobs_per_second=round(supervisor.jobs_done / uptime, 1) if uptime else 0.0,
        loop_lag_ms_max=longest,
        loop_lag_ms_p999=p999,
        subscribers=supervisor.hub.roll.count,
        events_skipped=supervisor.hub.skipped,
        rss_bytes=resident_bytes(os.getpid()),
        cpu_seconds=round(cpu.user + cpu.system, 3),
        disk_free_bytes=free,
        spool_bytes=await supervisor.service.spool.size(),
        breakers_open=[state.name for state in supervisor.breakers.states()],
        warnings=_warnings(supervisor, free),
    )


def _worker(supervisor: Supervisor, link: WorkerLink) -> WorkerView:
    state = supervisor.core.workers.get(link.id)
    executing = sorted(slot.job_id for slot in link.page.executing())
    held = len(state.held) if state else 0
    rss = 0
    with contextlib.suppress(OSError):  # it may have ended just now
        rss = resident_bytes(link.pid) if link.pid else 0
    name = "starting" if state is None or not state.ready else "draining" if state.draining else "ready"
    uptime = (supervisor.clock.monotonic_ns() - link.started_ns) / 1e9
    waiting = max(0, held - len(executing))
    return WorkerView(
        link.id, link.pid, name, executing, waiting, rss, link.jobs_done, round(uptime, 3), *link.page.lag
    )


def _warnings(supervisor: Supervisor, free: int) -> list[str]:
    warnings = []
    if supervisor.committer.full is not None:
        warnings.append(f"the disk is full: {supervisor.committer.full}")
    elif free < LOW_DISK_BYTES:
        warnings.append(f"only {free // 1024 // 1024} MiB of disk are free")
    if supervisor.settings.store.durability != "full":
        warnings.append('store.durability is "normal": a power cut can lose the last acknowledged jobs')
    if supervisor.throttle is not None:
        warnings += [f"queue {name} is full: see perdure queue list" for name in supervisor.throttle.full[:5]]
    if not supervisor.core.kinds:
        warnings.append("no handlers are loaded: jobs wait (daemon.handlers)")
    return warnings
