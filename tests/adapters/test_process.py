"""Commands by themselves: how they are run, what becomes of their output, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.adapters import kin
from perdure.adapters.output_pump import CHUNK_BYTES, TAIL_LINES
from perdure.adapters.process import Completed, Helpers, Surroundings, run
from perdure.adapters.program import read_wishes
from perdure.errors import CallTooLong, CommandFailed, UsageError
from tests.support.wait import async_wait_until, wait_until

#: A mark of our own, to find what is left.
MARK = f"TEST_PROCESS={os.getpid()}"


class Sink:
    """Keeps what is written, and what stood there at each flush."""

    def __init__(self) -> None:
        self.text = b""
        self.writes: list[int] = []
        self.flushed: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.text += data
        self.writes.append(len(data))

    def flush(self) -> None:
        self.flushed.append(self.text)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture(autouse=True, scope="module")
def orphans_go_elsewhere() -> Iterator[None]:
    """Tests of workers make this process take in orphans, which would stay here as zombies."""
    libc, was = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(37, ctypes.byref(was), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    libc.prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    yield
    libc.prctl(36, was.value, 0, 0, 0)


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """Every test here must leave no process, no descriptor and no zombie behind."""
    descriptors, children = open_descriptors(), kin.children(os.getpid())
    yield
    assert [str(one) for one in ours()] == []
    # A look at all processes that took too long goes on in its thread for a moment.
    wait_until(lambda: open_descriptors() <= descriptors)
    assert kin.children(os.getpid()) == children


async def perform(sink: Any, *argv: str, grace: float = 5.0, until: float | None = None, **options: Any) -> Completed:
    """Run a command with our mark."""
    name, value = MARK.split("=")
    helpers = Helpers()
    options.setdefault("env", {})
    wishes = read_wishes(argv, {name: value}, **options)
    try:
        return await run(wishes, Surroundings(sink, helpers, grace, until, capture_bytes=4096))
    finally:
        helpers.close()


def sh(script: str) -> tuple[str, str, str]:
    return "sh", "-c", script


def ours() -> list[kin.Process]:
    """Living processes of this test's command."""
    return [one for one in kin.everybody() if one.has(MARK.encode())]


# --- well


async def test_both_streams_come_in_their_order(sink: Sink) -> None:
    """The message of an error would stand in the wrong place."""
    ended = await perform(sink, *sh("echo one; echo two >&2; echo three; printf four >&2"))
    assert sink.text == b"one\ntwo\nthree\nfour\n"
    assert ended == Completed("sh -c 'echo one; echo two >&2; echo three; printf four >&2'", 0, "one\ntwo\nthree\nfour")


async def test_input_of_any_size_is_read(sink: Sink) -> None:
    """A command that reads and writes at once would wait for us, and we for it."""
    data = b"x" * 3_000_000 + b"\n"
    ended = await perform(sink, "cat", input=data)
    assert sink.text == data
    assert ended.returncode == 0
    await perform(sink, *sh("read first; echo got $first"), input="one\ntwo\n")
    assert sink.text.endswith(b"\ngot one\n")
    await perform(sink, "true", input=data)


async def test_nothing_to_read_is_not_a_terminal(sink: Sink) -> None:
    """A command that asks a question would wait for ever."""
    await perform(sink, *sh("cat; test -t 0 || echo none; (: < /dev/tty) 2>/dev/null || echo no tty"))
    assert sink.text == b"none\nno tty\n"


