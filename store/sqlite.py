"""The store on one SQLite file: one writable connection under a lock, one read-only connection beside it.

SQLite before 3.51.3 can lose committed transactions when two connections write and checkpoint (the WAL-reset bug). So
one process at a time has the file open for writing, with one connection; the lock of perdure.store.lock sees to that.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

from perdure.errors import StoreError, StoreReadOnly
from perdure.store import breakers as breaker_rows
from perdure.store import dead_letters, depth, files, migrate, parking, reads, requests, runs
from perdure.store.checkpoint import BUSY_TIMEOUT_MS, checkpoint
from perdure.store.connection import SqliteThread, explain, transaction
from perdure.store.group_commit import commit_turn
from perdure.store.lock import Role, WriterLock
from perdure.store.log_file import make_room
from perdure.store.models import Committed, Depth, ParkedJob, Pruned, Recovered, RunInfo, SavedBreaker, Turn
from perdure.store.new_jobs import NewJobs
from perdure.store.plain_turns import prepare_plain_turns
from perdure.store.prune import prune
from perdure.wire.data import BreakerEvent, DeadFilter, DeadView, JobFilter, JobView, KindSpec, QueueView, Verdict

T = TypeVar("T")
Durability = Literal["full", "normal"]

MEBIBYTE = 1024 * 1024
#: Pages that a transaction has changed stay in memory until its commit, up to this much: written early, they would be
#: read and written again. Memory that is used for this is free again afterwards, unlike that of the cache.
UNCOMMITTED_BYTES = 64 * MEBIBYTE
#: The reader goes through an index once, or looks a few rows up; behind it stands the system's own cache.
READER_CACHE_BYTES = MEBIBYTE // 2


async def open_sqlite(
    path: str | os.PathLike[str],
    *,
    durability: Durability = "full",
    cache_bytes: int = 2 * MEBIBYTE,
    wal_limit_bytes: int = 64 * MEBIBYTE,
    role: Role = "daemon",
    lock_wait_seconds: float = 0.0,
    create: bool = True,
    log_bytes: int = 0,
) -> SqliteStore:
    """Take the lock, look at the file without changing it, then open it and bring its schema up to date.

    `lock_wait_seconds`: how long to wait for the present holder of the lock. `create` False: a file that is not there
    is an error. `log_bytes`: how long the write-ahead log is from the beginning, for a store that stays open. Raises
    StoreLocked, StoreReadOnly, StoreFull, StoreCorrupt, SchemaTooNew, StoreError.
    """
    real = _check_place(os.fspath(path), create)
    lock = await WriterLock.acquire(real, role, lock_wait_seconds)
    try:
        if create:
            _make_private(real)
        migrations = migrate.load_migrations()
        await asyncio.to_thread(migrate.inspect, real, migrations)
        configure = partial(_configure, durability=durability, cache_bytes=cache_bytes, wal_limit_bytes=wal_limit_bytes)
        writer = await SqliteThread.open(real, mode="rwc" if create else "rw", setup=configure)
        try:
            await writer.run(partial(migrate.apply, migrations=migrations, path=real))
            await writer.run(prepare_plain_turns)
            new_jobs = await writer.run(NewJobs)
            if log_bytes:
                await writer.run(lambda _: make_room(real, min(log_bytes, wal_limit_bytes)))
        except BaseException:
            await writer.close()
            raise
    except BaseException:
        lock.release()
        raise
    return SqliteStore(real, lock, writer, new_jobs, wal_limit_bytes)


class SqliteStore:
    """Implements perdure.store.contract.Store; made by open_sqlite()."""

    def __init__(
        self, path: str, lock: WriterLock, writer: SqliteThread, new_jobs: NewJobs, wal_limit_bytes: int
    ) -> None:
        self._path = path
        self._lock = lock
        self._writer = writer
        self._reader: SqliteThread | None = None
        self._opening_reader = asyncio.Lock()
        self._new_jobs = new_jobs
        self._wal_limit_bytes = wal_limit_bytes
        self._closed = False

    @property
    def location(self) -> str:
        """The path of the file."""
        return self._path

    async def close(self) -> None:
        """Finish what has begun, give the lock back. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            async with self._opening_reader:
                if self._reader is not None:
                    await self._reader.close()
            await self._writer.close()
        finally:
            self._lock.release()

    async def __aenter__(self) -> SqliteStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- runs of the daemon

    async def begin_run(self, pid: int, boot_id: str, now: int) -> RunInfo:
        """Record a start of the daemon."""
        return await self._write(partial(runs.begin_run, pid=pid, boot_id=boot_id, now=now))

    async def end_run(self, run_id: int, now: int) -> None:
        """Record its clean end."""
        await self._write(partial(runs.end_run, run_id=run_id, now=now))

    async def recover(
        self, executing: Collection[tuple[int, int]] | None, now: int, unwanted: Collection[tuple[int, int]] = ()
    ) -> Recovered:
        """Put every running job of former runs back, in one transaction."""
        return await self._write(partial(runs.recover, executing=executing, now=now, unwanted=unwanted))

    # --- the group commit

    async def commit(self, turn: Turn) -> Committed:
        """All of the turn in one transaction, durable when this returns."""
        return await self._writer.run(partial(commit_turn, turn=turn, new_jobs=self._new_jobs))

    async def depths(self, queues: Mapping[str, int]) -> dict[str, Depth]:
        """How full these queues are, each counted up to the number beside its name, between two turns."""
        # By the writer: beside a commit, nobody could tell whether the count has that turn's jobs in it.
        return await self._writer.run(partial(depth.depths, queues=queues))

    async def keys_held(self, keys: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those (kind, unique key) that an unfinished job has."""
        return await self._read(partial(depth.keys_held, keys=keys))

    # --- requests

    async def cancel(self, ids: Sequence[int], now: int, *, abandoned: bool = False) -> list[Verdict]:
        """Cancel jobs that are not running, and those that a killed daemon has abandoned."""
        return await self._write(partial(requests.cancel, ids=ids, now=now, abandoned=abandoned))

    async def retry(self, ids: Sequence[int], now: int) -> tuple[list[Verdict], list[str]]:
        """Make scheduled, retryable, cancelled or completed jobs available with a fresh budget; and their queues."""
        return await self._write(partial(requests.retry, ids=ids, now=now))

    async def replay(
        self, ids: Sequence[int], set_args: str | None, who: str, now: int
    ) -> tuple[list[Verdict], list[str]]:
        """Give dead jobs another life under their old id; and the queues that got them. Raises InvalidArguments."""
        return await self._write(partial(dead_letters.replay, ids=ids, set_args=set_args, who=who, now=now))

    async def discard(self, ids: Sequence[int], who: str, now: int) -> list[Verdict]:
        """Mark dead letters as needing nothing more."""
        return await self._write(partial(dead_letters.discard, ids=ids, who=who, now=now))

    # --- parked jobs

    async def unpark(self, reasons: Sequence[str], limit: int, now: int) -> tuple[int, list[str]]:
        """Make up to `limit` jobs parked for one of `reasons` available: (how many, their queues)."""
        return await self._write(partial(parking.unpark, reasons=reasons, limit=limit))

    async def unpark_next(self, reason: str, after: ParkedJob | None) -> ParkedJob | None:
        """Make the job after `after` in the line of `reason` available, round and round; None: there is none."""
        return await self._write(partial(parking.unpark_next, reason=reason, after=after))

    async def parked_reasons(self, prefix: str) -> list[str]:
        """The different reasons beginning with `prefix` for which jobs are parked."""
        return await self._read(partial(parking.parked_reasons, prefix=prefix))

    async def parked_counts(self, prefix: str) -> dict[str, int]:
        """How many jobs are parked for each reason that begins with `prefix`."""
        return await self._read(partial(parking.parked_counts, prefix=prefix))

    # --- breakers, and the name of the queue

    async def save_breakers(self, breakers: Sequence[SavedBreaker], events: Sequence[BreakerEvent]) -> None:
        """Record what these breakers are now, and the changes that led there. Old events make way."""
        await self._write(partial(breaker_rows.save_breakers, breakers=breakers, events=events))

    async def breakers(self) -> list[SavedBreaker]:
        """Every breaker that was ever recorded, by name."""
        return await self._read(breaker_rows.breakers)

    async def breaker_events(self, limit: int) -> list[BreakerEvent]:
        """Up to `limit` changes of each breaker, newest first."""
        return await self._read(partial(breaker_rows.breaker_events, limit=limit))

    async def store_id(self) -> str:
        """A name for this queue that no other has."""
        return await self._read(breaker_rows.store_id)

    # --- maintenance

    async def prune(self, now: int, max_age_ms: int, keep: int, batch: int) -> Pruned:
        """Delete up to `batch` finished jobs and settled dead letters: what is gone."""
        return await self._write(partial(prune, now=now, max_age_ms=max_age_ms, keep=keep, batch=batch))

    async def unneeded_files(self, names: Collection[str]) -> list[str]:
        """Those files of the spool that no job and no dead letter names."""
        return await self._read(partial(files.unneeded_files, names=names))

    async def result_files(self, ids: Sequence[int]) -> list[str]:
        """The files of the spool that are the results of these jobs."""
        return await self._read(partial(files.result_files, ids=ids))

    async def checkpoint(self) -> int:
        """Bound the write-ahead log; returns its size in bytes afterwards."""
        return await self._writer.run(partial(checkpoint, path=self._path, wal_limit_bytes=self._wal_limit_bytes))

    # --- what the daemon declares

    async def save_kinds(self, kinds: Sequence[KindSpec], now: int) -> None:
        """Replace what the loaded handlers declare."""
        await self._write(partial(runs.save_kinds, kinds=kinds, now=now))

    async def kinds(self) -> list[KindSpec]:
        """What the handlers loaded last declare."""
        return await self._read(runs.load_kinds)

    async def pause(self, queue: str, who: str, now: int) -> None:
        """Record that a queue is paused."""
        await self._write(partial(runs.pause, queue=queue, who=who, now=now))

    async def resume(self, queue: str) -> None:
        """Record that a queue is not paused any more."""
        await self._write(partial(runs.resume, queue=queue))

    async def paused_queues(self) -> list[str]:
        """Queues that are paused."""
        return await self._read(runs.paused_queues)

    # --- looking

    async def available_queues(self) -> list[str]:
        """Queues that have available jobs, paused or not."""
        return await self._read(reads.available_queues)

    async def ahead(self, job_id: int, limit: int) -> int:
        """How many available jobs of its queue come before an available job, counted up to `limit`."""
        return await self._read(partial(reads.ahead, job_id=job_id, limit=limit))

    async def next_due(self) -> int | None:
        """The earliest scheduled_at of a scheduled or retryable job."""
        # By the writer: it is asked so that a ping to the watchdog means that commits are possible.
        return await self._writer.run(reads.next_due)

    async def queues(self) -> list[QueueView]:
        """Every queue that has jobs or a setting, with its counts per state."""
        return await self._read(reads.queues)

    async def get(self, job_id: int) -> JobView | None:
        """One job that is not dead."""
        return await self._read(partial(reads.get, job_id=job_id))

    async def count(self) -> dict[str, int]:
        """Jobs per state, and open dead letters under 'dead'."""
        return await self._read(reads.count)

    async def get_dead(self, job_id: int) -> DeadView | None:
        """One dead letter."""
        return await self._read(partial(dead_letters.get_dead, job_id=job_id))

    async def list_dead(self, which: DeadFilter) -> list[DeadView]:
        """A page of dead letters, newest death first."""
        return await self._read(partial(dead_letters.list_dead, which=which))

    # The last one: below it, `list` would be this method in annotations.
    async def list(self, which: JobFilter) -> list[JobView]:
        """A page of jobs, newest first."""
        return await self._read(partial(reads.list_jobs, which=which))

    # --- the two ways to the file

    async def _write(self, verb: Callable[[sqlite3.Connection], T]) -> T:
        return await self._writer.run(partial(transaction, work=verb))

    async def _read(self, verb: Callable[[sqlite3.Connection], T]) -> T:
        """On the second connection: a long list holds up no commit. What it opens it reads to the end and lets go."""
        async with self._opening_reader:
            if self._closed:
                raise StoreError(f"{self._path} is closed: open the store again")
            if self._reader is None:
                self._reader = await SqliteThread.open(self._path, mode="ro", setup=_configure_reader)
        return await self._reader.run(verb, droppable=True)


def _check_place(path: str, create: bool) -> str:
    """The real path: two names for one file must not be two locks."""
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise StoreError(f"the folder {folder} does not exist: create it, or give perdure another path")
    if not create and not os.path.exists(path):
        raise StoreError(f"there is no queue at {path}: start `perdure run` there, or check --config and store.path")
    # SQLite opens such a file for reading only, without a word; better to say so now than at the first job.
    if os.path.isfile(path) and not os.access(path, os.W_OK):
        raise StoreReadOnly(f"{path} cannot be written: check owner and permissions of the file and its folder")
    return path


def _make_private(path: str) -> None:
    """Arguments are nobody else's business, whatever the umask is. SQLite gives the files beside it the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise explain(error, path) from error


def _configure(
    connection: sqlite3.Connection, *, durability: Durability, cache_bytes: int, wal_limit_bytes: int
) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError("the file system cannot hold a queue: SQLite's write-ahead log needs shared memory there")
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
    connection.execute(f"PRAGMA cache_size = -{max(cache_bytes // 1024, 1)}")
    connection.execute(f"PRAGMA cache_spill = {UNCOMMITTED_BYTES // page_bytes}")
    connection.execute("PRAGMA temp_store = MEMORY")
    # The supervisor's timer checkpoints; SQLite does so by itself only when the log has reached its limit.
    connection.execute(f"PRAGMA wal_autocheckpoint = {max(wal_limit_bytes // page_bytes, 1)}")
    connection.execute(f"PRAGMA journal_size_limit = {wal_limit_bytes}")
    connection.create_function("merge_args", 2, dead_letters.merge_args, deterministic=True)


def _configure_reader(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_BYTES // 1024}")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
