"""How far somebody is with a job's log and its values: what is told again is recognised by its place. Pure.

The place of a log line is a position in the job's log: bytes of everything that was ever written into it, also what
rotation has dropped since. That of a value is the attempt that has emitted it, and its number. Both outlast workers and
daemons, so a story that is told again can be joined to what was told before, whatever has gone missing in between.
"""

from __future__ import annotations

from perdure.wire.streams import Emitted, LogText


def log_text(job_id: int, data: bytes, earlier: bool = False, start: int | None = None) -> LogText:
    """A piece of a log, as it is told."""
    try:
        return LogText(job_id, data.decode(), count_lines(data), earlier, start)
    except UnicodeDecodeError:
        return LogText(job_id, data.decode("utf-8", "replace"), count_lines(data), earlier, start, data)


def log_data(entry: LogText) -> bytes:
    """What stands in the log."""
    return entry.text.encode() if entry.raw is None else entry.raw


def count_lines(data: bytes) -> int:
    """How many lines this is; one that has no end is one, too."""
    return data.count(b"\n") + (data[-1:] not in (b"\n", b""))


def _length(entry: LogText) -> int:
    return len(entry.text) if entry.raw is None and entry.text.isascii() else len(log_data(entry))


class Heard:
    """What one listener has heard of one job."""

    __slots__ = ("_number", "_run", "end")

    def __init__(self) -> None:
        #: The position in the log up to which it has heard everything that it will hear; None: nothing yet.
        self.end: int | None = None
        #: The attempt whose value it has heard last (with the time of that attempt's first), and that value's number.
        self._run: tuple[int, int] | None = None
        self._number = 0

    def new(self, entry: LogText | Emitted) -> LogText | Emitted | None:
        """The part of an entry that was not heard before; from now on it was."""
        return self._new_lines(entry) if isinstance(entry, LogText) else self._new_value(entry)

    def gap(self, entry: LogText) -> tuple[int, int] | None:
        """What of the log is missing between what was heard and this piece of a story: from and to which position."""
        if not entry.earlier or entry.start is None or self.end is None or entry.start <= self.end:
            return None
        return self.end, entry.start

    def _new_lines(self, entry: LogText) -> LogText | None:
        if entry.start is None:
            return entry  # it is not in the log: the disk would not take it
        before, self.end = self.end, entry.start + _length(entry)
        # What happens now is told once.
        if not entry.earlier or before is None or before <= entry.start:
            return entry
        if before >= self.end:
            self.end = before
            return None
        return log_text(entry.id, log_data(entry)[before - entry.start :], True, before)

    def _new_value(self, entry: Emitted) -> Emitted | None:
        run = entry.attempt, entry.since
        if entry.earlier and run == self._run and entry.number <= self._number:
            return None
        self._run, self._number = run, entry.number
        return entry
