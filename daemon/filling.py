"""Which of the claimed jobs go to a worker now."""

from __future__ import annotations

from collections import deque

from perdure.daemon.ledger import Held
from perdure.daemon.worker_state import DispatchLimits, WorkerState
from perdure.store.models import ClaimedJob
from perdure.wire.data import Lane

#: About as many bytes of arguments go into one message to a worker; a message can carry far more.
SEND_BYTES = 8 * 1024 * 1024


def take_batch(
    state: WorkerState, lane: Lane, ready: deque[Held], share: int, limits: DispatchLimits
) -> list[ClaimedJob]:
    """Up to `share` jobs out of `ready` for one worker, as far as it should hold more; it holds them from now on."""
    load = state.lanes[lane]
    batch: list[ClaimedJob] = []
    free = limits.async_slots if lane == "async" else 1
    room_bytes = SEND_BYTES
    while ready and len(batch) < share and room_bytes > 0:
        held = ready[0]
        room_bytes -= len(held.job.args)
        ahead = load.backlog_ns + held.estimate_ns <= limits.prefetch_ns
        full = load.stuck or not ahead or load.count >= limits.prefetch_jobs
        if load.count >= free and full:
            break
        ready.popleft()
        load.count += 1
        load.backlog_ns += held.estimate_ns
        state.held[held.job.id] = held
        batch.append(held.job)
    return batch
