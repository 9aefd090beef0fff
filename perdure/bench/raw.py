"""Raw SQLite: what the store would say to it, said without the store, the daemon and the workers.

The store's own code runs once, on a connection that takes down each statement and its parameters. Then these are
given to a plain connection to a copy of the file, one after the other, and that is what is timed: the same schema,
statements, parameters, transactions and settings, and nothing else.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from perdure.bench.figure import Durability
from perdure.bench.load import ARGS, CHUNK, QUEUE
from perdure.config.settings import StoreSettings
from perdure.daemon.opening import LOG_BYTES
from perdure.store.connection import CACHED_STATEMENTS
from perdure.store.group_commit import commit_turn
from perdure.store.log_file import make_room
from perdure.store.models import Claim, Committed, NewBatch, NewJob, Turn
from perdure.store.new_jobs import NewJobs
from perdure.store.plain_turns import prepare_plain_turns

# The settings of the connection that writes; a copy of them here would grow apart.
from perdure.store.sqlite import _configure, open_sqlite

#: Leases are as long as those of a daemon (supervisor.LEASES_PER_RUN).
FIRST_LEASE = 2**32
#: What jobs are made of: the same moment for all.
NOW = 1_700_000_000_000

Commit = Callable[[Turn], Committed]
Work = Callable[[Commit], None]
Statement = tuple[str, Any]


class Timed(NamedTuple):
    """Seconds of one run of the statements, and of the processor."""

    seconds: float
    cpu_seconds: float


class _Recorder(sqlite3.Connection):
    """Takes down what is executed. Only what the store uses: `execute`."""

    seen: list[Statement]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As usual, and remember it."""
        self.seen.append((sql, parameters))
        return super().execute(sql, parameters)


class Raw:
    """Statements that were taken down, and the file in the state in which they began."""

    def __init__(self, folder: Path, durability: Durability, prepare: Work, work: Work) -> None:
        """Run `prepare` and `work` through the store's code in a new file; `work` is what will be replayed."""
        self._durability = durability
        self._begin = folder / "raw-begin.db"
        self._copy = folder / "raw.db"
        path = folder / "raw-recorded.db"
        asyncio.run(_create(path, durability))
        with _opened(path, durability, _Recorder) as connection:
            assert isinstance(connection, _Recorder)
            connection.seen = []
            commit = _committer(connection)
            prepare(commit)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            shutil.copyfile(path, self._begin)
            connection.seen = []
            started = time.perf_counter()
            work(commit)
            #: How long the store's code took for the same, in one thread, and with the taking down.
            self.store_seconds = time.perf_counter() - started
            self.statements: Sequence[Statement] = connection.seen
        _remove(path)

    def replay(self) -> Timed:
        """Give the statements to a plain connection, from the same beginning."""
        shutil.copyfile(self._begin, self._copy)
        with _opened(self._copy, self._durability, sqlite3.Connection) as connection:
            make_room(str(self._copy), LOG_BYTES)  # as a daemon has it
            # The daemon has just written all this: its pages are in the cache.
            connection.execute("SELECT sum(length(args)) FROM jobs").fetchall()
            cpu, started = time.process_time(), time.perf_counter()
            for sql, parameters in self.statements:
                connection.execute(sql, parameters).fetchall()
            timed = Timed(time.perf_counter() - started, time.process_time() - cpu)
        _remove(self._copy)
        return timed


def enqueued(kind: str, jobs: int, *, args: str = ARGS, chunk: int = CHUNK) -> Work:
    """So many new jobs, `chunk` of them a transaction."""
    rich = kind == "bench.rich"

    def work(commit: Commit) -> None:
        for first in range(0, jobs, chunk):
            numbers = range(first, min(first + chunk, jobs))
            commit(Turn(NOW, batches=[NewBatch([_new_job(kind, args, n if rich else None) for n in numbers], False)]))

    return work


def enqueued_apart(jobs: int, together: int) -> Work:
    """So many new jobs of as many producers, `together` of them a transaction."""

    def work(commit: Commit) -> None:
        for _ in range(0, jobs, together):
            commit(Turn(NOW, batches=[new_jobs(1) for _ in range(together)]))

    return work


def drained(turns: Sequence[int], result_json: str | None = None) -> Work:
    """Claims of these sizes; each transaction also completes what the one before has claimed."""

    def work(commit: Commit) -> None:
        lease, done = FIRST_LEASE, list[int]()
        for count in (*turns, 0):
            turn = Turn(NOW, lease=lease + 1, claims=[Claim(QUEUE, count)] if count else [], claim_total=count)
            if done and result_json is None:
                turn.completed = {lease: done}
            elif done and result_json is not None:
                turn.results = [(job_id, lease, result_json) for job_id in done]
            result = commit(turn)
            lease, done = lease + 1, [job.id for job in result.claimed]

    return work


def new_jobs(count: int) -> NewBatch:
    """A batch of no-op jobs."""
    return NewBatch([_new_job("bench.noop", ARGS) for _ in range(count)], False)


def nothing(commit: Commit) -> None:
    """No preparation."""


def _new_job(kind: str, args: str, key: int | None = None) -> NewJob:
    if key is None:
        return NewJob(kind, QUEUE, 0, args, 5, 3, 3_600_000, None, None, None)
    return NewJob(kind, QUEUE, 0, args, 5, 3, 3_600_000, None, f"key-{key}", '["bench"]')


async def _create(path: Path, durability: Durability) -> None:
    async with await open_sqlite(path, durability=durability):
        pass


@contextmanager
def _opened(path: Path, durability: Durability, factory: type[sqlite3.Connection]) -> Iterator[sqlite3.Connection]:
    with closing(
        sqlite3.connect(path, isolation_level=None, cached_statements=CACHED_STATEMENTS, factory=factory)
    ) as connection:
        if isinstance(connection, _Recorder):
            connection.seen = []
        store = StoreSettings()
        _configure(
            connection, durability=durability, cache_bytes=store.cache_bytes, wal_limit_bytes=store.wal_limit_bytes
        )
        prepare_plain_turns(connection)
        yield connection


def _committer(connection: sqlite3.Connection) -> Commit:
    ids = NewJobs(connection)
    return lambda turn: commit_turn(connection, turn, ids)


def _remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
