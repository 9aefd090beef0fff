"""A real `perdure run` in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec

from perdure.client import Client
from perdure.errors import PerdureError
from perdure.wire.control import Status
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0


class Daemon:
    """Starts, kills and asks a daemon; knows every process that came from it by a mark in their environment."""

    def __init__(self, folder: Path, handlers: list[str], settings: str = "") -> None:
        self.folder = folder
        self.mark = f"TEST_MARK={uuid.uuid4()}"
        self.socket = folder / "perdure.sock"
        self.log_path = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        names = ", ".join(f'"{name}"' for name in handlers)
        text = f'[daemon]\nhandlers = [{names}]\npath = [".", "{ROOT}"]\n'
        (folder / "perdure.toml").write_text(settings if "[daemon]" in settings else text + settings)

    @property
    def environ(self) -> dict[str, str]:
        """What the daemon and commands get: nothing of the caller's perdure settings."""
        name, value = self.mark.split("=")
        kept = {key: val for key, val in os.environ.items() if not key.startswith(("PERDURE_", "NOTIFY_"))}
        return kept | {name: value}

    def spawn(self) -> None:
        """Start it without waiting."""
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "perdure", "run"]
            self.process = subprocess.Popen(command, cwd=self.folder, env=self.environ, stderr=log)

    def start(self) -> Status:
        """Start it and wait until all of its workers are ready."""
        self.spawn()
        return wait_until(self._ready, START_SECONDS, f"the daemon to be ready; its log: {self.log_path}")

    def _ready(self) -> Status | None:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.log()}"
        status = self.status()
        if status is None:
            return None
        there = status.state == "running" and bool(status.workers)
        return status if there and all(worker.state == "ready" for worker in status.workers) else None

    def client(self, timeout: float = 30.0) -> Client:
        """A new client on its socket; close it."""
        return Client(self.socket, timeout=timeout)

    def status(self) -> Status | None:
        """What the daemon says of itself; None if none answers."""
        try:
            with self.client() as client:
                return client.status_sync()
        except PerdureError:
            return None

    def command(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a `perdure` command in its folder, to the end."""
        command = [sys.executable, "-m", "perdure", *arguments]
        place = {"cwd": self.folder, "env": self.environ, "timeout": 60}
        return subprocess.run(command, **place, input=stdin, capture_output=True, text=True, check=False)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self.process is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the supervisor alone; what it leaves behind is for `processes` to show."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 40.0) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout)

    def processes(self) -> list[int]:
        """Every living process that descends from this daemon, wherever it was reparented to."""
        entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [int(entry.name) for entry in entries if self._is_marked(entry)]

    def left_behind(self, seconds: float = 5.0) -> list[str]:
        """What is still there of it some time after its end: a process that was killed takes a moment to go."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.processes(), seconds)
        return [f"{pid}: {_command_line(pid)}" for pid in self.processes()]

    def _is_marked(self, entry: Path) -> bool:
        try:
            if (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
            return self.mark.encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's entries of this name."""
        entries = [msgspec.json.decode(line) for line in self.log().splitlines() if f'"{name}"' in line]
        return [entry for entry in entries if entry.get("event") == name]

    def close(self) -> None:
        """End whatever is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "gone"
