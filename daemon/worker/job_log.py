"""The log file of one job: made by its first line, bounded by one rotation, and never a reason for the job to fail."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Final, Protocol

from perdure.clock import Clock
from perdure.daemon.joblog import log_path
from perdure.daemon.worker.job_file import JobFile, complain
from perdure.errors import JobTimeout

#: A line without an end is written out when it is this long, bytes.
_LONGEST_PENDING: Final = 64 * 1024
_SMALLEST_HALF: Final = 512


class Ear(Protocol):
    """Who listens to logs: the newsroom. Called with the place's lock held."""

    def wants_lines(self, job_id: int, queue: str, data: bytes) -> bool:
        """Whether to hear what was appended to the job's log. Who asks need not look for its position, mostly."""

    def hear(self, job_id: int, queue: str, data: bytes, start: int | None) -> None:
        """This was appended to the job's log, at this position; None: the disk would not take it."""

    def end_of_log(self, job_id: int) -> None:
        """The job has ended, and its log with it."""


class LogPlace:
    """What all logs of a worker share: the folder, the limit, the clock, a lock, and who listens.

    The lock is there for threads that a handler starts: they write into the log of the job that runs.
    """

    def __init__(self, folder: Path, limit_bytes: int, clock: Clock) -> None:
        self.folder = folder
        self.half_bytes = max(limit_bytes // 2, _SMALLEST_HALF)
        self.clock = clock
        self.lock = RLock()
        #: None while nobody listens to any job of this worker: then a line costs one look at this.
        self.ear: Ear | None = None
        # A handler may fork while another thread writes: the child must not wait for a lock that nobody will release.
        # And it cannot tell anybody anything.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self.lock = RLock()
        self.ear = None


class JobLog:
    """One job's log. Errors of the disk are told once to descriptor 2 and then let be."""

    __slots__ = ("_attempt", "_complained", "_ear", "_ended", "_file", "_job_id", "_pending", "_place", "_queue")

    def __init__(self, place: LogPlace, job_id: int, attempt: int, queue: str = "") -> None:
        self._place = place
        self._job_id = job_id
        self._attempt = attempt
        self._queue = queue
        self._file: JobFile | None = None
        self._pending = b""
        #: Who has heard of it: they must hear of its end also when nobody listens by then.
        self._ear: Ear | None = None
        self._complained = False
        self._ended = False

    def write(self, data: bytes) -> None:
        """Add `data`; whole lines go to the file at once, the rest waits for the end of its line."""
        with self._place.lock:
            if not self._pending and data[-1:] == b"\n":
                self._append(data)
                return
            pending = self._pending + data
            end = pending.rfind(b"\n") + 1 if len(pending) < _LONGEST_PENDING else len(pending)
            self._pending = pending[end:]
            if end:
                self._append(pending[:end])

    def flush(self) -> None:
        """Write out what waits for the end of its line."""
        with self._place.lock:
            data, self._pending = self._pending, b""
            if data:
                self._append(data)

    def close(self) -> None:
        """Flush and close the file. A later write opens it again: a task that outlives its job may still speak.

        That is in the file then, but is not told to those who follow the job, which has ended for them.
        """
        with self._place.lock:
            self.flush()
            if self._file is not None:
                self._file.close()
            ear = self._place.ear or self._ear
            if ear is not None and not self._ended:
                ear.end_of_log(self._job_id)
            self._ended = True

    def _append(self, data: bytes) -> None:
        place, file = self._place, None
        try:
            file = self._file or self._open()
            if len(data) <= place.half_bytes:
                file.append(data)
            else:
                for begin in range(0, len(data), place.half_bytes):
                    file.append(data[begin : begin + place.half_bytes])
        except JobTimeout:
            raise
        except OSError as error:
            file = None
            self._complain(error)
        ear = place.ear
        if ear is not None and not self._ended:
            self._ear = ear
            if ear.wants_lines(self._job_id, self._queue, data):
                self._tell(ear, data, file)

    def _open(self) -> JobFile:
        file = JobFile(log_path(self._place.folder, self._job_id), self._place.half_bytes, counted=True)
        file.open()
        self._file = file
        if self._attempt > 1 or file.size:
            headline = self._headline()
            file.append(headline)
            ear = self._place.ear
            if ear is not None and not self._ended:
                self._tell(ear, headline, file)
        return file

    def _headline(self) -> bytes:
        when = datetime.fromtimestamp(self._place.clock.now_ms() / 1000, UTC)
        return f"--- attempt {self._attempt}, {when:%Y-%m-%dT%H:%M:%SZ}\n".encode()

    def _tell(self, ear: Ear, data: bytes, file: JobFile | None) -> None:
        """Those who listen hear it even if the disk would not take it (no `file`)."""
        start = None
        try:
            if file is not None:
                start = file.position() - len(data)
        except JobTimeout:
            raise
        except OSError as error:
            self._complain(error)
        ear.hear(self._job_id, self._queue, data, start)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            complain("log", self._job_id, error)
