"""What jobs tell, and to whom: progress, values and log lines on their way to the supervisor."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from perdure.daemon.joblog import log_path, remove_logs, values_path
from perdure.daemon.log_position import rotated_path
from perdure.wire.streams import Emitted, LogText, Progress
from perdure.wire.work import Follow, FollowQueues, Unfollow
from tests.support.wait import wait_until
from tests.worker.listening import (
    HANDLERS,
    entries,
    kept_values,
    orders_in,
    progress,
    skipped,
    text,
    told_after_its_end,
    values,
    whole_log,
)
from tests.worker.rig import BOTH, Rig, Worker, job_row

#: For the fixtures `rig` and `worker`: handlers that tell, and logs that have room.
MODULES = (HANDLERS,)
WORKER = {"job_log_bytes": 1 << 20}


# --- who hears what


@BOTH
def test_a_job_that_is_followed_is_heard_in_order_and_before_its_outcome(worker: Worker, lane: str) -> None:
    """`perdure follow` would miss the end of every job."""
    worker.send(Follow([1]))
    worker.perform(job_row(1, f"{lane}count", {"lines": 50, "values": 50, "steps": 50}))
    assert [one.value for one in values(worker, 1)] == [f"[1,{n}]" if lane else str(n) for n in range(50)]
    assert [one.number for one in values(worker, 1)] == list(range(1, 51))
    assert text(worker, 1) == whole_log(worker, 1)
    assert text(worker, 1).count("\n") == 50
    assert sum(one.lines for one in entries(worker, 1) if isinstance(one, LogText)) == 50
    assert progress(worker, 1)[-1] == Progress(1, 50, 50)
    assert told_after_its_end(worker, 1) == []
    assert skipped(worker, 1) == (0, 0)


@BOTH
def test_lines_and_values_stand_in_their_order(worker: Worker, lane: str, tmp_path: Path) -> None:
    """What a job says about a value would come before or after it by chance."""
    with orders_in(tmp_path) as orders:
        worker.send(Follow([1]))
        worker.run(job_row(1, f"{lane}obey", {"orders": str(orders.path)}))
        orders.give("print one", 'emit {"row": 1}', "print two", "print three", "emit null", "end")
        worker.wait_for(1)
    expected = ["one\n", '{"row":1}', "two\nthree\n", "null"]
    assert "".join(
        one.text if isinstance(one, LogText) else f"<{getattr(one, 'value', '')}>" for one in entries(worker, 1)
    ) == (expected[0] + f"<{expected[1]}>" + expected[2] + f"<{expected[3]}>")


@BOTH
def test_nobody_is_told_what_nobody_wants_but_progress(worker: Worker, lane: str, tmp_path: Path) -> None:
    """Every line of every job would travel to the supervisor."""
    with orders_in(tmp_path) as orders:
        worker.run(job_row(1, f"{lane}obey", {"orders": str(orders.path)}))
        orders.give("print one", "emit 1", "log fine", 'progress [1, 4, "first"]')
        worker.pump(lambda: bool(progress(worker, 1)))
        orders.give("progress [2, null, null]", "emit 2")
        worker.pump(lambda: len(progress(worker, 1)) == 2)
        orders.give("end")
        worker.wait_for(1)
    assert entries(worker, 1) == [Progress(1, 1, 4, "first"), Progress(1, 2)]
    assert kept_values(worker, 1) == [[1, 1], [2, 2]]
    assert "one\n" in whole_log(worker, 1)


def test_short_jobs_that_nobody_follows_send_nothing(worker: Worker) -> None:
    """A thousand jobs a second that report their progress would send as many messages more."""
    rows = [job_row(n, kind, {"lines": 1, "values": 1, "steps": 3}) for n in range(1, 101) for kind in ("count",)]
    worker.perform(*rows)
    # At most what a tenth of a second happened to end in the midst of.
    assert sum(len(told.entries) for told in worker.told) <= 3


@BOTH
def test_queues_and_everything_can_be_followed(worker: Worker, lane: str) -> None:
    """`perdure follow --queue Q` and `--all` would be silent."""
    args = {"lines": 2, "values": 1}
    worker.send(FollowQueues(["other"]))
    worker.perform(job_row(1, f"{lane}count", args))
    worker.send(FollowQueues(["default", "other"]))
    worker.perform(job_row(2, f"{lane}count", args))
    worker.send(FollowQueues([], everything=True))
    worker.perform(job_row(3, f"{lane}count", args))
    worker.send(FollowQueues([]))
    worker.perform(job_row(4, f"{lane}count", args))
    heard = [(text(worker, job_id).count("\n"), len(values(worker, job_id))) for job_id in (1, 2, 3, 4)]
    assert heard == [(0, 0), (2, 1), (2, 1), (0, 0)]


@BOTH
def test_nothing_more_is_told_after_unfollow(worker: Worker, lane: str, tmp_path: Path) -> None:
    """Workers would go on telling for ever."""
    with orders_in(tmp_path) as orders:
        worker.send(Follow([1, 2]))
        worker.run(job_row(1, f"{lane}obey", {"orders": str(orders.path)}))
        orders.give("print one", "emit 1")
        worker.pump(lambda: len(entries(worker, 1)) == 2)
        worker.send(Unfollow([1]))
        # An answer says that it has been read.
        worker.send(Follow([3], [3]))
        worker.pump(lambda: bool(entries(worker, 3)))
        orders.give("print two", "emit 2", "end")
        worker.wait_for(1)
    (value,) = values(worker, 1)
    assert entries(worker, 1) == [
        LogText(1, "one\n", 1, start=0),
        Emitted(1, "1", 1, attempt=1, since=value.since),
    ]
    assert value.since > 0


# --- lines


@BOTH
def test_a_line_is_told_when_it_has_ended(worker: Worker, lane: str, tmp_path: Path) -> None:
    """Half a line would be shown as one, and the other half as another."""
    with orders_in(tmp_path) as orders:
        worker.send(Follow([1]))
        worker.run(job_row(1, f"{lane}obey", {"orders": str(orders.path)}))
        orders.give("print one", "begin tw", "progress [1, null, null]")
        worker.pump(lambda: bool(progress(worker, 1)))
        assert whole_log(worker, 1) == "one\ntw"
        assert text(worker, 1) == "one\n"
        orders.give("print o", "begin end", "end")
        worker.wait_for(1)
    assert [one.text for one in entries(worker, 1) if isinstance(one, LogText)] == ["one\n", "two\nend"]
    assert [one.lines for one in entries(worker, 1) if isinstance(one, LogText)] == [1, 2]


def test_the_headline_of_an_attempt_is_told(worker: Worker) -> None:
    """Who follows a job through its attempts would not see where one begins."""
    worker.perform(job_row(1, "count", {"lines": 1}))
    worker.send(Follow([1]))
    worker.perform(job_row(1, "count", {"lines": 1}, attempt=2), job_row(2, "count"))
    worker.wait_for(2)
    assert text(worker, 1) == whole_log(worker, 1).removeprefix("0\n")
    assert text(worker, 1).startswith("--- attempt 2")


def test_long_lines_and_large_prints_arrive_whole(worker: Worker) -> None:
    """A line above a message's size would be lost, or break the channel."""
    worker.send(Follow([1]))
    worker.perform(job_row(1, "count", {"lines": 1, "width": 150_000}))
    assert text(worker, 1) == "0" * 150_000 + "\n"
    assert all(len(one.text) <= 64 * 1024 for one in entries(worker, 1) if isinstance(one, LogText))


