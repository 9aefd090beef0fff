"""Staying with a job: its output as it appears, and its end. Both outlast a restart of the daemon."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.session import Session, reconnect
from perdure.cli.text import clean, is_terminal, plural, size
from perdure.errors import CallTimeout, DaemonUnreachable, TimeGivenIsOver
from perdure.wire.control import GetJob, JobEnd, LogPiece, ReadLog, WaitJobs
from perdure.wire.heard import Heard, count_lines
from perdure.wire.streams import Emitted, LogText

if TYPE_CHECKING:
    from perdure.config.settings import Settings
    from perdure.wire.control import Subscribe
    from perdure.wire.streams import Entry, News, Skipped

#: How long a daemon may be away while it is waited through: a restart with a drain takes its drain limit.
_AWAY_SECONDS = 60.0
#: One wait request: long, but so that a daemon that silently went away is noticed.
_WAIT_SECONDS = 600.0
#: How long a daemon that was asked to wait may take to say what has ended, when the time given is over.
_LOOK_SECONDS = 2.0


class Stream:
    """The news of jobs, over restarts of the daemon: `for message in stream`; None says that it was restarted.

    A daemon that was restarted tells the stories so far again: what of them was heard is left out here, and what is
    missing between is fetched. `session` is the present one.
    """

    def __init__(self, session: Session, settings: Settings, request: Subscribe) -> None:
        self.session = session
        self._settings = settings
        self._request = request
        self._heard: dict[int, Heard] = {}

    def heard_of(self, job_id: int) -> Heard:
        """How far we are with a job."""
        return self._heard.setdefault(job_id, Heard())

    def forget(self, job_id: int) -> None:
        """It has ended."""
        self._heard.pop(job_id, None)

    def __iter__(self) -> Iterator[News | None]:
        while True:
            try:
                with self.session.subscription(self._request) as news:
                    for message in news:
                        yield from self._read(message)
                return
            except DaemonUnreachable:
                if not self.session.live:
                    raise
            self.session = _again(self.session, self._settings)
            yield None

    def _read(self, message: News) -> Iterator[News]:
        """What is new in it. Raises DaemonUnreachable after what was heard until then: it counts as shown."""
        told, message.entries = message.entries, []
        try:
            for entry in told:
                # One after the other: what came before a failure stays.
                message.entries.extend(self._new(entry))
        except DaemonUnreachable:
            message.ended = False
            yield message
            raise
        yield message

    def _new(self, entry: Entry) -> Iterator[Entry]:
        if not isinstance(entry, LogText | Emitted):
            yield entry
            return
        heard = self.heard_of(entry.id)
        if isinstance(entry, LogText) and (gap := heard.gap(entry)) is not None:
            for piece in _pieces(self.session, entry.id, *gap):
                heard.end = piece.next_offset
                yield LogText(entry.id, piece.text, count_lines(piece.text.encode()), True, piece.offset)
        new = heard.new(entry)
        if new is not None:
            yield new


def print_log(session: Session, settings: Settings, job_id: int, *, follow: bool) -> Session:
    """Print a job's output to stdout, to its present end, or (`follow`) to the job's end.

    Returns the session, which is another one if the daemon was restarted meanwhile. Raises NotFound.
    """
    if follow:
        return _follow_log(session, settings, job_id)
    offset = 0
    for piece in _pieces(session, job_id):
        if piece.offset > offset and offset == 0:
            click.echo(f"(the first {piece.offset} bytes were rotated away)", err=True)
        offset = piece.next_offset
        click.echo(clean(piece.text, lines=True), nl=False)
    return session


def _pieces(session: Session, job_id: int, offset: int = 0, until: int | None = None) -> Iterator[LogPiece]:
    """A job's log, as it is now."""
    while True:
        piece: LogPiece = session.request(ReadLog(job_id, offset, until))
        if not piece.text:
            return
        yield piece
        offset = piece.next_offset


