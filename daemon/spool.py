"""The supervisor's side of the spool: payloads are copied into it, files that nobody needs go out of it.

All of it happens in threads, a copy in one of two of its own; its memory is two buffers, whatever the files' sizes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from perdure.daemon.hands import Hands
from perdure.daemon.spool_file import SpoolFile, chunks, is_name, open_spooled, writer_of
from perdure.errors import Busy, InvalidOption, NotFound, StoreError, StoreFull, StoreReadOnly
from perdure.log import get_logger
from perdure.store.contract import Store
from perdure.store.models import Committed, Turn
from perdure.wire.data import Blob

log = get_logger()

#: More copies at once would only make each of them slower.
COPY_THREADS: Final = 2
#: Payloads that may wait for them: each is one of the daemon's own (its limit is often 1,024).
MOST_WAITING: Final = 256
#: A file without an owner is left alone for so long: its job may be on its way into the queue.
ORPHAN_SECONDS: Final = 3600.0
#: Who asks for the size again and again gets an old one for so long: it takes a look at each file.
MEASURED_SECONDS: Final = 5.0
#: Names that the store is asked about at once.
SWEEP_BATCH: Final = 1_000


class Spool:
    """The folder of this queue's files, and their largest size in bytes."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        #: Files that are whole and that no row names yet.
        self.pending: set[str] = set()
        self._copying = Hands("perdure-spool", COPY_THREADS)
        self._looking = Hands("perdure-paths", COPY_THREADS)
        self._bytes = 0
        self._measured_at = -MEASURED_SECONDS

    def copy(self, fd: int, gone: threading.Event) -> Future[Blob]:
        """Begin to copy a client's file into the spool; `fd` is closed when that is over, `gone` ends it early.

        The copy is `pending` until the caller says otherwise: those beside it may take hours. The future raises
        InvalidOption, StoreFull, StoreError; then nothing is left of the copy.
        """
        copying = self._copying.submit(lambda: self._copy(fd, gone))
        # Also when it is cancelled before it has begun.
        copying.add_done_callback(lambda _: os.close(fd))
        return copying

    def check_room(self, more: int) -> None:
        """Raise Busy if too many payloads wait already for so many more to be copied."""
        if more and self._copying.busy_with + more > MOST_WAITING:
            raise Busy(
                f"{self._copying.busy_with:,} payloads wait to be copied into {self.folder}, and more than "
                f"{MOST_WAITING:,} may not; try again later. Is the disk slow, or a network mount down?"
            )

    async def check_paths(self, blobs: Collection[Blob]) -> None:
        """Raise InvalidOption unless these payloads can be read here, and are as their clients have seen them; Busy."""
        if not blobs:
            return
        if self._looking.busy_with >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING:,} payloads wait to be looked at; try again later. Is a network mount down?")
        await asyncio.wrap_future(self._looking.submit(lambda: _check_paths(blobs)))

    def _copy(self, fd: int, gone: threading.Event) -> Blob:
        try:
            blob = copy_file(str(self.folder), fd, self.limit_bytes, gone)
            self.pending.add(blob.spool)
            return blob
        except OSError as error:
            raise explain(error, self.folder) from error

    async def remove(self, names: Collection[str]) -> None:
        """These files are nobody's any more."""
        if names:
            await asyncio.to_thread(remove_files, self.folder, names)

    async def open_result(self, job_id: int, blob: Blob) -> int:
        """A descriptor of a result, for reading; the caller closes it. Raises NotFound."""
        try:
            file = await asyncio.to_thread(_open, self.folder, blob.spool)
        except OSError as error:
            raise NotFound(f"the result of job {job_id} cannot be opened: {error.strerror} ({blob.spool})") from error
        with file:
            return os.dup(file.fileno())

    def told(self, spooled: Iterable[tuple[int, str]], stale: Collection[int]) -> list[str]:
        """Workers have finished these results, (job id, Blob as JSON text); the files of the stale ones."""
        names = {job_id: _name(blob_json) for job_id, blob_json in spooled}
        self.pending.update(name for job_id, name in names.items() if job_id not in stale)
        return [names[job_id] for job_id in names if job_id in stale]

    def committed(self, turn: Turn, result: Committed) -> list[str]:
        """The results of this turn are on disk; the files of those that were refused."""
        names = {(job_id, lease): _name(blob_json) for job_id, lease, blob_json in turn.spooled}
        self.pending.difference_update(names.values())
        return [name for key, name in names.items() if key in result.stale]

    async def writer_died(self, pid: int) -> None:
        """Remove what a worker was writing when it ended."""
        await self.remove(await asyncio.to_thread(partials_of, self.folder, pid))

    async def sweep(self, store: Store, min_age_seconds: float = 0.0) -> list[str]:
        """Remove what nobody needs and nobody writes, and is older than that; the names."""
        found = await asyncio.to_thread(look, self.folder, min_age_seconds)
        removed = found.partial
        for start in range(0, len(found.whole), SWEEP_BATCH):
            names = [name for name in found.whole[start : start + SWEEP_BATCH] if name not in self.pending]
            unneeded = await store.unneeded_files(names)
            # Looked at again: a job may have come for one of them meanwhile.
            removed += [name for name in unneeded if name not in self.pending]
        await self.remove(removed)
        if removed:
            log.warning("spool.swept", files=len(removed), reason="no job and no dead letter needs them")
        return removed

    async def size(self) -> int:
        """Bytes in the spool; as they were up to a few seconds ago."""
        now = time.monotonic()
        if now - self._measured_at > MEASURED_SECONDS:
            self._measured_at = now
            self._bytes = await asyncio.to_thread(total_bytes, self.folder)
        return self._bytes

    def close(self) -> None:
        """Copy nothing more, and wait for nothing: a file on a mount that hangs must not keep the daemon."""
        self._copying.close()
        self._looking.close()


