"""The kill -9 campaign: a real daemon, real workers, SIGKILL at random instants, and an audit of every record.

A trigger in the queue's file notes each time that a job's record becomes final, in the transaction that does it. So
"finished exactly once" is counted where it matters, and not from anybody's memory.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from perdure.errors import DaemonUnreachable
from perdure.wire.data import JobSpec
from tests.crash.handlers import KINDS
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

SETTINGS = """
[store]
retention_count = 10000000
[workers]
count = 2
restart_backoff_base = "10ms"
[jobs]
max_attempts = 1000
max_interruptions = 1000
backoff_base = "1ms"
backoff_cap = "20ms"
[logs]
level = "warning"
"""
AUDIT = """
CREATE TABLE audit (job INTEGER NOT NULL, what TEXT NOT NULL);
CREATE TRIGGER audit_final AFTER UPDATE OF state ON jobs WHEN NEW.state IN ('completed', 'cancelled')
BEGIN INSERT INTO audit VALUES (NEW.id, NEW.state); END;
CREATE TRIGGER audit_dead AFTER INSERT ON dead_letters BEGIN INSERT INTO audit VALUES (NEW.id, 'dead'); END;
"""
#: Between two kills of a worker, seconds: long enough for it to have come back and begun something.
WORKER_PAUSE = (0.0, 0.03)
CHUNK = 20


@dataclass
class Result:
    """What happened. `acknowledged` maps each job of the producer to the id it was given."""

    worker_kills: int = 0
    supervisor_kills: int = 0
    seconds: float = 0.0
    acknowledged: dict[int, int] = field(default_factory=dict)
    unacknowledged_requests: int = 0
    finals: dict[int, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    interrupted_attempts: int = 0
    integrity: str = ""
    orphans: list[str] = field(default_factory=list)


class Campaign:
    """One run: a producer in a thread of its own, the killing here."""

    def __init__(self, folder: Path, jobs: int, worker_kills: int, supervisor_kills: int, seed: int) -> None:
        self.jobs = jobs
        self.worker_kills = worker_kills
        self.supervisor_kills = supervisor_kills
        self.rng = random.Random(seed)
        self.daemon = Daemon(folder, ["tests.crash.handlers"], SETTINGS)
        self.db = folder / "perdure.db"
        self.result = Result()
        self._stop = threading.Event()

    def run(self) -> Result:
        """Start, kill, let it finish, audit."""
        try:
            self.daemon.start()
            self._install_audit()
            started = time.monotonic()
            producer = threading.Thread(target=self._produce, name="producer")
            producer.start()
            try:
                self._kill()
            except BaseException:
                self._stop.set()
                raise
            finally:
                producer.join()
            wait_until(self._drained, 120, "all jobs to end")
            self.result.seconds = time.monotonic() - started
            assert self.daemon.stop() == 0
            self.result.orphans = self.daemon.left_behind()
            self._audit()
            return self.result
        finally:
            self._stop.set()
            self.daemon.close()

    def _install_audit(self) -> None:
        """The daemon is stopped for it: one process writes."""
        self.daemon.stop()
        with sqlite3.connect(self.db) as connection:
            connection.executescript(AUDIT)
        connection.close()
        self.daemon.start()

    # --- producing

    def _produce(self) -> None:
        """Enqueue every job once, in small requests, while the daemon comes and goes."""
        for first in range(0, self.jobs, CHUNK):
            numbers = range(first, min(first + CHUNK, self.jobs))
            specs = [JobSpec(KINDS[n % len(KINDS)], f'{{"n":{n}}}', unique=f"n{n}", queue=f"q{n % 3}") for n in numbers]
            self._enqueue(list(numbers), specs)
            if self._stop.is_set():
                return
            self._pace(first)

    def _enqueue(self, numbers: list[int], specs: list[JobSpec]) -> None:
        while not self._stop.is_set():
            try:
                with self.daemon.client() as client:
                    placed = client.enqueue_many_sync(specs)
            except DaemonUnreachable:
                # Perhaps it was taken and only the answer was lost: the unique keys keep it from being taken twice.
                self.result.unacknowledged_requests += 1
                self._stop.wait(0.02)
            else:
                self.result.acknowledged.update(zip(numbers, (place.id for place in placed), strict=True))
                return

    def _pace(self, produced: int) -> None:
        """Spread the jobs over the kills, so that there is always something to hit."""
        total = self.worker_kills + self.supervisor_kills
        while not self._stop.is_set():
            done = self.result.worker_kills + self.result.supervisor_kills
            if done >= total or produced / self.jobs <= (done + 1) / total:
                return
            self._stop.wait(0.005)

    # --- killing

    def _kill(self) -> None:
        order = ["worker"] * self.worker_kills + ["supervisor"] * self.supervisor_kills
        self.rng.shuffle(order)
        for victim in order:
            if victim == "worker":
                self._kill_worker()
            else:
                self._kill_supervisor()

    def _kill_worker(self) -> None:
        self._stop.wait(self.rng.uniform(*WORKER_PAUSE))
        pid = wait_until(self._some_worker, 30, "a worker to kill")
        os.kill(pid, signal.SIGKILL)
        self.result.worker_kills += 1

    def _some_worker(self) -> int | None:
        status = self.daemon.status()
        workers = status.workers if status else []
        alive = [worker.pid for worker in workers if worker.pid and _is_alive(worker.pid)]
        return self.rng.choice(alive) if alive else None

    def _kill_supervisor(self) -> None:
        """At any instant: also while it starts or recovers."""
        self._stop.wait(self.rng.uniform(0, 0.6))
        self.daemon.kill()
        self.result.supervisor_kills += 1
        left = wait_until(lambda: not self.daemon.processes(), 10, "everything below the supervisor to end")
        assert left
        self.daemon.spawn()

    # --- judging

    def _drained(self) -> bool:
        status = self.daemon.status()
        return status is not None and not any(
            count for state, count in status.counts.items() if state not in ("completed", "cancelled")
        )

    def _audit(self) -> None:
        connection = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True)
        try:
            self.result.finals = dict(connection.execute("SELECT job, count(*) FROM audit GROUP BY job"))
            self.result.states = dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
            self.result.interrupted_attempts = connection.execute("SELECT sum(interruptions) FROM jobs").fetchone()[0]
            self.result.integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
        finally:
            connection.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
