"""The supervisor's side of a nursery: start one, have it load handlers and fork workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from perdure.daemon.reaper import Exit, Reaper
from perdure.daemon.systemd import job_environ
from perdure.errors import CallTimeout, ChannelClosed, HandlersNotLoaded, PerdureError
from perdure.wire.calls import Caller
from perdure.wire.data import KindSpec
from perdure.wire.work import Forked, ForkWorker, FromNursery, Loaded, LoadHandlers, WorkerConfig

#: The descriptor number of the nursery's end of its channel.
NURSERY_FD = 3
#: A fork takes about 5 ms; a machine that swaps may need long.
FORK_SECONDS = 30.0
#: What a parent may have ignored, and jobs and the nursery need.
DEFAULT_SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


class NurseryLink:
    """A nursery process. `gone` is set when it has ended, with its Exit as result."""

    def __init__(self, pid: int, sock: socket.socket, reaper: Reaper) -> None:
        self.pid = pid
        self.gone: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._caller = Caller(sock)
        reaper.watch(pid, self._ended)

    @classmethod
    def start(cls, reaper: Reaper, output_fd: int) -> NurseryLink:
        """Start a fresh Python process. It is spawned, not forked: this process has threads. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [sys.executable, "-m", "perdure.daemon.nursery", str(NURSERY_FD)]
        actions = [
            (os.POSIX_SPAWN_DUP2, output_fd, 1),
            (os.POSIX_SPAWN_DUP2, output_fd, 2),
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), NURSERY_FD),
        ]
        try:
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                job_environ(os.environ),
                file_actions=actions,
                setpgroup=0,
                setsigmask=[],
                setsigdef=DEFAULT_SIGNALS,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(pid, ours, reaper)

    async def load(self, modules: Sequence[str], path: Sequence[str], timeout_s: float | None) -> list[KindSpec]:
        """Import the handlers; what they declare. Raises HandlersNotLoaded."""
        try:
            reply = await self._caller.call(LoadHandlers(list(modules), list(path)), timeout_s, reply=FromNursery)
        except ChannelClosed:
            ended = await asyncio.shield(self.gone)
            raise HandlersNotLoaded(
                f"the process that imports {', '.join(modules)} {ended} before it was done"
            ) from None
        except PerdureError as error:
            raise HandlersNotLoaded(f"the handlers cannot be imported: {error}{_where(error)}") from error
        assert isinstance(reply, Loaded)
        return reply.kinds

    async def fork(self, config: WorkerConfig, fds: Sequence[int]) -> int:
        """Fork a worker that gets copies of `fds`; its pid. Raises ChannelClosed when the nursery has died.

        A nursery that does not answer is killed, so that it is replaced; then it raises CallTimeout.
        """
        try:
            reply = await self._caller.call(ForkWorker(config), FORK_SECONDS, reply=FromNursery, fds=fds)
        except CallTimeout:
            self.kill()
            raise
        assert isinstance(reply, Forked)
        return reply.pid

    def close(self) -> None:
        """Let it end: nothing more will be forked from it."""
        self._caller.close()

    def end(self) -> None:
        """Nothing will be forked from it any more: end it. Its workers live on."""
        self.close()
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        if not self.gone.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _ended(self, ended: Exit) -> None:
        self._caller.close()
        if not self.gone.done():
            self.gone.set_result(ended)


def _where(error: PerdureError) -> str:
    """The last place that the traceback of the other process names."""
    lines = [line.strip() for line in (getattr(error, "remote_traceback", None) or "").splitlines()]
    places = [line for line in lines if line.startswith("File ")]
    return f" ({places[-1]})" if places else ""
