"""The log file of one job: made by its first line, bounded by one rotation, and never a reason for the job to fail."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Final

from perdure.clock import Clock
from perdure.daemon.joblog import log_path

#: A line without an end is written out when it is this long, bytes.
_LONGEST_PENDING: Final = 64 * 1024
_SMALLEST_HALF: Final = 512


class LogPlace:
    """What all logs of a worker share: the folder, the limit, the clock and a lock.

    The lock is there for threads that a handler starts: they write into the log of the job that runs.
    """

    def __init__(self, folder: Path, limit_bytes: int, clock: Clock) -> None:
        self.folder = folder
        self.half_bytes = max(limit_bytes // 2, _SMALLEST_HALF)
        self.clock = clock
        self.lock = RLock()
        # A handler may fork while another thread writes: the child must not wait for a lock that nobody will release.
        os.register_at_fork(after_in_child=self._new_lock)

    def _new_lock(self) -> None:
        self.lock = RLock()


class JobLog:
    """One job's log. Errors of the disk are told once to descriptor 2 and then let be."""

    __slots__ = ("_attempt", "_complained", "_fd", "_job_id", "_pending", "_place", "_size", "_started")

    def __init__(self, place: LogPlace, job_id: int, attempt: int) -> None:
        self._place = place
        self._job_id = job_id
        self._attempt = attempt
        self._fd = -1
        self._size = 0
        self._pending = b""
        self._started = False
        self._complained = False

    def write(self, data: bytes) -> None:
        """Add `data`; whole lines go to the file at once, the rest waits for the end of its line."""
        with self._place.lock:
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
        """Flush and close the file. A later write opens it again: a task that outlives its job may still speak."""
        with self._place.lock:
            self.flush()
            self._close_file()

    def _append(self, data: bytes) -> None:
        half = self._place.half_bytes
        try:
            for start in range(0, len(data), half):
                self._append_piece(data[start : start + half])
        except OSError as error:
            self._complain(error)

    def _append_piece(self, piece: bytes) -> None:
        if self._fd < 0:
            self._open()
        if self._size and self._size + len(piece) > self._place.half_bytes:
            self._rotate()
        while piece:
            written = os.write(self._fd, piece)
            self._size += written
            piece = piece[written:]

    def _open(self) -> None:
        path = log_path(self._place.folder, self._job_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o640)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size
        if not self._started:
            self._started = True
            if self._attempt > 1 or self._size:
                self._append_piece(self._headline())

    def _headline(self) -> bytes:
        when = datetime.fromtimestamp(self._place.clock.now_ms() / 1000, UTC)
        return f"--- attempt {self._attempt}, {when:%Y-%m-%dT%H:%M:%SZ}\n".encode()

    def _rotate(self) -> None:
        path = log_path(self._place.folder, self._job_id)
        self._close_file()
        path.replace(f"{path}.1")
        self._open()

    def _close_file(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            with contextlib.suppress(OSError):
                os.write(2, f"the log of job {self._job_id} cannot be written: {error}\n".encode())
