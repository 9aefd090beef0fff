"""T16: whatever jobs do, afterwards every worker is idle and nothing is held, open or growing."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.wire.data import JobSpec
from tests.daemon.e2e import QUICK, await_rest, end_of, query, running, workers_of
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

SETTINGS = QUICK.replace("[jobs]", 'hard_grace = "100ms"\n[jobs]') + 'timeout = "150ms"\nmax_interruptions = 1000\n'
JOBS = 400


def open_files(pid: int) -> Counter[str]:
    """What a process has open, by kind."""
    kinds: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds[os.readlink(path).split(":")[0]] += 1
        except FileNotFoundError:
            continue
    return kinds


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for tests that look at its connections and cancels."""
    with running(tmp_path_factory.mktemp("leaks")) as one:
        yield one


def hold_of(daemon: Daemon) -> dict[str, object]:
    """What is left of the jobs once they have all ended."""
    status = daemon.status()
    assert status is not None
    folder = daemon.folder / "perdure.db.d" / "recorder"
    return {
        "unfinished": {state: count for state, count in status.counts.items() if count and state != "completed"},
        "dead": status.dead,
        "workers": sorted((one.state, one.executing, one.waiting) for one in status.workers),
        "files": len(list(folder.iterdir())),
        "processes": len(daemon.processes()),
    }


def test_slots_do_not_leak(tmp_path: Path) -> None:
    """T16: after crashes, timeouts and cancels a worker would believe that it is busy, for ever."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng = random.Random(seed)
    with running(tmp_path, SETTINGS) as daemon, daemon.client() as client:
        idle = hold_of(daemon)
        descriptors = open_files(daemon.pid)
        specs = [
            JobSpec(rng.choice(("choose", "achoose")), f'{{"seed":{rng.choice((0, 1, *range(2, 8), *range(4, 8)))}}}')
            for _ in range(JOBS)
        ]
        for spec in specs:
            spec.args = '{"seed":5}' if spec.args == '{"seed":3}' and rng.random() < 0.8 else spec.args
        jobs = [job.id for job in client.enqueue_many_sync(specs)]
        cancelled = {v.id for v in client.cancel_sync(rng.sample(jobs, 60)) if v.error is None}
        ends = client.wait_sync(jobs, 50)
        assert {end.id for end in ends if end.state == "cancelled"} == cancelled
        assert {end.state for end in ends} <= {"completed", "cancelled"}
        await_rest(daemon)
        wait_until(lambda: hold_of(daemon) | {"unfinished": {}} == idle, 10, f"{idle}, but: {hold_of(daemon)}")
        assert all(worker.jobs_done >= 0 for worker in workers_of(daemon))
        wait_until(lambda: open_files(daemon.pid).total() <= descriptors.total() + 2, 10, "descriptors to be closed")


def test_cancelling_while_jobs_run_loses_nothing(shared: Daemon) -> None:
    """T16: a cancel that meets the start of a job would leave it in both states, or in none."""
    with shared.client() as client:
        jobs = [
            job.id for job in client.enqueue_many_sync([JobSpec("noop" if n % 2 else "anoop") for n in range(4_000)])
        ]
        cancelled: set[int] = set()
        for start in range(0, 4_000, 400):
            cancelled |= {v.id for v in client.cancel_sync(jobs[start + 200 : start + 300]) if v.error is None}
        ends = client.wait_sync(jobs, 30)
        assert {end.id for end in ends if end.state == "cancelled"} == cancelled
        assert {end.id for end in ends if end.state == "completed"} == set(jobs) - cancelled
        await_rest(shared)


def test_clients_that_vanish_leave_nothing(shared: Daemon) -> None:
    """T16: each client that is gone would cost a descriptor or a pending call."""
    with shared.client() as client:
        job = client.enqueue_sync("noop", delay="1h")
        before = open_files(shared.pid)
        for _ in range(30):
            other = shared.client()
            other.status_sync()
            with_timeout(other, job.id)
            other.close()
        wait_until(lambda: open_files(shared.pid) == before, 10, "their connections to be closed")
        client.retry_sync(job.id)
        assert end_of(client, job.id).state == "completed"


def with_timeout(client: object, job_id: int) -> None:
    """Wait for a job that does not end, and give up."""
    try:
        client.wait_sync(job_id, 0.01)  # type: ignore[attr-defined]
    except TimeoutError:
        pass


def test_finished_jobs_and_their_logs_are_pruned(tmp_path: Path) -> None:
    """The file and the folder of logs would grow for ever; dead letters must stay."""
    logs = tmp_path / "perdure.db.d" / "logs" / "0"
    with running(tmp_path) as daemon, daemon.client() as client:
        dead = client.enqueue_sync("fail", {"permanent": True})
        jobs = client.enqueue_many_sync([JobSpec("speak") for _ in range(40)])
        client.wait_sync([dead.id, *(job.id for job in jobs)], 20)
        assert len(list(logs.glob("*.log"))) >= 40
    # It prunes a second after its start, and then no sooner than a minute later: what is to go must be there.
    with running(tmp_path, QUICK + "[store]\nretention_count = 10\n") as daemon, daemon.client() as client:
        wait_until(lambda: client.status_sync().counts.get("completed", 0) == 10, 20, "the old ones to go")
        wait_until(lambda: len([p for p in logs.glob("*.log") if int(p.stem) != dead.id]) == 10, 10, "their logs to go")
        assert sum(client.get_sync(job.id) is not None for job in jobs) == 10
        assert client.dead_get_sync(dead.id) is not None
    assert query(tmp_path, "SELECT count(*) FROM jobs") == [(10,)]
