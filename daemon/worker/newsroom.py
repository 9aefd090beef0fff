"""What jobs tell while they run (progress, emitted values, log lines), gathered and sent in batches.

Everything may come from any thread. It is put into a bounded buffer, and the loop's thread sends that: after a tenth of
a second, or when a message is full, but not more than one message every few milliseconds. What a job has told leaves
before its outcome (`flush_ended`, called on the way out: see Port). Nothing here ever waits for the supervisor: what
does not go out in time is left out and counted.

Two locks, always taken in this order: that of the logs (LogPlace), so that a story and the lines after it meet without
gap or repetition; and that of the buffer, which is never held while a file is written, so that the loop does not wait
for a disk. Both may be taken twice by one thread: a finalizer that prints may run at any place. (A third one, for who
listens, is never held together with work.) In a flood nearly all is left out, so the buffer's lock is not taken for
that, nor for progress that the loop's thread will ask for anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from threading import Lock, RLock
from typing import Final

from perdure.clock import Clock
from perdure.daemon.joblog import cut
from perdure.daemon.worker.job_log import LogPlace
from perdure.daemon.worker.news_buffer import MESSAGE, NewsBuffer
from perdure.daemon.worker.port import Port
from perdure.daemon.worker.story import Ask, Stories
from perdure.daemon.worker.teller import Teller
from perdure.wire import packet
from perdure.wire.streams import Emitted, LogText
from perdure.wire.work import Follow, FollowQueues, JobRow, Told, Unfollow

#: How long news are gathered before they are told, unless a message is full earlier.
TELL_SECONDS: Final = 0.1
#: Between two messages of a worker that has more to tell than one message holds.
PAUSE_SECONDS: Final = 0.016
#: What may be told in the long run, in the buffer's bytes a second, and in one go. More would keep the supervisor busy,
#: and no subscriber takes more.
BYTES_PER_SECOND: Final = 2 * 1024 * 1024
BURST_BYTES: Final = 256 * 1024
#: How long the loop's thread waits for the lock of the buffer, and when it comes again, seconds: a thread that tells
#: much takes that lock all the time, and on a busy machine nobody knows when it runs on.
_LOCK_SECONDS: Final = 0.002
#: A larger piece of a log is cut, so that messages can be filled evenly.
_PIECE_BYTES: Final = 32 * 1024
#: A line without an end is told in parts when it is this long.
_LONGEST_UNENDED: Final = 64 * 1024
#: No end of a log is untold.
_NOTHING: Final = (b"", None)


class Newsroom:
    """One for all jobs of a worker."""

    def __init__(self, port: Port, place: LogPlace, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.place = place
        self.lock = RLock()
        self.buffer = NewsBuffer()
        self._port = port
        self._clock = clock
        self._loop = loop
        self._tellers: dict[int, Teller] = {}
        self._followed: set[int] = set()
        self._queues: Collection[str] = ()
        self._everything = False
        #: Ends of followed logs that are in the file, but have not been told: their lines have not ended.
        #: With their positions in the log.
        self._unended: dict[int, tuple[bytes, int | None]] = {}
        self._stories = Stories(self)
        #: For who listens. Threads that tell do not take it.
        self._listeners = Lock()
        self._credit = BURST_BYTES
        self._credited_ns = 0
        #: Somebody will look at the buffer: after a while, or soon.
        self._planned = False
        self._hurried = False
        #: Those with progress that is not in the buffer yet.
        self._newer: list[Teller] = []
        self._timer: asyncio.TimerHandle | None = None
        os.register_at_fork(after_in_child=self._fall_silent)

    # --- who listens; the loop's thread

    def follow(self, message: Follow) -> None:
        """Somebody listens to these jobs from now on, or to their story first."""
        with self._listeners:
            self._followed.update(set(message.ids).difference(message.story))
            self._set_ear()
            if message.story:
                self._stories.ask(message.story)

    def unfollow(self, message: Unfollow) -> None:
        """Nobody does any more."""
        with self._listeners:
            self._stories.take_back(message.ids)
            self._followed.difference_update(message.ids)
            self._set_ear()

    def follow_queues(self, message: FollowQueues) -> None:
        """Somebody listens to all jobs of these queues."""
        with self._listeners:
            self._queues = frozenset(message.queues)
            self._everything = message.everything
            self._set_ear()

    def listens(self, job_id: int, queue: str) -> bool:
        """Whether anybody wants to hear lines and values of this job."""
        return self._everything or job_id in self._followed or queue in self._queues

    def _set_ear(self) -> None:
        if self._everything or self._queues or self._followed:
            self.place.ear = self
        else:
            self.place.ear = None
            self._unended.clear()

    # --- what comes in; any thread

    def teller(self, row: JobRow) -> Teller:
        """Takes what this job says; the caller closes it."""
        with self.lock:
            teller = self._tellers.get(row.id)
            if teller is None or teller.row is not row:
                teller = self._tellers[row.id] = Teller(self, row)
            return teller

    def note_progress(self, teller: Teller) -> None:
        """This one has progress to tell: whatever is its newest when that leaves. Until then it need not come again."""
        with self.lock:
            if not teller.ended:
                self._newer.append(teller)
                if not self._planned:
                    self._plan()
                # Last: a JobTimeout may strike before it. Twice in the list does no harm.
                teller.noted = True

    def wants_value(self, row: JobRow, size: int) -> bool:
        """Whether to hear a value of `size` bytes. If there is no room it is counted. The lock of the logs is held."""
        if row.id not in self._followed and not self.listens(row.id, row.queue):
            return False
        if not self.buffer.refuse_value(row.id, size):
            return True
        if not self._planned:
            self._plan()
        return False

    def hear_value(self, value: Emitted) -> None:
        """A job has emitted this, and it is wanted. The lock of the logs is held."""
        with self.lock:
            self.buffer.add_value(value)
            self._wake()

    def wants_lines(self, job_id: int, queue: str, data: bytes) -> bool:
        """The same for what was appended to a log."""
        if job_id not in self._followed and not self.listens(job_id, queue):
            self._unended.pop(job_id, None)
            return False
        if self._unended or data[-1:] != b"\n" or not self.buffer.refuse_lines(job_id, data):
            return True
        if not self._planned:
            self._plan()
        return False

    def hear(self, job_id: int, queue: str, data: bytes, start: int | None) -> None:
        """This was appended to the job's log, at this position. The lock of the logs is held."""
        if not self.listens(job_id, queue):
            return
        if self._unended:
            begun, begin = self._unended.pop(job_id, _NOTHING)
            if begun:
                data, start = begun + data, begin
        if data[-1:] != b"\n" and len(data) < _LONGEST_UNENDED:
            end = data.rfind(b"\n") + 1
            self._unended[job_id] = data[end:], None if start is None else start + end
            data = data[:end]
        self._add_lines(job_id, data, start)

    def end_of_log(self, job_id: int) -> None:
        """The job's log has ended. The lock of the logs is held."""
        self._add_lines(job_id, *self._unended.pop(job_id, _NOTHING))
        with self.lock:
            self.buffer.end(job_id)

    def end(self, teller: Teller) -> None:
        """The job has ended and tells nothing more. The lock of the buffer is held."""
        row = teller.row
        if self._tellers.get(row.id) is teller:
            del self._tellers[row.id]
        self._take_progress()
        if not self.listens(row.id, row.queue):
            self.buffer.drop_progress(row.id)
        self.buffer.end(row.id)

    def tell_story(self, ask: Ask, story: list[LogText | Emitted]) -> None:
        """Tell this and the latest progress, and from now on all. The lock of the logs is held."""
        job_id = ask.job_id
        with self.lock:
            self.buffer.add_story(job_id, story)
            teller = self._tellers.get(job_id)
            if teller is not None and teller.latest is not None:
                self.buffer.set_progress(teller.latest)
            self._wake()
        with self._listeners:
            self._stories.done(ask)
            if ask.wanted:
                self._followed.add(job_id)
                self._set_ear()

    def _take_progress(self) -> None:
        """Have the newest progress in the buffer. Its lock is held."""
        if self._newer:
            newer, self._newer = self._newer, []
            for teller in newer:
                # In this order: progress that comes in between is noted anew, and told once.
                teller.noted = False
                if teller.latest is not None and teller.latest is not teller.told:
                    teller.told = teller.latest
                    self.buffer.set_progress(teller.told)

    def unended(self, job_id: int) -> int:
        """How many bytes at the end of the job's log are still to be told."""
        return len(self._unended.get(job_id, _NOTHING)[0])

    def _add_lines(self, job_id: int, data: bytes, start: int | None) -> None:
        if not data:
            return
        with self.lock:
            for piece in (data,) if len(data) <= _PIECE_BYTES else cut(data, _PIECE_BYTES):
                self.buffer.add_lines(job_id, piece, start)
                start = None if start is None else start + len(piece)
            self._wake()

    # --- when it goes out

    def _wake(self) -> None:
        """Have the buffer looked at in time. Its lock is held."""
        if not self._planned:
            self._plan()
        elif self.buffer.cost >= MESSAGE and not self._hurried:
            self._call(self._tick)
            self._hurried = True

    def _plan(self) -> None:
        # First the call, then the note of it: a JobTimeout may strike in between. Two calls do no harm.
        self._call(self._set_timer)
        self._planned = True

    def _call(self, function: Callable[[], object]) -> None:
        # A thread that outlives the worker's loop may still speak.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _set_timer(self, seconds: float = TELL_SECONDS) -> None:
        self._timer = self._loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        """Send one message; if there is more, come back soon."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.lock.acquire(timeout=_LOCK_SECONDS):
            self._set_timer(_LOCK_SECONDS)
            return
        try:
            self._refill()
            if self._credit > 0 and self._port.is_read():
                self._send(ended=False)
            # First the note, then the look: what is refused or noted in between is seen, or plans for itself.
            self._planned = self._hurried = False
            if self._newer or not self.buffer.empty:
                self._planned = self._hurried = True
                self._set_timer(PAUSE_SECONDS)
        finally:
            self.lock.release()

    def flush_ended(self) -> bool:
        """Outcomes are about to leave: send what their jobs have told, as far as there is room. False: not just now."""
        if not self.buffer.urgent:
            return True
        if not self.lock.acquire(timeout=_LOCK_SECONDS):
            return False
        try:
            self._refill()
            # A reserve, so that a job that ends is heard even if others have just used all the credit.
            while self._credit > -BURST_BYTES and self._port.has_room() and self._send(ended=True):
                pass
            if self.buffer.urgent:
                self.buffer.leave_out_ended()
                self._send(ended=True)
            return True
        finally:
            self.lock.release()

    def _send(self, *, ended: bool) -> bool:
        """Send one message; False: there was nothing to send, or no way."""
        self._take_progress()
        before = self.buffer.cost
        entries, skipped = self.buffer.take(ended=ended)
        if not entries and not skipped:
            return False
        self._credit -= before - self.buffer.cost
        if self._port.tell(packet.encode(Told(entries, skipped))):
            return True
        self.buffer.lost(entries, skipped)
        return False

    def _refill(self) -> None:
        now_ns = self._clock.monotonic_ns()
        earned = (now_ns - self._credited_ns) * BYTES_PER_SECOND // 1_000_000_000
        self._credit = min(BURST_BYTES, self._credit + earned)
        self._credited_ns = now_ns

    # --- forks

    def _fall_silent(self) -> None:
        """In a child that a handler forks: it has no way to the supervisor, and must not wait for anybody's lock."""
        self.lock = RLock()
        self.buffer = NewsBuffer()
        self._newer = []
        self._unended = {}
        self._planned = self._hurried = True
