"""Starting and ending `qdrant_front`, the REST server over Qdrant's engine, as a child process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
PAUSE_SECONDS = 0.02


class QdrantServer:
    """A child process on a loopback port that it keeps, and on a folder that survives it. It ends with its parent.

    `api_key` "" means that no key is asked for.
    """

    def __init__(self, folder: Path | None = None, api_key: str = "") -> None:
        self._own_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="qdrant-")) if folder is None else folder
        self.host = "127.0.0.1"
        self.port = free_port()
        self.api_key_file = self.folder / "api-key"
        self.process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if api_key:
            self.set_api_key(api_key)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def set_api_key(self, key: str) -> None:
        """Take this key from now on; a running server that had none must be restarted."""
        half = self.api_key_file.with_suffix(".half")
        half.write_text(key)
        half.replace(self.api_key_file)

    def start(self) -> None:
        """Start it and wait until it answers. Does nothing when it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        command = [sys.executable, "-m", "examples.demo.qdrant_front", str(self.folder / "collections")]
        command += ["--port", str(self.port), "--until-stdin-closes"]
        if self.api_key_file.exists():
            command += ["--api-key-file", str(self.api_key_file)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server does not answer: {(self.folder / 'server.log').read_text()}")
            time.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill and start it."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it, and remove its folder if it was made here."""
        self.kill()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended: {(self.folder / 'server.log').read_text()}")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _end(self, sig: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(sig)
        self.process.wait(START_SECONDS)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
