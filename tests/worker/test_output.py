"""Where the output of jobs goes."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from pathlib import Path
from typing import cast

import pytest

from perdure.clock import ManualClock
from perdure.daemon.joblog import log_path
from perdure.daemon.worker.job_log import JobLog, LogPlace
from perdure.daemon.worker.news_buffer import LINES_ROOM
from perdure.daemon.worker.newsroom import Newsroom
from perdure.daemon.worker.port import Port
from perdure.wire.work import FollowQueues
from tests.worker.rig import Rig, Worker, job_row


def test_every_way_to_speak_leads_into_the_jobs_log(worker: Worker) -> None:
    """`perdure logs ID` would miss lines."""
    worker.perform(job_row(1, "say_all"), job_row(2, "noop"))
    lines = worker.job_log(1).splitlines()
    assert lines[:3] == ["from print", "from stderr", "from buffer"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning app: from logging", lines[3])
    assert re.fullmatch(r"\d\d:\d\d:\d\d info    from\.context rows=3 name='two words'", lines[4])
    assert lines[5:] == ["from thread", "no end of line"]
    assert worker.output == ""


def test_a_silent_job_has_no_file(worker: Worker) -> None:
    """A million silent jobs would make a million files."""
    worker.perform(job_row(1, "noop"), job_row(2, "anoop"))
    assert not worker.logs.exists()


def test_jobs_that_run_side_by_side_do_not_mix(worker: Worker) -> None:
    """Lines of one job would stand in another's log."""
    worker.perform(
        *(job_row(n, "asay", {"text": f"job{n}", "times": 5}) for n in range(1, 5)),
        *(job_row(n, "say", {"text": f"job{n}", "times": 5}) for n in range(10_001, 10_004)),
    )
    for job_id in (1, 2, 3, 4):
        lines = worker.job_log(job_id).splitlines()
        assert lines == [*(f"job{job_id} {n}" for n in range(5)), f"job{job_id} thread"]
    assert worker.job_log(10_002) == "job10002\n" * 5
    assert log_path(worker.logs, 10_002).parent.name == "1"


def test_attempts_are_set_apart(worker: Worker) -> None:
    """The output of a retry could not be told from that of the attempt before."""
    worker.perform(job_row(1, "say", {"text": "one"}))
    worker.perform(job_row(1, "say", {"text": "two"}, attempt=2), job_row(2, "noop"))
    worker.wait_for(2)
    assert re.fullmatch(r"one\n--- attempt 2, \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\ntwo\n", worker.job_log(1))


def test_a_talkative_job_is_bounded(worker: Worker) -> None:
    """One job in a loop would fill the disk."""
    worker.perform(job_row(1, "say", {"text": "x" * 99, "times": 500}), job_row(2, "say", {"text": "y" * 50_000}))
    for job_id in (1, 2):
        path = log_path(worker.logs, job_id)
        older = path.with_name(path.name + ".1")
        assert path.stat().st_size <= 2048
        assert older.stat().st_size <= 2048
    assert worker.job_log(1).endswith("x" * 99 + "\n")
    assert worker.job_log(2).endswith("y\n")


def test_text_that_utf8_cannot_hold_is_escaped(worker: Worker) -> None:
    """A print could fail the job."""
    worker.perform(job_row(1, "say", {"text": "ümlaut 🎉 <lone>"}))
    assert worker.job_log(1) == "ümlaut 🎉 \\udc80\n"


def test_a_log_that_cannot_be_written_does_not_fail_the_job(rig: Rig, tmp_path: Path) -> None:
    """A full disk for logs would fail every job that prints."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    worker = rig.fork(job_log_dir=str(blocked / "logs"))
    worker.perform(job_row(1, "say", {"text": "lost", "times": 3}), job_row(2, "asay", {"text": "lost"}))
    assert sorted(worker.completed) == [1, 2]
    assert worker.output.count("the log of job 1 cannot be written") == 1


def test_a_disk_that_fills_up_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a write in the middle of a job would reach the handler."""
    log = JobLog(LogPlace(tmp_path, 4096, ManualClock()), 1, 1)
    log.write(b"first\n")

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.write(b"lost\n")
    log.write(b"last\n")
    log.close()
    assert log_path(tmp_path, 1).read_bytes() == b"first\nlast\n"


async def test_a_log_that_was_heard_ends_for_its_listeners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out of it would stay on the worker's account for ever, if everybody had gone away meanwhile."""
    place = LogPlace(tmp_path, 1 << 20, ManualClock())
    newsroom = Newsroom(cast(Port, None), place, ManualClock(), asyncio.get_running_loop())
    ended: list[int] = []
    monkeypatch.setattr(newsroom.buffer, "end", ended.append)
    newsroom.follow_queues(FollowQueues([], everything=True))
    log, silent = JobLog(place, 1, 1), JobLog(place, 2, 1)
    for _ in range(2 * LINES_ROOM // 1000):
        log.write(b"x" * 999 + b"\n")
    newsroom.follow_queues(FollowQueues([]))
    log.close()
    silent.close()
    assert ended == [1]


def test_a_log_can_be_written_after_its_end(tmp_path: Path) -> None:
    """A task that outlives its job would fail on its next word."""
    log = JobLog(LogPlace(tmp_path, 4096, ManualClock()), 1, 1)
    log.write(b"one\ntw")
    assert log_path(tmp_path, 1).read_bytes() == b"one\n"
    log.close()
    log.write(b"three\n")
    log.close()
    assert log_path(tmp_path, 1).read_bytes() == b"one\ntwthree\n"
