"""What a worker does for one job while it runs: the far end of its Context. One for each job that takes a context."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from perdure.daemon.worker.job_file import complain
from perdure.errors import UsageError

if TYPE_CHECKING:
    import socket

    from perdure.adapters.output_pump import Sink
    from perdure.adapters.port import BlockingPort, Port
    from perdure.adapters.process import Completed
    from perdure.daemon.worker.lane import Bench
    from perdure.daemon.worker.spooling import Payload, ResultFile
    from perdure.daemon.worker.teller import Teller
    from perdure.wire.data import Blob
    from perdure.wire.work import JobRow

T = TypeVar("T")


class JobDesk:
    """Made when the job starts, closed when it ends. Its parts are made when they are first asked for."""

    __slots__ = (
        "_bench",
        "_closed",
        "_ends_at",
        "_payload",
        "_port",
        "_row",
        "_tasks",
        "_teller",
        "cancelled",
        "result",
    )

    def __init__(self, bench: Bench, row: JobRow) -> None:
        self._bench = bench
        self._row = row
        #: The job was told to stop.
        self.cancelled = False
        #: The file that the handler writes its result into, if it asked for one.
        self.result: ResultFile | None = None
        self._payload: Payload | None = None
        self._port: Port | BlockingPort | None = None
        self._teller: Teller | None = None
        self._closed = False
        #: When its time is over, in seconds of time.monotonic().
        limit = row.timeout_ms
        self._ends_at = None if limit is None else bench.clock.monotonic_ns() / 1e9 + limit / 1000
        #: Tasks that run a command for it, or wait at its port; None: there never were any.
        self._tasks: set[asyncio.Task[Any]] | None = None

    def progress(self, done: float, total: float | None, text: str | None) -> None:
        """See Context.progress."""
        (self._teller or self._with_teller()).progress(done, total, text)

    def emit(self, value: Any) -> None:
        """See Context.emit."""
        (self._teller or self._with_teller()).emit(value)

    @property
    def payload(self) -> Blob | None:
        """See Context.payload."""
        opened = self._open_payload()
        return None if opened is None else opened.blob

    def blob(self) -> memoryview:
        """See Context.blob."""
        from perdure.daemon.worker.spooling import no_payload, too_late

        if self._closed:
            raise too_late(self._row.id)
        opened = self._open_payload()
        if opened is None:
            raise no_payload(self._row.id)
        return opened.view()

    def result_file(self) -> BinaryIO:
        """See Context.result_file."""
        from perdure.daemon.worker.spooling import ResultFile, too_late

        if self._closed:
            raise too_late(self._row.id)
        if self.result is None:
            self.result = ResultFile(self._bench.spool, self._row)
        return self.result.file

    async def run(self, argv: tuple[str, ...], **options: Any) -> Completed:
        """See Context.run."""
        return await self._run(self._sink(), argv, options)

    def run_blocking(self, argv: tuple[str, ...], options: dict[str, Any]) -> Completed:
        """The same for a thread, which waits. When it is interrupted, the command has ended before it goes on."""
        patience = self._bench.commands.most_seconds_to_end()
        return self._bench.toolbox.bridge.run_to_end(patience, self._run, self._sink(), argv, options)

    async def _run(self, sink: Sink, argv: tuple[str, ...], options: dict[str, Any]) -> Completed:
        return await self._while_it_runs(self._bench.commands.run(self._row, sink, self._ends_at, argv, **options))

    async def _while_it_runs(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something that the end of the job ends, also if the handler does not wait for it. Raises UsageError."""
        task = asyncio.current_task()
        assert task is not None
        tasks = self._tasks = self._tasks or set()
        tasks.add(task)
        try:
            # Looked at after it was added: `close`, in another thread, does the same the other way round.
            if self._closed:
                work.close()
                raise UsageError(f"job {self._row.id} has ended: it can run no command and open no port any more")
            return await work
        finally:
            tasks.discard(task)

    def _sink(self) -> Sink:
        """Where the output of a command goes that the caller starts: looked up in its own thread and context."""
        return self._bench.output.current_log() or _Stray()

    async def port(self, timeout: float | None) -> Port:
        """See Context.port."""
        from perdure.adapters.port import Port

        if not isinstance(self._port, Port) or self._port.closed:
            self._port = Port(await self._open_port(timeout))
        return self._port

    def port_blocking(self, timeout: float | None) -> BlockingPort:
        """The same for a thread, which waits."""
        from perdure.adapters.port import BlockingPort

        if not isinstance(self._port, BlockingPort) or self._port.closed:
            self._port = BlockingPort(self._bench.toolbox.bridge.run(self._open_port, timeout))
        return self._port

    async def _open_port(self, timeout: float | None) -> socket.socket:
        if self._port is not None:
            self._port.close()
        return await self._while_it_runs(self._bench.ports.open(self._row.id, timeout))

    def close(self) -> None:
        """The job has ended, one way or another: give back what it held. Never raises: the job's outcome is decided."""
        self._closed = True
        for task in tuple(self._tasks or ()):
            # What a handler has started without waiting for it must not outlive the job.
            task.get_loop().call_soon_threadsafe(task.cancel)
        for part in (self._teller, self._payload, self.result, self._port):
            if part is not None:
                try:
                    part.close()
                except Exception as error:  # the handler had it in its hands: closed or detached below us
                    complain("context", self._row.id, error, "closed")

    def _with_teller(self) -> Teller:
        if self._teller is None:
            self._teller = self._bench.newsroom.teller(self._row)
            if self._closed:
                # A thread or task that outlives the job: what it tells is dropped.
                self._teller.close()
        return self._teller

    def _open_payload(self) -> Payload | None:
        if self._payload is None and self._row.blob is not None:
            from perdure.daemon.worker.spooling import Payload, too_late

            if self._closed:
                raise too_late(self._row.id)
            self._payload = Payload(self._bench.spool, self._row.blob)
        return self._payload


class _Stray:
    """For output of which nobody knows to which log it belongs."""

    def write(self, data: bytes) -> None:
        """To the worker's own output."""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(2, data) :]

    def flush(self) -> None:
        """Nothing waits."""