def test_threads_of_a_handler_are_heard(worker: Worker) -> None:
    """What a thread prints would be lost, doubled or mixed, or its values numbered twice."""
    worker.send(Follow([1]))
    worker.perform(job_row(1, "threads", {"number": 4, "lines": 200}))
    assert text(worker, 1) == whole_log(worker, 1)
    for name in range(4):
        mine = [line for line in text(worker, 1).splitlines() if line.startswith(f"{name} ")]
        assert mine == [f"{name} {line}" for line in range(200)]
    told = values(worker, 1)
    assert [one.number for one in told] == list(range(1, 801))
    assert [[one.number, msgspec.json.decode(one.value)] for one in told] == kept_values(worker, 1)
    assert told_after_its_end(worker, 1) == []


def test_jobs_side_by_side_are_told_apart(worker: Worker) -> None:
    """Lines of one job would be shown as another's."""
    worker.send(Follow([1, 2, 3, 4]))
    rows = [job_row(n, "acount", {"lines": 30, "values": 30}) for n in (1, 2, 3, 4)]
    worker.perform(*rows, job_row(5, "count", {"lines": 30}))
    for job_id in (1, 2, 3, 4):
        assert text(worker, job_id) == "".join(f"job {job_id} line {n}\n" for n in range(30))
        assert [one.value for one in values(worker, job_id)] == [f"[{job_id},{n}]" for n in range(30)]
        assert told_after_its_end(worker, job_id) == []
    assert entries(worker, 5) == []


