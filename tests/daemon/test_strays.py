"""Who counts as a stray: the commands of jobs that were being executed, and nobody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.adapters import kin
from perdure.daemon import fleet
from perdure.daemon.fleet import Fleet
from perdure.daemon.strays import end_strays_of_earlier_runs, end_strays_of_worker, queue_mark
from tests.support.wait import wait_until

STORE = f"store{os.getpid()}"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process as if it were a command, in a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(owner: str, job: int, attempt: int = 1, script: str = "exec sleep 1000") -> subprocess.Popen[bytes]:
        marks = {"PERDURE_OWNER": owner, "PERDURE_JOB_ID": str(job), "PERDURE_ATTEMPT": str(attempt)}
        environ = {"PATH": os.environ["PATH"], **marks}
        process = subprocess.Popen(["sh", "-c", script], env=environ, start_new_session=True)
        started.append(process)
        wait_until(lambda: kin.command_line(process.pid).startswith(("sleep", "sh")))
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def test_only_jobs_that_were_executed_count(start: Start) -> None:
    """A server that an earlier job has started would be killed when much later something crashes."""
    executed, other_job, earlier_attempt = (
        start(f"{STORE}/1/1", 5),
        start(f"{STORE}/1/1", 6),
        start(f"{STORE}/1/1", 5, 2),
    )
    other_store = start("other/1/1", 5)
    told = end_strays_of_earlier_runs(STORE, {(5, 1)})
    assert told == [f"pid {executed.pid} (sleep 1000)"]
    assert executed.wait(5) == -9
    assert [one.poll() for one in (other_job, earlier_attempt, other_store)] == [None, None, None]


def test_a_copy_of_the_queue_is_another_one(start: Start, tmp_path: Path) -> None:
    """A daemon on a copy of the state folder, made to try something, would end the commands of the real one."""
    original, copied = tmp_path / "original.db", tmp_path / "copy.db"
    original.write_bytes(b"the same")
    shutil.copy2(original, copied)
    command = start(f"{queue_mark(STORE, original)}/1/1", 5)
    assert end_strays_of_earlier_runs(queue_mark(STORE, copied), {(5, 1)}) == []
    assert command.poll() is None
    moved = original.rename(tmp_path / "moved.db")
    assert len(end_strays_of_earlier_runs(queue_mark(STORE, moved), {(5, 1)})) == 1


def test_without_evidence_all_of_this_queue_count(start: Start) -> None:
    """A command would run twice at a time because nobody can tell whose it is."""
    ours, other_store = start(f"{STORE}/1/1", 5), start(f"{STORE}x/1/1", 5)
    assert len(end_strays_of_earlier_runs(STORE, None)) == 1
    assert (ours.wait(5), other_store.poll()) == (-9, None)


def test_who_has_cleaned_its_environment_is_in_the_session(start: Start) -> None:
    """`env -i` would hide a process."""
    leader = start(f"{STORE}/1/1", 5, 1, "env -i sleep 1000 & wait")
    hidden = wait_until(
        lambda: [
            one for one in kin.everybody() if one.session == leader.pid and kin.command_line(one.pid)[:5] == "sleep"
        ]
    )
    assert not hidden[0].environ.strip(b"\0")
    assert len(end_strays_of_earlier_runs(STORE, {(5, 1)})) == 2
    assert kin.look(hidden[0].pid) is None


def test_those_of_one_worker(start: Start) -> None:
    """The commands of the other workers would be killed, too."""
    dead, alive = start(f"{STORE}/1/1", 5), start(f"{STORE}/1/11", 5)
    assert len(end_strays_of_worker(f"{STORE}/1/1", {(5, 1)}, ())) == 1
    assert (dead.wait(5), alive.poll()) == (-9, None)


def test_nobody_kills_its_own_line() -> None:
    """A daemon that a job has started (`perdure run` in a script) would kill itself."""
    script = (
        "import os, sys; from perdure.daemon.strays import end_strays_of_earlier_runs; "
        "print(end_strays_of_earlier_runs(sys.argv[1], None))"
    )
    environ = {**os.environ, "PERDURE_OWNER": f"{STORE}/1/1", "PERDURE_JOB_ID": "5", "PERDURE_ATTEMPT": "1"}
    command = [sys.executable, "-c", script, STORE]
    done = subprocess.run(command, env=environ, start_new_session=True, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "[]\n")


async def test_a_look_that_hangs_holds_up_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of a dead worker would go on nowhere because one process of this machine hangs in the kernel."""
    over = threading.Event()
    monkeypatch.setattr(fleet, "end_strays_of_worker", lambda *_: over.wait())
    monkeypatch.setattr(fleet, "LOOK_SECONDS", 0.01)
    page = SimpleNamespace(executing=lambda: [SimpleNamespace(job_id=5, attempt=1)])
    buried: list[object] = []
    some_fleet: Any = object.__new__(Fleet)
    some_fleet.links, some_fleet._loading, some_fleet._nursery = {}, set(), None
    some_fleet._queue_mark, some_fleet._run_id = STORE, 1
    some_fleet._bury = lambda link, ended: buried.append(link)
    link: Any = SimpleNamespace(id=1, pid=os.getpid(), page=page)
    try:
        await some_fleet._gone_with_commands(link, None)
    finally:
        over.set()
    assert buried == [link]


async def test_another_worker_does_not_wait_for_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each death of a worker would cost the other jobs a look at all processes of the machine."""
    over, happened = threading.Event(), list[str]()
    monkeypatch.setattr(fleet, "end_strays_of_worker", lambda *_: over.wait())
    page = SimpleNamespace(executing=lambda: iter([SimpleNamespace(job_id=5, attempt=1)]))
    link: Any = SimpleNamespace(id=1, pid=os.getpid(), page=page)
    some_fleet: Any = object.__new__(Fleet)
    some_fleet.links, some_fleet._loading, some_fleet._nursery = {1: link}, set(), None
    some_fleet._queue_mark, some_fleet._run_id = STORE, 1
    some_fleet._tasks, some_fleet._loop = set(), asyncio.get_running_loop()
    some_fleet._succeed = lambda link, ended: happened.append("succeeded")
    some_fleet._bury = lambda link, ended: happened.append("buried")
    try:
        some_fleet._gone(link, None)
        assert happened == ["succeeded"]
    finally:
        over.set()
    await asyncio.gather(*some_fleet._tasks)
    assert happened == ["succeeded", "buried"]


@pytest.mark.parametrize(("name", "looks"), [("perdure-w2", 1), ("perdure-w1", 5)])
def test_another_worker_is_not_taken_for_a_child_of_the_dead_one(
    monkeypatch: pytest.MonkeyPatch, name: str, looks: int
) -> None:
    """Its successor, which starts meanwhile, would make the dead one's jobs wait for four more looks."""
    other, asked = kin.Process(2**22 + 1, name, os.getpid(), 1, b"A=b"), list[int]()

    def everybody() -> list[kin.Process]:
        asked.append(1)
        return [other]

    monkeypatch.setattr(kin, "everybody", everybody)
    assert end_strays_of_worker(f"{STORE}/1/1", {(5, 1)}, ()) == []
    assert len(asked) == looks
