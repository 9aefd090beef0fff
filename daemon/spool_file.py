"""Files of the spool: how one is made, so that it is whole or not there; and how one is opened.

A file in the making is called `.NAME.PID.part` and is locked by who writes it. So anybody can tell whether its writer
is still there, however that has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from perdure.errors import PayloadChanged
from perdure.wire.data import Blob

#: What is read and written at once, in bytes: with it the memory that a copy takes, whatever its size.
CHUNK_BYTES: Final = 256 * 1024
#: Written without being asked for on disk, at most: a commit that comes in between waits for so much of ours.
UNSYNCED_BYTES: Final = 32 * 1024 * 1024

_NAME = re.compile(r"[0-9a-f]{32}")
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.(\d+)\.part")
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class SpoolFile:
    """A file in the making: `write`, then `keep`; or `discard`. Raises OSError from everything."""

    def __init__(self, folder: str) -> None:
        make_folder(folder)
        self._folder = folder
        self._pid = os.getpid()
        self.name = os.urandom(16).hex()
        self.partial = os.path.join(folder, f".{self.name}.{self._pid}.part")
        self.size = 0
        self._synced = 0
        self._digest = hashlib.sha256()
        self.fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.discard()  # a file system without locks
            raise

    def write(self, data: memoryview) -> None:
        """Append all of it."""
        self._digest.update(data)
        self.size += len(data)
        while data:
            data = data[os.write(self.fd, data) :]
        if self.size - self._synced >= UNSYNCED_BYTES:
            os.fdatasync(self.fd)
            self._synced = self.size

    def measure(self) -> None:
        """Take size and digest from what somebody else has written into it."""
        self.size = os.fstat(self.fd).st_size
        self._digest = digest(self.fd)

    def keep(self, *, json: bool = False) -> Blob:
        """It is whole: on disk, under its name, when this returns."""
        os.fchmod(self.fd, 0o400)
        os.fsync(self.fd)
        path = os.path.join(self._folder, self.name)
        os.rename(self.partial, path)
        try:
            sync_folder(self._folder)
        except OSError:
            os.unlink(path)
            raise
        self._close()
        return Blob(self.size, self._digest.hexdigest(), spool=self.name, json=json)

    def discard(self) -> None:
        """Nobody wants it; nothing is left of it. Safe to call at any time: what is kept stays.

        In a child that a handler has forked, it is still its parent's.
        """
        if self.fd >= 0:
            if os.getpid() == self._pid:
                with contextlib.suppress(OSError):
                    os.unlink(self.partial)
            self._close()

    def _close(self) -> None:
        os.close(self.fd)
        self.fd = -1


def is_name(text: str) -> bool:
    """Whether a file of the spool may have this name: no other folder can be reached through it."""
    return _NAME.fullmatch(text) is not None


def writer_of(entry: str) -> int | None:
    """The process that was writing a file of this name; None: it is not one in the making."""
    match = _PARTIAL.fullmatch(entry)
    return int(match[1]) if match else None


def open_spooled(folder: str, name: str) -> int:
    """A descriptor of a file of the spool, for reading. Raises OSError."""
    if not is_name(name):
        raise FileNotFoundError(2, "this is no name of a file in the spool", name)
    return os.open(os.path.join(folder, name), _OPEN)


def chunks(fd: int, size: int) -> Iterator[memoryview]:
    """The first `size` bytes of a file, in one buffer that is used again and again; fewer if it is shorter.

    The descriptor's own position is neither used nor moved: others may share it.
    """
    buffer = memoryview(bytearray(min(CHUNK_BYTES, size)))
    offset = 0
    while offset < size:
        count = os.preadv(fd, [buffer[: size - offset]], offset)
        if count == 0:
            return
        yield buffer[:count]
        offset += count


def digest(fd: int) -> hashlib._Hash:
    """The SHA-256 of what is in a file now."""
    found = hashlib.sha256()
    for chunk in chunks(fd, os.fstat(fd).st_size):
        found.update(chunk)
    return found


def check_unchanged(fd: int, blob: Blob, what: str) -> None:
    """Raise PayloadChanged unless the file is what `blob` says: by its size, and by its digest if it was written to."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise PayloadChanged(f"{what} is not a regular file any more")
    if found.st_size != blob.size:
        raise PayloadChanged(
            f"{what} has {found.st_size:,} bytes, and had {blob.size:,} when the job was enqueued. "
            "Spool payloads that may change: --spool"
        )
    if blob.path and found.st_mtime_ns != blob.mtime_ns and digest(fd).hexdigest() != blob.sha256:
        raise PayloadChanged(
            f"{what} was written to since the job was enqueued, and has another content. "
            "Spool payloads that may change: --spool"
        )


def make_folder(folder: str) -> None:
    """The folder, for its owner only; on disk when this returns."""
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        os.makedirs(parent, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        sync_folder(parent)
        sync_folder(os.path.dirname(parent))


def sync_folder(folder: str) -> None:
    """Have the names in it on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
