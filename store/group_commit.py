"""The group commit: outcomes, due jobs, new jobs and claims in one transaction."""

from __future__ import annotations

import sqlite3

from perdure.store import plain_turns, small_turns
from perdure.store.claimed import read_claimed
from perdure.store.connection import transaction
from perdure.store.models import Committed, Turn
from perdure.store.new_jobs import BATCH_ERRORS, NewJobs
from perdure.store.outcomes import StaleOutcome, write_outcomes
from perdure.store.shed import shed_surplus
from perdure.store.statements import SQL

#: Jobs that one turn promotes: about 20 ms of work. What is left is due in the next turn.
PROMOTE_LIMIT = 5_000


def commit_turn(connection: sqlite3.Connection, turn: Turn, new_jobs: NewJobs) -> Committed:
    """Carry a turn out: the quick way, and when something in it is void or wrong, all of it again the careful way."""
    last_id = new_jobs.last_id
    try:
        done = None
        if plain_turns.is_plain(turn):
            quickly = small_turns.carry_out if small_turns.is_small(turn) else plain_turns.carry_out
            done = quickly(connection, turn, new_jobs)
        if done is None:
            return transaction(connection, lambda connection: _carry_out(connection, turn, new_jobs, careful=False))
    except (StaleOutcome, *BATCH_ERRORS):
        new_jobs.last_id = last_id
    except sqlite3.Error:  # it was undone; after any other error that is not known, and a gap between ids does no harm
        new_jobs.last_id = last_id
        raise
    else:  # it is on disk: whatever goes wrong from here on, it must not be carried out again
        plain_turns.take_claimed(connection, turn, done)
        return done
    return transaction(connection, lambda connection: _carry_out(connection, turn, new_jobs, careful=True))


def _carry_out(connection: sqlite3.Connection, turn: Turn, new_jobs: NewJobs, *, careful: bool) -> Committed:
    done = Committed()
    filled = write_outcomes(connection, turn, done, careful)
    if turn.promote:
        parameters = {"now": turn.now, "limit": PROMOTE_LIMIT}
        filled.update(queue for (queue,) in connection.execute(SQL["promote"], parameters).fetchall())
    if turn.batches:
        if careful:
            done.placed = new_jobs.insert_apart(connection, turn.batches, turn.now)
        else:
            done.placed = [*new_jobs.insert(connection, turn.batches, turn.now)]
    if turn.shed:
        shed_surplus(connection, turn, done)
    if turn.promote:
        due = connection.execute(SQL["next_due"]).fetchone()
        done.next_due = due[0] if due else None
    done.filled = sorted(filled)
    _claim(connection, turn, done)
    return done


def _claim(connection: sqlite3.Connection, turn: Turn, done: Committed) -> None:
    """Claim queue by queue, in the order of the turn; within a queue by priority and age."""
    room = turn.claim_total
    queues: list[str] = []
    for queue, wanted in turn.claims:
        limit = min(wanted, room)
        if limit <= 0:
            continue
        parameters = {"now": turn.now, "lease": turn.lease, "queue": queue, "limit": limit}
        count = connection.execute(SQL["claim"], parameters).rowcount
        if count:
            queues.append(queue)
        room -= count
        if count < limit:
            done.drained.append(queue)
    if queues:
        done.claimed = read_claimed(connection, turn.lease, queues)
