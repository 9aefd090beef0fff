"""What happened in a job before somebody began to listen, told by a thread of its own: files may be slow to read."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from perdure.daemon.joblog import read_story
from perdure.daemon.worker.job_file import complain
from perdure.daemon.worker.news_buffer import MESSAGE
from perdure.wire.streams import Emitted, LogText

if TYPE_CHECKING:
    from perdure.daemon.worker.newsroom import Newsroom

#: Pause while the story before has not left, seconds.
_PAUSE_SECONDS: Final = 0.005


class Ask:
    """Somebody wants the story of a job, or has wanted it."""

    __slots__ = ("job_id", "wanted")

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self.wanted = True


class Stories:
    """Tells one story after the other, so that only one is in memory at a time.

    The supervisor counts: each that was asked for is told, in this order, and ends with an empty LogText. One that
    nobody wants any more is only that. `ask`, `take_back` and `done` are called with the lock for listeners held.
    """

    def __init__(self, newsroom: Newsroom) -> None:
        self._newsroom = newsroom
        self._queue: SimpleQueue[Ask] = SimpleQueue()
        self._pending: set[Ask] = set()
        self._thread: threading.Thread | None = None

    def ask(self, ids: Collection[int]) -> None:
        """Tell these."""
        for job_id in ids:
            ask = Ask(job_id)
            self._pending.add(ask)
            self._queue.put(ask)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell_all, name="perdure-stories", daemon=True)
            self._thread.start()

    def take_back(self, ids: Collection[int]) -> None:
        """Nobody wants those of these any more that have not been told."""
        for ask in self._pending:
            if ask.job_id in ids:
                ask.wanted = False

    def done(self, ask: Ask) -> None:
        """This one has been told."""
        self._pending.remove(ask)

    # --- the thread

    def _tell_all(self) -> None:
        while True:
            self._tell(self._queue.get())
            while self._newsroom.buffer.story_cost > MESSAGE:
                time.sleep(_PAUSE_SECONDS)

    def _tell(self, ask: Ask) -> None:
        newsroom, job_id = self._newsroom, ask.job_id
        # Once without the lock, which all who print need: then what must be read with it is in memory.
        if ask.wanted:
            self._read(job_id, 0)
        with newsroom.place.lock:
            story = self._read(job_id, newsroom.unended(job_id)) if ask.wanted else []
            newsroom.tell_story(ask, [*story, LogText(job_id, "", 0, True)])

    def _read(self, job_id: int, unended: int) -> list[LogText | Emitted]:
        try:
            return read_story(self._newsroom.place.folder, job_id, unended)
        except OSError as error:
            # What cannot be read is not told, but what comes is.
            complain("log", job_id, error, "read")
            return []
