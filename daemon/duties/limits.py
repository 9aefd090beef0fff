"""Enforces the hard time limit, and cancellation: a job that outlives them and the grace takes its worker with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor
    from perdure.daemon.worker_link import WorkerLink

#: A job in the sync lane that runs this long keeps nothing waiting behind it.
LONG_RUN_NS = 50_000_000


class HardLimits:
    """Reads the flight recorders: no message from the worker is needed, it may hang in C with the GIL held."""

    interval_seconds = 0.1
    busy_only = True

    async def run(self, supervisor: Supervisor) -> None:
        """Look once at everything that executes."""
        now_ns = supervisor.clock.monotonic_ns()
        for link in list(supervisor.fleet.links.values()):
            self._look(supervisor, link, now_ns)
        supervisor.act()

    def _look(self, supervisor: Supervisor, link: WorkerLink, now_ns: int) -> None:
        core = supervisor.core
        state = core.workers.get(link.id)
        if state is None or not state.held or link.ended.is_set():
            return
        grace_ns = supervisor.settings.workers.hard_grace_ms * 1_000_000
        told_before_ns = now_ns - supervisor.settings.workers.cancel_grace_ms * 1_000_000
        over = set()
        for slot in link.page.executing():
            held = state.held.get(slot.job_id)
            if held is None or held.job.attempt != slot.attempt:
                continue
            elapsed_ns = now_ns - slot.started_ns
            wish = core.wishes.get(slot.job_id)
            if wish is not None and not slot.unwanted:
                link.page.mark_unwanted((slot.job_id,))
            is_late = slot.timeout_ms is not None and elapsed_ns > slot.timeout_ms * 1_000_000 + grace_ns
            if is_late or (wish is not None and wish.since_ns < told_before_ns):
                over.add(slot.job_id)
            elif slot.lane == "sync" and elapsed_ns > LONG_RUN_NS:
                core.stuck_behind(link.id, held.job.kind, elapsed_ns)
        if over and not link.doomed:
            link.doomed = over
            link.asked_to_end = False
            core.worker_doomed(link.id)
            supervisor.fleet.autopsy(link)
