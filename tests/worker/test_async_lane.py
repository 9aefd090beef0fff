"""The async lane: jobs share a loop, and nothing else."""

from __future__ import annotations

import pytest

from perdure.wire.work import Stop
from tests.support.wait import wait_until
from tests.worker.rig import Rig, Worker, job_row

#: For the fixture `rig`.
MODULES = ("tests.worker.lane_handlers", "tests.worker.sample_handlers")


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "waiting"])
def test_context_variables_of_a_job_are_its_own(worker: Worker, wait: bool) -> None:
    """A request id that one job has set would stand in the logs of the next."""
    worker.perform(*(job_row(number, "lane.mark", {"number": number, "wait": wait}) for number in range(1, 101)))
    assert worker.results == {number: [0, number, number] for number in range(1, 101)}


def test_arguments_are_bound_in_the_context_of_the_job(rig: Rig) -> None:
    """What a class of the user sets or prints while its arguments are read would reach the next job, and no log."""
    worker = rig.fork(async_slots=1)
    try:
        worker.perform(job_row(1, "lane.bound", {"marked": {"number": 5}}), job_row(2, "lane.bound"))
        assert worker.results == {1: 5, 2: 0}
        assert worker.job_log(1) == "bound\n"
    finally:
        worker.close()


def test_every_slot_is_used_when_jobs_wait(rig: Rig) -> None:
    """Jobs that wait for each other would wait for ever, one slot serving them one by one."""
    worker = rig.fork(async_slots=16)
    try:
        worker.perform(*(job_row(number, "lane.together", {"others": 16}) for number in range(1, 17)))
        assert set(worker.results.values()) == {16}
    finally:
        worker.close()


def test_others_begin_while_a_result_is_written(rig: Rig) -> None:
    """A slow disk would keep the whole lane, though the handler itself has never waited."""
    worker = rig.fork(async_slots=2)
    try:
        worker.perform(job_row(1, "lane.slow_disk"), job_row(2, "lane.free_disk"))
        assert not worker.failed
        assert worker.spooled[1].size == 5
    finally:
        worker.close()


def test_a_cancellation_that_comes_late_ends_nobody_else(rig: Rig) -> None:
    """Whoever was told of a task while its job waited may cancel it when another job runs there."""
    worker = rig.fork(async_slots=1)
    try:
        worker.perform(job_row(1, "lane.cancel_later"), job_row(2, "asleep", {"seconds": 0.1}))
        assert not worker.failed
    finally:
        worker.close()


def test_a_job_that_cancels_its_task_ends_nobody_else(worker: Worker) -> None:
    """Its request would hit whichever job runs next."""
    rows = []
    for number in range(1, 40, 2):
        rows += [job_row(number, "lane.cancel_self"), job_row(number + 1, "asleep", {"seconds": 0})]
    worker.perform(*rows)
    assert not [number for number in worker.failed if number % 2 == 0]


def test_a_job_that_cancels_every_task_ends_no_slot(rig: Rig) -> None:
    """The lane would lose a slot each time, and at last stand still."""
    worker = rig.fork(async_slots=2)
    try:
        for number in range(1, 30, 3):
            worker.perform(
                job_row(number, "lane.cancel_all"),
                job_row(number + 1, "lane.cancel_all"),
                job_row(number + 2, "lane.name"),
            )
        assert len(worker.results) == 10
    finally:
        worker.close()


def test_a_task_is_called_after_the_job_that_it_runs(worker: Worker) -> None:
    """Stacks and warnings would name the job before."""
    worker.perform(*(job_row(number, "lane.name") for number in range(1, 6)))
    assert worker.results == {number: f"job {number} lane.name attempt 1" for number in range(1, 6)}


def test_stopping_a_job_leaves_the_next_of_its_slot_alone(rig: Rig) -> None:
    """The cancellation would be delivered once more, to a job that nobody wants to end."""
    worker = rig.fork(async_slots=1)
    try:
        worker.run(job_row(1, "asleep", {"seconds": 60}), job_row(2, "lane.deep"))
        wait_until(lambda: any(slot.job_id == 1 for slot in worker.page.executing()))
        worker.send(Stop([1]))
        worker.wait_for(1, 2)
        assert worker.failed[1].stopped
        assert worker.results == {2: "later"}
    finally:
        worker.close()


def test_the_loop_turns_while_jobs_that_never_wait_stand_in_line(worker: Worker) -> None:
    """Heartbeats, other jobs' answers and cancellations would wait for the end of the line."""
    line = [job_row(number, "lane.spin", {"seconds": 0.003}) for number in range(2, 200)]
    worker.run(job_row(1, "lane.ticks", {"most": 20}), *line)
    worker.wait_for(1)
    assert len(worker.known()) < 150
    worker.wait_for(*(row.id for row in line))


def test_jobs_that_keep_each_other_waiting_are_told_together(rig: Rig) -> None:
    """Each outcome would be a message, and a turn of the supervisor: such jobs all seem to take long."""
    worker = rig.fork(async_slots=16)
    try:
        before = worker.messages
        worker.perform(*(job_row(number, "lane.spin", {"seconds": 0.0005}) for number in range(1, 129)))
        assert worker.messages - before <= 32
    finally:
        worker.close()


def test_a_job_that_is_over_its_limit_may_clean_up_and_wait(worker: Worker) -> None:
    """Its clean-up would be cancelled again, or its own answer to the limit be overruled."""
    worker.perform(
        job_row(1, "lane.give_in", timeout_ms=20), job_row(2, "lane.give_in", {"answer": False}, timeout_ms=20)
    )
    assert worker.results == {1: "cleaned up"}
    assert worker.failed[2].error.type == "JobTimeout"


def test_time_limits_and_results_of_jobs_that_share_a_task(worker: Worker) -> None:
    """The limit of one job would end the next, or none."""
    rows = []
    for number in range(1, 30, 3):
        rows.append(job_row(number, "asleep", {"seconds": 60}, timeout_ms=30))
        rows.append(job_row(number + 1, "lane.deep", timeout_ms=60_000))
        rows.append(job_row(number + 2, "anoop", timeout_ms=1))
    worker.perform(*rows)
    assert sorted(worker.failed) == list(range(1, 30, 3))
    assert {failed.error.type for failed in worker.failed.values()} == {"JobTimeout"}
    assert sorted(worker.results) == list(range(2, 30, 3))


def test_a_task_that_is_cancelled_late_is_nobody_elses(worker: Worker) -> None:
    """Whoever cancels "its own" task when its job has ended would send the next job to the dead letters."""
    rows = []
    for number in range(1, 100, 2):
        rows += [job_row(number, "lane.late_cancel"), job_row(number + 1, "asleep", {"seconds": 0.002})]
    worker.perform(*rows)
    assert not worker.failed


def test_a_job_that_stops_the_loop_does_not_leave_the_worker_deaf(worker: Worker) -> None:
    """All its jobs would stand as running until somebody notices."""
    worker.perform(job_row(1, "lane.stop_loop"), job_row(2, "lane.name"))
    assert set(worker.results) == {1, 2}
    assert "loop.stop()" in worker.output_path.read_text()
