"""Redis and PostgreSQL for one trial, private and on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benchmarks.peers.install import redis
from benchmarks.peers.processes import start, stop
from examples.demo.postgres_server import PostgresServer

START_S = 15.0


class Server(Protocol):
    """What peers store their jobs in."""

    url: str
    description: str

    def kill(self) -> None:
        """SIGKILL."""

    def restart(self) -> None:
        """Start it again after `kill`, with the same files and address."""

    def close(self) -> None:
        """End it."""


class Redis:
    """`durable`: each command is fsynced before its answer; else as shipped (snapshots after minutes)."""

    def __init__(self, folder: Path, durable: bool, work_environ: dict[str, str]) -> None:
        self._program, variables = redis()
        self._environ = work_environ | variables
        self._folder = folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = one.getsockname()[1]
        self._durability = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""] if durable else []
        self.url = f"redis://127.0.0.1:{self._port}/0"
        done = subprocess.run(
            [self._program, "--version"], env=self._environ, capture_output=True, text=True, check=True
        )
        self.description = "Redis " + done.stdout.partition("v=")[2].partition(" ")[0]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        place = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(self._folder)]
        process = start([str(self._program), *place, *self._durability], self._environ, self._folder / "redis.log")
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1) as one:
                    one.sendall(b"PING\r\n")
                    if one.recv(5) == b"+PONG":
                        return process
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError((self._folder / "redis.log").read_text()[-2_000:])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self._process = self._start()

    def close(self) -> None:
        stop([self._process], grace_s=3)


class Postgres:
    """A cluster with fsync on. `durable`: commits wait for it; else synchronous_commit is off."""

    def __init__(self, durable: bool) -> None:
        self._server = PostgresServer(durable=True).start()
        self._server.sql("ALTER SYSTEM SET shared_buffers = '256MB'")
        self._server.sql("ALTER SYSTEM SET max_wal_size = '2GB'")
        self._server.sql(f"ALTER SYSTEM SET synchronous_commit = '{'on' if durable else 'off'}'")
        self._server.restart()
        self._server.create_database("peers")
        self.url = self._server.dsn("peers")
        version = self._server.sql("SHOW server_version")[0][0]
        self.description = f"PostgreSQL {version.split()[0]}, shared_buffers 256 MB"

    def kill(self) -> None:
        self._server.kill()

    def restart(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.close()


#: How to make a server: its folder, durability, the variables of the trial.
Maker = Callable[[Path, bool, dict[str, str]], Server]


def make_redis(folder: Path, durable: bool, environ: dict[str, str]) -> Server:
    """A Redis of its own."""
    return Redis(folder, durable, environ)


def make_postgres(folder: Path, durable: bool, environ: dict[str, str]) -> Server:
    """A PostgreSQL of its own."""
    return Postgres(durable)
