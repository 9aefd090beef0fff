"""Cancel, retry: what people ask for about jobs that do not run."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from perdure.store.statements import SQL
from perdure.store.states import CANCELLED, PARKED, RUNNING, TRANSITIONS
from perdure.store.verdicts import Problem, verdicts
from perdure.wire.data import Verdict

_encode = msgspec.json.Encoder().encode


def cancel(connection: sqlite3.Connection, ids: Sequence[int], now: int, abandoned: bool = False) -> list[Verdict]:
    """Cancel jobs that do not run, inside a transaction; `abandoned`: and those that nobody runs any more."""
    parameters = {"ids": _encode(ids).decode(), "now": now, "abandoned": abandoned}
    cancelled = {job_id for (job_id,) in connection.execute(SQL["cancel"], parameters).fetchall()}
    return verdicts(ids, cancelled, _states(connection, ids, len(cancelled)), _why_not_cancelled)


def retry(connection: sqlite3.Connection, ids: Sequence[int], now: int) -> tuple[list[Verdict], list[str]]:
    """Make jobs available with a fresh budget, inside a transaction: the verdicts, and the queues that got them."""
    parameters = {"ids": _encode(ids).decode(), "now": now}
    retried = dict(connection.execute(SQL["retry_now"], parameters).fetchall())
    queues = sorted(set(retried.values()))
    return verdicts(ids, retried, _states(connection, ids, len(retried)), _why_not_retried), queues


def _states(connection: sqlite3.Connection, ids: Sequence[int], done: int) -> dict[int, str]:
    """Where the jobs are, when not all was done."""
    if done == len(ids):
        return {}
    return dict(connection.execute(SQL["states"], {"ids": _encode(ids).decode()}).fetchall())


def _why_not_cancelled(job_id: int, state: str | None) -> Problem:
    if state is None:
        return _unknown(job_id)
    if state == "dead":
        return Problem("WrongState", f"job {job_id} is dead; `perdure dead discard {job_id}` puts it aside")
    if state == RUNNING:
        return Problem("WrongState", f"job {job_id} is on its way from one worker to the next; cancel it once more")
    word = "cancelled already" if state == CANCELLED else state
    return Problem("WrongState", f"job {job_id} is {word}: there is nothing to cancel")


def _why_not_retried(job_id: int, state: str | None) -> Problem:
    if state is None:
        return _unknown(job_id)
    if state == "dead":
        return Problem("WrongState", f"job {job_id} is dead; `perdure dead replay {job_id}` gives it another life")
    if state in TRANSITIONS["retry_now"][0]:
        return Problem(
            "Duplicate", f"another unfinished job has the unique key of job {job_id}: wait for it or cancel it"
        )
    if state == PARKED:
        return Problem("WrongState", f"job {job_id} is parked; `perdure show {job_id}` tells what it waits for")
    return Problem("WrongState", f"job {job_id} is {state} already")


def _unknown(job_id: int) -> Problem:
    return Problem("NotFound", f"there is no job {job_id}; finished jobs are forgotten after the retention time")
