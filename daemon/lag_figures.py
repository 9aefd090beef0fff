"""The lag of the last minute in a few hundred numbers: how long somebody who came at any moment had to wait."""

from __future__ import annotations

from collections import deque
from typing import Final

#: One sample stands for so much time, in nanoseconds: the finest that a meter ticks.
SAMPLE_NS: Final = 10_000_000
#: The minute goes in parts, and the oldest part goes first.
PARTS: Final = 12
PART_NS: Final = 60_000_000_000 // PARTS
#: A single lag beyond the minute says no more about that minute.
_MOST_SAMPLES: Final = 6_000
#: Buckets per doubling: a figure is at most an eighth too high.
_STEPS_BITS: Final = 3


class _Part:
    __slots__ = ("begun_ns", "counts", "longest_ns", "total")

    def __init__(self, begun_ns: int) -> None:
        self.begun_ns = begun_ns
        self.counts: dict[int, int] = {}
        self.total = 0
        self.longest_ns = 0

    def add(self, bucket: int, count: int) -> None:
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += count


class RollingLag:
    """A histogram of the last minute in logarithmic buckets, weighted by time.

    A loop that stood still for a second has kept all those waiting who came within that second, the first for all of
    it and the last for hardly any: it counts as a hundred samples, from a second down to nothing. And an idle loop
    that is looked at once a second counts as much as a busy one that is looked at every 10 ms.
    """

    def __init__(self, now_ns: int) -> None:
        self._parts: deque[_Part] = deque([_Part(now_ns)])

    def add(self, now_ns: int, elapsed_ns: int, lag_ns: int) -> None:
        """Nothing was late for `elapsed_ns`, but for what ended now and was late by `lag_ns` (which is part of it)."""
        part = self._part(now_ns)
        part.longest_ns = max(part.longest_ns, lag_ns)
        on_time = (elapsed_ns - lag_ns) // SAMPLE_NS - 1
        if on_time > 0:
            part.add(0, on_time)
        left_ns = lag_ns
        for _ in range(_MOST_SAMPLES):
            part.add(_bucket(left_ns // 1000), 1)
            left_ns -= SAMPLE_NS
            if left_ns <= 0:
                break

    def longest_ms(self, now_ns: int) -> float:
        """The longest lag of the last minute."""
        self._part(now_ns)
        return round(max(part.longest_ns for part in self._parts) / 1e6, 3)

    def p999_ms(self, now_ns: int) -> float:
        """What all but a thousandth of the last minute stayed below."""
        self._part(now_ns)
        beyond = sum(part.total for part in self._parts) // 1000
        for bucket in sorted({bucket for part in self._parts for bucket in part.counts}, reverse=True):
            beyond -= sum(part.counts.get(bucket, 0) for part in self._parts)
            if beyond < 0:
                return min(round(_upper_us(bucket) / 1000, 3), self.longest_ms(now_ns))
        return 0.0

    def _part(self, now_ns: int) -> _Part:
        """The part that `now_ns` belongs to; what is older than a minute is forgotten."""
        parts = self._parts
        if now_ns - parts[-1].begun_ns >= PART_NS:
            parts.append(_Part(now_ns))
        while now_ns - parts[0].begun_ns >= PARTS * PART_NS:
            parts.popleft()
        return parts[-1]


def _bucket(value_us: int) -> int:
    """Small values each have a bucket; from there on each doubling is cut into eight."""
    shift = max(0, value_us.bit_length() - _STEPS_BITS - 1)
    return (shift << _STEPS_BITS) + (value_us >> shift)


def _upper_us(bucket: int) -> int:
    """The highest value of a bucket."""
    shift = max(0, (bucket >> _STEPS_BITS) - 1)
    return (((bucket - (shift << _STEPS_BITS)) + 1) << shift) - 1
