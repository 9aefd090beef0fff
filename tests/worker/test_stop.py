"""Stop: a job that executes gets an exception, once; what has not begun comes back; nothing else is hit."""

from __future__ import annotations

import random

import pytest

from perdure.wire.work import Drain, JobRow, Stop
from tests.support.wait import wait_until
from tests.worker.rig import Worker, job_row


def begin(worker: Worker, *rows: JobRow) -> None:
    """Send jobs and wait until the first one executes."""
    worker.run(*rows)
    wait_until(lambda: worker.executes(rows[0].id))


def enter(worker: Worker, row: JobRow) -> None:
    """Send a job and wait until it is within its handler: a task makes its first step before one that comes later."""
    begin(worker, row)
    worker.perform(job_row(900, "anoop"))
    worker.completed.clear()


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("sleep", "JobCancelled"),
        ("spin", "JobCancelled"),
        ("asleep", "CancelledError"),
        ("adeep", "CancelledError"),
    ],
)
@pytest.mark.parametrize("timeout_ms", [None, 60_000])
def test_a_job_that_is_stopped_ends(worker: Worker, kind: str, raised: str, timeout_ms: int | None) -> None:
    """A cancelled job would run on until its time limit, or take its worker along."""
    enter(worker, job_row(1, kind, {"seconds": 30}, timeout_ms=timeout_ms))
    worker.send(Stop([1]))
    worker.wait_for(1, timeout=3)
    failed = worker.failed[1]
    assert (failed.error.type, failed.stopped) == (raised, True)
    assert "sample_handlers.py" in (failed.error.traceback or "")
    worker.perform(job_row(2, "noop"), job_row(3, "anoop"))
    assert sorted(worker.completed) == [2, 3]


@pytest.mark.parametrize(("kind", "raised"), [("endure", "JobCancelled"), ("aendure", "CancelledError")])
def test_a_handler_may_clean_up_and_is_not_hit_again(worker: Worker, kind: str, raised: str) -> None:
    """The clean-up would be cut short by the second wish, and ctx.cancelled would not know of the first."""
    enter(worker, job_row(1, kind, {"seconds": 30}, timeout_ms=60_000))
    worker.send(Stop([1]))
    worker.send(Stop([1]))
    worker.wait_for(1)
    assert worker.results == {1: {"raised": raised, "cancelled": True}}


def test_a_stop_during_the_clean_up_after_a_timeout_raises_nothing(worker: Worker) -> None:
    """One exception a job: clean-up would be hit in its midst."""
    begin(worker, job_row(1, "endure", {"seconds": 30}, timeout_ms=50))
    wait_until(lambda: "cleaning up" in worker.job_log(1))
    worker.send(Stop([1]))
    worker.wait_for(1)
    assert worker.results == {1: {"raised": "JobTimeout", "cancelled": True}}


@pytest.mark.parametrize(("kind", "raised"), [("tidy_up", "ValueError"), ("atidy_up", "CancelledError")])
def test_finally_blocks_run(worker: Worker, kind: str, raised: str) -> None:
    """Locks and temporary files would be left behind."""
    enter(worker, job_row(1, kind, {"seconds": 30}))
    worker.send(Stop([1]))
    worker.wait_for(1)
    assert (worker.failed[1].error.type, worker.failed[1].stopped) == (raised, True)
    wait_until(lambda: "tidied up" in worker.job_log(1))


def test_what_waits_in_line_is_given_back_and_never_runs(worker: Worker) -> None:
    """A job would run although its producer was told that it had not begun."""
    begin(worker, job_row(1, "sleep", {"seconds": 30}), job_row(2, "say", {"text": "ran"}), job_row(3, "noop"))
    worker.send(Stop([2]))
    worker.pump(lambda: worker.returned == [2])
    worker.send(Stop([1]))
    worker.wait_for(1, 3)
    assert worker.job_log(2) == ""
    assert 2 not in worker.known()


