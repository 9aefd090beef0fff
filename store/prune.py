"""Retention: finished jobs and settled dead letters go after a time, in small batches."""

from __future__ import annotations

import sqlite3

from perdure.store.statements import SQL


def prune(connection: sqlite3.Connection, now: int, max_age_ms: int, keep: int, batch: int) -> list[int]:
    """Delete up to `batch` rows, inside a transaction: by age, then beyond the newest `keep`, then settled letters."""
    before = now - max_age_ms
    gone = _delete(connection, "prune_old", {"before": before, "limit": batch})
    if len(gone) < batch:
        surplus = connection.execute(SQL["surplus_from"], {"keep": keep}).fetchone()
        if surplus is not None:
            finalized_at, job_id = surplus
            parameters = {"finalized_at": finalized_at, "id": job_id, "limit": batch - len(gone)}
            gone += _delete(connection, "prune_surplus", parameters)
    if len(gone) < batch:
        gone += _delete(connection, "prune_letters", {"before": before, "limit": batch - len(gone)})
    return gone


def _delete(connection: sqlite3.Connection, statement: str, parameters: dict[str, int]) -> list[int]:
    return [job_id for (job_id,) in connection.execute(SQL[statement], parameters).fetchall()]
