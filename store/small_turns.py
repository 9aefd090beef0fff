"""Plain turns of a few jobs: a statement for each, with its values as parameters.

A turn of one job takes SQLite twice as long by plain_turns.py: a view, its triggers and JSON are for many jobs at once.
A job that comes alone waits for nothing else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final, TypeAlias

from perdure.store.connection import transaction
from perdure.store.models import Committed, Turn
from perdure.store.new_jobs import NewJobs
from perdure.store.outcomes import StaleOutcome
from perdure.store.statements import SQL

#: Outcomes, new jobs and claims of a small turn, at most: one of each. With eight, the two ways cost SQLite the same,
#: and each statement is a chance to lose the GIL.
MOST_STEPS: Final = 3


#: A statement's name, and what it is given.
_Step: TypeAlias = tuple[str, tuple[object, ...] | dict[str, object]]


def is_small(turn: Turn) -> bool:
    """Whether `carry_out` may do this turn, which is a plain one."""
    ended = sum(map(len, turn.completed.values())) + len(turn.results)
    return ended + sum([len(batch.jobs) for batch in turn.batches]) + len(turn.claims) <= MOST_STEPS


def carry_out(connection: sqlite3.Connection, turn: Turn, new_jobs: NewJobs) -> Committed:
    """The whole turn in one transaction.

    What was claimed is still to be taken: `plain_turns.take_claimed`. Raises StaleOutcome when an outcome is void, or
    one of BATCH_ERRORS when a job cannot be stored (its unique key is taken, for instance); nothing has happened then.
    """
    done = Committed()
    steps = [*_ended(turn)]
    if turn.batches:
        rows, placed = new_jobs.insert_one_by_one(turn.batches, turn.now)
        steps += [("insert_one", row) for row in rows]
        done.placed = [*placed]
    for queue, limit in turn.claims:
        if limit > 0:
            steps.append(("claim", {"now": turn.now, "lease": turn.lease, "queue": queue, "limit": limit}))
    if len(steps) == 1:
        _take(connection, steps)  # a statement by itself is a transaction
    elif steps:
        transaction(connection, lambda connection: _take(connection, steps))
    return done


def _ended(turn: Turn) -> Iterator[_Step]:
    for lease, ids in turn.completed.items():
        for job_id in ids:
            yield "complete_one", {"now": turn.now, "id": job_id, "lease": lease}
    for job_id, lease, text in turn.results:
        yield "complete_one_with_result", {"now": turn.now, "id": job_id, "lease": lease, "result": text}


def _take(connection: sqlite3.Connection, steps: list[_Step]) -> None:
    """Carry out one after the other. Raises StaleOutcome when one of them ends a job whose lease is not held."""
    for statement, parameters in steps:
        changed = connection.execute(SQL[statement], parameters).rowcount
        if not changed and statement != "claim":
            raise StaleOutcome
