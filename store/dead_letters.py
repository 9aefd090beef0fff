"""Dying, replay and discard; and how the dead are listed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from perdure.errors import InvalidArguments
from perdure.store.models import Buried
from perdure.store.pages import page
from perdure.store.statements import SQL
from perdure.store.verdicts import Problem, verdicts
from perdure.wire.data import DeadFilter, DeadView, Verdict

#: Above every time and every id: the page before the newest death.
NEWEST = 2**63 - 1

_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def bury(connection: sqlite3.Connection, graves: Sequence[Buried], now: int) -> list[tuple[int, int]]:
    """Move running jobs to the dead letters, inside a transaction: the (id, lease) of those whose lease is not held."""
    first = {grave.id: grave for grave in reversed(graves)}
    parameters = {"now": now, "outcomes": _encode(list(first.values())).decode()}
    connection.execute(SQL["bury"], parameters)
    gone = {job_id for (job_id,) in connection.execute(SQL["remove_buried"], parameters).fetchall()}
    return [(grave.id, grave.lease) for grave in graves if grave.id not in gone or first[grave.id] is not grave]


def replay(
    connection: sqlite3.Connection, ids: Sequence[int], set_args: str | None, who: str, now: int
) -> tuple[list[Verdict], list[str]]:
    """Give dead jobs another life, inside a transaction: the verdicts, and the queues that got them."""
    entry: dict[str, object] = {"at": now, "who": who, "action": "replay"}
    if set_args is not None:
        members(set_args, "what is to be set")
        entry["set_args"] = msgspec.Raw(set_args.encode())
    ids_json = _encode(ids).decode()
    parameters = {"ids": ids_json, "set_args": set_args, "now": now}
    replayed = dict(connection.execute(SQL["replay"], parameters).fetchall())
    if replayed:
        _resolve(connection, list(replayed), "replayed", entry, now)
    queues = sorted(set(replayed.values()))
    return verdicts(ids, replayed, _problems(connection, ids, len(replayed)), _why_not), queues


def discard(connection: sqlite3.Connection, ids: Sequence[int], who: str, now: int) -> list[Verdict]:
    """Resolve dead letters, inside a transaction."""
    entry: dict[str, object] = {"at": now, "who": who, "action": "discard"}
    discarded = _resolve(connection, ids, "discarded", entry, now)
    return verdicts(ids, discarded, _problems(connection, ids, len(discarded)), _why_not)


def merge_args(args: str, changes: str) -> str:
    """The members of `changes` put over those of `args`, both JSON objects; what is inside them is kept as it is."""
    return _encode(members(args, "the job's arguments") | members(changes, "what is to be set")).decode()


def members(text: str, what: str) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, undecoded. Raises InvalidArguments."""
    try:
        return _decode_members(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidArguments(f"{what} must be a JSON object: {error}") from error


def get_dead(connection: sqlite3.Connection, job_id: int) -> DeadView | None:
    """One dead letter."""
    row = connection.execute(SQL["get_dead"], {"id": job_id}).fetchone()
    return DeadView(*row) if row else None


def list_dead(connection: sqlite3.Connection, which: DeadFilter) -> list[DeadView]:
    """A page of dead letters, newest death first."""
    died_at, job_id = NEWEST, NEWEST
    if which.after is not None:
        row = connection.execute(SQL["dead_cursor"], {"id": which.after}).fetchone()
        if row is None:
            return []
        (died_at,), job_id = row, which.after
    if which.include_resolved:
        statement = "list_dead_all"
    elif which.fingerprint is not None:
        statement = "list_dead_alike"
    else:
        statement = "list_dead_open"
    parameters = {
        "died_at": died_at,
        "id": job_id,
        "queue": which.queue,
        "kind": which.kind,
        "fingerprint": which.fingerprint,
        "limit": which.limit,
    }
    return list(page(DeadView(*row) for row in connection.execute(SQL[statement], parameters)))


def _resolve(
    connection: sqlite3.Connection, ids: Sequence[int], resolution: str, entry: dict[str, object], now: int
) -> set[int]:
    parameters = {
        "resolution": resolution,
        "now": now,
        "entry": _encode(entry).decode(),
        "ids": _encode(ids).decode(),
    }
    return {job_id for (job_id,) in connection.execute(SQL["resolve"], parameters).fetchall()}


def _problems(connection: sqlite3.Connection, ids: Sequence[int], done: int) -> dict[int, str]:
    """How the letters stand, when not all was done."""
    if done == len(ids):
        return {}
    return dict(connection.execute(SQL["resolutions"], {"ids": _encode(ids).decode()}).fetchall())


def _why_not(job_id: int, resolution: str | None) -> Problem:
    if resolution is None:
        return Problem("NotFound", f"there is no dead letter {job_id}; `perdure dead list` shows those there are")
    if resolution == "dead":
        return Problem(
            "Duplicate", f"another unfinished job has the unique key of job {job_id}: wait for it or cancel it"
        )
    return Problem(
        "WrongState", f"dead letter {job_id} was {resolution} already; `perdure dead show {job_id}` tells when"
    )