# --- values


def test_values_are_kept_beside_the_log_and_bounded(rig: Rig) -> None:
    """A job that emits in a loop would fill the disk."""
    worker = rig.fork(job_log_bytes=4096)
    worker.perform(job_row(1, "count", {"values": 5_000}))
    path = values_path(worker.logs, 1)
    assert max(path.stat().st_size, rotated_path(path).stat().st_size) <= 2048
    numbers = [number for number, _ in kept_values(worker, 1)]
    assert numbers == list(range(5_001 - len(numbers), 5_001))


def test_a_new_attempt_begins_its_values_anew(worker: Worker) -> None:
    """Partial results of a failed attempt would be counted among those of the next."""
    worker.perform(job_row(1, "count", {"values": 3}))
    worker.perform(job_row(1, "count", {"values": 1}, attempt=2), job_row(2, "count"))
    worker.wait_for(2)
    assert kept_values(worker, 1) == [[1, 0]]


def test_values_go_with_the_log(worker: Worker) -> None:
    """Pruned jobs would leave files for ever."""
    worker.perform(job_row(1, "count", {"values": 3, "lines": 2}))
    assert values_path(worker.logs, 1).exists()
    remove_logs(worker.logs, [1])
    assert list(log_path(worker.logs, 1).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "error"), [("value", "NotData"), ("large", "NotData"), ("number", "ValueError")], ids=lambda one: one
)
def test_what_cannot_be_told_fails_the_handler_and_nothing_else(worker: Worker, how: str, error: str) -> None:
    """A value that cannot be sent would break the channel for all jobs of the worker."""
    worker.send(FollowQueues([], everything=True))
    worker.perform(job_row(1, "bad_tell", {"how": how}), job_row(2, "count", {"values": 1}))
    assert worker.failed[1].error.type == error
    assert [one.value for one in values(worker, 2)] == ["0"]


def test_a_text_about_the_progress_is_made_fit(worker: Worker) -> None:
    """One odd character in a file name would break the channel."""
    worker.send(Follow([1]))
    worker.perform(job_row(1, "bad_tell", {"how": "text"}))
    assert worker.results[1] == "fine"
    (told,) = progress(worker, 1)
    assert told.text is not None
    assert told.text.startswith("\\udc80xxx")
    assert len(told.text) < 600


# --- other processes, and the time after the end


def test_a_forked_child_is_silent_and_lives(worker: Worker) -> None:
    """A child would send into the worker's channel, wait for a lock for ever, or die of its first word."""
    worker.send(Follow([1]))
    worker.perform(job_row(1, "fork_and_tell", {"lines": 5_000}))
    assert worker.results[1] == 0
    assert text(worker, 1) == "before\nafter\n"
    assert values(worker, 1) == []
    assert "child 4999\n" in whole_log(worker, 1)


def test_what_is_told_after_the_end_is_not_told(worker: Worker) -> None:
    """Subscribers would hear of a job that has ended for them, or the next job would be blamed for it."""
    worker.send(FollowQueues([], everything=True))
    worker.perform(job_row(1, "tell_later"))
    wait_until(lambda: "late" in whole_log(worker, 1))
    worker.perform(job_row(2, "count", {"lines": 1}))
    assert text(worker, 1).endswith("in time\n")
    assert values(worker, 1) == []
    assert told_after_its_end(worker, 1) == []
    assert kept_values(worker, 1) == []
