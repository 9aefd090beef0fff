"""Plain turns: jobs that completed, new jobs and claims, which is nearly all there is to do. See plain_turns.sql."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, groupby
from operator import attrgetter, itemgetter

import msgspec

from perdure.store.claimed import read_claimed
from perdure.store.models import Committed, Turn
from perdure.store.new_jobs import NewJobs
from perdure.store.statements import SQL

#: Leases that the outcomes of one statement name, at most: each number of them is a statement of its own, and those are
#: kept prepared. Outcomes name as many leases as turns have passed since their jobs were claimed: two or three.
MOST_LEASES = 16

_encode = msgspec.json.Encoder().encode
_LEASE = itemgetter(1)
#: All that a plain turn has nothing of. By what it may have: what turns learn to carry later is not forgotten here.
_PLAIN = ("now", "lease", "completed", "results", "batches", "claims", "claim_total")
_SPECIAL = attrgetter(*(field.name for field in fields(Turn) if field.name not in _PLAIN))
_AND = "\nUNION ALL\n"


def prepare_plain_turns(connection: sqlite3.Connection) -> None:
    """Give a connection what plain turns are written to. Once for each connection that commits turns."""
    connection.execute(SQL["plain_turn_view"])
    for trigger in ("plain_turn_complete", "plain_turn_results", "plain_turn_new", "plain_turn_claim"):
        connection.execute(SQL[trigger])


def is_plain(turn: Turn) -> bool:
    """Whether `carry_out` may do it. Claims must all fit: none may depend on what another one finds."""
    return not any(_SPECIAL(turn)) and sum([claim.limit for claim in turn.claims]) <= turn.claim_total


def carry_out(connection: sqlite3.Connection, turn: Turn, new_jobs: NewJobs) -> Committed | None:
    """The whole turn in one statement, which is its transaction; None: it has too many parts, or unique keys.

    What was claimed is still to be taken: `take_claimed`. Raises one of BATCH_ERRORS when an outcome is void or a new
    job cannot be stored; nothing has happened then.
    """
    ended = [*_ended(turn)]
    if len(ended) > MOST_LEASES:
        return None
    done = Committed()
    parts, parameters = [SQL["plain_turn_of_ended"]] * len(ended), [*chain.from_iterable(ended)]
    if turn.batches:
        inserted = new_jobs.insert_plainly(turn.batches, turn.now)
        if inserted is None:
            return None
        alike, done.placed = inserted[0], [*inserted[1]]
        parts += [SQL["plain_turn_of_new"]] * len(alike)
        for shape, args in alike:
            parameters += (turn.now, shape, args)
    if turn.claims:
        parts.append(SQL["plain_turn_of_claims"])
        parameters += (turn.now, turn.lease, _encode(turn.claims).decode())
    if parts:
        connection.execute(f"{SQL['plain_turn']}\n{_AND.join(parts)}", parameters)
    return done


def take_claimed(connection: sqlite3.Connection, turn: Turn, done: Committed) -> None:
    """Put into `done` what a turn that was carried out has claimed, and which queues have no more."""
    if turn.claims:
        done.claimed = read_claimed(connection, turn.lease, [claim.queue for claim in turn.claims])
        found = Counter([job.queue for job in done.claimed])
        done.drained = [claim.queue for claim in turn.claims if found[claim.queue] < claim.limit]


def _ended(turn: Turn) -> Iterator[tuple[object, ...]]:
    """The parameters of plain_turn_of_ended, for each lease."""
    for lease, ids in turn.completed.items():
        yield turn.now, lease, _encode(ids).decode(), None, len(ids)
    for lease, group in groupby(sorted(turn.results, key=_LEASE), key=_LEASE):
        rows = list(group)
        results = {job_id: text for job_id, _, text in rows}
        yield turn.now, lease, None, _encode(results).decode(), len(rows)  # who is named twice has a void outcome
