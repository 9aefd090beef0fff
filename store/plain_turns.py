"""Plain turns: those that only complete and claim, which is nearly all of them under load. See plain_turns.sql."""

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import chain, groupby
from operator import itemgetter

import msgspec

from perdure.store.claimed import read_claimed
from perdure.store.models import Committed, Turn
from perdure.store.statements import SQL

#: Leases that the outcomes of one statement name, at most: each number of them is a statement of its own, and those are
#: kept prepared. Outcomes name as many leases as turns have passed since their jobs were claimed: two or three.
MOST_LEASES = 16

_encode = msgspec.json.Encoder().encode
_LEASE = itemgetter(1)


def prepare_plain_turns(connection: sqlite3.Connection) -> None:
    """Give a connection what `carry_out` writes to. Once for each connection that commits turns."""
    for name in ("plain_turn_view", "plain_turn_complete", "plain_turn_results", "plain_turn_claim"):
        connection.execute(SQL[name])


def is_plain(turn: Turn) -> bool:
    """Whether `carry_out` can do it. Claims must all fit: none may depend on what another one finds."""
    special = (
        turn.batches or turn.promote or turn.shed or turn.spooled or turn.retried or turn.interrupted or turn.released
        or turn.parked or turn.postponed or turn.buried or turn.cancelled or turn.stopped
    )  # fmt: skip
    return not special and sum([claim.limit for claim in turn.claims]) <= turn.claim_total


def carry_out(connection: sqlite3.Connection, turn: Turn) -> Committed | None:
    """The whole turn in one statement, which is its transaction; None: its outcomes name too many leases for that.

    Raises sqlite3.IntegrityError when an outcome is void; nothing has happened then.
    """
    ended: list[tuple[int, int, str | None, str | None, int]] = [
        (turn.now, lease, _encode(ids).decode(), None, len(ids)) for lease, ids in turn.completed.items()
    ]
    for lease, group in groupby(sorted(turn.results, key=_LEASE), key=_LEASE):
        results = {job_id: text for job_id, _, text in group}
        ended.append((turn.now, lease, None, _encode(results).decode(), len(results)))
    if len(ended) > MOST_LEASES:
        return None
    statement = "\n".join([SQL["plain_turn"], *[SQL["plain_turn_ended"]] * len(ended)])
    connection.execute(statement, (turn.now, turn.lease, _encode(turn.claims).decode(), *chain.from_iterable(ended)))
    done = Committed()
    if turn.claims:
        done.claimed = read_claimed(connection, turn.lease, [claim.queue for claim in turn.claims])
        found = Counter([job.queue for job in done.claimed])
        done.drained = [claim.queue for claim in turn.claims if found[claim.queue] < claim.limit]
    return done
