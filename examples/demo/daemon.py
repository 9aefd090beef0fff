"""The daemon of the demo: started, killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.demo.corpus import Corpus
from perdure.client import Client
from perdure.errors import PerdureError

START_SECONDS = 30.0
#: Longer than any healthy run takes; then the demo gives up and says so.
LIMIT_SECONDS = 300.0
POLL_SECONDS = 0.05

CONFIG = """\
[daemon]
handlers = ["examples.demo.handlers"]
path = ["{path}"]
[logs]
level = "warning"
"""


class Bar:
    """A progress bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self.progress.add_task("index", total=total)

    def at(self, done: int) -> None:
        """Show how many jobs have ended."""
        self.progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.progress.console.print(text)


class Daemon:
    """`perdure run` in the demo's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "daemon.log"
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        (folder / "perdure.toml").write_text(CONFIG.format(path=Path(__file__).parents[2]))

    @property
    def pid(self) -> int:
        """Of the daemon that runs now."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it, and return when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "perdure", "run"], cwd=self.folder, env=self._environ, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                Client(self.folder / "perdure.sock").status_sync()
                return
            except PerdureError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the daemon did not start:\n{self._log.read_text()}") from None
                time.sleep(POLL_SECONDS)

    def enqueue(self, corpus: Corpus) -> list[int]:
        """One job a file, with the command that a user would use; their ids."""
        command = [sys.executable, "-m", "perdure", "enqueue", "demo.index", "--from", str(corpus.jobs_file)]
        done = subprocess.run(command, cwd=self.folder, env=self._environ, stdout=subprocess.PIPE, check=True)
        return [int(line) for line in done.stdout.split()]

    @contextlib.contextmanager
    def progress(self, console: Console, total: int) -> Iterator[Bar]:
        """A bar while the block runs."""
        bar = Bar(console, total)
        with bar.progress:
            yield bar

    def follow(self, client: Client, bar: Bar, until: int) -> None:
        """Return when so many jobs have completed or died."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            status = client.status_sync()
            ended = status.counts.get("completed", 0) + status.dead
            bar.at(ended)
            if ended >= until:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"the jobs did not end within {LIMIT_SECONDS:g} s: {status.counts}")
            time.sleep(POLL_SECONDS)

    def kill(self) -> int:
        """SIGKILL, as the out-of-memory killer would; the workers go with it. Returns its pid."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return self._process.pid

    def stop(self) -> None:
        """A clean stop."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(START_SECONDS)
