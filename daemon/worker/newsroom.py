"""What jobs tell while they run, gathered and sent in batches."""

from __future__ import annotations

from typing import Any

from perdure.wire.work import JobRow


class Newsroom:
    """Takes progress, values and lines from any thread."""

    def __init__(self) -> None:
        #: Something waits to be sent: it must leave before the outcome of its job.
        self.waiting = False

    def progress(self, row: JobRow, done: float, total: float | None, text: str | None) -> None:
        """See Context.progress."""

    def emit(self, row: JobRow, value: Any) -> None:
        """See Context.emit."""

    def flush(self) -> None:
        """Send what waits, if that goes without waiting."""
