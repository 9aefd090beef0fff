"""A pool for Qdrant with a guard of its own, and what a test asks about it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

from qdrant_client import models

from perdure.adapters.call import NO_JOB, JobCall
from perdure.adapters.guard import Guard
from perdure.adapters.qdrant import Qdrant, QdrantPool, classify, point_id
from perdure.adapters.view import BreakerView
from perdure.clock import SystemClock
from perdure.wire.dependencies import QDRANT, Policy, QdrantOptions
from perdure.wire.work import Observed
from tests.support.fault_proxy import FaultProxy
from tests.support.wait import async_wait_until

SIZE = 4
#: Seconds beyond its limit in which a call must have come back, on a machine that is busy.
GRACE = 2.0


class Rig:
    """`qdrant` has the methods; `told` is what the breaker heard."""

    def __init__(self, options: QdrantOptions, **policy: Any) -> None:
        self.told: list[Observed] = []
        self.clock = SystemClock()
        self.view = BreakerView(self.told.append, self.clock)
        self.policy = Policy(**{"timeout_ms": 3_000, "retry_base_ms": 10, **policy})
        self.guard = Guard(QDRANT, self.policy, self.view, classify, self.clock, random.Random(1))
        self.pool = QdrantPool(options, self.guard, self.clock)

    @property
    def qdrant(self) -> Qdrant:
        """The methods, outside of any job."""
        return self.pool.bind(NO_JOB)

    def for_job(self, seconds: float) -> Qdrant:
        """The methods for a job that has so many seconds left."""
        return self.pool.bind(JobCall(7, time.monotonic() + seconds))

    def totals(self) -> tuple[int, int]:
        """Good and failed calls that were reported."""
        self.view.flush()
        return sum(one.ok for one in self.told), sum(one.failed for one in self.told)


@contextlib.asynccontextmanager
async def rig_for(options: QdrantOptions, **policy: Any) -> AsyncIterator[Rig]:
    """A rig that is closed at the end."""
    rig = Rig(options, **policy)
    try:
        yield rig
    finally:
        await rig.pool.close()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The body has to end in this time."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < seconds + GRACE, f"took {took:.2f} s, limit {seconds} s"


async def no_connection_left(proxy: FaultProxy) -> None:
    """After the pool is closed nothing may be open."""
    await async_wait_until(lambda: proxy.connections.open == 0, what="all connections closed")


def new_name() -> str:
    """A name for a collection that nobody has used."""
    return f"test-{uuid4().hex[:12]}"


def points(count: int, text: str = "x") -> list[models.PointStruct]:
    """Points with lasting ids, each in a direction of its own."""
    return [
        models.PointStruct(id=point_id("test", n), vector=[1.0, n + 1.0, 0.5, 0.25], payload={"n": n, "text": text})
        for n in range(count)
    ]
