"""The nursery: a process with one thread that imports the handlers once and forks workers on request.

    python -m perdure.daemon.nursery FD

FD is its end of a SEQPACKET socket to the supervisor. It is started afresh (spawned, not forked) because the supervisor
has threads; it has none, so its forks are sound. It ends with the supervisor, or when the socket is closed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from perdure.adapters.drivers import preload
from perdure.daemon.process_control import bare_fork, die_with, set_process_name
from perdure.daemon.worker.failure import describe
from perdure.daemon.worker.handlers import Handlers
from perdure.daemon.worker.main import DEFECT, Descriptors, run_worker
from perdure.daemon.worker.output import Output
from perdure.errors import ProtocolError
from perdure.log import get_logger
from perdure.registry import registry
from perdure.wire.data import KindSpec
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Fault, Reply
from perdure.wire.packet import close_all
from perdure.wire.work import Forked, ForkWorker, Loaded, LoadHandlers, ToNursery, WorkerConfig

_PID_BYTES: Final = 8

log = get_logger()


class Nursery:
    """Answers the supervisor's calls, one after the other."""

    def __init__(self, sock: socket.socket, output: Output) -> None:
        self._endpoint = BlockingEndpoint(sock, msgspec.msgpack.Decoder(Call[ToNursery]))
        self._output = output
        self._frozen = False
        self._threads_told = 1

    def serve(self) -> None:
        """Answer calls until the supervisor closes the socket."""
        while (received := self._endpoint.recv()) is not None:
            call, fds = received
            try:
                reply: Reply[object] | Fault = Reply(call.id, self._answer(call.body, fds))
            except Exception as error:
                reply = Fault(call.id, describe(error))
            finally:
                close_all(fds)
            self._endpoint.send(reply)

    def _answer(self, request: ToNursery, fds: list[int]) -> object:
        if isinstance(request, LoadHandlers):
            return Loaded(self._load(request.modules, request.path))
        return Forked(self._fork(request, fds))

    # --- handlers

    def _load(self, modules: Sequence[str], path: Sequence[str]) -> list[KindSpec]:
        """Import the modules; raises what an import raised. SystemExit at import is an error like any other."""
        sys.path[:0] = [folder for folder in path if folder not in sys.path]
        for module in modules:
            try:
                importlib.import_module(module)
                preload(module)
            except (SystemExit, KeyboardInterrupt) as error:
                raise ImportError(f"importing {module} ended with {type(error).__name__}") from error
        self._warn_of_threads()
        return [job.spec for job in registry]

    def _warn_of_threads(self) -> None:
        """A lock that another thread holds during a fork stays held for ever in the worker: say who takes that risk."""
        if threading.active_count() > self._threads_told:
            self._threads_told = threading.active_count()
            names = sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
            log.warning("nursery.threads", names=names, advice="start threads in a job, not when a module is imported")

    # --- forks

    def _fork(self, request: ForkWorker, fds: list[int]) -> int:
        """Fork a worker that becomes the supervisor's child; its pid. Raises OSError, ProtocolError."""
        config = msgspec.convert(request.config, WorkerConfig)
        if len(fds) != len(Descriptors.__struct_fields__):
            raise ProtocolError(f"a worker needs {len(Descriptors.__struct_fields__)} descriptors, {len(fds)} came")
        self._warn_of_threads()
        self._freeze()
        handlers = Handlers(registry)
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            # The process between needs nothing renewed but locks that other threads hold.
            between = os.fork() if threading.active_count() > 1 else bare_fork()
            if between == 0:
                self._fork_again(config, fds, handlers, reader, writer)
            os.close(writer)
            writer = -1
            return self._await_worker(between, reader)
        finally:
            close_all(fd for fd in (reader, writer) if fd >= 0)

    def _freeze(self) -> None:
        """Keep the collector of every worker away from what they all share, so that the pages stay shared."""
        if not self._frozen:
            self._frozen = True
            gc.collect()
            gc.freeze()

    def _fork_again(
        self, config: WorkerConfig, fds: list[int], handlers: Handlers, reader: int, writer: int
    ) -> NoReturn:
        """In the process between: fork the worker, tell its pid, end. The supervisor, a subreaper, adopts it."""
        try:
            pid = os.fork()
            if pid:
                os.write(writer, pid.to_bytes(_PID_BYTES, "little"))
                os._exit(0)
            close_all((reader, writer))
            self._endpoint.close()
            run_worker(config, Descriptors(*fds), handlers, self._output)
        finally:
            os._exit(DEFECT)

    @staticmethod
    def _await_worker(between: int, reader: int) -> int:
        """The worker's pid, once the process between has ended. Raises OSError when it could not fork."""
        told = os.read(reader, _PID_BYTES)
        _, status = os.waitpid(between, 0)
        if len(told) != _PID_BYTES:
            raise OSError(f"the worker could not be forked (status {os.waitstatus_to_exitcode(status)})")
        return int.from_bytes(told, "little")


def main(arguments: Sequence[str]) -> int:
    """Be the nursery on the descriptor named by the only argument."""
    parent = os.getppid()
    if not die_with(parent):
        return 1
    with contextlib.suppress(OSError):
        set_process_name("perdure-nursery")
    sock = socket.socket(fileno=int(arguments[0]))
    os.set_inheritable(sock.fileno(), False)
    # Before any handler module keeps a reference to sys.stderr, as logging.basicConfig() does.
    output = Output()
    output.install()
    Nursery(sock, output).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
