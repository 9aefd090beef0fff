"""A subscriber that comes late: what was told before, then what happens, without a gap and without repetition."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.daemon.joblog import STORY_BYTES, cut, log_path, read_story, read_tail, values_path
from perdure.daemon.log_position import rotated_path
from perdure.wire.heard import log_data
from perdure.wire.streams import Emitted, LogText, Progress
from perdure.wire.work import Follow, FollowQueues, Unfollow
from tests.worker.listening import HANDLERS, entries, orders_in, progress, skipped, stories, text, values, whole_log
from tests.worker.rig import BOTH, Rig, Worker, job_row

#: For the fixtures `rig` and `worker`: handlers that tell, and logs that have room.
MODULES = (HANDLERS,)
WORKER = {"job_log_bytes": 1 << 20}


# --- of a job that runs


@BOTH
def test_who_comes_late_is_told_everything_once(worker: Worker, lane: str, tmp_path: Path) -> None:
    """`perdure follow` of a running job would begin in the middle."""
    with orders_in(tmp_path) as orders:
        worker.run(job_row(1, f"{lane}obey", {"orders": str(orders.path)}))
        orders.give("print one", "emit 1", "print two", "emit 2", "begin thr", "progress [2, 4, null]")
        worker.pump(lambda: bool(progress(worker, 1)))
        before = len(entries(worker, 1))
        worker.send(Follow([1], [1]))
        worker.pump(lambda: stories(worker, 1) == 1)
        story = entries(worker, 1)[before:]
        orders.give("print ee", "emit 3", "end")
        worker.wait_for(1)
    since = values(worker, 1)[0].since
    assert [one for one in story if not isinstance(one, Progress)] == [
        LogText(1, "one\ntwo\nthr", 3, True, 0),
        Emitted(1, "1", 1, True, 1, since),
        Emitted(1, "2", 2, True, 1, since),
        LogText(1, "", 0, True),
    ]
    assert Progress(1, 2, 4) in story
    assert text(worker, 1) == whole_log(worker, 1) == "one\ntwo\nthree\n"
    assert [one.number for one in values(worker, 1)] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["count", "acount", "threads"])
def test_a_story_and_what_follows_meet_exactly(worker: Worker, kind: str) -> None:
    """Lines that are printed while the story is read would be told twice, or never."""
    for job_id in range(1, 6):
        args = {"lines": 400, "values": 400} if kind != "threads" else {"number": 3, "lines": 150}
        worker.run(job_row(job_id, kind, args))
        worker.pump(lambda job_id=job_id: log_path(worker.logs, job_id).exists() or _nudge(worker, job_id))  # type: ignore[misc]
        worker.send(Follow([job_id], [job_id]))
        worker.wait_for(job_id)
        worker.pump(lambda job_id=job_id: stories(worker, job_id) == 1)  # type: ignore[misc]
        if skipped(worker, job_id) == (0, 0):
            numbers = [one.number for one in values(worker, job_id)]
            assert text(worker, job_id) == whole_log(worker, job_id)
            assert numbers == list(range(1, len(numbers) + 1))


def _nudge(worker: Worker, job_id: int) -> bool:
    """Have the worker say something, so that it is looked at again."""
    worker.send(Follow([9_000 + job_id], [9_000 + job_id]))
    return False


@BOTH
def test_who_listens_already_hears_nothing_twice(worker: Worker, lane: str, tmp_path: Path) -> None:
    """A second subscriber would break the first one's log in the middle of a line."""
    with orders_in(tmp_path) as orders:
        worker.send(FollowQueues(["default"]))
        worker.run(job_row(1, f"{lane}obey", {"orders": str(orders.path)}))
        orders.give("print one", "begin tw", "progress [1, null, null]")
        worker.pump(lambda: bool(progress(worker, 1)))
        worker.send(Follow([1], [1]))
        worker.pump(lambda: stories(worker, 1) == 1)
        orders.give("print o", "end")
        worker.wait_for(1)
    # The half of a line is told when it has ended, to both.
    assert text(worker, 1, earlier=True) == "one\n"
    assert text(worker, 1, earlier=False) == "one\ntwo\n"


def test_each_story_that_was_asked_for_is_told_in_its_turn(worker: Worker, tmp_path: Path) -> None:
    """The supervisor, which counts them, would give a subscriber the story of another, or wait for ever."""
    with orders_in(tmp_path) as orders:
        worker.run(job_row(1, "obey", {"orders": str(orders.path)}))
        orders.give("print one", "progress [1, null, null]")
        worker.pump(lambda: bool(progress(worker, 1)))
        for _ in range(3):
            worker.send(Follow([1], [1]))
        worker.pump(lambda: stories(worker, 1) == 3)
        orders.give("end")
        worker.wait_for(1)
    assert text(worker, 1) == "one\n" * 3


