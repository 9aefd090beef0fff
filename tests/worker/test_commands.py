"""Commands of jobs in a real worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from perdure.adapters import kin
from perdure.daemon.joblog import log_path
from perdure.wire.work import Stop
from tests.support.wait import wait_until
from tests.worker.rig import Rig, Worker, job_row

OWNER = f"store-{os.getpid()}/7/1"
#: For the fixture `rig`: handlers that run commands.
MODULES = ("tests.worker.command_handlers", "perdure.kinds.shell")
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1000; done"


@pytest.fixture
def worker(rig: Rig) -> Iterator[Worker]:
    """A worker with short graces, that must leave no process behind."""
    fresh = rig.fork(owner=OWNER, command_grace=0.3, hard_grace=0.5, job_log_bytes=1 << 20)
    yield fresh
    fresh.close()
    assert [str(one) for one in ours()] == []


def ours() -> list[kin.Process]:
    """Processes that commands of the worker have started."""
    return [one for one in kin.everybody() if one.has(f"PERDURE_OWNER={OWNER}".encode())]


def sh(script: str) -> dict[str, object]:
    return {"argv": ["sh", "-c", script]}


@pytest.mark.parametrize("kind", ["run", "run-blocking"])
def test_a_command_prints_into_the_log_of_its_job(worker: Worker, kind: str) -> None:
    """`perdure logs ID` would not show what the command wrote, or show it for another job."""
    worker.perform(job_row(1, kind, sh("echo out; echo err >&2")), job_row(2, kind, sh("echo other")))
    assert worker.results[1] == {"returncode": 0, "last_lines": "out\nerr", "stdout": ""}
    assert (worker.job_log(1), worker.job_log(2)) == ("out\nerr\n", "other\n")
    assert worker.output == ""


def test_capture_and_input_and_threads(worker: Worker) -> None:
    """What a handler asks a command would not reach it, or the answer would not come back."""
    options = {"input": "hello", "capture": True, "cwd": "/", "env": {"A": "b"}, "timeout": "10s"}
    worker.perform(
        job_row(1, "run", {**sh("cat; pwd; echo $A"), "options": options}),
        job_row(2, "run-blocking", {**sh("exit 3"), "options": {"check": False}}),
        job_row(3, "run-thread", {"argv": ["echo", "threaded"]}),
        job_row(4, "run-mixed"),
    )
    assert worker.results[1]["stdout"] == "hello/\nb\n"
    assert worker.results[2]["returncode"] == 3
    assert worker.results[3] == "threaded"
    assert worker.job_log(3) == "threaded\n"
    assert worker.job_log(4) == "before\ncommand\nafter\n"


def test_a_command_knows_its_job_and_no_secrets(worker: Worker) -> None:
    """A stray process could not be told from others; a token of the daemon would leak."""
    worker.perform(job_row(5, "environ", attempt=2))
    found = worker.results[5]
    told = {name: value for name, value in found.items() if name.startswith("PERDURE_")}
    assert len(told.pop("PERDURE_COMMAND")) == 32
    assert told == {
        "PERDURE_OWNER": OWNER,
        "PERDURE_JOB_ID": "5",
        "PERDURE_JOB_KIND": "environ",
        "PERDURE_ATTEMPT": "2",
    }


def test_errors_are_those_of_the_command(worker: Worker) -> None:
    """Nobody would know what went wrong, or try it again in vain."""
    worker.perform(
        job_row(1, "run", sh("echo broken >&2; exit 3")),
        job_row(2, "run", {"argv": ["no-such-program"]}),
        job_row(3, "run-fallback"),
        job_row(4, "on-blocking-loop"),
    )
    error = worker.failed[1].error
    assert (error.type, error.message) == (
        "CommandFailed",
        "sh -c 'echo broken >&2; exit 3' exited with status 3; it wrote last:\nbroken",
    )
    assert worker.failed[1].retryable
    assert worker.failed[2].error.type == "UsageError"
    assert worker.results[3] == ["7 no", "sleep 1000 did not end within 100ms, so it was ended; it wrote nothing"]
    assert "would stop all jobs" in worker.failed[4].error.message


def test_many_at_once(rig: Rig) -> None:
    """32 jobs of one worker would wait for each other's commands."""
    worker = rig.fork(owner=OWNER, async_slots=32)
    rows = [job_row(n, "run", sh("sleep 0.3; echo done")) for n in range(1, 33)]
    worker.run(*rows)
    wait_until(lambda: len(ours()) > 20)
    worker.wait_for(*range(1, 33))
    assert {worker.job_log(n) for n in range(1, 33)} == {"done\n"}
    worker.perform(job_row(40, "run-many", {"argv": ["true"], "count": 50}))
    worker.close()


# --- the end


@pytest.mark.parametrize("kind", ["run", "run-blocking"])
@pytest.mark.parametrize("script", ["echo ready; sleep 1000", STUBBORN])
def test_the_time_limit_of_a_job_ends_its_command(worker: Worker, kind: str, script: str) -> None:
    """A worker would be killed because the command of a job over its limit takes its time to end."""
    worker.run(job_row(1, kind, sh(script), timeout_ms=600))
    worker.wait_for(1)
    failed = worker.failed[1]
    assert failed.error.type == "JobTimeout"
    assert ours() == []
    assert worker.job_log(1).startswith("ready\n")


