"""A real daemon in a folder of its own, for one benchmark."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from perdure.errors import DaemonUnreachable, PerdureError
from perdure.wire.blocking import BlockingCaller
from perdure.wire.control import GetStatus

START_SECONDS = 30.0


@contextlib.contextmanager
def running_daemon(
    folder: Path, *, workers: int, durability: str, dependency: str | None = None
) -> Iterator[BlockingCaller]:
    """Start `perdure run` with the benchmark handlers; a client on its socket; a clean stop at the end."""
    config = folder / "perdure.toml"
    config.write_text(
        f'[daemon]\nhandlers = ["perdure.bench.handlers"]\n[store]\ndurability = "{durability}"\n'
        f"retention_count = 10000000\n"
        f'[workers]\ncount = {workers}\n[logs]\nlevel = "error"\n'
        + (f"[dependencies.{dependency}]\n" if dependency else "")
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    process = subprocess.Popen([sys.executable, "-m", "perdure", "run", "--config", str(config)], env=environ)
    try:
        with _connected(folder / "perdure.sock", process) as caller:
            yield caller
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _connected(path: Path, process: subprocess.Popen[bytes]) -> BlockingCaller:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            caller = BlockingCaller.connect(str(path), timeout_s=START_SECONDS)
        except DaemonUnreachable:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PerdureError("the benchmark's daemon did not start; its messages are above") from None
            time.sleep(0.01)
            continue
        while not all(worker.state == "ready" for worker in caller.request(GetStatus()).workers):
            time.sleep(0.01)
        return caller
