"""What a running daemon knows about one job besides its row: for `perdure explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.daemon.explain import Facts, Holder, Place
from perdure.wire.data import JobView, Lane

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor
    from perdure.daemon.worker_state import WorkerState


async def job_facts(supervisor: Supervisor, job: JobView) -> Facts:
    """Where the job is, what it needs, and who holds the places that it could have."""
    core = supervisor.core
    spec = core.kinds.get(job.kind)
    lane: Lane = "sync" if spec is None else spec.lane
    place = _place(supervisor, job.id)
    able = [state for state in core.workers.values() if state.open]
    free = core.limits.async_slots if lane == "async" else 1
    holding = [core.workers[place.worker]] if place is not None and place.worker else able
    needy = job.park_reason is not None or (spec is not None and bool(spec.needs))
    infos = await supervisor.breakers.infos(0) if needy else []
    return Facts(
        daemon=True,
        stopping=core.stopping,
        place=place,
        kind_known=spec is not None,
        needs=spec.needs if spec is not None else (),
        breakers={info.name: info for info in infos},
        workers=len(able),
        lane_full=all(state.lanes[lane].stuck or state.lanes[lane].count >= free for state in able),
        holders=[holder for state in holding for holder in _executing(supervisor, state, lane) if holder.id != job.id],
    )


def _place(supervisor: Supervisor, job_id: int) -> Place | None:
    """Where a claimed job is; None: it is not claimed."""
    core = supervisor.core
    if any(held.job.id == job_id for held in core.isolation.suspects):
        return Place(alone=True)
    if any(held.job.id == job_id for queue in core.ready.values() for held in queue):
        return Place()
    for state in core.workers.values():
        if job_id in state.held:
            link = supervisor.fleet.links[state.id]
            since = next((slot.started_ns for slot in link.page.executing() if slot.job_id == job_id), None)
            begun = _epoch_ms(supervisor, since)
            wish = core.wishes.get(job_id)
            if wish is None:
                return Place(state.id, link.pid, begun, state.isolated)
            told_ms = (supervisor.clock.monotonic_ns() - wish.since_ns) / 1e6
            left_ms = supervisor.settings.workers.cancel_grace_ms - told_ms
            return Place(state.id, link.pid, begun, state.isolated, wish.who, left_ms)
    return None


def _executing(supervisor: Supervisor, state: WorkerState, lane: Lane) -> list[Holder]:
    """What a worker executes in a lane."""
    link = supervisor.fleet.links.get(state.id)
    slots = link.page.executing() if link is not None else []
    held = (state.held.get(slot.job_id) for slot in slots)
    return [Holder(one.job.id, one.job.kind) for one in held if one is not None and one.lane == lane]


def _epoch_ms(supervisor: Supervisor, monotonic_ns: int | None) -> int | None:
    """A moment of the monotonic clock on the wall clock."""
    if monotonic_ns is None:
        return None
    clock = supervisor.clock
    return clock.now_ms() - (clock.monotonic_ns() - monotonic_ns) // 1_000_000
