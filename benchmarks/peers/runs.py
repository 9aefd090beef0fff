"""Reads what the handlers have left behind (record.py)."""

from __future__ import annotations

import math
import time
from array import array
from pathlib import Path

from benchmarks.peers.record import RECORD_BYTES

POLL_S = 0.05


class Runs:
    """The records of one trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def processes(self) -> int:
        """How many worker processes have begun a job."""
        return len(list(self.folder.glob("*.runs")))

    def open_gate(self) -> None:
        """Let the workers go on."""
        (self.folder / "go").touch()

    def _column(self, at: int, first: int, count: int) -> list[bytes]:
        """One byte of each record, of every file."""
        start, stop = first * RECORD_BYTES + at, (first + count) * RECORD_BYTES
        return [path.read_bytes()[start:stop:RECORD_BYTES] for path in self.folder.glob("*.runs")]

    def begun(self, first: int, count: int) -> int:
        """How many of these jobs have begun at least once."""
        return _filled(self._column(0, first, count), count)

    def ended(self, first: int, count: int) -> int:
        """How many have ended at least once."""
        return _filled(self._column(1, first, count), count)

    def twice(self, first: int, count: int) -> tuple[int, int]:
        """How many have begun, and how many have ended, more than once."""
        begun, ended = (
            sum(1 for numbers in zip(*self._column(at, first, count), strict=True) if sum(numbers) > 1) for at in (0, 1)
        )
        return begun, ended

    def last_begin(self, first: int, count: int) -> float:
        """When the last of them began, on the monotonic clock."""
        newest = 0
        for path in self.folder.glob("*.runs"):
            words = array("Q")
            words.frombytes(path.read_bytes()[first * RECORD_BYTES : (first + count) * RECORD_BYTES])
            newest = max(newest, *words[1::2]) if words else newest
        return newest / 1e9

    def await_ended(self, first: int, count: int, most_s: float, stall_s: float = math.inf) -> int:
        """Wait until all have ended, for `most_s` seconds, or until none ended for `stall_s`; returns how many have."""
        now = time.monotonic()
        deadline, moved, before = now + most_s, now, 0
        while (ended := self.ended(first, count)) < count and (now := time.monotonic()) < deadline:
            if ended > before:
                moved, before = now, ended
            elif now - moved > stall_s:
                break
            time.sleep(POLL_S)
        return ended


def _filled(columns: list[bytes], count: int) -> int:
    """Positions at which at least one of them is not zero."""
    merged = 0
    for column in columns:
        merged |= int.from_bytes(column, "big")
    return count - merged.to_bytes(count, "big").count(0)
