"""Celery on Redis: one worker with two prefork children."""

from __future__ import annotations

from celery import Celery

from benchmarks.peers.app import App, recovering, tool, url
from benchmarks.peers.record import TEXT, work

celery = Celery("peers", broker=url())
celery.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 5 if recovering() else 3600, "unacked_restore_limit": None},
)


@celery.task(name="noop")
def noop(index: int, text: str) -> None:
    """Leave a mark."""
    work(index, text)


class CeleryApp(App):
    """Celery."""

    package = "celery"
    jobs = 6_000
    batch = 1
    settings = "prefork -c 2, acks_late, ignore_result, prefetch_multiplier 64, no gossip, mingle or heartbeat, hiredis"
    recovery = "visibility_timeout 5 s (default 1 h)"

    def workers(self) -> list[list[str]]:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
        return [[tool("celery"), "-A", "benchmarks.peers.apps.with_celery:celery", "worker", "-c", "2", *quiet]]

    def enqueue(self, index: int) -> None:
        noop.delay(index, TEXT)


APP = CeleryApp()
