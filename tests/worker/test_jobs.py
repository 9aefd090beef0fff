"""One job after the other in a real worker: results, errors, limits of both."""

from __future__ import annotations

import os
import signal

import pytest

from perdure.wire.work import DumpStacks
from tests.support.wait import wait_until
from tests.worker.rig import Rig, Worker, job_row


def test_both_lanes_run_jobs_and_return_results(worker: Worker) -> None:
    """Nothing would work."""
    worker.perform(
        job_row(1, "noop"), job_row(2, "anoop"), job_row(3, "echo", {"value": [1]}, attempt=2), job_row(4, "aecho")
    )
    assert sorted(worker.completed) == [1, 2]
    assert worker.results[3] == {"value": [1], "id": 3, "attempt": 2, "kind": "echo"}
    assert worker.results[4]["kind"] == "aecho"
    assert worker.hello == worker.pid
    assert worker.page.pid == worker.pid
    wait_until(lambda: not worker.page.executing() and not worker.page.finished_unsent())
    assert worker.page.progress == 4
    assert worker.timings["noop"][0] == 1


@pytest.mark.parametrize("kind", ["fail", "afail"])
@pytest.mark.parametrize(
    ("how", "type_", "retryable"),
    [
        ("value", "ValueError", True),
        ("permanent", "Permanent", False),
        ("exit", "SystemExit", True),
        ("interrupt", "KeyboardInterrupt", True),
        ("unspeakable", "Unspeakable", True),
        ("recursion", "RecursionError", True),
        ("memory", "MemoryError", True),
        ("key", "KeyError", False),
        ("timeout", "TimeoutError", True),
        ("cancelled", "CancelledError", True),
        ("group", "ExceptionGroup", True),
        ("chain", "OSError", True),
    ],
)
def test_whatever_a_handler_raises_is_a_failure_of_its_job_alone(
    worker: Worker, kind: str, how: str, type_: str, retryable: bool
) -> None:
    """An odd exception would end the worker, or be retried although it says it cannot."""
    worker.perform(job_row(1, kind, {"how": how}, timeout_ms=60_000), job_row(2, "noop"), job_row(3, "anoop"))
    failed = worker.failed[1]
    assert (failed.error.type, failed.retryable) == (type_, retryable)
    assert sorted(worker.completed) == [2, 3]


def test_an_error_shows_the_handlers_frames_only(worker: Worker) -> None:
    """Users would have to read perdure's frames above their own."""
    worker.perform(job_row(1, "fail", {"how": "chain"}), job_row(2, "afail", {"how": "value"}))
    for job_id in (1, 2):
        trace = worker.failed[job_id].error.traceback
        assert trace is not None
        assert "sample_handlers.py" in trace
        assert "perdure/daemon" not in trace
    cause = worker.failed[1].error.cause
    assert cause is not None
    assert (cause.type, cause.message) == ("ValueError", "bad value")


def test_a_handlers_own_wish_for_the_next_attempt_is_passed_on(worker: Worker) -> None:
    """`Retry(after=…)` would be ignored."""
    worker.perform(job_row(1, "fail", {"how": "retry"}))
    assert worker.failed[1].retry_after_ms == 90_000


def test_arguments_that_do_not_fit_are_permanent(worker: Worker) -> None:
    """A job that cannot even begin would use up all its attempts."""
    worker.perform(job_row(1, "echo", {"wrong": 1}), job_row(2, "asleep", {"seconds": "x"}), job_row(3, "noop", [1]))
    assert {failed.error.type for failed in worker.failed.values()} == {"InvalidArguments"}
    assert not any(failed.retryable for failed in worker.failed.values())


def test_a_kind_that_nobody_knows_is_given_back_as_a_failure(worker: Worker) -> None:
    """A defect of the supervisor would kill the worker."""
    worker.perform(job_row(1, "nobody"))
    assert (worker.failed[1].error.type, worker.failed[1].retryable) == ("UnknownKind", True)


@pytest.mark.parametrize(("what", "told"), [("nested", "result.user.callback"), ("nan", "nan")])
def test_a_result_that_is_not_data_is_refused_with_its_path(worker: Worker, what: str, told: str) -> None:
    """The job would look completed, with a result that nobody can read."""
    worker.perform(job_row(1, "give", {"what": what}))
    failed = worker.failed[1]
    assert (failed.error.type, failed.retryable) == ("NotData", False)
    assert told in failed.error.message


def test_results_over_the_limit_become_files(worker: Worker) -> None:
    """One result could fill the database; or one with few characters and many bytes could slip through."""
    worker.perform(*(job_row(n, "give", {"what": what}) for n, what in enumerate(["large", "umlaut", "fits", "zero"])))
    assert {job_id: (blob.size, blob.json) for job_id, blob in worker.spooled.items()} == {
        0: (200_002, True),
        1: (120_002, True),
    }
    assert len(worker.results[2]) == 90_000
    assert worker.results[3] == 0


