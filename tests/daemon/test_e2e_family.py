"""T36, T18 with a real daemon: no orphans, nurseries that die, and locks that a fork must not inherit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.daemon.e2e import (
    QUICK,
    await_executing,
    await_rest,
    end_of,
    kill,
    lives,
    make_daemon,
    nursery_of,
    query,
    running,
    workers_of,
)
from tests.support.wait import wait_until


def test_nobody_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """T36: an orphan would run jobs that the next daemon runs again; one that holds the GIL cannot even notice."""
    daemon = make_daemon(tmp_path, QUICK.replace("count = 2", "count = 4"))
    try:
        daemon.start()
        with daemon.client() as client:
            ids = [client.enqueue_sync(kind).id for kind in ("swallow", "hold_lock", "block_loop", "hold_gil")]
            await_executing(daemon, *ids)
        assert len(daemon.processes()) == 6
        daemon.kill()
        wait_until(lambda: not daemon.processes(), 3, "every process below the supervisor to end")
        daemon.start()
        assert daemon.events("jobs.recovered")[-1]["interrupted"] == 4
        assert query(tmp_path, "SELECT DISTINCT interruptions FROM jobs") == [(1,)]
        daemon.kill()
        wait_until(lambda: not daemon.processes(), 3, "every process below the supervisor to end")
    finally:
        daemon.close()


def test_nobody_outlives_a_supervisor_killed_while_it_starts(tmp_path: Path) -> None:
    """T36: a nursery that is busy importing would be left behind."""
    (tmp_path / "slow_jobs.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(60)\n")
    daemon = make_daemon(tmp_path, handlers=["slow_jobs"])
    try:
        daemon.spawn()
        wait_until((tmp_path / "importing").exists, 20, "the import to begin")
        daemon.kill()
        wait_until(lambda: not daemon.processes(), 3, "the nursery to end")
    finally:
        daemon.close()


def test_workers_live_on_without_their_nursery(tmp_path: Path) -> None:
    """A nursery that dies would take running jobs along, or leave the daemon unable to replace a worker."""
    with running(tmp_path) as daemon, daemon.client() as client:
        job = client.enqueue_sync("awork", {"seconds": 0.8})
        await_executing(daemon, job.id)
        before = {worker.pid for worker in workers_of(daemon)}
        former = nursery_of(daemon)
        kill(former)
        wait_until(lambda: nursery_of(daemon) != former, 10, "a new nursery")
        assert {worker.pid for worker in workers_of(daemon)} == before
        assert end_of(client, job.id).state == "completed"
        for pid in before:
            kill(pid)
        await_rest(daemon)
        assert end_of(client, client.enqueue_sync("noop").id).state == "completed"


def test_nursery_and_workers_may_die_together(tmp_path: Path) -> None:
    """A fork that was asked for and never answered would block every later one."""
    with running(tmp_path) as daemon, daemon.client() as client:
        for _ in range(5):
            for pid in (nursery_of(daemon), *(worker.pid for worker in workers_of(daemon) if worker.pid)):
                kill(pid)
        await_rest(daemon)
        assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        wait_until(lambda: len(daemon.processes()) == 4, 10, "one supervisor, one nursery, two workers")


def test_a_hung_nursery_does_not_stop_the_daemon(tmp_path: Path) -> None:
    """A stop would wait for a process that does not answer."""
    with running(tmp_path) as daemon, daemon.client() as client:
        nursery = nursery_of(daemon)
        kill(nursery, signal.SIGSTOP)
        kill(workers_of(daemon)[0].pid)
        assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        assert daemon.stop() == 0
        assert not lives(nursery)


LOCKED = """
import logging, random, threading, time
from perdure import job

mine = threading.Lock()

def hold():
    while True:
        with mine:
            logging.getLogger("nursery.thread").info("busy")
            print("busy", end="")
            time.sleep(0.001)

threading.Thread(target=hold, daemon=True, name="keeper").start()

@job("talk")
def talk() -> bool:
    print("a worker must be able to print")
    logging.getLogger("app").warning("and to log")
    return mine.acquire(timeout=0)
"""


def test_locks_of_the_nursery_do_not_hang_its_workers(tmp_path: Path) -> None:
    """T18: a worker forked while a thread of the handlers' module prints or logs would hang at its first line."""
    (tmp_path / "locked_jobs.py").write_text(LOCKED)
    with running(tmp_path, handlers=["locked_jobs"]) as daemon, daemon.client() as client:
        for _ in range(6):
            for worker in workers_of(daemon):
                kill(worker.pid)
            jobs = client.enqueue_many_sync([("talk", {}) for _ in range(4)])
            ends = client.wait_sync([job.id for job in jobs], 10)
            assert {end.state for end in ends} == {"completed"}
            await_rest(daemon)
        assert "keeper" in (tmp_path / "perdure.db.d" / "logs" / "workers.log").read_text()


def test_programs_that_jobs_start_do_not_keep_anything_open(tmp_path: Path) -> None:
    """T36: a child of a job would hold the lock, the socket or a channel, and the next daemon could not start."""
    with running(tmp_path) as daemon, daemon.client() as client:
        end = end_of(client, client.enqueue_sync("spawn", {"seconds": 30}).id)
        (pid, links) = json.loads(end.result or "[]")
        assert lives(pid)
        assert [link for link in links if "perdure" in link or "socket" in link] == []
        kill(pid)
        wait_until(lambda: not lives(pid), 10)
