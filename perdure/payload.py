"""Files on the client's side: payloads that are named or handed over as a descriptor, and results that are files."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import threading
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import msgspec

from perdure.errors import InvalidOption
from perdure.wire.control import ResultView
from perdure.wire.data import Blob, JobSpec
from perdure.wire.packet import make_blob

Bytes: TypeAlias = bytes | bytearray | memoryview
#: What a payload is made from: its content, or the path of a file.
Source: TypeAlias = Bytes | str | os.PathLike[str]

#: The daemon copies a payload at least as fast as this, bytes a second; a request that brings one may take so long.
COPY_SPEED: Final = 4 * 1024 * 1024


class Payload(NamedTuple):
    """A payload ready to be sent: a named file (`blob`), or descriptors that the caller closes."""

    blob: Blob | None
    fds: list[int]

    def put_into(self, spec: JobSpec) -> None:
        """Make it the payload of this job."""
        spec.blob = self.blob
        spec.blob_fd = 0 if self.fds else None

    def seconds(self) -> float:
        """What the daemon may take for it on top of an ordinary request."""
        return sum(os.fstat(fd).st_size for fd in self.fds) / COPY_SPEED

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)


def prepare(source: Source | None, spool: bool = False) -> Payload:
    """A payload from bytes, or from the path of a file, which is read for its digest unless it goes into the spool.

    Raises InvalidOption.
    """
    if source is None:
        if spool:
            raise InvalidOption("spool: there is no payload to be spooled; give blob=")
        return Payload(None, [])
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise InvalidOption("blob: the path is empty; give that of a file, or the content as bytes")
        path = os.path.abspath(os.fspath(source))
        return Payload(None, [_open(path)]) if spool else Payload(_named(path), [])
    if not isinstance(source, Bytes):
        raise InvalidOption(f"blob: expected bytes or the path of a file, got {type(source).__name__}")
    return Payload(None, [_memfd(source)])


async def prepare_beside(source: Source | None, spool: bool = False) -> Payload:
    """`prepare` in a thread: a digest, or a copy, of something large takes its time.

    Who is cancelled meanwhile leaves nothing open behind.
    """
    made: list[Payload] = []
    abandoned = False
    lock = threading.Lock()

    def make() -> None:
        payload = prepare(source, spool)
        with lock:
            made.append(payload)
            if abandoned:
                payload.close()

    try:
        await asyncio.to_thread(make)
    except asyncio.CancelledError:
        with lock:
            abandoned = True
            for payload in made:
                payload.close()
        raise
    return made[0]


def result_value(view: ResultView, fds: list[int]) -> Any:
    """What the job has returned; the descriptors are closed."""
    return _read(view, result_file(view, fds))


async def result_value_beside(view: ResultView, fds: list[int]) -> Any:
    """`result_value` in a thread, for what may be large. Who is cancelled meanwhile leaves nothing open behind."""
    file = result_file(view, fds)
    # Whoever has it closes the file: it must not be closed while the thread reads, and the thread may never begin.
    owned = threading.Lock()

    def read() -> Any:
        return _read(view, file) if owned.acquire(blocking=False) else None

    try:
        return await asyncio.to_thread(read)
    finally:
        if owned.acquire(blocking=False):
            file.close()


def _read(view: ResultView, file: BinaryIO) -> Any:
    with file:
        content = file.read()
    return content if view.blob is not None and not view.blob.json else msgspec.json.decode(content)


def result_file(view: ResultView, fds: list[int]) -> BinaryIO:
    """The result as a file, which takes the descriptor over."""
    if view.blob is None:
        return io.BytesIO((view.json or "null").encode())
    return open(fds[0], "rb")


def _open(path: str) -> int:
    """The file, for reading."""
    try:
        # A fifo without a writer must not hold up anybody.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidOption(f"the payload {path} cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidOption(f"{path} is not a regular file; a payload must be one")
    return fd


def _named(path: str) -> Blob:
    fd = _open(path)
    with open(fd, "rb", buffering=0) as file:
        before = os.fstat(fd)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InvalidOption(f"{path} was written to while it was read; enqueue it again when it is finished")
    return Blob(after.st_size, sha256, path=path, mtime_ns=after.st_mtime_ns)


def _memfd(data: Bytes) -> int:
    view = memoryview(data)
    return make_blob(view.cast("B") if view.c_contiguous else view.tobytes())
