"""One job that tells far more than anybody can take, in a real daemon: who follows it, and who works beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil
import pytest

from perdure.client import Client
from perdure.wire.data import Enqueued
from perdure.wire.streams import Emitted, Entry, LogText, Progress, Skipped, StateChange
from tests.daemon.e2e import await_executing, running
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

HANDLERS = ("tests.worker.telling_handlers",)
TWO_WORKERS = "[workers]\ncount = 2\n"
#: What the acceptance asks for.
EVENTS_PER_SECOND = 200_000
MOST_LAG_MS = 16.0


class Listener:
    """Follows one job to its end, in a thread."""

    def __init__(self, daemon: Daemon, job_id: int) -> None:
        self.entries: list[Entry | Skipped] = []
        self._client = daemon.client()
        self._thread = threading.Thread(target=self._listen, args=(self._client, job_id))
        self._thread.start()

    def _listen(self, client: Client, job_id: int) -> None:
        with client:
            for entry in client.follow_sync(job_id):
                self.entries.append(entry)

    def wait(self) -> None:
        """Until the job has ended, and with it the subscription."""
        self._thread.join(30)
        assert not self._thread.is_alive()

    def count(self) -> dict[str, int]:
        """Lines and values that came, and those that it was told of as left out."""
        skipped = [one for one in self.entries if isinstance(one, Skipped)]
        return {
            "lines": sum(one.lines for one in self.entries if isinstance(one, LogText)),
            "values": sum(isinstance(one, Emitted) for one in self.entries),
            "lines left out": sum(one.lines for one in skipped),
            "values left out": sum(one.values for one in skipped),
        }


def begin_flood(daemon: Daemon, client: Client, **args: float) -> tuple[Enqueued, Listener]:
    """A job that floods, followed from its first word on."""
    client.pause_sync("floods")
    job = client.enqueue_sync("flood", args, queue="floods")
    listener = Listener(daemon, job.id)
    wait_until(lambda: listener.entries, 10, "the first news")
    client.resume_sync("floods")
    await_executing(daemon, job.id)
    return job, listener


def percentile(some: Iterable[float], share: float) -> float:
    """The value that so large a share is not above."""
    ordered = sorted(some)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def in_words(latencies: list[float]) -> str:
    median, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    return f"median {median:.2f} ms, p99 {p99:.2f} ms ({len(latencies):,} jobs)"


def latencies_ms(client: Client, seconds: float) -> list[float]:
    """How long small jobs take, a hundred a second, from enqueuing to the end, in milliseconds."""
    taken: list[float] = []
    pace = threading.Event()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        job = client.enqueue_sync("nothing")
        assert client.wait_sync(job.id, 20)[0].state == "completed"
        taken.append((time.perf_counter() - started) * 1000)
        pace.wait(max(0.0, 0.01 - taken[-1] / 1000))
    return taken


def test_who_follows_a_flood_hears_what_was_left_out(tmp_path: Path) -> None:
    """A subscriber would take what it gets for all there was; or the job's end would never come."""
    with running(tmp_path, TWO_WORKERS, handlers=HANDLERS) as daemon, daemon.client() as client:
        job, listener = begin_flood(daemon, client, seconds=1.0, width=1_000)
        beside = [client.enqueue_sync("nothing").id for _ in range(50)]
        assert [end.state for end in client.wait_sync(beside, 20)] == ["completed"] * 50
        offered = msgspec.json.decode(client.wait_sync(job.id, 20)[0].result or "{}")
        listener.wait()
    heard = listener.count()
    assert heard["lines"] + heard["lines left out"] == offered["lines"]
    assert heard["values"] + heard["values left out"] == offered["values"]
    assert heard["lines left out"] > 0
    last = [one for one in listener.entries if isinstance(one, Progress)][-1]
    assert last.done == offered["lines"] - 1
    states = [one.state for one in listener.entries if isinstance(one, StateChange)]
    assert states[-1] == "completed"


@pytest.mark.channels_long
@pytest.mark.limit(120)
def test_a_flood_of_events_does_not_reach_the_others(tmp_path: Path) -> None:
    """200,000 events a second from one worker: the supervisor's loop and other jobs do not notice."""
    seconds = 20.0
    with running(tmp_path, TWO_WORKERS, handlers=HANDLERS) as daemon, daemon.client() as client:
        latencies_ms(client, 2)
        quiet = latencies_ms(client, 10)
        job, listener = begin_flood(daemon, client, seconds=seconds)
        busy = -psutil.Process(daemon.pid).cpu_times().user / (seconds - 2)
        beside = latencies_ms(client, seconds - 2)
        busy += psutil.Process(daemon.pid).cpu_times().user / (seconds - 2)
        status = client.status_sync()
        offered = msgspec.json.decode(client.wait_sync(job.id, 60)[0].result or "{}")
        listener.wait()
    heard = listener.count()
    per_second = sum(offered.values()) / seconds
    figures = [
        f"events offered: {per_second:,.0f}/s; the follower got {heard}",
        f"supervisor: lag p99.9 {status.loop_lag_ms_p999} ms, max {status.loop_lag_ms_max} ms, {busy:.0%} of a core",
        f"other jobs before: {in_words(quiet)}; meanwhile: {in_words(beside)}",
    ]
    print("\n" + "\n".join(figures))
    assert heard["lines"] + heard["lines left out"] == offered["lines"]
    assert heard["values"] + heard["values left out"] == offered["values"]
    assert per_second >= EVENTS_PER_SECOND, figures
    assert status.loop_lag_ms_p999 < MOST_LAG_MS, figures
    assert percentile(beside, 0.5) < 2 * percentile(quiet, 0.5), figures