class Found(NamedTuple):
    """What is in the spool folder: whole files, and those in the making whose writer is gone."""

    whole: list[str]
    partial: list[str]


def copy_file(folder: str, fd: int, limit_bytes: int, gone: threading.Event) -> Blob:
    """Copy what is in `fd` into the spool. Raises InvalidOption, OSError; then nothing is left of it."""
    size = _size(fd)
    if size > limit_bytes:
        raise InvalidOption(f"the payload has {size:,} bytes; at most {limit_bytes:,} may be spooled (limits.blob)")
    made = SpoolFile(folder)
    try:
        for chunk in chunks(fd, size):
            if gone.is_set():
                raise InvalidOption("the client that sent this payload is gone")
            made.write(chunk)
        if made.size != size or os.fstat(fd).st_size != size:
            raise InvalidOption("the payload was written to while it was copied; enqueue it again when it is finished")
        return made.keep()
    finally:
        made.discard()


def check_path(blob: Blob) -> None:
    """Raise InvalidOption unless the payload that a client names can be read here, and is as the client has seen it."""
    try:
        found = os.stat(blob.path)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidOption(f"{blob.path} is not a regular file; a payload must be one")
        os.close(os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        raise InvalidOption(
            f"the daemon cannot read the payload {blob.path} ({error.strerror}): "
            "let it, or have the file copied with --spool"
        ) from error
    if (found.st_size, found.st_mtime_ns) != (blob.size, blob.mtime_ns):
        raise InvalidOption(f"{blob.path} was written to while it was enqueued; enqueue it again when it is finished")


def _check_paths(blobs: Iterable[Blob]) -> None:
    for blob in blobs:
        check_path(blob)


def look(folder: Path, min_age_seconds: float) -> Found:
    """What is in the folder and older than that."""
    found = Found([], [])
    newest = time.time() - min_age_seconds
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_ctime > newest:
                    continue
                if is_name(entry.name):
                    found.whole.append(entry.name)
                elif writer_of(entry.name) is not None and not _is_written(entry.path):
                    found.partial.append(entry.name)
    return found


def total_bytes(folder: Path) -> int:
    """What all files in the folder have together."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def partials_of(folder: Path, pid: int) -> list[str]:
    """What a process that is dead was writing."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return [entry.name for entry in entries if writer_of(entry.name) == pid and not _is_written(entry.path)]
    return []


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Delete files of the spool; nothing else can be reached by these names."""
    for name in names:
        if is_name(name) or writer_of(name) is not None:
            # What cannot be removed now is found by the next sweep.
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def explain(error: OSError, folder: Path) -> StoreError:
    """What the system reports about the spool, as an error that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"the disk that holds {folder} has no room for the payload: nothing was enqueued")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnly(f"{folder} cannot be written ({error.strerror}): check its owner and permissions")
    return StoreError(f"the payload cannot be copied into {folder}: {error.strerror or error}")


def _size(fd: int) -> int:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise InvalidOption("a payload must be a regular file, open for reading; this is something else")
    return found.st_size


def _name(blob_json: str) -> str:
    return msgspec.json.decode(blob_json, type=Blob).spool


def _open(folder: Path, name: str) -> BinaryIO:
    """A file object, so that it is closed also when nobody waits for it any more."""
    return open(open_spooled(str(folder), name), "rb", buffering=0)


def _is_written(path: str) -> bool:
    """Whether somebody still writes it: then it is locked."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
