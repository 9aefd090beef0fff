"""Puts the batches of a turn into the jobs table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from perdure.errors import Duplicate, Refused
from perdure.store.models import NewBatch, NewJob
from perdure.store.statements import SQL
from perdure.store.states import AVAILABLE, SCHEDULED
from perdure.wire.data import Enqueued

#: More groups of like jobs than this in a turn go in by one statement for jobs of any shape. One for like jobs is about
#: three times as fast a job, and the number of statements stays bounded.
MOST_GROUPS = 8
#: Characters of arguments that one statement takes: SQLite's limit for a text is 10^9 bytes.
STATEMENT_CHARS = 64 * 1024 * 1024
#: What a batch itself can be wrong about. Anything else is wrong with the store, and ends the turn.
BATCH_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError, UnicodeError, OverflowError, Refused)

#: All but arguments and unique key.
_SHAPE = attrgetter(
    "kind", "queue", "priority", "max_attempts", "max_interruptions", "timeout_ms", "scheduled_at", "tags_json",
    "blob_json",
)  # fmt: skip

_encode = msgspec.json.Encoder().encode


class Alike(NamedTuple):
    """Jobs that differ only in their arguments: JSON of what they have in common, and of their arguments."""

    shape: str
    args: str


class NewJobs:
    """Gives ids to new jobs and writes them. One for the store's life, as it alone gives out ids."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        (last,) = connection.execute(SQL["last_id"]).fetchone()
        self.last_id: int = last

    def insert(self, connection: sqlite3.Connection, batches: Sequence[NewBatch], now: int) -> list[list[Enqueued]]:
        """All batches in as few statements as can be. Raises one of BATCH_ERRORS when any batch is to be refused."""
        jobs = [job for batch in batches for job in batch.jobs]
        base = self.last_id + 1
        holders: dict[int, int] = {}
        start = 0
        for chunk in _chunks(jobs):
            holders.update(_insert_chunk(connection, base + start, chunk, now))
            start += len(chunk)
        return self._placed(batches, holders)

    def insert_plainly(self, batches: Sequence[NewBatch], now: int) -> tuple[list[Alike], list[list[Enqueued]]] | None:
        """The same as groups of like jobs for a plain turn, which cannot be refused; None: they do not fit into one."""
        jobs = [job for batch in batches for job in batch.jobs]
        groups = _alike(jobs)
        if groups is None or sum([len(job.args) for job in jobs]) > STATEMENT_CHARS:
            return None
        return [*_shapes(groups, self.last_id + 1, now)], self._placed(batches, {})

    def insert_one_by_one(
        self, batches: Sequence[NewBatch], now: int
    ) -> tuple[list[tuple[object, ...]], list[list[Enqueued]]]:
        """The same as parameters of insert_one, a row each. A unique key that is taken is an IntegrityError then."""
        jobs = [job for batch in batches for job in batch.jobs]
        rows = [(*_row(job_id, job, now), now) for job_id, job in enumerate(jobs, self.last_id + 1)]
        return rows, self._placed(batches, {})

    def _placed(self, batches: Sequence[NewBatch], holders: dict[int, int]) -> list[list[Enqueued]]:
        """The ids of what has been written."""
        base = self.last_id + 1
        self.last_id += sum([len(batch.jobs) for batch in batches])
        ids = iter(range(base, self.last_id + 1))
        return [_places(batch, islice(ids, len(batch.jobs)), holders) for batch in batches]

    def insert_apart(
        self, connection: sqlite3.Connection, batches: Sequence[NewBatch], now: int
    ) -> list[list[Enqueued] | Exception]:
        """Each batch under a savepoint of its own: one that breaks a rule is refused alone."""
        return [self._insert_or_refuse(connection, batch, now) for batch in batches]

    def _insert_or_refuse(
        self, connection: sqlite3.Connection, batch: NewBatch, now: int
    ) -> list[Enqueued] | Exception:
        connection.execute("SAVEPOINT batch")
        try:
            (placed,) = self.insert(connection, [batch], now)
        except BATCH_ERRORS as error:
            connection.execute("ROLLBACK TO batch")
            connection.execute("RELEASE batch")
            return error if isinstance(error, Refused) else Refused(f"these jobs cannot be stored: {error}")
        connection.execute("RELEASE batch")
        return placed


