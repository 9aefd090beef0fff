"""What happens to jobs, in lines: on a terminal with bars below them, in a pipe without."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import click
import msgspec

from perdure.cli.bars import Bars, progress_text
from perdure.cli.following import skipped_words
from perdure.cli.overlap import Overlap
from perdure.cli.text import clean, paint, paint_state
from perdure.wire.streams import Emitted, Entry, LogText, News, Progress, Skipped, StateChange

#: In a pipe, progress of a job is printed no more often than this, in seconds.
_PROGRESS_SECONDS = 5.0
_NOTHING = Skipped()


class Shown:
    """What was shown of one job: the stories are told again after a restart of the daemon."""

    def __init__(self) -> None:
        self.lines: Overlap[str] = Overlap()
        self.values: Overlap[tuple[int, str]] = Overlap()
        self.state: tuple[str, int, int] | None = None
        self.progress_at = -_PROGRESS_SECONDS

    def restarted(self) -> None:
        """The daemon was restarted."""
        self.lines.restarted()
        self.values.restarted()


class Memory:
    """Takes messages, and gives what of them is new."""

    def __init__(self) -> None:
        self._shown: dict[int, Shown] = {}

    def of(self, job_id: int) -> Shown:
        """What was shown of this job."""
        return self._shown.setdefault(job_id, Shown())

    def restarted(self) -> None:
        """The daemon was restarted."""
        for shown in self._shown.values():
            shown.restarted()

    def forget(self, ids: Iterable[int]) -> None:
        """These have ended: whoever follows a queue for weeks must not remember all of its jobs."""
        for job_id in ids:
            self._shown.pop(job_id, None)

    def new(self, entry: Entry) -> Entry | None:
        """The part of an entry that was not shown."""
        shown = self.of(entry.id)
        match entry:
            case LogText():
                lines = entry.text.splitlines(keepends=True)
                new = shown.lines.earlier(lines) if entry.earlier else shown.lines.live(lines)
                return LogText(entry.id, "".join(new), len(new), entry.earlier) if new else None
            case Emitted():
                values = [(entry.number, entry.value)]
                return entry if (shown.values.earlier(values) if entry.earlier else shown.values.live(values)) else None
            case StateChange():
                state = (entry.state, entry.attempt, entry.at)
                known, shown.state = shown.state == state, state
                return None if known else entry
        return entry


class Lines:
    """Prints for people. `alone`: only one job is followed, so its lines need not say whose they are."""

    def __init__(self, memory: Memory, *, alone: bool, bars: bool) -> None:
        self._memory = memory
        self._alone = alone
        self._bars = Bars() if bars else None

    def show(self, message: News) -> None:
        """Print what is new in a message."""
        lines = [line for entry in message.entries for line in self._lines(entry)]
        if message.skipped != _NOTHING:
            lines.insert(0, paint(skipped_words(message.skipped), dim=True))
        text = "".join(f"{line}\n" for line in lines)
        if self._bars is not None:
            text = self._bars.erase() + text + self._bars.draw()
        if text:
            click.echo(text, nl=False)

    def _lines(self, entry: Entry) -> Iterator[str]:
        new = self._memory.new(entry)
        match new:
            case LogText(job_id, text):
                prefix = "" if self._alone else paint(f"{job_id} | ", dim=True)
                yield from (f"{prefix}{clean(line, lines=True)}" for line in text.removesuffix("\n").split("\n"))
            case Emitted(job_id, value, number):
                yield f"{job_id} = {number}: {clean(value)}"
            case Progress():
                yield from self._progress(new)
            case StateChange():
                if new.state != "running" and self._bars is not None:
                    self._bars.drop(new.id)
                yield _state_line(new)

    def _progress(self, progress: Progress) -> Iterator[str]:
        if self._bars is not None:
            self._bars.put(progress)
            return
        shown, now = self._memory.of(progress.id), time.monotonic()
        if now >= shown.progress_at + _PROGRESS_SECONDS:
            shown.progress_at = now
            yield f"{progress.id} {progress_text(progress)}"


class Documents:
    """Prints one JSON object a line."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def show(self, message: News) -> None:
        """Print what is new in a message."""
        documents = [_document(new) for entry in message.entries if (new := self._memory.new(entry)) is not None]
        if message.skipped != _NOTHING:
            documents.insert(0, {"type": "skipped", **msgspec.structs.asdict(message.skipped)})
        if documents:
            click.echo(b"\n".join(map(msgspec.json.encode, documents)))


def _state_line(change: StateChange) -> str:
    detail = ""
    if change.error:
        detail = f": {clean(change.error)}"
    elif change.result is not None:
        detail = f": {clean(change.result)}"
    elif change.state == "running":
        detail = f", attempt {change.attempt}"
    kind = f"{change.kind} " if change.kind else ""
    return f"{change.id} {kind}{paint_state(change.state)}{detail}"


def _document(entry: Entry) -> dict[str, Any]:
    fields = {"type": str(entry.__struct_config__.tag), **msgspec.structs.asdict(entry)}
    for name in ("result", "value"):
        if isinstance(fields.get(name), str):
            fields[name] = msgspec.Raw(fields[name].encode())
    return fields
