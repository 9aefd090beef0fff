"""A handler that writes down when it was imported and when it first ran: lines of `word CLOCK_MONOTONIC-ns`."""

from __future__ import annotations

import os
import time

from perdure.job import job


def _mark(word: str) -> None:
    """Add a line to the file that $BENCH_MARKS names."""
    with open(os.environ["BENCH_MARKS"], "a", encoding="ascii") as file:
        file.write(f"{word} {time.monotonic_ns()}\n")


_began: list[bool] = []


@job("bench.marked")
def marked(user: int, name: str) -> None:
    """Nothing, but the first one in each worker is written down."""
    if not _began:
        _began.append(True)
        _mark("began")


_mark("imported")