def test_large_batches_of_results_arrive_whole(worker: Worker) -> None:
    """Messages over 96 KiB take another way than small ones."""
    worker.perform(*(job_row(n, "give", {"what": "fits"}) for n in range(1, 30)))
    assert len(worker.results) == 29


def test_the_lane_survives_a_supervisor_that_reads_slowly(worker: Worker) -> None:
    """Outcomes would be lost, or the done ring would forget them, when the socket is full."""
    count = 60
    rows = [job_row(n, "give", {"what": "fits"}) for n in range(1, count)]
    worker.run(*rows, job_row(count, "noop"), *(job_row(n, "anoop") for n in range(count + 1, count + 40)))
    wait_until(lambda: not worker.page.executing() and worker.page.progress > 5)
    worker.wait_for(*range(1, count + 40))


def test_many_jobs_travel_in_few_messages(worker: Worker) -> None:
    """A message a job would cost more than the jobs."""
    worker.perform(*(job_row(n, "noop") for n in range(1, 2001)))
    assert len(worker.completed) == 2000
    assert len(set(worker.completed)) == 2000
    assert worker.messages < 300
    assert worker.timings["noop"][0] == 2000


def test_finished_jobs_do_not_wait_behind_a_long_one(worker: Worker) -> None:
    """A dependent job would wait for a neighbour that has nothing to do with it."""
    worker.perform(job_row(1, "sleep", {"seconds": 0}), job_row(2, "noop"))
    worker.run(job_row(3, "noop"), job_row(4, "noop"), job_row(5, "sleep", {"seconds": 30}))
    worker.wait_for(3, 4)
    wait_until(lambda: worker.page.finished_unsent() == [] and worker.executes(5))


def test_async_jobs_run_side_by_side_up_to_the_slots(rig: Rig) -> None:
    """More tasks than slots would have no place in the recorder; fewer would waste time."""
    worker = rig.fork(async_slots=3)
    worker.run(*(job_row(n, "asleep", {"seconds": 0.05}) for n in range(1, 8)))
    wait_until(lambda: len(worker.page.executing()) == 3)
    worker.wait_for(*range(1, 8))
    wait_until(lambda: worker.page.executing() == [])


def test_a_worker_is_a_clean_process(rig: Rig, worker: Worker) -> None:
    """Jobs could forge messages to systemd, read the daemon's descriptors, or draw their brothers' random numbers."""
    other = rig.fork()
    worker.perform(job_row(1, "environment"))
    other.perform(job_row(1, "environment"))
    found = worker.results[1]
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "JOURNAL_STREAM"} & set(found["names"])
    assert (found["group"], found["term"], found["parent"]) == (True, True, os.getpid())
    assert found["stdin"] == os.devnull
    assert len(found["fds"]) < 20
    assert found["random"] != other.results[1]["random"]


def test_sigint_does_nothing_and_sigterm_ends(worker: Worker) -> None:
    """A Ctrl-C would kill jobs; a supervisor in a hurry could not end a worker."""
    worker.perform(job_row(1, "terminate"))
    assert worker.completed == [1]
    worker.run(job_row(2, "spin", {"seconds": 30}))
    wait_until(lambda: worker.executes(2))
    worker.kill(signal.SIGTERM)
    assert worker.wait_exit() == -signal.SIGTERM


def test_a_handler_that_forks_has_one_outcome(worker: Worker) -> None:
    """The child would go on with the worker's jobs, and tell results twice."""
    worker.perform(job_row(1, "fork_and_return"), job_row(2, "noop"), job_row(3, "noop"))
    assert worker.results == {1: "parent"}
    assert worker.completed == [2, 3]


def test_the_heartbeat_goes_on_while_the_sync_lane_is_busy(worker: Worker) -> None:
    """A worker with a long job would be taken for dead."""
    worker.run(job_row(1, "spin", {"seconds": 20}))
    wait_until(lambda: worker.executes(1))
    seen = worker.page.heartbeat
    wait_until(lambda: worker.page.heartbeat > seen)


def test_the_stacks_of_tasks_are_written_on_demand(worker: Worker) -> None:
    """The record of a hung asynchronous job would not say where it hangs."""
    worker.run(job_row(1, "adeep", {"seconds": 30}), job_row(2, "asleep", {"seconds": 30}))
    wait_until(lambda: worker.executes(1, 2))
    worker.send(DumpStacks())
    worker.pump(lambda: worker.dumped == 1)
    assert "job 1 adeep" in worker.stacks
    assert "in _wait_inside" in worker.stacks
