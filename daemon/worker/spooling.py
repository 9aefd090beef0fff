"""Payloads and results that are files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final, TypeVar

import msgspec

from perdure.daemon.spool_file import SpoolFile, check_unchanged, open_spooled
from perdure.errors import PayloadGone, Permanent, StoreFull, UsageError
from perdure.wire.data import Blob
from perdure.wire.work import JobRow

#: Trying again does not help with these.
_GONE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")

_decode = msgspec.json.Decoder(Blob).decode
_encode = msgspec.json.Encoder().encode


class ResultTooLarge(Permanent):
    """The result is too large to be kept. Write it to a file and return its path."""


class Spool:
    """The folder of this queue's files, and their largest size in bytes."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._threads: ThreadPoolExecutor | None = None

    async def off_loop(self, write: Callable[[], T]) -> T:
        """Call `write` in a thread. A cancellation comes too late: the handler has ended well already."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="perdure-spool")
        writing = asyncio.get_running_loop().run_in_executor(self._threads, write)
        while not writing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([writing])
        return writing.result()


class Payload:
    """The payload of a job that runs: opened and checked when it is made. Raises PayloadGone, PayloadChanged."""

    def __init__(self, spool: Spool, blob_json: str) -> None:
        self.blob = blob = _decode(blob_json)
        self._view: memoryview | None = None
        self._map: mmap.mmap | None = None
        what = f"the payload {blob.path or blob.spool}"
        try:
            if blob.spool:
                fd = open_spooled(spool.folder, blob.spool)
            else:
                # A fifo in its place must not make the job wait for ever.
                fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in _GONE:
                raise PayloadGone(f"{what} cannot be opened: {error.strerror}") from error
            raise
        try:
            check_unchanged(fd, blob, what)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def view(self) -> memoryview:
        """Its content."""
        if self._view is None:
            if self.blob.size:
                self._map = mmap.mmap(self._fd, self.blob.size, access=mmap.ACCESS_READ)
                self._view = memoryview(self._map)
            else:
                self._view = memoryview(b"")  # nothing cannot be mapped
        return self._view

    def close(self) -> None:
        """Give it back. What the handler has kept a part of stays mapped until it lets go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        # BufferError: somebody still looks at it.
        with contextlib.suppress(BufferError):
            if self._view is not None:
                self._view.release()
            if self._map is not None:
                self._map.close()
        self._view = self._map = None


class ResultFile:
    """A result that a handler writes into a file."""

    def __init__(self, spool: Spool, row: JobRow) -> None:
        self._spool = spool
        with _disk(row.id):
            self._made = SpoolFile(spool.folder)
            try:
                self.file: BinaryIO = open(self._made.partial, "r+b")  # noqa: SIM115 - closed with the job
            except BaseException:
                self._made.discard()
                raise
        self._job_id = row.id

    def keep(self) -> str:
        """It is the job's result: its Blob as JSON text. Raises ResultTooLarge, StoreFull, OSError."""
        with _disk(self._job_id):
            self.file.close()
            check_size(os.fstat(self._made.fd).st_size, self._spool.limit_bytes)
            self._made.measure()
            return _text(self._made.keep())

    def close(self) -> None:
        """Remove it, unless it became a result."""
        self._made.discard()
        with contextlib.suppress(OSError):
            self.file.close()


def write_result(spool: Spool, job_id: int, data: memoryview, *, json: bool) -> str:
    """Put a result into the spool: its Blob as JSON text. Raises ResultTooLarge, StoreFull, OSError."""
    check_size(len(data), spool.limit_bytes)
    with _disk(job_id):
        made = SpoolFile(spool.folder)
        try:
            made.write(data)
            return _text(made.keep(json=json))
        finally:
            made.discard()


def check_size(size: int, limit_bytes: int) -> None:
    """Raise ResultTooLarge."""
    if size > limit_bytes:
        raise ResultTooLarge(
            f"the result has {size:,} bytes, over the limit of {limit_bytes:,} (limits.blob); "
            "write it to a file of your own and return its path"
        )


def too_late(job_id: int) -> UsageError:
    """The error for a thread or a task that outlives its job: what it would open, nobody would close."""
    return UsageError(f"job {job_id} has ended: its files can only be used while it runs")


def no_payload(job_id: int) -> UsageError:
    """The error for a job that has none."""
    return UsageError(f"job {job_id} has no payload")


def _text(blob: Blob) -> str:
    return _encode(blob).decode()


@contextlib.contextmanager
def _disk(job_id: int) -> Iterator[None]:
    """A full disk is nobody's fault for ever: the job is tried again."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"the result of job {job_id} cannot be written: the disk of the spool is full") from error
        raise
