"""The supervisor's side of a worker: its channel, its recorder page, its stacks, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

from msgspec.msgpack import Decoder

from perdure.daemon.ledger import Death
from perdure.daemon.reaper import Exit
from perdure.daemon.worker.recorder import RecorderPage
from perdure.errors import ProtocolError
from perdure.log import get_logger
from perdure.store.models import ClaimedJob
from perdure.wire.channel import Channel
from perdure.wire.work import DumpStacks, FromWorker, JobRow, Run, StacksDumped

#: How long a hung worker has to write its stacks, first by its loop and then by a signal.
DUMP_SECONDS = 0.2
DUMP_POLL_SECONDS = 0.005
#: Most bytes of stacks that are kept with a job.
STACKS_BYTES = 64 * 1024

_FROM_WORKER = Decoder(FromWorker)

log = get_logger()


class WorkerLink:
    """A worker process as the supervisor has it.

    `doomed`: jobs that it is being killed for, over their hard limit, or cancelled and deaf to it. `cut_short`: it is
    being killed because the daemon stops, which is no fault of its jobs. `on_message(link, message)` gets what it says,
    `on_exit(link, exit)` comes once, when the process has ended and everything it had said has been read.
    """

    def __init__(
        self,
        worker_id: int,
        folder: Path,
        page: RecorderPage,
        started_ns: int,
        on_message: Callable[[WorkerLink, Any], None],
        on_exit: Callable[[WorkerLink, Exit], None],
        *,
        isolated: bool = False,
    ) -> None:
        self.isolated = isolated
        self.id = worker_id
        self.pid = 0
        self.page = page
        self.started_ns = started_ns
        self.jobs_done = 0
        self.asked_to_end = False
        self.cut_short = False
        self.doomed: set[int] = set()
        self.progress_seen: tuple[int, int] = (0, started_ns)
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._folder = folder
        self._stacks_fd = os.open(self.stacks_path(folder, worker_id), _STACKS_FLAGS, 0o600)
        self._on_message = on_message
        self._on_exit = on_exit
        self._exit: Exit | None = None
        self._dumped = asyncio.Event()
        #: Why it is being killed, if that is for what it sent.
        self._broke: Exception | None = None
        self.ended = asyncio.Event()
        self._channel: Channel[FromWorker] = Channel(self.ours, _FROM_WORKER, self._message, self._closed, max_fds=1)

    @staticmethod
    def page_path(folder: Path, worker_id: int) -> Path:
        """Where a worker's recorder page is."""
        return folder / f"{worker_id}.page"

    @staticmethod
    def stacks_path(folder: Path, worker_id: int) -> Path:
        """Where a worker's stacks go when it crashes or hangs."""
        return folder / f"{worker_id}.stacks"

    @property
    def dead(self) -> bool:
        """Whether the process has ended."""
        return self._exit is not None

    def worker_fds(self, output_fd: int) -> list[int]:
        """The descriptors that the nursery hands to the worker: channel, page, stacks, output."""
        return [self._theirs.fileno(), self.page.fileno(), self._stacks_fd, output_fd]

    def forked(self, pid: int) -> None:
        """The worker exists and has its descriptors: give up our copy of its end of the channel."""
        self.pid = pid
        self._theirs.close()

    def never_started(self) -> None:
        """The fork failed: as if it had ended at once."""
        self.asked_to_end = True
        self.process_ended(Exit(0, None, None, 0.0, 0))
        self._channel.close()

    def run(self, jobs: list[ClaimedJob]) -> None:
        """Send jobs. A worker that is gone gets nothing; its end is handled when it is known."""
        self.send(Run(cast("list[JobRow]", jobs)))

    def send(self, message: object) -> None:
        """Send any message to the worker."""
        self._channel.send(message)

    def take_fds(self) -> list[int]:
        """The descriptor that came with the message which `on_message` has right now, if any; the caller closes it."""
        return self._channel.take_fds()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        if self.pid and self._exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def autopsy(self) -> None:
        """Have a hung worker write down what all its threads and tasks are doing, if it still can; then kill it."""
        self._dumped.clear()
        self._channel.send(DumpStacks())
        try:
            await asyncio.wait_for(self._dumped.wait(), DUMP_SECONDS)
        except TimeoutError:
            # Its loop hangs as well, or somebody holds the GIL. This signal is answered in C.
            before = self._stacks_size()
            self.signal(signal.SIGUSR1)
            await self._written_since(before)
        self.signal(signal.SIGKILL)

    def process_ended(self, ended: Exit) -> None:
        """The process is gone; what it sent before is still read before `on_exit` comes."""
        self._exit = ended
        self.ended.set()
        if self._theirs.fileno() >= 0:
            self._theirs.close()
        if self._channel.closed:
            self._on_exit(self, ended)
        else:
            # Not until the other end is closed: a process that a job has forked may hold that open for ever.
            self._channel.finish()

    def death(self, executing: Collection[int]) -> Death:
        """How it ended, for the record of the jobs it took along."""
        assert self._exit is not None
        beside = f" beside {len(executing) - 1} others" if len(executing) > 1 else ""
        message = f"worker {self.id} was executing the job{beside} when it {_was(self._exit)}"
        if self._broke is not None:
            message += f", for what it had sent: {self._broke}"
        return Death(message, self._exit.as_data(), self._stacks())

    def close(self) -> None:
        """Free everything that belonged to it but for its files."""
        self._channel.close()
        self.page.close()
        os.close(self._stacks_fd)

    def remove_files(self, *, keep_page: bool = False) -> None:
        """Remove its files, but for a page that recovery is to find. Waits for the disk: in a thread."""
        if not keep_page:
            self.page_path(self._folder, self.id).unlink(missing_ok=True)
        self.stacks_path(self._folder, self.id).unlink(missing_ok=True)

    async def _written_since(self, before: int) -> None:
        """Wait until something was added to the stacks and no more comes, or the time for it is over."""
        last = before
        for _ in range(round(DUMP_SECONDS / DUMP_POLL_SECONDS)):
            await asyncio.sleep(DUMP_POLL_SECONDS)
            size = self._stacks_size()
            if size == last > before:
                return
            last = size

    def _stacks_size(self) -> int:
        return os.fstat(self._stacks_fd).st_size

    def _stacks(self) -> str | None:
        size = self._stacks_size()
        data = os.pread(self._stacks_fd, STACKS_BYTES, max(0, size - STACKS_BYTES))
        return data.decode("utf-8", "replace") or None

    def _message(self, message: FromWorker) -> None:
        if isinstance(message, StacksDumped):
            self._dumped.set()
        else:
            self._on_message(self, message)

    def _closed(self, cause: Exception | None) -> None:
        # A worker closes its channel only by ending. One that broke the protocol is ended here.
        if cause is not None and self._exit is None:
            self._broke = cause
            bug = None if isinstance(cause, ProtocolError | OSError) else cause
            log.error("worker.refused", worker=self.id, pid=self.pid, reason=str(cause), exc_info=bug)
        self.signal(signal.SIGKILL)
        if self._exit is not None:
            self._on_exit(self, self._exit)


_STACKS_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC


def _was(ended: Exit) -> str:
    return f"was {ended}" if ended.signal is not None else str(ended)
