"""Jobs that are put aside: what they wait for, and letting them go."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from perdure.store.models import ParkedJob
from perdure.store.runs import paused_queues
from perdure.store.statements import SQL

#: Sorts after every character: `prefix + LAST` is behind all texts that begin with `prefix`.
LAST = "\U0010ffff"
#: Comes before every job of a line.
_FRONT = ParkedJob(0, -1_000, "")


def unpark(connection: sqlite3.Connection, reasons: Sequence[str], limit: int) -> tuple[int, list[str]]:
    """Make parked jobs available, inside a transaction: how many, and their queues.

    Reason by reason, in order. The queues of a reason get an equal share of what is released; within a queue it goes by
    priority and age.
    """
    count = 0
    filled: set[str] = set()
    for reason in reasons:
        queues = _queues(connection, reason) if count < limit else []
        # A queue that has fewer than its share leaves more for the others; so the last ones are asked again.
        while queues and count < limit:
            share = -(-(limit - count) // len(queues))
            left = []
            for queue in queues:
                wanted = min(share, limit - count)
                parameters = {"reason": reason, "queue": queue, "limit": wanted}
                got = connection.execute(SQL["unpark"], parameters).rowcount if wanted else 0
                count += got
                if got:
                    filled.add(queue)
                if got == wanted:
                    left.append(queue)
            queues = left
    return count, sorted(filled)


def unpark_next(connection: sqlite3.Connection, reason: str, after: ParkedJob | None) -> ParkedJob | None:
    """Make the job behind `after` in its line available, inside a transaction; at the end of the line, the first."""
    paused = set(paused_queues(connection))
    queues = [queue for queue in _queues(connection, reason) if queue not in paused]
    for place in (after, _FRONT) if after is not None else (_FRONT,):
        parameters = {"reason": reason, "priority": place.priority, "after": place.id}
        rows = [connection.execute(SQL["next_parked"], {**parameters, "queue": queue}).fetchone() for queue in queues]
        found = min((ParkedJob(*row) for row in rows if row), key=lambda job: (job.priority, job.id), default=None)
        if found is not None:
            connection.execute(SQL["unpark_one"], {"id": found.id})
            return found
    return None


def parked_reasons(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """The different reasons with this prefix."""
    return [reason for (reason,) in connection.execute(SQL["parked_reasons"], _between(prefix))]


def parked_counts(connection: sqlite3.Connection, prefix: str) -> dict[str, int]:
    """Reason -> how many jobs."""
    return dict(connection.execute(SQL["parked_counts"], _between(prefix)).fetchall())


def _between(prefix: str) -> dict[str, str]:
    return {"prefix": prefix, "beyond": prefix + LAST}


def _queues(connection: sqlite3.Connection, reason: str) -> list[str]:
    return [queue for (queue,) in connection.execute(SQL["parked_queues"], {"reason": reason})]
