"""What a worker does for one job while it runs: the far end of its Context. One for each job that takes a context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from perdure.adapters.port import Port
    from perdure.adapters.process import Completed
    from perdure.daemon.worker.lane import Bench
    from perdure.daemon.worker.spooling import Payload, ResultFile
    from perdure.daemon.worker.teller import Teller
    from perdure.wire.data import Blob
    from perdure.wire.work import JobRow


class JobDesk:
    """Made when the job starts, closed when it ends. Its parts are made when they are first asked for."""

    __slots__ = ("_bench", "_payload", "_port", "_row", "_teller", "cancelled", "result")

    def __init__(self, bench: Bench, row: JobRow) -> None:
        self._bench = bench
        self._row = row
        #: The job was told to stop.
        self.cancelled = False
        #: The file that the handler writes its result into, if it asked for one.
        self.result: ResultFile | None = None
        self._payload: Payload | None = None
        self._port: Port | None = None
        self._teller: Teller | None = None

    def progress(self, done: float, total: float | None, text: str | None) -> None:
        """See Context.progress."""
        self._with_teller().progress(done, total, text)

    def emit(self, value: Any) -> None:
        """See Context.emit."""
        self._with_teller().emit(value)

    @property
    def payload(self) -> Blob | None:
        """See Context.payload."""
        opened = self._open_payload()
        return None if opened is None else opened.blob

    def blob(self) -> memoryview:
        """See Context.blob."""
        from perdure.daemon.worker.spooling import no_payload

        opened = self._open_payload()
        if opened is None:
            raise no_payload(self._row.id)
        return opened.view()

    def result_file(self) -> BinaryIO:
        """See Context.result_file."""
        from perdure.daemon.worker.spooling import ResultFile

        if self.result is None:
            self.result = ResultFile(self._bench.spool, self._row)
        return self.result.file

    async def run(self, argv: tuple[str, ...], **options: Any) -> Completed:
        """See Context.run."""
        from perdure.daemon.worker.commands import run_command

        return await run_command(self._bench, self._row, argv, **options)

    async def port(self, timeout: float | None) -> Port:
        """See Context.port."""
        if self._port is None:
            self._port = await self._bench.ports.open(self._row.id, timeout)
        return self._port

    def close(self) -> None:
        """The job has ended, one way or another: give back what it held."""
        if self._teller is not None:
            self._teller.close()
        if self._payload is not None:
            self._payload.close()
        if self.result is not None:
            self.result.close()
        if self._port is not None:
            self._port.close()

    def _with_teller(self) -> Teller:
        if self._teller is None:
            self._teller = self._bench.newsroom.teller(self._row)
        return self._teller

    def _open_payload(self) -> Payload | None:
        if self._payload is None and self._row.blob is not None:
            from perdure.daemon.worker.spooling import Payload

            self._payload = Payload(self._bench.spool, self._row.blob)
        return self._payload
