"""Writes the outcomes of a turn, each only if its lease is still held."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Protocol, TypeVar

import msgspec

from perdure.fingerprint import fingerprint
from perdure.store.dead_letters import bury
from perdure.store.models import Buried, Committed, Interrupted, Retried, Turn
from perdure.store.statements import SQL
from perdure.wire.data import ErrorData

_encode = msgspec.json.Encoder().encode
_LEASE = itemgetter(1)


class _Outcome(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def lease(self) -> int: ...


OutcomeT = TypeVar("OutcomeT", bound=_Outcome)


class StaleOutcome(Exception):
    """Some outcome of the turn is void; the quick way does not say which, the careful way does."""


def write_outcomes(connection: sqlite3.Connection, turn: Turn, done: Committed, careful: bool) -> set[str]:
    """Write all outcomes of `turn`; void ones go to `done.stale`. Returns the queues that got available jobs.

    Not `careful`: raises StaleOutcome when a completion is void; then the caller rolls back and comes again. So the way
    that is taken 100,000 times a second needs no answer from SQLite but a number.
    """
    filled: set[str] = set()
    for lease, ids in turn.completed.items():
        _complete(connection, turn.now, lease, ids, done, careful)
    if turn.results:
        _complete_with(connection, "complete_with_results", turn.now, turn.results, done, careful)
    if turn.spooled:
        _complete_with(connection, "complete_with_blobs", turn.now, turn.spooled, done, careful)
    graves = list(turn.buried)
    if turn.retried:
        out_of_attempts = _apply(connection, "retry_later", turn.now, turn.retried)
        graves += map(_out_of_attempts, out_of_attempts)
    if turn.postponed:
        done.stale += _keys(_apply(connection, "postpone", turn.now, turn.postponed))
    if turn.interrupted:
        out_of_interruptions = _apply(connection, "interrupt", turn.now, turn.interrupted, filled)
        graves += map(_out_of_interruptions, out_of_interruptions)
    if turn.released:
        done.stale += _keys(_apply(connection, "release", turn.now, turn.released, filled))
    if turn.parked:
        done.stale += _keys(_apply(connection, "park", turn.now, turn.parked))
    if graves:
        done.stale += bury(connection, graves, turn.now)
    if turn.cancelled:
        done.stale += _keys(_apply(connection, "cancel_claimed", turn.now, turn.cancelled))
    if turn.stopped:
        done.stale += _keys(_apply(connection, "stop", turn.now, turn.stopped))
    return filled


def _complete(
    connection: sqlite3.Connection, now: int, lease: int, ids: list[int], done: Committed, careful: bool
) -> None:
    if careful:
        done.stale += ((job_id, lease) for job_id in _void(connection, lease, ids))
    parameters = {"now": now, "lease": lease, "ids": _encode(ids).decode()}
    updated = connection.execute(SQL["complete"], parameters).rowcount
    if updated != len(ids) and not careful:
        raise StaleOutcome


def _complete_with(
    connection: sqlite3.Connection,
    statement: str,
    now: int,
    outcomes: Sequence[tuple[int, int, str]],
    done: Committed,
    careful: bool,
) -> None:
    for lease, group in groupby(sorted(outcomes, key=_LEASE), key=_LEASE):
        results = list(group)
        if careful:
            done.stale += ((job_id, lease) for job_id in _void(connection, lease, [job_id for job_id, _, _ in results]))
        by_id = {job_id: text for job_id, _, text in results}
        parameters = {"now": now, "lease": lease, "outcomes": _encode(by_id).decode()}
        updated = connection.execute(SQL[statement], parameters).rowcount
        if updated != len(results) and not careful:
            raise StaleOutcome


def _void(connection: sqlite3.Connection, lease: int, ids: list[int]) -> Iterator[int]:
    """Those of `ids` that `lease` does not hold, and what is named a second time."""
    held = {job_id for (job_id,) in connection.execute(SQL["held"], {"lease": lease, "ids": _encode(ids).decode()})}
    for job_id in ids:
        if job_id in held:
            held.remove(job_id)
        else:
            yield job_id


def _apply(
    connection: sqlite3.Connection,
    statement: str,
    now: int,
    outcomes: Sequence[OutcomeT],
    filled: set[str] | None = None,
) -> list[OutcomeT]:
    """Run a statement over outcomes; returns those that it did not apply to."""
    parameters = {"now": now, "outcomes": _encode(outcomes).decode()}
    applied = set()
    for job_id, *queue in connection.execute(SQL[statement], parameters).fetchall():
        applied.add(job_id)
        if filled is not None:
            filled.update(queue)
    left = []
    for outcome in outcomes:
        if outcome.id in applied:
            applied.remove(outcome.id)
        else:
            left.append(outcome)
    return left


def _keys(outcomes: Sequence[OutcomeT]) -> Iterator[tuple[int, int]]:
    return ((outcome.id, outcome.lease) for outcome in outcomes)


def _out_of_attempts(outcome: Retried) -> Buried:
    """The budgets hold here, too: asked to retry a job that has no attempt left, the store buries it."""
    name = fingerprint(_error(outcome.error_json))
    return Buried(outcome.id, outcome.lease, "attempts", outcome.error_json, name, False)


def _out_of_interruptions(outcome: Interrupted) -> Buried:
    name = fingerprint(_error(outcome.error_json))
    return Buried(outcome.id, outcome.lease, "interruptions", outcome.error_json, name, True)


def _error(error_json: str) -> ErrorData:
    try:
        return msgspec.json.decode(error_json, type=ErrorData)
    except msgspec.DecodeError:
        return ErrorData("unknown", error_json)
