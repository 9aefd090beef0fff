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
    count, backlog_ns = load.count, load.backlog_ns
    batch: list[ClaimedJob] = []
    free = limits.async_slots if lane == "async" else 1
    most = free if load.stuck else max(free, limits.prefetch_jobs)
    room_bytes = SEND_BYTES
    while ready and len(batch) < share and room_bytes > 0 and count < most:
        held = ready[0]
        ahead_ns = backlog_ns + held.estimate_ns
        if count >= free and ahead_ns > limits.prefetch_ns:
            break
        job = held.job
        ready.popleft()
        count += 1
        backlog_ns = ahead_ns
        room_bytes -= len(job.args)
        state.held[job.id] = held
        batch.append(job)
    load.count, load.backlog_ns = count, backlog_ns
    return batch
