"""Huey on SQLite: one consumer with two worker processes."""

from __future__ import annotations

from huey import SqliteHuey

from benchmarks.peers.app import App, durable, place, tool
from benchmarks.peers.record import TEXT, work

# fsync None leaves SQLite's own default; True and False are what its documentation offers.
huey = SqliteHuey(filename=str(place() / "huey.db"), fsync=durable(), results=False, cache_mb=64)


@huey.task()
def noop(index: int, text: str) -> None:
    """Leave a mark."""
    work(index, text)


class HueyApp(App):
    """SqliteHuey."""

    package = "huey"
    jobs = 10_000
    batch = 1
    settings = "-k process -w 2 -d 0.002 -m 0.002 -n, results off, 64 MB cache; a job is removed before it runs"
    recovery = "has none: at most once"
    recovers = False

    def workers(self) -> list[list[str]]:
        polling = ["-d", "0.002", "-m", "0.002"]
        name = "benchmarks.peers.apps.with_huey.huey"
        return [[tool("huey_consumer"), name, "-k", "process", "-w", "2", "-n", "-q", *polling]]

    def enqueue(self, index: int) -> None:
        noop(index, TEXT)


APP = HueyApp()
