"""A file that a job fills: made by its first line, bounded by one rotation."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from perdure.daemon.log_position import note_rotation, rotated_path, start_of
from perdure.errors import JobTimeout

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class JobFile:
    """Appended to by one thread at a time. The present and the rotated file have up to `half_bytes` each.

    A JobTimeout, which is an OSError by way of TimeoutError, may strike in here when a handler prints. It is not the
    disk's, and must reach the handler.
    """

    __slots__ = ("_counted", "_fd", "_half_bytes", "_path", "_start", "size")

    def __init__(self, path: Path, half_bytes: int, *, counted: bool = False) -> None:
        self._path = path
        self._half_bytes = half_bytes
        self._fd = -1
        #: Rotation keeps count of what it throws away.
        self._counted = counted
        #: The position of the present file's first byte, once somebody has asked.
        self._start: int | None = None
        #: Bytes in the present file.
        self.size = 0

    def open(self, *, anew: bool = False) -> None:
        """Open it, and make it if it is not there. `anew`: what it has, also the rotated half, goes. Raises OSError."""
        if anew:
            rotated_path(self._path).unlink(missing_ok=True)
        flags = _FLAGS | os.O_TRUNC if anew else _FLAGS
        try:
            self._fd = os.open(self._path, flags, 0o640)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o640)
        self.size = os.fstat(self._fd).st_size

    def append(self, data: bytes) -> None:
        """Add `data`, of up to `half_bytes`; a file that would grow too large is rotated before. Raises OSError."""
        if self._fd < 0:
            self.open()
        if self.size + len(data) > self._half_bytes and self.size:
            if self._counted:
                note_rotation(self._path, self._fd)
            self.close()
            self._path.replace(rotated_path(self._path))
            self._start = None
            self.open()
        written = os.write(self._fd, data)
        self.size += written
        while written < len(data):
            data = data[written:]
            written = os.write(self._fd, data)
            self.size += written

    def position(self) -> int:
        """Where what was appended last ends, in bytes of all that was ever written. Raises OSError."""
        if self._start is None:
            self._start = start_of(self._path)
        # Not `size`: a task that has outlived an earlier attempt may write into the same file.
        return self._start + os.lseek(self._fd, 0, os.SEEK_CUR)

    def close(self) -> None:
        """Close it; `append` opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError as error:
                if isinstance(error, JobTimeout):
                    raise


def complain(what: str, job_id: int, error: Exception, verb: str = "written") -> None:
    """Say to descriptor 2 what cannot be done with a file of a job, which is no reason for the job to fail."""
    with contextlib.suppress(OSError):
        os.write(2, f"the {what} of job {job_id} cannot be {verb}: {error}\n".encode())
