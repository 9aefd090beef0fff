"""How long jobs are expected to run: what prefetch is measured by."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.wire.data import KindSpec, Lane

#: Expected run time of a kind that has not run yet, at most. Long enough that little is sent ahead before it is known
#: better.
FIRST_ESTIMATE_NS = 10_000_000.0
#: Weight of the newest measurement in a kind's expected run time.
ESTIMATE_WEIGHT = 0.3


class RunTimes:
    """Exponentially weighted averages, by kind; and for each lane that of the kind which ran last.

    What a job costs its lane: in the async lane `async_slots` run at a time, so each costs so much less of its time.
    """

    def __init__(self, async_slots: int = 1) -> None:
        self._async_slots = async_slots
        self._by_kind: dict[str, float] = {}
        self.by_lane: dict[Lane, float] = {"sync": FIRST_ESTIMATE_NS, "async": FIRST_ESTIMATE_NS}

    def estimate_ns(self, kind: str, lane: Lane) -> float:
        """How long a job of this kind is expected to run.

        A new kind of the sync lane is thought to be as short as what ran there last: with a thousand kinds, most jobs
        are of a kind that is not known yet. If it is long, what waits behind it is taken back within 0.15 s
        (duties/limits.py). In the async lane nothing is, so a new kind gets the slots and no more.
        """
        known = self._by_kind.get(kind)
        if known is not None:
            return known
        return min(FIRST_ESTIMATE_NS, self.by_lane[lane]) if lane == "sync" else FIRST_ESTIMATE_NS

    def learn(self, kind: str, measured_ns: float, kinds: Mapping[str, KindSpec]) -> None:
        """Jobs of a kind took so long on average. The first measurement starts the average."""
        spec = kinds.get(kind)
        if spec is not None and spec.lane == "async":
            measured_ns /= self._async_slots
        known = self._by_kind.get(kind, measured_ns)
        self._by_kind[kind] = known + ESTIMATE_WEIGHT * (measured_ns - known)
        if spec is not None:
            self.by_lane[spec.lane] = self._by_kind[kind]

    def at_least(self, kind: str, lane: Lane, elapsed_ns: float) -> None:
        """A job of the kind has been executing for so long and has not ended."""
        self._by_kind[kind] = self.by_lane[lane] = max(elapsed_ns, self._by_kind.get(kind, 0.0))
