"""What became of jobs, on its way to the supervisor."""

from __future__ import annotations

import threading
from typing import Final

from perdure.daemon.worker.handlers import Handler
from perdure.daemon.worker.lane import Outcome, Spooled
from perdure.daemon.worker.port import Port
from perdure.daemon.worker.recorder import DoneRing
from perdure.wire import packet
from perdure.wire.work import Done, Failed, JobRow, Timing

#: A batch is sent when it has so many outcomes (far below what a done ring holds) …
BATCH_JOBS: Final = 128
#: … or its oldest one is so old, nanoseconds …
BATCH_AGE_NS: Final = 1_500_000
#: … or the last job took so long, nanoseconds: the next one may, too …
LONG_JOB_NS: Final = 1_000_000
#: … or the results have so many characters together.
BATCH_RESULT_CHARS: Final = 64 * 1024


class Outbox:
    """The unsent outcomes of one lane.

    The lane adds and flushes. The loop's thread may flush the sync lane's box too, when a long job sits on finished
    neighbours; therefore the lock. It is never held by the loop's thread while that waits.
    """

    def __init__(self, port: Port, ring: DoneRing, age_ns: int = BATCH_AGE_NS) -> None:
        self._port = port
        self._ring = ring
        self._age_ns = age_ns
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self._first_ns = 0
        self._result_chars = 0
        self._completed: list[int] = []
        self._results: list[tuple[int, str]] = []
        self._failed: list[Failed] = []
        self._spooled: list[tuple[int, str]] = []
        self._ran: list[Handler] = []

    def add(self, handler: Handler | None, row: JobRow, outcome: Outcome, started_ns: int, ended_ns: int) -> bool:
        """Put one outcome in; True: the batch should be sent now."""
        took_ns = ended_ns - started_ns
        with self._lock:
            if outcome is None:
                self._ring.add(row.id)
                self._completed.append(row.id)
            elif isinstance(outcome, str):
                self._results.append((row.id, outcome))
                self._result_chars += len(outcome)
            elif isinstance(outcome, Spooled):
                self._spooled.append((row.id, outcome.blob_json))
            else:
                self._failed.append(outcome)
                self._result_chars += len(outcome.error.message) + len(outcome.error.traceback or "")
            if handler is not None:
                if not handler.ran:
                    self._ran.append(handler)
                handler.ran += 1
                handler.ran_ns += took_ns
            self.count = count = self.count + 1
            if count == 1:
                self._first_ns = ended_ns
        return (
            took_ns > LONG_JOB_NS
            or count >= BATCH_JOBS
            or ended_ns - self._first_ns > self._age_ns
            or self._result_chars > BATCH_RESULT_CHARS
        )

    def flush(self) -> None:
        """Send what is there, and wait for room if there is none. For the sync lane's own thread."""
        with self._lock:
            if self.count:
                self._port.send_waiting(self._encoded())
                self._sent()

    def try_flush(self) -> bool:
        """Send what is there if that goes without waiting. False: something is left."""
        if not self.count:
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self.count and not self._port.try_send(self._encoded()):
                return False
            self._sent()
            return True
        finally:
            self._lock.release()

    def _encoded(self) -> bytes:
        timings = [Timing(handler.kind, handler.ran, handler.ran_ns) for handler in self._ran]
        return packet.encode(Done(self._completed, self._results, self._failed, timings, self._spooled))

    def _sent(self) -> None:
        for handler in self._ran:
            handler.ran = handler.ran_ns = 0
        self._ring.reset()
        self._clear()
