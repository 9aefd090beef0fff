"""The handler that perdure's workers load."""

from __future__ import annotations

from benchmarks.peers.record import work
from perdure import job


@job("peers.noop", queue="peers")
def noop(index: int, text: str) -> None:
    """Leave a mark."""
    work(index, text)
