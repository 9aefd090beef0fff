"""Jobs with payloads: the files are looked at, or copied, before the jobs go into the queue."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import Future

from msgspec.structs import replace

from perdure.daemon.spool import Spool
from perdure.errors import DaemonStopping, InvalidOption, StoreError, StoreFull
from perdure.wire.control import Enqueue
from perdure.wire.data import Blob, Enqueued, JobSpec
from perdure.wire.packet import close_all

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Longer ones the system does not take (PATH_MAX).
_PATH_BYTES = 4095


class FileIntake:
    """Enqueues jobs with payloads through `enqueue`; `check` refuses what is wrong with the jobs before any copy.

    `left` says which files are nobody's, once everything that was on its way into the queue is there.
    """

    def __init__(
        self,
        spool: Spool,
        enqueue: Callable[[Enqueue], Awaitable[list[Enqueued]]],
        check: Callable[[Enqueue], None],
        left: Callable[[Collection[str]], Awaitable[list[str]]],
    ) -> None:
        self._spool = spool
        self._enqueue = enqueue
        self._check = check
        self._left = left
        self._tasks: set[asyncio.Task[list[Enqueued]]] = set()

    def take(self, request: Enqueue, fds: Sequence[int]) -> asyncio.Future[list[Enqueued]]:
        """Put jobs with payloads into the queue, all or none. The descriptors are closed here. Raises Busy.

        A client that goes away ends the copying, and gives up its place where the jobs wait for room in a full queue.
        """
        wanted = {job.blob_fd for job in request.jobs if job.blob_fd is not None}
        try:
            _check_payloads(request.jobs, len(fds))
            self._check(request)
            self._spool.check_room(len(wanted))
        except BaseException:
            close_all(fds)
            raise
        sender = _Sender()
        copies = {position: self._spool.copy(fd, sender.gone) for position, fd in enumerate(fds) if position in wanted}
        close_all(fd for position, fd in enumerate(fds) if position not in wanted)
        task = asyncio.ensure_future(self._carry_out(request, copies, sender))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        answer = asyncio.shield(task)
        answer.add_done_callback(lambda answer: sender.leave() if answer.cancelled() else None)
        return answer

    def _ended(self, task: asyncio.Task[list[Enqueued]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the client that asked has it, or is gone

    async def _carry_out(self, request: Enqueue, copies: dict[int, Future[Blob]], sender: _Sender) -> list[Enqueued]:
        blobs = await self._copied(copies, sender)
        names = {blob.spool for blob in blobs.values()}
        unneeded: Collection[str] = names
        try:
            await self._spool.check_paths([job.blob for job in request.jobs if job.blob is not None])
            if sender.gone.is_set():
                raise InvalidOption("the client that sent this payload is gone")
            jobs = [
                job if job.blob_fd is None else replace(job, blob=blobs[job.blob_fd], blob_fd=None)
                for job in request.jobs
            ]
            placed = await sender.wait_for(self._enqueue(replace(request, jobs=jobs)))
            unneeded = names - _needed(jobs, placed)
        except asyncio.CancelledError:
            # Whether the jobs have gone in is not known here. When the daemon ends, the sweep at its next start asks.
            unneeded = ()
            if sender.gone.is_set():
                unneeded = await self._left(names)
            raise
        except StoreError as error:
            # A commit that failed may be there after a restart; on a full disk it is not.
            if not isinstance(error, StoreFull):
                unneeded = ()
            raise
        finally:
            self._spool.pending -= names
            await self._spool.remove(unneeded)
        return placed

    async def _copied(self, copies: dict[int, Future[Blob]], sender: _Sender) -> dict[int, Blob]:
        """What became of all copies. When one fails, nothing is left of the others either."""
        try:
            if copies:
                await asyncio.gather(*map(asyncio.wrap_future, copies.values()), return_exceptions=True)
        except asyncio.CancelledError:
            sender.gone.set()
            raise
        errors = [error for copy in copies.values() if (error := _error_of(copy)) is not None]
        if errors:
            whole = [copy.result().spool for copy in copies.values() if _error_of(copy) is None]
            self._spool.pending.difference_update(whole)
            await self._spool.remove(whole)
            raise errors[0]
        return {position: copy.result() for position, copy in copies.items()}


class _Sender:
    """The client that a request with payloads comes from."""

    def __init__(self) -> None:
        #: Seen by the threads that copy.
        self.gone = threading.Event()
        self._placing: asyncio.Future[list[Enqueued]] | None = None

    def leave(self) -> None:
        """It is gone, or does not want the answer any more."""
        self.gone.set()
        if self._placing is not None:
            self._placing.cancel()

    async def wait_for(self, placing: Awaitable[list[Enqueued]]) -> list[Enqueued]:
        """What became of its jobs. Cancelled when it leaves."""
        self._placing = asyncio.ensure_future(placing)
        return await self._placing


def _error_of(copy: Future[Blob]) -> BaseException | None:
    return DaemonStopping() if copy.cancelled() else copy.exception()


def brings_files(jobs: Iterable[JobSpec]) -> bool:
    """Whether any of these has a payload."""
    for job in jobs:  # noqa: SIM110 - a generator costs a single job as much as all the rest of this
        if job.blob is not None or job.blob_fd is not None:
            return True
    return False


def _needed(jobs: Iterable[JobSpec], placed: Iterable[Enqueued]) -> set[str]:
    return {
        job.blob.spool
        for job, place in zip(jobs, placed, strict=True)
        if job.blob is not None and job.blob.spool and not place.duplicate
    }


def _check_payloads(jobs: Iterable[JobSpec], count: int) -> None:
    for job in jobs:
        if job.blob_fd is not None and not 0 <= job.blob_fd < count:
            raise InvalidOption(f"payload: descriptor {job.blob_fd} did not come with the request; {count} did")
        if job.blob is not None:
            if job.blob_fd is not None:
                raise InvalidOption("payload: a job has one, a path or a descriptor")
            _check_blob(job.blob)


def _check_blob(blob: Blob) -> None:
    if blob.spool:
        raise InvalidOption("payload: files of the spool belong to the jobs that they came with; give a path")
    if not blob.path.startswith("/") or "\0" in blob.path or len(os.fsencode(blob.path)) > _PATH_BYTES:
        raise InvalidOption(f"payload: an absolute path is needed, not {blob.path[:200]!r}")
    if blob.size < 0 or not _SHA256.fullmatch(blob.sha256):
        raise InvalidOption("payload: size and sha256 (64 hexadecimal digits) of the file are needed")