def test_async_jobs_without_a_slot_are_given_back(worker: Worker) -> None:
    """The same in the other lane; and a stop of many jobs at once reaches all."""
    rows = [job_row(n, "asleep", {"seconds": 30}) for n in range(1, 7)]
    begin(worker, *rows)
    wait_until(lambda: worker.executes(1, 2, 3, 4))
    worker.send(Stop([1, 2, 3, 4, 5, 6]))
    worker.wait_for(1, 2, 3, 4)
    assert sorted(worker.returned) == [5, 6]
    assert all(failed.stopped for failed in worker.failed.values())


def test_a_stop_of_what_has_ended_does_nothing(worker: Worker) -> None:
    """It would hit the next job, or a later attempt of the same one."""
    for ended in range(0, 12, 4):
        worker.run(job_row(1, "noop" if ended else "anoop"))
        worker.pump(lambda count=ended: len(worker.completed) == count + 1)
        worker.send(Stop([1]))
        begin(worker, job_row(2, "spin", {"seconds": 0.1}))
        worker.send(Stop([1]))
        worker.run(job_row(1, "spin", {"seconds": 0.03}, attempt=2))
        worker.pump(lambda count=ended: len(worker.completed) == count + 3)
        worker.run(job_row(1, "asleep", {"seconds": 0.03}, attempt=3))
        worker.pump(lambda count=ended: len(worker.completed) == count + 4)
    assert not worker.failed
    assert worker.returns == 0


def test_a_stop_while_it_drains(worker: Worker) -> None:
    """A reload would wait for a job that nobody wants."""
    begin(worker, job_row(1, "sleep", {"seconds": 30}))
    worker.send(Drain())
    worker.send(Stop([1]))
    worker.wait_for(1)
    assert worker.wait_exit() == 0


def test_one_that_swallows_it_is_left_to_the_supervisor(worker: Worker) -> None:
    """A stubborn job would take its lane along."""
    enter(worker, job_row(1, "stubborn", {"seconds": 30}))
    worker.send(Stop([1]))
    worker.perform(job_row(2, "asleep", {"seconds": 0.05}), job_row(3, "noop"))
    assert worker.executes(1)
    assert 1 not in worker.known()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["spin", "asleep", "mixed"])
def test_a_stop_never_hits_the_lane_or_another_job(worker: Worker, kind: str, seed: int) -> None:
    """An exception a moment late would kill the lane, or a job that nobody has cancelled.

    Jobs of about a millisecond are stopped at random moments, twice at times. Each has one outcome, or came back; what
    was not cancelled has completed, in attempts that come after a stop of the one before, too.
    """
    rng = random.Random(seed)
    kinds = {"mixed": ["spin", "asleep"]}.get(kind, [kind])
    total = 300
    limits = [None, 60_000]
    rows = [
        job_row(n, rng.choice(kinds), {"seconds": rng.choice([0, 0.0005, 0.002])}, timeout_ms=rng.choice(limits))
        for n in range(1, total + 1)
    ]
    stopped: set[int] = set()
    worker.run(*rows)

    def over() -> set[int]:
        return {*worker.known(), *worker.returned}

    while len(over()) < total:
        executing = [slot.job_id for slot in worker.page.executing()]
        ahead = max([*executing, *over(), 0])
        chosen = [n for n in (*executing, ahead + 1, ahead + 2, rng.randrange(1, total + 1)) if rng.random() < 0.3]
        if chosen:
            stopped.update(chosen)
            worker.send(Stop(chosen))
        worker.pump_one(rng.random() / 1000)
        assert not worker.ended, worker.output
    outcomes = [*worker.completed, *worker.results, *worker.failed, *worker.returned]
    assert len(outcomes) == len(set(outcomes)) == total
    assert {*worker.failed, *worker.returned} <= stopped
    assert all(failed.stopped for failed in worker.failed.values())
    again = [job_row(n, "spin", {"seconds": 0.0002}, attempt=2) for n in sorted(stopped)[:50]]
    before = len(worker.completed)
    worker.run(*again)
    worker.pump(lambda: len(worker.completed) == before + len(again))


def test_a_failure_that_was_not_asked_for_says_so(worker: Worker) -> None:
    """The record would name a cancellation that never was."""
    worker.perform(job_row(1, "fail", {"how": "cancelled"}), job_row(2, "afail", {"how": "cancelled"}))
    assert [failed.stopped for failed in worker.failed.values()] == [False, False]