async def test_environment_is_clean(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the daemon would be seen by every command, and by whoever reads its output."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("LC_TIME", "C")
    await perform(sink, "env", env={"MINE": "1", "TEST_PROCESS": "no"})
    names = {line.partition("=")[0] for line in sink.text.decode().splitlines()}
    kept = {"PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR", "LC_TIME", "LC_ALL", "LC_CTYPE"}
    assert {"MINE", "TEST_PROCESS", "PERDURE_COMMAND", "LC_TIME", "PATH"} <= names
    assert names <= kept | {"MINE", "TEST_PROCESS", "PERDURE_COMMAND"}
    assert f"{MARK}\n".encode() in sink.text


async def test_capture_keeps_the_bytes_as_they_are(sink: Sink) -> None:
    """A list of names with NUL characters between them would arrive as something else."""
    ended = await perform(sink, *sh(r"printf 'a\0b\377'; echo warning >&2"), capture=True)
    assert ended.stdout == b"a\0b\xff"
    assert sink.text == b"warning\n"


async def test_capture_is_bounded(sink: Sink) -> None:
    """A command that prints without end would fill the memory."""
    with pytest.raises(CommandFailed, match="wrote more than the 4KiB that can be captured"):
        await perform(sink, "yes", capture=True)


async def test_strange_output_passes(sink: Sink) -> None:
    """A colour, a bar that overwrites itself or a broken character would stop the job, or the log."""
    script = r"printf '\033[31mred\033[0m\n10%%\r50%%\r100%%\nbad \377\000 byte\n'"
    ended = await perform(sink, *sh(script))
    assert sink.text == b"\x1b[31mred\x1b[0m\n10%\r50%\r100%\nbad \xff\x00 byte\n"
    assert ended.last_lines == "red\n100%\nbad \N{REPLACEMENT CHARACTER}? byte"


async def test_lines_are_kept_whole_unless_they_are_huge(sink: Sink) -> None:
    """Two commands of one job would write into each other's lines; a line without end would fill the memory."""
    both = Sink()
    line = "x" * 999
    script = f"i=0; while [ $i -lt 300 ]; do echo {line}; i=$((i+1)); done"
    await asyncio.gather(perform(both, *sh(script)), perform(both, *sh(script)))
    assert both.text == (line.encode() + b"\n") * 600
    await perform(sink, *sh("head -c 1000000 /dev/zero | tr '\\0' y"))
    assert sink.text == b"y" * 1_000_000 + b"\n"
    assert max(sink.writes) <= 2 * CHUNK_BYTES


async def test_a_line_without_end_is_seen_after_a_while(sink: Sink, tmp_path: Path) -> None:
    """Who follows a job would not see the question that it asks, or its bar."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = asyncio.create_task(perform(sink, *sh(f"printf 'sure? '; read answer < {gate}; echo yes")))
    await async_wait_until(lambda: sink.flushed)
    assert sink.flushed == [b"sure? "]
    gate.write_text("\n")
    await task
    assert sink.text == b"sure? yes\n"


async def test_last_lines_are_bounded(sink: Sink) -> None:
    """The error of a talkative command would be as long as its output."""
    ended = await perform(sink, "seq", "100000")
    lines = ended.last_lines.split("\n")
    assert len(lines) == TAIL_LINES
    assert lines[-1] == "100000"


# --- wrong


async def test_exit_status_and_signal_are_told(sink: Sink) -> None:
    """Nobody would know why the job failed."""
    with pytest.raises(CommandFailed) as caught:
        await perform(sink, *sh("echo broken; exit 3"))
    error = caught.value
    assert str(error) == "sh -c 'echo broken; exit 3' exited with status 3; it wrote last:\nbroken"
    assert (error.returncode, error.last_lines, error.retryable) == (3, "broken", True)
    with pytest.raises(CommandFailed, match="was killed by SIGSEGV; it wrote nothing"):
        await perform(sink, *sh("kill -SEGV $$"))
    ended = await perform(sink, *sh("exit 3"), check=False)
    assert ended.returncode == 3
    assert (await perform(sink, *sh("kill -TERM $$"), check=False)).returncode == -15


async def test_what_cannot_be_run_is_said(sink: Sink, tmp_path: Path) -> None:
    """ "No such file or directory" leaves open which one."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x00\x01\x02")
    garbage.chmod(0o755)
    cases: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        ((), {}, "there is no command to run"),
        (("no-such-program",), {}, "there is no program 'no-such-program' on the PATH"),
        (("./no-such-program",), {}, "there is no program '.*/no-such-program': No such file"),
        ((str(plain),), {}, "plain' cannot be run: it is not executable"),
        ((str(tmp_path),), {}, "cannot be run: it is a folder"),
        ((str(script),), {}, "the interpreter that its first line names is not there"),
        ((str(garbage),), {}, "neither a program for this machine nor a script"),
        (("true",), {"cwd": tmp_path / "gone"}, "cannot run in the folder .*/gone': No such file"),
        (("true",), {"cwd": plain}, "cannot run in .*/plain': that is no folder"),
        (("true", "x" * 200_000), {}, "larger than the system allows"),
        (("true", "a\0b"), {}, "cannot have NUL characters"),
        (("true",), {"env": {"A=B": "c"}}, "env: 'A=B' is no name"),
        (("true",), {"timeout": "soon"}, "timeout: "),
        (("true",), {"timeout": 0}, "timeout: it must be above 0"),
    ]
    for argv, options, message in cases:
        with pytest.raises(UsageError, match=message):
            await perform(sink, *argv, **options)


