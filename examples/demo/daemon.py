"""The daemon of the demo: configured, started, killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.demo.leash import leash
from examples.demo.stores import Stores
from perdure.client import Client
from perdure.errors import PerdureError

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
#: Longer than any healthy run takes; then the demo gives up and says so.
LIMIT_SECONDS = 300.0
POLL_SECONDS = 0.2
#: `imports` and `vectors` hold a worker while they wait for their database, so one more than there are cores.
WORKERS = min(os.cpu_count() or 1, 6) + 1

#: The window and the break are shorter than the defaults, so that ten seconds are long enough to see it all.
CONFIG = """\
[daemon]
handlers = ["examples.graphrag.jobs", "examples.demo.handlers"]
path = ["{root}"]
[logs]
level = "warning"
[workers]
count = {workers}
[jobs]
backoff_base = "200ms"
[postgres]
dsn = "{dsn}"
password_file = "postgres.password"
[qdrant]
url = "{qdrant_url}"
[breakers]
timeout = "10s"
[breakers.postgres]
window = "2s"
break = "1s"
break_cap = "4s"
ramp_start = 25
"""
GRAPH = """\
[neo4j]
uri = "{graph.uri}"
user = "{graph.user}"
password_file = "neo4j.password"
database = "{graph.database}"
"""


class Done(NamedTuple):
    """How many jobs have completed or died, and how many of each queue have completed."""

    ended: int
    completed: Counter[str]


class Bar:
    """A progress bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        columns = (TextColumn("ingesting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self.progress.add_task("ingest", total=total)
        self._begun = time.monotonic()

    def at(self, done: int) -> None:
        """Show how many jobs have ended."""
        self.progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """A line above the bar, with the seconds since the beginning."""
        self.progress.console.print(f"[dim]{time.monotonic() - self._begun:5.1f} s[/]  {text}", soft_wrap=True)


class Daemon:
    """`perdure run` in the demo's folder."""

    def __init__(self, folder: Path, stores: Stores) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "daemon.log"
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        self._environ["PYTHONPATH"] = str(ROOT)
        dsn, password = _apart(stores.postgres.dsn)
        config = CONFIG.format(root=ROOT, dsn=dsn, qdrant_url=stores.qdrant_url, workers=WORKERS)
        self._secret("postgres.password", password)
        if stores.graph:
            config += GRAPH.format(graph=stores.graph)
            self._secret("neo4j.password", stores.graph.password)
        (folder / "perdure.toml").write_text(config)

    def _secret(self, name: str, secret: str) -> None:
        file = self.folder / name
        file.touch(0o600)
        file.write_text(secret)

    @property
    def pid(self) -> int:
        """Of the daemon that runs now."""
        return self._process.pid if self._process else 0

    def start(self) -> Client:
        """Start it; returns a client when it answers."""
        command = leash([sys.executable, "-m", "perdure", "run"], signal.SIGTERM)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, env=self._environ, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client = Client(self.folder / "perdure.sock")
                client.status_sync()
                return client
            except PerdureError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the daemon did not start:\n{self._log.read_text()}") from None
                time.sleep(POLL_SECONDS)

    def enqueue(self, kind: str, jobs_file: Path) -> list[int]:
        """One job a line, with the command that a user would use; their ids."""
        command = [sys.executable, "-m", "perdure", "enqueue", kind, "--from", str(jobs_file)]
        done = subprocess.run(command, cwd=self.folder, env=self._environ, stdout=subprocess.PIPE, check=True)
        return [int(line) for line in done.stdout.split()]

    @contextlib.contextmanager
    def progress(self, console: Console, total: int) -> Iterator[Bar]:
        """A bar while the block runs."""
        bar = Bar(console, total)
        with bar.progress:
            yield bar

    def follow(self, client: Client, bar: Bar, until: Callable[[Done], bool]) -> None:
        """Return when `until` says so of the jobs that are done."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            status = client.status_sync()
            completed = completed_by_queue(client)
            done = Done(status.counts.get("completed", 0) + status.dead, completed)
            bar.at(done.ended)
            if until(done):
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


def completed_by_queue(client: Client) -> Counter[str]:
    """How many jobs of each queue have completed."""
    return Counter({queue.name: queue.counts.get("completed", 0) for queue in client.queues_sync()})


def _apart(dsn: str) -> tuple[str, str]:
    """The address without its password, and the password."""
    parts = urlsplit(dsn)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host)), unquote(password)
