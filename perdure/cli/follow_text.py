"""What happens to jobs, in lines: on a terminal with bars below them, in a pipe without."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from perdure.cli.bars import Bars, progress_text
from perdure.cli.following import skipped_words
from perdure.cli.text import clean, paint, paint_state
from perdure.wire.streams import Emitted, Entry, LogText, News, Progress, Skipped, StateChange

#: In a pipe, progress of a job is printed no more often than this, in seconds.
_PROGRESS_SECONDS = 5.0
_NOTHING = Skipped()
#: Fields of entries that are of no use to those who read JSON.
_INNER = ("raw", "since")


class Shown:
    """What was shown of one job."""

    def __init__(self) -> None:
        self.state: tuple[str, int] | None = None
        #: The daemon was restarted since: it begins with the state that the job is in.
        self.doubtful = False
        self.progress_at = -_PROGRESS_SECONDS


class Memory:
    """Remembers the states that were shown: the last one is told again after a restart of the daemon."""

    def __init__(self) -> None:
        self._shown: dict[int, Shown] = {}

    def of(self, job_id: int) -> Shown:
        """What was shown of this job."""
        return self._shown.setdefault(job_id, Shown())

    def restarted(self) -> None:
        """The daemon was restarted."""
        for shown in self._shown.values():
            shown.doubtful = True

    def forget(self, job_id: int) -> None:
        """It has ended."""
        self._shown.pop(job_id, None)

    def is_new(self, entry: Entry) -> bool:
        """Whether this was not shown yet."""
        if not isinstance(entry, StateChange):
            return True
        shown = self.of(entry.id)
        state = entry.state, entry.attempt
        known = shown.doubtful and shown.state == state
        shown.state, shown.doubtful = state, False
        return not known


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
        if not self._memory.is_new(entry):
            return
        match entry:
            case LogText(job_id, text):
                prefix = "" if self._alone else paint(f"{job_id} | ", dim=True)
                yield from (f"{prefix}{clean(line, lines=True)}" for line in text.removesuffix("\n").split("\n"))
            case Emitted(job_id, value, number):
                yield f"{job_id} = {number}: {clean(value)}"
            case Progress():
                yield from self._progress(entry)
            case StateChange():
                if entry.state != "running" and self._bars is not None:
                    self._bars.drop(entry.id)
                yield _state_line(entry)

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
        documents = [_document(entry) for entry in message.entries if self._memory.is_new(entry)]
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
    for name in _INNER:
        fields.pop(name, None)
    for name in ("result", "value"):
        if isinstance(fields.get(name), str):
            fields[name] = msgspec.Raw(fields[name].encode())
    return fields
