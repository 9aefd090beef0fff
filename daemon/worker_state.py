"""Workers as the dispatch core sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from perdure.daemon.ledger import Held
from perdure.wire.data import Lane


@dataclass(slots=True)
class LaneLoad:
    """What a worker holds in one lane: how many jobs, and how long they should take together.

    `stuck`: what it executes there has taken so long that nothing is sent behind it.
    """

    count: int = 0
    backlog_ns: float = 0.0
    stuck: bool = False


@dataclass(slots=True)
class WorkerState:
    """A worker as the core sees it. `isolated`: it runs suspects, one at a time, and nothing else."""

    id: int
    isolated: bool = False
    ready: bool = False
    draining: bool = False
    recalling: bool = False
    held: dict[int, Held] = field(default_factory=dict)
    lanes: dict[Lane, LaneLoad] = field(default_factory=lambda: {"sync": LaneLoad(), "async": LaneLoad()})

    @property
    def open(self) -> bool:
        """Whether new jobs may be sent to it."""
        return self.ready and not self.draining and not self.isolated


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """Settings of the core: how much work is sent ahead (ns and jobs a worker), how many async jobs a worker runs."""

    prefetch_ns: float
    prefetch_jobs: int
    async_slots: int