def _insert_chunk(connection: sqlite3.Connection, base: int, jobs: Sequence[NewJob], now: int) -> dict[int, int]:
    groups = _alike(jobs)
    if groups is None:
        return _insert_mixed(connection, base, jobs, now)
    for shape, args in _shapes(groups, base, now):
        connection.execute(f"{SQL['plain_turn']}\n{SQL['plain_turn_of_new']}", (now, shape, args))
    return {}


def _alike(jobs: Sequence[NewJob]) -> list[list[NewJob]] | None:
    """Groups of jobs that differ only in their arguments; None: too many groups, or unique keys."""
    groups = list(islice(_groups(jobs), MOST_GROUPS + 1))
    if len(groups) > MOST_GROUPS or any(job.unique_key is not None for job in jobs):
        return None
    return groups


def _shapes(groups: Sequence[Sequence[NewJob]], base: int, now: int) -> Iterator[Alike]:
    """Like jobs as `shape` and `args` of plain_turns.sql; `base` is the first one's id."""
    for jobs in groups:
        shape: dict[str, Any] = msgspec.structs.asdict(jobs[0])
        del shape["args"]
        state, scheduled_at = _when(jobs[0], now)
        shape.update(base=base, state=state, scheduled_at=scheduled_at)
        yield Alike(_encode(shape).decode(), _encode([job.args for job in jobs]).decode())
        base += len(jobs)


def _insert_mixed(connection: sqlite3.Connection, base: int, jobs: Sequence[NewJob], now: int) -> dict[int, int]:
    """The holders of unique keys that were taken: the id that was meant for a job -> the id of the holder."""
    rows = _encode([_row(job_id, job, now) for job_id, job in enumerate(jobs, base)]).decode()
    inserted = connection.execute(SQL["insert_mixed"], {"rows": rows, "now": now}).rowcount
    if inserted == len(jobs):
        return {}
    return {mine: holder for mine, holder in connection.execute(SQL["key_holders"], {"rows": rows}) if mine != holder}


def _row(job_id: int, job: NewJob, now: int) -> tuple[object, ...]:
    state, scheduled_at = _when(job, now)
    return (
        job_id, job.kind, job.queue, state, job.priority, job.args, job.max_attempts, job.max_interruptions,
        job.timeout_ms, scheduled_at, job.unique_key, job.tags_json, job.blob_json,
    )  # fmt: skip


def _when(job: NewJob, now: int) -> tuple[str, int]:
    if job.scheduled_at is None or job.scheduled_at <= now:
        return AVAILABLE, now
    return SCHEDULED, job.scheduled_at


def _places(batch: NewBatch, ids: Iterator[int], holders: dict[int, int]) -> list[Enqueued]:
    if not holders:
        return [Enqueued(job_id, False) for job_id in ids]
    placed = [Enqueued(holders.get(job_id, job_id), job_id in holders) for job_id in ids]
    if batch.strict:
        for job, place in zip(batch.jobs, placed, strict=True):
            if place.duplicate:
                raise Duplicate(
                    f"job {place.id} ({job.kind}) has the unique key {job.unique_key!r} and is not finished: "
                    "nothing was enqueued; wait for it, cancel it, or choose another key"
                )
    return placed


def _groups(jobs: Sequence[NewJob]) -> Iterator[list[NewJob]]:
    """Runs of jobs that differ only in their arguments and unique keys."""
    for _, group in groupby(jobs, key=_SHAPE):
        yield list(group)


def _chunks(jobs: list[NewJob]) -> Iterator[list[NewJob]]:
    total, start = 0, 0
    for index, job in enumerate(jobs):
        total += len(job.args)
        if total > STATEMENT_CHARS and index > start:
            yield jobs[start:index]
            total, start = len(job.args), index
    if start < len(jobs):
        yield jobs[start:]