def _follow_log(session: Session, settings: Settings, job_id: int) -> Session:
    from perdure.wire.control import Subscribe

    stream = Stream(session, settings, Subscribe([job_id], topics=["log"]))
    stream.heard_of(job_id).end = 0  # of a large log, too, all is wanted
    for message in stream:
        if message is None:
            continue
        tell_skipped(message.skipped)
        for entry in message.entries:
            assert isinstance(entry, LogText)
            click.echo(clean(entry.text, lines=True), nl=False)
    return stream.session


def tell_skipped(skipped: Skipped) -> None:
    """Say on stderr that something is missing here."""
    text = skipped_words(skipped)
    if text:
        click.echo(text, err=True)


def skipped_words(skipped: Skipped) -> str:
    """ "(1,204 log lines skipped)", or nothing."""
    parts = [
        plural(count, word)
        for count, word in (
            (skipped.states, "state change"),
            (skipped.lines, "log line"),
            (skipped.values, "value"),
        )
        if count
    ]
    return f"({' and '.join(parts)} skipped)" if parts else ""


def wait_for(
    session: Session, settings: Settings, ids: Sequence[int], seconds: float | None
) -> tuple[list[JobEnd], Session]:
    """How these jobs ended, in the order of `ids`; and the session, see `print_log`.

    When `seconds` (None: no limit) have passed, only those that have ended by then. Raises NotFound.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    ends: list[JobEnd] = []
    while True:
        left = _WAIT_SECONDS if deadline is None else max(0.001, min(_WAIT_SECONDS, deadline - time.monotonic()))
        try:
            ends = session.request(WaitJobs(list(ids)), timeout_s=left)
        except CallTimeout:
            if deadline is not None and time.monotonic() >= deadline:
                ends = _ended_by_now(session, ids)
                break
        except DaemonUnreachable:
            if not session.live:
                raise
            session = _again(session, settings)
        else:
            break
    by_id = {end.id: end for end in ends}
    return [by_id[job_id] for job_id in ids if job_id in by_id], session


def _ended_by_now(session: Session, ids: Sequence[int]) -> list[JobEnd]:
    """How those ended that need not be waited for; none where the daemon does not answer, whose time is over as well.

    What is not among the jobs is dead, or was never there. Raises NotFound.
    """
    with contextlib.suppress(CallTimeout, DaemonUnreachable):
        views = {job_id: session.request(GetJob(job_id), timeout_s=_LOOK_SECONDS) for job_id in ids}
        ended = [job_id for job_id, view in views.items() if view is None or view.finalized_at is not None]
        ends: list[JobEnd] = session.request(WaitJobs(ended), timeout_s=_LOOK_SECONDS) if ended else []
        return ends
    return []


def time_is_over(ids: Sequence[int], seconds: float) -> TimeGivenIsOver:
    """The error of a wait: these jobs have not ended."""
    if len(ids) == 1:
        who, look = f"job {ids[0]} has", f"perdure explain {ids[0]}"
    else:
        some = ", ".join(map(str, ids[:5])) + (" …" if len(ids) > 5 else "")
        who, look = f"{len(ids):,} jobs ({some}) have", f"perdure explain {ids[0]}"
    return TimeGivenIsOver(f"{who} not ended within the {seconds:g}s given; nothing was cancelled. Look with `{look}`")


def end_document(end: JobEnd) -> dict[str, Any]:
    """The end of a job as a JSON document."""
    import msgspec

    return {
        "id": end.id,
        "state": end.state,
        "result": None if end.result is None else msgspec.Raw(end.result.encode()),
        "error": end.error,
        **({} if end.blob is None else {"blob": end.blob}),
    }


def end_text(end: JobEnd) -> str | None:
    """The result of a job, for a person."""
    if end.blob is None:
        return end.result
    return f"a result of {size(end.blob.size)}: perdure result {end.id}"


def _again(session: Session, settings: Settings) -> Session:
    session.close()
    if is_terminal(sys.stderr):
        click.echo(f"the daemon has gone away; waiting up to {_AWAY_SECONDS:.0f}s for it to come back", err=True)
    return reconnect(settings, _AWAY_SECONDS)
