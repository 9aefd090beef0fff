"""Who may write: an exclusive lock on a file beside the queue file.

On a file of its own, as SQLite has its locks on the queue file, and closing any descriptor of that file drops them. The
lock file stays when the lock is given back: a lock on a name that others may remove and make anew holds nobody off.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import time
from typing import Literal

from perdure.errors import StoreLocked
from perdure.store.connection import explain

Role = Literal["daemon", "cli"]

#: Seconds between two tries for a lock that somebody else has.
RETRY_SECONDS = 0.05
#: A daemon holds the lock for as long as it runs: waiting for one is worth it only if it is about to end.
DAEMON_PATIENCE_SECONDS = 1.0
#: Bytes to read of a lock file: its content is far shorter, and the file is not ours alone.
CONTENT_BYTES = 4096


class WriterLock:
    """The right to write a queue file, held until `release`."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor: int | None = descriptor
        self.path = path

    @classmethod
    async def acquire(cls, database: str, role: Role, wait_seconds: float) -> WriterLock:
        """Take the lock; its holder has `wait_seconds` to go. Raises StoreLocked, StoreReadOnly, StoreFull."""
        path = f"{database}.lock"
        try:
            # Python makes descriptors close-on-exec: no child keeps the lock.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise explain(error, path) from error
        try:
            await _wait_for(descriptor, database, wait_seconds)
            _write_holder(descriptor, role)
        except OSError as error:
            os.close(descriptor)
            raise explain(error, path) from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, path)

    def release(self) -> None:
        """Give the lock back. Safe to call twice."""
        if self._descriptor is None:
            return
        try:
            os.ftruncate(self._descriptor, 0)
        finally:
            # Said aloud: a child that another thread is just starting has a copy of the descriptor until it executes.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None


def read_holder(database: str) -> dict[str, object]:
    """What the lock file says about its holder: pid, role, since; empty when it cannot be read. It proves nothing."""
    try:
        with open(f"{database}.lock", "rb") as file:
            content = json.loads(file.read(CONTENT_BYTES))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


async def _wait_for(descriptor: int, database: str, wait_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        by_daemon = read_holder(database).get("role") == "daemon"
        if loop.time() >= begun + (min(wait_seconds, DAEMON_PATIENCE_SECONDS) if by_daemon else wait_seconds):
            raise StoreLocked(_who_has_it(database))
        await asyncio.sleep(RETRY_SECONDS)


def _write_holder(descriptor: int, role: Role) -> None:
    content = json.dumps({"pid": os.getpid(), "role": role, "since": int(time.time() * 1000)})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content.encode(), 0)


def _who_has_it(database: str) -> str:
    holder = read_holder(database)
    pid = holder.get("pid", "unknown")
    if holder.get("role") == "daemon":
        return (
            f"perdure is already running (pid {pid}) on {database}: use that one, or stop it with `kill {pid}` "
            "(or systemctl stop) first"
        )
    if holder.get("role") == "cli":
        return f"a perdure command (pid {pid}) is writing to {database}: try again when it has ended"
    return f"another process has {database} open for writing: find it with `fuser {database}.lock`"