def test_a_story_that_nobody_wants_any_more_is_only_its_end(worker: Worker) -> None:
    """A subscriber that comes and goes would leave the job followed for ever, or the supervisor's count wrong."""
    worker.perform(job_row(1, "count", {"lines": 3}))
    for _ in range(20):
        worker.send(Follow([1], [1]))
        worker.send(Unfollow([1]))
    worker.pump(lambda: stories(worker, 1) == 20)
    assert text(worker, 1).count("\n") < 60
    worker.perform(job_row(1, "count", {"lines": 3}, attempt=2), job_row(2, "count"))
    worker.wait_for(2)
    assert text(worker, 1, earlier=False) == ""


def test_a_job_that_says_nothing_has_a_story_too(worker: Worker) -> None:
    """A subscriber would wait for it."""
    worker.send(Follow([7], [7]))
    worker.pump(lambda: stories(worker, 7) == 1)
    assert entries(worker, 7) == [LogText(7, "", 0, True)]


def test_a_log_that_cannot_be_read_is_an_empty_story(worker: Worker) -> None:
    """One broken file would keep everybody from following anything in this worker."""
    log_path(worker.logs, 1).mkdir(parents=True)
    worker.send(Follow([1, 2], [1, 2]))
    worker.pump(lambda: stories(worker, 1) == stories(worker, 2) == 1)
    assert "the log of job 1 cannot be read" in worker.output


def test_a_long_story_comes_in_pieces_and_lets_others_pass(worker: Worker, tmp_path: Path) -> None:
    """A story of 256 KiB would be one message, or would keep the lines of all other jobs waiting."""
    worker.perform(job_row(1, "count", {"lines": 8_000, "width": 60, "values": 20_000}))
    with orders_in(tmp_path) as orders:
        worker.send(Follow([2]))
        worker.run(job_row(2, "aobey", {"orders": str(orders.path)}))
        for _ in range(3):
            worker.send(Follow([1], [1]))
        orders.give("print between")
        worker.pump(lambda: text(worker, 2) == "between\n")
        assert stories(worker, 1) < 3
        orders.give("end")
        worker.pump(lambda: stories(worker, 1) == 3)
    told = text(worker, 1)
    assert len(told) % 3 == 0
    story = told[: len(told) // 3]
    assert told == story * 3
    assert STORY_BYTES - 100 < len(story) <= STORY_BYTES
    assert whole_log(worker, 1).endswith(story)
    assert (values(worker, 1)[-1].value, values(worker, 1)[-1].number) == ("19999", 20_000)
    assert max(len(one.text) for one in entries(worker, 1) if isinstance(one, LogText)) <= 64 * 1024


def test_lines_told_live_have_their_place_in_the_log(rig: Rig, tmp_path: Path) -> None:
    """Over rotations, in bytes, and also where the bytes are no text: a follower that comes back joins by it."""
    worker = rig.fork(job_log_bytes=4096)
    worker.send(Follow([1]))
    with orders_in(tmp_path) as orders:
        worker.run(job_row(1, "obey", {"orders": str(orders.path)}))
        total = 0
        for number in range(100):
            line = f"line {number} ä" + "x" * 40
            orders.give(f"print {line}")
            total += len(line.encode()) + 1
        orders.give("end")
        worker.wait_for(1)
    end = 0
    for entry in entries(worker, 1):
        assert isinstance(entry, LogText)
        assert entry.start == end
        end += len(log_data(entry))
    worker.close()
    (last,) = (one for one in read_story(worker.logs, 1) if isinstance(one, LogText))
    assert last.start is not None
    assert last.start + len(log_data(last)) == end == total


# --- from the files


def test_the_end_of_a_rotated_log_is_read(tmp_path: Path) -> None:
    """Right after a rotation the story would be empty."""
    path = log_path(tmp_path, 1)
    path.parent.mkdir(parents=True)
    rotated_path(path).write_bytes(b"".join(b"old %d\n" % n for n in range(10)))
    path.write_bytes(b"new\n")
    assert read_tail(path) == rotated_path(path).read_bytes() + b"new\n"
    assert read_tail(path, 12) == b"old 9\nnew\n"
    assert read_tail(path, 3) == b""
    assert read_tail(log_path(tmp_path, 2)) == b""


def test_values_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A value with brackets and commas in it would be cut; a line that a crash cut would be shown."""
    path = values_path(tmp_path, 1)
    path.parent.mkdir(parents=True)
    path.write_text('[1,{"a":[1,2]}]\n[2,"]"]\n[3,[]]\n[4,[1][5,1]\n[6,"cu')
    assert read_story(tmp_path, 1) == [
        Emitted(1, '{"a":[1,2]}', 1, True),
        Emitted(1, '"]"', 2, True),
        Emitted(1, "[]", 3, True),
    ]


@pytest.mark.parametrize("data", [b"", b"a\n", b"ab\ncd\nef", b"x" * 30, "ä🎉".encode() * 20, b"a\n" * 40], ids=repr)
def test_text_is_cut_between_lines_or_characters(data: bytes) -> None:
    """Half a character would be shown as a question mark."""
    pieces = list(cut(data, 8))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= 8 for piece in pieces)
    for piece in pieces:
        piece.decode()
