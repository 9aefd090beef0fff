"""Starts of the daemon, recovery of what the last one left, and what it declares: kinds and paused queues."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

import msgspec

from perdure.fingerprint import fingerprint
from perdure.store.models import Recovered, RunInfo
from perdure.store.statements import SQL
from perdure.wire.data import ErrorData, KindSpec

#: Former runs that stay on record.
KEPT_RUNS = 1_000
#: What stands in the record of a job that was executing when the daemon or the machine went down.
LOST = ErrorData("JobInterrupted", "the daemon ended while it executed this job", True)
#: … and in that of one which was just being cancelled.
STOPPED = "cancelled; the daemon ended before the job did"

_encode = msgspec.json.Encoder().encode
_decode_kind = msgspec.json.Decoder(KindSpec).decode


def begin_run(connection: sqlite3.Connection, pid: int, boot_id: str, now: int) -> RunInfo:
    """Record a start, inside a transaction. What was before the first one counts as clean, and not of this boot."""
    last = connection.execute(SQL["last_run"]).fetchone()
    parameters = {"pid": pid, "boot_id": boot_id, "now": now}
    run_id = connection.execute(SQL["begin_run"], parameters).lastrowid
    assert run_id is not None
    connection.execute(SQL["forget_runs"], {"id": run_id, "keep": KEPT_RUNS})
    if last is None:
        return RunInfo(run_id, previous_clean=True, previous_same_boot=False)
    previous_boot, stopped_at = last
    return RunInfo(run_id, previous_clean=stopped_at is not None, previous_same_boot=previous_boot == boot_id)


def end_run(connection: sqlite3.Connection, run_id: int, now: int) -> None:
    """Record a clean end."""
    connection.execute(SQL["end_run"], {"id": run_id, "now": now})


def recover(
    connection: sqlite3.Connection,
    executing: Collection[tuple[int, int]] | None,
    now: int,
    unwanted: Collection[tuple[int, int]] = (),
) -> Recovered:
    """Put running jobs back, inside a transaction: killed half-way, it is done from the start by the next one."""
    parameters = {
        "now": now,
        "executing": None if executing is None else _encode(list(executing)).decode(),
        "error_type": LOST.type,
        "message": LOST.message,
        "fingerprint": fingerprint(LOST),
    }
    stopped = {"now": now, "unwanted": _encode(list(unwanted)).decode(), "message": STOPPED}
    cancelled = connection.execute(SQL["recover_stop"], stopped).rowcount if unwanted else 0
    connection.execute(SQL["recover_bury"], parameters)
    buried = connection.execute(SQL["recover_remove_buried"], parameters).rowcount
    interrupted = connection.execute(SQL["recover_interrupt"], parameters).rowcount
    released = connection.execute(SQL["recover_release"]).rowcount
    return Recovered(interrupted, released, buried, cancelled)


def save_kinds(connection: sqlite3.Connection, kinds: Sequence[KindSpec], now: int) -> None:
    """Replace what the loaded handlers declare, inside a transaction."""
    connection.execute(SQL["forget_kinds"])
    connection.execute(SQL["save_kinds"], {"kinds": _encode(kinds).decode(), "now": now})


def load_kinds(connection: sqlite3.Connection) -> list[KindSpec]:
    """What the handlers loaded last declare."""
    return [_decode_kind(spec) for (spec,) in connection.execute(SQL["kinds"])]


def pause(connection: sqlite3.Connection, queue: str, who: str, now: int) -> None:
    """Record that a queue is paused; a second time changes nothing."""
    connection.execute(SQL["pause_queue"], {"queue": queue, "who": who, "now": now})


def resume(connection: sqlite3.Connection, queue: str) -> None:
    """Record that a queue is not paused any more."""
    connection.execute(SQL["resume_queue"], {"queue": queue})


def paused_queues(connection: sqlite3.Connection) -> list[str]:
    """Queues that are paused."""
    return [name for (name,) in connection.execute(SQL["paused_queues"])]
