"""A progress bar on stderr; imports rich, so only where a person waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(total: int) -> Iterator[Callable[[int], None]]:
    """Shown during the block; call what it gives with the number of jobs that have gone in."""
    columns = (TextColumn("enqueueing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("jobs", total=total)

        def advance(count: int) -> None:
            progress.advance(task, count)

        yield advance
