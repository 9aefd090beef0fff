"""Shedding: what is too much for a full queue goes to the dead letters, in the transaction that brings the new jobs."""

from __future__ import annotations

import sqlite3

import msgspec

from perdure.fingerprint import fingerprint
from perdure.store.models import Committed, Shed, Turn
from perdure.store.statements import SQL
from perdure.wire.data import ErrorData

_encode = msgspec.json.Encoder().encode


def shed_surplus(connection: sqlite3.Connection, turn: Turn, done: Committed) -> None:
    """Shed what the turn says, into `done.shed`, and mark it in `done.placed`, which has the turn's new jobs."""
    for shed in turn.shed:
        surplus = shed.surplus - _not_in(turn, done, shed.queue) + shed.known
        if surplus > 0:
            done.shed += ((job_id, shed.queue) for job_id in _shed(connection, shed, surplus, turn.now))
    gone = {job_id for job_id, _ in done.shed}
    if gone:
        for places in done.placed:
            if not isinstance(places, Exception):
                for place in places:
                    place.shed = place.id in gone


def _not_in(turn: Turn, done: Committed, queue: str) -> int:
    """How many of the new jobs did not go in, as duplicates, or because their batch broke a rule: nothing need go for
    them."""
    count = 0
    for batch, places in zip(turn.batches, done.placed, strict=True):
        if isinstance(places, Exception):
            count += sum([job.queue == queue for job in batch.jobs])
        else:
            pairs = zip(batch.jobs, places, strict=True)
            count += sum([place.duplicate and job.queue == queue for job, place in pairs])
    return count


def _shed(connection: sqlite3.Connection, shed: Shed, surplus: int, now: int) -> list[int]:
    rows = connection.execute(SQL["least_urgent"], {"queue": shed.queue, "surplus": surplus}).fetchall()
    ids = [job_id for (job_id,) in rows]
    # All that one queue has shed is one group, whatever the numbers in the message are.
    name = fingerprint(ErrorData("shed", shed.queue))
    parameters = {"ids": _encode(ids).decode(), "now": now, "error": shed.error_json, "fingerprint": name}
    connection.execute(SQL["shed"], parameters)
    connection.execute(SQL["remove_shed"], parameters)
    return ids
