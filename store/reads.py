"""Looking at jobs and queues; nothing here writes."""

from __future__ import annotations

import sqlite3

import msgspec

from perdure.store.pages import page
from perdure.store.statements import SQL
from perdure.store.states import AVAILABLE, PARKED, RETRYABLE, RUNNING, SCHEDULED, STATES
from perdure.wire.data import JobFilter, JobView, QueueView

#: Above every id.
NEWEST = 2**63 - 1
#: Statement -> states that it finds through a partial index. Other states are found from the end of the table.
_BY_INDEX = {
    "newest_available": {AVAILABLE},
    "newest_running": {RUNNING},
    "newest_parked": {PARKED},
    "newest_due": {SCHEDULED, RETRYABLE},
}
_INDEXED = frozenset[str]().union(*_BY_INDEX.values())

_encode = msgspec.json.Encoder().encode


def available_queues(connection: sqlite3.Connection) -> list[str]:
    """Queues that have available jobs."""
    return [queue for (queue,) in connection.execute(SQL["available_queues"])]


def ahead(connection: sqlite3.Connection, job_id: int, limit: int) -> int:
    """How many available jobs come before an available one, counted up to `limit`; 0 for a job in another state."""
    (number,) = connection.execute(SQL["ahead"], {"id": job_id, "limit": limit}).fetchone()
    return int(number)


def next_due(connection: sqlite3.Connection) -> int | None:
    """The earliest scheduled_at of a scheduled or retryable job."""
    row = connection.execute(SQL["next_due"]).fetchone()
    return row[0] if row else None


def count(connection: sqlite3.Connection) -> dict[str, int]:
    """Jobs per state, and open dead letters under 'dead'."""
    zeros: dict[str, int] = dict.fromkeys(STATES, 0)
    return zeros | dict(connection.execute(SQL["counts"]).fetchall())


def queues(connection: sqlite3.Connection) -> list[QueueView]:
    """Every queue that has jobs or a setting."""
    views: dict[str, QueueView] = {}
    for name, paused_at, paused_by in connection.execute(SQL["queue_settings"]):
        views[name] = QueueView(name, {}, paused_at, paused_by)
    for name, state, number in connection.execute(SQL["queue_counts"]):
        views.setdefault(name, QueueView(name, {})).counts[state] = number
    return [views[name] for name in sorted(views)]


def get(connection: sqlite3.Connection, job_id: int) -> JobView | None:
    """One job that is not dead."""
    row = connection.execute(SQL["get"], {"id": job_id}).fetchone()
    return JobView(*row) if row else None


def list_jobs(connection: sqlite3.Connection, which: JobFilter) -> list[JobView]:
    """A page of jobs, newest first."""
    parameters = {
        "states": _encode(which.states).decode() if which.states else None,
        "queue": which.queue,
        "kind": which.kind,
        "tag": which.tag,
        "before": which.before if which.before is not None else NEWEST,
        "limit": which.limit,
    }
    wanted = set(which.states)
    if wanted and wanted <= _INDEXED:
        statements = [name for name, states in _BY_INDEX.items() if states & wanted]
    else:
        statements = ["newest"]
    ids = [job_id for name in statements for (job_id,) in connection.execute(SQL[name], parameters)]
    ids.sort(reverse=True)
    rows = connection.execute(SQL["list_these"], {"ids": _encode(ids[: which.limit]).decode()})
    return list(page(JobView(*row) for row in rows))
