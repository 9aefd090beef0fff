"""What happened in a job before somebody began to listen, told by a thread of its own: files may be slow to read."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from perdure.daemon.joblog import read_story
from perdure.daemon.worker.news_buffer import MESSAGE
from perdure.wire.streams import Emitted, LogText

if TYPE_CHECKING:
    from perdure.daemon.worker.newsroom import Newsroom

#: Pause while the story before has not left, seconds.
_PAUSE_SECONDS: Final = 0.005


class Stories:
    """Tells one story after the other, so that only one is in memory at a time.

    Each begins with an empty LogText: so the supervisor sees where it begins. A story that is asked for again before it
    has begun is told once. The methods are called with the lock of the buffer held.
    """

    def __init__(self, newsroom: Newsroom) -> None:
        self._newsroom = newsroom
        self._queue: SimpleQueue[int] = SimpleQueue()
        self._wanted: set[int] = set()
        self._thread: threading.Thread | None = None

    def ask(self, ids: Collection[int]) -> None:
        """Tell these."""
        for job_id in ids:
            if job_id not in self._wanted:
                self._wanted.add(job_id)
                self._queue.put(job_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell_all, name="perdure-stories", daemon=True)
            self._thread.start()

    def take_back(self, ids: Collection[int]) -> None:
        """Nobody wants these any more."""
        self._wanted.difference_update(ids)

    def begin(self, job_id: int) -> bool:
        """Whether this one is still wanted; it is being told now."""
        if job_id not in self._wanted:
            return False
        self._wanted.remove(job_id)
        return True

    # --- the thread

    def _tell_all(self) -> None:
        while True:
            self._tell(self._queue.get())
            while self._newsroom.buffer.story_cost > MESSAGE:
                time.sleep(_PAUSE_SECONDS)

    def _tell(self, job_id: int) -> None:
        newsroom = self._newsroom
        place = newsroom.place
        # Once without the lock, which all who print need: then what must be read with it is in memory.
        with contextlib.suppress(OSError):
            read_story(place.folder, job_id)
        with place.lock:
            story: list[LogText | Emitted] = [LogText(job_id, "", 0, True)]
            # What cannot be read is not told, but what comes is.
            with contextlib.suppress(OSError):
                story += read_story(place.folder, job_id, newsroom.unended(job_id))
            newsroom.add_story(job_id, story)
