"""Start processes that end with us, whatever happens, and find those that were left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from perdure.daemon.process_control import die_with

#: A variable that every process of a run inherits, with the harness's pid: so that none is missed at the end.
MARK = "PEERS_RUN"


def start(command: list[str], environ: dict[str, str], log: Path, pipes: bool = False) -> subprocess.Popen[bytes]:
    """In a session of its own. What it says goes to `log`; with `pipes` it is talked to."""
    parent = os.getpid()

    def end_with_parent() -> None:
        if not die_with(parent, signal.SIGKILL):
            os._exit(1)

    pipe = subprocess.PIPE if pipes else None
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            env=environ | {MARK: str(parent)},
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or file,
            stderr=file,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  # in the child it makes one system call, no more
        )


def stop(processes: Iterable[subprocess.Popen[bytes]], grace_s: float) -> None:
    """SIGTERM; after the time of grace SIGKILL to what is left of their families."""
    families = [family(process.pid) for process in processes]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for members in families:
        _kill(members)


def kill(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """SIGKILL to all of their families at once."""
    members = [member for process in processes for member in family(process.pid)]
    _kill(members)
    for process in processes:
        process.wait()


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds() -> float:
    """User and system time of everything below this process, in seconds."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def end_all() -> int:
    """Kill whatever this run has left behind, by its mark. Returns how many there were."""
    left = [process for process in psutil.process_iter() if process.pid != os.getpid() and _is_ours(process)]
    _kill(left)
    return len(left)


def _is_ours(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == str(os.getpid())
    except psutil.Error:
        return False


def _kill(members: list[psutil.Process]) -> None:
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=5)
