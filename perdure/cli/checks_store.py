"""Checks of the queue's file, its folder, its lock, and of SQLite. They read only."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.cli.checks import FAIL, OK, WARN, Finding
from perdure.cli.text import size

if TYPE_CHECKING:
    from perdure.config.settings import Settings

#: As the daemon warns, and where a full disk is a matter of minutes.
_LOW_DISK_BYTES = 512 << 20
_NO_DISK_BYTES = 32 << 20
#: A check of a large file is given up after this.
_INTEGRITY_SECONDS = 20.0
#: Instructions of SQLite's machine between two looks at the time.
_STEPS = 100_000

#: The WAL-reset bug came with WAL itself, and was fixed in these.
_BUG_BEGAN = (3, 7, 0)
_FIXED_FOR_GOOD = (3, 51, 3)
_FIXED_IN_BRANCH = {(3, 50): 7, (3, 44): 6}


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite can lose commits when two connections write and checkpoint."""
    if not _BUG_BEGAN <= version < _FIXED_FOR_GOOD:
        return False
    fixed = _FIXED_IN_BRANCH.get(version[:2])
    return fixed is None or version[2] < fixed


def sqlite(settings: Settings) -> Finding:
    """The SQLite that Python is linked to."""
    version = sqlite3.sqlite_version
    if not has_wal_reset_bug(sqlite3.sqlite_version_info):
        return Finding("sqlite", OK, f"SQLite {version}, without the WAL-reset bug")
    return Finding(
        "sqlite",
        OK,
        f"SQLite {version} has the WAL-reset bug (3.7.0 to 3.51.2, fixed in 3.51.3, 3.50.7 and 3.44.6); "
        "safe here: one writer. Let no other program write to the queue's file",
    )


def folder(settings: Settings) -> Finding:
    """Whether this user can write where the queue is."""
    parent = settings.paths.db.parent
    if not parent.is_dir():
        return Finding("folder", FAIL, f"there is no folder {parent}", "make it, or change store.path")
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding("folder", OK, f"{parent} can be written")
    text = f"{parent} cannot be written by this user"
    return Finding("folder", WARN, text, "run this as the daemon's user, or change the folder's owner")


def disk(settings: Settings) -> Finding:
    """Room on the queue's disk, in bytes and in files."""
    parent = _existing(settings.paths.db.parent)
    free = shutil.disk_usage(parent).free
    files = os.statvfs(parent)
    text = f"{size(free)} are free at {parent}"
    advice = "free some space; when it is full, the daemon waits and then stops, and no job is lost"
    if files.f_files and not files.f_favail:
        return Finding("disk", FAIL, f"{parent} has no room for another file (inodes)", advice)
    if free < _NO_DISK_BYTES:
        return Finding("disk", FAIL, text, advice)
    return Finding("disk", WARN, text, advice) if free < _LOW_DISK_BYTES else Finding("disk", OK, text)


def schema(settings: Settings) -> Finding:
    """Whether this version of perdure can use the file."""
    from perdure.store.migrate import inspect, load_migrations

    known = load_migrations()
    found = inspect(str(settings.paths.db), known)
    if found is None:
        return Finding("schema", OK, f"there is no queue at {settings.paths.db} yet; the daemon makes it")
    if found.version < len(known):
        text = f"schema version {found.version}; the next start of the daemon brings it to {len(known)}"
        return Finding("schema", OK, text)
    return Finding("schema", OK, f"schema version {found.version}, the newest")


def integrity(settings: Settings) -> Finding:
    """SQLite's quick check, on a connection that can only read."""
    from perdure.store.connection import database_uri, explain

    path = str(settings.paths.db)
    if not os.path.isfile(path) or not os.path.getsize(path):
        return Finding("integrity", OK, "nothing to check yet")
    deadline = time.monotonic() + _INTEGRITY_SECONDS
    try:
        with closing(sqlite3.connect(database_uri(path, "ro"), uri=True)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.OperationalError as error:
        if time.monotonic() > deadline:
            text = f"not finished after {_INTEGRITY_SECONDS:.0f}s; what was looked at is sound"
            return Finding("integrity", WARN, text, f"for all of it: sqlite3 -readonly {path} 'PRAGMA quick_check'")
        return Finding("integrity", FAIL, str(explain(error, path)))
    except sqlite3.Error as error:
        return Finding("integrity", FAIL, str(explain(error, path)))
    problems = [str(row[0]) for row in rows if row[0] != "ok"]
    if problems:
        advice = "stop the daemon, keep a copy, and restore a backup or try `sqlite3 FILE .recover`"
        return Finding("integrity", FAIL, "; ".join(problems), advice)
    return Finding("integrity", OK, f"{path} is sound (quick check, {size(os.path.getsize(path))})")


def lock(settings: Settings) -> Finding:
    """Who may write at the moment."""
    from perdure.store.lock import read_holder

    if not is_locked(settings.paths.lock):
        return Finding("lock", OK, "nobody writes to the queue at the moment")
    holder = read_holder(str(settings.paths.db))
    role = {"daemon": "the daemon", "cli": "a perdure command"}.get(str(holder.get("role")), "another program")
    return Finding("lock", OK, f"held by {role} (pid {holder.get('pid', 'unknown')})")


def is_locked(path: Path) -> bool:
    """Whether somebody holds the writer's lock. Raises PermissionError when this user may not look."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, and given back at once: a daemon that starts just now tries again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
