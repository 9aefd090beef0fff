"""What `Context.for_test` has instead of a worker."""

from __future__ import annotations

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from perdure.adapters.port import BlockingPort, Port
from perdure.adapters.process import Completed, Helpers, Surroundings, run
from perdure.adapters.program import read_wishes
from perdure.errors import UsageError
from perdure.wire.data import Blob


class DeskDouble:
    """Remembers what a handler says: `progressed`, `emitted`, and `result` with what it wrote into its result file.

    Commands are really run; what they write goes to sys.stdout.
    """

    def __init__(self, blob: bytes | None = None, *, cancelled: bool = False) -> None:
        self.cancelled = cancelled
        self.progressed: list[tuple[float, float | None, str | None]] = []
        self.emitted: list[Any] = []
        self.result = io.BytesIO()
        self._blob = blob

    def progress(self, done: float, total: float | None, text: str | None) -> None:
        """Remember it."""
        self.progressed.append((done, total, text))

    def emit(self, value: Any) -> None:
        """Remember it."""
        self.emitted.append(value)

    @property
    def payload(self) -> Blob | None:
        """What `blob` was given."""
        return None if self._blob is None else Blob(len(self._blob), "")

    def blob(self) -> memoryview:
        """What `blob` was given. Raises UsageError."""
        if self._blob is None:
            raise UsageError("this test has no payload: Context.for_test(blob=…)")
        return memoryview(self._blob)

    def result_file(self) -> BinaryIO:
        """A file in memory: `result`."""
        return self.result

    async def run(self, argv: tuple[str, ...], *, only_allowed: bool = False, **options: Any) -> Completed:
        """See Context.run. Everything is allowed."""
        helpers = Helpers()
        try:
            return await run(read_wishes(argv, {}, **options), Surroundings(_Print(), helpers))
        finally:
            helpers.close()

    def run_blocking(self, argv: tuple[str, ...], options: dict[str, Any]) -> Completed:
        """See BlockingTools.run. On a loop of its own, in a thread: the test may have a loop here."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self.run(argv, **options))).result()

    async def port(self, timeout: float | None) -> Port:
        """There is no client in a test. Raises UsageError."""
        raise UsageError("there is no client in a test: give the handler a function to read from instead")

    def port_blocking(self, timeout: float | None) -> BlockingPort:
        """There is no client in a test. Raises UsageError."""
        raise UsageError("there is no client in a test: give the handler a function to read from instead")


class _Print:
    """Where the output of commands goes: a test finds it with capsys."""

    def write(self, data: bytes) -> None:
        """Print it."""
        sys.stdout.write(data.decode("utf-8", "replace"))

    def flush(self) -> None:
        """Let it be seen."""
        sys.stdout.flush()