@pytest.mark.parametrize("kind", ["run", "run-blocking", "run-thread"])
@pytest.mark.parametrize("script", ["echo ready; setsid sleep 1000 & sleep 1000", STUBBORN])
def test_cancelling_a_job_ends_its_command(worker: Worker, kind: str, script: str) -> None:
    """A cancelled command would go on in secret."""
    worker.run(job_row(1, kind, sh(script)))
    wait_until(lambda: "ready" in worker.job_log(1))
    worker.send(Stop([1]))
    worker.wait_for(1)
    assert worker.failed[1].stopped
    wait_until(lambda: not ours(), 5)


def test_what_a_handler_does_not_wait_for_is_ended(worker: Worker) -> None:
    """A command would go on after its job has completed, with nobody to see it."""
    worker.perform(job_row(1, "run-and-leave", {"argv": ["sleep", "1000"]}))
    assert worker.completed == [1]
    wait_until(lambda: not ours())


def test_a_worker_drains_although_a_command_left_a_daemon(worker: Worker) -> None:
    """A deploy would wait for a server that a job has started."""
    from perdure.wire.work import Drain

    worker.perform(job_row(1, "run", sh("setsid sleep 1000 & echo started")))
    (left,) = wait_until(ours)
    assert f"perdure: pid {left.pid}" in worker.job_log(1)
    worker.send(Drain())
    worker.drain_messages()
    assert worker.wait_exit() == 0
    os.kill(left.pid, 9)
    wait_until(lambda: not ours())


# --- much output


def test_a_flood_is_bounded_and_holds_up_nobody(rig: Rig) -> None:
    """A command that prints without end would fill the memory, or stop the other jobs of its worker."""
    worker = rig.fork(owner=OWNER, job_log_bytes=1 << 20)
    process = psutil.Process(worker.pid)
    worker.perform(job_row(1, "run", sh("echo warm")))
    before = process.memory_info().rss
    size = 200 * 1000 * 1000
    worker.run(job_row(2, "run", {"argv": ["head", "-c", str(size), "/dev/zero"]}))
    worker.run(
        job_row(3, "run", sh(f"yes 'some line of a log that is written by a program' | head -c {size}; echo end"))
    )
    worker.run(job_row(4, "lag", {"seconds": 0.5}))
    worker.wait_for(2, 3, 4, timeout=60)
    assert process.memory_info().rss - before < 8 << 20
    path = log_path(worker.logs, 3)
    assert path.stat().st_size + Path(f"{path}.1").stat().st_size <= 1 << 20
    assert worker.job_log(3).endswith("end\n")
    print(f"longest stop of the loop beside two floods: {worker.results[4]:.1f} ms")
    assert worker.results[4] < 250  # a stop of the machine's, not of ours: the test runs beside others
    worker.close()


# --- the kind `shell`


def test_shell_runs_only_what_is_allowed(rig: Rig, tmp_path: Path) -> None:
    """Whoever can enqueue could run anything as the daemon's user."""
    script = tmp_path / "allowed" / "nightly.sh"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "$PWD $*"\n')
    script.chmod(0o755)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "nightly.sh").symlink_to("/bin/true")
    (script.parent / "deep").mkdir()
    (script.parent / "deep" / "nightly.sh").symlink_to(script)
    worker = rig.fork(owner=OWNER, shell_allow=[f"{script.parent}/*", "/bin/echo", "/usr/bin/ech?"])

    def shell(*argv: str) -> dict[str, object]:
        return {"argv": list(argv), "cwd": str(tmp_path)}

    worker.perform(
        job_row(1, "shell", shell("./allowed/nightly.sh", "--fast", "a b")),
        job_row(2, "shell", shell("echo", "found on the path")),
        job_row(3, "shell", shell("./evil/nightly.sh")),
        job_row(4, "shell", shell("allowed/../evil/nightly.sh")),
        job_row(5, "shell", shell("allowed/deep/nightly.sh")),
        job_row(6, "shell", shell("sh", "-c", "echo never")),
        job_row(7, "shell", shell()),
        job_row(8, "shell", shell("./allowed")),
    )
    assert worker.results[1] == {"returncode": 0, "last_lines": f"{tmp_path} --fast a b"}
    assert worker.job_log(2) == "found on the path\n"
    for job_id in (3, 4, 5, 6):
        assert (worker.failed[job_id].error.type, worker.failed[job_id].retryable) == ("NotAllowed", False)
    assert f"{tmp_path}/evil/nightly.sh' may not be run" in worker.failed[4].error.message
    for job_id in (7, 8):
        assert (worker.failed[job_id].error.type, worker.failed[job_id].retryable) == ("UsageError", False)
    worker.close()


def test_nothing_is_allowed_by_default(worker: Worker) -> None:
    """The kind alone would open the machine."""
    worker.perform(job_row(1, "shell", {"argv": ["true"]}))
    assert "nothing is allowed" in worker.failed[1].error.message
