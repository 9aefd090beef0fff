"""Soft time limits: JobTimeout inside the handler, never anywhere else; and what the supervisor does after that."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.wait import wait_until
from tests.worker.rig import Rig, Worker, job_row


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("sleep", {"seconds": 30}),
        ("spin", {"seconds": 30}),
        ("asleep", {"seconds": 30}),
    ],
)
def test_a_job_over_its_limit_gets_a_timeout(worker: Worker, kind: str, args: dict[str, float]) -> None:
    """A job could run for ever, or only end by the death of its worker."""
    begun = time.monotonic()
    worker.perform(job_row(1, kind, args, timeout_ms=100), job_row(2, "noop"), job_row(3, "anoop"))
    failed = worker.failed[1]
    assert (failed.error.type, failed.retryable) == ("JobTimeout", True)
    assert "100ms" in failed.error.message
    assert "sample_handlers.py" in (failed.error.traceback or "")
    assert 0.1 <= time.monotonic() - begun < 2
    assert sorted(worker.completed) == [2, 3]


def test_a_handler_may_clean_up_after_its_timeout(worker: Worker) -> None:
    """The clean-up would be hit by a second exception."""
    worker.perform(job_row(1, "clean_up", {"seconds": 30}, timeout_ms=50))
    assert worker.results == {1: "cleaned up"}


def test_a_timeout_never_hits_the_lane_or_the_next_job(worker: Worker) -> None:
    """An exception that comes a moment late would kill the lane, or a job that has just begun.

    Jobs that end right at their limit, in turn with jobs far from theirs; and the signal comes at every moment, because
    this test sends it all the time. Each job has one outcome, and the latter have completed.
    """
    limited = [job_row(n, "spin", {"seconds": 0.002}, timeout_ms=2) for n in range(1, 301)]
    free = [job_row(n, "spin", {"seconds": 0.001}, timeout_ms=60_000) for n in range(1001, 1301)]
    worker.run(*(row for pair in zip(limited, free, strict=True) for row in pair))
    wanted = {row.id for row in (*limited, *free)}
    while not wanted <= worker.known():
        worker.kill(signal.SIGUSR2)
        worker.pump_one(0.0005)
        assert not worker.ended, worker.output
    assert {failed.error.type for failed in worker.failed.values()} <= {"JobTimeout"}
    assert set(worker.failed) <= {row.id for row in limited}
    assert len(worker.completed) + len(worker.failed) == 600


def test_timeouts_hit_early_and_late_in_short_jobs(worker: Worker) -> None:
    """The same with limits on both sides of the run time, so that the exception lands in the call, before and after."""
    rows = [job_row(n, "spin", {"seconds": n % 7 / 1000}, timeout_ms=n % 5 + 1) for n in range(1, 401)]
    worker.run(*rows)
    while not {row.id for row in rows} <= worker.known():
        worker.kill(signal.SIGUSR2)
        worker.pump_one(0.0002)
        assert not worker.ended, worker.output
    assert worker.failed
    assert len(worker.completed) + len(worker.failed) == 400
    worker.perform(job_row(999, "noop"))


def test_a_job_that_swallows_its_cancellation_is_left_to_the_supervisor(worker: Worker) -> None:
    """A stubborn job would take the async lane with it."""
    worker.run(job_row(1, "stubborn", {"seconds": 30}, timeout_ms=50))
    worker.perform(job_row(2, "asleep", {"seconds": 0.1}), job_row(3, "noop"))
    assert worker.executes(1)
    assert 1 not in worker.known()


def test_a_worker_that_holds_the_gil_still_shows_its_stacks(rig: Rig) -> None:
    """The record of a job that hangs in C would not say where."""
    worker = rig.fork()
    worker.run(job_row(1, "hold_gil", timeout_ms=50))
    wait_until(lambda: worker.executes(1))
    beats = worker.page.heartbeat
    worker.kill(signal.SIGUSR1)
    wait_until(lambda: "hold_gil" in worker.stacks)
    assert "sample_handlers.py" in worker.stacks
    assert worker.page.heartbeat == beats
    slot = worker.page.executing()[0]
    assert (slot.job_id, slot.timeout_ms, slot.lane) == (1, 50, "sync")
    worker.kill()
    assert worker.wait_exit() == -signal.SIGKILL
