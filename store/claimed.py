"""What a turn has claimed, as rows for the supervisor."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter

import msgspec

from perdure.store.models import ClaimedJob
from perdure.store.statements import SQL

_DECODER = msgspec.json.Decoder(list[ClaimedJob])
_PRIORITY_AND_AGE = attrgetter("priority", "id")


def read_claimed(connection: sqlite3.Connection, lease: int, queues: Sequence[str]) -> list[ClaimedJob]:
    """The running jobs of a lease, queue by queue as in `queues`; within a queue by priority and age."""
    claimed = _read(connection, {"lease": lease})
    # They come by id. Most turns know one priority, and looking costs a tenth of sorting.
    if len({job.priority for job in claimed}) > 1:
        claimed.sort(key=_PRIORITY_AND_AGE)
    if len(queues) > 1:
        order = {queue: position for position, queue in enumerate(queues)}
        claimed.sort(key=lambda job: order[job.queue])
    return claimed


def _read(connection: sqlite3.Connection, parameters: dict[str, int]) -> list[ClaimedJob]:
    try:
        (text,) = connection.execute(SQL["claimed"], parameters).fetchone()
        return _DECODER.decode(text)
    except sqlite3.DataError:  # longer than a text can be in SQLite, 10^9 bytes: then a text for each job
        texts = connection.execute(f"{SQL['claimed']} GROUP BY id", parameters).fetchall()
        return [job for (text,) in texts for job in _DECODER.decode(text)]
