"""One peer in a scratch folder: its server, its producer, its workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import processes
from benchmarks.peers.catalog import Peer
from benchmarks.peers.install import HOME, ROOT
from benchmarks.peers.runs import Runs

FOLDER = Path(__file__).parent
GATE_S = 15.0
#: After the first worker has begun a job, so long for the second one.
SECOND_S = 4.0
STOP_S = 4.0


class TrialError(RuntimeError):
    """The peer did not do what it should; the message has the end of its log."""


class Trial:
    """Use as a context manager: whatever was started ends with it."""

    def __init__(self, peer: Peer, interpreter: str, durable: bool, capacity: int, environ: dict[str, str]) -> None:
        self.peer = peer
        self.folder = Path(tempfile.mkdtemp(prefix=f"peers-{peer.name}-"))
        self.runs = Runs(self.folder / "runs")
        # Only our package is added to the path of the peers: the other folders have names that might be theirs.
        (self.folder / "path").mkdir()
        (self.folder / "path" / "benchmarks").symlink_to(ROOT / "benchmarks")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "PG", "PEER"))}
        self.environ = kept | environ | {
            "PYTHONPATH": str(self.folder / "path"),
            "PYTHONUNBUFFERED": "1",
            "PEER_FOLDER": str(self.folder),
            "PEER_RUNS": str(self.runs.folder),
            "PEER_CAPACITY": str(capacity),
            "PEER_DURABLE": str(int(durable)),
            "PEER_MODULES": str(HOME / peer.name),
        }  # fmt: skip
        self._interpreter, self._durable = interpreter, durable
        self.server: Any = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._driver: subprocess.Popen[bytes] | None = None
        self.info: dict[str, Any] = {}

    def __enter__(self) -> Trial:
        try:
            if self.peer.server is not None:
                self.server = self.peer.server(self.folder, self._durable, self.environ)
                self.environ["PEER_URL"] = self.server.url
            if self.peer.module.endswith(".mjs"):
                command = [self._interpreter, str(FOLDER / "apps" / self.peer.module)]
            else:
                command = [self._interpreter, "-m", "benchmarks.peers.driver", self.peer.module]
            self._driver = processes.start(command, self.environ, self.folder / "driver.log", pipes=True)
            self.info = self.order("info")
            self.order("setup")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        processes.kill(self.workers)
        if self._driver is not None:
            processes.kill([self._driver])
        if self.server is not None:
            self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def order(self, do: str, **what: Any) -> Any:
        """Have the producer do something, and wait for its answer."""
        self.tell(do, **what)
        return self.answer()

    def tell(self, do: str, **what: Any) -> None:
        """An order whose `answer` is fetched later."""
        assert self._driver is not None
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
        self._driver.stdin.flush()

    def answer(self) -> Any:
        """What the producer says. Raises TrialError when it has ended instead."""
        assert self._driver is not None
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line:
            raise TrialError(f"the producer ended: {self.tail('driver.log')}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise TrialError(f"the producer: {answer['error']}")
        return answer

    # --- workers

    def start_workers(self) -> None:
        """Both of them; for a daemon this returns when they are ready."""
        self.workers = [
            processes.start(command, self.environ, self.folder / "workers.log") for command in self.info["workers"]
        ]
        if self.info["daemon"]:
            self.order("ready")

    def stop_workers(self) -> None:
        """A clean stop, or a quick one."""
        processes.stop(self.workers, STOP_S)
        self.workers = []

    def kill_workers(self) -> None:
        """SIGKILL to all of their processes, and to the server."""
        processes.kill(self.workers)
        self.workers = []
        if self.server is not None:
            self.server.kill()

    def begin(self) -> float:
        """Let the workers have the backlog. Returns the moment; both of them are up then."""
        if self.info["daemon"]:
            self.runs.open_gate()
            moment = time.monotonic()
            self.order("release")
            return moment
        deadline = time.monotonic() + GATE_S
        while self.runs.processes() < 2 and time.monotonic() < deadline:
            if self.runs.processes() == 1:
                deadline = min(deadline, time.monotonic() + SECOND_S)
            time.sleep(0.01)
        if not self.runs.processes():
            raise TrialError(f"no worker has begun a job in {GATE_S:g} s: {self.tail('workers.log')}")
        moment = time.monotonic()
        self.runs.open_gate()
        return moment

    def tail(self, name: str) -> str:
        """The end of a log."""
        path = self.folder / name
        return path.read_text(errors="replace")[-3_000:].strip() if path.exists() else "(no log)"
