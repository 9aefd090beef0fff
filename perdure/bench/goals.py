"""Every goal, in one place. A row of the suite has the name of its goal."""

from __future__ import annotations

from typing import Final, NamedTuple


class Goal(NamedTuple):
    """What a value has to be; every part that is given must hold.

    `least`, `most`: in the row's own unit. `share`, `times`: at least, at most so much of the limit of the same run.
    `plus`: so much of the limit is added to `most`. `below`: the value must stay below `most`, not reach it.
    """

    least: float | None = None
    most: float | None = None
    share: float | None = None
    times: float | None = None
    plus: float = 0.0
    below: bool = False

    def met(self, value: float, limit: float) -> bool:
        """Whether a value that was measured beside this limit reaches the goal."""
        if self.least is not None and value < self.least:
            return False
        if self.most is not None:
            most = self.most + self.plus * limit
            if value > most or (self.below and value == most):
                return False
        if self.share is not None and value < self.share * limit:
            return False
        return self.times is None or value <= self.times * limit

    def text(self, unit: str) -> str:
        """For people."""
        parts = []
        if self.least is not None:
            parts.append(f">= {self.least:,} {unit}")
        if self.most is not None:
            plus = f" + {self.plus:g} x limit" if self.plus else ""
            parts.append(f"{'<' if self.below else '<='} {self.most:,} {unit}{plus}")
        if self.share is not None:
            parts.append(f">= {self.share:g} x limit")
        if self.times is not None:
            parts.append(f"<= {self.times:g} x limit")
        return " and ".join(parts)


GOALS: Final[dict[str, Goal]] = {
    "drain": Goal(least=100_000, share=0.7),
    "async": Goal(least=80_000),
    "rich": Goal(least=50_000),
    "steady": Goal(least=40_000),
    "enqueue-one": Goal(share=0.5),
    "enqueue-64": Goal(least=30_000),
    "enqueue-bulk": Goal(least=250_000),
    "latency": Goal(most=0.5, plus=2),
    "latency-p99": Goal(most=5, plus=2),
    "latency-load": Goal(most=20),
    "cli": Goal(times=6),
    "available": Goal(share=0.9),
    "parked": Goal(share=0.9),
    "finished": Goal(share=0.9),
    "dead": Goal(share=0.9),
    "wide": Goal(share=0.9),
    "payload-1KB": Goal(share=0.6),
    "payload-100KB": Goal(share=0.6),
    "payload-10MB": Goal(share=0.6),
    # "Stays flat": it does not even grow by one payload.
    "payload-memory": Goal(times=1),
    "kill": Goal(most=15),
    "restart": Goal(most=300),
    "lag": Goal(most=16, below=True),
    "slow-disk": Goal(least=60_000),
    "cost": Goal(most=0.02),
    "idle": Goal(most=0.2),
    "idle-latency": Goal(most=0.5, plus=2),
    "idle-latency-p99": Goal(most=5, plus=2),
    "memory": Goal(most=45),
    "memory-worker": Goal(most=12),
    "guard": Goal(most=10, below=True),
    "wire-event": Goal(least=10_000),
    "wire-event-latency": Goal(most=5),
    "wire-calls": Goal(least=20_000),
    "wire-call-latency": Goal(most=0.2),
    "wire-subscription": Goal(least=10_000),
    "wire-subscription-latency": Goal(most=200),
    "wire-port": Goal(least=1),
    "wire-port-latency": Goal(most=1),
}
