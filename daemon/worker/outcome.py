"""What became of jobs, on its way to the supervisor."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from perdure.daemon.worker.handlers import Handler
from perdure.daemon.worker.lane import Outcome, Spooled
from perdure.daemon.worker.port import Port
from perdure.daemon.worker.recorder import DoneRing
from perdure.wire import packet
from perdure.wire.work import Done, Failed, JobRow, Timing

#: A batch is sent when it has so many outcomes (far below what a done ring holds) …
BATCH_JOBS: Final = 256
#: … or its oldest one is so old, nanoseconds …
BATCH_AGE_NS: Final = 1_500_000
#: … or the results have so many characters together.
BATCH_RESULT_CHARS: Final = 64 * 1024

#: Whose handler ran (None: none did), the job's id, what it came to, and how long it took in nanoseconds.
_Ended = tuple[Handler | None, int, Outcome, int]


class Outbox:
    """The unsent outcomes of one lane, which adds and flushes.

    When a long job of the sync lane sits on finished neighbours, the loop's thread sends them (`relieve`). Therefore
    the deque: the lane appends at one end, without a lock, and whoever sends takes from the other end what he has
    sent. `copy` of it is one step; in the middle of `tuple` the garbage collector may run, with it code of handlers,
    and meanwhile the lane. The lock is for those who send. It is never held by the loop's thread while that waits.
    """

    def __init__(self, port: Port, ring: DoneRing, age_ns: int = BATCH_AGE_NS) -> None:
        self._port = port
        self._ring = ring
        self._age_ns = age_ns
        self._lock = threading.Lock()
        self._ended: deque[_Ended] = deque()
        self._due_ns = 0
        #: Of results and errors. Should `relieve` come between, it is too high or too low for once: no more than that.
        self._chars = 0

    @property
    def count(self) -> int:
        """How many outcomes are unsent."""
        return len(self._ended)

    def add(self, handler: Handler | None, row: JobRow, outcome: Outcome, started_ns: int, ended_ns: int) -> bool:
        """Put one outcome in; True: the batch should be sent now."""
        ended = self._ended
        if not ended:
            self._due_ns = ended_ns + self._age_ns
        if outcome is None:
            self._ring.add(row.id)
        elif isinstance(outcome, str):
            self._chars += len(outcome)
        elif isinstance(outcome, Failed):
            self._chars += len(outcome.error.message) + len(outcome.error.traceback or "")
        ended.append((handler, row.id, outcome, ended_ns - started_ns))
        return ended_ns > self._due_ns or len(ended) >= BATCH_JOBS or self._chars > BATCH_RESULT_CHARS

    def flush(self) -> None:
        """Send what is there, and wait for room if there is none. For the sync lane's own thread."""
        with self._lock:
            batch = self._ended.copy()
            if batch:
                self._port.send_waiting(packet.encode(_message(batch)))
                self._sent(batch)
            self._ring.reset()

    def try_flush(self) -> bool:
        """Send what is there if that goes without waiting; for the lane's own thread. False: something is left."""
        if self._ended:
            if not self.relieve():
                return False
            self._ring.reset()
        return True

    def relieve(self) -> bool:
        """The same for another thread, while the lane goes on."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            batch = self._ended.copy()
            if batch:
                message = _message(batch)
                if not self._port.try_send(packet.encode(message)):
                    return False
                self._sent(batch)
                self._ring.forget(len(message.completed))
            return True
        finally:
            self._lock.release()

    def _sent(self, batch: deque[_Ended]) -> None:
        self._chars = 0
        for _ in batch:
            self._ended.popleft()


def _message(batch: deque[_Ended]) -> Done:
    """What is told of these outcomes."""
    done = Done([], [], [], [], [])
    complete = done.completed.append
    runs: dict[str, Timing] = {}
    for handler, job_id, outcome, took_ns in batch:
        if outcome is None:
            complete(job_id)
        elif isinstance(outcome, str):
            done.results.append((job_id, outcome))
        elif isinstance(outcome, Spooled):
            done.spooled.append((job_id, outcome.blob_json))
        else:
            done.failed.append(outcome)
        if handler is not None:
            timing = runs.get(handler.kind)
            if timing is None:
                timing = runs[handler.kind] = Timing(handler.kind, 0, 0)
            timing.count += 1
            timing.total_ns += took_ns
    done.timings.extend(runs.values())
    return done
