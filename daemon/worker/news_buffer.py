"""What jobs have told and what is not sent yet: bounded, whatever the jobs do. No threads, no clock, no socket.

Costs are in bytes, with something added for what each entry takes besides its text: in memory here, and in time where
it is read. When there is no room, what is least missed is left out first: log lines, then emitted values. It is counted
for each job. Progress is never left out, because only the newest of each job is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from perdure.daemon.joblog import count_lines, log_text
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
    """Log text of one job, in the pieces in which it came."""

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def take(self, room: int) -> tuple[list[bytes], int]:
        """The first pieces, as many as fit but at least one; and their cost."""
        number = cost = 0
        for piece in self.pieces:
            if number and cost + len(piece) + _LINE_COST > room:
                break
            cost += len(piece) + _LINE_COST
            number += 1
        taken, self.pieces = self.pieces[:number], self.pieces[number:]
        return taken, cost


class _JobNews:
    """What one job has told, in its order: live lines and values, and stories (LogText, Emitted that is `earlier`)."""

    __slots__ = ("cost", "entries")

    def __init__(self) -> None:
        self.entries: deque[_Lines | Emitted | LogText] = deque()
        #: Of the live ones.
        self.cost = 0


class NewsBuffer:
    """Entries of all jobs of a worker. Not thread safe."""

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
        self._ended: set[int] = set()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self._jobs or self._progress or self._skipped)

    # --- what comes in

    def set_progress(self, progress: Progress) -> None:
        """Keep the newest of each job."""
        self._progress[progress.id] = progress

    def add_lines(self, job_id: int, data: bytes) -> None:
        """Add text, or leave it out."""
        cost = len(data) + _LINE_COST
        news = self._jobs.get(job_id)
        if self.cost + cost > LINES_ROOM and (news.cost if news else 0) + cost > OWN_ROOM:
            self._skip(job_id, count_lines(data), 0)
            return
        if news is None:
            news = self._jobs[job_id] = _JobNews()
        last = news.entries[-1] if news.entries else None
        if not isinstance(last, _Lines):
            last = _Lines()
            news.entries.append(last)
        last.pieces.append(data)
        news.cost += cost
        self.cost += cost

    def add_value(self, value: Emitted) -> None:
        """Add an emitted value, or leave it out."""
        cost = _cost(value)
        news = self._jobs.get(value.id)
        if self.cost + cost > ROOM and (news.cost if news else 0) + cost > OWN_ROOM:
            self._skip(value.id, 0, 1)
            return
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
        if job_id in self._jobs or job_id in self._progress or job_id in self._skipped:
            self._ended.add(job_id)
            self.urgent = True

    def drop_progress(self, job_id: int) -> None:
        """The job has ended, and nobody listens to it."""
        self._progress.pop(job_id, None)

    # --- what goes out

    def take(self, *, ended: bool = False) -> tuple[list[WorkerEntry], list[JobSkipped]]:
        """The content of the next message, of the jobs that have ended or of all; both empty: there is none."""
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
                pieces, cost = entry.take(room)
                taken.append(log_text(job_id, b"".join(pieces)))
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
