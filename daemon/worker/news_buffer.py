"""What jobs have told and what is not sent yet: bounded, whatever the jobs do. No threads, no clock, no socket.

Costs are in bytes, with something added for what each entry takes besides its text: in memory here, and in time where
it is read. When there is no room, what is least missed is left out first: log lines, then emitted values. It is counted
for each job. Progress is never left out, because only the newest of each job is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from perdure.wire.heard import count_lines, log_text
from perdure.wire.streams import Emitted, JobSkipped, LogText, Progress, WorkerEntry

#: What values may cost together until they are sent …
ROOM: Final = 256 * 1024
#: … and log lines must leave them a part of that.
LINES_ROOM: Final = 192 * 1024
#: A job that has told less than this is heard even when others have taken all the room.
OWN_ROOM: Final = 4 * 1024
#: What one message may cost. It may be more by the progress of the jobs, and by the one entry that is larger.
MESSAGE: Final = 64 * 1024
#: What each takes besides its text.
_LINE_COST: Final = 48
_VALUE_COST: Final = 200


class _Lines:
    """Log text of one job without a gap, in the pieces in which it came. `start`, `end`: positions in its log."""

    __slots__ = ("end", "pieces", "start")

    def __init__(self, start: int | None) -> None:
        self.pieces: list[bytes] = []
        self.start = self.end = start

    def add(self, data: bytes) -> None:
        """What comes next."""
        self.pieces.append(data)
        if self.end is not None:
            self.end += len(data)

    def take(self, job_id: int, room: int) -> tuple[LogText, int]:
        """The first pieces, as many as fit but at least one; and their cost."""
        number = cost = 0
        for piece in self.pieces:
            if number and cost + len(piece) + _LINE_COST > room:
                break
            cost += len(piece) + _LINE_COST
            number += 1
        taken, self.pieces = b"".join(self.pieces[:number]), self.pieces[number:]
        text = log_text(job_id, taken, start=self.start)
        if self.start is not None:
            self.start += len(taken)
        return text, cost


class _JobNews:
    """What one job has told, in its order: live lines and values, and stories (LogText, Emitted that is `earlier`)."""

    __slots__ = ("cost", "entries")

    def __init__(self) -> None:
        self.entries: deque[_Lines | Emitted | LogText] = deque()
        #: Of the live ones.
        self.cost = 0


class _LeftOut:
    """What was refused of one job since its start, and how much of that is in the account of the buffer."""

    __slots__ = ("lines", "noted_lines", "noted_values", "values")

    def __init__(self) -> None:
        self.lines = self.values = 0
        self.noted_lines = self.noted_values = 0


class NewsBuffer:
    """Entries of all jobs of a worker. Not thread safe, but for `refuse_lines` and `refuse_value`.

    A job in a loop has most of what it tells refused, so that must cost little. Those two need no lock beside the one
    that keeps callers of these two, and of `end`, from each other: they write only what nobody else writes (the
    totals in _LeftOut), and what they read of the costs may be a moment old.
    """

    def __init__(self) -> None:
        #: What live lines and values cost together.
        self.cost = 0
        #: What stories cost together.
        self.story_cost = 0
        #: A job that has ended has something here: it must leave before the job's outcome.
        self.urgent = False
        self._jobs: dict[int, _JobNews] = {}
        self._progress: dict[int, Progress] = {}
        self._skipped: dict[int, JobSkipped] = {}
        self._left_out: dict[int, _LeftOut] = {}
        self._ended: set[int] = set()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        if self._left_out:
            self._note_left_out()
        return not (self._jobs or self._progress or self._skipped)

    # --- what does not come in

    def refuse_lines(self, job_id: int, data: bytes) -> bool:
        """Leave these whole lines out, and count them, if there is no room. False: they may be added."""
        if self._has_room(job_id, len(data) + _LINE_COST, LINES_ROOM):
            return False
        one = self._left_out.get(job_id) or self._left_out.setdefault(job_id, _LeftOut())
        one.lines += data.count(b"\n")
        return True

    def refuse_value(self, job_id: int, size: int) -> bool:
        """The same for a value of `size` bytes."""
        if self._has_room(job_id, size + _VALUE_COST, ROOM):
            return False
        one = self._left_out.get(job_id) or self._left_out.setdefault(job_id, _LeftOut())
        one.values += 1
        return True

    def _has_room(self, job_id: int, cost: int, room: int) -> bool:
        if self.cost + cost <= room:
            return True
        news = self._jobs.get(job_id)
        return (news.cost if news is not None else 0) + cost <= OWN_ROOM

    # --- what comes in

    def set_progress(self, progress: Progress) -> None:
        """Keep the newest of each job."""
        self._progress[progress.id] = progress

    def add_lines(self, job_id: int, data: bytes, start: int | None = None) -> None:
        """Add text that stands at this position in the job's log, or leave it out."""
        cost = len(data) + _LINE_COST
        if not self._has_room(job_id, cost, LINES_ROOM):
            self._skip(job_id, count_lines(data), 0)
            return
        news = self._jobs.get(job_id)
        if news is None:
            news = self._jobs[job_id] = _JobNews()
        last = news.entries[-1] if news.entries else None
        if not isinstance(last, _Lines) or last.end != start:
            last = _Lines(start)
            news.entries.append(last)
        last.add(data)
        news.cost += cost
        self.cost += cost

    def add_value(self, value: Emitted) -> None:
        """Add an emitted value, or leave it out."""
        cost = _cost(value)
        if not self._has_room(value.id, cost, ROOM):
            self._skip(value.id, 0, 1)
            return
        news = self._jobs.get(value.id)
        if news is None:
            news = self._jobs[value.id] = _JobNews()
        news.entries.append(value)
        news.cost += cost
        self.cost += cost

    def add_story(self, job_id: int, story: Iterable[LogText | Emitted]) -> None:
        """Add what a late subscriber is told. Who adds it takes care that there are few at a time."""
        news = self._jobs.setdefault(job_id, _JobNews())
        for entry in story:
            news.entries.append(entry)
            self.story_cost += _cost(entry)

    def end(self, job_id: int) -> None:
        """The job tells nothing more."""
        if job_id in self._left_out:
            self._note_left_out()
            del self._left_out[job_id]
        if job_id in self._jobs or job_id in self._progress or job_id in self._skipped:
            self._ended.add(job_id)
            self.urgent = True

    def drop_progress(self, job_id: int) -> None:
        """The job has ended, and nobody listens to it."""
        self._progress.pop(job_id, None)

    # --- what goes out

    def take(self, *, ended: bool = False) -> tuple[list[WorkerEntry], list[JobSkipped]]:
        """The content of the next message, of the jobs that have ended or of all; both empty: there is none."""
        self._note_left_out()
        taken: list[WorkerEntry] = []
        room = MESSAGE
        for job_id in self._chosen(self._jobs, ended):
            room = self._take_from(job_id, taken, room)
            if room <= 0:
                break
        taken += [self._progress.pop(job_id) for job_id in self._chosen(self._progress, ended)]
        skipped = [self._skipped.pop(job_id) for job_id in self._chosen(self._skipped, ended)]
        self._settle_ended()
        if not self._jobs:
            # A JobTimeout that is raised in the middle of an addition may have left these behind.
            self.cost = self.story_cost = 0
        return taken, skipped

    def leave_out_ended(self) -> None:
        """There is no way for what ended jobs have told to leave before their outcomes: count it instead."""
        for job_id in self._chosen(self._jobs, True):
            news = self._jobs.pop(job_id)
            self.cost -= news.cost
            for entry in news.entries:
                if isinstance(entry, _Lines):
                    self._skip(job_id, sum(map(count_lines, entry.pieces)), 0)
                    continue
                if entry.earlier:
                    self.story_cost -= _cost(entry)
                self._skip_entry(entry)

    def lost(self, entries: Iterable[WorkerEntry], skipped: Iterable[JobSkipped]) -> None:
        """What `take` gave could not be sent: count it, but for progress and stories, which may still come in time."""
        for one in skipped:
            self._skip(one.id, one.lines, one.values)
        stories: list[LogText | Emitted] = []
        for entry in entries:
            if isinstance(entry, Progress):
                self._progress.setdefault(entry.id, entry)
            elif entry.earlier:
                stories.append(entry)
            else:
                self._skip_entry(entry)
        for entry in reversed(stories):
            self._jobs.setdefault(entry.id, _JobNews()).entries.appendleft(entry)
            self.story_cost += _cost(entry)

    # --- in here

    def _chosen(self, ids: Iterable[int], ended: bool) -> list[int]:
        return [job_id for job_id in ids if job_id in self._ended] if ended else list(ids)

    def _take_from(self, job_id: int, taken: list[WorkerEntry], room: int) -> int:
        """Move what fits of one job; the room that is left. A job that has more goes to the end of the line."""
        news = self._jobs.pop(job_id)
        while news.entries and room > 0:
            entry = news.entries[0]
            if taken and _first_cost(entry) > room:
                room = 0
                break
            if isinstance(entry, _Lines):
                text, cost = entry.take(job_id, room)
                taken.append(text)
            else:
                cost = _cost(entry)
                taken.append(entry)
            if not (isinstance(entry, _Lines) and entry.pieces):
                news.entries.popleft()
            self._account(news, entry, cost)
            room -= cost
        if news.entries:
            self._jobs[job_id] = news
        return room

    def _account(self, news: _JobNews, entry: _Lines | Emitted | LogText, cost: int) -> None:
        if isinstance(entry, _Lines) or not entry.earlier:
            news.cost -= cost
            self.cost -= cost
        else:
            self.story_cost -= cost

    def _settle_ended(self) -> None:
        if self._ended:
            self._ended &= {*self._jobs, *self._progress, *self._skipped}
            self.urgent = bool(self._ended)

    def _note_left_out(self) -> None:
        # The ids first: another thread may add one meanwhile.
        for job_id in list(self._left_out):
            one = self._left_out[job_id]
            lines, values = one.lines - one.noted_lines, one.values - one.noted_values
            if lines or values:
                one.noted_lines += lines
                one.noted_values += values
                self._skip(job_id, lines, values)

    def _skip(self, job_id: int, lines: int, values: int) -> None:
        skipped = self._skipped.get(job_id)
        if skipped is None:
            skipped = self._skipped[job_id] = JobSkipped(job_id, 0, 0)
        skipped.lines += lines
        skipped.values += values

    def _skip_entry(self, entry: LogText | Emitted) -> None:
        if isinstance(entry, LogText):
            self._skip(entry.id, entry.lines, 0)
        else:
            self._skip(entry.id, 0, 1)


def _cost(entry: LogText | Emitted) -> int:
    return len(entry.text) + _LINE_COST if isinstance(entry, LogText) else len(entry.value) + _VALUE_COST


def _first_cost(entry: _Lines | LogText | Emitted) -> int:
    return len(entry.pieces[0]) + _LINE_COST if isinstance(entry, _Lines) else _cost(entry)