async def test_without_a_descriptor_to_watch_it_nothing_is_left(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is short of descriptors would lose two more with each command."""

    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        await perform(sink, "true")


async def test_a_program_is_looked_for_where_it_runs(sink: Sink, tmp_path: Path) -> None:
    """`./nightly.sh` would be looked for in the daemon's folder."""
    script = tmp_path / "nightly.sh"
    script.write_text("#!/bin/sh\npwd; echo $0 $1\n")
    script.chmod(0o755)
    await perform(sink, "./nightly.sh", "--fast", cwd=tmp_path)
    assert sink.text.decode() == f"{tmp_path}\n{tmp_path}/nightly.sh --fast\n"


# --- the end


async def test_time_limit_ends_all_of_it(sink: Sink) -> None:
    """A command that hangs would hold its job for ever."""
    with pytest.raises(CallTooLong, match=r"did not end within 200ms, so it was ended; it wrote last:\nhello"):
        await perform(sink, *sh("echo hello; sleep 1000 & sleep 1000"), timeout=0.2)


async def test_sigterm_is_heard_and_last_words_are_kept(sink: Sink) -> None:
    """A command that cleans up would be killed in the middle of it, or what it says would be lost."""
    script = (
        "import signal, sys\ndef clean(*_): print('cleaned'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, clean); print('ready', flush=True); signal.pause()"
    )
    task = asyncio.create_task(perform(sink, "python3", "-c", script))
    await async_wait_until(lambda: sink.text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.text == b"ready\ncleaned\n"


STUBBORN = "import os,signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(f"{STUBBORN}print('ready',flush=True)\ntime.sleep(1000)", id="ignores SIGTERM"),
        pytest.param(
            f"{STUBBORN}\nif os.fork(): print('ready',flush=True)\nelse: os.setsid()\ntime.sleep(1000)",
            id="leaves its session",
        ),
        pytest.param(
            f"{STUBBORN}\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  time.sleep(1000)\n os._exit(0)\n"
            "os.wait(); print('ready',flush=True); time.sleep(1000)",
            id="is orphaned",
        ),
        pytest.param("import os,signal\nprint('ready',flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)", id="stopped"),
        pytest.param("import time\nprint('ready',flush=True)\nwhile True: print('x' * 5000)", id="floods"),
        pytest.param("import os,time\nprint('ready',flush=True)\nos.close(1);os.close(2)\ntime.sleep(1000)", id="mute"),
    ],
)
async def test_nothing_escapes_its_end(sink: Sink, script: str) -> None:
    """A cancelled job would go on in secret."""
    task = asyncio.create_task(perform(sink, "python3", "-c", script, grace=0.2))
    await async_wait_until(lambda: b"ready" in sink.text)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 3
    assert ours() == []


async def test_being_cancelled_again_changes_nothing(sink: Sink) -> None:
    """The second cancellation would leave the command to itself."""
    script = f"{STUBBORN}print('ready',flush=True)\ntime.sleep(1000)"
    task = asyncio.create_task(perform(sink, "python3", "-c", script, grace=0.2))
    await async_wait_until(lambda: sink.text)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert ours() == []


async def test_cancelled_at_any_moment(sink: Sink) -> None:
    """A command would be left behind if the cancellation came while it was being started, or had just ended."""
    for turns in range(0, 60, 3):
        task = asyncio.create_task(perform(sink, *sh("echo a; exit 0")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert ours() == []


async def test_deadline_cuts_the_grace_short(sink: Sink) -> None:
    """A job over its limit would be killed with its worker, because its command was given time to say goodbye."""
    script = f"{STUBBORN}print('ready',flush=True)\ntime.sleep(1000)"
    began = time.monotonic()
    with pytest.raises(CallTooLong):
        await perform(sink, "python3", "-c", script, grace=30, timeout=0.3, until=began + 0.4)
    assert time.monotonic() - began < 3


async def test_a_daemon_outlives_a_command_that_ended_well(sink: Sink) -> None:
    """`pg_ctl start` as a job would start nothing, or never end, because its server holds the pipe."""
    before = open_descriptors()
    ended = await perform(
        sink, *sh("setsid sleep 1000 & until [ $(cat /proc/$!/comm) = sleep ]; do :; done; echo started")
    )
    assert ended.returncode == 0
    (left,) = ours()
    assert sink.text.decode() == f"started\nperdure: pid {left.pid} (sleep 1000) goes on after the end of the command\n"
    await end(left, before)


async def test_a_daemon_may_go_on_writing(sink: Sink, tmp_path: Path) -> None:
    """The server that a command has started would be killed by its first line after the end of the job."""
    before = open_descriptors()
    witness = tmp_path / "witness"
    server = (
        "import os, pathlib, signal, time\nif os.fork(): os._exit(0)\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "while not os.path.exists('stop'): os.write(1, b'x' * 4096); time.sleep(0.001)\n"
        "pathlib.Path('witness').touch(); time.sleep(1000)"
    )
    await perform(sink, "python3", "-c", server, cwd=tmp_path)
    (left,) = ours()
    size = len(sink.text)
    # It has written more than the pipe can hold, or it would be stuck.
    before_now = _written(left.pid)
    await async_wait_until(lambda: _written(left.pid) > before_now + 300_000)
    (tmp_path / "stop").touch()
    await async_wait_until(witness.exists)
    assert len(sink.text) == size
    await end(left, before)


def _written(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def end(left: kin.Process, descriptors: int) -> None:
    """Kill a process that was left on purpose; what was kept open for it must be closed."""
    os.kill(left.pid, signal.SIGKILL)
    await async_wait_until(lambda: not ours())
    await async_wait_until(lambda: open_descriptors() <= descriptors)


async def test_what_a_failed_command_leaves_is_ended(sink: Sink) -> None:
    """The next attempt would meet what the last one has left running."""
    with pytest.raises(CommandFailed):
        await perform(sink, *sh("setsid sleep 1000 & exit 1"))


async def test_somebody_else_reaps_our_child(sink: Sink, tmp_path: Path) -> None:
    """A handler that waits for any child would leave the command's job waiting for ever."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = asyncio.create_task(perform(sink, *sh(f"echo ready; read answer < {gate}; exit 3"), check=False))
    await async_wait_until(lambda: sink.text)
    (command,) = ours()
    gate.write_text("\n")
    os.waitpid(command.pid, 0)
    assert (await task).returncode == 255
