"""Dramatiq on Redis: two processes of eight threads, its default number."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers.app import App, recovering, tool, url
from benchmarks.peers.record import TEXT, work

# The dead workers' messages are looked for at random: in one of a thousand commands by default.
searching = {"heartbeat_timeout": 5_000, "maintenance_chance": 100_000} if recovering() else {}
dramatiq.set_broker(RedisBroker(url=url(), **searching))


@dramatiq.actor
def noop(index: int, text: str) -> None:
    """Leave a mark."""
    work(index, text)


class DramatiqApp(App):
    """Dramatiq."""

    package = "dramatiq"
    jobs = 10_000
    batch = 1
    settings = "--processes 2 --threads 8, hiredis"
    recovery = "heartbeat_timeout 5 s (default 60 s), maintenance_chance 10 % (default 0.1 %)"

    def workers(self) -> list[list[str]]:
        return [[tool("dramatiq"), "benchmarks.peers.apps.with_dramatiq", "--processes", "2", "--threads", "8"]]

    def enqueue(self, index: int) -> None:
        noop.send(index, TEXT)


APP = DramatiqApp()
