"""A real daemon in a folder of its own, for one benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from perdure.bench.figure import Sizes
from perdure.bench.handlers import SERVICE
from perdure.errors import DaemonUnreachable, PerdureError
from perdure.wire.blocking import BlockingCaller
from perdure.wire.control import GetStatus, Status

START_SECONDS = 120.0


class Running:
    """A daemon that runs: `caller` asks it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.socket = folder / "perdure.sock"
        self.database = folder / "perdure.db"
        self.process = process
        self.caller: BlockingCaller
        #: Of the supervisor, which is not `process` where another program starts it.
        self.pid = process.pid

    def status(self) -> Status:
        """What it says of itself."""
        status: Status = self.caller.request(GetStatus(), timeout_s=120)
        return status

    def connect(self) -> None:
        """Wait until it answers. Raises PerdureError when it ends instead."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.caller = BlockingCaller.connect(str(self.socket), timeout_s=START_SECONDS)
                return
            except DaemonUnreachable:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise PerdureError("the benchmark's daemon did not start; its messages are above") from None
                time.sleep(0.005)

    def await_workers(self) -> None:
        """Wait until each of its workers is ready."""
        while True:
            workers = self.status().workers
            if workers and all(worker.state == "ready" for worker in workers):
                return
            time.sleep(0.01)


@contextlib.contextmanager
def daemon(
    folder: Path,
    sizes: Sizes,
    *,
    settings: str = "",
    handlers: str = "perdure.bench.handlers",
    command: Sequence[str] = (sys.executable, "-m", "perdure"),
    environ: Mapping[str, str] | None = None,
    ready: bool = True,
) -> Iterator[Running]:
    """Start `perdure run` with the benchmark's handlers; a clean stop at the end.

    `settings`: more sections of the configuration. `command`: what stands before `run`. `ready` False: do not wait for
    the workers, nor for an answer.
    """
    config = folder / "perdure.toml"
    config.write_text(
        f'[daemon]\nhandlers = ["{handlers}"]\n[store]\ndurability = "{sizes.durability}"\n'
        f"retention_count = 100000000\n[workers]\ncount = {sizes.workers}\n"
        f'[logs]\nlevel = "error"\n[dependencies.{SERVICE}]\n{settings}'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    process = subprocess.Popen([*command, "run", "--config", str(config)], env={**kept, **(environ or {})})
    running = Running(folder, process)
    try:
        if ready:
            running.connect()
            running.await_workers()
            running.pid = running.status().pid
        yield running
    finally:
        if hasattr(running, "caller"):
            running.caller.close()
        _stop(running)


def _stop(running: Running) -> None:
    if running.process.poll() is not None:
        return
    os.kill(running.pid, signal.SIGTERM)
    try:
        running.process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()
