"""The meter of a worker's loop: what it needs to know of the worker, and where it tells what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from perdure.daemon.lag import LagMeter
from perdure.daemon.lag_sample import Sample, look_at_main_thread
from perdure.daemon.worker.lane import job_name
from perdure.daemon.worker.output import Output
from perdure.daemon.worker.port import Port
from perdure.daemon.worker.recorder import RecorderPage
from perdure.daemon.worker.sync_lane import SyncLane
from perdure.wire.work import LoopBlocked


def worker_meter(
    loop: asyncio.AbstractEventLoop,
    page: RecorderPage,
    port: Port,
    output: Output,
    has_async_jobs: Callable[[], bool],
) -> LagMeter:
    """A meter that tells the supervisor, and writes its figures with the heartbeat.

    Each asynchronous job may block the loop at any moment. A synchronous one is in the main thread, and blocks it only
    by holding the GIL.
    """

    def tell(blocked: LoopBlocked) -> bool:
        return port.try_send(msgspec.msgpack.encode(blocked))

    def sync_job() -> Sample | None:
        row = output.sync_job
        return None if row is None else look_at_main_thread(job_name(row), SyncLane._run.__code__)

    def beat() -> None:
        page.beat()
        page.note_lag(*meter.figures())

    meter = LagMeter(loop, tell, beat=beat, held=has_async_jobs, rival=sync_job)
    return meter
