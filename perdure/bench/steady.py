"""Producers and workers together: how many jobs go through, and how long the supervisor's loop keeps others waiting."""

from __future__ import annotations

import time
from pathlib import Path

from perdure.bench.daemon import daemon
from perdure.bench.figure import Figure, Sizes, figure
from perdure.bench.load import CHUNK, QUEUE
from perdure.bench.producer import WINDOW, producers
from perdure.bench.raw import NOW, Commit, Raw, Work, new_jobs, nothing
from perdure.store.models import Claim, Turn

PRODUCERS = 2
#: What the bare timer sleeps, like the supervisor's own.
TICK_SECONDS = 0.01


def steady(folder: Path, sizes: Sizes) -> list[Figure]:
    """Two producer processes, 1,000 jobs a call, at most 16,000 not yet run, while the workers run them."""
    with daemon(folder, sizes) as running, producers(running.socket, PRODUCERS, sizes.seconds) as load:
        rate = load.rate()
    raw = Raw(folder, sizes.durability, nothing, _together(max(sizes.jobs // CHUNK, 1)))
    limit = max(sizes.jobs // CHUNK, 1) * CHUNK / raw.replay().seconds
    details = f"{PRODUCERS} producers for {sizes.seconds:g} s, each with {WINDOW} calls of {CHUNK:,} jobs on the way, "
    details += f"a new call when its jobs were run; {sizes.workers} workers, 100-byte arguments"
    limit_is = f"raw SQLite, the same statements: each transaction inserts, claims and completes {CHUNK:,}"
    return [figure("steady", rate, "jobs/s", limit, limit_is, details, sizes)]


def lag(folder: Path, sizes: Sizes) -> list[Figure]:
    """The supervisor's own measure of its loop after full load, as in `steady`, since its start: p99.9."""
    late: list[float] = []
    with daemon(folder, sizes) as running:
        with producers(running.socket, PRODUCERS, sizes.seconds) as load:
            while load.running:
                started = time.perf_counter()
                time.sleep(TICK_SECONDS)
                late.append((time.perf_counter() - started - TICK_SECONDS) * 1000)
            rate = load.rate()
        status = running.status()
    limit = sorted(late)[int(len(late) * 0.999)]
    details = f"longest {status.loop_lag_ms_max:g} ms, at {rate:,.0f} jobs/s for {sizes.seconds:g} s; workers' loops: "
    details += f"{max(worker.loop_lag_ms_p999 for worker in status.workers):g} ms"
    limit_is = "p99.9 of how late a sleep of 10 ms ends in a process that does nothing else, at the same time"
    return [figure("lag", status.loop_lag_ms_p999, "ms", limit, limit_is, details, sizes)]


def _together(turns: int) -> Work:
    def work(commit: Commit) -> None:
        lease, done = 1, list[int]()
        for _ in range(turns + 1):
            turn = Turn(NOW, lease=lease + 1, batches=[new_jobs(CHUNK)] if lease <= turns else [])
            turn.claims, turn.claim_total = [Claim(QUEUE, CHUNK)], CHUNK
            if done:
                turn.completed = {lease: done}
            result = commit(turn)
            lease, done = lease + 1, [job.id for job in result.claimed]

    return work
