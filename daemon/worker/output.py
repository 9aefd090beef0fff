"""What handlers print, and where it goes: each line into the log file of the job that wrote it.

`sys.stdout`, `sys.stderr` and the root logger of `logging` are replaced. Whose line it is:

- an asynchronous job is found through a context variable, which tasks and `asyncio.to_thread` inherit;
- anything else, including threads that a handler started, belongs to the job that the sync lane executes;
- what nobody owns goes to descriptor 1 or 2, which in a worker is its output file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Final

from perdure.daemon.worker.job_log import JobLog, LogPlace
from perdure.wire.work import JobRow


class Voice:
    """An asynchronous job as the author of lines. Its log is made by the first one: most jobs are silent."""

    __slots__ = ("_ended", "_log", "_place", "_row")

    def __init__(self, place: LogPlace, row: JobRow) -> None:
        self._place = place
        self._row = row
        self._log: JobLog | None = None
        self._ended = False

    def log(self) -> JobLog:
        """The job's log. Any thread; also of a task that outlives its job."""
        return self._log or self._open()

    def _open(self) -> JobLog:
        with self._place.lock:
            if self._log is None:
                self._log = JobLog(self._place, self._row.id, self._row.attempt, self._row.queue)
                # Looked at after the log was set: `end`, maybe in another thread, does the same the other way round.
                if self._ended:
                    self._log.close()
            return self._log

    def end(self) -> None:
        """The job has ended; cheap when it was silent."""
        self._ended = True
        if self._log is not None:
            self._log.close()


_async_voice: ContextVar[Voice | None] = ContextVar("perdure_job_voice", default=None)


class Output:
    """Routes text to job logs. Without `open` there are no jobs, and all of it goes to the descriptors."""

    def __init__(self) -> None:
        #: The job that the sync lane executes; set by the lane, one store a job.
        self.sync_job: JobRow | None = None
        self._sync_log: JobLog | None = None
        self._sync_log_of: JobRow | None = None
        self._place: LogPlace | None = None
        self._loop_thread = 0

    def open(self, place: LogPlace) -> None:
        """From now on jobs have logs."""
        self._place = place

    def install(self) -> None:
        """Take the place of sys.stdout, sys.stderr; and of the root logger's handler, if it has none."""
        sys.stdout = RoutedText(self, 1)
        sys.stderr = RoutedText(self, 2)

    def install_logging(self, level: str) -> None:
        """Send the standard library's log records of `level` and above the same way, unless a handler module has
        set up logging itself."""
        root = logging.getLogger()
        if root.handlers:
            return
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_LineFormatter("%(asctime)s %(level)s %(name)s: %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(level.upper())

    def set_loop_thread(self) -> None:
        """Called by the async lane's thread: its lines are never those of the sync lane's job."""
        self._loop_thread = get_ident()

    # --- the lanes

    def end_sync_job(self) -> None:
        """The sync lane's job has ended; cheap when it was silent."""
        if self._sync_log is not None:
            log, self._sync_log = self._sync_log, None
            log.close()
        self.sync_job = None

    def begin_async_job(self, row: JobRow) -> Voice | None:
        """Make what the current context writes belong to `row`. The caller ends the voice."""
        if self._place is None:
            return None
        voice = Voice(self._place, row)
        _async_voice.set(voice)
        return voice

    # --- the streams

    def current_log(self) -> JobLog | None:
        """The log of the job on whose behalf the caller runs; None outside all jobs."""
        voice = _async_voice.get()
        if voice is not None:
            return voice.log()
        row = self.sync_job
        if row is None or self._place is None or get_ident() == self._loop_thread:
            return None
        log = self._sync_log
        if log is not None and self._sync_log_of is row:
            return log
        with self._place.lock:
            if self._sync_log is None or self._sync_log_of is not row:
                self._sync_log, self._sync_log_of = JobLog(self._place, row.id, row.attempt, row.queue), row
            return self._sync_log

    def write(self, data: bytes, fallback_fd: int) -> None:
        """Write `data` to the current job's log, or to `fallback_fd`. Never raises OSError."""
        log = self.current_log()
        if log is not None:
            log.write(data)
            return
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(fallback_fd, data) :]

    def flush(self) -> None:
        """Write out an unfinished line of the current job."""
        log = self.current_log()
        if log is not None:
            log.flush()


class _LineFormatter(logging.Formatter):
    """The same look for the standard library's records."""

    def format(self, record: logging.LogRecord) -> str:
        record.level = f"{record.levelname.lower():<7}"
        return super().format(record)


class RoutedBytes(io.BufferedIOBase):
    """What `sys.stdout.buffer` is in a worker."""

    name: Final = "<job output>"

    def __init__(self, output: Output, fd: int) -> None:
        super().__init__()
        self._output = output
        self._fd = fd

    def write(self, data: Any) -> int:
        """Write bytes to the current job's log."""
        raw = bytes(data)
        self._output.write(raw, self._fd)
        return len(raw)

    def flush(self) -> None:
        """Write out an unfinished line."""
        self._output.flush()

    def fileno(self) -> int:
        """The worker's own descriptor: what a child process inherits."""
        return self._fd

    def writable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Do nothing: a handler that closes stdout must not silence the next job."""


class RoutedText(io.TextIOBase):
    """What `sys.stdout` and `sys.stderr` are in a worker."""

    name: Final = "<job output>"
    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, output: Output, fd: int) -> None:
        super().__init__()
        self._output = output
        self._fd = fd
        self._buffer = RoutedBytes(output, fd)

    @property
    def buffer(self) -> RoutedBytes:
        """The stream below, for bytes."""
        return self._buffer

    def write(self, text: str) -> int:
        """Write text to the current job's log; what UTF-8 cannot hold is escaped."""
        self._output.write(text.encode("utf-8", "backslashreplace"), self._fd)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Write several texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write out an unfinished line."""
        self._output.flush()

    def fileno(self) -> int:
        """The worker's own descriptor: what a child process inherits."""
        return self._fd

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """No: a log file is no terminal."""
        return False

    def reconfigure(self, **_options: object) -> None:
        """Accept and ignore: lines are written as they end, in UTF-8."""

    def close(self) -> None:
        """Do nothing: a handler that closes stdout must not silence the next job."""
