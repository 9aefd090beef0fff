"""Retention: finished jobs and settled dead letters go after a time, in small batches."""

from __future__ import annotations

import sqlite3

from perdure.store.files import unneeded_files
from perdure.store.models import Pruned
from perdure.store.statements import SQL


def prune(connection: sqlite3.Connection, now: int, max_age_ms: int, keep: int, batch: int) -> Pruned:
    """Delete up to `batch` rows, inside a transaction: by age, then beyond the newest `keep`, then settled letters."""
    before = now - max_age_ms
    ids: list[int] = []
    files: set[str] = set()

    def delete(statement: str, **parameters: int) -> None:
        parameters["limit"] = batch - len(ids)
        if parameters["limit"] > 0:
            for job_id, *names in connection.execute(SQL[statement], parameters).fetchall():
                ids.append(job_id)
                files.update(name for name in names if name is not None)

    delete("prune_old", before=before)
    if len(ids) < batch:
        surplus = connection.execute(SQL["surplus_from"], {"keep": keep}).fetchone()
        if surplus is not None:
            delete("prune_surplus", finalized_at=surplus[0], id=surplus[1])
    delete("prune_letters", before=before)
    return Pruned(ids, unneeded_files(connection, files))
