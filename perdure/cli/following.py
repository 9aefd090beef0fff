"""Staying with a job: its output as it appears, and its end. Both outlast a restart of the daemon."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.session import Session, reconnect
from perdure.cli.text import clean, is_terminal
from perdure.errors import CallTimeout, DaemonUnreachable, PerdureError
from perdure.wire.control import JobEnd, LogPiece, ReadLog, WaitJobs

if TYPE_CHECKING:
    from perdure.config.settings import Settings

#: Between two looks at a log that has nothing new.
_POLL_SECONDS = 0.2
#: How long a daemon may be away while it is waited through: a restart with a drain takes its drain limit.
_AWAY_SECONDS = 60.0
#: One wait request: long, but so that a daemon that silently went away is noticed.
_WAIT_SECONDS = 600.0


class StillRunning(PerdureError):
    """The jobs have not ended within the time given. They go on."""


def print_log(session: Session, settings: Settings, job_id: int, *, follow: bool) -> Session:
    """Print a job's output to stdout, to its present end, or (`follow`) to the job's end.

    Returns the session, which is another one if the daemon was restarted meanwhile. Raises NotFound.
    """
    offset = 0
    while True:
        try:
            piece: LogPiece = session.request(ReadLog(job_id, offset))
        except DaemonUnreachable:
            if not follow or not session.live:
                raise
            session = _again(session, settings)
            continue
        if piece.offset > offset and offset == 0:
            click.echo(f"(the first {piece.offset} bytes were rotated away)", err=True)
        if piece.text:
            click.echo(clean(piece.text, lines=True), nl=False)
        # Backwards, too: a rotation makes the rest shorter.
        moved = piece.next_offset != offset
        offset = piece.next_offset
        if not moved:
            if piece.finished or not follow:
                return session
            time.sleep(_POLL_SECONDS)


def wait_for(
    session: Session, settings: Settings, ids: Sequence[int], seconds: float | None
) -> tuple[list[JobEnd], Session]:
    """How these jobs ended, in the order of `ids`; and the session, see `print_log`.

    Raises NotFound, and StillRunning when `seconds` (None: no limit) have passed.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = _WAIT_SECONDS if deadline is None else max(0.001, min(_WAIT_SECONDS, deadline - time.monotonic()))
        try:
            ends: list[JobEnd] = session.request(WaitJobs(list(ids)), timeout_s=left)
        except CallTimeout:
            if deadline is not None and time.monotonic() >= deadline:
                break
        except DaemonUnreachable:
            if not session.live:
                raise
            session = _again(session, settings)
        else:
            by_id = {end.id: end for end in ends}
            return [by_id[job_id] for job_id in ids if job_id in by_id], session
    raise StillRunning(
        f"{_names(ids)} not ended within the {seconds:g}s given; nothing was cancelled. Look with `perdure jobs`"
    )


def end_document(end: JobEnd) -> dict[str, Any]:
    """The end of a job as a JSON document."""
    import msgspec

    return {
        "id": end.id,
        "state": end.state,
        "result": None if end.result is None else msgspec.Raw(end.result.encode()),
        "error": end.error,
    }


def _again(session: Session, settings: Settings) -> Session:
    session.close()
    if is_terminal(sys.stderr):
        click.echo(f"the daemon has gone away; waiting up to {_AWAY_SECONDS:.0f}s for it to come back", err=True)
    return reconnect(settings, _AWAY_SECONDS)


def _names(ids: Sequence[int]) -> str:
    return f"job {ids[0]} has" if len(ids) == 1 else f"some of the {len(ids)} jobs have"
